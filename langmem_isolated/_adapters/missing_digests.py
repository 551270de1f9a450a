"""Digests of what a search had to open for having none: stored behind it, some at a time."""

import time
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.equalities import NewDigests
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import DatabaseError

# Others of the scope wait for them.
_AT_ONCE = 500
# For so long no search writes where one could not: it would wait for `timeout`, or be refused.
_PAUSE_SECONDS = 60.0

_failed_at: WeakKeyDictionary[Database, float] = WeakKeyDictionary()


def store_digests(
    records: ScopedDatabase,
    index: Callable[[Transaction, ScopeKeys, Sequence[NewDigests]], None],
    unindexed: Sequence[NewDigests],
) -> None:
    """Index records by the fields of whoever searched.

    What cannot be stored, for somebody else goes on writing until the timeout or nobody may, is
    opened again by the searches of the next minute: this one has found what it looked for.
    """
    failed_at = _failed_at.get(records.database)
    if failed_at is not None and time.monotonic() - failed_at < _PAUSE_SECONDS:
        return
    try:
        for start in range(0, len(unindexed), _AT_ONCE):
            records.write_if_exists(index, None, unindexed[start : start + _AT_ONCE])
    except DatabaseError:
        _failed_at[records.database] = time.monotonic()
