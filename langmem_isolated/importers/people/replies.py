"""Replies: what an assistant said and did in one message, as messages that models take back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata


@dataclass(frozen=True, slots=True, repr=False)
class Called:
    """A call of a tool with its result: without one, models refuse the history that it is in."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    result: str


def reply(
    parts: Iterable[str | Called], message_id: str | None, metadata: Mapping[str, Any]
) -> list[BaseMessage]:
    """What was said and called, in turn; each result follows the message that asked for it.

    Args:
        parts: In order.
        message_id: Of the first message; those behind it have it with a number.
        metadata: ``response_metadata`` of what was said.
    """
    messages: list[BaseMessage] = []
    said: list[str] = []
    calls: list[Called] = []

    def flush() -> None:
        if said or calls:
            messages.append(_spoken("\n\n".join(said), calls, metadata))
            messages.extend(_result(call) for call in calls)
            said.clear()
            calls.clear()

    for part in parts:
        if isinstance(part, Called):
            calls.append(part)
            continue
        if calls:
            flush()
        said.append(part)
    flush()
    for number, message in enumerate(messages):
        message.id = f"{message_id}:{number}" if message_id and number else message_id
    return messages


def _spoken(text: str, calls: Iterable[Called], metadata: Mapping[str, Any]) -> AIMessage:
    asked = [
        {"name": call.name, "args": dict(call.arguments), "id": call.id, "type": "tool_call"}
        for call in calls
    ]
    return AIMessage(text, tool_calls=asked, response_metadata=dict(metadata))


def _result(call: Called) -> ToolMessage:
    return ToolMessage(call.result, tool_call_id=call.id, name=call.name)


def spoken_by(
    role: str, text: str, message_id: str | None, metadata: Mapping[str, Any]
) -> BaseMessage | None:
    """A message of a person, an assistant or a system; ``None`` of anybody else."""
    if role in ("user", "human"):
        return HumanMessage(text, id=message_id, response_metadata=dict(metadata))
    if role in ("assistant", "ai"):
        return AIMessage(text, id=message_id, response_metadata=dict(metadata))
    if role in ("system", "developer"):
        return SystemMessage(text, id=message_id, response_metadata=dict(metadata))
    return None


def model_of(name: object) -> dict[str, Any]:
    """``response_metadata`` that names a model, where it has a name."""
    return {"model_name": name} if isinstance(name, str) and name else {}


def usage_of(value: object, read: str, written: str) -> UsageMetadata | None:
    """How many tokens were read and written, where both are counted."""
    if not isinstance(value, dict):
        return None
    counted = (value.get(read), value.get(written))
    if not all(type(one) is int and 0 <= one < 2**53 for one in counted):
        return None
    first, second = (int(one) for one in counted if one is not None)
    return UsageMetadata(input_tokens=first, output_tokens=second, total_tokens=first + second)
