"""Container rows as whoever holds the keys may change them."""

from langmem_isolated import ScopedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._storage.container_state import ContainerState
from tests.conftest import Attacker

CLEAR = list(ContainerState._fields)
ROW = [*CLEAR, "sealed"]
COLUMNS = ", ".join(CLEAR)


def state_of(scoped: ScopedMemory, attacker: Attacker, kind: Kind, name: str) -> ContainerState:
    """The row of a session, thread or collection, checked."""
    keys = scoped._records.keys()
    digest = keys.pseudonym(kind, name.encode())
    where = "WHERE kind = ? AND digest = ?"
    [row] = attacker(f"SELECT {COLUMNS} FROM sessions {where}", int(kind), digest)
    row = tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)
    return ContainerState.checked(kind, keys, digest, row)


def expire(scoped: ScopedMemory, attacker: Attacker, session_id: str, expires_at: int) -> None:
    """Give a session an expiry, under a row MAC that fits."""
    keys = scoped._records.keys()
    digest = keys.pseudonym(Kind.SESSION, session_id.encode())
    state = state_of(scoped, attacker, Kind.SESSION, session_id)._replace(expires_at=expires_at)
    attacker(
        "UPDATE sessions SET expires_at = ?, row_mac = ? WHERE digest = ?",
        expires_at, state.computed_mac(Kind.SESSION, keys, digest), digest,
    )  # fmt: skip
