"""What an application's memory gives to its operators: one call each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.calls import explains_calls

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.isolation import ModuleIsolation
    from langmem_isolated.lifecycle.quotas import Quotas
    from langmem_isolated.lifecycle.statistics import Stats


@explains_calls
class MemoryLifecycle:
    """The life of everybody's memory, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

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
        noted when it was written, without opening a record: 0.3 s at a million records. Projects,
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

        return stats(
            self._context, project_id=project_id, module_id=module_id, days=days, largest=largest
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

    def verify_module_isolation(
        self, *, user_id: str, project_id: str = "default"
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

        return verify_module_isolation(self._context, user_id=user_id, project_id=project_id)

    async def averify_module_isolation(
        self, *, user_id: str, project_id: str = "default"
    ) -> ModuleIsolation:
        """Verify that one user's modules are apart; see :meth:`verify_module_isolation`."""
        return await self._context.database.arun(
            self.verify_module_isolation, user_id=user_id, project_id=project_id
        )
