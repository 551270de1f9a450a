"""Saver source: what the sources of checkpointers have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from langmem_isolated._database.foreign import reading
from langmem_isolated.importers.langgraph.history import Loaded, Reference, in_order, latest
from langmem_isolated.importers.langgraph.options import checked_history
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignCheckpoint, ForeignThread, Rejected


class SaverSource(Source):
    """Threads of a checkpointer, each a stream of its checkpoints.

    Mapping rules read as ``fields`` the ``thread_id``, and as ``metadata`` what the metadata of
    the thread's first and newest checkpoint have in common: LangGraph puts into them what a run's
    ``configurable`` and ``metadata`` had, and what changed on the way is no owner's name.

    Args:
        history: ``"full"``, or ``"latest"`` for what a thread needs to go on.
        options: What else changes what is read.
    """

    def __init__(self, history: str, **options: Any) -> None:
        self.history = checked_history(history)
        self.options = {"history": history, **options}

    def units(self) -> Iterator[ForeignThread | Rejected]:
        """The threads by their ids; see `Source.units`."""
        with reading():
            for thread_id, place in self._threads():
                if type(thread_id) is str:
                    yield self._thread(thread_id, place)
                else:
                    what = f"its thread_id is {type(thread_id).__name__} in place of text"
                    yield Rejected(place, what)

    def _thread(self, thread_id: str, place: str) -> ForeignThread:
        found = [*self._references(thread_id)]
        references = in_order(one for one in found if isinstance(one, Reference))
        broken = [one for one in found if isinstance(one, Rejected)]
        fields = {"thread_id": thread_id, "metadata": self._shared(thread_id, references)}
        checkpoints = chain(broken, self._checkpoints(thread_id, references))
        return ForeignThread(thread_id, place, checkpoints, fields)

    def _shared(self, thread_id: str, references: Sequence[Reference]) -> dict[str, Any]:
        of_graph = [one for one in references if not one.namespace] or references
        ends = [self._metadata(thread_id, one) for one in (*of_graph[:1], *of_graph[-1:])]
        first, newest = ends or ({}, {})
        return {k: v for k, v in first.items() if k in newest and newest[k] == v}

    def _checkpoints(self, thread_id: str, references: list[Reference]) -> Iterator[Loaded]:
        with reading():
            if self.history == "full":
                yield from self._load(thread_id, references)
            else:
                kept = latest(references, lambda one: next(self._load(thread_id, [one])))
                keys = {one.key for one in kept}
                yield from (_cut(loaded, keys) for loaded in self._load(thread_id, kept))
        self._end_thread()

    def _end_thread(self) -> None:
        """Let go of what is remembered of a thread."""

    @abstractmethod
    def _threads(self) -> Iterator[tuple[object, str]]:
        """Ids of threads and places, in one order always."""

    @abstractmethod
    def _references(self, thread_id: str) -> Iterator[Reference | Rejected]:
        """The checkpoints of a thread."""

    @abstractmethod
    def _metadata(self, thread_id: str, reference: Reference) -> Mapping[str, Any]:
        """The metadata of one checkpoint; empty if they are damaged."""

    @abstractmethod
    def _load(self, thread_id: str, references: Sequence[Reference]) -> Iterator[Loaded]:
        """These checkpoints in their order, behind each what is broken of its writes."""


def _cut(loaded: Loaded, kept: Container[tuple[str, str | None]]) -> Loaded:
    """Without a parent that is not moved: what goes back from child to parent ends there."""
    if isinstance(loaded, Rejected) or (loaded.namespace, loaded.parent_id) in kept:
        return loaded
    return replace(loaded, parent_id=None)


def foreign(
    reference: Reference,
    checkpoint: Mapping[str, Any],
    metadata: Mapping[str, Any],
    writes: Sequence[Any],
) -> ForeignCheckpoint:
    """A checkpoint that was read whole."""
    return ForeignCheckpoint(
        reference.namespace,
        reference.id,
        reference.parent_id,
        checkpoint,
        metadata,
        reference.place,
        writes,
    )
