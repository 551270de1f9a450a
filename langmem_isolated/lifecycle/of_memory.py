"""What an application's memory gives to its operators: one call each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import callback, seconds, true_or_false
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated.lifecycle.adoption.of_memory import StoreAdoptions
from langmem_isolated.lifecycle.audit.of_memory import Audited
from langmem_isolated.lifecycle.backup import MemoryBackups
from langmem_isolated.lifecycle.bulk_import.of_memory import BulkImports
from langmem_isolated.lifecycle.erasure.reapplication import ErasuresAgain
from langmem_isolated.lifecycle.export.of_memory import UserExports
from langmem_isolated.lifecycle.health import HealthChecks
from langmem_isolated.lifecycle.imports.of_memory import UserImports
from langmem_isolated.lifecycle.locking.of_memory import UserLocks
from langmem_isolated.lifecycle.moving.of_memory import MemoryMoves
from langmem_isolated.lifecycle.root_key_rotation import RootKeyRotations
from langmem_isolated.lifecycle.rotation.of_memory import KeyRotations
from langmem_isolated.lifecycle.sharing.of_memory import ModuleMerges
from langmem_isolated.lifecycle.users import UserListings
from langmem_isolated.lifecycle.verification.of_memory import Verifications
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.retention.retention import Retention
    from langmem_isolated.lifecycle.retention.sweeping import Progress, Swept

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.isolation import ModuleIsolation
    from langmem_isolated.lifecycle.quotas import Quotas
    from langmem_isolated.lifecycle.statistics import Stats

if TYPE_CHECKING:
    from langmem_isolated._adapters.run_scope import ResolveScope
    from langmem_isolated.lifecycle.profiles.comparison import ModuleComparison
    from langmem_isolated.lifecycle.profiles.tool import ProfileTool
    from langmem_isolated.lifecycle.sharing.grants import Grants


@explains_calls
class MemoryLifecycle(
    ModuleMerges,
    UserExports,
    UserImports,
    BulkImports,
    MemoryBackups,
    StoreAdoptions,
    ErasuresAgain,
    RootKeyRotations,
    Verifications,
    Audited,
    UserLocks,
    KeyRotations,
    MemoryMoves,
    UserListings,
    HealthChecks,
):
    """The life of everybody's memory, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    # --- retention, legal hold and sweep

    @cached_property
    def retention(self) -> Retention:
        """How long memory is kept, legal holds, sweeping in the background; for operators.

        See :class:`~langmem_isolated.lifecycle.Retention`.
        """
        from langmem_isolated.lifecycle.retention.retention import Retention

        return Retention(self._context)

    def sweep(
        self,
        max_seconds: float | None = None,
        *,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Swept:
        """Remove what has expired, and what policies keep no longer, of all users.

        In batches of at most 500 rows, each a transaction of its own. Interrupted between two, it
        loses nothing; the next one goes on. Several processes may sweep at once. What is due of a
        user on legal hold stays, and so does what does not open; both are counted.

        >>> scope.store().put(("drafts",), "first", {"text": "Once upon"}, ttl=60 / 10**9)
        >>> memory.sweep(dry_run=True).counts
        {'item': 1}
        >>> memory.sweep()
        Swept(counts={'item': 1}, is_done=True, held=0, damaged=0, is_dry_run=False, locked=0)

        Args:
            max_seconds: Begin no batch after so many; by default go on to the end.
            dry_run: Count what would be removed, and remove nothing.
            progress: Called after each batch with the number of records removed so far. What it
                raises ends the sweep between two batches.

        Raises:
            TypeError: ``max_seconds`` is no number, ``dry_run`` neither true nor false, or
                ``progress`` no function.
            ValueError: It is below 0.
            KeyringError: A key cannot be had, or belongs to another root key.
            DatabaseError: The database refused or failed; what was removed before is removed.
        """
        return self._swept(max_seconds, dry_run, progress, lambda: False)

    async def asweep(
        self,
        max_seconds: float | None = None,
        *,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Swept:
        """Remove what has expired; see :meth:`sweep`. Cancelled, it ends behind a batch."""
        ended = threading.Event()
        try:
            return await self._context.database.arun(
                self._swept, max_seconds, dry_run, progress, ended.is_set
            )
        finally:
            ended.set()

    def _swept(
        self,
        max_seconds: float | None,
        dry_run: bool,
        progress: Progress | None,
        is_stopped: Callable[[], bool],
    ) -> Swept:
        from langmem_isolated.lifecycle.retention.sweeping import Removal, Sweep

        true_or_false("dry_run", dry_run)
        if progress is not None:
            callback("progress", progress, example="progress=lambda removed: print(removed)")
        if max_seconds is not None:
            seconds("max_seconds", max_seconds, or_none=True)
        removal = Removal(self._context, max_seconds, is_dry=dry_run, is_stopped=is_stopped)
        if progress is not None:
            removal.progress = progress
        with self._context.database.operations.observing("sweep", "installation", None) as told:
            swept = Sweep(removal).run()
            told.count = sum(swept.counts.values())
        return swept

    # --- clear

    def clear_user(
        self, user_id: str, *, project_id: str = "default", progress: Progress | None = None
    ) -> dict[str, int]:
        """Remove all that a user has in all modules, and say how much of each kind.

        The account stays: keys, the user's policies, and the modules, which are empty. Otherwise as
        `scope.clear()`.

        Raises:
            ScopeError: An id is malformed.
            LegalHold: The user is on legal hold; nothing was removed.
            RecordDoesNotOpen: An item or entry was tampered with, and stays; all others went.
            DatabaseError: The database refused or failed; to call again goes on.
        """
        from langmem_isolated.lifecycle.retention.clearing import Clearing

        project = checked_id("project_id", project_id)
        user = Owner(Level.USER, project, checked_id("user_id", user_id))
        with self._context.audit.job("clear", user) as job:
            removed = Clearing(self._context, progress).owners(self._context.keyring.owners(user))
            job.count = sum(removed.values())
        return removed

    async def aclear_user(
        self, user_id: str, *, project_id: str = "default", progress: Progress | None = None
    ) -> dict[str, int]:
        """Remove all that a user has; see :meth:`clear_user`."""
        return await self._context.database.arun(
            self.clear_user, user_id, project_id=project_id, progress=progress
        )

    def _end_lifecycle(self) -> None:
        """End what runs in the background, as closing the memory does first."""
        if "retention" in self.__dict__:
            self.retention.stop()

    def stats(
        self,
        *,
        project_id: str | None = None,
        module_id: str | None = None,
        days: int = 30,
        largest: int = 0,
    ) -> Stats:
        """How much there is, by project, module and day; for operators.

        Counted from the rows of sessions, threads and collections, from an index, and from what was
        noted when it was written, without opening a record: 0.13 s at a million records. Projects,
        modules and models are named, users never. All of it is of one state of the database, and
        taken as it stands there: ``scope.verify()`` finds what was tampered with.

        >>> memory.stats().total.users
        1

        Args:
            project_id: Only this project; by default all. With ``module_id`` alone ``"default"``.
            module_id: Only this module of it.
            days: Of how many days, today's the last, UTC, to tell what happened: 1 to 36,500.
            largest: How many scopes to tell of by themselves, by their digests, those with the
                most bytes first.

        Raises:
            TypeError: ``days`` or ``largest`` is no whole number.
            ValueError: One is negative, or ``days`` is 0 or above 36,500.
            ScopeError: An id is malformed.
            KeyringError: A key cannot be had, or belongs to another root key.
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.statistics import stats

        with self._context.database.operations.observing("stats", "installation", None):
            return stats(
                self._context,
                project_id=project_id,
                module_id=module_id,
                days=days,
                largest=largest,
            )

    async def astats(
        self,
        *,
        project_id: str | None = None,
        module_id: str | None = None,
        days: int = 30,
        largest: int = 0,
    ) -> Stats:
        """How much there is; see :meth:`stats`."""
        return await self._context.database.arun(
            self.stats, project_id=project_id, module_id=module_id, days=days, largest=largest
        )

    @property
    def quotas(self) -> Quotas:
        """How much each user may ask of models; see :class:`~langmem_isolated.lifecycle.Quotas`."""
        from langmem_isolated.lifecycle.quotas import Quotas

        return Quotas(self._context)

    def profile_tool(
        self, *, scope_resolver: ResolveScope | None = None, **options: Any
    ) -> ProfileTool:
        """A profile's tool for the model of whoever runs; see :meth:`ScopedMemory.profile_tool`.

        Args:
            scope_resolver: As for :meth:`checkpointer`.
            options: Those of :meth:`ScopedMemory.profile_tool`.

        Raises:
            TypeError: An option is not known.
        """
        from langmem_isolated.lifecycle.profiles.tool import ProfileTool

        finder = self._context.finder(scope_resolver)
        return ProfileTool(lambda config: self._context.private(finder.of_call(config)), **options)

    def compare_modules(
        self,
        user_id: str,
        *,
        project_id: str = "default",
        modules: Iterable[str] | None = None,
    ) -> ModuleComparison:
        """What a user's modules know of them, side by side; for operators.

        Args:
            user_id: The user.
            project_id: The project.
            modules: Which modules, in this order; by default all in which the user has memory.

        Raises:
            ScopeError: An id is missing or malformed.
            TypeError: ``modules`` is no list.
            RecordDoesNotOpen: An entry of a profile was changed, moved or exchanged.
        """
        from langmem_isolated.lifecycle.profiles.comparison import compared

        user = Owner(
            Level.USER, checked_id("project_id", project_id), checked_id("user_id", user_id)
        )
        with self._context.audit.job("compare_modules", user):
            return compared(self._context, user_id, project_id, modules)

    async def acompare_modules(
        self,
        user_id: str,
        *,
        project_id: str = "default",
        modules: Iterable[str] | None = None,
    ) -> ModuleComparison:
        """What a user's modules know of them; see :meth:`compare_modules`."""
        return await self._context.database.arun(
            self.compare_modules, user_id, project_id=project_id, modules=modules
        )

    def verify_module_isolation(
        self, user_id: str, *, project_id: str = "default"
    ) -> ModuleIsolation:
        """Verify on what is stored that one user's modules are apart; for operators.

        No module has a key, a digest of a name, or the birth of a session, thread or collection of
        another; no record in one was sealed with a key of another, and of each 64 are tried with
        the keys of every other. Then all that each module has is opened with its own keys, as
        ``scope.verify()`` does: every session, message, answer and item.

        >>> memory.verify_module_isolation(user_id="alice").pairs
        0

        Raises:
            IsolationViolation: Something of one module stands in another. It names both by their
                digests.
            RecordDoesNotOpen: Something was changed, exchanged, restored or removed within one.
            ScopeError: An id is malformed.
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.isolation import verify_module_isolation

        user = Owner(Level.USER, project_id, user_id)
        with self._context.audit.job("verify_module_isolation", user):
            return verify_module_isolation(self._context, user_id=user_id, project_id=project_id)

    async def averify_module_isolation(
        self, user_id: str, *, project_id: str = "default"
    ) -> ModuleIsolation:
        """Verify that one user's modules are apart; see :meth:`verify_module_isolation`."""
        return await self._context.database.arun(
            self.verify_module_isolation, user_id=user_id, project_id=project_id
        )

    @cached_property
    def grants(self) -> Grants:
        """What modules of one user let each other read, for operators; see :class:`Grants`."""
        from langmem_isolated.lifecycle.sharing.grants import Grants

        return Grants(self._context)
