"""The node cache: what LangGraph's own does, for one scope, sealed."""

import asyncio
import time
from collections import deque
from typing import Any, NamedTuple, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.config import get_config
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy

from langmem_isolated import IsolatedMemory, Scope, ScopedMemory
from langmem_isolated.caches import IsolatedNodeCache, node_cache
from langmem_isolated.errors import IsolationViolation, RecordDoesNotOpen, ScopeError
from tests.conftest import Attacker, Door, Wait
from tests.spellings import spellings

NS, OTHER_NS = ("writes", "node"), ("writes", "other")
KEY, OTHER = (NS, "key"), (OTHER_NS, "key")


@pytest.fixture
def alice(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="m")


@pytest.fixture
def bob(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="bob", module_id="m")


@pytest.mark.parametrize("value", [[["a", 1]], deque([["m", AIMessage("hi", id="1")]]), {"s": {1}}])
async def test_what_was_set_comes_back_for_its_scope_alone(
    alice: ScopedMemory, bob: ScopedMemory, door: Door, value: Any
):
    await door(alice.node_cache(), "set", {KEY: (value, None), OTHER: ([["b", 2]], 60)})

    assert await door(alice.node_cache(), "get", [KEY]) == {KEY: value}
    assert await door(alice.node_cache(), "get", [KEY, (NS, "k"), OTHER]) == {
        KEY: value,
        OTHER: [["b", 2]],
    }
    assert await door(alice.node_cache(), "get", []) == {}
    for stranger in (bob, alice.module("planner")):
        assert await door(stranger.node_cache(), "get", [KEY, OTHER]) == {}


async def test_a_time_to_live_is_kept(alice: ScopedMemory, door: Door, wait_for: Wait):
    cache = alice.node_cache()
    await door(cache, "set", {KEY: ([["a", 1]], 60), OTHER: ([["a", 2]], 120)})
    assert len(await door(cache, "get", [KEY, OTHER])) == 2
    wait_for(60.1)

    assert list(await door(cache, "get", [KEY, OTHER])) == [OTHER]


async def test_clear_forgets_namespaces_or_all_and_nothing_of_others(
    alice: ScopedMemory, bob: ScopedMemory, door: Door
):
    for scope in (alice, bob):
        await door(scope.node_cache(), "set", {k: ([["a", 1]], None) for k in (KEY, OTHER)})

    await door(alice.node_cache(), "clear", [NS])
    assert list(await door(alice.node_cache(), "get", [KEY, OTHER])) == [OTHER]
    await door(alice.node_cache(), "clear")
    assert await door(alice.node_cache(), "get", [KEY, OTHER]) == {}
    assert len(await door(bob.node_cache(), "get", [KEY, OTHER])) == 2


class Odd:
    """Has no stored form."""

    def __reduce__(self) -> Any:
        raise TypeError


async def test_a_value_without_a_stored_form_is_not_kept_and_the_rest_is(
    alice: ScopedMemory, door: Door
):
    odd = [("a", lambda: None), ("b", Odd())]
    await door(alice.node_cache(), "set", {KEY: (odd, None), OTHER: ([["a", 2]], None)})

    assert list(await door(alice.node_cache(), "get", [KEY, OTHER])) == [OTHER]


async def test_values_and_keys_are_sealed_and_tampering_is_noticed(
    alice: ScopedMemory, bob: ScopedMemory, attacker: Attacker, door: Door
):
    await door(alice.node_cache(), "set", {(("ns canary",), "key canary"): ([["canary", 1]], None)})
    stored = str(attacker("SELECT * FROM records"))
    assert not any(text in stored for text in spellings(b"canary"))
    await door(bob.node_cache(), "set", {KEY: ([["a", 1]], None)})

    attacker("UPDATE records SET sealed = (SELECT min(sealed) FROM records)")
    attempts = [(alice, (("ns canary",), "key canary")), (bob, KEY)]
    refused = 0
    for scope, key in attempts:
        try:
            await door(scope.node_cache(), "get", [key])
        except RecordDoesNotOpen:
            refused += 1
    assert refused >= 1


