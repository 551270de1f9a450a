"""Reads messages: all of a session, a page, or the newest of a channel."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from langmem_isolated._codecs.messages import decode_partially
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.container_state import ContainerState, member_part
from langmem_isolated._storage.sessions import statements as sql
from langmem_isolated._storage.sessions.listing import session_digest
from langmem_isolated.errors import RecordDoesNotOpen

LATEST = 2**63 - 1
_GENERATION = ContainerState._fields.index("generation")
_Opener = Callable[[bytes, bytes], bytes]


class Opened(NamedTuple):
    """Messages in plaintext, oldest first."""

    messages: list[bytes]
    before: int | None
    """The sequence number of the first, if there are older ones."""
    state: ContainerState | None
    """The session's state when they were read; ``None`` for a session that is not there."""


NOTHING = Opened([], None, None)


def channel_of(keys: ScopeKeys, channel: bytes) -> bytes:
    """What the tags of a channel's messages begin with."""
    return keys.pseudonym(Kind.MESSAGE, b"channel", channel)


def channel_tag(keys: ScopeKeys, channel: str | None, written: int | None) -> bytes | None:
    """The tag of a message written to a channel at a time; ``None`` without a channel."""
    if channel is None or written is None:
        return None
    return channel_of(keys, channel.encode()) + written.to_bytes(8)


def message_aad_prefix(keys: ScopeKeys, digest: bytes, state: ContainerState) -> bytes:
    """Where a session's messages stand; those of another life do not open there."""
    return keys.aad_prefix(Kind.MESSAGE, digest, state.birth)


def message_part(
    keys: ScopeKeys, digest: bytes, key: bytes, stored_at: object, plaintext: bytes
) -> int:
    """What a message adds to its session's ``members``."""
    return member_part(keys, Kind.MESSAGE, (digest, key), stored_at, plaintext)


def newest_of(keys: ScopeKeys, digest: bytes, key: bytes, plaintext: bytes) -> bytes:
    """What stands for a message, as its session's newest: 16 bytes."""
    return keys.row_mac(b"newest", digest, key, plaintext)


def load(transaction: Transaction, keys: ScopeKeys, session_id: str, now: int) -> Opened:
    """Every message of the session; none for an unknown session.

    Raises:
        RecordDoesNotOpen: A message was changed, moved, exchanged, reordered, added or removed.
    """
    digest = session_digest(keys, session_id)
    rows = transaction.rows(sql.LOAD, scope_id=keys.scope_id, digest=digest)
    return _opened_below(keys, digest, rows, now, LATEST, LATEST)


def page(
    transaction: Transaction, keys: ScopeKeys, session_id: str, before: int, limit: int, now: int
) -> Opened:
    """The newest ``limit`` messages with a sequence number below ``before``."""
    digest = session_digest(keys, session_id)
    rows = transaction.rows(
        sql.PAGE, scope_id=keys.scope_id, digest=digest, before=before.to_bytes(8), limit=limit
    )
    return _opened_below(keys, digest, rows, now, before, limit)


def _opened_below(
    keys: ScopeKeys, digest: bytes, rows: list[Row], now: int, before: int, limit: int
) -> Opened:
    if not rows:
        return NOTHING
    # A message's row is padded with nulls; no row of a session has one there.
    states = [row for row in rows if row[_GENERATION] is not None]
    if len(states) != 1:
        raise RecordDoesNotOpen(Kind.SESSION.label, "its row is missing")
    messages = [row[:2] for row in rows if row[_GENERATION] is None]
    return opened(keys, digest, states[0], messages, now, before, limit)


def opened(
    keys: ScopeKeys,
    digest: bytes,
    row: Row,
    messages: list[tuple[bytes, bytes]],
    now: int,
    before: int,
    limit: int,
) -> Opened:
    """The messages of a session, by key and sealed bytes, in plaintext.

    Args:
        row: The session's, as ``STATE`` has it.

    Raises:
        RecordDoesNotOpen: A message was changed, moved, exchanged, reordered, added or removed.
    """
    if [key for key, body in messages if type(key) is not bytes or type(body) is not bytes]:
        raise RecordDoesNotOpen(Kind.MESSAGE.label, "a column holds another type")
    state = ContainerState.checked(Kind.SESSION, keys, digest, row)
    if state.is_expired(now):
        return NOTHING
    oldest, end = state.next_sequence - state.count, min(before, state.next_sequence)
    start = max(oldest, end - limit)
    ordered = sorted(messages)
    if [key for key, _ in ordered] != [number.to_bytes(8) for number in range(start, end)]:
        raise RecordDoesNotOpen(Kind.SESSION.label, "messages are missing or too many")
    opener = keys.opener(message_aad_prefix(keys, digest, state), Kind.MESSAGE)
    plaintexts = [opener(key, body) for key, body in ordered]
    has_newest = bool(plaintexts) and end == state.next_sequence
    if has_newest and newest_of(keys, digest, ordered[-1][0], plaintexts[-1]) != state.newest:
        raise RecordDoesNotOpen(Kind.SESSION.label, "its newest message was exchanged")
    return Opened(plaintexts, start if start > oldest else None, state)


def alias_of(keys: ScopeKeys, digest: bytes, message_id: str) -> bytes:
    """What finds a message in its session by its id."""
    return keys.pseudonym(Kind.MESSAGE, digest, message_id.encode(errors="surrogatepass"))


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
    message_ids: Iterable[str],
    is_end: Callable[[int, Known], bool],
) -> list[int | None]:
    """The sequence number of each message, ``None`` for one that the session has not.

    Args:
        message_ids: Looked up one by one.
        is_end: Told how many came before and which message was found, says that the search is
            over; that message is not among those returned.
    """
    digest = session_digest(keys, session_id)
    row = transaction.row(sql.COUNT, scope_id=keys.scope_id, digest=digest)
    if row is None:
        return [None for _ in message_ids]
    state = ContainerState.checked(Kind.SESSION, keys, digest, row)
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


def count(transaction: Transaction, keys: ScopeKeys, session_id: str, now: int) -> int:
    """How many messages the session has; 0 for an unknown one."""
    digest = session_digest(keys, session_id)
    row = transaction.row(sql.COUNT, scope_id=keys.scope_id, digest=digest)
    if row is None:
        return 0
    state = ContainerState.checked(Kind.SESSION, keys, digest, row)
    return 0 if state.is_expired(now) else state.count
