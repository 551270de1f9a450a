"""Scope rows: which owners have memory, whose keys seal it, and in which life it is.

Every column stands under the row's MAC, whose key is derived from the directory key: a row that was
changed, exchanged or put back from a former life is refused, and one that was removed is missed
where anything of its scope is left.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import cycle, islice
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Exists,
    LargeBinary,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    union_all,
)

from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.scope_keys import BIRTH_BYTES
from langmem_isolated._crypto.sealing import open_sealed, seal
from langmem_isolated._database import schema
from langmem_isolated._database.admission import Admission, AdmissionToAll
from langmem_isolated._database.database import Database
from langmem_isolated._database.driver_errors import Conflict
from langmem_isolated._database.statements import insert_if_absent
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.wrapped_keys import PrincipalKeys
from langmem_isolated.errors import RecordDoesNotOpen


class ScopeRow(NamedTuple):
    """A row of the table of scopes, checked.

    ``used_key`` and ``seals`` tell how often which version of its key has sealed, of the last one
    that is known. They are not authenticated: who may write to the database may change them.
    """

    scope_id: bytes
    principal: bytes
    level: int
    incarnation: int
    birth: bytes
    project: bytes | None
    module: bytes | None
    hold: int | None
    oldest_key: int
    sealed: bytes
    created_at: int
    mac: bytes
    used_key: int | None = None
    seals: int | None = None


# Rows that a walk over all scopes reads at once.
PAGE = 500
_STORED = ScopeRow._fields[:-2]
# How many columns, from the first on, stand under the MAC: all but itself.
_AUTHENTICATED = len(_STORED) - 1


class Traces(NamedTuple):
    """What there is of a scope, seen in one state."""

    has_row: bool
    has_records: bool
    of_principal: bool

    def refuse_orphans(self) -> "Traces":
        """These traces; records whose scope's row is gone are refused."""
        if self.has_records and not self.has_row:
            raise RecordDoesNotOpen(
                Kind.SCOPE.label, "its row was removed, and its records were not"
            )
        return self


_scopes, _uses = schema.scopes.c, schema.key_uses.c
_COLUMNS = [_scopes[name] for name in _STORED]
_SCOPE_ID = bindparam("scope_id", type_=LargeBinary)

_SELECT_OF_PRINCIPAL = select(*_COLUMNS).where(_scopes.principal == bindparam("principal"))
_SELECT_BY_ID = select(*_COLUMNS).where(_scopes.scope_id == _SCOPE_ID)


def _page(*columns: str) -> Select[Any]:
    """The rows behind one, in order, that have these columns."""
    return (
        select(*_COLUMNS)
        .where(
            _scopes.scope_id > bindparam("behind", type_=LargeBinary),
            *(_scopes[name] == bindparam(name, type_=LargeBinary) for name in columns),
        )
        .order_by(_scopes.scope_id)
        .limit(literal_column(str(PAGE)))
        .offset(literal_column("0"))
    )


_WALKED: list[tuple[str, ...]] = [(), ("project",), ("project", "module")]
_PAGES = {names: _page(*names) for names in _WALKED}
_INSERT = insert_if_absent(schema.scopes, *_STORED)
_DELETE = delete(schema.scopes).where(
    _scopes.scope_id == bindparam("scope_id"), _scopes.birth == bindparam("birth")
)


_ROW_LOCK = select(_scopes.scope_id).where(_scopes.scope_id == _SCOPE_ID)
_FOR_SHARE = _ROW_LOCK.with_for_update(read=True)
# Not for update in full: whoever writes below the row refers to it.
_FOR_UPDATE = _ROW_LOCK.with_for_update(key_share=True)


def lock_for_share(transaction: Transaction, scope_id: bytes) -> None:
    """Keep others from :func:`lock_for_update` until the transaction ends; any number may."""
    transaction.row(_FOR_SHARE, scope_id=scope_id)


