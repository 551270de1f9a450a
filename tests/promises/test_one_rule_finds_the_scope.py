"""Promise 0: one rule finds the scope, and what disagrees raises. In doubt no memory.

Each test is an attack: a program in which LangChain or LangGraph, or the application, names one
user in one place and another in the next, or does not say whose a call is.
"""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_classic.retrievers import MergerRetriever
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel, FakeListLLM, GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableBranch, RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langchain_core.vectorstores import VectorStoreRetriever
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy, Command, Send, interrupt

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated.errors import IsolationViolation, ScopeError
from tests.conftest import Door

ALICE, BOB = Scope("alice", "m"), Scope("bob", "m")
REFUSED = (ScopeError, IsolationViolation)
THREAD: RunnableConfig = {"configurable": {"thread_id": "t"}}

who: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("who", default=None)


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


def of(scope: Scope, thread: str = "t", **more: Any) -> RunnableConfig:
    named = {"user_id": scope.user_id, "module_id": scope.module_id}
    return {"configurable": {"thread_id": thread, **named, **more}}


def said(memory: IsolatedMemory, scope: Scope) -> set[str]:
    """Everything that a scope's threads and sessions hold, as text."""
    scoped = memory.scope(scope)
    found = {str(tuple_.checkpoint) for tuple_ in scoped.checkpointer().list(None)}
    for session in scoped.sessions():
        found |= {str(message.content) for message in scoped.chat_history(session.id).messages}
    return found | {str(item) for item in scoped.store().search((), limit=100)}


def is_clean(memory: IsolatedMemory) -> bool:
    """Whether neither of the two holds anything of the other's."""
    alices, bobs = said(memory, ALICE), said(memory, BOB)
    return not any("bob" in text for text in alices) and not any("alice" in text for text in bobs)


def slow(_: Any) -> dict[str, Any]:
    time.sleep(0.03)
    return {"messages": [("ai", "ok")]}


def parallel(saver: Any) -> Any:
    builder = StateGraph(MessagesState).add_node("one", slow).add_node("two", slow)
    return builder.add_edge(START, "one").add_edge(START, "two").compile(checkpointer=saver)


def hello(scope: Scope) -> dict[str, list[BaseMessage]]:
    return {"messages": [HumanMessage(f"{scope.user_id}'s secret")]}


# --- who names the scope --------------------------------------------------------------------------

Run = Callable[[IsolatedMemory, Any, Scope], Any]


async def by_config(memory: IsolatedMemory, run: Any, scope: Scope) -> None:
    await run(memory.checkpointer(), of(scope))


async def by_using(memory: IsolatedMemory, run: Any, scope: Scope) -> None:
    with memory.using(scope):
        await run(memory.checkpointer(), THREAD)


async def by_resolver(memory: IsolatedMemory, run: Any, scope: Scope) -> None:
    who.set(scope)
    await run(memory.checkpointer(scope_resolver=lambda _: who.get()), THREAD)


async def by_binding(memory: IsolatedMemory, run: Any, scope: Scope) -> None:
    await run(memory.scope(scope).checkpointer(), THREAD)


WAYS = [by_config, by_using, by_resolver, by_binding]


@tool
def wait(seconds: float) -> str:
    """Wait."""
    time.sleep(seconds)
    return "done"


class Scripted(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **_: Any) -> Any:  # noqa: ARG002
        return self


@pytest.mark.parametrize("way", WAYS)
async def test_what_parallel_nodes_tools_and_tasks_write_is_the_runs_users(
    memory: IsolatedMemory, door: Door, way: Run
):
    @task
    def double(number: int) -> int:
        time.sleep(0.03)
        return 2 * number

    async def run(saver: Any, config: RunnableConfig) -> None:
        def at(thread: str) -> RunnableConfig:
            return {"configurable": {**config["configurable"], "thread_id": thread}}

        await door(parallel(saver), "invoke", {"messages": [("human", "x")]}, at("nodes"))
        calls = [{"name": "wait", "args": {"seconds": 0.03}, "id": str(n)} for n in range(2)]
        model = Scripted(messages=iter([AIMessage("", tool_calls=calls), AIMessage("end")]))
        agent = create_agent(model, [wait], checkpointer=saver)
        await door(agent, "invoke", {"messages": [("human", "x")]}, at("tools"))

        @entrypoint(checkpointer=saver)
        def flow(number: int) -> list[int]:
            return [one.result() for one in (double(number), double(number + 1))]

        assert await door(flow, "invoke", 1, at("tasks")) == [2, 4]

    await way(memory, run, ALICE)

    threads = memory.scope(ALICE).checkpointer().threads()
    assert {thread.id for thread in threads} == {"nodes", "tools", "tasks"}
    assert memory.modules(user_id="bob") == []


