"""Vector stores and retrievers of one scope: what its memory gives to retrieval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from langmem_isolated._adapters.context import SHARING_LEVELS, MemoryContext, SharingLevel
from langmem_isolated._runtime.arguments import kind_of, mapping, whole_number
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated.errors import ScopeError
from langmem_isolated.scope import Scope

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.vectorstores import VectorStore

    from langmem_isolated.retriever import IsolatedBM25Retriever, IsolatedRetriever
    from langmem_isolated.vector_store import IsolatedVectorStore
    from langmem_isolated.wrapping import VectorStoreAdapter, WrappedVectorStore

_SEARCHES = ("similarity", "mmr", "similarity_score_threshold")


@explains_calls
class ScopedRetrieval:
    """The part of one scope's memory that keeps and finds documents."""

    def __init__(self, context: MemoryContext, scope: Scope) -> None:
        self._context = context
        self._scope = scope
        self._records = context.private(scope)

    @overload
    def vector_store(
        self,
        embeddings: Embeddings,
        /,
        *,
        collection: str = ...,
        embedding_name: str | None = ...,
        equality: Sequence[str] = ...,
        levels: Sequence[SharingLevel] = ...,
    ) -> IsolatedVectorStore: ...

    @overload
    def vector_store(
        self,
        /,
        *,
        wrapping: VectorStore,
        levels: Sequence[SharingLevel] = ...,
        adapter: VectorStoreAdapter | None = ...,
        seal: bool = ...,
        probe: bool = ...,
        post_filter: bool = ...,
        stamped: bool = ...,
        name: str | None = ...,
    ) -> WrappedVectorStore: ...

    def vector_store(
        self,
        embeddings: Embeddings | None = None,
        /,
        *,
        wrapping: VectorStore | None = None,
        levels: Sequence[SharingLevel] = SHARING_LEVELS,
        **options: Any,
    ) -> IsolatedVectorStore | WrappedVectorStore:
        """A vector store for this scope's documents.

        With embeddings: :class:`IsolatedVectorStore`, sealed and in this database. With
        ``wrapping=``: :class:`WrappedVectorStore`, around a third-party store that many scopes may
        share.

        Args:
            embeddings: Any LangChain embeddings.
            wrapping: A vector store of another package; see :mod:`langmem_isolated.wrapping`.
            levels: What is read: the scope's own documents (``"private"``, where it also writes),
                and what publishers shared with the user, the module and the project.
            options: ``collection``, a name that keeps documents apart from another collection's,
                ``embedding_name``, which names the model where its class and settings do not, and
                ``equality``, fields by which the database finds documents; or those of
                :class:`WrappedVectorStore`. It is probed once with each adapter.

        Raises:
            ScopeError: A level has another name, or ``"private"`` is not the first.
            IsolationViolation: The probe found that the store does not keep owners apart.
            TypeError: Embeddings and a store are given, or neither; the store is of a class that is
                not known; or an option is not.
        """
        sources = self._context.readable(self._scope, levels)
        if levels[0] != SHARING_LEVELS[0]:
            raise ScopeError(
                'levels must begin with "private", where the scope writes, got another first. '
                'Write levels=["private", …]; an operator writes by memory.publisher(…).'
            )
        return self._context.vector_store(sources, embeddings, wrapping, **options)

    def retriever(
        self,
        source: Embeddings | VectorStore | BaseRetriever,
        *,
        k: int | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - as vector stores call it
        search_type: Literal["similarity", "mmr", "similarity_score_threshold"] = "similarity",
        search_kwargs: Mapping[str, Any] | None = None,
        embedding_name: str | None = None,
        **options: Any,
    ) -> IsolatedRetriever:
        """A retriever that returns documents of this scope, or raises.

        Args:
            source: Embeddings, for the scope's default collection; a vector store, of this scope or
                of another package; or any retriever, of which every document must bear the stamp
                of :meth:`stamped`.
            k: How many documents, 4 if not given; a call may ask for another number.
            filter: Which documents count; a filter of the call narrows further.
            search_type: As LangChain's `VectorStoreRetriever` has it.
            search_kwargs: Further options of the search, such as ``fetch_k``.
            embedding_name: Names the model of embeddings, as in :meth:`vector_store`.
            options: ``tags``, ``metadata`` and ``name``, as every retriever has them.

        Raises:
            ScopeError: The vector store is another scope's.
            TypeError: A retriever is given, and options of a search beside it; or a name of a
                model without embeddings.
        """
        from langchain_core.retrievers import BaseRetriever
        from langchain_core.vectorstores import VectorStore

        from langmem_isolated._adapters.document_tags import ResultGuard
        from langmem_isolated._adapters.vector_store_arguments import check_retrieved
        from langmem_isolated.retriever import IsolatedRetriever
        from langmem_isolated.vector_store import IsolatedVectorStore
        from langmem_isolated.wrapping import WrappedVectorStore

        check_retrieved(source)
        if embedding_name is not None and isinstance(source, BaseRetriever | VectorStore):
            raise TypeError("embedding_name belongs to embeddings, or to the vector store given.")
        if isinstance(source, BaseRetriever):
            if k is not None or filter is not None or search_kwargs is not None:
                raise TypeError(
                    "k, filter and search_kwargs belong to the retriever given, got one of them "
                    "beside it. Give them where that retriever is made."
                )
            stamps = ResultGuard(self._context.readable(self._scope, SHARING_LEVELS))
            return IsolatedRetriever(source, stamps=stamps, **options)
        store: VectorStore = (
            source
            if isinstance(source, VectorStore)
            else self.vector_store(source, embedding_name=embedding_name)
        )
        if not isinstance(store, IsolatedVectorStore | WrappedVectorStore):
            store = self.vector_store(wrapping=store)
        if not store.belongs_to(self._records.owner):
            raise ScopeError(
                "This vector store was made for another scope, and a retriever takes one of its "
                "own. Make one from this: scope.vector_store(…). Nothing was read."
            )
        _check_search(k, search_type, search_kwargs)
        asked = {**(search_kwargs or {}), "k": 4 if k is None else k}
        found = store.as_retriever(search_type=search_type, search_kwargs=asked)
        return IsolatedRetriever(found, filter=filter, **options)

    def stamped(self, documents: Iterable[Document]) -> list[Document]:
        """Copies of ``documents`` that bear this scope's owner stamp, to be stored anywhere.

        Give the retriever that finds them to :meth:`retriever`: it hands out those of this scope,
        unstamped, and raises `IsolationViolation` if any other comes. The stamp is a keyed MAC over
        id and text: split documents first, a piece of a stamped one has no valid stamp.

        Raises:
            ValueError: Metadata hold a key that begins with ``langmem_``.
        """
        from langmem_isolated._adapters.document_tags import ResultGuard

        return ResultGuard([self._records]).stamped(documents)

    def bm25_retriever(
        self,
        *,
        k: int = 4,
        collection: str = "default",
        levels: Sequence[SharingLevel] = SHARING_LEVELS,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - as vector stores call it
        **options: Any,
    ) -> IsolatedBM25Retriever:
        """A retriever that ranks this scope's documents by words.

        Args:
            k: How many documents at most; a call may ask for another number.
            collection: As in :meth:`vector_store`.
            levels: As in :meth:`vector_store`.
            filter: Which documents count; a filter of the call narrows further.
            options: ``language``, of documents and queries (a code of ISO 639-1 or an English name;
                by default found); ``tags``, ``metadata`` and ``name``, as every retriever has them.
        """
        from langmem_isolated.retriever import IsolatedBM25Retriever

        whole_number("k", k, least=1, advice="Leave it out for 4.")
        sources = self._context.readable(self._scope, levels)
        return IsolatedBM25Retriever(sources, collection, k=k, filter=filter, **options)


def _check_search(k: object, search_type: object, search_kwargs: object) -> None:
    if k is not None:
        whole_number("k", k, least=1, advice="Leave it out for 4.")
    if search_type not in _SEARCHES:
        raise ValueError(
            f"search_type must be one of {', '.join(_SEARCHES)}, got another "
            f"{kind_of(search_type)}. For a ranking by words use scope.bm25_retriever()."
        )
    if search_kwargs is not None:
        mapping("search_kwargs", search_kwargs, advice='Write search_kwargs={"fetch_k": 20}.')