def lock_for_update(transaction: Transaction, scope_id: bytes) -> None:
    """Wait for all who have the row for share, and keep others from it."""
    transaction.row(_FOR_UPDATE, scope_id=scope_id)


_erasures = schema.erasures.c
# Whoever came back since is in a later life than the erasure ends.
_IS_ENDING = exists().where(
    _erasures.principal == _scopes.principal, _erasures.incarnation >= _scopes.incarnation
)
_PROJECT, _MODULE = (bindparam(name, type_=LargeBinary) for name in ("in_project", "in_module"))
_siblings = schema.scopes.alias("siblings")
# What was made in a place that is being erased, up to the time that stands in its job.
_IS_OLDER = _scopes.created_at <= _erasures.began_at
# In a project also what was made since by one whose keys go with what is older.
_HAS_OLDER_SIBLING = and_(
    _erasures.principal == _PROJECT,
    exists()
    .where(
        _siblings.c.principal == _scopes.principal,
        _siblings.c.created_at <= _erasures.began_at,
    )
    .correlate(schema.scopes, schema.erasures),
)


def _life(ends: ColumnElement[bool]) -> Select[Any]:
    """The row of a life that goes on, by what ends one in a place that is being erased."""
    in_place = _erasures.principal.in_([_PROJECT, _MODULE]), _erasures.finished_at.is_(None)
    return select(_scopes.oldest_key).where(
        _scopes.scope_id == _SCOPE_ID,
        _scopes.birth == bindparam("birth", type_=LargeBinary),
        ~_IS_ENDING,
        ~exists().where(*in_place, ends),
    )


_LIFE = _life(or_(_IS_OLDER, _HAS_OLDER_SIBLING))
# Distributed, siblings are in other shards: they are asked for while a project is erased alone.
_LIFE_IN_SHARD = _life(_IS_OLDER).add_columns(_scopes.principal)
_PROJECT_ENDS = select(func.max(_erasures.began_at)).where(
    _erasures.principal == _PROJECT, _erasures.finished_at.is_(None)
)
_OLDEST = select(func.min(_scopes.created_at)).where(_scopes.principal == bindparam("principal"))


def oldest_key_of(
    transaction: Transaction, scope_id: bytes, birth: bytes, places: Sequence[bytes]
) -> int | None:
    """Which key of a life of a scope may still seal, the oldest.

    ``None`` where that life is not there, or an erasure of it or of its ``places`` has begun.
    """
    project, module = (places[0], places[-1]) if places else (b"", b"")
    life = {"scope_id": scope_id, "birth": birth, "in_project": project, "in_module": module}
    if not transaction.is_distributed:
        row = transaction.row(_LIFE, **life)
    elif row := transaction.row(_LIFE_IN_SHARD, **life):
        ((ends,),) = transaction.rows(_PROJECT_ENDS, in_project=project)
        if ends is not None and (transaction.rows(_OLDEST, principal=row[1])[0][0] or 0) <= ends:
            return None
    return None if row is None else row[0]


def _row_of(scope_id: BindParameter[bytes]) -> Exists:
    return exists().where(_scopes.scope_id == scope_id)


def _records_of(scope_id: BindParameter[bytes]) -> ColumnElement[bool]:
    return or_(
        exists().where(schema.sessions.c.scope_id == scope_id),
        exists().where(schema.records.c.scope_id == scope_id),
    )


_PRINCIPAL = bindparam("principal", type_=LargeBinary)
_others = schema.scopes.alias("others")
_OF_PRINCIPAL = exists().where(_others.c.principal == _PRINCIPAL)
_OWN_TRACES = select(_row_of(_SCOPE_ID), _records_of(_SCOPE_ID))
_SELECT_TRACES = _OWN_TRACES.add_columns(_OF_PRINCIPAL)

