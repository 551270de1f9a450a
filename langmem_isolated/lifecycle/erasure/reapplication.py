"""Reapplication of erasures: an older copy that was put back forgets again who was erased since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import callback
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._runtime.clock import as_moment
from langmem_isolated._storage.erasure_jobs import ErasureJob, ErasureJobs
from langmem_isolated._storage.erasure_log import Tombstone
from langmem_isolated._storage.removal import remove_rows
from langmem_isolated.lifecycle.erasure.of_memory import Erasures
from langmem_isolated.lifecycle.erasure.participants import Participants
from langmem_isolated.lifecycle.erasure.run import ErasureRunner, finish_heap
from langmem_isolated.lifecycle.erasure.wrapped_stores import TagsByStore, missing, owner_tags
from langmem_isolated.lifecycle.retention import holds

if TYPE_CHECKING:
    from langmem_isolated._crypto.directory import DirectoryKey
    from langmem_isolated._storage.former_lives import FormerLife
    from langmem_isolated.lifecycle.retention.holds import Hold
    from langmem_isolated.lifecycle.retention.sweeping import Progress


@dataclass(frozen=True, slots=True)
class Reapplied:
    """What was erased again; nothing where no older copy had been put back."""

    principals: int
    """Of how many users and guests, and modules and projects that were erased."""
    counts: dict[str, int]
    """How many records, sessions, threads and collections, by kind."""


@explains_calls
class ErasuresAgain(Erasures):
    """Erasures that are applied again, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    def reapply_erasures(self, *, progress: Progress | None = None) -> Reapplied:
        """Erase again everyone who was erased and whom an older copy has brought back.

        To be called behind every restore, before anybody uses the memory: until then who was erased
        can be read. Who was erased is known from the key store and from the erasure log
        (``erasure_log=``); both know all of it then. Legal holds that the copy brought back stop
        nothing, and go: they were released before the erasure. Whoever came back in person since,
        and is in the copy, stays. Killed at any point, it goes on when it is called again; where
        there is nothing to do, it does nothing.

        >>> memory.reapply_erasures()
        Reapplied(principals=0, counts={})

        Args:
            progress: Told after each batch how many records have been removed so far.

        Raises:
            TypeError: ``progress`` is no function.
            ErasureLogRefused: The erasure log cannot be read or written, or a line of it is not
                what this installation wrote. Nothing was erased.
            RecordDoesNotOpen: A tombstone was tampered with, and nothing was erased; or somebody's
                keys or rows were, and those before are erased.
            KeyringError: A key cannot be had, or belongs to another root key: an older copy opens
                with the root key of its time, given as one of ``accepted_root_keys``.
            DatabaseError: The database refused or failed; to call again goes on.
        """
        if progress is not None:
            callback("progress", progress, example="progress=lambda removed: print(removed)")
        return reapplied(self._context, progress or (lambda _: None), self.erasure.participants)

    async def areapply_erasures(self, *, progress: Progress | None = None) -> Reapplied:
        """Erase again who was erased; see :meth:`reapply_erasures`."""
        return await self._context.database.arun(self.reapply_erasures, progress=progress)


def reapplied(
    context: MemoryContext,
    progress: Progress,
    participants: Participants,
    others: Iterable[Tombstone] = (),
) -> Reapplied:
    """Apply every erasure again that is known of, and ``others``, which are known of then."""
    tombstones = context.keyring.tombstones.merged(*others)
    return _Reapplication(context, tombstones, progress, participants).run()


