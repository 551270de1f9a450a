"""Value codec: free values as msgpack, lossless, or refused by type.

Msgpack, with codes of our own for what it lacks.
"""

import datetime as dt
import ipaddress
import re
import uuid
import zoneinfo
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import ormsgpack
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage

from langmem_isolated._codecs.message_fields import fields_of, rebuild_message
from langmem_isolated.errors import RecordError, ValueNotStorable

_PACK = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
# Each level of a type that msgpack has not costs two frames of Python's stack when it is read.
_DEEPEST = 100


class _Form(NamedTuple):
    """How a type that msgpack has not is stored: its code never changes."""

    code: int
    to_plain: Callable[[Any], Any]
    from_plain: Callable[[Any], Any]


class _Pairs(tuple[Any, ...]):
    """A dict whose keys are not all ``str``, as its keys and values in turn."""

    __slots__ = ()


def _moment_to_plain(moment: Any) -> list[Any]:
    # ISO 8601 keeps the offset alone: not the zone, nor which of two equal hours it is.
    return [moment.replace(tzinfo=None, fold=0).isoformat(), moment.fold, moment.tzinfo]


def _timezone_to_plain(zone: dt.timezone) -> list[Any]:
    offset, name = zone.utcoffset(None), zone.tzname(None)
    named = [] if name == dt.timezone(offset).tzname(None) else [name]
    return [offset.days, offset.seconds, offset.microseconds, *named]


def _pattern_to_plain(pattern: re.Pattern[Any]) -> list[Any]:
    return [pattern.pattern, pattern.flags]


def _document_to_plain(document: Document) -> list[Any]:
    return [document.page_content, document.metadata, document.id]


_FORMS: dict[type, _Form] = {
    tuple: _Form(1, list, tuple),
    set: _Form(2, list, set),
    frozenset: _Form(3, list, frozenset),
    deque: _Form(4, lambda value: [list(value), value.maxlen], lambda plain: deque(*plain)),
    _Pairs: _Form(5, list, lambda plain: dict(zip(plain[::2], plain[1::2], strict=True))),
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
    re.Pattern: _Form(21, _pattern_to_plain, lambda plain: re.compile(*plain)),
    Document: _Form(
        22, _document_to_plain, lambda p: Document(page_content=p[0], metadata=p[1], id=p[2])
    ),
    dt.timezone: _Form(24, _timezone_to_plain, lambda p: dt.timezone(dt.timedelta(*p[:3]), *p[3:])),
}
_MESSAGE_CODE = 23
_BY_CODE = {form.code: form.from_plain for form in _FORMS.values()}


def encode_value(value: object, where: str) -> bytes:
    """``value`` as msgpack from which :func:`decode_value` makes an equal one.

    Args:
        value: JSON values, bytes, tuples, sets, deques, dates and times, UUIDs, Decimals, paths, IP
            addresses, zones, patterns, langchain-core documents and messages, at any depth; keys of
            dicts may be any of them. Subclasses of ``str``, ``int``, ``list`` and ``dict`` come
            back as those, ``bytearray`` and ``memoryview`` as ``bytes``.
        where: What the value is part of, for the error.

    Raises:
        ValueNotStorable: A part has another type, is nested deeper than 100 levels (lists and dicts
            alone: 200), or is text with lone surrogates. The error names the type.
    """
    refused = "str with lone surrogates, or a structure nested too deeply"
    pairs = False
    depth = 0

    def default(part: Any) -> Any:
        nonlocal refused, depth
        depth += 1
        if depth > _DEEPEST:
            raise RecursionError
        if form := _FORMS.get(type(part)):
            packed: Any = ormsgpack.Ext(form.code, pack(form.to_plain(part)))
        elif isinstance(part, BaseMessage) and (fields := fields_of(part)):
            packed = ormsgpack.Ext(_MESSAGE_CODE, pack(list(fields)))
        elif isinstance(part, Enum) and isinstance(part, str | int):
            packed = part.value
        else:
            refused = type_name(part)
            raise TypeError
        depth -= 1
        return packed

    def pack(plain: Any) -> bytes:
        return ormsgpack.packb(_with_pairs(plain) if pairs else plain, default, _PACK)

    try:
        try:
            return pack(value)
        except ormsgpack.MsgpackEncodeError:
            # Perhaps a dict has keys other than str: rare enough to look for only now.
            pairs, depth = True, 0
            return pack(value)
    except (ormsgpack.MsgpackEncodeError, RecursionError):
        # The packer's own message may quote the value.
        raise ValueNotStorable(refused, where) from None


def _with_pairs(plain: Any) -> Any:
    """``plain`` with every dict whose keys are not all ``str`` as :class:`_Pairs`."""
    if isinstance(plain, list):
        return [_with_pairs(part) for part in plain]
    if not isinstance(plain, dict):
        return plain
    if all(isinstance(key, str) for key in plain):
        return {str.__str__(key): _with_pairs(value) for key, value in plain.items()}
    return _Pairs(part for pair in plain.items() for part in pair)


def type_name(value: object) -> str:
    """Module and qualified name of a value's type, for an error."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def decode_value(plaintext: bytes) -> Any:
    """What :func:`encode_value` was given; the bytes must have been authenticated.

    Raises:
        RecordError: The bytes hold a type that a later version introduced.
    """
    try:
        return ormsgpack.unpackb(plaintext, ext_hook=from_ext)
    except ValueError:
        # The unpacker says no more than that a type of ours could not be rebuilt.
        raise RecordError(
            "A stored value has a type that this version does not know, or that cannot be rebuilt "
            "here (a time zone without its data). Nothing was changed; install a later "
            "langmem-isolated."
        ) from None


def from_ext(code: int, packed: bytes) -> Any:
    """Rebuild a value of a type that msgpack lacks; msgpack's ``ext_hook``."""
    plain = ormsgpack.unpackb(packed, ext_hook=from_ext)
    return rebuild_message(*plain) if code == _MESSAGE_CODE else _BY_CODE[code](plain)
