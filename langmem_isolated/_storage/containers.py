"""Container rows: those of sessions, threads and collections, locked, made, changed and removed."""

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select, update

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database import schema
from langmem_isolated._database.statements import InsertsByDialect
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.container_state import (
    GENERATION_BYTES,
    OPEN,
    STATE,
    ContainerState,
    header_key,
    open_header,
)
from langmem_isolated._storage.scoped_database import ScopeGone
from langmem_isolated._storage.write_barrier import MAY_SEAL, proof_of

_sessions = schema.sessions.c
SCOPE_ID = bindparam("scope_id", type_=sa.LargeBinary)
DIGEST = bindparam("digest", type_=sa.LargeBinary)
# Between looking for a row and making it, others may make and remove it.
_ATTEMPTS = 5
# Behind every digest that follows a row's own.
_BEHIND = b"\xff" * (DIGEST_BYTES + 1)


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
    "channels",
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

    The scope's row is proved in the same statement: an erased scope gets no new session, and none
    is sealed with a key that others have taken the place of.
    """
    values: dict[str, sa.ColumnElement[Any]] = {
        # The row's own, not the parameter: by it a distributed server sees that one shard has both.
        "scope_id": schema.scopes.c.scope_id,
        "kind": sa.literal_column(str(int(kind))),
        "digest": DIGEST,
        "sealed": _given("sealed"),
        **{name: sa.cast(_given(name), _sessions[name].type) for name in ContainerState._fields},
    }
    proved = select(*(value.label(name) for name, value in values.items())).where(
        schema.scopes.c.scope_id == SCOPE_ID,
        schema.scopes.c.birth == bindparam("scope_birth"),
        MAY_SEAL,
    )
    # As the foreign key does it, and what may seal is looked at behind whoever it waits for.
    proved = proved.with_for_update(read=True, key_share=True, of=schema.scopes)
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


class Beginning(NamedTuple):
    """What a new row says besides: lifetimes in microseconds, and how much it keeps."""

    idle_lifetime: int | None = None
    absolute_lifetime: int | None = None
    channels: bytes | None = None


def _begun(keys: ScopeKeys, birth: bytes, now: int) -> dict[str, Any]:
    """The columns that say of a row's life that nothing is below it yet."""
    return {
        "birth": birth,
        "generation": birth[:GENERATION_BYTES],
        **dict.fromkeys(("next_sequence", "count", "size"), 0),
        "members": keys.members.masked(0),
        "newest": None,
        "updated_at": now,
    }


class ContainerRows:
    """The rows of one kind.

    Args:
        kind: Which.
        below: Delete the records below a row: those whose parent is its digest, ``:digest``, or
            begins with it, from ``:low`` to below ``:high``.
    """

    __slots__ = (
        "_below",
        "_delete",
        "_header",
        "_kind",
        "_lock",
        "_rewrite",
        "_stray",
        "_update",
        "_waiting",
        "create",
    )

    def __init__(
        self, kind: Kind, *below: sa.Delete, waiting: "ContainerRows | None" = None
    ) -> None:
        self._kind, self._below, self._waiting = kind, below, waiting
        self._stray = [
            one.where(~select(_sessions.digest).where(row_of(kind)).exists()) for one in below
        ]
        self.create = creation(kind)
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

        What waits for it in the inbox of a user who can lock goes, too: it was said before.
        """
        if self._waiting is not None and keys.inbox is not None:
            self._waiting.remove(transaction, keys, digest)
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
        beginning: Beginning = Beginning(),  # noqa: B008 - an immutable tuple
    ) -> ContainerState:
        """The row's state, the row locked, and inserted before if it is absent.

        Args:
            header: The sealed part of a new row, in plaintext.
            birth: 16 random bytes for a new row.
            beginning: What else a new row says.

        Raises:
            ScopeGone: The scope was erased meanwhile; nothing was written.
        """
        for _ in range(_ATTEMPTS):
            if state := self.current(transaction, keys, digest, now):
                return state
            new = self.new(keys, birth, now, beginning)
            values = self.creation_of(keys, digest, new, header)[1]
            transaction.execute(self.create[transaction.is_postgres], **values)
        raise ScopeGone

    def creation_of(
        self, keys: ScopeKeys, digest: bytes, new: ContainerState, header: bytes
    ) -> tuple[ContainerState, dict[str, object]]:
        """A new state with its row MAC, and the parameters by which ``create`` stores it."""
        new = new.authenticated(self._kind, keys, digest)
        sealed = self._sealed(keys, digest, new, header)
        return new, {"digest": digest, **proof_of(keys), "new_sealed": sealed, **new.new()}

    @staticmethod
    def new(keys: ScopeKeys, birth: bytes, now: int, beginning: Beginning) -> ContainerState:
        """The state of a new row, without its row MAC."""
        new = ContainerState(
            row_mac=b"",
            state=OPEN,
            is_pinned=0,
            created_at=now,
            expires_at=None,
            revision=0,
            oldest_key=keys.sealing_version,
            **beginning._asdict(),
            **_begun(keys, birth, now),
        )
        if new.has_lifetime:
            new = new._replace(expires_at=new.expiry_after(now))
        return new

    def begin_again(
        self,
        transaction: Transaction,
        keys: ScopeKeys,
        digest: bytes,
        state: ContainerState,
        header: bytes,
        birth: bytes,
        now: int,
        channels: bytes | None = None,
    ) -> None:
        """Begin another life of the row, with nothing below it; the row must be locked.

        Nothing of the former life opens any more, its header neither.

        Args:
            state: As it is.
            header: Takes the former's place.
            birth: 16 random bytes.
            channels: Of the row from now on.
        """
        begun = state._replace(**_begun(keys, birth, now), channels=channels)
        if begun.has_lifetime:
            begun = begun._replace(expires_at=begun.expiry_after(now))
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
        return None if row is None else self.opened(keys, digest, row, row[-1])

    def opened(
        self, keys: ScopeKeys, digest: bytes, row: Row, sealed: bytes
    ) -> tuple[ContainerState, bytes]:
        """The state and the header in plaintext of a row, as ``STATE`` and its ``sealed`` say.

        Raises:
            RecordDoesNotOpen: The row was tampered with.
        """
        state = ContainerState.checked(self._kind, keys, digest, row)
        return state, open_header(self._kind, keys, digest, state, sealed)

    def _sealed(
        self, keys: ScopeKeys, digest: bytes, state: ContainerState, header: bytes
    ) -> bytes:
        prefix = keys.aad_prefix(self._kind, b"", state.birth)
        return keys.sealer(self._kind)(prefix, header_key(digest, state), header)
