"""Classes: takes models, dataclasses, enums and named tuples apart, and rebuilds no others.

An object is stored as the name of its class and its fields. The name is taken from the living
object, and is sealed with it. Whoever reads it can make one of these four kinds and nothing else:
what is found by a name is not called unless it is a class of the kind that was stored.
"""

import dataclasses
import importlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, NamedTuple

from pydantic import BaseModel

from langmem_isolated.errors import ValueNotStorable

_log = logging.getLogger("langmem_isolated")

# Stored: they never change. What a model was dumped to is validated again when it is rebuilt.
MODEL, DUMPED, MODEL_V1, DATACLASS, NAMED_TUPLE, ENUM = "m", "v", "1", "d", "t", "e"

TypeName = tuple[str, ...]

# As LangGraph bounds its own: types may be made while a program runs.
_MOST_TOLD = 1000
_told: set[tuple[str, str]] = set()

_set = object.__setattr__


class Parts(NamedTuple):
    """An object taken apart: the stored form of all four kinds."""

    kind: str
    module: str
    name: str
    """The qualified name of the class in its module."""
    fields: Any
    """Values by field; of an enum its value."""
    more: Any = None
    """Which fields of a model were set, where that is not all; of an enum its name."""

    def stored(self, fields: Any) -> list[Any]:
        """What :func:`rebuild` takes, with these in place of the fields."""
        end = [] if self.more is None else [self.more]
        return [self.kind, self.module, self.name, fields, *end]


class AllowedTypes:
    """Which classes may be stored and rebuilt.

    Args:
        names: ``(module, name)`` of those allowed besides LangGraph's safe ones; ``None`` for all.
    """

    def __init__(self, names: Iterable[TypeName] | None = None) -> None:
        self.names = None if names is None else frozenset(names)

    @property
    def is_strict(self) -> bool:
        """Whether only some classes are allowed, and nothing may come back as something else."""
        return self.names is not None

    def admits(self, module: str, name: str) -> bool:
        """Whether a class of this module and qualified name is allowed."""
        if self.names is None:
            return True
        # A chat history does without LangGraph.
        from langmem_isolated._codecs.compat import SAFE_MSGPACK_TYPES  # noqa: PLC0415

        # LangGraph's lists have names that are not qualified.
        keys = (module, name), (module, name.rpartition(".")[2])
        return any(key in self.names or key in SAFE_MSGPACK_TYPES for key in keys)

    def check(self, module: str, name: str, kind: str) -> None:
        """Refuse a class, where these are strict; tell of one that will not be found again.

        Raises:
            ValueNotStorable: It is neither one of LangGraph's safe types nor allowed, or these are
                strict and no class is found by its name.
        """
        if not self.admits(module, name):
            raise ValueNotStorable(
                f"{module}.{name}", cause="it is not allowed: checkpointer(allow=[…the type…])"
            )
        if class_named(module, name, kind) is None:
            self.tell(
                f"{module}.{name}", "plain fields: no class is found by that name in its module"
            )

    def tell(self, type_name: str, becomes: str) -> None:
        """Say once for each type that it comes back as something else.

        Raises:
            ValueNotStorable: These are strict.
        """
        if self.is_strict:
            raise ValueNotStorable(type_name, cause=f"it would come back as {becomes}")
        tell_once("stored", type_name, "A %s is stored, and will come back as %s.", becomes)


ANY_TYPE = AllowedTypes()


def tell_once(when: str, type_name: str, text: str, *more: str) -> None:
    """Warn of a type in the log, once in this process for each ``when``."""
    if (when, type_name) not in _told and len(_told) < _MOST_TOLD:
        _told.add((when, type_name))
        _log.warning(text, type_name, *more)


