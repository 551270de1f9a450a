"""Message codec: messages as versioned bytes, decoded whole or in part."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import ormsgpack
from langchain_core.messages import BaseMessage

from langmem_isolated._codecs.message_fields import fields_of, rebuild_message
from langmem_isolated._codecs.values import decode_value, encode_value, from_ext, type_name
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


def encode_message(message: BaseMessage, channel: str | None = None, written: int = 0) -> bytes:
    """A message as versioned bytes from which :func:`decode_message` makes an equal one.

    Args:
        message: The message.
        channel: Sealed with it, and then ``written`` is, too.
        written: Microseconds since 1970, UTC.

    Raises:
        ValueNotStorable: A field holds a value that :func:`encode_value` refuses, or the message's
            class is not derived from one of langchain-core's.
    """
    fields = fields_of(message)
    if fields is None:
        raise ValueNotStorable(type_name(message), "a list of messages")
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
    return rebuild_message(type_, fields)


def decode_messages(plaintexts: Sequence[bytes]) -> list[BaseMessage]:
    """As :func:`decode_message` of each, in five sixths of the time.

    Raises:
        RecordError: A later version of this package wrote one.
    """
    unpack = ormsgpack.unpackb
    if {plaintext[0] for plaintext in plaintexts} == {MESSAGE_V1[0]}:
        with suppress(ValueError):
            return [rebuild_message(*unpack(p[1:], ext_hook=from_ext)) for p in plaintexts]
    return [decode_message(plaintext) for plaintext in plaintexts]


def decode_message_with_metadata(plaintext: bytes) -> MessageWithMetadata:
    """The message and what was sealed beside it; see :func:`decode_message`."""
    *beside, type_, fields = _message_parts(plaintext)
    return MessageWithMetadata(rebuild_message(type_, fields), *beside)


def _message_parts(plaintext: bytes) -> list[Any]:
    form = plaintext[:1]
    if form not in (MESSAGE_V1, MESSAGE_V2):
        raise later_form("message", form, MESSAGE_V1, MESSAGE_V2)
    parts: list[Any] = decode_value(plaintext[1:])
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
    *beside, type_, fields = ormsgpack.unpackb(plaintext[1:], ext_hook=_nothing)
    role = type_.removesuffix("MessageChunk").lower()
    role = fields["role"] if role == "chat" else role
    channel, written = beside or (None, None)
    return PartialMessage(role, _text_of(fields["content"]), fields.get("id"), channel, written)


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
