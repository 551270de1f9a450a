"""Removes all rows of a scope whose keys are destroyed, in batches, and counts them by kind."""

from collections import Counter

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database import schema
from langmem_isolated._database.database import Database
from langmem_isolated._database.dialects import Conflict
from langmem_isolated._database.transactions import Transaction

# 500 rows took 8 to 20 ms on SQLite, 1,000 up to 276: what waits for the lock notices that.
BATCH = 500
_SCOPE_ID = bindparam("scope_id", type_=sa.LargeBinary)
_LIMIT: sa.ColumnElement[int] = sa.literal_column(str(BATCH))
_NO_OFFSET: sa.ColumnElement[int] = sa.literal_column("0")


def _batch(table: sa.Table, *address: str) -> sa.Delete:
    """Some rows of a scope; SQLite's DELETE has no limit of its own."""
    columns = [table.c[name] for name in address]
    some = select(*columns).where(table.c.scope_id == _SCOPE_ID).limit(_LIMIT).offset(_NO_OFFSET)
    return delete(table).where(table.c.scope_id == _SCOPE_ID, sa.tuple_(*columns).in_(some))


_BATCHES = (
    _batch(schema.records, "kind", "parent", "key").returning(schema.records.c.kind),
    _batch(schema.sessions, "kind", "digest").returning(schema.sessions.c.kind),
)
_DELETE_USAGE = delete(schema.usage).where(schema.usage.c.scope_id == _SCOPE_ID)
_DELETE_SCOPE = delete(schema.scopes).where(schema.scopes.c.scope_id == _SCOPE_ID)


def remove_rows(database: Database, scope_id: bytes) -> Counter[Kind]:
    """Remove every row of a scope, its own last; at most 500 a transaction.

    Whoever has its keys in memory yet may write until then: that is removed as well. Killed at any
    point, it goes on when it is called again.

    Returns:
        How many there were of each kind: records, and sessions, threads and collections.
    """
    counts: Counter[Kind] = Counter()
    while True:
        for batch in _BATCHES:
            while rows := database.write(Transaction.rows, batch, scope_id=scope_id):
                counts.update(Kind(kind) for (kind,) in rows)
        try:
            database.write(_remove_scope, scope_id)
        except Conflict:
            continue
        return counts


def _remove_scope(transaction: Transaction, scope_id: bytes) -> None:
    transaction.execute(_DELETE_USAGE, scope_id=scope_id)
    transaction.execute(_DELETE_SCOPE, scope_id=scope_id)
