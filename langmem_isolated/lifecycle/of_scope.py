"""What one scope's memory gives over its life: one call each."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._runtime.operations import counted, observed, summed
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.sessions.listing import session_digest
from langmem_isolated.errors import SessionNotFound
from langmem_isolated.lifecycle.audit.of_memory import AuditedScope
from langmem_isolated.scope import Scope, checked_id

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from langmem_isolated.lifecycle.collections import Collections
    from langmem_isolated.lifecycle.profiles.overview import Overview
    from langmem_isolated.lifecycle.profiles.profile import Profile
    from langmem_isolated.lifecycle.profiles.tool import ProfileTool
    from langmem_isolated.lifecycle.retention.applied import RetentionApplied
    from langmem_isolated.lifecycle.retention.sweeping import Progress
    from langmem_isolated.lifecycle.sharing.shared_memory import SharedMemory
    from langmem_isolated.lifecycle.statistics import Stats
    from langmem_isolated.lifecycle.verification.verified import Verified


@explains_calls
class ScopeLifecycle(AuditedScope):
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
        from langmem_isolated.lifecycle.verification.verified import verified

        return verified(self._records)

    @observed("update_memory", "scope", counted)
    def confirm_claimed(self) -> int:
        """Confirm, for the user, all that was claimed: from now on it is recalled into prompts.

        Returns:
            How many sessions and threads were confirmed.

        Raises:
            RecordDoesNotOpen: A session's or thread's row was tampered with.
        """
        from langmem_isolated.lifecycle.guests.claims import confirm_all

        return confirm_all(self._records)

    async def aconfirm_claimed(self) -> int:
        """Confirm all that was claimed; see :meth:`confirm_claimed`."""
        return await self._records.arun(self.confirm_claimed)

    async def averify(self) -> Verified:
        """Open all that the scope has; see :meth:`verify`."""
        return await self._records.arun(self.verify)

    # --- what is kept, and for how long

    @cached_property
    def collections(self) -> Collections:
        """The scope's own documents, without a model; see :class:`Collections`."""
        from langmem_isolated.lifecycle.collections import Collections

        return Collections(self._records)

    @observed("search_memory", "policy")
    def retention(self) -> RetentionApplied:
        """How long what is in this scope is kept; what has no policy is kept for ever.

        >>> _ = memory.retention.keep("message", module_id="tutor", days=90)
        >>> scope.retention().policies
        (Policy(message, age=90 days, 0:00:00),)

        Raises:
            RecordDoesNotOpen: A policy or a legal hold was tampered with.
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.retention.applied import applied_to

        return applied_to(self._context, self._records.owner)

    async def aretention(self) -> RetentionApplied:
        """How long what is in this scope is kept; see :meth:`retention`."""
        return await self._records.arun(self.retention)

    # --- clear

    @observed("delete_memory", "scope", summed)
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
        from langmem_isolated.lifecycle.retention.clearing import Clearing

        clearing, owner = Clearing(self._context, progress), self._records.owner
        if channel is not None:
            return clearing.channel(owner, checked_id("channel", channel))
        return clearing.owners([owner])

    async def aclear(
        self, *, channel: str | None = None, progress: Progress | None = None
    ) -> dict[str, int]:
        """Remove all that the scope has; see :meth:`clear`."""
        return await self._records.arun(self.clear, channel=channel, progress=progress)

    @observed("delete_memory", "session", summed)
    def clear_session(self, session_id: str) -> dict[str, int]:
        """Remove a chat session with its messages, and say how many; in batches.

        Raises:
            SessionNotFound: This scope has no such session.
            LegalHold: The user is on legal hold; nothing was removed.
        """
        from langmem_isolated.lifecycle.retention.clearing import Clearing

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

    @observed("stats", "scope")
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

    def profile(self) -> Profile:
        """What this module knows of the user: facts, interests, attributes; see :class:`Profile`.

        Reads nothing until it is asked for something. Another module has another.
        """
        from langmem_isolated.lifecycle.profiles.profile import Profile

        return Profile(self._records)

    def cross_module(self) -> Profile:
        """The notebook that all modules of this user share, one for each user and project.

        A :class:`Profile` like the module's own, but every module of the user reads and writes it.
        Nothing gets there unless a module writes it there.
        """
        from langmem_isolated._crypto.owners import Level, Owner
        from langmem_isolated.lifecycle.profiles.profile import Profile

        shared = self._context.records(Owner.at(Level.USER, self._scope))
        return Profile(shared, self._scope.module_id)

    def overview(self) -> Overview:
        """What a profile page shows: conversations, messages, first and last activity.

        From rows that count, without reading messages: as quick with a million as with ten. The
        numbers are as the rows say; :meth:`verify` finds out whether somebody changed them.

        Raises:
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.profiles.overview import overview_of

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
        from langmem_isolated.lifecycle.profiles.tool import ProfileTool

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
        from langmem_isolated.lifecycle.sharing.shared_memory import SharedMemory

        return SharedMemory(self._context, self._scope, module_id)

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
