"""Lives of principals, as an erasure ends them: their keys, and the rows that are left of each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.admission import AdmissionToAll
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.lru import LRUCache
from langmem_isolated._storage.erased import DestroyedKeys
from langmem_isolated._storage.key_sets import KeySet, KeySets, Purpose, StoredKey
from langmem_isolated._storage.scope_rows import ScopeRow, ScopeRows

_scopes, _sets, _keys = schema.scopes.c, schema.key_sets.c, schema.keys.c
_PAGE: sa.ColumnElement[int] = sa.literal_column("5000")
_FROM_THE_FIRST: sa.ColumnElement[int] = sa.literal_column("0")


def _page(first: sa.Column[Any], *more: sa.Column[Any]) -> sa.Select[Any]:
    return (
        select(first, *more)
        .where(first > bindparam("behind", type_=sa.LargeBinary))
        .order_by(first)
        .limit(_PAGE)
        .offset(_FROM_THE_FIRST)
    )


_STATE_OF_SCOPES = _page(_scopes.scope_id, _scopes.birth, _scopes.mac)
_STATE_OF_SETS = _page(_sets.principal, _sets.revision, _sets.mac)
_IS_WRAPPED_BY = (
    select(_keys.version)
    .where(_keys.wrapped.is_not(None), _keys.root_key_id == bindparam("root_key_id"))
    .limit(sa.literal_column("1"))
    .offset(_FROM_THE_FIRST)
)


class Lives(NamedTuple):
    """The lives of one installation's principals."""

    directory: DirectoryKey
    database: Database
    sets: KeySets
    rows: ScopeRows
    kept: LRUCache[Owner, ScopeKeys]
    """Keys in memory; those of a principal are dropped when they are destroyed."""

    def key_set(self, principal: bytes) -> KeySet:
        """All keys that a principal has or had.

        Raises:
            RecordDoesNotOpen: They are not as they were stored.
        """
        return self.sets.read(principal, self.directory)

    def end(
        self,
        principal: bytes,
        last_life: int,
        told: Callable[[DestroyedKeys], object] = lambda _: None,
    ) -> None:
        """Destroy the keys of a principal, unless it is in a later life than ``last_life``.

        Args:
            principal: Whose.
            last_life: By the version of its naming key; whoever came back since keeps theirs.
            told: What is about to be destroyed, if anything is; again where somebody else has
                changed the keys meanwhile.

        Raises:
            RecordDoesNotOpen: The keys are not as they were stored.
        """

        def destroyed(found: KeySet) -> KeySet:
            living = found.all_living()
            if not living or _life(living) > last_life:
                return found
            told(_as_destroyed(living))
            return found.destroyed(now())

        self.sets.change(principal, self.directory, destroyed)
        self._forget(principal)

    def _forget(self, principal: bytes) -> None:
        for owner in self.kept:
            if self.directory.principal_of(owner) == principal:
                self.kept.drop(owner)

    def forget_place(self, project: str, module: str | None) -> None:
        """Drop all keys in memory of a project, or of one of its modules: scopes begin anew."""
        for owner in self.kept:
            if owner.project == project and module in (None, owner.module):
                self.kept.drop(owner)

    def destroyed_with(self, principal: bytes, life: int) -> DestroyedKeys:
        """The keys that were destroyed when a life ended, at the same moment as its naming key."""
        keys = self.key_set(principal).keys
        naming = [key for key in keys if (key.purpose, key.version) == (Purpose.NAMING, life)]
        moments = {key.destroyed_at for key in naming if key.destroyed_at is not None}
        return _as_destroyed([key for key in keys if key.destroyed_at in moments])

    def in_place(self, project: str, module: str | None) -> Iterator[ScopeRow]:
        """The rows of all scopes of a project, or of one of its modules, erased or not.

        Raises:
            RecordDoesNotOpen: One is not as it was stored.
        """
        return self.rows.walk(self.directory, **self.directory.digests_of(project, module))

    def is_over(self, principal: bytes, life: int) -> bool:
        """Whether a life of a principal has ended."""
        living = self.key_set(principal).all_living()
        return not living or _life(living) > life

    def remove_destroyed(self, principal: bytes) -> None:
        """Remove the destroyed keys of a principal that cannot come back.

        Raises:
            KeyNotFound: Some are not destroyed; nothing was removed.
        """
        self.sets.remove(principal, self.directory)

    def spare_keys(self, principal: bytes) -> KeySet | None:
        """The keys of a principal that may go in one transaction with its last scope.

        ``None`` where they are elsewhere, or keys of lives that were ended stand beside them.
        """
        found = self.key_set(principal)
        is_here = self.sets.database is self.database
        return found if is_here and not _has_ended_life(found) else None

    def take_out(self, principal: bytes, removed: KeySet | None) -> None:
        """Have a principal that has no scope any more have no keys either, as at first.

        Keys of lives that were ended before stay, and those of this life with them, destroyed.

        Args:
            principal: Whose.
            removed: The keys that went with the last scope; put back where another one was made
                with them meanwhile.

        Raises:
            RecordDoesNotOpen: They are not as they were stored.
        """
        self._forget(principal)
        if self._has_scopes(principal):
            if removed is not None:
                self.sets.put_back(removed)
            return
        found = self.key_set(principal)
        if _has_ended_life(found):
            self.end(principal, _life(found.all_living()))
        elif found.keys:
            self.sets.take_out(found, lambda: self._has_scopes(principal))

    def _has_scopes(self, principal: bytes) -> bool:
        return bool(self.rows.of_principal(self.directory, principal))

    def is_needed(self, root_key_id: str) -> bool:
        """Whether a root key has wrapped a key that lives, or may have: some may not be seen."""
        asked = {"root_key_id": root_key_id}
        if not self.sets.database.sees_everybody:
            return True
        with AdmissionToAll():
            return self.sets.database.read(Transaction.row, _IS_WRAPPED_BY, **asked) is not None

    def store_hash(self) -> str:
        """SHA-256 over what lists everybody's scopes and keys, in hex.

        It is over two digests of SHA-256: over ``scope_id``, ``birth`` and ``mac`` of every row of
        ``scopes``, in the order of their ids, and over ``principal``, ``revision`` (8 bytes,
        big-endian) and ``mac`` of every one of ``key_sets``. Whoever has the tables makes it again.
        Empty where row-level security keeps them from this role, and there is none for jobs.
        """
        if not (self.database.sees_everybody and self.sets.database.sees_everybody):
            return ""
        with AdmissionToAll():
            scopes = self.database.snapshot(_digest_of_rows, _STATE_OF_SCOPES)
            sets = self.sets.database.snapshot(_digest_of_rows, _STATE_OF_SETS)
        return hashlib.sha256(scopes + sets).hexdigest()


def _digest_of_rows(transaction: Transaction, statement: sa.Select[Any]) -> bytes:
    """SHA-256 over all rows, a page at a time and of one state."""
    state, behind = hashlib.sha256(), b""
    while rows := transaction.rows(statement, behind=behind):
        for row in rows:
            state.update(b"".join(map(_as_bytes, row)))
        behind = rows[-1][0]
    return state.digest()


def _as_bytes(value: object) -> bytes:
    return value.to_bytes(8, signed=True) if isinstance(value, int) else bytes(value)  # type: ignore[call-overload]


def _has_ended_life(found: KeySet) -> bool:
    """Whether a life came before: a naming key is destroyed with its life, and never rotated."""
    naming = [key for key in found.keys if key.purpose == Purpose.NAMING]
    return len(found.living(Purpose.NAMING)) < len(naming)


def _life(keys: list[StoredKey]) -> int:
    return max((key.version for key in keys if key.purpose == Purpose.NAMING), default=0)


def _as_destroyed(keys: list[StoredKey]) -> DestroyedKeys:
    return DestroyedKeys(len(keys), frozenset(key.root_key_id for key in keys))
