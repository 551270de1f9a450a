"""What applications do with graphs, as steps whose outcome two checkpointers must agree on.

A scenario gets a :class:`Run`, builds its graph with the run's checkpointer, and does its steps
through the run, which notes what came of each. Ids and times are noted by the order in which they
first appear, so that two runs can be compared.
"""

import asyncio
import itertools
import operator
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, cast

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, RemoveMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.cache.memory import InMemoryCache
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, add_messages
from langgraph.types import (
    CachePolicy,
    Command,
    Interrupt,
    PregelTask,
    Send,
    StateSnapshot,
    StateUpdate,
    interrupt,
)
from typing_extensions import TypedDict

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{32}\b")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(\+00:00)?")
_SCOPE = {"user_id", "module_id"}


class Run:
    """One user's run of a scenario with one checkpointer, through either door."""

    def __init__(
        self,
        who: str,
        checkpointer: Any,
        *,
        is_async: bool,
        scope: dict[str, str] | None = None,
        using: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.who = who
        self.checkpointer = checkpointer
        self.noted: list[Any] = []
        self._is_async = is_async
        self._scope = scope or {}
        self._using = using
        self._ids: dict[str, str] = {}

    def at(self, thread_id: str, **more: Any) -> RunnableConfig:
        return {"configurable": {"thread_id": thread_id, **self._scope, **more}}

    async def invoke(self, graph: Any, value: Any, config: RunnableConfig, **options: Any) -> Any:
        return await self._do("invoke", graph, value, config, **options)

    async def stream(self, graph: Any, value: Any, config: RunnableConfig, **options: Any) -> None:
        """Notes the chunks whatever their order: parallel tasks end when they end."""

        async def chunks() -> list[Any]:
            if self._is_async:
                return [chunk async for chunk in graph.astream(value, config, **options)]
            return await asyncio.to_thread(lambda: list(graph.stream(value, config, **options)))

        found = [self._plain(chunk, blank=True) for chunk in await chunks()]
        self.noted.append(["stream", sorted(found, key=repr)])

    async def state(self, graph: Any, config: RunnableConfig, **options: Any) -> StateSnapshot:
        """The state; calls that LangGraph makes without the caller's scope get it from around."""
        with (
            self._using()
            if options or not self._scope.keys() <= config["configurable"].keys()
            else nullcontext()
        ):
            found: StateSnapshot = await self._do("get_state", graph, config, **options)
        return found

    async def history(
        self, graph: Any, config: RunnableConfig, **options: Any
    ) -> list[StateSnapshot]:
        if self._is_async:
            found = [state async for state in graph.aget_state_history(config, **options)]
        else:
            found = await asyncio.to_thread(
                lambda: list(graph.get_state_history(config, **options))
            )
        self.noted.append(["history", self._plain(found)])
        return found

    async def update(
        self, graph: Any, config: RunnableConfig, *args: Any, **options: Any
    ) -> RunnableConfig:
        found: RunnableConfig = await self._do("update_state", graph, config, *args, **options)
        return found

    async def bulk_update(self, graph: Any, config: RunnableConfig, steps: Any) -> RunnableConfig:
        found: RunnableConfig = await self._do("bulk_update_state", graph, config, steps)
        return found

    async def _do(self, name: str, graph: Any, *args: Any, **options: Any) -> Any:
        try:
            if self._is_async:
                result = await getattr(graph, f"a{name}")(*args, **options)
            else:
                result = await asyncio.to_thread(getattr(graph, name), *args, **options)
        except ScenarioError as error:
            result = error
        if isinstance(result, dict) and "__interrupt__" in result:
            # Parallel tasks ask in the order in which they come to it.
            result["__interrupt__"].sort(key=lambda found: repr(found.value))
        self.noted.append([name, self._plain(result)])
        return result

    def note(self, *values: Any) -> None:
        self.noted.append(self._plain(values))

    def _plain(self, value: Any, *, blank: bool = False) -> Any:
        """``value`` as plain data in which ids and times cannot differ."""

        def named(hit: re.Match[str]) -> str:
            return "id" if blank else self._ids.setdefault(hit[0], f"id {len(self._ids)}")

        def plain(part: Any) -> Any:
            take = next((take for kind, take in _PARTS.items() if isinstance(part, kind)), None)
            if isinstance(part, str):
                return _ID.sub(named, _TIME.sub("time", part))
            if isinstance(part, dict):
                return {plain(k): plain(v) for k, v in part.items() if k not in _SCOPE}
            if take is not None:
                return [type(part).__name__, *map(plain, take(part))]
            return part

        return plain(value)


def _fields(message: BaseMessage) -> list[Any]:
    fields = message.model_dump()
    # Given out by LangGraph, in place, perhaps after the message was stored.
    if fields["id"] is None or _ID.fullmatch(fields["id"]):
        fields["id"] = "given out"
    return [fields]


def _snapshot(state: StateSnapshot) -> Iterable[Any]:
    # Asked for a checkpoint by its id, the savers in memory and for SQLite hand back the caller's
    # config with what LangGraph put into it; the one for PostgreSQL makes its own, as ours does.
    put_in = ("metadata", "recursion_limit")
    config = {key: part for key, part in state.config.items() if key not in put_in}
    return state._replace(config=cast("RunnableConfig", config))._asdict().items()


_PARTS: dict[type, Callable[[Any], Iterable[Any]]] = {
    BaseMessage: _fields,
    BaseException: lambda error: [repr(error)],
    Interrupt: lambda found: [found.value, found.id],
    Send: lambda send: [send.node, send.arg],
    StateSnapshot: _snapshot,
    PregelTask: lambda task: task._asdict().items(),
    list: lambda items: items,
    tuple: lambda items: items,
}


class ScenarioError(Exception):
    """What a node raises on purpose."""


class Scripted(BaseChatModel):
    """A chat model that says its next line: as many as it has said are in the messages."""

    lines: list[AIMessage]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, *_: Any, **__: Any) -> "Scripted":
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        said = sum(isinstance(message, AIMessage) for message in messages)
        line = self.lines[said % len(self.lines)].model_copy(deep=True)
        return ChatResult(generations=[ChatGeneration(message=line)])


