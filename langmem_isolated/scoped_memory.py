"""Hands out one scope's memory: what is made from it reads and writes that scope alone."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, overload

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from langchain_core.vectorstores import VectorStore
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.pregel import Pregel
from langgraph.store.base import IndexConfig, TTLConfig

from langmem_isolated._adapters.compat import Graph, copied_graph, has_node_cache
from langmem_isolated._adapters.context import SHARING_LEVELS, MemoryContext, SharingLevel
from langmem_isolated._adapters.document_tags import ResultGuard
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.caches import IsolatedByteStore, IsolatedLLMCache
from langmem_isolated.callbacks import IsolatedCallbackHandler
from langmem_isolated.chat_history import IsolatedChatMessageHistory, recent
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from langmem_isolated.errors import IsolationViolation, ScopeError
from langmem_isolated.indexing import IsolatedRecordManager
from langmem_isolated.node_cache import IsolatedNodeCache
from langmem_isolated.recall import Recall
from langmem_isolated.recall_tool import DESCRIPTION as RECALL_DESCRIPTION
from langmem_isolated.recall_tool import SAID_IN_PERSON, RecallTool
from langmem_isolated.retriever import IsolatedBM25Retriever, IsolatedRetriever
from langmem_isolated.scope import Scope
from langmem_isolated.sessions import Sessions
from langmem_isolated.store import IsolatedStore, StoreIndexConfig
from langmem_isolated.vector_store import IsolatedVectorStore
from langmem_isolated.wrapping import VectorStoreAdapter, WrappedVectorStore

if TYPE_CHECKING:
    from langmem_isolated.middleware import IsolatedMemoryMiddleware


class ScopedMemory:
    """One scope's memory: everything made from it reads and writes that scope and no other."""

    def __init__(self, context: MemoryContext, scope: Scope) -> None:
        self._context = context
        self._scope = scope
        self._records = context.records(Owner.private(scope))
        self.sessions = Sessions(self._records)
        self.recall = Recall(self._records, context.plaintext_cache)
        self.arecall = self.recall.arecall

    def __repr__(self) -> str:
        return f"ScopedMemory({self._scope!r})"

    @property
    def scope(self) -> Scope:
        """Whose memory this is."""
        return self._scope

    def chat_history(
        self, session_id: str, *, channel: str | None = None, idempotent: bool = False
    ) -> IsolatedChatMessageHistory:
        """The history of one chat session; see :class:`IsolatedChatMessageHistory`."""
        return IsolatedChatMessageHistory(
            self._records, session_id, channel=channel, idempotent=idempotent
        )

    def recent(self, limits: Mapping[str, int]) -> list[BaseMessage]:
        """The newest messages of some channels, oldest first; see :func:`recent`."""
        return recent(self._records, limits)

    async def arecent(self, limits: Mapping[str, int]) -> list[BaseMessage]:
        """The newest messages of some channels; see :func:`recent`."""
        return await self._records.arun(recent, self._records, limits)

    def checkpointer(
        self,
        *,
        allow: Iterable[type | tuple[str, ...]] = (),
        ttl: timedelta | None = None,
    ) -> IsolatedCheckpointSaver:
        """A LangGraph checkpointer bound to this scope.

        Args:
            allow: Types that graphs may store besides LangGraph's safe ones.
            ttl: How long a thread is kept after it was last written; for ever by default.
        """
        found = self._scope, self._records

        def resolve(config: RunnableConfig | None) -> tuple[Scope, ScopedDatabase]:
            self._context.refuse_another(self._scope, config)
            return found

        return IsolatedCheckpointSaver(
            resolve, self._context.element_caches, allow=allow, ttl=ttl, bound_to=self._scope
        )

    def middleware(
        self,
        *,
        channel: str = "ai",
        recall: int | None = None,
        summarize_with: BaseChatModel | None = None,
        summarize_after: int = 50,
    ) -> "IsolatedMemoryMiddleware":
        """An agent's recorder, bound to this scope; see :class:`IsolatedMemoryMiddleware`.

        Raises:
            ImportError: LangChain's agents are not installed (extra ``agents``).
        """
        from langmem_isolated.middleware import IsolatedMemoryMiddleware  # noqa: PLC0415

        return IsolatedMemoryMiddleware(
            self._records_of_config,
            plaintext_cache=self._context.plaintext_cache,
            channel=channel,
            recall=recall,
            summarize_with=summarize_with,
            summarize_after=summarize_after,
        )

    def callback_handler(self, session_id: str, *, channel: str = "ai") -> IsolatedCallbackHandler:
        """What records chains to a chat session; see :class:`IsolatedCallbackHandler`."""
        return IsolatedCallbackHandler(self._records_of_config, session_id, channel=channel)

    def _records_of_config(self, config: RunnableConfig | None) -> ScopedDatabase:
        self._context.refuse_another(self._scope, config)
        return self._records

    def bind(
        self,
        graph: Graph,
        *,
        checkpointer: IsolatedCheckpointSaver | None = None,
        store: IsolatedStore | None = None,
        cache: IsolatedNodeCache | None = None,
    ) -> Graph:
        """The compiled graph, copied with this scope's checkpointer, store and node cache.

        The original is left alone. A copy takes about 0.02 ms, so binding for every request is
        fine. Where the graph or a subgraph in it has a node cache, this scope's takes its place:
        any other would give one user what another's node has read.

        Args:
            graph: Any compiled graph; what it had as checkpointer, store and cache counts no more.
            checkpointer: One of this scope's made with options; by default one without.
            store: The same for the store.
            cache: The same for the node cache; by default there is one if the graph had one.

        Raises:
            TypeError: ``graph`` is no compiled graph.
            IsolationViolation: A part is not bound to this scope.
        """
        if not isinstance(graph, Pregel):
            raise TypeError(f"bind() takes a compiled graph, got {type(graph).__name__}.")
        for part in (checkpointer, store, cache):
            if part is not None and getattr(part, "bound_to", None) != self._scope:
                raise IsolationViolation(
                    f"bind() takes parts made by this scope, got {type(part).__name__} of another."
                )
        if cache is None and has_node_cache(graph):
            cache = self.node_cache()
        return copied_graph(
            graph,
            cache,
            checkpointer=checkpointer or self.checkpointer(),
            store=store or self.store(),
        )

    def node_cache(self, *, serde: SerializerProtocol | None = None) -> IsolatedNodeCache:
        """LangGraph's node cache for this scope; see :class:`IsolatedNodeCache`.

        Args:
            serde: LangGraph's serializer for what is kept, by default that of its own caches.
        """
        return IsolatedNodeCache(self._records_of_config, bound_to=self._scope, serde=serde)

    def store(
        self,
        *,
        index: StoreIndexConfig | IndexConfig | None = None,
        ttl: TTLConfig | None = None,
    ) -> IsolatedStore:
        """LangGraph's long-term memory, bound to this scope; see :class:`IsolatedStore`."""
        return IsolatedStore(lambda: self._records, index=index, ttl=ttl, bound_to=self._scope)

    @overload
    def vector_store(
        self,
        embeddings: Embeddings,
        /,
        *,
        collection: str = ...,
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
            options: ``collection``, a name that keeps documents apart from another collection's; or
                those of :class:`WrappedVectorStore`. It is probed once with each adapter.

        Raises:
            ScopeError: A level has another name, or ``"private"`` is not the first.
            IsolationViolation: The probe found that the store does not keep owners apart.
            TypeError: Embeddings and a store are given, or neither; the store is of a class that is
                not known; or an option is not.
        """
        sources = self._context.readable(self._scope, levels)
        if levels[0] != SHARING_LEVELS[0]:
            raise ScopeError('levels must begin with "private", where the scope writes.')
        return self._context.vector_store(sources, embeddings, wrapping, **options)

    def retriever(
        self,
        source: Embeddings | VectorStore | BaseRetriever,
        *,
        k: int | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - as vector stores call it
        search_type: Literal["similarity", "mmr", "similarity_score_threshold"] = "similarity",
        search_kwargs: Mapping[str, Any] | None = None,
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
            options: ``tags``, ``metadata`` and ``name``, as every retriever has them.

        Raises:
            ScopeError: The vector store is another scope's.
            TypeError: A retriever is given, and options of a search beside it.
        """
        if isinstance(source, BaseRetriever):
            if k is not None or filter is not None or search_kwargs is not None:
                raise TypeError("k, filter and search_kwargs belong to the retriever given.")
            stamps = ResultGuard(self._context.readable(self._scope, SHARING_LEVELS))
            return IsolatedRetriever(source, stamps=stamps, **options)
        store: VectorStore = (
            source if isinstance(source, VectorStore) else self.vector_store(source)
        )
        if not isinstance(store, IsolatedVectorStore | WrappedVectorStore):
            store = self.vector_store(wrapping=store)
        if not store.belongs_to(self._records.owner):
            raise ScopeError("This vector store was made for another scope. Make one from this.")
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
            options: ``tags``, ``metadata`` and ``name``, as every retriever has them.
        """
        sources = self._context.readable(self._scope, levels)
        return IsolatedBM25Retriever(sources, collection, k=k, filter=filter, **options)

    def llm_cache(self, *, ttl: timedelta | None = None) -> IsolatedLLMCache:
        """A model's ``cache=`` for this scope; see :class:`IsolatedLLMCache`.

        Args:
            ttl: How long an answer is kept; for ever by default.
        """
        return IsolatedLLMCache(lambda: self._records, ttl=ttl)

    def byte_store(self, name: str = "default") -> IsolatedByteStore:
        """Bytes under keys, for embeddings and parent documents; see :class:`IsolatedByteStore`.

        Raises:
            ScopeError: ``name`` is missing or malformed.
        """
        return IsolatedByteStore(self._records, name)

    def record_manager(self, name: str = "default") -> IsolatedRecordManager:
        """What LangChain's `index` needs beside a vector store; see :class:`IsolatedRecordManager`.

        Raises:
            ScopeError: ``name`` is missing or malformed.
        """
        return IsolatedRecordManager(self._records, name)

    def recall_tool(
        self,
        *,
        limit: int = 5,
        max_characters: int = 4_000,
        since: datetime | None = None,
        sessions: Collection[str] | None = None,
        channel: str | None = None,
        roles: Collection[str] | None = SAID_IN_PERSON,
        embeddings: Embeddings | None = None,
        include_current: bool = False,
        name: str = "recall",
        description: str = RECALL_DESCRIPTION,
    ) -> RecallTool:
        """:class:`Recall` as a tool for a model, which chooses the words and nothing else.

        The answer quotes messages as data, each with its source, role and time. What a message says
        cannot end its quotation; a model may heed it all the same, so give no more rights to the
        agent than its user has.

        Args:
            limit: How many messages an answer has at most.
            max_characters: How long an answer is at most, 1,000 or more; long messages are cut.
            since: As in `recall`, as are ``sessions``, ``channel`` and ``embeddings``.
            roles: As in `recall`, which searches all with ``None``. By default what the user
                and the model said: what a tool answered may come from anywhere.
            include_current: Whether also what is in the session and thread from which the tool is
                called. A model has that before it, unless it was trimmed.
            name: What the model calls it.
            description: What the model reads of it.
        """
        return RecallTool(
            lambda _: self.recall,
            limit=limit,
            max_characters=max_characters,
            since=since,
            sessions=sessions,
            channel=channel,
            roles=roles,
            embeddings=embeddings,
            include_current=include_current,
            name=name,
            description=description,
        )

    def module(self, module_id: str) -> "ScopedMemory":
        """The same user's memory in another module.

        Raises:
            ScopeError: ``module_id`` is missing or malformed.
        """
        scope = Scope(self._scope.user_id, module_id, project_id=self._scope.project_id)
        return ScopedMemory(self._context, scope)
