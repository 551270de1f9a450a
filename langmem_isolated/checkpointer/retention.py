"""Retention of checkpoints: prunes a thread by age and number, as one step of a sweep."""

import os
from collections import Counter

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.container_state import GENERATION_BYTES
from langmem_isolated._storage.threads import reading
from langmem_isolated._storage.threads.addresses import Life, Slot
from langmem_isolated._storage.threads.listing import ROWS
from langmem_isolated._storage.threads.reading import OpenBody
from langmem_isolated.checkpointer import operations, pruning


def prune_thread(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    keep_last: int,
    until: int | None,
    room: int,
    *,
    is_dry: bool = False,
) -> tuple[Counter[Kind], bool]:
    """Remove what `older` names of a thread, the newest of it first.

    In this order what is left of it for a later step can still be rebuilt from its ancestors.

    Args:
        digest: The thread's.
        keep_last: So many checkpoints of each namespace stay.
        until: Those stored at this time or before go as well, in µs, but for the newest of a
            namespace; ``None`` for none.
        room: At most about so many records, beside the elements that nothing refers to any more.
        is_dry: Say what would be removed in all, and change nothing.

    Returns:
        What was removed, by kind, and whether that was all.

    Raises:
        RecordDoesNotOpen: The thread was tampered with; nothing was removed.
    """
    found: set[Slot] = set()
    is_whole = True

    def choose(bodies: list[OpenBody]) -> set[Slot]:
        nonlocal found, is_whole
        gone = pruning.older(bodies, keep_last, until)
        found = gone if is_dry else _newest(gone, room)
        is_whole = len(found) == len(gone)
        return found

    if is_dry:
        if header := ROWS.header(transaction, keys, digest):
            choose(reading.bodies(transaction, keys, Life(digest, header[0].birth)))
    else:
        generation = os.urandom(GENERATION_BYTES)
        operations.sweep(transaction, keys, digest, generation, choose)
    return Counter(slot.kind for slot in found), is_whole


def _newest(gone: set[Slot], room: int) -> set[Slot]:
    """Whole checkpoints, each with the writes behind it, until there is no more room."""
    ordered = sorted(gone, key=lambda slot: (slot.key[:16], slot.parent), reverse=True)
    cut = ordered[:room]
    while len(cut) < len(ordered) and _checkpoint(ordered[len(cut)]) == _checkpoint(cut[-1]):
        cut.append(ordered[len(cut)])
    return set(cut)


def _checkpoint(slot: Slot) -> tuple[bytes, bytes]:
    """Which checkpoint it is, or stands behind."""
    return slot.parent, slot.key[:16]
