"""Container rows: counters of a session, thread or collection, authenticated by a row MAC.

A row's ``head`` is a MAC over its digest, its counters, its expiry and its generation. Where the
records below have an order, the tag of the newest goes into the MAC and stands before it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select, update

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES, equal
from langmem_isolated._database import schema
from langmem_isolated._database.statements import InsertsByDialect
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._runtime.clock import EPOCH, as_moment
from langmem_isolated._storage.scoped_database import ScopeGone
from langmem_isolated.errors import RecordDoesNotOpen

_sessions = schema.sessions.c
GENERATION_BYTES = 8
STATE = (
    _sessions.head,
    _sessions.next_sequence,
    _sessions.count,
    _sessions.expires_at,
    _sessions.generation,
)
LISTED = (
    *STATE,
    _sessions.digest,
    _sessions.sealed,
    _sessions.size,
    _sessions.created_at,
    _sessions.updated_at,
)
SCOPE_ID = bindparam("scope_id", type_=sa.LargeBinary)
DIGEST = bindparam("digest", type_=sa.LargeBinary)
# Between looking for a row and making it, others may make and remove it.
_ATTEMPTS = 5
# Behind every digest that follows a row's own.
_BEHIND = b"\xff" * (DIGEST_BYTES + 1)


def in_scope(kind: Kind) -> sa.ColumnElement[bool]:
    """The scope's rows of ``kind``."""
    return sa.and_(
        _sessions.scope_id == SCOPE_ID, _sessions.kind == sa.literal_column(str(int(kind)))
    )


def row_of(kind: Kind) -> sa.ColumnElement[bool]:
    """The scope's row of ``kind`` with a digest."""
    return sa.and_(in_scope(kind), _sessions.digest == DIGEST)


def creation(kind: Kind) -> InsertsByDialect:
    """By whether it is PostgreSQL: inserts a row of ``kind`` if it is absent.

    The scope's row is proved in the same statement: an erased scope gets no new session.
    """
    sealed = ("scope_id", "digest", "generation", "head", "sealed")
    values: dict[str, sa.ColumnElement[Any]] = {
        **{name: bindparam(name) for name in sealed},
        "kind": sa.literal_column(str(int(kind))),
        **{name: sa.literal_column("0") for name in ("next_sequence", "count", "size")},
        "created_at": bindparam("now"),
        "updated_at": bindparam("now"),
    }
    proved = select(*(value.label(name) for name, value in values.items())).where(
        schema.scopes.c.scope_id == SCOPE_ID,
        schema.scopes.c.incarnation == bindparam("incarnation"),
    )
    return InsertsByDialect(
        schema.sessions,
        lambda insert: insert.from_select(list(values), proved).on_conflict_do_nothing(
            index_elements=["scope_id", "kind", "digest"]
        ),
    )


def update_container(kind: Kind) -> sa.Update:
    """Takes the row to another state, with the values of :meth:`ContainerState.as_new`."""
    return (
        update(schema.sessions)
        .where(row_of(kind))
        .values(
            head=bindparam("new_head"),
            next_sequence=bindparam("new_next"),
            count=bindparam("new_count"),
            expires_at=bindparam("new_expiry"),
            size=_sessions.size + bindparam("added_size"),
            updated_at=bindparam("now"),
        )
    )


def compare_and_swap(kind: Kind) -> sa.Update:
    """Compare-and-swap: updates only from the state of :meth:`ContainerState.as_old`.

    It needs no lock before.
    """
    return update_container(kind).where(
        _sessions.head == bindparam("old_head"),
        _sessions.next_sequence == bindparam("old_next"),
        _sessions.count == bindparam("old_count"),
        _sessions.generation == bindparam("old_generation"),
        _sessions.expires_at.is_not_distinct_from(bindparam("old_expiry", type_=sa.BigInteger)),
    )


