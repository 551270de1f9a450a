"""Delta channels: what they hold, rebuilt from a snapshot and later writes, without their graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage, RemoveMessage, convert_to_messages
from langgraph.channels.delta import DeltaChannel

from langmem_isolated._codecs.compat import DeltaSnapshot

if TYPE_CHECKING:
    from langgraph.checkpoint.base import DeltaChannelHistory

_MESSAGES = "messages"
# What LangGraph calls the removal of every message.
_ALL = "__remove_all__"
_COUNTERS = "counters_since_delta_snapshot"


def without_value(metadata: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """The delta channels that a checkpoint counts, and has no value of."""
    return [name for name in metadata.get(_COUNTERS) or () if name not in values]


def plain_value(value: Any) -> Any:
    """A channel's value as its graph has it: that of a snapshot."""
    return value.value if isinstance(value, DeltaSnapshot) else value


def replayed(name: str, history: DeltaChannelHistory) -> Any:
    """What a channel holds, by what its checkpoint's ancestors contributed.

    The reducer is the graph's own, and not stored. Messages take the place of those that have their
    ids, and are removed; a dict is merged; all else is what was written, one behind the other.
    """
    reducer = _messages if name == _MESSAGES else _reduced
    empty: DeltaChannel[Any] = DeltaChannel(reducer)
    channel = empty.from_checkpoint(history.get("seed"))
    channel.replay_writes(history["writes"])
    return channel.get()


def _messages(state: Any, writes: Sequence[Any]) -> list[Any]:
    flat = _flat(state, writes)
    try:
        return _by_id(convert_to_messages(flat))
    except (ValueError, NotImplementedError, TypeError):
        # Not all of it is messages.
        return flat


def _by_id(messages: Sequence[BaseMessage]) -> list[Any]:
    kept: dict[object, BaseMessage] = {}
    for number, message in enumerate(messages):
        if not isinstance(message, RemoveMessage):
            kept[message.id or number] = message
        elif message.id == _ALL:
            kept.clear()
        else:
            kept.pop(message.id, None)
    return [*kept.values()]


def _reduced(state: Any, writes: Sequence[Any]) -> Any:
    if isinstance(state, dict) and all(isinstance(one, dict) for one in writes):
        return {name: value for one in (state, *writes) for name, value in one.items()}
    flat = _flat(state, writes)
    are_messages = all(isinstance(one, BaseMessage) for one in flat)
    return _by_id(flat) if are_messages else flat


def _flat(state: Any, writes: Sequence[Any]) -> list[Any]:
    parts = (one if isinstance(one, list) else [one] for one in (state, *writes))
    return [one for part in parts for one in part]
