"""Lists threads, reads their headers, and removes them."""

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.containers import ContainerRows, Listed
from langmem_isolated._storage.threads import statements as sql
from langmem_isolated.errors import RecordDoesNotOpen

ROWS = ContainerRows(Kind.THREAD, sql.DELETE_BODIES, sql.DELETE_ELEMENTS)


def header_of(transaction: Transaction, keys: ScopeKeys, digest: bytes, now: int) -> bytes | None:
    """A thread's header in plaintext; ``None`` when it is expired.

    Raises:
        RecordDoesNotOpen: Its row was changed or moved, or is missing.
    """
    found = ROWS.header(transaction, keys, digest)
    if found is None:
        raise RecordDoesNotOpen(Kind.THREAD.label, "its row is missing")
    state, header = found
    return None if state.is_expired(now) else header


def list_threads(transaction: Transaction, keys: ScopeKeys, now: int) -> list[Listed]:
    """The scope's threads by last activity, newest first."""
    rows = transaction.rows(sql.LIST_THREADS, scope_id=keys.scope_id, now=now)
    return [ROWS.listed(keys, row) for row in rows]