# --- in graphs ------------------------------------------------------------------------------------


class State(TypedDict, total=False):
    asked: str
    one: str
    two: str


class Watched(NamedTuple):
    """A graph of parallel slow nodes, all with a cache policy, and which of them have run."""

    graph: Any
    ran: list[str]


def watched(cache: Any, sub_cache: Any = None) -> Watched:
    ran: list[str] = []

    def node(name: str) -> Any:
        def run(_: State) -> State:
            time.sleep(0.02)
            ran.append(name)
            user = get_config()["configurable"].get("user_id", "nobody")
            return {"one": user} if name == "one" else {"two": user} if name == "two" else {}

        return run

    policy = CachePolicy()
    inner = StateGraph(State).add_node("inner", node("inner"), cache_policy=policy)
    builder = StateGraph(State)
    for name in ("one", "two"):
        builder.add_node(name, node(name), cache_policy=policy).add_edge(START, name)
    team = inner.add_edge(START, "inner").compile(cache=sub_cache)
    builder.add_node("team", team).add_edge(START, "team")
    return Watched(builder.compile(cache=cache), ran)


def of(user: str) -> Any:
    return {"configurable": {"user_id": user, "module_id": "m"}}


async def test_one_graph_for_everybody_caches_for_each(memory: IsolatedMemory, door: Door):
    cache = memory.node_cache()
    graph, ran = watched(cache, cache)

    for turn in range(2):
        for user in ("alice", "bob", "carol"):
            ran.clear()
            result = await door(graph, "invoke", {"asked": "?"}, of(user))
            assert (result["one"], result["two"]) == (user, user)
            assert sorted(ran) == ([] if turn else ["inner", "one", "two"])
    ran.clear()
    with pytest.raises(ScopeError):
        await door(graph, "invoke", {"asked": "?"})
    assert ran == []


async def test_users_at_once_never_get_what_anothers_node_wrote(memory: IsolatedMemory):
    graph, _ = watched(memory.node_cache(), memory.node_cache())

    async def talk(user: str) -> set[str]:
        found = set()
        for _ in range(3):
            result = await graph.ainvoke({"asked": "?"}, of(user))
            found |= {result["one"], result["two"]}
        return found

    users = [f"user {number}" for number in range(8)]
    assert await asyncio.gather(*map(talk, users)) == [{user} for user in users]


async def test_bind_replaces_the_cache_of_others_in_subgraphs_too(
    alice: ScopedMemory, bob: ScopedMemory, door: Door
):
    for theirs in ((InMemoryCache(), None), (None, InMemoryCache()), (InMemoryCache(),) * 2):
        graph, ran = watched(*theirs)
        for scope in (alice, bob):
            scope.node_cache().clear()
        for turn in range(2):
            for number, scope in enumerate((alice, bob)):
                ran.clear()
                thread = {"configurable": {"thread_id": f"{turn} {id(graph)} {number}"}}
                await door(scope.bind(graph), "invoke", {"asked": "?"}, thread)
                assert sorted(ran) == ([] if turn else ["inner", "one", "two"])
        assert not any(cache and cache._cache for cache in theirs)


def test_bind_takes_parts_of_its_own_scope_only(
    memory: IsolatedMemory, alice: ScopedMemory, bob: ScopedMemory
):
    graph, _ = watched(None)
    mine = alice.node_cache()

    assert alice.bind(graph).cache is None
    assert alice.bind(graph, cache=mine).cache is mine
    for part in (
        {"cache": bob.node_cache()},
        {"cache": memory.node_cache()},
        {"cache": InMemoryCache()},
        {"checkpointer": bob.checkpointer()},
        {"checkpointer": memory.checkpointer()},
        {"store": alice.module("planner").store()},
    ):
        with pytest.raises(IsolationViolation, match="parts made by this scope"):
            alice.bind(graph, **part)
    for thing in (None, alice, graph.invoke):
        with pytest.raises(TypeError, match="takes a compiled graph, got"):
            alice.bind(thing)