def asking(mode: bool | None) -> Any:
    """A graph with a subgraph that asks, beside a slow node, and then fans out."""

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [("human", interrupt(f"{state['messages'][0].content}?"))]}

    inner = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask")
    outer = StateGraph(MessagesState).add_node("slow", slow)
    outer.add_node("team", inner.compile(checkpointer=mode)).add_node("fan", slow)
    outer.add_edge(START, "team").add_edge(START, "slow")
    return outer.add_conditional_edges("team", lambda s: [Send("fan", s), Send("fan", s)], ["fan"])


@pytest.mark.parametrize("mode", [True, None])
@pytest.mark.parametrize("way", WAYS)
async def test_subgraphs_interrupts_resume_replay_and_send_stay_with_their_user(
    memory: IsolatedMemory, door: Door, way: Run, mode: bool | None
):
    async def run(saver: Any, config: RunnableConfig) -> None:
        graph, scope = asking(mode).compile(checkpointer=saver), runs[-1]
        await door(graph, "invoke", hello(scope), config)
        state = await door(graph, "get_state", config, subgraphs=True)
        inner = next(task.state for task in state.tasks if task.state)
        assert inner.values["messages"][0].content == f"{scope.user_id}'s secret"
        note = {"messages": [("human", f"{scope.user_id}'s note")]}
        await door(graph, "update_state", inner.config, note)
        again = await door(graph, "get_state", config, subgraphs=True)
        inner = next(task.state for task in again.tasks if task.state)
        assert inner.values["messages"][-1].content == f"{scope.user_id}'s note"
        result = await door(graph, "invoke", Command(resume=f"{scope.user_id} says"), config)
        assert f"{scope.user_id} says" in [m.content for m in result["messages"]]
        history = [state async for state in graph.aget_state_history(config)]
        await door(graph, "invoke", None, history[-2].config)

    runs: list[Scope] = []
    for scope in (ALICE, BOB):
        runs.append(scope)
        # A context of its own: what names the user before must be gone.
        await asyncio.create_task(way(memory, run, scope))

    assert is_clean(memory)


async def test_a_namespace_with_a_plain_id_after_json_names_nobody(memory: IsolatedMemory):
    graph = asking(None).compile(checkpointer=memory.checkpointer())
    graph.invoke(hello(ALICE), of(ALICE))
    state = graph.get_state(of(ALICE), subgraphs=True)
    inner = next(task.state for task in state.tasks if task.state).config["configurable"]
    rebuilt = {"thread_id": inner["thread_id"], "checkpoint_ns": inner["checkpoint_ns"]}

    assert graph.get_state({"configurable": rebuilt}).values["messages"]
    plain = {**rebuilt, "thread_id": str(rebuilt["thread_id"])}
    for config in (plain, {"thread_id": rebuilt["thread_id"]}):
        with pytest.raises(ScopeError):
            graph.get_state({"configurable": config})


async def test_a_table_of_threads_does_not_hand_one_users_thread_to_another(
    memory: IsolatedMemory, door: Door
):
    table: dict[str, Any] = {}
    graph = asking(None).compile(checkpointer=memory.checkpointer(), store=memory.store())
    for scope in (ALICE, BOB):
        await door(graph, "invoke", hello(scope), of(scope))
        table.setdefault("t", graph.get_state(of(scope)).config["configurable"]["thread_id"])
        config = of(scope, thread=table["t"])
        await door(graph, "invoke", Command(resume=f"{scope.user_id} says"), config)
        with memory.using(scope):
            unnamed = {"configurable": {"thread_id": table["t"]}}
            assert (await door(graph, "get_state", unnamed)).values["messages"]
            await door(graph, "invoke", hello(scope), unnamed)

    assert is_clean(memory)


# --- child graphs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS[:3])
async def test_a_child_graph_with_a_thread_of_its_own_is_the_runs_users(
    memory: IsolatedMemory, door: Door, way: Run
):
    async def run(saver: Any, config: RunnableConfig) -> None:
        child = parallel(saver)

        def call(number: int) -> Any:
            def node(state: MessagesState) -> dict[str, Any]:
                child.invoke({"messages": state["messages"]}, at(number))
                return {}

            async def anode(state: MessagesState) -> dict[str, Any]:
                await child.ainvoke({"messages": state["messages"]}, at(number))
                return {}

            return RunnableLambda(node, afunc=anode)

        def at(number: int) -> RunnableConfig:
            return {"configurable": {"thread_id": f"child {number}"}}

        builder = StateGraph(MessagesState)
        for number in range(3):
            builder.add_node(str(number), call(number)).add_edge(START, str(number))
        await door(builder.compile(checkpointer=saver), "invoke", hello(runs[-1]), config)

    runs: list[Scope] = []
    for scope in (ALICE, BOB):
        runs.append(scope)
        await asyncio.create_task(way(memory, run, scope))
        threads = memory.scope(scope).checkpointer().threads()
        assert {thread.id for thread in threads} == {"t", "child 0", "child 1", "child 2"}
    assert is_clean(memory)


