"""What one scope's memory gives over its life: one call each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.sessions.listing import session_digest
from langmem_isolated.errors import SessionNotFound
from langmem_isolated.scope import Scope, checked_id

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.sweeping import Progress
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

    # --- clear

    def clear(
        self, *, channel: str | None = None, progress: Progress | None = None
    ) -> dict[str, int]:
        """Remove all that the scope has, and say how much of each kind; keys and scope stay.

        With ``channel`` only the messages of that channel, and the sessions that have no others.

        Readers find each session, thread and collection whole or absent. What is stored meanwhile
        stays. In batches of at most 500 rows.

        >>> scope.chat_history("monday").add_user_message("Hi")
        >>> scope.clear()
        {'session': 1, 'message': 1}

        Args:
            channel: Which channel's.
            progress: Called after each batch with the number of records removed so far.

        Raises:
            ScopeError: ``channel`` is malformed.
            LegalHold: The user is on legal hold; nothing was removed.
            RecordDoesNotOpen: An item or entry was tampered with, and stays; all others went.
            DatabaseError: The database refused or failed; to call again goes on.
        """
        from langmem_isolated.lifecycle.clearing import Clearing

        clearing, owner = Clearing(self._context, progress), self._records.owner
        if channel is not None:
            return clearing.channel(owner, checked_id("channel", channel))
        return clearing.owners([owner])

    async def aclear(
        self, *, channel: str | None = None, progress: Progress | None = None
    ) -> dict[str, int]:
        """Remove all that the scope has; see :meth:`clear`."""
        return await self._records.arun(self.clear, channel=channel, progress=progress)

    def clear_session(self, session_id: str) -> dict[str, int]:
        """Remove a chat session with its messages, and say how many; in batches.

        Raises:
            SessionNotFound: This scope has no such session.
            LegalHold: The user is on legal hold; nothing was removed.
        """
        from langmem_isolated.lifecycle.clearing import Clearing

        checked_id("session_id", session_id)
        keys = self._records.find_keys()
        digest = keys and session_digest(keys, session_id)
        counts = digest and Clearing(self._context).session(self._records.owner, digest)
        if not counts:
            raise SessionNotFound
        return counts

    async def aclear_session(self, session_id: str) -> dict[str, int]:
        """Remove a chat session with its messages; see :meth:`clear_session`."""
        return await self._records.arun(self.clear_session, session_id)
