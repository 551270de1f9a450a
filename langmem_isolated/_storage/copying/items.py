"""Copies the items of a store, with their vectors, their times and what is left of their lives."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from langmem_isolated._codecs.item_names import item_names, with_key
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.copying.options import BATCH, Conflicts, Copied, Reader, names_for
from langmem_isolated._storage.copying.paging import FIRST, Behind, fitting, in_pages
from langmem_isolated._storage.items import reading, writing
from langmem_isolated._storage.items import statements as sql
from langmem_isolated._storage.items.addresses import Address, RecordAddresses, span
from langmem_isolated._storage.items.rows import (
    TIME_BYTES,
    Item,
    NewItem,
    RowSealer,
    expiry,
    items_in,
)

_EXPIRES_AT = 5


class FoundItem(NamedTuple):
    """An item of the source."""

    item: Item
    vectors: list[bytes]
    expires_at: int | None


class _Items:
    """One transaction's view of both owners."""

    def __init__(self, transaction: Transaction, source: Reader, target: ScopeKeys) -> None:
        self._transaction, self._reading = transaction, source.within(transaction)
        self._source, self._target = source.keys, target
        self._from, self.to = RecordAddresses(source.keys), RecordAddresses(target)
        # Few stores have any: a question for each item takes as long as sealing it.
        there = self._reading.row(sql.ANY_VECTOR, scope_id=source.keys.scope_id)
        self._has_vectors = there is not None
        # One that is renamed may get the name of one that comes behind it.
        self._placed: dict[Address, bytes] = {}

    def page(self, behind: Behind, limit: int, now: int) -> tuple[list[FoundItem], Behind | None]:
        rows = self.rows_behind(behind, limit, now)
        return [*self.opened(rows)], rows[-1][:2] if len(rows) == limit else None

    def rows_behind(self, behind: Behind, limit: int, now: int) -> list[Row]:
        parent, key = behind
        below = self._from.below((), now)
        return self._reading.rows(sql.PAGE, **below, behind=parent, given_key=key, limit=limit)

    def opened(self, rows: list[Row]) -> Iterator[FoundItem]:
        for row, item in zip(rows, items_in(self._from, rows), strict=True):
            yield FoundItem(item, self._vectors(item), row[_EXPIRES_AT])

    def _vectors(self, item: Item) -> list[bytes]:
        if not self._has_vectors:
            return []
        rows = self._reading.rows(sql.VECTORS, **span(self._source, item.place))
        opener = self._from.vectors[item.place[0]]
        opened = (opener(key, sealed) for key, sealed in rows)
        put_at = item.updated.to_bytes(TIME_BYTES)
        return [one[TIME_BYTES:] for one in opened if one.startswith(put_at)]

    def place(
        self, body: bytes, conflicts: Conflicts, copied: Copied, now: int
    ) -> tuple[Address, bytes] | None:
        """Where an item goes, and its body there; ``None`` for one that is left out.

        Raises:
            AddressTaken: Something stands there, and that is refused.
        """
        names, resolved = item_names(body), False
        namespace = tuple(label.encode() for label in names.namespace)
        for key in names_for(names.key):
            address = Address(namespace, key.encode())
            renamed = body if key == names.key else with_key(body, key)
            there = self._placed.get(address) or self._body_at(address, now)
            if there is None:
                copied.note_name(Kind.ITEM, names.key, key)
                self._placed[address] = renamed
                return address, renamed
            if there == renamed:
                return None
            if not resolved and copied.resolve(conflicts, Kind.ITEM) != "rename":
                break
            resolved = True
        return None if conflicts == "skip" else (address, body)

    def _body_at(self, address: Address, now: int) -> bytes | None:
        (there,) = reading.get(self._transaction, self._target, [address], now)
        return there and there.body

    def rows(self, found: FoundItem, address: Address, body: bytes) -> list[dict[str, Any]]:
        item, place = found.item, self.to.of(address)
        new = NewItem(address, body, found.vectors, item.lifetime)
        first, *others = RowSealer(self._target, item.updated).rows(place, new)
        lives = item.lifetime is not None and found.expires_at is not None
        since = found.expires_at - item.lifetime if lives else None  # type: ignore[operator]
        first |= expiry(
            self._target, place, item.updated, item.lifetime, prefix="given", since=since
        )
        return [{**first, "given_created_at": item.created}, *others]


def copy_page(
    transaction: Transaction,
    target: ScopeKeys,
    source: Reader,
    behind: Behind,
    conflicts: Conflicts,
    copied: Copied,
    now: int,
) -> Behind | None:
    """Copy the next items, and say behind which the others begin, if there are any.

    One that stands there just so is left alone: the copy was begun before.

    Raises:
        AddressTaken: A name is taken, and that is refused.
        RecordDoesNotOpen: An item was changed, moved or exchanged.
        ScopeGone: The target was erased; nothing was written.
    """
    items = _Items(transaction, source, target)
    found, rest = items.page(behind, BATCH // 2, now)
    placed: dict[Row, list[dict[str, Any]]] = {}
    for one in found:
        where = items.place(one.item.body, conflicts, copied, now)
        if where is not None:
            placed[items.to.of(where[0])] = items.rows(one, *where)
            copied.note_added(Kind.ITEM, where[0].key, *where[0].namespace)
    addresses = sorted(placed)
    if rows := [row for address in addresses for row in placed[address]]:
        writing.put_rows(transaction, target, items.to, addresses, rows, now)
        copied.counts[Kind.ITEM] += len(addresses)
    return rest


def opened_items(transaction: Transaction, source: ScopeKeys, now: int) -> Iterator[list[bytes]]:
    """The bodies of a source's items, page by page.

    Raises:
        RecordDoesNotOpen: An item was changed, moved or exchanged.
    """
    for page in item_pages(transaction, source, now):
        yield [one.item.body for one in page]


def item_pages(transaction: Transaction, source: ScopeKeys, now: int) -> Iterator[list[FoundItem]]:
    """A source's items with their vectors, page by page; see :func:`opened_items`."""
    yield from in_pages(_each_item(transaction, source, now), _size)


def _each_item(transaction: Transaction, source: ScopeKeys, now: int) -> Iterator[FoundItem]:
    items = _Items(transaction, Reader(source), source)
    behind: Behind = FIRST
    while True:
        limit = fitting(transaction, source, Kind.ITEM, behind, now=now)
        rows = items.rows_behind(behind, limit, now)
        for row in rows:
            yield from items.opened([row])
        if len(rows) < limit:
            return
        behind = rows[-1][:2]


def _size(found: FoundItem) -> int:
    return len(found.item.body) + sum(map(len, found.vectors))
