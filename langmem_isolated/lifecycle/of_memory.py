"""What an application's memory gives to its operators: one call each."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated.lifecycle.module_merges import ModuleMerges

if TYPE_CHECKING:
    from langmem_isolated._adapters.run_scope import ResolveScope
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

    @cached_property
    def grants(self) -> Grants:
        """What modules of one user let each other read, for operators; see :class:`Grants`."""
        from langmem_isolated.lifecycle.grants import Grants

        return Grants(self._context)
