"""Reads messages: all of a session, a page, or the newest of a channel."""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from langmem_isolated._codecs.messages import decode_partially
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.container_state import ContainerState, is_member_sum
from langmem_isolated._storage.sessions import statements as sql
from langmem_isolated._storage.sessions.channel_limits import dense_from
from langmem_isolated._storage.sessions.listing import session_digest
from langmem_isolated._storage.sessions.messages import (
    alias_of,
    channel_of,
    message_aad_prefix,
    message_part,
    newest_of,
)
from langmem_isolated._storage.working_locked import works_locked
from langmem_isolated.errors import RecordDoesNotOpen

LATEST = 2**63 - 1
T = TypeVar("T", bound=tuple[Any, ...])
_GENERATION = ContainerState._fields.index("generation")
# Behind the generation, in the place of a number.
_STORED_AT = _GENERATION + 1
_Opener = Callable[[bytes, bytes], bytes]
IsEnd = Callable[[int, "Known"], bool]


class Opened(NamedTuple):
    """Messages in plaintext, oldest first."""

    messages: list[bytes]
    before: int | None
    """The sequence number of the first, if there are older ones."""
    state: ContainerState | None
    """The session's state when they were read; ``None`` for a session that is not there."""
    numbers: Sequence[int] = ()
    """Their sequence numbers."""
    first: int = 1
    """The place of the first in the session, from 1 on."""


NOTHING = Opened([], None, None)


def load(transaction: Transaction, keys: ScopeKeys, session_id: str, now: int) -> Opened:
    """Every message of the session; none for an unknown session.

    Raises:
        RecordDoesNotOpen: A message was changed, moved, exchanged, reordered, added or removed.
    """
    return page(transaction, keys, session_id, LATEST, LATEST, now)


def page(
    transaction: Transaction, keys: ScopeKeys, session_id: str, before: int, limit: int, now: int
) -> Opened:
    """The newest ``limit`` messages with a sequence number below ``before``.

    Where others dropped out between them, all that the session has are read and summed up: nothing
    else tells that none is missing besides.

    Raises:
        RecordDoesNotOpen: A message was changed, moved, exchanged, reordered, added or removed.
    """
    digest = session_digest(keys, session_id)
    here = {"scope_id": keys.scope_id, "digest": digest}
    bounds = Bounds(before, limit)
    rows = _rows_of(transaction, here, bounds)
    found = NOTHING if rows is None else opened(keys, digest, *rows, now, bounds, is_dated=False)
    if found is None:
        rows = _split(transaction.rows(sql.LOAD_DATED, **here), _STORED_AT)
        found = None if rows is None else opened(keys, digest, *rows, now, bounds, is_dated=True)
    return found or NOTHING


class Bounds(NamedTuple):
    """Which messages are read: the newest ``limit`` with a sequence number below ``before``."""

    before: int
    limit: int


ALL = Bounds(LATEST, LATEST)


def _rows_of(
    transaction: Transaction, here: Mapping[str, bytes], bounds: Bounds
) -> tuple[Row, list[Row]] | None:
    """The session's row and its messages', in one state of the database; ``None`` without one."""
    asked = {**here, "before": bounds.before.to_bytes(8), "limit": bounds.limit}
    is_whole = bounds == ALL
    if not transaction.is_postgres:
        # SQLite keeps one state while a statement has more to give. The nulls beside each message
        # took two thirds of the time in which 1,000 rows are read.
        session = transaction.query(sql.COUNT, **here)
        messages = transaction.rows(sql.MESSAGES if is_whole else sql.MESSAGES_BEFORE, **asked)
        if row := session.fetchone():
            return row, messages
    return _split(transaction.rows(sql.LOAD if is_whole else sql.PAGE, **asked))


def _split(rows: list[Row], *further: int) -> tuple[Row, list[Row]] | None:
    """The session's row, and of its messages' key, sealed bytes and ``further`` columns.

    Raises:
        RecordDoesNotOpen: There are messages, and no session.
    """
    if not rows:
        return None
    # A message's row is padded with nulls; no row of a session has one there.
    states = [row for row in rows if row[_GENERATION] is not None]
    if len(states) != 1:
        raise RecordDoesNotOpen(Kind.SESSION.label, "its row is missing")
    columns = itemgetter(0, 1, *further)
    return states[0], [columns(row) for row in rows if row[_GENERATION] is None]


