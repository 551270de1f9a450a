"""What one scope's memory gives over its life: one call each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.scope import Scope

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.shared_memory import SharedMemory
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

    async def averify(self) -> Verified:
        """Open all that the scope has; see :meth:`verify`."""
        return await self._records.arun(self.verify)

    def shared_from(self, module_id: str) -> SharedMemory:
        """What another module of the same user lets this one read; see :class:`SharedMemory`.

        Args:
            module_id: Whose memory is read. Without a grant in force every call raises `NotShared`.

        Raises:
            ScopeError: ``module_id`` is missing or malformed, or this scope's own.
        """
        from langmem_isolated.lifecycle.shared_memory import SharedMemory

        return SharedMemory(self._context, self._scope, module_id)
