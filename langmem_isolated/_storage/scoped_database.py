"""Scoped database: one owner's operations, with its keys, retried after a key rotation."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._database.admission import Admission
from langmem_isolated._database.database import Database, only_reads
from langmem_isolated._database.driver_errors import Conflict
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.callers import OnBehalfOf, work_for
from langmem_isolated._runtime.limits import DEFAULT_LIMITS, Limits
from langmem_isolated._runtime.session_rules import NO_RULES, SessionRules
from langmem_isolated._storage.keyring import Keyring
from langmem_isolated._storage.owner_state import ids_of
from langmem_isolated._storage.refreshed_keys import RefreshedKeys, tell
from langmem_isolated._storage.reseal_queue import queue_of
from langmem_isolated._storage.scope_rows import oldest_key_of
from langmem_isolated._storage.usage import DAY, first_of_day
from langmem_isolated._storage.watching import Watcher
from langmem_isolated._storage.working_locked import refuse_if_it_reads, works_locked
from langmem_isolated.errors import DatabaseError, KeyDestroyed, RecordDoesNotOpen

P = ParamSpec("P")
T = TypeVar("T")
A = ParamSpec("A")
R = TypeVar("R")
Operation = Callable[Concatenate[Transaction, ScopeKeys, P], T]


class Owned(Protocol):
    """What belongs to an owner."""

    @property
    def owner(self) -> Owner:
        """Whose it is."""


S = TypeVar("S", bound=Owned)

_ROTATIONS = 3  # so often keys are read anew for one operation: others may rotate again
_DAY = DAY * 1000  # nanoseconds


class ScopeGone(Exception):
    """The row of the scope's life is not there; for `ScopedDatabase` to explain."""


@works_locked
def prove_life(transaction: Transaction, keys: ScopeKeys) -> int:
    """Expect the life that keys are of, ended by no erasure; which version may still seal in it.

    Raises:
        ScopeGone: It is over, or is being ended.
    """
    oldest = oldest_key_of(transaction, keys.scope_id, keys.birth, keys.places)
    if oldest is None:
        raise ScopeGone
    return oldest


