"""Private names of LangChain and LangGraph that adapters need, each in one tested function."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context, ContextVar
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langchain_core.vectorstores import VectorStore
    from langgraph.cache.base import BaseCache
    from langgraph.pregel import Pregel


RUNTIME_KEY = "__pregel_runtime"
"""Where a run's `configurable` holds its runtime: one object for all calls of one invocation."""

LENT_KEY = "__pregel_checkpointer"
"""Where a `configurable` names the checkpointer that a run lends to the graphs called in it."""

CACHE_KEY = "__pregel_cache"
"""Where a `configurable` names the node cache of a graph and of the subgraphs in it."""

WRITES_NAMESPACE = "__pregel_ns_writes"
"""With what the namespace begins under which LangGraph caches what a task has written."""

Graph = TypeVar("Graph", bound="Pregel[Any, Any, Any, Any]")

_LOOP_MODULE = "langgraph.pregel._loop"
_MODEL_MODULES = (
    "langchain_core.language_models.chat_models",
    "langchain_core.language_models.llms",
)
_OURS = "langmem_isolated."
_LANGCHAIN = ("langchain_core.", "langgraph.", _OURS)
_HISTORY_MODULE = "langchain_core.runnables.history"
_RECORDERS = ("_exit_history", "_aexit_history")
# Between its recorder and us are methods of histories that derive from ours.
_RECORDING_CALLERS = 12
# Where a model asks its cache: in one function, or in the one that calls it.
_CALLERS = 2


def runtime_of(configurable: Mapping[str, Any]) -> object | None:
    """The runtime of the run that a call belongs to; ``None`` where LangGraph gives none."""
    runtime: object | None = configurable.get(RUNTIME_KEY)
    # The stand-in for "none" is one object for everybody.
    return None if runtime is None or runtime is _default_runtime() else runtime


@cache
def _default_runtime() -> object:
    # Every call of a saver asks: to import it takes 1.2 µs each time.
    from langgraph.runtime import DEFAULT_RUNTIME

    return DEFAULT_RUNTIME


def writer_of(configurable: Mapping[str, Any]) -> object | None:
    """What a run and its tasks have in common, and no other run: a function made at its start.

    A task's runtime is a copy of its run's, and LangGraph does not say of which.
    """
    writer = getattr(runtime_of(configurable), "stream_writer", None)
    # One that stands in a module would be everybody's.
    return writer if "<locals>" in getattr(writer, "__qualname__", "") else None


