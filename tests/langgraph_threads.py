"""Real graphs whose threads are moved in: tasks at once, subgraph, interrupt, delta channels."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from langmem_isolated.importers import ForeignThread, Rejected, Source


class Plan(BaseModel):
    """A model of the application."""

    steps: list[str]


@dataclass
class Mark:
    """A dataclass of the application."""

    points: int


ALLOW = [f"{__name__}.Plan", f"{__name__}.Mark"]


def joined(state: list[str], new: list[list[str]]) -> list[str]:
    return [*state, *itertools.chain(*new)]


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    log: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=4)]
    rarely: Annotated[list[str], DeltaChannel(joined)]
    plan: Plan
    mark: Mark
    note: str | None


def model(state: State) -> dict[str, Any]:
    calls = [
        {"name": "look", "args": {"at": n}, "id": f"c{n}-{len(state['messages'])}"}
        for n in range(2)
    ]
    answer = AIMessage("", tool_calls=calls, id=f"ai-{len(state['messages'])}")
    return {"messages": [answer], "log": ["model"], "plan": Plan(steps=["look"]), "note": None}


def to_tools(state: State) -> list[Send]:
    return [Send("tool", call) for call in state["messages"][-1].tool_calls]


def tool(call: dict[str, Any]) -> dict[str, Any]:
    result = ToolMessage(f"saw {call['args']['at']}", tool_call_id=call["id"], id=f"t{call['id']}")
    return {"messages": [result], "log": [f"tool {call['id']}"], "rarely": [call["id"]]}


def ask(state: State) -> dict[str, Any]:
    answer = interrupt({"question": f"{len(state['messages'])} messages. Go on?"})
    return {"note": str(answer), "mark": Mark(len(str(answer)))}


def end(state: State) -> dict[str, Any]:
    text = f"Done: {state['note']}"
    return {"messages": [AIMessage(text, id=f"ai-{len(state['messages'])}")], "log": ["end"]}


def graph_on(saver: BaseCheckpointSaver[Any]) -> Any:
    """Model, two tools at once, a subgraph that asks a person, and the end."""
    sub = StateGraph(State)
    sub.add_node("ask", ask)
    sub.add_edge(START, "ask")
    builder = StateGraph(State)
    builder.add_node("model", model)
    builder.add_node("tool", tool)
    builder.add_node("asking", sub.compile())
    builder.add_node("end", end)
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", to_tools, ["tool"])
    builder.add_edge("tool", "asking")
    builder.add_edge("asking", "end")
    builder.add_edge("end", END)
    return builder.compile(checkpointer=saver)


def config(thread_id: str, user: str = "alice") -> Any:
    return {"configurable": {"thread_id": thread_id, "user_id": user}}


def say(graph: Any, thread_id: str, text: str, user: str = "alice") -> Any:
    said = {"messages": [HumanMessage(text, id=f"{thread_id}-{text}")]}
    return graph.invoke(said, config(thread_id, user))


def answer(graph: Any, thread_id: str, text: str, user: str = "alice") -> Any:
    return graph.invoke(Command(resume=text), config(thread_id, user))


def fill(saver: BaseCheckpointSaver[Any]) -> Any:
    """A thread of three turns that waits for an answer, and one of another user that is done."""
    graph = graph_on(saver)
    for turn in range(2):
        say(graph, "alice-1", f"turn {turn}")
        answer(graph, "alice-1", "yes")
    say(graph, "alice-1", "turn 2")
    say(graph, "bob-1", "secret of bob", "bob")
    answer(graph, "bob-1", "no", "bob")
    return graph


def read(source: Source) -> dict[str, list[Any]]:
    """The checkpoints and rejects of every thread of a source, and its rejected threads."""
    found: dict[str, list[Any]] = {}
    for unit in source.units():
        if isinstance(unit, Rejected):
            found.setdefault("", []).append(unit)
        else:
            assert isinstance(unit, ForeignThread)
            found[unit.id] = [*unit.checkpoints]
    return found


def tuples(found: dict[str, list[Any]]) -> Iterator[CheckpointTuple]:
    """What was read, as LangGraph's savers list it."""
    for thread_id, checkpoints in found.items():
        for one in checkpoints:
            assert not isinstance(one, Rejected), one
            at = {"thread_id": thread_id, "checkpoint_ns": one.namespace}
            yield CheckpointTuple(
                {"configurable": {**at, "checkpoint_id": one.id}},
                one.checkpoint,
                one.metadata,
                {"configurable": {**at, "checkpoint_id": one.parent_id}} if one.parent_id else None,
                [(write.task_id, write.channel, write.value) for write in one.writes],
            )


def by_id(listed: Any) -> list[CheckpointTuple]:
    return sorted(listed, key=lambda one: [*one.config["configurable"].values()])
