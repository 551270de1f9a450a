"""The writes of one thread follow each other: within a commit, from state to state."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope, ScopedMemory
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._database.write_queue import CommitDelay
from langmem_isolated.checkpointer import write_chain
from tests.threads import at, put, values_at

ALICE = Scope("alice", "tutor")
LARGE = "large " * 300


@pytest.fixture
def scoped(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(ALICE)


@pytest.fixture
def on_sqlite(sqlite_url: str, root_key: LocalRootKey, monkeypatch: Any) -> Any:
    """A scope on SQLite whose writes wait for company as long as it takes."""
    monkeypatch.setattr(write_chain, "_COMPANY_SECONDS", 20.0)
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory.scope(ALICE)


def commits_of(saver: Any, monkeypatch: Any) -> list[Transaction]:
    """The transactions in which a thread's writes were stored, as they come."""
    seen: list[Transaction] = []
    put_once = write_chain.WriteChain.put

    def noting(self: Any, transaction: Transaction, *args: Any) -> Any:
        if transaction not in seen:
            seen.append(transaction)
        return put_once(self, transaction, *args)

    monkeypatch.setattr(write_chain.WriteChain, "put", noting)
    return seen


def test_a_task_writes_in_the_commit_of_the_checkpoint_that_follows(
    on_sqlite: ScopedMemory, monkeypatch: Any
):
    saver = on_sqlite.checkpointer()
    config = put(saver, at("t"), {})
    commits = commits_of(saver, monkeypatch)

    write_and_follow(on_sqlite, config)

    assert len(commits) == 1
    assert values_at(saver, at("t")) == {"a": [LARGE, LARGE]}
    [write] = saver.get_tuple(config).pending_writes  # type: ignore[union-attr]
    assert write[1:] == ("a", LARGE)
    assert saver.verify_thread("t") == 3


def test_who_is_known_for_long_writes_writes_in_one_commit_as_well(
    on_sqlite: ScopedMemory, monkeypatch: Any
):
    saver = on_sqlite.checkpointer()
    config = put(saver, at("t"), {})
    records = saver._resolve(None)[1]
    for _ in range(9):
        records.database._writes._order.learn(records._caller, 1)
    commits = commits_of(saver, monkeypatch)

    write_and_follow(on_sqlite, config)

    assert len(commits) == 1


def write_and_follow(scoped: ScopedMemory, config: Any) -> None:
    """A task's writes, and while they wait for company the checkpoint that follows."""
    saver = scoped.checkpointer()
    with ThreadPoolExecutor(2) as threads:
        written = threads.submit(saver.put_writes, config, [("a", LARGE)], "task")
        until_it_waits(scoped)
        new = threads.submit(put, saver, config, {"a": [LARGE, LARGE]})
        written.result(10), new.result(10)


def until_it_waits(scoped: ScopedMemory) -> None:
    queue = scoped.checkpointer()._resolve(None)[1].database._writes
    deadline = time.monotonic() + 10
    while not any(write.is_delayed for write in queue._waiting):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_turn_of_one_node_is_three_commits(on_sqlite: ScopedMemory, monkeypatch: Any):
    builder = StateGraph(MessagesState)
    builder.add_node("chat", lambda _: {"messages": [AIMessage("b")]})
    builder.add_edge(START, "chat")
    graph = on_sqlite.bind(builder.compile())
    graph.invoke({"messages": [HumanMessage("a")]}, at("t"))
    commits = commits_of(on_sqlite.checkpointer(), monkeypatch)

    graph.invoke({"messages": [HumanMessage("c")]}, at("t"))

    # The input; its writes and the checkpoint that follows; the node's and the last.
    assert len(commits) == 3


def test_what_failed_among_others_leaves_no_state_behind(on_sqlite: ScopedMemory):
    """Its elements were given numbers, and were never stored."""
    saver = on_sqlite.checkpointer()
    config = put(saver, at("t"), {"a": [LARGE]})
    database = saver._resolve(None)[1].database

    def undoing(transaction: Transaction) -> None:
        raise RuntimeError

    with ThreadPoolExecutor(2) as threads:
        written = threads.submit(saver.put_writes, config, [("a", [LARGE * 2])], "task")
        until_it_waits(on_sqlite)
        with pytest.raises(RuntimeError):
            database.write(undoing)
        new = threads.submit(put, saver, config, {"a": [LARGE * 2]})
        written.result(10), new.result(10)

    assert values_at(saver, at("t")) == {"a": [LARGE * 2]}
    assert saver.verify_thread("t") == 3


def test_many_who_write_to_one_thread_at_once_lose_nothing(scoped: ScopedMemory):
    saver = scoped.checkpointer()
    config = put(saver, at("t"), {})

    def work(number: int) -> None:
        for step in range(5):
            text = f"{number} {step} {LARGE}"
            saver.put_writes(config, [("a", [text, LARGE])], f"task {number} {step}")
            put(saver, config, {"a": [text, LARGE]})

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))

    assert len(saver.get_tuple(config).pending_writes or ()) == 40  # type: ignore[union-attr]
    assert saver.verify_thread("t") == 81


def test_who_writes_alone_waits_for_nobody_before_long(
    sqlite_url: str, root_key: LocalRootKey, monkeypatch: Any
):
    monkeypatch.setattr(write_chain, "_COMPANY_SECONDS", 1.0)
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        saver = memory.scope(ALICE).checkpointer()
        config = put(saver, at("t"), {})
        begin = time.monotonic()

        def write_all() -> None:
            for number in range(12):
                saver.put_writes(config, [("a", number)], f"task {number}")

        # Not in the main thread, which signals interrupt: that one waits for nobody at all.
        thread = threading.Thread(target=write_all)
        thread.start()
        thread.join()

        # Two delays in vain, and no more of twelve.
        assert 1.5 < time.monotonic() - begin < 8


def test_a_delay_is_tried_again_now_and_then_and_kept_while_it_pays():
    delay = CommitDelay(1.0)
    for _ in range(2):
        assert delay.next()
        delay.learn(was_joined=False)

    tried = [delay.next() for _ in range(32)]
    delay.learn(was_joined=True)

    assert sum(tried) == 2
    assert delay.next()


def test_another_process_that_writes_between_is_noticed(
    scoped: ScopedMemory, database_url: str, root_key: LocalRootKey
):
    saver = scoped.checkpointer()
    config = put(saver, at("t"), {"a": [LARGE]})
    with IsolatedMemory(database_url, root_key=root_key) as other:
        put(other.scope(ALICE).checkpointer(), config, {"a": [LARGE, LARGE * 2]})

        put(saver, config, {"a": [LARGE, LARGE * 3]})

        assert values_at(other.scope(ALICE).checkpointer(), at("t")) == {"a": [LARGE, LARGE * 3]}
    assert saver.verify_thread("t") == 3