def call(name: str, call_id: str, **args: Any) -> dict[str, Any]:
    return {"name": name, "args": args, "id": call_id, "type": "tool_call"}


@tool(response_format="content_and_artifact")
def weather(city: str) -> tuple[str, dict[str, Any]]:
    """The weather."""
    return f"sunny in {city}", {"degrees": [1, {"of": [city]}], "raw": b"\x00\x01"}


@tool
def fail(why: str) -> str:
    """Always fails."""
    raise ValueError(why)


@tool
def remember(what: str) -> str:
    """Remembers."""
    return f"remembered {what}"


def agent(run: Run, **options: Any) -> Any:
    lines = [
        AIMessage(f"let me see, {run.who}", tool_calls=[
            call("weather", "c1", city=f"{run.who}town"), call("remember", "c2", what=run.who),
            call("weather", "c3", city="Oslo"),
        ]),
        AIMessage(f"sunny, {run.who}"),
        AIMessage("again", tool_calls=[call("remember", "c4", what=f"{run.who} twice")]),
        AIMessage([{"type": "text", "text": f"done for {run.who}", "annotations": []}]),
    ]  # fmt: skip
    return create_agent(
        Scripted(lines=lines),
        [weather, remember],
        checkpointer=run.checkpointer,
        system_prompt=f"You help {run.who}",
        **options,
    )


async def an_agent_with_parallel_tools(run: Run) -> None:
    graph, config = agent(run), run.at("t")
    for text in ("What is the weather?", "And again?", "Thanks"):
        await run.invoke(graph, {"messages": [HumanMessage(f"{run.who}: {text}")]}, config)
        await run.state(graph, config)
    states = await run.history(graph, config)
    for state in states[1::3]:
        # Replay from where it was, fork by an update, and go on from the fork.
        await run.invoke(graph, None, state.config)
        fork = await run.update(
            graph, state.config, {"messages": [AIMessage(f"fork of {run.who}")]}, as_node="model"
        )
        await run.invoke(graph, None, fork)
        await run.invoke(graph, {"messages": [HumanMessage("and on")]}, fork)
    await run.history(graph, config, limit=4)
    await run.history(graph, config, filter={"source": "update"})
    await run.history(graph, config, before=states[3].config)


