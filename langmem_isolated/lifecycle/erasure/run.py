"""Run of an erasure: a job is begun, others are asked, keys are destroyed, rows are removed.

In this order: while the job says whose it is, whoever is outside can be asked again; keys go before
rows, so that nobody writes below a row that is being removed. Each step may be done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from langmem_isolated._adapters import quota
from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._database.admission import Admission, AdmissionToAll
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.erased import DestroyedKeys, Erased, What
from langmem_isolated._storage.erasure_jobs import ErasureJob, ErasureJobs, JobFinished
from langmem_isolated._storage.key_sets import KeySet, Purpose
from langmem_isolated._storage.owner_state import ids_of
from langmem_isolated._storage.removal import remove_rows
from langmem_isolated._storage.scope_rows import ScopeRow
from langmem_isolated.lifecycle.erasure.participants import ErasureSubject, Participants
from langmem_isolated.lifecycle.erasure.receipt import ErasureReceipt, Heap
from langmem_isolated.lifecycle.erasure.wrapped_stores import clear_by_tags, known, owner_tags
from langmem_isolated.lifecycle.retention import holds

if TYPE_CHECKING:
    from langmem_isolated._storage.erasure_log import Tombstone
    from langmem_isolated._storage.removal import Counted
    from langmem_isolated.lifecycle.retention.sweeping import Progress

WHAT: dict[Level, What] = {
    Level.USER: "user",
    Level.ANONYMOUS: "guest",
    Level.MODULE: "module",
    Level.PROJECT: "project",
}
_PLACES = (Level.MODULE, Level.PROJECT)
"""Where others than the principal have something."""
_NOBODY = Participants()
_AT_ONCE = 2**26
"""Bytes of a file that an erasure writes anew by itself: writers wait for 0.7 s."""


def erase_owner(
    context: MemoryContext,
    owner: Owner,
    progress: Progress = lambda _: None,
    participants: Participants = _NOBODY,
    without_stores: Collection[str] = (),
) -> ErasureReceipt:
    """Erase a user, guest, module or project, unless anybody in it is on legal hold."""
    return ErasureRunner(context, participants, progress, without_stores).erase(owner)


def scrubbed(context: MemoryContext, most_bytes: int | None = _AT_ONCE) -> Heap:
    """Leave no byte of what was removed in the files of both databases, as far as that can be."""
    # The key store first: as long as a wrapped key is somewhere, records open.
    databases = {context.keyring.key_store: None, context.database: None}
    done = [database.scrub(most_bytes) for database in databases]
    return "scrubbed" if all(done) else "pending"


def finish_heap(context: MemoryContext) -> Heap:
    """Leave no byte, however large the files are; receipts that said pending say so then."""
    heap = scrubbed(context, None)
    if heap == "scrubbed":
        jobs = ErasureRunner(context).jobs
        for job in jobs.finished():
            if job.erased.heap != heap:
                jobs.amend(job, heap=heap)
    return heap


class ErasureRunner:
    """Erasures in one memory, each by a job; more than one at once, one after another."""

    def __init__(
        self,
        context: MemoryContext,
        participants: Participants = _NOBODY,
        progress: Progress = lambda _: None,
        without_stores: Collection[str] = (),
        most_bytes: int = _AT_ONCE,
        ended: Tombstone | None = None,
    ) -> None:
        self._most_bytes, self._ended = most_bytes, ended
        self._context, self._participants, self._progress = context, participants, progress
        self._without = without_stores
        self._lives = context.keyring.lives()
        self.jobs = ErasureJobs(context.database, self._lives.directory)
        self._removed = 0

    def erase(self, owner: Owner) -> ErasureReceipt:
        """Erase an owner's principal, and for a module or project what others have in it.

        Raises:
            LegalHold: Of those in it somebody is on hold; nothing was removed.
        """
        with self._admission(owner):
            return self._erase(owner)

    def _admission(self, owner: Owner) -> Admission:
        """Of a user, the job and what the project keeps; of a place, everybody's rows."""
        if owner.level in _PLACES:
            return AdmissionToAll()
        project = Owner(Level.PROJECT, owner.project)
        return Admission(
            self.principal_of(owner), *ids_of(self._context.keyring.installation, project)
        )

    def _erase(self, owner: Owner) -> ErasureReceipt:
        self._refuse_held(owner)
        owners = (one for _, one in self._owners(owner))
        known(self._context, owner_tags(self._context, owners), self._without)
        principal = self.principal_of(owner)
        found = self._lives.key_set(principal)
        begun = self.jobs.unfinished_of(principal)
        erased = self._as_it_is(owner, found)
        life = max(self._last_life(found), *(job.incarnation for job in begun), 0)
        if not (begun or len(self._participants) or self._has_anything(owner, found)):
            return self._of_nothing(ErasureJob(principal, life, now(), now(), erased))
        for job in begun:
            if job.incarnation < life:
                self.run(job)
        return self.run(self._begun(principal, life, erased))

    def _refuse_held(self, owner: Owner) -> None:
        """Not where a tombstone says that nobody was held: a hold from before came back with it."""
        if self._ended is None:
            holds.check_all(self._context, owner)

    def run(self, job: ErasureJob) -> ErasureReceipt:
        """Go on with a job, from wherever it ended."""
        owner = job.erased.owner
        with Admission() if owner is None else self._admission(owner):
            return self._run(job)

    def _run(self, job: ErasureJob) -> ErasureReceipt:
        with suppress(JobFinished):
            return self.receipt(self._carried_out(job))
        return self.receipt(self.jobs.again(job))

    def principal_of(self, owner: Owner) -> bytes:
        """By which jobs and receipts know an owner."""
        return self._lives.directory.principal_of(owner)

    def receipt(self, job: ErasureJob) -> ErasureReceipt:
        """That of a job, as it is now."""
        is_postgres = self._context.database.is_postgres
        return ErasureReceipt.of(job, self._lives, is_postgres=is_postgres)

    def _as_it_is(self, owner: Owner, found: KeySet) -> Erased:
        """What a job begins with."""
        made = [now()]
        if owner.level in _PLACES:
            # Whatever is there goes, also of a process whose clock is ahead of this one's.
            made += (row.created_at for row in self._in_place(owner))
        return Erased(
            what=WHAT[owner.level],
            until=max(made) if self._ended is None else self._ended.erased_at,
            hash_before=self._lives.store_hash(),
            owner=owner,
            root_key_ids=frozenset(key.root_key_id for key in found.keys),
        )

    def _last_life(self, found: KeySet) -> int:
        """The last life that ends: of all that there were, or that of which a tombstone speaks."""
        if self._ended is not None:
            return self._ended.incarnation
        named = (key.version for key in found.keys if key.purpose == Purpose.NAMING)
        return max(named, default=0)

    def _has_anything(self, owner: Owner, found: KeySet) -> bool:
        is_living = bool(found.all_living())
        has_rows = bool(self._context.keyring.scopes_of(owner))
        if owner.level in _PLACES:
            has_rows = has_rows or any(True for _ in self._in_place(owner))
        return is_living or has_rows

    def _of_nothing(self, job: ErasureJob) -> ErasureReceipt:
        heap = scrubbed(self._context)
        erased = replace(job.erased, hash_after=job.erased.hash_before, heap=heap)
        return self.receipt(job._replace(erased=erased))

    def _begun(self, principal: bytes, life: int, erased: Erased) -> ErasureJob:
        owner = erased.owner
        assert owner is not None
        keys = holds.records_with(self._context, owner.project).find_keys()
        refuse = partial(holds.refuse_held, keys=keys, user=owner.user)
        job = self.jobs.begin(principal, life, erased, *([] if self._ended else [refuse]))
        if job.erased.until < erased.until:
            # Begun before: what was made since is meant by this call, too.
            with suppress(JobFinished):
                job = self.jobs.change(job, lambda found: found.reaching(erased.until))
        return job

    def _carried_out(self, job: ErasureJob) -> ErasureJob:
        owner = job.erased.owner
        if owner is None:
            raise JobFinished
        is_whole = not job.erased.has_destroyed
        if is_whole:
            self._refuse_held(owner)
        subject = ErasureSubject.of(owner, job.began_at)
        job = self._participants.ask(self.jobs, job, subject)
        job = self._note_stores(job, owner)
        if is_whole:
            # Others, and stores, take their time: a hold may have been placed in it.
            self._refuse_held(owner)
            # Before the keys are destroyed: what is missed then stops it with nothing removed.
            job = self._clear_stores(job)
            self._refuse_held(owner)
        self._end_lives(job, owner)
        if owner.level is Level.MODULE:
            job = self._clear_of_users(job, owner)
        self._remove_all(job, owner)
        self._remove_holds(job, owner)
        self._forget(owner)
        # What was being written meanwhile, by a process that has died since.
        job = self._clear_stores(self.jobs.again(job))
        return self._completed(job, subject)

    def _completed(self, job: ErasureJob, subject: ErasureSubject) -> ErasureJob:
        after = self._lives.store_hash()
        job = self._participants.verify(self.jobs, job, subject)
        note = partial(replace, hash_after=after, heap="pending")
        if any(asked.confirmed_at is None for asked in job.erased.participants.values()):
            job = self.jobs.change(job, note)
        else:
            job = self.jobs.finish(job, note)
        # Behind all that is written: the job has said, sealed, whose it was.
        if self._most_bytes == 0 or scrubbed(self._context, self._most_bytes) == "pending":
            return job
        return self.jobs.amend(job, heap="scrubbed")

    def _note_stores(self, job: ErasureJob, owner: Owner) -> ErasureJob:
        """Note which third-party stores have documents: the keys that tell are destroyed soon."""
        tags = owner_tags(self._context, self._going(job, owner))
        return self.jobs.change(job, lambda erased: erased.with_tags(tags, self._without))

    def _going(self, job: ErasureJob, owner: Owner) -> Iterator[Owner]:
        """Those whose keys are destroyed; not who began anew since."""
        going = [found for found in self._owners(owner) if not _lives_on(found[0], owner)]
        doomed = {row.principal for row, _ in going if self._is_doomed(job, owner, row)}
        return (one for row, one in going if row.principal in doomed)

    def _clear_of_users(self, job: ErasureJob, owner: Owner) -> ErasureJob:
        """Clear stores of what users have by this module, before the rows that note it go.

        Nothing is kept of that: their keys live on, so if they come back to the module, what is new
        bears the same tags.
        """
        doomed = [
            one
            for row, one in self._owners(owner)
            if _lives_on(row, owner) and self._is_doomed(job, owner, row)
        ]
        tags = owner_tags(self._context, doomed)
        counts = clear_by_tags(self._context, tags, job.erased.without)
        return self.jobs.change(job, lambda erased: erased.with_stores(counts))

    def _clear_stores(self, job: ErasureJob) -> ErasureJob:
        if not job.erased.tags:
            return job
        counts = clear_by_tags(self._context, job.erased.tags, job.erased.without)
        return self.jobs.change(job, lambda erased: erased.with_stores(counts))

    def _owners(self, owner: Owner) -> Iterator[tuple[ScopeRow, Owner]]:
        """Everybody whose memory goes, as far as their keys are there."""
        keyring = self._context.keyring
        if owner.level in _PLACES:
            return keyring.walk(project=owner.project, module=owner.module)
        return keyring.owned_rows(owner)

    def _end_lives(self, job: ErasureJob, owner: Owner) -> None:
        """Destroy the keys of the principal itself, and of others that have nothing else."""
        is_place = owner.level in _PLACES
        note = partial(self._note_own, job)
        until = job.erased.until if is_place else None
        self._end_life(job.principal, job.incarnation, note, until=until)
        if is_place:
            for row in self._doomed(job, owner):
                if _is_others(row, job) and _has_no_other_place(row, owner):
                    self._end_life(row.principal, row.incarnation)

    def _end_life(
        self,
        principal: bytes,
        life: int,
        told: Callable[[DestroyedKeys], object] = lambda _: None,
        *,
        until: int | None = None,
    ) -> None:
        # Before the keys are destroyed: a copy that is put back may have them.
        self._context.keyring.tombstones.put(principal, life, until=until)
        self._lives.end(principal, life, told)

    def _note_own(self, job: ErasureJob, keys: DestroyedKeys) -> None:
        self.jobs.change(job, lambda erased: erased.with_own(keys))

    def _remove_all(self, job: ErasureJob, owner: Owner) -> None:
        """Remove the rows, until there are none: who had a key in memory may have made some."""
        is_done = False
        while not is_done:
            is_done = True
            for row in self._doomed(job, owner):
                is_done = False
                if _is_others(row, job) and _has_no_other_place(row, owner):
                    # Its first use began before the erasure, and was stored since.
                    self._end_life(row.principal, row.incarnation)
                counted = self._counting(job, owner, row)
                remove_rows(self._context.database, row, self._tell, counted)
                if row.level == Level.ANONYMOUS:
                    # Nobody comes back under a random id.
                    self._lives.remove_destroyed(row.principal)

    def _counting(self, job: ErasureJob, owner: Owner, row: ScopeRow) -> Counted:
        """What counts a row's batches, and refuses them once a user who stays is on hold."""
        counted = self.jobs.counting(job, self._keys_with(job, owner, row))
        whose = self._context.keyring.owner_of(row.scope_id) if _lives_on(row, owner) else None
        if whose is None or self._ended is not None:
            return counted
        return holds.counted_unless_held(self._context, whose, counted)

    def _keys_with(self, job: ErasureJob, owner: Owner, row: ScopeRow) -> DestroyedKeys | None:
        """The keys of another principal that go with its last row."""
        if not (_is_others(row, job) and _has_no_other_place(row, owner)):
            return None
        return self._lives.destroyed_with(row.principal, row.incarnation)

    def _doomed(self, job: ErasureJob, owner: Owner) -> Iterator[ScopeRow]:
        """The rows that go, of lives that end or have ended; whoever comes back keeps theirs."""
        if owner.level in _PLACES:
            yield from (row for row in self._in_place(owner) if self._is_doomed(job, owner, row))
        else:
            rows = self._context.keyring.scopes_of(owner)
            yield from (row for row in rows if row.incarnation <= job.incarnation)

    def _is_doomed(self, job: ErasureJob, owner: Owner, row: ScopeRow) -> bool:
        if row.principal == job.principal:
            return row.incarnation <= job.incarnation
        if row.created_at <= job.erased.until:
            return True
        # Begun since, by one whose keys are destroyed with older rows.
        is_of_it = _has_no_other_place(row, owner)
        return is_of_it and self._lives.is_over(row.principal, row.incarnation)

    def _in_place(self, owner: Owner) -> Iterator[ScopeRow]:
        return self._lives.in_place(owner.project, owner.module)

    def _remove_holds(self, job: ErasureJob, owner: Owner) -> None:
        """Remove what the project keeps of a user: holds that have ended."""
        if owner.user is not None:
            records = self._context.operators(Owner(Level.PROJECT, owner.project))
            counted = self.jobs.counting(job)
            records.write_if_exists(holds.forget, None, owner.user, job.principal, counted)

    def _forget(self, owner: Owner) -> None:
        if owner.level in _PLACES:
            self._lives.forget_place(owner.project, owner.module)
        if self._context.plaintext_cache:
            self._context.plaintext_cache.clear()
        quota.forget(self._context.database)

    def _tell(self, removed: int) -> None:
        self._removed += removed
        self._progress(self._removed)


def _is_others(row: ScopeRow, job: ErasureJob) -> bool:
    return row.principal != job.principal


def _has_no_other_place(row: ScopeRow, owner: Owner) -> bool:
    """Whether the keys of a row go with a place: all of a project's; guests are in one module."""
    return owner.level is Level.PROJECT or row.level == Level.ANONYMOUS


def _lives_on(row: ScopeRow, owner: Owner) -> bool:
    """Whether the keys of a row stay: those of users in a module that is erased."""
    return owner.level is Level.MODULE and row.level == Level.PRIVATE
