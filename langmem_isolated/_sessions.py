"""Keeps chat sessions: one row each, and the messages below it in gapless order.

The row's ``head`` is the tag of the newest message followed by a MAC over the row's counters, its
expiry and that tag. Whoever removes, adds or exchanges messages in the database cannot make a head
that fits, so every read notices, however few messages it reads. A chained MAC over all messages
would notice the same only after reading all of them (1.4 µs each).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.dialects import postgresql

from langmem_isolated import _schema
from langmem_isolated._database import Row, Transaction
from langmem_isolated._schema import Kind
from langmem_isolated._scope_keys import ScopeKeys
from langmem_isolated._sealing import TAG_BYTES, tag_of
from langmem_isolated._states import (
    DIGEST,
    LISTED,
    SCOPE_ID,
    STATE,
    Listed,
    State,
    StateRows,
    in_scope,
    move,
    row_of,
)
from langmem_isolated.errors import RecordDoesNotOpen

LATEST = 2**63 - 1
GENERATION_BYTES = 8

_r, _s = _schema.records.c, _schema.sessions.c
_ITS_MESSAGES = sa.and_(
    _r.scope_id == SCOPE_ID,
    _r.kind == sa.literal_column(str(int(Kind.MESSAGE))),
    _r.parent == DIGEST,
)
_THIS_SESSION = row_of(Kind.SESSION)
_COUNT = select(*STATE).where(_THIS_SESSION)
_HEADER = select(*STATE, _s.sealed).where(_THIS_SESSION).with_for_update()
_MOVE = move(Kind.SESSION)
_EMPTY = (
    update(_schema.sessions)
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
_RESEAL = update(_schema.sessions).where(_THIS_SESSION).values(sealed=bindparam("new_sealed"))
_REMOVE_SESSION = delete(_schema.sessions).where(_THIS_SESSION).returning(_s.digest)
# And the embeddings that a search made of them.
_REMOVE_MESSAGES = delete(_schema.records).where(
    _r.scope_id == SCOPE_ID,
    _r.kind.in_([sa.literal_column(str(int(kind))) for kind in (Kind.MESSAGE, Kind.EMBEDDING)]),
    _r.parent == DIGEST,
)

_PER_MESSAGE = ("key", "alias", "sealed", "size")
_INSERT_ONE = (
    sa.insert(_schema.records)
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
_moved = _MOVE.cte("moved")
_MOVE_AND_INSERT = (
    sa.insert(_schema.records)
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
_KNOWN_ALIAS = select(_r.key).where(_ITS_MESSAGES, _r.alias == bindparam("alias"))

# The session's row and its messages in one statement see one state without a transaction.
_ROW = (_r.key, _r.sealed, *STATE)
_LOAD = (
    select(*_ROW)
    .select_from(sa.outerjoin(_schema.sessions, _schema.records, _ITS_MESSAGES))
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
_PAGE = (
    select(_page.c.key, _page.c.sealed, *STATE)
    .select_from(sa.outerjoin(_schema.sessions, _page, sa.true()))
    .where(_THIS_SESSION)
)
_IS_THERE = sa.or_(_s.expires_at.is_(None), _s.expires_at > bindparam("now"))
# Newest first straight from the index: a tag is a channel's digest and the time.
_RECENT = (
    select(_r.parent, _r.key, _r.tag, _r.sealed, *STATE)
    .select_from(
        sa.outerjoin(
            _schema.records,
            _schema.sessions,
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
_ANY_MESSAGE = (
    select(_r.key).where(_ITS_MESSAGES).limit(sa.literal_column("1")).offset(sa.literal_column("0"))
)
_FIND = select(*LISTED).where(_THIS_SESSION, _IS_THERE)
_LIST = (
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


_NewRow = tuple[bytes, bytes | None, bytes]
_Opener = Callable[[bytes, bytes], bytes]


class Message(NamedTuple):
    """A message on its way in: its stored form in plaintext, and its id if it has one."""

    plaintext: bytes
    message_id: str | None


class Opened(NamedTuple):
    """Messages in plaintext, oldest first."""

    messages: list[bytes]
    before: int | None
    """The sequence number of the first, if there are older ones."""
    state: State | None
    """The session's state when they were read; ``None`` for a session that is not there."""


