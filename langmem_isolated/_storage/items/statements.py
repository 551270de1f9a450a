"""SQL of a store's items."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select, update

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database import schema
from langmem_isolated._database.statements import InsertsByDialect
from langmem_isolated._storage import equalities
from langmem_isolated._storage.containers import SCOPE_ID
from langmem_isolated._storage.upserts import replace_at_address
from langmem_isolated._storage.write_barrier import MAY_SEAL

_records, _scopes, _sessions = schema.records.c, schema.scopes.c, schema.sessions.c
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
    "expiry_mac": sa.LargeBinary(),
    "equalities": sa.LargeBinary(),
}
_ONE = {name: bindparam(f"given_{name}", type_=type_) for name, type_ in _TYPES.items()}


def _given(*names: str) -> sa.TableValuedAlias:
    """PostgreSQL: arrays as a table, so that one statement does for any number of rows."""
    arrays = (bindparam(f"given_{n}", type_=sa.ARRAY(_TYPES[n])) for n in names)
    return sa.func.unnest(*arrays).table_valued(*names, name="given").render_derived()


_COLUMNS = (
    _records.parent,
    _records.key,
    _records.sealed,
    _records.created_at,
    _records.updated_at,
    _records.expires_at,
    _records.expiry_mac,
)
UPDATED_AT = _COLUMNS.index(_records.updated_at)
_ONE_ROW: sa.ColumnElement[int] = sa.literal_column("1")
# SQLite would be asked for a parameter.
_FROM_THE_FIRST: sa.ColumnElement[int] = sa.literal_column("0")
_ALIVE = sa.or_(_records.expires_at.is_(None), _records.expires_at > _NOW)


def _item_at(place: Any) -> sa.Select[Any]:
    is_item = sa.and_(_records.scope_id == SCOPE_ID, _records.kind == _ITEM, _ALIVE)
    return select(*_COLUMNS).where(
        is_item, _records.parent == place["parent"], _records.key == place["key"]
    )


_places = _given("parent", "key")
# The limit keeps PostgreSQL from joining in another order: one without statistics reads the scope.
_item_there = _item_at(_places.c).limit(_ONE_ROW).lateral()
# By whether it is PostgreSQL, as all that follow.
AT = {
    False: _item_at(_ONE),
    True: select(*_item_there.c).select_from(_places.join(_item_there, sa.true())),
}

_SCOPE = sa.and_(_scopes.scope_id == SCOPE_ID, _scopes.birth == bindparam("scope_birth"))
_MAY_PUT = sa.and_(_SCOPE, MAY_SEAL)
# A scope that is there, in which these keys may seal, and whose items no row counts.
_UNCOUNTED = sa.and_(
    _MAY_PUT,
    ~sa.exists().where(
        _sessions.scope_id == SCOPE_ID,
        _sessions.kind == _ITEM,
        _sessions.digest == bindparam("counted", type_=sa.LargeBinary),
    ),
)
PROVE_UNCOUNTED = select(_scopes.scope_id).where(_UNCOUNTED)
# Nobody has ever begun to count them: PostgreSQL compares the newest version of a row that it waits
# for, so whoever begins is noticed. To ask for the row that counts took it and its driver 15 µs of
# 138.
_NEVER_COUNTED = sa.and_(_MAY_PUT, _scopes.renewals == sa.literal_column("0"))
LOCK_SCOPE = select(_scopes.scope_id).where(_SCOPE).with_for_update()
RENEW_SCOPE = update(schema.scopes).where(_SCOPE).values(renewals=_scopes.renewals + _ONE_ROW)
# A statement sees what was there when it began, not when it got a lock: who writes items asks this
# first, and what it asks next sees the row of whoever began to count meanwhile.
SHARE_SCOPE = select(_scopes.scope_id).where(_SCOPE).with_for_update(read=True, key_share=True)
_RECORD = (
    "kind",
    "parent",
    "key",
    "sealed",
    "size",
    "created_at",
    "updated_at",
    "expires_at",
    "expiry_mac",
    "equalities",
)


def _put(insert: Any) -> Any:
    """An upsert that keeps when the item was first put, unless that one has expired."""
    new = insert.excluded
    has_expired = _records.expires_at <= new.updated_at
    since = sa.case((has_expired, new.created_at), else_=_records.created_at)
    # The digests too: those of the older value must not find, or hide, the new one.
    replaced = ("sealed", "size", "updated_at", "expires_at", "expiry_mac", "equalities")
    return replace_at_address(insert, *replaced, created_at=since)


def _put_from(rows: sa.Select[Any], insert: Any) -> Any:
    """An upsert of rows with a scope that is there.

    Where an erasure is under way it waits, and then finds no row of the scope, and changes nothing.
    """
    proved = rows.with_for_update(read=True, key_share=True, of=schema.scopes)
    # Without a RETURNING: it took SQLite 4 µs of 15, and PostgreSQL and its driver 7.
    return _put(insert.from_select(["scope_id", *_RECORD], proved)).inline()


_one = select(_scopes.scope_id, *(_ONE[name] for name in _RECORD)).where(_NEVER_COUNTED)
PUT_ONE = InsertsByDialect(schema.records, partial(_put_from, _one))
# On SQLite each row by itself, on PostgreSQL all at once.
PUT_EACH = InsertsByDialect(
    schema.records,
    lambda insert: _put(insert.values(scope_id=SCOPE_ID, **{name: _ONE[name] for name in _RECORD})),
)


@cache
def put_all(varying: Sequence[str], *, is_alone: bool) -> InsertsByDialect:
    """An upsert of many rows on PostgreSQL, given as arrays.

    Args:
        varying: The columns in which they differ. Of the others each value is given once: to make
            an array of 100 numbers takes 20 µs.
        is_alone: Whether the scope was not locked before.
    """
    rows = _given(*varying)
    values = (rows.c[name] if name in varying else _ONE[name] for name in _RECORD)
    given = select(_scopes.scope_id, *values).where(_NEVER_COUNTED if is_alone else _UNCOUNTED)
    return InsertsByDialect(schema.records, partial(_put_from, given))


# An item and its vectors: whatever has a key that begins with the item's.
_SPAN = sa.and_(
    _records.scope_id == SCOPE_ID,
    _records.parent == bindparam("span_parent", type_=sa.LargeBinary),
    _records.key >= bindparam("span_start", type_=sa.LargeBinary),
    _records.key < bindparam("span_end", type_=sa.LargeBinary),
)
_BOTH = _records.kind.in_([_ITEM, _VECTOR])
REMOVE = delete(schema.records).where(_SPAN, _BOTH)
REMOVE_VECTORS = delete(schema.records).where(_SPAN, _records.kind == _VECTOR)
REFRESH = (
    update(schema.records)
    # Unless it was put anew, has expired, or was refreshed since.
    .where(_SPAN, _records.kind == _ITEM, _records.updated_at == _ONE["updated_at"])
    .where(_records.expires_at > _NOW, _records.expires_at < _ONE["expires_at"])
    .values(
        expires_at=bindparam("new_expires_at", type_=sa.BigInteger),
        expiry_mac=bindparam("new_expiry_mac", type_=sa.LargeBinary),
    )
)

_EVERY_ITEM = sa.and_(_records.scope_id == SCOPE_ID, _records.kind == _ITEM)
EVERY = select(*_COLUMNS).where(_EVERY_ITEM)
STORED_AT = EVERY.where(_records.parent == _ONE["parent"], _records.key == _ONE["key"])

_LOW, _HIGH = (bindparam(name, type_=sa.LargeBinary) for name in ("low", "high"))
_LIMIT = bindparam("limit", type_=sa.Integer)


def _below(columns: Any) -> sa.ColumnElement[bool]:
    is_below = columns.parent >= _LOW, columns.parent < _HIGH
    return sa.and_(*is_below, sa.or_(columns.expires_at.is_(None), columns.expires_at > _NOW))


_BELOW = sa.and_(_records.scope_id == SCOPE_ID, _below(_records))
_ITEMS = select(*_COLUMNS).where(_BELOW, _records.kind == _ITEM)
# Backwards, as the index of items is read: those of one moment come in one order everywhere.
_BY_ADDRESS = _records.parent.desc(), _records.key.desc()


def _newest(items: Any, limit: sa.ColumnElement[int] = _LIMIT, columns: Any = _records) -> Any:
    by_time = (columns[name].desc() for name in ("updated_at", "parent", "key"))
    return items.order_by(*by_time).limit(limit).offset(_FROM_THE_FIRST)


def _last(*columns: sa.ColumnElement[Any]) -> sa.Subquery:
    """The items that were put last in the whole scope, straight from the index of items."""
    looked_at = bindparam("looked_at", type_=sa.Integer)
    last: sa.Select[Any] = _newest(select(*columns).where(_EVERY_ITEM), looked_at)
    return last.subquery("last")


NEWEST = _newest(_ITEMS)


def _indexed(items: sa.Select[Any], count: int, *, is_postgres: bool) -> sa.Select[Any]:
    """Items that may have ``count`` values, and behind their columns their digests."""
    if not count:
        return items
    may_have = equalities.may_have(count, is_postgres=is_postgres)
    return items.add_columns(_records.equalities).where(may_have)


@cache
def every(count: int, *, is_postgres: bool) -> sa.Select[Any]:
    """All items that may have ``count`` values; see :class:`equalities.Conditions`."""
    return _indexed(_ITEMS, count, is_postgres=is_postgres).order_by(*_BY_ADDRESS)


@cache
def first(count: int, *, is_postgres: bool) -> Any:
    """The newest items that may have ``count`` values, among those put last in the whole scope.

    SQLite reads what an item holds when that is fetched. PostgreSQL, where so many are not among
    them, goes on to all items: to be asked twice takes it longer.
    """
    return _first_of_postgres(count) if is_postgres else _first_of_sqlite(count)


def _first_of_sqlite(count: int) -> sa.Select[Any]:
    last = _last(_records.parent, _records.key, _records.updated_at, _records.expires_at)
    is_it = sa.and_(_records.parent == last.c.parent, _records.key == last.c.key)
    # Not a plain join: SQLite would go through all of the entries before it takes the first.
    items = select(*_COLUMNS).select_from(last.outerjoin(schema.records, _EVERY_ITEM & is_it))
    found = _indexed(items.where(_below(last.c)), count, is_postgres=False)
    return found.limit(_LIMIT).offset(_FROM_THE_FIRST)


def _first_of_postgres(count: int) -> Any:
    last = _last(*_COLUMNS, *([_records.equalities] if count else []))
    found = select(last).where(_below(last.c))
    if count:
        column = last.c.equalities
        found = found.where(equalities.may_have(count, is_postgres=True, column=column))
    found = _newest(found, columns=last.c).cte("found")
    are_enough = select(sa.func.count()).select_from(found).scalar_subquery() == _LIMIT
    rest = _newest(_indexed(_ITEMS, count, is_postgres=True).where(~are_enough)).subquery("rest")
    both = sa.union_all(select(found).where(are_enough), select(rest))
    names = ("updated_at", "parent", "key")
    return both.order_by(*(both.selected_columns[name].desc() for name in names))


WITH_VECTORS = (
    select(*_COLUMNS, _records.kind)
    .where(_BELOW, _BOTH)
    .order_by(_records.kind.desc(), *_BY_ADDRESS)
)
_alive_items = sa.and_(_records.scope_id == SCOPE_ID, _records.kind == _ITEM, _ALIVE)
# From one namespace to the next, however many items lie between.
_namespaces = (
    select(sa.func.min(_records.parent).label("parent"))
    .where(_BELOW, _records.kind == _ITEM)
    .cte("namespaces", recursive=True)
)
_next = select(sa.func.min(_records.parent)).where(
    _alive_items, _records.parent > _namespaces.c.parent, _records.parent < _HIGH
)
_namespaces = _namespaces.union_all(
    select(_next.scalar_subquery()).where(_namespaces.c.parent.is_not(None))
)


def _of_first(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    there = select(column).where(_alive_items, _records.parent == _namespaces.c.parent)
    return there.order_by(_records.key).limit(_ONE_ROW).offset(_FROM_THE_FIRST).scalar_subquery()


def _first_behind(start: sa.ColumnElement[bool], high: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """The first item of a scope behind an address, by the order of the table's key."""
    first = select(*_COLUMNS).where(_records.scope_id == SCOPE_ID, _ALIVE, start, high)
    return first.order_by(_records.kind, _records.parent, _records.key).limit(_ONE_ROW)


