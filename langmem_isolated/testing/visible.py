"""What can be seen in a value that an application gives: every text in it, and where it stands."""

from collections import deque
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from typing import Any

_DEEPEST = 16
_LONGEST_NAME = 40
_SILENT = (type(None), bool, int, float, complex, type)


def texts_in(value: object) -> Iterator[tuple[str, str]]:
    """Every text in a value, with its path.

    A path has names of fields and classes and short keys, as ``messages[].ToolMessage.content``,
    and no number: parts of a stream that belong together have the same.
    """
    yield from _texts(value, "", ())


def _texts(value: object, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, bytes | bytearray | memoryview):
        yield path, bytes(value).decode("latin-1")
    elif not isinstance(value, _SILENT) and id(value) not in above and len(above) < _DEEPEST:
        for name, part in _parts(value):
            yield from _texts(part, path + name, (*above, id(value)))


def _parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield "[key]", key
            yield _named(key), part
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from ((f".{name}", part) for name, part in zip(value._fields, value, strict=True))
    elif isinstance(value, list | tuple | AbstractSet | deque):
        yield from (("[]", part) for part in value)
    elif isinstance(value, BaseException):
        yield from _parts_of_error(value)
    else:
        yield from _parts_of_object(value)


def _named(key: object) -> str:
    is_name = isinstance(key, str) and key.isidentifier() and len(key) <= _LONGEST_NAME
    return f".{key}" if is_name else "[…]"


def _parts_of_error(error: BaseException) -> Iterator[tuple[str, object]]:
    """Text, arguments and notes, and the same of what it came from."""
    name = f"{type(error).__name__}"
    yield name, str(error)
    yield f"{name}.args", error.args
    yield f"{name}.__notes__", getattr(error, "__notes__", ())
    yield f"{name} from ", error.__cause__
    yield f"{name} during ", None if error.__suppress_context__ else error.__context__
    yield f"{name} of ", getattr(error, "exceptions", ())


def _parts_of_object(value: object) -> Iterator[tuple[str, object]]:
    name = f".{type(value).__name__}"
    if hasattr(type(value), "model_fields"):
        held: dict[str, Any] = {**vars(value), **(getattr(value, "model_extra", None) or {})}
        yield from ((f"{name}{_named(field)}", part) for field, part in held.items())
    elif is_dataclass(value):
        for field in fields(value):
            yield f"{name}.{field.name}", getattr(value, field.name, None)
    elif not callable(value):
        yield name, _shown(value)


def _shown(value: object) -> str:
    """What ``print`` would show."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - nobody can see what cannot be shown
        return ""