class ScopedDatabase(RefreshedKeys):
    """One owner's records; an operation run through it gets that owner's keys and no others.

    Keys are fetched, and if need be unwrapped, before the transaction begins. The first life
    met is kept: after an erasure this object opens and writes nothing any more, even if the user
    has come back since.

    Args:
        database: Holds the records.
        keyring: Has the owner's keys.
        owner: Whose.
        limits: How much one call may bring.
        is_owners: Whether who writes is the owner, who then counts as active on that day; not an
            operator's job.
    """

    beside: "Sequence[ScopedDatabase]" = ()
    """What recall searches besides: nothing, but where an ephemeral memory reads another."""

    lasting: "ScopedDatabase | None" = None
    """Those of the same owner that stay, where these are forgotten: quotas are theirs."""

    watcher: Watcher | None = None
    """Told of what is read; nobody, unless an audit log may be on."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        owner: Owner,
        limits: Limits = DEFAULT_LIMITS,
        session_rules: SessionRules = NO_RULES,
        *,
        is_owners: bool = True,
    ) -> None:
        self.database, self.operations = database, database.operations
        super().__init__(keyring, owner)
        self.limits = limits
        self.session_rules = session_rules
        # By which tables know the owner, where row-level security asks for it.
        self._ids: Sequence[bytes] = ()
        # The same for all modules of a user; publishers of a project are one.
        self._caller = owner.project, owner.user, owner.guest
        self.is_postgres = database.is_postgres
        self._is_owners = is_owners

    def of(self, owner: Owner) -> "ScopedDatabase":
        """Another owner's records in the same database."""
        records = ScopedDatabase(
            self.database, self._keyring, owner, self.limits, self.session_rules
        )
        records.watcher = self.watcher
        return records

    def told_recall(self, count: int) -> None:
        """Have it noted that so many of these records went into a prompt."""
        if self.watcher is not None and count:
            self.watcher.recalled(self.owner, count)

    def inbox_keys(self) -> Sequence[SecretBytes]:
        """What opens the inbox of the owner's principal; see `Locks.inbox_keys`."""
        return self._keyring.locks().inbox_keys(self.owner)

    def model_digest(self, name: str) -> bytes:
        """By which the tables know a language model."""
        directory = self._keyring.directory(create=True)
        assert directory is not None
        return directory.model_of(name)

    async def arun(self, body: Callable[A, R], *args: A.args, **kwargs: A.kwargs) -> R:
        """Run one of our synchronous bodies in a worker thread, for this owner."""
        with OnBehalfOf(self._caller):
            running = self.database.submit(body, *args, **kwargs)
        return await asyncio.wrap_future(running)

    def living_keys(self) -> ScopeKeys:
        """As :meth:`keys`, and the database says at this moment that the owner's life goes on.

        For what is written elsewhere, where no transaction meets the scope's row: keys in memory
        outlive an erasure in another process.

        Raises:
            KeyDestroyed: The owner was erased, or is being erased.
        """
        return self.check_life(self.keys())

    def find_living_keys(self) -> ScopeKeys | None:
        """As :meth:`find_keys`, of a life that goes on at this moment; else ``None``."""
        keys = self.find_keys()
        if keys is None:
            return None
        try:
            return self.check_life(keys)
        except KeyDestroyed:
            # Which is right to whoever has come back since; others have nothing.
            self.find_keys()
            return None

    def check_life(self, keys: ScopeKeys) -> ScopeKeys:
        """Ask the database, in one query, whether the life that ``keys`` are of goes on.

        Returns:
            The same keys, or those that seal by now where these do no more.

        Raises:
            KeyDestroyed: It is over, or is being ended.
        """
        oldest = self.run_with_keys(keys, self.database.read, prove_life)
        return keys if oldest <= keys.sealing_version else self._newer_keys(keys) or keys

    def refuse_if_ended(self) -> None:
        """Refuse where the life that this object has met is over.

        Raises:
            KeyDestroyed: It is, or is being ended.
        """
        if self._birth is not None and self.find_living_keys() is None:
            raise KeyDestroyed

    def having_records(self, sources: Sequence[S]) -> list[S]:
        """Those of ``sources``, one for each level of sharing, that have stored anything."""
        there = self._keyring.present([source.owner for source in sources])
        return [source for source in sources if source.owner in there]

    def write(self, operation: Operation[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``operation`` in one write transaction; the owner's keys are made at first use.

        Raises:
            KeyDestroyed: The owner was erased; nothing was written.
            Conflict: A row stands where one was to be inserted; nothing was written.
        """
        keys = self._obtain()
        return self.run_with_keys(keys, self.database.write, operation, *args, **kwargs)

    def write_if_exists(
        self, operation: Operation[P, T], default: T, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation`` in one write transaction, unless the owner has stored nothing."""
        keys = self._find()
        if keys is None:
            return default
        return self.run_with_keys(keys, self.database.write, operation, *args, **kwargs)

    def write_once(
        self, operation: Operation[P, T], default: T, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation``, which writes in a single statement on PostgreSQL.

        As :meth:`write_if_exists`, without the round trips of a transaction.
        """
        keys = self._find()
        if keys is None:
            return default
        return self.run_with_keys(keys, self.database.write_once, operation, *args, **kwargs)

    def read(self, operation: Operation[P, T], default: T, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``operation``, a single query; ``default`` when the owner has stored nothing."""
        keys = self._find()
        if keys is None:
            return default
        return self.run_with_keys(keys, self.database.read, operation, *args, **kwargs)

    def snapshot(
        self, operation: Operation[P, T], default: T, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation``, several queries that see one state; ``default`` as in :meth:`read`."""
        keys = self._find()
        if keys is None:
            return default
        return self.run_with_keys(keys, self.database.snapshot, operation, *args, **kwargs)

    def read_lagging(
        self, operation: Operation[P, T], default: T, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As :meth:`read`, of what may lag behind what others wrote; see `Replica`.

        Not for what a write is built on, nor for whether something may be read or is over.
        """
        keys = self._find()
        if keys is None:
            return default
        return self.run_with_keys(keys, self.database.read_lagging, operation, *args, **kwargs)

    def snapshot_lagging(
        self, operation: Operation[P, T], default: T, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As :meth:`snapshot`, of what may lag as in :meth:`read_lagging`."""
        keys = self._find()
        if keys is None:
            return default
        return self.run_with_keys(keys, self.database.snapshot_lagging, operation, *args, **kwargs)

    def read_apart(
        self, operation: Operation[P, T], default: T, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation``, several queries that see one state unless others write between them.

        What begins another life between two queries does not open: one state of both tells whether
        it was that, or someone tampered.
        """
        with suppress(RecordDoesNotOpen):
            return self.read(operation, default, *args, **kwargs)
        return self.snapshot(operation, default, *args, **kwargs)

    def run_with_keys(
        self,
        keys: ScopeKeys,
        door: Callable[..., T],
        operation: Operation[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run ``operation`` with keys that the caller has; all others come through here, too.

        The one place where it is run again, with fresh keys, if another process has rotated them
        meanwhile, and where it is explained why a write met no scope.

        Args:
            keys: As :meth:`keys` or :meth:`find_keys` gave them.
            door: One of ``write``, ``write_once``, ``read`` and ``snapshot`` of the database, or of
                the latter two's that may lag.
            operation: What is run.

        Raises:
            KeyDestroyed: The owner was erased; nothing was written.
            MemoryLocked: The user alone has the keys.
        """
        if self.watcher is not None:
            self.watcher.begin()
            if only_reads(door):
                self.watcher.was_read(self.owner)
        before = work_for(self._caller)
        try:
            if not self.database.is_bound:
                return self._run(keys, door, operation, *args, **kwargs)
            with self.admission():
                return self._run(keys, door, operation, *args, **kwargs)
        finally:
            work_for(before)

    def admission(self) -> Admission:
        """Where an operation on other records meets these, too, in the same transaction."""
        if not self._ids:
            self.database.open()
            self._ids = (
                ids_of(self._keyring.installation, self.owner) if self.database.is_bound else ()
            )
        return Admission(*self._ids)

    def _run(
        self,
        keys: ScopeKeys,
        door: Callable[..., T],
        operation: Operation[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        if keys.inbox is not None:
            keys = self._lent(keys, door, operation, kwargs)
        today = time.time_ns() // _DAY
        if keys.active_day != today and self._is_owners and not only_reads(door):
            return self._run_first_of_day(today, keys, operation, *args, **kwargs)
        return self._run_with_keys(keys, door, operation, *args, **kwargs)

    def _lent(self, keys: ScopeKeys, *call: Any) -> ScopeKeys:
        """The keys of a user who can lock, as far as the server has them now."""
        door, operation, named = call
        if keys.is_locked:
            self._keyring.forget(self.owner)  # another may have unlocked it, for good, too
            keys = self._of_same_life(self._find_again())
        if keys.is_locked and self._is_owners and only_reads(door):
            refuse_if_it_reads(operation, named)
        return keys

    def _run_first_of_day(
        self,
        today: int,
        keys: ScopeKeys,
        operation: Operation[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run ``operation``, which writes, and store in its transaction that the owner did."""
        noted = first_of_day(today, operation)
        result = self._run_with_keys(keys, self.database.write, noted, *args, **kwargs)
        keys.active_day = today
        return result

    def _run_with_keys(
        self,
        keys: ScopeKeys,
        door: Callable[..., T],
        operation: Operation[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        try:
            for number in count():
                try:
                    result = door(operation, self._of_same_life(keys), *args, **kwargs)
                    break
                except RecordDoesNotOpen as error:
                    fresh = self.fresh_keys(keys, error)
                    if fresh is None:
                        self.refuse_if_erased()
                    if fresh is None or number == _ROTATIONS:
                        raise
                except (ScopeGone, Conflict) as error:
                    if isinstance(error, Conflict) and not error.foreign_key:
                        raise
                    fresh = self._newer_or_destroyed(keys)
                keys = fresh
        except DatabaseError as error:
            # A row that stands there already is in the ordinary course of things.
            if not isinstance(error, Conflict):
                tell(error, keys.scope_id.hex())
            raise
        if keys.met_former:
            keys.met_former.clear()
            queue_of(self.database, self._keyring).tell(self.owner)
        return result

    def _newer_or_destroyed(self, keys: ScopeKeys) -> ScopeKeys:
        """The keys that seal by now, where the scope's row refused those at hand for their age.

        Raises:
            KeyDestroyed: It was for another reason: the scope is gone.
        """
        fresh = self._newer_keys(keys)
        if fresh is None:
            raise KeyDestroyed from None
        return fresh
