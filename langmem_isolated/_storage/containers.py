"""Container rows: those of sessions, threads and collections, locked, made, changed and removed."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select, update

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database import schema
from langmem_isolated._database.statements import InsertsByDialect
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._runtime.clock import EPOCH, as_moment
from langmem_isolated._storage.container_state import (
    GENERATION_BYTES,
    STATE,
    ContainerState,
    header_key,
    open_header,
)
from langmem_isolated._storage.scoped_database import ScopeGone
from langmem_isolated.errors import RecordDoesNotOpen

_sessions = schema.sessions.c
SCOPE_ID = bindparam("scope_id", type_=sa.LargeBinary)
DIGEST = bindparam("digest", type_=sa.LargeBinary)
# Between looking for a row and making it, others may make and remove it.
_ATTEMPTS = 5
# Behind every digest that follows a row's own.
_BEHIND = b"\xff" * (DIGEST_BYTES + 1)
_OPEN = 1


LISTED = (*STATE, _sessions.digest, _sessions.sealed)
# What each write of records below a row changes of it.
_COUNTERS = (
    "row_mac",
    "generation",
    "next_sequence",
    "count",
    "size",
    "members",
    "newest",
    "updated_at",
    "expires_at",
)


def in_scope(kind: Kind) -> sa.ColumnElement[bool]:
    """The scope's rows of ``kind``."""
    return sa.and_(
        _sessions.scope_id == SCOPE_ID, _sessions.kind == sa.literal_column(str(int(kind)))
    )


def row_of(kind: Kind) -> sa.ColumnElement[bool]:
    """The scope's row of ``kind`` with a digest."""
    return sa.and_(in_scope(kind), _sessions.digest == DIGEST)


def padded_state(columns: int) -> list[sa.ColumnElement[Any]]:
    """As many nulls as ``STATE`` has columns behind the first ``columns``, of their types.

    For statements that return a row and, in one state of the database, what is below it.
    """
    return [sa.cast(sa.null(), column.type) for column in STATE[columns:]]


def _given(name: str) -> sa.BindParameter[Any]:
    return bindparam(f"new_{name}", type_=_sessions[name].type)


def creation(kind: Kind) -> InsertsByDialect:
    """By whether it is PostgreSQL: inserts a row of ``kind`` if it is absent.

    The scope's row is proved in the same statement: an erased scope gets no new session.
    """
    values: dict[str, sa.ColumnElement[Any]] = {
        "scope_id": SCOPE_ID,
        "kind": sa.literal_column(str(int(kind))),
        "digest": DIGEST,
        "sealed": _given("sealed"),
        **{name: sa.cast(_given(name), _sessions[name].type) for name in ContainerState._fields},
    }
    proved = select(*(value.label(name) for name, value in values.items())).where(
        schema.scopes.c.scope_id == SCOPE_ID,
        schema.scopes.c.birth == bindparam("scope_birth"),
    )
    return InsertsByDialect(
        schema.sessions,
        lambda insert: insert.from_select(list(values), proved).on_conflict_do_nothing(
            index_elements=["scope_id", "kind", "digest"]
        ),
    )


def update_container(kind: Kind) -> sa.Update:
    """Takes the counters of a row to another state, with the values of the state."""
    return (
        update(schema.sessions)
        .where(row_of(kind))
        .values({name: _given(name) for name in _COUNTERS})
    )


def compare_and_swap(kind: Kind) -> sa.Update:
    """Compare-and-swap: updates only a row that has every column of :meth:`ContainerState.old`.

    It needs no lock before. Every column: a row that was tampered with takes nothing, and is not
    mended either.
    """
    return update_container(kind).where(
        *(
            column.is_not_distinct_from(bindparam(f"old_{column.name}", type_=column.type))
            if column.nullable
            else column == bindparam(f"old_{column.name}", type_=column.type)
            for column in STATE
        )
    )


