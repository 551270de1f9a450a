"""What an application's memory gives to its operators: one call each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import seconds
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.retention import Retention
    from langmem_isolated.lifecycle.sweeping import Progress, Swept


@explains_calls
class MemoryLifecycle:
    """The life of everybody's memory, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    # --- retention, legal hold and sweep

    @cached_property
    def retention(self) -> Retention:
        """How long memory is kept, legal holds, sweeping in the background; for operators.

        See :class:`~langmem_isolated.lifecycle.Retention`.
        """
        from langmem_isolated.lifecycle.retention import Retention

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
        Swept(counts={'item': 1}, is_done=True, held=0, damaged=0, is_dry_run=False)

        Args:
            max_seconds: Begin no batch after so many; by default go on to the end.
            dry_run: Count what would be removed, and remove nothing.
            progress: Called after each batch with the number of records removed so far. What it
                raises ends the sweep between two batches.

        Raises:
            TypeError: ``max_seconds`` is no number.
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
        from langmem_isolated.lifecycle.sweeping import Removal, Sweep

        if max_seconds is not None:
            seconds("max_seconds", max_seconds, or_none=True)
        removal = Removal(self._context, max_seconds, is_dry=dry_run, is_stopped=is_stopped)
        if progress is not None:
            removal.progress = progress
        return Sweep(removal).run()

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
        from langmem_isolated.lifecycle.clearing import Clearing

        project = checked_id("project_id", project_id)
        user = Owner(Level.USER, project, checked_id("user_id", user_id))
        return Clearing(self._context, progress).owners(self._context.keyring.owners(user))

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
