"""Addresses of items and vectors: keyed digests of namespaces and keys."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._storage.expiry import check_expiry

Names = Sequence[bytes]
RecordAddress = tuple[bytes, bytes]

# A key of the table fits into a PostgreSQL index row (2,704 bytes) with room to spare.
MAX_DEPTH = 100

# Behind every digest there is: digests of a whole level of 0xff bytes do not happen.
_END = b"\xff" * (DIGEST_BYTES + 1)


class Address(NamedTuple):
    """Where an item stands, by the names that the caller gave."""

    namespace: Names
    key: bytes


def _after(start: bytes) -> bytes:
    """The first bytes behind all that begin with ``start``."""
    stripped = start.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else _END


class RecordAddresses:
    """Where one scope's items and vectors stand; what several have in common is made once."""

    def __init__(self, keys: ScopeKeys) -> None:
        self._keys = keys
        self._parents: dict[Names, bytes] = {(): b""}
        self._places: dict[Address, RecordAddress] = {}
        self._digests: dict[bytes, Callable[[bytes], bytes]] = {}
        self.items = _Openers(keys, Kind.ITEM)
        self.vectors = _Openers(keys, Kind.VECTOR)

    def parent(self, namespace: Names) -> bytes:
        """A digest for each label, over the path up to it."""
        parent = self._parents.get(namespace)
        if parent is None:
            level = self._keys.pseudonym_of_name(Kind.ITEM, b"namespace", *namespace)
            parent = self._parents[namespace] = self.parent(namespace[:-1]) + level
        return parent

    def of(self, address: Address) -> RecordAddress:
        """Parent and key of the item at an address."""
        place = self._places.get(address)
        if place is None:
            parent = self.parent(address.namespace)
            place = self._places[address] = parent, self._digest_under(parent)(address.key)
        return place

    def _digest_under(self, parent: bytes) -> Callable[[bytes], bytes]:
        digest = self._digests.get(parent)
        if digest is None:
            digest = self._digests[parent] = self._keys.pseudonyms(Kind.ITEM, b"key", parent)
        return digest

    def below(self, prefix: Names, now: int) -> dict[str, Any]:
        """What the statements ask by that read all below a prefix."""
        low, scope_id = self.parent(prefix), self._keys.scope_id
        return {"scope_id": scope_id, "low": low, "high": _after(low), "now": now}

    def check_expiry(
        self, place: RecordAddress, updated: int, stored: Sequence[object], *, is_expected: bool
    ) -> None:
        """Refuse an item at ``place`` that does not expire when it should, or at all."""
        expires_at, mac = stored
        check_expiry(
            self._keys, Kind.ITEM, place, updated, (expires_at, mac), is_expected=is_expected
        )


class _Openers(dict[bytes, Callable[[bytes, bytes], bytes]]):
    """By parent: what opens its records, by their key and sealed bytes."""

    def __init__(self, keys: ScopeKeys, kind: Kind) -> None:
        self._keys = keys
        self._kind = kind

    def __missing__(self, parent: bytes) -> Callable[[bytes, bytes], bytes]:
        opener = self._keys.opener(self._keys.aad_prefix(self._kind, parent), self._kind)
        self[parent] = opener
        return opener


def span(keys: ScopeKeys, place: RecordAddress, first_vector: int | None = None) -> dict[str, Any]:
    """What the statements ask by that go to an item and its vectors, or from one vector on."""
    parent, key = place
    return {
        "scope_id": keys.scope_id,
        "span_parent": parent,
        "span_start": key if first_vector is None else vector_key(key, first_vector),
        "span_end": _after(key),
    }


def vector_key(key: bytes, number: int) -> bytes:
    """The key of one of the vectors of the item with ``key``."""
    return key + number.to_bytes(4)
