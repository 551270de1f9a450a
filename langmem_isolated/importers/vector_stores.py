"""Vector store source: reads the documents of a third-party vector store, with their vectors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignDocument, Rejected
from langmem_isolated.wrapping import any_adapter

if TYPE_CHECKING:
    from langchain_core.vectorstores import VectorStore

    from langmem_isolated.wrapping import Stored, VectorStoreAdapter

_AT_ONCE = 500


class VectorStoreSource(Source):
    """The documents of a LangChain vector store that bear no owner, for the memory's own database.

    Nothing is written to the store, and nothing is embedded.

    >>> from langmem_isolated.importers import VectorStoreSource
    >>> ids = shared.add_texts(["Fractions are parts."], [{"owner": "alice"}])
    >>> [document] = VectorStoreSource(shared).units()
    >>> document.collection, document.fields, len(document.embedding) > 0
    ('InMemoryVectorStore', {'owner': 'alice'}, True)

    Args:
        store: The store.
        collection: What its documents' collection is called; by default the store's name.
        name: By which an import knows the store again; by default its kind and the name of its
            collection or table. Give one where two stores have the same.
        adapter: What knows the store; by default found by its class.
    """

    kind = "vector-store"

    def __init__(
        self,
        store: VectorStore,
        *,
        collection: str | None = None,
        name: str | None = None,
        adapter: VectorStoreAdapter | None = None,
    ) -> None:
        self._adapter: Any = adapter or any_adapter(store)
        self._name = str(name or self._adapter.name)
        self._collection = collection or self._name

    @property
    def identity(self) -> str:
        """The store's name."""
        return self._name

    @cached_property
    def _ids(self) -> list[Any]:
        # Stores have no order of their own that stays.
        return sorted(self._adapter.unowned_ids(), key=str)

    def total(self) -> int:
        """How many documents bear no owner."""
        return len(self._ids)

    def units(self) -> Iterator[ForeignDocument | Rejected]:
        """The documents, in the order of their ids as text.

        Raises:
            TypeError: The adapter does not list them.
        """
        for start in range(0, len(self._ids), _AT_ONCE):
            part = self._ids[start : start + _AT_ONCE]
            found = {str(one.id): one for one in self._adapter.stored(part)}
            for number, id_ in enumerate(part, start + 1):
                if one := found.get(str(id_)):
                    yield document_of(self._collection, f"{self.identity}, document {number}", one)


def document_of(collection: str, place: str, one: Stored) -> ForeignDocument | Rejected:
    """What a store has, as mappings and imports take it."""
    document = one.document
    if document is None:
        return Rejected(place, one.fault or "it cannot be read")
    return ForeignDocument(
        collection=collection,
        id=str(one.id),
        text=document.page_content,
        metadata=document.metadata,
        place=place,
        embedding=one.vector,
        fields=document.metadata,
    )