async def test_a_store_in_a_child_graph_that_names_nobody_tells_the_way_out(
    memory: IsolatedMemory, door: Door
):
    def keep(_: Any, runtime: Runtime) -> dict[str, Any]:
        runtime.store.put(("facts",), "pin", {})
        return {}

    builder = StateGraph(MessagesState).add_node("keep", keep).add_edge(START, "keep")
    child = builder.compile(checkpointer=memory.checkpointer(), store=memory.store())

    def parent(call: Callable[[], Any]) -> Any:
        graph = StateGraph(MessagesState).add_node("call", lambda _: call() and {})
        return graph.add_edge(START, "call").compile(checkpointer=memory.checkpointer())

    at: RunnableConfig = {"configurable": {"thread_id": "child"}}
    with pytest.raises(ScopeError, match=r"memory\.of_run\(\)\.bind\(child\)"):
        await door(parent(lambda: child.invoke({}, at)), "invoke", hello(ALICE), of(ALICE))
    bound = parent(lambda: memory.of_run().bind(child).invoke({}, at))
    await door(bound, "invoke", hello(ALICE), of(ALICE, thread="u"))

    assert [item.key for item in memory.scope(ALICE).store().search(("facts",))] == ["pin"]


# --- using ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", [ALICE, Scope("alice", "planner"), BOB])
async def test_using_never_lets_a_config_choose(memory: IsolatedMemory, door: Door, scope: Scope):
    graph = asking(None).compile(checkpointer=memory.checkpointer(), store=memory.store())
    await door(graph, "invoke", hello(ALICE), of(ALICE))

    for name, *args in (
        ("invoke", Command(resume="stolen")),
        ("get_state",),
        ("update_state",),
    ):
        note = {"messages": [("human", "a note")]}
        more = [note, "slow"] if name == "update_state" else []
        with memory.using(scope):
            if scope == ALICE:
                await door(graph, name, *args, of(ALICE), *more)
            else:
                with pytest.raises(IsolationViolation):
                    await door(graph, name, *args, of(ALICE), *more)
    assert memory.modules(user_id="bob") == []


def test_streams_consumed_in_turn_meet_nobody(memory: IsolatedMemory):
    graph = parallel(memory.checkpointer())

    def stream(scope: Scope) -> Iterator[Any]:
        with memory.using(scope):
            yield from graph.stream(hello(scope), THREAD)

    both = [stream(ALICE), stream(BOB)]
    for one in [*both, *both, both[0]]:
        with pytest.raises((StopIteration, *REFUSED)):
            next(one)
    with pytest.raises(ScopeError):
        graph.get_state(THREAD)
    assert is_clean(memory)


def test_a_stream_that_goes_on_inside_of_anothers_block_is_refused(memory: IsolatedMemory):
    graph = parallel(memory.checkpointer())
    with memory.using(ALICE):
        stream = graph.stream(hello(ALICE), THREAD)
        next(stream)
    with memory.using(BOB), pytest.raises(IsolationViolation):
        for _ in stream:
            pass

    assert memory.modules(user_id="bob") == []


@pytest.mark.parametrize("mode", [True, None])
def test_a_subgraph_that_begins_when_the_block_is_over_is_the_runs_users(
    memory: IsolatedMemory, mode: bool | None
):
    builder = StateGraph(MessagesState).add_node("first", slow).add_node("team", parallel(mode))
    builder.add_edge(START, "first").add_edge("first", "team")
    graph = builder.compile(checkpointer=memory.checkpointer())
    with memory.using(ALICE):
        stream = graph.stream(hello(ALICE), THREAD)
        next(stream)

    assert [list(step) for step in stream] == [["team"]]
    namespaces = {
        one.config["configurable"]["checkpoint_ns"]
        for one in memory.scope(ALICE).checkpointer().list(THREAD)
    }
    assert len(namespaces) == 2


async def test_calls_without_a_config_search_nobodys_memory(memory: IsolatedMemory, door: Door):
    saver = memory.checkpointer()
    parallel(saver).invoke(hello(ALICE), of(ALICE))
    calls = (
        ("delete_thread", "t"),
        ("copy_thread", "t", "u"),
        ("delete_for_runs", ["r"]),
        ("prune", ["t"]),
        ("threads",),
        ("thread_size", "t"),
        ("verify_thread", "t"),
    )
    for name, *args in calls:
        with pytest.raises(ScopeError):
            await door(saver, name, *args)
        with memory.using(BOB):
            await door(saver, name, *args)
    for listing in (saver.list, saver.alist):
        with pytest.raises(ScopeError):
            listing(None)

    resolved = memory.checkpointer(scope_resolver=lambda _: who.get())
    for scope, count in ((BOB, 0), (ALICE, 1)):
        who.set(scope)
        assert len(await door(resolved, "threads")) == count
        assert bool(list(resolved.list(None))) == bool(count)
        assert bool([one async for one in resolved.alist(None)]) == bool(count)


