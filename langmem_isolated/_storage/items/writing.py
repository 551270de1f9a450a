"""Writes items: puts, refreshes their time to live, removes and sweeps."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage import equalities
from langmem_isolated._storage.items import statements as sql
from langmem_isolated._storage.items.addresses import (
    Address,
    RecordAddress,
    RecordAddresses,
    span,
)
from langmem_isolated._storage.items.counting import ItemCount, digest_of
from langmem_isolated._storage.items.rows import Item, NewItem, RowSealer, expiry
from langmem_isolated._storage.scoped_database import ScopeGone
from langmem_isolated._storage.write_barrier import proof_of


def change(
    transaction: Transaction,
    keys: ScopeKeys,
    read: Sequence[Item],
    unwanted: Sequence[Address],
    new: Sequence[NewItem],
    now: int,
    *,
    with_vectors: bool,
) -> None:
    """:func:`refresh` what was ``read``, :func:`remove` what is ``unwanted``, :func:`put` the rest.

    What is to be removed or put is not refreshed.
    """
    places = RecordAddresses(keys)
    put_new = partial(put, places=places, with_vectors=with_vectors)
    remove_all = partial(remove, places=places)
    steps: dict[RecordAddress, tuple[Callable[..., None], Any]] = {
        **{item.place: (refresh, item) for item in read},
        **{places.of(address): (remove_all, address) for address in unwanted},
        **{places.of(item.address): (put_new, item) for item in new},
    }
    if len({step for step, _ in steps.values()}) > 1:
        # Before any item: others lock the items that they write behind it.
        ItemCount(transaction, keys, places, now).locked()
    # In one order everywhere: who write the same items wait for each other, and do not deadlock.
    ordered = [steps[place] for place in sorted(steps)]
    for step, run in groupby(ordered, key=itemgetter(0)):
        step(transaction, keys, [what for _, what in run], now)


def put(
    transaction: Transaction,
    keys: ScopeKeys,
    items: Sequence[NewItem],
    now: int,
    *,
    places: RecordAddresses,
    with_vectors: bool,
) -> None:
    """Store ``items``, no two at one address, in place of what stands there.

    Args:
        items: What to store, one or more.
        now: The time, in µs.
        places: The scope's.
        with_vectors: Whether to remove what vectors stand there. Otherwise they stay, and count no
            more.

    Raises:
        ScopeGone: The scope was erased; nothing was written.
    """
    # In the order that :func:`change` has, of each item itself before its vectors.
    placed = sorted([(places.of(item.address), item) for item in items])
    rows = _rows(keys, placed, now)
    put_rows(transaction, keys, places, [place for place, _ in placed], rows, now)
    if with_vectors:
        spans = [span(keys, place, first_vector=len(item.vectors)) for place, item in placed]
        transaction.execute_many(sql.REMOVE_VECTORS, spans)


def _rows(
    keys: ScopeKeys, placed: Sequence[tuple[RecordAddress, NewItem]], now: int
) -> list[dict[str, Any]]:
    sealer = RowSealer(keys, now, sum(1 + len(item.vectors) for _, item in placed))
    return [row for place, item in placed for row in sealer.rows(place, item)]


def put_rows(
    transaction: Transaction,
    keys: ScopeKeys,
    places: RecordAddresses,
    addresses: Sequence[RecordAddress],
    rows: Sequence[dict[str, Any]],
    now: int,
) -> None:
    """Store rows of items and their vectors, in the order of :func:`change`.

    Args:
        places: The scope's.
        addresses: Of the items.
        rows: One or more, as `RowSealer` makes them.
        now: The time, in µs.

    Raises:
        ScopeGone: The scope was erased; nothing was written.
    """
    if transaction.is_postgres:
        transaction.query(sql.SHARE_SCOPE, scope_id=keys.scope_id, scope_birth=keys.birth)
    if not _put_uncounted(transaction, keys, rows, is_alone=False):
        _put_counted(transaction, keys, places, addresses, rows, now)


def _put_uncounted(
    transaction: Transaction, keys: ScopeKeys, rows: Sequence[dict[str, Any]], *, is_alone: bool
) -> bool:
    """Whether ``rows`` are stored: not if the scope is gone, or its items are counted.

    Args:
        is_alone: Whether nothing of the transaction has locked the scope.
    """
    scope = {**proof_of(keys), "counted": digest_of(keys)}
    if transaction.is_postgres:
        statement, values = _as_arrays(rows, is_alone=is_alone)
        return transaction.changes(statement, **scope, **values)
    if transaction.row(sql.PROVE_UNCOUNTED, **scope) is None:
        return False
    transaction.execute_many(sql.PUT_EACH[False], [{**scope, **row} for row in rows])
    return True


def _as_arrays(rows: Sequence[dict[str, Any]], *, is_alone: bool) -> tuple[Any, dict[str, object]]:
    """The upsert of ``rows``, and its values: arrays of those in which they differ."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    # The key always: a statement without any array would have no rows.
    varying = {
        name for name, values in columns.items() if values.count(values[0]) < len(values)
    } | {"given_key"}
    values = {name: column if name in varying else column[0] for name, column in columns.items()}
    names = tuple(sorted(name.removeprefix("given_") for name in varying))
    return sql.put_all(names, is_alone=is_alone)[True], values


