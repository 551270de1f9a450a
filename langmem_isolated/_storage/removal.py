"""Removes all rows of a scope whose keys are destroyed, in batches, and counts them by kind."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database import schema
from langmem_isolated._database.database import Database
from langmem_isolated._database.dialects import Conflict
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.scope_rows import ScopeRow
from langmem_isolated.errors import DatabaseLocked

# 500 rows took 8 to 20 ms on SQLite, 1,000 up to 276: what waits for the lock notices that.
BATCH = 500
_ATTEMPTS = 8
T = TypeVar("T")
_SCOPE_ID = bindparam("scope_id", type_=sa.LargeBinary)
_LIMIT: sa.ColumnElement[int] = sa.literal_column(str(BATCH))
_NO_OFFSET: sa.ColumnElement[int] = sa.literal_column("0")
_OF_LIFE = sa.and_(
    schema.scopes.c.scope_id == _SCOPE_ID,
    schema.scopes.c.birth == bindparam("birth", type_=sa.LargeBinary),
)
# Whoever was erased may have come back: what the new life has stands under the same scope.
_IS_OF_LIFE = sa.exists().where(_OF_LIFE)


def _batch(table: sa.Table, *address: str) -> sa.Delete:
    """Some rows of a scope; SQLite's DELETE has no limit of its own."""
    columns = [table.c[name] for name in address]
    some = select(*columns).where(table.c.scope_id == _SCOPE_ID).limit(_LIMIT).offset(_NO_OFFSET)
    return delete(table).where(
        table.c.scope_id == _SCOPE_ID, sa.tuple_(*columns).in_(some), _IS_OF_LIFE
    )


_BATCHES = (
    _batch(schema.records, "kind", "parent", "key").returning(schema.records.c.kind),
    _batch(schema.sessions, "kind", "digest").returning(schema.sessions.c.kind),
)
_DELETE_SCOPE = delete(schema.scopes).where(_OF_LIFE)


def remove_rows(
    database: Database, row: ScopeRow, progress: Callable[[int], object] = lambda _: None
) -> Counter[Kind]:
    """Remove every row of one life of a scope, its own last; at most 500 a transaction.

    Whoever has its keys in memory yet may write until then: that is removed as well. Killed at any
    point, it goes on when it is called again.

    Args:
        database: Holds them.
        row: The scope's own. What stands under its id in a later life is left alone.
        progress: Told after each batch how many were removed by it.

    Returns:
        How many there were of each kind: records, and sessions, threads and collections.
    """
    counts: Counter[Kind] = Counter()
    life = {"scope_id": row.scope_id, "birth": row.birth}
    while True:
        for batch in _BATCHES:
            while rows := _written(database, Transaction.rows, batch, **life):
                counts.update(Kind(kind) for (kind,) in rows)
                progress(len(rows))
                database.checkpoint_log()
        try:
            # Its usage and the uses of its keys go with it.
            _written(database, _remove_scope, life)
        except Conflict:
            continue
        return counts


def _remove_scope(transaction: Transaction, life: dict[str, bytes]) -> None:
    transaction.execute(_DELETE_SCOPE, **life)


def _written(database: Database, operation: Callable[..., T], *args: object, **values: object) -> T:
    """What a transaction does; begun again where PostgreSQL ended it for a deadlock."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(DatabaseLocked):
            return database.write(operation, *args, **values)
    return database.write(operation, *args, **values)
