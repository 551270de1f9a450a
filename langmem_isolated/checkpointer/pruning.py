"""Pruning: chooses the checkpoints that go when a thread is pruned or a run is removed."""

from collections.abc import Mapping

from langmem_isolated._codecs.checkpoints.stored_bodies import Outline
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._storage.threads.addresses import Slot
from langmem_isolated._storage.threads.reading import OpenBody
from langmem_isolated.checkpointer.addresses import id_text


def of_run(bodies: list[OpenBody], run_id: str) -> set[Slot]:
    """The checkpoints that a run stored, with their writes."""
    return _with_writes(
        bodies,
        {
            body.slot
            for body in bodies
            if body.slot.kind is Kind.CHECKPOINT
            and Outline.of(body.plaintext).metadata.get("run_id") == run_id
        },
    )


def older(bodies: list[OpenBody], keep_last: int) -> set[Slot]:
    """The checkpoints behind the newest of each namespace, with their writes.

    A delta channel is rebuilt from its ancestors' writes, back to the nearest that holds its value:
    those ancestors stay. A call of a subgraph, which has a namespace of its own, goes with the root
    checkpoint that it started from.
    """
    by_parent: dict[bytes, dict[bytes, Outline]] = {}
    for body in bodies:
        if body.slot.kind is Kind.CHECKPOINT:
            outlines = by_parent.setdefault(body.slot.parent, {})
            outlines[body.slot.key] = Outline.of(body.plaintext)
    kept_of = {
        parent: {
            kept
            for head in sorted(outlines, reverse=True)[:keep_last]
            for kept in _foundations(head, outlines)
        }
        for parent, outlines in by_parent.items()
    }
    roots_gone = {
        id_text(key)
        for parent, outlines in by_parent.items()
        for key, outline in outlines.items()
        if outline.namespace == "" and key not in kept_of[parent]
    }
    gone = {
        Slot(Kind.CHECKPOINT, parent, key)
        for parent, outlines in by_parent.items()
        for key in outlines
        if key not in kept_of[parent] or _started_from(outlines[max(outlines)]) in roots_gone
    }
    return _with_writes(bodies, gone)


def _started_from(outline: Outline) -> str | None:
    """The root checkpoint that a call of a subgraph started from."""
    # The namespace of a call has its task's id behind a colon; that of a subgraph with a memory of
    # its own (`checkpointer=True`) has none, and outlives its calls.
    is_call = ":" in outline.namespace
    return (outline.metadata.get("parents") or {}).get("") if is_call else None


def _foundations(head: bytes, outlines: Mapping[bytes, Outline]) -> set[bytes]:
    """A checkpoint and the ancestors that its delta channels are rebuilt from."""
    outline = outlines[head]
    deltas = set(outline.metadata.get("counters_since_delta_snapshot") or ())
    # A channel without a version was never written, and has no ancestors.
    missing = (deltas & outline.envelope["channel_versions"].keys()) - outline.values.keys()
    kept, cursor = {head}, outline.parent
    while missing and cursor is not None and cursor in outlines and cursor not in kept:
        kept.add(cursor)
        missing -= outlines[cursor].values.keys()
        cursor = outlines[cursor].parent
    return kept


def _with_writes(bodies: list[OpenBody], gone: set[Slot]) -> set[Slot]:
    """``gone`` checkpoints and the writes behind them."""
    addresses = {(slot.parent, slot.key) for slot in gone}
    behind = {
        body.slot
        for body in bodies
        if body.slot.kind is Kind.WRITE and (body.slot.parent, body.slot.key[:16]) in addresses
    }
    return gone | behind
