"""Allowed types: the classes of an application that may be stored, as it names them."""

from collections.abc import Iterable, Mapping

from langmem_isolated._runtime.arguments import kind_of

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
