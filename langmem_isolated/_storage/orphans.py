"""Orphans: rows that belong to no scope, found table by table without a look at all rows.

Each table that has a scope's rows is led by ``scope_id``: one jump through its index for each scope
that it names. A scope's row is made before all that refers to it, and goes behind it: in one state
of the database there is none without.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._database import schema
from langmem_isolated._database.database import Database
from langmem_isolated._storage.census import asked_of_all

TABLES = (schema.sessions, schema.records, schema.usage, schema.key_uses)
"""Those whose rows are a scope's."""
_BEHIND = bindparam("behind", type_=sa.LargeBinary)
_JUMPS = 500


class Orphans(NamedTuple):
    """Rows of a table under a scope id that no scope has."""

    table: str
    scope_id: str
    """In hex."""


def _jumps(table: sa.Table) -> sa.Select[Any]:
    """The next ids that a table names, and whether a scope has each."""
    column, scopes = table.c.scope_id, schema.scopes.c.scope_id

    def behind(what: sa.ColumnElement[Any]) -> Any:
        return (
            select(column).where(column > what).order_by(column)
            .limit(sa.literal_column("1")).offset(sa.literal_column("0"))
        )  # fmt: skip

    named = select(behind(_BEHIND).scalar_subquery().label("scope_id")).cte("named", recursive=True)
    again = select(behind(named.c.scope_id).scalar_subquery()).where(named.c.scope_id.is_not(None))
    named = named.union_all(again)
    return (
        select(named.c.scope_id, sa.exists().where(scopes == named.c.scope_id))
        .where(named.c.scope_id.is_not(None))
        .limit(sa.literal_column(str(_JUMPS)))
        .offset(sa.literal_column("0"))
    )


def _strays(table: sa.Table) -> sa.Select[Any]:
    """The next ids that a table names and no scope has; it looks at every row."""
    column, scopes = table.c.scope_id, schema.scopes.c.scope_id
    return (
        select(column, sa.false().label("has_row"))
        .distinct()
        .where(column > _BEHIND, ~sa.exists().where(scopes == column))
        .order_by(column)
        .limit(sa.literal_column(str(_JUMPS)))
        .offset(sa.literal_column("0"))
    )


_NAMED = {table.name: _jumps(table) for table in TABLES}
# Distributed: a cluster takes no recursion over its shards, and each looks at its own rows.
_STRAYS = {table.name: _strays(table) for table in TABLES}
# In SQLite's order numbers and texts, which only somebody else puts there, stand before all bytes.
_MISTYPED = {
    table.name: select(sa.func.count()).select_from(table).where(
        table.c.scope_id < bindparam("none", type_=sa.LargeBinary)
    )
    for table in (*TABLES, schema.scopes)
}  # fmt: skip


def orphans(database: Database) -> Iterator[Orphans]:
    """Every scope id, by table, that rows have and no scope."""
    for name, statement in _MISTYPED.items():
        if asked_of_all(database, statement, none=b"")[0][0]:
            yield Orphans(name, "")
    is_distributed = database.statements.dialect.is_distributed
    for name, statement in (_STRAYS if is_distributed else _NAMED).items():
        behind = b""
        while rows := asked_of_all(database, statement, behind=behind):
            yield from (
                Orphans(name, bytes(scope_id).hex()) for scope_id, has_row in rows if not has_row
            )
            behind = rows[-1][0]
