"""Arguments of a saver: what is pruned, how long threads live."""

from datetime import timedelta
from typing import NamedTuple

from langmem_isolated._runtime.arguments import kind_of, time_to_live
from langmem_isolated._runtime.clock import lifetime


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
