"""SQL of LangGraph threads."""

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database import schema
from langmem_isolated._storage.container_state import STATE
from langmem_isolated._storage.containers import (
    DIGEST,
    SCOPE_ID,
    compare_and_swap,
    padded_state,
    row_of,
)

_records, _sessions = schema.records.c, schema.sessions.c
_PARENT = bindparam("parent", type_=sa.LargeBinary)
_KEY = bindparam("key", type_=sa.LargeBinary)


def _is(kind: Kind) -> sa.ColumnElement[bool]:
    return sa.and_(
        _records.scope_id == SCOPE_ID, _records.kind == sa.literal_column(str(int(kind)))
    )


_THIS_THREAD = row_of(Kind.THREAD)
_ITS_ELEMENTS = sa.and_(_is(Kind.ELEMENT), _records.parent == DIGEST)
_IN_RANGE = sa.and_(_records.parent >= bindparam("low"), _records.parent < bindparam("high"))
_BODIES_IN_RANGE = sa.and_(
    _records.scope_id == SCOPE_ID,
    _records.kind.in_(
        [sa.literal_column(str(int(kind))) for kind in (Kind.CHECKPOINT, Kind.WRITE)]
    ),
    _IN_RANGE,
)
_AT = sa.and_(
    _records.scope_id == SCOPE_ID,
    _records.kind == bindparam("kind"),
    _records.parent == _PARENT,
    _records.key == _KEY,
)

COMPARE_AND_SWAP = compare_and_swap(Kind.THREAD)
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
        **{name: bindparam(f"record_{name}") for name in COLUMNS},
    )
    .inline()
)


@cache
def insert_behind(change: sa.Insert | sa.Update, rows: int) -> sa.Insert:
    """One statement for the thread's row and so many below it, for PostgreSQL.

    Instead of two round trips and the five statements of a transaction. Not `unnest`: to make its
    seven arrays took psycopg 80 µs.

    Args:
        change: Makes or changes the thread's row; where it does neither, nothing is inserted.
        rows: How many.
    """
    moved = change.returning(_sessions.scope_id).cte("moved")
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
    return sa.insert(schema.records).from_select(columns, source).returning(_records.key)


BY_ALIAS = select(_records.key, _records.sealed).where(
    _ITS_ELEMENTS, _records.alias == bindparam("alias")
)
_ELEMENTS_IN_RANGE = sa.and_(
    _ITS_ELEMENTS, _records.key >= bindparam("first"), _records.key <= bindparam("last")
)
ELEMENTS = select(_records.key, _records.sealed).where(_ELEMENTS_IN_RANGE)
ELEMENT_KEYS = select(_records.key, _records.size, _records.alias, _records.updated_at).where(
    _ITS_ELEMENTS
)
_LATEST_KEY = (
    select(_records.key)
    .where(_is(Kind.CHECKPOINT), _records.parent == _PARENT)
    .order_by(_records.key.desc())
    .limit(sa.literal_column("1"))
    .offset(sa.literal_column("0"))
    .scalar_subquery()
)


def _get(key: sa.ColumnElement[bytes]) -> sa.CompoundSelect[tuple[object, ...]]:
    """The thread's row, a checkpoint, what stands behind it, and some of the thread's elements.

    In one statement, so of one state.
    """
    below = (_records.kind, _records.key, _records.sealed)
    return sa.union_all(
        select(sa.literal_column(str(int(Kind.THREAD))), *STATE).where(_THIS_THREAD),
        select(*below, *padded_state(2)).where(
            _is(Kind.CHECKPOINT), _records.parent == _PARENT, _records.key == key
        ),
        select(*below, *padded_state(2)).where(
            _is(Kind.WRITE),
            _records.parent == _PARENT,
            _records.key > key,
            _records.key < bindparam("end"),
        ),
        select(*below, *padded_state(2)).where(_ELEMENTS_IN_RANGE),
    )


GET_LATEST = _get(_LATEST_KEY)
GET_ONE = _get(_KEY)
_ROW = (_records.parent, _records.key, _records.sealed)
_LIMIT = bindparam("limit", type_=sa.Integer)
LIST_NAMESPACE = (
    select(*_ROW)
    .where(_is(Kind.CHECKPOINT), _records.parent == _PARENT, _records.key < bindparam("before"))
    .order_by(_records.key.desc())
    .limit(_LIMIT)
    .offset(sa.literal_column("0"))
)
LIST_RANGE = (
    select(*_ROW)
    .where(
        _is(Kind.CHECKPOINT),
        _IN_RANGE,
        sa.tuple_(_records.key, _records.parent)
        < sa.tuple_(bindparam("before"), bindparam("before_parent")),
    )
    .order_by(_records.key.desc(), _records.parent.desc())
    .limit(_LIMIT)
    .offset(sa.literal_column("0"))
)
WRITES = select(*_ROW).where(
    _is(Kind.WRITE), _IN_RANGE, _records.key >= bindparam("first"), _records.key < bindparam("end")
)
BODIES = select(
    _records.kind,
    _records.parent,
    _records.key,
    _records.sealed,
    _records.tag,
    _records.updated_at,
).where(_BODIES_IN_RANGE)
ROW_AT = select(_records.sealed).where(_AT)
DELETE_ONE = delete(schema.records).where(_AT)
TAKE_OUT = DELETE_ONE.returning(_records.sealed, _records.tag, _records.updated_at)
DELETE_BODIES = delete(schema.records).where(_BODIES_IN_RANGE)
# And the embeddings that a search made of them.
DELETE_ELEMENTS = delete(schema.records).where(
    _records.scope_id == SCOPE_ID,
    _records.kind.in_(
        [sa.literal_column(str(int(kind))) for kind in (Kind.ELEMENT, Kind.EMBEDDING)]
    ),
    _records.parent == DIGEST,
)
_others = schema.records.alias("others")
DELETE_LEFT_EMBEDDINGS = delete(schema.records).where(
    _is(Kind.EMBEDDING),
    _records.parent == DIGEST,
    ~sa.exists().where(
        _others.c.scope_id == _records.scope_id,
        _others.c.kind == sa.literal_column(str(int(Kind.ELEMENT))),
        _others.c.parent == _records.parent,
        _others.c.key == _records.key,
    ),
)
OF_RUN = select(_records.parent, _records.key).where(
    _is(Kind.CHECKPOINT), _records.tag == bindparam("tag")
)
