"""Finds the adapter of a vector store by the name of its class; imports none of the stores."""

from collections.abc import Mapping

from langchain_core.vectorstores import VectorStore

from langmem_isolated._adapters.vector_store_base import ScopedVectorStore
from langmem_isolated.wrapping.adapters import (
    PostFilterAdapter,
    StandardAdapter,
    VectorStoreAdapter,
)
from langmem_isolated.wrapping.chroma import ChromaAdapter
from langmem_isolated.wrapping.faiss import FAISSAdapter
from langmem_isolated.wrapping.in_memory import InMemoryAdapter
from langmem_isolated.wrapping.pgvector import PGVectorStoreAdapter
from langmem_isolated.wrapping.qdrant import QdrantAdapter

_ADAPTERS: Mapping[tuple[str, str], type[StandardAdapter]] = {
    ("langchain_core", "InMemoryVectorStore"): InMemoryAdapter,
    ("langchain_community", "FAISS"): FAISSAdapter,
    ("langchain_chroma", "Chroma"): ChromaAdapter,
    ("langchain_qdrant", "QdrantVectorStore"): QdrantAdapter,
    ("langchain_postgres", "PGVectorStore"): PGVectorStoreAdapter,
}


def adapter_of(store: VectorStore) -> VectorStoreAdapter | None:
    """The adapter for a store's class or one it descends from, if there is one."""
    for kind in type(store).__mro__:
        found = _ADAPTERS.get((kind.__module__.partition(".")[0], kind.__name__))
        if found:
            return found(store)
    return None


def unfiltered(store: VectorStore, *, allowed: bool) -> VectorStoreAdapter:
    """The adapter for a store that none is known for, and that is filtered after each search.

    Raises:
        TypeError: That was not allowed, or the store is one of ours.
    """
    if allowed:
        return PostFilterAdapter(store)
    if isinstance(store, ScopedVectorStore):
        raise TypeError(
            f"wrapping= takes another package's vector store, got {type(store).__name__}, which is "
            "one scope's already. Use it as it is, or wrap the store that all share."
        )
    raise TypeError(
        f"No adapter is known for {type(store).__name__}, so nothing says how it filters. Write "
        "one (langmem_isolated.wrapping.StandardAdapter) and pass adapter=…, or pass "
        "post_filter=True: then what is another's is dropped after each search."
    )
