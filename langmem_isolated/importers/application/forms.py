"""Forms of applications: the JSON, moments and messages that home-made tables and files hold.

All of it is others' and nothing is trusted: what is read becomes data, or a reason without content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any, NoReturn
from uuid import UUID

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.lifecycle import ForeignMessage, Rejected

ROLES: Mapping[str, type[BaseMessage]] = {
    **dict.fromkeys(("user", "human", "customer"), HumanMessage),
    **dict.fromkeys(("assistant", "ai", "bot", "model"), AIMessage),
    **dict.fromkeys(("system", "developer"), SystemMessage),
    "tool": ToolMessage,
    "function": FunctionMessage,
}
ROLE_NAMES = ("role", "type", "sender", "author")
CONTENT_NAMES = ("content", "text", "message", "body")
TIME_NAMES = ("time", "timestamp", "created_at", "date", "sent_at")
_REQUIRED: Mapping[type[BaseMessage], Mapping[str, str]] = {
    ToolMessage: {"tool_call_id": ""},
    FunctionMessage: {"name": ""},
}
_OF_A_MESSAGE = ("id", "name", "tool_call_id", "tool_calls", "additional_kwargs")
# 20240131 is a date, 1706659200 seconds of the epoch.
_EPOCH_TEXT = re.compile(r"\d{9,13}(\.\d+)?")
# Seconds up to the year 5138; what is larger counts milliseconds.
_MOST_SECONDS = 1e11
_MILLISECONDS = 1_000


class Unreadable(Exception):
    """A value is not what stands there in such sources; says what it is, without content."""


def json_of(text: object) -> Any:
    """What JSON text says; a driver may have read it already.

    Raises:
        Unreadable: It is no JSON, or nested more deeply than Python reads.
    """
    if not isinstance(text, str | bytes):
        return text
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise Unreadable("JSON that is nested too deeply") from None
    except ValueError as error:
        where = f" at character {error.pos:,}" if isinstance(error, json.JSONDecodeError) else ""
        raise Unreadable(f"{len(text):,} characters that are no JSON{where}") from None


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError


def moment_of(value: object) -> datetime | None:
    """When it was: an aware moment, of a text of ISO 8601, of seconds, or of milliseconds.

    Without a time zone it is taken as UTC, as databases and servers write it. ``None``, and text
    without a character, is no moment.

    Raises:
        Unreadable: It is none of these.
    """
    if value is None or value == "":
        return None
    try:
        moment = _moment(value)
    except (TypeError, ValueError, OverflowError, OSError):
        raise Unreadable(f"a time that is no ISO 8601 and no number: {kind_of(value)}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _moment(value: object) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, str) and not _EPOCH_TEXT.fullmatch(value):
        return datetime.fromisoformat(value.strip())
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    seconds = float(value)
    return datetime.fromtimestamp(
        seconds / _MILLISECONDS if seconds > _MOST_SECONDS else seconds, UTC
    )


def id_of(value: object) -> str | None:
    """An id as text, as rules of a mapping read it: of a text, a whole number or a UUID.

    Raises:
        Unreadable: It is something else.
    """
    if value is None or type(value) is str:
        return value
    if type(value) is int or isinstance(value, UUID):
        return str(value)
    raise Unreadable(f"an id that is neither text, a whole number nor a UUID: {kind_of(value)}")


def first_of(entry: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first of these names that is there, and is not ``None``."""
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def message_of(entry: object, place: str, *, channel: str | None = None) -> ForeignMessage:
    """A message, as applications write them: who said it, what, when.

    Args:
        entry: A dict with a role (``user``, ``assistant``, ``system``, ``tool``, LangChain's
            ``human`` and ``ai``, …) and content: text, or OpenAI's and LangChain's parts.
        place: Where it stands.
        channel: Where it was said, unless the entry says so.

    Raises:
        Unreadable: It is none.
    """
    if not isinstance(entry, Mapping):
        raise Unreadable(f"a message that is no object: {kind_of(entry)}")
    message = _built(_class_of(entry), _content_of(entry), entry)
    time = moment_of(first_of(entry, TIME_NAMES))
    named = entry.get("channel")
    return ForeignMessage(message, place, time, named if isinstance(named, str) else channel)


def messages_of(
    entries: object, place: str, *, channel: str | None = None
) -> Iterator[ForeignMessage | Rejected]:
    """The messages of a JSON list, those that are none with their place and the reason."""
    if not isinstance(entries, list):
        yield Rejected(place, f"messages that are no list: {kind_of(entries)}")
        return
    for number, entry in enumerate(entries, start=1):
        where = f"{place}, message {number}"
        try:
            yield message_of(entry, where, channel=channel)
        except Unreadable as error:
            yield Rejected(where, str(error))


def _class_of(entry: Mapping[str, Any]) -> type[BaseMessage]:
    role = first_of(entry, ROLE_NAMES)
    if not isinstance(role, str):
        raise Unreadable(f"a message whose role is no text: {kind_of(role)}")
    found = ROLES.get(role.strip().lower())
    if found is None:
        known = ", ".join(ROLES)
        raise Unreadable(f"a message with a role of {len(role):,} characters; known are {known}")
    return found


def _content_of(entry: Mapping[str, Any]) -> str | list[Any]:
    content = first_of(entry, CONTENT_NAMES)
    if content is None and entry.get("tool_calls"):
        return ""
    if not isinstance(content, str | list):
        raise Unreadable(f"a message whose content is no text: {kind_of(content)}")
    return content


def _built(class_: type[BaseMessage], content: str | list[Any], entry: Mapping[str, Any]) -> Any:
    """The message; OpenAI's tool calls are read by langchain-core itself."""
    fields = {name: entry[name] for name in _OF_A_MESSAGE if entry.get(name) is not None}
    if "id" in fields:
        fields["id"] = id_of(fields["id"])
    if not isinstance(fields.get("additional_kwargs", {}), Mapping):
        raise Unreadable("additional_kwargs that are no object")
    if others := _others(entry):
        fields["response_metadata"] = others
    # A tool's answer without the id of its call is kept, as what a tool said.
    required = _REQUIRED.get(class_, {})
    role = class_.model_fields["type"].default
    return _converted(class_, {"role": role, "content": content, **required, **fields})


def _converted(class_: type[BaseMessage], written: dict[str, Any]) -> Any:
    try:
        return convert_to_messages([written])[0]
    except json.JSONDecodeError:
        # A model wrote arguments that are no JSON; so it becomes one of `invalid_tool_calls`.
        others = written.get("additional_kwargs") or {}
        calls = {**others, "tool_calls": written.pop("tool_calls", None)}
        return _converted(class_, written | {"additional_kwargs": calls})
    except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise Unreadable(f"no {class_.__name__}: {type(error).__name__}") from None


def _others(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry has besides: a model's name, a rating, a second text."""
    read = {*_OF_A_MESSAGE, "channel"}
    for names in (ROLE_NAMES, CONTENT_NAMES, TIME_NAMES):
        read.add(next((name for name in names if entry.get(name) is not None), ""))
    return {name: value for name, value in entry.items() if name not in read and value is not None}
