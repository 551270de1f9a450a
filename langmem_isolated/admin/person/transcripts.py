"""Transcripts: what was said in a conversation, to be read, and as JSON and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage

from langmem_isolated.admin.person.readable import as_json, as_text, plain

_SPEAKERS = {"human": "You", "ai": "Assistant", "system": "System", "tool": "Tool"}

# What is no text, in words.
_BLOCKS = {
    "image": "picture",
    "image_url": "picture",
    "input_audio": "sound",
    "audio": "sound",
    "reasoning": "thoughts of the assistant",
    "tool_use": "use of a tool",
}


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
    return f"[{_BLOCKS.get(str(kind), kind)}]"


def told_in_json(
    title: str | None,
    messages: Iterable[tuple[BaseMessage, datetime | None, str | None]],
    state: Any,
) -> str:
    """All of a conversation, messages as LangChain writes them."""
    told = {
        "title": title,
        "messages": [
            {"said_at": time and time.isoformat(), "channel": channel, **plain(message)}
            for message, time, channel in messages
        ],
        "state": state,
    }
    return as_json(told)


def told_in_markdown(title: str | None, lines: Iterable[Line]) -> str:
    """What was said, a heading for each who spoke; quoted, so that nothing said is a heading."""
    said = (f"## {_heading(line)}\n\n{_quoted(line.text)}\n" for line in lines)
    return "\n".join((f"# {_on_one_line(title or 'Conversation')}\n", *said))


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _heading(line: Line) -> str:
    time = None if line.time is None else f"{line.time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return _on_one_line(", ".join(filter(None, (line.speaker, time, line.channel))))
