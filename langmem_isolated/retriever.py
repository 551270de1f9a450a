"""Retrievers of one scope's documents: by meaning, by words (BM25), or checked one by one."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, set_config_context
from pydantic import PrivateAttr

from langmem_isolated._adapters.compat import dismiss_tracers
from langmem_isolated._adapters.document_tags import ResultGuard
from langmem_isolated._codecs.documents import decode_document
from langmem_isolated._runtime.arguments import kind_of, whole_number
from langmem_isolated._runtime.calls import ONE_SCOPE, made_by
from langmem_isolated._runtime.operations import found, observed
from langmem_isolated._search.bm25 import best_first, query_scores
from langmem_isolated._search.metadata_filters import Filter, metadata_test
from langmem_isolated._search.words import words
from langmem_isolated._storage.documents import collection as stored
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.scope import checked_id

_FOR_K = "Leave it out for 4."

FindRetriever = Callable[[RunnableConfig | None], BaseRetriever]


@made_by(f"{ONE_SCOPE}.retriever(source)", "memory.retriever(source)", first=BaseRetriever)
class IsolatedRetriever(BaseRetriever):
    """A retriever that returns documents of one scope, or raises.

    Made by ``memory.scope(…).retriever(…)``: over that scope's vector store, or around any
    retriever, whose documents must then all carry the scope's valid owner stamp. What it stands on
    cannot be reached through it.

    >>> ids = scope.vector_store(embeddings).add_texts(["Fractions are parts."])
    >>> [document.page_content for document in scope.retriever(embeddings, k=1).invoke("parts")]
    ['Fractions are parts.']
    """

    _source: BaseRetriever = PrivateAttr()
    _stamps: ResultGuard | None = PrivateAttr()
    _filter: Filter | None = PrivateAttr()

    def __init__(
        self,
        source: BaseRetriever,
        *,
        stamps: ResultGuard | None = None,
        filter: Filter | None = None,  # noqa: A002 - as vector stores call it
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._source = source
        self._stamps = stamps
        self._filter = filter

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain gives it
        **kwargs: Any,
    ) -> list[Document]:
        kwargs |= _narrowed(self._filter, kwargs)
        if self._stamps is None:
            return self._asked(query, kwargs)
        with self._stamps.observing() as told:
            found = self._stamps.checked(self._asked(query, kwargs))
            told.count = len(found)
        return found

    def _asked(self, query: str, keywords: dict[str, Any]) -> list[Document]:
        with _unobserved() as context:
            found: list[Document] = context.run(self._source.invoke, query, _silent(), **keywords)
        return found

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain gives it
        **kwargs: Any,
    ) -> list[Document]:
        kwargs |= _narrowed(self._filter, kwargs)
        if self._stamps is None:
            return await self._aasked(query, kwargs)
        with self._stamps.observing() as told:
            found = await self._stamps.achecked(await self._aasked(query, kwargs))
            told.count = len(found)
        return found

    async def _aasked(self, query: str, keywords: dict[str, Any]) -> list[Document]:
        with _unobserved() as context:
            asked = self._source.ainvoke(query, _silent(), **keywords)
            found: list[Document] = await asyncio.create_task(asked, context=context)
        return found


class RetrieverOfRun(BaseRetriever):
    """A retriever for one graph that serves everybody: each call is of the run that makes it.

    Made by ``memory.retriever(…)``.
    """

    _find: FindRetriever = PrivateAttr()

    def __init__(self, find: FindRetriever, **options: Any) -> None:
        super().__init__(**options)
        self._find = find

    def invoke(
        self,
        input: str,  # noqa: A002 - LangChain's
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """The documents that the scope's own retriever finds, run in this one's place."""
        return self._find(config).invoke(input, config, **kwargs)

    async def ainvoke(
        self,
        input: str,  # noqa: A002 - LangChain's
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """The documents found; see :meth:`invoke`."""
        return await self._find(config).ainvoke(input, config, **kwargs)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain gives it
    ) -> list[Document]:
        return self._find(None).invoke(query)


def _narrowed(filter: Filter | None, asked: Mapping[str, Any]) -> dict[str, Any]:  # noqa: A002
    """The filter of a call: what it asks for narrows the retriever's own, never replaces it."""
    both = [part for part in (filter, asked.get("filter")) if part]
    return {"filter": {"$and": both}} if both else {}


@contextmanager
def _unobserved() -> Iterator[Context]:
    """A copy of this context for a source, of which nobody is told what it finds.

    The caller's callbacks, and tracers that the caller's context names, would see documents, and
    could stream them to the user, before they were checked.
    """
    with set_config_context(_silent()) as context:
        context.run(dismiss_tracers)
        yield context


def _silent() -> RunnableConfig:
    return {**ensure_config(), "callbacks": []}


@made_by(f"{ONE_SCOPE}.bm25_retriever()", first=list, without=("from_texts", "from_documents"))
class IsolatedBM25Retriever(BaseRetriever):
    """Ranks one scope's documents by the words they share with a query (BM25).

    Made by ``memory.scope(…).bm25_retriever()``. How rare a word is, is counted among the documents
    that the scope may read, and nowhere else: others' documents move no rank.

    >>> ids = scope.vector_store(embeddings).add_texts(["Fractions are parts.", "Ratios compare."])
    >>> [document.page_content for document in scope.bm25_retriever(k=1).invoke("fractions")]
    ['Fractions are parts.']
    """

    k: int = 4
    """How many documents are returned at most."""
    language: str | None = None
    """Of documents and queries, a code of ISO 639-1 or an English name; by default found."""

    _sources: Sequence[ScopedDatabase] = PrivateAttr()
    _collection: bytes = PrivateAttr()
    _filter: Filter | None = PrivateAttr()

    def __init__(
        self,
        sources: Sequence[ScopedDatabase],
        collection: str = "default",
        *,
        filter: Filter | None = None,  # noqa: A002 - as vector stores call it
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._sources = sources
        self._filter = filter
        self._collection = checked_id("collection", collection).encode()

    @observed("search_memory", "document", found, records=lambda self, *_: self._sources[0])
    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun | None = None,  # noqa: ARG002 - LangChain's
        k: int | None = None,
        filter: Filter | None = None,  # noqa: A002 - as vector stores call it
    ) -> list[Document]:
        most_found = whole_number("k", self.k if k is None else k, least=1, advice=_FOR_K)
        if not isinstance(query, str):
            raise TypeError(
                f"query must be a str, got {kind_of(query)}. Ask for one text at a time. "
                "Nothing was read."
            )
        passes = metadata_test(_narrowed(self._filter, {"filter": filter}).get("filter"))
        documents = [document for document in self._readable() if passes(document.metadata)]
        most = self._sources[0].limits.recall_characters
        self._sources[0].limits.check_query(query)
        texts = [words(document.page_content[:most]) for document in documents]
        found = best_first(query_scores(query, texts, self.language))
        return [documents[number] for number, _ in found[:most_found]]

    def _readable(self) -> list[Document]:
        return [
            decode_document(body)
            for source in self._sources[0].having_records(self._sources)
            for body in source.snapshot_lagging(stored.everything, [], self._collection)
        ]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain gives it
        **kwargs: Any,
    ) -> list[Document]:
        return await self._sources[0].arun(self._get_relevant_documents, query, **kwargs)