async def test_tasks_of_the_functional_api_are_cached_for_each(memory: IsolatedMemory):
    ran: list[int] = []

    @task(cache_policy=CachePolicy())
    def double(number: int) -> tuple[str, int]:
        time.sleep(0.02)
        ran.append(number)
        return get_config()["configurable"]["user_id"], 2 * number

    @entrypoint(cache=memory.node_cache())
    def flow(number: int) -> list[tuple[str, int]]:
        return [one.result() for one in (double(number), double(number + 1))]

    for turn in range(2):
        for user in ("alice", "bob"):
            ran.clear()
            found = await asyncio.to_thread(flow.invoke, 1, of(user))
            assert [tuple(one) for one in found] == [(user, 2), (user, 4)]
            assert sorted(ran) == ([] if turn else [1, 2])


async def test_a_node_whose_writes_have_no_stored_form_runs_every_time(
    memory: IsolatedMemory, door: Door
):
    class Free(TypedDict, total=False):
        value: Any

    builder = StateGraph(Free).add_node(
        "odd", lambda _: {"value": lambda: None}, cache_policy=CachePolicy()
    )
    graph = builder.add_edge(START, "odd").compile(cache=memory.node_cache())

    for _ in range(2):
        assert callable((await door(graph, "invoke", {}, of("alice")))["value"])


async def test_a_graphs_cache_is_cleared_for_whom_it_is_asked(memory: IsolatedMemory, door: Door):
    graph, ran = watched(memory.node_cache())
    for user in ("alice", "bob"):
        await door(graph, "invoke", {"asked": "?"}, of(user))

    with pytest.raises(ScopeError):
        await door(graph, "clear_cache", ["one"])
    with memory.using(Scope("alice", "m")):
        await door(graph, "clear_cache", ["one"])

    for user, again in (("alice", ["inner", "one"]), ("bob", ["inner"])):
        ran.clear()
        await door(graph, "invoke", {"asked": "?"}, of(user))
        assert sorted(ran) == again


async def test_a_bound_cache_refuses_another_users_run(alice: ScopedMemory, door: Door):
    graph, ran = watched(alice.node_cache())

    with pytest.raises(IsolationViolation):
        await door(graph, "invoke", {"asked": "?"}, of("bob"))
    assert ran == []


def test_set_without_any_scope_keeps_nothing(memory: IsolatedMemory, alice: ScopedMemory):
    cache = memory.node_cache()
    cache.set({KEY: ([["a", 1]], None)})

    assert alice.node_cache().get([KEY]) == {}
    assert memory.modules(user_id="alice") == []
    assert isinstance(cache, IsolatedNodeCache)
    assert repr(cache) == "IsolatedNodeCache(by run)"


async def test_what_a_task_of_a_forgotten_run_wrote_is_not_kept_for_the_run_around(
    memory: IsolatedMemory, door: Door, monkeypatch: pytest.MonkeyPatch
):
    """One user's graph inside of another's run; more tasks than are remembered run at once."""
    monkeypatch.setattr(node_cache, "_MOST_TASKS", 1)
    child, _ = watched(memory.node_cache())

    async def acall(_: str) -> list[Any]:
        return [await child.ainvoke({"asked": "?"}, of(user)) for user in ("bob", "alice")]

    def call(_: str) -> list[Any]:
        return [child.invoke({"asked": "?"}, of(user)) for user in ("bob", "alice")]

    results = await door(RunnableLambda(call, afunc=acall), "invoke", "go", of("alice"))

    assert [(one["one"], one["two"]) for one in results] == [("bob", "bob"), ("alice", "alice")]


def test_a_key_that_two_users_share_as_an_object_leads_to_neither(
    memory: IsolatedMemory, alice: ScopedMemory, bob: ScopedMemory
):
    cache = memory.node_cache()
    with memory.using(alice):
        assert cache.get([KEY]) == {}
    with memory.using(bob):
        cache.set({KEY: ([["bob", 1]], None)})

    assert alice.node_cache().get([KEY]) == {}
    assert bob.node_cache().get([KEY]) == {KEY: [["bob", 1]]}
