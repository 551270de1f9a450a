"""Adapter of `InMemoryVectorStore` (langchain-core)."""

from collections.abc import Callable
from typing import Any

from langchain_core.documents import Document

from langmem_isolated._adapters.document_tags import OWNER
from langmem_isolated._search.metadata_filters import Filter
from langmem_isolated.wrapping.adapters import StandardAdapter, Vector, VectorRows
from langmem_isolated.wrapping.pushdown import owner_test
from langmem_isolated.wrapping.unowned import Unowned, counted, owners_in, without_owner


class InMemoryAdapter(StandardAdapter):
    """`InMemoryVectorStore` of langchain-core: it filters by a function, and exactly."""

    seals = True
    name = "InMemoryVectorStore"

    def where(self, owners: list[str], wanted: Filter | None) -> Callable[[Document], bool]:
        """A function of the document."""
        passes = owner_test(owners, wanted)
        return lambda document: passes(document.metadata)

    def put_vectors(self, rows: VectorRows) -> None:
        """Store vectors as they are."""
        for id_, text, vector, metadata in zip(
            rows.ids, rows.texts, rows.vectors, rows.metadatas, strict=True
        ):
            row = {"id": id_, "vector": vector, "text": text, "metadata": metadata}
            self.store.store[id_] = row

    def vectors(self, ids: list[str]) -> list[Vector] | None:
        """The stored vectors."""
        return [self.store.store[id_]["vector"] for id_ in ids]

    def owned(self, owner: str, k: int) -> list[str]:
        """Ids of the owner's documents."""
        rows = [*self.store.store.items()]
        return [id_ for id_, row in rows if row["metadata"].get(OWNER) == owner][:k]

    def unowned(self) -> Unowned:
        """How many documents have no owner, of the first 10,000."""
        return counted(row["metadata"] for row in [*self.store.store.values()])

    def unowned_ids(self) -> list[Any]:
        """Ids of all documents without an owner."""
        return without_owner((id_, row["metadata"]) for id_, row in [*self.store.store.items()])

    def owners(self) -> set[str]:
        """The owner tags of the first 10,000 documents."""
        return owners_in(row["metadata"] for row in [*self.store.store.values()])

    def relevance(self) -> Callable[[float], float]:
        """The score: a cosine, and what points the other way is not relevant at all."""
        return lambda score: max(0.0, score)
