"""Forms: how types that msgpack lacks are stored, each under a code of its own."""

import datetime as dt
import ipaddress
import re
import uuid
import zoneinfo
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from pydantic import AnyUrl, SecretBytes, SecretStr, networks

from langmem_isolated._codecs.classes import (
    AllowedTypes,
    taken_apart,
    type_name,
)
from langmem_isolated._codecs.message_fields import fields_of, rebuild_message
from langmem_isolated._search import arrays
from langmem_isolated.errors import ValueNotStorable


class _Form(NamedTuple):
    """How a type that msgpack has not is stored: its code never changes."""

    code: int
    to_plain: Callable[[Any], Any]
    from_plain: Callable[[Any], Any]


class Pairs(tuple[Any, ...]):
    """A dict whose keys are not all ``str``, as its keys and values in turn."""

    __slots__ = ()


def _moment_to_plain(moment: Any) -> list[Any]:
    # ISO 8601 keeps the offset alone: not the zone, nor which of two equal hours it is.
    zone = moment.tzinfo
    if not isinstance(zone, dt.timezone | zoneinfo.ZoneInfo | None):
        # Another package's: its offset is kept, as LangGraph does.
        offset = moment.utcoffset()
        zone = None if offset is None else dt.timezone(offset)
    return [moment.replace(tzinfo=None, fold=0).isoformat(), moment.fold, zone]


def _timezone_to_plain(zone: dt.timezone) -> list[Any]:
    offset, name = zone.utcoffset(None), zone.tzname(None)
    named = [] if name == dt.timezone(offset).tzname(None) else [name]
    return [offset.days, offset.seconds, offset.microseconds, *named]


def _pattern_to_plain(pattern: re.Pattern[Any]) -> list[Any]:
    return [pattern.pattern, pattern.flags]


def _pattern_from_plain(plain: list[Any]) -> re.Pattern[Any]:
    pattern, flags = plain
    # That flag would have it printed whenever it is read.
    return re.compile(pattern, flags & ~re.DEBUG)


def _item_to_plain(item: Any) -> list[Any]:
    score = [item.score] if hasattr(item, "score") else []
    return [item.value, item.key, item.namespace, item.created_at, item.updated_at, *score]


def _item_from_plain(plain: list[Any]) -> Any:
    from langgraph.store.base import Item, SearchItem  # noqa: PLC0415

    value, key, namespace, created, updated, *score = plain
    if score:
        return SearchItem(namespace, key, value, created, updated, *score)
    return Item(value=value, key=key, namespace=namespace, created_at=created, updated_at=updated)


def _send_from_plain(plain: list[Any]) -> Any:
    from langgraph.types import Send  # noqa: PLC0415

    return Send(plain[0], plain[1], timeout=plain[2])


def _url_from_plain(plain: list[str]) -> Any:
    return _URLS[plain[0]](plain[1])


def _document_to_plain(document: Document) -> list[Any]:
    return [document.page_content, document.metadata, document.id]