async def test_an_async_call_asks_once_and_in_the_callers_context(memory: IsolatedMemory):
    asked: list[str] = []

    def resolve(_: RunnableConfig) -> Scope:
        asked.append(threading.current_thread().name)
        return ALICE

    saver = memory.checkpointer(scope_resolver=resolve)
    await saver.aget_tuple(THREAD)
    await saver.athreads()

    assert asked == [threading.current_thread().name] * 2


# --- bound objects --------------------------------------------------------------------------------


async def test_a_bound_graph_refuses_another_users_config(memory: IsolatedMemory, door: Door):
    graph = memory.scope(ALICE).bind(asking(None).compile())
    await door(graph, "invoke", hello(ALICE), THREAD)

    for config in (of(BOB), of(Scope("alice", "other")), of(ALICE, project_id="p")):
        for call in (
            lambda config=config: door(graph, "invoke", hello(BOB), config),
            lambda config=config: door(graph, "get_state", config),
            lambda config=config: door(graph, "update_state", config, hello(BOB)),
        ):
            with pytest.raises(IsolationViolation):
                await call()
    assert is_clean(memory)


async def test_bound_graphs_inside_of_another_run_or_block_are_legitimate(
    memory: IsolatedMemory, door: Door
):
    child = parallel(None)

    def call(state: MessagesState) -> dict[str, Any]:
        run = memory.of_run()
        run.module("planner").bind(child).invoke({"messages": state["messages"]}, THREAD)
        memory.scope(BOB).bind(child).invoke(hello(BOB), THREAD)
        run.module("planner").store().put(("a",), "k", {})
        return {}

    parent = StateGraph(MessagesState).add_node("call", call).add_edge(START, "call")
    graph = parent.compile(checkpointer=memory.checkpointer())
    with memory.using(ALICE):
        await door(graph, "invoke", hello(ALICE), of(ALICE))

    planner = memory.scope(ALICE).module("planner")
    assert [thread.id for thread in planner.checkpointer().threads()] == ["t"]
    assert is_clean(memory)


Around = Callable[[IsolatedMemory, Any], tuple[Any, RunnableConfig]]
AROUND: list[Around] = [
    lambda memory, graph: (memory.scope(ALICE).bind(graph.compile()), THREAD),
    lambda memory, graph: (graph.compile(checkpointer=memory.checkpointer()), of(ALICE)),
    lambda memory, graph: (graph.compile(store=memory.store()), of(ALICE)),
    lambda _, graph: (graph.compile(checkpointer=InMemorySaver()), THREAD),
]


@pytest.mark.parametrize("around", AROUND)
async def test_a_bound_graph_without_a_thread_of_its_own_takes_no_memory_of_the_run_around(
    memory: IsolatedMemory, door: Door, around: Around
):
    memory.scope(ALICE).store().put(("n",), "k", {"pin": "alice's"})

    def read(_: MessagesState, runtime: Runtime) -> dict[str, Any]:
        items = runtime.store.search(()) if runtime.store else []
        return {"messages": [AIMessage(f"bob's graph reads {items}")]}

    child = StateGraph(MessagesState).add_node("read", read).add_edge(START, "read").compile()
    bobs = memory.scope(BOB).bind(child)

    def call(_: MessagesState) -> dict[str, Any]:
        for config in (None, {"tags": ["x"]}):
            with pytest.raises(IsolationViolation, match="thread of its own"):
                bobs.invoke(hello(BOB), config)
        return {}

    async def acall(_: MessagesState) -> dict[str, Any]:
        with pytest.raises(IsolationViolation, match="thread of its own"):
            await bobs.ainvoke(hello(BOB))
        with pytest.raises(IsolationViolation, match="thread of its own"):
            await bobs.aget_state({})
        return {}

    parent = StateGraph(MessagesState).add_node("call", RunnableLambda(call, afunc=acall))
    graph, config = around(memory, parent.add_edge(START, "call"))
    await door(graph, "invoke", hello(ALICE), config)

    nested = StateGraph(MessagesState).add_node("child", bobs).add_edge(START, "child")
    graph, config = around(memory, nested)
    with pytest.raises(IsolationViolation, match="thread of its own"):
        await door(graph, "invoke", hello(ALICE), config)

    assert is_clean(memory)


@pytest.mark.parametrize("around", AROUND)
async def test_a_bound_graphs_stream_that_is_begun_inside_of_another_run_takes_no_memory_of_it(
    memory: IsolatedMemory, door: Door, around: Around
):
    bobs = memory.scope(BOB).bind(parallel(None))
    streams = [bobs.stream(hello(BOB)), bobs.get_state_history({"configurable": {}})]
    astreams = [bobs.astream(hello(BOB)), bobs.aget_state_history({"configurable": {}})]

    def call(_: MessagesState) -> dict[str, Any]:
        for stream in streams:
            with pytest.raises(IsolationViolation, match="thread of its own"):
                next(iter(stream))
        return {}

    async def acall(_: MessagesState) -> dict[str, Any]:
        for stream in astreams:
            with pytest.raises(IsolationViolation, match="thread of its own"):
                await anext(aiter(stream))
        return {}

    parent = StateGraph(MessagesState).add_node("call", RunnableLambda(call, afunc=acall))
    graph, config = around(memory, parent.add_edge(START, "call"))
    await door(graph, "invoke", hello(ALICE), config)
    assert is_clean(memory)


