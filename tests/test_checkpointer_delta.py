"""Delta channels, which are rebuilt from the writes of a checkpoint's ancestors."""

import itertools
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.channels.ephemeral_value import EphemeralValue
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.pregel._messages import _messages_delta_reducer
from langgraph.types import Overwrite
from typing_extensions import TypedDict

from langmem_isolated import IsolatedMemory, ScopedMemory
from langmem_isolated._database.transactions import Transaction
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from tests.conftest import Door
from tests.threads import (
    ALLOWED,
    at,
    put,
    same,
)


@pytest.fixture
def scoped(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


@pytest.fixture
def saver(scoped: ScopedMemory) -> IsolatedCheckpointSaver:
    return scoped.checkpointer(allow=ALLOWED)


def joined(state: list[str], new: list[list[str]]) -> list[str]:
    return [*state, *itertools.chain(*new)]


class DeltaState(TypedDict):
    messages: Annotated[
        list[AnyMessage], DeltaChannel(_messages_delta_reducer, snapshot_frequency=4)
    ]
    seldom: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=1)]
    never: Annotated[list[str], DeltaChannel(joined)]


class Tee(InMemorySaver):
    """Stores in memory, and everything alike in ours: what both give can be compared in full."""

    def __init__(self, ours: IsolatedCheckpointSaver) -> None:
        super().__init__()
        self.ours = ours

    def put(self, *args: Any) -> RunnableConfig:
        self.ours.put(*args)
        return super().put(*args)

    def put_writes(self, *args: Any) -> None:
        self.ours.put_writes(*args)
        super().put_writes(*args)

    def compare(self, graph: Any) -> int:
        """That states and histories agree; how many writes the longest history has."""
        channels = ["messages", "seldom", "never", "unknown"]
        ours, longest = graph.copy({"checkpointer": self.ours}), 0
        for state in graph.get_state_history(at("t")):
            assert same(ours.get_state(state.config).values, state.values)
            found = self.ours.get_delta_channel_history(config=state.config, channels=channels)
            # The walk of one query for each ancestor, that savers without their own have.
            walked = BaseCheckpointSaver.get_delta_channel_history(
                self.ours, config=state.config, channels=channels
            )
            assert same(dict(found), dict(walked))
            longest = max(longest, len(found["messages"]["writes"]))
        return longest


