"""Plans: where a policy finds what it keeps no longer, and what is done about it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._database.admission import AdmissionToAll
from langmem_isolated._runtime.clock import MICROSECOND
from langmem_isolated._storage import due, entries
from langmem_isolated._storage.batch_removal import NEVER, Due
from langmem_isolated._storage.due import Pages, Reach
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.expiry import WHENEVER
from langmem_isolated._storage.sessions.dropping import Kept
from langmem_isolated.errors import RecordDoesNotOpen
from langmem_isolated.lifecycle.retention.policies import SPACE, Policy, narrowest
from langmem_isolated.lifecycle.retention.steps import (
    DropMessages,
    PruneThread,
    RemoveContainer,
    RemoveDocuments,
    RemoveRecords,
    Step,
)

if TYPE_CHECKING:
    from datetime import timedelta

    from langmem_isolated._adapters.context import MemoryContext
    from langmem_isolated._crypto.directory import DirectoryKey
    from langmem_isolated._database.transactions import Row

_MANY = 2**31 - 1
_LATEST = 2**63 - 1


class Owned(Protocol):
    """Whose a scope is."""

    @property
    def owner(self) -> Owner:
        """The owner."""


Find = Callable[[bytes], Owned | None]
"""Finds whose a scope is."""


def stored_policies(
    context: MemoryContext, find: Find, unreadable: set[Owner] | None = None
) -> list[Policy]:
    """All policies there are, of all projects.

    Args:
        context: Whose memory.
        find: Finds whose a scope is.
        unreadable: Takes the users and projects of which one does not open, in place of an error.

    Raises:
        RecordDoesNotOpen: A policy was tampered with.
    """
    pages, found = due.scopes_with_policies(), list[Policy]()
    while rows := read_of_all(context, pages):
        for owner in (known.owner for (scope_id,) in rows if (known := find(scope_id))):
            try:
                found += policies_of(context, owner)
            except RecordDoesNotOpen:
                if unreadable is None:
                    raise
                unreadable.add(owner)
        pages = pages.after(rows[-1])
    return found


def read_of_all(context: MemoryContext, pages: due.Pages) -> list[Row]:
    """A page of rows of all scopes."""
    with AdmissionToAll():
        return context.database.read(pages.rows)


def policies_of(context: MemoryContext, owner: Owner) -> list[Policy]:
    """The policies that are kept under one owner, by when they were first made."""
    read = context.records(owner).read
    stored: list[Entry] = read(entries.all_of, [], SPACE, WHENEVER, kind=Kind.POLICY)
    return [Policy.decoded(entry.value) for entry in stored]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one policy looks through, at a moment.

    Args:
        policy: Which.
        policies: All that might count instead.
        unreadable: The users and projects of which others might, that do not open: nobody can tell
            what they keep.
    """

    policy: Policy
    policies: Sequence[Policy]
    unreadable: Collection[Owner]
    pages: Pages
    moment: int

    def steps(self, rows: list[Row], find: Find) -> Iterator[tuple[bytes, Step]]:
        """What is to be done about a page, where this policy is the narrowest that counts."""
        for scope_id, group in groupby(rows, key=itemgetter(0)):
            if (found := find(scope_id)) and self._counts_for(found.owner):
                yield from ((scope_id, step) for step in self._steps(found.owner, [*group]))

    def _counts_for(self, owner: Owner) -> bool:
        policy, above = self.policy, {Owner(Level.PROJECT, owner.project)}
        if owner.user is not None:
            above.add(Owner(Level.USER, owner.project, owner.user))
        if not above.isdisjoint(self.unreadable):
            return False
        return narrowest(self.policies, policy.kind, owner, policy.channel) is policy

    def _steps(self, owner: Owner, rows: list[Row]) -> Iterator[Step]:
        policy = self.policy
        if policy.kind in _RECORDS:
            addresses = [(parent, key) for _, parent, key in rows]
            yield RemoveRecords(_RECORDS[policy.kind], addresses, self._due(policy, by="updated"))
        for digest in (row[1] for row in rows if policy.kind not in _RECORDS):
            yield self._step(owner, digest)

    def _step(self, owner: Owner, digest: bytes) -> Step:
        policy = self.policy
        if policy.kind == "message":
            return DropMessages(digest, self._kept(owner))
        if policy.kind == "document":
            return RemoveDocuments(digest, self._before(policy.age))
        if policy.kind == "checkpoint":
            return self._prune(digest)
        return RemoveContainer(_CONTAINERS[policy.kind], digest, self._due(policy, by="created"))

    def _due(self, policy: Policy, by: str) -> Due:
        age, idle = self._before(policy.age), self._before(policy.idle)
        return Due(updated=age) if by == "updated" else Due(created=age, updated=idle)

    def _before(self, span: timedelta | None) -> int:
        return NEVER if span is None else max(self.moment - span // MICROSECOND, NEVER)

    def _kept(self, owner: Owner) -> Kept:
        """What stays of a session's messages, by all policies that count for its channels."""
        general = narrowest(self.policies, "message", owner)
        named = {p.channel for p in self.policies if p.kind == "message" and p.channel}
        own = {name: narrowest(self.policies, "message", owner, name) for name in named}
        channels = {
            name.encode(): self._before(policy.age)
            for name, policy in own.items()
            if policy and policy is not general
        }
        return Kept(
            until=NEVER if general is None else self._before(general.age),
            channels=channels,
            at_most=None if general is None else general.keep_latest,
        )

    def _prune(self, digest: bytes) -> Step:
        policy, most = self.policy, self.policy.keep_latest
        if policy.idle is None:
            return PruneThread(digest, most, self._until())
        return PruneThread(digest, None, self._until(), most or 1, self._before(policy.idle))

    def _until(self) -> int | None:
        return None if self.policy.age is None else self._before(self.policy.age)


_RECORDS = {"item": Kind.ITEM, "entry": Kind.ENTRY, "receipt": Kind.RECEIPT}
_CONTAINERS = {"session": Kind.SESSION, "thread": Kind.THREAD}


def plans_of(
    policies: Sequence[Policy],
    directory: DirectoryKey,
    moment: int,
    unreadable: Collection[Owner] = (),
) -> Iterator[Plan]:
    """Where each policy looks, at a moment; of whom one is ``unreadable``, nothing goes."""
    for policy in policies:
        for pages in _pages(policy, _reach(policy, directory), moment):
            yield Plan(policy, policies, unreadable, pages, moment)


def _reach(policy: Policy, directory: DirectoryKey) -> Reach:
    module = None
    if policy.module_id is not None:
        owner = Owner(Level.MODULE, policy.project_id, module=policy.module_id)
        module = directory.module_of(owner)
    if policy.user_id is not None:
        return Reach(module=module, principal=directory.principal_of(policy.owner))
    return Reach(project=directory.project_of(policy.owner), module=module)


def _pages(policy: Policy, reach: Reach, moment: int) -> Iterable[Pages]:
    def before(span: timedelta | None) -> int:
        return NEVER if span is None else max(moment - span // MICROSECOND, NEVER)

    age, idle, kept = before(policy.age), before(policy.idle), policy.keep_latest
    if policy.kind in _RECORDS:
        return [due.older_records(_RECORDS[policy.kind], reach, age)]
    if policy.kind in _CONTAINERS:
        return [due.containers(_CONTAINERS[policy.kind], reach, created=age, updated=idle)]
    if policy.kind == "checkpoint":
        return _pages_of_checkpoints(policy, reach, age, idle)
    containing, below = _BELOW[policy.kind]
    return [due.with_older(containing, below, reach, age, _MANY if kept is None else kept)]


_BELOW = {
    "message": (Kind.SESSION, Kind.MESSAGE),
    "document": (Kind.COLLECTION, Kind.DOCUMENT),
}


def _pages_of_checkpoints(policy: Policy, reach: Reach, age: int, idle: int) -> list[Pages]:
    pages = []
    if policy.age is not None:
        pages.append(due.containers(Kind.THREAD, reach, created=age, more_than=1))
    if policy.idle is not None:
        most = policy.keep_latest or 1
        pages.append(due.containers(Kind.THREAD, reach, updated=idle, more_than=most))
    elif policy.keep_latest is not None:
        most = policy.keep_latest
        pages.append(due.containers(Kind.THREAD, reach, created=_LATEST, more_than=most))
    return pages
