"""Adoption of third-party vector stores, as operators call it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.arguments import kind_of, refuse_single
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langchain_core.vectorstores import VectorStore

    from langmem_isolated.lifecycle.adoption.store import AdoptingStore
    from langmem_isolated.wrapping import VectorStoreAdapter


@explains_calls
class StoreAdoptions:
    """Adoption of third-party stores, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    def adopting(
        self,
        store: VectorStore,
        *,
        adapter: VectorStoreAdapter | None = None,
        seal: bool = False,
        name: str | None = None,
        readmit: Iterable[str] = (),
    ) -> AdoptingStore:
        """A third-party store whose documents without an owner are given to scopes; for operators.

        What decides whose each is, writes a journal and can be rolled back, is
        :class:`~langmem_isolated.importers.Adoption`.

        >>> ids = shared.add_texts(["Fractions are parts."], ids=["1"])
        >>> adopting = memory.adopting(shared)
        >>> [found] = adopting.stored(adopting.unowned_ids())
        >>> adopting.of(scope.scope).put([found])
        >>> adopting.remove(["1"])
        >>> [one.id for one in scope.vector_store(wrapping=shared).similarity_search("parts")]
        ['1']

        Args:
            store: The vector store.
            adapter: What knows it; by default found by its class.
            seal: Whether text and metadata are sealed in it.
            name: By which erasures know it; as in ``vector_store(wrapping=…)``.
            readmit: Ids of users who may come back though they were erased here.

        Raises:
            TypeError: No adapter is known, the store cannot be sealed, or ``readmit`` is one text.
            ScopeError: A name or an id is malformed.
        """
        from langchain_core.vectorstores import VectorStore

        from langmem_isolated.lifecycle.adoption.store import AdoptingStore
        from langmem_isolated.wrapping import any_adapter

        if not isinstance(store, VectorStore):
            raise TypeError(
                f"adopting() takes a LangChain VectorStore, got {kind_of(store)}. Give the store "
                "that the application searches in. Nothing was changed."
            )
        refuse_single("readmit", readmit, (), example='readmit=["ann"]')
        readmitted = frozenset(checked_id("readmit", one) for one in readmit)
        options = {"adapter": adapter or any_adapter(store), "seal": seal, "name": name}
        return AdoptingStore(self._context, store, options, readmitted)
