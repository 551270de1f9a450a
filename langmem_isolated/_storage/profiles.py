"""Profile storage: the entries of an owner's profile, changed by one writer at a time.

A profile has four spaces of entries, one entry for each fact, interest and attribute. Who changes
one holds a lock on the scope's row until the transaction ends: so what was read before a change is
what is changed, and nobody exceeds a bound together with another. The lock (`FOR NO KEY UPDATE` on
PostgreSQL; SQLite has one writer) makes writers of the profile wait for each other alone: whoever
appends, puts or reads does not meet it.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import NamedTuple, TypeVar

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage import entries
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.scope_rows import lock_for_update

T = TypeVar("T")


UNCONFIRMED = (b"unconfirmed",)
"""Above the space of each part: what was claimed waits there, read by nobody, until its owner
confirms it."""


class Part(Enum):
    """What a profile's entries are; values are names of spaces, and stored."""

    FACTS = b"facts"
    INTERESTS = b"interests"
    ATTRIBUTES = b"attributes"
    SUMMARY = b"summary"

    @property
    def space(self) -> tuple[bytes]:
        """The names of the space in which these entries are."""
        return (self.value,)


# A summary is one at most.
BOUNDED = (Part.FACTS, Part.INTERESTS, Part.ATTRIBUTES)


class ProfileEntries(NamedTuple):
    """The entries of one profile inside of a transaction."""

    transaction: Transaction
    keys: ScopeKeys
    now: int

    def get(self, part: Part, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value under each key, or ``None``."""
        wanted = self.transaction, self.keys, part.space, keys, self.now
        return entries.get(*wanted, kind=Kind.PROFILE)

    def tagged(self, part: Part, tag: bytes) -> list[Entry]:
        """The entries found by ``tag``, by when they were first put."""
        wanted = self.transaction, self.keys, part.space, tag, self.now
        return entries.tagged(*wanted, kind=Kind.PROFILE)

    def all_of(self, part: Part) -> list[Entry]:
        """Every entry of a part, by when it was first put."""
        return entries.all_of(self.transaction, self.keys, part.space, self.now, kind=Kind.PROFILE)

    def count(self, part: Part) -> int:
        """How many entries a part has."""
        return entries.count(self.transaction, self.keys, part.space, self.now, kind=Kind.PROFILE)

    def put(self, part: Part, *new: Entry) -> None:
        """Store entries in place of what stands under their keys."""
        given = self.transaction, self.keys, part.space, new, self.now
        entries.put(*given, kind=Kind.PROFILE)

    def remove(self, part: Part, keys: Iterable[bytes]) -> None:
        """Remove the entries under ``keys``, where there are any."""
        entries.remove(self.transaction, self.keys, part.space, keys, kind=Kind.PROFILE)

    def clear(self, part: Part) -> int:
        """Remove every entry of a part, opened and confirmed or not; how many there were."""
        there = 0
        for space in (part.space, UNCONFIRMED + part.space):
            here = self.transaction, self.keys, space
            there += entries.count(*here, self.now, kind=Kind.PROFILE)
            entries.clear(*here, kind=Kind.PROFILE)
        return there

    def confirm(self) -> None:
        """Make what waits to be confirmed a part of the profile, where that has no other."""
        for part in Part:
            waiting = self.transaction, self.keys, UNCONFIRMED + part.space
            for entry in entries.all_of(*waiting, self.now, kind=Kind.PROFILE):
                if not self._has(part, entry):
                    self.put(part, entry)
            entries.clear(*waiting, kind=Kind.PROFILE)

    def _has(self, part: Part, entry: Entry) -> bool:
        """Whether another stands under its key, or is found as it is: a fact that says the same."""
        if self.get(part, [entry.key]) != [None]:
            return True
        return entry.tag is not None and bool(self.tagged(part, entry.tag))


def edit(
    transaction: Transaction, keys: ScopeKeys, body: Callable[[ProfileEntries], T], now: int
) -> T:
    """Run ``body`` on a profile that nobody else changes until it is committed."""
    lock_for_update(transaction, keys.scope_id)
    return body(ProfileEntries(transaction, keys, now))


def view(
    transaction: Transaction, keys: ScopeKeys, body: Callable[[ProfileEntries], T], now: int
) -> T:
    """Run ``body`` on a profile that it only reads."""
    return body(ProfileEntries(transaction, keys, now))
