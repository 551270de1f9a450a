"""The store as LangGraph, LangChain's agents and langmem use it: bound, and read from the run."""

import asyncio
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import pytest
from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import BaseTool, tool
from langgraph.config import get_store
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedStore
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore, GetOp, PutOp

from langmem_isolated import IsolatedMemory, Scope
from langmem_isolated.errors import IsolationViolation, ScopeError
from langmem_isolated.store import IsolatedStore
from tests.conftest import Door

with warnings.catch_warnings():
    # A dependency of langmem's imports what LangGraph has moved.
    warnings.simplefilter("ignore")
    from langmem import create_manage_memory_tool, create_search_memory_tool


class Place(NamedTuple):
    """A store for a graph, and the config by which a user runs it."""

    store: IsolatedStore
    config: RunnableConfig


PlaceOf = Callable[[str], Place]


@pytest.fixture(params=["bound", "of the run"])
def place(request: pytest.FixtureRequest, memory: IsolatedMemory) -> PlaceOf:
    """Where a user's graph keeps its items, in either form."""
    of_the_run = memory.store()

    def place_of(user: str) -> Place:
        names = {"user_id": user, "module_id": "tutor"}
        if request.param == "bound":
            return Place(memory.scope(**names).store(), {"configurable": {"thread_id": "same"}})
        return Place(of_the_run, {"configurable": {"thread_id": "same", **names}})

    return place_of


def kept(memory: IsolatedMemory, user: str) -> dict[str, Any]:
    """What a user's items hold, seen from outside a run."""
    items = memory.scope(user_id=user, module_id="tutor").store().search((), limit=100)
    return {item.key: item.value for item in items}


class Scripted(GenericFakeChatModel):
    """A model that says what it was told to say, and takes any tools."""

    def bind_tools(self, *_: Any, **__: Any) -> "Scripted":
        return self


def calls(*tool_calls: tuple[str, dict[str, Any]]) -> AIMessage:
    return AIMessage(
        "",
        tool_calls=[
            {"name": name, "args": args, "id": f"call-{number}"}
            for number, (name, args) in enumerate(tool_calls)
        ],
    )


def agent_of(tools: Sequence[BaseTool], store: BaseStore, *said: AIMessage) -> Any:
    model = Scripted(messages=iter([*said, AIMessage("Done.")]))
    return create_agent(model, list(tools), store=store)


async def told(door: Door, agent: Any, config: RunnableConfig) -> list[str]:
    """What the tools of an agent's run answered."""
    state = await door(agent, "invoke", {"messages": [("user", "Go.")]}, config)
    messages: list[BaseMessage] = state["messages"]
    return [str(message.content) for message in messages if isinstance(message, ToolMessage)]


# --- agents ---------------------------------------------------------------------------------------


@tool
def remember(fact: str, store: Annotated[BaseStore, InjectedStore()]) -> str:
    """Keep a fact."""
    store.put(("facts",), fact[:9], {"fact": fact})
    return "kept"


@tool
async def recall(store: Annotated[BaseStore, InjectedStore()]) -> str:
    """Tell every fact."""
    return ", ".join(sorted(item.value["fact"] for item in await store.asearch(("facts",))))


@tool
def recall_by_runtime(runtime: ToolRuntime) -> str:
    """Tell every fact."""
    assert runtime.store is not None
    return ", ".join(sorted(item.value["fact"] for item in runtime.store.search(("facts",))))


async def test_tools_of_an_agent_keep_facts_for_its_user_alone(
    memory: IsolatedMemory, place: PlaceOf, door: Door
):
    tools = [remember, recall_by_runtime]
    for user in ("alice", "bob"):
        store, config = place(user)
        script = [
            calls(("remember", {"fact": f"{user} plays"}), ("remember", {"fact": "sings"})),
            calls(("recall_by_runtime", {})),
        ]

        answers = await told(door, agent_of(tools, store, *script), config)

        assert answers == ["kept", "kept", ", ".join(sorted(["sings", f"{user} plays"]))]
    assert set(kept(memory, "alice")) == {"alice pla", "sings"}
    assert kept(memory, "carol") == {}


async def test_asynchronous_tools_of_an_agent_see_their_users_facts(
    memory: IsolatedMemory, place: PlaceOf
):
    async def run(user: str) -> None:
        store, config = place(user)
        script = [calls(("remember", {"fact": f"about {user}"})), calls(("recall", {}))]
        agent = agent_of([remember, recall], store, *script)
        state = await agent.ainvoke({"messages": [("user", "Go.")]}, config)
        assert [m.content for m in state["messages"] if m.type == "tool"] == [
            "kept",
            f"about {user}",
        ]

    await asyncio.gather(*(run(f"user{number}") for number in range(12)))

    assert kept(memory, "user3") == {"about use": {"fact": "about user3"}}


