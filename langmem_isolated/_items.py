"""Keeps a store's items: each under its namespace and key, with the vectors that find it.

An item's ``parent`` is a keyed digest for each level of its namespace, one behind the other, each
over the path so far. So the table names no label, and all that lies below a namespace is one range.
Vectors have the item's ``parent``, and as key the item's with a number behind it: they are put,
refreshed and removed with the item.

The sealed plaintext is, in bytes::

    1 form | 8 created | 8 updated | 8 time to live | what the caller gave

Times are µs since 1970, UTC; a time to live of 2^64 - 1 is none. The table's clear columns hold the
same times in ms, to order and expire by. Expired means absent: what ``expires_at`` says is not
authenticated, and who can change it could also delete the row.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from langmem_isolated import _schema
from langmem_isolated._database import Row, Transaction
from langmem_isolated._records import ScopeGone
from langmem_isolated._schema import Kind
from langmem_isolated._sealing import DIGEST_BYTES
from langmem_isolated.errors import RecordDoesNotOpen, RecordError
from langmem_isolated.keyring import ScopeKeys

T = TypeVar("T")
Names = Sequence[bytes]
Place = tuple[bytes, bytes]
Statements = Mapping[bool, Any]

# A key of the table fits into a PostgreSQL index row (2,704 bytes) with room to spare.
MAX_DEPTH = 100

_FORM = 1
_HEAD = struct.Struct(">BQQQ")
_FOR_EVER = 2**64 - 1
# Behind every digest there is: digests of a whole level of 0xff bytes do not happen.
_END = b"\xff" * (DIGEST_BYTES + 1)
_NO_LIMIT = 2**31 - 1
# So many more rows are read as were updated in the same millisecond at worst: a put takes 30 µs.
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
    "key_end": sa.LargeBinary(),
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


_COLUMNS = (_r.parent, _r.key, _r.sealed, _r.updated_at, _r.expires_at)


def _at(items: sa.FromClause, *conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Items by place; a row of nothing where there are none, and no row where the scope is gone."""
    of_scope = sa.and_(_r.scope_id == _SCOPE_ID, _r.kind == _ITEM, *conditions)
    return (
        select(*_COLUMNS)
        .select_from(_schema.scopes.outerjoin(items, of_scope))
        .where(_s.scope_id == _SCOPE_ID, _s.incarnation == bindparam("incarnation"))
    )


_places = _given("parent", "key")
# By whether it is PostgreSQL, as all that follow.
_AT = {
    False: _at(_schema.records, _r.parent == _ONE["parent"], _r.key == _ONE["key"]),
    True: _at(
        _schema.records.join(
            _places, sa.and_(_r.parent == _places.c.parent, _r.key == _places.c.key)
        )
    ),
}
# The scope cannot be erased before what follows is committed. SQLite has one writer, and no locks
# of rows: it renders none.
_AT_FOR_WRITING = {
    is_postgres: statement.with_for_update(read=True, key_share=True, of=_schema.scopes)
    for is_postgres, statement in _AT.items()
}

_RECORD = ("kind", "parent", "key", "sealed", "size", "created_at", "updated_at", "expires_at")
_records = _given(*_RECORD)
_INSERT: dict[bool, Any] = {
    False: sqlite.insert(_schema.records).values(
        scope_id=_SCOPE_ID, **{name: _ONE[name] for name in _RECORD}
    ),
    True: postgresql.insert(_schema.records).from_select(
        ["scope_id", *_RECORD],
        select(sa.cast(_SCOPE_ID, sa.LargeBinary), *(_records.c[name] for name in _RECORD)),
    ),
}
_PUT = {
    is_postgres: insert.on_conflict_do_update(
        index_elements=["scope_id", "kind", "parent", "key"],
        set_={name: insert.excluded[name] for name in _RECORD[3:]},
    )
    for is_postgres, insert in _INSERT.items()
}

_spans = _given("parent", "key", "key_end")
_SPAN_GIVEN: dict[bool, Mapping[str, Any]] = {False: _ONE, True: dict(_spans.c.items())}
# An item and its vectors, or those of one kind: whatever has a key that begins with the item's.
_SPAN = {
    is_postgres: sa.and_(
        _r.scope_id == _SCOPE_ID,
        _r.parent == at["parent"],
        _r.key >= at["key"],
        _r.key < at["key_end"],
    )
    for is_postgres, at in _SPAN_GIVEN.items()
}
_BOTH = _r.kind.in_([_ITEM, _VECTOR])
_REMOVE = {which: delete(_schema.records).where(span, _BOTH) for which, span in _SPAN.items()}
_REMOVE_VECTORS = {
    which: delete(_schema.records).where(span, _r.kind == _VECTOR) for which, span in _SPAN.items()
}
_REFRESH = (
    update(_schema.records)
    # Whoever put or refreshed the item meanwhile knows better.
    .where(_SPAN[False], _BOTH, _r.expires_at == bindparam("seen", type_=sa.BigInteger))
    .values(expires_at=_ONE["expires_at"])
)

