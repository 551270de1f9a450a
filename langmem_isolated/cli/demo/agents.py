"""Lets a LangGraph agent with a tool talk to two users who send the same thread id."""

import itertools
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from langmem_isolated.cli.demo.conversations import Place
from langmem_isolated.cli.demo.sections import Run, Section
from langmem_isolated.cli.terminal import cell, table
from langmem_isolated.scoped_memory import ScopedMemory

TURNS = 20


@tool
def count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


def _model(state: MessagesState) -> dict[str, Any]:
    """An offline model: has the tool count what was said, then says the result."""
    last = state["messages"][-1]
    if isinstance(last, ToolMessage):
        return {"messages": [AIMessage(f"You said {last.text} words.", id=str(uuid4()))]}
    call = {"name": count_words.name, "args": {"text": last.text}, "id": str(uuid4())}
    return {"messages": [AIMessage("", tool_calls=[call], id=str(uuid4()))]}


def _agent() -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(MessagesState)
    builder.add_node("model", _model)
    builder.add_node("tools", ToolNode([count_words]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder


def an_agent_with_tools(run: Run) -> Section:
    """The same turns by two users, with our checkpointer and with one that goes by thread id."""
    places, config = run.two_users(), {"configurable": {"thread_id": f"demo-{uuid4()}"}}
    said = {place: _questions(run, place) for place in places}
    stock, alone = InMemorySaver(), InMemorySaver()
    shared = _agent().compile(checkpointer=stock)
    scoped = {place: run.memory.scope(place.scope) for place in places}
    heard = {
        place: _talk(scoped[place].bind(_agent().compile()), said[place], config)
        for place in places
    }
    leaked = {place: _talk(shared, said[place], config) for place in places}
    _talk(_agent().compile(checkpointer=alone), said[places[0]], config)
    size = scoped[places[0]].checkpointer().thread_size(config["configurable"]["thread_id"])
    _remove(scoped, config)
    return Section(
        "A LangGraph agent with a tool, two users, one thread id",
        [_shown(said, heard, leaked), _sizes(size, _bytes_of(alone))],
        {
            f"each of {len(places)} users' threads holds what this user said, and nothing else": (
                heard == said
            ),
            "with a thread id alone the second user's thread holds what the first one said": (
                leaked[places[1]] == said[places[0]] + said[places[1]]
            ),
            "sealed in the database, a thread takes less than in LangGraph's in-memory saver": (
                size < _bytes_of(alone)
            ),
        },
    )


def _questions(run: Run, place: Place) -> list[str]:
    """What this user said, over and over until there are enough turns; a greeting without that."""
    messages = next(c.messages for c in run.conversations if c.place == place)
    texts = [str(m.text) for m in messages if isinstance(m, HumanMessage) and m.text]
    return list(itertools.islice(itertools.cycle(texts or ["Hello!"]), TURNS))


def _talk(graph: Any, texts: list[str], config: dict[str, Any]) -> list[str]:
    """What the thread holds of human messages after the last turn."""
    for text in texts:
        graph.invoke({"messages": [HumanMessage(text)]}, config)
    messages = graph.get_state(config).values["messages"]
    return [str(message.text) for message in messages if isinstance(message, HumanMessage)]


def _remove(scoped: dict[Place, ScopedMemory], config: dict[str, Any]) -> None:
    for memory in scoped.values():
        memory.checkpointer().delete_thread(config["configurable"]["thread_id"])


def _bytes_of(saver: InMemorySaver) -> int:
    """What LangGraph's serializer made of everything that the saver keeps."""
    blobs = sum(len(packed) for _, packed in saver.blobs.values())
    writes = sum(len(w[2][1]) for behind in saver.writes.values() for w in behind.values())
    checkpoints = [c for by_namespace in saver.storage.values() for c in by_namespace.values()]
    stored = (entry for by_id in checkpoints for entry in by_id.values())
    return blobs + writes + sum(len(c[1]) + len(metadata[1]) for c, metadata, _ in stored)


def _shown(
    said: dict[Place, list[str]], heard: dict[Place, list[str]], leaked: dict[Place, list[str]]
) -> Any:
    shown = table("user", "messages said", "in the thread, ours", "by thread id alone")
    for place, texts in said.items():
        counts = (len(texts), len(heard[place]), len(leaked[place]))
        shown.add_row(cell(place.scope.user_id), *map(str, counts))
    return shown


def _sizes(ours: int, stock: int) -> Any:
    shown = table("saver", f"bytes of one thread after {TURNS} turns")
    shown.add_row("this package, sealed", f"{ours:,}")
    shown.add_row("LangGraph's in-memory saver, serialized", f"{stock:,}")
    return shown
