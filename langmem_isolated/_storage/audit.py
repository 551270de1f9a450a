"""Audit log: a chain of sealed entries for each shard, and a row that authenticates its ends.

Entries are inserted and, when their time is over, removed from the head of their chain; none is
ever changed. Each is sealed before it is hashed, with a key of its subject or the directory key's:
so the chain is whole after an erasure, and nothing of the subject opens. Whoever appends locks the
row of one chain for the rest of its transaction; threads and processes spread over the shards.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, func, insert, select, update

from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._database import schema
from langmem_isolated._database.admission import Admission, AdmissionToAll
from langmem_isolated._database.database import Database
from langmem_isolated._database.statements import insert_if_absent
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.audit_rows import (
    AuditRow,
    ChainEnds,
    Draft,
    Position,
    linked,
    sealed_entry,
)
from langmem_isolated.errors import AuditLogBroken

SHARDS = 8
"""More than writers usually meet at: each waits only for those of its own."""
CONTROL = 0
"""The shard whose chain has the settings, and every change of them."""
_PAGE = 500
_ZERO: sa.ColumnElement[int] = sa.literal_column("0")

_entries, _chains = schema.audit.c, schema.audit_chains.c
_ENDS = (
    _chains.shard, _chains.first_sequence, _chains.cut_hash,
    _chains.next_sequence, _chains.hash, _chains.settings, _chains.row_mac,
)  # fmt: skip
_ENTRY = (
    _entries.shard, _entries.sequence, _entries.scope_id,
    _entries.created_at, _entries.sealed, _entries.hash,
)  # fmt: skip
_SHARD = bindparam("of_shard", type_=sa.SmallInteger)
_BEHIND = bindparam("behind", type_=sa.BigInteger)
_OF_SHARD = select(*_ENDS).where(_chains.shard == _SHARD)
_LOCK = _OF_SHARD.with_for_update()
_ALL_ENDS = select(*_ENDS).order_by(_chains.shard)
_MAKE = insert_if_absent(schema.audit_chains, *(column.name for column in _ENDS))
_UPDATE = (
    update(schema.audit_chains)
    .where(_chains.shard == _SHARD)
    .values({column: bindparam(column.name) for column in _ENDS[1:]})
)
_INSERT = insert(schema.audit).values({column.name: bindparam(column.name) for column in _ENTRY})
_ANY_ENTRY = select(select(_entries.shard).exists())
_STRANGE = select(
    select(_entries.shard)
    .where(sa.or_(_entries.shard < _ZERO, _entries.shard >= sa.literal_column(str(SHARDS))))
    .exists()
)
_REACH = select(func.min(_entries.sequence), func.max(_entries.sequence)).where(
    _entries.shard == _SHARD
)
_IN_CHAIN = (
    select(*_ENTRY)
    .where(_entries.shard == _SHARD, _entries.sequence > _BEHIND)
    .order_by(_entries.sequence)
    .limit(sa.literal_column(str(_PAGE)))
    .offset(_ZERO)
)
_ONE = select(*_ENTRY).where(_entries.shard == _SHARD, _entries.sequence == bindparam("sequence"))
_NEWEST = (_entries.created_at.desc(), _entries.shard.desc(), _entries.sequence.desc())
_SINCE = bindparam("since", type_=sa.BigInteger)
_LIMIT = bindparam("most", type_=sa.Integer)
_POSITION = tuple(
    bindparam(name, type_=sa.BigInteger) for name in ("before", "before_shard", "before_sequence")
)
# By all three: two processes may note something in one microsecond.
_BETWEEN = (
    sa.tuple_(_entries.created_at, _entries.shard, _entries.sequence) < sa.tuple_(*_POSITION),
    _entries.created_at >= _SINCE,
)
_OF_SCOPE = (
    select(*_ENTRY)
    .where(_entries.scope_id == bindparam("scope_id", type_=sa.LargeBinary), *_BETWEEN)
    .order_by(*_NEWEST)
    .limit(_LIMIT)
    .offset(_ZERO)
)
_OF_ALL = select(*_ENTRY).where(*_BETWEEN).order_by(*_NEWEST).limit(_LIMIT).offset(_ZERO)
_FIRST_KEPT = select(func.min(_entries.sequence)).where(
    _entries.shard == _SHARD, _entries.created_at >= bindparam("before", type_=sa.BigInteger)
)
_REMOVE = delete(schema.audit).where(
    _entries.shard == _SHARD, _entries.sequence < bindparam("first", type_=sa.BigInteger)
)


class AuditChains:
    """The audit log of one installation.

    Args:
        database: Holds it, beside what it is about: an entry and what it is of are stored together.
        directory: Authenticates the ends of chains.
    """

    def __init__(self, database: Database, directory: DirectoryKey) -> None:
        self._database = database
        self.directory = directory

    def settings(self) -> bytes | None:
        """What was stored by :meth:`set`; ``None`` where there never was an audit log.

        Raises:
            AuditLogBroken: The row that has it was changed or removed.
        """
        row = self._database.read(Transaction.row, _OF_SHARD, of_shard=CONTROL)
        if row is None and self._has_entries():
            raise AuditLogBroken(CONTROL, "the row of its ends was removed")
        return None if row is None else ChainEnds(*row).checked(self.directory).settings

    def _has_entries(self) -> bool:
        # Where row-level security keeps others' entries from this role, an operator's check tells.
        if not self._database.sees_everybody:
            return False
        with AdmissionToAll():
            return bool(self._database.read(Transaction.rows, _ANY_ENTRY)[0][0])

    def set(self, settings: bytes, draft: Draft) -> AuditRow:
        """Make the chains where there are none, store settings, and append that this was done."""
        with self.admission(draft):
            return self._database.write(self._set, settings, draft)

    def _set(self, transaction: Transaction, settings: bytes, draft: Draft) -> AuditRow:
        for shard in range(SHARDS):
            ends = ChainEnds.new(self.directory, shard)
            transaction.execute(_MAKE[transaction.is_postgres], **ends._asdict())
        ends = self._locked(transaction, CONTROL)._replace(settings=settings)
        return self._appended(transaction, ends, draft)

    def append(self, *drafts: Draft) -> list[AuditRow]:
        """Append entries in a transaction of their own."""
        with self.admission(*drafts):
            return self._database.write(self._append_all, drafts)

    def admission(self, *drafts: Draft) -> Admission:
        """What lets entries be appended, and the ends of chains be read, which are of nobody."""
        subjects = (draft.scope_id for draft in drafts if draft.scope_id is not None)
        return Admission(self.directory.id, *subjects)

    def _append_all(self, transaction: Transaction, drafts: Sequence[Draft]) -> list[AuditRow]:
        return [self.append_within(transaction, draft) for draft in drafts]

    def append_within(
        self, transaction: Transaction, draft: Draft, shard: int | None = None
    ) -> AuditRow:
        """Append an entry in the transaction that does what it is about: as its last step.

        Args:
            transaction: It has the row of the chain locked from here on.
            draft: The entry.
            shard: By default the one of this thread.

        Raises:
            AuditLogBroken: The row of the chain's ends was changed or removed.
        """
        own = own_shard() if shard is None else shard
        return self._appended(transaction, self._locked(transaction, own), draft)

    def _appended(self, transaction: Transaction, ends: ChainEnds, draft: Draft) -> AuditRow:
        row = sealed_entry(ends, draft, now())
        transaction.execute(_INSERT, **row._asdict())
        moved = ends._replace(next_sequence=row.sequence + 1, hash=row.hash)
        self._store(transaction, moved)
        return row

    def _store(self, transaction: Transaction, ends: ChainEnds) -> None:
        columns = ends.authenticated(self.directory)._asdict()
        transaction.execute(_UPDATE, of_shard=columns.pop("shard"), **columns)

    def _locked(self, transaction: Transaction, shard: int) -> ChainEnds:
        return self._required(transaction.row(_LOCK, of_shard=shard), shard)

    def _required(self, row: Row | None, shard: int) -> ChainEnds:
        if row is None:
            raise AuditLogBroken(shard, "the row of its ends was removed")
        return ChainEnds(*row).checked(self.directory)

    def heads(self) -> list[ChainEnds]:
        """The ends of all chains, of one state of the database.

        Raises:
            AuditLogBroken: A row was changed, added or removed.
        """
        with self.admission():
            rows = self._database.read(Transaction.rows, _ALL_ENDS)
        by_shard = {row[0]: row for row in rows}
        if rows and len(rows) != SHARDS:
            raise AuditLogBroken(None, "there is not one row of ends for each shard")
        return [self._required(by_shard.get(shard), shard) for shard in range(len(rows))]

    def newest(
        self, scope_id: bytes | None, before: Position, *, since: int, most: int
    ) -> list[AuditRow]:
        """Entries about a subject, or all if ``None``, by time from the newest on.

        Args:
            scope_id: By which the tables know the subject.
            before: Only those before this one; of a time alone ``(time, -1, -1)``.
            since: Not earlier than that, in µs since 1970.
            most: At most so many.
        """
        names = ("before", "before_shard", "before_sequence")
        asked = dict(zip(names, before, strict=True)) | {"since": since, "most": most}
        if scope_id is None:
            with AdmissionToAll():
                rows = self._database.read(Transaction.rows, _OF_ALL, **asked)
        else:
            with Admission(scope_id):
                rows = self._database.read(Transaction.rows, _OF_SCOPE, scope_id=scope_id, **asked)
        return [AuditRow(*row) for row in rows]

    def hash_at(self, shard: int, sequence: int) -> bytes | None:
        """The hash of one entry, or of what was cut off there; ``None`` if neither is there."""
        with AdmissionToAll():
            row = self._database.read(Transaction.row, _ONE, of_shard=shard, sequence=sequence)
        return None if row is None else AuditRow(*row).hash

    def walk(self, shard: int) -> Iterator[list[AuditRow]]:
        """All entries of a chain that is whole, page by page; what is appended meanwhile is left.

        Raises:
            AuditLogBroken: An entry was changed, moved, removed or added.
        """
        ends = self._ends(shard)
        behind, last = ends.first_sequence - 1, ends.cut_hash
        while behind + 1 < ends.next_sequence:
            page = self._page(shard, behind, ends.next_sequence)
            if (not page or page[0].sequence > behind + 1) and (cut := self._cut_since(ends)):
                ends, behind, last = cut, cut.first_sequence - 1, cut.cut_hash
                continue
            last = linked(page, shard, behind, last)
            behind = page[-1].sequence
            yield page
        if last != ends.hash:
            raise AuditLogBroken(shard, "its last entry is another than its row says")

    def _page(self, shard: int, behind: int, end: int) -> list[AuditRow]:
        with AdmissionToAll():
            rows = self._database.read(Transaction.rows, _IN_CHAIN, of_shard=shard, behind=behind)
        page = [AuditRow(*row) for row in rows]
        return [row for row in page if row.sequence < end]

    def _ends(self, shard: int) -> ChainEnds:
        with AdmissionToAll():
            return self._database.snapshot(self._ends_and_reach, shard)

    def _ends_and_reach(self, transaction: Transaction, shard: int) -> ChainEnds:
        """The ends of a chain, which no entry is outside of.

        Raises:
            AuditLogBroken: One is, or a chain has no place in the log.
        """
        ends = self._required(transaction.row(_OF_SHARD, of_shard=shard), shard)
        reach = transaction.row(_REACH, of_shard=shard) or (None, None)
        kept = (ends.first_sequence, ends.next_sequence - 1)
        if reach != (kept if kept[0] <= kept[1] else (None, None)):
            raise AuditLogBroken(shard, "entries are missing at an end, or stand beyond it")
        if shard == CONTROL and transaction.rows(_STRANGE)[0][0]:
            raise AuditLogBroken(None, "there are entries of a shard that is none")
        return ends

    def _cut_since(self, ends: ChainEnds) -> ChainEnds | None:
        """The ends as they are now, if a sweep has removed entries meanwhile."""
        found = self._ends(ends.shard)
        return found if found.first_sequence > ends.first_sequence else None

    def cut(self, shard: int, before: int) -> int:
        """Remove the entries at the head of a chain that are older; at most 500, in a transaction.

        The hash of the last one removed is left in the chain's row, under its MAC: what is kept
        is still proven to follow it.

        Args:
            shard: Which chain.
            before: In µs since 1970.

        Returns:
            How many.
        """
        with AdmissionToAll():
            return self._database.write(self._cut, shard, before)

    def older(self, shard: int, before: int) -> int:
        """How many entries at the head of a chain are older."""
        ends, asked = self._ends(shard), {"of_shard": shard, "before": before}
        with AdmissionToAll():
            row = self._database.read(Transaction.row, _FIRST_KEPT, **asked)
        kept = ends.next_sequence if row is None or row[0] is None else row[0]
        return int(kept - ends.first_sequence)

    def _cut(self, transaction: Transaction, shard: int, before: int) -> int:
        ends = self._locked(transaction, shard)
        behind = ends.first_sequence - 1
        rows = transaction.rows(_IN_CHAIN, of_shard=shard, behind=behind)
        last = ends.cut_hash
        over = 0
        for row in map(AuditRow._make, rows):
            if not _is_before(row, before):
                break
            last = linked([row], shard, behind + over, last)
            over += 1
        if over:
            first = ends.first_sequence + over
            transaction.execute(_REMOVE, of_shard=shard, first=first)
            self._store(transaction, ends._replace(first_sequence=first, cut_hash=last))
        return over


def own_shard() -> int:
    """Where this thread of this process appends: others seldom wait for it."""
    # Identities of threads are addresses: their low bits are the same.
    return ((threading.get_ident() >> 8) ^ (threading.get_ident() >> 16) ^ os.getpid()) % SHARDS


def _is_before(row: AuditRow, moment: int) -> bool:
    return type(row.created_at) is int and row.created_at < moment
