"""Graphs as applications have them: with ours every step has the outcome it has in memory."""

import asyncio
import copy
import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope, ScopedMemory
from langmem_isolated._adapters.config_keys import ConfigKeys
from langmem_isolated.errors import IsolationViolation, ScopeError
from tests.conftest import ROOT_KEY, Door, new_postgres_url
from tests.scenarios import SCENARIOS, Run, Scenario
from tests.test_checkpointer import conversation
from tests.threads import same

_numbers = itertools.count()


@pytest.fixture(scope="module")
def shared_memory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IsolatedMemory]:
    """One memory of either kind for all scenarios: each has users of its own."""
    if request.param == "postgres":
        url = new_postgres_url(request.getfixturevalue("postgres"))
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('agents')}/memory.db"
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        yield memory


@functools.cache
def expected(scenario: Scenario, who: str, *, is_async: bool) -> list[Any]:
    """What comes of each step with LangGraph's saver in memory."""
    run = Run(who, InMemorySaver(), is_async=is_async)
    asyncio.run(scenario(run))
    return run.noted


Users = dict[str, ScopedMemory]


def bound(memory: IsolatedMemory, users: Users, *, is_async: bool) -> list[Run]:
    return [Run(who, users[who].checkpointer(), is_async=is_async) for who in users]


def by_config(memory: IsolatedMemory, users: Users, *, is_async: bool) -> list[Run]:
    """One saver for both; the scope is in the config, or around calls that LangGraph makes."""
    saver = memory.checkpointer()
    return [
        Run(
            who,
            saver,
            is_async=is_async,
            scope=ConfigKeys().naming(scoped.scope),
            using=functools.partial(memory.using, scoped),
        )
        for who, scoped in users.items()
    ]


@pytest.mark.parametrize("door", ["sync", "async"])
@pytest.mark.parametrize(
    ("shared_memory", "form"),
    [("sqlite", bound), ("sqlite", by_config), ("postgres", bound)],
    indirect=["shared_memory"],
    scope="module",
)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_every_step_is_as_in_memory_for_two_users_at_once_with_the_same_threads(
    shared_memory: IsolatedMemory, scenario: Scenario, form: Any, door: str
):
    number, is_async = next(_numbers), door == "async"
    users = {
        who: shared_memory.scope(user_id=f"{who} {number}", module_id="m")
        for who in ("Alice", "Bob")
    }
    runs = form(shared_memory, users, is_async=is_async)

    async def at_once() -> None:
        await asyncio.gather(*(scenario(run) for run in runs))

    asyncio.run(at_once())

    for run, stranger in zip(runs, ["Bob", "Alice"], strict=True):
        for step, (mine, theirs) in enumerate(
            zip(run.noted, expected(scenario, run.who, is_async=is_async), strict=True)
        ):
            assert mine == theirs, f"step {step}"
        assert stranger not in repr(run.noted)
    for scoped in users.values():
        saver = scoped.checkpointer()
        threads = saver.threads()
        assert threads
        for thread in threads:
            assert saver.verify_thread(str(thread.id)) > 0


# What a node changes in place ---------------------------------------------------------------------


@dataclasses.dataclass
class Note:
    tags: list[str]


class Kept(MessagesState):
    notes: dict[str, Any]
    done: Annotated[list[int], operator.add]


CHANGES: list[Callable[[Kept], object]] = [
    lambda state: state["messages"][0].additional_kwargs["deep"]["list"][0].update(leaf=2),
    lambda state: state["messages"][1].content[0]["more"]["of"].append(2),
    lambda state: state["messages"][1].tool_calls[0]["args"]["x"].append({"y": []}),
    lambda state: state["messages"][1].tool_calls[0]["args"]["x"][-1]["y"].append(1),
    lambda state: state["messages"][2].artifact["rows"][0].append((2, [3])),
    lambda state: state["messages"][2].artifact["rows"][0][-1][1].append(4),
    lambda state: setattr(state["messages"][0], "content", "new"),
    lambda state: state["notes"]["deep"][0]["in"].append("x" * 300),
    lambda state: state["notes"]["note"].tags.append("late"),
    lambda state: state["notes"]["told"][0].response_metadata.update(seen=[True]),
    lambda state: state["messages"].pop(0),
]


@pytest.mark.parametrize("form", ["live", "read"])
def test_what_a_node_changes_in_place_at_any_depth_is_stored_as_it_was_after_each_step(
    memory: IsolatedMemory, form: str
):
    """LangGraph's savers differ where no new version is told: by it they would keep the old."""
    seen: list[Any] = []

    def change(state: Kept) -> dict[str, Any]:
        CHANGES[len(state["done"])](state)
        seen.append(copy.deepcopy([state["messages"], state["notes"]]))
        return {"done": [len(state["done"])]}

    builder = StateGraph(Kept)
    builder.add_node("change", change)
    builder.add_edge(START, "change")
    builder.add_conditional_edges(
        "change", lambda state: "change" if len(state["done"]) < len(CHANGES) else END
    )
    saver = memory.scope(user_id="alice", module_id="m").checkpointer(allow=[Note])
    graph = builder.compile(
        checkpointer=saver, interrupt_after=["change"] if form == "read" else None
    )
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    notes = {"deep": [{"in": []}], "note": Note([]), "told": [HumanMessage("told", id="n")]}
    graph.invoke({"messages": conversation(), "notes": notes}, config, durability="sync")
    while graph.get_state(config).next:
        graph.invoke(None, config, durability="sync")

    steps = [state.values for state in graph.get_state_history(config) if state.values.get("done")]

    assert len(seen) == len(CHANGES)
    for values, after in zip(reversed(steps), seen, strict=True):
        assert same([values["messages"], values["notes"]], after)


