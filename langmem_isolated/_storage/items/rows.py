"""Rows of items and of their vectors: sealed, and opened again."""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import nonces
from langmem_isolated._database.transactions import Row
from langmem_isolated._search.equality import Term
from langmem_isolated._storage import equalities
from langmem_isolated._storage.expiry import expiry_mac
from langmem_isolated._storage.items.addresses import (
    Address,
    RecordAddress,
    RecordAddresses,
    vector_key,
)
from langmem_isolated.errors import RecordDoesNotOpen, RecordError

_FORM = 1
_HEAD = struct.Struct(">BQQ")
_FOR_EVER = 2**64 - 1
_ITEM, _VECTOR = int(Kind.ITEM), int(Kind.VECTOR)
# A vector begins with when its item was put: of one that was put anew, older ones do not count.
TIME_BYTES = 8
# Of a row, in front of what a search has behind them.
_COLUMNS = 7


class NewItem(NamedTuple):
    """An item on its way in; ``lifetime`` is in µs, or ``None``."""

    address: Address
    body: bytes
    vectors: Sequence[bytes]
    """Each behind the 16 bytes that stand for its model."""
    lifetime: int | None
    terms: Sequence[Term] = ()
    """By what equality filters find it."""


class Item(NamedTuple):
    """An item as it was put; times in µs."""

    place: RecordAddress
    body: bytes
    created: int
    updated: int
    lifetime: int | None


class Filter(NamedTuple):
    """Says by their bodies which items count: those that hold a sign of each kind, and pass.

    To look for a sign takes a tenth of decoding a body.
    """

    signs: Sequence[tuple[bytes, bytes]]
    """Of each kind two; a body that passes holds one of them at least."""
    passes: Callable[[bytes], bool]
    terms: Sequence[Term] = ()
    """Of what passes, as far as it is indexed by it."""
    terms_of: Callable[[bytes], Sequence[Term]] | None = None
    """The terms of a body, in every field that is indexed."""


Looked = Callable[[Row, bytes], None]
"""Told of each row that was opened, and its plaintext."""


def _opened(places: RecordAddresses, rows: Sequence[Row]) -> list[bytes]:
    openers = places.items
    plaintexts = [openers[row[0]](row[1], row[2]) for row in rows]
    if later := {plaintext[0] for plaintext in plaintexts} - {_FORM}:
        raise RecordError(
            f"An item is stored in form {max(later)}, this version knows {_FORM}. Nothing was "
            "changed; install a later langmem-isolated."
        )
    return plaintexts


def items_in(
    places: RecordAddresses,
    rows: Sequence[Row],
    wanted: Filter | None = None,
    looked: Looked | None = None,
) -> list[Item]:
    """The items that rows hold; with ``wanted`` only those.

    Raises:
        RecordDoesNotOpen: One was changed, moved or exchanged.
    """
    pairs = [*zip(rows, _opened(places, rows), strict=True)]
    if wanted is None:
        return [_item(places, row, plaintext) for row, plaintext in pairs]
    if looked is not None:
        for row, plaintext in pairs:
            looked(row, plaintext)
    for sign, other in wanted.signs:
        pairs = [pair for pair in pairs if sign in pair[1] or other in pair[1]]
    return [
        _item(places, row, plaintext)
        for row, plaintext in pairs
        if wanted.passes(body_of(plaintext))
    ]


def _item(places: RecordAddresses, row: Row, plaintext: bytes) -> Item:
    parent, key, _, created_at, updated_at, expires_at, mac = row[:_COLUMNS]
    _, updated, lifetime = _HEAD.unpack_from(plaintext)
    if type(created_at) is not int or created_at < 0:
        # SQLite keeps any type in any column.
        raise RecordDoesNotOpen(Kind.ITEM.label, "it was first put at no time")
    if updated_at != updated:
        raise RecordDoesNotOpen(Kind.ITEM.label, "its time is not the one it was put at")
    place, body, created = (parent, key), plaintext[_HEAD.size :], min(created_at, updated)
    if lifetime == _FOR_EVER and expires_at is None and mac is None:
        return Item(place, body, created, updated, None)
    places.check_expiry(place, updated, (expires_at, mac), is_expected=lifetime != _FOR_EVER)
    return Item(place, body, created, updated, lifetime)


