"""Turns messages and free values into bytes and back, exactly, or refuses them by type.

The stored form is that of langchain-core's `message_to_dict`, less the fields that have their
default, as msgpack behind a version byte. What comes back was authenticated, so known classes are
rebuilt field by field without validating again (1.6 µs against 5.9 a message),
and a field of a later langchain-core stays with its message.
"""

import datetime as dt
import ipaddress
import re
import uuid
import zoneinfo
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import ormsgpack
from langchain_core import messages
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage

from langmem_isolated.errors import RecordError, ValueNotStorable

MESSAGE_V1 = b"\x01"
# As the first, with the channel and the time of writing in front.
MESSAGE_V2 = b"\x02"
HEADER_V1 = b"\x01"
DOCUMENT_V1 = b"\x01"

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
        elif isinstance(part, BaseMessage) and (fields := _fields_of(part)):
            packed = ormsgpack.Ext(_MESSAGE_CODE, pack(list(fields)))
        elif isinstance(part, Enum) and isinstance(part, str | int):
            packed = part.value
        else:
            refused = _type_name(part)
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


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def decode_value(plaintext: bytes) -> Any:
    """What :func:`encode_value` was given; the bytes must have been authenticated.

    Raises:
        RecordError: The bytes hold a type that a later version introduced.
    """
    try:
        return ormsgpack.unpackb(plaintext, ext_hook=_from_ext)
    except ValueError:
        # The unpacker says no more than that a type of ours could not be rebuilt.
        raise RecordError(
            "A stored value has a type that this version does not know, or that cannot be rebuilt "
            "here (a time zone without its data). Nothing was changed; install a later "
            "langmem-isolated."
        ) from None


def _from_ext(code: int, packed: bytes) -> Any:
    plain = ormsgpack.unpackb(packed, ext_hook=_from_ext)
    return _rebuilt(*plain) if code == _MESSAGE_CODE else _BY_CODE[code](plain)


class _Template(NamedTuple):
    """A message class, its fields' defaults (``None`` for a required field), and what to copy."""

    message_class: type[BaseMessage]
    defaults: dict[str, Any]
    mutable: tuple[tuple[str, type], ...]


def _template(message_class: type[BaseMessage]) -> _Template:
    defaults = {
        name: None if field.is_required() else field.get_default(call_default_factory=True)
        for name, field in message_class.model_fields.items()
    }
    mutable = tuple((n, type(d)) for n, d in defaults.items() if isinstance(d, dict | list))
    return _Template(message_class, defaults, mutable)


_KNOWN_CLASSES: tuple[type[BaseMessage], ...] = (
    messages.AIMessage,
    messages.AIMessageChunk,
    messages.ChatMessage,
    messages.ChatMessageChunk,
    messages.FunctionMessage,
    messages.FunctionMessageChunk,
    messages.HumanMessage,
    messages.HumanMessageChunk,
    messages.RemoveMessage,
    messages.SystemMessage,
    messages.SystemMessageChunk,
    messages.ToolMessage,
    messages.ToolMessageChunk,
)
_BY_TYPE = {cls.model_fields["type"].default: _template(cls) for cls in _KNOWN_CLASSES}
# langchain-core's own message classes, exactly: subclasses are not among them.
KNOWN_MESSAGES = frozenset(_KNOWN_CLASSES)
_BY_CLASS = {template.message_class: (type_, template) for type_, template in _BY_TYPE.items()}


def _fields_of(message: BaseMessage) -> tuple[str, dict[str, Any]] | None:
    """Type and fields that differ from their defaults; ``None`` for a class that is not known.

    A class derived from a known one is stored as that one, with its own fields beside.
    """
    exact = _BY_CLASS.get(type(message))
    type_, template = exact or _derived_from(message)
    if template is None:
        return None
    values = message.__dict__
    fields = {
        name: values[name]
        for name, default in template.defaults.items()
        if not _is_default(values[name], default)
    }
    if exact is None:
        own = (name for name in type(message).model_fields if name not in template.defaults)
        fields.update({name: values[name] for name in own})
    if extra := message.__pydantic_extra__:
        fields.update(extra)
    return type_, fields


def _derived_from(message: BaseMessage) -> tuple[str, _Template | None]:
    known = (_BY_CLASS[base] for base in type(message).__mro__ if base in _BY_CLASS)
    return next((found for found in known if found[0] == message.type), ("", None))


def _is_default(value: object, default: object) -> bool:
    # Types first: an artifact's own `==` may do anything.
    return value is default or (type(value) is type(default) and value == default)


_set = object.__setattr__


def _rebuilt(type_: str, fields: dict[str, Any]) -> BaseMessage:
    template = _BY_TYPE.get(type_)
    if template is None:
        raise RecordError(
            "A message has a class that this version does not know. Nothing was changed; install a "
            "later langmem-isolated."
        )
    message_class, defaults, mutable = template
    values = defaults | fields
    for name, make in mutable:
        if name not in fields:
            values[name] = make()
    extra = {}
    if len(values) > len(defaults):
        extra = {name: values.pop(name) for name in fields if name not in defaults}
    message = object.__new__(message_class)
    # What pydantic's own `__setstate__` does, in a third of its time.
    _set(message, "__dict__", values)
    _set(message, "__pydantic_fields_set__", fields.keys() - extra.keys() if extra else set(fields))
    _set(message, "__pydantic_extra__", extra)
    _set(message, "__pydantic_private__", None)
    return message


class Said(NamedTuple):
    """A message with what was sealed beside it."""

    message: BaseMessage
    channel: str | None = None
    written: int | None = None
    """Milliseconds since 1970, UTC; ``None`` for a message without channel."""


