"""One scope's memory: everything made from it reads and writes that scope alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._adapters.recall_tool_defaults import DESCRIPTION as RECALL_DESCRIPTION
from langmem_isolated._adapters.recall_tool_defaults import SAID_IN_PERSON
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.calls import ONE_SCOPE, explains_calls, made_by
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import IsolationViolation
from langmem_isolated.lifecycle import EphemeralContext, EphemeralLife, OneModule, ScopeLifecycle
from langmem_isolated.scope import Scope, checked_id
from langmem_isolated.scoped_memory.retrieval import ScopedRetrieval

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig
    from langchain_core.vectorstores import VectorStore
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from langgraph.store.base import IndexConfig, TTLConfig

    from langmem_isolated._adapters.compat import Graph
    from langmem_isolated.caches import IsolatedByteStore, IsolatedLLMCache, IsolatedNodeCache
    from langmem_isolated.callbacks import IsolatedCallbackHandler
    from langmem_isolated.chat_history import IsolatedChatMessageHistory
    from langmem_isolated.checkpointer import IsolatedCheckpointSaver
    from langmem_isolated.indexing import IsolatedRecordManager
    from langmem_isolated.middleware import IsolatedMemoryMiddleware
    from langmem_isolated.recall import Recall, Recalled
    from langmem_isolated.recall.tool import RecallTool
    from langmem_isolated.sessions import Sessions
    from langmem_isolated.store import IsolatedStore, StoreIndexConfig


@made_by(ONE_SCOPE, first=MemoryContext)
@explains_calls
class ScopedMemory(ScopedRetrieval, ScopeLifecycle):
    """One scope's memory: everything made from it reads and writes that scope and no other.

    >>> tutor = memory.scope(user_id="alice", module_id="tutor")
    >>> tutor.chat_history("monday").add_user_message("What is 6 times 7?")
    >>> graph = tutor.bind(builder.compile())  # checkpointer, store and node cache of this scope
    >>> tutor.store().put(("facts",), "school", {"level": 3})
    >>> [item.value for item in tutor.store().search(("facts",))]
    [{'level': 3}]
    >>> tutor.verify().messages
    1
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._scope!r})"

    @cached_property
    def sessions(self) -> Sessions:
        """The scope's chat sessions: ``scope.sessions()`` lists them; see :class:`Sessions`."""
        from langmem_isolated.sessions import Sessions

        return Sessions(self._records)

    @cached_property
    def recall(self) -> Recall:
        """Search over what was said: ``scope.recall("fractions")``; see :class:`Recall`."""
        from langmem_isolated.recall import Recall

        return Recall(self._records, self._context.plaintext_cache)

    @property
    def arecall(self) -> Callable[..., Awaitable[list[Recalled]]]:
        """Search over what was said; see :attr:`recall`."""
        return self.recall.arecall

    @property
    def scope(self) -> Scope:
        """Whose memory this is."""
        return self._scope

    def chat_history(
        self, session_id: str, *, channel: str | None = None, idempotent: bool = False
    ) -> IsolatedChatMessageHistory:
        """The history of one chat session; see :class:`IsolatedChatMessageHistory`."""
        from langmem_isolated.chat_history import IsolatedChatMessageHistory

        return IsolatedChatMessageHistory(
            self._records, session_id, channel=channel, idempotent=idempotent
        )

    def recent(self, limits: Mapping[str, int]) -> list[BaseMessage]:
        """The newest messages of some channels, oldest first; see :func:`recent`."""
        from langmem_isolated._adapters.channels import recent

        return recent(self._records, limits)

    async def arecent(self, limits: Mapping[str, int]) -> list[BaseMessage]:
        """The newest messages of some channels; see :func:`recent`."""
        from langmem_isolated._adapters.channels import recent

        return await self._records.arun(recent, self._records, limits)

    def checkpointer(
        self,
        *,
        allow: Iterable[type | tuple[str, ...]] = (),
        strict: bool = False,
        ttl: timedelta | None = None,
        absolute: timedelta | None = None,
    ) -> IsolatedCheckpointSaver:
        """A LangGraph checkpointer bound to this scope.

        Args:
            allow: Types that graphs may store besides LangGraph's safe ones; all others are refused
                then. By default every class is stored that LangGraph's savers store.
            strict: Refuse what ``allow`` does not name, and what would come back as something else.
            ttl: How long a thread is kept after it was last written; for ever by default.
            absolute: How long one that is begun here is kept after that, whatever is written.
        """
        from langmem_isolated.checkpointer import IsolatedCheckpointSaver

        found = self._scope, self._records

        def resolve(config: RunnableConfig | None) -> tuple[Scope, ScopedDatabase]:
            self._context.refuse_another(self._scope, config)
            return found

        return IsolatedCheckpointSaver(
            resolve,
            self._context.element_caches,
            allow=allow,
            strict=strict,
            ttl=ttl,
            absolute=absolute,
            bound_to=self._scope,
            set_up=self._context.set_up,
        )

    def middleware(
        self,
        *,
        channel: str = "ai",
        recall: int | None = None,
        profile: bool = False,
        summarize_with: BaseChatModel | None = None,
        summarize_after: int = 50,
    ) -> IsolatedMemoryMiddleware:
        """An agent's recorder, bound to this scope; see :class:`IsolatedMemoryMiddleware`.

        Raises:
            ImportError: LangChain's agents are not installed (extra ``agents``).
        """
        from langmem_isolated.middleware import IsolatedMemoryMiddleware

        return IsolatedMemoryMiddleware(
            self._records_of_config,
            plaintext_cache=self._context.plaintext_cache,
            channel=channel,
            recall=recall,
            profile=profile,
            summarize_with=summarize_with,
            summarize_after=summarize_after,
        )

    def callback_handler(self, session_id: str, *, channel: str = "ai") -> IsolatedCallbackHandler:
        """What records chains to a chat session; see :class:`IsolatedCallbackHandler`.

        Raises:
            ScopeError: ``session_id`` or ``channel`` is malformed.
        """
        from langmem_isolated.callbacks import IsolatedCallbackHandler

        session_id = checked_id("session_id", session_id)
        return IsolatedCallbackHandler(self._records_of_config, session_id, channel=channel)

    def bind(
        self,
        graph: Graph,
        *,
        checkpointer: IsolatedCheckpointSaver | None = None,
        store: IsolatedStore | None = None,
        cache: IsolatedNodeCache | None = None,
    ) -> Graph:
        """The compiled graph, copied with this scope's checkpointer, store and node cache.

        The original is left alone. A copy takes about 0.03 ms, so binding for every request is
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
        from langgraph.pregel import Pregel

        from langmem_isolated._adapters.bound_graph import bound_graph
        from langmem_isolated._adapters.compat import has_node_cache

        if not isinstance(graph, Pregel):
            raise TypeError(_no_graph(graph))
        for part in (checkpointer, store, cache):
            if part is not None and getattr(part, "bound_to", None) != self._scope:
                raise IsolationViolation(
                    f"bind() takes parts made by this scope, got {kind_of(part)} of another. Make "
                    "them from this scope, such as scope.checkpointer(ttl=…), or leave them out."
                )
        if cache is None and has_node_cache(graph):
            cache = self.node_cache()
        return bound_graph(graph, cache, checkpointer or self.checkpointer(), store or self.store())

    def node_cache(self, *, serde: SerializerProtocol | None = None) -> IsolatedNodeCache:
        """LangGraph's node cache for this scope; see :class:`IsolatedNodeCache`.

        Args:
            serde: A serializer of LangGraph for what is kept, by default our own.
        """
        from langmem_isolated.caches import IsolatedNodeCache

        return IsolatedNodeCache(self._records_of_config, bound_to=self._scope, serde=serde)

    def store(
        self,
        *,
        index: StoreIndexConfig | IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        integrity: Literal["counted"] | None = None,
        equality: Sequence[str] | None = None,
    ) -> IsolatedStore:
        """LangGraph's long-term memory, bound to this scope; see :class:`IsolatedStore`."""
        from langmem_isolated.store import IsolatedStore

        return IsolatedStore(
            lambda: self._records,
            index=index,
            ttl=ttl,
            integrity=integrity,
            equality=equality,
            bound_to=self._scope,
            set_up=self._context.set_up,
        )

    def llm_cache(self, *, ttl: timedelta | None = None) -> IsolatedLLMCache:
        """A model's ``cache=`` for this scope; see :class:`IsolatedLLMCache`.

        Args:
            ttl: How long an answer is kept; for ever by default.
        """
        from langmem_isolated.caches import IsolatedLLMCache

        return IsolatedLLMCache(lambda: self._records, ttl=ttl)

    def byte_store(self, name: str = "default") -> IsolatedByteStore:
        """Bytes under keys, for embeddings and parent documents; see :class:`IsolatedByteStore`.

        Raises:
            ScopeError: ``name`` is missing or malformed.
        """
        from langmem_isolated.caches import IsolatedByteStore

        return IsolatedByteStore(self._records, name)

    def record_manager(self, name: str = "default") -> IsolatedRecordManager:
        """What LangChain's `index` needs beside a vector store; see :class:`IsolatedRecordManager`.

        Raises:
            ScopeError: ``name`` is missing or malformed.
        """
        from langmem_isolated.indexing import IsolatedRecordManager

        return IsolatedRecordManager(self._records, name)

    def recall_tool(
        self,
        *,
        limit: int = 5,
        max_characters: int = 4_000,
        since: date | datetime | None = None,
        sessions: Collection[str] | None = None,
        channel: str | None = None,
        roles: Collection[str] | None = SAID_IN_PERSON,
        language: str | None = None,
        embeddings: Embeddings | None = None,
        embedding_name: str | None = None,
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
            since: As in `recall`, as are ``sessions``, ``channel``, ``language``, ``embeddings``
                and ``embedding_name``.
            roles: As in `recall`, which searches all with ``None``. By default what the user
                and the model said: what a tool answered may come from anywhere.
            include_current: Whether also what is in the session and thread from which the tool is
                called. A model has that before it, unless it was trimmed.
            name: What the model calls it.
            description: What the model reads of it.
        """
        from langmem_isolated.recall.tool import RecallTool

        return RecallTool(
            lambda _: self.recall,
            limit=limit,
            max_characters=max_characters,
            since=since,
            sessions=sessions,
            channel=channel,
            roles=roles,
            language=language,
            embeddings=embeddings,
            embedding_name=embedding_name,
            include_current=include_current,
            name=name,
            description=description,
        )

    def ephemeral(self, *, read_long_term: bool = False) -> EphemeralMemory:
        """This scope's memory off the record: in the memory of the process alone.

        Everything made from it works as what this scope makes, and nothing of it reaches a disk or
        a server, unless it is kept; see :class:`EphemeralMemory`.

        Args:
            read_long_term: Whether recall and retrieval find what this scope has stored, too.
        """
        return EphemeralMemory(self, read_long_term=read_long_term)

    def module(self, module_id: str) -> ScopedMemory:
        """The same user's memory in another module.

        Raises:
            ScopeError: ``module_id`` is missing or malformed.
        """
        scope = Scope(self._scope.user_id, module_id, project_id=self._scope.project_id)
        return ScopedMemory(self._context, scope)


class EphemeralMemory(OneModule, EphemeralLife, ScopedMemory):
    """A scope's memory off the record, as ``scope.ephemeral()`` gives it: closed, it is forgotten.

    >>> with scope.ephemeral() as off_the_record:
    ...     off_the_record.chat_history("draft").add_user_message("Between you and me")
    >>> scope.chat_history("draft").count()
    0
    """

    _called = "An ephemeral memory"
    _another = "Make one there: memory.scope(user_id=…, module_id=…).ephemeral()."
    _shared = ": keep() stores it"

    def __init__(self, lasting: ScopedMemory, *, read_long_term: bool) -> None:
        self._lasting = lasting
        self._kept_in = lasting._records  # noqa: SLF001 - of the same scope
        context = EphemeralContext.beside(lasting._context, read_long_term=read_long_term)  # noqa: SLF001
        super().__init__(context, lasting.scope)

    def vector_store(
        self, *sources: Any, wrapping: VectorStore | None = None, **options: Any
    ) -> Any:
        """A vector store in memory; see :meth:`ScopedMemory.vector_store`.

        Raises:
            ValueError: ``wrapping`` is given: what is written there stays.
        """
        if wrapping is not None:
            raise ValueError(
                "An ephemeral memory wraps no vector store: what is written there stays. Give "
                "embeddings, vector_store(embeddings). Nothing was written."
            )
        return super().vector_store(*sources, **options)


def _no_graph(graph: object) -> str:
    advice = " Write bind(builder.compile())." if hasattr(graph, "compile") else ""
    return (
        f"bind() takes a compiled graph, got {kind_of(graph)}.{advice} StateGraph.compile() and "
        "create_agent() make one. Nothing was bound."
    )
