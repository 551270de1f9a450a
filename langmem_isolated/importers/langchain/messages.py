"""Stored messages: what ``message_to_dict`` of langchain-core made, decoded strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from langchain_core.messages import BaseMessage
from pydantic import ValidationError

from langmem_isolated._codecs.message_fields import KNOWN_MESSAGES
from langmem_isolated.lifecycle import ForeignMessage, Rejected

# A table of our own: what is stored names an entry of it, and never a class.
_BY_TYPE: Mapping[str, type[BaseMessage]] = {
    message_class.model_fields["type"].default: message_class for message_class in KNOWN_MESSAGES
}
_EXPECTED = "expected the JSON object that message_to_dict makes, with type and data"


class MessageRefused(Exception):
    """A stored form is no message of langchain-core; its text has nothing of the form in it."""


def read_message(
    stored: object, place: str, written_at: datetime | None = None
) -> ForeignMessage | Rejected:
    """The message that is stored as JSON text, or as the object in it."""
    try:
        form = from_json(stored) if isinstance(stored, str | bytes) else stored
        return ForeignMessage(message_from(form), place, written_at)
    except MessageRefused as refusal:
        return Rejected(place, str(refusal))


def from_json(text: str | bytes) -> Any:
    """What is in the JSON text.

    Raises:
        MessageRefused: It is no JSON, or no UTF-8.
    """
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    # Besides what is no JSON: a thousand brackets, and a number of more than 4,300 digits.
    except (ValueError, RecursionError) as error:
        unit = "bytes" if isinstance(text, bytes) else "characters"
        got = f"{len(text):,} {unit} that are not ({type(error).__name__})"
        raise MessageRefused(f"{_EXPECTED}, got {got}") from None


def message_from(form: object) -> BaseMessage:
    """The message that langchain-core's own ``messages_from_dict`` makes of the form.

    Raises:
        MessageRefused: It makes none, or the form names something to be constructed.
    """
    if not isinstance(form, dict):
        raise MessageRefused(f"{_EXPECTED}, got {type(form).__name__}")
    if _names_constructor(form):
        raise MessageRefused(f'{_EXPECTED}, got a constructor of langchain-core\'s "load" in it')
    message_class, data = _class_of(form.get("type")), form.get("data")
    if not isinstance(data, dict):
        raise MessageRefused(f"{_EXPECTED}, got data that is {type(data).__name__}")
    return _made(message_class, data)


def _class_of(type_: object) -> type[BaseMessage]:
    message_class = _BY_TYPE.get(type_) if isinstance(type_, str) else None
    if message_class is None:
        other = f"another of {len(type_)} characters" if isinstance(type_, str) else None
        known = ", ".join(sorted(name for name in _BY_TYPE if not name.endswith("Chunk")))
        got = other or type(type_).__name__
        raise MessageRefused(f"expected a type of message, one of {known}, got {got}")
    return message_class


def _made(message_class: type[BaseMessage], data: dict[str, Any]) -> BaseMessage:
    try:
        return message_class(**data)
    except ValidationError as error:
        wrong = {str(place["loc"][0]) for place in error.errors() if place["loc"]}
        names = ", ".join(sorted(wrong & message_class.model_fields.keys())) or "the whole"
    except Exception as error:  # noqa: BLE001 - its validators raise what they like of what they find
        names = f"fields ({type(error).__name__})"
    raise MessageRefused(f"expected the fields of {message_class.__name__}, got others in {names}")


def _names_constructor(form: dict[str, Any]) -> bool:
    """Whether langchain-core's ``load`` would make an object of something in it."""
    left: list[Any] = [form]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if "lc" in value and value.get("type") in ("constructor", "secret", "not_implemented"):
                return True
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return False
