"""Finds documents by meaning: a vector store, sealed and in this database, for LangChain."""

# LangChain takes any keyword and most stores drop what they do not know: here it is refused.
# mypy: disable-error-code="override"

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langmem_isolated import _documents
from langmem_isolated._database import Transaction
from langmem_isolated._documents import Collection, NewDocument
from langmem_isolated._encoding import decode_document, encode_document, encode_value
from langmem_isolated._metadata_filters import metadata_test
from langmem_isolated._records import ScopedRecords, now
from langmem_isolated._scope_keys import ScopeKeys
from langmem_isolated._sealing import Owner
from langmem_isolated._vectors import Ranking, VectorSpace, check_installed, most_diverse
from langmem_isolated._warm import WarmCache
from langmem_isolated.errors import ScopeError
from langmem_isolated.scope import checked_id

Filter = Mapping[str, Any]
GENERATION_BYTES = 8
MAX_ID_BYTES = 1024
# Bytes that a document's place in a cached table takes beside its vector.
_PLACE_BYTES = 100


class Hit(NamedTuple):
    """A document that was found."""

    document: Document
    score: float
    """Cosine similarity, from -1 to 1."""
    embedding: bytes


class _Table(NamedTuple):
    """A collection's embeddings, opened: row by row the block, the document and its vector."""

    blocks: list[int]
    digests: list[bytes]
    ranking: Ranking


class MakesVectorStores(Protocol):
    """What ``memory.scope(…)`` is."""

    def vector_store(self, embeddings: Embeddings, /) -> VectorStore:
        """A vector store of its scope."""


