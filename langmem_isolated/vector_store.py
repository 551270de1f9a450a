"""Vector store of LangChain inside this database, sealed; exact search."""

# LangChain takes any keyword and most stores drop what they do not know: here it is refused.
# mypy: disable-error-code="override"

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, Protocol, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langmem_isolated._adapters.embedding_calls import aembedded, embedded, packed
from langmem_isolated._adapters.missing_digests import store_digests
from langmem_isolated._adapters.nearest_documents import (
    Asked,
    Hit,
    Nearest,
    Passing,
    nearest,
    terms_of,
)
from langmem_isolated._adapters.reembedding import Reembedding
from langmem_isolated._adapters.vector_store_arguments import checked_query
from langmem_isolated._adapters.vector_store_base import (
    Found,
    Query,
    ScopedVectorStore,
    check_diversity,
    checked_count,
)
from langmem_isolated._codecs.documents import decode_document, encode_document
from langmem_isolated._codecs.headers import CollectionHeader
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.arguments import whole_number
from langmem_isolated._runtime.calls import ONE_SCOPE, made_by
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.operations import Operation, found, given, observed
from langmem_isolated._runtime.plaintext_cache import CacheOfCall, PlaintextCache
from langmem_isolated._search.embedding_models import embedding_model_name
from langmem_isolated._search.equality import EqualityFields
from langmem_isolated._search.metadata_filters import Filter
from langmem_isolated._search.vectors import check_installed, most_diverse
from langmem_isolated._storage.container_state import BIRTH_BYTES
from langmem_isolated._storage.documents import collection as stored
from langmem_isolated._storage.documents import writing
from langmem_isolated._storage.documents.lookup import index
from langmem_isolated._storage.documents.unit_of_work import NewDocument
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import ScopeError
from langmem_isolated.scope import checked_id

# Texts that are embedded at once when a collection is embedded anew.
_BATCH = 64


class MakesVectorStores(Protocol):
    """What ``memory.scope(…)`` is."""

    def vector_store(self, embeddings: Embeddings, /) -> VectorStore:
        """A vector store of its scope."""


