"""Tombstones: whose lives erasures have ended, so that no older copy brings them back.

A row of the table is one principal's, as other tables know it, with the last life that an erasure
ended: that one and all before it. It is written before the keys are destroyed, into the erasure log
first, where there is one. Its MAC is by a key that the directory key derives.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select

from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._database import schema
from langmem_isolated._database.admission import Admission, AdmissionToAll
from langmem_isolated._database.database import Database
from langmem_isolated._database.statements import InsertsByDialect
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._runtime.arguments import kind_of, whole_number
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.erasure_log import ErasureLog, Tombstone
from langmem_isolated._storage.installation import Installation
from langmem_isolated.errors import RecordDoesNotOpen


class TombstoneRules(NamedTuple):
    """Where tombstones are kept besides their table, and for how long."""

    log: ErasureLog | None = None
    lifetime: int | None = None
    """Microseconds from the erasure on; ``None`` for ever."""


FOR_EVER = TombstoneRules()
_DAY = 86_400_000_000
_KEPT = (
    "It is how long the oldest copy of the database may live; leave it out to keep them for ever."
)


def tombstone_rules(log: object, days: object) -> TombstoneRules:
    """The rules that an application's arguments ask for.

    Args:
        log: The path of an erasure log, or ``None``.
        days: How long tombstones are kept, 1 or more; ``None`` for ever.

    Raises:
        TypeError: ``log`` is no path, or ``days`` no whole number.
        ValueError: ``days`` is below 1.
    """
    if days is not None:
        days = min(whole_number("tombstone_days", days, least=1, advice=_KEPT), 365_000)
    if log is not None and not isinstance(log, str | os.PathLike):
        raise TypeError(
            f"erasure_log must be a str or a pathlib.Path, got {kind_of(log)}. Nothing was opened. "
            'Name a file outside the database: erasure_log="erasures.jsonl".'
        )
    file = None if log is None else ErasureLog(Path(os.fsdecode(log)).absolute())
    return TombstoneRules(file, None if days is None else days * _DAY)


_columns = schema.tombstones.c
_STORED = [
    *(_columns.principal, _columns.incarnation, _columns.erased_at, _columns.expires_at),
    _columns.row_mac,
]
_DIRECTORY = _columns.directory_id == bindparam("directory_id", type_=sa.LargeBinary)
_PRINCIPAL = _columns.principal == bindparam("principal", type_=sa.LargeBinary)
_BEHIND = bindparam("behind", type_=sa.LargeBinary)
_LIFE = bindparam("life", type_=sa.Integer)
_LIMIT, _FROM_THE_FIRST = (sa.literal_column(number, sa.Integer) for number in ("500", "0"))
_PAGE = (
    select(*_STORED)
    .where(
        _DIRECTORY,
        sa.or_(
            _columns.principal > _BEHIND,
            sa.and_(_columns.principal == _BEHIND, _columns.incarnation > _LIFE),
        ),
    )
    .order_by(_columns.principal, _columns.incarnation)
    .limit(_LIMIT)
    .offset(_FROM_THE_FIRST)
)
_PAGE_OVER = _PAGE.where(_columns.expires_at <= bindparam("now", type_=sa.BigInteger))
_OF_PRINCIPAL = select(*_STORED).where(_DIRECTORY, _PRINCIPAL)
_PUT = InsertsByDialect(
    schema.tombstones,
    lambda insert: (
        insert.values({column.name: bindparam(column.name) for column in _columns})
        .on_conflict_do_update(
            index_elements=["principal", "incarnation"],
            set_={
                name: insert.excluded[name]
                for name in ("directory_id", "erased_at", "expires_at", "row_mac")
            },
        )
        .inline()
    ),
)
_DELETE = delete(schema.tombstones).where(
    _PRINCIPAL,
    _columns.incarnation == _LIFE,
    _columns.row_mac == bindparam("row_mac", type_=sa.LargeBinary),
)


class Forgotten(NamedTuple):
    """What :meth:`Tombstones.remove_over` has done."""

    number: int
    """How many it removed, or would, the same in both places counted once."""
    damaged: int
    """How many were tampered with; they stay, as evidence."""


class Tombstones:
    """The tombstones of one installation, in its key store and in its erasure log.

    Args:
        key_store: Holds the table.
        installation: Opens the directory key.
        rules: Where else they are, and for how long.
    """

    def __init__(
        self, key_store: Database, installation: Installation, rules: TombstoneRules = FOR_EVER
    ) -> None:
        self._key_store = key_store
        self._installation = installation
        self.log, self._lifetime = rules

    def put(self, principal: bytes, life: int, *, until: int | None = None) -> None:
        """Keep that a principal's lives up to one are ended, before its keys are destroyed.

        Nothing is kept of who never had a key: their life is 0. Of a module or project something
        is: others have memory there.

        Args:
            principal: Whose.
            life: The last one that ends.
            until: Of a module or project: what was made there later stays, in µs.

        Raises:
            ErasureLogRefused: The erasure log cannot be written.
            RecordDoesNotOpen: There is one already, and it was tampered with.
            DatabaseError: The database refused or failed.
        """
        directory, moment = self._directory(), now()
        if directory is None or (until is None and not life):
            return
        ends = None if self._lifetime is None else moment + self._lifetime
        new = Tombstone.of(directory, principal, life, moment if until is None else until, ends)
        stored = [one for one in self._of(directory, principal) if one.incarnation == life]
        standing = [one for one in stored if not one.is_over(moment)]
        if standing and until is None:
            # A life ends once: to go on with that says no later time of it.
            kept = max([*standing, new], key=lambda one: one.lasts)
        else:
            kept = _both(directory, *standing, new)
        if self.log is not None:
            self.log.append(kept)
        if kept not in stored:
            self._store(directory, [kept])

    def has(self, owner: Owner) -> bool:
        """Whether the owner's principal was erased, whoever has come back since.

        Raises:
            ErasureLogRefused: The erasure log cannot be read, or was tampered with.
            RecordDoesNotOpen: A tombstone was tampered with.
        """
        directory = self._directory()
        if directory is None:
            return False
        principal, moment = directory.principal_of(owner), now()
        found = self._of(directory, principal)
        if self.log is not None:
            found += self.log.find(directory, principal)
        return any(not one.is_over(moment) for one in found)

    def stored(self) -> list[Tombstone]:
        """All in the key store, over or not.

        Raises:
            RecordDoesNotOpen: One was tampered with.
        """
        directory = self._directory()
        return [] if directory is None else [*self._walk(directory)]

    def merged(self, *others: Tombstone) -> list[Tombstone]:
        """All of the key store, of the erasure log and of ``others`` that are not over.

        One for each life that was ended, of the last time and as long as any is kept; both places
        have all of them then.

        Raises:
            ErasureLogRefused: The erasure log cannot be read or written, or was tampered with.
            RecordDoesNotOpen: A tombstone was tampered with.
        """
        directory, moment = self._directory(), now()
        if directory is None:
            return []
        stored = [*self._walk(directory)]
        logged = [] if self.log is None else self.log.read(directory)
        for one in others:
            _check(one, directory)
        best: dict[tuple[bytes, int], Tombstone] = {}
        for one in (*stored, *logged, *others):
            place = one.principal, one.incarnation
            if not one.is_over(moment):
                best[place] = _both(directory, best.get(place, one), one)
        kept = [*best.values()]
        self._store(directory, [*_without(kept, stored)])
        if self.log is not None:
            self.log.append(*_without(kept, logged))
        return kept

    def pages(self) -> Iterator[list[Tombstone]]:
        """All in the key store, as they are found: not checked, 500 at once."""
        directory = self._directory()
        return iter(()) if directory is None else self._pages(directory, _PAGE)

    def remove_over(self, moment: int, *, is_dry: bool = False) -> Forgotten:
        """Remove those whose time is over, from the erasure log too.

        Raises:
            ErasureLogRefused: The erasure log cannot be read or written, or was tampered with.
        """
        directory = self._directory()
        if directory is None:
            return Forgotten(0, 0)
        removed: set[Tombstone] = set()
        if self.log is not None:
            removed |= {*self.log.remove(directory, moment, is_dry=is_dry)}
        damaged = 0
        for page in self._pages(directory, _PAGE_OVER, now=moment):
            over = [one for one in page if one.is_authentic(directory)]
            damaged += len(page) - len(over)
            removed |= {*over}
            if not is_dry:
                with AdmissionToAll():
                    self._key_store.write(_remove, over)
        return Forgotten(len({(one.principal, one.incarnation) for one in removed}), damaged)

    def _directory(self) -> DirectoryKey | None:
        opened = self._installation.open(create=False)
        return opened and opened.directory

    def _of(self, directory: DirectoryKey, principal: bytes) -> list[Tombstone]:
        asked = {"directory_id": directory.id, "principal": principal}
        with Admission(principal):
            rows = self._key_store.read(Transaction.rows, _OF_PRINCIPAL, **asked)
        return [_checked(row, directory) for row in rows]

    def _walk(self, directory: DirectoryKey) -> Iterator[Tombstone]:
        for page in self._pages(directory, _PAGE):
            for one in page:
                _check(one, directory)
                yield one

    def _pages(
        self, directory: DirectoryKey, statement: sa.Select[Any], **values: object
    ) -> Iterator[list[Tombstone]]:
        """Rows as they are found, not checked."""
        asked = {"directory_id": directory.id, **values}
        behind: tuple[object, object] = b"", 0
        while rows := self._page(statement, **asked, behind=behind[0], life=behind[1]):
            yield [Tombstone(*row) for row in rows]
            behind = rows[-1][0], rows[-1][1]

    def _page(self, statement: sa.Select[Any], **asked: object) -> list[Row]:
        with AdmissionToAll():
            return self._key_store.read(Transaction.rows, statement, **asked)

    def _store(self, directory: DirectoryKey, kept: list[Tombstone]) -> None:
        for start in range(0, len(kept), _BATCH):
            batch = kept[start : start + _BATCH]
            with Admission(*(one.principal for one in batch)):
                self._key_store.write(_put, directory.id, batch)


_BATCH = 500


def _put(transaction: Transaction, directory_id: bytes, kept: list[Tombstone]) -> None:
    rows: list[dict[str, object]] = [
        {
            "directory_id": directory_id,
            "principal": one.principal,
            "incarnation": one.incarnation,
            "erased_at": one.erased_at,
            "expires_at": one.expires_at,
            "row_mac": one.mac,
        }
        for one in kept
    ]
    transaction.execute_many(_PUT[transaction.is_postgres], rows)


def _remove(transaction: Transaction, over: list[Tombstone]) -> None:
    transaction.execute_many(
        _DELETE,
        [{"principal": one.principal, "life": one.incarnation, "row_mac": one.mac} for one in over],
    )


def _checked(row: Row, directory: DirectoryKey) -> Tombstone:
    found = Tombstone(*row)
    _check(found, directory)
    return found


def _check(found: Tombstone, directory: DirectoryKey) -> None:
    if not found.is_authentic(directory):
        raise RecordDoesNotOpen("tombstone", "it is not as it was stored")


def _both(directory: DirectoryKey, *ended: Tombstone) -> Tombstone:
    """One for all of the same life: a module may be erased again without having had a key since."""
    erased_at = max(one.erased_at for one in ended)
    longest = max(ended, key=lambda one: (one.lasts, one.erased_at))
    if longest.erased_at == erased_at:
        return longest
    return Tombstone.of(
        directory, longest.principal, longest.incarnation, erased_at, longest.expires_at
    )


def _without(kept: list[Tombstone], there: list[Tombstone]) -> Iterator[Tombstone]:
    known = {*there}
    return (one for one in kept if one not in known)