def _begun(keys: ScopeKeys, birth: bytes, now: int) -> dict[str, Any]:
    """The columns that say of a row's life that nothing is below it yet."""
    return {
        "birth": birth,
        "generation": birth[:GENERATION_BYTES],
        **dict.fromkeys(("next_sequence", "count", "size"), 0),
        "members": keys.members.masked(0),
        **dict.fromkeys(("newest", "channels")),
        "updated_at": now,
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
    """

    __slots__ = (
        "_below",
        "_create",
        "_delete",
        "_header",
        "_kind",
        "_lock",
        "_rewrite",
        "_stray",
        "_update",
    )

    def __init__(self, kind: Kind, *below: sa.Delete) -> None:
        self._kind, self._below = kind, below
        self._stray = [
            one.where(~select(_sessions.digest).where(row_of(kind)).exists()) for one in below
        ]
        self._create = creation(kind)
        self._lock = select(*STATE).where(row_of(kind)).with_for_update()
        self._header = select(*STATE, _sessions.sealed).where(row_of(kind))
        self._delete = delete(schema.sessions).where(row_of(kind))
        self._update = update_container(kind)
        self._rewrite = (
            update(schema.sessions)
            .where(row_of(kind))
            .values({n: _given(n) for n in (*ContainerState._fields, "sealed")})
        )

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
        birth: bytes,
        now: int,
    ) -> ContainerState:
        """The row's state, the row locked, and inserted before if it is absent.

        Args:
            header: The sealed part of a new row, in plaintext.
            birth: 16 random bytes for a new row.

        Raises:
            ScopeGone: The scope was erased meanwhile; nothing was written.
        """
        for _ in range(_ATTEMPTS):
            if state := self.current(transaction, keys, digest, now):
                return state
            new = self._new(keys, digest, birth, now)
            transaction.execute(
                self._create[transaction.is_postgres],
                scope_id=keys.scope_id,
                digest=digest,
                scope_birth=keys.birth,
                new_sealed=self._sealed(keys, digest, new, header),
                **new.new(),
            )
        raise ScopeGone

    def _new(self, keys: ScopeKeys, digest: bytes, birth: bytes, now: int) -> ContainerState:
        new = ContainerState(
            row_mac=b"",
            state=_OPEN,
            is_pinned=0,
            idle_lifetime=None,
            absolute_lifetime=None,
            created_at=now,
            expires_at=None,
            revision=0,
            **_begun(keys, birth, now),
        )
        return new.authenticated(self._kind, keys, digest)

    def begin_again(
        self,
        transaction: Transaction,
        keys: ScopeKeys,
        digest: bytes,
        state: ContainerState,
        header: bytes,
        birth: bytes,
        now: int,
    ) -> None:
        """Begin another life of the row, with nothing below it; the row must be locked.

        Nothing of the former life opens any more, its header neither.

        Args:
            state: As it is.
            header: Takes the former's place.
            birth: 16 random bytes.
        """
        begun = state._replace(**_begun(keys, birth, now))
        self.rewrite(transaction, keys, digest, begun, header)

    def update(
        self, transaction: Transaction, keys: ScopeKeys, digest: bytes, state: ContainerState
    ) -> ContainerState:
        """Store the counters of ``state``; the row must be locked. Returns what is stored."""
        state = state.authenticated(self._kind, keys, digest)
        transaction.execute(self._update, scope_id=keys.scope_id, digest=digest, **state.new())
        return state

    def rewrite(
        self,
        transaction: Transaction,
        keys: ScopeKeys,
        digest: bytes,
        state: ContainerState,
        header: bytes,
    ) -> None:
        """Store every column of ``state`` and another header; the row must be locked."""
        state = state._replace(revision=state.revision + 1)
        transaction.execute(
            self._rewrite,
            scope_id=keys.scope_id,
            digest=digest,
            new_sealed=self._sealed(keys, digest, state, header),
            **state.authenticated(self._kind, keys, digest).new(),
        )

    def header(
        self, transaction: Transaction, keys: ScopeKeys, digest: bytes
    ) -> tuple[ContainerState, bytes] | None:
        """The row's state and its header in plaintext."""
        row = transaction.row(self._header, scope_id=keys.scope_id, digest=digest)
        return None if row is None else self._opened(keys, digest, row, row[-1])

    def listed(self, keys: ScopeKeys, row: Row) -> Listed:
        """A row as ``LISTED`` has it; one that was tampered with does not fail the others."""
        *columns, digest, sealed = row
        state = ContainerState._make(columns)
        try:
            header = self._opened(keys, digest, row, sealed)[1]
        except RecordDoesNotOpen:
            header = None
        # SQLite keeps any type in any column.
        count, size = (n if type(n) is int else 0 for n in (state.count, state.size))
        return Listed(digest, header, count, size, state.created_at, state.updated_at)

    def _opened(
        self, keys: ScopeKeys, digest: bytes, row: Row, sealed: bytes
    ) -> tuple[ContainerState, bytes]:
        state = ContainerState.checked(self._kind, keys, digest, row)
        return state, open_header(self._kind, keys, digest, state, sealed)

    def _sealed(
        self, keys: ScopeKeys, digest: bytes, state: ContainerState, header: bytes
    ) -> bytes:
        prefix = keys.aad_prefix(self._kind, b"", state.birth)
        return keys.seal(prefix, header_key(digest, state), header)
