"""Proofs of a copy: a MAC of what stands under each name that it put something in under.

What has another MAC by now was changed since. The names are those of `Added`, by kinds.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage import entries
from langmem_isolated._storage.container_state import UNSEEN
from langmem_isolated._storage.containers import ContainerRows
from langmem_isolated._storage.copying.containers import ROWS, digest_of
from langmem_isolated._storage.copying.options import Added
from langmem_isolated._storage.documents import collection
from langmem_isolated._storage.documents import writing as documents
from langmem_isolated._storage.items import reading
from langmem_isolated._storage.items import writing as items
from langmem_isolated._storage.items.addresses import Address, RecordAddresses

_COLLECTIONS = ContainerRows(Kind.COLLECTION)

Proof = bytes | None

# Of what nobody has seen yet, however far it has come.
_STAGED = b"staged"


def proofs(transaction: Transaction, keys: ScopeKeys, added: Sequence[Added]) -> list[Proof]:
    """A MAC of what stands under each of these names; ``None`` for nothing."""
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
        elif state.expires_at == UNSEEN:
            yield _STAGED
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


def lock_collections(transaction: Transaction, keys: ScopeKeys, added: Sequence[Added]) -> None:
    """Lock the rows of the collections of documents, in one order."""
    names = {one.names[0] for one in added if one.kind is Kind.DOCUMENT}
    for digest in sorted(keys.pseudonym(Kind.COLLECTION, name) for name in names):
        _COLLECTIONS.lock(transaction, keys, digest)


def remove(transaction: Transaction, keys: ScopeKeys, added: Sequence[Added]) -> None:
    """Take out what stands under these names."""
    for kind, group in _by_kind(added).items():
        if kind in ROWS:
            for _, (name,) in group:
                ROWS[kind].remove(transaction, keys, digest_of(keys, kind, name.decode()))
        elif kind is Kind.ITEM:
            places = RecordAddresses(keys)
            items.remove(transaction, keys, [*map(_address, group)], now(), places=places)
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
