"""Message codec: messages as versioned bytes, decoded whole or in part."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import ormsgpack
from langchain_core.messages import BaseMessage

from langmem_isolated._codecs.classes import ANY_TYPE, AllowedTypes, type_name
from langmem_isolated._codecs.message_fields import fields_of, rebuild_message
from langmem_isolated._codecs.refusals import located
from langmem_isolated._codecs.values import decode_value, encode_value, hook_for, text_from_ext
from langmem_isolated._codecs.versions import later_form
from langmem_isolated.errors import ValueNotStorable

MESSAGE_V1 = b"\x01"
# As the first, with the channel and the time of writing in front.
MESSAGE_V2 = b"\x02"


class MessageWithMetadata(NamedTuple):
    """A message with what was sealed beside it."""

    message: BaseMessage
    channel: str | None = None
    written: int | None = None
    """Microseconds since 1970, UTC; ``None`` for a message without channel."""


def encode_message(
    message: BaseMessage,
    channel: str | None = None,
    written: int = 0,
    types: AllowedTypes = ANY_TYPE,
) -> bytes:
    """A message as versioned bytes from which :func:`decode_message` makes an equal one.

    Args:
        message: The message.
        channel: Sealed with it, and then ``written`` is, too.
        written: Microseconds since 1970, UTC.
        types: The classes that are allowed in its free fields, by default all.

    Raises:
        ValueNotStorable: A field holds a value that :func:`encode_value` refuses, or the message's
            class is not derived from one of langchain-core's.
    """
    fields = fields_of(message)
    if fields is None:
        raise ValueNotStorable(type_name(message), "a list of messages")
    beside = () if channel is None else (channel, written)
    try:
        packed = encode_value([*beside, *fields], "", types)
    except ValueNotStorable as refusal:
        where = f"a message of class {type(message).__name__}"
        raise located(refusal, message, where) from None
    return (MESSAGE_V1 if channel is None else MESSAGE_V2) + packed


def decode_message(plaintext: bytes, types: AllowedTypes = ANY_TYPE) -> BaseMessage:
    """What :func:`encode_message` was given; of classes that are not allowed come plain fields.

    Raises:
        RecordError: A later version of this package wrote it.
    """
    *_, type_, fields = _message_parts(plaintext, types)
    return rebuild_message(type_, fields)


def decode_messages(
    plaintexts: Sequence[bytes], types: AllowedTypes = ANY_TYPE
) -> list[BaseMessage]:
    """As :func:`decode_message` of each, in five sixths of the time.

    Raises:
        RecordError: A later version of this package wrote one.
    """
    unpack, hook = ormsgpack.unpackb, hook_for(types)
    if {plaintext[0] for plaintext in plaintexts} == {MESSAGE_V1[0]}:
        with suppress(ValueError):
            return [rebuild_message(*unpack(p[1:], ext_hook=hook)) for p in plaintexts]
    return [decode_message(plaintext, types) for plaintext in plaintexts]


def decode_message_with_metadata(plaintext: bytes) -> MessageWithMetadata:
    """The message and what was sealed beside it; see :func:`decode_message`."""
    *beside, type_, fields = _message_parts(plaintext)
    return MessageWithMetadata(rebuild_message(type_, fields), *beside)


def _message_parts(plaintext: bytes, types: AllowedTypes = ANY_TYPE) -> list[Any]:
    form = plaintext[:1]
    if form not in (MESSAGE_V1, MESSAGE_V2):
        raise later_form("message", form, MESSAGE_V1, MESSAGE_V2)
    parts: list[Any] = decode_value(plaintext[1:], types)
    return parts


class PartialMessage(NamedTuple):
    """What a search wants of a message: to rebuild it would take three times as long."""

    role: str
    """``"human"``, ``"ai"``, ``"system"``, ``"tool"``, …; a `ChatMessage`'s own."""
    text: str
    message_id: str | None
    channel: str | None
    written: int | None


def decode_partially(plaintext: bytes) -> PartialMessage:
    """Role, text and id of what :func:`encode_message` was given.

    Raises:
        RecordError: A later version of this package wrote it.
    """
    if plaintext[:1] not in (MESSAGE_V1, MESSAGE_V2):
        raise later_form("message", plaintext[:1], MESSAGE_V1, MESSAGE_V2)
    *beside, type_, fields = ormsgpack.unpackb(plaintext[1:], ext_hook=text_from_ext)
    role = type_.removesuffix("MessageChunk").lower()
    role = fields["role"] if role == "chat" else role
    channel, written = beside or (None, None)
    return PartialMessage(role, _text_of(fields["content"]), fields.get("id"), channel, written)


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    texts = (
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
        for part in content
    )
    return "\n".join(text for text in texts if isinstance(text, str))
