"""Keeps a store's items: each under its namespace and key, with the vectors that find it.

An item's ``parent`` is a keyed digest for each level of its namespace, one behind the other, each
over the path so far. So the table names no label, and all that lies below a namespace is one range.
Vectors have the item's ``parent``, and as key the item's with a number behind it: they are put,
refreshed and removed with the item. Each says, sealed, when its item was put: one that an earlier
put left counts no more.

The sealed plaintext is, in bytes::

    1 form | 8 updated | 8 time to live | what the caller gave

Times are µs since 1970, UTC; a time to live of 2^64 - 1 is none. The table's columns say in ms when
an item was first put, when last, which the sealed time confirms, and when it expires. Expired means
absent. First put and expiry are not authenticated: so a put need not read before it writes, which
on PostgreSQL makes one round trip of three; and who can change them could also delete the row.
"""

import operator
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from langmem_isolated import _schema
from langmem_isolated._database import Row, Transaction
from langmem_isolated._records import ScopeGone
from langmem_isolated._schema import Kind
from langmem_isolated._scope_keys import ScopeKeys
from langmem_isolated._sealing import DIGEST_BYTES
from langmem_isolated.errors import RecordDoesNotOpen, RecordError

Names = Sequence[bytes]
Place = tuple[bytes, bytes]
Statements = Mapping[bool, Any]

# A key of the table fits into a PostgreSQL index row (2,704 bytes) with room to spare.
MAX_DEPTH = 100

_FORM = 1
_HEAD = struct.Struct(">BQQ")
_FOR_EVER = 2**64 - 1
# Behind every digest there is: digests of a whole level of 0xff bytes do not happen.
_END = b"\xff" * (DIGEST_BYTES + 1)
_NO_LIMIT = 2**31 - 1
# More than are put one by one in a millisecond: each takes 50 µs and more.
_SAME_MILLISECOND = 32

_r, _s = _schema.records.c, _schema.scopes.c
_SCOPE_ID = bindparam("scope_id", type_=sa.LargeBinary)
_NOW = bindparam("now", type_=sa.BigInteger)
_ITEM: sa.ColumnElement[int] = sa.literal_column(str(int(Kind.ITEM)))
_VECTOR: sa.ColumnElement[int] = sa.literal_column(str(int(Kind.VECTOR)))
_TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "kind": sa.SmallInteger(),
    "parent": sa.LargeBinary(),
    "key": sa.LargeBinary(),
    "sealed": sa.LargeBinary(),
    "size": sa.Integer(),
    "created_at": sa.BigInteger(),
    "updated_at": sa.BigInteger(),
    "expires_at": sa.BigInteger(),
}
_ONE = {name: bindparam(f"given_{name}", type_=type_) for name, type_ in _TYPES.items()}


def _given(*names: str) -> sa.TableValuedAlias:
    """PostgreSQL: arrays as a table, so that one statement does for any number of rows."""
    arrays = (bindparam(f"given_{n}", type_=postgresql.ARRAY(_TYPES[n])) for n in names)
    return sa.func.unnest(*arrays).table_valued(*names, name="given").render_derived()


_COLUMNS = (_r.parent, _r.key, _r.sealed, _r.created_at, _r.updated_at)
_ONE_ROW: sa.ColumnElement[int] = sa.literal_column("1")
# SQLite would be asked for a parameter.
_FROM_THE_FIRST: sa.ColumnElement[int] = sa.literal_column("0")
_ALIVE = sa.or_(_r.expires_at.is_(None), _r.expires_at > _NOW)


def _item_at(place: Any) -> sa.Select[Any]:
    is_item = sa.and_(_r.scope_id == _SCOPE_ID, _r.kind == _ITEM, _ALIVE)
    return select(*_COLUMNS).where(is_item, _r.parent == place["parent"], _r.key == place["key"])


_places = _given("parent", "key")
# The limit keeps PostgreSQL from joining in another order: one without statistics reads the scope.
_item_there = _item_at(_places.c).limit(_ONE_ROW).lateral()
# By whether it is PostgreSQL, as all that follow.
_AT = {
    False: _item_at(_ONE),
    True: select(*_item_there.c).select_from(_places.join(_item_there, sa.true())),
}

