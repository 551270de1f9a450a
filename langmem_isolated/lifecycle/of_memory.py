"""What an application's memory gives to its operators: one call each."""

from __future__ import annotations

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.calls import explains_calls


@explains_calls
class MemoryLifecycle:
    """The life of everybody's memory, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext
