"""Audit chain: hashes that tie each sealed entry of a shard to the one before it.

The hash has no key: whoever has the table, and no key of ours, computes it again and compares it
with an anchor that left the database. What keeps others from writing a chain anew is the MAC over
its ends (`_storage/audit.py`), and the seal of each entry.
"""

import hashlib

from langmem_isolated._crypto.sealing import framed

HASH_BYTES = 32
_PURPOSE = framed(b"langmem-isolated/v1", b"audit")


def first_hash(directory_id: bytes, shard: int) -> bytes:
    """What the first entry of a shard follows: a chain of another installation fits nowhere."""
    return hashlib.sha256(_PURPOSE + framed(b"begin", directory_id, shard.to_bytes(2))).digest()


def place_of(shard: int, sequence: int, scope_id: bytes | None, created_at: int) -> bytes:
    """The associated data of an entry: all its columns but what is sealed at them.

    Raises:
        OverflowError: A number has no place in its bytes.
    """
    return framed(
        b"audit", shard.to_bytes(2), sequence.to_bytes(8), scope_id, created_at.to_bytes(8)
    )


def entry_hash(previous: bytes, place: bytes, sealed: bytes) -> bytes:
    """The hash of an entry (SHA-256, FIPS 180-4), 32 bytes.

    Args:
        previous: The hash of the entry before it, or :func:`first_hash`.
        place: As :func:`place_of` makes it.
        sealed: As it is stored.
    """
    return hashlib.sha256(_PURPOSE + framed(b"entry", previous, place, sealed)).digest()
