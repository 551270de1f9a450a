"""Keyed multiset hash (MSet-Add-Hash): one sum that stands for all records below a row.

A record's part is HMAC-SHA256 of its address, time and content, as a number; the sum of the parts,
modulo 2^256, changes with every record that is added, removed, exchanged or restored, and is
brought up to date without reading the others. It is stored in 48 bytes::

    16 nonce | 32 (sum + HMAC-SHA256(nonce)) modulo 2^256

Under a nonce of its own each time, or the parts could be computed from two sums, and other records
with the same sum be looked for.

Source: MSet-Add-Hash of Clarke, Devadas, van Dijk, Gassend and Suh, "Incremental Multiset Hash
Functions and Their Application to Memory Integrity Checking", ASIACRYPT 2003, section 3.
"""

import os

from langmem_isolated._crypto.sealing import DigestKey
from langmem_isolated._crypto.secret_bytes import SecretBytes

NONCE_BYTES = 16
SUM_BYTES = 32
MULTISET_BYTES = NONCE_BYTES + SUM_BYTES
_MODULUS = 1 << 8 * SUM_BYTES
# A mask is made of fewer parts than a record's: one is never the other.
_MASK = b"mask"


class MultisetHash:
    """Sums of records, which only the holder of ``key`` can make or read."""

    __slots__ = ("_key", "_last")

    def __init__(self, key: SecretBytes) -> None:
        self._key = DigestKey(key)
        # Who adds to a sum has nearly always stored it just before.
        self._last: tuple[bytes | None, int] = None, 0

    def part(self, kind: bytes, parent: bytes, key: bytes, *content: bytes | None) -> int:
        """What a record adds to the sum; ``content`` is its plaintext or stands for it."""
        return int.from_bytes(self._key.whole(kind, parent, key, *content))

    def masked(self, total: int, nonce: bytes | None = None) -> bytes:
        """A sum as it is stored, 48 bytes.

        Args:
            total: Of the parts; parts that were subtracted may have made it negative.
            nonce: 16 bytes. Only known-answer tests pass one.
        """
        nonce = nonce or os.urandom(NONCE_BYTES)
        return nonce + ((total + self._mask(nonce)) % _MODULUS).to_bytes(SUM_BYTES)

    def unmasked(self, stored: bytes) -> int:
        """The sum, 0 to 2^256 - 1, that :meth:`masked` was given."""
        masked = int.from_bytes(stored[NONCE_BYTES:])
        return (masked - self._mask(stored[:NONCE_BYTES])) % _MODULUS

    def is_of(self, stored: bytes, total: int) -> bool:
        """Whether ``total`` is the sum that is stored."""
        return self.unmasked(stored) == total % _MODULUS

    def _mask(self, nonce: bytes) -> int:
        known, mask = self._last
        if nonce != known:
            mask = int.from_bytes(self._key.whole(_MASK, nonce))
            self._last = nonce, mask
        return mask
