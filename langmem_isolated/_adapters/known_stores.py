"""Known stores: the third-party vector stores of this process, by the names that erasures know."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from weakref import ReferenceType, WeakKeyDictionary, ref

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langchain_core.vectorstores import VectorStore

    from langmem_isolated.wrapping import VectorStoreAdapter


class KnownStores:
    """The stores that were wrapped here, for as long as they are in use, and those included."""

    def __init__(self) -> None:
        self._wrapped: WeakKeyDictionary[VectorStore, _Wrapped] = WeakKeyDictionary()
        self._included: dict[tuple[str, int], tuple[VectorStore, VectorStoreAdapter]] = {}
        self._lock = threading.Lock()

    def is_tried(self, store: VectorStore, how: object) -> bool:
        """Whether the store was found to keep owners apart, with these options."""
        with self._lock:
            found = self._wrapped.get(store)
            return found is not None and how in found.tried

    def note_tried(self, store: VectorStore, how: object) -> None:
        """Remember that it was."""
        with self._lock:
            self._wrapped.setdefault(store, _Wrapped()).tried.add(how)

    def add(self, store: VectorStore, name: str, adapter: VectorStoreAdapter | None) -> None:
        """Know a store that was wrapped, and with which adapter if it was given one."""
        with self._lock:
            known = self._wrapped.setdefault(store, _Wrapped())
            known.names[name] = None if adapter is None else ref(adapter)

    def include(
        self,
        store: VectorStore,
        name: str | None = None,
        *,
        adapter: VectorStoreAdapter | None = None,
    ) -> None:
        """Keep a store for the erasures of this process, which may never have wrapped it.

        Args:
            store: Made as the application makes it; nothing is written to it until an erasure.
            name: That with which it was wrapped, if it was given one.
            adapter: What knows it; by default found by its class, or by LangChain's interface.

        Raises:
            TypeError: It is no vector store of another package.
            ScopeError: The name is malformed.
        """
        from langchain_core.vectorstores import VectorStore

        from langmem_isolated._adapters.vector_store_base import ScopedVectorStore
        from langmem_isolated.wrapping import any_adapter

        if not isinstance(store, VectorStore) or isinstance(store, ScopedVectorStore):
            raise TypeError(
                "include() takes a LangChain VectorStore of another package, got "
                f"{kind_of(store)}. Give the store that vector_store(wrapping=…) was given. "
                "Nothing was changed."
            )
        known = adapter or any_adapter(store)
        named = known.name if name is None else checked_id("name", name)
        with self._lock:
            # With the store itself: its id is no other's for as long as it is kept.
            self._included[named, id(store)] = store, known

    def of_name(self, name: str) -> list[VectorStoreAdapter]:
        """What knows each store that has this name; none, where the process has no such store."""
        from langmem_isolated.wrapping import any_adapter

        with self._lock:
            wrapped = [(store, {**one.names}) for store, one in self._wrapped.items()]
            included = self._included.items()
            found = [adapter for (named, _), (_, adapter) in included if named == name]
        for store, names in wrapped:
            if name in names:
                own = names[name]
                found.append((own and own()) or any_adapter(store))
        return found


class _Wrapped:
    """What is known of a store: with which options it was tried, and under which names."""

    def __init__(self) -> None:
        self.tried: set[object] = set()
        # An adapter has its store, which would never be let go.
        self.names: dict[str, ReferenceType[VectorStoreAdapter] | None] = {}
