"""Promises 1 and 5 for LangGraph threads: many at once, none loses anything or sees another's."""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Any, ClassVar

import pytest
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._storage.containers import ContainerRows
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from langmem_isolated.errors import SessionNotFound
from tests.conftest import ROOT_KEY, Attacker
from tests.processes import Child, all_at_once
from tests.promises.test_users_cannot_see_each_other import (
    connections_in_use,
    pooled_connections_are_idle,
)
from tests.promises.turns import talk, turns_in
from tests.threads import at, checkpoint, count, id_of, put, values_at

SAID = [HumanMessage(f"message {number} {'x' * 200}", id=str(number)) for number in range(8)]


def opened(url: str) -> IsolatedMemory:
    return IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY))


def saver_of(memory: IsolatedMemory, user: str = "alice") -> IsolatedCheckpointSaver:
    return memory.scope(user_id=user, module_id="tutor").checkpointer(allow=[Late])


# --- sweeps against puts --------------------------------------------------------------------------


@dataclass
class Late:
    """Its field is read when all that stands before it is encoded; then something happens, once."""

    number: int = 0
    meanwhile: ClassVar[list[Callable[[], object]]] = []

    def __getattribute__(self, name: str) -> Any:
        if name == "number" and Late.meanwhile:
            Late.meanwhile.pop()()
        return super().__getattribute__(name)


SWEEPS: dict[str, Callable[[IsolatedCheckpointSaver], None]] = {
    "prune": lambda saver: saver.prune(["t"]),
    "delete_thread": lambda saver: saver.delete_thread("t"),
    "delete_for_runs": lambda saver: saver.delete_for_runs(["old"]),
}


def store(saver: IsolatedCheckpointSaver, what: str, config: RunnableConfig) -> None:
    """Refer to all messages behind ``config``, and read them back."""
    if what == "checkpoint":
        stored = put(saver, config, {"messages": SAID, "late": Late()}, run_id="new")
        assert values_at(saver, stored)["messages"] == SAID
        return
    saver.put_writes(config, [("messages", SAID), ("late", Late())], "task")
    found = saver.get_tuple(config)
    if found is not None:
        assert (found.pending_writes or [])[0][2] == SAID


def conversation_begun(saver: IsolatedCheckpointSaver) -> RunnableConfig:
    """A thread whose messages only an older checkpoint refers to."""
    return put(saver, put(saver, at("t"), {"messages": SAID}, run_id="old"), {}, run_id="new")


@pytest.mark.parametrize("what", ["checkpoint", "writes"])
@pytest.mark.parametrize("sweep", SWEEPS)
def test_what_refers_to_elements_that_another_thread_removes_at_that_moment_has_them(
    memory: IsolatedMemory, sweep: str, what: str
):
    saver, happened = saver_of(memory), []
    config = conversation_begun(saver)

    with ThreadPoolExecutor(1) as threads:
        Late.meanwhile = [lambda: happened.append(threads.submit(SWEEPS[sweep], saver).result())]
        store(saver, what, config)

    assert len(happened) == 1
    assert saver.verify_thread("t") > 0


@pytest.mark.parametrize("what", ["checkpoint", "writes"])
@pytest.mark.parametrize("sweep", SWEEPS)
def test_what_refers_to_elements_that_another_process_removes_at_that_moment_has_them(
    memory: IsolatedMemory, database_url: str, sweep: str, what: str
):
    """Both processes have read the thread and stored in it before."""
    config = conversation_begun(saver_of(memory))
    ours, others = Pipe()

    def other() -> int:
        with opened(database_url) as theirs:
            saver = saver_of(theirs)
            put(saver, config, {"messages": SAID[:2]}, run_id="old")
            assert saver.get_tuple(at("t")) is not None
            others.send("warm")
            others.recv()
            SWEEPS[sweep](saver)
            others.send("swept")
            others.recv()
            # The other way round: what it knew before the sweep is not of use any more.
            stored = put(saver, config, {"messages": SAID}, run_id="new")
            assert values_at(saver, stored)["messages"] == SAID
            return saver.verify_thread("t")

    def meanwhile() -> None:
        ours.send("sweep")
        assert ours.recv() == "swept"

    child = Child(other)
    assert ours.recv() == "warm"
    saver = saver_of(memory)
    last = put(saver, config, {"messages": SAID[:3]}, run_id="new")
    Late.meanwhile = [meanwhile]
    store(saver, what, last)
    assert Late.meanwhile == []
    saver.verify_thread("t")
    SWEEPS[sweep](saver)
    ours.send("store")

    assert child.result() > 0
    assert saver.verify_thread("t") > 0


