"""History of a thread: which of its checkpoints are moved, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from langmem_isolated.lifecycle import ForeignCheckpoint, Rejected

Loaded = ForeignCheckpoint | Rejected
Key = tuple[str, str | None]
"""Namespace and id of a checkpoint, or of a parent that there may not be."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A checkpoint that has not been read yet."""

    namespace: str
    id: str
    parent_id: str | None
    place: str

    @property
    def key(self) -> tuple[str, str]:
        """Its namespace and id."""
        return self.namespace, self.id

    @property
    def parent(self) -> Key:
        """Those of the checkpoint before it."""
        return self.namespace, self.parent_id


def reference(namespace: object, id_: object, parent: object, place: str) -> Reference | Rejected:
    """A checkpoint by what its row has, of whatever types that is."""
    parts = {"checkpoint_ns": namespace, "checkpoint_id": id_, "parent_checkpoint_id": parent or ""}
    for name, part in parts.items():
        if type(part) is not str:
            return Rejected(place, f"its {name} is {type(part).__name__} in place of text")
    return Reference(str(namespace), str(id_), str(parent) if parent else None, place)


def in_order(references: Iterable[Reference]) -> list[Reference]:
    """Parents before children; otherwise by namespace and id, which is that of their times.

    Ids of one process rise. Those of two may not, so that a parent's may stand above its child's.
    """
    left: dict[Key, Reference] = {
        one.key: one for one in sorted(references, key=lambda one: one.key)
    }
    found: list[Reference] = []
    for one in [*left.values()]:
        chain = [*_unplaced(one, left)]
        found += (left.pop(ancestor.key) for ancestor in reversed(chain))
    return found


def _unplaced(one: Reference, left: Mapping[Key, Reference]) -> Iterator[Reference]:
    """A checkpoint and its ancestors, so far as they have no place; a circle ends."""
    seen: set[Key] = set()
    found: Reference | None = left.get(one.key)
    while found is not None and found.key not in seen:
        seen.add(found.key)
        yield found
        found = left.get(found.parent)


def latest(references: Sequence[Reference], load: Callable[[Reference], Loaded]) -> list[Reference]:
    """What a thread needs to go on: the newest of each namespace, and what its state stands on.

    A delta channel has no value in most checkpoints: it is rebuilt from what was written behind
    each ancestor since the one with a snapshot, and these stay. A subgraph that was called by an
    earlier checkpoint of the graph than the newest is done, and left out.
    """
    heads: dict[str, Reference] = {}
    for one in references:
        heads[one.namespace] = max(heads.get(one.namespace, one), one, key=lambda one: one.id)
    by_key: dict[Key, Reference] = {one.key: one for one in references}
    kept: set[Key] = set()
    for namespace, head in heads.items():
        newest = load(head)
        if not _is_done(namespace, newest, heads, by_key):
            kept.update(one.key for one in _chain(head, newest, by_key, load))
    return [one for one in references if one.key in kept]


def _is_done(
    namespace: str,
    newest: Loaded,
    heads: Mapping[str, Reference],
    by_key: Mapping[Key, Reference],
) -> bool:
    # What keeps its state between calls has no task's id behind a colon.
    if ":" not in namespace or isinstance(newest, Rejected):
        return False
    parents = newest.metadata.get("parents")
    caller = parents.get("") if isinstance(parents, dict) else None
    return caller is not None and ("", caller) in by_key and caller != heads[""].id


def _chain(
    head: Reference,
    newest: Loaded,
    by_key: Mapping[Key, Reference],
    load: Callable[[Reference], Loaded],
) -> Iterator[Reference]:
    yield head
    wanted = _delta_channels(newest)
    seen = {head.id}
    one = by_key.get(head.parent)
    while wanted and one is not None and one.id not in seen:
        yield one
        seen.add(one.id)
        loaded = load(one)
        if isinstance(loaded, ForeignCheckpoint):
            wanted -= loaded.checkpoint["channel_values"].keys()
        one = by_key.get(one.parent)


def _delta_channels(newest: Loaded) -> set[str]:
    """Delta channels whose value does not stand in a checkpoint."""
    if isinstance(newest, Rejected):
        return set()
    return delta_counters(newest.metadata) - {*newest.checkpoint["channel_values"]}


def delta_counters(metadata: Mapping[str, object]) -> set[str]:
    """The delta channels that metadata tell of."""
    counters = metadata.get("counters_since_delta_snapshot")
    return {*map(str, counters)} if isinstance(counters, dict) else set()