def opened(
    keys: ScopeKeys,
    digest: bytes,
    row: Row,
    messages: Sequence[Row],
    now: int,
    bounds: Bounds = ALL,
    *,
    is_dated: bool,
) -> Opened | None:
    """The messages of a session in plaintext; ``None`` where it takes dated ones to tell.

    Args:
        row: The session's, as ``STATE`` has it.
        messages: Rows that begin with key and sealed bytes.
        is_dated: Whether they go on with when they were stored, and are all there are.

    Raises:
        RecordDoesNotOpen: A message was changed, moved, exchanged, reordered, added or removed.
    """
    state = ContainerState.checked(Kind.SESSION, keys, digest, row)
    if state.is_expired(now):
        return NOTHING
    oldest, end = state.next_sequence - state.count, min(bounds.before, state.next_sequence)
    start = max(oldest, end - bounds.limit)
    if state.channels is not None and dense_from(state) > start:
        return _summed_up(keys, digest, state, messages, bounds) if is_dated else None
    wanted = [number.to_bytes(8) for number in range(start, end)]
    ordered = _numbered(_within(_in_order(messages), bounds) if is_dated else messages, wanted)
    place = message_aad_prefix(keys, digest, state)
    plaintexts = keys.open_all(place, Kind.MESSAGE, ordered)
    has_newest = bool(plaintexts) and end == state.next_sequence
    if has_newest and newest_of(keys, digest, wanted[-1], plaintexts[-1]) != state.newest:
        raise RecordDoesNotOpen(Kind.SESSION.label, "its newest message was exchanged")
    before = start if start > oldest else None
    return Opened(plaintexts, before, state, range(start, end), start - oldest + 1)


def _numbered(messages: Sequence[T], wanted: list[bytes]) -> Sequence[T]:
    """The messages oldest first, where they are those of the wanted numbers."""
    # The primary key gives them in order; what has the numbers has their type, too.
    ordered = messages if [row[0] for row in messages] == wanted else _in_order(messages)
    if ordered is not messages and [row[0] for row in ordered] != wanted:
        raise RecordDoesNotOpen(Kind.SESSION.label, "messages are missing or too many")
    return ordered


def _in_order(messages: Sequence[T]) -> list[T]:
    if [row for row in messages if type(row[0]) is not bytes or type(row[1]) is not bytes]:
        raise RecordDoesNotOpen(Kind.MESSAGE.label, "a column holds another type")
    return sorted(messages)


def _within(ordered: list[T], bounds: Bounds) -> list[T]:
    """Those of all messages, oldest first, that are asked for."""
    behind = bounds.before.to_bytes(8)
    older = [line for line in ordered if line[0] < behind]
    return older[max(0, len(older) - bounds.limit) :]


def _summed_up(
    keys: ScopeKeys,
    digest: bytes,
    state: ContainerState,
    messages: Sequence[Row],
    bounds: Bounds,
) -> Opened:
    """Some messages of a session with gaps, when all together are those that it stands for."""
    opener = keys.opener(message_aad_prefix(keys, digest, state), Kind.MESSAGE)
    ordered = [(key, opener(key, body), stored_at) for key, body, stored_at in _in_order(messages)]
    parts = [
        message_part(keys, digest, key, stored_at, plaintext)
        for key, plaintext, stored_at in ordered
    ]
    if len(parts) != state.count or not is_member_sum(keys, state, sum(parts)):
        raise RecordDoesNotOpen(Kind.SESSION.label, "messages are missing or too many")
    found = _within(ordered, bounds)
    numbers = [int.from_bytes(key) for key, *_ in found]
    has_older = bool(found) and found[0] is not ordered[0]
    plaintexts = [plaintext for _, plaintext, _ in found]
    first = ordered.index(found[0]) + 1 if found else 1
    return Opened(plaintexts, numbers[0] if has_older else None, state, numbers, first)


class Known(NamedTuple):
    """A message that an id finds in its session."""

    sequence: int
    plaintext: bytes


