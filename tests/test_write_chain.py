"""The writes of one thread follow each other: within a commit, from state to state."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope, ScopedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.threads import writing
from langmem_isolated._storage.threads.addresses import thread_digest
from langmem_isolated.checkpointer import write_chain
from langmem_isolated.checkpointer.write_chain import CommitDelay, WaitingWrite, WriteChain
from langmem_isolated.errors import KeyDestroyed, ValueNotStorable
from tests.threads import at, checkpoint, id_of, put, values_at

ALICE = Scope("alice", "tutor")
LARGE = "large " * 300


class Stop(BaseException):
    pass


@pytest.fixture
def scoped(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(ALICE)


@pytest.fixture
def waiting(memory: IsolatedMemory, monkeypatch: Any) -> ScopedMemory:
    """A scope whose writes wait for company as long as it takes."""
    monkeypatch.setattr(write_chain, "_COMPANY_SECONDS", 20.0)
    return memory.scope(ALICE)


def commits_of(monkeypatch: Any) -> list[Transaction]:
    """The transactions in which a thread's writes are stored, as they come."""
    seen: list[Transaction] = []
    put_once = WriteChain.put

    def noting(self: Any, transaction: Transaction, *args: Any) -> Any:
        seen.append(transaction)
        return put_once(self, transaction, *args)

    monkeypatch.setattr(WriteChain, "put", noting)
    return seen


def chain_of(scoped: ScopedMemory, thread_id: str = "t") -> WriteChain:
    saver = scoped.checkpointer()
    records = scoped._records
    digest = thread_digest(records.keys(), thread_id)
    return WriteChain.of(saver._known.last(digest, records.database.history))


def until_it_waits(scoped: ScopedMemory, count: int = 1) -> None:
    chain, deadline = chain_of(scoped), time.monotonic() + 60
    while len(chain._waiting) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_task_writes_in_the_statement_of_the_checkpoint_that_follows(
    waiting: ScopedMemory, monkeypatch: Any
):
    saver = waiting.checkpointer()
    config = put(saver, at("t"), {})
    commits = commits_of(monkeypatch)

    with ThreadPoolExecutor(2) as threads:
        written = threads.submit(saver.put_writes, config, [("a", LARGE)], "task")
        until_it_waits(waiting)
        new = threads.submit(put, saver, config, {"a": [LARGE, LARGE]})
        written.result(60), new.result(60)

    assert len(commits) == 1
    assert values_at(saver, at("t")) == {"a": [LARGE, LARGE]}
    [write] = saver.get_tuple(config).pending_writes  # type: ignore[union-attr]
    assert write[1:] == ("a", LARGE)
    assert saver.verify_thread("t") == 3


def have_writes_come_first(monkeypatch: Any) -> None:
    """Each checkpoint but the next one comes behind its task's writes; by chance it overtakes."""
    checkpoints, arrived = itertools.count(), []
    store, wait = WriteChain.store, WriteChain._wait_for_company

    def arrive(self: WriteChain, mine: WaitingWrite) -> None:
        arrived.append(mine)
        wait(self, mine)

    def behind_writes(self: WriteChain, mine: WaitingWrite, run: Any) -> Any:
        if mine.body.slot.kind is not Kind.WRITE:
            number, deadline = next(checkpoints), time.monotonic() + 60
            while len(arrived) < number and time.monotonic() < deadline:
                time.sleep(0.001)
        return store(self, mine, run)

    monkeypatch.setattr(WriteChain, "_wait_for_company", arrive)
    monkeypatch.setattr(WriteChain, "store", behind_writes)


def test_a_turn_of_one_node_is_three_commits(waiting: ScopedMemory, monkeypatch: Any):
    builder = StateGraph(MessagesState)
    builder.add_node("chat", lambda _: {"messages": [AIMessage("b")]})
    builder.add_edge(START, "chat")
    graph = waiting.bind(builder.compile())
    graph.invoke({"messages": [HumanMessage("a")]}, at("t"))
    commits = commits_of(monkeypatch)
    have_writes_come_first(monkeypatch)

    graph.invoke({"messages": [HumanMessage("c")]}, at("t"))

    # The input; its writes and the checkpoint that follows; the node's and the last.
    assert len(commits) == 3


