"""A graph for tests of servers: stores, waits, asks and answers as the last message says."""

import asyncio

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.config import get_store
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt


async def hear(state: MessagesState) -> dict:
    text = state["messages"][-1].text
    store = get_store()
    await store.aput(("heard",), text.replace(" ", "-"), {"text": text})
    if text.startswith("wait"):
        await asyncio.sleep(30)
    heard = [message.text for message in state["messages"] if isinstance(message, HumanMessage)]
    kept = [item.value["text"] for item in await store.asearch(("heard",), limit=100)]
    return {"messages": [AIMessage(f"heard {heard}, kept {sorted(kept)}")]}


def ask(state: MessagesState) -> dict:
    # In a thread, and in a subgraph.
    get_store().put(("asked",), "last", {"text": state["messages"][0].text})
    if not state["messages"][-2].text.startswith("ask"):
        return {"messages": []}
    return {"messages": [AIMessage(f"was told {interrupt('Really?')}")]}


asking = StateGraph(MessagesState)
asking.add_node("ask", ask)
asking.add_edge(START, "ask")

hearing = StateGraph(MessagesState)
hearing.add_node("hear", hear)
hearing.add_node("asking", asking.compile())
hearing.add_edge(START, "hear")
hearing.add_edge("hear", "asking")

graph = hearing.compile()