def storm(url: str, seed: int, seconds: float) -> int:
    """Store, prune and delete in one thread, from three threads of a process; what was stored."""
    stored = []

    def work(number: int) -> None:
        chance, end = random.Random(seed * 10 + number), time.monotonic() + seconds
        config = put(saver, at("t"), {"messages": SAID})
        while time.monotonic() < end:
            match chance.randrange(12):
                case 0:
                    saver.prune(["t"], keep_last=chance.choice([1, 2]))
                case 1:
                    saver.delete_for_runs([str(chance.randrange(4))])
                case 2 if chance.random() < 0.3:
                    saver.delete_thread("t")
                case 3 | 4:
                    saver.put_writes(config, [("a", chance.sample(SAID, 4))], str(number))
                case 5:
                    found = saver.get_tuple(at("t"))
                    assert found is None or set(texts(found)) <= {m.content for m in SAID}
                case _:
                    said = chance.sample(SAID, chance.randrange(9))
                    config = put(saver, config, {"messages": said}, run_id=str(chance.randrange(4)))
                    found = saver.get_tuple(config)
                    assert found is None or texts(found) == [m.content for m in said]
                    stored.append(id_of(config))

    with opened(url) as memory:
        saver = saver_of(memory)
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(work, range(3)))
        saver.verify_thread("t")
    return len(stored)


def texts(found: Any) -> list[str]:
    messages: list[BaseMessage] = found.checkpoint["channel_values"].get("messages", [])
    return [str(message.content) for message in messages]


def test_after_a_storm_of_puts_and_sweeps_by_threads_of_two_processes_every_reference_resolves(
    memory: IsolatedMemory, database_url: str
):
    put(saver_of(memory), at("t"), {"messages": SAID})

    stored = all_at_once([lambda seed=seed: storm(database_url, seed, 1.5) for seed in range(2)])

    assert min(stored) > 10
    saver = saver_of(memory)
    saver.verify_thread("t")
    for found in saver.list(at("t")):
        assert set(texts(found)) <= {message.content for message in SAID}


# --- writers of one thread ------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["a thread", "a session", "a cleared session"])
def test_what_begins_while_it_is_removed_stays_whole(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, what: str
):
    def begin(scope: ScopedMemory) -> None:
        put(scope.checkpointer(), at("t"), {"messages": SAID})
        scope.chat_history("s").add_messages(SAID)

    with opened(postgres_url) as memory, opened(postgres_url) as other:
        alice, elsewhere = (m.scope(user_id="alice", module_id="m") for m in (memory, other))
        for scope in (alice, elsewhere):
            put(scope.checkpointer(), at("another"), {"messages": SAID})
        lock, has_begun = ContainerRows.lock, threading.Event()

        def lock_before_it_begins(*args: Any) -> Any:
            row = lock(*args)
            if row is None and not has_begun.is_set():
                has_begun.set()
                begin(elsewhere)
            return row

        monkeypatch.setattr(ContainerRows, "lock", lock_before_it_begins)
        if what == "a thread":
            alice.checkpointer().delete_thread("t")
        elif what == "a cleared session":
            alice.chat_history("s").clear()
        else:
            with suppress(SessionNotFound):
                alice.sessions.delete("s")

        assert has_begun.is_set()
        assert texts(alice.checkpointer().get_tuple(at("t"))) == [m.content for m in SAID]
        assert alice.checkpointer().verify_thread("t") == 1
        assert alice.chat_history("s").messages == SAID


