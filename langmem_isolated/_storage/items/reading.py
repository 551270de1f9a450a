"""Reads items: by address, the newest, the nearest, or one of each namespace."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database.statements import NO_LIMIT
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.items import statements as sql
from langmem_isolated._storage.items.addresses import Address, Names, RecordAddresses, span
from langmem_isolated._storage.items.lookup import Lookup
from langmem_isolated._storage.items.rows import TIME_BYTES, Item, items_in
from langmem_isolated.errors import RecordDoesNotOpen

# How many rows are asked for at first, and on SQLite among how many that were put last, for each
# that is wanted: without a filter, with one, with one that the database answers a part of. A server
# takes long to send 1,000 items. Where one in four passes, a search takes 1.6 instead of 2.3 times
# as long as PostgresStore's; where none does, 5.7 instead of 4.7. SQLite takes 0.2 µs for an entry
# of its index, and 3 for what the item holds, which its digests are a part of.
_FIRST_LOOK = {None: (1, 32), False: (8, 32), True: (2, 8)}
# To ask for the vectors of one item takes 25 µs.
_MOST_ASKED_FOR = 512


class Meaning(NamedTuple):
    """By what vectors are compared."""

    model: bytes
    """The 16 bytes that stand for the model of the query."""
    score: Callable[[Sequence[bytes]], Sequence[float | None]]
    """Scores vectors; ``None`` for one of another length."""


class Nearest(NamedTuple):
    """What a search by meaning found."""

    items: list[tuple[Item, float | None]]
    strangers: int
    """How many items it looked at that have vectors, and none that could be compared."""


def get(
    transaction: Transaction, keys: ScopeKeys, addresses: Sequence[Address], now: int
) -> list[Item | None]:
    """The item at each of ``addresses``, or ``None``.

    Raises:
        RecordDoesNotOpen: An item was changed, moved or exchanged.
    """
    places = RecordAddresses(keys)
    wanted = [*map(places.of, addresses)]
    shared = {"scope_id": keys.scope_id, "now": now}
    if transaction.is_postgres and len(wanted) > 1:
        # Not of one: what asks by arrays PostgreSQL plans anew each time, and takes 100 µs more.
        given = {"given_parent": [p for p, _ in wanted], "given_key": [k for _, k in wanted]}
        rows = transaction.rows(sql.AT[True], **shared, **given)
    else:
        rows = [
            row
            for parent, key in wanted
            for row in transaction.rows(sql.AT[False], **shared, given_parent=parent, given_key=key)
        ]
    found = {item.place: item for item in items_in(places, rows)}
    return [found.get(place) for place in wanted]


def newest(
    transaction: Transaction,
    keys: ScopeKeys,
    prefix: Names,
    lookup: Lookup | None,
    count: int,
    now: int,
) -> list[Item]:
    """The ``count`` items below ``prefix`` that were put last, the newest first.

    Args:
        prefix: Labels with which the namespaces begin.
        lookup: Which items count; all when ``None``.
        count: At most so many.
        now: The time, in µs.
    """
    places, most = RecordAddresses(keys), min(count, NO_LIMIT)
    below = places.below(prefix, now)
    found = _first_look(transaction, places, below, lookup, most)
    if found is not None:
        return found
    if lookup is None:
        return items_in(places, transaction.rows(sql.NEWEST, **below, limit=most))
    lookup.unindexed.clear()  # all of them come again
    # SQLite sorts 1,000 rows with all they hold in 220 µs, Python in 60.
    return _newest_of(places, _by_time(lookup.rows(transaction, below)), most, lookup)


def _first_look(
    transaction: Transaction,
    places: RecordAddresses,
    below: dict[str, Any],
    lookup: Lookup | None,
    count: int,
) -> list[Item] | None:
    """The newest ``count`` items that count, or ``None`` where all are to be asked for."""
    count_of_values, values = (0, {}) if lookup is None else lookup.asked
    ahead, looked_at = _FIRST_LOOK[None if lookup is None else lookup.is_indexed]
    limit = min(ahead * count, NO_LIMIT)
    asked = {**below, **values, "limit": limit, "looked_at": min(looked_at * count, NO_LIMIT)}
    statement = sql.first(count_of_values, is_postgres=transaction.is_postgres)
    if transaction.is_postgres:
        rows = transaction.rows(statement, **asked)
        found = _newest_of(places, rows, count, lookup)
        is_all = len(rows) < limit
    else:
        with closing(transaction.query(statement, **asked)) as cursor:
            found = _first_of(places, cursor.fetchmany, count, lookup, is_lazy=True)
        is_all = False
    return found if is_all or len(found) == count else None


def _newest_of(
    places: RecordAddresses, rows: Iterable[Row], count: int, lookup: Lookup | None = None
) -> list[Item]:
    """The first ``count`` items of rows that come by time."""
    rest = iter(rows)
    return _first_of(places, lambda size: [*islice(rest, size)], count, lookup)


def _first_of(
    places: RecordAddresses,
    fetch: Callable[[int], list[Row]],
    count: int,
    lookup: Lookup | None,
    *,
    is_lazy: bool = False,
) -> list[Item]:
    """The first ``count`` items of rows that are fetched by time, more in each step.

    Args:
        is_lazy: Whether each row that is fetched costs the database time: a step has no more than
            are missing, and it ends where none of the first passes.
    """
    found: list[Item] = []
    step = count
    while len(found) < count and (rows := fetch(step)):
        found += _passing(places, rows, lookup)
        if is_lazy and not found:
            break
        step = count - len(found) if is_lazy else min(2 * step, NO_LIMIT)
    return found[:count]


def _passing(places: RecordAddresses, rows: Sequence[Row], lookup: Lookup | None) -> list[Item]:
    if lookup is None:
        return items_in(places, rows)
    return items_in(places, rows, lookup.wanted, lookup.look_at if lookup.is_indexed else None)


def _by_time(rows: list[Row]) -> list[Row]:
    """The newest first; rows that come by address, where they are of one moment, stay so."""
    try:
        return sorted(rows, key=itemgetter(sql.UPDATED_AT), reverse=True)
    except TypeError:
        raise RecordDoesNotOpen(Kind.ITEM.label, "it was put at no time") from None


def nearest(
    transaction: Transaction,
    keys: ScopeKeys,
    prefix: Names,
    lookup: Lookup | None,
    count: int,
    now: int,
    meaning: Meaning,
) -> Nearest:
    """The ``count`` items below ``prefix`` with the highest scores, the highest first.

    An item has the score of its best vector. Of equal scores the newest come first, and after all
    scores items without vectors of the query's model, the newest first.

    Args:
        prefix: Labels with which the namespaces begin.
        lookup: Which items count; all when ``None``.
        count: At most so many.
        now: The time, in µs.
        meaning: By what vectors are compared.
    """
    places, start = RecordAddresses(keys), TIME_BYTES + len(meaning.model)
    items, sealed_vectors = _with_vectors(transaction, keys, places, prefix, lookup, now)
    vectors: list[tuple[Row, bytes]] = []
    embedded: set[Row] = set()
    for parent, key, sealed in sealed_vectors:
        if type(key) is bytes:
            item = items.get((parent, key[:DIGEST_BYTES]))
            if item:
                plaintext = places.vectors[parent](key, sealed)
                if int.from_bytes(plaintext[:TIME_BYTES]) == item[sql.UPDATED_AT]:
                    embedded.add(item[:2])
                    if plaintext.startswith(meaning.model, TIME_BYTES):
                        vectors.append((item[:2], plaintext[start:]))
    scores = meaning.score([vector for _, vector in vectors])
    best: dict[Row, float] = {}
    for (place, _), its_score in zip(vectors, scores, strict=True):
        if its_score is not None:
            best[place] = max(its_score, best.get(place, its_score))
    by_time = _by_time([*items.values()])
    ranked = sorted(
        (row for row in by_time if row[:2] in best), key=lambda row: best[row[:2]], reverse=True
    )
    most = min(count, len(by_time))
    found = items_in(places, ranked[:most])
    if len(found) < most:
        others = [row for row in by_time if row[:2] not in best]
        found += _newest_of(places, others, most - len(found))
    return Nearest([(item, best.get(item.place)) for item in found], len(embedded) - len(best))


def _with_vectors(
    transaction: Transaction,
    keys: ScopeKeys,
    places: RecordAddresses,
    prefix: Names,
    lookup: Lookup | None,
    now: int,
) -> tuple[dict[Row, Row], list[Row]]:
    """The rows of the items that count, by their places, and their vectors: parent, key, sealed."""
    below = places.below(prefix, now)
    items: dict[Row, Row] = {}
    if lookup is not None and lookup.is_indexed:
        found = {row[:2]: row for row in lookup.rows(transaction, below)}
        passing = _passing(places, [*found.values()], lookup)
        items = {item.place: found[item.place] for item in passing}
        if len(items) <= _MOST_ASKED_FOR:
            asked = [span(keys, place) for place in sorted(items)]
            answers = transaction.rows_of_each(sql.VECTORS, asked)
            return items, [
                (place[0], *row)
                for place, rows in zip(sorted(items), answers, strict=True)
                for row in rows
            ]
    rows = transaction.rows(sql.WITH_VECTORS, **below)
    vectors = [row[:3] for row in rows if row[-1] == Kind.VECTOR]
    if items:
        return items, vectors
    items = {row[:2]: row[:-1] for row in rows if row[-1] == Kind.ITEM}
    if lookup is not None:
        passing = _passing(places, [*items.values()], lookup)
        items = {item.place: items[item.place] for item in passing}
    return items, vectors


def one_of_each_namespace(
    transaction: Transaction, keys: ScopeKeys, prefix: Names, now: int
) -> list[bytes]:
    """The body of one item of each namespace below ``prefix``."""
    places = RecordAddresses(keys)
    rows = transaction.rows(sql.ONE_OF_EACH[transaction.is_postgres], **places.below(prefix, now))
    return [item.body for item in items_in(places, rows)]
