"""Private names of LangGraph and LangChain that we need: each test says what a release changed."""

from collections.abc import Iterable
from contextvars import copy_context
from typing import Any, NamedTuple, TypedDict

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import BaseChatModel, FakeListChatModel, FakeListLLM
from langchain_core.language_models.llms import BaseLLM
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tracers.context import tracing_v2_callback_var
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph._internal import _constants
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_config
from langgraph.graph import START, StateGraph
from langgraph.runtime import DEFAULT_RUNTIME, Runtime
from langgraph.types import CachePolicy

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._adapters.compat import (
    CACHE_KEY,
    LENT_KEY,
    RUNTIME_KEY,
    WRITES_NAMESPACE,
    config_of_calling_loop,
    copied_graph,
    dismiss_tracers,
    has_node_cache,
    relevance_of,
    runtime_of,
    writer_of,
)
from langmem_isolated._adapters.run_scope import config_of_run
from langmem_isolated._codecs.compat import SAFE_MSGPACK_TYPES, DeltaSnapshot
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.caches.node_cache import IsolatedNodeCache, _Tasks
from langmem_isolated.errors import IsolationViolation
from tests.conftest import Door


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> IsolatedMemory:
    return IsolatedMemory(sqlite_url, root_key=root_key)


class State(TypedDict, total=False):
    number: int


def test_the_names_in_a_configurable_are_langgraphs():
    assert _constants.CONFIG_KEY_RUNTIME == RUNTIME_KEY, "LangGraph renamed a run's runtime"
    assert _constants.CACHE_NS_WRITES == WRITES_NAMESPACE, "LangGraph renamed its cached writes"
    assert _constants.CONFIG_KEY_CHECKPOINTER == LENT_KEY, "LangGraph renamed a lent checkpointer"
    assert _constants.CONFIG_KEY_CACHE == CACHE_KEY, "LangGraph renamed a config's node cache"


def test_the_stand_in_for_no_runtime_is_no_run():
    assert runtime_of({RUNTIME_KEY: DEFAULT_RUNTIME}) is None
    assert runtime_of({}) is None


def test_the_config_of_a_run_is_where_langgraph_looks():
    assert config_of_run() is None
    found = RunnableLambda(lambda _: (config_of_run(), get_config())).invoke("go")
    assert found[0] is found[1], "LangChain keeps a run's config elsewhere"


