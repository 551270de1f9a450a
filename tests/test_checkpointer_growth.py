"""A thread grows by what is new in it, not by its length: counted in bytes of sealed rows."""

import random
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Command, Send

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._codecs.checkpoints.layout import CHUNK_V1
from tests.conftest import Attacker
from tests.scenarios import Scripted, call, remember
from tests.threads import count, elements_in_database, size_in_database

TEXT = "said".ljust(244, ".")
TURNS = [5, 10, 20, 40]
CONFIG: RunnableConfig = {"configurable": {"thread_id": "t"}}

Builder = StateGraph[Any, Any, Any, Any]


@pytest.fixture
def scoped(sqlite_url: str, root_key: LocalRootKey) -> Iterator[ScopedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory.scope(user_id="alice", module_id="tutor")


@pytest.fixture
def rows(scoped: ScopedMemory, sqlite_url: str) -> Iterator[Attacker]:
    rows = Attacker(sqlite_url)
    yield rows
    rows.close()


def answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"{len(state['messages']):06}{TEXT}")]}


def chat() -> Builder:
    """One node that answers."""
    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    return builder


def an_agent() -> Builder:
    """Calls a tool twice before it answers."""
    lines = []
    for turn in range(TURNS[-1]):
        calls = [call("remember", f"c{n}", what=f"{turn:03} {n} {TEXT}") for n in range(2)]
        lines += [AIMessage("let me see", tool_calls=calls), AIMessage(f"{turn:06}{TEXT}")]
    builder: Builder = create_agent(Scripted(lines=lines), [remember]).builder
    return builder


def a_supervisor(worker: Any) -> Builder:
    """Hands each question to a graph in the graph."""
    builder = StateGraph(MessagesState)
    builder.add_node("supervisor", lambda _: Command(goto="worker"), destinations=("worker",))
    builder.add_node("worker", worker)
    builder.add_edge(START, "supervisor")
    return builder


def a_supervisor_with_an_agent() -> Builder:
    return a_supervisor(an_agent().compile())


def a_supervisor_with_an_agent_that_remembers() -> Builder:
    return a_supervisor(an_agent().compile(checkpointer=True))


def one_that_sends_all_that_was_said_to_three() -> Builder:
    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_conditional_edges(
        START, lambda state: [Send("answer", {**state, "n": n}) for n in range(3)], ["answer"]
    )
    return builder


def eight_that_work_at_once() -> Builder:
    """They end in another order than they began, and so do the numbers of what they say."""
    chance = random.Random(1)

    def work(state: dict[str, Any]) -> dict[str, Any]:
        time.sleep(chance.random() / 500)
        return {"messages": [AIMessage(f"{state['n']} {TEXT}")]}

    builder = StateGraph(MessagesState)
    builder.add_node("work", work)
    builder.add_conditional_edges(
        START, lambda _: [Send("work", {"n": n}) for n in range(8)], ["work"]
    )
    return builder


GRAPHS = [
    chat,
    eight_that_work_at_once,
    an_agent,
    a_supervisor_with_an_agent,
    a_supervisor_with_an_agent_that_remembers,
    one_that_sends_all_that_was_said_to_three,
]


@pytest.mark.parametrize("durability", ["async", "exit"])
@pytest.mark.parametrize("build", GRAPHS)
def test_twice_the_turns_take_twice_the_bytes_and_each_message_stands_once(
    scoped: ScopedMemory, build: Callable[[], Builder], durability: Any
):
    graph, saver = scoped.bind(build().compile()), scoped.checkpointer()
    sizes = []
    for turn in range(1, TURNS[-1] + 1):
        question = HumanMessage(f"{turn:06}{TEXT}")
        graph.invoke({"messages": [question]}, CONFIG, durability=durability)
        if turn in TURNS:
            sizes.append(saver.thread_size("t"))

    assert sizes[-1] == size_in_database(saver, "t")
    assert all(twice <= 2.2 * once for once, twice in pairwise(sizes))
    elements = elements_in_database(saver, "t")
    chunks = [plaintext for plaintext in elements if plaintext.startswith(CHUNK_V1)]
    said = len(graph.get_state(CONFIG).values["messages"])
    assert len(elements) - len(chunks) == said
    assert len(chunks) <= said / 64


def test_a_summary_stores_nothing_anew_of_what_it_keeps(scoped: ScopedMemory, rows: Attacker):
    def answer_or_summarise(state: MessagesState) -> dict[str, Any]:
        if len(state["messages"]) < 20:
            return answer(state)
        gone = RemoveMessage(id=REMOVE_ALL_MESSAGES)
        return {"messages": [gone, AIMessage(f"All that was {TEXT}"), *state["messages"][-4:]]}

    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer_or_summarise)
    builder.add_edge(START, "answer")
    graph = scoped.bind(builder.compile())
    for turn in range(30):
        graph.invoke({"messages": [HumanMessage(f"{turn:06}{TEXT}")]}, CONFIG)

    # A question and an answer or a summary for each turn, what removed all before a summary, and
    # the summary as the node wrote it, unless LangGraph gave it its id before that was stored.
    assert count(rows) in (2 * 30 + 1, 2 * 30 + 2)


def test_a_turn_that_says_little_costs_little_in_a_long_thread(scoped: ScopedMemory):
    graph, saver = scoped.bind(chat().compile()), scoped.checkpointer()
    start = [HumanMessage(f"{number:06}{TEXT}") for number in range(1000)]
    graph.invoke({"messages": start}, CONFIG)
    before = saver.thread_size("t")

    for _ in range(10):
        graph.invoke({"messages": [HumanMessage("and?")]}, CONFIG)

    assert before > 250_000
    assert (saver.thread_size("t") - before) / 10 < 3_000