async def a_thread_replayed_from_each_of_its_checkpoints(run: Run) -> None:
    graph, config = agent(run), run.at("t")
    for text in ("What is the weather?", "And again?"):
        await run.invoke(graph, {"messages": [HumanMessage(text)]}, config)
    for state in await run.history(graph, config):
        await run.state(graph, state.config)
        await run.invoke(graph, None, state.config)
    await run.history(graph, config)


async def an_agent_that_asks_before_it_acts(run: Run) -> None:
    middleware = HumanInTheLoopMiddleware(interrupt_on={"weather": True, "remember": True})
    graph, config = agent(run, middleware=[middleware]), run.at("t")
    await run.invoke(graph, {"messages": [HumanMessage("go")]}, config)
    await run.state(graph, config)
    edited = {"name": "remember", "args": {"what": "edited"}}
    decisions = [{"type": "approve"}, {"type": "edit", "edited_action": edited},
                 {"type": "reject", "message": f"no, {run.who}"}]  # fmt: skip
    await run.invoke(graph, Command(resume={"decisions": decisions}), config)
    await run.history(graph, config)


class Asking(TypedDict):
    answers: Annotated[list[str], operator.add]
    n: int


async def interrupts_that_are_resumed(run: Run) -> None:
    calls: Counter[str] = Counter()

    def twice(state: Asking) -> dict[str, Any]:
        calls["twice"] += 1
        first = interrupt({"to": run.who, "question": ["first", {"deep": 1}]})
        second = interrupt(f"second, after {first}")
        return {"answers": [f"{run.who} {first} {second}"]}

    def one(state: Asking) -> dict[str, Any]:
        calls["one"] += 1
        return {"answers": [f"one {interrupt('one?')}"]}

    def other(state: Asking) -> dict[str, Any]:
        calls["other"] += 1
        return {"answers": [f"other {interrupt('other?')}"], "n": state["n"] + 1}

    builder = StateGraph(Asking)
    for node in (twice, one, other):
        builder.add_node(node)
    builder.add_edge(START, "twice")
    builder.add_edge("twice", "one")
    builder.add_edge("twice", "other")
    graph = builder.compile(checkpointer=run.checkpointer)
    for thread, durability in (("a", "sync"), ("b", "async"), ("c", "exit")):
        config = run.at(thread)
        await run.invoke(graph, {"answers": ["start"], "n": 1}, config, durability=durability)
        await run.state(graph, config)
        await run.invoke(
            graph, Command(resume="yes", update={"n": 5}), config, durability=durability
        )
        await run.invoke(graph, Command(resume=["no", {"a": 1}]), config, durability=durability)
        state = await run.state(graph, config)
        resumes = {found.id: f"by id {found.value}" for found in state.interrupts}
        first = dict(list(resumes.items())[:1])
        await run.invoke(graph, Command(resume=first), config, durability=durability)
        await run.state(graph, config)
        await run.invoke(graph, Command(resume=resumes), config, durability=durability)
        run.note(calls)
        states = await run.history(graph, config)
        await run.invoke(graph, None, states[-2].config, durability=durability)
        await run.invoke(graph, Command(resume="in the past"), states[-2].config)


class Outer(TypedDict):
    log: Annotated[list[str], operator.add]
    messages: Annotated[list[AnyMessage], add_messages]


