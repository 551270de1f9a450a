"""Knows the vector stores that can be wrapped, by their classes' names; imports none of them."""

import importlib
import json
import math
import threading
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langmem_isolated._adapters.document_tags import OWNER
from langmem_isolated._search.metadata_filters import metadata_test
from langmem_isolated.wrapping._conditions import Condition, OneOf, Within, conditions
from langmem_isolated.wrapping.adapters import (
    Filter,
    Hit,
    Query,
    StandardAdapter,
    Vector,
    VectorStoreAdapter,
    ids_of,
)

# From here on JSON shows floats with an exponent.
_LARGEST_PLAIN = 10**15


class InMemoryAdapter(StandardAdapter):
    """`InMemoryVectorStore` of langchain-core: it filters by a function, and exactly."""

    seals = True

    def where(self, owners: list[str], wanted: Filter | None) -> Callable[[Document], bool]:
        """A function of the document."""
        passes = _test(owners, wanted)
        return lambda document: passes(document.metadata)

    def put_vectors(
        self,
        texts: list[str],
        vectors: list[Vector],
        metadatas: list[dict[str, Any]],
        ids: list[str],
    ) -> None:
        """Store vectors as they are."""
        for id_, text, vector, metadata in zip(ids, texts, vectors, metadatas, strict=True):
            row = {"id": id_, "vector": vector, "text": text, "metadata": metadata}
            self.store.store[id_] = row

    def vectors(self, ids: list[str]) -> list[Vector] | None:
        """The stored vectors."""
        return [self.store.store[id_]["vector"] for id_ in ids]

    def relevance(self) -> Callable[[float], float]:
        """The score: a cosine, and what points the other way is not relevant at all."""
        return lambda score: max(0.0, score)


class FAISSAdapter(StandardAdapter):
    """`FAISS` of langchain-community: it filters after the search, so the search is widened.

    FAISS adds vectors before it refuses an id that is taken, and every later search fails: here
    the old vector goes first. One store takes one call at a time. An index that looks at a part of
    its vectors only (IVF) finds what it looks at.
    """

    seals = True

    def __init__(self, store: VectorStore) -> None:
        super().__init__(store)
        self._lock = _lock_of(store)

    def where(self, owners: list[str], wanted: Filter | None) -> Callable[[dict[str, Any]], bool]:
        """A function of the metadata."""
        return _test(owners, wanted)

    def put(self, documents: list[Document], vectors: list[Vector] | None) -> None:
        """Embed first, so that nothing is removed if that fails."""
        texts = [document.page_content for document in documents]
        metadatas = [document.metadata for document in documents]
        vectors = self.store._embed_documents(texts) if vectors is None else vectors
        self.put_vectors(texts, vectors, metadatas, ids_of(documents))

    def put_vectors(
        self,
        texts: list[str],
        vectors: list[Vector],
        metadatas: list[dict[str, Any]],
        ids: list[str],
    ) -> None:
        """Store vectors as they are."""
        if any(len(vector) != self.store.index.d for vector in vectors):
            raise ValueError(f"The vectors of this store have {self.store.index.d} numbers.")
        with self._lock:
            self.delete(ids)
            pairs = zip(texts, vectors, strict=True)
            self.store.add_embeddings(pairs, metadatas=metadatas, ids=ids)

    def get(self, ids: list[str]) -> list[Document]:
        """The documents that have these ids."""
        with self._lock:
            return super().get(ids)

    def delete(self, ids: list[str]) -> None:
        """Remove documents; FAISS itself raises for ids that are not there."""
        with self._lock:
            if there := ids_of(self.get(ids)):
                self.store.delete(there)

    def prepared(self, query: str) -> Query:
        """The query's vector, outside of the lock."""
        return list(self.store._embed_query(query))

    def search(self, query: Query, k: int, owners: list[str], wanted: Filter | None) -> list[Hit]:
        """The nearest documents, from among more and more."""
        where = self.where(owners, wanted)
        with self._lock:
            total, fetch_k = self.store.index.ntotal, max(64, 4 * k)
            hits: list[Hit] = []
            while total:
                hits = self.nearest(query, k, filter=where, fetch_k=min(fetch_k, total))
                if len(hits) >= k or fetch_k >= total:
                    break
                fetch_k *= 4
        return hits

    def vectors(self, ids: list[str]) -> list[Vector] | None:
        """The stored vectors, if this kind of index gives them back."""
        with self._lock:
            rows = {id_: row for row, id_ in self.store.index_to_docstore_id.items()}
            try:
                return [self.store.index.reconstruct(rows[id_]).tolist() for id_ in ids]
            except RuntimeError:
                return None


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
# A vector of zeros points nowhere.
_ALMOST_NOTHING = 1e-30