def test_the_first_turn_of_a_thread_is_three_commits(waiting: ScopedMemory, monkeypatch: Any):
    """The thread is made in the first, with its first checkpoint."""
    builder = StateGraph(MessagesState)
    builder.add_node("chat", lambda _: {"messages": [AIMessage("b")]})
    builder.add_edge(START, "chat")
    graph, saver = waiting.bind(builder.compile()), waiting.checkpointer()
    put(saver, at("another"), {})
    commits, locked = commits_of(monkeypatch), []
    monkeypatch.setattr(writing, "put", lambda *_: locked.append(True))
    have_writes_come_first(monkeypatch)

    graph.invoke({"messages": [HumanMessage("a")]}, at("t"))

    assert len(commits) == 3
    assert not locked
    assert saver.verify_thread("t") == 5
    assert saver.thread("t").checkpoints == 3


def test_a_thread_is_made_in_one_statement_with_its_first_checkpoint_on_postgres(
    scoped: ScopedMemory, monkeypatch: Any
):
    saver = scoped.checkpointer()
    put(saver, at("another"), {})
    asked, query = [], Transaction._query

    def noting(self: Transaction, statement: Any, values: Any) -> Any:
        asked.append(statement)
        return query(self, statement, values)

    monkeypatch.setattr(Transaction, "_query", noting)
    put(saver, at("t"), {"a": [LARGE]})

    # On SQLite the records are inserted by a second one.
    assert len(asked) == 1
    assert values_at(saver, at("t")) == {"a": [LARGE]}
    assert saver.verify_thread("t") == 1


def test_a_thread_that_another_process_began_is_not_begun_again(
    scoped: ScopedMemory, database_url: str, root_key: LocalRootKey
):
    saver = scoped.checkpointer()
    put(saver, at("another"), {})
    with IsolatedMemory(database_url, root_key=root_key) as other:
        config = put(other.scope(ALICE).checkpointer(), at("t"), {"a": [LARGE]})

    # Never read here: it is taken to be new.
    put(saver, config, {"a": [LARGE, LARGE]})
    saver.put_writes(config, [("a", LARGE)], "task")

    assert values_at(saver, at("t")) == {"a": [LARGE, LARGE]}
    assert saver.verify_thread("t") == 3


@pytest.mark.parametrize("absolute", [None, timedelta(hours=1)])
def test_a_thread_has_the_lifetime_of_who_begins_it_and_not_of_who_failed_to(
    scoped: ScopedMemory, absolute: timedelta | None
):
    failing = scoped.checkpointer(absolute=timedelta(days=1) if absolute is None else None)
    put(failing, at("another"), {})
    with pytest.raises(ValueNotStorable):
        put(failing, at("t"), {"a": object()})

    saver = scoped.checkpointer(absolute=absolute)
    put(saver, at("t"), {})

    thread = saver.thread("t")
    assert (thread.expires and thread.expires - thread.created) == absolute


def test_two_who_begin_a_thread_at_once_begin_it_once(scoped: ScopedMemory):
    saver = scoped.checkpointer()
    put(saver, at("another"), {})

    with ThreadPoolExecutor(8) as threads:
        begun = [
            [threads.submit(put, saver, at(f"t{number}"), {"a": [LARGE]}) for _ in range(2)]
            for number in range(20)
        ]
        for pair in begun:
            for one in pair:
                one.result(60)

    assert {saver.verify_thread(f"t{number}") for number in range(20)} == {2}


