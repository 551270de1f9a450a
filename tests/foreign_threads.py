"""Threads of LangGraph's own saver in memory, as a source of an import yields them."""

from collections.abc import Iterator
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from langmem_isolated.lifecycle import ForeignCheckpoint, ForeignThread, ForeignWrite


def foreign_thread(saver: InMemorySaver, thread_id: str, **more: Any) -> ForeignThread:
    """A thread, its checkpoints in the order of their ids."""
    return ForeignThread(thread_id, "memory", [*foreign_checkpoints(saver, thread_id)], **more)


def foreign_checkpoints(saver: InMemorySaver, thread_id: str) -> Iterator[ForeignCheckpoint]:
    """The checkpoints of a thread with the writes behind them, as the saver stores them."""
    for found in reversed([*saver.list({"configurable": {"thread_id": thread_id}})]):
        configurable = found.config["configurable"]
        namespace, checkpoint_id = configurable["checkpoint_ns"], configurable["checkpoint_id"]
        parent = found.parent_config
        yield ForeignCheckpoint(
            namespace,
            checkpoint_id,
            parent["configurable"]["checkpoint_id"] if parent else None,
            found.checkpoint,
            found.metadata,
            f"checkpoint {checkpoint_id}",
            [*_writes(saver, (thread_id, namespace, checkpoint_id))],
        )


def _writes(saver: InMemorySaver, at: tuple[str, str, str]) -> Iterator[ForeignWrite]:
    stored = saver.writes.get(at, {})
    rows = sorted(
        (path, task, index, *write) for (task, index), (_, *write, path) in stored.items()
    )
    for path, task, index, channel, typed in rows:
        yield ForeignWrite(task, path, index, channel, saver.serde.loads_typed(typed))
