"""Inbox: what is said to a locked user, sealed so that the user's keys alone open it (HPKE).

For each session to which something was said there is a row of the kind *inbox*, with the session's
digest, that counts and authenticates what waits; below it stands one record a message, in their
order. Each is sealed to the public key of the user's key set, and bound to the scope's life, the
session, the row's birth and its number (RFC 9180, ``info``): a record that was moved, or put back
after it was taken out, does not open. In bytes::

    1 form | 32 encapsulated key | ciphertext | 16 tag
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select

from langmem_isolated._crypto.hpke import open_from, seal_to
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import framed
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.container_state import ContainerState, is_member_sum, member_part
from langmem_isolated._storage.containers import DIGEST, SCOPE_ID, ContainerRows
from langmem_isolated._storage.working_locked import works_locked
from langmem_isolated.errors import MemoryLocked, RecordDoesNotOpen

_FORM = b"\1"
# Taken out by one transaction: each is opened with an agreement of keys, 0.2 ms, and appended.
AT_ONCE = 100

_records, _sessions = schema.records.c, schema.sessions.c
_INBOX: sa.ColumnElement[int] = sa.literal_column(str(int(Kind.INBOX)))
_BELOW = sa.and_(_records.scope_id == SCOPE_ID, _records.kind == _INBOX, _records.parent == DIGEST)
_INSERT = (
    sa.insert(schema.records)
    .values(
        kind=_INBOX,
        parent=DIGEST,
        scope_id=SCOPE_ID,
        created_at=bindparam("now"),
        updated_at=bindparam("now"),
        **{name: bindparam(f"record_{name}") for name in ("key", "sealed", "size")},
    )
    .inline()
)
_OLDEST = (
    select(_records.key, _records.sealed, _records.updated_at)
    .where(_BELOW)
    .order_by(_records.key)
    .limit(bindparam("limit", type_=sa.Integer))
    .offset(sa.literal_column("0"))
)
_REMOVE = delete(schema.records).where(
    _BELOW, _records.key == bindparam("record_key", type_=sa.LargeBinary)
)
_WAITING = select(_sessions.digest, _sessions.count).where(
    _sessions.scope_id == SCOPE_ID, _sessions.kind == _INBOX
)

ROWS = ContainerRows(Kind.INBOX, delete(schema.records).where(_BELOW))


@works_locked
def put(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    waiting: Sequence[bytes],
    birth: bytes,
    now: int,
) -> None:
    """Let messages wait behind what waits for a session, all or none.

    Args:
        digest: The session's.
        waiting: Their plaintexts.
        birth: 16 random bytes, for an inbox that is begun.
        now: In µs.

    Raises:
        MemoryLocked: The user has no inbox.
        ScopeGone: The scope was erased meanwhile; nothing was written.
        RecordDoesNotOpen: The inbox was tampered with.
    """
    if keys.inbox is None:
        raise MemoryLocked
    state = ROWS.get_or_create(transaction, keys, digest, b"", birth, now)
    rows: list[dict[str, object]] = []
    size = total = 0
    for number, plaintext in enumerate(waiting, start=state.next_sequence):
        key = number.to_bytes(8)
        sealed = _FORM + seal_to(keys.inbox, _info(keys, digest, state, key), plaintext)
        rows.append({"record_key": key, "record_sealed": sealed, "record_size": len(sealed)})
        size, total = size + len(sealed), total + part(keys, digest, key, now, sealed)
    here: dict[str, object] = {"scope_id": keys.scope_id, "digest": digest, "now": now}
    transaction.execute_many(_INSERT, [here | row for row in rows])
    grown = _grown(state, len(rows), size)._replace(
        next_sequence=state.next_sequence + len(rows), updated_at=now
    )
    ROWS.update(transaction, keys, digest, grown.with_members(keys, total))


def take(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    private: Sequence[SecretBytes],
    append: Callable[[Sequence[bytes]], Any],
) -> tuple[int, int]:
    """Take out the oldest messages that wait for a session; how many, and how many are left.

    Args:
        digest: The session's.
        private: The keys of the user's inbox, the latest first.
        append: Stores their plaintexts, in this transaction.

    Raises:
        RecordDoesNotOpen: One was changed, moved, removed or put back; nothing was taken out.
    """
    state = ROWS.locked(transaction, keys, digest)
    if state is None:
        return 0, 0
    here: dict[str, object] = {"scope_id": keys.scope_id, "digest": digest}
    rows = transaction.rows(_OLDEST, **here, limit=AT_ONCE)
    opened = [_opened(keys, digest, state, private, key, sealed) for key, sealed, _ in rows]
    total = sum(part(keys, digest, key, at, sealed) for key, sealed, at in rows)
    size = sum(len(sealed) for _, sealed, _ in rows)
    left = _grown(state, -len(rows), -size).with_members(keys, -total)
    _check(keys, left, is_last=len(rows) < AT_ONCE)
    if opened:
        append(opened)
    if not left.count:
        ROWS.remove(transaction, keys, digest)
        return len(rows), 0
    transaction.execute_many(_REMOVE, [here | {"record_key": key} for key, *_ in rows])
    ROWS.update(transaction, keys, digest, left)
    return len(rows), left.count


@works_locked
def waiting(transaction: Transaction, keys: ScopeKeys) -> list[tuple[bytes, int]]:
    """The digests of the sessions for which something waits, and how much."""
    rows = transaction.rows(_WAITING, scope_id=keys.scope_id)
    return [(digest, count) for digest, count in rows]


def part(keys: ScopeKeys, digest: bytes, key: bytes, stored_at: object, sealed: bytes) -> int:
    """What a record adds to the multiset hash of its row: it is never sealed again."""
    return member_part(keys, Kind.INBOX, (digest, key), stored_at, sealed)


def _info(keys: ScopeKeys, digest: bytes, state: ContainerState, key: bytes) -> bytes:
    return _FORM + keys.aad_prefix(Kind.INBOX, digest, state.birth) + framed(key)


def _opened(
    keys: ScopeKeys,
    digest: bytes,
    state: ContainerState,
    private: Sequence[SecretBytes],
    key: bytes,
    sealed: bytes,
) -> bytes:
    if sealed[:1] != _FORM:
        raise RecordDoesNotOpen(Kind.INBOX.label, f"its form is unknown ({len(sealed)} bytes)")
    info = _info(keys, digest, state, key)
    for one in private:
        with suppress(RecordDoesNotOpen):
            return open_from(one, info, sealed[1:])
    raise RecordDoesNotOpen(Kind.INBOX.label, "it fails authentication")


def _grown(state: ContainerState, count: int, size: int) -> ContainerState:
    return state._replace(count=state.count + count, size=state.size + size)


def _check(keys: ScopeKeys, left: ContainerState, *, is_last: bool) -> None:
    """Refuse an inbox that stands for more, for less, or for others than were found."""
    fits = left.count >= 0 and not (is_last and left.count)
    if not fits or (left.count == 0 and not is_member_sum(keys, left, 0)):
        raise RecordDoesNotOpen(Kind.INBOX.label, "it has not the records that it stands for")