def test_what_fails_together_is_stored_by_each_alone(waiting: ScopedMemory):
    """Elements were given numbers in the turn that failed, and were never stored."""
    saver = waiting.checkpointer()
    config = put(saver, at("t"), {"a": [LARGE]})
    new = put(saver, config, {})
    chain = chain_of(waiting)

    with ThreadPoolExecutor(3) as threads:
        written = threads.submit(saver.put_writes, config, [("a", [LARGE * 2])], "task")
        until_it_waits(waiting)
        with chain._turn:
            # One of the same id is there: whoever stores both at once is refused.
            stored = checkpoint({"a": [LARGE * 2]}, id=id_of(new))
            again = threads.submit(saver.put, config, stored, {}, {})
            until_it_waits(waiting, 2)
        written.result(60), again.result(60)

    assert values_at(saver, new) == {"a": [LARGE * 2]}
    [write] = saver.get_tuple(config).pending_writes  # type: ignore[union-attr]
    assert write[1:] == ("a", [LARGE * 2])
    assert saver.verify_thread("t") == 3


def test_who_leads_and_is_interrupted_takes_nobody_along(waiting: ScopedMemory, monkeypatch: Any):
    saver = waiting.checkpointer()
    config = put(saver, at("t"), {})
    commits = commits_of(monkeypatch)
    build = writing._build_rows

    def interrupted(*args: Any) -> Any:
        if len(commits) == 1:
            commits.clear()
            raise Stop
        return build(*args)

    monkeypatch.setattr(writing, "_build_rows", interrupted)
    with ThreadPoolExecutor(2) as threads:
        written = threads.submit(saver.put_writes, config, [("a", LARGE)], "task")
        until_it_waits(waiting)
        with pytest.raises(Stop):
            put(saver, config, {"a": [LARGE]})
        written.result(60)

    assert len(saver.get_tuple(at("t")).pending_writes or ()) == 1  # type: ignore[union-attr]
    assert saver.verify_thread("t") == 2


def test_keys_of_a_former_life_write_onto_no_state_of_a_later_one(
    memory: IsolatedMemory, root_key: LocalRootKey, database_url: str, monkeypatch: Any
):
    """Taken just before the module was erased in another process; the user came back to it."""
    scoped = memory.scope(ALICE)
    saver, keys = scoped.checkpointer(), scoped._records.keys()
    config = put(saver, at("t"), {})
    with IsolatedMemory(database_url, root_key=root_key) as other:
        other.erase_module("tutor")
    memory._context.keyring.forget(scoped._records.owner)
    later = memory.scope(ALICE).checkpointer()
    config = put(later, at("t"), {})

    monkeypatch.setattr(scoped._records, "keys", lambda: keys)
    with pytest.raises(KeyDestroyed):
        saver.put_writes(config, [("a", "of the former life")], "task")

    assert later.get_tuple(config).pending_writes == []  # type: ignore[union-attr]
    assert later.verify_thread("t") == 1


def test_so_many_are_stored_together_as_one_statement_holds(
    waiting: ScopedMemory, monkeypatch: Any
):
    saver = waiting.checkpointer()
    config = put(saver, at("t"), {})
    commits, most = commits_of(monkeypatch), write_chain.MOST_ROWS

    with ThreadPoolExecutor(2 * most) as threads:
        written = [
            threads.submit(saver.put_writes, config, [("a", number)], f"task {number}")
            for number in range(2 * most)
        ]
        until_it_waits(waiting, 2 * most)
        put(saver, config, {})
        for one in written:
            one.result(60)

    assert len(saver.get_tuple(config).pending_writes or ()) == 2 * most  # type: ignore[union-attr]
    assert len(commits) >= 3
    assert saver.verify_thread("t") == 2 * most + 2


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
    waited: list[float] = []
    wait = WaitingWrite.wait

    def noting(self: WaitingWrite, seconds: float) -> None:
        waited.append(seconds)
        wait(self, seconds)

    monkeypatch.setattr(WaitingWrite, "wait", noting)
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        saver = memory.scope(ALICE).checkpointer()
        config = put(saver, at("t"), {})

        for number in range(12):
            saver.put_writes(config, [("a", number)], f"task {number}")

    # Two delays in vain, and no more of twelve.
    assert waited == [write_chain._COMPANY_SECONDS] * 2


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
