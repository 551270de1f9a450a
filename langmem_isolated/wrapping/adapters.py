"""Adapter interface of wrapped vector stores, and its standard implementation.

Whoever writes an adapter for another store subclasses :class:`StandardAdapter`, writes
``where``, and runs the suite in :mod:`langmem_isolated.wrapping.testing` on it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langmem_isolated._adapters.compat import relevance_of
from langmem_isolated._adapters.document_tags import OWNER
from langmem_isolated._search.metadata_filters import Filter
from langmem_isolated.wrapping.unowned import Unowned, counted

# Stores refuse more ids than they have parameters for: Chroma 5,461, PostgreSQL 65,535.
_MOST_AT_ONCE = 1_000
# What any store hands out at once.
_LOOKED_AT = 256

T = TypeVar("T")
Vector = list[float]
Query = str | Vector


class Hit(NamedTuple):
    """A document as it is stored, with the store's own score.

    >>> hit = Hit(Document("Fractions are parts."), score=0.9)
    >>> hit.document.page_content, hit.score
    ('Fractions are parts.', 0.9)
    """

    document: Document
    score: float


class VectorRows(NamedTuple):
    """Documents on their way into a store, with their vectors, column by column.

    >>> VectorRows.of([Document("Fractions are parts.", id="1")], [[0.5, 0.5]]).vectors
    [[0.5, 0.5]]
    """

    texts: list[str]
    vectors: list[Vector]
    metadatas: list[dict[str, Any]]
    ids: list[str]

    @classmethod
    def of(cls, documents: list[Document], vectors: list[Vector]) -> "VectorRows":
        """Documents that have ids, with a vector for each."""
        texts = [document.page_content for document in documents]
        metadatas = [document.metadata for document in documents]
        return cls(texts, vectors, metadatas, ids_of(documents))


class Stored(NamedTuple):
    """What a store has under an id, whoever wrote it.

    >>> Stored("1", Document("Fractions are parts.", id="1"), [0.5, 0.5]).fault is None
    True
    """

    id: Any
    """By which the store knows it: a text, or a whole number in Qdrant."""
    document: Document | None
    """With that id as text; ``None`` where LangChain would read less than is there."""
    vector: Vector | None = None
    """``None`` where the store does not give it."""
    fault: str | None = None
    """Why there is no document; no content."""


class VectorStoreAdapter(Protocol):
    """One vector store, in the words that wrapping needs.

    All ids are UUIDs as text, chosen by us. Lists of ids and documents are never empty. Documents
    that are returned have the id they are stored under, and the text and the keys
    ``langmem_owner``, ``langmem_id`` and ``langmem_stamp`` in their metadata exactly as they were
    put.

    >>> adapter: VectorStoreAdapter = PostFilterAdapter(shared)
    >>> adapter.filters, adapter.seals
    (False, False)
    """

    filters: bool
    """Whether ``search`` keeps the documents of others back."""

    seals: bool
    """Whether ``put`` takes vectors that were made from other texts."""

    @property
    def name(self) -> str:
        """By which an erasure knows the store again, in any process that has it."""

    def put(self, documents: list[Document], vectors: list[Vector] | None) -> None:
        """Store documents in place of those that have their ids, seen by every later call.

        ``vectors`` are to be stored as they are; without them the store embeds the texts.
        """

    def get(self, ids: list[str]) -> list[Document]:
        """The documents that have these ids, in any order; those that are not there left out."""

    def delete(self, ids: list[str]) -> None:
        """Remove documents; an id that is not there is no error."""

    def prepared(self, query: str) -> Query:
        """What ``search`` takes for a text: its vector, so that it is embedded only once."""

    def search(self, query: Query, k: int, owners: list[str], wanted: Filter | None) -> list[Hit]:
        """The ``k`` nearest documents whose ``langmem_owner`` is in ``owners``, nearest first.

        Fewer mean that there are no more. ``wanted`` may be used to leave out documents that do
        not pass it; the filter is applied again to what comes back.
        """

    def vectors(self, ids: list[str]) -> list[Vector] | None:
        """The stored vectors of documents that are there, in this order, if they can be had.

        Raises:
            KeyError: One is not there any more.
        """

    def relevance(self) -> Callable[[float], float]:
        """What turns the store's scores into relevance, from 0 to 1."""

    def owned(self, owner: str, k: int) -> list[str]:
        """Ids of up to ``k`` documents whose ``langmem_owner`` is ``owner``, in any order.

        Fewer mean that there are no more in the store, however far from anything that is searched
        for: keys are destroyed where all that they have sealed was sealed anew.
        """

    def unowned(self) -> Unowned:
        """How many documents have no ``langmem_owner``: they were written past this package."""


