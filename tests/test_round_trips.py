"""How often a graph's turn waits for PostgreSQL: every round trip is one more wait on a network."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.base import PutOp

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated.checkpointer import write_chain
from tests import served
from tests.round_trips import CountingProxy
from tests.threads import at

# After five times psycopg has the server prepare a statement, by a question of its own.
WARM_UP = 16


def turn(saver: Any, thread_id: str) -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("chat", lambda _: {"messages": [AIMessage("b")]})
    builder.add_edge(START, "chat")
    graph: Any = builder.compile(checkpointer=saver)
    graph.invoke({"messages": [HumanMessage("a")]}, at(thread_id))


def round_trips(proxy: CountingProxy, saver: Any, thread_id: str, turns: int = 1) -> int:
    before = proxy.count
    for _ in range(turns):
        turn(saver, thread_id)
    return proxy.count - before


def fewest(proxy: CountingProxy, saver: Any) -> int:
    """Of a few turns: what the machine is late with may be stored in another company, or alone."""
    return min(round_trips(proxy, saver, "thread") for _ in range(5))


@pytest.mark.skipif(served.IS_DISTRIBUTED, reason="there a write is a transaction")
def test_a_turn_of_one_node_is_four_round_trips_and_the_unencrypted_saver_takes_more(
    postgres_url: str, root_key: LocalRootKey, monkeypatch: Any
):
    # A task's writes wait for the checkpoint that follows, however busy the machine is.
    monkeypatch.setattr(write_chain, "_COMPANY_SECONDS", 20.0)
    with CountingProxy(postgres_url) as proxy:
        with IsolatedMemory(proxy.url, root_key=root_key, pool_size=1) as memory:
            saver = memory.scope(Scope("alice", "tutor")).checkpointer()
            round_trips(proxy, saver, "warm-up", WARM_UP)
            round_trips(proxy, saver, "thread")

            # The read; the input; its writes with the checkpoint behind them; the node's likewise.
            assert fewest(proxy, saver) == 4
            # The first turn of a thread, too: its row is made with the first checkpoint.
            first = [round_trips(proxy, saver, f"new {number}") for number in range(WARM_UP)]
            assert min(first) == 4
        with PostgresSaver.from_conn_string(proxy.url) as peer:
            peer.setup()
            round_trips(proxy, peer, "thread", WARM_UP)

            assert fewest(proxy, peer) >= 6


@pytest.mark.skipif(served.IS_DISTRIBUTED, reason="there a write is a transaction")
@pytest.mark.parametrize("count", [1, 100])
def test_items_that_are_put_together_are_one_round_trip(
    postgres_url: str, root_key: LocalRootKey, count: int
):
    puts = [PutOp(("facts", f"topic{n % 5}"), f"key{n}", {"level": n}) for n in range(count)]
    with (
        CountingProxy(postgres_url) as proxy,
        IsolatedMemory(proxy.url, root_key=root_key, pool_size=1) as memory,
    ):
        store = memory.scope(Scope("alice", "tutor")).store()
        for _ in range(WARM_UP):
            store.batch(puts)
        before = proxy.count

        store.batch(puts)

        assert proxy.count - before == 1
        assert len(store.search(("facts",), limit=1_000)) == count


def test_a_long_thread_that_nobody_here_knows_is_read_in_two(
    postgres_url: str, root_key: LocalRootKey
):
    with CountingProxy(postgres_url) as proxy:
        with IsolatedMemory(proxy.url, root_key=root_key, pool_size=1) as memory:
            saver = memory.scope(Scope("alice", "tutor")).checkpointer()
            round_trips(proxy, saver, "long", 20)
        with IsolatedMemory(proxy.url, root_key=root_key, pool_size=1) as memory:
            saver = memory.scope(Scope("alice", "tutor")).checkpointer()
            assert saver.get_tuple(at("another")) is None
            before = proxy.count

            found = saver.get_tuple(at("long"))

            assert found is not None
            assert len(found.checkpoint["channel_values"]["messages"]) == 40
            assert proxy.count - before == 2
            before = proxy.count
            assert saver.get_tuple(at("long"))
            assert proxy.count - before == 1
