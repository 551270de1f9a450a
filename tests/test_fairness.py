"""Owners share threads, connections and the writer's turn; who takes too much of them rests."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from langmem_isolated import IsolatedMemory
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._database.write_order import WriteOrder
from langmem_isolated._database.write_queue import WriteQueue
from langmem_isolated._runtime import budgets as budgets_module
from langmem_isolated._runtime.budgets import Budgets
from langmem_isolated._runtime.callers import FairExecutor, OnBehalfOf, Share, current_owner
from langmem_isolated.errors import DatabaseLocked

EMBEDDINGS = DeterministicFakeEmbedding(size=4)


class Held:
    """A call that holds its thread until it is let go, and tells when it has begun."""

    def __init__(self) -> None:
        self._begun, self._go_on = threading.Semaphore(0), threading.Event()

    def __call__(self) -> bool:
        self._begun.release()
        return self._go_on.wait(60)

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self._begun.acquire(timeout=60)

    def let_go(self) -> None:
        self._go_on.set()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Has so many seconds pass: without, the clock stands still, however slow the machine is."""
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: sum(now))
    return now.append


@dataclass
class Write:
    owner: str | None
    since: float = field(default_factory=time.monotonic)
    is_deferred: bool = False


def queue_of(order: WriteOrder, owners: str) -> str:
    """In which order the writes of these owners stand, who came one behind the other."""
    waiting: list[Any] = []
    for owner in owners:
        write = Write(owner)
        waiting.insert(order.place(waiting, write), write)
    return "".join(write.owner for write in waiting)


def test_owners_take_turns_and_the_writes_of_one_stay_in_their_order():
    assert queue_of(WriteOrder(), "aaaabbc") == "abcabaa"
    assert queue_of(WriteOrder(), "aaa") == "aaa"


def test_writes_that_take_long_come_behind_unless_they_waited_long():
    order = WriteOrder()
    order.learn("a", 0.1)

    assert queue_of(order, "aabcb") == "bcbaa"
    assert order.place([Write("a", time.monotonic() - 15)], Write("b")) == 1

    for _ in range(9):
        order.learn("a", 0.0001)
    assert queue_of(order, "ab") == "ab"


@pytest.mark.usefixtures("passes")
def test_who_takes_more_than_a_burst_rests_while_others_call_and_not_alone():
    budgets = Budgets()
    budgets.spend("a", 10)
    assert budgets.rest("a") == 0

    budgets.spend("b", 0.01)
    assert 0 < budgets.rest("a") <= 5
    assert budgets.rest("b") == 0


def test_short_calls_and_a_burst_cost_nothing():
    budgets = Budgets()
    budgets.spend("b", 0)
    for _ in range(10_000):
        budgets.spend("a", 0.002)
    budgets.spend("a", 0.8)

    assert budgets.rest("a") == 0


def test_threads_of_the_pool_are_left_for_others():
    """Hundreds of calls of one owner do not stand before one of another."""
    hold, executor = Held(), FairExecutor(ThreadPoolExecutor(4), 2, Budgets())
    blocked = [executor.submit("a", hold) for _ in range(100)]

    assert executor.submit("b", lambda: "done").result(60) == "done"
    hold.wait_for(2)
    assert sum(future.running() for future in blocked) == 2

    hold.let_go()
    executor.shutdown()
    assert all(future.result(0) for future in blocked)


def test_a_call_that_was_cancelled_while_it_waited_is_not_run():
    hold, ran = Held(), []
    executor = FairExecutor(ThreadPoolExecutor(1), 1, Budgets())
    first: Future[Any] = executor.submit("a", hold)
    second = executor.submit("a", lambda: ran.append(2))
    third = executor.submit("a", lambda: ran.append(3))

    assert second.cancel()
    hold.let_go()
    third.result(60)
    executor.shutdown()

    assert first.result(0)
    assert ran == [3]


def test_what_a_call_raises_is_its_callers():
    executor = FairExecutor(ThreadPoolExecutor(1), 1, Budgets())

    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        executor.submit("a", fail).result(60)
    assert executor.submit("a", lambda: 1).result(60) == 1
    executor.shutdown()


def test_one_owner_has_a_share_and_its_next_waits_for_it():
    share = Share(1, 0.05, lambda: DatabaseLocked("no turn"), Budgets())
    entered: list[str] = []

    def enter(owner: str) -> None:
        with OnBehalfOf(owner), share:
            entered.append(owner)

    with OnBehalfOf("a"), share:
        with pytest.raises(DatabaseLocked):
            ThreadPoolExecutor(1).submit(enter, "a").result(60)
        ThreadPoolExecutor(1).submit(enter, "b").result(60)
    ThreadPoolExecutor(1).submit(enter, "a").result(60)

    assert entered == ["b", "a"]


def test_it_is_said_for_whom_a_thread_works_and_no_longer_than_it_does():
    with OnBehalfOf("a"):
        with OnBehalfOf("b"):
            assert current_owner() == "b"
        assert current_owner() == "a"
    assert current_owner() is None


