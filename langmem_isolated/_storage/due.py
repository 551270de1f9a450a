"""Due: finds by clear columns what has expired, or is older than a policy keeps it.

Queries that lock nothing and open nothing: what they find is looked at again when it is removed.
Each gives a page in the order of an index, and goes on behind its last row.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Row, Transaction

PAGE = 500
_records, _sessions, _scopes = schema.records.c, schema.sessions.c, schema.scopes.c
_LIMIT: sa.ColumnElement[int] = sa.literal_column(str(PAGE))
_NONE: sa.ColumnElement[int] = sa.literal_column("0")


def _number(kind: int) -> sa.ColumnElement[int]:
    return sa.literal_column(str(int(kind)))


def _page(columns: tuple[Any, ...], *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """The rows behind one, in the order of ``columns``."""
    behind = sa.tuple_(*(bindparam(f"behind_{c.name}", type_=c.type) for c in columns))
    return (
        select(*columns)
        .where(*where, sa.tuple_(*columns) > behind)
        .order_by(*columns)
        .limit(_LIMIT)
        .offset(_NONE)
    )


class Pages(NamedTuple):
    """A query that is asked page by page."""

    statement: sa.Select[Any]
    values: Mapping[str, object]
    names: tuple[str, ...]
    types: tuple[type, ...]
    behind: tuple[object, ...]

    def rows(self, transaction: Transaction) -> list[Row]:
        """The page behind ``behind``."""
        position = dict(zip((f"behind_{name}" for name in self.names), self.behind, strict=True))
        return transaction.rows(self.statement, **self.values, **position)

    def is_sound(self, row: Row) -> bool:
        """Whether each column of a row has its type: SQLite keeps any type in any column."""
        return all(type(value) is of for value, of in zip(row, self.types, strict=True))

    def after(self, last: Row) -> "Pages":
        """The same behind the last row of a page."""
        return self._replace(behind=tuple(last[: len(self.names)]))


def _pages(columns: tuple[Any, ...], statement: sa.Select[Any], **values: object) -> Pages:
    names = tuple(column.name for column in columns)
    types = tuple(bytes if isinstance(c.type, sa.LargeBinary) else int for c in columns)
    first = tuple(b"" if of is bytes else NOTHING_BEFORE for of in types)
    return Pages(statement, values, names, types, first)


# Before every time and every number of a kind.
NOTHING_BEFORE = -1
_EXPIRED_ROW = (_sessions.expires_at, _sessions.scope_id, _sessions.kind, _sessions.digest)
_EXPIRED_RECORD = (
    _records.expires_at,
    _records.scope_id,
    _records.kind,
    _records.parent,
    _records.key,
)
_NOW = bindparam("now", type_=sa.BigInteger)
_EXPIRED_ROWS = _page(_EXPIRED_ROW, _sessions.expires_at <= _NOW)
_EXPIRED_RECORDS = _page(_EXPIRED_RECORD, _records.expires_at <= _NOW)


def expired_containers(now: int) -> Pages:
    """Expiry, scope, kind and digest of containers; first those that are being removed."""
    return _pages(_EXPIRED_ROW, _EXPIRED_ROWS, now=now)


def expired_records(now: int) -> Pages:
    """Expiry, scope, kind, parent and key of items and entries."""
    return _pages(_EXPIRED_RECORD, _EXPIRED_RECORDS, now=now)


class Reach(NamedTuple):
    """Which scopes are asked about, by their digests: all that have what is not ``None``."""

    project: bytes | None = None
    module: bytes | None = None
    principal: bytes | None = None
    scope_id: bytes | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Which columns are compared."""
        return tuple(name for name, value in self._asdict().items() if value is not None)

    @property
    def values(self) -> dict[str, object]:
        """What they are compared with, by the names of the parameters."""
        return {f"in_{name}": getattr(self, name) for name in self.names}


def _reached(names: tuple[str, ...]) -> list[sa.ColumnElement[bool]]:
    return [_scopes[name] == bindparam(f"in_{name}", type_=sa.LargeBinary) for name in names]


_ROW = (_sessions.scope_id, _sessions.digest)