@pytest.mark.parametrize("around", AROUND[:3])
async def test_a_graph_bound_to_the_scope_of_the_run_around_is_a_subgraph_of_it(
    memory: IsolatedMemory, door: Door, around: Around
):
    child = memory.scope(ALICE).bind(memory.scope(BOB).bind(parallel(None)))

    def call(_: MessagesState) -> dict[str, Any]:
        return {"messages": child.invoke(hello(ALICE))["messages"][-1:]}

    parent = StateGraph(MessagesState).add_node("call", call).add_edge(START, "call")
    graph, config = around(memory, parent)
    assert (await door(graph, "invoke", hello(ALICE), config))["messages"][-1].text == "ok"
    nested = StateGraph(MessagesState).add_node("child", child).add_edge(START, "child")
    graph, config = around(memory, nested)
    assert (await door(graph, "invoke", hello(ALICE), config))["messages"][-1].text == "ok"


async def test_an_applications_own_user_id_is_not_taken_for_ours(
    sqlite_url: str, root_key: LocalRootKey, door: Door
):
    keys = {"user_id": "memory_user", "module_id": "memory_module"}
    with IsolatedMemory(sqlite_url, root_key=root_key, config_keys=keys) as memory:
        graph = asking(None).compile(checkpointer=memory.checkpointer(), store=memory.store())
        for scope, name in ((ALICE, "A. Liddell"), (BOB, "A. Liddell")):
            own = {"user_id": name, "thread_id": "t"}
            ours = {"memory_user": scope.user_id, "memory_module": scope.module_id}
            config = {"configurable": {**own, **ours}}
            await door(graph, "invoke", hello(scope), config)
            state = await door(graph, "get_state", config, subgraphs=True)
            assert state.config["configurable"].items() >= ours.items()
            bound = memory.scope(scope).bind(graph)
            await door(bound, "invoke", Command(resume="yes"), {"configurable": own})
            with pytest.raises(ScopeError, match="memory_user"):
                await door(graph, "get_state", {"configurable": own})
        assert is_clean(memory)


# --- handlers and caches --------------------------------------------------------------------------


def chain(*, cache: Any = None) -> Any:
    return RunnableLambda(lambda text: text) | FakeListChatModel(responses=["ok"], cache=cache)


@pytest.mark.parametrize("is_given", [True, False])
async def test_a_batch_inside_of_a_run_records_nobody_under_another(
    memory: IsolatedMemory, door: Door, is_given: bool
):
    handler = memory.callback_handler()

    def config(scope: Scope) -> RunnableConfig:
        given = {"callbacks": [handler]} if is_given else {}
        return {**of(scope, session_id="s"), **given}

    texts, configs = ["alice's question", "bob's secret"], [config(ALICE), config(BOB)]

    async def ajob(_: str) -> Any:
        return await chain().abatch(texts, configs)

    job = RunnableLambda(lambda _: chain().batch(texts, configs), afunc=ajob)
    outer: RunnableConfig = {**config(ALICE), **({} if is_given else {"callbacks": [handler]})}
    with suppress(*REFUSED):
        await door(job, "invoke", "go", outer)

    assert is_clean(memory)


async def test_a_handler_that_is_bound_serves_a_batch_inside_of_a_run(
    memory: IsolatedMemory, door: Door
):
    def config(scope: Scope) -> RunnableConfig:
        return {"callbacks": [memory.scope(scope).callback_handler("s")]}

    texts, configs = ["alice's question", "bob's secret"], [config(ALICE), config(BOB)]

    async def ajob(_: str) -> Any:
        return await chain().abatch(texts, configs)

    job = RunnableLambda(lambda _: chain().batch(texts, configs), afunc=ajob)
    await door(job, "invoke", "go", of(ALICE))

    for scope, text in zip((ALICE, BOB), texts, strict=True):
        assert [m.content for m in memory.scope(scope).chat_history("s").messages] == [text, "ok"]


async def test_a_cache_answers_no_part_of_a_batch_from_another_users_run(
    memory: IsolatedMemory, door: Door
):
    cached = chain(cache=memory.llm_cache())
    await door(cached, "invoke", "what is my pin?", of(ALICE))

    async def ajob(_: str) -> Any:
        return await cached.abatch(["what is my pin?"], [of(BOB)])

    job = RunnableLambda(lambda _: cached.batch(["what is my pin?"], [of(BOB)]), afunc=ajob)
    for around in (of(ALICE), None):
        with pytest.raises(REFUSED):
            await door(job, "invoke", "go", around)
    with memory.using(ALICE), pytest.raises(REFUSED):
        await door(job, "invoke", "go")


