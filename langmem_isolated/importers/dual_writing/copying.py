"""Copies of threads from one checkpointer to another, through LangGraph's interface alone."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import WRITES_IDX_MAP, CheckpointTuple

from langmem_isolated.importers.dual_writing.calls import Body, Call, Walk


class Place(NamedTuple):
    """Where a checkpoint stands in its thread, and behind which."""

    namespace: str
    id: str
    parent_id: str | None


def place_of(found: CheckpointTuple) -> Place:
    """The place of a checkpoint."""
    own = found.config["configurable"]
    parent = (found.parent_config or {}).get("configurable", {})
    return Place(own.get("checkpoint_ns", ""), own["checkpoint_id"], parent.get("checkpoint_id"))


def config_at(thread_id: str, namespace: str = "", checkpoint_id: str | None = None) -> Any:
    """The config of a place; of the latest checkpoint without an id."""
    named = {"checkpoint_id": checkpoint_id} if checkpoint_id else {}
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, **named}}


def copied_thread(source: Any, target: Any, thread_id: str, target_id: str) -> Body[int]:
    """Put every checkpoint and write of a thread that ``target`` lacks; how many checkpoints.

    Parents first, so that what was ended half-way lacks its newest, and is gone on with. One
    checkpoint is in memory at a time.
    """
    every: RunnableConfig = {"configurable": {"thread_id": thread_id}}
    places = yield Walk(source, "list", (every,), {}, place_of)
    latest = yield Call(target, "get_tuple", (config_at(target_id),))
    known: set[Any] = set()
    if latest is not None:
        there: RunnableConfig = {"configurable": {"thread_id": target_id}}
        known = {*(yield Walk(target, "list", (there,), {}, place_of))}
    versions: dict[tuple[str, str | None], Any] = {}
    for place in reversed(places):
        found = yield Call(source, "get_tuple", (config_at(thread_id, place.namespace, place.id),))
        if found is None:  # It was removed meanwhile.
            continue
        checkpoint = found.checkpoint
        before = versions.get((place.namespace, place.parent_id), {})
        versions[place.namespace, place.id] = now = checkpoint["channel_versions"]
        if place not in known:
            behind = config_at(target_id, place.namespace, place.parent_id)
            # Of what did not change the saver has the value already, under an older checkpoint.
            new = {name: at for name, at in now.items() if before.get(name) != at}
            yield Call(target, "put", (behind, checkpoint, found.metadata, new))
        yield from _writes(target, config_at(target_id, place.namespace, place.id), found)
    return len(places)


def _writes(target: Any, at: RunnableConfig, found: CheckpointTuple) -> Body[None]:
    for number, (task_id, writes) in enumerate(_by_task(found)):
        # The interface does not tell a task's path, by which writes are ordered; this keeps order.
        path = f"~{number:08}"
        # Nor its numbers of writes: they are those of a list without what has numbers of its own.
        for is_special in (False, True):
            some = [one for one in writes if (one[0] in WRITES_IDX_MAP) is is_special]
            if some:
                yield Call(target, "put_writes", (at, some, task_id, path))


def _by_task(found: CheckpointTuple) -> Iterable[tuple[str, list[tuple[str, Any]]]]:
    for task_id, writes in groupby(found.pending_writes or (), lambda write: write[0]):
        yield task_id, [(channel, value) for _, channel, value in writes]
