"""Sessions as rows: how they are listed, and begun."""

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._storage.container_listing import ContainerListing
from langmem_isolated._storage.containers import ContainerRows
from langmem_isolated._storage.inbox import ROWS as INBOX
from langmem_isolated._storage.sessions import statements as sql

ROWS = ContainerRows(Kind.SESSION, sql.REMOVE_MESSAGES, waiting=INBOX)
LISTING = ContainerListing(Kind.SESSION, ROWS)


def session_digest(keys: ScopeKeys, session_id: str) -> bytes:
    """The digest by which tables know a session."""
    return keys.pseudonym_of_name(Kind.SESSION, session_id.encode())