def test_processes_that_write_one_thread_at_once_lose_nothing_and_share_their_messages(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    begin = put(saver_of(memory), at("t"), {"messages": SAID[:1]})
    each = 30

    def write(name: str) -> dict[str, list[str]]:
        stored = {}
        with opened(database_url) as theirs:
            saver, config = saver_of(theirs), begin
            for number in range(each):
                own = HumanMessage(f"{name} {number} {'x' * 200}", id=f"{name} {number}")
                said = [*SAID, own]
                config = put(saver, config, {"messages": said})
                saver.put_writes(config, [("messages", own)], name)
                stored[id_of(config)] = [str(message.content) for message in said]
        return stored

    stored: dict[str, list[str]] = {}
    for one in all_at_once([lambda name=name: write(name) for name in "abc"]):
        stored |= one

    saver = saver_of(memory)
    found = {id_of(one.config): one for one in saver.list(at("t"))}
    assert {key: texts(found[key]) for key in stored} == stored
    assert len(found) == 1 + 3 * each
    for key in stored:
        [(_, channel, message)] = found[key].pending_writes or []
        assert (channel, message.content) == ("messages", stored[key][-1])
    assert saver.verify_thread("t") == 1 + 3 * each * 2
    assert count(attacker) == len(SAID) + 3 * each


def test_writes_of_many_tasks_behind_one_checkpoint_at_once_are_all_there(memory: IsolatedMemory):
    """LangGraph's tasks end together, some of them before their checkpoint is stored."""
    saver, number = saver_of(memory), 16
    new = checkpoint({"messages": SAID})
    config = at("t", new["id"])
    special = ["__error__", "__interrupt__", "__resume__", "__scheduled__"]
    barrier = threading.Barrier(2 * number + len(special) + 1)

    def write(task: str, channel: str, value: Any) -> None:
        barrier.wait()
        saver.put_writes(config, [(channel, value)], task)

    with ThreadPoolExecutor(barrier.parties) as threads:
        done = [
            *(threads.submit(write, f"task {n:2}", "messages", SAID[n % 8]) for n in range(number)),
            *(threads.submit(write, "same", "messages", SAID[n % 8]) for n in range(number)),
            *(threads.submit(write, "same", channel, channel) for channel in special),
        ]
        barrier.wait()
        saver.put(at("t"), new, {}, {})
        for one in done:
            one.result()

    found = saver.get_tuple(config)
    assert found is not None
    written = found.pending_writes or []
    by_task = {task: value for task, channel, value in written if task != "same"}
    assert by_task == {f"task {n:2}": SAID[n % 8] for n in range(number)}
    of_same = [(channel, value) for task, channel, value in written if task == "same"]
    assert {channel for channel, _ in of_same} == {"messages", *special}
    assert len(of_same) == 1 + len(special)
    assert saver.verify_thread("t") == 1 + number + 1


# --- many users -----------------------------------------------------------------------------------

USERS = [f"user-{number}" for number in range(50)]
TURNS = 2


def questions(user: str) -> list[str]:
    return [f"{user} {number}" for number in range(TURNS)]


def assert_each_has_its_own(memory: IsolatedMemory) -> None:
    for user in USERS:
        saver = saver_of(memory, user)
        [thread] = saver.threads()
        assert thread.id == "same"
        assert saver.verify_thread("same") > 0
        found = saver.get_tuple(at("same"))
        assert found is not None
        assert turns_in(found.checkpoint["channel_values"]) == questions(user)


def test_fifty_users_in_threads_at_once_each_have_all_their_turns_and_no_others(
    memory: IsolatedMemory,
):
    graph, barrier = talk(), threading.Barrier(len(USERS))

    def turns(user: str) -> None:
        bound = memory.scope(user_id=user, module_id="tutor").bind(graph)
        barrier.wait()
        for number, text in enumerate(questions(user)):
            answered = bound.invoke({"messages": [HumanMessage(text)]}, at("same"))
            assert turns_in(answered) == questions(user)[: number + 1]

    with ThreadPoolExecutor(len(USERS)) as pool:
        list(pool.map(turns, USERS))

    assert_each_has_its_own(memory)


async def test_fifty_users_in_tasks_at_once_each_have_all_their_turns_and_no_others(
    memory: IsolatedMemory,
):
    """With the scope in the config: one graph serves all."""
    graph = talk().copy({"checkpointer": memory.checkpointer()})

    async def turns(user: str) -> None:
        config = at("same", user_id=user, module_id="tutor")
        for number, text in enumerate(questions(user)):
            answered = await graph.ainvoke({"messages": [HumanMessage(text)]}, config)
            assert turns_in(answered) == questions(user)[: number + 1]
            assert turns_in((await graph.aget_state(config)).values) == turns_in(answered)

    await asyncio.gather(*map(turns, USERS))

    assert_each_has_its_own(memory)


async def test_storms_of_cancelled_runs_leave_no_half_used_connection_and_no_foreign_read(
    database_url: str, root_key: LocalRootKey
):
    """Two users with the same threads, and two connections: a reply left on one would cross."""
    chance, users, graph = random.Random(7), ["alice", "bob"], talk()
    read: list[tuple[str, str]] = []
    cancelled = finished = 0
    async with IsolatedMemory(database_url, root_key=root_key, pool_size=2) as memory:
        graphs = {user: memory.scope(user_id=user, module_id="tutor").bind(graph) for user in users}

        async def turn(user: str, number: int) -> None:
            config = at(f"thread {number % 3}")
            match number % 4:
                case 0 | 1:
                    question = HumanMessage(f"{user} {number}")
                    states = [await graphs[user].ainvoke({"messages": [question]}, config)]
                case 2:
                    states = [(await graphs[user].aget_state(config)).values]
                case _:
                    states = [s.values async for s in graphs[user].aget_state_history(config)]
            for state in states:
                read.extend((user, message.content) for message in state.get("messages", []))

        for wave in range(12):
            tasks = [asyncio.create_task(turn(users[n % 2], wave * 20 + n // 2)) for n in range(20)]
            for task in chance.sample(tasks, 15):
                await asyncio.sleep(chance.choice([0, 0, 0.002, 0.005]))
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert outcome is None or isinstance(outcome, asyncio.CancelledError)
                cancelled += outcome is not None
                finished += outcome is None

        assert (cancelled > 40, finished > 40) == (True, True)
        assert {(user, text.removeprefix("answer to ").split()[0]) for user, text in read} == {
            (user, user) for user in users
        }
        for user in users:
            saver = saver_of(memory, user)
            for thread in await saver.athreads():
                await saver.averify_thread(str(thread.id))
                stored = (await graphs[user].aget_state(at(str(thread.id)))).values
                assert {f"{user} " in text for text in map(str, stored["messages"])} == {True}
        memory._database.submit(int).result()
        await asyncio.sleep(0.05)
        assert connections_in_use(memory) == 0
        assert pooled_connections_are_idle(memory)