def find_by_id(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    state: ContainerState,
    message_id: str,
) -> Known | None:
    """The message of that id; ``None`` if the session has none.

    Raises:
        RecordDoesNotOpen: What its alias finds is not that message.
    """
    alias = alias_of(keys, digest, message_id)
    row = transaction.row(sql.KNOWN_ALIAS, scope_id=keys.scope_id, digest=digest, alias=alias)
    if row is None:
        return None
    key, sealed = row
    opener = keys.opener(message_aad_prefix(keys, digest, state), Kind.MESSAGE)
    # Nothing but the message itself proves that it is where its alias says.
    plaintext = opener(key, sealed)
    if decode_partially(plaintext).message_id != message_id:
        raise RecordDoesNotOpen(Kind.MESSAGE.label, "its alias is another's")
    return Known(int.from_bytes(key), plaintext)


def trace(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: str,
    message_ids: Sequence[str],
    begin: Callable[[], IsEnd],
    now: int,
) -> list[int | None]:
    """The sequence number of each message, ``None`` for one that the session has not.

    Args:
        message_ids: Looked up one by one.
        begin: Asked when the search begins, which it does again where an attempt was undone. What
            it gives is told how many came before and which message was found, and says that the
            search is over; that message is not among those returned.
    """
    is_end = begin()
    digest = session_digest(keys, session_id)
    row = transaction.row(sql.COUNT, scope_id=keys.scope_id, digest=digest)
    if row is None:
        return [None for _ in message_ids]
    state = ContainerState.checked(Kind.SESSION, keys, digest, row)
    if state.is_expired(now):
        return [None for _ in message_ids]
    found: list[int | None] = []
    for message_id in message_ids:
        known = find_by_id(transaction, keys, digest, state, message_id)
        if known is not None and is_end(len(found), known):
            break
        found.append(None if known is None else known.sequence)
    return found


class Recent(NamedTuple):
    """A message of a channel, in plaintext, and what orders it."""

    written: int
    """Microseconds since 1970, as the row says: what is sealed in the message counts."""
    digest: bytes
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
    channel_digest = channel_of(keys, channel)
    rows = transaction.rows(
        sql.RECENT,
        scope_id=keys.scope_id,
        first=channel_digest + bytes(8),
        last=channel_digest + b"\xff" * 8,
        limit=limit,
        now=now,
    )
    openers: dict[bytes, _Opener] = {}
    found = []
    for digest, key, tag, sealed, *state in rows:
        if digest not in openers:
            openers[digest] = _opener(keys, digest, state)
        plaintext = openers[digest](key, sealed)
        written = int.from_bytes(tag[len(channel_digest) :])
        found.append(Recent(written, digest, int.from_bytes(key), plaintext))
    return found


def _opener(keys: ScopeKeys, digest: bytes, row: Sequence[Any]) -> _Opener:
    """What opens the messages that a session has, given its row; a former one's do not open."""
    if type(digest) is not bytes or row[0] is None:
        raise RecordDoesNotOpen(Kind.SESSION.label, "its row is missing")
    state = ContainerState.checked(Kind.SESSION, keys, digest, tuple(row))
    return keys.opener(message_aad_prefix(keys, digest, state), Kind.MESSAGE)


@works_locked
def count(transaction: Transaction, keys: ScopeKeys, session_id: str, now: int) -> int:
    """How many messages the session has; 0 for an unknown one."""
    digest = session_digest(keys, session_id)
    row = transaction.row(sql.COUNT, scope_id=keys.scope_id, digest=digest)
    if row is None:
        return 0
    state = ContainerState.checked(Kind.SESSION, keys, digest, row)
    return 0 if state.is_expired(now) else state.count


def has_lost(transaction: Transaction, keys: ScopeKeys, session_id: str, now: int) -> bool:
    """Whether messages dropped out of the session since it began, or was cleared."""
    digest = session_digest(keys, session_id)
    row = transaction.row(sql.COUNT, scope_id=keys.scope_id, digest=digest)
    if row is None:
        return False
    state = ContainerState.checked(Kind.SESSION, keys, digest, row)
    return not state.is_expired(now) and state.count < state.next_sequence