_URLS: dict[str, Any] = {
    name: kind
    for name, kind in vars(networks).items()
    if isinstance(kind, type) and kind.__module__ == networks.__name__ and AnyUrl in kind.__mro__
}
_URL = _Form(30, lambda url: [type(url).__name__, str(url)], _url_from_plain)
# Codes of their own: what stands for dicts, and what is chosen by more than a type.
PAIRS, PATTERN, MESSAGE, TEXT, OBJECT, ARRAY = 5, 21, 23, 25, 26, 27
_FORMS: dict[type, _Form] = {
    tuple: _Form(1, list, tuple),
    set: _Form(2, list, set),
    frozenset: _Form(3, list, frozenset),
    deque: _Form(4, lambda value: [list(value), value.maxlen], lambda plain: deque(*plain)),
    Pairs: _Form(PAIRS, list, lambda plain: dict(zip(plain[::2], plain[1::2], strict=True))),
    int: _Form(6, str, int),
    dt.datetime: _Form(
        7,
        _moment_to_plain,
        lambda p: dt.datetime.fromisoformat(p[0]).replace(fold=p[1], tzinfo=p[2]),
    ),
    dt.date: _Form(8, dt.date.isoformat, dt.date.fromisoformat),
    dt.time: _Form(
        9,
        _moment_to_plain,
        lambda p: dt.time.fromisoformat(p[0]).replace(fold=p[1], tzinfo=p[2]),
    ),
    dt.timedelta: _Form(
        10,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda plain: dt.timedelta(*plain),
    ),
    uuid.UUID: _Form(11, lambda value: value.bytes, lambda plain: uuid.UUID(bytes=plain)),
    Decimal: _Form(12, str, Decimal),
    type(Path()): _Form(13, str, Path),
    ipaddress.IPv4Address: _Form(14, str, ipaddress.IPv4Address),
    ipaddress.IPv4Interface: _Form(15, str, ipaddress.IPv4Interface),
    ipaddress.IPv4Network: _Form(16, str, ipaddress.IPv4Network),
    ipaddress.IPv6Address: _Form(17, str, ipaddress.IPv6Address),
    ipaddress.IPv6Interface: _Form(18, str, ipaddress.IPv6Interface),
    ipaddress.IPv6Network: _Form(19, str, ipaddress.IPv6Network),
    zoneinfo.ZoneInfo: _Form(20, str, zoneinfo.ZoneInfo),
    re.Pattern: _Form(PATTERN, _pattern_to_plain, _pattern_from_plain),
    Document: _Form(
        22, _document_to_plain, lambda p: Document(page_content=p[0], metadata=p[1], id=p[2])
    ),
    dt.timezone: _Form(24, _timezone_to_plain, lambda p: dt.timezone(dt.timedelta(*p[:3]), *p[3:])),
    SecretStr: _Form(28, SecretStr.get_secret_value, SecretStr),
    SecretBytes: _Form(29, SecretBytes.get_secret_value, SecretBytes),
    **dict.fromkeys(_URLS.values(), _URL),
}
# Types of a package that a chat history does without are known by their names.
_FORMS_BY_NAME = {
    ("langgraph.types", "Send"): _Form(
        31, lambda send: [send.node, send.arg, send.timeout], _send_from_plain
    ),
    ("langgraph.store.base", "Item"): _Form(32, _item_to_plain, _item_from_plain),
    ("langgraph.store.base", "SearchItem"): _Form(32, _item_to_plain, _item_from_plain),
}
BY_CODE: dict[int, Callable[[Any], Any]] = {
    **{form.code: form.from_plain for form in (*_FORMS.values(), *_FORMS_BY_NAME.values())},
    MESSAGE: lambda plain: rebuild_message(*plain),
    TEXT: lambda plain: plain.decode(errors="surrogatepass"),
    ARRAY: arrays.from_plain,
}


def form_of(part: Any, types: AllowedTypes) -> tuple[int | None, Any]:
    """The code of a part that msgpack lacks, and plain values; no code for what msgpack has.

    Raises:
        ValueNotStorable: It has no stored form, or its type is not allowed.
    """
    kind = type(part)
    if form := _FORMS.get(kind) or _FORMS_BY_NAME.get((kind.__module__, kind.__name__)):
        return form.code, form.to_plain(part)
    if isinstance(part, BaseMessage) and (fields := fields_of(part)):
        return MESSAGE, [*fields]
    if parts := taken_apart(part, types):
        return OBJECT, parts
    array = arrays.as_plain(part, lambda becomes: types.tell(type_name(part), becomes))
    return (ARRAY, array) if array else substitute(part, types)


def substitute(part: Any, types: AllowedTypes) -> tuple[int | None, Any]:
    """What stands for a part as LangGraph would store it, which is told once for each type.

    Raises:
        ValueNotStorable: There is nothing, or the types are strict.
    """
    if isinstance(part, BaseException):
        types.tell(type_name(part), "text")
        return None, text_of_exception(part)
    for base in type(part).__mro__[1:]:
        if base in _BASES or base in _FORMS:
            types.tell(type_name(part), f"a {base.__name__}")
            return (None, _BASES[base](part)) if base in _BASES else _of_base(base, part)
    plain = _as_dumped(part)
    if plain is None:
        raise ValueNotStorable(type_name(part), cause="it has no stored form")
    types.tell(type_name(part), "plain fields")
    return None, plain


_BASES: dict[type, Callable[[Any], Any]] = {float: float.__float__, bytes: bytes}


def _of_base(base: type, part: Any) -> tuple[int, Any]:
    form = _FORMS[base]
    return form.code, form.to_plain(part)


def _as_dumped(part: Any) -> dict[str, Any] | None:
    """The fields of what dumps itself as models do."""
    for name in () if isinstance(part, type) else ("model_dump", "dict", "_asdict"):
        with suppress(Exception):
            plain = getattr(part, name)()
            if isinstance(plain, dict):
                return plain
    return None


def text_of_exception(error: BaseException) -> str:
    """An exception as LangGraph stores it: its ``repr``."""
    try:
        return repr(error)
    except Exception:  # noqa: BLE001 - that of an application raises what it likes
        return type(error).__name__
