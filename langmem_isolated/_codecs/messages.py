"""Message codec: messages as versioned bytes, decoded whole or in part."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

import ormsgpack
from langchain_core.messages import BaseMessage

from langmem_isolated._codecs.classes import ANY_TYPE, AllowedTypes, type_name
from langmem_isolated._codecs.message_fields import (
    Prototype,
    copies_of,
    fields_of,
    prototype_of,
    rebuild_message,
    rebuild_messages,
)
from langmem_isolated._codecs.refusals import located
from langmem_isolated._codecs.values import decode_value, encode_value, hook_for, text_from_ext
from langmem_isolated._codecs.versions import later_form
from langmem_isolated._runtime.garbage import paused_for
from langmem_isolated.errors import ValueNotStorable

MESSAGE_V1 = b"\x01"
# As the first, behind what was sealed beside the message.
MESSAGE_V2 = b"\x02"
_FORMS = {*MESSAGE_V1, *MESSAGE_V2}

# What is unpacked of them stays in the processor's cache until it is rebuilt: of 10,000, a quarter
# of the time.
_TOGETHER = 256

_NO_MESSAGE = "each must be a message of langchain-core, such as HumanMessage(text)"
_CONVERT = "Dicts and tuples of a role and content: langchain_core.messages.convert_to_messages(…)."


class MessageMetadata(NamedTuple):
    """What is sealed beside a message of a session."""

    written: int
    """Microseconds since 1970, UTC."""
    channel: str | None = None
    is_untrusted: bool = False
    """Whether it came from elsewhere: nothing writes it yet."""
    tokens: tuple[int, int] | None = None
    """Input and output: nothing writes them yet."""

    def packed(self) -> list[Any]:
        """The time, and a list of what else there is, as far as there is any."""
        others = [self.channel, self.is_untrusted or None, self.tokens and list(self.tokens)]
        while others and others[-1] is None:
            others.pop()
        return [self.written, others]

    @classmethod
    def unpacked(cls, written: int, others: list[Any]) -> "MessageMetadata":
        """What :meth:`packed` was given; what a later version added is left out."""
        channel, is_untrusted, tokens, *_ = [*others, None, None, None]
        return cls(written, channel, bool(is_untrusted), None if tokens is None else tuple(tokens))


class MessageWithMetadata(NamedTuple):
    """A message with what was sealed beside it."""

    message: BaseMessage
    metadata: MessageMetadata | None = None
    """``None`` for a message of a checkpoint."""


def encode_message(
    message: BaseMessage,
    metadata: MessageMetadata | None = None,
    types: AllowedTypes = ANY_TYPE,
) -> bytes:
    """A message as versioned bytes from which :func:`decode_message` makes an equal one.

    Args:
        message: The message.
        metadata: Sealed with it.
        types: The classes that are allowed in its free fields, by default all.

    Raises:
        ValueNotStorable: A field holds a value that :func:`encode_value` refuses, or the message's
            class is not derived from one of langchain-core's.
    """
    fields = fields_of(message)
    if fields is None:
        raise ValueNotStorable(
            type_name(message), "a list of messages", cause=_NO_MESSAGE, advice=_CONVERT
        )
    beside = metadata.packed() if metadata else ()
    try:
        packed = encode_value([*beside, *fields], "", types)
    except ValueNotStorable as refusal:
        where = f"a message of class {type(message).__name__}"
        raise located(refusal, message, where) from None
    return (MESSAGE_V2 if metadata else MESSAGE_V1) + packed


def decode_message(plaintext: bytes, types: AllowedTypes = ANY_TYPE) -> BaseMessage:
    """What :func:`encode_message` was given; of classes that are not allowed come plain fields.

    Raises:
        RecordError: A later version of this package wrote it.
    """
    *_, type_, fields = _message_parts(plaintext, types)
    return rebuild_message(type_, fields)


def decode_messages(
    parts: Sequence[bytes | Prototype], types: AllowedTypes = ANY_TYPE
) -> list[BaseMessage]:
    """As :func:`decode_message` of each, in half the time; of a prototype a copy.

    Raises:
        RecordError: A later version of this package wrote one.
    """
    messages: list[BaseMessage] = []
    with paused_for(len(parts)):
        for start in range(0, len(parts), _TOGETHER):
            messages += _messages_of(parts[start : start + _TOGETHER], types)
    return messages


def decode_prototype(plaintext: bytes) -> Prototype | None:
    """What stands for a message in memory; ``None`` where it is to be decoded at each use.

    That is one with a value that msgpack lacks, or a field of a later langchain-core.
    """
    if plaintext[:1] == MESSAGE_V1:
        with suppress(ValueError):
            # Without a hook, which refuses such a value.
            return prototype_of(*ormsgpack.unpackb(plaintext[1:]))
    return None


def _messages_of(parts: Sequence[bytes | Prototype], types: AllowedTypes) -> list[BaseMessage]:
    prototypes = [part for part in parts if type(part) is Prototype]
    if len(prototypes) == len(parts):
        return copies_of(prototypes)
    if not prototypes:
        return _decoded_together(cast("Sequence[bytes]", parts), types)
    decoded = _decoded_together([part for part in parts if isinstance(part, bytes)], types)
    copy, other = iter(copies_of(prototypes)), iter(decoded)
    return [next(other if isinstance(part, bytes) else copy) for part in parts]


def _decoded_together(plaintexts: Sequence[bytes], types: AllowedTypes) -> list[BaseMessage]:
    unpack, hook = ormsgpack.unpackb, hook_for(types)
    with suppress(ValueError, IndexError):
        if {plaintext[0] for plaintext in plaintexts} <= _FORMS:
            return rebuild_messages([unpack(one[1:], ext_hook=hook) for one in plaintexts])
    return [decode_message(plaintext, types) for plaintext in plaintexts]


def decode_message_with_metadata(plaintext: bytes) -> MessageWithMetadata:
    """The message and what was sealed beside it; see :func:`decode_message`."""
    *beside, type_, fields = _message_parts(plaintext)
    metadata = MessageMetadata.unpacked(*beside) if beside else None
    return MessageWithMetadata(rebuild_message(type_, fields), metadata)


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
    name: str | None
    channel: str | None
    written: int | None


def decode_partially(plaintext: bytes) -> PartialMessage:
    """Role, text, id and name of what :func:`encode_message` was given.

    Raises:
        RecordError: A later version of this package wrote it.
    """
    if plaintext[:1] not in (MESSAGE_V1, MESSAGE_V2):
        raise later_form("message", plaintext[:1], MESSAGE_V1, MESSAGE_V2)
    *beside, type_, fields = ormsgpack.unpackb(plaintext[1:], ext_hook=text_from_ext)
    role = type_.removesuffix("MessageChunk").lower()
    role = fields.get("role", role) if role == "chat" else role
    written, others = beside or (None, ())
    return PartialMessage(
        role,
        _text_of(fields.get("content")),
        fields.get("id"),
        fields.get("name"),
        others[0] if others else None,
        written,
    )


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        # LangChain validates what a message is made of, and not what is set later.
        return ""
    texts = (
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
        for part in content
    )
    # As `BaseMessage.text` joins them.
    return "".join(text for text in texts if isinstance(text, str))