@made_by(f"{ONE_SCOPE}.vector_store(embeddings)", "memory.vector_store(embeddings)", first=list)
class IsolatedVectorStore(ScopedVectorStore):
    """A scope's documents: a LangChain `VectorStore` that needs no server and leaks nothing.

    Made by ``memory.scope(…).vector_store(embeddings)``. Text, metadata, ids and vectors are
    sealed. A search opens the vectors of the scope and ranks them exactly, by cosine; the filter is
    applied to opened metadata, and ``k`` documents come back whenever ``k`` pass it. What levels
    are shared with the scope is read along with its own documents; what is written is its own.

    A filter is a mapping, ``{"year": {"$gte": 2020}, "$or": [{…}, {…}]}``, with ``$eq $ne $in $nin
    $gt $gte $lt $lte $and $or $not``. Keyword arguments that are not known are refused: one
    misspelt must not widen what is found.

    >>> notes = scope.vector_store(embeddings)
    >>> years = [{"year": 2025}, {"year": 2026}]
    >>> notes.add_texts(["Fractions are parts.", "Ratios compare."], years, ids=["1", "2"])
    ['1', '2']
    >>> found = notes.similarity_search("parts", filter={"year": {"$gte": 2026}})
    >>> [document.page_content for document in found]
    ['Ratios compare.']

    Args:
        sources: Whose documents are read; those of the first are written.
        embeddings: Any LangChain embeddings.
        collection: A name, 1 to 255 bytes; the documents of one are apart from another's.
        embedding_name: Names the model; by default its class and settings do. It is kept, sealed,
            with the collection, which takes texts and queries of no other model.
        equality: Fields of metadata by which the database finds documents; see `IsolatedStore`.
        plaintext_cache: Keeps opened vectors; by default they are opened for each search.

    Raises:
        ScopeError: ``collection`` is missing or malformed.
        TypeError: ``embedding_name`` is no text, or ``equality`` no list of them.
        ValueError: ``embedding_name`` is empty, or ``equality`` names what is no field.
        ImportError: NumPy is not installed.
    """

    def __init__(
        self,
        sources: Sequence[ScopedDatabase],
        embeddings: Embeddings,
        collection: str = "default",
        *,
        embedding_name: str | None = None,
        equality: Sequence[str] | None = None,
        plaintext_cache: PlaintextCache | None = None,
    ) -> None:
        check_installed()
        super().__init__(sources[0].owner, sources[0].arun, sources[0].limits)
        self._sources = sources
        self._own = sources[0]
        self._embeddings = embeddings
        self._name = checked_id("collection", collection)
        self._collection = collection.encode()
        self._plaintext_cache = plaintext_cache
        self._equality = None if equality is None else EqualityFields(equality)
        if embedding_name is not None:
            self._model = embedding_model_name(embeddings, embedding_name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(collection=…)"

    @property
    def embeddings(self) -> Embeddings:
        """What turns texts into vectors."""
        return self._embeddings

    @cached_property
    def _model(self) -> str:
        return embedding_model_name(self._embeddings)  # 0.2 ms for a model of pydantic

    @property
    def _header(self) -> CollectionHeader:
        return CollectionHeader(self._name, self._model)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        scope: MakesVectorStores | None = None,
    ) -> Self:
        """Store texts in a scope's default collection and return its store.

        Args:
            texts: What to store.
            embedding: Any LangChain embeddings.
            metadatas: One for each text.
            ids: One for each text.
            scope: ``memory.scope(…)``.

        Raises:
            ScopeError: ``scope`` is missing.
        """
        store = cls._of(scope, embedding)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        scope: MakesVectorStores | None = None,
    ) -> Self:
        """Store texts in a scope's default collection; see :meth:`from_texts`."""
        store = cls._of(scope, embedding)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    def _of(cls, scope: MakesVectorStores | None, embedding: Embeddings) -> Self:
        made = getattr(scope, "vector_store", None)
        store = made(embedding) if callable(made) else None
        if not isinstance(store, cls):
            raise ScopeError(
                "from_texts needs scope=memory.scope(…), got "
                f"{type(scope).__name__}. There is no default."
            )
        return store

    def add_documents(
        self,
        documents: Iterable[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,  # noqa: ARG002 - LangChain's index passes its own
    ) -> list[str]:
        """Store documents in place of those that have their ids; all or none.

        Args:
            documents: What to store. Metadata may be anything that can be stored exactly.
            ids: One for each document; by default its own ``id``, or a new UUID. 1 to 1,024 bytes.
            batch_size: No effect: they are stored in one transaction.

        Returns:
            The ids.

        Raises:
            ValueError: There are not as many ids or embeddings as documents, an id is empty or too
                long, or an embedding is not finite.
            EmbeddingModelChanged: The collection is embedded by another model.
            EmbeddingRefused: The embeddings fail for one document, and not for others; what else
                they raise is their own.
            TypeError: An id is not a str.
            ValueNotStorable: Metadata hold a value without an exact stored form.
            LimitExceeded: A document, or all of them together, are beyond ``limits``.
        """
        if new := self._named(documents, ids):
            self._put(new, embedded(self._embeddings, _texts(new)))
        return [id_ for id_, _ in new]

    async def aadd_documents(
        self,
        documents: Iterable[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,  # noqa: ARG002 - LangChain's index passes its own
    ) -> list[str]:
        """Store documents; see :meth:`add_documents`."""
        if new := self._named(documents, ids):
            vectors = await aembedded(self._embeddings, _texts(new), self._arun)
            await self._arun(self._put, new, vectors)
        return [id_ for id_, _ in new]

    @observed("upsert_memory", "document", given, records="_own")
    def _put(self, new: list[tuple[str, Document]], vectors: list[list[float]]) -> None:
        # The last of one id counts.
        by_id = {
            id_: self._new(id_, document, embedding)
            for (id_, document), embedding in zip(new, packed(vectors, len(new)), strict=True)
        }
        self._limits.check_batch([document.body for document in by_id.values()])
        birth = os.urandom(BIRTH_BYTES)
        self._own.write(
            writing.put, self._collection, self._header, [*by_id.values()], birth, now()
        )

    def _new(self, id_: str, document: Document, embedding: bytes) -> NewDocument:
        body = self._limits.checked_size("document_bytes", encode_document(id_, document))
        return NewDocument(id_.encode(), body, embedding, terms=terms_of(self._equality, body))

    @observed("delete_memory", "document", given, records="_own")
    def _remove(self, names: list[str]) -> None:
        digested = [name.encode() for name in names]
        self._own.write_if_exists(writing.remove, None, self._collection, digested, now())

    def reembed(self, *, batch_size: int = _BATCH) -> int:
        """Embed the scope's documents in this collection anew, and keep this model's name with it.

        All or none: until every document has its new vector, the collection is that of the model
        before, which may go on to be written and searched. What others store meanwhile is embedded,
        too. If the embeddings fail nothing has changed; a `CacheBackedEmbeddings` keeps what was
        made for the next attempt.

        Args:
            batch_size: At most so many texts are given to the embeddings at once, 1 or more.

        Returns:
            How many documents have another vector.

        Raises:
            ValueError: The embeddings are too many or too few, not finite, or of several lengths.
            RecordDoesNotOpen: A document was changed, moved, added, removed or restored.
        """
        work = self._reembedding(batch_size)
        with self._reembedding_told() as told:
            while texts := work.next_texts():
                work.take(texts, self._embeddings.embed_documents(texts))
            told.count = work.count
        return work.count

    async def areembed(self, *, batch_size: int = _BATCH) -> int:
        """Embed the documents anew; see :meth:`reembed`."""
        work = self._reembedding(batch_size)
        with self._reembedding_told() as told:
            while texts := await self._arun(work.next_texts):
                await self._arun(work.take, texts, await self._embeddings.aembed_documents(texts))
            told.count = work.count
        return work.count

    def _reembedding_told(self) -> AbstractContextManager[Operation]:
        return self._own.operations.observing("update_memory", "document", self._own.owner)

    def _reembedding(self, batch_size: int) -> Reembedding:
        batch = whole_number("batch_size", batch_size, least=1)
        return Reembedding(self._own, self._collection, self._header, batch)

    @observed("delete_memory", "document", records="_own")
    def clear(self) -> None:
        """Remove every document of the scope in this collection."""
        self._own.write_if_exists(writing.clear, None, self._collection)

    @observed("search_memory", "document", found, records="_own")
    def _at(self, names: list[str]) -> dict[str, Document]:
        found: dict[str, bytes] = {}
        for source in reversed(self._readable()):
            found |= source.snapshot_lagging(_at, {}, self._collection, names)
        return {name: decode_document(body) for name, body in found.items()}

    def find(self, query: Query, k: int = 4, *, filter: Filter | None = None) -> Found:
        """The ``k`` nearest documents that pass, with scores, and whether there are no more.

        Args:
            query: A text or a vector.
            k: How many.
            filter: As in :meth:`similarity_search`.
        """
        self._check_search(query, filter)
        hits = self._nearest(self._prepared(query), k, filter)
        return Found([(hit.document, hit.score) for hit in hits], exhausted=len(hits) < k)

    def _prepared(self, query: Query | Asked) -> Asked:
        if isinstance(query, Asked):
            return query
        asked = checked_query(query)
        if isinstance(asked, str):
            return Asked.of(self._embeddings.embed_query(asked), self._model)
        return Asked.of(asked)

    async def _aprepared(self, query: Query) -> Asked:
        asked = checked_query(query)
        if isinstance(asked, str):
            return Asked.of(await self._embeddings.aembed_query(asked), self._model)
        return Asked.of(asked)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        # What points the other way is not relevant at all.
        return lambda similarity: min(1.0, max(0.0, similarity))

    def _diverse(
        self, query: Query, k: int, fetch_k: int, lambda_mult: float, filter: Filter | None
    ) -> list[Document]:
        self._check_search(query, filter)
        check_diversity(fetch_k, lambda_mult)
        asked = self._prepared(query)
        hits = self._nearest(asked, max(checked_count(k), fetch_k), filter)
        candidates = [hit.embedding for hit in hits]
        chosen = most_diverse(asked.vector, candidates, k, lambda_mult)
        return [hits[place].document for place in chosen]

    @observed("search_memory", "document", found, records="_own")
    def documents(self) -> list[Document]:
        """Every document that the scope may read in this collection, in no order."""
        bodies = (
            source.snapshot_lagging(stored.everything, [], self._collection)
            for source in self._readable()
        )
        return [decode_document(body) for found in bodies for body in found]

    async def adocuments(self) -> list[Document]:
        """Every document; see :meth:`documents`."""
        found: list[Document] = await self._arun(self.documents)
        return found

    def _readable(self) -> list[ScopedDatabase]:
        return self._own.having_records(self._sources)

    @observed("search_memory", "document", found, records="_own")
    def _nearest(self, asked: Asked, k: int, filter: Filter | None) -> list[Hit]:
        passing, count = Passing.of(filter, self._equality), checked_count(k)
        what = self._collection, asked, passing, count, CacheOfCall(self._plaintext_cache)
        found: list[Hit] = []
        for source in self._readable():
            hits, unindexed = source.snapshot_lagging(nearest, Nearest(), *what)
            found += hits
            # What others published is theirs to index.
            store_digests(source, index, unindexed if source is self._own else ())
        # Sorting is stable: of two that are as near, the own one comes first.
        return sorted(found, key=lambda hit: hit.score, reverse=True)[:count]


def _at(
    transaction: Transaction, keys: ScopeKeys, name: bytes, names: Sequence[str]
) -> dict[str, bytes]:
    collection = stored.find(transaction, keys, name)
    if collection is None:
        return {}
    digests = [collection.document_digest(one.encode()) for one in names]
    found = zip(names, collection.at(digests), strict=True)
    return {one: document.body for one, document in found if document}


def _texts(new: Iterable[tuple[str, Document]]) -> list[str]:
    return [document.page_content for _, document in new]