def nested(run: Run, *, keeps: bool) -> Any:
    """A graph in a graph in a graph; the innermost asks."""
    numbers = itertools.count()

    def innermost(state: Outer) -> dict[str, Any]:
        answer = interrupt(f"{run.who}?")
        return {"log": [f"inner {answer}"], "messages": [AIMessage(f"a{next(numbers)}", id="i")]}

    def before(state: Outer) -> dict[str, Any]:
        return {"log": [f"before, {len(state['messages'])} messages"]}

    def after(state: Outer) -> dict[str, Any]:
        return {"log": [f"after for {run.who}"], "messages": [AIMessage("over")]}

    inner = StateGraph(Outer)
    inner.add_node(before)
    inner.add_node("innermost", innermost)
    inner.add_edge(START, "before")
    inner.add_edge("before", "innermost")
    middle = StateGraph(Outer)
    middle.add_node("inner", inner.compile(checkpointer=True if keeps else None))
    middle.add_edge(START, "inner")
    outer = StateGraph(Outer)
    outer.add_node("middle", middle.compile())
    outer.add_node(after)
    outer.add_edge(START, "middle")
    outer.add_edge("middle", "after")
    return outer.compile(checkpointer=run.checkpointer)


def deepest(state: StateSnapshot) -> StateSnapshot:
    while any(isinstance(task.state, StateSnapshot) for task in state.tasks):
        state = next(task.state for task in state.tasks if isinstance(task.state, StateSnapshot))
    return state


async def subgraphs_that_ask(run: Run) -> None:
    for keeps in (False, True):
        graph, config = nested(run, keeps=keeps), run.at(f"keeps {keeps}")
        start = {"log": ["start"], "messages": [HumanMessage(f"I am {run.who}", id="h")]}
        for turn in range(2):
            await run.invoke(graph, start, config)
            state = await run.state(graph, config, subgraphs=True)
            shallow = await run.state(graph, config)
            await run.state(graph, shallow.tasks[0].state)
            inner = deepest(state)
            if turn:
                await run.update(graph, inner.config, {"log": [f"told by {run.who}"]})
                await run.state(graph, config, subgraphs=True)
            await run.invoke(graph, Command(resume=f"fine {turn}"), config)
            await run.state(graph, config, subgraphs=True)
        states = await run.history(graph, config)
        for past in states[2:6]:
            await run.invoke(graph, None, past.config)
            await run.state(graph, config, subgraphs=True)
        await run.stream(
            graph,
            start,
            run.at(f"streamed {keeps}"),
            subgraphs=True,
            stream_mode=["updates", "values"],
        )


class Mapped(TypedDict):
    items: list[str]
    done: Annotated[list[str], operator.add]
    messages: Annotated[list[AnyMessage], add_messages]


async def sends_that_map_and_reduce(run: Run) -> None:
    calls: Counter[str] = Counter()

    def split(state: Mapped) -> list[Send]:
        return [
            Send("work", {"item": item, "messages": state["messages"], "large": [item * 300]})
            for item in state["items"]
        ]

    def work(state: dict[str, Any]) -> Any:
        calls[state["item"]] += 1
        if state["item"].endswith("bad") and calls[state["item"]] == 1:
            # Behind the others: their writes are stored by then.
            time.sleep(0.3)
            raise ScenarioError(f"{run.who} fails once")
        return {"done": [f"{state['item']} of {run.who}"], "messages": [AIMessage(state["item"])]}

    def reduce(state: Mapped) -> Command[str]:
        more = {"messages": [AIMessage(f"all: {sorted(state['done'])}")]}
        return Command(update=more, goto=[Send("work", {"item": "late"}), "end"])

    builder = StateGraph(Mapped)
    builder.add_node("work", work)
    builder.add_node("reduce", reduce, defer=True, destinations=("work", "end"))
    builder.add_node("end", lambda _: {"done": ["end"]})
    builder.add_conditional_edges(START, split, ["work"])
    builder.add_conditional_edges(
        "work",
        lambda state: "reduce" if "end" not in state["done"] and len(state["done"]) <= 4 else END,
    )
    graph = builder.compile(checkpointer=run.checkpointer)
    for durability in ("sync", "async", "exit"):
        calls.clear()
        config = run.at(durability)
        start = {"items": ["a", "b", f"{run.who} bad", "c"], "messages": [HumanMessage(run.who)]}
        await run.invoke(graph, start, config, durability=durability)
        state = await run.state(graph, config)
        await run.invoke(graph, None, config, durability=durability)
        await run.history(graph, config)
        if durability != "exit":
            # What had succeeded was not done again.
            run.note(sorted(calls.items()))
        await run.invoke(graph, None, state.config, durability=durability)


