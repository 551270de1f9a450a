"""Erasure registry: participants outside, erasures that go on, and receipts of those that ended."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import refuse_single
from langmem_isolated._runtime.calls import explains_calls, made_by
from langmem_isolated._runtime.clock import EPOCH, as_moment
from langmem_isolated._storage.audit_notes import AuditNote
from langmem_isolated._storage.erased import What
from langmem_isolated._storage.erasure_jobs import ErasureJob
from langmem_isolated.errors import LangmemIsolatedError
from langmem_isolated.lifecycle.erasure.participants import (
    Erase,
    ErasureSubject,
    Participants,
    Verify,
    errors,
    states,
)
from langmem_isolated.lifecycle.erasure.receipt import ErasureReceipt
from langmem_isolated.lifecycle.erasure.run import ErasureRunner
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langchain_core.vectorstores import VectorStore

    from langmem_isolated.wrapping import VectorStoreAdapter


@dataclass(frozen=True, slots=True)
class UnfinishedErasure:
    """An erasure that was begun and is not done; whose it is, is left out of the ``repr``."""

    principal: str
    """By which the tables know the user, guest, module or project, in hex."""
    what: What
    began_at: datetime
    subject: ErasureSubject = field(repr=False)
    counts: dict[str, int]
    """How many records, sessions, threads and collections were removed so far, by kind."""
    participants: dict[str, str]
    """``"confirmed"`` or ``"requested"``, by their names."""
    participant_errors: dict[str, str]
    """The class of what those raised that did not confirm, by their names."""
    stores: tuple[str, ...]
    """Names of third-party vector stores that had documents, and are asked again."""

    @classmethod
    def of(cls, job: ErasureJob) -> UnfinishedErasure:
        """That of a job which is not finished."""
        erased = job.erased
        assert erased.owner is not None
        return cls(
            principal=job.principal.hex(),
            what=erased.what,
            began_at=as_moment(job.began_at) or EPOCH,
            subject=ErasureSubject.of(erased.owner, job.began_at),
            counts={kind.label: count for kind, count in sorted(erased.counts.items())},
            participants=states(erased.participants),
            participant_errors=errors(erased.participants),
            stores=tuple(sorted(erased.tags)),
        )


@made_by("memory.erasure", first=MemoryContext)
@explains_calls
class ErasureRegistry:
    """Who is asked to erase besides, what goes on, and what was done; for operators.

    Made by ``memory.erasure``.

    >>> crm = {"zoe": "likes chess"}
    >>> memory.erasure.register(
    ...     "crm",
    ...     lambda subject: crm.pop(subject.user_id, None),
    ...     lambda subject: subject.user_id not in crm,
    ... )
    >>> memory.erase_user("zoe").participants
    {'crm': 'confirmed'}
    >>> memory.erasure.pending()
    []
    """

    def __init__(self, context: MemoryContext) -> None:
        self._context = context
        self.participants = Participants()

    def register(self, name: str, erase: Erase, verify: Verify) -> None:
        """Have a participant be asked at every erasure that begins or goes on in this process.

        It is asked before our own keys are destroyed, and again whether nothing is left when our
        rows are gone. That it is asked is stored before; one that does not confirm keeps the
        erasure unfinished, while all else of it is done. So each may be asked more than once, for
        one that has nothing, too. It is registered anew in each process; another of the same name
        takes its place.

        Args:
            name: What it is called in receipts, 1 to 100 characters: no person's name.
            erase: Called with an :class:`ErasureSubject`, in a thread; erases what it has.
            verify: Called with the same; ``True`` if nothing is left. All else, and what either
                raises, is no confirmation.

        Raises:
            TypeError: ``name`` is no str, or one of the others no function, or one that would have
                to be awaited.
            ValueError: ``name`` is empty, too long or not printable.
        """
        self.participants.register(name, erase, verify)

    def include(
        self,
        store: VectorStore,
        name: str | None = None,
        *,
        adapter: VectorStoreAdapter | None = None,
    ) -> None:
        """Have a third-party vector store be cleared by the erasures of this process.

        For one that this process has not wrapped: where an erasure misses a store that others
        wrote to, it raises `WrappedStoreMissing`.

        Args:
            store: Made as the application makes it; nothing is written to it until an erasure.
            name: That with which ``vector_store(wrapping=…, name=…)`` was given it, if it was.
            adapter: What knows it; by default found by its class, or by LangChain's interface.

        Raises:
            TypeError: It is no vector store of another package.
            ScopeError: The name is malformed.
        """
        self._context.known_stores.include(store, name, adapter=adapter)

    def pending(self) -> list[UnfinishedErasure]:
        """The erasures that are not finished, by when they began.

        Raises:
            RecordDoesNotOpen: One was changed or moved.
            DatabaseError: The database refused or failed.
        """
        return [UnfinishedErasure.of(job) for job in ErasureRunner(self._context).jobs.unfinished()]

    async def apending(self) -> list[UnfinishedErasure]:
        """The erasures that are not finished; see :meth:`pending`."""
        return await self._context.database.arun(self.pending)

    def receipts(
        self, *, user_id: str | None = None, project_id: str = "default"
    ) -> list[ErasureReceipt]:
        """The receipts of all erasures that are finished, or of one user's, by when they were.

        Their horizon is told anew: it has passed when no key of today needs a root key that opens
        older copies.

        Args:
            user_id: Only the receipts of this user, which do not name them.
            project_id: The user's project.

        Raises:
            ScopeError: An id is malformed.
            RecordDoesNotOpen: One was changed or moved.
            DatabaseError: The database refused or failed.
        """
        user = None if user_id is None else _user(user_id, project_id)
        erasures = ErasureRunner(self._context)
        finished = erasures.jobs.finished()
        if user is not None:
            principal = erasures.principal_of(user)
            finished = [job for job in finished if job.principal == principal]
        return [erasures.receipt(job) for job in finished]

    async def areceipts(
        self, *, user_id: str | None = None, project_id: str = "default"
    ) -> list[ErasureReceipt]:
        """The receipts of all erasures that are finished; see :meth:`receipts`."""
        return await self._context.database.arun(
            self.receipts, user_id=user_id, project_id=project_id
        )

    def resume(self, *, without_stores: Collection[str] = ()) -> list[ErasureReceipt]:
        """Go on with every erasure that is not finished, and ask who has not confirmed again.

        What one of them raises is raised when all others were gone on with.

        Args:
            without_stores: Names of third-party stores that are left alone, besides those that were
                named when an erasure began.

        Returns:
            Their receipts; of those that are still not finished ``is_finished`` is ``False``.

        Raises:
            TypeError: ``without_stores`` is a single str.
            WrappedStoreMissing: This process does not have a store that holds documents of one.
            WrappedStoreKeeps: A third-party store still has what it was told to remove.
            LegalHold: Before anything of it was destroyed, a user came to be on hold; or whoever is
                on hold has something left in a module that is being erased.
            RecordDoesNotOpen: Keys or the row of a scope or of an erasure were tampered with.
            DatabaseError: The database refused or failed; to call again goes on.
        """
        refuse_single("without_stores", without_stores, (str,), example='["Chroma notes"]')
        self._context.audit.note(None, AuditNote("resume_erasures"))
        erasures = ErasureRunner(self._context, self.participants, without_stores=without_stores)
        receipts = list[ErasureReceipt]()
        failure: LangmemIsolatedError | None = None
        for row in erasures.jobs.unfinished_rows():
            try:
                receipts.append(erasures.run(erasures.jobs.opened(row)))
            except LangmemIsolatedError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return receipts

    async def aresume(self, *, without_stores: Collection[str] = ()) -> list[ErasureReceipt]:
        """Go on with every erasure that is not finished; see :meth:`resume`."""
        return await self._context.database.arun(self.resume, without_stores=without_stores)


def _user(user_id: str, project_id: str) -> Owner:
    project = checked_id("project_id", project_id)
    return Owner(Level.USER, project, checked_id("user_id", user_id))
