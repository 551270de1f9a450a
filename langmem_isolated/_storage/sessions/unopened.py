"""Sessions as they are counted without being opened."""

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage import inbox
from langmem_isolated._storage.container_state import STATE, ContainerState
from langmem_isolated._storage.containers import in_scope
from langmem_isolated._storage.working_locked import works_locked

PAGE = 500
_sessions = schema.sessions.c
_PAGE = (
    select(*STATE, _sessions.digest)
    .where(in_scope(Kind.SESSION), _sessions.digest > bindparam("behind", type_=sa.LargeBinary))
    .order_by(_sessions.digest)
    .limit(sa.literal_column(str(PAGE)))
    .offset(sa.literal_column("0"))
)


@works_locked
def page(
    transaction: Transaction, keys: ScopeKeys, behind: bytes, now: int
) -> tuple[list[tuple[bytes, ContainerState, int]], bytes]:
    """Up to 500 sessions by their digests, behind one: digest, state, and how much waits for it.

    And what the next page begins behind; ``b""`` at the end.

    Expired ones are left out.

    Raises:
        RecordDoesNotOpen: A row was tampered with.
    """
    rows = transaction.rows(_PAGE, scope_id=keys.scope_id, behind=behind)
    waiting = dict(inbox.waiting(transaction, keys))
    checked = (
        (digest, ContainerState.checked(Kind.SESSION, keys, digest, tuple(row)))
        for *row, digest in rows
    )
    found = [
        (digest, state, waiting.get(digest, 0))
        for digest, state in checked
        if not state.is_expired(now)
    ]
    return found, rows[-1][-1] if len(rows) == PAGE else b""