@cache
def _containers(kind: Kind, names: tuple[str, ...]) -> sa.Select[Any]:
    is_due = sa.or_(
        _sessions.created_at <= bindparam("created", type_=sa.BigInteger),
        _sessions.updated_at <= bindparam("updated", type_=sa.BigInteger),
    )
    many = _sessions.count > bindparam("more_than", type_=sa.BigInteger)
    page = _page(_ROW, _sessions.kind == _number(kind), is_due, many, *_reached(names))
    return page.join_from(schema.sessions, schema.scopes, _scopes.scope_id == _sessions.scope_id)


def containers(
    kind: Kind, reach: Reach, *, created: int = -1, updated: int = -1, more_than: int = -1
) -> Pages:
    """Scope and digest of containers made, or last written, at a time or before, in µs.

    Args:
        kind: `SESSION`, `THREAD` or `COLLECTION`.
        reach: Of which scopes.
        created: When they were made at the latest, or
        updated: when something was last done to them.
        more_than: And they count more records than this.
    """
    values = {"created": created, "updated": updated, "more_than": more_than}
    return _pages(_ROW, _containers(kind, reach.names), **reach.values, **values)


@cache
def _with_older(kind: Kind, below: Kind, names: tuple[str, ...]) -> sa.Select[Any]:
    of_row = sa.and_(
        _records.scope_id == _sessions.scope_id,
        _records.kind == _number(below),
        _records.parent == _sessions.digest,
    )
    has_older = sa.exists().where(of_row, _records.updated_at <= bindparam("until"))
    if below is Kind.MESSAGE:
        # They stand in the order in which they were stored: the first tells of all.
        first = select(_records.updated_at).where(of_row).order_by(_records.key)
        oldest = first.limit(_number(1)).offset(_NONE).scalar_subquery()
        has_older = oldest <= bindparam("until", type_=sa.BigInteger)  # type: ignore[assignment]
    # Documents may be older than their collection: those that were imported or merged.
    made = [_sessions.created_at <= bindparam("until", type_=sa.BigInteger)]
    made = [] if below is Kind.DOCUMENT else made
    many = _sessions.count > bindparam("more_than", type_=sa.BigInteger)
    page = _page(
        _ROW,
        _sessions.kind == _number(kind),
        sa.or_(sa.and_(*made, has_older), many),
        *_reached(names),
    )
    return page.join_from(schema.sessions, schema.scopes, _scopes.scope_id == _sessions.scope_id)


def with_older(kind: Kind, below: Kind, reach: Reach, until: int, more_than: int) -> Pages:
    """Scope and digest of containers that have a record from ``until`` or before, or too many.

    Args:
        kind: That of the containers.
        below: That of the records.
        reach: Of which scopes.
        until: In µs.
        more_than: So many records are too many.
    """
    statement = _with_older(kind, below, reach.names)
    return _pages(_ROW, statement, **reach.values, until=until, more_than=more_than)


_AT = (_records.scope_id, _records.parent, _records.key)


@cache
def _older_records(kind: Kind, names: tuple[str, ...]) -> sa.Select[Any]:
    is_old = _records.updated_at <= bindparam("until", type_=sa.BigInteger)
    page = _page(_AT, _records.kind == _number(kind), is_old, *_reached(names))
    return page.join_from(schema.records, schema.scopes, _scopes.scope_id == _records.scope_id)


def older_records(kind: Kind, reach: Reach, until: int) -> Pages:
    """Scope, parent and key of records that were last put at ``until`` or before, in µs."""
    return _pages(_AT, _older_records(kind, reach.names), **reach.values, until=until)


_has_policy = sa.exists().where(
    _records.scope_id == _scopes.scope_id, _records.kind == _number(Kind.POLICY)
)
_SCOPE = (_scopes.scope_id,)
_WITH_POLICIES = _page(
    _SCOPE, _scopes.level.in_([_number(Level.USER), _number(Level.PROJECT)]), _has_policy
)


def scopes_with_policies() -> Pages:
    """The scopes in which policies or holds stand."""
    return _pages(_SCOPE, _WITH_POLICIES)
