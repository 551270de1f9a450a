"""Lists sessions, reads and rewrites their headers, and removes them."""

from collections.abc import Callable

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.container_state import ContainerState
from langmem_isolated._storage.containers import ContainerRows, Listed
from langmem_isolated._storage.sessions import statements as sql


def session_digest(keys: ScopeKeys, session_id: str) -> bytes:
    """The digest by which tables know a session."""
    return keys.pseudonym(Kind.SESSION, session_id.encode())


ROWS = ContainerRows(Kind.SESSION, sql.REMOVE_MESSAGES)


def create(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: str,
    header: bytes,
    birth: bytes,
    now: int,
) -> bool:
    """Insert the session's row if it is absent, which is told; ``birth`` is 16 random bytes.

    Raises:
        ScopeGone: The scope was erased meanwhile; nothing was written.
    """
    digest = session_digest(keys, session_id)
    return ROWS.get_or_create(transaction, keys, digest, header, birth, now).birth == birth


def remove(transaction: Transaction, keys: ScopeKeys, session_id: str) -> bool:
    """Remove the session and its messages; ``False`` if there is no such session."""
    return ROWS.remove(transaction, keys, session_digest(keys, session_id))


def list_sessions(
    transaction: Transaction, keys: ScopeKeys, position: tuple[int, bytes], limit: int, now: int
) -> list[Listed]:
    """The scope's sessions by last activity, newest first, and by digest where that is the same.

    Args:
        position: Last activity and digest of the session behind which the list goes on.

    One that was tampered with is listed without its header rather than failing the others.
    """
    until, behind = position
    rows = transaction.rows(
        sql.LIST, scope_id=keys.scope_id, until=until, behind=behind, limit=limit, now=now
    )
    return [ROWS.listed(keys, row) for row in rows]


def find(transaction: Transaction, keys: ScopeKeys, session_id: str, now: int) -> Listed | None:
    """The session as :func:`list_sessions` has it; ``None`` if there is none."""
    digest = session_digest(keys, session_id)
    row = transaction.row(sql.FIND, scope_id=keys.scope_id, digest=digest, now=now)
    return None if row is None else ROWS.listed(keys, row)


def header(
    transaction: Transaction, keys: ScopeKeys, session_id: str, now: int
) -> tuple[ContainerState, bytes] | None:
    """The session's state and header; ``None`` if there is no session."""
    found = ROWS.header(transaction, keys, session_digest(keys, session_id))
    return None if found is None or found[0].is_expired(now) else found


def rewrite(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: str,
    change: Callable[[bytes, ContainerState], bytes],
    now: int,
) -> bool:
    """Replace the session's header by what ``change`` makes of it; ``False`` without a session.

    ``change`` is told the session's state, too.
    """
    digest = session_digest(keys, session_id)
    if ROWS.lock(transaction, keys, digest) is None:
        return False
    found = ROWS.header(transaction, keys, digest)
    if found is None or found[0].is_expired(now):
        return False
    state, header = found
    ROWS.rewrite(transaction, keys, digest, state, change(header, state))
    return True