async def messages_edited_removed_and_summarised(run: Run) -> None:
    def answer(state: MessagesState) -> dict[str, Any]:
        last = state["messages"][-1].content
        if last == "edit":
            return {"messages": [HumanMessage("edited", id="1"), AIMessage("yes", id="y")]}
        if last == "in place":
            first = state["messages"][0]
            first.additional_kwargs.setdefault("seen", []).append({"by": [run.who]})
            return {"messages": [first]}
        if last == "remove":
            return {"messages": [RemoveMessage(id="2")]}
        if last == "summarise":
            kept = state["messages"][-2:]
            return {
                "messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), AIMessage("summary"), *kept]
            }
        return {"messages": [AIMessage(f"{last} to {run.who}, {len(state['messages'])}")]}

    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    graph, config = builder.compile(checkpointer=run.checkpointer), run.at("t")
    said = ["hello", "two", "edit", "in place", "remove", "again", "summarise", "in place", "end"]
    for number, text in enumerate(said, 1):
        # "async" would store a checkpoint while the next node changes messages that stand in it.
        start = {"messages": [HumanMessage(text, id=str(number))]}
        await run.invoke(graph, start, config, durability="sync")
    states = await run.history(graph, config)
    for state in states[::5]:
        await run.update(
            graph,
            state.config,
            {"messages": [RemoveMessage(id=state.values["messages"][0].id)]},
            as_node="answer",
        )
    await run.bulk_update(graph, config, [
        [StateUpdate({"messages": [HumanMessage("bulk")]}, "answer")],
        [StateUpdate({"messages": [AIMessage(run.who)]}, "answer"),
         StateUpdate({"messages": [AIMessage("twice")]}, "answer")],
    ])  # fmt: skip
    copied = await run.update(graph, states[4].config, None, as_node="__copy__")
    await run.invoke(graph, {"messages": [HumanMessage("on the copy")]}, copied)
    await run.history(graph, config)


async def the_functional_api(run: Run) -> None:
    calls: Counter[str] = Counter()

    @task
    def square(number: int) -> dict[str, Any]:
        calls["square"] += 1
        return {"who": run.who, "square": number * number}

    @entrypoint(checkpointer=run.checkpointer)
    def flow(numbers: list[int], *, previous: Any = None) -> Any:
        squares = [future.result() for future in [square(number) for number in numbers]]
        answer = interrupt({"so far": squares})
        total = sum(one["square"] for one in squares) + (previous or 0)
        # Not a dict: LangGraph writes interrupts into it, perhaps while it is being stored.
        return entrypoint.final(value=[total, answer], save=total)

    @task
    async def asquare(number: int) -> dict[str, Any]:
        calls["square"] += 1
        return {"who": run.who, "square": number * number}

    @entrypoint(checkpointer=run.checkpointer)
    async def aflow(numbers: list[int], *, previous: Any = None) -> Any:
        squares = await asyncio.gather(*[asquare(number) for number in numbers])
        answer = interrupt({"so far": squares})
        total = sum(one["square"] for one in squares) + (previous or 0)
        # Not a dict: LangGraph writes interrupts into it, perhaps while it is being stored.
        return entrypoint.final(value=[total, answer], save=total)

    graph = aflow if run._is_async else flow
    for turn in range(3):
        await run.invoke(graph, [1, 2, turn], run.at("t"))
        await run.state(graph, run.at("t"))
        await run.invoke(graph, Command(resume=f"{run.who} {turn}"), run.at("t"))
        run.note(calls)
    await run.history(graph, run.at("t"))


