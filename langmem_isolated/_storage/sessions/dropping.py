"""Drops messages of a session: those beyond a count, and those from before a time."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.batch_removal import NEVER, Removed
from langmem_isolated._storage.container_state import STATE, ContainerState
from langmem_isolated._storage.containers import DIGEST, SCOPE_ID, row_of
from langmem_isolated._storage.sessions import statements as sql
from langmem_isolated._storage.sessions.channel_limits import ChannelLimits, dense_from
from langmem_isolated._storage.sessions.listing import ROWS
from langmem_isolated._storage.sessions.messages import channel_of, checked_parts

_records = schema.records.c
_STATE = select(*STATE).where(row_of(Kind.SESSION))
_LOCK = _STATE.with_for_update(skip_locked=True)
_ITS_MESSAGES = sa.and_(
    _records.scope_id == SCOPE_ID,
    _records.kind == sa.literal_column(str(int(Kind.MESSAGE))),
    _records.parent == DIGEST,
)
_KEY = bindparam("key", type_=sa.LargeBinary)
# Without what is sealed: most of a page may stay.
_PAGE_SIZE = 500
_PAGE = (
    select(_records.key, _records.updated_at, _records.tag)
    .where(
        _ITS_MESSAGES,
        _records.key > _KEY,
        _records.updated_at <= bindparam("latest", type_=sa.BigInteger),
    )
    .order_by(_records.key)
    .limit(sa.literal_column(str(_PAGE_SIZE)))
    .offset(sa.literal_column("0"))
)
_MESSAGE = select(_records.key, _records.sealed, _records.tag, _records.updated_at).where(
    _ITS_MESSAGES, _records.key == _KEY
)
_ANY_TIME = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Kept:
    """Which messages of a session stay.

    Args:
        until: Those stored at this time or before, in µs, go; ``NEVER`` lets none go by its time.
        channels: The same for messages of these channels, in place of it.
        at_most: So many of the newest stay; ``None`` for all.
    """

    until: int = NEVER
    channels: Mapping[bytes, int] | None = None
    at_most: int | None = None

    def latest(self) -> int:
        """When the last was stored that has to go by its time."""
        return max(self.until, *(self.channels or {}).values(), NEVER)


def drop(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    kept: Kept,
    room: int,
    now: int,
    *,
    with_empty: bool = False,
    is_dry: bool = False,
) -> Removed:
    """Remove what does not stay of a session, the oldest first, up to ``room`` messages.

    Args:
        digest: The session's.
        kept: What stays.
        room: At most so many go at once.
        now: The time, in µs.
        with_empty: The session goes as well when its last message has gone.
        is_dry: Say what would be removed, and change nothing.

    Raises:
        RecordDoesNotOpen: The session's row, or a message that is to go, was tampered with;
            nothing was removed.
    """
    statement = _STATE if is_dry else _LOCK
    row = transaction.row(statement, scope_id=keys.scope_id, digest=digest)
    if row is None:
        return Removed(Counter(), was_locked=not is_dry)
    state = ContainerState.checked(Kind.SESSION, keys, digest, row)
    if state.is_expired(now):
        return Removed(Counter())
    going = [*islice(_going(transaction, keys, digest, state, kept), room)]
    counts = Counter({Kind.MESSAGE: len(going)})
    if going and not is_dry:
        state = _removed(transaction, keys, digest, state, going)
    if going and with_empty and not state.count and not is_dry:
        ROWS.remove(transaction, keys, digest)
        counts[Kind.SESSION] += 1
    return Removed(counts, is_whole=len(going) < room)


def _going(
    transaction: Transaction, keys: ScopeKeys, digest: bytes, state: ContainerState, kept: Kept
) -> Iterator[bytes]:
    """The keys of the messages that have to go, the oldest first."""
    excess = 0 if kept.at_most is None else max(0, state.count - kept.at_most)
    until = {channel_of(keys, name): at for name, at in (kept.channels or {}).items()}
    latest = _ANY_TIME if excess else kept.latest()
    asked = {"scope_id": keys.scope_id, "digest": digest, "latest": latest}
    number, behind = 0, b""
    while rows := transaction.rows(_PAGE, **asked, key=behind):
        for key, stored_at, tag in rows:
            # SQLite keeps any type in any column.
            channel = tag[:DIGEST_BYTES] if type(tag) is bytes else b""
            is_beyond = number < excess and channel not in until
            if is_beyond or stored_at <= until.get(channel, kept.until):
                yield key
            number += 1
        behind = rows[-1][0]


def _removed(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    state: ContainerState,
    going: Sequence[bytes],
) -> ContainerState:
    """Delete messages, and have the session's row stand for those that are left."""
    here = {"scope_id": keys.scope_id, "digest": digest}
    answers = transaction.rows_of_each(_MESSAGE, ({**here, "key": key} for key in going))
    rows = [row for found in answers for row in found]
    parts = checked_parts(keys, digest, state, rows)
    transaction.execute_many(sql.REMOVE_ONE, [{**here, "key": key} for key in going])
    left = state.with_members(keys, -sum(parts))._replace(
        count=state.count - len(rows),
        size=state.size - sum(len(sealed) for _, sealed, *_ in rows),
        channels=_channels(state, rows),
    )
    return ROWS.update(transaction, keys, digest, left)


def _channels(state: ContainerState, gone: Sequence[Row]) -> bytes | None:
    """The column that says which messages are missing, and how many there are of each channel."""
    limits = ChannelLimits.of(state)
    oldest, behind = dense_from(state), int.from_bytes(gone[-1][0]) + 1
    is_end = behind - oldest == len(gone) and int.from_bytes(gone[0][0]) == oldest
    if limits is None and is_end:
        # The oldest of a session without gaps: it has none now either.
        return None
    limits = limits or ChannelLimits(is_own=False, dense_from=oldest, kept={})
    counts = Counter((tag or b"")[:DIGEST_BYTES] for _, _, tag, _ in gone)
    kept = {d: of._replace(count=of.count - counts[d]) for d, of in limits.kept.items()}
    return limits._replace(dense_from=max(limits.dense_from, behind), kept=kept).packed()