class IsolatedVectorStore(VectorStore):
    """A scope's documents: a LangChain `VectorStore` that needs no server and leaks nothing.

    Made by ``memory.scope(…).vector_store(embeddings)``. Text, metadata, ids and vectors are
    sealed. A search opens the vectors of the scope and ranks them exactly, by cosine; the filter is
    applied to opened metadata, and ``k`` documents come back whenever ``k`` pass it. What levels
    are shared with the scope is read along with its own documents; what is written is its own.

    A filter is a mapping, ``{"year": {"$gte": 2020}, "$or": [{…}, {…}]}``, with ``$eq $ne $in $nin
    $gt $gte $lt $lte $and $or $not``. Keyword arguments that are not known are refused: one
    misspelt must not widen what is found.

    Args:
        sources: Whose documents are read; those of the first are written.
        embeddings: Any LangChain embeddings.
        collection: A name, 1 to 255 bytes; the documents of one are apart from another's.
        warm: Keeps opened vectors for a while. By default they are opened for each search.

    Raises:
        ScopeError: ``collection`` is missing or malformed.
        ImportError: NumPy is not installed.
    """

    def __init__(
        self,
        sources: Sequence[ScopedRecords],
        embeddings: Embeddings,
        collection: str = "default",
        *,
        warm: WarmCache | None = None,
    ) -> None:
        check_installed()
        self._sources = sources
        self._own = sources[0]
        self._embeddings = embeddings
        self._name = checked_id("collection", collection).encode()
        self._header = encode_value({"collection": collection}, "a collection's header")
        self._warm = warm
        self._arun = self._own.arun

    def __repr__(self) -> str:
        return f"{type(self).__name__}(collection=…)"

    def belongs_to(self, owner: Owner) -> bool:
        """Whether its documents are this owner's."""
        return self._own.owner == owner

    @property
    def embeddings(self) -> Embeddings:
        """What turns texts into vectors."""
        return self._embeddings

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
        if scope is None:
            raise ScopeError("from_texts needs scope=memory.scope(…). There is no default.")
        store = scope.vector_store(embedding)
        assert isinstance(store, cls)
        return store

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
    ) -> list[str]:
        """Store texts, each with its metadata if there are any; see :meth:`add_documents`.

        Raises:
            TypeError: A text is not a str.
        """
        return self.add_documents(_made(texts, metadatas), ids=ids)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
    ) -> list[str]:
        """Store texts; see :meth:`add_texts`."""
        return await self.aadd_documents(_made(texts, metadatas), ids=ids)

    def add_documents(
        self,
        documents: list[Document],
        *,
        ids: list[str] | None = None,
        batch_size: int | None = None,  # noqa: ARG002 -- LangChain's index passes its own
    ) -> list[str]:
        """Store documents in place of those that have their ids; all or none.

        Args:
            documents: What to store. Metadata may be anything that can be stored exactly.
            ids: One for each document; by default its own ``id``, or a new UUID. 1 to 1,024 bytes.
            batch_size: No effect: they are stored in one transaction.

        Returns:
            The ids.

        Raises:
            ValueError: There are not as many ids as documents, an id is empty or too long, or an
                embedding is not finite or has another length than the collection's.
            TypeError: An id is not a str.
            ValueNotStorable: Metadata hold a value without an exact stored form.
        """
        if named := _named(documents, ids):
            self._put(named, self._embeddings.embed_documents(_texts(named)))
        return [id_ for id_, _ in named]

    async def aadd_documents(
        self,
        documents: list[Document],
        *,
        ids: list[str] | None = None,
        batch_size: int | None = None,  # noqa: ARG002 -- LangChain's index passes its own
    ) -> list[str]:
        """Store documents; see :meth:`add_documents`."""
        if named := _named(documents, ids):
            embeddings = await self._embeddings.aembed_documents(_texts(named))
            await self._arun(self._put, named, embeddings)
        return [id_ for id_, _ in named]

    def _put(self, named: list[tuple[str, Document]], embeddings: list[list[float]]) -> None:
        # The last of one id counts.
        new = {
            id_: NewDocument(id_.encode(), encode_document(id_, document), _packed(embedding))
            for (id_, document), embedding in zip(named, embeddings, strict=True)
        }
        if len({len(document.embedding) for document in new.values()}) > 1:
            raise ValueError("The embeddings of these documents have different lengths.")
        generation = os.urandom(GENERATION_BYTES)
        self._own.write(
            _documents.put, self._name, self._header, [*new.values()], generation, now()
        )

    def delete(self, ids: list[str] | None = None) -> None:
        """Remove the scope's documents that have these ids; those of others are never touched.

        Raises:
            ValueError: ``ids`` is ``None``: removing everything is :meth:`clear`.
        """
        if ids is None:
            raise ValueError("delete() takes ids; clear() removes every document of this store.")
        names = [id_.encode() for id_ in _all_checked(ids)]
        self._own.change(_documents.remove, None, self._name, names, now())

    async def adelete(self, ids: list[str] | None = None) -> None:
        """Remove documents; see :meth:`delete`."""
        await self._arun(self.delete, ids)

    def clear(self) -> None:
        """Remove every document of the scope in this collection."""
        generation = os.urandom(GENERATION_BYTES)
        self._own.change(_documents.clear, None, self._name, generation, now())

    async def aclear(self) -> None:
        """Remove every document; see :meth:`clear`."""
        await self._arun(self.clear)

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents that have these ids, in their order; those that are not there left out.

        Where an id stands at several levels, the scope's own document is given.
        """
        names = [id_.encode() for id_ in _all_checked(ids)]
        found: dict[bytes, bytes] = {}
        for source in reversed(self._sources):
            found |= source.snapshot(_at, {}, self._name, names)
        return [decode_document(found[name]) for name in names if name in found]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents that have these ids; see :meth:`get_by_ids`."""
        return await self._arun(self.get_by_ids, ids)

    def similarity_search(
        self, query: str, k: int = 4, *, filter: Filter | None = None
    ) -> list[Document]:
        """The ``k`` documents nearest to ``query`` that pass ``filter``, nearest first.

        Raises:
            ValueError: ``k`` is below 1, or the filter has no meaning.
            RecordDoesNotOpen: A document was changed, moved, added or removed.
        """
        return self.similarity_search_by_vector(
            self._embeddings.embed_query(query), k, filter=filter
        )

    async def asimilarity_search(
        self, query: str, k: int = 4, *, filter: Filter | None = None
    ) -> list[Document]:
        """The nearest documents; see :meth:`similarity_search`."""
        embedding = await self._embeddings.aembed_query(query)
        return await self.asimilarity_search_by_vector(embedding, k, filter=filter)

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None
    ) -> list[Document]:
        """The documents nearest to a vector; see :meth:`similarity_search`."""
        return [hit.document for hit in self._nearest(embedding, k, filter)]

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None
    ) -> list[Document]:
        """The documents nearest to a vector; see :meth:`similarity_search`."""
        return await self._arun(self.similarity_search_by_vector, embedding, k, filter=filter)

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Filter | None = None
    ) -> list[tuple[Document, float]]:
        """The nearest documents with their cosine similarity; see :meth:`similarity_search`."""
        return self._scored(self._embeddings.embed_query(query), k, filter)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Filter | None = None
    ) -> list[tuple[Document, float]]:
        """The nearest documents with their cosine similarity; see :meth:`similarity_search`."""
        embedding = await self._embeddings.aembed_query(query)
        return await self._arun(self._scored, embedding, k, filter)

    def _scored(
        self, embedding: list[float], k: int, filter: Filter | None
    ) -> list[tuple[Document, float]]:
        return [(hit.document, hit.score) for hit in self._nearest(embedding, k, filter)]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        # What points the other way is not relevant at all.
        return lambda similarity: min(1.0, max(0.0, similarity))

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
    ) -> list[Document]:
        """Documents near to ``query`` and unlike one another.

        Args:
            query: What to look for.
            k: How many.
            fetch_k: From among how many nearest ones that pass the filter.
            lambda_mult: From 0, the most diverse, to 1, the nearest.
            filter: As in :meth:`similarity_search`.
        """
        return self.max_marginal_relevance_search_by_vector(
            self._embeddings.embed_query(query), k, fetch_k, lambda_mult, filter=filter
        )

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
    ) -> list[Document]:
        """Documents near and unlike one another; see :meth:`max_marginal_relevance_search`."""
        embedding = await self._embeddings.aembed_query(query)
        return await self.amax_marginal_relevance_search_by_vector(
            embedding, k, fetch_k, lambda_mult, filter=filter
        )

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
    ) -> list[Document]:
        """Documents near and unlike one another; see :meth:`max_marginal_relevance_search`."""
        hits = self._nearest(embedding, max(k, fetch_k), filter)
        candidates = [hit.embedding for hit in hits]
        chosen = most_diverse(_packed(embedding), candidates, _checked_count(k), lambda_mult)
        return [hits[place].document for place in chosen]

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
    ) -> list[Document]:
        """Documents near and unlike one another; see :meth:`max_marginal_relevance_search`."""
        return await self._arun(
            self.max_marginal_relevance_search_by_vector,
            embedding,
            k,
            fetch_k,
            lambda_mult,
            filter=filter,
        )

    def documents(self) -> list[Document]:
        """Every document that the scope may read in this collection, in no order."""
        bodies = (
            source.snapshot(_documents.everything, [], self._name) for source in self._sources
        )
        return [decode_document(body) for found in bodies for body in found]

    async def adocuments(self) -> list[Document]:
        """Every document; see :meth:`documents`."""
        return await self._arun(self.documents)

    def _nearest(self, embedding: list[float], k: int, filter: Filter | None) -> list[Hit]:
        passes, query, count = metadata_test(filter), _packed(embedding), _checked_count(k)

        def accept(body: bytes) -> Document | None:
            document = decode_document(body)
            return document if passes(document.metadata) else None

        found = [
            hit
            for source in self._sources
            for hit in source.snapshot(_nearest, [], self._name, query, accept, count, self._warm)
        ]
        # Sorting is stable: of two that are as near, the own one comes first.
        return sorted(found, key=lambda hit: hit.score, reverse=True)[:count]


