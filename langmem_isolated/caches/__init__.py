"""Caches of LangChain and LangGraph, and a byte store, isolated and encrypted."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langmem_isolated.caches.byte_store import IsolatedByteStore
    from langmem_isolated.caches.llm_cache import IsolatedLLMCache
    from langmem_isolated.caches.node_cache import IsolatedNodeCache

__all__ = ["IsolatedByteStore", "IsolatedLLMCache", "IsolatedNodeCache"]

# Each is loaded when it is asked for: the cache of nodes needs LangGraph, the others do not.
_HOMES = {
    "IsolatedByteStore": "byte_store",
    "IsolatedLLMCache": "llm_cache",
    "IsolatedNodeCache": "node_cache",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
