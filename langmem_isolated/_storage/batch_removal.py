"""Removal in batches: containers with all that is below them, and records by their addresses.

What is removed is found before, outside of any transaction, and looked at again under the lock of
its row: one that was written to meanwhile may have to stay. A row that somebody else has locked is
passed over, so that several processes remove side by side.

A container with more below it than one batch takes is *gone* first: its row says that it expired
at ``GONE``, and to every reader it is absent. Then its records go, then the row. Whoever comes to
an end in between leaves a row that is found, as expired, by the next who looks.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.container_state import (
    GONE,
    STATE,
    UNSEEN,
    ContainerState,
    KeyOutdated,
)
from langmem_isolated._storage.containers import SCOPE_ID, ContainerRows, row_of
from langmem_isolated._storage.expiry import check_expiry
from langmem_isolated._storage.items import statements as item_sql
from langmem_isolated._storage.items.addresses import RecordAddresses, span
from langmem_isolated._storage.items.counting import ItemCount
from langmem_isolated.errors import RecordDoesNotOpen

# Of records and rows, in one transaction. Measured with SQLite's secure_delete: 500 take 8 to 20
# ms, 1,000 up to 24 and once 276.
BATCH = 500
NEVER = -1
# A copy that was begun longer ago and is not to be seen yet was given up; in µs.
_GIVEN_UP = 3_600_000_000

# What is below a row of each kind, all below parents that begin with its digest.
BELOW: dict[Kind, tuple[Kind, ...]] = {
    Kind.SESSION: (Kind.MESSAGE, Kind.EMBEDDING),
    Kind.THREAD: (Kind.CHECKPOINT, Kind.WRITE, Kind.ELEMENT, Kind.EMBEDDING),
    Kind.COLLECTION: (Kind.DOCUMENT, Kind.EMBEDDING),
    Kind.INBOX: (Kind.INBOX,),
}
_records = schema.records.c
_BEHIND = b"\xff" * (DIGEST_BYTES + 1)
_ALL = 2**31 - 1
_NONE: sa.ColumnElement[int] = sa.literal_column("0")


def _number(kind: Kind) -> sa.ColumnElement[int]:
    return sa.literal_column(str(int(kind)))


class Due(NamedTuple):
    """When something has to go: whichever of these is met, in µs; ``NEVER`` meets nothing."""

    expired: int = NEVER
    """It expired at this time or before."""
    created: int = NEVER
    """It was made then or before."""
    updated: int = NEVER
    """Nothing was done to it since then, or it was stored then or before."""

    def meets(self, created_at: int, updated_at: int, expires_at: int | None) -> bool:
        """Whether what has these times has to go."""
        if expires_at == UNSEEN:
            return updated_at <= self.expired - _GIVEN_UP
        is_expired = expires_at is not None and expires_at <= max(self.expired, GONE)
        return is_expired or created_at <= self.created or updated_at <= self.updated


class Removed(NamedTuple):
    """What a step has removed, by kind, and whether more of the same is left to be removed."""

    counts: Counter[Kind]
    is_whole: bool = True
    was_locked: bool = False
    """Somebody else had it: it is to be looked at again."""


class _Statements:
    """What is asked of containers of one kind."""

    def __init__(self, kind: Kind) -> None:
        self.lock = select(*STATE).where(row_of(kind)).with_for_update(skip_locked=True)
        self.state = select(*STATE).where(row_of(kind))
        below = sa.and_(
            _records.scope_id == SCOPE_ID,
            _records.kind.in_([*map(_number, BELOW[kind])]),
            _records.parent >= bindparam("low", type_=sa.LargeBinary),
            _records.parent < bindparam("high", type_=sa.LargeBinary),
        )
        self.below = (
            select(_records.kind, _records.parent, _records.key)
            .where(below)
            .limit(bindparam("limit", type_=sa.Integer))
            .offset(_NONE)
        )
        self.count = select(_records.kind, sa.func.count()).where(below).group_by(_records.kind)
        self.rows = ContainerRows(kind)


_OF = {kind: _Statements(kind) for kind in BELOW}
_AT = sa.and_(
    _records.scope_id == SCOPE_ID,
    _records.kind == bindparam("kind"),
    _records.parent == bindparam("parent", type_=sa.LargeBinary),
    _records.key == bindparam("key", type_=sa.LargeBinary),
)
_DELETE = delete(schema.records).where(_AT)
_TIMES = (_records.created_at, _records.updated_at, _records.expires_at, _records.expiry_mac)
_RECORD = select(*_TIMES).where(_AT)
_LOCK_RECORD = _RECORD.with_for_update(skip_locked=True)


def _span(keys: ScopeKeys, digest: bytes) -> dict[str, Any]:
    return {"scope_id": keys.scope_id, "digest": digest, "low": digest, "high": digest + _BEHIND}


def remove_container(
    transaction: Transaction,
    keys: ScopeKeys,
    kind: Kind,
    digest: bytes,
    due: Due,
    room: int,
) -> Removed:
    """Remove a container that is ``due``, or as many of its records as there is ``room`` for.

    Args:
        kind: One of ``BELOW``.
        digest: By which tables know it.
        due: When it has to go; one that has not stays.
        room: At most so many records and rows are removed.

    Raises:
        RecordDoesNotOpen: Its row was tampered with: it stays, as evidence.
    """
    of, asked = _OF[kind], _span(keys, digest)
    row = transaction.row(of.lock, **asked)
    if row is None:
        stands = transaction.row(of.state, **asked) is not None
        return Removed(Counter(), was_locked=stands)
    state = ContainerState.checked(kind, keys, digest, row)
    if not due.meets(state.created_at, state.updated_at, state.expires_at):
        return Removed(Counter())
    # A copy that goes on finds all of what it has made, or nothing.
    room = _ALL if state.expires_at == UNSEEN else room
    below = transaction.rows(of.below, **asked, limit=room)
    counts = Counter(Kind(number) for number, _, _ in below)
    _delete(transaction, keys, below)
    if is_whole := len(below) < room:
        of.rows.remove(transaction, keys, digest)
        counts[kind] += 1
    elif not state.is_gone:
        of.rows.update(transaction, keys, digest, state._replace(expires_at=GONE))
    return Removed(counts, is_whole)


def state_of(
    transaction: Transaction, keys: ScopeKeys, kind: Kind, digest: bytes
) -> ContainerState | None:
    """The state of a container, which is not locked.

    Raises:
        RecordDoesNotOpen: Its row was tampered with.
    """
    row = transaction.row(_OF[kind].state, **_span(keys, digest))
    return None if row is None else ContainerState.checked(kind, keys, digest, row)


def count_container(
    transaction: Transaction, keys: ScopeKeys, kind: Kind, digest: bytes, due: Due
) -> Removed:
    """What :func:`remove_container` would remove in all; locks and changes nothing."""
    state = state_of(transaction, keys, kind, digest)
    if state is None or not due.meets(state.created_at, state.updated_at, state.expires_at):
        return Removed(Counter())
    rows = transaction.rows(_OF[kind].count, **_span(keys, digest))
    return Removed(Counter({kind: 1}) + Counter({Kind(number): count for number, count in rows}))


def hide_container(
    transaction: Transaction, keys: ScopeKeys, kind: Kind, digest: bytes, due: Due
) -> Removed:
    """Have a container that is ``due`` be absent to readers; :func:`remove_container` goes on.

    Who has its row is waited for. One that was tampered with is removed at once: whose it is wants
    it gone, and no row of it can be made that opens.

    Raises:
        KeyOutdated: Another process has rotated the keys; nothing was removed.
    """
    of, asked = _OF[kind], _span(keys, digest)
    row = of.rows.lock(transaction, keys, digest)
    if row is None:
        return Removed(Counter())
    try:
        state = ContainerState.checked(kind, keys, digest, row)
    except KeyOutdated:
        raise
    except RecordDoesNotOpen:
        below = transaction.rows(of.below, **asked, limit=_ALL)
        _delete(transaction, keys, below)
        of.rows.remove(transaction, keys, digest)
        return Removed(Counter(Kind(number) for number, _, _ in below) + Counter({kind: 1}))
    is_due = due.meets(state.created_at, state.updated_at, state.expires_at)
    if is_due and state.expires_at not in (GONE, UNSEEN):
        of.rows.update(transaction, keys, digest, state._replace(expires_at=GONE))
    return Removed(Counter())


def _delete(transaction: Transaction, keys: ScopeKeys, addresses: Sequence[Row]) -> None:
    transaction.execute_many(
        _DELETE,
        [
            {"scope_id": keys.scope_id, "kind": kind, "parent": parent, "key": key}
            for kind, parent, key in addresses
        ],
    )


def remove_records(
    transaction: Transaction,
    keys: ScopeKeys,
    kind: Kind,
    addresses: Sequence[tuple[bytes, bytes]],
    due: Due,
    *,
    is_dry: bool = False,
) -> Removed:
    """Remove those items or entries that are ``due``; items with their vectors.

    Args:
        kind: `ITEM`, or one of those of entries.
        addresses: Their parents and keys.
        due: When they have to go; ``updated`` tells when one was last put.
        is_dry: Say what would be removed, and change nothing.

    Raises:
        RecordDoesNotOpen: The expiry of one was tampered with: all stay, as evidence.
    """
    count = ItemCount(transaction, keys, RecordAddresses(keys), now())
    # Before the items: others lock the items that they write behind the row that counts them.
    state = count.locked() if kind is Kind.ITEM and not is_dry else None
    asked = [
        {"scope_id": keys.scope_id, "kind": int(kind), "parent": parent, "key": key}
        for parent, key in sorted(addresses)
    ]
    statement = _RECORD if is_dry else _LOCK_RECORD
    found, was_locked = [], False
    answers = transaction.rows_of_each(statement, asked)
    for address, rows in zip(sorted(addresses), answers, strict=True):
        was_locked |= not rows
        found += [address for row in rows if _is_due(keys, kind, address, row, due)]
    if state is not None:
        count.take_out(count.at(found))
        count.store(state)
    if not is_dry:
        _take_out(transaction, keys, kind, found)
    return Removed(Counter({kind: len(found)}), was_locked=was_locked)


def _is_due(keys: ScopeKeys, kind: Kind, address: tuple[bytes, bytes], row: Row, due: Due) -> bool:
    created_at, updated_at, expires_at, mac = row
    # SQLite keeps any type in any column, and whoever tampers with rows knows it.
    if any(type(at) is not int or at < 0 for at in (created_at, updated_at)):
        raise RecordDoesNotOpen(kind.label, "it was stored at no time")
    if expires_at is not None:
        check_expiry(keys, kind, address, updated_at, (expires_at, mac), is_expected=True)
    return due.meets(created_at, updated_at, expires_at)


def _take_out(
    transaction: Transaction, keys: ScopeKeys, kind: Kind, found: list[tuple[bytes, bytes]]
) -> None:
    if kind is Kind.ITEM:
        transaction.execute_many(item_sql.REMOVE, [span(keys, address) for address in found])
    else:
        _delete(transaction, keys, [(int(kind), *address) for address in found])