def encode_message(message: BaseMessage, channel: str | None = None, written: int = 0) -> bytes:
    """A message as versioned bytes from which :func:`decode_message` makes an equal one.

    Args:
        message: The message.
        channel: Sealed with it, and then ``written`` is, too.
        written: Milliseconds since 1970, UTC.

    Raises:
        ValueNotStorable: A field holds a value that :func:`encode_value` refuses, or the message's
            class is not derived from one of langchain-core's.
    """
    fields = _fields_of(message)
    if fields is None:
        raise ValueNotStorable(_type_name(message), "a list of messages")
    where = f"a message of class {type(message).__name__}"
    if channel is None:
        return MESSAGE_V1 + encode_value([*fields], where)
    return MESSAGE_V2 + encode_value([channel, written, *fields], where)


def decode_message(plaintext: bytes) -> BaseMessage:
    """What :func:`encode_message` was given.

    Raises:
        RecordError: A later version of this package wrote it.
    """
    *_, type_, fields = _message_parts(plaintext)
    return _rebuilt(type_, fields)


def decode_messages(plaintexts: Sequence[bytes]) -> list[BaseMessage]:
    """As :func:`decode_message` of each, in five sixths of the time.

    Raises:
        RecordError: A later version of this package wrote one.
    """
    unpack = ormsgpack.unpackb
    if {plaintext[0] for plaintext in plaintexts} == {MESSAGE_V1[0]}:
        with suppress(ValueError):
            return [_rebuilt(*unpack(p[1:], ext_hook=_from_ext)) for p in plaintexts]
    return [decode_message(plaintext) for plaintext in plaintexts]


def decode_said(plaintext: bytes) -> Said:
    """The message and what was sealed beside it; see :func:`decode_message`."""
    *beside, type_, fields = _message_parts(plaintext)
    return Said(_rebuilt(type_, fields), *beside)


def _message_parts(plaintext: bytes) -> list[Any]:
    form = plaintext[:1]
    if form not in (MESSAGE_V1, MESSAGE_V2):
        raise _later_form("message", form, MESSAGE_V1, MESSAGE_V2)
    parts: list[Any] = decode_value(plaintext[1:])
    return parts


def _later_form(what: str, form: bytes, *known: bytes) -> RecordError:
    return RecordError(
        f"A {what} is stored in form {form.hex()}, this version knows "
        f"{', '.join(one.hex() for one in known)}. Nothing was changed; install a later "
        "langmem-isolated."
    )


class Glance(NamedTuple):
    """What a search wants of a message: to rebuild it would take three times as long."""

    role: str
    """``"human"``, ``"ai"``, ``"system"``, ``"tool"``, …; a `ChatMessage`'s own."""
    text: str
    message_id: str | None
    channel: str | None
    written: int | None


def glance(plaintext: bytes) -> Glance:
    """Role, text and id of what :func:`encode_message` was given.

    Raises:
        RecordError: A later version of this package wrote it.
    """
    if plaintext[:1] not in (MESSAGE_V1, MESSAGE_V2):
        raise _later_form("message", plaintext[:1], MESSAGE_V1, MESSAGE_V2)
    *beside, type_, fields = ormsgpack.unpackb(plaintext[1:], ext_hook=_nothing)
    role = type_.removesuffix("MessageChunk").lower()
    role = fields["role"] if role == "chat" else role
    channel, written = beside or (None, None)
    return Glance(role, _text_of(fields["content"]), fields.get("id"), channel, written)


def _nothing(_code: int, _packed: bytes) -> None:
    """Stands for a value that is not looked at."""


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    texts = (
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
        for part in content
    )
    return "\n".join(text for text in texts if isinstance(text, str))


class Header(NamedTuple):
    """What a session's row seals: its own id, and what people call it."""

    session_id: str
    title: str | None = None
    channel: str | None = None
    summary: str | None = None
    summarized: int | None = None
    """The summary stands for the messages with a sequence number below this."""


# The fields of the first version; headers without later ones keep their bytes.
_ALWAYS_STORED = ("session_id", "title", "channel")


def encode_header(header: Header) -> bytes:
    """A header as versioned bytes."""
    kept = {n: v for n, v in header._asdict().items() if v is not None or n in _ALWAYS_STORED}
    return HEADER_V1 + encode_value(kept, "a session's header")


def decode_header(plaintext: bytes) -> Header:
    """What :func:`encode_header` was given; fields that a later version added are left out.

    Raises:
        RecordError: A later version of this package wrote it in another form.
    """
    if plaintext[:1] != HEADER_V1:
        raise _later_form("session's header", plaintext[:1], HEADER_V1)
    fields = decode_value(plaintext[1:])
    return Header(**{name: fields.get(name) for name in Header._fields})


def encode_document(id_: str, document: Document) -> bytes:
    """A document under an id as versioned bytes.

    Raises:
        ValueNotStorable: Metadata hold a value that :func:`encode_value` refuses.
    """
    return DOCUMENT_V1 + encode_value([id_, document.page_content, document.metadata], "a document")


def decode_document(plaintext: bytes) -> Document:
    """What :func:`encode_document` was given.

    Raises:
        RecordError: A later version of this package wrote it.
    """
    if plaintext[:1] != DOCUMENT_V1:
        raise _later_form("document", plaintext[:1], DOCUMENT_V1)
    id_, page_content, metadata = decode_value(plaintext[1:])
    return Document(id=id_, page_content=page_content, metadata=metadata)
