"""What a scope has goes on in stock savers, stores and histories; nobody else's goes with it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from langgraph.types import Command

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated.errors import AddressTaken, MoveNotVerified
from langmem_isolated.importers import MovedOut, amove_out, move_out
from tests.conftest import Attacker
from tests.test_dual_write import Growing, Numbering, Theirs, approving, at, stock_saver, told


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


@pytest.fixture
def alice(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


def parent() -> Any:
    """A graph whose subgraph asks."""
    child = approving().compile()
    return StateGraph(MessagesState).add_node("child", child).add_edge(START, "child")


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
def test_a_graph_that_waits_in_a_subgraph_goes_on_at_a_stock_saver(
    memory: IsolatedMemory, alice: ScopedMemory, tmp_path: Path, postgres_url: str, kind: str
):
    ours = alice.bind(parent().compile())
    ours.invoke({"messages": ["one"]}, at("1"))
    ours.invoke(Command(resume="yes"), at("1"))
    ours.invoke({"messages": ["two"]}, at("1"))
    bob = memory.scope(user_id="bob", module_id="tutor").bind(parent().compile())
    bob.invoke({"messages": ["bob's"]}, at("1"))
    with stock_saver(kind, tmp_path, postgres_url) as saver:
        done = move_out(alice, saver, name=lambda thread_id: f"alice-{thread_id}")
        assert move_out(alice, saver, name=lambda thread_id: f"alice-{thread_id}") == done
        graph = parent().compile(checkpointer=saver)

        before = [state.values for state in graph.get_state_history(at("alice-1"))]
        assert before == [state.values for state in ours.get_state_history(at("1"))]
        graph.invoke(Command(resume="sure"), at("alice-1"))

        assert told(graph, "alice-1") == ["one", "yes: 1", "two", "sure: 3"]
        assert {one.config["configurable"]["thread_id"] for one in saver.list(None)} == {"alice-1"}
    assert (done.threads, done.checkpoints) == (1, len([*alice.checkpointer().list(None)]))
    assert told(ours, "1") == ["one", "yes: 1", "two"]


def test_a_delta_channel_is_whole_at_a_stock_saver_whose_values_are_stored_by_version(
    alice: ScopedMemory,
):
    builder = StateGraph(Growing)
    builder.add_node("a", lambda state: {"messages": [AIMessage(str(len(state["messages"])))]})
    graph = alice.bind(builder.add_edge(START, "a").compile())
    for n in range(5):
        graph.invoke({"messages": [HumanMessage(str(n))]}, at("1"))
    saver = InMemorySaver()

    move_out(alice, saver)

    moved = builder.compile(checkpointer=saver)
    states = [[m.text for m in s.values["messages"]] for s in moved.get_state_history(at("1"))]
    assert states == [
        [m.text for m in s.values["messages"]] for s in graph.get_state_history(at("1"))
    ]
    assert len(states[0]) == 10


async def test_an_asynchronous_saver_is_filled_by_its_own_methods(
    alice: ScopedMemory, tmp_path: Path
):
    await alice.bind(approving().compile()).ainvoke({"messages": ["one"]}, at("1"))
    async with AsyncSqliteSaver.from_conn_string(f"{tmp_path}/stock.db") as saver:
        assert (await amove_out(alice, saver, threads=["1"])).threads == 1
        graph = approving().compile(checkpointer=saver)
        await graph.ainvoke(Command(resume="yes"), at("1"))
        state = await graph.aget_state(at("1"))
    assert state.values["messages"][-1].text == "yes: 1"


def test_a_thread_that_somebody_else_has_there_is_neither_mixed_nor_replaced(alice: ScopedMemory):
    alice.bind(approving().compile()).invoke({"messages": ["mine"]}, at("1"))
    saver = InMemorySaver()
    approving().compile(checkpointer=saver).invoke({"messages": ["another's"]}, at("1"))

    with pytest.raises(AddressTaken):
        move_out(alice, saver)

    assert told(approving().compile(checkpointer=saver), "1") == ["another's"]


def test_a_target_that_changes_what_it_stores_is_found_out(alice: ScopedMemory):
    alice.bind(approving().compile()).invoke({"messages": ["canary"]}, at("1"))

    class Losing(InMemorySaver):
        def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
            return super().put(config, checkpoint, {**metadata, "step": 7}, new_versions)

    with pytest.raises(MoveNotVerified) as caught:
        move_out(alice, Losing())

    assert caught.value.what == "metadata"
    assert "canary" not in str(caught.value)


def test_items_go_out_by_namespaces_of_the_users_and_what_a_store_cannot_hold_is_told(
    memory: IsolatedMemory, alice: ScopedMemory
):
    alice.store().put(("facts", "school"), "level", {"n": 3})
    alice.store().put(("facts",), "when", {"at": datetime(2026, 1, 1, tzinfo=UTC)})
    alice.store().put(("facts",), "raw", {"bytes": b"not of JSON"})
    memory.scope(user_id="bob", module_id="tutor").store().put(("facts",), "b", {"n": 1})
    with SqliteStore.from_conn_string(":memory:") as store:
        store.setup()
        done = move_out(alice, store, name=lambda namespace: ("alice", *namespace))

        assert done == MovedOut(items=1, refused=("TypeError", "other value"))
        assert [(item.namespace, item.key, item.value) for item in store.search(())] == [
            (("alice", "facts", "school"), "level", {"n": 3})
        ]
    taken = InMemoryStore()
    taken.put(("facts", "school"), "level", {"n": 4})
    with pytest.raises(AddressTaken):
        move_out(alice, taken)
    assert taken.get(("facts", "school"), "level").value == {"n": 4}  # type: ignore[union-attr]


def test_a_saver_that_could_not_go_on_with_a_thread_gets_none(alice: ScopedMemory):
    alice.bind(approving().compile()).invoke({"messages": ["?"]}, at("1"))
    numbering = Numbering()

    with pytest.raises(TypeError, match="version"):
        move_out(alice, numbering)

    assert [*numbering.list(None)] == []


def test_what_goes_out_lives_here_no_longer_for_that(alice: ScopedMemory, sqlite_url: str):
    alice.store().put(("facts",), "k", {"v": 1}, ttl=10)
    attacker = Attacker(sqlite_url)
    asked = "SELECT expires_at FROM records WHERE expires_at IS NOT NULL"
    before = attacker(asked)

    move_out(alice, InMemoryStore())

    assert attacker(asked) == before
    attacker.close()


def test_a_session_goes_out_and_on(alice: ScopedMemory):
    alice.chat_history("monday").add_messages([HumanMessage("one", id="1"), AIMessage("two")])
    history = Theirs(HumanMessage("one", id="1"))

    assert move_out(alice, history, session="monday") == MovedOut(messages=2)

    assert history.messages == alice.chat_history("monday").messages
    with pytest.raises(AddressTaken):
        move_out(alice, Theirs(HumanMessage("another")), session="monday")


@pytest.mark.parametrize(
    ("to", "options"),
    [
        (InMemorySaver(), {"session": "monday"}),
        (InMemorySaver(), {"threads": "1"}),
        (Theirs(), {}),
        ({}, {}),
    ],
)
def test_what_takes_nothing_in_is_refused(alice: ScopedMemory, to: Any, options: dict[str, Any]):
    with pytest.raises(TypeError, match=r"session=|takes a saver"):
        move_out(alice, to, **options)