class ChromaAdapter(StandardAdapter):
    """`Chroma` of langchain-chroma."""

    seals = True
    by_vector = "similarity_search_by_vector_with_relevance_scores"

    def where(self, owners: list[str], wanted: Filter | None) -> dict[str, Any]:
        """Chroma's `where`."""
        return _in_words([OneOf(OWNER, owners), *conditions(wanted)], self._word)

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
        found = self.store.get(ids, include=["documents", "metadatas", "embeddings"])
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

    def put_vectors(
        self,
        texts: list[str],
        vectors: list[Vector],
        metadatas: list[dict[str, Any]],
        ids: list[str],
    ) -> None:
        """Store vectors as they are."""
        self.store._collection.upsert(
            ids=ids, embeddings=vectors, documents=texts, metadatas=metadatas
        )

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


class QdrantAdapter(StandardAdapter):
    """`QdrantVectorStore` of langchain-qdrant; sealed in its dense mode only.

    On a server, give ``metadata.langmem_owner`` a payload index with ``is_tenant``.
    """

    def __init__(self, store: VectorStore) -> None:
        super().__init__(store)
        self._models: Any = importlib.import_module("qdrant_client.models")
        self.seals = self._is_dense = self.store.retrieval_mode == "dense"

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

    def put_vectors(
        self,
        texts: list[str],
        vectors: list[Vector],
        metadatas: list[dict[str, Any]],
        ids: list[str],
    ) -> None:
        """Store vectors as they are."""
        store = self.store
        points = [
            self._models.PointStruct(
                id=id_,
                vector={store.vector_name: vector},
                payload={store.content_payload_key: text, store.metadata_payload_key: metadata},
            )
            for id_, text, vector, metadata in zip(ids, texts, vectors, metadatas, strict=True)
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


class PGVectorStoreAdapter(StandardAdapter):
    """`PGVectorStore` of langchain-postgres, with an engine that has a loop of its own.

    Of the caller's filter only equality of texts, whole numbers and truth values is pushed down:
    other comparisons cast what stands in the rows, whoever's they are, and fail on what cannot be.
    Where an index of vectors stops before it has found enough, the search is done without it.
    """

    seals = True

    def __init__(self, store: VectorStore) -> None:
        super().__init__(store)
        self._inner = self.store._PGVectorStore__vs
        if self.store._engine._loop is None:
            raise TypeError(
                "This PGEngine has no loop of its own, and every call here may come from any "
                "thread: make it with PGEngine.from_connection_string(…)."
            )
        inner, unindexed = copy(self._inner), copy(self.store)
        inner.index_query_options = _WithoutIndex()
        unindexed._PGVectorStore__vs = inner
        self._unindexed = StandardAdapter(unindexed)

    def where(self, owners: list[str], wanted: Filter | None) -> dict[str, Any]:
        """The store's own filter language."""
        return _in_words([OneOf(OWNER, owners), *conditions(wanted)], self._word)

    def _word(self, condition: OneOf | Within) -> dict[str, Any] | None:
        if isinstance(condition, Within) or condition.key in self._columns:
            return None
        forms = [_json_texts(value) for value in condition.values]
        if not all(forms):
            return None
        texts = [text for form in forms for text in form]
        return {condition.key: {"$in": texts} if len(texts) > 1 else {"$eq": texts[0]}}

    @property
    def _columns(self) -> set[str]:
        inner = self._inner
        columns = {*inner.metadata_columns} - {OWNER}
        return columns | {inner.id_column, inner.content_column, inner.embedding_column}

    def put_vectors(
        self,
        texts: list[str],
        vectors: list[Vector],
        metadatas: list[dict[str, Any]],
        ids: list[str],
    ) -> None:
        """Store vectors as they are."""
        self.store.add_embeddings(texts, vectors, metadatas=metadatas, ids=ids)

    def prepared(self, query: str) -> Query:
        """The text for a search by words, too."""
        return query if self._inner.hybrid_search_config else super().prepared(query)

    def search(self, query: Query, k: int, owners: list[str], wanted: Filter | None) -> list[Hit]:
        """The nearest documents; too few are looked for again without an index of vectors."""
        options = {"filter": self.where(owners, wanted), **self._words(query)}
        hits = self.nearest(query, k, **options)
        return hits if len(hits) >= k else self._unindexed.nearest(query, k, **options)

    def _words(self, query: Query) -> dict[str, Any]:
        """Settings of its own for a hybrid search.

        The store would keep the first query's words in shared ones, and search by them for all.
        """
        shared = self._inner.hybrid_search_config
        if not shared:
            return {}
        if not isinstance(query, str):
            return {"hybrid_search_config": None}
        weights = {**shared.fusion_function_parameters}
        own = replace(shared, fts_query=query, fusion_function_parameters=weights)
        return {"hybrid_search_config": own}

    def vectors(self, ids: list[str]) -> list[Vector] | None:
        """The stored vectors."""
        found = self.store.get(ids=ids, include=["embeddings"])
        stored = dict(zip(found["ids"], found["embeddings"], strict=True))
        return [json.loads(stored[id_]) for id_ in ids]


class _WithoutIndex:
    """Settings of one query: vectors are compared one by one, and none is overlooked."""

    def to_parameter(self) -> list[str]:
        return ["enable_indexscan = off"]


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


_locks: WeakKeyDictionary[VectorStore, threading.RLock] = WeakKeyDictionary()
_locks_lock = threading.Lock()


def _lock_of(store: VectorStore) -> threading.RLock:
    """The one lock of a store, however often it is wrapped."""
    with _locks_lock:
        return _locks.setdefault(store, threading.RLock())


def _test(owners: list[str], wanted: Filter | None) -> Callable[[Mapping[str, Any]], bool]:
    passes = metadata_test(wanted)
    return lambda metadata: metadata.get(OWNER) in owners and passes(metadata)


def _in_words(
    parts: list[Condition], word: Callable[[OneOf | Within], dict[str, Any] | None]
) -> dict[str, Any]:
    """Conditions in the language that Chroma and PGVectorStore share; ``None`` leaves one out."""
    return _joined("$and", [said for part in parts if (said := _said(part, word))])


def _said(
    part: Condition, word: Callable[[OneOf | Within], dict[str, Any] | None]
) -> dict[str, Any] | None:
    if isinstance(part, OneOf | Within):
        return word(part)
    branches = [[_said(one, word) for one in branch] for branch in part.branches]
    known = [[said for said in branch if said] for branch in branches]
    return _joined("$or", [_joined("$and", branch) for branch in known]) if all(known) else None


def _joined(operator: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    return parts[0] if len(parts) == 1 else {operator: parts}


def _json_texts(value: str | float) -> list[str]:
    """How JSON in the database may show a value; none if that depends."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    # Zero, large ones and fractions have several forms.
    is_plain = value and value == int(value) and abs(value) < _LARGEST_PLAIN
    return [f"{int(value)}", f"{int(value)}.0"] if is_plain else []


def _as_put(document: Document) -> Document:
    """A document of Qdrant with its id where it belongs, and without what the store added."""
    metadata = {**document.metadata}
    id_ = metadata.pop("_id", None)
    metadata.pop("_collection_name", None)
    return Document(id=id_ and str(id_), page_content=document.page_content, metadata=metadata)
