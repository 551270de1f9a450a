"""Turns of a graph, and processes that take them in one thread until they are killed."""

import itertools
import operator
from multiprocessing.connection import Connection
from typing import Annotated, Any

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from tests.promises.writers import ROOT_KEY
from tests.threads import at

CONFIG: RunnableConfig = at("shared")
KEPT = 5


class Notes(MessagesState):
    notes: Annotated[list[str], operator.add]


def _think(state: Notes) -> dict[str, Any]:
    return {"notes": [f"note on {state['messages'][-1].content} {'x' * 200}"]}


def _answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"answer to {state['messages'][-1].content}")]}


def talk() -> Any:
    """A graph whose turn has a call of a subgraph, a note and an answer; to be bound."""
    inner = StateGraph(MessagesState)
    inner.add_node("answer", _answer)
    inner.add_edge(START, "answer")
    outer = StateGraph(Notes)
    outer.add_node("think", _think)
    outer.add_node("agent", inner.compile())
    outer.add_edge(START, "think")
    outer.add_edge("think", "agent")
    return outer.compile()


def the_saver(memory: IsolatedMemory) -> IsolatedCheckpointSaver:
    return memory.scope(user_id="alice", module_id="tutor").checkpointer()


def the_graph(memory: IsolatedMemory) -> Any:
    return memory.scope(user_id="alice", module_id="tutor").bind(talk())


def turns_in(values: dict[str, Any]) -> list[str]:
    """What was asked, each time with its answer and note behind it; a last one may lack them."""
    texts = [message.content for message in values.get("messages", [])]
    asked = texts[::2]
    assert texts[1::2] in ([f"answer to {text}" for text in asked[:n]] for n in _all_but_one(asked))
    assert values.get("notes", []) in (
        [f"note on {text} {'x' * 200}" for text in asked[:n]] for n in _all_but_one(asked)
    )
    return asked


def _all_but_one(asked: list[str]) -> range:
    return range(max(0, len(asked) - 1), len(asked) + 1)


def take_turns(
    acknowledged: Connection, url: str, name: str, limit: int | None, options: dict[str, Any]
) -> None:
    """Turn after turn, and every few of them what came before is pruned."""
    memory = IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), **options)
    graph = the_graph(memory)
    for number in itertools.count() if limit is None else range(limit):
        graph.invoke({"messages": [HumanMessage(f"{name} {number}")]}, CONFIG)
        acknowledged.send_bytes(str(number).encode())
        if number % KEPT == KEPT - 1:
            the_saver(memory).prune(["shared"], keep_last=KEPT)
    memory.close()
