"""Stock types: what LangGraph's serializer has of the types that msgpack and JSON lack.

Foreign bytes name a module, a class and arguments, and the serializer of LangGraph calls whatever
stands under those names. Here the two names are a key into a table of our own functions, and of
classes that were looked up before any bytes were read.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import pathlib
import re
import uuid
import zoneinfo
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, BaseMessageChunk
from langgraph import types as graph_types
from langgraph.store.base import GetOp, Item, SearchItem
from langgraph.types import Interrupt, Send
from pydantic import SecretBytes, SecretStr

from langmem_isolated._codecs.classes import (
    DUMPED,
    ENUM,
    MODEL,
    kind_of,
    object_named,
    object_of,
)
from langmem_isolated._codecs.message_fields import KNOWN_MESSAGES
from langmem_isolated.errors import SourceRefused

Named = tuple[str, str]
Builder = Callable[..., Any]


def _list_of(parts: Any) -> list[Any]:
    # A text would be taken apart into its characters.
    if type(parts) is not list:
        raise TypeError
    return parts


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _pattern(pattern: str | bytes, flags: int = 0) -> re.Pattern[Any]:
    # With that flag it would be printed.
    return re.compile(pattern, flags & ~re.DEBUG)


def _timezone(offset: dt.timedelta, *name: str) -> dt.timezone:
    return dt.timezone(offset, *map(_text, name))


def _send(node: str, arg: Any, timeout: Any = None) -> Send:
    return Send(_text(node), arg, timeout=timeout)


def _interrupt(**fields: Any) -> Interrupt[Any]:
    made: Interrupt[Any] = Interrupt(**fields)
    _text(made.id)
    return made


def _item(**fields: Any) -> Item:
    made = SearchItem(**fields) if "score" in fields else Item(**fields)
    _text(made.key)
    if type(made.value) is not dict or not all(type(label) is str for label in made.namespace):
        raise TypeError
    return made


def _of_text(found: Callable[[str], Any]) -> Builder:
    return lambda text: found(_text(text))


def _path(*parts: str) -> pathlib.Path:
    return pathlib.Path(*map(_text, parts))


def _names(*found: type) -> dict[Named, type]:
    return {(one.__module__, one.__name__): one for one in found}


_MODELS = _names(*KNOWN_MESSAGES, BaseMessage, BaseMessageChunk, Document)
_PATH = type(pathlib.Path()).__name__
SINGLE: dict[Named, Builder] = {
    ("builtins", "set"): lambda parts: set(_list_of(parts)),
    ("builtins", "frozenset"): lambda parts: frozenset(_list_of(parts)),
    ("collections", "deque"): lambda parts: deque(_list_of(parts)),
    ("uuid", "UUID"): _of_text(uuid.UUID),
    ("decimal", "Decimal"): _of_text(Decimal),
    ("zoneinfo", "ZoneInfo"): _of_text(zoneinfo.ZoneInfo),
    ("pydantic.types", "SecretStr"): _of_text(SecretStr),
    ("pydantic.types", "SecretBytes"): lambda value: SecretBytes(bytes(memoryview(value))),
    **{
        ("ipaddress", found.__name__): _of_text(found)
        for found in (
            *(ipaddress.IPv4Address, ipaddress.IPv4Interface, ipaddress.IPv4Network),
            *(ipaddress.IPv6Address, ipaddress.IPv6Interface, ipaddress.IPv6Network),
        )
    },
}
POSITIONAL: dict[Named, Builder] = {
    ("re", "compile"): _pattern,
    ("datetime", "timedelta"): dt.timedelta,
    ("datetime", "date"): dt.date,
    ("datetime", "timezone"): _timezone,
    ("langgraph.types", "Send"): _send,
    # Where LangGraph had it before 0.2.
    ("langgraph.constants", "Send"): _send,
    **{
        (module, name): _path
        for module in ("pathlib", "pathlib._local")
        for name in (_PATH, "Path")
    },
}
KEYWORDS: dict[Named, Builder] = {
    ("datetime", "time"): dt.time,
    ("langgraph.types", "Interrupt"): _interrupt,
    ("langgraph.constants", "Interrupt"): _interrupt,
    ("langgraph.store.base", "GetOp"): GetOp,
    **{
        ("langgraph.types", name): getattr(graph_types, name)
        for name in ("Command", "Overwrite", "PregelTask", "StateSnapshot", "TimeoutPolicy")
    },
}
# Not models of pydantic, but they have its method `dict`, which the serializer goes by.
FIELDS_V1: dict[Named, Builder] = {
    ("langgraph.store.base", "Item"): _item,
    ("langgraph.store.base", "SearchItem"): _item,
}
METHODS: dict[tuple[str, str, str], Builder] = {
    ("datetime", "datetime", "fromisoformat"): _of_text(dt.datetime.fromisoformat),
}
FIELDS: dict[Named, Builder] = {**_MODELS}
MESSAGES: frozenset[Named] = frozenset(_names(*KNOWN_MESSAGES))

# JSON was what LangGraph wrote before msgpack: `lc: 2` with these, `lc: 1` for LangChain's own.
_BY_CONSTRUCTOR = (SINGLE, POSITIONAL, KEYWORDS, FIELDS_V1, FIELDS)
JSON: dict[Named, Builder] = {
    **{name: make for table in _BY_CONSTRUCTOR for name, make in table.items()}
}
JSON_METHODS: dict[tuple[str, str, str], Builder] = {
    **METHODS,
    ("builtins", "bytes", "fromhex"): _of_text(bytes.fromhex),
    ("builtins", "bytearray", "fromhex"): _of_text(bytearray.fromhex),
}
LANGCHAIN: dict[tuple[str, ...], Builder] = {
    **{tuple(found.lc_id()): FIELDS[name] for name, found in _MODELS.items()},  # type: ignore[attr-defined]
    **{(*name[0].split("."), name[1]): make for name, make in FIELDS.items()},
    # As LangChain.js has them.
    **{("langchain_core", "messages", name[1]): FIELDS[name] for name in MESSAGES},
}


class AllowedClass:
    """A class of an application that a caller named: a model, dataclass, enum or named tuple."""

    def __init__(self, found: type) -> None:
        self._class, self._kind = found, kind_of(found)

    @property
    def is_enum(self) -> bool:
        return self._kind == ENUM

    def of_fields(self, fields: Any) -> Any:
        """An object with these fields, of an enum the member with this value."""
        if type(fields) is not dict and not self.is_enum:
            raise TypeError
        # What a model was dumped to is validated again, as LangGraph does.
        return object_of(DUMPED if self._kind == MODEL else str(self._kind), self._class, fields)


def allowed_classes(allow: Iterable[str | type]) -> Mapping[Named, AllowedClass]:
    """The classes that a caller allows, by the two names that stored bytes have for them.

    Args:
        allow: Classes, or ``"package.module.Class"``. The modules are imported here, and no other
            is imported later.

    Raises:
        SourceRefused: Something is no model, dataclass, enum or named tuple, or is not found.
    """
    found = {}
    for number, name in enumerate(allow, start=1):
        one = name if isinstance(name, type) else object_named(*_split(name))
        if not isinstance(one, type) or kind_of(one) is None:
            raise SourceRefused(
                f"Number {number} of allow= is no model, dataclass, enum or named tuple that is "
                "found under its name",
                "Give package.module.Class, and see that the package can be imported here.",
            )
        # Bytes have the name of a class alone, also of one inside another.
        found[one.__module__, one.__name__] = AllowedClass(one)
    return found


def _split(name: str) -> Named:
    """Module and qualified name: the longest beginning in lower case is taken for the module."""
    module, _, last = name.rpartition(".")
    outer = module.rpartition(".")
    while outer[2][:1].isupper():
        module, last = outer[0], f"{outer[2]}.{last}"
        outer = module.rpartition(".")
    return module, last
