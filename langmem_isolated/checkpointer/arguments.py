"""Arguments of a saver: types that it may store, what is pruned, how long threads live."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import NamedTuple

from langmem_isolated._runtime.arguments import kind_of, time_to_live
from langmem_isolated._runtime.clock import lifetime

_EXAMPLE = 'Write allow=[Order] or allow=[("app.models", "Order")].'


def allowed_names(allow: Iterable[type | tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Module and name of each type that ``allow`` lists, as a type or as those two.

    Raises:
        TypeError: ``allow`` is no list, or has something else in it.
    """
    if isinstance(allow, str | bytes | Mapping) or not isinstance(allow, Iterable):
        raise TypeError(f"allow must be a list of types, got {kind_of(allow)}. {_EXAMPLE}")
    return [_name_of(one) for one in allow]


def _name_of(one: object) -> tuple[str, ...]:
    if isinstance(one, type):
        return one.__module__, one.__name__
    if not isinstance(one, tuple | list) or not all(isinstance(part, str) for part in one):
        raise TypeError(
            f"allow must list types, or tuples of module and name, got one {kind_of(one)}. "
            f"{_EXAMPLE}"
        )
    return tuple(one)


def check_pruning(strategy: object, keep_last: object) -> None:
    """Refuse what says of no checkpoint whether it is kept.

    Raises:
        ValueError: ``strategy`` is not known, or ``keep_last`` no number of 1 or more.
    """
    is_known = strategy in ("keep_latest", "delete")
    if not is_known or not isinstance(keep_last, int) or keep_last < 1:
        by = repr(strategy) if is_known else f"another {kind_of(strategy)}"
        last = keep_last if isinstance(keep_last, int) else kind_of(keep_last)
        raise ValueError(
            f"strategy must be 'keep_latest' or 'delete', got {by}, and keep_last 1 or more, got "
            f"{last}. Leave both out to keep the newest. Nothing was removed."
        )


class Lifetimes(NamedTuple):
    """How long threads live, in microseconds: after a write, and after they were begun."""

    idle: int | None
    absolute: int | None

    @classmethod
    def of(cls, ttl: timedelta | None, absolute: timedelta | None) -> "Lifetimes":
        """Those that callers gave.

        Raises:
            TypeError: One is no `timedelta`.
            ValueError: One is below a microsecond.
        """
        return cls(lifetime(time_to_live(ttl)), lifetime(time_to_live(absolute, name="absolute")))
