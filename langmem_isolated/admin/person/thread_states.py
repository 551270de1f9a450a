"""Thread states: the channels of an agent's thread as they are now, those kept as deltas, too."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage
from langgraph.graph.message import add_messages

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver, DeltaChannelHistory

MESSAGES = "messages"
# LangGraph's own.
_INNER = ("__", "branch:")


def state_of(saver: BaseCheckpointSaver[Any], thread_id: str) -> dict[str, Any]:
    """The values of a thread's channels, by their names; of LangGraph's own channels none."""
    config: RunnableConfig = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    found = saver.get_tuple(config)
    if found is None:
        return {}
    checkpoint = found.checkpoint
    values = dict(checkpoint["channel_values"])
    # A channel of deltas has no value of its own in a checkpoint, only what was written to it.
    deltas = [name for name in checkpoint["channel_versions"] if name not in values]
    wanted = [name for name in deltas if not name.startswith(_INNER)]
    history = saver.get_delta_channel_history(config=found.config, channels=wanted)
    values |= {name: value for name in wanted if (value := _folded(name, history[name]))}
    return {name: value for name, value in values.items() if not name.startswith(_INNER)}


def _folded(name: str, history: DeltaChannelHistory) -> list[Any]:
    """What was written to a channel; messages in place of those that have their ids."""
    seed = history.get("seed")
    seed = getattr(seed, "value", seed)
    first = [] if seed is None else seed if isinstance(seed, list) else [seed]
    written = [value for _, _, value in history["writes"]]
    if name == MESSAGES:
        try:
            return list(reduce(add_messages, written, first))  # type: ignore[arg-type]
        except (ValueError, NotImplementedError, TypeError):
            # Another reducer's: what is no message, or takes away what is not there.
            pass
    flat = (value if isinstance(value, list) else [value] for value in written)
    return [*first, *(one for values in flat for one in values)]


def messages_in(state: dict[str, Any]) -> list[BaseMessage]:
    """The messages of a state."""
    found = state.get(MESSAGES, [])
    listed = found if isinstance(found, list) else [found]
    return [one for one in listed if isinstance(one, BaseMessage)]
