"""Storable messages: what is recorded of one that cannot be stored exactly."""

import logging
from collections import deque
from typing import Any

from langchain_core.messages import BaseMessage, ChatMessage

from langmem_isolated._codecs.classes import fields_of_object, type_name
from langmem_isolated._codecs.message_fields import fields_of, rebuild_message
from langmem_isolated._codecs.messages import encode_message
from langmem_isolated._codecs.values import encode_value
from langmem_isolated.errors import ValueNotStorable

_log = logging.getLogger("langmem_isolated")

NOT_STORED = "langmem_isolated_not_stored"
"""The key in ``response_metadata`` of a recorded message that names the types of what it lacks."""

# Deeper parts are left out, and their type is named.
_DEEPEST = 50


def storable(message: BaseMessage) -> BaseMessage:
    """The message itself, or one that is stored in its place as far as it can be.

    What has no stored form is replaced: an object by its plain fields, anything else by the name of
    its type. ``response_metadata`` then has the names of these types under :data:`NOT_STORED`, and
    the log has them, too.
    """
    try:
        encode_message(message)
    except ValueNotStorable:
        return _as_far_as_storable(message)
    return message


def stored_form(message: BaseMessage) -> bytes:
    """The stored form of what is recorded of a message."""
    try:
        return encode_message(message)
    except ValueNotStorable:
        return encode_message(_as_far_as_storable(message))


def _as_far_as_storable(message: BaseMessage) -> BaseMessage:
    lost: dict[str, None] = {}
    type_, fields = fields_of(message) or _of_unknown_class(message, lost)
    plain = {name: _plain(value, lost, 0) for name, value in fields.items()}
    metadata = plain.get("response_metadata")
    facts = metadata if isinstance(metadata, dict) else {}
    plain["response_metadata"] = {**facts, NOT_STORED: [*lost]}
    _log.warning("A message was recorded without what cannot be stored: %s.", ", ".join(lost))
    return rebuild_message(type_, plain)


def _of_unknown_class(message: BaseMessage, lost: dict[str, None]) -> tuple[str, dict[str, Any]]:
    """A message of a class that is derived from none of langchain-core's, as one with a role."""
    lost[type_name(message)] = None
    fields = dict(message.__dict__)
    known = {name: fields[name] for name in ChatMessage.model_fields if name in fields}
    return "chat", {**known, "type": "chat", "role": message.type}


def _plain(value: Any, lost: dict[str, None], depth: int) -> Any:
    """``value`` with what has no stored form replaced; its types are added to ``lost``."""
    try:
        encode_value(value, "a message")
    except ValueNotStorable:
        pass
    else:
        return value
    if depth > _DEEPEST:
        return _lost(value, lost)
    parts = fields_of_object(value)
    if parts is None and isinstance(value, dict):
        return {_key(key, lost): _plain(part, lost, depth + 1) for key, part in value.items()}
    if parts is not None:
        _lost(value, lost)
        return {name: _plain(part, lost, depth + 1) for name, part in parts.items()}
    if isinstance(value, list | tuple | set | frozenset | deque):
        return [_plain(part, lost, depth + 1) for part in value]
    return _lost(value, lost)


def _key(key: Any, lost: dict[str, None]) -> Any:
    try:
        encode_value(key, "a message")
    except ValueNotStorable:
        return _lost(key, lost)
    return key


def _lost(value: object, lost: dict[str, None]) -> str:
    lost[type_name(value)] = None
    return f"<{type_name(value)}>"
