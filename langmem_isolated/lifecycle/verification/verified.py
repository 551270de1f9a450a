"""Verification of a scope: everything is opened, and nothing is missing that is counted."""

from collections import Counter
from dataclasses import dataclass

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._runtime.operations import observed
from langmem_isolated._storage import verification
from langmem_isolated._storage.scoped_database import ScopedDatabase


@dataclass(frozen=True, slots=True)
class Verified:
    """What a scope was found to have, all of it as it was stored."""

    sessions: int
    messages: int
    threads: int
    checkpoints: int
    collections: int
    documents: int
    items: int
    entries: int
    """Of caches, byte stores and indexes."""


@observed("verify", "scope", records=lambda records: records)
def verified(records: ScopedDatabase) -> Verified:
    """Open everything that a scope has, and compare it with what its rows stand for.

    Every message, checkpoint and document that was removed, exchanged or put back is noticed. Not
    that an item of a store or an entry of a cache was removed, or an older one put back in its
    place, nor that a whole older state was put back with the rows that stand for it.

    Raises:
        RecordDoesNotOpen: Something was changed, moved, exchanged, restored or removed.
        RecordError: A later version of this package wrote something.
        DatabaseError: The database refused or failed.
    """
    nothing: Counter[Kind] = Counter()
    found = records.snapshot(verification.verify, nothing)
    return Verified(
        sessions=found[Kind.SESSION],
        messages=found[Kind.MESSAGE],
        threads=found[Kind.THREAD],
        checkpoints=found[Kind.CHECKPOINT],
        collections=found[Kind.COLLECTION],
        documents=found[Kind.DOCUMENT],
        items=found[Kind.ITEM],
        entries=found[Kind.ENTRY],
    )
