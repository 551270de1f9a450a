"""Expiry MAC: authenticates when a record expires, apart from what is sealed in it.

So that a time to live can be refreshed without sealing the record anew. The MAC covers the time the
record was put at: an earlier put's expiry does not fit a later one.
"""

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated.errors import RecordDoesNotOpen

# The time that it is, for who reads what never expires, or says itself until when it counts:
# nothing has expired then, whatever somebody wrote into the table.
WHENEVER = -(2**63)


def expiry_mac(
    keys: ScopeKeys, kind: Kind, address: tuple[bytes, bytes], updated_at: int, expires_at: int
) -> bytes:
    """16 bytes beside the expiry of the record at an address (its parent and key)."""
    times = updated_at.to_bytes(8) + expires_at.to_bytes(8)
    return keys.row_mac(b"expiry", kind.framed_bytes, *address, times)


def check_expiry(
    keys: ScopeKeys,
    kind: Kind,
    address: tuple[bytes, bytes],
    updated_at: int,
    stored: tuple[object, object],
    *,
    is_expected: bool,
) -> None:
    """Check the columns ``stored`` (expiry and its MAC) of a record that expires, or does not.

    Raises:
        RecordDoesNotOpen: They were changed, or taken away.
    """
    expires_at, mac = stored
    fits = expires_at is None and mac is None
    if is_expected:
        fits = (
            type(expires_at) is int
            and expires_at >= 0
            and mac == expiry_mac(keys, kind, address, updated_at, expires_at)
        )
    if not fits:
        raise RecordDoesNotOpen(kind.label, "its expiry is not the one it was given")
