"""Erasure jobs: what was begun to be erased, how far that is, and what its receipt is told from.

A row of the table of erasures is one job: one life of a principal, or what a module or project has.
Before anything is destroyed it is stored, and what is removed is counted in it by the transaction
that removes it. So one that is killed at any point is gone on with, by whoever calls next, and says
in the end what was there. Two who erase at once work at one job, and count nothing twice.

All that is not a column is sealed by a key derived from the directory key, at all columns. While
the job goes on that is also whose it is; when it is finished, the row is written anew without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, select, update

from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.sealing import framed
from langmem_isolated._database import schema
from langmem_isolated._database.admission import Admission, AdmissionToAll
from langmem_isolated._database.database import Database
from langmem_isolated._database.statements import InsertsByDialect
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.erased import ERASURE, DestroyedKeys, Erased
from langmem_isolated._storage.removal import Counted
from langmem_isolated.errors import RecordDoesNotOpen


class ErasureJob(NamedTuple):
    """A row of the table of erasures, opened."""

    principal: bytes
    incarnation: int
    """The last life that it ends; 0 for a principal that never had keys."""
    began_at: int
    finished_at: int | None
    erased: Erased


class JobFinished(Exception):
    """Somebody else has finished the job meanwhile: nothing is left to be counted."""


_erasures = schema.erasures.c
_COLUMNS = (
    _erasures.principal, _erasures.incarnation, _erasures.began_at,
    _erasures.finished_at, _erasures.sealed,
)  # fmt: skip
_NAMES = [column.name for column in _COLUMNS]
_HERE = sa.and_(
    _erasures.principal == bindparam("of_principal", type_=sa.LargeBinary),
    _erasures.incarnation == bindparam("of_incarnation"),
    _erasures.began_at == bindparam("of_time", type_=sa.BigInteger),
)
_UNFINISHED = _erasures.finished_at.is_(None)
_LOCK = select(*_COLUMNS).where(_HERE).with_for_update()
_READ = select(*_COLUMNS).where(_HERE)
_OPEN_OF = (
    select(*_COLUMNS)
    .where(_erasures.principal == bindparam("principal", type_=sa.LargeBinary), _UNFINISHED)
    .order_by(_erasures.incarnation)
)
_ALL_OPEN = select(*_COLUMNS).where(_UNFINISHED).order_by(_erasures.began_at)
_ALL_FINISHED = (
    select(*_COLUMNS).where(_erasures.finished_at.is_not(None)).order_by(_erasures.finished_at)
)
_INSERT = InsertsByDialect(
    schema.erasures,
    # Whichever index is in the way: the one of unfinished jobs has the same address for all.
    lambda insert: insert.values(
        {name: bindparam(name) for name in _NAMES}
    ).on_conflict_do_nothing(),
)
_UPDATE = (
    update(schema.erasures)
    .where(_HERE)
    .values(finished_at=bindparam("finished_at"), sealed=bindparam("sealed"))
)
_ANY_SCOPE_OF = select(schema.scopes.c.scope_id).where(
    schema.scopes.c.principal == bindparam("principal", type_=sa.LargeBinary)
).limit(sa.literal_column("1")).offset(sa.literal_column("0"))  # fmt: skip


class ErasureJobs:
    """The jobs and receipts in one database.

    Args:
        database: Holds them, beside what is erased: both are changed in one transaction.
        directory: Seals them.
    """

    def __init__(self, database: Database, directory: DirectoryKey) -> None:
        self._database = database
        self._directory = directory

    def begin(
        self,
        principal: bytes,
        incarnation: int,
        erased: Erased,
        refuse: Callable[[Transaction], None] = lambda _: None,
    ) -> ErasureJob:
        """The unfinished job of this life of a principal: the one that is there, or a new one.

        Args:
            principal: Whose; by which the tables know it.
            incarnation: The last life that it ends.
            erased: With what a new one begins.
            refuse: Called in the transaction that begins it; what it raises undoes that.
        """
        # What was made until then goes: by this column scopes know that they are ending.
        job = ErasureJob(principal, incarnation, erased.until, None, erased)
        while True:
            with Admission(principal):
                rows = self._database.write(self._begun, job, refuse)
            found = [one for one in map(self.opened, rows) if one.incarnation == incarnation]
            if found:
                return found[0]
            # One of the same time is finished.
            job = job._replace(began_at=job.began_at + 1)

    def _begun(
        self, transaction: Transaction, job: ErasureJob, refuse: Callable[[Transaction], None]
    ) -> list[Row]:
        refuse(transaction)
        insert = _INSERT[transaction.is_postgres]
        columns = dict(zip(_NAMES, job, strict=True)) | {"sealed": self._sealed(job)}
        transaction.execute(insert, **columns)
        return transaction.rows(_OPEN_OF, principal=job.principal)

    def unfinished_of(self, principal: bytes) -> list[ErasureJob]:
        """Those of a principal that are not finished, the earliest life first.

        Raises:
            RecordDoesNotOpen: One was changed or moved.
        """
        with Admission(principal):
            rows = self._database.read(Transaction.rows, _OPEN_OF, principal=principal)
        return [*map(self.opened, rows)]

    def unfinished(self) -> list[ErasureJob]:
        """All that are not finished, by when they began.

        Raises:
            RecordDoesNotOpen: One was changed or moved.
        """
        return [*map(self.opened, self.unfinished_rows())]

    def unfinished_rows(self) -> list[Row]:
        """The rows of these, each to be :meth:`opened`: one that does not open stops no other."""
        with AdmissionToAll():
            return self._database.read(Transaction.rows, _ALL_OPEN)

    def finished(self) -> list[ErasureJob]:
        """All that are finished, by when they were.

        Raises:
            RecordDoesNotOpen: One was changed or moved.
        """
        with AdmissionToAll():
            rows = self._database.read(Transaction.rows, _ALL_FINISHED)
        return [*map(self.opened, rows)]

    def again(self, job: ErasureJob) -> ErasureJob:
        """The job as it stands now.

        Raises:
            RecordDoesNotOpen: It was changed, moved or removed.
        """
        with Admission(job.principal):
            return self._required(self._database.read(Transaction.row, _READ, **_address(job)))

    def change(self, job: ErasureJob, change: Callable[[Erased], Erased]) -> ErasureJob:
        """Change what a job says, whoever else works at it.

        Raises:
            JobFinished: It is finished.
            RecordDoesNotOpen: It was changed, moved or removed.
        """
        with Admission(job.principal):
            return self._database.write(self._changed, job, change)

    def finish(self, job: ErasureJob, change: Callable[[Erased], Erased]) -> ErasureJob:
        """Finish a job: from here on it says nothing of whose it was.

        Raises:
            JobFinished: It is finished.
            RecordDoesNotOpen: It was changed, moved or removed.
        """
        with Admission(job.principal):
            return self._database.write(
                self._changed, job,
                lambda erased: replace(change(erased), owner=None, tags={}), finished_at=now(),
            )  # fmt: skip

    def amend(self, job: ErasureJob, *, heap: str) -> ErasureJob:
        """Change what a finished job says of the files of the database.

        Raises:
            RecordDoesNotOpen: It was changed, moved or removed.
        """
        with Admission(job.principal):
            return self._database.write(self._amended, job, heap)

    def counting(self, job: ErasureJob, keys: DestroyedKeys | None = None) -> Counted:
        """What counts in a job all that is removed, in the transaction that removes it.

        Its row is locked first: of two who erase, one waits for what the other has counted.

        Args:
            job: Which.
            keys: Those of a principal that is not the job's own: they are counted when its last
                scope goes.
        """

        def counted(
            transaction: Transaction, principal: bytes, remove: Callable[[], Counter[Kind]]
        ) -> Counter[Kind]:
            found = self._locked(transaction, job)
            counts = remove()
            if counts:
                erased = found.erased.plus(counts)
                if keys and counts[Kind.SCOPE] and _is_last(transaction, principal):
                    erased = erased.with_others(keys)
                self._store(transaction, found._replace(erased=erased))
            return counts

        return counted

    def _changed(
        self,
        transaction: Transaction,
        job: ErasureJob,
        change: Callable[[Erased], Erased],
        finished_at: int | None = None,
    ) -> ErasureJob:
        found = self._locked(transaction, job)
        changed = found._replace(erased=change(found.erased), finished_at=finished_at)
        if changed != found:
            self._store(transaction, changed)
        return changed

    def _amended(self, transaction: Transaction, job: ErasureJob, heap: str) -> ErasureJob:
        found = self._required(transaction.row(_LOCK, **_address(job)))
        amended = found._replace(erased=replace(found.erased, heap=heap))
        self._store(transaction, amended)
        return amended

    def _locked(self, transaction: Transaction, job: ErasureJob) -> ErasureJob:
        found = self._required(transaction.row(_LOCK, **_address(job)))
        if found.finished_at is not None:
            raise JobFinished
        return found

    def _store(self, transaction: Transaction, job: ErasureJob) -> None:
        sealed, finished_at = self._sealed(job), job.finished_at
        transaction.execute(_UPDATE, **_address(job), finished_at=finished_at, sealed=sealed)

    def _sealed(self, job: ErasureJob) -> bytes:
        return sealed_job(self._directory, job)

    def _required(self, row: Row | None) -> ErasureJob:
        if row is None:
            raise RecordDoesNotOpen(ERASURE, "its row was removed")
        return self.opened(row)

    def opened(self, row: Row) -> ErasureJob:
        """The job of a row.

        Raises:
            RecordDoesNotOpen: It was changed or moved.
        """
        try:
            principal, incarnation, began_at, finished_at, sealed = row
            place = _place(principal, incarnation, began_at, finished_at)
            erased = Erased.decoded(self._directory.open_erasure(place, sealed))
        except (TypeError, ValueError, OverflowError, AttributeError):
            # SQLite keeps any type in any column, and whoever tampers with rows knows it.
            raise RecordDoesNotOpen(ERASURE, "a column is of another type") from None
        return ErasureJob(principal, incarnation, began_at, finished_at, erased)


def _is_last(transaction: Transaction, principal: bytes) -> bool:
    return transaction.row(_ANY_SCOPE_OF, principal=principal) is None


def _address(job: ErasureJob) -> dict[str, object]:
    names = ("of_principal", "of_incarnation", "of_time")
    return dict(zip(names, job, strict=False))


def _place(principal: bytes, incarnation: int, began_at: int, finished_at: int | None) -> bytes:
    """The associated data: all columns but what is sealed at them."""
    return framed(
        b"erasures",
        principal,
        incarnation.to_bytes(4),
        began_at.to_bytes(8),
        None if finished_at is None else finished_at.to_bytes(8),
    )


def sealed_job(directory: DirectoryKey, job: ErasureJob, *, nonce: bytes | None = None) -> bytes:
    """What stands in the table for a job."""
    return directory.seal_erasure(_place(*job[:-1]), job.erased.encoded(), nonce=nonce)
