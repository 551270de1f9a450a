"""Plans a copy: what it would put in, and which names are taken; reads alone."""

from collections import Counter
from dataclasses import dataclass, field

from langmem_isolated._codecs.headers import decode_header
from langmem_isolated._codecs.item_names import item_names
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage import entries
from langmem_isolated._storage.copying.containers import ROWS, digest_of, sources
from langmem_isolated._storage.copying.documents import open_collections
from langmem_isolated._storage.copying.entries import KINDS, opened_entries
from langmem_isolated._storage.copying.items import opened_items
from langmem_isolated._storage.copying.options import Added
from langmem_isolated._storage.documents import collection
from langmem_isolated._storage.items import reading
from langmem_isolated._storage.items.addresses import Address
from langmem_isolated._storage.scoped_database import ScopedDatabase

# What is counted for a session or thread besides itself.
_BELOW = {Kind.SESSION: Kind.MESSAGE, Kind.THREAD: Kind.CHECKPOINT}


@dataclass
class Planned:
    """What a copy would put in, by kinds, and which names are taken."""

    counts: Counter[Kind] = field(default_factory=Counter)
    taken: list[Added] = field(default_factory=list)
    """Under these names the target has something else."""

    def add(self, kind: Kind, names: tuple[bytes, ...], body: object, there: object) -> None:
        """Count something, unless the target has it just so; note it where it has another."""
        if there is None or there != body:
            self.counts[kind] += 1
        if there is not None and there != body:
            self.taken.append(Added(kind, names))


def plan(source: ScopedDatabase, target: ScopedDatabase, now: int) -> Planned:
    """What a copy from one to the other would put in, as both are now.

    Raises:
        RecordDoesNotOpen: Something of either is not as it was stored.
    """
    target_keys, planned = target.find_keys(), Planned()
    with target.admission():
        return source.snapshot(_planned, planned, target_keys, now)


def _planned(
    transaction: Transaction, keys: ScopeKeys, target: ScopeKeys | None, now: int
) -> Planned:
    planned = Planned()
    for look in (_containers, _items, _documents, _entries):
        look(transaction, keys, target, planned, now)
    return planned


def _containers(
    transaction: Transaction,
    keys: ScopeKeys,
    target: ScopeKeys | None,
    planned: Planned,
    now: int,
) -> None:
    for kind, digest, _ in sources(transaction, keys, now):
        found = ROWS[kind].header(transaction, keys, digest)
        if found is None:
            continue
        state, header = found
        name = decode_header(header).session_id
        there = target and ROWS[kind].header(transaction, target, digest_of(target, kind, name))
        is_taken = there and not there[0].is_expired(now)
        planned.add(kind, (name.encode(),), None, True if is_taken else None)
        planned.counts[_BELOW[kind]] += state.count


def _items(
    transaction: Transaction,
    keys: ScopeKeys,
    target: ScopeKeys | None,
    planned: Planned,
    now: int,
) -> None:
    for bodies in opened_items(transaction, keys, now):
        named = [item_names(body) for body in bodies]
        addresses = [
            Address(tuple(label.encode() for label in one.namespace), one.key.encode())
            for one in named
        ]
        there = reading.get(transaction, target, addresses, now) if target else [None] * len(named)
        for address, body, at in zip(addresses, bodies, there, strict=True):
            names = address.key, *address.namespace
            planned.add(Kind.ITEM, names, body, at and at.body)


def _documents(
    transaction: Transaction,
    keys: ScopeKeys,
    target: ScopeKeys | None,
    planned: Planned,
    now: int,
) -> None:
    del now
    for header, documents in open_collections(transaction, keys):
        found = target and collection.find(transaction, target, header.collection.encode())
        digests = [found.document_digest(one.name) for one in documents] if found else []
        there = found.at(digests) if found else iter([None] * len(documents))
        for document, at in zip(documents, there, strict=True):
            names = header.collection.encode(), document.name
            planned.add(Kind.DOCUMENT, names, document.body, at and at.body)


def _entries(
    transaction: Transaction,
    keys: ScopeKeys,
    target: ScopeKeys | None,
    planned: Planned,
    now: int,
) -> None:
    for kind in KINDS:
        for names, entry in opened_entries(transaction, keys, kind, now):
            there = None
            if target:
                (there,) = entries.get(transaction, target, names, [entry.key], now, kind=kind)
            planned.add(kind, (entry.key, *names), entry.value, there)
