"""Knows the private names of LangGraph and LangChain that we need, and nothing else does.

Each is tested by what it is for, so that a release that changes one fails a test and says which.
"""

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.cache.base import BaseCache
from langgraph.pregel import Pregel
from langgraph.runtime import DEFAULT_RUNTIME

# Where `langgraph.config.get_config` looks, which takes as long to say that there is none.
CONFIG_OF_RUN = var_child_runnable_config

RUNTIME_KEY = "__pregel_runtime"
"""Where a run's `configurable` holds its runtime: one object for all calls of one invocation."""

CACHE_KEY = "__pregel_cache"
"""Where a `configurable` names the node cache of a graph and of the subgraphs in it."""

Graph = TypeVar("Graph", bound=Pregel[Any, Any, Any, Any])

_LOOP_MODULE = "langgraph.pregel._loop"
_MODEL_MODULES = (
    "langchain_core.language_models.chat_models",
    "langchain_core.language_models.llms",
)
_OURS = "langmem_isolated."
# Where a model asks its cache: in one function, or in the one that calls it.
_CALLERS = 2


def runtime_of(configurable: Mapping[str, Any]) -> object | None:
    """The runtime of the run that a call belongs to; ``None`` where LangGraph gives none."""
    runtime: object | None = configurable.get(RUNTIME_KEY)
    # The stand-in for "none" is one object for everybody.
    return None if runtime is DEFAULT_RUNTIME else runtime


def writer_of(configurable: Mapping[str, Any]) -> object | None:
    """What a run and its tasks have in common, and no other run: a function made at its start.

    A task's runtime is a copy of its run's, and LangGraph does not say of which.
    """
    writer = getattr(runtime_of(configurable), "stream_writer", None)
    # One that stands in a module would be everybody's.
    return writer if "<locals>" in getattr(writer, "__qualname__", "") else None


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


def _caller_of_ours() -> FrameType | None:
    frame: FrameType | None = sys._getframe(2)
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
    copied._serde_allowlist = graph._serde_allowlist
    return copied
