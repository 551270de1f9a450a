"""SQL of chat sessions."""

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
    in_scope,
    padded_state,
    row_of,
)

_records, _sessions = schema.records.c, schema.sessions.c
_ITS_MESSAGES = sa.and_(
    _records.scope_id == SCOPE_ID,
    _records.kind == sa.literal_column(str(int(Kind.MESSAGE))),
    _records.parent == DIGEST,
)
_THIS_SESSION = row_of(Kind.SESSION)
COUNT = select(*STATE).where(_THIS_SESSION)
COMPARE_AND_SWAP = compare_and_swap(Kind.SESSION)
# And the embeddings that a search made of them.
REMOVE_MESSAGES = delete(schema.records).where(
    _records.scope_id == SCOPE_ID,
    _records.kind.in_(
        [sa.literal_column(str(int(kind))) for kind in (Kind.MESSAGE, Kind.EMBEDDING)]
    ),
    _records.parent == DIGEST,
)

_PER_MESSAGE = ("key", "alias", "sealed", "size")
INSERT_ONE = (
    sa.insert(schema.records)
    .values(
        kind=sa.literal_column(str(int(Kind.MESSAGE))),
        scope_id=SCOPE_ID,
        parent=DIGEST,
        tag=bindparam("record_tag"),
        created_at=bindparam("now"),
        updated_at=bindparam("now"),
        **{name: bindparam(f"record_{name}") for name in _PER_MESSAGE},
    )
    .inline()
)
_ARRAYS: dict[str, sa.ARRAY[Any]] = {
    "key": sa.ARRAY(sa.LargeBinary),
    "alias": sa.ARRAY(sa.LargeBinary),
    "sealed": sa.ARRAY(sa.LargeBinary),
    "size": sa.ARRAY(sa.Integer),
}
# One statement for the session's row and any number of messages: every round trip costs 28 to 67 µs
# on loopback, and BEGIN and COMMIT are two.
_swapped = COMPARE_AND_SWAP.returning(_sessions.scope_id).cte("moved")
SWAP_AND_INSERT = (
    sa.insert(schema.records)
    .from_select(
        ["scope_id", "kind", "parent", "tag", "created_at", "updated_at", *_ARRAYS],
        select(
            _swapped.c.scope_id,
            sa.literal_column(str(int(Kind.MESSAGE))),
            sa.cast(DIGEST, sa.LargeBinary),
            sa.cast(bindparam("record_tag"), sa.LargeBinary),
            sa.cast(bindparam("now"), sa.BigInteger),
            sa.cast(bindparam("now"), sa.BigInteger),
            *(
                sa.func.unnest(bindparam(f"record_{n}", type_=type_))
                for n, type_ in _ARRAYS.items()
            ),
        ),
    )
    .returning(_records.key)
)
KNOWN_ALIAS = select(_records.key, _records.sealed).where(
    _ITS_MESSAGES, _records.alias == bindparam("alias")
)

# The session's row and its messages in one statement see one state without a transaction. The row
# comes once: 1,000 messages with its columns beside each took 0.5 ms more.
_MESSAGE = (_records.key, _records.sealed)


def _below_state(messages: Any) -> sa.CompoundSelect[Any]:
    columns = (messages.c.key, messages.c.sealed)
    return sa.union_all(
        select(*STATE).where(_THIS_SESSION), select(*columns, *padded_state(len(columns)))
    )


MESSAGES = select(*_MESSAGE).where(_ITS_MESSAGES)
LOAD = _below_state(MESSAGES.subquery())
# With when each was stored, in the place of a number.
LOAD_DATED = sa.union_all(
    select(*STATE).where(_THIS_SESSION),
    select(
        *_MESSAGE,
        sa.cast(sa.null(), sa.LargeBinary),
        _records.updated_at,
        *padded_state(len(_MESSAGE) + 2),
    ).where(_ITS_MESSAGES),
)
TAGS = select(_records.tag).where(_ITS_MESSAGES)
OLDEST_OF_CHANNEL = (
    select(_records.key, _records.sealed, _records.tag, _records.updated_at)
    .where(
        _ITS_MESSAGES,
        _records.key >= bindparam("first"),
        _records.tag.between(bindparam("lowest"), bindparam("highest")),
    )
    .order_by(_records.key)
    .limit(bindparam("limit", type_=sa.BigInteger))
    .offset(sa.literal_column("0"))
)
REMOVE_ONE = REMOVE_MESSAGES.where(_records.key == bindparam("key"))
MESSAGES_BEFORE = (
    MESSAGES.where(_records.key < bindparam("before"))
    .order_by(_records.key.desc())
    .limit(bindparam("limit", type_=sa.BigInteger))
    .offset(sa.literal_column("0"))
)
PAGE = _below_state(MESSAGES_BEFORE.subquery())
_IS_THERE = sa.or_(_sessions.expires_at.is_(None), _sessions.expires_at > bindparam("now"))
# Newest first straight from the index: a tag is a channel's digest and the time.
RECENT = (
    select(_records.parent, _records.key, _records.tag, _records.sealed, *STATE)
    .select_from(
        sa.outerjoin(
            schema.records,
            schema.sessions,
            sa.and_(
                _sessions.scope_id == _records.scope_id,
                _sessions.kind == sa.literal_column(str(int(Kind.SESSION))),
                _sessions.digest == _records.parent,
            ),
        )
    )
    .where(
        _records.scope_id == SCOPE_ID,
        _records.kind == sa.literal_column(str(int(Kind.MESSAGE))),
        _records.tag.between(bindparam("first"), bindparam("last")),
        _IS_THERE,
    )
    .order_by(_records.tag.desc(), _records.parent.desc(), _records.key.desc())
    .limit(bindparam("limit", type_=sa.BigInteger))
    .offset(sa.literal_column("0"))
)
ANY_MESSAGE = (
    select(_records.key)
    .where(_ITS_MESSAGES)
    .limit(sa.literal_column("1"))
    .offset(sa.literal_column("0"))
)
_SCOPES_SESSIONS = in_scope(Kind.SESSION)
# Others wait who would make a session, too; not those who write to one.
COUNT_SESSIONS = (
    select(sa.func.count()).select_from(schema.sessions).where(_SCOPES_SESSIONS, _IS_THERE)
)
# Who writes to a session is not waited for: it is not the least recent one for long.
LEAST_RECENT = (
    select(*STATE, _sessions.digest)
    .where(
        _SCOPES_SESSIONS,
        _IS_THERE,
        _sessions.is_pinned == sa.literal_column("0"),
        _sessions.digest != DIGEST,
    )
    .order_by(_sessions.updated_at, _sessions.digest)
    .limit(bindparam("limit", type_=sa.BigInteger))
    .offset(sa.literal_column("0"))
    .with_for_update(skip_locked=True)
)