NOTHING = Opened([], None, None)


def _name(keys: ScopeKeys, session_id: bytes) -> bytes:
    return keys.name(Kind.SESSION, session_id)


def _channel(keys: ScopeKeys, channel: bytes) -> bytes:
    return keys.name(Kind.MESSAGE, b"channel", channel)


def _place(keys: ScopeKeys, session: bytes, state: State) -> bytes:
    # Another generation's messages do not open there.
    return keys.place(Kind.MESSAGE, session + state.generation)


def _delete(transaction: Transaction, keys: ScopeKeys, session: bytes) -> bool:
    transaction.execute(_REMOVE_MESSAGES, scope_id=keys.scope_id, digest=session)
    removed = transaction.row(_REMOVE_SESSION, scope_id=keys.scope_id, digest=session)
    return removed is not None


_ROWS = StateRows(Kind.SESSION, _delete, tag=bytes(TAG_BYTES))


def create(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: bytes,
    header: bytes,
    generation: bytes,
    now: int,
) -> None:
    """Insert the session's row if it is absent; ``generation`` is 8 random bytes.

    Raises:
        ScopeGone: The scope was erased meanwhile; nothing was written.
    """
    _ROWS.begun(transaction, keys, _name(keys, session_id), header, generation, now)


def append(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: bytes,
    header: bytes,
    messages: Sequence[Message],
    generation: bytes,
    now: int,
    *,
    skip_stored: bool,
    look_first: bool,
    channel: bytes | None = None,
) -> State:
    """Add ``messages`` behind the session's newest, all or none, and make the session if absent.

    Args:
        header: The sealed part of a new session's row, in plaintext.
        generation: 8 random bytes for a new session's row.
        skip_stored: Leave out messages whose id the session has already. Otherwise they are added
            again; the id then finds the first.
        look_first: Look up which ids are stored. Ids are new nearly always, so the first attempt
            goes without, and the constraint on aliases tells when one is not.
        channel: Under which :func:`recent` finds the messages; it must be sealed in them, and
            ``now``, too.

    Returns:
        The session's state after it, from which :func:`append_behind` goes on.

    Raises:
        ScopeGone: The scope was erased meanwhile.
        RecordDoesNotOpen: The session's row was tampered with.
        Conflict: An id is stored already and ``look_first`` was off; nothing was written.
    """
    session = _name(keys, session_id)
    state = _ROWS.begun(transaction, keys, session, header, generation, now)

    def is_stored(alias: bytes) -> bool:
        found = transaction.row(_KNOWN_ALIAS, scope_id=keys.scope_id, digest=session, alias=alias)
        return found is not None

    is_taken = is_stored if look_first else lambda _: False
    added = _with_aliases(keys, session, messages, skip_stored, is_taken)
    if not added:
        return state
    moved = _put(transaction, keys, session, state, added, now, channel)
    if moved is None:
        raise RecordDoesNotOpen(Kind.SESSION.label, "its row changed under a lock")
    return moved


def append_behind(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: bytes,
    state: State,
    messages: Sequence[Message],
    now: int,
    channel: bytes | None = None,
) -> State | None:
    """Add ``messages`` if the session is still in ``state``; ``None``, and nothing, if it is not.

    On PostgreSQL a single statement, on SQLite part of a write transaction.

    Raises:
        Conflict: An id is stored already; nothing was written.
    """
    if state.is_expired(now):
        return None
    session = _name(keys, session_id)
    added = _with_aliases(keys, session, messages, skip_stored=False, is_taken=lambda _: False)
    return _put(transaction, keys, session, state, added, now, channel)


