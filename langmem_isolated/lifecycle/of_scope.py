"""What one scope's memory gives over its life: one call each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.scope import Scope

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from langmem_isolated.lifecycle.overview import Overview
    from langmem_isolated.lifecycle.profile import Profile
    from langmem_isolated.lifecycle.profile_tool import ProfileTool
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

    def profile(self) -> Profile:
        """What this module knows of the user: facts, interests, attributes; see :class:`Profile`.

        Reads nothing until it is asked for something. Another module has another.
        """
        from langmem_isolated.lifecycle.profile import Profile

        return Profile(self._records)

    def cross_module(self) -> Profile:
        """The notebook that all modules of this user share, one for each user and project.

        A :class:`Profile` like the module's own, but every module of the user reads and writes it.
        Nothing gets there unless a module writes it there.
        """
        from langmem_isolated._crypto.owners import Level, Owner
        from langmem_isolated.lifecycle.profile import Profile

        shared = self._context.records(Owner.at(Level.USER, self._scope))
        return Profile(shared, self._scope.module_id)

    def overview(self) -> Overview:
        """What a profile page shows: conversations, messages, first and last activity.

        From rows that count, without reading messages: as quick with a million as with ten. The
        numbers are as the rows say; :meth:`verify` finds out whether somebody changed them.

        Raises:
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.overview import overview_of

        return overview_of(self._records)

    async def aoverview(self) -> Overview:
        """What a profile page shows; see :meth:`overview`."""
        return await self._records.arun(self.overview)

    def profile_tool(self, **options: Any) -> ProfileTool:
        """:meth:`profile` as a tool for a model, which chooses action and text and nothing else.

        It lists, adds, corrects and removes facts, and notes interests. What it lists is quoted as
        data; a model may heed it all the same, and may be told by others to keep what is not true:
        give no more rights to the agent than its user has, or ``writes=False``.

        Args:
            options: ``max_characters``, how long an answer is at most, 4,000 by default and 1,000
                or more; ``writes``, whether it may change anything, by default it may; ``name`` and
                ``description``, what the model reads of it.

        Raises:
            TypeError: An option is not known.
        """
        from langmem_isolated.lifecycle.profile_tool import ProfileTool

        return ProfileTool(self._records_of_config, **options)

    def _records_of_config(self, config: RunnableConfig | None) -> ScopedDatabase:
        """The scope's records, for a call whose config names no other."""
        self._context.refuse_another(self._scope, config)
        return self._records

    def shared_from(self, module_id: str) -> SharedMemory:
        """What another module of the same user lets this one read; see :class:`SharedMemory`.

        Args:
            module_id: Whose memory is read. Without a grant in force every call raises `NotShared`.

        Raises:
            ScopeError: ``module_id`` is missing or malformed, or this scope's own.
        """
        from langmem_isolated.lifecycle.shared_memory import SharedMemory

        return SharedMemory(self._context, self._scope, module_id)
