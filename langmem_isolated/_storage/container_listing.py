"""Container listing: the rows of one kind as people see them, in pages, found, counted, rewritten.

Of sessions and threads alike: pinned ones first, then by last activity.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._runtime.clock import EPOCH, as_moment
from langmem_isolated._storage.container_state import (
    ARCHIVED_STATES,
    CLOSED_STATES,
    ContainerState,
    KeyOutdated,
)
from langmem_isolated._storage.containers import LISTED, ContainerRows, in_scope, row_of
from langmem_isolated._storage.working_locked import works_locked
from langmem_isolated.errors import RecordDoesNotOpen

_sessions = schema.sessions.c
_IS_THERE = sa.or_(_sessions.expires_at.is_(None), _sessions.expires_at > bindparam("now"))
# What tampering leaves in place of 0 or 1 is listed behind the pinned ones.
_pinned = sa.case(
    (_sessions.is_pinned == sa.literal_column("1"), sa.literal_column("1")),
    else_=sa.literal_column("0"),
)
# A state that is none, as tampering leaves, is in every list, where it is shown as damaged.
_IN_STATES = sa.or_(
    _sessions.state.between(bindparam("first_state"), bindparam("last_state")),
    _sessions.state.not_in([sa.literal_column(str(state)) for state in range(1, 5)]),
)
_ANY_STATE = -(2**15), 2**15 - 1
_NOT_ARCHIVED = 0, ARCHIVED_STATES[0] - 1

Change = Callable[[bytes, ContainerState], tuple[bytes, ContainerState]]
"""Told a row's header in plaintext and its state, says what they become."""


class Position(NamedTuple):
    """Where a row stands in a list."""

    is_pinned: int
    updated_at: int
    digest: bytes


BEGINNING = Position(2**15 - 1, 0, b"")


