"""Steps of a removal: what one batch does to one container, or to some records, of one scope."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage import batch_removal as removal
from langmem_isolated._storage.batch_removal import BATCH, NEVER, Due, Removed
from langmem_isolated._storage.documents import writing as documents
from langmem_isolated._storage.sessions.dropping import Kept, drop
from langmem_isolated.errors import MemoryLocked, RecordDoesNotOpen
from langmem_isolated.lifecycle.retention.holds import held_among


class Step:
    """What is to be removed of one scope."""

    __slots__ = ()
    looks_first: ClassVar[bool] = False
    """Whether to try it dry, outside of the write, since to look takes long."""

    @property
    def about(self) -> object:
        """What of its scope it is about: the same for all steps that are about the same."""
        raise NotImplementedError

    def parts(self) -> Sequence[Step]:
        """Smaller steps that do the same, where one is tampered with; none of one thing."""
        return ()

    def run(self, transaction: Transaction, keys: ScopeKeys, room: int, *, is_dry: bool) -> Removed:
        """Remove up to ``room`` records of it; where it is dry, say how many there are in all.

        Raises:
            RecordDoesNotOpen: Something was tampered with; nothing was removed.
        """
        raise NotImplementedError


class _ContainerStep(Step):
    """What is to be done to one session, thread or collection."""

    __slots__ = ()
    digest: bytes

    @property
    def about(self) -> object:
        """The container; see :attr:`Step.about`."""
        return self.digest


@dataclass(frozen=True, slots=True)
class RemoveContainer(_ContainerStep):
    """A session, thread or collection goes with all that is below it."""

    kind: Kind
    digest: bytes
    due: Due

    def run(self, transaction: Transaction, keys: ScopeKeys, room: int, *, is_dry: bool) -> Removed:
        """Remove up to ``room`` records; see :meth:`Step.run`."""
        where = transaction, keys, self.kind, self.digest, self.due
        if is_dry:
            return removal.count_container(*where)
        return removal.remove_container(*where, room)


@dataclass(frozen=True, slots=True)
class HideContainer(_ContainerStep):
    """A container becomes absent to readers, whatever is below it."""

    kind: Kind
    digest: bytes
    due: Due

    def run(self, transaction: Transaction, keys: ScopeKeys, room: int, *, is_dry: bool) -> Removed:
        """Hide it; see :meth:`Step.run`."""
        del room, is_dry
        return removal.hide_container(transaction, keys, self.kind, self.digest, self.due)


@dataclass(frozen=True, slots=True)
class RemoveRecords(Step):
    """Items or entries go."""

    kind: Kind
    addresses: Sequence[tuple[bytes, bytes]]
    due: Due

    @property
    def about(self) -> object:
        """Its records; see :attr:`Step.about`."""
        return self.kind, *self.addresses

    def parts(self) -> Sequence[Step]:
        """Each record by itself; see :meth:`Step.parts`."""
        if len(self.addresses) == 1:
            return ()
        return [replace(self, addresses=[address]) for address in self.addresses]

    def run(self, transaction: Transaction, keys: ScopeKeys, room: int, *, is_dry: bool) -> Removed:
        """Remove up to ``room`` records; see :meth:`Step.run`."""
        del room
        where = transaction, keys, self.kind, self.addresses, self.due
        return removal.remove_records(*where, is_dry=is_dry)


@dataclass(frozen=True, slots=True)
class DropMessages(_ContainerStep):
    """A session loses messages, and goes as well ``with_empty`` where it has none then."""

    digest: bytes
    kept: Kept
    with_empty: bool = False

    def run(self, transaction: Transaction, keys: ScopeKeys, room: int, *, is_dry: bool) -> Removed:
        """Remove up to ``room`` records; see :meth:`Step.run`."""
        most = _ALL if is_dry else room
        return drop(
            transaction, keys, self.digest, self.kept, most, now(),
            with_empty=self.with_empty, is_dry=is_dry,
        )  # fmt: skip


_ALL = 2**31 - 1
# A batch begins no further step after so long: rows of many scopes lie on as many pages, and 500 of
# them kept a writer waiting for 0.2 s in one call in a hundred.
_MOST_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class RemoveDocuments(_ContainerStep):
    """A collection loses the documents that were stored at a time or before."""

    digest: bytes
    until: int
    looks_first: ClassVar[bool] = True

    def run(self, transaction: Transaction, keys: ScopeKeys, room: int, *, is_dry: bool) -> Removed:
        """Remove up to ``room`` records; see :meth:`Step.run`."""
        where = transaction, keys, self.digest, self.until
        if is_dry:
            count = documents.count_older(*where)
            return Removed(Counter({Kind.DOCUMENT: count}))
        # Each with its embedding, whose block is sealed anew.
        most = max(room // 2, 1)
        count = documents.remove_older(*where, most, now())
        return Removed(Counter({Kind.DOCUMENT: count}), is_whole=count < most)


@dataclass(frozen=True, slots=True)
class PruneThread(_ContainerStep):
    """A thread loses checkpoints, as its checkpointer prunes them.

    Args:
        digest: The thread's.
        keep_last: So many of each namespace stay; ``None`` for any number.
        until: Those stored at this time or before go, in µs; ``None`` for none.
        keep_idle: So many stay where nothing was done to the thread
        idle: since this time.
    """

    digest: bytes
    keep_last: int | None
    until: int | None
    keep_idle: int | None = None
    idle: int = NEVER
    looks_first: ClassVar[bool] = True

    def run(self, transaction: Transaction, keys: ScopeKeys, room: int, *, is_dry: bool) -> Removed:
        """Remove up to ``room`` records; see :meth:`Step.run`."""
        from langmem_isolated.checkpointer import prune_thread

        state = removal.state_of(transaction, keys, Kind.THREAD, self.digest)
        if state is None or state.is_expired(now()):
            return Removed(Counter())
        most = self.keep_idle if state.updated_at <= self.idle else self.keep_last
        limits = _ALL if most is None else most, self.until, room
        counts, is_whole = prune_thread(transaction, keys, self.digest, *limits, is_dry=is_dry)
        return Removed(counts, is_whole)


class Task(NamedTuple):
    """A step, whose it is, and with which keys."""

    owner: Owner
    keys: ScopeKeys
    step: Step


@dataclass(slots=True)
class Outcome:
    """What a batch has done."""

    counts: Counter[Kind] = field(default_factory=Counter)
    rest: list[Task] = field(default_factory=list)
    """What is left of its tasks, in their order."""
    held: list[Task] = field(default_factory=list)
    """Those of users on legal hold."""
    damaged: list[tuple[Task, RecordDoesNotOpen]] = field(default_factory=list)
    unopened: list[Task] = field(default_factory=list)
    """Those of users who alone have the keys of what is due."""
    locked: int = 0
    """Of how many somebody else had the row."""

    def add(self, task: Task, removed: Removed) -> None:
        """Take note of what a task has done."""
        self.counts += removed.counts
        self.locked += removed.was_locked
        if not removed.is_whole:
            self.rest.append(task)


def run_batch(
    transaction: Transaction, tasks: Sequence[Task], projects: dict[str, ScopeKeys], *, is_dry: bool
) -> Outcome:
    """Do as many of ``tasks`` as one batch has room for.

    A step raises before it writes: what one task meets does not undo the others.

    Args:
        transaction: A write; where it is dry, a snapshot.
        tasks: Those that it does not come to are among the rest.
        projects: By project, the keys with which its holds are found.
        is_dry: Remove nothing, and count all.
    """
    outcome, room = Outcome(), BATCH
    held = _held(transaction, tasks, projects, is_dry=is_dry)
    end = math.inf if is_dry else time.monotonic() + _MOST_SECONDS
    for number, task in enumerate(tasks):
        # One step at least: however slow the machine is, a sweep gets on.
        if number and (room <= 0 or time.monotonic() > end):
            outcome.rest += tasks[number:]
            break
        if (task.owner.project, task.owner.user) in held:
            outcome.held.append(task)
            continue
        try:
            removed = task.step.run(transaction, task.keys, room, is_dry=is_dry)
        except RecordDoesNotOpen as error:
            outcome.damaged.append((task, error))
            continue
        except MemoryLocked:
            outcome.unopened.append(task)
            continue
        outcome.add(task, removed)
        room -= 0 if is_dry else max(removed.counts.total(), 1)
    return outcome


def _held(
    transaction: Transaction, tasks: Sequence[Task], projects: dict[str, ScopeKeys], *, is_dry: bool
) -> set[tuple[str, str | None]]:
    users: dict[str, set[str]] = {}
    for task in tasks:
        if task.owner.user is not None:
            users.setdefault(task.owner.project, set()).add(task.owner.user)
    return {
        (project, user)
        # In one order everywhere: the rows of projects are locked.
        for project, named in sorted(users.items())
        for user in held_among(transaction, projects.get(project), named, is_dry=is_dry)
    }