class Watching(InMemorySaver):
    """Sees with which runtime its calls come."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, object]] = []

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        self.seen.append(("get_tuple", runtime_of(config["configurable"])))
        return super().get_tuple(config)

    def put(self, config: RunnableConfig, *args: Any) -> RunnableConfig:
        self.seen.append(("put", runtime_of(config["configurable"])))
        return super().put(config, *args)

    def put_writes(self, config: RunnableConfig, *args: Any) -> None:
        self.seen.append(("put_writes", runtime_of(config["configurable"])))
        super().put_writes(config, *args)


async def test_all_calls_of_a_run_share_one_runtime_and_no_two_runs_do(door: Door):
    saver = Watching()
    builder = StateGraph(State).add_node("one", lambda _: {}).add_node("two", lambda _: {})
    graph = builder.add_edge(START, "one").add_edge(START, "two").compile(checkpointer=saver)
    runs = []

    for _ in range(3):
        saver.seen.clear()
        await door(graph, "invoke", {"number": 1}, {"configurable": {"thread_id": "t"}})
        assert {name for name, _ in saver.seen} == {"get_tuple", "put", "put_writes"}
        runtimes = {id(runtime): runtime for _, runtime in saver.seen}
        assert len(runtimes) == 1, "calls of one run come with several runtimes, or with none"
        runs += runtimes.values()

    assert None not in runs
    assert len({id(runtime) for runtime in runs}) == len(runs), "runs share a runtime"


def test_a_run_and_its_tasks_have_one_writer_and_no_two_runs_do():
    writers: list[list[object]] = []
    saver = Watching()

    def node(_: State) -> State:
        writers[-1].append(writer_of(get_config()["configurable"]))
        return {}

    graph = StateGraph(State).add_node("node", node).add_edge(START, "node")
    compiled = graph.compile(checkpointer=saver)
    for _ in range(3):
        writers.append([])
        saver.seen.clear()
        compiled.invoke({"number": 1}, {"configurable": {"thread_id": "t"}})
        runtime = saver.seen[0][1]
        writers[-1].append(writer_of({RUNTIME_KEY: runtime}))

    assert all(one is not None and one is other for one, other in writers)
    assert len({id(one) for one, _ in writers}) == 3, "runs share a stream writer"
    assert writer_of({RUNTIME_KEY: DEFAULT_RUNTIME}) is None
    assert writer_of({RUNTIME_KEY: Runtime()}) is None, "a writer for everybody passes for a run's"


class Asked(NamedTuple):
    """A node cache of ours that notes whose loop asks it, and with which keys."""

    cache: IsolatedNodeCache
    configs: list[RunnableConfig | None]
    keys: list[str]
    stored: list[str]

    @classmethod
    def of(cls, memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch) -> "Asked":
        """A new one; every cache of ours notes its keys there."""
        records = memory.scope(user_id="alice", module_id="m")._records
        configs: list[RunnableConfig | None] = []
        asked = cls(IsolatedNodeCache(lambda c: configs.append(c) or records), configs, [], [])
        begin, end = _Tasks.begin, _Tasks.end

        def begun(self: _Tasks, keys: Iterable[Any], records: ScopedDatabase) -> None:
            keys = list(keys)
            asked.keys.extend(key for _, key in keys)
            begin(self, keys, records)

        def ended(self: _Tasks, key: Any) -> Any:
            asked.stored.append(key[1])
            return end(self, key)

        monkeypatch.setattr(_Tasks, "begin", begun)
        monkeypatch.setattr(_Tasks, "end", ended)
        return asked


def cached_graph(cache: Any, *subgraphs: Any) -> Any:
    builder = StateGraph(State).add_node("node", lambda _: {}, cache_policy=CachePolicy())
    for number, subgraph in enumerate(subgraphs):
        builder.add_node(f"sub{number}", subgraph).add_edge(START, f"sub{number}")
    return builder.add_edge(START, "node").compile(cache=cache)


async def test_the_loop_that_asks_a_node_cache_is_found_with_its_config(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch, door: Door
):
    asked = Asked.of(memory, monkeypatch)
    graph = cached_graph(asked.cache)

    await door(graph, "invoke", {"number": 1}, {"configurable": {"user": "alice"}})

    config = asked.configs[0]
    assert config is not None, "LangGraph's loop no longer asks a node cache from its own methods"
    assert config["configurable"]["user"] == "alice"
    assert config_of_calling_loop() is None


async def test_a_task_is_known_again_by_the_identity_of_its_key(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch, door: Door
):
    asked = Asked.of(memory, monkeypatch)
    graph = cached_graph(asked.cache)

    for _ in range(2):
        asked.cache.clear()
        await door(graph, "invoke", {"number": 1}, {})

    first, second = asked.keys
    assert asked.stored[0] is first, "a task's key is another object when its writes are cached"
    assert first == second, "a task with the same input has another key"
    assert first is not second, "two runs share the key of a task"


def test_a_config_names_the_node_cache_of_a_graph_and_of_its_subgraphs(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    theirs, asked = InMemoryCache[Any](), Asked.of(memory, monkeypatch)
    graph = cached_graph(None, cached_graph(theirs))
    assert has_node_cache(graph)
    assert not has_node_cache(cached_graph(None, cached_graph(None)))

    copied_graph(graph, asked.cache).invoke({"number": 1})

    assert theirs._cache == {}, "a subgraph asks its own node cache in spite of the config"
    # Both nodes have one key: whichever asks second may find what the first has stored by then.
    assert len([config for config in asked.configs if config is not None]) == 2


@pytest.mark.parametrize("model", [FakeListChatModel, FakeListLLM])
async def test_the_run_of_a_model_that_asks_a_cache_is_found(
    memory: IsolatedMemory, door: Door, model: type[BaseChatModel | BaseLLM]
):
    cache = memory.llm_cache()
    chain: Any = RunnableLambda(lambda text: text) | model(responses=["ok"], cache=cache)
    outer: Any = RunnableLambda(chain.batch, afunc=chain.abatch)
    config = {"configurable": {"user_id": "alice", "module_id": "m"}}

    await door(chain, "invoke", "one", config)
    # If it is not: LangChain's models no longer ask a cache beside their run manager.
    with pytest.raises(IsolationViolation, match="part of a batch"):
        await door(outer, "invoke", ["two", "three"], config)


def test_a_store_tells_how_relevant_its_scores_are():
    class Known(InMemoryVectorStore):
        def _select_relevance_score_fn(self) -> Any:
            return lambda score: score / 2

    assert relevance_of(Known(DeterministicFakeEmbedding(size=4)))(1.0) == 0.5


def test_dismissed_tracers_are_told_nothing():
    told: list[str] = []

    class Tracer(BaseCallbackHandler):
        def on_chain_start(self, *_: Any, **__: Any) -> None:
            told.append("began")

    def run() -> None:
        RunnableLambda(lambda text: text).invoke("secret")

    def run_silently() -> None:
        dismiss_tracers()
        run()

    context = copy_context()
    context.run(tracing_v2_callback_var.set, Tracer())
    context.copy().run(run_silently)
    assert told == []
    context.copy().run(run)
    assert told == ["began"]


def test_langgraphs_safe_types_are_modules_and_names():
    assert SAFE_MSGPACK_TYPES
    assert all(isinstance(part, str) for name in SAFE_MSGPACK_TYPES for part in name)


def test_a_snapshot_of_a_delta_channel_has_its_value():
    assert DeltaSnapshot([1]).value == [1]
