"""Rows of an audit log: entries, and the ends of their chains, each proven by what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from langmem_isolated._crypto.audit_chain import entry_hash, first_hash, place_of
from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.sealing import SealingKey, seal
from langmem_isolated.errors import AuditLogBroken

_LABEL = b"chain"

Position = tuple[int, int, int]
"""Time, shard and sequence of an entry."""


class AuditRow(NamedTuple):
    """An entry as it is stored."""

    shard: int
    sequence: int
    scope_id: bytes | None
    """Of its subject: of a user, not of the module; ``None`` for an entry about nobody."""
    created_at: int
    sealed: bytes
    hash: bytes

    @property
    def position(self) -> Position:
        """Where it stands among all, by time."""
        return self.created_at, self.shard, self.sequence

    @property
    def place(self) -> bytes:
        """Its associated data.

        Raises:
            AuditLogBroken: A column is of another type.
        """
        try:
            return place_of(self.shard, self.sequence, self.scope_id, self.created_at)
        except (TypeError, AttributeError, OverflowError):
            raise AuditLogBroken(self.shard, "a column of an entry is of another type") from None


class ChainEnds(NamedTuple):
    """Where the chain of a shard begins and ends, as its row says."""

    shard: int
    first_sequence: int
    """Of the first entry that is kept: 1 until a sweep removed some."""
    cut_hash: bytes
    """Of the last entry that was removed: the anchor of those that are kept."""
    next_sequence: int
    hash: bytes
    """Of the last entry."""
    settings: bytes | None
    row_mac: bytes

    @classmethod
    def new(cls, directory: DirectoryKey, shard: int) -> ChainEnds:
        """Those of an empty chain."""
        begin = first_hash(directory.id, shard)
        return cls(shard, 1, begin, 1, begin, None, b"").authenticated(directory)

    def authenticated(self, directory: DirectoryKey) -> ChainEnds:
        """The same under its MAC."""
        return self._replace(row_mac=directory.audit_mac(_LABEL, *self[:-1]))

    def checked(self, directory: DirectoryKey) -> ChainEnds:
        """The same.

        Raises:
            AuditLogBroken: A column was changed.
        """
        if not directory.has_audit(self.row_mac, _LABEL, *self[:-1]):
            raise AuditLogBroken(self.shard, "the row of its ends was changed or put back")
        return self


class Draft(NamedTuple):
    """An entry that is to be appended."""

    key: SealingKey
    scope_id: bytes | None
    payload: bytes


def sealed_entry(
    ends: ChainEnds, draft: Draft, created_at: int, *, nonce: bytes | None = None
) -> AuditRow:
    """The row of an entry at the end of a chain."""
    place = place_of(ends.shard, ends.next_sequence, draft.scope_id, created_at)
    sealed = seal(draft.key, place, draft.payload, compress=False, nonce=nonce)
    hashed = entry_hash(ends.hash, place, sealed)
    return AuditRow(ends.shard, ends.next_sequence, draft.scope_id, created_at, sealed, hashed)


def linked(page: Sequence[AuditRow], shard: int, behind: int, last: bytes) -> bytes:
    """The hash of the last entry of a page that follows an entry, each the one before it.

    Raises:
        AuditLogBroken: One does not, or there is none.
    """
    for expected, row in enumerate(page, start=behind + 1):
        if row.sequence != expected:
            raise AuditLogBroken(shard, "an entry is missing, or stands twice")
        try:
            last = entry_hash(last, row.place, row.sealed)
        except TypeError:
            raise AuditLogBroken(shard, "a column of an entry is of another type") from None
        if row.hash != last:
            raise AuditLogBroken(shard, "an entry was changed, moved or exchanged")
    if not page:
        raise AuditLogBroken(shard, "entries are missing")
    return last
