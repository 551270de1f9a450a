"""Promise: keys are rotated while everybody reads and writes; killed anywhere, nothing is lost.

Afterwards no record names the former key, and the key is gone.
"""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from tests.conftest import ROOT_KEY, Attacker
from tests.processes import Child
from tests.threads import at, put, values_at

WORKERS = 4
"""In each of two processes."""
PADDING = "x" * 60


def opened(url: str) -> IsolatedMemory:
    options: dict[str, Any] = {} if url.startswith("postgres") else {"synchronous": "NORMAL"}
    return IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), pool_size=6, **options)


def the_scope(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


def fill(memory: IsolatedMemory, records: int) -> None:
    """So many records of several kinds: messages, items, elements and checkpoints."""
    scope = the_scope(memory)
    for number in range(10):
        history = scope.chat_history(f"old {number}")
        history.add_messages(
            [HumanMessage(f"{number} {n} {PADDING}") for n in range(records * 7 // 100)]
        )
    store = scope.store()
    for number in range(records // 50):
        store.put(("old", str(number % 7)), str(number), {"n": number})
    for number in range(records // 200):
        config = put(scope.checkpointer(), at(f"old {number % 5}"), {"n": number})
        scope.checkpointer().put_writes(config, [("n", number)], "task")


def work(url: str, name: str, until: float) -> dict[str, int]:
    """Four threads that write and read back until the end; how much each has written."""
    with closing(opened(url)) as memory, ThreadPoolExecutor(WORKERS) as pool:
        told = pool.map(lambda n: one_worker(memory, f"{name} {n}", until), range(WORKERS))
        return dict(told)


def one_worker(memory: IsolatedMemory, name: str, until: float) -> tuple[str, int]:
    scope, number = the_scope(memory), 0
    history, saver, store = scope.chat_history(name), scope.checkpointer(), scope.store()
    config = at(name)
    while time.time() < until:
        history.add_messages([HumanMessage(str(number))])
        store.put(("new", name), "last", {"n": number})
        config = put(saver, config, {"n": number})
        if number % 5 == 0:
            said = [str(message.content) for message in history.messages]
            assert said == [str(n) for n in range(number + 1)]
            item = store.get(("new", name), "last")
            assert item is not None
            assert item.value == {"n": number}
            assert values_at(saver, at(name))["n"] == number
            assert len(scope.chat_history("old 3").messages) > 0
        number += 1
    return name, number


def assert_all_is_there(memory: IsolatedMemory, records: int, written: dict[str, int]) -> None:
    scope = the_scope(memory)
    for number in range(10):
        said = [str(message.content) for message in scope.chat_history(f"old {number}").messages]
        assert said == [f"{number} {n} {PADDING}" for n in range(records * 7 // 100)]
    for number in range(records // 50):
        item = scope.store().get(("old", str(number % 7)), str(number))
        assert item is not None
        assert item.value == {"n": number}
    for name, count in written.items():
        said = [str(message.content) for message in scope.chat_history(name).messages]
        assert said == [str(n) for n in range(count)]
    scope.verify()


def assert_former_is_gone(url: str, former: bytes) -> None:
    with closing(Attacker(url)) as attacker:
        for table in ("records", "sessions"):
            for (sealed,) in attacker(f"SELECT sealed FROM {table}"):
                assert bytes(sealed)[1:17] != former
        states = attacker("SELECT state, wrapped FROM keys WHERE purpose = 3 ORDER BY version")
    assert [(state, wrapped is None) for state, wrapped in states] == [(3, True), (1, False)]


def rotate(url: str) -> None:
    with closing(opened(url)) as memory:
        memory.rotate_keys("alice")


@pytest.mark.parametrize("records", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_eight_readers_and_writers_in_two_processes_notice_nothing(database_url: str, records: int):
    with closing(opened(database_url)) as memory:
        fill(memory, records)
        former = the_scope(memory)._records.keys().sealing.id
        until = time.time() + (3 if records < 10_000 else 60)
        children = [Child(work, database_url, name, until) for name in ("one", "two")]
        time.sleep(0.3)
        rotated = memory.rotate_keys("alice")
        still_at_work = time.time() < until
        written: dict[str, int] = {}
        for child in children:
            written |= child.result(timeout=120)
        assert rotated.is_done
        assert rotated.records > records * 0.7
        assert all(count > 1 for count in written.values())
        assert still_at_work, "it took longer than they had work for"
        assert_all_is_there(memory, records, written)
    assert_former_is_gone(database_url, former)


def test_a_rotation_that_is_killed_at_20_random_points_comes_to_its_end(database_url: str):
    records, chance = 1_500, random.Random(20)
    with closing(opened(database_url)) as memory:
        fill(memory, records)
        former = the_scope(memory)._records.keys().sealing.id
    until = time.time() + 4
    worker = Child(work, database_url, "one", until)
    for _ in range(20):
        child = Child(rotate, database_url)
        time.sleep(chance.uniform(0.01, 0.12))
        child.kill()
    written = worker.result(timeout=60)
    rotate(database_url)
    with closing(opened(database_url)) as memory:
        assert_all_is_there(memory, records, written)
        # Killed or not, one key was made; if all was over before the last call, another one.
        found = memory.key_status_of("alice").keys
        assert [key.state for key in found[:-1]] == ["destroyed"] * (len(found) - 1)
        for table in ("records", "sessions"):
            with closing(Attacker(database_url)) as attacker:
                assert former not in {
                    bytes(sealed)[1:17] for (sealed,) in attacker(f"SELECT sealed FROM {table}")
                }