def type_name(value: object) -> str:
    """Module and qualified name of a value's type, for an error."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


# --- taking apart ---------------------------------------------------------------------------------


def taken_apart(value: Any, types: AllowedTypes) -> Parts | None:
    """The parts of an object; ``None`` where it is of none of the kinds.

    Fields that their model excludes from what is stored are left out, and private attributes.

    Raises:
        ValueNotStorable: The class is not allowed.
    """
    kind = type(value)
    found = kind_of(kind)
    if found is None:
        return None
    module, name = kind.__module__, kind.__qualname__
    types.check(module, name, found)
    return Parts(found, module, name, *_TAKE_APART[found](value))


def dumped(value: Any, parts: Parts) -> Iterator[Parts]:
    """A model's parts as its own serializers give them; nothing for another kind.

    For fields that have no stored form, but that the model knows how to write: as Python's values,
    as LangGraph stores models, or else as JSON.
    """
    for mode in ("python", "json") if parts.kind == MODEL else ():
        # Its own exceptions and warnings would quote what they found.
        with suppress(Exception):
            fields = value.model_dump(mode=mode, warnings=False)
            yield parts._replace(kind=DUMPED, fields=fields, more=None)


def fields_of_object(value: object) -> Mapping[str, Any] | None:
    """The values of an object's fields by their names; ``None`` where it is of no kind."""
    found = kind_of(type(value))
    return None if found in (None, ENUM) else _TAKE_APART[str(found)](value)[0]


def kind_of(kind: type) -> str | None:
    """Which of the four kinds a class is of: `MODEL`, `DATACLASS`…; ``None`` for others."""
    # Not `issubclass`, which asks the class's own metaclass.
    line = kind.__mro__
    if BaseModel in line:
        return MODEL
    if Enum in line:
        return ENUM
    if tuple in line:
        return NAMED_TUPLE if _is_named_tuple(kind) else None
    if any("__dataclass_fields__" in vars(base) for base in line):
        return DATACLASS
    return MODEL_V1 if _model_of_pydantic_1() in line else None


def _model_of_pydantic_1() -> object:
    # Nobody has one who has not imported it, and to import it warns on later Pythons.
    return getattr(sys.modules.get("pydantic.v1.main"), "BaseModel", None)


def _is_named_tuple(kind: type) -> bool:
    names = getattr(kind, "_fields", None)
    return type(names) is tuple and all(isinstance(name, str) for name in names)


def _of_model(model: BaseModel) -> tuple[dict[str, Any], list[str] | None]:
    known = type(model).model_fields
    values = {n: v for n, v in model.__dict__.items() if n in known and not known[n].exclude}
    values.update(model.__pydantic_extra__ or {})
    names = model.__pydantic_fields_set__
    return values, None if names.issuperset(values) else sorted(names)


def _of_model_v1(model: Any) -> tuple[dict[str, Any]]:
    known = type(model).__fields__
    hidden = {name for name, field in known.items() if field.field_info.exclude}
    return ({name: value for name, value in model.__dict__.items() if name not in hidden},)


def _of_dataclass(value: Any) -> tuple[dict[str, Any]]:
    # A field without a value is one that `__init__` does not set.
    names = [field.name for field in dataclasses.fields(value)]
    return ({name: getattr(value, name) for name in names if hasattr(value, name)},)


def _of_named_tuple(value: Any) -> tuple[dict[str, Any]]:
    return (dict(zip(type(value)._fields, value, strict=True)),)


def _of_enum(member: Enum) -> tuple[Any, str | None]:
    value = member.value
    # One that cannot be stored is not needed where there is a name.
    return (repr(value) if callable(value) else value), member._name_


_TAKE_APART: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    MODEL: _of_model,
    MODEL_V1: _of_model_v1,
    DATACLASS: _of_dataclass,
    NAMED_TUPLE: _of_named_tuple,
    ENUM: _of_enum,
}


# --- rebuilding -----------------------------------------------------------------------------------


def rebuild(parts: Iterable[Any], types: AllowedTypes) -> Any:
    """The object of which :func:`taken_apart` gave the parts.

    Its plain fields, and one line in the log for each type, where the class is not allowed, is not
    found, or has become another: state outlives the classes of an application.
    """
    kind, module, name, fields, *more = parts
    known = _REBUILD.get(kind) if isinstance(kind, str) else None
    if known and isinstance(module, str) and isinstance(name, str) and types.admits(module, name):
        found = class_named(module, name, kind)
        with suppress(Exception):
            if found is not None:
                return known(found, fields, *more)
    tell_once("read", f"{module}.{name}", "A %s was read as plain fields: %s.", _NOT_REBUILT)
    return fields


