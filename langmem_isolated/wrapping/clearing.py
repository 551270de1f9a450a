"""Clearing: removes every document of one owner from a third-party store, by its owner tag."""

from langchain_core.vectorstores import VectorStore

from langmem_isolated.errors import WrappedStoreKeeps
from langmem_isolated.wrapping.adapters import PostFilterAdapter, VectorStoreAdapter
from langmem_isolated.wrapping.registry import adapter_of

# Stores refuse more ids than they have parameters for: Chroma 5,461, PostgreSQL 65,535.
_AT_ONCE = 1_000


def any_adapter(store: VectorStore) -> VectorStoreAdapter:
    """What knows a store well enough to remove documents from it, found by its class or not.

    >>> any_adapter(shared).name
    'InMemoryVectorStore'
    """
    return adapter_of(store) or PostFilterAdapter(store)


def all_owned(adapter: VectorStoreAdapter, owner: str) -> list[str]:
    """Ids of all documents of an owner, however many: the store is asked until it has no more.

    >>> notes = scope.vector_store(wrapping=shared)
    >>> ids = notes.add_texts(["Fractions are parts.", "Ratios compare."])
    >>> len(all_owned(any_adapter(shared), *notes.readable_tags()))
    2

    Args:
        adapter: Of the store.
        owner: Their ``langmem_owner``.
    """
    asked = _AT_ONCE
    while len(ids := adapter.owned(owner, asked)) >= asked:
        asked *= 2
    return ids


def clear_owner(adapter: VectorStoreAdapter, owner: str) -> int:
    """Remove an owner's documents, sealed or not; how many. The store is asked again for any.

    >>> notes = scope.vector_store(wrapping=shared)
    >>> ids = notes.add_texts(["Fractions are parts.", "Ratios compare."])
    >>> clear_owner(any_adapter(shared), *notes.readable_tags())
    2

    Args:
        adapter: Of the store.
        owner: Their ``langmem_owner``.

    Raises:
        WrappedStoreKeeps: The store still has what it was told to remove.
    """
    count, ids = 0, adapter.owned(owner, _AT_ONCE)
    while ids:
        adapter.delete(ids)
        left = adapter.owned(owner, _AT_ONCE)
        if not set(left).isdisjoint(ids):
            raise WrappedStoreKeeps(adapter.name)
        count, ids = count + len(ids), left
    return count