def _nearest(
    transaction: Transaction,
    keys: ScopeKeys,
    name: bytes,
    query: bytes,
    accept: Callable[[bytes], Document | None],
    count: int,
    warm: WarmCache | None,
) -> list[Hit]:
    collection = _documents.find(transaction, keys, name)
    if collection is None or not collection.state.count:
        return []
    table = _table(collection, len(query), warm)
    ranked = (
        (table.blocks[row], table.digests[row], (row, score))
        for row, score in table.ranking.nearest(query)
    )
    return [
        Hit(document, score, table.ranking.row(row))
        for document, (row, score) in collection.first(ranked, accept, count)
    ]


def _table(collection: Collection, length: int, warm: WarmCache | None) -> _Table:
    keys = collection.keys
    key = keys.scope_id, keys.incarnation, ("embeddings", collection.digest)
    table: _Table | None = warm.get(key, collection.state) if warm else None
    if table is None:
        blocks = collection.blocks()
        digests = [digest for block in blocks.values() for digest in block.digests]
        packed = b"".join(block.embeddings for block in blocks.values())
        numbers = [number for number, block in blocks.items() for _ in block.digests]
        table = _Table(numbers, digests, Ranking(packed, len(packed) // len(digests)))
        if warm:
            warm.put(key, collection.state, table, len(packed) + _PLACE_BYTES * len(digests))
    if table.ranking.length != length:
        raise ValueError(
            f"The query's embedding has {length // 4} numbers, those of this collection "
            f"{table.ranking.length // 4}. Use the embeddings it was filled with."
        )
    return table


def _at(
    transaction: Transaction, keys: ScopeKeys, name: bytes, names: Sequence[bytes]
) -> dict[bytes, bytes]:
    collection = _documents.find(transaction, keys, name)
    if collection is None:
        return {}
    digests = [collection.named(one) for one in names]
    found = zip(names, collection.at(digests), strict=True)
    return {one: stood.body for one, stood in found if stood}


def _named(documents: Iterable[Document], ids: Sequence[str] | None) -> list[tuple[str, Document]]:
    """Each document with its id."""
    documents = list(documents)
    if ids is None:
        ids = [str(uuid.uuid4()) if doc.id is None else doc.id for doc in documents]
    if len(ids) != len(documents):
        raise ValueError(f"There are {len(ids)} ids for {len(documents)} documents.")
    return list(zip(_all_checked(ids), documents, strict=True))


def _made(texts: Iterable[str], metadatas: Sequence[dict[str, Any]] | None) -> list[Document]:
    """Documents without ids."""
    texts = list(texts)
    metadatas = metadatas or [{} for _ in texts]
    if len(metadatas) != len(texts):
        raise ValueError(f"There are {len(metadatas)} metadatas for {len(texts)} texts.")
    for text, metadata in zip(texts, metadatas, strict=True):
        # LangChain's own refusal would quote them.
        if not isinstance(text, str) or not isinstance(metadata, dict):
            raise TypeError("A text must be a str, and its metadata a dict.")
    return [
        Document(text, metadata=metadata) for text, metadata in zip(texts, metadatas, strict=True)
    ]


def _all_checked(ids: Iterable[str]) -> list[str]:
    if isinstance(ids, str | Mapping):
        raise TypeError(f"ids must be a list of str, got one {type(ids).__name__}.")
    return [_checked(id_) for id_ in ids]


def _checked(id_: object) -> str:
    if type(id_) is not str:
        raise TypeError(f"A document's id must be a str, got {type(id_).__name__}.")
    try:
        length = len(id_.encode())
    except UnicodeEncodeError:
        length = 0
    if not 0 < length <= MAX_ID_BYTES:
        raise ValueError(f"A document's id must have 1 to {MAX_ID_BYTES} bytes of UTF-8.")
    return id_


def _checked_count(k: int) -> int:
    if type(k) is not int or k < 1:
        raise ValueError("k must be a whole number above 0.")
    return k


def _texts(named: Iterable[tuple[str, Document]]) -> list[str]:
    return [document.page_content for _, document in named]


def _packed(embedding: list[float]) -> bytes:
    return VectorSpace(len(embedding)).pack(embedding)
