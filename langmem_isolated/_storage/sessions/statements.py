"""Asks the database for what sessions keep."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.dialects import postgresql

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database import schema
from langmem_isolated._storage.containers import (
    DIGEST,
    LISTED,
    SCOPE_ID,
    STATE,
    in_scope,
    move,
    row_of,
)

_r, _s = schema.records.c, schema.sessions.c
_ITS_MESSAGES = sa.and_(
    _r.scope_id == SCOPE_ID,
    _r.kind == sa.literal_column(str(int(Kind.MESSAGE))),
    _r.parent == DIGEST,
)
_THIS_SESSION = row_of(Kind.SESSION)
COUNT = select(*STATE).where(_THIS_SESSION)
HEADER = select(*STATE, _s.sealed).where(_THIS_SESSION).with_for_update()
MOVE = move(Kind.SESSION)
EMPTY = (
    update(schema.sessions)
    .where(_THIS_SESSION)
    .values(
        head=bindparam("new_head"),
        next_sequence=sa.literal_column("0"),
        count=sa.literal_column("0"),
        size=sa.literal_column("0"),
        generation=bindparam("new_generation"),
        updated_at=bindparam("now"),
    )
)
RESEAL = update(schema.sessions).where(_THIS_SESSION).values(sealed=bindparam("new_sealed"))
# And the embeddings that a search made of them.
REMOVE_MESSAGES = delete(schema.records).where(
    _r.scope_id == SCOPE_ID,
    _r.kind.in_([sa.literal_column(str(int(kind))) for kind in (Kind.MESSAGE, Kind.EMBEDDING)]),
    _r.parent == DIGEST,
)

_PER_MESSAGE = ("key", "alias", "sealed", "size")
INSERT_ONE = (
    sa.insert(schema.records)
    .values(
        kind=sa.literal_column(str(int(Kind.MESSAGE))),
        scope_id=SCOPE_ID,
        parent=DIGEST,
        tag=bindparam("new_tag"),
        created_at=bindparam("now"),
        updated_at=bindparam("now"),
        **{name: bindparam(f"new_{name}") for name in _PER_MESSAGE},
    )
    .inline()
)
_ARRAYS: dict[str, postgresql.ARRAY[Any]] = {
    "key": postgresql.ARRAY(sa.LargeBinary),
    "alias": postgresql.ARRAY(sa.LargeBinary),
    "sealed": postgresql.ARRAY(sa.LargeBinary),
    "size": postgresql.ARRAY(sa.Integer),
}
# One statement for the session's row and any number of messages: every round trip costs 28 to 67 µs
# on loopback, and BEGIN and COMMIT are two.
_moved = MOVE.returning(_s.scope_id).cte("moved")
MOVE_AND_INSERT = (
    sa.insert(schema.records)
    .from_select(
        ["scope_id", "kind", "parent", "tag", "created_at", "updated_at", *_ARRAYS],
        select(
            _moved.c.scope_id,
            sa.literal_column(str(int(Kind.MESSAGE))),
            sa.cast(DIGEST, sa.LargeBinary),
            sa.cast(bindparam("new_tag"), sa.LargeBinary),
            sa.cast(bindparam("now"), sa.BigInteger),
            sa.cast(bindparam("now"), sa.BigInteger),
            *(sa.func.unnest(bindparam(f"new_{n}", type_=type_)) for n, type_ in _ARRAYS.items()),
        ),
    )
    .returning(_r.key)
)
KNOWN_ALIAS = select(_r.key).where(_ITS_MESSAGES, _r.alias == bindparam("alias"))

# The session's row and its messages in one statement see one state without a transaction.
_ROW = (_r.key, _r.sealed, *STATE)
LOAD = (
    select(*_ROW)
    .select_from(sa.outerjoin(schema.sessions, schema.records, _ITS_MESSAGES))
    .where(_THIS_SESSION)
)
_page = (
    select(_r.key, _r.sealed)
    .where(_ITS_MESSAGES, _r.key < bindparam("before"))
    .order_by(_r.key.desc())
    .limit(bindparam("limit", type_=sa.BigInteger))
    .offset(sa.literal_column("0"))
    .subquery()
)
PAGE = (
    select(_page.c.key, _page.c.sealed, *STATE)
    .select_from(sa.outerjoin(schema.sessions, _page, sa.true()))
    .where(_THIS_SESSION)
)
_IS_THERE = sa.or_(_s.expires_at.is_(None), _s.expires_at > bindparam("now"))
# Newest first straight from the index: a tag is a channel's digest and the time.
RECENT = (
    select(_r.parent, _r.key, _r.tag, _r.sealed, *STATE)
    .select_from(
        sa.outerjoin(
            schema.records,
            schema.sessions,
            sa.and_(
                _s.scope_id == _r.scope_id,
                _s.kind == sa.literal_column(str(int(Kind.SESSION))),
                _s.digest == _r.parent,
            ),
        )
    )
    .where(
        _r.scope_id == SCOPE_ID,
        _r.kind == sa.literal_column(str(int(Kind.MESSAGE))),
        _r.tag.between(bindparam("first"), bindparam("last")),
        _IS_THERE,
    )
    .order_by(_r.tag.desc(), _r.parent.desc(), _r.key.desc())
    .limit(bindparam("limit", type_=sa.BigInteger))
    .offset(sa.literal_column("0"))
)
ANY_MESSAGE = (
    select(_r.key).where(_ITS_MESSAGES).limit(sa.literal_column("1")).offset(sa.literal_column("0"))
)
FIND = select(*LISTED).where(_THIS_SESSION, _IS_THERE)
LIST = (
    select(*LISTED)
    .where(
        in_scope(Kind.SESSION),
        sa.or_(
            _s.updated_at < bindparam("until"),
            sa.and_(_s.updated_at == bindparam("until"), _s.digest > bindparam("behind")),
        ),
        _IS_THERE,
    )
    .order_by(_s.updated_at.desc(), _s.digest)
    .limit(bindparam("limit", type_=sa.BigInteger))
    .offset(sa.literal_column("0"))
)
