"""What an application's memory gives to its operators: one call each."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.calls import explains_calls

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.grants import Grants


@explains_calls
class MemoryLifecycle:
    """The life of everybody's memory, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    @cached_property
    def grants(self) -> Grants:
        """What modules of one user let each other read, for operators; see :class:`Grants`."""
        from langmem_isolated.lifecycle.grants import Grants

        return Grants(self._context)