_SCOPE = sa.and_(_s.scope_id == _SCOPE_ID, _s.incarnation == bindparam("incarnation"))
_PROVE_SCOPE = select(_s.scope_id).where(_SCOPE)
_RECORD = ("kind", "parent", "key", "sealed", "size", "created_at", "updated_at", "expires_at")
_records = _given(*_RECORD)
# Where an erasure is under way these wait, and then find no row of the scope.
_one = select(_s.scope_id, *(_ONE[name] for name in _RECORD)).where(_SCOPE)
_all = select(_s.scope_id, *(_records.c[name] for name in _RECORD)).where(_SCOPE)


def _put(insert: Any) -> Any:
    """An upsert that keeps when the item was first put, unless that one has expired."""
    new = insert.excluded
    replaced = {name: new[name] for name in ("sealed", "size", "updated_at", "expires_at")}
    has_expired = _r.expires_at <= new.updated_at
    since = sa.case((has_expired, new.created_at), else_=_r.created_at)
    return insert.on_conflict_do_update(
        index_elements=["scope_id", "kind", "parent", "key"], set_={"created_at": since, **replaced}
    )


def _put_from(rows: sa.Select[Any], insert: Any) -> Any:
    """An upsert of rows with a scope that is there; it returns something if any was."""
    proved = rows.with_for_update(read=True, key_share=True, of=_schema.scopes)
    return _put(insert.from_select(["scope_id", *_RECORD], proved)).returning(_ONE_ROW)


_INSERT = {False: sqlite.insert(_schema.records), True: postgresql.insert(_schema.records)}
_PUT_ALONE = {is_postgres: _put_from(_one, insert) for is_postgres, insert in _INSERT.items()}
_PUT_ALL = {
    False: _put(
        _INSERT[False].values(scope_id=_SCOPE_ID, **{name: _ONE[name] for name in _RECORD})
    ),
    True: _put_from(_all, _INSERT[True]),
}

# An item and its vectors: whatever has a key that begins with the item's.
_SPAN = sa.and_(
    _r.scope_id == _SCOPE_ID,
    _r.parent == bindparam("span_parent", type_=sa.LargeBinary),
    _r.key >= bindparam("span_start", type_=sa.LargeBinary),
    _r.key < bindparam("span_end", type_=sa.LargeBinary),
)
_BOTH = _r.kind.in_([_ITEM, _VECTOR])
_REMOVE = delete(_schema.records).where(_SPAN, _BOTH)
_REMOVE_VECTORS = delete(_schema.records).where(_SPAN, _r.kind == _VECTOR)
_REFRESH = (
    update(_schema.records)
    # Unless it was put anew, has expired, or was refreshed since.
    .where(_SPAN, _BOTH, _r.updated_at == _ONE["updated_at"])
    .where(_r.expires_at > _NOW, _r.expires_at < _ONE["expires_at"])
    .values(expires_at=bindparam("new_expires_at", type_=sa.BigInteger))
)

_LOW, _HIGH = (bindparam(name, type_=sa.LargeBinary) for name in ("low", "high"))
_BELOW = sa.and_(_r.scope_id == _SCOPE_ID, _r.parent >= _LOW, _r.parent < _HIGH, _ALIVE)
_ALL = select(*_COLUMNS).where(_BELOW, _r.kind == _ITEM)
_NEWEST = (
    _ALL.order_by(_r.updated_at.desc(), _r.parent, _r.key)
    .limit(bindparam("limit", type_=sa.Integer))
    .offset(_FROM_THE_FIRST)
)
_WITH_VECTORS = select(*_COLUMNS, _r.kind).where(_BELOW, _BOTH).order_by(_r.kind, _r.parent, _r.key)
_alive_items = sa.and_(_r.scope_id == _SCOPE_ID, _r.kind == _ITEM, _ALIVE)
# From one namespace to the next, however many items lie between.
_namespaces = (
    select(sa.func.min(_r.parent).label("parent"))
    .where(_BELOW, _r.kind == _ITEM)
    .cte("namespaces", recursive=True)
)
_next = select(sa.func.min(_r.parent)).where(
    _alive_items, _r.parent > _namespaces.c.parent, _r.parent < _HIGH
)
_namespaces = _namespaces.union_all(
    select(_next.scalar_subquery()).where(_namespaces.c.parent.is_not(None))
)


