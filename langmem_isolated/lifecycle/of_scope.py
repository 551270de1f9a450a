"""What one scope's memory gives over its life: one call each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.scope import Scope

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.statistics import Stats
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

    def stats(self, *, days: int = 30) -> Stats:
        """How much this scope has, what happened in it by day, and what its models were asked.

        See :meth:`IsolatedMemory.stats`; below 1 ms for thousands of records.

        >>> scope.stats().total.sessions
        0

        Args:
            days: Of how many days, today's the last, UTC: 1 to 36,500.

        Raises:
            TypeError: ``days`` is no whole number.
            ValueError: It is 0 or less, or above 36,500.
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.statistics import stats_of

        return stats_of(self._context, self._records.owner, days=days)

    async def astats(self, *, days: int = 30) -> Stats:
        """How much this scope has; see :meth:`stats`."""
        return await self._records.arun(self.stats, days=days)

    def digest(self) -> str | None:
        """By which tables and logs know this scope, in 32 hexadecimal digits.

        A keyed digest: it tells neither user nor module to who has not the root key. ``None`` as
        long as nothing was ever stored in the database: then there is no key to make it with.

        Raises:
            KeyringError: A key cannot be had, or belongs to another root key.
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.statistics import digest_of

        return digest_of(self._context, self._records.owner)

    async def adigest(self) -> str | None:
        """By which tables and logs know this scope; see :meth:`digest`."""
        return await self._records.arun(self.digest)