_KEY = select(func.max(_uses.key_version)).where(_uses.scope_id == _SCOPE_ID).scalar_subquery()
_SEALS = (
    select(_uses.seals)
    .where(_uses.scope_id == _SCOPE_ID, _uses.key_version == _KEY)
    .scalar_subquery()
)
# A row in any case; the traces are looked for only where the scope has none.
_asked = select(_SCOPE_ID.label("scope_id")).subquery()
_is_absent = _scopes.scope_id.is_(None)
_SELECT = select(
    *_COLUMNS,
    _KEY,
    _SEALS,
    case((_is_absent, _records_of(_SCOPE_ID))),
    case((_is_absent, _OF_PRINCIPAL)),
).select_from(_asked.outerjoin(schema.scopes, _scopes.scope_id == _asked.c.scope_id))
# Distributed: the row alone, in the one shard that has it.
_SELECT_ROW = select(*_COLUMNS, _KEY, _SEALS).where(_scopes.scope_id == _SCOPE_ID)
# One for each level of sharing.
_ASKED = [bindparam(f"scope_id_{number}", type_=LargeBinary) for number in range(4)]
_SELECT_PRESENT = union_all(
    *(select(asked).where(or_(_row_of(asked), _records_of(asked))) for asked in _ASKED)
)


class ScopeRows:
    """The scopes in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def look(
        self, directory: DirectoryKey, scope_id: bytes, principal: bytes
    ) -> "ScopeRow | Traces":
        """A scope's row, checked; where it has none, what else there is, seen in the same state.

        Distributed, what there is of the scope alone, seen behind its row.

        Raises:
            RecordDoesNotOpen: The row is not as it was stored.
        """
        with Admission(scope_id, principal):
            found = self._database.read(_found, scope_id, principal)
        return found if isinstance(found, Traces) else checked(found, directory)

    def make(self, directory: DirectoryKey, owner: Owner, principal: PrincipalKeys) -> ScopeRow:
        """Insert the row of an owner's scope, with a new birth, if there is none."""
        row = new_row(directory, owner, principal)
        insert = _INSERT[self._database.is_postgres]
        values = dict(zip(_STORED, row, strict=False))
        with Admission(row.scope_id, row.principal):
            self._database.write(Transaction.execute, insert, **values)
        return row

    def delete(self, row: ScopeRow) -> None:
        """Remove the row, if it is still that of the same birth and nothing is below it.

        What others wrote below it while its keys lived goes with it when they are erased.
        """
        which = {"scope_id": row.scope_id, "birth": row.birth}
        with Admission(row.scope_id, row.principal), suppress(Conflict):
            self._database.write(Transaction.execute, _DELETE, **which)

    def of_principal(self, directory: DirectoryKey, principal: bytes) -> list[ScopeRow]:
        """The rows of every scope that a principal's keys seal, checked."""
        with Admission(principal):
            rows = self._database.read(Transaction.rows, _SELECT_OF_PRINCIPAL, principal=principal)
        return [checked(row, directory) for row in rows]

    def by_id(self, directory: DirectoryKey, scope_id: bytes) -> ScopeRow | None:
        """A scope's row, checked; ``None`` if it has none."""
        with Admission(scope_id):
            row = self._database.read(Transaction.row, _SELECT_BY_ID, scope_id=scope_id)
        return None if row is None else checked(row, directory)

    def walk(self, directory: DirectoryKey, **digests: bytes) -> Iterator[ScopeRow]:
        """Every scope's row, checked, in the order of their ids, a page in one state each.

        Args:
            directory: Checks them.
            digests: ``project``, or ``project`` and ``module``, of those that are asked for.
        """
        statement, behind = _PAGES[tuple(digests)], b""
        while rows := self._page(statement, behind=behind, **digests):
            yield from (checked(row, directory) for row in rows)
            behind = rows[-1][0]

    def _page(self, statement: Select[Any], **asked: bytes) -> list[Row]:
        with AdmissionToAll():
            return self._database.read(Transaction.rows, statement, **asked)

    def traces(self, scope_id: bytes, principal: bytes, *, is_new: bool) -> Traces:
        """What there is of a scope, asked where its row or its keys were not found.

        Args:
            scope_id: The scope.
            principal: Whose others are looked for, too.
            is_new: Never had a key: distributed, its others are not looked for. That would take
                every node, and no user could come while one is down.
        """
        with Admission(scope_id, principal):
            return self._database.read(_traces, scope_id, principal, is_new)

    def present(self, scope_ids: Sequence[bytes]) -> set[bytes]:
        """Those of at most four scopes of which there is anything, asked at once."""
        with Admission(*scope_ids):
            return self._database.read(_present, scope_ids)