def expiry(
    keys: ScopeKeys,
    place: RecordAddress,
    updated: int,
    lifetime: int | None,
    *,
    prefix: str,
    since: int | None = None,
) -> dict[str, object]:
    """The columns that say when an item expires, by the names of their parameters.

    Args:
        updated: When it was put.
        lifetime: How long it lives, or ``None``.
        since: From when on it lives as long; by default from when it was put.
    """
    if lifetime is None:
        return {f"{prefix}_expires_at": None, f"{prefix}_expiry_mac": None}
    at = (updated if since is None else since) + lifetime
    mac = expiry_mac(keys, Kind.ITEM, place, updated, at)
    return {f"{prefix}_expires_at": at, f"{prefix}_expiry_mac": mac}


def body_of(plaintext: bytes) -> bytes:
    """What the caller gave, in an item's plaintext."""
    return plaintext[_HEAD.size :]


def digests_of(
    keys: ScopeKeys,
    place: RecordAddress,
    plaintext: bytes,
    terms: Sequence[Term],
    former: object = None,
    *,
    entries: dict[Term, bytes] | None = None,
) -> bytes | None:
    """By what equality filters find an item; see :func:`equalities.digests`."""
    what = equalities.STORE, terms, plaintext, former
    return equalities.digests(keys, Kind.ITEM, place, *what, entries=entries)


class RowSealer:
    """Seals items that are put at one time; what several have in common is made once.

    Args:
        keys: The owner's.
        now: When they are put, in µs.
        count: How many rows it will be; one more is sealed all the same.
    """

    def __init__(self, keys: ScopeKeys, now: int, count: int = 1) -> None:
        self._keys, self._now = keys, now
        self._nonces = nonces(count)
        self._entries: dict[Term, bytes] = {}
        self._starts: dict[bytes, bytes] = {}

    def rows(self, place: RecordAddress, item: NewItem) -> list[dict[str, Any]]:
        """The row of an item, and behind it those of its vectors."""
        keys, now, (parent, key) = self._keys, self._now, place
        lifetime = _FOR_EVER if item.lifetime is None else item.lifetime
        plaintext = _HEAD.pack(_FORM, now, lifetime) + item.body
        start = self._starts.get(parent)
        if start is None:
            start = self._starts[parent] = keys.aad_prefix(Kind.ITEM, parent)
        sealed = keys.seal(start, key, plaintext, nonce=next(self._nonces, None))
        row = self._row(_ITEM, parent, key, sealed)
        if item.lifetime is not None:
            row |= expiry(keys, place, now, item.lifetime, prefix="given")
        if item.terms:
            row["given_equalities"] = digests_of(
                keys, place, plaintext, item.terms, entries=self._entries
            )
        return [row, *self._vectors(place, item.vectors)] if item.vectors else [row]

    def _vectors(self, place: RecordAddress, vectors: Sequence[bytes]) -> Iterator[dict[str, Any]]:
        parent, key = place
        start, put_at = self._keys.aad_prefix(Kind.VECTOR, parent), self._now.to_bytes(TIME_BYTES)
        for number, vector in enumerate(vectors):
            its_key, nonce = vector_key(key, number), next(self._nonces, None)
            # Deflating 1,536 numbers takes 117 µs, sealing them 2, and saves 7 %.
            sealed = self._keys.seal(start, its_key, put_at + vector, compress=False, nonce=nonce)
            yield self._row(_VECTOR, parent, its_key, sealed)

    def _row(self, kind: int, parent: bytes, key: bytes, sealed: bytes) -> dict[str, Any]:
        return {
            "given_kind": kind,
            "given_parent": parent,
            "given_key": key,
            "given_sealed": sealed,
            "given_size": len(sealed),
            "given_created_at": self._now,
            "given_updated_at": self._now,
            "given_expires_at": None,
            "given_expiry_mac": None,
            "given_equalities": None,
        }
