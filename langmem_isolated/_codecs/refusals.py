"""Refusals: where a value stands that cannot be stored, and what of its surroundings can be."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from langmem_isolated._codecs.classes import fields_of_object, type_name
from langmem_isolated.errors import ValueNotStorable

# What stands deeper, or behind so many others, is refused without its place.
_DEEPEST, _MOST = 100, 10_000
# What a class and its module are called, where an error names them.
_MOST_NAME = 200


class NotStorable(ValueError):
    """Bytes are no stored form, or hold what is not allowed; the message says which."""


def shown_class(module: object, name: object) -> str:
    """A class that foreign bytes name, if what it is called can be shown."""
    dotted = f"{module}.{name}"
    is_name = dotted.isascii() and all(part.isidentifier() for part in dotted.split("."))
    return f"the class {dotted}" if is_name and len(dotted) <= _MOST_NAME else "a class"


def located(refusal: ValueNotStorable, value: object, where: str) -> ValueNotStorable:
    """``refusal`` with the place of what was refused in ``value``, by names of fields alone."""
    outermost, path = next(_places(refusal.type_name, value, [], set()), ("", ""))
    return ValueNotStorable(
        refusal.type_name,
        where,
        cause=refusal.cause,
        outermost=outermost,
        path=path,
        advice=refusal.advice,
    )


def _places(wanted: str, value: Any, steps: list[str], seen: set[int]) -> Iterator[tuple[str, str]]:
    """Outermost class, and the path inside of it, of the parts that have a type of that name.

    Args:
        wanted: The name of a type.
        value: What is searched.
        steps: From the whole to here: the name of a class before the fields inside of it.
        seen: What was searched before, by identity.
    """
    if type_name(value) == wanted:
        yield _outermost_and_path([*steps, f"of {wanted}"])
    if id(value) in seen or len(steps) > _DEEPEST or len(seen) > _MOST:
        return
    seen.add(id(value))
    fields = fields_of_object(value)
    if fields is None:
        parts = _parts(value)
    else:
        known = getattr(type(value), "model_fields", fields)
        parts = ((f".{name}" if name in known else "[…]", part) for name, part in fields.items())
    own = [] if fields is None else [f"of {type_name(value)}"]
    for step, part in parts:
        yield from _places(wanted, part, [*steps, *own, step], seen)


def _outermost_and_path(steps: list[str]) -> tuple[str, str]:
    first = next(number for number, step in enumerate(steps) if step.startswith("of "))
    inside = (step for step in steps[first:] if not step.startswith("of "))
    return steps[first].removeprefix("of "), "".join(inside).removeprefix(".")


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield "[…]", key
            yield "[…]", part
    elif isinstance(value, list | tuple | deque):
        for number, part in enumerate(value):
            yield f"[{number}]", part
    elif isinstance(value, set | frozenset):
        for part in value:
            yield "[…]", part
    elif type_name(value) == "langgraph.types.Send":
        yield "[…]", value.arg