_NOT_REBUILT = "its class is not allowed, was not found, or has changed"


def object_of(kind: str, found: type, fields: Any) -> Any:
    """An object of a class of that kind.

    Raises:
        Exception: Whatever the class raises of fields that it does not take.
    """
    return _REBUILD[kind](found, fields)


def class_named(module: str, name: str, kind: str) -> type | None:
    """The class of that kind and qualified name, looked up without calling what is found."""
    found = object_named(module, name)
    is_kind = isinstance(found, type) and kind_of(found) == (MODEL if kind == DUMPED else kind)
    return found if is_kind else None


def object_named(module: str, name: str) -> Any:
    """What stands under that qualified name in a module, which is imported; else ``None``."""
    try:
        place = sys.modules.get(module) or importlib.import_module(module)
        members: Mapping[str, Any] = vars(place)
        # A pydantic model of given types is known by that name only where it was made.
        path = [name] if name in members else name.partition("[")[0].split(".")
        for part in path:
            found = members[part]
            members = vars(found) if isinstance(found, type) else {}
    except (Exception, SystemExit):  # noqa: BLE001 - a module may do anything when it is imported
        return None
    return found


def _model(cls: Any, fields: dict[str, Any], names: list[str] | None = None) -> Any:
    made = _validated(cls, fields)
    current = made.__dict__
    for name, value in fields.items():
        # What stands here is what was stored: validating it may have changed it once more.
        if name in cls.model_fields and _is_same_kind(current.get(name), value):
            current[name] = value
    _set(made, "__pydantic_fields_set__", set(fields if names is None else names))
    return made


def _validated(cls: Any, fields: dict[str, Any]) -> Any:
    """As LangGraph rebuilds models: fields may have got another type, or a default."""
    aliases = {n: f.validation_alias or f.alias for n, f in cls.model_fields.items()}
    given = {a if isinstance(a := aliases.get(n), str) else n: v for n, v in fields.items()}
    try:
        return cls(**given)
    except Exception:  # noqa: BLE001 - validators of an application raise what they like
        return cls.model_construct(**fields)


def _is_same_kind(current: object, stored: object) -> bool:
    # What stands in a container may have got its class back only now.
    return type(current) is type(stored) and not isinstance(stored, list | dict | tuple | set)


def _model_v1(cls: Any, fields: dict[str, Any], _: None = None) -> Any:
    try:
        made = cls(**fields)
    except Exception:  # noqa: BLE001 - as above
        return cls.construct(**fields)
    for name, value in fields.items():
        if name in cls.__fields__ and _is_same_kind(made.__dict__.get(name), value):
            made.__dict__[name] = value
    return made


def _dataclass(cls: Any, fields: dict[str, Any], _: None = None) -> Any:
    known = {field.name: field for field in dataclasses.fields(cls)}
    if not known.keys() >= fields.keys():
        raise TypeError
    try:
        made = cls(**{name: value for name, value in fields.items() if known[name].init})
    except Exception:
        if known.keys() != fields.keys():
            raise
        # `__init__` takes something else, or refuses what was changed after it.
        made = object.__new__(cls)
    for name, value in fields.items():
        _set(made, name, value)
    return made


def _named_tuple(cls: Any, fields: dict[str, Any], _: None = None) -> Any:
    same = tuple(fields) == cls._fields
    return tuple.__new__(cls, fields.values()) if same else cls(**fields)


def _enum(cls: Any, value: Any, name: str | None = None) -> Any:
    try:
        return cls(value)
    except Exception:  # noqa: BLE001 - `_missing_` of an application raises what it likes
        return cls.__members__[name]


_REBUILD: dict[str, Callable[..., Any]] = {
    MODEL: _model,
    DUMPED: lambda cls, fields, _=None: _validated(cls, fields),
    MODEL_V1: _model_v1,
    DATACLASS: _dataclass,
    NAMED_TUPLE: _named_tuple,
    ENUM: _enum,
}