# Whose memory a run is ----------------------------------------------------------------------------


def asking() -> Any:
    """A graph for everybody, with a graph in it that asks."""

    def ask(state: MessagesState) -> dict[str, Any]:
        answer = interrupt(f"What do you say to: {state['messages'][-1].content}?")
        return {"messages": [AIMessage(f"{state['messages'][-1].content}: {answer}")]}

    inner = StateGraph(MessagesState)
    inner.add_node("ask", ask)
    inner.add_edge(START, "ask")
    builder = StateGraph(MessagesState)
    builder.add_node("inner", inner.compile())
    builder.add_edge(START, "inner")
    return builder


async def test_one_graph_serves_many_users_at_once_who_all_have_the_same_thread(
    memory: IsolatedMemory, door: Door
):
    graph = asking().compile(checkpointer=memory.checkpointer())
    users = [f"user {number}." for number in range(12)]

    async def talk(user: str) -> list[str]:
        names = {"user_id": user, "module_id": "m", "thread_id": "same"}
        config: RunnableConfig = {"configurable": names}
        for turn in range(2):
            start = {"messages": [HumanMessage(f"{turn} {user}")]}
            await door(graph, "invoke", start, config)
            await door(graph, "invoke", Command(resume=f"nothing, {user}"), config)
        # A checkpoint's own config leads back to it, with no scope around.
        first = graph.get_state(config).parent_config
        assert first["configurable"].items() >= names.items()
        past = await door(graph, "get_state", first)
        found = [*past.values["messages"], *graph.get_state(config).values["messages"]]
        return [message.content for message in found]

    said = await asyncio.gather(*map(talk, users))

    for user, texts in zip(users, said, strict=True):
        turns = [f"{turn} {user}" for turn in range(2)]
        answers = [f"{turn}: nothing, {user}" for turn in turns]
        everything = [turns[0], answers[0], turns[1], answers[1]]
        assert texts == everything[:-1] + everything


async def test_a_resolver_decides_and_a_client_that_says_otherwise_is_refused(
    memory: IsolatedMemory, door: Door
):
    def of_token(config: RunnableConfig) -> Scope:
        user = config["configurable"]["langgraph_auth_user"]["identity"]
        return Scope(user, "m", project_id="p")

    graph = asking().compile(checkpointer=memory.checkpointer(scope_resolver=of_token))

    def config_of(user: str, **claims: str) -> RunnableConfig:
        token = {"langgraph_auth_user": {"identity": user}}
        return {"configurable": {"thread_id": "same", **token, **claims}}

    for user in ("alice", "bob"):
        await door(graph, "invoke", {"messages": [HumanMessage(user)]}, config_of(user))
    for claims in ({"user_id": "alice"}, {"module_id": "other"}, {"project_id": "default"}):
        for name, args in [("invoke", (Command(resume="stolen"),)), ("get_state", ())]:
            with pytest.raises(IsolationViolation):
                await door(graph, name, *args, config_of("bob", **claims))
        with pytest.raises(IsolationViolation):
            await door(graph, "update_state", config_of("bob", **claims), {"messages": []})
    agreeing = config_of("bob", user_id="bob", module_id="m", project_id="p")

    for user, config in (("alice", config_of("alice")), ("bob", agreeing)):
        scoped = memory.scope(user_id=user, module_id="m", project_id="p")
        for state in (
            await door(graph, "get_state", config),
            await door(scoped.bind(graph), "get_state", {"configurable": {"thread_id": "same"}}),
        ):
            assert [message.content for message in state.values["messages"]] == [user]
            assert state.interrupts[0].value == f"What do you say to: {user}?"


async def test_one_using_serves_many_at_once_and_leaves_none_of_them_its_scope(
    memory: IsolatedMemory,
):
    using, cache = memory.using(Scope("alice", "m")), memory.llm_cache()

    async def enter(wait: float, stay: float) -> None:
        await asyncio.sleep(wait)
        async with using:
            await asyncio.sleep(stay)
            assert await cache.alookup("prompt", "model") is None
        with pytest.raises(ScopeError):
            await cache.alookup("prompt", "model")

    await asyncio.gather(enter(0, 0.1), enter(0.05, 0.1))


async def test_a_run_without_a_scope_is_refused_and_using_gives_it_one(
    memory: IsolatedMemory, door: Door
):
    graph = asking().compile(checkpointer=memory.checkpointer())
    nameless: RunnableConfig = {"configurable": {"thread_id": "same"}}
    half: RunnableConfig = {"configurable": {"thread_id": "same", "user_id": "alice"}}
    start = {"messages": [HumanMessage("hello")]}

    for config in (nameless, half):
        for name, args in [("invoke", (start,)), ("get_state", ())]:
            with pytest.raises(ScopeError):
                await door(graph, name, *args, config)
    with memory.using(Scope("alice", "m")):
        await door(graph, "invoke", start, nameless)
        state = await door(graph, "get_state", nameless, subgraphs=True)

    async with memory.using(Scope("bob", "m")):
        assert (await door(graph, "get_state", nameless, subgraphs=True)).values == {}
    assert state.tasks[0].state.values["messages"][0].content == "hello"
    assert memory.scope(user_id="bob", module_id="m").checkpointer().threads() == []
    with pytest.raises(ScopeError):
        await door(graph, "get_state", nameless)
