"""A dual write: both sides are written, theirs answers till the switch, nobody gets in by it."""

import asyncio
import copy
import itertools
import operator
import pickle
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.pregel._messages import _messages_delta_reducer
from langgraph.store.base import GetOp, Op, Result
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from langmem_isolated import (
    IsolatedCheckpointSaver,
    IsolatedMemory,
    IsolatedStore,
    LocalRootKey,
    Scope,
    ScopedMemory,
)
from langmem_isolated.errors import IsolationViolation, ScopeError, UserWasErased
from langmem_isolated.importers import Difference, Import, Mapping, dual_write
from langmem_isolated.importers.dual_writing import DualCheckpointSaver
from langmem_isolated.importers.langgraph.sqlite_saver import SqliteSaverSource
from tests.conftest import Door, Wait

_numbers = itertools.count()


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Any:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


@pytest.fixture
def alice(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


def owned(scope: Scope, unit: str) -> bool:
    """Ids as an application may have them, with their user in front."""
    return unit.partition("-")[0] == scope.user_id


def at(thread_id: str, **named: str) -> Any:
    return {"configurable": {"thread_id": thread_id, **named}}


def approving() -> Any:
    """A graph that says how many messages it has seen, and asks before each answer."""

    def answer(state: MessagesState) -> dict[str, Any]:
        word = interrupt("Go on?")
        return {"messages": [AIMessage(f"{word}: {len(state['messages'])}")]}

    return StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer")


def told(graph: Any, thread_id: str) -> list[str]:
    return [message.text for message in graph.get_state(at(thread_id)).values["messages"]]


class Theirs(BaseChatMessageHistory):
    """A history as applications write their own."""

    def __init__(self, *messages: BaseMessage) -> None:
        self.messages = [*messages]

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        self.messages += messages

    def clear(self) -> None:
        self.messages = []


class Failing:
    """A side of a pair of which some methods fail."""

    def __init__(self, side: Any, *names: str) -> None:
        self._side, self._names = side, names

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> Any:
            raise OSError("canary-in-an-error")

        for name in self._names:
            monkeypatch.setattr(self._side, name, refuse)


# Nobody gets in by it -----------------------------------------------------------------------------


def test_a_thread_of_another_user_is_neither_handed_out_nor_copied(
    memory: IsolatedMemory, alice: ScopedMemory
):
    """A stock saver gives any thread to whoever names it; a copy would make that last."""
    theirs = InMemorySaver()
    approving().compile(checkpointer=theirs).invoke({"messages": ["secret"]}, at("alice-1"))
    bob = memory.scope(user_id="bob", module_id="tutor")
    saver = dual_write(theirs, bob.checkpointer(), backfill=owned)

    for attempt in (
        lambda: saver.get_tuple(at("alice-1")),
        lambda: [*saver.list(at("alice-1"))],
        lambda: approving().compile(checkpointer=saver).invoke(Command(resume="x"), at("alice-1")),
    ):
        with pytest.raises(IsolationViolation) as caught:
            attempt()
        assert "alice" not in str(caught.value)
    assert bob.checkpointer().threads() == []

    alices = dual_write(theirs, alice.checkpointer(), backfill=owned)
    assert alices.get_tuple(at("alice-1")) is not None
    assert [thread.id for thread in alice.checkpointer().threads()] == ["alice-1"]


def test_an_item_of_another_user_is_neither_handed_out_nor_copied(memory: IsolatedMemory):
    theirs = InMemoryStore()
    theirs.put(("alice-facts",), "school", {"level": 3})
    bob = memory.scope(user_id="bob", module_id="tutor")
    store = dual_write(theirs, bob.store(), backfill=owned)

    with pytest.raises(IsolationViolation):
        store.get(("alice-facts",), "school")

    assert bob.store().search(()) == []


def test_a_thread_that_another_user_begins_later_is_not_handed_out(
    memory: IsolatedMemory, alice: ScopedMemory
):
    """Who has looked for an id when nobody had it, or has had it before, gets nothing by it."""
    theirs, owners = InMemorySaver(), {"t": "bob"}
    bob = memory.scope(user_id="bob", module_id="tutor")
    mine, others = (
        dual_write(
            theirs,
            scope.checkpointer(),
            backfill=lambda scope, unit: owners.get(unit) == scope.user_id,
            compare=False,
        )
        for scope in (alice, bob)
    )
    approving().compile(checkpointer=others).invoke({"messages": ["bob's"]}, at("t"))
    others.delete_thread("t")
    assert others.get_tuple(at("t")) is None

    owners["t"] = "alice"
    approving().compile(checkpointer=mine).invoke({"messages": ["secret"]}, at("t"))
    with pytest.raises(IsolationViolation):
        others.get_tuple(at("t"))


def test_a_thread_of_another_user_is_neither_deleted_nor_written_over(
    memory: IsolatedMemory, alice: ScopedMemory
):
    theirs = InMemorySaver()
    approving().compile(checkpointer=theirs).invoke({"messages": ["secret"]}, at("alice-1"))
    bob = memory.scope(user_id="bob", module_id="tutor")
    saver = dual_write(theirs, bob.checkpointer(), backfill=owned)

    for attempt in (
        lambda: saver.delete_thread("alice-1"),
        lambda: saver.copy_thread("bob-1", "alice-1"),
    ):
        with pytest.raises(IsolationViolation):
            attempt()
    assert theirs.get_tuple(at("alice-1")) is not None

    dual_write(theirs, alice.checkpointer(), backfill=owned).delete_thread("alice-1")
    assert theirs.get_tuple(at("alice-1")) is None


def test_an_item_of_another_user_is_neither_replaced_nor_deleted(memory: IsolatedMemory):
    theirs = InMemoryStore()
    theirs.put(("alice-facts",), "school", {"level": 3})
    bob = memory.scope(user_id="bob", module_id="tutor")
    store = dual_write(theirs, bob.store(), backfill=owned)

    with pytest.raises(IsolationViolation):
        store.put(("alice-facts",), "school", {"level": 0})
    with pytest.raises(IsolationViolation):
        store.delete(("alice-facts",), "school")
    store.put(("bob-facts",), "school", {"level": 1})

    assert theirs.get(("alice-facts",), "school").value == {"level": 3}
    assert [item.namespace for item in bob.store().search(())] == [("bob-facts",)]


def test_a_subgraph_that_is_there_alone_is_not_handed_out_either(memory: IsolatedMemory):
    """A graph that ends its subgraph's writes first may be killed before its own."""
    theirs, inside = InMemorySaver(), at("alice-1", checkpoint_ns="sub")
    checkpoint = empty_checkpoint()
    theirs.put(inside, checkpoint, {}, {})
    bob = memory.scope(user_id="bob", module_id="tutor")

    with pytest.raises(IsolationViolation):
        dual_write(theirs, bob.checkpointer(), backfill=owned).get_tuple(inside)


def test_an_outage_of_ours_lets_nobody_in(memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch):
    saver, store = InMemorySaver(), InMemoryStore()
    approving().compile(checkpointer=saver).invoke({"messages": ["secret"]}, at("alice-1"))
    store.put(("alice-1",), "k", {"v": "secret"})
    bob = memory.scope(user_id="bob", module_id="tutor")
    threads = dual_write(saver, bob.checkpointer(), backfill=owned)
    items = dual_write(store, bob.store(), backfill=owned)
    Failing(IsolatedCheckpointSaver, "get_tuple").install(monkeypatch)
    Failing(IsolatedStore, "batch").install(monkeypatch)

    with pytest.raises(IsolationViolation):
        threads.get_tuple(at("alice-1"))
    with pytest.raises(IsolationViolation):
        items.get(("alice-1",), "k")


def test_an_item_that_another_user_puts_later_is_not_handed_out(
    memory: IsolatedMemory, alice: ScopedMemory
):
    theirs = InMemoryStore()
    bob = memory.scope(user_id="bob", module_id="tutor")
    mine, others = (dual_write(theirs, one.store(), backfill=owned) for one in (alice, bob))
    assert others.get(("alice-1",), "k") is None

    mine.put(("alice-1",), "k", {"v": "secret"})

    with pytest.raises(IsolationViolation):
        others.get(("alice-1",), "k")


def test_a_call_without_a_scope_is_refused_before_either_side_is_asked(memory: IsolatedMemory):
    theirs, items = InMemorySaver(), InMemoryStore()
    saver = dual_write(theirs, memory.checkpointer())
    store = dual_write(items, memory.store())
    graph = approving().compile(checkpointer=saver)

    with pytest.raises(ScopeError):
        graph.invoke({"messages": ["hi"]}, at("1"))
    with pytest.raises(ScopeError):
        store.put(("facts",), "a", {"b": 1})

    assert [*theirs.list(None)] == []
    assert items.search(()) == []
    assert saver.report.failures == {}


def test_what_theirs_has_yet_of_an_erased_user_stays_out_and_who_comes_back_is_new(
    memory: IsolatedMemory, alice: ScopedMemory
):
    theirs, history = InMemorySaver(), Theirs()
    approving().compile(checkpointer=theirs).invoke({"messages": ["old"]}, at("alice-1"))
    history.add_user_message("old")
    alice.chat_history("known").add_user_message("hi")
    memory.erase_user("alice")
    again = memory.scope(user_id="alice", module_id="tutor")

    saver = dual_write(theirs, again.checkpointer(), backfill=owned)
    with pytest.raises(UserWasErased):
        saver.get_tuple(at("alice-1"))
    with pytest.raises(UserWasErased):
        dual_write(history, again.chat_history("s"), backfill=True).add_user_message("more")
    assert len(history.messages) == 1
    assert again.checkpointer().threads() == []

    graph = approving().compile(checkpointer=saver)
    graph.invoke({"messages": ["new"]}, at("alice-2"))
    assert [thread.id for thread in again.checkpointer().threads()] == ["alice-2"]


def test_scopes_found_by_config_survive_configs_that_the_other_saver_made(memory: IsolatedMemory):
    """Stock savers forget user and module, so a state's own config would lead nowhere."""
    saver = dual_write(InMemorySaver(), memory.checkpointer())
    graph = approving().compile(checkpointer=saver)
    config = at("1", user_id="alice", module_id="tutor")

    graph.invoke({"messages": ["hi"]}, config)
    states = [*graph.get_state_history(config)]
    graph.invoke(Command(resume="yes"), config)

    for state in states:
        assert graph.get_state(state.config).values == state.values
    graph.update_state(graph.get_state(config).config, {"messages": ["by hand"]})
    assert graph.get_state(config).values["messages"][-1].text == "by hand"
    assert saver.report.is_clean, saver.report
    assert [t.id for t in memory.scope(user_id="alice", module_id="tutor").checkpointer().threads()]


# Checkpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["theirs", "ours"])
async def test_the_conformance_suite_passes_on_a_pair(memory: IsolatedMemory, side: Any):
    reports = []

    @checkpointer_test(name="DualCheckpointSaver")
    async def pair() -> AsyncIterator[DualCheckpointSaver]:
        scope = memory.scope(user_id=f"u{next(_numbers)}", module_id="m")
        # Who answers has all capabilities, the other one some.
        others = memory.scope(user_id=f"u{next(_numbers)}", module_id="m").checkpointer()
        saver = dual_write(others if side == "theirs" else InMemorySaver(), scope.checkpointer())
        saver.read_from = side
        yield saver
        reports.append(saver.report)

    report = await validate(pair)

    assert report.passed_all()
    assert all(result.detected for result in report.results.values())
    if side == "theirs":
        assert all(one.is_clean for one in reports), reports


@contextmanager
def stock_saver(kind: str, tmp_path: Path, postgres_url: str) -> Iterator[Any]:
    """A saver of LangGraph's own, with its tables."""
    if kind == "memory":
        yield InMemorySaver()
    elif kind == "sqlite":
        with SqliteSaver.from_conn_string(f"{tmp_path}/stock.db") as saver:
            yield saver
    else:
        with PostgresSaver.from_conn_string(postgres_url) as saver:
            saver.setup()
            yield saver


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_graph_waits_at_theirs_and_goes_on_at_ours_after_the_switch(
    tmp_path: Path, alice: ScopedMemory, postgres_url: str, kind: str
):
    with stock_saver(kind, tmp_path, postgres_url) as theirs:
        old = approving().compile(checkpointer=theirs)
        old.invoke({"messages": [HumanMessage("one", id="1")]}, at("alice-1"))
        saver = dual_write(theirs, alice.checkpointer(), backfill=owned)
        graph = approving().compile(checkpointer=saver)
        graph.invoke(Command(resume="yes"), at("alice-1"))
        graph.invoke({"messages": [HumanMessage("two", id="2")]}, at("alice-1"))
        assert saver.report.is_clean
        assert saver.report.copied == 1

        saver.read_from = "ours"
        graph.invoke(Command(resume="of course"), at("alice-1"))
        expected = ["one", "yes: 1", "two", "of course: 3"]
        assert told(graph, "alice-1") == expected == told(old, "alice-1")
        assert saver.report.is_clean

    # Theirs is closed: whoever calls it now fails.
    saver.stop_writing_theirs()
    alone = approving().compile(checkpointer=alice.checkpointer())
    graph.invoke({"messages": ["three"]}, at("alice-1"))
    alone.invoke(Command(resume="no"), at("alice-1"))
    assert told(alone, "alice-1") == [*expected, "three", "no: 5"]
    assert saver.report.failures == {}


async def test_asynchronous_savers_are_written_by_their_own_methods(
    tmp_path: Path, alice: ScopedMemory
):
    """The stock one refuses to be called synchronously on its loop."""
    async with AsyncSqliteSaver.from_conn_string(f"{tmp_path}/theirs.db") as theirs:
        old = approving().compile(checkpointer=theirs)
        await old.ainvoke({"messages": ["one"]}, at("alice-1"))
        saver = dual_write(theirs, alice.checkpointer(), backfill=owned)
        graph = approving().compile(checkpointer=saver)
        await graph.ainvoke(Command(resume="yes"), at("alice-1"))
        await asyncio.gather(
            *(graph.ainvoke({"messages": ["hi"]}, at(f"alice-{n}")) for n in range(2, 6))
        )
        assert len([one async for one in graph.aget_state_history(at("alice-1"))]) == 3
        saver.read_from = "ours"
        await graph.ainvoke(Command(resume="sure"), at("alice-3"))

    assert saver.report.is_clean
    assert len(alice.checkpointer().threads()) == 5


class Growing(TypedDict):
    messages: Annotated[list[Any], DeltaChannel(_messages_delta_reducer, snapshot_frequency=3)]


def test_delta_channels_are_copied_and_compared_with_all_writes_they_stand_on(alice: ScopedMemory):
    builder = StateGraph(Growing)
    builder.add_node("a", lambda state: {"messages": [AIMessage(f"{len(state['messages'])}")]})
    builder.add_edge(START, "a").add_edge("a", END)
    theirs = InMemorySaver()
    old = builder.compile(checkpointer=theirs)
    for n in range(5):
        old.invoke({"messages": [HumanMessage(str(n), id=f"m{n}")]}, at("alice-1"))
    saver = dual_write(theirs, alice.checkpointer(), backfill=owned)
    graph = builder.compile(checkpointer=saver)
    graph.invoke({"messages": ["more"]}, at("alice-1"))
    expected = told(old, "alice-1")

    saver.read_from = "ours"

    assert told(graph, "alice-1") == expected
    assert len(expected) == 12
    assert saver.report.is_clean, saver.report


def test_a_failure_of_ours_is_counted_and_made_good_at_the_next_use(
    alice: ScopedMemory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    ours = alice.checkpointer()
    saver = dual_write(InMemorySaver(), ours, backfill=owned)
    graph = approving().compile(checkpointer=saver)
    with monkeypatch.context() as broken:
        Failing(type(ours), "put", "put_writes").install(broken)
        graph.invoke({"messages": ["one"]}, at("alice-1"))

    failures = saver.report.failures
    assert failures["ours put: OSError"] > 0
    assert not saver.report.is_clean
    assert "canary" not in caplog.text
    assert "alice" not in caplog.text
    graph.invoke(Command(resume="yes"), at("alice-1"))
    saver.read_from = "ours"
    assert told(graph, "alice-1") == ["one", "yes: 1"]
    assert saver.report.failures == failures


@pytest.mark.parametrize("read_from", ["theirs", "ours"])
def test_what_is_removed_while_one_side_fails_does_not_come_back(
    alice: ScopedMemory, monkeypatch: pytest.MonkeyPatch, read_from: Any
):
    threads = dual_write(InMemorySaver(), alice.checkpointer(), backfill=owned)
    items = dual_write(InMemoryStore(), alice.store(), backfill=owned)
    session = dual_write(Theirs(), alice.chat_history("s"), backfill=True)
    approving().compile(checkpointer=threads).invoke({"messages": ["secret"]}, at("alice-1"))
    items.put(("alice-1",), "k", {"v": 1})
    session.add_user_message("secret")
    with monkeypatch.context() as patched:
        for pair, name in ((threads, "delete_thread"), (items, "batch"), (session, "clear")):
            pair.read_from = read_from
            other = pair.ours if read_from == "theirs" else pair.theirs
            Failing(type(other), name).install(patched)
        threads.delete_thread("alice-1")
        items.delete(("alice-1",), "k")
        session.clear()
        session.add_user_message("new")

    for side in (read_from, "theirs", "ours"):
        for pair in (threads, items, session):
            pair.read_from = side
        assert threads.get_tuple(at("alice-1")) is None
        assert items.get(("alice-1",), "k") is None
        assert "secret" not in [message.text for message in session.messages]


async def test_a_removal_that_was_cancelled_between_the_sides_is_made_before_the_next_use(
    alice: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    theirs = InMemorySaver()
    saver = dual_write(theirs, alice.checkpointer(), backfill=owned)
    saver.read_from = "ours"
    approving().compile(checkpointer=saver).invoke({"messages": ["secret"]}, at("alice-1"))
    begun = asyncio.Event()

    async def slow(_: str) -> None:
        begun.set()
        await asyncio.sleep(9)

    with monkeypatch.context() as patched:
        patched.setattr(theirs, "adelete_thread", slow)
        removing = asyncio.create_task(saver.adelete_thread("alice-1"))
        await begun.wait()
        removing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await removing

    found = await asyncio.gather(*(saver.aget_tuple(at("alice-1")) for _ in range(4)))
    assert found == [None] * 4
    assert theirs.get_tuple(at("alice-1")) is None
    assert alice.checkpointer().get_tuple(at("alice-1")) is None


async def test_a_call_in_the_event_loop_does_not_wait_for_a_task_of_that_loop(alice: ScopedMemory):
    theirs = InMemorySaver()
    approving().compile(checkpointer=theirs).invoke({"messages": ["x"]}, at("alice-1"))
    saver = dual_write(theirs, alice.checkpointer(), backfill=owned)
    copying = asyncio.create_task(saver.aget_tuple(at("alice-1")))
    await asyncio.sleep(0)

    assert saver.get_tuple(at("alice-1")) is not None

    assert await copying is not None
    assert saver.report.is_clean


def test_a_failure_of_theirs_reaches_the_application_and_ours_is_not_written(
    alice: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    theirs = InMemorySaver()
    saver = dual_write(theirs, alice.checkpointer())
    with monkeypatch.context() as broken:
        Failing(theirs, "put").install(broken)
        with pytest.raises(OSError, match="canary"):
            approving().compile(checkpointer=saver).invoke({"messages": ["x"]}, at("1"))

        assert alice.checkpointer().get_tuple(at("1")) is None
        saver.read_from = "ours"
        approving().compile(checkpointer=saver).invoke({"messages": ["x"]}, at("2"))
    assert saver.report.failures["theirs put: OSError"] > 0
    assert told(approving().compile(checkpointer=saver), "2") == ["x"]


def test_once_ours_answers_a_thread_that_cannot_be_copied_is_not_begun_anew(
    alice: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    theirs = InMemorySaver()
    approving().compile(checkpointer=theirs).invoke({"messages": ["one"]}, at("alice-1"))
    saver = dual_write(theirs, alice.checkpointer(), backfill=owned)
    saver.read_from = "ours"
    graph = approving().compile(checkpointer=saver)
    with monkeypatch.context() as broken:
        Failing(theirs, "list").install(broken)
        with pytest.raises(OSError, match="canary"):
            graph.invoke(Command(resume="yes"), at("alice-1"))

    graph.invoke(Command(resume="yes"), at("alice-1"))
    assert told(graph, "alice-1") == ["one", "yes: 1"]


class Numbering(InMemorySaver):
    """A saver that leaves versions to its base class, whose are numbers."""

    get_next_version = BaseCheckpointSaver.get_next_version


def test_a_thread_begun_at_ours_goes_on_at_a_saver_of_other_versions(alice: ScopedMemory):
    saver = dual_write(Numbering(), alice.checkpointer(), backfill=owned)
    graph = approving().compile(checkpointer=saver)
    for side in ("ours", "theirs", "ours"):
        saver.read_from = side
        graph.invoke({"messages": ["?"]}, at("alice-1"))
        graph.invoke(Command(resume="yes"), at("alice-1"))

    assert told(graph, "alice-1") == ["?", "yes: 1", "?", "yes: 3", "?", "yes: 5"]
    assert saver.report.is_clean


def test_a_difference_is_told_by_its_kind_and_without_content(
    alice: ScopedMemory, caplog: pytest.LogCaptureFixture
):
    theirs, found = InMemorySaver(), list[Difference]()
    saver = dual_write(theirs, alice.checkpointer(), on_difference=found.append)
    graph = approving().compile(checkpointer=saver)
    graph.invoke({"messages": ["canary"]}, at("1"))
    approving().compile(checkpointer=theirs).update_state(at("1"), {"messages": ["canary too"]})

    graph.get_state(at("1"))

    assert found
    assert {one.operation for one in found} == {"get_tuple"}
    assert saver.report.differences[f"get_tuple: {found[0].kind}"] > 0
    assert "canary" not in caplog.text + repr(found) + repr(saver) + repr(saver.report)


def stored(saver: Any, thread_id: str, namespace: str = "") -> Any:
    """The config of one more checkpoint."""
    behind = at(thread_id, checkpoint_ns=namespace)
    return saver.put(behind, empty_checkpoint(), {"source": "loop", "step": 0, "parents": {}}, {})


def test_what_ours_missed_below_the_newest_checkpoint_follows_as_well(
    alice: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    ours = alice.checkpointer()
    saver = dual_write(InMemorySaver(), ours, backfill=owned)
    first, _ = stored(saver, "alice-1"), stored(saver, "alice-1")
    with monkeypatch.context() as broken:
        Failing(type(ours), "put", "put_writes").install(broken)
        inner = stored(saver, "alice-1", "inner:1")
        saver.put_writes(first, [("messages", "of an older one")], "task")
    stored(saver, "alice-1")

    assert saver.get_tuple(inner) is not None
    assert ours.get_tuple(inner) is not None
    assert ours.get_tuple(first).pending_writes == [("task", "messages", "of an older one")]
    assert not saver.report.differences
    assert saver.report.copied == 1


def test_a_checkpoint_that_another_process_missed_follows_once_it_is_seen_to_be_missing(
    alice: ScopedMemory,
):
    theirs = InMemorySaver()
    saver = dual_write(theirs, alice.checkpointer(), backfill=owned)
    stored(saver, "alice-1")
    inner = stored(theirs, "alice-1", "inner:1")

    assert saver.get_tuple(inner) is not None
    assert saver.report.differences == {"get_tuple: missing": 1}
    assert saver.get_tuple(inner) is not None
    assert saver.report.differences == {"get_tuple: missing": 1}
    assert alice.checkpointer().get_tuple(inner) is not None


def test_a_copy_puts_no_write_of_a_resumed_task_a_second_time(alice: ScopedMemory):
    theirs, ours = InMemorySaver(), alice.checkpointer()
    apart = dual_write(theirs, ours)
    waiting = stored(apart, "alice-1")
    apart.put_writes(waiting, [("messages", "said"), ("branch", None)], "task", "path")
    theirs.put_writes(waiting, [("__resume__", "yes")], "task", "path")

    saver = dual_write(theirs, ours, backfill=owned)

    assert saver.get_tuple(at("alice-1")) is not None
    assert saver.report.is_clean, saver.report
    assert {write[1:] for write in ours.get_tuple(waiting).pending_writes} == {
        ("__resume__", "yes"),
        ("branch", None),
        ("messages", "said"),
    }
    assert len(ours.get_tuple(waiting).pending_writes) == 3


@pytest.mark.parametrize("is_async", [False, True])
async def test_what_is_written_while_checkpoints_are_listed_is_no_difference(
    alice: ScopedMemory, is_async: bool
):
    class Busy(InMemorySaver):
        def list(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
            for one in super().list(*args, **kwargs):
                if not one.pending_writes:
                    saver.put_writes(first, [("messages", "late")], "task")
                yield one

    saver = dual_write(Busy(), alice.checkpointer())
    first = stored(saver, "alice-1")

    if is_async:
        (listed,) = [one async for one in saver.alist(at("alice-1"))]
    else:
        (listed,) = saver.list(at("alice-1"))

    assert listed.pending_writes == []
    assert saver.report.is_clean, saver.report
    assert saver.report.reads == 1


def test_a_difference_among_listed_checkpoints_is_counted_once_however_far_they_are_read(
    alice: ScopedMemory,
):
    with sqlite3.connect(":memory:", check_same_thread=False) as connection:
        theirs = SqliteSaver(connection)
        saver = dual_write(theirs, alice.checkpointer())
        for _ in range(2):
            stored(theirs, "alice-1")

        # A saver that lists has a lock, which it takes to be read as well.
        assert len([*saver.list(at("alice-1"))]) == 2
        assert saver.report.differences == {"get_tuple: missing": 2}
        listed = saver.list(at("alice-1"))
        next(listed)
        listed.close()
        assert saver.report.differences == {"get_tuple: missing": 2, "list: missing": 1}


def test_metadata_that_json_has_no_form_for_are_compared(alice: ScopedMemory):
    saver = dual_write(InMemorySaver(), alice.checkpointer())
    for number, options in enumerate([{1: "one", "b": 2}, {(1, 2): 3}]):
        thread = at(f"alice-{number}", checkpoint_ns="")
        metadata: Any = {"source": "input", "step": 1, "parents": {}, "options": options}
        saver.put(thread, empty_checkpoint(), metadata, {})
        assert saver.get_tuple(thread).metadata["options"] == options
    assert saver.report.is_clean, saver.report


def test_strict_copies_of_a_pair_switch_with_it(alice: ScopedMemory):
    saver = dual_write(InMemorySaver(), alice.checkpointer())
    strict = saver.with_allowlist({("tests.threads", "Point")})

    saver.read_from = "ours"

    assert strict.read_from == "ours"
    assert strict.ours is not saver.ours


def test_threads_that_use_one_old_thread_at_once_copy_it_once(alice: ScopedMemory):
    theirs = InMemorySaver()
    old = approving().compile(checkpointer=theirs)
    old.invoke({"messages": ["one"]}, at("alice-1"))
    saver = dual_write(theirs, alice.checkpointer(), backfill=owned)

    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda _: saver.get_tuple(at("alice-1")), range(16))]

    assert all(found)
    assert saver.report.copied == 1
    assert saver.report.is_clean


def test_an_import_in_the_background_brings_what_nobody_has_used_yet(
    memory: IsolatedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # where the backup of an import goes
    path = f"{tmp_path}/theirs.db"
    with SqliteSaver.from_conn_string(path) as theirs:
        old = approving().compile(checkpointer=theirs)
        for user in ("alice", "bob"):
            for n in range(3):
                old.invoke({"messages": [HumanMessage(f"{n}", id=str(n))]}, at(f"{user}-{n}"))
        saver = dual_write(theirs, memory.checkpointer(), backfill=owned)
        graph = approving().compile(checkpointer=saver)
        used = at("alice-1", user_id="alice", module_id="tutor")
        graph.invoke(Command(resume="yes"), used)

        pattern = r"(?P<thread>(?P<user>[^-]+)-.*)"
        with SqliteSaverSource(path) as source:
            receipt = Import(memory, source, Mapping(pattern=pattern, module="tutor")).run()
        assert receipt.units == {"copied": 5, "present": 1}
        saver.read_from = "ours"
        graph.invoke(Command(resume="sure"), at("bob-2", user_id="bob", module_id="tutor"))

        assert saver.report.is_clean, saver.report
        assert saver.report.copied == 1
        for user in ("alice", "bob"):
            scope = memory.scope(user_id=user, module_id="tutor")
            ids = {thread.id for thread in scope.checkpointer().threads()}
            assert ids == {f"{user}-{n}" for n in range(3)}


def test_parallel_nodes_of_many_users_keep_their_writes_apart_on_both_sides(
    memory: IsolatedMemory,
):
    """LangGraph stores what parallel nodes wrote from threads that know of no run."""

    class Both(TypedDict):
        seen: Annotated[list[str], operator.add]
        user: str

    def node(name: str) -> Callable[[Both], dict[str, Any]]:
        def slow(state: Both) -> dict[str, Any]:
            time.sleep(0.02)
            return {"seen": [f"{state['user']} {name}"]}

        return slow

    builder = StateGraph(Both)
    for name in ("a", "b", "c"):
        builder.add_node(name, node(name)).add_edge(START, name)
    saver = dual_write(InMemorySaver(), memory.checkpointer())
    graph = builder.compile(checkpointer=saver)
    users = [f"user{n}" for n in range(6)]

    def use(user: str) -> None:
        config = at(f"{user}-1", user_id=user, module_id="tutor")
        for _ in range(2):
            graph.invoke({"seen": [], "user": user}, config)

    with ThreadPoolExecutor(6) as pool:
        [*pool.map(use, users)]

    saver.read_from = "ours"
    for user in users:
        config = at(f"{user}-1", user_id=user, module_id="tutor")
        assert sorted(graph.get_state(config).values["seen"]) == [
            f"{user} {name}" for name in "aabbcc"
        ]
        assert [*saver.list(config)]
    assert saver.report.is_clean, saver.report


# Histories ----------------------------------------------------------------------------------------


async def test_a_session_is_written_twice_read_once_and_switched(alice: ScopedMemory, door: Door):
    theirs = Theirs(HumanMessage("old"), AIMessage("older", id="7"))
    history = dual_write(theirs, alice.chat_history("monday"), backfill=True)
    await door(history, "add_messages", [HumanMessage("new", id="8")])

    assert await door(history, "messages") == theirs.messages
    assert history.report.is_clean
    assert history.report.copied == 1
    history.read_from = "ours"
    await door(history, "add_messages", [AIMessage("newer")])
    texts = ["old", "older", "new", "newer"]
    assert [one.text for one in await door(history, "messages")] == texts
    assert [one.text for one in theirs.messages] == texts
    history.stop_writing_theirs()
    await door(history, "clear")
    assert alice.chat_history("monday").count() == 0
    assert len(theirs.messages) == 4
    with pytest.raises(ValueError, match="not written"):
        history.read_from = "theirs"


def test_processes_that_copy_one_session_at_once_copy_each_message_once(alice: ScopedMemory):
    theirs = Theirs(*(HumanMessage(str(n)) for n in range(20)))
    barrier = threading.Barrier(4)

    def use(_: int) -> None:
        # An object of its own, as another process has it: nothing but the database is shared.
        history = dual_write(theirs, alice.chat_history("monday"), backfill=True)
        barrier.wait()
        assert len(history.messages) == 20

    with ThreadPoolExecutor(4) as pool:
        [*pool.map(use, range(4))]

    assert [one.text for one in alice.chat_history("monday").messages] == [*map(str, range(20))]


def test_what_ours_missed_of_a_session_follows_and_another_course_of_it_is_left(
    alice: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    ours = alice.chat_history("monday")
    history = dual_write(Theirs(), ours, backfill=True)
    history.add_user_message("one")
    with monkeypatch.context() as broken:
        Failing(type(ours), "add_messages").install(broken)
        history.add_user_message("two")
    history.add_user_message("three")
    assert [one.text for one in ours.messages] == ["one", "two", "three"]

    ours.add_user_message("of ours alone")
    assert len(history.messages) == 3
    assert history.report.differences == {"messages: length": 1}
    assert ours.count() == 4


def test_a_message_that_holds_an_array_is_compared(alice: ScopedMemory):
    """Arrays answer ``==`` with an array: the application must not meet what pydantic raises."""
    history = dual_write(Theirs(), alice.chat_history("monday"))
    history.add_messages([ToolMessage("drawn", tool_call_id="1", artifact=np.arange(3))])
    # As it comes from a server: another array.
    history.theirs.messages = [*map(copy.deepcopy, history.theirs.messages)]

    assert [one.text for one in history.messages] == ["drawn"]
    assert history.report.is_clean
    history.theirs.messages[0].artifact[1] = 7
    assert [one.text for one in history.messages] == ["drawn"]
    assert history.report.differences == {"messages: messages": 1}


def test_messages_that_share_an_id_are_all_copied(alice: ScopedMemory):
    again, another = HumanMessage("yes", id="1"), AIMessage("of course", id="1")
    theirs = Theirs(again, AIMessage("sure?", id="2"), again, another, HumanMessage("no id"))
    for _ in range(2):
        history = dual_write(theirs, alice.chat_history("monday"), backfill=True)
        assert history.messages == theirs.messages
        assert history.report.is_clean, history.report
    history.add_messages([again])
    history.read_from = "ours"
    assert [one.text for one in history.messages] == [one.text for one in theirs.messages]


# Stores -------------------------------------------------------------------------------------------


async def test_items_are_written_twice_and_copied_when_they_are_got(
    alice: ScopedMemory, door: Door
):
    theirs = InMemoryStore()
    theirs.put(("alice-facts",), "old", {"level": 1})
    store = dual_write(theirs, alice.store(), backfill=owned)
    await door(store, "put", ("alice-facts",), "new", {"level": 2})

    assert (await door(store, "get", ("alice-facts",), "old")).value == {"level": 1}
    found = await door(store, "search", ("alice-facts",))
    assert {item.key for item in found} == {"old", "new"}
    assert await door(store, "list_namespaces") == [("alice-facts",)]
    assert store.report.is_clean
    assert store.report.copied == 1
    assert store.report.reads == 3
    store.read_from = "ours"
    await door(store, "delete", ("alice-facts",), "old")
    assert await door(store, "get", ("alice-facts",), "old") is None
    assert theirs.get(("alice-facts",), "old") is None
    assert store.report.is_clean


def test_an_item_that_theirs_keeps_for_a_time_is_not_copied_for_ever(
    alice: ScopedMemory, wait_for: Wait
):
    with SqliteStore.from_conn_string(":memory:", ttl={"default_ttl": 1}) as theirs:
        theirs.setup()
        theirs.put(("alice-1",), "k", {"v": 1})
        items = dual_write(theirs, alice.store(), backfill=owned)
        assert items.get(("alice-1",), "k").value == {"v": 1}

    wait_for(61)
    assert alice.store().get(("alice-1",), "k") is None


def test_what_ours_missed_of_an_item_follows_when_it_is_got(
    alice: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    ours = alice.store()
    store = dual_write(InMemoryStore(), ours, backfill=owned)
    store.put(("alice-facts",), "school", {"level": 1})
    assert store.get(("alice-facts",), "school").value == {"level": 1}
    with monkeypatch.context() as broken:
        Failing(type(ours), "batch").install(broken)
        store.put(("alice-facts",), "school", {"level": 2})

    assert store.get(("alice-facts",), "school").value == {"level": 2}
    store.read_from = "ours"
    assert store.get(("alice-facts",), "school").value == {"level": 2}


def test_an_item_that_equals_no_other_is_copied_once(alice: ScopedMemory):
    """NaN, as it comes from a server, equals nothing, and an array answers with an array."""

    class Remote(InMemoryStore):
        def batch(self, ops: Iterable[Op]) -> list[Result]:
            return pickle.loads(pickle.dumps(super().batch(ops)))

    value = {"nan": float("nan"), "array": np.arange(3)}
    theirs = Remote()
    theirs.put(("alice-1",), "k", value)
    store = dual_write(theirs, alice.store(), backfill=owned)

    for _ in range(2):
        assert store.get(("alice-1",), "k") is not None
    assert store.report.is_clean, store.report
    assert store.report.copied == 1


def test_what_is_put_behind_a_removal_that_failed_is_not_removed_with_it(
    alice: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    ours = alice.store()
    store = dual_write(InMemoryStore(), ours)
    store.put(("facts",), "school", {"level": 1})
    batch, failures = type(ours).batch, iter([OSError("canary")] * 2)

    def flaky(self: IsolatedStore, ops: Iterable[Op]) -> list[Result]:
        if error := next(failures, None):
            raise error
        return batch(self, ops)

    with monkeypatch.context() as patched:
        # The removal fails, and once more before the put; the put itself succeeds.
        patched.setattr(type(ours), "batch", flaky)
        store.delete(("facts",), "school")
        store.put(("facts",), "school", {"level": 2})

    assert store.get(("facts",), "school").value == {"level": 2}
    assert ours.get(("facts",), "school").value == {"level": 2}
    assert not store.report.differences


def test_what_somebody_puts_between_the_two_reads_is_no_difference(alice: ScopedMemory):
    class Busy(InMemoryStore):
        def batch(self, ops: Iterable[Op]) -> list[Result]:
            found = super().batch(ops := [*ops])
            if isinstance(ops[0], GetOp) and found[0].value == {"level": 1}:
                store.put(("facts",), "school", {"level": 2})
            return found

    store = dual_write(Busy(), alice.store())
    store.put(("facts",), "school", {"level": 1})

    assert store.get(("facts",), "school").value == {"level": 1}
    assert store.report.is_clean, store.report
    assert store.report.reads == 1


def test_a_search_that_ours_would_answer_otherwise_is_a_difference_and_copies_nothing(
    alice: ScopedMemory,
):
    """What a prefix finds in a shared store may be anybody's: an import knows whose it is."""
    theirs = InMemoryStore()
    theirs.put(("facts", "bob"), "secret", {"a": 1})
    store = dual_write(theirs, alice.store(), backfill=lambda *_: True)

    assert len(store.search(("facts",))) == 1

    assert store.report.differences == {"search: missing": 1}
    assert alice.store().search(()) == []


# Arguments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda scope, pair: pair(scope.checkpointer(), InMemorySaver()), "theirs first"),
        (lambda scope, pair: pair(InMemoryStore(), scope.checkpointer()), "theirs first"),
        (
            lambda scope, pair: pair(InMemorySaver(), scope.checkpointer(), backfill=True),
            "whose an id is",
        ),
        (
            lambda scope, pair: pair(Theirs(), scope.chat_history("s"), backfill=owned),
            "For a history it is True",
        ),
        (lambda scope, pair: pair(InMemorySaver(), scope.checkpointer(), compare=1), "compare"),
    ],
)
def test_what_cannot_be_paired_is_refused(
    alice: ScopedMemory, make: Callable[[ScopedMemory, Any], object], says: str
):
    with pytest.raises(TypeError, match=says):
        make(alice, dual_write)


def test_a_switch_is_spelt_as_it_is_meant(alice: ScopedMemory):
    saver = dual_write(InMemorySaver(), alice.checkpointer())

    with pytest.raises(ValueError, match="theirs"):
        saver.read_from = "mine"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="answers yet"):
        saver.stop_writing_theirs()