# --- langmem --------------------------------------------------------------------------------------


async def test_langmems_tools_keep_change_find_and_delete_memories(
    memory: IsolatedMemory, place: PlaceOf, door: Door
):
    tools = [create_manage_memory_tool(("memories",)), create_search_memory_tool(("memories",))]
    for user in ("alice", "bob"):
        store, config = place(user)
        content = f"{user}'s sister plays the cello"
        script = calls(("manage_memory", {"content": content, "action": "create"}))
        (created,) = await told(door, agent_of(tools, store, script), config)
        (key,) = kept(memory, user)
        assert key in created
        assert kept(memory, user) == {key: {"content": content}}

    alice, config = place("alice")
    (key,) = kept(memory, "alice")
    script = calls(("manage_memory", {"content": "the piano", "action": "update", "id": key}))
    await told(door, agent_of(tools, alice, script), config)
    script = calls(("search_memory", {"query": "sister", "limit": 5}))
    (found,) = await told(door, agent_of(tools, alice, script), config)
    assert "the piano" in found
    assert "cello" not in found
    assert "bob" not in found
    await told(
        door,
        agent_of(tools, alice, calls(("manage_memory", {"action": "delete", "id": key}))),
        config,
    )
    assert kept(memory, "alice") == {}
    assert len(kept(memory, "bob")) == 1


def lengths(texts: Sequence[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


async def test_langmems_search_finds_by_meaning(memory: IsolatedMemory, door: Door):
    index: Any = {"dims": 2, "embed": lengths, "fields": ["content"]}
    store = memory.scope(user_id="alice", module_id="tutor").store(index=index)
    for content in ("short", "a very long memory"):
        store.put(("memories", "alice"), content[:5], {"content": content})
    # The namespace takes the user's name from the run, as langmem's documentation has it.
    tools = [create_search_memory_tool(("memories", "{langgraph_user_id}"))]
    script = calls(("search_memory", {"query": "a memory as long", "limit": 1}))

    agent = agent_of(tools, store, script)
    (found,) = await told(door, agent, {"configurable": {"langgraph_user_id": "alice"}})

    assert "a very long memory" in found
    assert "short" not in found


async def test_langmems_tools_work_on_a_store_of_their_own(memory: IsolatedMemory, door: Door):
    store = memory.scope(user_id="alice", module_id="tutor").store()
    manage = create_manage_memory_tool(("memories",), store=store)
    search = create_search_memory_tool(("memories",), store=store)

    await door(manage, "invoke", {"content": "plays the cello", "action": "create"})

    assert "plays the cello" in await door(search, "invoke", {"query": "cello"})


# --- graphs ---------------------------------------------------------------------------------------


def by_runtime(state: MessagesState, runtime: Runtime) -> MessagesState:
    assert runtime.store is not None
    seen = runtime.store.get(("facts",), "sister")
    runtime.store.put(("facts",), "sister", {"seen": seen.value["seen"] + 1 if seen else 0})
    return state


def by_function(state: MessagesState) -> MessagesState:
    store = get_store()
    seen = store.batch([GetOp(("facts",), "sister")])[0]
    store.batch([PutOp(("facts",), "sister", {"seen": seen.value["seen"] + 1 if seen else 0})])
    return state


async def by_parameter(state: MessagesState, *, store: BaseStore) -> MessagesState:
    seen = await store.aget(("facts",), "sister")
    await store.aput(("facts",), "sister", {"seen": seen.value["seen"] + 1 if seen else 0})
    return state


@pytest.mark.parametrize("node", [by_runtime, by_function])
async def test_nodes_reach_the_store_of_whoever_runs_them(
    memory: IsolatedMemory, place: PlaceOf, door: Door, node: Any
):
    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node")
    for user in ("alice", "bob", "alice", "alice"):
        store, config = place(user)
        await door(graph.compile(store=store), "invoke", {"messages": []}, config)

    assert kept(memory, "alice") == {"sister": {"seen": 2}}
    assert kept(memory, "bob") == {"sister": {"seen": 0}}


async def test_asynchronous_nodes_of_many_users_at_once_never_meet(
    memory: IsolatedMemory, place: PlaceOf
):
    inner = StateGraph(MessagesState).add_node("node", by_parameter).add_edge(START, "node")
    outer = StateGraph(MessagesState).add_node("inner", inner.compile()).add_edge(START, "inner")

    async def run(user: str, times: int) -> None:
        store, config = place(user)
        graph = outer.compile(store=store)
        for _ in range(times):
            await graph.ainvoke({"messages": []}, config)

    await asyncio.gather(*(run(f"user{number}", number + 1) for number in range(8)))

    for number in range(8):
        assert kept(memory, f"user{number}") == {"sister": {"seen": number}}


async def test_entrypoints_and_their_tasks_reach_the_store(
    memory: IsolatedMemory, place: PlaceOf, door: Door
):
    @task
    def keep(fact: str) -> None:
        get_store().put(("facts",), fact, {})

    for user in ("alice", "bob"):
        store, config = place(user)

        @entrypoint(store=store)
        def flow(facts: list[str]) -> int:
            for future in [keep(fact) for fact in facts]:
                future.result()
            return len(get_store().search(("facts",)))

        assert await door(flow, "invoke", [f"of {user}", "sister"], config) == 2
    assert set(kept(memory, "bob")) == {"of bob", "sister"}


# --- whose it is ----------------------------------------------------------------------------------


async def test_outside_a_run_the_store_of_the_run_names_the_bound_form(
    memory: IsolatedMemory, door: Door
):
    store = memory.store()
    for name, args in (
        ("put", (("facts",), "sister", {})),
        ("get", (("facts",), "sister")),
        ("delete", (("facts",), "sister")),
        ("search", ((),)),
        ("list_namespaces", ()),
        ("batch", ([],)),
        ("sweep", ()),
    ):
        with pytest.raises(ScopeError, match=r"memory\.scope\(…\)\.store\(\)"):
            await door(store, name, *args)


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"user_id": "alice"},
        {"module_id": "tutor"},
        {"user_id": "", "module_id": "tutor"},
        {"user_id": None, "module_id": "tutor"},
        {"user_id": 7, "module_id": "tutor"},
        {"user_id": "alice", "module_id": "tutor", "project_id": ""},
    ],
    ids=str,
)
async def test_a_run_that_names_no_whole_scope_reads_and_writes_nothing(
    memory: IsolatedMemory, door: Door, names: dict[str, Any]
):
    graph = StateGraph(MessagesState).add_node("node", by_function).add_edge(START, "node")

    with pytest.raises(ScopeError):
        await door(
            graph.compile(store=memory.store()), "invoke", {"messages": []}, {"configurable": names}
        )

    assert memory.modules(user_id="alice") == []