_BELOW = sa.and_(
    _r.scope_id == _SCOPE_ID,
    _r.parent >= bindparam("low", type_=sa.LargeBinary),
    _r.parent < bindparam("high", type_=sa.LargeBinary),
    sa.or_(_r.expires_at.is_(None), _r.expires_at > _NOW),
)
_NEWEST = (
    select(*_COLUMNS)
    .where(_BELOW, _r.kind == _ITEM)
    .order_by(_r.updated_at.desc(), _r.parent, _r.key)
    .limit(bindparam("limit", type_=sa.Integer))
    .offset(sa.literal_column("0"))
)
_WITH_VECTORS = select(_r.kind, *_COLUMNS).where(_BELOW, _BOTH)
_first = (
    select(_r.parent, sa.func.min(_r.key).label("key"))
    .where(_BELOW, _r.kind == _ITEM)
    .group_by(_r.parent)
    .subquery()
)
_ONE_OF_EACH = select(*_COLUMNS).where(
    _r.scope_id == _SCOPE_ID, _r.kind == _ITEM, _r.parent == _first.c.parent, _r.key == _first.c.key
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
    """An item as it was put; times in µs, except ``expires_at``, which is as its column has it."""

    place: Place
    body: bytes
    created: int
    updated: int
    lifetime: int | None
    expires_at: int | None


Found = tuple[Item, T, float | None]


def _parent(keys: ScopeKeys, namespace: Names) -> bytes:
    depths = range(1, len(namespace) + 1)
    return b"".join([keys.name(Kind.ITEM, b"namespace", *namespace[:depth]) for depth in depths])


def _place(keys: ScopeKeys, address: Address) -> Place:
    parent = _parent(keys, address.namespace)
    return parent, keys.name(Kind.ITEM, b"key", parent, address.key)


def _after(start: bytes) -> bytes:
    """The first bytes behind all that begin with ``start``."""
    stripped = start.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else _END


def _checked(row: Sequence[Any], kind: Kind = Kind.ITEM) -> Row:
    parent, key, sealed, updated_at, expires_at = row
    if not (
        type(parent) is type(key) is type(sealed) is bytes
        and type(updated_at) is int
        and (expires_at is None or type(expires_at) is int)
    ):
        # SQLite keeps any type in any column.
        raise RecordDoesNotOpen(kind.label, "a column holds another type")
    return parent, key, sealed, updated_at, expires_at


def _opened(keys: ScopeKeys, row: Sequence[Any]) -> Item:
    parent, key, sealed, updated_at, expires_at = _checked(row)
    plaintext = keys.open(keys.place(Kind.ITEM, parent), key, sealed, Kind.ITEM)
    form, created, updated, lifetime = _HEAD.unpack_from(plaintext)
    if form != _FORM:
        raise RecordError(
            f"An item is stored in form {form}, this version knows {_FORM}. Nothing was changed; "
            "install a later langmem-isolated."
        )
    if updated_at != updated // 1000:
        raise RecordDoesNotOpen(Kind.ITEM.label, "its time is not the one it was put at")
    kept = None if lifetime == _FOR_EVER else lifetime
    return Item((parent, key), plaintext[_HEAD.size :], created, updated, kept, expires_at)


def _rows_at(
    transaction: Transaction, keys: ScopeKeys, statements: Statements, places: Sequence[Place]
) -> list[Row]:
    """The rows that stand at ``places``, expired ones too.

    Raises:
        ScopeGone: The scope was erased.
    """
    if transaction.is_postgres:
        parents, names = ([*column] for column in zip(*places, strict=True))
        given: list[dict[str, Any]] = [{"given_parent": parents, "given_key": names}]
    else:
        given = [{"given_parent": parent, "given_key": key} for parent, key in places]
    rows: list[Row] = []
    for values in given:
        found = transaction.rows(
            statements[transaction.is_postgres],
            scope_id=keys.scope_id,
            incarnation=keys.incarnation,
            **values,
        )
        if not found:
            raise ScopeGone
        rows += [_checked(row) for row in found if row[0] is not None]
    return rows


def _for_each(
    transaction: Transaction,
    keys: ScopeKeys,
    statements: Statements,
    rows: Sequence[dict[str, Any]],
) -> None:
    """Run a statement with each of ``rows``."""
    statement = statements[transaction.is_postgres]
    if not rows:
        return
    if transaction.is_postgres:
        columns = {f"given_{name}": [row[name] for row in rows] for name in rows[0]}
        transaction.execute(statement, scope_id=keys.scope_id, **columns)
    else:
        given = [{f"given_{name}": value for name, value in row.items()} for row in rows]
        transaction.execute_many(statement, [{"scope_id": keys.scope_id, **row} for row in given])


def _is_alive(row: Row, now: int) -> bool:
    return row[4] is None or row[4] > now // 1000


def get(
    transaction: Transaction, keys: ScopeKeys, addresses: Sequence[Address], now: int
) -> list[Item | None]:
    """The item at each of ``addresses``, or ``None``.

    Raises:
        RecordDoesNotOpen: An item was changed, moved or exchanged.
    """
    places = [_place(keys, address) for address in addresses]
    try:
        rows = _rows_at(transaction, keys, _AT, places)
    except ScopeGone:
        return [None for _ in places]
    found = {(row[0], row[1]): _opened(keys, row) for row in rows if _is_alive(row, now)}
    return [found.get(place) for place in places]


def put(transaction: Transaction, keys: ScopeKeys, items: Sequence[NewItem], now: int) -> None:
    """Store ``items``, no two at one address, in place of what stands there.

    Raises:
        ScopeGone: The scope was erased; nothing was written.
        RecordDoesNotOpen: What stands there was changed, moved or exchanged.
    """
    # In one order everywhere: two who put the same items wait for each other, and do not deadlock.
    placed = sorted((_place(keys, item.address), item) for item in items)
    before = _rows_at(transaction, keys, _AT_FOR_WRITING, [place for place, _ in placed])
    created = {
        (row[0], row[1]): _opened(keys, row).created for row in before if _is_alive(row, now)
    }
    _remove(transaction, keys, _REMOVE_VECTORS, [(row[0], row[1]) for row in before])
    rows = [
        row
        for place, item in placed
        for row in _sealed_rows(keys, place, item, created.get(place, now), now)
    ]
    _for_each(transaction, keys, _PUT, rows)


def _sealed_rows(
    keys: ScopeKeys, place: Place, item: NewItem, created: int, now: int
) -> Iterator[dict[str, Any]]:
    parent, key = place
    lifetime = _FOR_EVER if item.lifetime is None else item.lifetime
    plaintext = _HEAD.pack(_FORM, created, now, lifetime) + item.body
    times = {
        "created_at": created // 1000,
        "updated_at": now // 1000,
        "expires_at": None if item.lifetime is None else (now + item.lifetime) // 1000,
    }

    def row(kind: Kind, key: bytes, sealed: bytes) -> dict[str, Any]:
        size = len(sealed)
        return {
            "kind": int(kind),
            "parent": parent,
            "key": key,
            "sealed": sealed,
            "size": size,
        } | times

    yield row(Kind.ITEM, key, keys.seal(keys.place(Kind.ITEM, parent), key, plaintext))
    place_of_vectors = keys.place(Kind.VECTOR, parent)
    for number, vector in enumerate(item.vectors):
        its_key = key + number.to_bytes(4)
        # Deflating 1,536 numbers takes 117 µs, sealing them 2, and saves 7 %.
        yield row(
            Kind.VECTOR, its_key, keys.seal(place_of_vectors, its_key, vector, compress=False)
        )


def remove(transaction: Transaction, keys: ScopeKeys, addresses: Sequence[Address]) -> None:
    """Remove the items at ``addresses``, where there are any, and their vectors."""
    _remove(transaction, keys, _REMOVE, sorted(_place(keys, address) for address in addresses))


def _remove(
    transaction: Transaction, keys: ScopeKeys, statements: Statements, places: Sequence[Place]
) -> None:
    rows = [{"parent": parent, "key": key, "key_end": _after(key)} for parent, key in places]
    _for_each(transaction, keys, statements, rows)


def refresh(transaction: Transaction, keys: ScopeKeys, items: Sequence[Item], now: int) -> None:
    """Let ``items``, read a moment ago, live for their whole lifetime from ``now`` on."""
    transaction.execute_many(
        _REFRESH,
        [
            {
                "scope_id": keys.scope_id,
                "given_parent": item.place[0],
                "given_key": item.place[1],
                "given_key_end": _after(item.place[1]),
                "seen": item.expires_at,
                "given_expires_at": (now + item.lifetime) // 1000,
            }
            for item in items
            if item.lifetime is not None
        ],
    )


def _below(keys: ScopeKeys, prefix: Names, now: int) -> dict[str, Any]:
    low = _parent(keys, prefix)
    return {"scope_id": keys.scope_id, "low": low, "high": _after(low), "now": now // 1000}


def newest(
    transaction: Transaction,
    keys: ScopeKeys,
    prefix: Names,
    read: Callable[[bytes], T | None],
    count: int,
    now: int,
    *,
    all_pass: bool,
) -> list[Found[T]]:
    """The ``count`` items below ``prefix`` that were put last, the newest first.

    Args:
        prefix: Labels with which the namespaces begin.
        read: Makes of a body what the caller wants, or ``None`` to leave the item out.
        count: At most so many.
        now: The time, in µs.
        all_pass: Whether ``read`` leaves none out: then no more than needed are fetched.
    """
    limit = min(count + _SAME_MILLISECOND, _NO_LIMIT) if all_pass else _NO_LIMIT
    found: list[Found[T]] = []
    last = None
    for row in transaction.rows(_NEWEST, **_below(keys, prefix, now), limit=limit):
        # The column has ms, the sealed time µs: a millisecond that was begun is read to its end.
        if len(found) >= count and row[3] != last:
            break
        last = row[3]
        item = _opened(keys, row)
        if (content := read(item.body)) is not None:
            found.append((item, content, None))
    found.sort(key=lambda one: (-one[0].updated, one[0].place))
    return found[:count]


def nearest(
    transaction: Transaction,
    keys: ScopeKeys,
    prefix: Names,
    read: Callable[[bytes], T | None],
    count: int,
    now: int,
    *,
    all_pass: bool,
    score: Callable[[Sequence[bytes]], Sequence[float | None]],
) -> list[Found[T]]:
    """The ``count`` items below ``prefix`` with the highest scores, the highest first.

    An item has the score of its best vector. Items without any follow, the newest first.

    Args:
        prefix: Labels with which the namespaces begin.
        read: Makes of a body what the caller wants, or ``None`` to leave the item out.
        score: Scores vectors; ``None`` for one that cannot be compared.
        count: At most so many.
        now: The time, in µs.
        all_pass: Whether ``read`` leaves none out: then no more than needed are opened.
    """
    rows: dict[int, list[Row]] = {Kind.ITEM: [], Kind.VECTOR: []}
    for kind, *row in transaction.rows(_WITH_VECTORS, **_below(keys, prefix, now)):
        rows[kind].append(_checked(row, Kind(kind)))
    items = {(row[0], row[1]): row for row in rows[Kind.ITEM]}
    opened = {} if all_pass else _read_all(keys, items, read)
    passing = items if all_pass else opened
    best: dict[Place, float] = {}
    vectors = [row for row in rows[Kind.VECTOR] if (row[0], row[1][:DIGEST_BYTES]) in passing]
    plaintexts = [
        keys.open(keys.place(Kind.VECTOR, parent), key, sealed, Kind.VECTOR)
        for parent, key, sealed, *_ in vectors
    ]
    for (parent, key, *_), its_score in zip(vectors, score(plaintexts), strict=True):
        if its_score is not None:
            place = parent, key[:DIGEST_BYTES]
            best[place] = max(its_score, best.get(place, its_score))
    ranked = sorted(best, key=lambda place: (-best[place], place))
    others = sorted(passing.keys() - best.keys(), key=lambda place: (-items[place][3], place))
    chosen = (ranked + others)[:count]
    opened = opened or _read_all(keys, {place: items[place] for place in chosen}, read)
    return [(*opened[place], best.get(place)) for place in chosen if place in opened]


def _read_all(
    keys: ScopeKeys, rows: Mapping[Place, Row], read: Callable[[bytes], T | None]
) -> dict[Place, tuple[Item, T]]:
    items = ((place, _opened(keys, row)) for place, row in rows.items())
    return {
        place: (item, content) for place, item in items if (content := read(item.body)) is not None
    }


def one_of_each_namespace(
    transaction: Transaction, keys: ScopeKeys, prefix: Names, now: int
) -> list[bytes]:
    """The body of one item of each namespace below ``prefix``."""
    rows = transaction.rows(_ONE_OF_EACH, **_below(keys, prefix, now))
    return [_opened(keys, row).body for row in rows]


def sweep(transaction: Transaction, keys: ScopeKeys, now: int) -> int:
    """Remove what has expired; returns how many items that were."""
    rows = transaction.rows(_SWEEP, scope_id=keys.scope_id, now=now // 1000)
    return sum(kind == Kind.ITEM for (kind,) in rows)
