"""Digests of what a search had to open for having none: stored behind it, some at a time."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.equalities import NewDigests
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import DatabaseError

# Others of the scope wait for them.
_AT_ONCE = 500


def store_digests(
    records: ScopedDatabase,
    index: Callable[[Transaction, ScopeKeys, Sequence[NewDigests]], None],
    unindexed: Sequence[NewDigests],
) -> None:
    """Index records by the fields of whoever searched.

    What cannot be stored, for somebody else goes on writing until the timeout or nobody may, is
    opened again at the next search: this one has found what it looked for.
    """
    with suppress(DatabaseError):
        for start in range(0, len(unindexed), _AT_ONCE):
            records.write_if_exists(index, None, unindexed[start : start + _AT_ONCE])
