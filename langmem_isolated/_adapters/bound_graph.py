"""Graphs bound to one scope: none runs on the memory of another that the run around lends it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

from langmem_isolated._adapters.compat import copied_graph, lent_to
from langmem_isolated._adapters.run_scope import tell_refusal
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from langmem_isolated.errors import IsolationViolation
from langmem_isolated.scope import Scope
from langmem_isolated.store import IsolatedStore

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from langmem_isolated._adapters.compat import Graph
    from langmem_isolated.caches import IsolatedNodeCache

_LENT = (
    "A bound graph was called inside of a run that is not of its scope, without a thread of its "
    "own: LangGraph would have it use that run's memory. Nothing was read or written. Name the "
    'thread, {"configurable": {"thread_id": …}}, and the graph is called on its own scope\'s.'
)
# All that reads or writes a graph's memory goes through these; where they take the config.
_RUNS = ("stream", "astream"), 1
_STATES = (
    (
        *("get_state", "get_state_history", "bulk_update_state"),
        *("aget_state", "aget_state_history", "abulk_update_state"),
    ),
    0,
)


def bound_graph(
    graph: Graph,
    node_cache: IsolatedNodeCache | None,
    checkpointer: IsolatedCheckpointSaver,
    store: IsolatedStore,
) -> Graph:
    """A compiled graph, copied with the parts of one scope, that refuses those of others."""
    copied = copied_graph(graph, node_cache, checkpointer=checkpointer, store=store)
    copied.__class__ = _bound(type(graph))
    return copied


@cache
def _bound(kind: type[Any]) -> type[Any]:
    """``kind`` of graph, whose calls are looked at before they begin."""
    if getattr(kind, "is_bound_to_a_scope", False):
        return kind
    checked = {
        name: _checked(getattr(kind, name), at) for names, at in (_RUNS, _STATES) for name in names
    }
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), {**named, **checked, "is_bound_to_a_scope": True})


def _checked(method: Callable[..., Any], at: int) -> Callable[..., Any]:
    def begun(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _refuse_lent(self, args[at] if len(args) > at else kwargs.get("config"))
        return method(self, *args, **kwargs)

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return begun(self, args, kwargs)

    # These begin when they are read, perhaps inside of another run than they were made in.
    @wraps(method)
    def generate(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        yield from begun(self, args, kwargs)

    @wraps(method)
    async def agenerate(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with aclosing(begun(self, args, kwargs)) as items:
            async for item in items:
                yield item

    if inspect.isasyncgenfunction(method):
        return agenerate
    return generate if inspect.isgeneratorfunction(method) else call


def _refuse_lent(graph: Any, config: RunnableConfig | None) -> None:
    """Refuse a checkpointer or store that LangGraph lends a graph and that is not its scope's."""
    scope = getattr(graph.checkpointer, "bound_to", None)
    if scope is None:
        return
    told, *lent = lent_to(graph, config)
    if all(part is None or _is_of(part, scope, told) for part in lent):
        return
    refusal = IsolationViolation(_LENT)
    tell_refusal(refusal, [scope], lambda _: None)
    raise refusal


def _is_of(part: Any, scope: Scope, told: RunnableConfig) -> bool:
    is_ours = isinstance(part, IsolatedCheckpointSaver | IsolatedStore)
    return is_ours and part.is_of(scope, told)