def by_itself(model: Any, text: str, config: RunnableConfig) -> Any:
    async def ask(_: str) -> Any:
        return await model.ainvoke(text, config)

    return RunnableLambda(lambda _: model.invoke(text, config), afunc=ask)


def in_a_batch(model: Any, text: str, config: RunnableConfig) -> Any:
    async def ask(_: str) -> Any:
        return await model.abatch([text, text], [config] * 2)

    return RunnableLambda(lambda _: model.batch([text, text], [config] * 2), afunc=ask)


def in_a_branch(model: Any, text: str, config: RunnableConfig) -> Any:
    return in_a_batch(RunnableBranch((lambda _: True, model), model), text, config)


def under_a_tag_like_a_branchs(model: Any, text: str, config: RunnableConfig) -> Any:
    whole = RunnableLambda(lambda text: text) | model
    return in_a_batch(whole, text, {**config, "tags": ["branch:main"]})


@pytest.mark.parametrize("ask", [by_itself, in_a_batch, in_a_branch, under_a_tag_like_a_branchs])
async def test_a_model_told_another_users_config_is_recorded_for_nobody(
    memory: IsolatedMemory, door: Door, ask: Callable[..., Any]
):
    model = FakeListChatModel(responses=["ok"])
    job = ask(model, "bob's pin?", of(BOB, session_id="s"))
    config: RunnableConfig = {**of(ALICE), "callbacks": [memory.callback_handler()]}

    with pytest.raises(IsolationViolation):
        await door(job, "invoke", "go", config)
    assert is_clean(memory)


def asked_of(model: Any, text: str, config: RunnableConfig) -> Any:
    return model.invoke(text, config)


def asked_twice_of(model: Any, text: str, config: RunnableConfig) -> Any:
    return model.batch([text, text], [config] * 2)


def asked_asynchronously(model: Any, text: str, config: RunnableConfig) -> Any:
    return asyncio.run(model.ainvoke(text, config))


@tool
def answer(text: str) -> str:
    """Answer."""
    return f"an answer to {text}"


@pytest.mark.parametrize("of_whom", [ALICE, BOB])
@pytest.mark.parametrize("asked", [FakeListChatModel(responses=["ok"]), answer])
@pytest.mark.parametrize("ask", [asked_of, asked_twice_of, asked_asynchronously])
def test_what_a_thread_outside_of_the_run_is_told_is_recorded_for_that_user_or_for_nobody(
    memory: IsolatedMemory, ask: Callable[..., Any], asked: Any, of_whom: Scope
):
    failed: list[BaseException] = []

    def in_a_thread(text: str, config: RunnableConfig) -> None:
        told: RunnableConfig = {**of(of_whom, session_id="s"), "callbacks": config["callbacks"]}

        def attempt() -> None:
            try:
                ask(asked, f"{of_whom.user_id}'s pin?", told)
            except IsolationViolation as refusal:
                failed.append(refusal)

        chain().invoke(text, config)
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()

    config: RunnableConfig = {**of(ALICE, session_id="s"), "callbacks": [memory.callback_handler()]}
    RunnableLambda(in_a_thread).invoke("alice's question", config)

    assert is_clean(memory)
    assert bool(failed) == (of_whom == BOB)
    assert any("alice's pin?" in text for text in said(memory, ALICE)) == (of_whom == ALICE)


@pytest.mark.parametrize("ask", [by_itself, in_a_batch, in_a_branch, under_a_tag_like_a_branchs])
def test_a_model_told_another_users_config_is_not_answered(
    memory: IsolatedMemory, ask: Callable[..., Any]
):
    """Without `async`: there LangChain asks a cache in a task of its own, where nothing tells."""
    cached = FakeListChatModel(responses=["alice's pin", "ok"], cache=memory.llm_cache())
    by_itself(cached, "pin?", of(ALICE)).invoke("go", of(ALICE))

    for around in (of(ALICE), None):
        with pytest.raises(REFUSED):
            ask(cached, "pin?", of(BOB)).invoke("go", around)
    with memory.using(ALICE), pytest.raises(IsolationViolation):
        cached.invoke("pin?", of(BOB))


class Remembering(FakeListChatModel):
    """A model that remembers what it was asked, by an event loop of its own."""

    store: Any

    def _call(self, messages: list[BaseMessage], *args: Any, **more: Any) -> str:
        asyncio.run(self.store.aput(("asked",), "it", {"text": messages[-1].content}))
        return super()._call(messages, *args, **more)


