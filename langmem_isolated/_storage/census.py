"""Census: the row of every scope, checked one by one; what is wrong with one stops no other.

Users come, are erased, and have their keys rotated meanwhile. What looks wrong is looked at again,
row and keys anew: only what stays wrong, in a row that stays as it is, is told.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._database import schema
from langmem_isolated._database.admission import AdmissionToAll
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.erasure_jobs import ErasureJobs
from langmem_isolated._storage.installation import OpenInstallation
from langmem_isolated._storage.key_sets import KeySet, KeySets
from langmem_isolated._storage.scope_rows import PAGE, ScopeRow, checked, owner_of
from langmem_isolated._storage.wrapped_keys import incarnation_of
from langmem_isolated.errors import KeyringError, RecordDoesNotOpen

_scopes = schema.scopes.c
# As rows are checked: without what is not under their MAC.
_COLUMNS = [_scopes[name] for name in ScopeRow._fields[:-2]]
_PRINCIPAL = bindparam("principal", type_=sa.LargeBinary)
_SCOPE_ID = bindparam("scope_id", type_=sa.LargeBinary)
_LIMIT, _FROM_THE_FIRST = (sa.literal_column(number, sa.Integer) for number in (str(PAGE), "0"))
_PAGE = (
    select(*_COLUMNS)
    .where(_scopes.scope_id > bindparam("behind", type_=sa.LargeBinary))
    .order_by(_scopes.scope_id)
    .limit(_LIMIT)
    .offset(_FROM_THE_FIRST)
)
_OF_PRINCIPAL = select(*_COLUMNS).where(_scopes.principal == _PRINCIPAL)
_AT = select(*_COLUMNS).where(_scopes.scope_id == _SCOPE_ID)
_COUNT = select(sa.func.count()).select_from(schema.scopes)
_LOOKS = 5
_PAUSE_SECONDS = 0.02


def asked_of_all(database: Database, statement: sa.Select[Any], **values: object) -> list[Row]:
    """The rows of everybody that a query finds; with row-level security by the role for jobs."""
    with AdmissionToAll():
        return database.read(Transaction.rows, statement, **values)


class Counted(NamedTuple):
    """A scope whose row and keys are as they were stored."""

    row: ScopeRow
    owner: Owner


class Ended(NamedTuple):
    """A row whose owner is erased, or about to be: its keys are destroyed, or of a later life."""

    scope_id: bytes


class Wrong(NamedTuple):
    """A row, or the keys that it needs, that is not as it was stored."""

    scope_id: bytes
    reason: str


class Census:
    """Looks at every scope of an installation, or of one principal.

    Args:
        database: Holds the scopes.
        key_store: Holds the keys.
        opened: Checks both.
    """

    def __init__(self, database: Database, key_store: Database, opened: OpenInstallation) -> None:
        self._database = database
        self._sets = KeySets(key_store)
        self._directory, self._keys = opened
        self._jobs = ErasureJobs(database, opened.directory)

    def count(self) -> int:
        """How many scopes there are, of all."""
        return int(asked_of_all(self._database, _COUNT)[0][0])

    def all(self) -> Iterator[Counted | Ended | Wrong]:
        """Every scope's row, in the order of their ids, 500 at once."""
        # What is no bytes stands before all bytes in SQLite's order; it is an orphan's scope id.
        behind = b""
        while rows := asked_of_all(self._database, _PAGE, behind=behind):
            yield from map(self.looked_at, rows)
            behind = rows[-1][0]

    def of(self, owner: Owner) -> Iterator[Counted | Ended | Wrong]:
        """The rows of those that share an owner's principal: of a user all modules."""
        asked = {"principal": self._directory.principal_of(owner)}
        yield from map(self.looked_at, asked_of_all(self._database, _OF_PRINCIPAL, **asked))

    def looked_at(self, row: Row) -> Counted | Ended | Wrong:
        """What a row is, once that has stayed the same."""
        found = self._judged(row)
        for look in range(_LOOKS):
            if not isinstance(found, Wrong):
                break
            time.sleep(look * _PAUSE_SECONDS)
            again = asked_of_all(self._database, _AT, scope_id=row[0])
            if not again:
                return Ended(row[0])
            found = self._judged(again[0])
        return found

    def _judged(self, row: Row) -> Counted | Ended | Wrong:
        scope_id = row[0] if type(row[0]) is bytes else b""
        try:
            found = checked(row, self._directory)
            key_set = self._sets.read(found.principal, self._directory)
            return self._of_life(found, key_set)
        except RecordDoesNotOpen as error:
            return Wrong(scope_id, error.reason)
        except KeyringError as error:
            return Wrong(scope_id, f"its keys cannot be had ({type(error).__name__})")

    def _of_life(self, row: ScopeRow, key_set: KeySet) -> Counted | Ended | Wrong:
        if not key_set.keys:
            return Wrong(row.scope_id, "its keys are missing")
        life = incarnation_of(key_set)
        if life is None or row.incarnation < life:
            return self._ended(row)
        if row.incarnation > life:
            return Wrong(row.scope_id, "its keys are those of a former life")
        principal = self._keys.unwrapped(key_set)
        assert principal is not None
        owner = owner_of(row, principal)
        if not self._is_of(row, owner):
            return Wrong(row.scope_id, "its digests are not those of the owner that it names")
        return Counted(row, owner)

    def _is_of(self, row: ScopeRow, owner: Owner) -> bool:
        directory = self._directory
        return (row.scope_id, row.principal, row.level, row.project, row.module) == (
            directory.scope_id_of(owner), directory.principal_of(owner), owner.level,
            directory.project_of(owner), directory.module_of(owner),
        )  # fmt: skip

    def _ended(self, row: ScopeRow) -> Ended | Wrong:
        """A row of keys that are destroyed: of an erasure that goes on, or put back behind one.

        A guest that has expired leaves no job of an erasure: its row goes with the next sweep.
        """
        is_expected = row.level == Level.ANONYMOUS or self._is_leftover(row) or self._is_ending(row)
        if is_expected:
            return Ended(row.scope_id)
        return Wrong(row.scope_id, "it is of a life that was ended, and its row is there")

    def _is_leftover(self, row: ScopeRow) -> bool:
        """Whether nothing is below: what a first use leaves that an erasure has overtaken."""
        tables = (schema.sessions.c.scope_id, schema.records.c.scope_id)
        below = [select(sa.exists().where(scope_id == _SCOPE_ID)) for scope_id in tables]
        return not any(
            asked_of_all(self._database, one, scope_id=row.scope_id)[0][0] for one in below
        )

    def _is_ending(self, row: ScopeRow) -> bool:
        for unfinished in self._jobs.unfinished_rows():
            job = self._jobs.opened(unfinished)
            if job.principal == row.principal and job.incarnation >= row.incarnation:
                return True
            place = job.erased.owner
            if place and place.level in (Level.MODULE, Level.PROJECT):
                digests = self._directory.digests_of(place.project, place.module)
                if all(getattr(row, name) == digest for name, digest in digests.items()):
                    return True
        return False


class Sampled(NamedTuple):
    """A simple random sample of so many scopes, and of how many it was drawn."""

    scopes: list[Counted]
    of: int


def drawn(found: Iterator[Counted], size: int, chance: random.Random) -> Sampled:
    """A sample of up to ``size``, each as likely as any other: reservoir sampling (Vitter 1985, R).

    Args:
        found: All, of which no more than ``size`` are kept at once.
        size: 1 or more.
        chance: What draws.
    """
    kept: list[Counted] = []
    number = 0
    for number, one in enumerate(found, start=1):
        if len(kept) < size:
            kept.append(one)
        elif (place := chance.randrange(number)) < size:
            kept[place] = one
    return Sampled(kept, number)
