"""Base class of vector stores: LangChain's whole interface over a few abstract methods."""

# LangChain takes any keyword and most stores drop what they do not know: here it is refused.
# mypy: disable-error-code="override"
# ruff: noqa: A002 - LangChain calls it filter

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langmem_isolated._adapters.vector_store_arguments import check_documents
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._runtime.arguments import kind_of, refuse_single, whole_number
from langmem_isolated._runtime.limits import Limits
from langmem_isolated._search.metadata_filters import Filter

Query = str | list[float]
Run = Callable[..., Awaitable[Any]]

T = TypeVar("T")

MAX_ID_BYTES = 1024


class Found(NamedTuple):
    """What a search found.

    >>> notes = scope.vector_store(embeddings)
    >>> ids = notes.add_texts(["Fractions are parts."])
    >>> found = notes.find("parts", k=4)
    >>> len(found.hits), found.exhausted
    (1, True)
    """

    hits: list[tuple[Document, float]]
    """Nearest first, each with its score."""

    exhausted: bool
    """Whether these are all there are: asking for more would find no more."""


class ScopedVectorStore(VectorStore):
    """One owner's documents, and what is shared with it.

    Args:
        owner: Whose documents are written.
        arun: Runs a synchronous body in a worker thread.
        limits: How much one call may bring.
    """

    def __init__(self, owner: Owner, arun: Run, limits: Limits) -> None:
        self._limits = limits
        self._owner = owner
        self._arun = arun

    def belongs_to(self, owner: Owner) -> bool:
        """Whether its documents are this owner's."""
        return self._owner == owner

    @abstractmethod
    def add_documents(
        self,
        documents: Iterable[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Store documents in place of this owner's that have their ids."""

    async def aadd_documents(
        self,
        documents: Iterable[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,  # noqa: ARG002 - LangChain's index passes its own
    ) -> list[str]:
        """Store documents; see :meth:`add_documents`."""
        added: list[str] = await self._arun(self.add_documents, documents, ids=ids)
        return added

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
    ) -> list[str]:
        """Store texts, each with its metadata if there are any; see :meth:`add_documents`.

        Raises:
            TypeError: A text is not a str.
            ValueError: There are not as many metadatas as texts.
        """
        return self.add_documents(_made(texts, metadatas), ids=ids)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
    ) -> list[str]:
        """Store texts; see :meth:`add_texts`."""
        return await self.aadd_documents(_made(texts, metadatas), ids=ids)

    def delete(self, ids: Sequence[str] | None = None) -> None:
        """Remove this owner's documents that have these ids; those of others are never touched.

        Raises:
            ValueError: ``ids`` is ``None``: removing everything is :meth:`clear`.
            LimitExceeded: There are more ids than ``limits`` allow.
        """
        if ids is None:
            raise ValueError(
                "delete() takes ids, got None. Nothing was removed; clear() removes every document "
                "of this store."
            )
        self._remove(self._limits.checked_count("ids", checked_ids(ids)))

    @abstractmethod
    def _remove(self, names: list[str]) -> None:
        """Remove the documents that have these ids."""

    async def adelete(self, ids: Sequence[str] | None = None) -> None:
        """Remove documents; see :meth:`delete`."""
        await self._arun(self.delete, ids)

    @abstractmethod
    def clear(self) -> None:
        """Remove every document of this owner."""

    async def aclear(self) -> None:
        """Remove every document; see :meth:`clear`."""
        await self._arun(self.clear)

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents that have these ids, in their order; those that are not there left out.

        Where an id stands at several levels, the owner's document is given.
        """
        names = self._limits.checked_count("ids", checked_ids(ids))
        found = self._at(names)
        return [found[name] for name in names if name in found]

    @abstractmethod
    def _at(self, names: list[str]) -> dict[str, Document]:
        """The documents that have these ids, by id."""

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents that have these ids; see :meth:`get_by_ids`."""
        found: list[Document] = await self._arun(self.get_by_ids, ids)
        return found

    @abstractmethod
    def find(self, query: Query, k: int = 4, *, filter: Filter | None = None) -> Found:
        """The ``k`` nearest documents that pass, with scores, and whether there are no more.

        Args:
            query: A text or a vector.
            k: How many.
            filter: Which documents count.
        """

    async def afind(self, query: Query, k: int = 4, *, filter: Filter | None = None) -> Found:
        """The nearest documents, and whether there are no more; see :meth:`find`."""
        self._check_search(query, filter)
        asked = await self._aprepared(query)
        found: Found = await self._arun(self.find, asked, k, filter=filter)
        return found

    def _check_search(self, query: Query, filter: Filter | None) -> None:
        """Refuse what is too long or too deep to search for."""
        self._limits.check_query(query)
        self._limits.check_filter(filter)

    def _named(
        self, documents: Iterable[Document], ids: Sequence[str | None] | None
    ) -> list[tuple[str, Document]]:
        """As :func:`named`, unless a text, or all of them, are too long before they are encoded."""
        new = named(documents, ids)
        lengths = [len(document.page_content) for _, document in new]
        self._limits.check("batch_items", len(new))
        self._limits.check("document_bytes", max(lengths, default=0))
        self._limits.check("batch_bytes", sum(lengths))
        return new

    async def _aprepared(self, query: Query) -> Any:
        """What can be asked of a query without waiting in a worker thread."""
        return query

    def similarity_search(
        self, query: str, k: int = 4, *, filter: Filter | None = None
    ) -> list[Document]:
        """The ``k`` documents nearest to ``query`` that pass ``filter``, nearest first.

        Raises:
            ValueError: ``k`` is below 1, or the filter has no meaning.
            LimitExceeded: The query or the filter are beyond ``limits``.
            RecordDoesNotOpen: A document was changed, moved, added or removed.
            IsolationViolation: A third-party store handed out what is not this scope's.
        """
        return [document for document, _ in self.find(query, k, filter=filter).hits]

    async def asimilarity_search(
        self, query: str, k: int = 4, *, filter: Filter | None = None
    ) -> list[Document]:
        """The nearest documents; see :meth:`similarity_search`."""
        return [document for document, _ in (await self.afind(query, k, filter=filter)).hits]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None
    ) -> list[Document]:
        """The documents nearest to a vector; see :meth:`similarity_search`."""
        return [document for document, _ in self.find(embedding, k, filter=filter).hits]

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None
    ) -> list[Document]:
        """The documents nearest to a vector; see :meth:`similarity_search`."""
        return [document for document, _ in (await self.afind(embedding, k, filter=filter)).hits]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Filter | None = None
    ) -> list[tuple[Document, float]]:
        """The nearest documents, each with its score; see :meth:`similarity_search`."""
        return self.find(query, k, filter=filter).hits

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Filter | None = None
    ) -> list[tuple[Document, float]]:
        """The nearest documents, each with its score; see :meth:`similarity_search`."""
        return (await self.afind(query, k, filter=filter)).hits

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

        Raises:
            ValueError: ``k`` or ``fetch_k`` is below 1, or ``lambda_mult`` not from 0 to 1.
            NotImplementedError: A third-party store has no embeddings.
        """
        return self._diverse(query, k, fetch_k, lambda_mult, filter)

    async def amax_marginal_relevance_search(
        self,
        query: Query,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
    ) -> list[Document]:
        """Documents near and unlike one another; see :meth:`max_marginal_relevance_search`."""
        self._check_search(query, filter)
        asked = await self._aprepared(query)
        found: list[Document] = await self._arun(
            self._diverse, asked, k, fetch_k, lambda_mult, filter
        )
        return found

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
        return self._diverse(embedding, k, fetch_k, lambda_mult, filter)

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
        return await self.amax_marginal_relevance_search(
            embedding, k, fetch_k, lambda_mult, filter=filter
        )

    @abstractmethod
    def _diverse(
        self, query: Query, k: int, fetch_k: int, lambda_mult: float, filter: Filter | None
    ) -> list[Document]: ...


def named(
    documents: Iterable[Document], ids: Sequence[str | None] | None
) -> list[tuple[str, Document]]:
    """Each document with its id: the one given, or its own, or a new UUID.

    Raises:
        ValueError: There are not as many ids as documents, or an id is empty or too long.
        TypeError: An id is not a str.
    """
    documents = check_documents(documents)
    given = [None] * len(documents) if ids is None else _listed(ids)
    if len(given) != len(documents):
        raise ValueError(
            f"There are {len(given)} ids for {len(documents)} documents; each needs one, or leave "
            "ids out to have them made. Nothing was written."
        )
    own = (doc.id if id_ is None else id_ for id_, doc in zip(given, documents, strict=True))
    checked = checked_ids([str(uuid.uuid4()) if id_ is None else id_ for id_ in own])
    return list(zip(checked, documents, strict=True))


def checked_ids(ids: Iterable[str]) -> list[str]:
    """The ids of documents, each a str of 1 to 1,024 bytes, or `TypeError` or `ValueError`."""
    return [_checked(id_) for id_ in _listed(ids)]


def _listed(ids: Iterable[T]) -> list[T]:
    if isinstance(ids, str | Mapping):
        raise TypeError(f"ids must be a list of str, got one {kind_of(ids)}. Write [id].")
    return list(ids)


def check_diversity(fetch_k: int, lambda_mult: float) -> None:
    """Refuse what :meth:`~ScopedVectorStore.max_marginal_relevance_search` cannot search by."""
    whole_number("fetch_k", fetch_k, least=1)
    if not 0 <= lambda_mult <= 1:
        raise ValueError("lambda_mult must be a number from 0 to 1.")


def checked_count(k: int) -> int:
    """``k``, if it is a whole number above 0."""
    if type(k) is not int or k < 1:
        got = k if type(k) is int else kind_of(k)
        raise ValueError(f"k must be a whole number above 0, got {got}. Leave it out for 4.")
    return k


def _made(texts: Iterable[str], metadatas: Iterable[dict[str, Any]] | None) -> list[Document]:
    """Documents without ids."""
    refuse_single("texts", texts, (), example="[text]")
    refuse_single("metadatas", [] if metadatas is None else metadatas, (), example="[metadata]")
    texts = list(texts)
    given: list[dict[str, Any]] = list(metadatas or [{} for _ in texts])
    if len(given) != len(texts):
        raise ValueError(
            f"There are {len(given)} metadatas for {len(texts)} texts; give one for each, or none "
            "at all. Nothing was written."
        )
    pairs = list(zip(texts, given, strict=True))
    if not all(isinstance(t, str) and isinstance(m, dict) for t, m in pairs):
        # LangChain's own refusal would quote them.
        got = next(
            kind_of(t if not isinstance(t, str) else m)
            for t, m in pairs
            if not (isinstance(t, str) and isinstance(m, dict))
        )
        raise TypeError(
            f"A text must be a str, and its metadata a dict, got {got}. Documents go to "
            "add_documents(). Nothing was written."
        )
    return [Document(text, metadata={**metadata}) for text, metadata in pairs]


def _checked(id_: object) -> str:
    if type(id_) is not str:
        raise TypeError(f"A document's id must be a str, got {kind_of(id_)}. Write str(…).")
    try:
        length = len(id_.encode())
    except UnicodeEncodeError:
        length = 0
    if not 0 < length <= MAX_ID_BYTES:
        raise ValueError(
            f"A document's id must have 1 to {MAX_ID_BYTES} bytes of UTF-8, got {length}. Leave "
            "ids out to have them made."
        )
    return id_
