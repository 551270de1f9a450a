"""Drops the oldest messages of a session: those beyond a count, and those from before a time."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.container_state import STATE, ContainerState
from langmem_isolated._storage.containers import DIGEST, SCOPE_ID, row_of
from langmem_isolated._storage.removal import NEVER, Removed
from langmem_isolated._storage.sessions.listing import ROWS
from langmem_isolated._storage.sessions.reading import channel_of, message_aad_prefix, message_part

_records = schema.records.c
_STATE = select(*STATE).where(row_of(Kind.SESSION))
_LOCK = _STATE.with_for_update(skip_locked=True)
_OLDEST = (
    select(_records.key, _records.sealed, _records.updated_at, _records.tag)
    .where(
        _records.scope_id == SCOPE_ID,
        _records.kind == sa.literal_column(str(int(Kind.MESSAGE))),
        _records.parent == DIGEST,
    )
    .order_by(_records.key)
    .limit(bindparam("limit", type_=sa.Integer))
    .offset(sa.literal_column("0"))
)
# And the embedding that a search made of it.
_DELETE = delete(schema.records).where(
    _records.scope_id == SCOPE_ID,
    _records.kind.in_([sa.literal_column(str(int(k))) for k in (Kind.MESSAGE, Kind.EMBEDDING)]),
    _records.parent == DIGEST,
    _records.key == bindparam("key", type_=sa.LargeBinary),
)


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


def drop_oldest(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    kept: Kept,
    room: int,
    now: int,
    *,
    is_dry: bool = False,
) -> Removed:
    """Remove from the oldest end of a session what does not stay, up to ``room`` messages.

    The first message that stays ends it: the messages of a session have no gaps.

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
    oldest = transaction.rows(_OLDEST, scope_id=keys.scope_id, digest=digest, limit=room)
    dropped = _dropped(keys, state, oldest, kept)
    if dropped and not is_dry:
        _remove(transaction, keys, digest, state, dropped)
    return Removed(Counter({Kind.MESSAGE: len(dropped)}), is_whole=len(dropped) < room)


def _dropped(keys: ScopeKeys, state: ContainerState, oldest: list[Row], kept: Kept) -> list[Row]:
    excess = 0 if kept.at_most is None else state.count - kept.at_most
    until = {channel_of(keys, name): at for name, at in (kept.channels or {}).items()}
    dropped: list[Row] = []
    for row in oldest:
        channel = (row[3] or b"")[:DIGEST_BYTES]
        if row[2] > until.get(channel, kept.until) and len(dropped) >= excess:
            break
        dropped.append(row)
    return dropped


def _remove(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    state: ContainerState,
    dropped: list[Row],
) -> None:
    opener = keys.opener(message_aad_prefix(keys, digest, state), Kind.MESSAGE)
    parts = [
        message_part(keys, digest, key, stored_at, opener(key, sealed))
        for key, sealed, stored_at, _ in dropped
    ]
    transaction.execute_many(
        _DELETE, [{"scope_id": keys.scope_id, "digest": digest, "key": row[0]} for row in dropped]
    )
    left = state.with_members(keys, -sum(parts))._replace(
        count=state.count - len(dropped),
        size=state.size - sum(len(sealed) for _, sealed, *_ in dropped),
    )
    ROWS.update(transaction, keys, digest, left)
