"""What one scope's memory gives over its life: one call each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.scope import Scope

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.verification import Verified


@explains_calls
class ScopeLifecycle:
    """The life of one scope's memory, as :class:`ScopedMemory` has it."""

    _context: MemoryContext
    _scope: Scope
    _records: ScopedDatabase

    def verify(self) -> Verified:
        """Open all that the scope has, and find nothing missing that is counted.

        Not told: that an item of a store or an entry of a cache was removed or rolled back, nor
        that a whole older state was put back with the rows that count it.

        Raises:
            RecordDoesNotOpen: Something was changed, moved, exchanged, restored or removed.
            RecordError: A later version of this package wrote something.
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.verification import verified

        return verified(self._records)

    def confirm_claimed(self) -> int:
        """Confirm, for the user, all that was claimed: from now on it is recalled into prompts.

        Returns:
            How many sessions and threads were confirmed.

        Raises:
            RecordDoesNotOpen: A session's or thread's row was tampered with.
        """
        from langmem_isolated.lifecycle.claims import confirm_all

        return confirm_all(self._records)

    async def aconfirm_claimed(self) -> int:
        """Confirm all that was claimed; see :meth:`confirm_claimed`."""
        return await self._records.arun(self.confirm_claimed)

    async def averify(self) -> Verified:
        """Open all that the scope has; see :meth:`verify`."""
        return await self._records.arun(self.verify)