def is_called_to_record() -> bool:
    """Whether `RunnableWithMessageHistory` calls us, which only logs what is raised."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    for _ in range(_RECORDING_CALLERS):
        frame = frame and frame.f_back
        if frame is None:
            return False
        if frame.f_code.co_name in _RECORDERS and frame.f_globals["__name__"] == _HISTORY_MODULE:
            return True
    return False


def config_of_calling_loop() -> RunnableConfig | None:
    """The config of the run whose loop calls us; ``None`` if none does.

    LangGraph asks a node cache outside of the run's context and without its config.
    """
    frame = _caller_of_ours()
    if frame is None or frame.f_globals.get("__name__") != _LOOP_MODULE:
        return None
    config: RunnableConfig | None = getattr(frame.f_locals.get("self"), "config", None)
    return config


def run_of_calling_model() -> Any:
    """The callback manager of the model's run that asks us, a cache; ``None`` if none does.

    It has ``parent_run_id`` and ``tags``. LangChain tells a cache nothing of the run.
    """
    frame = _caller_of_ours()
    for _ in range(_CALLERS):
        if frame is None or frame.f_globals.get("__name__") not in _MODEL_MODULES:
            return None
        found = frame.f_locals
        manager = found.get("run_manager") or next(iter(found.get("callback_managers") or ()), None)
        if manager is not None:
            return manager
        frame = frame.f_back
    return None


def configurables_of_callers() -> Iterator[list[Mapping[str, Any]]]:
    """What LangChain's functions that call us were told in their configs, each; the nearest first.

    Up to the one that made its config that of the context. Models, most retrievers, and
    `RunnableBranch` are told a config, perhaps another user's, and run in the context of who calls.
    Those that an event loop hides from its tasks count where the task goes on in their context.
    """
    frame, outside = _caller_of_ours(), list[list[Mapping[str, Any]]]()
    in_loop = False
    while frame is not None:
        found = frame.f_locals if _is_told(frame) else {}
        told = [*_configurables(found.get("config"))]
        if in_loop:
            outside.append(told)
        else:
            yield told
        if isinstance(context := found.get("context"), Context):
            if outside and _is_present(context):
                yield from outside
            return
        in_loop = in_loop or frame.f_globals.get("__name__", "").startswith("asyncio.")
        frame = frame.f_back
    yield from outside


def _configurables(told: Any) -> Iterator[Mapping[str, Any]]:
    # A text model is told those of all parts of a batch at once.
    for config in told if isinstance(told, list) else [told]:
        if isinstance(config, dict) and isinstance(config.get("configurable"), Mapping):
            yield config["configurable"]


def _is_present(context: Context) -> bool:
    """Whether what runs now has the config of a context, or of a copy of it."""
    variable = config_variable()
    return context.get(variable) is variable.get()


@cache
def config_variable() -> ContextVar[RunnableConfig | None]:
    """Holds the config of the run that calls; ``None`` outside a run."""
    # Where `langgraph.config.get_config` looks, which takes as long to say that there is none, and
    # half a second to import.
    from langchain_core.runnables.config import var_child_runnable_config

    return var_child_runnable_config


def _is_told(frame: FrameType) -> bool:
    """Whether a function of LangChain has a config; to look into its frame takes 2 µs."""
    code = frame.f_code
    return ("config" in code.co_varnames or "config" in code.co_cellvars) and frame.f_globals.get(
        "__name__", ""
    ).startswith(_LANGCHAIN)


def _caller_of_ours() -> FrameType | None:
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - CPython has it for this
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        frame = frame.f_back
    return frame


def has_node_cache(graph: Pregel[Any, Any, Any, Any]) -> bool:
    """Whether a graph, or one of the subgraphs in it, has a node cache."""
    graphs = (graph, *(subgraph for _, subgraph in graph.get_subgraphs(recurse=True)))
    return any(getattr(one, "cache", None) is not None for one in graphs)


def copied_graph(graph: Graph, cache: BaseCache[Any] | None, **parts: Any) -> Graph:
    """A compiled graph with other parts, and with ``cache`` in place of its node caches, if any.

    What its strict mode allows, the types of the graph's state, LangGraph's own copy forgets.
    """
    if cache is not None:
        # Subgraphs have caches of their own: theirs give way to what the config names.
        config: RunnableConfig = {**(graph.config or {})}
        config["configurable"] = {**config.get("configurable", {}), CACHE_KEY: cache}
        parts |= {"cache": cache, "config": config}
    copied = graph.copy(parts)
    copied._serde_allowlist = graph._serde_allowlist  # noqa: SLF001
    return copied


def lent_to(
    graph: Pregel[Any, Any, Any, Any], config: RunnableConfig | None
) -> tuple[RunnableConfig, Any, Any]:
    """What a graph is told if it is called with ``config`` now, and whose memory it then uses.

    The checkpointer and the store of the run around, in place of its own; ``None`` for none.
    """
    from langgraph._internal._config import ensure_config

    told = ensure_config(graph.config, config)
    configurable = told.get("configurable", {})
    return told, configurable.get(LENT_KEY), getattr(runtime_of(configurable), "store", None)


def relevance_of(store: VectorStore) -> Callable[[float], float]:
    """What turns a vector store's scores into relevance, from 0 to 1."""
    found: Callable[[float], float] = store._select_relevance_score_fn()  # noqa: SLF001
    return found


def dismiss_tracers() -> None:
    """Keep what runs in this context from tracers that the context names."""
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.tracers.context import _configure_hooks, tracing_v2_callback_var

    # One who does nothing stands where LangChain would otherwise make one that tells LangSmith.
    nobody = BaseCallbackHandler()
    variables: list[ContextVar[Any]] = [
        tracing_v2_callback_var,
        *(hook[0] for hook in _configure_hooks),
    ]
    for variable in variables:
        variable.set(nobody)
