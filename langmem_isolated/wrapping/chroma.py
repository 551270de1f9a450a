"""Adapter of `Chroma` (langchain-chroma)."""

import math
from collections.abc import Callable
from typing import Any

from langchain_core.documents import Document

from langmem_isolated._adapters.document_tags import OWNER
from langmem_isolated._search.metadata_filters import Filter
from langmem_isolated.wrapping.adapters import (
    Hit,
    Query,
    StandardAdapter,
    Stored,
    Vector,
    VectorRows,
    ids_of,
)
from langmem_isolated.wrapping.filter_conditions import OneOf, Within, conditions
from langmem_isolated.wrapping.pushdown import filter_of
from langmem_isolated.wrapping.unowned import MOST, Unowned, counted, owners_in, without_owner


def _l2(vectors: Any, query: Vector) -> Any:
    return ((vectors - query) ** 2).sum(axis=1)


def _inner_product(vectors: Any, query: Vector) -> Any:
    return 1 - vectors.dot(query)


def _cosine(vectors: Any, query: Vector) -> Any:
    lengths = (vectors**2).sum(axis=1) ** 0.5 * math.hypot(*query)
    return 1 - vectors.dot(query) / (lengths + _ALMOST_NOTHING)


# As Chroma computes them; the lower, the nearer.
_DISTANCES: dict[str, Callable[[Any, Vector], Any]] = {
    "l2": _l2,
    "ip": _inner_product,
    "cosine": _cosine,
}
_COLUMNS = ("documents", "metadatas", "embeddings")
# A vector of zeros points nowhere.
_ALMOST_NOTHING = 1e-30


class ChromaAdapter(StandardAdapter):
    """`Chroma` of langchain-chroma."""

    seals = True
    by_vector = "similarity_search_by_vector_with_relevance_scores"

    @property
    def name(self) -> str:
        """Chroma, and the collection."""
        return f"Chroma {self.store._collection.name}"

    def where(self, owners: list[str], wanted: Filter | None) -> dict[str, Any]:
        """Chroma's `where`."""
        return filter_of([OneOf(OWNER, owners), *conditions(wanted)], self._word)

    def _word(self, condition: OneOf | Within) -> dict[str, Any]:
        if isinstance(condition, OneOf):
            return {condition.key: {"$in": _of_one_type(condition.values)}}
        # Chroma compares whole numbers with a fraction as if it were whole, too.
        if condition.operator.startswith("$g"):
            return {condition.key: {"$gte": math.floor(condition.limit)}}
        return {condition.key: {"$lte": math.ceil(condition.limit)}}

    def search(self, query: Query, k: int, owners: list[str], wanted: Filter | None) -> list[Hit]:
        """The nearest documents; where the index gives fewer than there are, all are compared.

        Among many vectors that are equal its graph may lead to none of those that pass.
        """
        hits = super().search(query, k, owners, wanted)
        if len(hits) == k:
            return hits
        where = self.where(owners, wanted)
        ids = self.store.get(where=where, include=[])["ids"]
        return hits if len(ids) == len(hits) else self._compared(query, ids)[:k]

    def _compared(self, query: Query, ids: list[str]) -> list[Hit]:
        found = self.store.get(ids, include=[*_COLUMNS])
        asked = self.store.embeddings.embed_query(query) if isinstance(query, str) else query
        distances = _DISTANCES[self._space()](found["embeddings"], asked).tolist()
        rows = zip(found["ids"], found["documents"], found["metadatas"], distances, strict=True)
        hits = [
            Hit(Document(id=id_, page_content=text, metadata=metadata or {}), distance)
            for id_, text, metadata, distance in rows
        ]
        return sorted(hits, key=lambda hit: hit.score)

    def _space(self) -> str:
        configuration = self.store._collection.configuration
        index = configuration.get("hnsw") or configuration.get("spann") or {}
        return str(index.get("space", "l2"))

    def put(self, documents: list[Document], vectors: list[Vector] | None) -> None:
        """Store documents, with none of the metadata that their older selves had."""
        stored = {document.id: document for document in self.get(ids_of(documents))}
        super().put([_instead_of(stored.get(one.id), one) for one in documents], vectors)

    def put_vectors(self, rows: VectorRows) -> None:
        """Store vectors as they are."""
        self.store._collection.upsert(
            ids=rows.ids,
            embeddings=rows.vectors,
            documents=rows.texts,
            # It refuses an empty one.
            metadatas=[metadata or None for metadata in rows.metadatas],
        )

    def owned(self, owner: str, k: int) -> list[str]:
        """Ids of the owner's documents."""
        found: list[str] = self.store.get(where={OWNER: owner}, limit=k, include=[])["ids"]
        return found

    def unowned(self) -> Unowned:
        """How many documents have no owner, of the first 10,000: Chroma has no filter for it."""
        return counted(self.store.get(limit=MOST + 1, include=["metadatas"])["metadatas"])

    def unowned_ids(self) -> list[Any]:
        """Ids of all documents without an owner."""
        found: list[Any] = []
        for start in range(0, self.store._collection.count(), MOST):
            page = self.store.get(limit=MOST, offset=start, include=["metadatas"])
            found += without_owner(zip(page["ids"], page["metadatas"], strict=True))
        return found

    def stored(self, ids: list[Any]) -> list[Stored]:
        """What is there under ids; some have a vector and no text."""
        found = self.store.get(ids, include=[*_COLUMNS])
        rows = zip(*(found[key] for key in ("ids", *_COLUMNS)), strict=True)
        return [
            Stored(id_, None, fault="it has no text")
            if text is None
            else Stored(
                id_,
                Document(id=id_, page_content=text, metadata=metadata or {}),
                vector.tolist(),
            )
            for id_, text, metadata, vector in rows
        ]

    def owners(self) -> set[str]:
        """The owner tags of the first 10,000 documents."""
        return owners_in(self.store.get(limit=MOST, include=["metadatas"])["metadatas"])

    def vectors(self, ids: list[str]) -> list[Vector] | None:
        """The stored vectors."""
        found = self.store.get(ids, include=["embeddings"])
        stored = dict(zip(found["ids"], found["embeddings"], strict=True))
        return [stored[id_].tolist() for id_ in ids]


def _of_one_type(values: list[Any]) -> list[Any]:
    """Numbers as floats, if one is: Chroma finds whole ones by them, and refuses a mixture."""
    return [float(value) for value in values] if any(map(_is_float, values)) else values


def _is_float(value: object) -> bool:
    return isinstance(value, float)


def _instead_of(older: Document | None, document: Document) -> Document:
    """``document`` so that Chroma, which merges metadata, forgets those of ``older``."""
    if older is None:
        return document
    metadata = {**dict.fromkeys(older.metadata), **document.metadata}
    return Document(id=document.id, page_content=document.page_content, metadata=metadata)