def test_a_user_with_many_slow_calls_leaves_connections_for_others(memory: IsolatedMemory):
    """Both through threads of the application and through those of the memory."""
    alice, bob = (memory.scope(user_id=u, module_id="m") for u in ("alice", "bob"))
    for scope in (alice, bob):
        scope.chat_history("s").add_user_message("hello")
    hold = Held()

    def slow() -> None:
        alice.recall._records.snapshot(lambda *_: hold(), None)

    with ThreadPoolExecutor(16) as threads:
        calls = [threads.submit(slow) for _ in range(16)]
        try:
            hold.wait_for(2)
            assert bob.chat_history("s").count() == 1
            # Nobody has waited for the end of any.
            assert not any(call.done() for call in calls)
        finally:
            hold.let_go()
        for call in calls:
            call.result(60)


def test_a_call_within_another_takes_no_second_place():
    share = Share(1, 0.2, lambda: DatabaseLocked("no turn"), Budgets())

    with OnBehalfOf("a"), share, share:
        pass
    with OnBehalfOf("a"), share:
        pass


def test_who_is_interrupted_while_resting_gives_the_place_back(
    monkeypatch: pytest.MonkeyPatch, passes: Callable[[float], None]
):
    budgets = Budgets()
    budgets.spend("a", 10)
    budgets.spend("b", 0.01)
    share = Share(1, 0.2, lambda: DatabaseLocked("no turn"), budgets)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt), OnBehalfOf("a"), share:
            raise AssertionError
    passes(60)
    with OnBehalfOf("a"), share:
        pass


def test_what_is_first_in_a_collection_is_not_looked_up(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    """On SQLite each look-up beside a value of 4 MB reads all of it: 2,000 took ten seconds."""
    asked: list[object] = []
    rows_of_each = Transaction.rows_of_each

    def counted(self: Transaction, statement: Any, every: Any) -> Any:
        asked.extend(every := [*every])
        return rows_of_each(self, statement, every)

    monkeypatch.setattr(Transaction, "rows_of_each", counted)
    notes = memory.scope(user_id="alice", module_id="m").vector_store(EMBEDDINGS)
    texts = [f"text {number}" for number in range(20)]
    notes.add_texts(texts, ids=texts)
    assert not asked

    notes.add_texts(texts, ids=texts)
    assert len(asked) == 20
    assert len(notes.similarity_search("text", k=30)) == 20


def test_a_long_write_counts_for_as_long_as_it_keeps_others_out(
    monkeypatch: pytest.MonkeyPatch, passes: Callable[[float], None]
):
    """Most of a message of 1 MB is the wait for the disk, in which nobody else writes."""
    monkeypatch.setattr(budgets_module, "_BURST_SECONDS", 0.1)
    budgets = Budgets()

    def run(operation: Any) -> None:
        transaction = SimpleNamespace(is_stored=False)
        operation(transaction)
        passes(0.3)
        transaction.is_stored = True

    def work(_: Any, seconds: float) -> None:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    queue = WriteQueue(run, 5, budgets)
    with OnBehalfOf("long"):
        # After the first that takes long, the processor's time is asked for.
        queue.write(work, 0.005)
        queue.write(work, 0.005)
    with OnBehalfOf("short"):
        queue.write(work, 0)

    assert budgets.rest("long") > 0
    assert budgets.rest("short") == 0


def test_a_call_that_came_while_the_pool_was_shut_down_is_not_forgotten():
    """It was put behind one that the pool did not take any more, and nobody would have run it."""
    behind: list[Future[Any]] = []

    class ShutDown(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Any:
            if not behind:
                behind.append(executor.submit("a", lambda: "done"))
            raise RuntimeError("cannot schedule new futures after shutdown")

    executor = FairExecutor(ShutDown(1), 1, Budgets())
    with pytest.raises(RuntimeError):
        executor.submit("a", lambda: "not run")

    assert behind[0].result(60) == "done"
    assert not executor._running
    assert not executor._waiting


@pytest.mark.usefixtures("passes")
def test_who_has_to_rest_does_it_in_one_thread_of_the_pool():
    """Two who did it in half of the threads each left none for anybody else."""
    budgets, hold = Budgets(), Held()
    executor = FairExecutor(ThreadPoolExecutor(4), 2, budgets)
    for owner in ("a", "b", "c"):
        budgets.spend(owner, 10 if owner != "c" else 0)
    blocked = [executor.submit(owner, hold) for owner in "ab" * 50]

    assert executor.submit("c", lambda: "done").result(60) == "done"
    hold.wait_for(2)
    assert sum(future.running() for future in blocked) == 2

    budgets.renew_after_fork()
    hold.let_go()
    assert all(future.result(60) for future in blocked)
    executor.shutdown()
    assert not executor._running
    assert not executor._waiting


def test_a_place_that_an_interrupt_kept_is_the_threads_next_one():
    share = Share(1, 0.2, lambda: DatabaseLocked("no turn"), Budgets())
    with OnBehalfOf("a"):
        share._enter("a")

    with OnBehalfOf("a"), share:
        pass
    with ThreadPoolExecutor(1) as threads:
        threads.submit(share._enter, "a").result()
