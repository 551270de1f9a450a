"""One scope's memory, what it gives to retrieval, and forms that find the scope of each call."""

from langmem_isolated.scoped_memory.anonymous import AnonymousMemory
from langmem_isolated.scoped_memory.memory import EphemeralMemory, ScopedMemory
from langmem_isolated.scoped_memory.memory_of_run import MemoryOfRun
from langmem_isolated.scoped_memory.retrieval import ScopedRetrieval

__all__ = ["AnonymousMemory", "EphemeralMemory", "MemoryOfRun", "ScopedMemory", "ScopedRetrieval"]
