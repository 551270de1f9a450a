"""Adapter of `QdrantVectorStore` (langchain-qdrant)."""

import importlib
from typing import Any

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langmem_isolated._adapters.document_tags import OWNER
from langmem_isolated._search.metadata_filters import Filter
from langmem_isolated.errors import IsolationViolation
from langmem_isolated.wrapping.adapters import (
    Hit,
    Query,
    StandardAdapter,
    Stored,
    Vector,
    VectorRows,
)
from langmem_isolated.wrapping.filter_conditions import Condition, OneOf, Within, conditions
from langmem_isolated.wrapping.unowned import MOST, Unowned, owners_in


class QdrantAdapter(StandardAdapter):
    """`QdrantVectorStore` of langchain-qdrant; sealed in its dense mode only.

    Sparse vectors that the collection weights by IDF are refused: `IsolationViolation`.

    On a server, give ``metadata.langmem_owner`` a payload index with ``is_tenant``.
    """

    def __init__(self, store: VectorStore) -> None:
        super().__init__(store)
        self._models: Any = importlib.import_module("qdrant_client.models")
        self.seals = self._is_dense = self.store.retrieval_mode == "dense"
        if not self._is_dense:
            self._refuse_idf()

    @property
    def name(self) -> str:
        """Qdrant, and the collection."""
        return f"QdrantVectorStore {self.store.collection_name}"

    def _refuse_idf(self) -> None:
        """Refuse sparse vectors whose scores depend on how many documents have a word.

        Qdrant counts those of the whole collection, the filter notwithstanding: a rare word of
        one's own scores less once somebody else has written it.
        """
        config = self.store.client.get_collection(self.store.collection_name).config.params
        sparse = (config.sparse_vectors or {}).get(self.store.sparse_vector_name)
        if sparse is not None and sparse.modifier == self._models.Modifier.IDF:
            raise IsolationViolation(
                "The sparse vectors of this Qdrant collection are weighted by IDF, which counts "
                "the documents of all owners: scores would tell one user which words others "
                "write. Nothing was read or written. Make the collection without "
                "modifier=Modifier.IDF, use the dense mode, or search by words with "
                "IsolatedBM25Retriever."
            )

    def where(self, owners: list[str], wanted: Filter | None) -> Any:
        """A `models.Filter`."""
        return self._all([OneOf(OWNER, owners), *conditions(wanted)])

    def _all(self, parts: list[Condition]) -> Any:
        return self._models.Filter(must=[self._part(part) for part in parts])

    def _part(self, condition: Condition) -> Any:
        models = self._models
        if not isinstance(condition, OneOf | Within):
            return models.Filter(should=[self._all(branch) for branch in condition.branches])
        key = f"{self.store.metadata_payload_key}.{condition.key}"
        if isinstance(condition, Within):
            limit = models.Range(**{condition.operator.removeprefix("$"): condition.limit})
            return models.FieldCondition(key=key, range=limit)
        if isinstance(condition.values[0], str):
            match = models.MatchAny(any=condition.values)
            return models.FieldCondition(key=key, match=match)
        if isinstance(condition.values[0], bool):
            match = models.MatchValue(value=condition.values[0])
            return models.FieldCondition(key=key, match=match)
        # As ranges: a match of 1 would not find 1.0.
        exact = [models.Range(gte=value, lte=value) for value in condition.values]
        return models.Filter(should=[models.FieldCondition(key=key, range=one) for one in exact])

    def put_vectors(self, rows: VectorRows) -> None:
        """Store vectors as they are."""
        store = self.store
        points = [
            self._models.PointStruct(
                id=id_,
                vector={store.vector_name: vector},
                payload={store.content_payload_key: text, store.metadata_payload_key: metadata},
            )
            for id_, text, vector, metadata in zip(
                rows.ids, rows.texts, rows.vectors, rows.metadatas, strict=True
            )
        ]
        store.client.upsert(collection_name=store.collection_name, points=points)

    def get(self, ids: list[str]) -> list[Document]:
        """The documents that have these ids."""
        return [_as_put(document) for document in super().get(ids)]

    def prepared(self, query: str) -> Query:
        """The text for a search by words, too."""
        return super().prepared(query) if self._is_dense else query

    def nearest(self, query: Query, k: int, **options: Any) -> list[Hit]:
        """The nearest documents."""
        return [
            Hit(_as_put(hit.document), hit.score) for hit in super().nearest(query, k, **options)
        ]

    def owned(self, owner: str, k: int) -> list[str]:
        """Ids of the owner's documents."""
        which = {"scroll_filter": self.where([owner], None), "limit": k, "with_payload": False}
        points, _ = self.store.client.scroll(self.store.collection_name, **which)
        return [str(point.id) for point in points]

    def unowned(self) -> Unowned:
        """How many documents have no owner: Qdrant counts them."""
        found = self.store.client.count(self.store.collection_name, self._without(), exact=True)
        return Unowned(found.count, is_exact=True)

    def _without(self) -> Any:
        field = self._models.PayloadField(key=f"{self.store.metadata_payload_key}.{OWNER}")
        return self._models.Filter(must=[self._models.IsEmptyCondition(is_empty=field)])

    def unowned_ids(self) -> list[Any]:
        """Ids of all points without an owner, texts or whole numbers."""
        found: list[Any] = []
        which = {"scroll_filter": self._without(), "limit": MOST, "with_payload": False}
        offset: Any = None
        while True:
            points, offset = self.store.client.scroll(
                self.store.collection_name, offset=offset, **which
            )
            found += [point.id for point in points]
            if offset is None:
                return found

    def stored(self, ids: list[Any]) -> list[Stored]:
        """What is there under ids; points may have more than LangChain reads of them."""
        points = self.store.client.retrieve(
            self.store.collection_name, ids, with_payload=True, with_vectors=True
        )
        return [self._stored(point) for point in points]

    def _stored(self, point: Any) -> Stored:
        store, payload = self.store, point.payload or {}
        known = {store.content_payload_key, store.metadata_payload_key}
        vectors = (
            point.vector if isinstance(point.vector, dict) else {store.vector_name: point.vector}
        )
        text, metadata = (
            payload.get(key) for key in (store.content_payload_key, store.metadata_payload_key)
        )
        if not isinstance(text, str) or not isinstance(metadata or {}, dict):
            return Stored(
                point.id, None, fault="its payload has no text, or metadata of another type"
            )
        if more := len({*payload} - known):
            return Stored(
                point.id, None, fault=f"its payload has {more} more fields than LangChain's"
            )
        if self._is_dense and {*vectors} != {store.vector_name}:
            return Stored(
                point.id, None, fault=f"it has {len(vectors)} vectors, of which one would be kept"
            )
        document = Document(id=str(point.id), page_content=text, metadata=metadata or {})
        return Stored(point.id, document, vectors[store.vector_name] if self._is_dense else None)

    def owners(self) -> set[str]:
        """The owner tags of the first 10,000 documents."""
        payload, which = self.store.metadata_payload_key, {"limit": MOST, "with_payload": True}
        points, _ = self.store.client.scroll(self.store.collection_name, **which)
        return owners_in((point.payload or {}).get(payload) for point in points)

    def vectors(self, ids: list[str]) -> list[Vector] | None:
        """The stored vectors; those of the dense mode can be compared."""
        if not self._is_dense:
            return None
        name = self.store.vector_name
        found = self.store.client.retrieve(
            self.store.collection_name, ids, with_payload=False, with_vectors=True
        )
        stored = {
            point.id: point.vector[name] if isinstance(point.vector, dict) else point.vector
            for point in found
        }
        return [stored[id_] for id_ in ids]


def _as_put(document: Document) -> Document:
    """A document of Qdrant with its id where it belongs, and without what the store added."""
    metadata = {**document.metadata}
    id_ = metadata.pop("_id", None)
    metadata.pop("_collection_name", None)
    return Document(id=id_ and str(id_), page_content=document.page_content, metadata=metadata)