def _put_counted(
    transaction: Transaction,
    keys: ScopeKeys,
    places: RecordAddresses,
    addresses: Sequence[RecordAddress],
    rows: Sequence[dict[str, Any]],
    now: int,
) -> None:
    count = ItemCount(transaction, keys, places, now)
    state = count.locked()
    if state is None:
        raise ScopeGone
    count.take_out(count.at(addresses))
    put = sql.PUT_EACH[transaction.is_postgres]
    transaction.execute_many(put, [{"scope_id": keys.scope_id, **row} for row in rows])
    # As they stand now: the database keeps when each was first put.
    count.put_in(count.at(addresses))
    count.store(state)


def put_at_once(
    transaction: Transaction, keys: ScopeKeys, items: Sequence[NewItem], now: int
) -> bool:
    """Store items as :func:`put` does, on PostgreSQL in a single statement.

    Returns:
        Whether they are stored; if not, the scope was erased, or its items are counted, or were
        at any time.
    """
    places = RecordAddresses(keys)
    placed = sorted([(places.of(item.address), item) for item in items])
    rows = _rows(keys, placed, now)
    if len(rows) == 1:
        put = sql.PUT_ONE[transaction.is_postgres]
        return transaction.changes(put, **proof_of(keys), **rows[0])
    return _put_uncounted(transaction, keys, rows, is_alone=True)


def remove(
    transaction: Transaction,
    keys: ScopeKeys,
    addresses: Sequence[Address],
    now: int,
    *,
    places: RecordAddresses,
) -> None:
    """Remove the items at ``addresses``, where there are any, and their vectors."""
    unwanted = sorted(map(places.of, addresses))
    spans = [span(keys, place) for place in unwanted]
    count = ItemCount(transaction, keys, places, now)
    if (state := count.locked()) is None:
        transaction.execute_many(sql.REMOVE, spans)
        return
    count.take_out(count.at(unwanted))
    transaction.execute_many(sql.REMOVE, spans)
    count.store(state)


def refresh(transaction: Transaction, keys: ScopeKeys, items: Sequence[Item], now: int) -> None:
    """Let ``items``, read a moment ago, live for their whole lifetime from ``now`` on."""
    transaction.execute_many(
        sql.REFRESH,
        [
            {
                **span(keys, item.place),
                "now": now,
                "given_updated_at": item.updated,
                "given_expires_at": now + item.lifetime,
                **expiry(keys, item.place, item.updated, item.lifetime, prefix="new", since=now),
            }
            for item in sorted(items, key=lambda item: item.place)
            if item.lifetime is not None
        ],
    )


def index(
    transaction: Transaction, keys: ScopeKeys, unindexed: Sequence[equalities.NewDigests]
) -> None:
    """Store by what equality filters find items; see :func:`equalities.store`."""
    equalities.store(transaction, keys, Kind.ITEM, unindexed)


def sweep(transaction: Transaction, keys: ScopeKeys, now: int) -> int:
    """Remove what has expired; returns how many items that were."""
    count = ItemCount(transaction, keys, RecordAddresses(keys), now)
    state = count.locked()
    expired = transaction.rows(sql.EXPIRED, scope_id=keys.scope_id, now=now)
    if state is not None:
        count.take_out(expired)
        count.store(state)
    rows = transaction.rows(sql.SWEEP, scope_id=keys.scope_id, now=now)
    transaction.execute(sql.SWEEP_VECTORS, scope_id=keys.scope_id)
    return sum(kind == Kind.ITEM for (kind,) in rows)