async def streams_in_every_mode(run: Run) -> None:
    def talk(state: MessagesState) -> dict[str, Any]:
        get_stream_writer()({"progress": run.who})
        return {"messages": [AIMessage(f"talked to {run.who}")]}

    builder = StateGraph(MessagesState)
    builder.add_node("talk", talk)
    builder.add_node("agent", agent(Run(run.who, None, is_async=run._is_async)))
    builder.add_edge(START, "talk")
    builder.add_edge("talk", "agent")
    graph = builder.compile(checkpointer=run.checkpointer)
    modes = ["values", "updates", "messages", "custom", "checkpoints", "tasks", "debug"]
    for durability in ("sync", "async", "exit"):
        config = run.at(durability)
        for _ in range(2):
            for subgraphs in (False, True):
                options = {"stream_mode": modes, "subgraphs": subgraphs, "durability": durability}
                await run.stream(graph, {"messages": [HumanMessage("hi")]}, config, **options)
        await run.history(graph, config)


class Cached(TypedDict):
    x: int
    log: Annotated[list[str], operator.add]


async def cached_nodes(run: Run) -> None:
    calls: Counter[str] = Counter()

    def slow(state: Cached) -> dict[str, Any]:
        calls["slow"] += 1
        return {"log": [f"{run.who} {state['x']} {calls['slow']}"]}

    builder = StateGraph(Cached)
    builder.add_node("slow", slow, cache_policy=CachePolicy(key_func=lambda state: str(state["x"])))
    builder.add_node("after", lambda _: {"log": ["after"]})
    builder.add_edge(START, "slow")
    builder.add_edge("slow", "after")
    graph = builder.compile(checkpointer=run.checkpointer, cache=InMemoryCache())
    for x in (1, 2, 1, 1):
        await run.invoke(graph, {"x": x, "log": []}, run.at("t"))
        await run.stream(graph, {"x": x, "log": []}, run.at("s"), stream_mode="updates")
    run.note(calls)
    await run.history(graph, run.at("t"))


async def static_breakpoints(run: Run) -> None:
    graph, config = agent(run, interrupt_before=["tools"], interrupt_after=["model"]), run.at("t")
    await run.invoke(graph, {"messages": [HumanMessage("go")]}, config)
    for _ in range(3):
        state = await run.state(graph, config)
        await run.invoke(graph, None, config)
    await run.update(graph, config, {"messages": [HumanMessage("instead")]})
    await run.invoke(graph, None, config, durability="exit")
    run.note(state.next)
    await run.history(graph, config)


async def a_supervisor_with_agents(run: Run) -> None:
    def worker(name: str) -> Any:
        return create_agent(Scripted(lines=[
            AIMessage(f"{name} works", tool_calls=[call("remember", f"{name}1", what=run.who)]),
            AIMessage(f"{name} is done for {run.who}"),
        ]), [remember], name=name)  # fmt: skip

    def supervisor(state: MessagesState) -> Command[str]:
        said = [message.content for message in state["messages"]]
        for name in ("writer", "critic"):
            if f"{name} is done for {run.who}" not in said[-4:]:
                return Command(goto=name, update={"messages": [AIMessage(f"{name}, please")]})
        return Command(goto=END)

    builder = StateGraph(MessagesState)
    builder.add_node("supervisor", supervisor, destinations=("writer", "critic", END))
    for name in ("writer", "critic"):
        builder.add_node(name, worker(name))
        builder.add_edge(name, "supervisor")
    builder.add_edge(START, "supervisor")
    graph, config = builder.compile(checkpointer=run.checkpointer), run.at("t")
    for number in range(2):
        start = {"messages": [HumanMessage(f"{run.who} {number}")]}
        await run.invoke(graph, start, config)
        await run.state(graph, config, subgraphs=True)
    await run.history(graph, config)


Scenario = Callable[[Run], Awaitable[None]]
SCENARIOS: list[Scenario] = [
    an_agent_with_parallel_tools,
    a_thread_replayed_from_each_of_its_checkpoints,
    an_agent_that_asks_before_it_acts,
    interrupts_that_are_resumed,
    subgraphs_that_ask,
    sends_that_map_and_reduce,
    messages_edited_removed_and_summarised,
    the_functional_api,
    streams_in_every_mode,
    cached_nodes,
    static_breakpoints,
    a_supervisor_with_agents,
]