def test_a_model_told_another_users_config_remembers_nothing_from_an_event_loop_of_its_own(
    memory: IsolatedMemory,
):
    model = Remembering(responses=["ok"], store=memory.store())

    with pytest.raises(IsolationViolation):
        RunnableLambda(lambda _: model.invoke("bob's pin?", of(BOB))).invoke("go", of(ALICE))
    assert is_clean(memory)

    RunnableLambda(lambda _: model.invoke("pin of alice?")).invoke("go", of(ALICE))
    assert "pin of alice?" in str(said(memory, ALICE))


def test_a_task_of_another_user_in_an_event_loop_inside_of_a_run_is_that_users(
    memory: IsolatedMemory,
):
    def answer(_: Any) -> dict[str, Any]:
        return {"messages": [AIMessage("bob's answer")]}

    builder = StateGraph(MessagesState)
    builder.add_node("one", answer, cache_policy=CachePolicy(key_func=lambda _: "same"))
    graph = builder.add_edge(START, "one").compile(cache=memory.node_cache())

    async def ask(_: str) -> Any:
        return graph.invoke({"messages": []}, THREAD)

    job = RunnableLambda(lambda _: asyncio.run(RunnableLambda(ask).ainvoke("go", of(BOB))))
    job.invoke("go", of(ALICE))

    assert memory.modules(user_id="bob") == ["m"]
    assert memory.modules(user_id="alice") == []


async def test_a_text_model_told_another_users_config_records_nothing(memory: IsolatedMemory):
    model, handler = FakeListLLM(responses=["ok"]), memory.callback_handler()
    configs = [of(ALICE, session_id="s"), of(BOB, session_id="s")]
    job = RunnableLambda(lambda _: model.batch(["alice's", "bob's"], configs))

    with pytest.raises(IsolationViolation):
        job.invoke("go", {**of(ALICE, session_id="s"), "callbacks": [handler]})
    assert is_clean(memory)


async def test_a_model_with_a_handler_of_its_own_is_the_surrounding_runs(
    memory: IsolatedMemory, door: Door
):
    model, own = FakeListChatModel(responses=["ok"]), {"callbacks": [memory.callback_handler()]}

    async def ask(text: str) -> None:
        await model.ainvoke(text, own)

    job = RunnableLambda(lambda text: model.invoke(text, own), afunc=ask)
    await door(job, "invoke", "alice's question", of(ALICE, session_id="s"))

    assert {"alice's question", "ok"} <= said(memory, ALICE)


async def test_a_failure_is_recorded_for_whose_run_it_is(memory: IsolatedMemory, door: Door):
    """A run calls one of another user's, which is legitimate, and then fails."""
    handler, bobs = memory.callback_handler(), of(BOB, session_id="s")

    def fail(_: str) -> None:
        chain().invoke("bob's question", bobs)
        raise ValueError("alice's pin")

    async def afail(_: str) -> None:
        await chain().ainvoke("bob's question", bobs)
        raise ValueError("alice's pin")

    config: RunnableConfig = {**of(ALICE, session_id="s"), "callbacks": [handler]}
    with pytest.raises(ValueError, match="alice's pin"):
        await door(RunnableLambda(fail, afunc=afail), "invoke", "go", config)

    assert "bob's question" in said(memory, BOB)
    assert "alice's pin" in said(memory, ALICE)
    assert is_clean(memory)


async def test_a_failure_in_a_branch_is_recorded_for_whose_part_it_is(
    memory: IsolatedMemory, door: Door
):
    def fail(_: str) -> None:
        raise ValueError("bob's pin")

    branch = RunnableBranch((lambda _: True, RunnableLambda(fail) | chain()), chain())
    bobs: RunnableConfig = {**of(BOB, session_id="s"), "callbacks": [memory.callback_handler()]}

    async def ajob(_: str) -> Any:
        return await branch.abatch(["?"], [bobs])

    job = RunnableLambda(lambda _: branch.batch(["?"], [bobs]), afunc=ajob)
    with pytest.raises(ValueError, match="bob's pin"):
        await door(job, "invoke", "go", of(ALICE, session_id="s"))

    assert is_clean(memory)


async def test_a_tool_told_another_users_config_is_not_begun(memory: IsolatedMemory, door: Door):
    begun: list[float] = []

    @tool
    def note(seconds: float) -> str:
        """Note."""
        begun.append(seconds)
        return "bob's answer"

    async def ajob(_: str) -> Any:
        return await note.ainvoke({"seconds": 1}, of(BOB))

    job = RunnableLambda(lambda _: note.invoke({"seconds": 1}, of(BOB)), afunc=ajob)
    config: RunnableConfig = {**of(ALICE), "callbacks": [memory.callback_handler()]}
    with pytest.raises(IsolationViolation):
        await door(job, "invoke", "go", config)

    assert (begun, is_clean(memory)) == ([], True)


