"""Journal of a copy: what it put in, kept with the target so that it can be taken out again.

A *receipt* is an entry of its kind in the target's scope that says what was copied from where; the
*parts* of its journal are entries in a space of their own, each written in the transaction that put
in what it names. Beside each name stands a MAC of what was put in under it: what has another now
was changed since.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import SECOND, now
from langmem_isolated._storage import entries
from langmem_isolated._storage.containers import ContainerRows
from langmem_isolated._storage.copying.containers import ROWS, digest_of
from langmem_isolated._storage.copying.options import Added, Renamed
from langmem_isolated._storage.documents import collection
from langmem_isolated._storage.documents import writing as documents
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.items import reading
from langmem_isolated._storage.items import statements as sql
from langmem_isolated._storage.items import writing as items
from langmem_isolated._storage.items.addresses import Address
from langmem_isolated._storage.scoped_database import ScopeGone

TOKEN_BYTES = 16
KEPT = 30 * 24 * 3600 * SECOND
"""Microseconds that a receipt is kept; it holds names."""
# Parts outlive their receipt: without one of them not all would be taken out.
_PARTS_KEPT = 2 * KEPT
_PART_KEY_BYTES = 16
_RECEIPTS = (b"receipts",)
_VERSION = 1
_COLLECTIONS = ContainerRows(Kind.COLLECTION)

Proof = bytes | None


class Receipt(NamedTuple):
    """What a copy was, and has done so far."""

    token: bytes
    what: str
    """What it was called by, such as ``"merge"``."""
    from_module: str
    conflicts: str
    begun_at: int
    finished_at: int | None
    counts: dict[int, int]
    """By kind."""

    @property
    def value(self) -> bytes:
        """What its entry holds."""
        return encode_value([_VERSION, *self[1:]], "a receipt")

    @classmethod
    def of(cls, entry: Entry) -> "Receipt":
        """The receipt of an entry."""
        _, *fields = decode_value(entry.value)
        return cls(entry.key, *fields)


class Part(NamedTuple):
    """What one transaction put in."""

    key: bytes
    lines: list[tuple[Added, bytes]]
    """Each with the MAC of what was put in."""
    renamed: list[Renamed]


class Undone(NamedTuple):
    """What was taken out, and what was left because it was changed."""

    removed: list[Added]
    left: list[Added]


def begin(
    transaction: Transaction, keys: ScopeKeys, what: str, from_module: str, conflicts: str
) -> Receipt:
    """The receipt of a copy that was begun so and did not end, or a new one.

    Raises:
        ScopeGone: The target was erased.
        RecordDoesNotOpen: A receipt was changed, moved or exchanged.
    """
    asked = what, from_module, conflicts
    if (unfinished := _unfinished(transaction, keys, asked)) is not None:
        return unfinished
    new = Receipt(os.urandom(TOKEN_BYTES), *asked, now(), None, {})
    _put(transaction, keys, new)
    return new


def _unfinished(
    transaction: Transaction, keys: ScopeKeys, asked: tuple[str, str, str]
) -> Receipt | None:
    for receipt in receipts(transaction, keys):
        if receipt.finished_at is None and receipt[1:4] == asked:
            return receipt
    return None


def added_by_unfinished(
    transaction: Transaction, keys: ScopeKeys, what: str, from_module: str, conflicts: str
) -> list[Added]:
    """What a copy has put in that was begun so and did not end.

    Raises:
        RecordDoesNotOpen: A receipt or part was changed, moved or exchanged.
    """
    begun = _unfinished(transaction, keys, (what, from_module, conflicts))
    found = parts(transaction, keys, begun.token) if begun else iter(())
    return [added for part in found for added, _ in part.lines]


def finish(transaction: Transaction, keys: ScopeKeys, receipt: Receipt) -> Receipt:
    """Say in a receipt that its copy is whole, and how much it has put in.

    Raises:
        ScopeGone: The target was erased.
    """
    lines = (line for part in parts(transaction, keys, receipt.token) for line in part.lines)
    counts = Counter(int(added.kind) for added, _ in lines)
    whole = receipt._replace(finished_at=now(), counts=dict(counts))
    _put(transaction, keys, whole)
    return whole


def receipts(transaction: Transaction, keys: ScopeKeys) -> list[Receipt]:
    """Every receipt of a target, the oldest first.

    Raises:
        RecordDoesNotOpen: One was changed, moved or exchanged.
    """
    found = entries.all_of(transaction, keys, _RECEIPTS, now(), kind=Kind.RECEIPT)
    return [Receipt.of(entry) for entry in found]


def record(
    transaction: Transaction,
    keys: ScopeKeys,
    added: list[Added],
    renamed: list[Renamed],
    *,
    token: bytes,
) -> None:
    """Keep what this transaction has put in.

    A session or thread has a part of its own: to take it out is a transaction's work.

    Raises:
        ScopeGone: The target was erased.
    """
    large = [[one] for one in added if one.kind in ROWS]
    small = [one for one in added if one.kind not in ROWS]
    groups = [*large, small] if small else large
    for number, group in enumerate(groups):
        proofs = _proofs(transaction, keys, group)
        lines = [
            [int(one.kind), *one.names, proof] for one, proof in zip(group, proofs, strict=True)
        ]
        names = [[int(kind), old, new] for kind, old, new in renamed] if number == 0 else []
        value = encode_value([_VERSION, lines, names], "a receipt")
        entry = Entry(os.urandom(_PART_KEY_BYTES), value)
        given = transaction, keys, _space(token), [entry], now(), _PARTS_KEPT
        entries.put(*given, kind=Kind.RECEIPT)


def parts(transaction: Transaction, keys: ScopeKeys, token: bytes) -> Iterator[Part]:
    """What a copy has put in, by transactions.

    Raises:
        RecordDoesNotOpen: A part was changed, moved or exchanged.
    """
    for entry in entries.all_of(transaction, keys, _space(token), now(), kind=Kind.RECEIPT):
        _, lines, renamed = decode_value(entry.value)
        yield Part(
            entry.key,
            [(Added(Kind(kind), tuple(names)), proof) for kind, *names, proof in lines],
            [Renamed(Kind(kind), old, new) for kind, old, new in renamed],
        )


def all_parts(transaction: Transaction, keys: ScopeKeys, token: bytes) -> list[Part]:
    """As :func:`parts`, read at once."""
    return [*parts(transaction, keys, token)]


def undo_part(transaction: Transaction, keys: ScopeKeys, token: bytes, part: Part) -> Undone:
    """Take out what one transaction put in and nobody changed since, and forget the part.

    Raises:
        ScopeGone: The target was erased.
        RecordDoesNotOpen: Something was changed, moved or exchanged behind our back.
    """
    # Nobody puts anything into this scope before this transaction ends.
    scope = {"scope_id": keys.scope_id, "scope_birth": keys.birth}
    if transaction.row(sql.LOCK_SCOPE, **scope) is None:
        raise ScopeGone
    _lock_collections(transaction, keys, [added for added, _ in part.lines])
    there = _proofs(transaction, keys, [added for added, _ in part.lines])
    known = [(added, proof, at) for (added, proof), at in zip(part.lines, there, strict=True) if at]
    removed = [added for added, proof, at in known if proof == at]
    _remove(transaction, keys, removed)
    entries.remove(transaction, keys, _space(token), [part.key], kind=Kind.RECEIPT)
    return Undone(removed, [added for added, proof, at in known if proof != at])


def forget(transaction: Transaction, keys: ScopeKeys, token: bytes) -> None:
    """Remove a receipt, and what is left of its journal."""
    entries.clear(transaction, keys, _space(token), kind=Kind.RECEIPT)
    entries.remove(transaction, keys, _RECEIPTS, [token], kind=Kind.RECEIPT)


def _put(transaction: Transaction, keys: ScopeKeys, receipt: Receipt) -> None:
    entry = Entry(receipt.token, receipt.value)
    entries.put(transaction, keys, _RECEIPTS, [entry], now(), KEPT, kind=Kind.RECEIPT)


def _space(token: bytes) -> tuple[bytes, bytes]:
    return b"journal", token


# --- what stands under names, by kinds ------------------------------------------------------------


def _proofs(transaction: Transaction, keys: ScopeKeys, added: Sequence[Added]) -> list[Proof]:
    """A MAC of what stands under each of these names, or ``None``."""
    found: dict[Added, Proof] = {}
    for kind, group in _by_kind(added).items():
        found.update(zip(group, _PROVE[kind](transaction, keys, group), strict=True))
    return [found[one] for one in added]


def _by_kind(added: Iterable[Added]) -> dict[Kind, list[Added]]:
    groups: dict[Kind, list[Added]] = defaultdict(list)
    for one in added:
        groups[one.kind].append(one)
    return groups


def _by_space(added: Iterable[Added]) -> dict[tuple[bytes, ...], list[Added]]:
    """Grouped by all their names but the first."""
    groups: dict[tuple[bytes, ...], list[Added]] = defaultdict(list)
    for one in added:
        groups[one.names[1:]].append(one)
    return groups


def _of_containers(
    transaction: Transaction, keys: ScopeKeys, group: Sequence[Added]
) -> Iterator[Proof]:
    for kind, (name,) in group:
        digest = digest_of(keys, kind, name.decode())
        state = ROWS[kind].locked(transaction, keys, digest)
        if state is None:
            yield None
        else:
            # Keys that were rotated since are nobody's doing.
            yield keys.row_mac(b"journal", state.but_keys.computed_mac(kind, keys, digest))


def _of_items(transaction: Transaction, keys: ScopeKeys, group: Sequence[Added]) -> Iterator[Proof]:
    for item in reading.get(transaction, keys, [*map(_address, group)], now()):
        yield item and keys.row_mac(b"journal", item.updated.to_bytes(8), item.body)


def _address(added: Added) -> Address:
    key, *namespace = added.names
    return Address(tuple(namespace), key)


def _of_documents(
    transaction: Transaction, keys: ScopeKeys, group: Sequence[Added]
) -> Iterator[Proof]:
    bodies: dict[Added, bytes] = {}
    for name, members in _by_collection(group).items():
        if found := collection.find(transaction, keys, name):
            digests = [found.document_digest(one.names[1]) for one in members]
            at = zip(members, found.at(digests), strict=True)
            bodies |= {one: document.body for one, document in at if document}
    for one in group:
        yield keys.row_mac(b"journal", bodies[one]) if one in bodies else None


def _by_collection(group: Iterable[Added]) -> dict[bytes, list[Added]]:
    groups: dict[bytes, list[Added]] = defaultdict(list)
    for one in group:
        groups[one.names[0]].append(one)
    return groups


def _of_entries(
    transaction: Transaction, keys: ScopeKeys, group: Sequence[Added]
) -> Iterator[Proof]:
    values: dict[Added, bytes | None] = {}
    for names, members in _by_space(group).items():
        wanted = [one.names[0] for one in members]
        found = entries.get(transaction, keys, names, wanted, now(), kind=members[0].kind)
        values.update(zip(members, found, strict=True))
    for one in group:
        value = values[one]
        yield None if value is None else keys.row_mac(b"journal", value)


def _lock_collections(transaction: Transaction, keys: ScopeKeys, added: Sequence[Added]) -> None:
    names = {one.names[0] for one in added if one.kind is Kind.DOCUMENT}
    for digest in sorted(keys.pseudonym(Kind.COLLECTION, name) for name in names):
        _COLLECTIONS.lock(transaction, keys, digest)


def _remove(transaction: Transaction, keys: ScopeKeys, added: Sequence[Added]) -> None:
    for kind, group in _by_kind(added).items():
        if kind in ROWS:
            for _, (name,) in group:
                ROWS[kind].remove(transaction, keys, digest_of(keys, kind, name.decode()))
        elif kind is Kind.ITEM:
            items.remove(transaction, keys, [*map(_address, group)], now())
        elif kind is Kind.DOCUMENT:
            for name, members in _by_collection(group).items():
                ids = [one.names[1] for one in members]
                documents.remove(transaction, keys, name, ids, now())
        else:
            for names, members in _by_space(group).items():
                wanted = [one.names[0] for one in members]
                entries.remove(transaction, keys, names, wanted, kind=kind)


_Prove = Callable[[Transaction, ScopeKeys, Sequence[Added]], Iterator[Proof]]
_PROVE: dict[Kind, _Prove] = {
    **dict.fromkeys(ROWS, _of_containers),
    Kind.ITEM: _of_items,
    Kind.DOCUMENT: _of_documents,
    Kind.ENTRY: _of_entries,
    Kind.PROFILE: _of_entries,
}
