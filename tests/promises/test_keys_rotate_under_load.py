"""Promise: keys are rotated while everybody reads and writes; killed anywhere, nothing is lost.

Afterwards no record names the former key, and the key is gone.
"""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
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


def work(url: str, name: str, end: Path) -> dict[str, int]:
    """Four threads that write and read back until the end; how much each session has got."""
    with closing(opened(url)) as memory, ThreadPoolExecutor(WORKERS) as pool:
        told = pool.map(lambda n: one_worker(memory, f"{name} {n}", end), range(WORKERS))
        return {session: count for counts in told for session, count in counts.items()}


def one_worker(memory: IsolatedMemory, name: str, end: Path) -> dict[str, int]:
    scope, written, number = the_scope(memory), Counter[str](), 0
    saver, store = scope.checkpointer(), scope.store()
    config = at(name)
    while not end.exists():
        session = f"{name} {number // 50}"
        history = scope.chat_history(session)
        history.add_messages([HumanMessage(str(number))])
        written[session] += 1
        store.put(("new", name), "last", {"n": number})
        config = put(saver, config, {"n": number})
        if number % 5 == 0:
            said = [int(str(message.content)) for message in history.messages]
            assert said == [*range(number // 50 * 50, number + 1)]
            item = store.get(("new", name), "last")
            assert item is not None
            assert item.value == {"n": number}
            assert values_at(saver, at(name))["n"] == number
            assert len(scope.chat_history("old 3").messages) > 0
        number += 1
    return written


def assert_all_is_there(memory: IsolatedMemory, records: int, written: dict[str, int]) -> None:
    scope = the_scope(memory)
    for number in range(10):
        said = [str(message.content) for message in scope.chat_history(f"old {number}").messages]
        assert said == [f"{number} {n} {PADDING}" for n in range(records * 7 // 100)]
    for number in range(records // 50):
        item = scope.store().get(("old", str(number % 7)), str(number))
        assert item is not None
        assert item.value == {"n": number}
    for session, count in written.items():
        said = [str(message.content) for message in scope.chat_history(session).messages]
        first = int(session.split()[-1]) * 50
        assert said == [str(n) for n in range(first, first + count)]
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
def test_eight_readers_and_writers_in_two_processes_notice_nothing(
    database_url: str, tmp_path: Path, records: int
):
    with closing(opened(database_url)) as memory:
        fill(memory, records)
        former, there = the_scope(memory)._records.keys().sealing.id, the_scope(memory).sessions
        end, at_work = tmp_path / "end", there.count() + 2 * WORKERS
        children = [Child(work, database_url, name, end) for name in ("one", "two")]
        deadline = time.monotonic() + 60
        while there.count() < at_work:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        rotated = memory.rotate_keys("alice")
        time.sleep(0.5)
        end.touch()
        written: dict[str, int] = {}
        for child in children:
            written |= child.result(timeout=60)
        # Behind their reads, the readers' processes have sealed some themselves.
        assert (rotated.is_done, rotated.keys_destroyed) == (True, 1)
        assert len(written) >= 2 * WORKERS
        assert_all_is_there(memory, records, written)
    assert_former_is_gone(database_url, former)


def test_a_rotation_that_is_killed_at_20_random_points_comes_to_its_end(
    database_url: str, tmp_path: Path
):
    records, chance = 1_500, random.Random(20)
    with closing(opened(database_url)) as memory:
        fill(memory, records)
        former = the_scope(memory)._records.keys().sealing.id
    end = tmp_path / "end"
    worker = Child(work, database_url, "one", end)
    for _ in range(20):
        child = Child(rotate, database_url)
        time.sleep(chance.uniform(0.01, 0.12))
        child.kill()
    rotate(database_url)
    end.touch()
    written = worker.result(timeout=60)
    with closing(opened(database_url)) as memory, closing(Attacker(database_url)) as attacker:
        assert_all_is_there(memory, records, written)
        # Where all was over before it was killed, the next call has made another key.
        found = memory.key_status_of("alice").keys
        assert [key.state for key in found] == ["destroyed"] * (len(found) - 1) + ["active"]
        for table in ("records", "sessions"):
            rows = attacker(f"SELECT sealed FROM {table}")
            assert former not in {bytes(sealed)[1:17] for (sealed,) in rows}
