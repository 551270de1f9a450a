"""Erasure, as operators call it: destroys keys, removes every row, gives a receipt."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import callback, refuse_single
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.erasure.receipt import ErasureReceipt, Heap
    from langmem_isolated.lifecycle.erasure.registry import ErasureRegistry
    from langmem_isolated.lifecycle.retention.sweeping import Progress


@explains_calls
class Erasures:
    """Erasure, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    @cached_property
    def erasure(self) -> ErasureRegistry:
        """Who is asked to erase besides, what goes on, and the receipts; for operators.

        See :class:`~langmem_isolated.lifecycle.ErasureRegistry`.
        """
        from langmem_isolated.lifecycle.erasure.registry import ErasureRegistry

        return ErasureRegistry(self._context)

    def erase_user(
        self,
        user_id: str,
        *,
        project_id: str = "default",
        progress: Progress | None = None,
        without_stores: Collection[str] = (),
    ) -> ErasureReceipt:
        """Erase a user: destroy the keys, remove all rows of all modules, and give a receipt.

        First it is stored that this has begun, and those are asked who were registered by
        ``memory.erasure.register(…)``. Then the keys go, so nothing opens from then on; then rows
        of every kind, at most 500 a transaction, with sessions, grants, policies and usage. On
        SQLite the file is written anew besides: no byte of the user's rows and wrapped keys is left
        in the database's files, unless the receipt says ``"pending"``.

        Killed at any point, it goes on when it is called again, or by ``memory.erasure.resume()``,
        and the receipt is of all of it. Other processes write nothing of the user to this database
        any more, and find nothing in it. Whoever comes back under the id is new.

        Documents in third-party vector stores are removed first, from each to which a module of the
        user ever wrote through ``vector_store(wrapping=…)``. Other processes stop there at once; a
        write in flight removes what it wrote.

        >>> memory.scope(user_id="zoe", module_id="tutor").store().put(("facts",), "one", {"n": 1})
        >>> receipt = memory.erase_user("zoe")
        >>> receipt.counts, receipt.keys_destroyed
        ({'item': 1}, 2)

        Args:
            user_id: Who.
            project_id: In which project; the same id in another is another user.
            progress: Told after each batch how many records have been removed so far.
            without_stores: Names of third-party stores that are left alone: they are no more, or
                were cleared by hand.

        Returns:
            What was done. If a participant has not confirmed, ``is_finished`` is ``False``: all
            else is done, and ``memory.erasure.resume()`` asks it again.

        Raises:
            ScopeError: An id is malformed.
            TypeError: ``progress`` is no function, or ``without_stores`` is a single str.
            WrappedStoreMissing: This process does not have a store that holds documents of the
                user; nothing was removed.
            WrappedStoreKeeps: A third-party store still has what it was told to remove; the keys
                are there yet.
            LegalHold: The user is on legal hold; nothing was removed.
            ErasureLogRefused: The erasure log cannot be written; no key was destroyed.
            RecordDoesNotOpen: The user's keys, the row of a scope or that of the erasure were
                tampered with; what was removed before that is removed.
            DatabaseError: The database refused or failed; to call again goes on.
        """
        project = checked_id("project_id", project_id)
        user = Owner(Level.USER, project, checked_id("user_id", user_id))
        return self._erased(user, progress, without_stores)

    async def aerase_user(
        self,
        user_id: str,
        *,
        project_id: str = "default",
        progress: Progress | None = None,
        without_stores: Collection[str] = (),
    ) -> ErasureReceipt:
        """Erase a user; see :meth:`erase_user`."""
        return await self._context.database.arun(
            self.erase_user,
            user_id,
            project_id=project_id,
            progress=progress,
            without_stores=without_stores,
        )

    def erase_guest(
        self,
        anonymous_id: str,
        *,
        project_id: str = "default",
        progress: Progress | None = None,
        without_stores: Collection[str] = (),
    ) -> ErasureReceipt:
        """Erase an anonymous session, whether or not it has expired; as :meth:`erase_user`.

        What a user has claimed of it is that user's, and stays.

        >>> guest = memory.anonymous(module_id="tutor")
        >>> guest.chat_history("first").add_user_message("Hi")
        >>> memory.erase_guest(guest.id).counts["message"]
        1

        Args:
            anonymous_id: Its ``guest.id``.
            project_id: In which project.
            progress: As for :meth:`erase_user`.
            without_stores: As for :meth:`erase_user`.

        Raises:
            ScopeError: An id is malformed.
            TypeError: ``progress`` is no function, or ``without_stores`` is a single str.
            WrappedStoreMissing: As for :meth:`erase_user`.
            WrappedStoreKeeps: As for :meth:`erase_user`.
            RecordDoesNotOpen: Its keys or rows were tampered with.
            DatabaseError: The database refused or failed; to call again goes on.
        """
        guest = Owner.anonymous(anonymous_id, project=project_id)
        return self._erased(guest, progress, without_stores)

    async def aerase_guest(
        self,
        anonymous_id: str,
        *,
        project_id: str = "default",
        progress: Progress | None = None,
        without_stores: Collection[str] = (),
    ) -> ErasureReceipt:
        """Erase an anonymous session; see :meth:`erase_guest`."""
        return await self._context.database.arun(
            self.erase_guest,
            anonymous_id,
            project_id=project_id,
            progress=progress,
            without_stores=without_stores,
        )

    def erase_module(
        self,
        module_id: str,
        *,
        project_id: str = "default",
        progress: Progress | None = None,
        without_stores: Collection[str] = (),
    ) -> ErasureReceipt:
        """Erase a module: everybody's memory in it, its guests, and what all its users share.

        The module's own keys and those of its guests are destroyed. Those of users live on, for
        their other modules: with them, copies of the database that were made before open yet. What
        other modules of a user keep about this one stays, as grants. Whoever uses the module while
        it is erased begins anew.

        Args:
            module_id: Which.
            project_id: Of which project.
            progress: As for :meth:`erase_user`.
            without_stores: As for :meth:`erase_user`.

        Raises:
            ScopeError: An id is malformed.
            TypeError: ``progress`` is no function, or ``without_stores`` is a single str.
            WrappedStoreMissing: As for :meth:`erase_user`.
            WrappedStoreKeeps: As for :meth:`erase_user`.
            LegalHold: A user who has memory in it is on legal hold; nothing was removed.
            RecordDoesNotOpen: A row was tampered with; what was removed before that is removed.
            DatabaseError: The database refused or failed; to call again goes on.
        """
        project = checked_id("project_id", project_id)
        module = Owner(Level.MODULE, project, module=checked_id("module_id", module_id))
        return self._erased(module, progress, without_stores)

    async def aerase_module(
        self,
        module_id: str,
        *,
        project_id: str = "default",
        progress: Progress | None = None,
        without_stores: Collection[str] = (),
    ) -> ErasureReceipt:
        """Erase a module; see :meth:`erase_module`."""
        return await self._context.database.arun(
            self.erase_module,
            module_id,
            project_id=project_id,
            progress=progress,
            without_stores=without_stores,
        )

    def erase_project(
        self,
        project_id: str,
        *,
        progress: Progress | None = None,
        without_stores: Collection[str] = (),
    ) -> ErasureReceipt:
        """Erase a project: all users, guests and modules of it, and what all of them share.

        All of their keys are destroyed. Keys of users who have no memory in the project any more,
        since a module was erased, name no project and stay; they have sealed nothing that is left.

        Args:
            project_id: Which; there is no default.
            progress: As for :meth:`erase_user`.
            without_stores: As for :meth:`erase_user`.

        Raises:
            ScopeError: The id is malformed.
            TypeError: ``progress`` is no function, or ``without_stores`` is a single str.
            WrappedStoreMissing: As for :meth:`erase_user`.
            WrappedStoreKeeps: As for :meth:`erase_user`.
            LegalHold: Somebody in it is on legal hold; nothing was removed.
            RecordDoesNotOpen: Keys or a row were tampered with; what was removed before that is
                removed.
            DatabaseError: The database refused or failed; to call again goes on.
        """
        project = Owner(Level.PROJECT, checked_id("project_id", project_id))
        return self._erased(project, progress, without_stores)

    async def aerase_project(
        self,
        project_id: str,
        *,
        progress: Progress | None = None,
        without_stores: Collection[str] = (),
    ) -> ErasureReceipt:
        """Erase a project; see :meth:`erase_project`."""
        return await self._context.database.arun(
            self.erase_project, project_id, progress=progress, without_stores=without_stores
        )

    def finish_erasure(self) -> Heap:
        """SQLite: leave no byte of what was removed in the files, for receipts that say pending.

        The files are written anew, however large they are: writers wait, 0.7 s for 64 MiB, and the
        disk wants room for a second one.

        Returns:
            ``"pending"`` where somebody still reads what was there before, wrote for longer than
            one waits, or there was no room, and always on PostgreSQL, which decides itself when it
            writes over removed rows.

        Raises:
            RecordDoesNotOpen: The row of an erasure was tampered with.
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.erasure.run import finish_heap

        return finish_heap(self._context)

    async def afinish_erasure(self) -> Heap:
        """Leave no byte of what was removed; see :meth:`finish_erasure`."""
        return await self._context.database.arun(self.finish_erasure)

    def _erased(
        self, owner: Owner, progress: Progress | None, without_stores: Collection[str]
    ) -> ErasureReceipt:
        from langmem_isolated.lifecycle.erasure.run import WHAT, erase_owner

        if progress is not None:
            callback("progress", progress, example="progress=lambda removed: print(removed)")
        refuse_single("without_stores", without_stores, (str,), example='["Chroma notes"]')
        participants, told = self.erasure.participants, progress or (lambda _: None)
        operation = f"erase_{WHAT[owner.level]}"
        with self._context.audit.job(operation, owner, erases=True) as job:
            receipt = erase_owner(self._context, owner, told, participants, without_stores)
            job.count = sum(receipt.counts.values())
        return receipt
