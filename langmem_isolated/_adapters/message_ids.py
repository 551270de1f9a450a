"""Ids of messages: made for those that have none, and for those whose id stands for another.

Some servers give every answer the same id, or count them from the start again. An id alone does
not tell a message that comes again from a new one; what it says does.
"""

import uuid

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from langmem_isolated._codecs.messages import (
    decode_message,
    decode_message_with_metadata,
    encode_message,
)
from langmem_isolated._codecs.storable import stored_form
from langmem_isolated._codecs.values import encode_value
from langmem_isolated._storage.sessions.reading import Known
from langmem_isolated._storage.sessions.writing import Message

_NAMES = uuid.UUID("0a5d9c2e-6f0b-4d0e-9a3b-3b1d0a1f7c55")


def derived_id(*parts: str) -> str:
    """An id that the same parts always have."""
    # Some of Python's text has no form in UTF-8, and this function takes no other.
    return str(uuid.uuid5(_NAMES, "\0".join(parts).encode(errors="backslashreplace").decode()))


def named(message: BaseMessage, place: str) -> BaseMessage:
    """The message with an id: its own, or one that it has whenever it is made at ``place``."""
    if message.id:
        return message
    # A copy: tools may return one object again and again, to anyone.
    return message.model_copy(update={"id": derived_id(place, stored_form(message).hex())})


def says_the_same(message: BaseMessage, plaintext: bytes) -> bool:
    """Whether a message says what a stored one says."""
    return _said_in(decode_message(stored_form(message))) == _said_in(decode_message(plaintext))


def _said_in(message: BaseMessage) -> bytes:
    """What a message says: its text, what else is in its content, calls, and what it answers.

    Not what servers count and measure beside it, nor whether its text came in parts.
    """
    blocks = message.content if isinstance(message.content, list) else []
    others = [one for one in blocks if isinstance(one, dict) and one.get("type") != "text"]
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    made = [(call["name"], call["args"], call["id"]) for call in calls]
    answers = message.tool_call_id if isinstance(message, ToolMessage) else None
    # As bytes: what is no number equals itself there.
    return encode_value([str(message.text), others, made, answers], "a message")


def repeated_id(message: BaseMessage, place: str = "") -> str:
    """The id under which a message is stored whose own stands for another."""
    said = _said_in(decode_message(stored_form(message)))
    return derived_id(place, str(message.id), said.hex())


def left_out(
    message: Message, known: Known, *, place: str = "", behind: int = -1
) -> Message | None:
    """What is stored of a message whose id the session has: nothing if it is the same message.

    It is the same if it says the same. Otherwise it is stored under an id that follows from its
    own, from what it says and from ``place``.

    Args:
        message: On its way in.
        known: What the session has under its id.
        place: Where it came about.
        behind: The sequence number behind which a message must stand to be the same.
    """
    new, metadata = decode_message_with_metadata(message.plaintext)
    if known.sequence > behind and _said_in(new) == _said_in(decode_message(known.plaintext)):
        return None
    again = new.model_copy(update={"id": repeated_id(new, place)})
    return Message(encode_message(again, metadata), again.id, message.use)
