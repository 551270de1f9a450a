"""Threads as rows: how they are listed, and their headers."""

from typing import NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.container_listing import ContainerListing
from langmem_isolated._storage.container_state import ContainerState
from langmem_isolated._storage.containers import ContainerRows
from langmem_isolated._storage.threads import statements as sql
from langmem_isolated._storage.threads.addresses import Life
from langmem_isolated.errors import RecordDoesNotOpen

ROWS = ContainerRows(Kind.THREAD, sql.DELETE_BODIES, sql.DELETE_ELEMENTS)
LISTING = ContainerListing(Kind.THREAD, ROWS)


class ThreadRow(NamedTuple):
    """A thread's row and its header in plaintext."""

    life: Life
    state: ContainerState
    header: bytes


class ThreadRows(dict[bytes, ThreadRow]):
    """The rows of threads by their digests, each read and checked when it is first asked for.

    Raises:
        RecordDoesNotOpen: A row was changed or moved, or is missing.
    """

    def __init__(self, transaction: Transaction, keys: ScopeKeys) -> None:
        super().__init__()
        self._transaction = transaction
        self._keys = keys

    def __missing__(self, digest: bytes) -> ThreadRow:
        found = ROWS.header(self._transaction, self._keys, digest)
        if found is None:
            raise RecordDoesNotOpen(Kind.THREAD.label, "its row is missing")
        state, header = found
        row = self[digest] = ThreadRow(Life(digest, state.birth), state, header)
        return row