async def test_a_retriever_of_others_finds_nothing_for_another_users_config(
    memory: IsolatedMemory, door: Door
):
    """LangChain's own retrievers ask a store, or another retriever, in the caller's context."""
    documents = memory.vector_store(DeterministicFakeEmbedding(size=8))
    for scope in (ALICE, BOB):
        store = memory.scope(scope).vector_store(DeterministicFakeEmbedding(size=8))
        store.add_texts([f"{scope.user_id}'s document"])
    retriever = VectorStoreRetriever(vectorstore=documents)

    def ask(scope: Scope) -> Any:
        async def ajob(_: str) -> Any:
            return await retriever.ainvoke("?", of(scope))

        job = RunnableLambda(lambda _: retriever.invoke("?", of(scope)), afunc=ajob)
        return door(job, "invoke", "go", of(ALICE))

    assert [found.page_content for found in await ask(ALICE)] == ["alice's document"]
    with pytest.raises(IsolationViolation):
        await ask(BOB)
    several = MergerRetriever(retrievers=[memory.retriever(documents)])
    job = RunnableLambda(lambda _: several.batch(["?", "?"], [of(ALICE), of(BOB)]))
    with pytest.raises(IsolationViolation):
        job.invoke("go", of(ALICE))


async def test_branches_and_chains_inside_of_a_run_are_recorded(memory: IsolatedMemory, door: Door):
    handler, branch = memory.callback_handler(), RunnableBranch((lambda _: True, chain()), chain())
    whole = RunnableLambda(lambda text: text) | branch | RunnableLambda(lambda m: m.content)
    cached = RunnableBranch((lambda _: True, chain(cache=memory.llm_cache())), chain())
    models = RunnableBranch((lambda _: True, FakeListChatModel(responses=["ok"])), chain())

    async def aall(text: str) -> list[Any]:
        return [await one.ainvoke(text) for one in (whole, cached, models)]

    every = RunnableLambda(lambda t: [one.invoke(t) for one in (whole, cached, models)], afunc=aall)
    config: RunnableConfig = {**of(ALICE, session_id="s"), "callbacks": [handler]}
    await door(every, "invoke", "alice's question", config)

    texts = [m.content for m in memory.scope(ALICE).chat_history("s").messages]
    # One run of the application: the question, and what each model answered.
    assert texts == ["alice's question", "ok", "ok", "ok"]
    assert is_clean(memory)


async def test_a_history_factory_follows_the_rule(memory: IsolatedMemory):
    memory.session_history(user_id="alice", module_id="m", session_id="s").add_user_message("hi")

    with memory.using(BOB), pytest.raises(IsolationViolation):
        memory.session_history(user_id="alice", module_id="m", session_id="s")
    with memory.using(ALICE):
        found = memory.session_history(user_id="alice", module_id="m", session_id="s")
        assert len(found.messages) == 1


# --- one graph for everybody ----------------------------------------------------------------------


async def test_the_forms_of_the_run_are_each_users_own(memory: IsolatedMemory, door: Door):
    embeddings = DeterministicFakeEmbedding(size=8)
    documents, recall = memory.vector_store(embeddings), memory.recall_tool()
    retriever, over = memory.retriever(embeddings), memory.retriever(documents)

    async def use(name: str) -> list[str]:
        await documents.aadd_texts([f"{name}'s document"])
        await memory.of_run().chat_history("s").aadd_messages([HumanMessage(f"{name}'s secret")])
        found = [*await retriever.ainvoke("?"), *over.invoke("?")]
        found += documents.similarity_search("?") + documents.as_retriever().invoke("?")
        return [*(one.page_content for one in found), await recall.ainvoke({"query": "secret"})]

    for scope in (ALICE, BOB):
        texts = await RunnableLambda(use).ainvoke(scope.user_id, of(scope))
        assert len(texts) == 5
        assert all(scope.user_id in text for text in texts)
        other = (BOB if scope == ALICE else ALICE).user_id
        assert not any(other in text for text in texts)
    configs = [of(ALICE), of(BOB)]
    for one in (retriever, over, documents.as_retriever()):
        chain = RunnableLambda(lambda text: text) | one

        async def abatch(_: str, chain: Any = chain) -> Any:
            return await chain.abatch(["?", "?"], configs)

        batch = RunnableLambda(lambda _, chain=chain: chain.batch(["?", "?"], configs), abatch)
        for run in (of(ALICE), of(BOB), None):
            found = await door(batch, "invoke", "go", run)
            assert [[document.page_content for document in part] for part in found] == [
                ["alice's document"],
                ["bob's document"],
            ]
    for call in (
        lambda: door(documents, "similarity_search", "?"),
        lambda: door(retriever, "invoke", "?"),
        lambda: door(recall, "invoke", {"query": "secret"}),
    ):
        with pytest.raises(ScopeError):
            await call()

        async def within(_: str, call: Any = call) -> None:
            await call()

        with memory.using(BOB), pytest.raises(IsolationViolation):
            await RunnableLambda(within).ainvoke("go", of(ALICE))
