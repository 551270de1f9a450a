"""What an application's memory gives to its operators: one call each."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated.lifecycle.module_merges import ModuleMerges

if TYPE_CHECKING:
    from langmem_isolated._adapters.run_scope import ResolveScope
    from langmem_isolated.lifecycle.comparison import ModuleComparison
    from langmem_isolated.lifecycle.grants import Grants
    from langmem_isolated.lifecycle.profile_tool import ProfileTool


@explains_calls
class MemoryLifecycle(ModuleMerges):
    """The life of everybody's memory, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

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
        from langmem_isolated.lifecycle.profile_tool import ProfileTool

        finder = self._context.finder(scope_resolver)
        return ProfileTool(lambda config: self._context.private(finder.of_call(config)), **options)

    def compare_modules(
        self,
        *,
        user_id: str,
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
        from langmem_isolated.lifecycle.comparison import compared

        return compared(self._context, user_id, project_id, modules)

    async def acompare_modules(
        self,
        *,
        user_id: str,
        project_id: str = "default",
        modules: Iterable[str] | None = None,
    ) -> ModuleComparison:
        """What a user's modules know of them; see :meth:`compare_modules`."""
        from langmem_isolated.lifecycle.comparison import compared

        return await self._context.database.arun(
            compared, self._context, user_id, project_id, modules
        )

    @cached_property
    def grants(self) -> Grants:
        """What modules of one user let each other read, for operators; see :class:`Grants`."""
        from langmem_isolated.lifecycle.grants import Grants

        return Grants(self._context)
