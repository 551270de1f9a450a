"""Promise 5: what a call acknowledged is stored, in order, whatever is killed afterwards."""

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.messages import BaseMessage, HumanMessage

from langmem_isolated import IsolatedChatMessageHistory, IsolatedMemory, LocalRootKey
from langmem_isolated.errors import (
    DatabaseError,
    DatabaseLocked,
    LangmemIsolatedError,
    ValueNotStorable,
)
from tests.conftest import Attacker, Door
from tests.postgres import PostgresServer
from tests.promises.writers import BATCH, Writer, batch, calls_stored, the_session

PARALLEL = [60, 500]


def texts(messages: list[BaseMessage]) -> list[str]:
    return [str(message.content) for message in messages]


def sequence_numbers(attacker: Attacker) -> list[int]:
    rows = attacker("SELECT key FROM records ORDER BY key")
    return [int.from_bytes(key) for (key,) in rows]


# --- many at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", PARALLEL)
def test_parallel_appends_by_threads_are_all_there(
    memory: IsolatedMemory, attacker: Attacker, number: int
):
    """Each thread appends once, all at the same moment."""
    barrier = threading.Barrier(number)

    def append(writer: int) -> None:
        history = the_session(memory)
        barrier.wait()
        history.add_messages([HumanMessage(str(writer))])

    with ThreadPoolExecutor(number) as threads:
        reported = list(threads.map(append, range(number)))

    assert len(reported) == number
    assert sorted(map(int, texts(the_session(memory).messages))) == list(range(number))
    assert sequence_numbers(attacker) == list(range(number))
    assert the_session(memory).count() == number


@pytest.mark.parametrize("number", PARALLEL)
async def test_parallel_appends_by_tasks_are_all_there(
    memory: IsolatedMemory, attacker: Attacker, number: int
):
    await asyncio.gather(
        *(the_session(memory).aadd_messages([HumanMessage(str(n))]) for n in range(number))
    )

    read = texts(await the_session(memory).aget_messages())
    assert sorted(map(int, read)) == list(range(number))
    assert sequence_numbers(attacker) == list(range(number))