def delta_graph(checkpointer: Any) -> Any:
    numbers = itertools.count()

    def answer(state: DeltaState) -> dict[str, Any]:
        number = next(numbers)
        update: dict[str, Any] = {"messages": [AIMessage(f"answer {number}", id=f"a{number}")]}
        if number % 5 == 0:
            update["seldom"] = [str(number)]
        return update

    builder = StateGraph(DeltaState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    return builder.compile(checkpointer=checkpointer)


def say(graph: Any, config: RunnableConfig, *texts: str, **options: Any) -> None:
    for text in texts:
        graph.invoke({"messages": [HumanMessage(text, id=text)]}, config, **options)


def texts_of(state: Any) -> list[str]:
    return [message.content for message in state.values.get("messages", [])]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_delta_channels_are_rebuilt_as_the_saver_in_memory_rebuilds_them(
    saver: IsolatedCheckpointSaver, durability: str
):
    tee = Tee(saver)
    graph = delta_graph(tee)
    say(graph, at("t"), *(f"q{number}" for number in range(5)), durability=durability)
    assert 2 <= tee.compare(graph) <= 8

    history = list(graph.get_state_history(at("t")))
    for state in (history[2], history[-2]):
        # A branch by a run, one by an update, and one from a branch.
        say(graph, state.config, f"fork of {state.config}", durability=durability)
        branch = graph.update_state(state.config, {"messages": [HumanMessage("told", id="told")]})
        say(graph, branch, "on the branch", durability=durability)
    assert 2 <= tee.compare(graph) <= 8
    assert len({*map(tuple, map(texts_of, graph.get_state_history(at("t"))))}) > 8


@pytest.mark.parametrize("durability", ["sync", "exit"])
@pytest.mark.parametrize("keep_last", [1, 3])
def test_prune_keeps_what_delta_channels_are_rebuilt_from(
    saver: IsolatedCheckpointSaver, durability: str, keep_last: int
):
    graph = delta_graph(saver)
    for number in range(13):
        say(graph, at("t"), f"q{number}", durability=durability)
        kept = list(graph.get_state_history(at("t")))[:keep_last]

        saver.prune(["t"], keep_last=keep_last)

        assert [graph.get_state(state.config).values for state in kept] == [
            state.values for state in kept
        ]
        saver.verify_thread("t")
    assert len(texts_of(graph.get_state(at("t")))) == 26
    # The channel that was never written does not hold on to all of the past.
    assert len(list(saver.list(at("t")))) <= 3 * 5 + keep_last


def test_a_copied_thread_has_its_delta_channels(saver: IsolatedCheckpointSaver):
    graph = delta_graph(saver)
    say(graph, at("t"), *"abcdefg")

    saver.copy_thread("t", "copy")
    saver.delete_thread("t")

    assert texts_of(graph.get_state(at("copy")))[::2] == [*"abcdefg"]
    say(graph, at("copy"), "h")
    assert len(texts_of(graph.get_state(at("copy")))) == 16


async def test_a_history_takes_a_few_queries_not_one_for_each_ancestor(
    saver: IsolatedCheckpointSaver, door: Door, monkeypatch: pytest.MonkeyPatch
):
    config = at("t")
    for number in range(90):
        config = put(saver, config, {"other": [f"{number} {'x' * 200}"]})
        saver.put_writes(config, [("delta", HumanMessage(str(number), id=str(number)))], "task")
    asked: list[object] = []
    for name in ("row", "rows"):
        ask = getattr(Transaction, name)

        def counted(self: Any, *args: Any, ask: Any = ask, **values: Any) -> Any:
            asked.append(args)
            return ask(self, *args, **values)

        monkeypatch.setattr(Transaction, name, counted)

    found = await door(saver, "get_delta_channel_history", config=at("t"), channels=["delta"])

    assert [write[2].content for write in found["delta"]["writes"]] == [*map(str, range(89))]
    assert len(asked) <= 6


async def test_a_history_of_no_channels_or_no_thread_is_empty(
    saver: IsolatedCheckpointSaver, door: Door
):
    name = "get_delta_channel_history"
    assert await door(saver, name, config=at("t"), channels=["a"]) == {"a": {"writes": []}}
    config = put(saver, put(saver, at("t"), {"a": 1}), {"a": 2})
    assert await door(saver, name, config=config, channels=[]) == {}
    assert await door(saver, name, config=config, channels=["a", "b"]) == {
        "a": {"writes": [], "seed": 1}, "b": {"writes": []}
    }  # fmt: skip
    other = at("t", str(uuid6()))
    assert await door(saver, name, config=other, channels=["a"]) == {"a": {"writes": []}}


@pytest.mark.parametrize("last", ["invoke", "update", "overwrite"])
async def test_the_values_of_a_thread_are_told_without_its_graph(
    saver: IsolatedCheckpointSaver, door: Door, last: str
):
    graph = delta_graph(saver)
    say(graph, at("t"), *"abcdef")
    graph.update_state(at("t"), {"messages": [RemoveMessage("c")], "never": ["one"]})
    if last == "update":
        graph.update_state(at("t"), {"never": ["two"], "messages": [HumanMessage("B", id="b")]})
    elif last == "overwrite":
        graph.update_state(at("t"), {"never": Overwrite(["three"])})
    else:
        say(graph, at("t"), "g")

    values = await door(saver, "thread_values", "t")

    names = ("messages", "seldom", "never")
    assert same({name: values[name] for name in names}, graph.get_state(at("t")).values)
    assert await door(saver, "thread_values", "unknown") == {}


def test_of_values_without_a_graph_nothing_is_left_out(saver: IsolatedCheckpointSaver):
    """What no reducer is known of is told as it was written; empty channels are no deltas."""

    class State(TypedDict, total=False):
        facts: Annotated[dict[str, str], DeltaChannel(merged, dict)]
        talk: Annotated[list[AnyMessage], DeltaChannel(_messages_delta_reducer)]
        messages: Annotated[list[Any], DeltaChannel(joined)]
        passing: Annotated[str, EphemeralValue]

    def think(state: State) -> Any:
        last = state["passing"]
        return {
            "facts": {last: "x"},
            "talk": [AIMessage(last, id="1")],
            "messages": [{"day": last}],
        }

    graph = StateGraph(State).add_node("think", think).add_edge(START, "think").compile(saver)
    for text in ("a", "b"):
        graph.invoke({"passing": text}, at("t"))

    values = saver.thread_values("t")

    assert {name: value for name, value in values.items() if "__" not in name} == {
        "facts": [{"a": "x"}, {"b": "x"}],
        "talk": [AIMessage("b", id="1")],
        "messages": [{"day": "a"}, {"day": "b"}],
    }


def merged(state: dict[str, str], new: list[dict[str, str]]) -> dict[str, str]:
    return {name: value for one in (state, *new) for name, value in one.items()}
