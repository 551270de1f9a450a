"""Private names of LangChain and LangGraph that adapters need, each in one tested function."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import _configure_hooks, tracing_v2_callback_var
from langchain_core.vectorstores import VectorStore
from langgraph.pregel import Pregel

Graph = TypeVar("Graph", bound=Pregel[Any, Any, Any, Any])


def copied_graph(graph: Graph, update: dict[str, Any]) -> Graph:
    """A copy of a compiled graph with other attributes.

    What its strict mode allows, the types of the graph's state, LangGraph's own copy forgets.
    """
    copied = graph.copy(update)
    copied._serde_allowlist = graph._serde_allowlist  # noqa: SLF001
    return copied


def relevance_of(store: VectorStore) -> Callable[[float], float]:
    """What turns a vector store's scores into relevance, from 0 to 1."""
    found: Callable[[float], float] = store._select_relevance_score_fn()  # noqa: SLF001
    return found


def dismiss_tracers() -> None:
    """Keep what runs in this context from tracers that the context names."""
    # One who does nothing stands where LangChain would otherwise make one that tells LangSmith.
    nobody = BaseCallbackHandler()
    variables: list[ContextVar[Any]] = [
        tracing_v2_callback_var,
        *(hook[0] for hook in _configure_hooks),
    ]
    for variable in variables:
        variable.set(nobody)