def reset_container(kind: Kind, **values: sa.ColumnElement[Any]) -> sa.Update:
    """Takes the row back to its first state, in a new generation, with other ``values`` besides."""
    zeros: dict[str, sa.ColumnElement[Any]] = {
        name: sa.literal_column("0") for name in ("next_sequence", "count", "size")
    }
    return (
        update(schema.sessions)
        .where(row_of(kind))
        .values(
            head=bindparam("new_head"),
            generation=bindparam("new_generation"),
            updated_at=bindparam("now"),
            **zeros,
            **values,
        )
    )


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What a row says of the records below it, once its head has been found to fit."""

    newest_tag: bytes
    """Of the newest record; empty where they have no order."""
    next_sequence: int
    count: int
    expires_at: int | None
    generation: bytes

    @classmethod
    def checked(cls, kind: Kind, keys: ScopeKeys, digest: bytes, row: Row) -> "ContainerState":
        """The state that a row begins with, as ``STATE`` has it.

        Raises:
            RecordDoesNotOpen: The row was tampered with.
        """
        head, next_sequence, count, expires_at, generation = row[:5]
        try:
            state = cls(head[:-DIGEST_BYTES], next_sequence, count, expires_at, generation)
            fits = equal(head, state.row_mac(keys, digest))
        except (AttributeError, OverflowError, TypeError):
            # SQLite keeps any type in any column, and whoever tampers with rows knows it.
            fits = False
        if not fits:
            raise RecordDoesNotOpen(kind.label, "its head does not fit its counters")
        return state

    def row_mac(self, keys: ScopeKeys, digest: bytes) -> bytes:
        """The column that authenticates the others."""
        tags = (self.newest_tag,) if self.newest_tag else ()
        return self.newest_tag + keys.row_mac(
            digest,
            *tags,
            self.next_sequence.to_bytes(8),
            self.count.to_bytes(8),
            None if self.expires_at is None else self.expires_at.to_bytes(8),
            self.generation,
        )

    def is_expired(self, now: int) -> bool:
        """Whether its time was up at ``now``."""
        return self.expires_at is not None and self.expires_at <= now

    def as_old(self, keys: ScopeKeys, digest: bytes) -> dict[str, object]:
        """The values of :func:`compare_and_swap` that say where the row must be."""
        return {
            "old_head": self.row_mac(keys, digest),
            "old_next": self.next_sequence,
            "old_count": self.count,
            "old_generation": self.generation,
            "old_expiry": self.expires_at,
        }

    def as_new(self, keys: ScopeKeys, digest: bytes, added: int) -> dict[str, object]:
        """The values of :func:`update_container`, for ``added`` bytes more below the row."""
        return {
            "new_head": self.row_mac(keys, digest),
            "new_next": self.next_sequence,
            "new_count": self.count,
            "new_expiry": self.expires_at,
            "added_size": added,
        }


@dataclass(frozen=True, slots=True)
class Listed:
    """A row as stored; ``header`` is ``None`` when the row was tampered with."""

    digest: bytes
    header: bytes | None
    count: int
    size: int
    created_at: int
    updated_at: int

    @property
    def created(self) -> datetime:
        """When it was made; 1970 for what no clock shows, as tampering leaves."""
        return as_moment(self.created_at) or EPOCH

    @property
    def last_activity(self) -> datetime:
        """When something was last done to it; 1970 as for :attr:`created`."""
        return as_moment(self.updated_at) or EPOCH

    @property
    def sound_header(self) -> bytes | None:
        """The header of a row in which nothing is found to be tampered with."""
        moments = as_moment(self.created_at), as_moment(self.updated_at)
        return None if None in moments else self.header


class ContainerRows:
    """The rows of one kind.

    Args:
        kind: Which.
        below: Delete the records below a row: those whose parent is its digest, ``:digest``, or
            begins with it, from ``:low`` to below ``:high``.
        newest_tag: What stands for the AEAD tag of the newest record of a row that has none.
    """

    __slots__ = (
        "_below",
        "_create",
        "_delete",
        "_header",
        "_kind",
        "_lock",
        "_newest_tag",
        "_stray",
    )

    def __init__(self, kind: Kind, *below: sa.Delete, newest_tag: bytes = b"") -> None:
        self._kind, self._below, self._newest_tag = kind, below, newest_tag
        self._stray = [
            one.where(~select(_sessions.digest).where(row_of(kind)).exists()) for one in below
        ]
        self._create = creation(kind)
        self._lock = select(*STATE).where(row_of(kind)).with_for_update()
        self._header = select(*STATE, _sessions.sealed).where(row_of(kind))
        self._delete = delete(schema.sessions).where(row_of(kind))

    def lock(self, transaction: Transaction, keys: ScopeKeys, digest: bytes) -> Row | None:
        """The row as ``STATE`` has it, whatever it says, locked until the transaction ends."""
        return transaction.row(self._lock, scope_id=keys.scope_id, digest=digest)

    def locked(
        self, transaction: Transaction, keys: ScopeKeys, digest: bytes
    ) -> ContainerState | None:
        """The row's state, the row locked."""
        row = self.lock(transaction, keys, digest)
        return None if row is None else ContainerState.checked(self._kind, keys, digest, row)

    def current(
        self, transaction: Transaction, keys: ScopeKeys, digest: bytes, now: int
    ) -> ContainerState | None:
        """The row's state, the row locked; an expired one is removed first."""
        state = self.locked(transaction, keys, digest)
        if state is None or not state.is_expired(now):
            return state
        self.remove(transaction, keys, digest)
        return None

    def remove(self, transaction: Transaction, keys: ScopeKeys, digest: bytes) -> bool:
        """Delete a row and all that is below it; ``False`` if there is no such row.

        Who is writing below it is waited for, or what it writes would be left behind.
        """
        has_row = self.lock(transaction, keys, digest) is not None
        self.delete_children(transaction, keys, digest, has_row=has_row)
        if has_row:
            transaction.execute(self._delete, scope_id=keys.scope_id, digest=digest)
        return has_row

    def delete_children(
        self, transaction: Transaction, keys: ScopeKeys, digest: bytes, *, has_row: bool
    ) -> None:
        """Delete what is below a row, which must be locked if there is one.

        Where there is none another may be making it at this moment, with what is below it: then
        only what no row stands above is deleted, as one statement sees both.
        """
        span = {"digest": digest, "low": digest, "high": digest + _BEHIND}
        for statement in self._below if has_row else self._stray:
            transaction.execute(statement, scope_id=keys.scope_id, **span)

    def get_or_create(
        self,
        transaction: Transaction,
        keys: ScopeKeys,
        digest: bytes,
        header: bytes,
        generation: bytes,
        now: int,
    ) -> ContainerState:
        """The row's state, the row locked, and inserted before if it is absent.

        Args:
            header: The sealed part of a new row, in plaintext.
            generation: 8 random bytes for a new row.

        Raises:
            ScopeGone: The scope was erased meanwhile; nothing was written.
        """
        for _ in range(_ATTEMPTS):
            if state := self.current(transaction, keys, digest, now):
                return state
            new = self.empty(generation)
            transaction.execute(
                self._create[transaction.is_postgres],
                scope_id=keys.scope_id,
                digest=digest,
                incarnation=keys.incarnation,
                generation=generation,
                head=new.row_mac(keys, digest),
                sealed=self.sealed(keys, digest, header),
                now=now,
            )
        raise ScopeGone

    def empty(self, generation: bytes, expires_at: int | None = None) -> ContainerState:
        """The state of a row with nothing below it."""
        return ContainerState(self._newest_tag, 0, 0, expires_at, generation)

    def header(
        self, transaction: Transaction, keys: ScopeKeys, digest: bytes
    ) -> tuple[ContainerState, bytes] | None:
        """The row's state and its header in plaintext."""
        row = transaction.row(self._header, scope_id=keys.scope_id, digest=digest)
        if row is None:
            return None
        return ContainerState.checked(self._kind, keys, digest, row), self._opened(
            keys, digest, row[5]
        )

    def sealed(self, keys: ScopeKeys, digest: bytes, header: bytes) -> bytes:
        """A header as the row holds it."""
        return keys.seal(keys.aad_prefix(self._kind, b""), digest, header)

    def listed(self, keys: ScopeKeys, row: Row) -> Listed:
        """A row as ``LISTED`` has it; one that was tampered with does not fail the others."""
        digest, sealed, *times = row[5:]
        try:
            ContainerState.checked(self._kind, keys, digest, row)
            header = self._opened(keys, digest, sealed)
        except RecordDoesNotOpen:
            header = None
        return Listed(digest, header, row[2], *times)

    def _opened(self, keys: ScopeKeys, digest: bytes, sealed: bytes) -> bytes:
        return keys.open(keys.aad_prefix(self._kind, b""), digest, sealed, self._kind)