def _found(transaction: Transaction, scope_id: bytes, principal: bytes) -> Row | Traces:
    if transaction.is_distributed:
        row = transaction.row(_SELECT_ROW, scope_id=scope_id)
        return row or _traces(transaction, scope_id, principal, is_new=True)
    asked = {"scope_id": scope_id, "principal": principal}
    *columns, has_records, of_principal = transaction.rows(_SELECT, **asked)[0]
    if columns[0] is None:
        return Traces(False, bool(has_records), bool(of_principal))
    return tuple(columns)


def _traces(transaction: Transaction, scope_id: bytes, principal: bytes, is_new: bool) -> Traces:
    if is_new and transaction.is_distributed:
        has_row, has_records = transaction.rows(_OWN_TRACES, scope_id=scope_id)[0]
        return Traces(bool(has_row), bool(has_records), of_principal=False)
    asked = {"scope_id": scope_id, "principal": principal}
    return Traces(*map(bool, transaction.rows(_SELECT_TRACES, **asked)[0]))


def _present(transaction: Transaction, scope_ids: Sequence[bytes]) -> set[bytes]:
    if transaction.is_distributed:
        return {one for one in scope_ids if any(_traces(transaction, one, b"", is_new=True))}
    names = [asked.key for asked in _ASKED]
    asked = dict(zip(names, islice(cycle(scope_ids), len(names)), strict=True))
    return {bytes(scope_id) for (scope_id,) in transaction.rows(_SELECT_PRESENT, **asked)}


def new_row(directory: DirectoryKey, owner: Owner, principal: PrincipalKeys) -> ScopeRow:
    """The row of an owner's scope that begins now."""
    scope_id, birth = directory.scope_id_of(owner), os.urandom(BIRTH_BYTES)
    key, place = principal.entry(scope_id, birth)
    row = ScopeRow(
        scope_id=scope_id,
        principal=directory.principal_of(owner),
        level=int(owner.level),
        incarnation=principal.incarnation,
        birth=birth,
        project=directory.project_of(owner),
        module=directory.module_of(owner),
        hold=None,
        oldest_key=principal.sealing_version,
        sealed=seal(key, place, _encode(owner)),
        created_at=now(),
        mac=b"",
    )
    return row._replace(mac=directory.scope_mac(*row[:_AUTHENTICATED]))


def checked(row: Row, directory: DirectoryKey) -> ScopeRow:
    """A stored row, if it is as it was stored.

    Raises:
        RecordDoesNotOpen: A column was changed, or the row is another's.
    """
    found = ScopeRow(*row)
    if not directory.has_scope(found.mac, *found[:_AUTHENTICATED]):
        raise RecordDoesNotOpen(Kind.SCOPE.label, "its row is not as it was stored")
    return found


def owner_of(row: ScopeRow, principal: PrincipalKeys) -> Owner:
    """The owner that a row names, opened with its principal's keys.

    Raises:
        RecordDoesNotOpen: It is not sealed with them.
    """
    key, place = principal.entry(row.scope_id, row.birth)
    entry = open_sealed({key.id: key}, place, row.sealed, kind=Kind.SCOPE.label)
    level, *ids = json.loads(entry)
    return Owner(Level(level), *ids)


def _encode(owner: Owner) -> bytes:
    ids = (owner.project, owner.user, owner.module, owner.guest)
    return json.dumps([owner.level, *ids]).encode()