def _of_first(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    there = select(column).where(_alive_items, _r.parent == _namespaces.c.parent)
    return there.order_by(_r.key).limit(_ONE_ROW).offset(_FROM_THE_FIRST).scalar_subquery()


_ONE_OF_EACH = select(_namespaces.c.parent, *map(_of_first, _COLUMNS[1:])).where(
    _namespaces.c.parent.is_not(None)
)
_put_here = _schema.records.alias()
_SWEEP_VECTORS = delete(_schema.records).where(
    _r.scope_id == _SCOPE_ID,
    _r.kind == _VECTOR,
    ~sa.exists().where(
        _put_here.c.scope_id == _SCOPE_ID,
        _put_here.c.kind == _ITEM,
        _put_here.c.parent == _r.parent,
        _put_here.c.key == sa.func.substr(_r.key, _ONE_ROW, sa.literal_column(str(DIGEST_BYTES))),
    ),
)
_SWEEP = (
    delete(_schema.records)
    .where(_r.scope_id == _SCOPE_ID, _BOTH, _r.expires_at <= _NOW)
    .returning(_r.kind)
)


class Address(NamedTuple):
    """Where an item stands, by the names that the caller gave."""

    namespace: Names
    key: bytes


class NewItem(NamedTuple):
    """An item on its way in; ``lifetime`` is in µs, or ``None``."""

    address: Address
    body: bytes
    vectors: Sequence[bytes]
    lifetime: int | None


class Item(NamedTuple):
    """An item as it was put; times in µs."""

    place: Place
    body: bytes
    created: int
    updated: int
    lifetime: int | None


_UPDATED_AT = _COLUMNS.index(_r.updated_at)


class Filter(NamedTuple):
    """Says by their bodies which items count: those that hold all ``signs``, and pass.

    To look for a sign takes a tenth of decoding a body.
    """

    signs: Sequence[bytes]
    passes: Callable[[bytes], bool]


def _after(start: bytes) -> bytes:
    """The first bytes behind all that begin with ``start``."""
    stripped = start.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else _END


class _Places:
    """Where one scope's items and vectors stand; what several have in common is made once."""

    def __init__(self, keys: ScopeKeys) -> None:
        self._keys = keys
        self._parents: dict[Names, bytes] = {(): b""}
        self.items = _Openers(keys, Kind.ITEM)
        self.vectors = _Openers(keys, Kind.VECTOR)

    def parent(self, namespace: Names) -> bytes:
        """A digest for each label, over the path up to it."""
        parent = self._parents.get(namespace)
        if parent is None:
            level = self._keys.name(Kind.ITEM, b"namespace", *namespace)
            parent = self._parents[namespace] = self.parent(namespace[:-1]) + level
        return parent

    def of(self, address: Address) -> Place:
        """Parent and key of the item at an address."""
        parent = self.parent(address.namespace)
        return parent, self._keys.name(Kind.ITEM, b"key", parent, address.key)

    def below(self, prefix: Names, now: int) -> dict[str, Any]:
        """What the statements ask by that read all below a prefix."""
        low, scope_id = self.parent(prefix), self._keys.scope_id
        return {"scope_id": scope_id, "low": low, "high": _after(low), "now": now // 1000}


class _Openers(dict[bytes, Callable[[bytes, bytes], bytes]]):
    """By parent: what opens its records, by their key and sealed bytes."""

    def __init__(self, keys: ScopeKeys, kind: Kind) -> None:
        self._keys = keys
        self._kind = kind

    def __missing__(self, parent: bytes) -> Callable[[bytes, bytes], bytes]:
        opener = self._keys.opener(self._keys.place(self._kind, parent), self._kind)
        self[parent] = opener
        return opener


def _opened(places: _Places, rows: Sequence[Row]) -> list[bytes]:
    """The plaintexts of items.

    Raises:
        RecordDoesNotOpen: One was changed, moved or exchanged.
    """
    openers = places.items
    plaintexts = [openers[row[0]](row[1], row[2]) for row in rows]
    if later := {plaintext[0] for plaintext in plaintexts} - {_FORM}:
        raise RecordError(
            f"An item is stored in form {max(later)}, this version knows {_FORM}. Nothing was "
            "changed; install a later langmem-isolated."
        )
    return plaintexts


def _items_in(places: _Places, rows: Sequence[Row], wanted: Filter | None = None) -> list[Item]:
    pairs = [*zip(rows, _opened(places, rows), strict=True)]
    if wanted is None:
        return [_item(row, plaintext) for row, plaintext in pairs]
    for sign in wanted.signs:
        pairs = [pair for pair in pairs if sign in pair[1]]
    return [
        _item(row, plaintext) for row, plaintext in pairs if wanted.passes(plaintext[_HEAD.size :])
    ]


def _item(row: Row, plaintext: bytes) -> Item:
    parent, key, _, created_at, updated_at = row
    _, updated, lifetime = _HEAD.unpack_from(plaintext)
    if type(created_at) is not int or created_at < 0:
        # SQLite keeps any type in any column.
        raise RecordDoesNotOpen(Kind.ITEM.label, "it was first put at no time")
    if updated_at != updated // 1000:
        raise RecordDoesNotOpen(Kind.ITEM.label, "its time is not the one it was put at")
    return Item(
        place=(parent, key),
        body=plaintext[_HEAD.size :],
        created=updated if created_at >= updated_at else created_at * 1000,
        updated=updated,
        lifetime=None if lifetime == _FOR_EVER else lifetime,
    )


def get(
    transaction: Transaction, keys: ScopeKeys, addresses: Sequence[Address], now: int
) -> list[Item | None]:
    """The item at each of ``addresses``, or ``None``.

    Raises:
        RecordDoesNotOpen: An item was changed, moved or exchanged.
    """
    places = _Places(keys)
    wanted = [*map(places.of, addresses)]
    shared = {"scope_id": keys.scope_id, "now": now // 1000}
    if transaction.is_postgres:
        given = {"given_parent": [p for p, _ in wanted], "given_key": [k for _, k in wanted]}
        rows = transaction.rows(_AT[True], **shared, **given)
    else:
        rows = [
            row
            for parent, key in wanted
            for row in transaction.rows(_AT[False], **shared, given_parent=parent, given_key=key)
        ]
    found = {item.place: item for item in _items_in(places, rows)}
    return [found.get(place) for place in wanted]


def put(
    transaction: Transaction,
    keys: ScopeKeys,
    items: Sequence[NewItem],
    now: int,
    *,
    with_vectors: bool,
) -> None:
    """Store ``items``, no two at one address, in place of what stands there.

    Args:
        items: What to store, one or more.
        now: The time, in µs.
        with_vectors: Whether to remove what vectors stand there. Otherwise they stay, and count no
            more.

    Raises:
        ScopeGone: The scope was erased; nothing was written.
    """
    places = _Places(keys)
    # In one order everywhere: two who put the same items wait for each other, and do not deadlock.
    placed = sorted((places.of(item.address), item) for item in items)
    starts: dict[bytes, bytes] = {}
    rows = [row for place, item in placed for row in _sealed_rows(keys, starts, place, item, now)]
    if with_vectors:
        spans = [_span(keys, place, first_vector=len(item.vectors)) for place, item in placed]
        transaction.execute_many(_REMOVE_VECTORS, spans)
    scope = {"scope_id": keys.scope_id, "incarnation": keys.incarnation}
    if transaction.is_postgres:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        proof = transaction.row(_PUT_ALL[True], **scope, **columns)
    else:
        proof = transaction.row(_PROVE_SCOPE, **scope)
        transaction.execute_many(_PUT_ALL[False], [{**scope, **row} for row in rows])
    if proof is None:
        raise ScopeGone


def put_alone(transaction: Transaction, keys: ScopeKeys, item: NewItem, now: int) -> None:
    """Store one item without vectors, as :func:`put` does, in a single statement.

    Raises:
        ScopeGone: The scope was erased; nothing was written.
    """
    (row,) = _sealed_rows(keys, {}, _Places(keys).of(item.address), item, now)
    scope = {"scope_id": keys.scope_id, "incarnation": keys.incarnation}
    if transaction.row(_PUT_ALONE[transaction.is_postgres], **scope, **row) is None:
        raise ScopeGone


def _sealed_rows(
    keys: ScopeKeys, starts: dict[bytes, bytes], place: Place, item: NewItem, now: int
) -> Iterator[dict[str, Any]]:
    parent, key = place
    shared = {
        "given_parent": parent,
        "given_created_at": now // 1000,
        "given_updated_at": now // 1000,
        "given_expires_at": None if item.lifetime is None else (now + item.lifetime) // 1000,
    }

    def row(kind: Kind, key: bytes, sealed: bytes) -> dict[str, Any]:
        return {
            "given_kind": int(kind),
            "given_key": key,
            "given_sealed": sealed,
            "given_size": len(sealed),
            **shared,
        }

    lifetime = _FOR_EVER if item.lifetime is None else item.lifetime
    head = _HEAD.pack(_FORM, now, lifetime)
    start = starts.get(parent) or starts.setdefault(parent, keys.place(Kind.ITEM, parent))
    yield row(Kind.ITEM, key, keys.seal(start, key, head + item.body))
    if item.vectors:
        start = keys.place(Kind.VECTOR, parent)
        for number, vector in enumerate(item.vectors):
            its_key = _vector_key(key, number)
            # Deflating 1,536 numbers takes 117 µs, sealing them 2, and saves 7 %.
            sealed = keys.seal(start, its_key, now.to_bytes(8) + vector, compress=False)
            yield row(Kind.VECTOR, its_key, sealed)


def remove(transaction: Transaction, keys: ScopeKeys, addresses: Sequence[Address]) -> None:
    """Remove the items at ``addresses``, where there are any, and their vectors."""
    places = sorted(map(_Places(keys).of, addresses))
    transaction.execute_many(_REMOVE, [_span(keys, place) for place in places])


def _span(keys: ScopeKeys, place: Place, first_vector: int | None = None) -> dict[str, Any]:
    """What the statements ask by that go to an item and its vectors, or from one vector on."""
    parent, key = place
    return {
        "scope_id": keys.scope_id,
        "span_parent": parent,
        "span_start": key if first_vector is None else _vector_key(key, first_vector),
        "span_end": _after(key),
    }


def _vector_key(key: bytes, number: int) -> bytes:
    return key + number.to_bytes(4)


def refresh(transaction: Transaction, keys: ScopeKeys, items: Sequence[Item], now: int) -> None:
    """Let ``items``, read a moment ago, live for their whole lifetime from ``now`` on."""
    transaction.execute_many(
        _REFRESH,
        [
            {
                **_span(keys, item.place),
                "now": now // 1000,
                "given_updated_at": item.updated // 1000,
                "given_expires_at": (now + item.lifetime) // 1000,
                "new_expires_at": (now + item.lifetime) // 1000,
            }
            for item in items
            if item.lifetime is not None
        ],
    )


def newest(
    transaction: Transaction,
    keys: ScopeKeys,
    prefix: Names,
    wanted: Filter | None,
    count: int,
    now: int,
) -> list[Item]:
    """The ``count`` items below ``prefix`` that were put last, the newest first.

    Args:
        prefix: Labels with which the namespaces begin.
        wanted: Which items count; all when ``None``.
        count: At most so many.
        now: The time, in µs.
    """
    places = _Places(keys)
    if wanted is None:
        limit = min(count + _SAME_MILLISECOND, _NO_LIMIT)
        rows = transaction.rows(_NEWEST, **places.below(prefix, now), limit=limit)
    else:
        # SQLite sorts 1,000 rows with all they hold in 220 µs, Python in 60.
        rows = _by_time(transaction.rows(_ALL, **places.below(prefix, now)))
    return _newest_of(places, rows, count, wanted)


def _newest_of(
    places: _Places, rows: Sequence[Row], count: int, wanted: Filter | None = None
) -> list[Item]:
    """The first ``count`` items of rows that come by time."""
    found: list[Item] = []
    start, step = 0, count
    while start < len(rows) and len(found) < count:
        # The column has ms, the sealed time µs: a millisecond that was begun is read to its end.
        end = min(start + step, len(rows))
        while end < len(rows) and rows[end][_UPDATED_AT] == rows[end - 1][_UPDATED_AT]:
            end += 1
        found += _items_in(places, rows[start:end], wanted)
        start, step = end, 2 * step
    found.sort(key=lambda item: (-item.updated, item.place))
    return found[:count]


def _by_time(rows: list[Row]) -> list[Row]:
    try:
        return sorted(rows, key=operator.itemgetter(_UPDATED_AT), reverse=True)
    except TypeError:
        raise RecordDoesNotOpen(Kind.ITEM.label, "it was put at no time") from None


def nearest(
    transaction: Transaction,
    keys: ScopeKeys,
    prefix: Names,
    wanted: Filter | None,
    count: int,
    now: int,
    score: Callable[[Sequence[bytes]], Sequence[float | None]],
) -> list[tuple[Item, float | None]]:
    """The ``count`` items below ``prefix`` with the highest scores, the highest first.

    An item has the score of its best vector. Of equal scores the newest come first, and after all
    scores items without vectors, the newest first.

    Args:
        prefix: Labels with which the namespaces begin.
        wanted: Which items count; all when ``None``.
        count: At most so many.
        now: The time, in µs.
        score: Scores vectors; ``None`` for one that cannot be compared.
    """
    places = _Places(keys)
    rows = transaction.rows(_WITH_VECTORS, **places.below(prefix, now))
    items = {row[:2]: row[:-1] for row in rows if row[-1] == Kind.ITEM}
    if wanted:
        passing = _items_in(places, [*items.values()], wanted)
        items = {item.place: items[item.place] for item in passing}
    vectors: list[tuple[Row, bytes]] = []
    for parent, key, sealed, _, _, kind in rows:
        if kind == Kind.VECTOR and type(key) is bytes:
            item = items.get((parent, key[:DIGEST_BYTES]))
            if item:
                plaintext = places.vectors[parent](key, sealed)
                if int.from_bytes(plaintext[:8]) // 1000 == item[_UPDATED_AT]:
                    vectors.append((item[:2], plaintext[8:]))
    scores = score([vector for _, vector in vectors])
    best: dict[Row, float] = {}
    for (place, _), its_score in zip(vectors, scores, strict=True):
        if its_score is not None:
            best[place] = max(its_score, best.get(place, its_score))
    by_time = _by_time([*items.values()])
    ranked = sorted(
        (row for row in by_time if row[:2] in best), key=lambda row: best[row[:2]], reverse=True
    )
    found = _items_in(places, ranked[:count])
    if len(found) < count:
        others = [row for row in by_time if row[:2] not in best]
        found += _newest_of(places, others, count - len(found))
    return [(item, best.get(item.place)) for item in found]


def one_of_each_namespace(
    transaction: Transaction, keys: ScopeKeys, prefix: Names, now: int
) -> list[bytes]:
    """The body of one item of each namespace below ``prefix``."""
    places = _Places(keys)
    rows = transaction.rows(_ONE_OF_EACH, **places.below(prefix, now))
    return [item.body for item in _items_in(places, rows)]


def sweep(transaction: Transaction, keys: ScopeKeys, now: int) -> int:
    """Remove what has expired; returns how many items that were."""
    rows = transaction.rows(_SWEEP, scope_id=keys.scope_id, now=now // 1000)
    transaction.execute(_SWEEP_VECTORS, scope_id=keys.scope_id)
    return sum(kind == Kind.ITEM for (kind,) in rows)
