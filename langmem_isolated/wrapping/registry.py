"""Finds the adapter of a vector store by the name of its class; imports none of the stores."""

from collections.abc import Mapping

from langchain_core.vectorstores import VectorStore

from langmem_isolated.wrapping.adapters import (
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