def _put(
    transaction: Transaction,
    keys: ScopeKeys,
    session: bytes,
    old: State,
    added: Sequence[tuple[bytes, bytes | None]],
    now: int,
    channel: bytes | None,
) -> State | None:
    place = _place(keys, session, old)
    first = old.next_sequence
    numbered = [number.to_bytes(8) for number in range(first, first + len(added))]
    rows = [
        (key, alias, keys.seal(place, key, plaintext))
        for key, (plaintext, alias) in zip(numbered, added, strict=True)
    ]
    new = replace(
        old,
        tag=tag_of(rows[-1][2]),
        next_sequence=old.next_sequence + len(rows),
        count=old.count + len(rows),
    )
    values = {
        "scope_id": keys.scope_id,
        "digest": session,
        "now": now,
        "new_tag": None if channel is None else _channel(keys, channel) + now.to_bytes(8),
        **old.as_old(keys, session),
        **new.as_new(keys, session, sum(len(sealed) for _, _, sealed in rows)),
    }
    if transaction.is_postgres:
        moved = transaction.row(_MOVE_AND_INSERT, **values, **_as_arrays(rows))
    else:
        moved = transaction.row(_MOVE, **values)
        if moved is not None:
            transaction.execute_many(_INSERT_ONE, [{**values, **_as_values(row)} for row in rows])
    return None if moved is None else new


def _as_values(row: _NewRow) -> dict[str, object]:
    key, alias, sealed = row
    return {"new_key": key, "new_alias": alias, "new_sealed": sealed, "new_size": len(sealed)}


def _as_arrays(rows: Sequence[_NewRow]) -> dict[str, object]:
    keys, aliases, sealed = (list(column) for column in zip(*rows, strict=True))
    sizes = [len(one) for one in sealed]
    return {"new_key": keys, "new_alias": aliases, "new_sealed": sealed, "new_size": sizes}


def _with_aliases(
    keys: ScopeKeys,
    session: bytes,
    messages: Sequence[Message],
    skip_stored: bool,
    is_taken: Callable[[bytes], bool],
) -> list[tuple[bytes, bytes | None]]:
    """The plaintext and alias of each message to add; an alias stands once in a session."""
    added: list[tuple[bytes, bytes | None]] = []
    seen: set[bytes] = set()
    for plaintext, message_id in messages:
        alias = keys.name(Kind.MESSAGE, session, message_id.encode()) if message_id else None
        if alias is None or not (alias in seen or is_taken(alias)):
            added.append((plaintext, alias))
        elif not skip_stored:
            added.append((plaintext, None))
        if alias:
            seen.add(alias)
    return added


def load(transaction: Transaction, keys: ScopeKeys, session_id: bytes, now: int) -> Opened:
    """Every message of the session; none for an unknown session.

    Raises:
        RecordDoesNotOpen: A message was changed, moved, exchanged, reordered, added or removed.
    """
    session = _name(keys, session_id)
    rows = transaction.rows(_LOAD, scope_id=keys.scope_id, digest=session)
    if not rows:
        _refuse_orphans(transaction, keys, session)
    return _opened(keys, session, rows, now, LATEST, LATEST)


def page(
    transaction: Transaction, keys: ScopeKeys, session_id: bytes, before: int, limit: int, now: int
) -> Opened:
    """The newest ``limit`` messages with a sequence number below ``before``."""
    session = _name(keys, session_id)
    rows = transaction.rows(
        _PAGE, scope_id=keys.scope_id, digest=session, before=before.to_bytes(8), limit=limit
    )
    if not rows:
        _refuse_orphans(transaction, keys, session)
    return _opened(keys, session, rows, now, before, limit)


