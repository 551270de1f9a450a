"""Removes all rows of a scope whose keys are destroyed, in batches, and counts them by kind."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database import schema
from langmem_isolated._database.admission import Admission
from langmem_isolated._database.database import Database
from langmem_isolated._database.driver_errors import Conflict
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.scope_rows import ScopeRow
from langmem_isolated.errors import DatabaseLocked

# 500 rows took 8 to 20 ms on SQLite, 1,000 up to 276: what waits for the lock notices that.
BATCH = 500
# Waits that are begun again. Some writers lock in another order, as with their first of a day: the
# removal gives way to them, before PostgreSQL finds the deadlock in 1 s and ends either.
_ATTEMPTS = 64
_BE_PATIENT = sa.text("SET LOCAL lock_timeout = '250ms'")
# Citus hands to its workers what is local to a transaction, where that says so.
_TELL_WORKERS = sa.text("SET LOCAL citus.propagate_set_commands = 'local'")
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
_DELETE_SCOPE = delete(schema.scopes).where(_OF_LIFE).returning(schema.scopes.c.level)

_LOCK_SESSIONS = (
    select(schema.sessions.c.kind)
    .where(schema.sessions.c.scope_id == _SCOPE_ID)
    .order_by(schema.sessions.c.kind, schema.sessions.c.digest)
    .with_for_update()
)
_LOCK_SCOPE = select(schema.scopes.c.level).where(_OF_LIFE).with_for_update()

Removal = Callable[[Transaction], Counter[Kind]]
Counted = Callable[[Transaction, bytes, Callable[[], Counter[Kind]]], Counter[Kind]]
"""Runs a removal of a principal's rows in its transaction, and counts there what it removed."""


def _uncounted(_: Transaction, __: bytes, remove: Callable[[], Counter[Kind]]) -> Counter[Kind]:
    return remove()


def remove_rows(
    database: Database,
    row: ScopeRow,
    progress: Callable[[int], object] = lambda _: None,
    counted: Counted = _uncounted,
) -> Counter[Kind]:
    """Remove every row of one life of a scope, its own last; at most 500 of a table a transaction.

    Whoever has its keys in memory yet may write until then: that is removed as well. Killed at any
    point, it goes on when it is called again.

    Args:
        database: Holds them.
        row: The scope's own. What stands under its id in a later life is left alone.
        progress: Told after each batch how many were removed by it.
        counted: Runs each batch, in its transaction, and behind them the removal of the scope's
            own row, of which it is told as of a kind.

    Returns:
        How many there were of each kind: records, and sessions, threads and collections.

    Raises:
        DatabaseLocked: Writers had the scope's row again and again; to call again goes on.
    """
    counts: Counter[Kind] = Counter()

    def run(remove: Removal) -> Counter[Kind]:
        with Admission(row.scope_id, row.principal):
            removed = database.write(_within, counted, row.principal, remove)
        records = removed - Counter({Kind.SCOPE: 1})
        counts.update(records)
        if records:
            progress(records.total())
        return removed

    for left in range(_ATTEMPTS, -1, -1):
        try:
            while not _removed_all(row, run, database.checkpoint_log):
                pass
        except DatabaseLocked:
            # SQLite has waited for as long as it was told to; there are no deadlocks.
            if not left or not database.is_postgres:
                raise
        else:
            break
    return counts


def _removed_all(
    row: ScopeRow, run: Callable[[Removal], Counter[Kind]], between: Callable[[], None]
) -> bool:
    """Remove all batches and the scope's row; not, where writers have written meanwhile."""
    life = {"scope_id": row.scope_id, "birth": row.birth}
    for batch in _BATCHES:
        while removed := run(partial(_remove_batch, batch, life)):
            if removed.total() == BATCH:
                between()
    with suppress(Conflict):
        return run(partial(_remove_scope, life)).total() < BATCH
    return False


def _within(
    transaction: Transaction,
    counted: Counted,
    principal: bytes,
    remove: Removal,
) -> Counter[Kind]:
    return counted(transaction, principal, partial(remove, transaction))


def _remove_batch(
    batch: sa.Executable, life: dict[str, bytes], transaction: Transaction
) -> Counter[Kind]:
    return Counter(Kind(kind) for (kind,) in transaction.rows(batch, **life))


def _remove_scope(life: dict[str, bytes], transaction: Transaction) -> Counter[Kind]:
    """What was written since, and the scope's row with its usage and the uses of its keys.

    Who writes into a session locks its row, and refers to the scope's row then; who puts an item
    refers to that first. Locked in this order both end before, or wait for it and hold nothing.
    """
    counts = Counter[Kind]()
    if transaction.is_postgres:
        if transaction.is_distributed:
            transaction.execute(_TELL_WORKERS)
        transaction.execute(_BE_PATIENT)
        transaction.rows(_LOCK_SESSIONS, **life)
        transaction.rows(_LOCK_SCOPE, **life)
    for batch in reversed(_BATCHES):
        removed = _remove_batch(batch, life, transaction)
        counts += removed
        if removed.total() == BATCH:
            return counts
    if transaction.rows(_DELETE_SCOPE, **life):
        counts[Kind.SCOPE] = 1
    return counts