async def test_a_plain_runnable_is_a_run_too(memory: IsolatedMemory, door: Door):
    store = memory.store()

    def keep(fact: str) -> str:
        store.put(("facts",), fact, {})
        return fact

    config = {"configurable": {"user_id": "alice", "module_id": "tutor"}}
    await door(RunnableLambda(keep), "invoke", "sister", config)

    assert kept(memory, "alice") == {"sister": {}}


async def test_a_surrounding_scope_counts_where_the_run_names_none(
    memory: IsolatedMemory, door: Door
):
    store = memory.store()

    with memory.using(Scope("alice", "tutor")):
        await door(store, "put", ("facts",), "sister", {})
        assert await door(store, "get", ("facts",), "sister") is not None
    with memory.using(Scope("bob", "tutor")):
        assert await door(store, "get", ("facts",), "sister") is None

    assert kept(memory, "alice") == {"sister": {}}
    with pytest.raises(ScopeError):
        await door(store, "get", ("facts",), "sister")


async def test_the_scope_is_taken_when_an_operation_is_called_not_when_it_runs(
    memory: IsolatedMemory,
):
    store = memory.store()
    with memory.using(Scope("alice", "tutor")):
        task = asyncio.ensure_future(store.aput(("facts",), "sister", {}))
        await asyncio.sleep(0)

    with memory.using(Scope("bob", "tutor")):
        await task

    assert kept(memory, "alice") == {"sister": {}}
    assert kept(memory, "bob") == {}


def test_a_thread_that_does_not_know_the_run_gets_nothing(memory: IsolatedMemory):
    store, errors = memory.store(), []

    def read() -> None:
        try:
            store.get(("facts",), "sister")
        except ScopeError as error:
            errors.append(error)

    with memory.using(Scope("alice", "tutor")):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()

    assert len(errors) == 1


async def test_a_resolver_decides_and_a_client_that_says_otherwise_is_refused(
    memory: IsolatedMemory, door: Door
):
    def of_token(config: RunnableConfig) -> Scope:
        return Scope(
            {"token-a": "alice", "token-b": "bob"}[config["configurable"]["token"]], "tutor"
        )

    store = memory.store(scope_resolver=of_token)
    graph = StateGraph(MessagesState).add_node("node", by_runtime).add_edge(START, "node")
    compiled = graph.compile(store=store)
    await door(compiled, "invoke", {"messages": []}, {"configurable": {"token": "token-b"}})

    with pytest.raises(IsolationViolation):
        await door(
            compiled,
            "invoke",
            {"messages": []},
            {"configurable": {"token": "token-b", "user_id": "alice"}},
        )

    assert kept(memory, "bob") == {"sister": {"seen": 0}}
    assert kept(memory, "alice") == {}