def _refuse_orphans(transaction: Transaction, keys: ScopeKeys, session: bytes) -> None:
    # Between the two queries a first append may have come; then its row is there by now.
    is_orphaned = (
        transaction.row(_ANY_MESSAGE, scope_id=keys.scope_id, digest=session) is not None
        and transaction.row(_COUNT, scope_id=keys.scope_id, digest=session) is None
    )
    if is_orphaned:
        raise RecordDoesNotOpen(Kind.SESSION.label, "its row is missing")


def _opened(
    keys: ScopeKeys, session: bytes, rows: list[Row], now: int, before: int, limit: int
) -> Opened:
    if not rows:
        return NOTHING
    sealed = [(row[0], row[1]) for row in rows if row[0] is not None]
    if [key for key, body in sealed if type(key) is not bytes or type(body) is not bytes]:
        raise RecordDoesNotOpen(Kind.MESSAGE.label, "a column holds another type")
    sealed.sort()
    state = State.checked(Kind.SESSION, keys, session, rows[0][2:])
    if state.is_expired(now):
        return NOTHING
    oldest, end = state.next_sequence - state.count, min(before, state.next_sequence)
    start = max(oldest, end - limit)
    if [key for key, _ in sealed] != [number.to_bytes(8) for number in range(start, end)]:
        raise RecordDoesNotOpen(Kind.SESSION.label, "messages are missing or too many")
    if sealed and end == state.next_sequence and tag_of(sealed[-1][1]) != state.tag:
        raise RecordDoesNotOpen(Kind.SESSION.label, "its newest message was exchanged")
    opener = keys.opener(_place(keys, session, state), Kind.MESSAGE)
    opened = [opener(key, body) for key, body in sealed]
    return Opened(opened, start if start > oldest else None, state)


def trace(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: bytes,
    message_ids: Iterable[str],
    is_end: Callable[[int, int], bool],
) -> list[int | None]:
    """The sequence number of each message, ``None`` for one that the session has not.

    Args:
        message_ids: Looked up one by one.
        is_end: Told how many came before and a sequence number, says that the search is over; that
            message is not among those returned.
    """
    session = _name(keys, session_id)
    found: list[int | None] = []
    for message_id in message_ids:
        alias = keys.name(Kind.MESSAGE, session, message_id.encode())
        row = transaction.row(_KNOWN_ALIAS, scope_id=keys.scope_id, digest=session, alias=alias)
        sequence = None if row is None else int.from_bytes(row[0])
        if sequence is not None and is_end(len(found), sequence):
            break
        found.append(sequence)
    return found


class Recent(NamedTuple):
    """A message of a channel, in plaintext, and what orders it."""

    written: int
    """Milliseconds since 1970, as the row says: what is sealed in the message counts."""
    session: bytes
    sequence: int
    plaintext: bytes


def recent(
    transaction: Transaction, keys: ScopeKeys, channels: Sequence[tuple[bytes, int]], now: int
) -> list[list[Recent]]:
    """The newest messages of each channel, over all sessions of the scope, as many as it says.

    The caller compares channel and time with those sealed in the message.

    Raises:
        RecordDoesNotOpen: A message was changed or moved, or its session was tampered with.
    """
    return [_newest(transaction, keys, channel, limit, now) for channel, limit in channels]


def _newest(
    transaction: Transaction, keys: ScopeKeys, channel: bytes, limit: int, now: int
) -> list[Recent]:
    digest = _channel(keys, channel)
    rows = transaction.rows(
        _RECENT,
        scope_id=keys.scope_id,
        first=digest + bytes(8),
        last=digest + b"\xff" * 8,
        limit=limit,
        now=now,
    )
    openers: dict[bytes, _Opener] = {}
    found = []
    for session, key, tag, sealed, *state in rows:
        if session not in openers:
            openers[session] = _opener(keys, session, state)
        plaintext = openers[session](key, sealed)
        written = int.from_bytes(tag[len(digest) :])
        found.append(Recent(written, session, int.from_bytes(key), plaintext))
    return found