class _Reapplication:
    """One run over all tombstones."""

    def __init__(
        self,
        context: MemoryContext,
        tombstones: list[Tombstone],
        progress: Progress,
        participants: Participants,
    ) -> None:
        self._context, self._progress, self._participants = context, progress, participants
        self._former_lives = context.keyring.former_lives()
        # By principal the last life that was ended, and when.
        self._ended: dict[bytes, Tombstone] = {}
        for one in sorted(tombstones):
            self._ended[one.principal] = one
        self._counts: Counter[str] = Counter()
        self._removed = 0

    def run(self) -> Reapplied:
        # First: who is on hold is not erased.
        self._forget_holds()
        places = self._places_brought_back()
        for place, ended in places.items():
            self._erase(place, ended)
        principals = len(places) + sum([self._is_erased(one) for one in self._ended.values()])
        if self._finish_jobs() or principals:
            if self._context.plaintext_cache:
                self._context.plaintext_cache.clear()
            finish_heap(self._context)
        return Reapplied(principals, dict(sorted(self._counts.items())))

    def _is_erased(self, ended: Tombstone) -> bool:
        """Erase a principal's lives up to one again; whether there was anything of them."""
        principal, life = ended.principal, ended.incarnation
        found = self._former_lives.find(principal, life)
        if found.is_over:
            return False
        self._former_lives.mark(principal, life)
        if found.owner is not None:
            self._erase(found.owner, ended)
        else:
            self._end(principal, life, found)
        return found.has_keys or bool(found.rows)

    def _erase(self, owner: Owner, ended: Tombstone) -> None:
        before = self._removed
        # Stores outside were cleared when the owner was erased; those that are here are again.
        absent = missing(self._context, self._tags_of(owner))

        def told(removed: int) -> None:
            self._tell(before + removed)

        again = ErasureRunner(
            self._context, self._participants, told, absent, most_bytes=0, ended=ended
        )
        self._counts.update(again.erase(owner).counts)

    def _finish_jobs(self) -> int:
        """Go on with jobs that the copy was made in the midst of: each says whose it is.

        One whose third-party stores are not here is left to who has them.
        """
        if not self._ended:
            return 0
        finished, directory = 0, self._context.keyring.lives().directory
        jobs = ErasureJobs(self._context.database, directory)
        for job in jobs.unfinished():
            ended = self._ended.get(job.principal)
            if ended and _is_of(ended, job) and not missing(self._context, job.erased.tags):
                again = ErasureRunner(self._context, self._participants, most_bytes=0, ended=ended)
                finished += again.run(job).is_finished
        return finished

    def _tags_of(self, owner: Owner) -> TagsByStore:
        keyring = self._context.keyring
        owners = keyring.owners(owner)
        if owner.level in (Level.MODULE, Level.PROJECT):
            walked = keyring.walk(project=owner.project, module=owner.module)
            owners = [one for _, one in walked]
        return owner_tags(self._context, owners)

    def _places_brought_back(self) -> dict[Owner, Tombstone]:
        """Modules and projects that were erased, and have memory from before.

        A module may never have had a key of its own: what its users have in it tells of it.
        """
        directory, found = self._context.keyring.directory(), dict[Owner, Tombstone]()
        if not self._ended or directory is None:
            return {}
        for row, owner in self._context.keyring.walk():
            for place in owner.places():
                ended = self._ended.get(directory.principal_of(place))
                if ended and row.created_at <= ended.erased_at:
                    found[place] = ended
        return found

    def _end(self, principal: bytes, life: int, found: FormerLife) -> None:
        """Where nobody is named any more: what only a principal's digest tells of."""
        self._context.keyring.lives().end(principal, life)
        for row in found.rows:
            counts = remove_rows(
                self._context.database, row, lambda batch: self._tell(self._removed + batch)
            )
            self._counts.update({kind.label: count for kind, count in counts.items()})

    def _tell(self, removed: int) -> None:
        self._removed = removed
        self._progress(removed)

    def _forget_holds(self) -> None:
        """Remove what projects keep of those who were erased: by the user's id, in holds."""
        directory = self._context.keyring.directory()
        if not self._ended or directory is None:
            return
        for project in self._former_lives.projects():
            count = holds.forget_where(
                self._context, project, lambda hold: self._is_before_erasure(hold, directory)
            )
            if count:
                self._counts[Kind.POLICY.label] += count

    def _is_before_erasure(self, hold: Hold, directory: DirectoryKey) -> bool:
        """Whether a hold is older than its user's erasure; later ones are for who came back."""
        user = Owner(Level.USER, hold.project_id, hold.user_id)
        ended = self._ended.get(directory.principal_of(user))
        erased_at = ended and as_moment(ended.erased_at)
        return erased_at is not None and hold.since <= erased_at


def _is_of(ended: Tombstone, job: ErasureJob) -> bool:
    """Whether an erasure that left a tombstone was this one, or came behind it."""
    return job.incarnation <= ended.incarnation and job.began_at <= ended.erased_at
