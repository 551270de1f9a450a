"""Transcripts: what was said in a conversation, to be read, and as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage, message_to_dict

from langmem_isolated.admin.person.pages import as_text

_SPEAKERS = {"human": "You", "ai": "Assistant", "system": "System", "tool": "Tool"}


class Line(NamedTuple):
    """Something that was said."""

    speaker: str
    text: str
    is_users: bool = False
    time: datetime | None = None
    channel: str | None = None


def line_of(message: BaseMessage, time: datetime | None = None, channel: str | None = None) -> Line:
    """A message as people read it: its text, and what of it is none."""
    speaker = _SPEAKERS.get(message.type, message.type)
    if message.name:
        speaker = f"{speaker} ({message.name})"
    text = "\n".join(filter(None, _parts(message)))
    return Line(speaker, text, message.type == "human", time, channel)


def _parts(message: BaseMessage) -> Iterable[str]:
    yield str(message.text)
    if isinstance(message.content, list):
        yield from (_block(block) for block in message.content if not _is_text(block))
    for call in getattr(message, "tool_calls", ()):
        yield f"[asked {call['name']}: {as_text(call['args'])}]"


def _is_text(block: object) -> bool:
    return isinstance(block, str) or (isinstance(block, Mapping) and block.get("type") == "text")


def _block(block: object) -> str:
    """What is no text: of a picture that it is one, and not its bytes."""
    kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
    return f"[{kind}]"


def as_json(
    title: str | None, messages: Iterable[tuple[BaseMessage, datetime | None]], state: Any
) -> str:
    """All of a conversation, messages as LangChain writes them."""
    told = {
        "title": title,
        "messages": [
            {"said_at": time and time.isoformat(), **message_to_dict(message)}
            for message, time in messages
        ],
        "state": state,
    }
    return json.dumps(told, ensure_ascii=False, indent=1, default=str)


def as_markdown(title: str | None, lines: Iterable[Line]) -> str:
    """What was said, a heading for each who spoke."""
    said = (f"## {_heading(line)}\n\n{line.text}\n" for line in lines)
    return "\n".join((f"# {title or 'Conversation'}\n", *said))


def _heading(line: Line) -> str:
    if line.time is None:
        return line.speaker
    return f"{line.speaker}, {line.time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
