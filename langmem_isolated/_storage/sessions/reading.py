"""Reads messages: all of a session, a page, or the newest of a channel."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import tag_of
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.containers import ContainerState
from langmem_isolated._storage.sessions import statements as sql
from langmem_isolated._storage.sessions.listing import session_digest
from langmem_isolated.errors import RecordDoesNotOpen

LATEST = 2**63 - 1
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


def message_aad_prefix(keys: ScopeKeys, digest: bytes, state: ContainerState) -> bytes:
    """Where a session's messages stand; another generation's do not open there."""
    return keys.aad_prefix(Kind.MESSAGE, digest + state.generation)


def load(transaction: Transaction, keys: ScopeKeys, session_id: str, now: int) -> Opened:
    """Every message of the session; none for an unknown session.

    Raises:
        RecordDoesNotOpen: A message was changed, moved, exchanged, reordered, added or removed.
    """
    digest = session_digest(keys, session_id)
    rows = transaction.rows(sql.LOAD, scope_id=keys.scope_id, digest=digest)
    if not rows:
        _refuse_orphans(transaction, keys, digest)
    return opened(keys, digest, rows, now, LATEST, LATEST)


def page(
    transaction: Transaction, keys: ScopeKeys, session_id: str, before: int, limit: int, now: int
) -> Opened:
    """The newest ``limit`` messages with a sequence number below ``before``."""
    digest = session_digest(keys, session_id)
    rows = transaction.rows(
        sql.PAGE, scope_id=keys.scope_id, digest=digest, before=before.to_bytes(8), limit=limit
    )
    if not rows:
        _refuse_orphans(transaction, keys, digest)
    return opened(keys, digest, rows, now, before, limit)


def _refuse_orphans(transaction: Transaction, keys: ScopeKeys, digest: bytes) -> None:
    # Between the two queries a first append may have come; then its row is there by now.
    is_orphaned = (
        transaction.row(sql.ANY_MESSAGE, scope_id=keys.scope_id, digest=digest) is not None
        and transaction.row(sql.COUNT, scope_id=keys.scope_id, digest=digest) is None
    )
    if is_orphaned:
        raise RecordDoesNotOpen(Kind.SESSION.label, "its row is missing")


def opened(
    keys: ScopeKeys, digest: bytes, rows: list[Row], now: int, before: int, limit: int
) -> Opened:
    """The messages of rows as the statements have them, the session's state in each.

    Raises:
        RecordDoesNotOpen: A message was changed, moved, exchanged, reordered, added or removed.
    """
    if not rows:
        return NOTHING
    sealed = [(row[0], row[1]) for row in rows if row[0] is not None]
    if [key for key, body in sealed if type(key) is not bytes or type(body) is not bytes]:
        raise RecordDoesNotOpen(Kind.MESSAGE.label, "a column holds another type")
    sealed.sort()
    state = ContainerState.checked(Kind.SESSION, keys, digest, rows[0][2:])
    if state.is_expired(now):
        return NOTHING
    oldest, end = state.next_sequence - state.count, min(before, state.next_sequence)
    start = max(oldest, end - limit)
    if [key for key, _ in sealed] != [number.to_bytes(8) for number in range(start, end)]:
        raise RecordDoesNotOpen(Kind.SESSION.label, "messages are missing or too many")
    if sealed and end == state.next_sequence and tag_of(sealed[-1][1]) != state.newest_tag:
        raise RecordDoesNotOpen(Kind.SESSION.label, "its newest message was exchanged")
    opener = keys.opener(message_aad_prefix(keys, digest, state), Kind.MESSAGE)
    messages = [opener(key, body) for key, body in sealed]
    return Opened(messages, start if start > oldest else None, state)


def trace(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: str,
    message_ids: Iterable[str],
    is_end: Callable[[int, int], bool],
) -> list[int | None]:
    """The sequence number of each message, ``None`` for one that the session has not.

    Args:
        message_ids: Looked up one by one.
        is_end: Told how many came before and a sequence number, says that the search is over; that
            message is not among those returned.
    """
    digest = session_digest(keys, session_id)
    found: list[int | None] = []
    for message_id in message_ids:
        alias = keys.pseudonym(Kind.MESSAGE, digest, message_id.encode(errors="surrogatepass"))
        row = transaction.row(sql.KNOWN_ALIAS, scope_id=keys.scope_id, digest=digest, alias=alias)
        sequence = None if row is None else int.from_bytes(row[0])
        if sequence is not None and is_end(len(found), sequence):
            break
        found.append(sequence)
    return found


class Recent(NamedTuple):
    """A message of a channel, in plaintext, and what orders it."""

    written: int
    """Milliseconds since 1970, as the row says: what is sealed in the message counts."""
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
