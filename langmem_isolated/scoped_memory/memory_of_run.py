"""Forms for one graph that serves everybody: each finds the scope of every call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, Literal

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._adapters.run_scope import (
    ResolveScope,
    config_of_run,
    is_told_in_context,
    refuse_untold,
)
from langmem_isolated._adapters.using import Using
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import ScopeError
from langmem_isolated.scope import Scope, checked_thread_id
from langmem_isolated.scoped_memory.memory import ScopedMemory

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langchain_core.language_models import BaseChatModel
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import RunnableConfig
    from langchain_core.vectorstores import VectorStore
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from langgraph.store.base import IndexConfig, TTLConfig

    from langmem_isolated._adapters.vector_store_base import ScopedVectorStore
    from langmem_isolated._adapters.vector_store_of_run import VectorStoreOfRun
    from langmem_isolated.caches import IsolatedLLMCache, IsolatedNodeCache
    from langmem_isolated.callbacks import IsolatedCallbackHandler
    from langmem_isolated.chat_history import IsolatedChatMessageHistory
    from langmem_isolated.checkpointer import IsolatedCheckpointSaver
    from langmem_isolated.middleware import IsolatedMemoryMiddleware
    from langmem_isolated.recall.tool import RecallTool
    from langmem_isolated.retriever import IsolatedRetriever, RetrieverOfRun
    from langmem_isolated.store import IsolatedStore, StoreIndexConfig


@explains_calls
class MemoryOfRun:
    """What an :class:`IsolatedMemory` gives to runs of everybody."""

    _context: MemoryContext

    def using(self, scope: Scope | ScopedMemory) -> Using:
        """Let ``scope`` stand for calls that carry no scope, in this block and what it starts.

        For ``with`` and ``async with``, in one task or thread; never across a ``yield``. It is no
        authentication: a call that names another scope is refused. See :class:`Using`.

        Raises:
            ScopeError: ``scope`` is neither a `Scope` nor a `ScopedMemory`.
        """
        if isinstance(scope, ScopedMemory):
            scope = scope.scope
        if type(scope) is not Scope:
            raise ScopeError(
                f"using() takes a Scope or memory.scope(…), got {kind_of(scope)}. Write "
                "`with memory.using(memory.scope(user_id=…, module_id=…)):`."
            )
        return Using(scope)

    def of_run(self, *, scope_resolver: ResolveScope | None = None) -> ScopedMemory:
        """The memory of the run that calls: of what its config names, or the surrounding `using`.

        For nodes and tools of a graph that serves everybody, for example to bind a child graph that
        has a thread of its own: ``memory.of_run().bind(child)``.

        Raises:
            ScopeError: Nothing names a scope.
            IsolationViolation: What names one disagrees.
        """
        finder = self._context.finder(scope_resolver)
        return ScopedMemory(self._context, finder.of_run())

    def checkpointer(
        self,
        *,
        allow: Iterable[type | tuple[str, ...]] = (),
        strict: bool = False,
        ttl: timedelta | None = None,
        absolute: timedelta | None = None,
        scope_resolver: ResolveScope | None = None,
    ) -> IsolatedCheckpointSaver:
        """A LangGraph checkpointer that finds the scope of each call.

        In ``config["configurable"]``: ``user_id``, ``module_id`` and, if need be, ``project_id``;
        or by ``scope_resolver``. Where they name none, the surrounding run does, and then the
        surrounding ``with memory.using(scope)``. What disagrees is refused. Calls that LangGraph
        makes without a config (``delete_thread``, ``list(None)``, …) need one of these, or the
        bound form, ``memory.scope(…).checkpointer()``.

        Args:
            allow: Types that graphs may store besides LangGraph's safe ones; all others are refused
                then. By default every class is stored that LangGraph's savers store.
            strict: Refuse what ``allow`` does not name, and what would come back as something else.
            ttl: How long a thread is kept after it was last written; for ever by default.
            absolute: How long one that is begun here is kept after that, whatever is written.
            scope_resolver: Finds the scope from the config, for servers that must not trust a
                client's ``configurable``: scope keys in it are refused unless they agree. Asked
                once a run, and at every call outside of one, with what config there is; ``None``
                is no opinion, so raise for a caller that is not known.

        Raises:
            TypeError: ``scope_resolver`` cannot be called.
        """
        from langmem_isolated.checkpointer import IsolatedCheckpointSaver

        finder = self._context.finder(scope_resolver)

        def resolve(config: RunnableConfig | None) -> tuple[Scope, ScopedDatabase]:
            scope = finder.of_call(config, of_loop=True)
            return scope, self._context.private(scope)

        return IsolatedCheckpointSaver(
            resolve,
            self._context.element_caches,
            allow=allow,
            strict=strict,
            ttl=ttl,
            absolute=absolute,
            config_keys=self._context.config_keys,
            set_up=self._context.set_up,
        )

    def store(
        self,
        *,
        index: StoreIndexConfig | IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        integrity: Literal["counted"] | None = None,
        equality: Sequence[str] | None = None,
        scope_resolver: ResolveScope | None = None,
    ) -> IsolatedStore:
        """LangGraph's long-term memory of whoever runs; see :class:`IsolatedStore`.

        The scope is that of the run in which an operation is called: ``user_id`` and ``module_id``
        in its ``configurable``, or what ``scope_resolver`` makes of its config; where they name
        none, that of the surrounding :meth:`using`. Outside of all use :meth:`ScopedMemory.store`.
        """
        from langmem_isolated.store import IsolatedStore

        return IsolatedStore(
            self._records_of_run(scope_resolver),
            index=index,
            ttl=ttl,
            integrity=integrity,
            equality=equality,
            set_up=self._context.set_up,
        )

    def llm_cache(
        self,
        *,
        ttl: timedelta | None = None,
        scope_resolver: ResolveScope | None = None,
    ) -> IsolatedLLMCache:
        """A cache for ``set_llm_cache`` that answers from the scope of whoever asks.

        The scope is that of the run around the model, a chain, a graph or an agent, as for
        :meth:`store`. A model that is invoked by itself makes no such run, whatever its config
        says: wrap it in ``with memory.using(scope)``. A config that names another user than the
        run around is refused, but not where an asynchronous model is invoked by itself or in a
        `RunnableBranch`: LangChain asks the cache in a task of its own there, and tells it nothing;
        do not do that for another user. A chain's ``batch`` tells nobody whose its parts are: there
        it is refused. Without a scope nothing is looked up, and the model is not asked.

        Args:
            ttl: How long an answer is kept; for ever by default.
            scope_resolver: As for :meth:`checkpointer`.
        """
        from langmem_isolated.caches import IsolatedLLMCache

        return IsolatedLLMCache(self._records_of_model(scope_resolver), ttl=ttl)

    def middleware(
        self,
        *,
        channel: str = "ai",
        recall: int | None = None,
        profile: bool = False,
        summarize_with: BaseChatModel | None = None,
        summarize_after: int = 50,
        scope_resolver: ResolveScope | None = None,
    ) -> IsolatedMemoryMiddleware:
        """A recorder for agents of all users; see :class:`IsolatedMemoryMiddleware`.

        The scope is that of each run: ``user_id`` and ``module_id`` in its ``configurable``, or the
        surrounding :meth:`using`, or what ``scope_resolver`` makes of its config.

        Raises:
            ImportError: LangChain's agents are not installed (extra ``agents``).
        """
        from langmem_isolated.middleware import IsolatedMemoryMiddleware

        return IsolatedMemoryMiddleware(
            self._records_by(scope_resolver),
            plaintext_cache=self._context.plaintext_cache,
            channel=channel,
            recall=recall,
            profile=profile,
            summarize_with=summarize_with,
            summarize_after=summarize_after,
        )

    def callback_handler(
        self, *, channel: str = "ai", scope_resolver: ResolveScope | None = None
    ) -> IsolatedCallbackHandler:
        """What records chains of all users; see :class:`IsolatedCallbackHandler`.

        Scope and session are those of the chain around a model: ``user_id``, ``module_id`` and
        ``session_id`` or ``thread_id`` in its ``configurable``.
        """
        from langmem_isolated.callbacks import IsolatedCallbackHandler

        return IsolatedCallbackHandler(self._records_by(scope_resolver), channel=channel)

    def session_history(
        self, *, user_id: str, module_id: str, session_id: str
    ) -> IsolatedChatMessageHistory:
        """A chat history, for `RunnableWithMessageHistory` together with ``history_config``.

        That class stores a turn in a callback whose errors LangChain only logs; where an answer
        must not be given unless it was stored, add the messages yourself. With ``config_keys=`` its
        parameters have those names.

        Raises:
            ScopeError: A value is ``None``, empty or malformed.
            IsolationViolation: The surrounding `using` names another scope.
        """
        keys = self._context.config_keys
        named = {keys.user_id: user_id, keys.module_id: module_id}
        scope = self._context.finder(None).of_call({"configurable": named})
        return ScopedMemory(self._context, scope).chat_history(
            checked_thread_id("session_id", session_id)
        )

    def _renamed_session_history(self) -> Callable[..., IsolatedChatMessageHistory]:
        """The same with the parameters that the config keys name: LangChain compares them."""
        user_id, module_id, _ = self._context.config_keys

        def session_history(**named: Any) -> IsolatedChatMessageHistory:
            parts = {"user_id": user_id, "module_id": module_id, "session_id": "session_id"}
            return MemoryOfRun.session_history(
                self, **{part: named.pop(name) for part, name in parts.items()}, **named
            )

        session_history.__signature__ = Signature(  # type: ignore[attr-defined]
            [Parameter(name, Parameter.KEYWORD_ONLY) for name in (user_id, module_id, "session_id")]
        )
        return session_history

    def node_cache(
        self,
        *,
        serde: SerializerProtocol | None = None,
        scope_resolver: ResolveScope | None = None,
    ) -> IsolatedNodeCache:
        """LangGraph's node cache of whoever runs; see :class:`IsolatedNodeCache`.

        Args:
            serde: A serializer of LangGraph for what is kept, by default our own.
            scope_resolver: As for :meth:`checkpointer`.
        """
        from langmem_isolated.caches import IsolatedNodeCache

        return IsolatedNodeCache(self._records_by(scope_resolver), serde=serde)

    def recall_tool(
        self, *, scope_resolver: ResolveScope | None = None, **options: Any
    ) -> RecallTool:
        """Recall for the model of whoever runs; see :meth:`ScopedMemory.recall_tool`.

        Args:
            scope_resolver: As for :meth:`checkpointer`.
            options: Those of :meth:`ScopedMemory.recall_tool`.

        Raises:
            TypeError: An option is not known.
        """
        from langmem_isolated.recall.tool import RecallTool

        find = self._memory_by(scope_resolver)
        return RecallTool(lambda config: find(config).recall, **options)

    def vector_store(
        self,
        embeddings: Embeddings | None = None,
        /,
        *,
        wrapping: VectorStore | None = None,
        scope_resolver: ResolveScope | None = None,
        **options: Any,
    ) -> VectorStoreOfRun:
        """Documents of whoever runs; see :meth:`ScopedMemory.vector_store`.

        A wrapped store is probed with the first call.

        Args:
            embeddings: Any LangChain embeddings.
            wrapping: A vector store of another package.
            scope_resolver: As for :meth:`checkpointer`.
            options: Those of :meth:`ScopedMemory.vector_store`.

        Raises:
            TypeError: Embeddings and a store are given, or neither.
        """
        from langmem_isolated._adapters.vector_store_arguments import check_source
        from langmem_isolated._adapters.vector_store_of_run import VectorStoreOfRun

        check_source(embeddings, wrapping)
        given = () if embeddings is None else (embeddings,)
        more = options if wrapping is None else {"wrapping": wrapping, **options}
        find = self._memory_by(scope_resolver)

        def made(config: RunnableConfig | None) -> ScopedVectorStore:
            store: ScopedVectorStore = find(config).vector_store(*given, **more)
            return store

        return VectorStoreOfRun(made, embeddings)

    def retriever(
        self,
        source: Embeddings | VectorStore | BaseRetriever,
        *,
        scope_resolver: ResolveScope | None = None,
        **options: Any,
    ) -> RetrieverOfRun:
        """Documents of whoever runs, retrieved; see :meth:`ScopedMemory.retriever`.

        Inside of asynchronous retrievers that start tasks for others (`MultiQueryRetriever`,
        `MergerRetriever`), whoever runs is the user of the run around: LangChain hides a config
        that names another there.

        Args:
            source: As there, or what :meth:`vector_store` makes.
            scope_resolver: As for :meth:`checkpointer`.
            options: Those of :meth:`ScopedMemory.retriever`.

        Raises:
            TypeError: ``source`` is none of these.
        """
        from langmem_isolated._adapters.vector_store_arguments import check_retrieved
        from langmem_isolated._adapters.vector_store_of_run import VectorStoreOfRun
        from langmem_isolated.retriever import RetrieverOfRun

        check_retrieved(source)
        find = self._memory_by(scope_resolver)

        def made(config: RunnableConfig | None) -> IsolatedRetriever:
            scoped = find(config)
            found = source.of_run(config) if isinstance(source, VectorStoreOfRun) else source
            return scoped.retriever(found, **options)

        return RetrieverOfRun(made)

    def _memory_by(
        self, resolver: ResolveScope | None
    ) -> Callable[[RunnableConfig | None], ScopedMemory]:
        finder = self._context.finder(resolver)
        return lambda config: ScopedMemory(self._context, finder.of_call(config))

    def _records_of_run(self, resolver: ResolveScope | None) -> Callable[[], ScopedDatabase]:
        finder = self._context.finder(resolver)
        return lambda: self._context.private(finder.of_run())

    def _records_of_model(self, resolver: ResolveScope | None) -> Callable[[], ScopedDatabase]:
        from langmem_isolated._adapters.compat import run_of_calling_model

        find = self._records_of_run(resolver)

        def checked() -> ScopedDatabase:
            run = run_of_calling_model()
            if run and not is_told_in_context(config_of_run(), run.parent_run_id, run.tags):
                refuse_untold()
            return find()

        return checked

    def _records_by(
        self, resolver: ResolveScope | None
    ) -> Callable[[RunnableConfig | None], ScopedDatabase]:
        finder = self._context.finder(resolver)
        return lambda config: self._context.private(finder.of_call(config))
