"""Hands out what one graph that serves everybody needs: it finds the scope of each call."""

from collections.abc import Callable

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.base import SerializerProtocol

from langmem_isolated._adapters.compat import run_of_calling_model
from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._adapters.run_scope import (
    ResolveScope,
    config_of_run,
    is_told_in_context,
    refuse_untold,
)
from langmem_isolated._adapters.using import Using
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import ScopeError
from langmem_isolated.node_cache import IsolatedNodeCache
from langmem_isolated.scope import Scope
from langmem_isolated.scoped_memory import ScopedMemory


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
                f"using() takes a Scope or memory.scope(…), got {type(scope).__name__}."
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

    def node_cache(
        self,
        *,
        serde: SerializerProtocol | None = None,
        scope_resolver: ResolveScope | None = None,
    ) -> IsolatedNodeCache:
        """LangGraph's node cache of whoever runs; see :class:`IsolatedNodeCache`.

        Args:
            serde: LangGraph's serializer for what is kept, by default that of its own caches.
            scope_resolver: As for :meth:`checkpointer`.
        """
        return IsolatedNodeCache(self._records_by(scope_resolver), serde=serde)

    def _records_of_run(self, resolver: ResolveScope | None) -> Callable[[], ScopedDatabase]:
        finder = self._context.finder(resolver)
        return lambda: self._context.private(finder.of_run())

    def _records_of_model(self, resolver: ResolveScope | None) -> Callable[[], ScopedDatabase]:
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