def _opener(keys: ScopeKeys, session: bytes, row: Sequence[Any]) -> _Opener:
    """What opens the messages that a session has, given its row; a former one's do not open."""
    if type(session) is not bytes or row[0] is None:
        raise RecordDoesNotOpen(Kind.SESSION.label, "its row is missing")
    state = State.checked(Kind.SESSION, keys, session, tuple(row))
    return keys.opener(_place(keys, session, state), Kind.MESSAGE)


def count(transaction: Transaction, keys: ScopeKeys, session_id: bytes, now: int) -> int:
    """How many messages the session has; 0 for an unknown one."""
    session = _name(keys, session_id)
    row = transaction.row(_COUNT, scope_id=keys.scope_id, digest=session)
    if row is None:
        return 0
    state = State.checked(Kind.SESSION, keys, session, row)
    return 0 if state.is_expired(now) else state.count


def clear(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: bytes,
    change: Callable[[bytes, State], bytes],
    generation: bytes,
    now: int,
) -> None:
    """Remove every message of the session; none of them opens under the new ``generation``.

    Its header becomes what ``change`` makes of it: what it says of the messages goes with them.
    """
    session = _name(keys, session_id)
    state = _ROWS.current(transaction, keys, session, now)
    transaction.execute(_REMOVE_MESSAGES, scope_id=keys.scope_id, digest=session)
    if state is not None:
        empty = _ROWS.empty(generation, state.expires_at)
        transaction.execute(
            _EMPTY,
            scope_id=keys.scope_id,
            digest=session,
            new_head=empty.head(keys, session),
            new_generation=generation,
            now=now,
        )
        rewrite(transaction, keys, session_id, change, now)


def remove(transaction: Transaction, keys: ScopeKeys, session_id: bytes) -> bool:
    """Remove the session and its messages; ``False`` if there is no such session."""
    return _delete(transaction, keys, _name(keys, session_id))


def listing(
    transaction: Transaction, keys: ScopeKeys, position: tuple[int, bytes], limit: int, now: int
) -> list[Listed]:
    """The scope's sessions by last activity, newest first, and by digest where that is the same.

    Args:
        position: Last activity and digest of the session behind which the list goes on.

    One that was tampered with is listed without its header rather than failing the others.
    """
    until, behind = position
    rows = transaction.rows(
        _LIST, scope_id=keys.scope_id, until=until, behind=behind, limit=limit, now=now
    )
    return [_ROWS.listed(keys, row) for row in rows]


def find(transaction: Transaction, keys: ScopeKeys, session_id: bytes, now: int) -> Listed | None:
    """The session as :func:`listing` has it; ``None`` if there is none."""
    session = _name(keys, session_id)
    row = transaction.row(_FIND, scope_id=keys.scope_id, digest=session, now=now)
    return None if row is None else _ROWS.listed(keys, row)


def header(
    transaction: Transaction, keys: ScopeKeys, session_id: bytes, now: int
) -> tuple[State, bytes] | None:
    """The session's state and header; ``None`` if there is no session."""
    found = _ROWS.header(transaction, keys, _name(keys, session_id))
    return None if found is None or found[0].is_expired(now) else found


def rewrite(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: bytes,
    change: Callable[[bytes, State], bytes],
    now: int,
) -> bool:
    """Replace the session's header by what ``change`` makes of it; ``False`` without a session.

    ``change`` is told the session's state, too.
    """
    session = _name(keys, session_id)
    row = transaction.row(_HEADER, scope_id=keys.scope_id, digest=session)
    if row is None:
        return False
    state = State.checked(Kind.SESSION, keys, session, row)
    if state.is_expired(now):
        return False
    header = change(keys.open(keys.place(Kind.SESSION, b""), session, row[5], Kind.SESSION), state)
    sealed = _ROWS.sealed(keys, session, header)
    transaction.execute(_RESEAL, scope_id=keys.scope_id, digest=session, new_sealed=sealed)
    return True