# Kind and parent are compared as one. PostgreSQL, while it has no statistics of a new table, takes
# an index of what nothing counts for better than the key otherwise, and reads the whole scope 30
# times: 58 ms of 3,000 items, and 0.5 so.
_ADDRESS = sa.tuple_(_records.kind, _records.parent)
_BEFORE_HIGH = sa.tuple_(_ITEM, _HIGH) > _ADDRESS
_first = _first_behind(sa.tuple_(_ITEM, _LOW) <= _ADDRESS, _BEFORE_HIGH).cte(
    "firsts", recursive=True
)
_behind = _first_behind(sa.tuple_(_ITEM, _first.c.parent) < _ADDRESS, _BEFORE_HIGH).lateral()
_firsts = _first.union_all(select(*_behind.c).select_from(_first.join(_behind, sa.true())))
ONE_OF_EACH = {
    False: select(_namespaces.c.parent, *map(_of_first, _COLUMNS[1:])).where(
        _namespaces.c.parent.is_not(None)
    ),
    True: select(*_firsts.c),
}
# A page of items in the order of their addresses, and what vectors they have.
PAGE = (
    _ITEMS.where(
        sa.tuple_(_records.parent, _records.key)
        > sa.tuple_(bindparam("behind", type_=sa.LargeBinary), _ONE["key"])
    )
    .order_by(_records.parent, _records.key)
    .limit(bindparam("limit", type_=sa.Integer))
    .offset(_FROM_THE_FIRST)
)
VECTORS = (
    select(_records.key, _records.sealed)
    .where(_SPAN, _records.kind == _VECTOR)
    .order_by(_records.key)
)
ANY_VECTOR = (
    select(_ONE_ROW)
    .where(_records.scope_id == SCOPE_ID, _records.kind == _VECTOR)
    .limit(_ONE_ROW)
    .offset(_FROM_THE_FIRST)
)
_put_here = schema.records.alias()
SWEEP_VECTORS = delete(schema.records).where(
    _records.scope_id == SCOPE_ID,
    _records.kind == _VECTOR,
    ~sa.exists().where(
        _put_here.c.scope_id == SCOPE_ID,
        _put_here.c.kind == _ITEM,
        _put_here.c.parent == _records.parent,
        _put_here.c.key
        == sa.func.substr(_records.key, _ONE_ROW, sa.literal_column(str(DIGEST_BYTES))),
    ),
)
_EXPIRED = sa.and_(_records.scope_id == SCOPE_ID, _BOTH, _records.expires_at <= _NOW)
# In the order of puts, and locked: one that is read meanwhile lives on, or does not.
EXPIRED = (
    select(*_COLUMNS)
    .where(_EXPIRED, _records.kind == _ITEM)
    .order_by(_records.parent, _records.key)
    .with_for_update()
)
SWEEP = delete(schema.records).where(_EXPIRED).returning(_records.kind)
