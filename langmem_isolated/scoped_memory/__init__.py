"""One scope's memory, as ``memory.scope(…)`` gives it, and what it gives to retrieval."""

from langmem_isolated.scoped_memory.anonymous import AnonymousMemory
from langmem_isolated.scoped_memory.memory import EphemeralMemory, ScopedMemory
from langmem_isolated.scoped_memory.retrieval import ScopedRetrieval

__all__ = ["AnonymousMemory", "EphemeralMemory", "ScopedMemory", "ScopedRetrieval"]
