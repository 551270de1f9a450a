"""Sweep: removes what has expired, and what policies keep no longer, in batches.

Pages of what is due are found without a lock, and removed in batches of at most 500 rows, each a
transaction of its own. To come to an end between two of them, however it happens, loses nothing:
the next sweep finds what is left. Several may run at once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._database.admission import AdmissionToAll
from langmem_isolated._runtime.callers import Job, OnBehalfOf
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage import due
from langmem_isolated._storage.batch_removal import BELOW, Due, Removed
from langmem_isolated._storage.due import Pages
from langmem_isolated._storage.entries import ENTRY_KINDS
from langmem_isolated._storage.tombstones import Forgotten
from langmem_isolated.errors import KeyringError, RecordDoesNotOpen
from langmem_isolated.lifecycle.audit.upkeep import Kept, swept
from langmem_isolated.lifecycle.guests.anonymous import remove as remove_guest
from langmem_isolated.lifecycle.retention.holds import project_keys, records_with
from langmem_isolated.lifecycle.retention.plans import plans_of, stored_policies
from langmem_isolated.lifecycle.retention.steps import (
    Outcome,
    RemoveContainer,
    RemoveRecords,
    Step,
    Task,
    run_batch,
)

if TYPE_CHECKING:
    from langmem_isolated._adapters.context import MemoryContext
    from langmem_isolated._crypto.scope_keys import ScopeKeys
    from langmem_isolated._database.transactions import Row

# What is told of; embeddings, vectors, writes and elements go with what they belong to.
TOLD = frozenset(
    {
        *(Kind.SESSION, Kind.MESSAGE, Kind.THREAD, Kind.CHECKPOINT),
        *(Kind.COLLECTION, Kind.DOCUMENT, Kind.ITEM, *ENTRY_KINDS),
    }
)
# Whose budget of writes a sweep takes: while others write, it rests for two thirds of the time.
_CALLER = Job("sweep")
# What somebody else had locked is looked at so often.
_LOOKS = 3
_MOST_REMEMBERED = 10_000
# Records that may expire; an expiry that somebody wrote beside others means nothing.
_EXPIRING = frozenset({Kind.ITEM, *ENTRY_KINDS})
# Records of one step, behind which a batch ends that has taken long: where the machine is busy 500
# kept a writer waiting for 0.3 s.
_STEP = 100


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep has removed, or where it was dry, would remove."""

    counts: Mapping[str, int]
    """How many of each kind; a session's messages and its row are told apart."""
    is_done: bool
    """Whether nothing more was due; where not, the next sweep goes on."""
    held: int = 0
    """Of how many users something was due and stays, because they are on legal hold."""
    damaged: int = 0
    """How many sessions, threads, collections, items, entries or scopes stay because they were
    tampered with."""
    is_dry_run: bool = False
    locked: int = 0
    """Of how many users something stays until they unlock their memory: a message is not taken out
    of a session, or a checkpoint of a thread, without being opened."""

    @property
    def total(self) -> int:
        """How many of all kinds."""
        return sum(self.counts.values())


Progress = Callable[[int], None]
"""Told after each batch how many records have been removed so far."""


class _Found(NamedTuple):
    """An owner by which tables know it, and its keys."""

    owner: Owner
    keys: ScopeKeys


class Owners:
    """Finds whose a scope is, and its keys, outside of transactions; remembers some."""

    def __init__(self, context: MemoryContext) -> None:
        self._context = context
        self._found: dict[bytes, _Found | None] = {}
        self.damaged: set[bytes] = set()

    def of(self, scope_id: bytes) -> _Found | None:
        """The owner of a scope; ``None`` where it was erased, or does not open."""
        if len(self._found) > _MOST_REMEMBERED:
            self._found.clear()
        if scope_id not in self._found:
            self._found[scope_id] = self._look(scope_id)
        return self._found[scope_id]

    def _look(self, scope_id: bytes) -> _Found | None:
        try:
            owner = self._context.keyring.owner_of(scope_id)
            keys = owner and self._context.keyring.find(owner)
        except RecordDoesNotOpen:
            self.damaged.add(scope_id)
            return None
        return _Found(owner, keys) if owner and keys else None


@dataclass(slots=True)
class Removal:
    """Removes what it is given, batch by batch, and knows when to end.

    Args:
        context: Whose memory.
        max_seconds: It begins no batch after so many.
        is_dry: It only counts.
        is_stopped: Asked between batches.
        progress: Told between batches.
    """

    context: MemoryContext
    max_seconds: float | None = None
    is_dry: bool = False
    is_stopped: Callable[[], bool] = lambda: False
    progress: Progress = lambda _: None
    counts: Counter[Kind] = field(default_factory=Counter)
    held: set[tuple[str, str | None]] = field(default_factory=set)
    damaged: set[tuple[bytes, object]] = field(default_factory=set)
    unopened: set[tuple[str, str | None]] = field(default_factory=set)
    locked: int = 0
    is_over: bool = False
    _since: float = field(default_factory=time.monotonic)

    def run(self, tasks: Sequence[Task]) -> None:
        """Do all tasks, unless it is over before."""
        left = [*tasks]
        while left and not self.is_over:
            left = self._batch(self._worth_it(left))

    def _worth_it(self, tasks: list[Task]) -> list[Task]:
        """Without those that are found, outside of a write, to have nothing to do."""
        if self.is_dry or not any(task.step.looks_first for task in tasks):
            return tasks
        return [task for task in tasks if not task.step.looks_first or self._has_more(task)]

    def _has_more(self, task: Task) -> bool:
        snapshot = self.context.database.snapshot
        found = snapshot(run_batch, [task], {}, is_dry=True)
        return bool(found.counts.total() or found.damaged or found.unopened)

    def _batch(self, tasks: list[Task]) -> list[Task]:
        projects = self._projects(tasks)
        door = self.context.database.snapshot if self.is_dry else self.context.database.write
        with OnBehalfOf(_CALLER):
            outcome: Outcome = door(run_batch, tasks, projects, is_dry=self.is_dry)
        left = outcome.rest + self._again(outcome)
        self.counts += outcome.counts
        self.locked += outcome.locked
        self.held |= {(task.owner.project, task.owner.user) for task in outcome.held}
        self.unopened |= {(task.owner.project, task.owner.user) for task in outcome.unopened}
        self._after_batch()
        return left

    def _projects(self, tasks: list[Task]) -> dict[str, ScopeKeys]:
        named = {task.owner.project for task in tasks if task.owner.user is not None}
        if self.is_dry:
            found = ((name, records_with(self.context, name).find_keys()) for name in named)
            return {name: keys for name, keys in found if keys is not None}
        return {name: project_keys(self.context, name) for name in named}

    def _again(self, outcome: Outcome) -> list[Task]:
        """What to try again of what does not open.

        That of which another process has made the key meanwhile, or erased whose it was before
        they came back; and of several records together each by itself: one that was tampered with
        keeps no other from being removed.
        """
        again: list[Task] = []
        for task, error in outcome.damaged:
            fresh = self.context.records(task.owner).fresh_keys(task.keys, error)
            fresh = fresh or self._keys_of_another_life(task)
            if fresh is not None:
                again.append(task._replace(keys=fresh))
            elif parts := task.step.parts():
                again += [task._replace(step=part) for part in parts]
            else:
                self.damaged.add((task.keys.scope_id, task.step.about))
        return again

    def _keys_of_another_life(self, task: Task) -> ScopeKeys | None:
        self.context.keyring.forget(task.owner)
        with suppress(KeyringError, RecordDoesNotOpen):
            keys = self.context.keyring.find(task.owner)
            return keys if keys and keys.birth != task.keys.birth else None
        return None

    def _after_batch(self) -> None:
        if not self.is_dry:
            self.context.database.checkpoint_log()
        self.progress(self.told.total())
        self.ends_now()

    def ends_now(self) -> bool:
        """Whether it begins no batch any more."""
        is_late = (
            self.max_seconds is not None and time.monotonic() - self._since >= self.max_seconds
        )
        self.is_over = self.is_over or is_late or self.is_stopped()
        return self.is_over

    @property
    def told(self) -> Counter[Kind]:
        """How many of those kinds that are told of."""
        return Counter({kind: count for kind, count in self.counts.items() if kind in TOLD})

    def by_label(self) -> dict[str, int]:
        """The same by the names of kinds, sorted."""
        return {kind.label: count for kind, count in sorted(self.told.items()) if count}


