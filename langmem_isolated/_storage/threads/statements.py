"""Asks the database for what threads keep."""

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select, update

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database import schema
from langmem_isolated._storage.containers import (
    DIGEST,
    LISTED,
    SCOPE_ID,
    advance,
    in_scope,
    move,
    row_of,
)

_r, _s = schema.records.c, schema.sessions.c
_PARENT = bindparam("parent", type_=sa.LargeBinary)
_KEY = bindparam("key", type_=sa.LargeBinary)


def _is(kind: Kind) -> sa.ColumnElement[bool]:
    return sa.and_(_r.scope_id == SCOPE_ID, _r.kind == sa.literal_column(str(int(kind))))


_THIS_THREAD = row_of(Kind.THREAD)
_ITS_ELEMENTS = sa.and_(_is(Kind.ELEMENT), _r.parent == DIGEST)
_IN_RANGE = sa.and_(_r.parent >= bindparam("low"), _r.parent < bindparam("high"))
_BODIES_IN_RANGE = sa.and_(
    _r.scope_id == SCOPE_ID,
    _r.kind.in_([sa.literal_column(str(int(kind))) for kind in (Kind.CHECKPOINT, Kind.WRITE)]),
    _IN_RANGE,
)
_AT = sa.and_(
    _r.scope_id == SCOPE_ID, _r.kind == bindparam("kind"), _r.parent == _PARENT, _r.key == _KEY
)

ADVANCE = advance(Kind.THREAD)
MOVE = move(Kind.THREAD)
SWEPT = (
    update(schema.sessions)
    .where(_THIS_THREAD)
    .values(
        head=bindparam("new_head"),
        generation=bindparam("new_generation"),
        count=bindparam("new_count"),
        size=bindparam("new_size"),
    )
)
COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "kind": sa.SmallInteger(),
    "parent": sa.LargeBinary(),
    "key": sa.LargeBinary(),
    "alias": sa.LargeBinary(),
    "tag": sa.LargeBinary(),
    "sealed": sa.LargeBinary(),
    "size": sa.Integer(),
}
INSERT = (
    sa.insert(schema.records)
    .values(
        scope_id=SCOPE_ID,
        created_at=bindparam("now"),
        updated_at=bindparam("now"),
        **{name: bindparam(f"new_{name}") for name in COLUMNS},
    )
    .inline()
)


@cache
def move_and_insert(rows: int) -> sa.Insert:
    """One statement for the thread's row, a body and its elements, for PostgreSQL.

    Instead of two round trips and the five statements of a transaction. Not `unnest`: to make its
    seven arrays took psycopg 80 µs.
    """
    moved = MOVE.returning(_s.scope_id).cte("moved")
    now = sa.cast(bindparam("now"), sa.BigInteger)
    selects = [
        select(
            moved.c.scope_id,
            now,
            now,
            *(
                sa.cast(bindparam(f"{name}_{number}", type_=type_), type_)
                for name, type_ in COLUMNS.items()
            ),
        )
        for number in range(rows)
    ]
    columns = ["scope_id", "created_at", "updated_at", *COLUMNS]
    source = selects[0] if rows == 1 else sa.union_all(*selects)
    return sa.insert(schema.records).from_select(columns, source).returning(_r.key)


BY_ALIAS = select(_r.key, _r.sealed).where(_ITS_ELEMENTS, _r.alias == bindparam("alias"))
ELEMENTS = select(_r.key, _r.sealed).where(
    _ITS_ELEMENTS, _r.key >= bindparam("first"), _r.key <= bindparam("last")
)
ELEMENT_KEYS = select(_r.key, _r.size).where(_ITS_ELEMENTS)
_LATEST_KEY = (
    select(_r.key)
    .where(_is(Kind.CHECKPOINT), _r.parent == _PARENT)
    .order_by(_r.key.desc())
    .limit(sa.literal_column("1"))
    .offset(sa.literal_column("0"))
    .scalar_subquery()
)


def _get(key: sa.ColumnElement[bytes]) -> sa.CompoundSelect[tuple[object, ...]]:
    """The thread's row, a checkpoint and what stands behind it, in one statement and state."""
    no_numbers = [sa.cast(sa.null(), sa.BigInteger)] * 3
    return sa.union_all(
        select(
            sa.literal_column(str(int(Kind.THREAD))),
            *(_s.generation, _s.head, _s.next_sequence, _s.count, _s.expires_at),
        ).where(_THIS_THREAD),
        select(sa.literal_column(str(int(Kind.CHECKPOINT))), _r.key, _r.sealed, *no_numbers).where(
            _is(Kind.CHECKPOINT), _r.parent == _PARENT, _r.key == key
        ),
        select(sa.literal_column(str(int(Kind.WRITE))), _r.key, _r.sealed, *no_numbers).where(
            _is(Kind.WRITE), _r.parent == _PARENT, _r.key > key, _r.key < bindparam("end")
        ),
    )


GET_LATEST = _get(_LATEST_KEY)
GET_ONE = _get(_KEY)
_ROW = (_r.parent, _r.key, _r.sealed)
_LIMIT = bindparam("limit", type_=sa.Integer)
LIST_NAMESPACE = (
    select(*_ROW)
    .where(_is(Kind.CHECKPOINT), _r.parent == _PARENT, _r.key < bindparam("before"))
    .order_by(_r.key.desc())
    .limit(_LIMIT)
    .offset(sa.literal_column("0"))
)
LIST_RANGE = (
    select(*_ROW)
    .where(
        _is(Kind.CHECKPOINT),
        _IN_RANGE,
        sa.tuple_(_r.key, _r.parent) < sa.tuple_(bindparam("before"), bindparam("before_parent")),
    )
    .order_by(_r.key.desc(), _r.parent.desc())
    .limit(_LIMIT)
    .offset(sa.literal_column("0"))
)
WRITES = select(*_ROW).where(
    _is(Kind.WRITE), _IN_RANGE, _r.key >= bindparam("first"), _r.key < bindparam("end")
)
BODIES = select(_r.kind, _r.parent, _r.key, _r.sealed, _r.tag).where(_BODIES_IN_RANGE)
ROW_AT = select(_r.sealed).where(_AT)
DELETE_ONE = delete(schema.records).where(_AT)
TAKE_OUT = DELETE_ONE.returning(_r.size)
DELETE_BODIES = delete(schema.records).where(_BODIES_IN_RANGE)
# And the embeddings that a search made of them.
DELETE_ELEMENTS = delete(schema.records).where(
    _r.scope_id == SCOPE_ID,
    _r.kind.in_([sa.literal_column(str(int(kind))) for kind in (Kind.ELEMENT, Kind.EMBEDDING)]),
    _r.parent == DIGEST,
)
_others = schema.records.alias("others")
DELETE_LEFT_EMBEDDINGS = delete(schema.records).where(
    _is(Kind.EMBEDDING),
    _r.parent == DIGEST,
    ~sa.exists().where(
        _others.c.scope_id == _r.scope_id,
        _others.c.kind == sa.literal_column(str(int(Kind.ELEMENT))),
        _others.c.parent == _r.parent,
        _others.c.key == _r.key,
    ),
)
OF_RUN = select(_r.parent, _r.key).where(_is(Kind.CHECKPOINT), _r.tag == bindparam("tag"))
LIST_THREADS = (
    select(*LISTED)
    .where(in_scope(Kind.THREAD), sa.or_(_s.expires_at.is_(None), _s.expires_at > bindparam("now")))
    .order_by(_s.updated_at.desc(), _s.digest)
)
