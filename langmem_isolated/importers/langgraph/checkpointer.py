"""Checkpointer: threads of any checkpointer of LangGraph, by its own methods."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langgraph.checkpoint.base import WRITES_IDX_MAP, BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver

from langmem_isolated._codecs.stock_serializer import Undecodable
from langmem_isolated.importers.langgraph.forms import by_path, checked_checkpoint
from langmem_isolated.importers.langgraph.history import Loaded, Reference, reference
from langmem_isolated.importers.langgraph.saver_source import SaverSource, foreign
from langmem_isolated.lifecycle import ForeignWrite, Rejected


class CheckpointerSource(SaverSource):
    """The threads of a checkpointer that is open in this process.

    What it has is read by its own serializer, which calls what stored rows name: for a database,
    `SqliteSaverSource` and `PostgresSaverSource` are safe where this is not. Where each checkpoint
    is must fit into memory; the checkpoints need not.

    >>> from langgraph.checkpoint.memory import InMemorySaver
    >>> from langmem_isolated.importers import CheckpointerSource
    >>> theirs = InMemorySaver()
    >>> config = {"configurable": {"thread_id": "chat-1", "user_id": "alice"}}
    >>> graph = builder.compile(checkpointer=theirs)
    >>> said = graph.invoke({"messages": [("human", "Hi")]}, config)
    >>> [(one.id, one.fields["metadata"]["user_id"]) for one in CheckpointerSource(theirs).units()]
    [('chat-1', 'alice')]

    Args:
        saver: ``InMemorySaver``, or any other that lists checkpoints in a sync call.
        name: What it is known by again: an import goes on, and is found done, under one name.
        threads: Ids of its threads; needed for a saver that does not list all of them.
        history: ``"full"``, or ``"latest"`` for what a thread needs to go on.
    """

    kind = "checkpointer"

    def __init__(
        self,
        saver: BaseCheckpointSaver[Any],
        *,
        name: str = "",
        threads: Iterable[str] | None = None,
        history: str = "full",
    ) -> None:
        super().__init__(history)
        self._saver, self._name = saver, name
        self._ids = None if threads is None else sorted({*threads})
        self._listed: dict[str, list[Reference | Rejected]] = {}

    @property
    def identity(self) -> str:
        """The saver's class, and the name it was given."""
        return f"{type(self._saver).__module__}.{type(self._saver).__qualname__}/{self._name}"

    def _threads(self) -> Iterator[tuple[object, str]]:
        if self._ids is not None:
            ids: Iterable[str] = self._ids
        else:
            self._listed = _by_thread(self._saver.list(None))
            ids = sorted(self._listed)
        return ((id_, f"thread {number}") for number, id_ in enumerate(ids, 1))

    def _references(self, thread_id: str) -> Iterator[Reference | Rejected]:
        if self._ids is None:
            return iter(self._listed[thread_id])
        listed = self._saver.list({"configurable": {"thread_id": thread_id}})
        return iter(_by_thread(listed).get(thread_id, []))

    def _metadata(self, thread_id: str, reference: Reference) -> Mapping[str, Any]:
        found = self._tuple(thread_id, reference)
        return {} if found is None else found.metadata

    def _load(self, thread_id: str, references: Sequence[Reference]) -> Iterator[Loaded]:
        for one in references:
            found = self._tuple(thread_id, one)
            if found is None:
                yield Rejected(one.place, "the checkpointer lists it, and cannot read it")
                continue
            try:
                checkpoint = checked_checkpoint({**found.checkpoint}, one.id)
            except Undecodable as error:
                yield Rejected(one.place, str(error))
            else:
                yield foreign(one, checkpoint, found.metadata, self._writes(thread_id, one, found))

    def _tuple(self, thread_id: str, one: Reference) -> CheckpointTuple | None:
        at = {"thread_id": thread_id, "checkpoint_ns": one.namespace, "checkpoint_id": one.id}
        return _tried(lambda: self._saver.get_tuple({"configurable": at}))

    def _writes(
        self, thread_id: str, one: Reference, found: CheckpointTuple
    ) -> Sequence[ForeignWrite]:
        if type(self._saver) is not InMemorySaver:
            return _numbered(found.pending_writes or [])
        # Its rows have what tuples lack: where in its task's path a write stands.
        rows = self._saver.writes.get((thread_id, one.namespace, one.id), {})
        writes = (
            ForeignWrite(task, path, index, channel, self._saver.serde.loads_typed(stored))
            for (task, index), (_, channel, stored, path) in rows.items()
        )
        return sorted(writes, key=by_path)


def _tried(read: Callable[[], CheckpointTuple | None]) -> CheckpointTuple | None:
    # Another's saver raises what it likes of a damaged row.
    try:
        return read()
    except Exception:  # noqa: BLE001 - as above
        return None


def _by_thread(listed: Iterable[CheckpointTuple]) -> dict[str, list[Reference | Rejected]]:
    found: dict[str, list[Reference | Rejected]] = defaultdict(list)
    for number, one in enumerate(listed, 1):
        at, parent = one.config["configurable"], (one.parent_config or {}).get("configurable", {})
        place = f"checkpoint {number} of those listed"
        ids = at.get("checkpoint_ns", ""), at["checkpoint_id"], parent.get("checkpoint_id")
        found[str(at["thread_id"])].append(reference(*ids, place))
    return found


def _numbered(pending: Iterable[tuple[str, str, Any]]) -> list[ForeignWrite]:
    """Writes with an index in their task, and a path that keeps the order of tasks."""
    counts: dict[str, int] = defaultdict(int)
    found = []
    for task, channel, value in pending:
        index = WRITES_IDX_MAP.get(channel, counts[task])
        counts[task] += channel not in WRITES_IDX_MAP
        found.append(ForeignWrite(task, "", index, channel, value))
    if [*map(by_path, found)] == sorted(map(by_path, found)):
        return found
    order = {task: number for number, task in enumerate(dict.fromkeys(w.task_id for w in found))}
    paths = (replace(write, task_path=f"~{order[write.task_id]:06}") for write in found)
    return sorted(paths, key=by_path)