class Sweep:
    """One sweep over all that a memory has."""

    def __init__(self, removal: Removal) -> None:
        self._removal = removal
        self._context = removal.context
        self._owners = Owners(removal.context)

    def run(self) -> Swept:
        """Sweep until nothing is due any more, or it is over."""
        with AdmissionToAll():
            return self._run()

    def _run(self) -> Swept:
        for _ in range(_LOOKS):
            self._removal.locked = 0
            self._pass()
            if self._removal.is_over or not self._removal.locked or self._removal.is_dry:
                break
        removal = self._removal
        tombstones = self._tombstones()
        log = self._audit(tombstones.number)
        besides = {"tombstone": tombstones.number, "audit": log.removed}
        return Swept(
            counts=removal.by_label() | {name: count for name, count in besides.items() if count},
            is_done=not removal.is_over and not removal.locked,
            held=len(removal.held),
            damaged=len(removal.damaged)
            + len(self._owners.damaged)
            + tombstones.damaged
            + log.damaged,
            is_dry_run=removal.is_dry,
            locked=len(removal.unopened),
        )

    def _tombstones(self) -> Forgotten:
        """Forget who was erased, where the time that this is kept for is over."""
        if self._removal.is_over:
            return Forgotten(0, 0)
        return self._context.keyring.tombstones.remove_over(now(), is_dry=self._removal.is_dry)

    def _audit(self, tombstones: int) -> Kept:
        """Note what was removed, and remove entries of the audit log whose time is over."""
        removal = self._removal
        count = removal.told.total() + tombstones
        return swept(self._context, count, is_dry=removal.is_dry, is_over=removal.ends_now)

    def _pass(self) -> None:
        moment = now()
        self._go_through(due.expired_containers(moment), lambda rows: _containers(rows, moment))
        self._go_through(due.expired_records(moment), lambda rows: self._records(rows, moment))
        unreadable: set[Owner] = set()
        policies = stored_policies(self._context, self._owners.of, unreadable)
        self._removal.damaged |= {(b"", owner) for owner in unreadable}
        directory = self._context.keyring.directory()
        for plan in plans_of(policies, directory, moment, unreadable) if directory else ():
            self._go_through(plan.pages, partial(plan.steps, find=self._owners.of))

    def _go_through(
        self, pages: Pages, steps: Callable[[list[Row]], Iterable[tuple[bytes, Step]]]
    ) -> None:
        read = self._context.database.read
        while not self._removal.is_over and (rows := read(pages.rows)):
            self._removal.run([*self._tasks(steps(self._sound(pages, rows)))])
            pages = pages.after(rows[-1])

    def _sound(self, pages: Pages, rows: list[Row]) -> list[Row]:
        """Those of a page in which every column has its type; the others stay, as evidence."""
        sound = [*filter(pages.is_sound, rows)]
        if len(sound) < len(rows):
            self._removal.damaged |= {(b"", tuple(row)) for row in {*rows} - {*sound}}
        return sound

    def _tasks(self, steps: Iterable[tuple[bytes, Step]]) -> Iterator[Task]:
        for scope_id, step in steps:
            if found := self._owners.of(scope_id):
                yield Task(found.owner, found.keys, step)

    def _records(self, rows: list[Row], moment: int) -> Iterator[tuple[bytes, Step]]:
        """Items and entries by scope and kind; an owner as a whole is removed here."""
        groups = groupby(sorted(row[1:] for row in rows), key=lambda row: (row[0], row[1]))
        for (scope_id, number), group in groups:
            found = self._owners.of(scope_id)
            if not found or number not in _EXPIRING:
                continue
            kind = Kind(number)
            addresses = [(parent, key) for _, _, parent, key in group]
            for start in range(0, len(addresses), _STEP):
                some = addresses[start : start + _STEP]
                expired = RemoveRecords(kind, some, Due(expired=moment))
                if kind is Kind.CLAIM and found.owner.level is Level.ANONYMOUS:
                    self._remove_guest(scope_id, found, expired)
                else:
                    yield scope_id, expired

    def _remove_guest(self, scope_id: bytes, found: _Found, expired: RemoveRecords) -> None:
        """Remove an anonymous owner with all it has, if it is authentic that its time is over."""
        snapshot = self._context.database.snapshot
        try:
            seen: Removed = snapshot(expired.run, found.keys, len(expired.addresses), is_dry=True)
            if not self._removal.is_dry and seen.counts:
                seen = Removed(remove_guest(self._context, found.owner))
        except RecordDoesNotOpen:
            self._owners.damaged.add(scope_id)
            return
        self._removal.counts += seen.counts


def _containers(rows: list[Row], moment: int) -> Iterator[tuple[bytes, Step]]:
    for _, scope_id, kind, digest in rows:
        if kind in BELOW:
            yield scope_id, RemoveContainer(Kind(kind), digest, Due(expired=moment))