@pytest.mark.parametrize("number", PARALLEL)
def test_parallel_appends_by_four_processes_are_all_there(
    memory: IsolatedMemory, database_url: str, attacker: Attacker, number: int
):
    each = number // 4
    writers = [Writer(database_url, name, limit=each) for name in "abcd"]
    for writer in writers:
        writer.finish()

    assert [writer.failures for writer in writers] == [[], [], [], []]
    assert [writer.acknowledged for writer in writers] == [list(range(each))] * 4
    assert calls_stored(the_session(memory)) == {name: list(range(each)) for name in "abcd"}
    assert sequence_numbers(attacker) == list(range(number // 4 * 4 * BATCH))


def test_each_writer_finds_its_own_messages_in_its_own_order(memory: IsolatedMemory):
    """Threads that share one history object, and threads with one of their own."""
    shared = the_session(memory)

    def append(writer: int) -> None:
        history = shared if writer % 2 else the_session(memory)
        for number in range(25):
            history.add_messages(batch(str(writer), number))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(append, range(8)))

    assert calls_stored(the_session(memory)) == {
        str(writer): list(range(25)) for writer in range(8)
    }


def test_readers_beside_writers_see_every_session_whole(memory: IsolatedMemory):
    """A read in the midst of appends is an earlier state, never half of one."""
    done = threading.Event()

    def read() -> int:
        seen = 0
        while not done.is_set():
            count = len(calls_stored(the_session(memory)).get("w", []))
            assert count >= seen
            seen = count
        return seen

    with ThreadPoolExecutor(3) as threads:
        readers = [threads.submit(read) for _ in range(3)]
        for number in range(150):
            the_session(memory).add_messages(batch("w", number))
        done.set()
        assert all(reader.result() > 0 for reader in readers)


def test_first_messages_of_many_users_at_once_are_all_there(memory: IsolatedMemory):
    """Keys, scopes and sessions are made at the same moment by those who come first together."""
    users = [f"user-{number % 10}" for number in range(60)]

    def append(number: int) -> None:
        history = memory.scope(user_id=users[number], module_id="m").chat_history("s")
        history.add_messages([HumanMessage(str(number))])

    with ThreadPoolExecutor(30) as threads:
        list(threads.map(append, range(60)))

    for user in set(users):
        read = texts(memory.scope(user_id=user, module_id="m").chat_history("s").messages)
        assert sorted(map(int, read)) == [n for n in range(60) if users[n] == user]


# --- all or nothing -------------------------------------------------------------------------------


async def test_a_batch_with_one_message_that_cannot_be_stored_stores_nothing(
    memory: IsolatedMemory, door: Door
):
    history = the_session(memory)
    await door(history, "add_messages", [HumanMessage("before")])

    for place in range(3):
        messages = [HumanMessage("one"), HumanMessage("two")]
        messages.insert(place, HumanMessage("bad", additional_kwargs={"it": object()}))
        with pytest.raises(ValueNotStorable):
            await door(history, "add_messages", messages)

    assert texts(await door(history, "messages")) == ["before"]
    assert await door(history, "count") == 1


# Makes the database itself refuse a part of an append: a message that is too large, or the row.
REFUSALS = {
    ("sqlite", "records"): "CREATE TRIGGER refuses BEFORE INSERT ON records WHEN NEW.size > 5000"
    " BEGIN SELECT RAISE(ABORT, 'too large'); END",
    ("sqlite", "sessions"): "CREATE TRIGGER refuses BEFORE UPDATE ON sessions WHEN NEW.count > 3"
    " BEGIN SELECT RAISE(ABORT, 'too many'); END",
    ("postgres", "records"): "ALTER TABLE records ADD CONSTRAINT refuses CHECK (size <= 5000)",
    ("postgres", "sessions"): "ALTER TABLE sessions ADD CONSTRAINT refuses CHECK (count <= 3)",
}


@pytest.mark.parametrize("table", ["records", "sessions"])
async def test_an_append_that_the_database_refuses_midway_stores_nothing(
    memory: IsolatedMemory, attacker: Attacker, door: Door, table: str
):
    first = the_session(memory)
    await door(first, "add_messages", batch("w", 0))
    kind = "postgres" if memory._database.is_postgres else "sqlite"
    attacker(REFUSALS[kind, table])
    too_large = HumanMessage(random.Random(1).randbytes(5000).hex())

    for history in (first, the_session(memory)):
        with pytest.raises(LangmemIsolatedError):
            await door(history, "add_messages", [*batch("w", 1), too_large, *batch("w", 2)])
        assert calls_stored(history) == {"w": [0]}

    for drop in ("DROP TRIGGER refuses", f"ALTER TABLE {table} DROP CONSTRAINT refuses"):
        if drop.startswith("DROP") == (kind == "sqlite"):
            attacker(drop)
    for number, history in enumerate((first, the_session(memory)), 1):
        await door(history, "add_messages", batch("w", number))
    assert calls_stored(first) == {"w": [0, 1, 2]}


def test_an_append_that_found_the_database_locked_stores_nothing(
    sqlite_url: str, root_key: LocalRootKey
):
    with IsolatedMemory(sqlite_url, root_key=root_key, timeout=0.05) as memory:
        history = the_session(memory)
        history.add_messages(batch("w", 0))
        other = Attacker(sqlite_url)
        other("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseLocked):
            history.add_messages(batch("w", 1))
        other("COMMIT")
        other.close()

        history.add_messages(batch("w", 2))

        assert calls_stored(history) == {"w": [0, 2]}


async def test_cancelled_appends_are_stored_whole_or_not_at_all(memory: IsolatedMemory):
    """A cancelled caller does not know; one that was answered does."""
    chance = random.Random(7)
    answered: list[int] = []

    async def append(history: IsolatedChatMessageHistory, number: int) -> None:
        await history.aadd_messages(batch("w", number))
        answered.append(number)

    shared = the_session(memory)
    for wave in range(30):
        tasks = [
            asyncio.create_task(append(shared if n % 2 else the_session(memory), wave * 20 + n))
            for n in range(20)
        ]
        await asyncio.sleep(chance.choice([0, 0.0005, 0.002]))
        for task in chance.sample(tasks, 10):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    memory._database._executor.shutdown()

    stored = calls_stored(the_session(memory)).get("w", [])
    assert len(set(stored)) == len(stored)
    assert set(answered) <= set(stored)
    assert 100 < len(answered) < 600


# --- kill -9 --------------------------------------------------------------------------------------

# Rounds of each setting: 50 together.
SETTINGS = {"FULL": 17, "NORMAL": 17, "postgres": 16}


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_acknowledged_message_survives_kill_9_of_the_writing_process(
    request: pytest.FixtureRequest, root_key: LocalRootKey, setting: str
):
    """At random points of a writer that does nothing but append; the next goes on where it was."""
    is_postgres = setting == "postgres"
    url = request.getfixturevalue("postgres_url" if is_postgres else "sqlite_url")
    options = {} if is_postgres else {"synchronous": setting}
    chance = random.Random(9)
    acknowledged: dict[str, list[int]] = {}
    for number in range(SETTINGS[setting]):
        writer = Writer(url, str(number), **options)
        if number:  # the first is killed while it makes keys, scope and session
            writer.wait_for_first()
        time.sleep(chance.uniform(0, 0.03))
        writer.kill()
        assert writer.failures == []
        acknowledged[writer.name] = writer.acknowledged

        with IsolatedMemory(url, root_key=root_key, **options) as memory:
            stored = calls_stored(the_session(memory))
            the_session(memory).add_messages(batch("after", number))

        for name, numbers in acknowledged.items():
            # At most one more than was acknowledged: the call that was under way.
            assert stored.get(name, []) in (numbers, [*numbers, len(numbers)])
        assert stored.get("after", []) == list(range(number))
    assert sum(map(len, acknowledged.values())) > SETTINGS[setting]


def test_every_acknowledged_message_survives_kill_9_of_the_database_server(
    crashing_server: PostgresServer, root_key: LocalRootKey
):
    """With `fsync` on, while threads append through one memory and a process through another."""
    url, chance = crashing_server.url(), random.Random(9)
    acknowledged: dict[str, list[int]] = {}
    with IsolatedMemory(url, root_key=root_key, timeout=5) as memory:
        the_session(memory).add_messages(batch("first", 0))
        for number in range(4):
            stop = threading.Event()

            def append(name: str, stop: threading.Event = stop) -> None:
                history = the_session(memory)
                for call in range(100_000):
                    if stop.is_set():
                        break
                    try:
                        history.add_messages(batch(name, call))
                    except DatabaseError:
                        continue
                    acknowledged.setdefault(name, []).append(call)

            threads = [
                threading.Thread(target=append, args=(f"thread-{number}-{n}",)) for n in range(3)
            ]
            writer = Writer(url, f"process-{number}")
            for thread in threads:
                thread.start()
            writer.wait_for_first()
            time.sleep(chance.uniform(0.05, 0.25))
            crashing_server.kill()
            stop.set()
            for thread in threads:
                thread.join()
            acknowledged[writer.name] = writer.kill().acknowledged
            crashing_server.start()

            stored = calls_stored_when_back(memory)
            for name, numbers in acknowledged.items():
                there = stored.get(name, [])
                assert set(numbers) <= set(there)
                assert there == sorted(set(there))
            the_session(memory).add_messages(batch("after", number))

        assert len(acknowledged) == 16
        assert sum(map(len, acknowledged.values())) > 100


@pytest.fixture
def crashing_server() -> Iterator[PostgresServer]:
    with PostgresServer(fsync=True) as server:
        yield server


def calls_stored_when_back(memory: IsolatedMemory) -> dict[str, list[int]]:
    """What is stored, read by the memory that saw the crash: it goes on by itself."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return calls_stored(the_session(memory))
        except DatabaseError:
            assert time.monotonic() < deadline, "the memory did not recover"
            time.sleep(0.02)