class StandardAdapter:
    """An adapter by LangChain's interface alone; a subclass writes `where`, and no more.

    >>> class Adapter(StandardAdapter):
    ...     def where(self, owners, wanted):  # of a store that filters by a function
    ...         return lambda document: document.metadata["langmem_owner"] in owners
    >>> notes = scope.vector_store(wrapping=shared, adapter=Adapter(shared))
    >>> ids = notes.add_texts(["Fractions are parts."])
    >>> [document.page_content for document in notes.similarity_search("parts")]
    ['Fractions are parts.']

    Args:
        store: The vector store.
    """

    filters = True
    seals = False
    by_vector = "similarity_search_with_score_by_vector"
    """What the store calls its search by vector that tells scores."""

    def __init__(self, store: VectorStore) -> None:
        self.store: Any = store

    @property
    def name(self) -> str:
        """The name of the store's class."""
        return type(self.store).__name__

    def where(self, owners: list[str], wanted: Filter | None) -> Any:
        """The store's own filter: ``langmem_owner`` is in ``owners``, and what is in ``wanted``.

        Start from :func:`~langmem_isolated.wrapping.conditions`, which gives what is safe to
        push down.
        """
        raise NotImplementedError

    def put(self, documents: list[Document], vectors: list[Vector] | None) -> None:
        """Store documents by the store's ``add_texts``, or by :meth:`put_vectors`."""
        if vectors is None:
            texts = [document.page_content for document in documents]
            metadatas = [document.metadata for document in documents]
            self.store.add_texts(texts, metadatas, ids=ids_of(documents))
        else:
            self.put_vectors(VectorRows.of(documents, vectors))

    def put_vectors(self, rows: VectorRows) -> None:
        """Store vectors as they are; where that can be done, ``seals`` is ``True``."""
        raise NotImplementedError

    def get(self, ids: list[str]) -> list[Document]:
        """The documents that have these ids."""
        found: list[Document] = self.store.get_by_ids(ids)
        return found

    def delete(self, ids: list[str]) -> None:
        """Remove documents."""
        self.store.delete(ids)

    def prepared(self, query: str) -> Query:
        """The query's vector, if the store has embeddings and can search by it."""
        embeddings = self.store.embeddings
        if embeddings is None or not hasattr(self.store, self.by_vector):
            return query
        return list(embeddings.embed_query(query))

    def search(self, query: Query, k: int, owners: list[str], wanted: Filter | None) -> list[Hit]:
        """The nearest documents, by ``filter=`` of the store."""
        return self.nearest(query, k, filter=self.where(owners, wanted))

    def nearest(self, query: Query, k: int, **options: Any) -> list[Hit]:
        """The nearest documents, by text or by vector."""
        name = "similarity_search_with_score" if isinstance(query, str) else self.by_vector
        if not hasattr(self.store, name):
            raise NotImplementedError(f"{type(self.store).__name__} has no {name}.")
        found = getattr(self.store, name)(query, k=k, **options)
        return [Hit(document, float(score)) for document, score in found]

    def vectors(self, ids: list[str]) -> list[Vector] | None:  # noqa: ARG002
        """``None``: documents that are to be compared with one another are embedded again."""
        return None

    def relevance(self) -> Callable[[float], float]:
        """The store's own."""
        return relevance_of(self.store)

    def owned(self, owner: str, k: int) -> list[str]:
        """Ids of the owner's documents, as far as searches find them."""
        query, asked = self.prepared("document"), k
        while True:
            hits = self.search(query, asked, [owner], None)
            own = [hit.document for hit in hits if hit.document.metadata.get(OWNER) == owner]
            if len(own) >= k or len(hits) < asked:
                return ids_of(own)[:k]
            asked *= 2

    def unowned(self) -> Unowned:
        """How many documents have no owner, of the 256 that are nearest to some text."""
        nearest = self.nearest(self.prepared("document"), _LOOKED_AT + 1)
        return counted((hit.document.metadata for hit in nearest), _LOOKED_AT)

    def unowned_ids(self) -> list[Any]:
        """Ids of all documents without an owner, for an adoption of what was there before.

        All at once, some 100 bytes each: while documents are adopted, pages would shift.

        Raises:
            TypeError: This adapter has not got it.
        """
        raise TypeError(
            f"Documents of {type(self.store).__name__} cannot be listed, so they cannot be "
            "adopted. Write unowned_ids() in its adapter, or add them to the vector stores of "
            "their scopes. Nothing was changed."
        )

    def stored(self, ids: list[Any]) -> list[Stored]:
        """What is there under ids, with vectors where those can be had."""
        found = {str(document.id): document for document in self.get(ids)}
        there = [id_ for id_ in ids if str(id_) in found]
        vectors: Sequence[Vector | None] = (self.vectors(there) if there else None) or [None] * len(
            there
        )
        return [
            Stored(id_, found[str(id_)], vector) for id_, vector in zip(there, vectors, strict=True)
        ]

    def put_back(self, found: list[Stored]) -> None:
        """Store documents under the ids that they had, with their vectors where they have them."""
        documents = [one.document for one in found if one.document is not None]
        vectors = [one.vector for one in found if one.vector is not None]
        if len(vectors) < len(found):
            self.put(documents, None)
        else:
            rows = VectorRows.of(documents, vectors)
            self.put_vectors(rows._replace(ids=[one.id for one in found]))


class PostFilterAdapter(StandardAdapter):
    """Any store with ids, unfiltered: what is another's is dropped after it was returned.

    Slow where many share a store: a search asks for more until it has enough.

    >>> notes = scope.vector_store(wrapping=shared, adapter=PostFilterAdapter(shared))
    >>> ids = notes.add_texts(["Fractions are parts."])
    >>> scope.module("planner").vector_store(
    ...     wrapping=shared, adapter=PostFilterAdapter(shared)
    ... ).similarity_search("parts")
    []
    """

    filters = False

    def search(self, query: Query, k: int, owners: list[str], wanted: Filter | None) -> list[Hit]:  # noqa: ARG002
        """The nearest documents of everyone."""
        return self.nearest(query, k)


def ids_of(documents: list[Document]) -> list[str]:
    """The ids that documents have."""
    return [document.id for document in documents if document.id is not None]


def parts_of(items: list[T]) -> Iterator[list[T]]:
    """Items in parts, as many as any store takes at once."""
    return (items[start : start + _MOST_AT_ONCE] for start in range(0, len(items), _MOST_AT_ONCE))