@dataclass(frozen=True, slots=True)
class Listed:
    """A row as stored; ``header`` is ``None`` when the row was tampered with."""

    digest: bytes
    header: bytes | None
    count: int
    size: int
    created_at: int
    updated_at: int
    state: int
    is_pinned: int
    expires_at: int | None

    @property
    def position(self) -> Position:
        """Where the next page goes on."""
        return Position(int(self.is_pinned == 1), self.updated_at, self.digest)

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more messages."""
        return self.state in CLOSED_STATES

    @property
    def is_archived(self) -> bool:
        """Whether lists leave it out, unless they are asked for it."""
        return self.state in ARCHIVED_STATES

    @property
    def expires(self) -> datetime | None:
        """When it is absent, if nothing is done to it before; ``None`` for never."""
        return None if self.expires_at is None else as_moment(self.expires_at)

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


class ContainerListing:
    """The listed rows of one kind.

    Args:
        kind: Which.
        rows: Those of this kind.
    """

    __slots__ = ("_count", "_find", "_kind", "_list", "rows")

    def __init__(self, kind: Kind, rows: ContainerRows) -> None:
        self._kind, self.rows = kind, rows
        self._find = select(*LISTED).where(row_of(kind))
        alive = sa.and_(in_scope(kind), _IS_THERE, _IN_STATES)
        self._count = select(sa.func.count()).select_from(schema.sessions).where(alive)
        self._list = (
            select(*LISTED)
            .where(alive, _is_behind())
            .order_by(_pinned.desc(), _sessions.updated_at.desc(), _sessions.digest)
            .limit(bindparam("limit", type_=sa.BigInteger))
            .offset(sa.literal_column("0"))
        )

    def digest(self, keys: ScopeKeys, name: str) -> bytes:
        """The digest by which tables know a row."""
        return keys.pseudonym(self._kind, name.encode())

    def page(
        self,
        transaction: Transaction,
        keys: ScopeKeys,
        position: Position,
        limit: int,
        archived: bool | None,
        now: int,
        *,
        is_final: bool = True,
    ) -> list[Listed]:
        """The rows behind a position, at most so many; those that expired are left out.

        One that was tampered with is listed without its header rather than failing the others.

        Args:
            archived: Whether those that are archived or those that are not; ``None`` for both.
            is_final: Whether no later keys are to be tried on what does not open.

        Raises:
            RecordDoesNotOpen: It is not final, and later keys may open a row.
        """
        rows = transaction.rows(
            self._list,
            scope_id=keys.scope_id,
            limit=limit,
            now=now,
            **position._asdict(),
            **_states(archived),
        )
        return [self._listed(keys, row, is_final=is_final) for row in rows]

    @works_locked
    def count(
        self, transaction: Transaction, keys: ScopeKeys, archived: bool | None, now: int
    ) -> int:
        """How many :meth:`page` would list in all."""
        row = transaction.row(self._count, scope_id=keys.scope_id, now=now, **_states(archived))
        return 0 if row is None else row[0]

    def find(
        self,
        transaction: Transaction,
        keys: ScopeKeys,
        name: str,
        now: int,
        *,
        is_final: bool = True,
    ) -> Listed | None:
        """One row as :meth:`page` has it; ``None`` if there is none, or it expired."""
        row = transaction.row(self._find, scope_id=keys.scope_id, digest=self.digest(keys, name))
        found = None if row is None else self._listed(keys, row, is_final=is_final)
        # An expiry that somebody wrote into the table makes no row absent.
        is_expired = found and found.header is not None and (found.expires_at or now + 1) <= now
        return None if is_expired else found

    def header(
        self, transaction: Transaction, keys: ScopeKeys, name: str, now: int
    ) -> tuple[ContainerState, bytes] | None:
        """The state and header of a row; ``None`` if there is none."""
        found = self.rows.header(transaction, keys, self.digest(keys, name))
        return None if found is None or found[0].is_expired(now) else found

    def rewrite(
        self, transaction: Transaction, keys: ScopeKeys, name: str, change: Change, now: int
    ) -> bool:
        """Change a row's header and state; ``False`` without such a row."""
        digest = self.digest(keys, name)
        if self.rows.lock(transaction, keys, digest) is None:
            return False
        found = self.header(transaction, keys, name, now)
        if found is None:
            return False
        state, header = found
        changed, new = change(header, state)
        self.rows.rewrite(transaction, keys, digest, new, changed)
        return True

    def remove(self, transaction: Transaction, keys: ScopeKeys, name: str) -> bool:
        """Remove a row and all that is below it; ``False`` if there is none."""
        return self.rows.remove(transaction, keys, self.digest(keys, name))

    def _listed(self, keys: ScopeKeys, row: Row, *, is_final: bool) -> Listed:
        *columns, digest, sealed = row
        state = ContainerState._make(columns)
        try:
            header = self.rows.opened(keys, digest, row, sealed)[1]
        except RecordDoesNotOpen as error:
            if not is_final and _may_open_later(keys, error):
                raise
            header = None
        # SQLite keeps any type in any column.
        count, size = (n if type(n) is int else 0 for n in (state.count, state.size))
        marks = state.state, state.is_pinned, state.expires_at
        return Listed(digest, header, count, size, state.created_at, state.updated_at, *marks)


def _may_open_later(keys: ScopeKeys, error: RecordDoesNotOpen) -> bool:
    """Whether later keys of the owner, which others have made, may open what these do not."""
    return isinstance(error, KeyOutdated) or error.key_id not in (None, *keys.opening)


def _is_behind() -> sa.ColumnElement[bool]:
    is_pinned = bindparam("is_pinned", type_=_sessions.is_pinned.type)
    updated_at = bindparam("updated_at", type_=_sessions.updated_at.type)
    return sa.or_(
        _pinned < is_pinned,
        sa.and_(
            _pinned == is_pinned,
            sa.or_(
                _sessions.updated_at < updated_at,
                sa.and_(_sessions.updated_at == updated_at, _sessions.digest > bindparam("digest")),
            ),
        ),
    )


def _states(archived: bool | None) -> dict[str, int]:
    first, last = _ANY_STATE
    if archived is not None:
        first, last = ARCHIVED_STATES if archived else _NOT_ARCHIVED
    return {"first_state": first, "last_state": last}
