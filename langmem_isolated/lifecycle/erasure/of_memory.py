"""Erasure, as operators call it: destroys a user's keys, removes every row, gives a receipt."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import callback, refuse_single
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated.lifecycle.erasure.receipt import ErasureReceipt, Heap
from langmem_isolated.lifecycle.erasure.run import erase_owner, scrubbed
from langmem_isolated.lifecycle.retention import holds
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.retention.sweeping import Progress


@explains_calls
class Erasures:
    """Erasure, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    def erase_user(
        self,
        user_id: str,
        *,
        project_id: str = "default",
        progress: Progress | None = None,
        without_stores: Collection[str] = (),
    ) -> ErasureReceipt:
        """Erase a user: destroy the keys, remove all rows of all modules, and give a receipt.

        The keys go first, so nothing opens from then on; then rows of every kind, at most 500 a
        transaction, with sessions, grants, policies and usage. On SQLite the log is emptied
        besides: no byte of the user's rows and wrapped keys is left in the database's files, unless
        the receipt says ``"pending"``. Killed at any point, it goes on when it is called again.
        Other processes write nothing of the user to this database any more, and find nothing in it.
        Whoever comes back under the id is new.

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

        Raises:
            ScopeError: An id is malformed.
            TypeError: ``progress`` is no function, or ``without_stores`` is a single str.
            WrappedStoreMissing: This process does not have a store that holds documents of the
                user; nothing was removed.
            WrappedStoreKeeps: A third-party store still has what it was told to remove; the keys
                are there yet.
            LegalHold: The user is on legal hold; nothing was removed.
            RecordDoesNotOpen: The user's keys or the row of a scope were tampered with; what was
                removed before that is removed.
            DatabaseError: The database refused or failed; to call again goes on.
        """
        project = checked_id("project_id", project_id)
        user = Owner(Level.USER, project, checked_id("user_id", user_id))
        if progress is not None:
            callback("progress", progress, example="progress=lambda removed: print(removed)")
        holds.check(self._context, user_id, project)
        refuse_single("without_stores", without_stores, (str,), example='["Chroma notes"]')
        return erase_owner(self._context, user, progress or (lambda _: None), without_stores)

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

    def finish_erasure(self) -> Heap:
        """SQLite: leave no byte of what was removed in the files, for receipts that say pending.

        Returns:
            ``"pending"`` where somebody still reads what was there before, and always on
            PostgreSQL, which decides itself when it writes over removed rows.

        Raises:
            DatabaseError: The database refused or failed.
        """
        return scrubbed(self._context)

    async def afinish_erasure(self) -> Heap:
        """Leave no byte of what was removed; see :meth:`finish_erasure`."""
        return await self._context.database.arun(self.finish_erasure)
