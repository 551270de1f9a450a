import asyncio
import dis
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

import psycopg
import pytest
import sqlalchemy as sa
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._database import database, dialects, schema, transactions, write_queue
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Transaction
from langmem_isolated.errors import (
    DatabaseCorrupt,
    DatabaseError,
    DatabaseFull,
    DatabaseLocked,
    DatabaseReadOnly,
    DatabaseUnreachable,
    LangmemIsolatedError,
    RecordDoesNotOpen,
)
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.postgres import PostgresServer
from tests.processes import Child, all_at_once, in_child
from tests.spellings import assert_shows_none_of

CANARY = "canary-4b1d"
MODULES = tuple(module.__file__ for module in (database, dialects, transactions, write_queue))
NOTES = sa.Table("notes", sa.MetaData(), sa.Column("number", sa.Integer))
INSERT = sa.insert(NOTES).values(number=sa.bindparam("new_number"))
COUNT = sa.select(sa.func.count()).select_from(NOTES)
NUMBERS = sa.select(NOTES.c.number).order_by(NOTES.c.number)


class Stop(BaseException):
    """What ends a program, as KeyboardInterrupt and CancelledError do."""


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database of either kind with a table of numbers."""
    with closing(Database(database_url, pool_size=4, timeout=60)) as database:
        database.open()
        with closing(Attacker(database_url)) as attacker:
            attacker("CREATE TABLE notes (number INTEGER)")
        yield database


def add(transaction: Transaction, *numbers: int) -> int:
    for number in numbers:
        transaction.execute(INSERT, new_number=number)
    return len(numbers)


def count(transaction: Transaction) -> int:
    row = transaction.row(COUNT)
    assert row is not None
    return int(row[0])


def numbers(database: Database) -> list[int]:
    return [number for (number,) in database.read(Transaction.rows, NUMBERS)]


def pooled(database: Database) -> list[Any]:
    """Every connection that the pool would hand to the next borrowers."""
    fairies = [database._engine.raw_connection() for _ in range(4)]
    raw = [fairy.dbapi_connection for fairy in fairies]
    for fairy in fairies:
        fairy.close()
    return raw


def in_transaction(raw: Any) -> bool:
    if isinstance(raw, sqlite3.Connection):
        return raw.in_transaction
    return bool(raw.info.transaction_status != psycopg.pq.TransactionStatus.IDLE)


def opened_anew(url: str, **options: Any) -> IsolatedMemory:
    return IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), **options)


def say(memory: IsolatedMemory, text: str) -> None:
    memory.scope(user_id="alice", module_id="tutor").chat_history("monday").add_user_message(text)


def heard(memory: IsolatedMemory) -> list[str]:
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
    return [str(message.content) for message in history.messages]


# All or nothing


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, asyncio.CancelledError, Stop])
def test_an_operation_that_raises_writes_nothing_and_leaves_a_clean_connection(
    database: Database, error: type[BaseException]
):
    def half(transaction: Transaction) -> None:
        add(transaction, 1, 2)
        assert count(transaction) == 2
        raise error

    def looking(transaction: Transaction) -> None:
        assert count(transaction) == 0
        raise error

    for run, operation in (
        (database.write, half),
        (database.snapshot, looking),
        (database.read, looking),
    ):
        with pytest.raises(error):
            run(operation)
        assert numbers(database) == []
        assert not any(map(in_transaction, pooled(database)))

    assert database.write(add, 3) == 1
    assert numbers(database) == [3]


def test_what_an_operation_returns_is_stored_when_it_is_returned(
    database: Database, database_url: str
):
    for number in range(5):
        assert database.write(add, number) == 1
        with closing(Attacker(database_url)) as other:
            assert other("SELECT count(*) FROM notes") == [(number + 1,)]


def test_a_statement_that_fails_undoes_those_before_it(database: Database):
    broken = sa.insert(NOTES).values(nothing=sa.bindparam("nothing"))

    def half(transaction: Transaction) -> None:
        add(transaction, 1)
        transaction.execute(sa.text("INSERT INTO nowhere VALUES (1)"))

    with pytest.raises((DatabaseError, sa.exc.CompileError)):
        database.write(Transaction.execute, broken, nothing=1)
    with pytest.raises(DatabaseError, match="nowhere"):
        database.write(half)
    assert numbers(database) == []
    assert not any(map(in_transaction, pooled(database)))


def test_wherever_an_interrupt_strikes_no_connection_is_left_half_used(database: Database):
    """Ctrl-C strikes at every point of the database module at which Python may raise it."""
    written = []
    # Python 3.12 traces instructions only from the second time on.
    with interrupt_at(10_000):
        database.write(add)
    for point in range(10_000):
        with interrupt_at(point) as interrupt, suppress(KeyboardInterrupt):
            database.write(add, point, point)
            written.append(point)
        assert not any(map(in_transaction, pooled(database))), f"after point {point}"
        assert not database._writes._waiting, f"after point {point}"
        with ThreadPoolExecutor(1) as another_thread:
            assert another_thread.submit(database.write, add).result(60) == 0, f"after {point}"
        if not interrupt.raised:
            break

    stored = numbers(database)
    assert point > 10
    # Both numbers of a call or none; what was answered is there.
    assert all(stored.count(number) == 2 for number in set(stored))
    assert set(written) <= set(stored)


class interrupt_at:  # noqa: N801
    """Raises KeyboardInterrupt at the given one of the points at which signals are looked at.

    That is after a call, at the start of a function and at the end of a loop's turn.
    """

    def __init__(self, point: int) -> None:
        self.raised = False
        self._left = point
        # By their ids: a frame that is kept keeps its connection.
        self._last: dict[int, str] = {}

    def __enter__(self) -> Self:
        self._previous = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._previous)

    def _call(self, frame: FrameType, *_: Any) -> Any:
        if frame.f_code.co_filename not in MODULES:
            return None
        frame.f_trace_opcodes = True
        self._last[id(frame)] = ""
        return self._opcode

    def _opcode(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            last = self._last[id(frame)]
            self._last[id(frame)] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if not self.raised and last.startswith(("CALL", "RESUME", "JUMP_BACKWARD")):
                self.raised = self._left == 0
                self._left -= 1
                if self.raised:
                    raise KeyboardInterrupt
        return self._opcode


def test_no_borrower_meets_a_transaction_of_another(database: Database):
    """Many threads, a third of them failing in the middle, on four connections."""
    met = []

    def work(number: int) -> None:
        def operation(transaction: Transaction) -> None:
            if not in_transaction(transaction.connection):
                met.append("no transaction of its own")
            before = count(transaction)
            add(transaction, number)
            if number % 3 == 0:
                raise Stop
            if database.is_postgres:
                return
            if count(transaction) != before + 1:
                met.append("rows of somebody else")

        with suppress(Stop):
            database.write(operation)
        if not database.is_postgres:
            database.read(count)

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(work, range(300)))

    assert met == []
    assert numbers(database) == [number for number in range(300) if number % 3]
    assert not any(map(in_transaction, pooled(database)))


async def test_a_cancelled_caller_leaves_a_clean_connection(database: Database):
    chance = random.Random(3)
    tasks = [asyncio.create_task(database.arun(database.write, add, n)) for n in range(300)]
    for task in tasks:
        if chance.random() < 0.7:
            await asyncio.sleep(0)
            task.cancel()
    answered = await asyncio.gather(*tasks, return_exceptions=True)
    await database.arun(time.sleep, 0)

    database._executor.shutdown()
    stored = numbers(database)
    assert len(stored) == len(set(stored))
    assert {n for n, answer in enumerate(answered) if answer == 1} <= set(stored)
    assert not any(map(in_transaction, pooled(database)))


def test_a_snapshot_sees_one_state(database: Database):
    database.write(add, 1)
    inside, written = threading.Event(), threading.Event()

    def look_twice(transaction: Transaction) -> tuple[int, int]:
        first = count(transaction)
        inside.set()
        assert written.wait(60)
        return first, count(transaction)

    with ThreadPoolExecutor(1) as thread:
        looking = thread.submit(database.snapshot, look_twice)
        assert inside.wait(60)
        database.write(add, 2, 3)
        written.set()
        assert looking.result(60) == (1, 1)
    assert database.read(count) == 3


# Event loops and threads


def test_event_loops_in_several_threads_use_one_memory(database_url: str):
    async def turns(memory: IsolatedMemory, name: str) -> list[str]:
        history = memory.scope(user_id=name, module_id="tutor").chat_history("monday")
        for number in range(20):
            await history.aadd_messages([HumanMessage(f"{name} {number}")])
        return [str(message.content) for message in await history.aget_messages()]

    with opened_anew(database_url) as memory, ThreadPoolExecutor(3) as threads:
        names = ["alice", "bob", "carol"]
        found = list(threads.map(lambda name: asyncio.run(turns(memory, name)), names))

    assert found == [[f"{name} {number}" for number in range(20)] for name in names]


# Forked children


def test_parent_and_forked_children_use_one_memory_at_the_same_time(database_url: str):
    texts = 30

    def talk(name: str) -> list[str]:
        history = memory.scope(user_id=name, module_id="tutor").chat_history("monday")
        for number in range(texts):
            history.add_user_message(f"{name} {number}")
            say(memory, f"{name} {number}")
        return [str(message.content) for message in history.messages]

    with opened_anew(database_url) as memory:
        say(memory, "before")
        talk("warm")
        names = ["first", "second", "parent"]
        children = [Child(talk, name) for name in names[:2]]
        own = talk("parent")
        found = [*(child.result() for child in children), own]
        shared = heard(memory)

    assert found == [[f"{name} {number}" for number in range(texts)] for name in names]
    everything = [f"{name} {number}" for name in [*names, "warm"] for number in range(texts)]
    assert sorted(shared) == sorted(["before", *everything])
    with opened_anew(database_url) as memory:
        assert heard(memory) == shared


def test_a_child_forked_amid_the_writes_of_other_threads_is_free_to_write(database_url: str):
    def child_writes(name: str) -> int:
        history = memory.scope(user_id=name, module_id="tutor").chat_history("monday")
        for number in range(5):
            history.add_user_message(str(number))
        return len(history.messages)

    stop = threading.Event()

    def write_on(name: str) -> int:
        history = memory.scope(user_id=name, module_id="tutor").chat_history("monday")
        written = 0
        while not stop.is_set():
            history.add_user_message(str(written))
            written += 1
        return written

    with opened_anew(database_url) as memory, ThreadPoolExecutor(3) as threads:
        say(memory, "before")
        writers = {f"thread {n}": threads.submit(write_on, f"thread {n}") for n in range(3)}
        try:
            for round_ in range(8):
                assert in_child(child_writes, f"child {round_}") == 5
        finally:
            stop.set()
        written = {name: writer.result() for name, writer in writers.items()}

        for name, number in written.items():
            history = memory.scope(user_id=name, module_id="tutor").chat_history("monday")
            assert [m.content for m in history.messages] == [str(n) for n in range(number)]
        for round_ in range(8):
            scoped = memory.scope(user_id=f"child {round_}", module_id="tutor")
            assert scoped.chat_history("monday").count() == 5


def test_what_a_child_writes_after_its_parent_closed_is_kept(database_url: str, tmp_path: Path):
    """The last connection to leave an SQLite file removes its log: the child's must not be it."""
    memory = opened_anew(database_url).open()
    say(memory, "from the parent")
    gone = tmp_path / "parent-closed"

    def write_later() -> list[str]:
        say(memory, "from the child, before")
        while not gone.exists():
            time.sleep(0.005)
        say(memory, "from the child, after")
        return heard(memory)

    child = Child(write_later)
    time.sleep(0.1)
    memory.close()
    gone.touch()
    expected = ["from the parent", "from the child, before", "from the child, after"]

    assert child.result() == expected
    with opened_anew(database_url) as memory:
        assert heard(memory) == expected


async def test_a_forked_child_may_use_the_async_door(database_url: str):
    async with opened_anew(database_url) as memory:
        history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
        await history.aadd_messages([HumanMessage("parent")])

    def child() -> list[str]:
        def in_its_own_loop() -> list[str]:
            async def turn() -> list[str]:
                await history.aadd_messages([HumanMessage("child")])
                return [str(message.content) for message in await history.aget_messages()]

            return asyncio.run(turn())

        # The thread that forked still looks like one that runs an event loop.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(in_its_own_loop).result()

    assert in_child(child) == ["parent", "child"]


# Connections that died


def end_connections(url: str) -> None:
    """What a restarted server or a firewall does to connections that wait in a pool."""
    with psycopg.connect(url, autocommit=True) as connection:
        others = "FROM pg_stat_activity WHERE datname = current_database()"
        others += " AND pid <> pg_backend_pid()"
        connection.execute(f"SELECT pg_terminate_backend(pid) {others}")
        while connection.execute(f"SELECT count(*) {others}").fetchone() != (0,):
            time.sleep(0.001)


async def test_connections_that_died_in_the_pool_are_replaced_silently(
    postgres_url: str, door: Door
):
    memory = opened_anew(postgres_url, pool_size=4)
    scoped = memory.scope(user_id="alice", module_id="tutor")
    history = scoped.chat_history("monday")
    await door(history, "add_messages", [HumanMessage("one")])
    uses: list[Callable[[], Any]] = [
        lambda: door(history, "messages"),
        lambda: door(history, "count"),
        lambda: door(history, "last", 1),
        lambda: door(scoped.sessions, "__call__"),
        lambda: door(scoped.sessions, "create", "tuesday"),
        lambda: door(scoped.sessions, "rename", "tuesday", "T"),
        lambda: door(memory.scope(user_id="bob", module_id="tutor").sessions, "create", "x"),
        lambda: door(memory, "modules", user_id="bob"),
        lambda: door(scoped.chat_history("new"), "add_messages", [HumanMessage("first")]),
        lambda: door(history, "add_messages", [HumanMessage("two")]),
        lambda: door(history, "add_messages", [HumanMessage("three")]),
        lambda: door(scoped.chat_history("new"), "clear"),
        lambda: door(scoped.sessions, "delete", "tuesday"),
    ]

    for use in uses:
        # All four, so that trying the next pooled one would not do.
        fairies = [memory._database._engine.raw_connection() for _ in range(4)]
        for fairy in fairies:
            fairy.close()
        end_connections(postgres_url)
        await use()

    assert [m.content for m in await door(history, "messages")] == ["one", "two", "three"]
    await door(memory, "close")


def test_a_restarted_server_is_found_again(postgres: PostgresServer, postgres_url: str):
    with opened_anew(postgres_url, timeout=2) as memory:
        say(memory, "before")
        postgres.process.send_signal(signal.SIGINT)
        postgres.process.wait(30)
        for _ in range(2):
            with pytest.raises(DatabaseUnreachable, match="Check the URL"):
                heard(memory)
            with pytest.raises(DatabaseUnreachable):
                say(memory, "lost")
        postgres.start()

        assert heard(memory) == ["before"]
        say(memory, "after")
        assert heard(memory) == ["before", "after"]


def test_a_connection_that_breaks_amid_a_transaction_stores_it_once_or_not_at_all(
    postgres_url: str,
):
    with closing(Database(postgres_url, timeout=30)) as database:
        database.open()
        with closing(Attacker(postgres_url)) as attacker:
            attacker("CREATE TABLE notes (number INTEGER)")
        attempts = []

        def broken_once(transaction: Transaction) -> None:
            attempts.append(len(attempts))
            add(transaction, len(attempts))
            assert count(transaction) == 1
            if len(attempts) == 1:
                end_connections(postgres_url)
            # Something is read, so that the loss shows before the commit is sent: what only a
            # commit notices may have been stored, and is not tried again.
            assert count(transaction) == 1
            add(transaction, 10 * len(attempts))

        database.write(broken_once)

        assert attempts == [0, 1]
        assert numbers(database) == [2, 20]

        def always_broken(transaction: Transaction) -> None:
            attempts.append(len(attempts))
            add(transaction, 99)
            end_connections(postgres_url)
            count(transaction)

        with pytest.raises(DatabaseUnreachable):
            database.write(always_broken)
        assert attempts == [0, 1, 2, 3]
        assert numbers(database) == [2, 20]


def test_an_error_that_is_kept_does_not_hold_its_connection_at_an_old_state(sqlite_url: str):
    """Its frames hold cursors; one that is not at its end keeps SQLite's snapshot open."""
    with closing(Database(sqlite_url, pool_size=1, timeout=0.2)) as database:
        database.open()
        with closing(Attacker(sqlite_url)) as other:
            other("CREATE TABLE notes (number INTEGER)")
            other("INSERT INTO notes VALUES (1), (2), (3)")
            kept: list[BaseException] = []

            def broken(transaction: Transaction) -> None:
                cursor = transaction.query(NUMBERS)
                assert cursor.fetchone() == (1,)
                raise ValueError(len(kept))

            for door in (database.read, database.snapshot, database.write):
                with pytest.raises(ValueError) as caught:
                    door(broken)
                kept.append(caught.value)
                other("INSERT INTO notes VALUES (4)")
                assert len(numbers(database)) == 3 + len(kept)
            database.write(add, 5)

        assert numbers(database) == [1, 2, 3, 4, 4, 4, 5]


# What can be wrong with a database


def failure(url: str, **options: Any) -> DatabaseError:
    """What a first write and a first read say of a database; both must say the same kind."""
    memory = opened_anew(url, **options)
    try:
        with pytest.raises(DatabaseError) as writing:
            say(memory, CANARY)
        with pytest.raises(type(writing.value)):
            heard(memory)
    finally:
        memory.close()
    assert_shows_none_of(writing.value, [CANARY.encode(), ROOT_KEY])
    assert writing.value.__cause__ is None
    assert writing.value.__suppress_context__
    return writing.value


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "sqlite",
        f"mysql://user:{CANARY}@host/name",
        f"oracle://user:{CANARY}@host/name",
        f"postgresql://user:{CANARY}@host:port/name",
        f"postgresql://user:pass@{CANARY}:{CANARY}@host/name",
        f"postgresql://user:{CANARY}@[::1:5432/name",
        f"sqlite://user:{CANARY}@host/name",
        f"sqlite:///na\0me-{CANARY}",
        f"sqlite:///na\udcffme-{CANARY}",
        f"postgresql://user:{CANARY}\udcff@host/name",
    ],
)
def test_a_url_that_is_none_is_refused_without_showing_its_password(url: str):
    with pytest.raises(DatabaseError, match=r"sqlite.*postgresql") as caught:
        opened_anew(url)
    assert_shows_none_of(caught.value, [CANARY.encode()])


@pytest.mark.parametrize(
    "rest",
    ["127.0.0.1:1/name", "127.0.0.1:1/name?sslmode=bogus", "127.0.0.1:1/name?nonsense=1"],
)
def test_an_unreachable_server_is_told_without_the_password(rest: str):
    error = failure(f"postgresql://user:{CANARY}@{rest}", timeout=2)

    assert type(error) is DatabaseUnreachable
    assert "Check the URL" in str(error)
    assert "\n" not in str(error)


def test_a_server_that_does_not_answer_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        memory = opened_anew(f"postgresql://user:{CANARY}@127.0.0.1:{port}/name", timeout=0.5)
        began = time.monotonic()
        with closing(memory), pytest.raises(DatabaseUnreachable) as caught:
            memory.open()

    # Of 30 s that it would be by default.
    assert time.monotonic() - began < 25
    assert_shows_none_of(caught.value, [CANARY.encode()])


def test_a_database_or_role_that_the_server_does_not_know_is_told(postgres: PostgresServer):
    for url in (postgres.url("nowhere"), postgres.url(user="nobody_known")):
        error = failure(url, timeout=2)
        assert type(error) is DatabaseUnreachable
        assert "does not exist" in str(error)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path):
    for path in (tmp_path / "no" / "memory.db", tmp_path):
        error = failure(f"sqlite:///{path}")
        assert type(error) is DatabaseUnreachable
        assert "Check the URL" in str(error)


JUNK = {
    "random bytes": random.Random(1).randbytes(20_000),
    "text": b"Dear diary,\n" * 900,
    "another header": b"SQLite format 4\0" + bytes(9000),
}


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK)
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes):
    path = tmp_path / "diary.txt"
    path.write_bytes(content)

    error = failure(f"sqlite:///{path}")

    assert type(error) is DatabaseCorrupt
    assert "check the URL, or restore the database from a backup" in str(error)
    assert path.read_bytes() == content
    assert [*tmp_path.iterdir()] == [path]


def test_damaged_pages_are_told_and_do_not_stop_other_reading(sqlite_url: str):
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    with opened_anew(sqlite_url) as memory:
        for number in range(40):
            say(memory, str(random.Random(number).randbytes(2000)))
    whole = path.read_bytes()
    page = 4096
    told: set[type] = set()
    for number in range(2, len(whole) // page, 3):
        damaged = bytearray(whole)
        damaged[number * page : (number + 1) * page] = b"\xa5" * page
        path.write_bytes(damaged)
        with closing(opened_anew(sqlite_url)) as memory:
            told.add(outcome(heard, memory))

    assert DatabaseCorrupt in told
    assert told <= {list, DatabaseCorrupt, RecordDoesNotOpen}
    path.write_bytes(whole)
    with opened_anew(sqlite_url) as memory:
        assert len(heard(memory)) == 40


def outcome(function: Callable[..., Any], *args: Any) -> type:
    """The type of what a call returns or raises."""
    try:
        return type(function(*args))
    except LangmemIsolatedError as error:
        return type(error)


@contextmanager
def held(url: str) -> Iterator[None]:
    """Another process is in the middle of a write."""
    if url.startswith("sqlite"):
        program = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
            "c.execute('BEGIN IMMEDIATE')"
        )
    else:
        program = (
            "import psycopg, sys; c = psycopg.connect(sys.argv[1]);"
            "c.execute('LOCK TABLE langmem_isolated.sessions, langmem_isolated.records')"
        )
    program += "; print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, url.removeprefix("sqlite:///")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.kill()


async def test_a_database_that_another_process_holds_is_told_and_nothing_lost(
    database_url: str, door: Door
):
    memory = opened_anew(database_url, timeout=0.15)
    scoped = memory.scope(user_id="alice", module_id="tutor")
    history = scoped.chat_history("monday")
    await door(history, "add_messages", [HumanMessage("before")])

    with held(database_url):
        for write in (
            lambda: door(history, "add_messages", [HumanMessage(CANARY)]),
            lambda: door(scoped.chat_history("new"), "add_messages", [HumanMessage(CANARY)]),
            lambda: door(scoped.sessions, "create", "newer"),
            lambda: door(history, "clear"),
        ):
            took: list[float] = []
            # The least of some tries: a machine with other work makes it longer, never shorter.
            while len(took) < 10 and min(took, default=4) >= 4:
                began = time.monotonic()
                with pytest.raises(DatabaseLocked, match="timeout=") as caught:
                    await write()
                took.append(time.monotonic() - began)
                assert_shows_none_of(caught.value, [CANARY.encode()])
            # SQLite by itself would wait for 5 s, and PostgreSQL for ever.
            assert 0.1 < min(took) < 4
        if database_url.startswith("sqlite"):
            assert [m.content for m in await door(history, "messages")] == ["before"]

    await door(history, "add_messages", [HumanMessage("after")])
    assert [m.content for m in await door(history, "messages")] == ["before", "after"]
    assert [session.id for session in await door(scoped.sessions, "__call__")] == ["monday"]
    await door(memory, "close")


def test_a_timeout_of_weeks_is_no_timeout_at_all_by_overflow(database_url: str):
    memory = opened_anew(database_url, timeout=3e6)
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
    history.add_user_message("before")

    with ThreadPoolExecutor() as pool:
        with held(database_url):
            waiting = pool.submit(history.add_user_message, "after")
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
        waiting.result(30)

    assert [message.text for message in history.messages] == ["before", "after"]
    memory.close()


def test_a_new_file_that_another_is_just_beginning_is_waited_for(sqlite_url: str):
    """SQLite itself would not wait: it fails at once when two turn a file to its log."""
    path = sqlite_url.removeprefix("sqlite:///")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with closing(Database(sqlite_url, timeout=0.1)) as hasty, pytest.raises(DatabaseLocked):
        hasty.open()

    commit = threading.Timer(0.2, other.execute, ["COMMIT"])
    commit.start()
    with opened_anew(sqlite_url, timeout=60) as memory:
        say(memory, "hello")
        assert heard(memory) == ["hello"]
    commit.join()
    other.close()


def test_waiting_for_a_connection_or_a_turn_has_an_end(database_url: str):
    with closing(Database(database_url, pool_size=1, timeout=0.2)) as database:
        database.open()
        inside, done = threading.Event(), threading.Event()

        def keep(_: Transaction) -> None:
            inside.set()
            assert done.wait(60)

        with ThreadPoolExecutor(1) as thread:
            keeping = thread.submit(database.write, keep)
            assert inside.wait(60)
            for run in (database.write, database.read):
                with pytest.raises(DatabaseLocked, match=r"within 0\.2 s"):
                    run(count)
            done.set()
            keeping.result(60)


def as_nobody(function: Callable[..., Any], *args: Any) -> Any:
    """Run in a process of a user who is not root; root may write everything."""

    def without_privileges() -> Any:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        return function(*args)

    return in_child(without_privileges)


READ_ONLY = {
    "file": (0o777, 0o444),
    "folder": (0o555, 0o666),
    "file and folder": (0o555, 0o444),
}


@pytest.mark.parametrize("modes", READ_ONLY.values(), ids=READ_ONLY)
def test_a_read_only_file_or_folder_is_told_and_nothing_lost(modes: tuple[int, int]):
    # Not in pytest's folder, which nobody else may enter.
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    file = folder / "memory.db"
    url = f"sqlite:///{file}"
    with opened_anew(url) as memory:
        say(memory, "before")

    def attempt() -> tuple[str, str]:
        memory = opened_anew(url)
        with closing(memory), pytest.raises(DatabaseError) as caught:
            say(memory, CANARY)
        assert_shows_none_of(caught.value, [CANARY.encode()])
        assert caught.value.__cause__ is None
        return type(caught.value).__name__, str(caught.value)

    try:
        folder.chmod(modes[0])
        file.chmod(modes[1])
        kind, message = as_nobody(attempt)
    finally:
        folder.chmod(0o700)
        file.chmod(0o600)
    assert kind == "DatabaseReadOnly"
    assert "let this user write the file and its folder" in message
    with opened_anew(url) as memory:
        assert heard(memory) == ["before"]
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()


def test_a_url_for_reading_only_is_told(sqlite_url: str):
    with opened_anew(sqlite_url) as memory:
        say(memory, "before")
    path = sqlite_url.removeprefix("sqlite:///")

    with closing(opened_anew(f"sqlite:///file:{path}?mode=ro&uri=true")) as memory:
        with pytest.raises(DatabaseReadOnly):
            say(memory, "late")
        assert heard(memory) == ["before"]


def test_a_server_for_reading_only_is_told(postgres_url: str):
    with opened_anew(postgres_url) as memory:
        say(memory, "before")
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            (name,) = connection.execute("SELECT current_database()").fetchone()
            connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        end_connections(postgres_url)

        with pytest.raises(DatabaseReadOnly, match="that may write"):
            say(memory, CANARY)
        assert heard(memory) == ["before"]


def long_texts() -> Iterator[str]:
    for number in range(1000):
        yield f"{CANARY} {random.Random(number).randbytes(1000).hex()}"


async def test_a_full_database_is_told_and_what_was_stored_is_intact(sqlite_url: str, door: Door):
    memory = opened_anew(sqlite_url)
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
    memory._database._dialect.settings += ("PRAGMA max_page_count = 60",)
    stored = []

    async def fill() -> None:
        for text in long_texts():
            await door(history, "add_messages", [HumanMessage(text)])
            stored.append(text)

    with pytest.raises(DatabaseFull, match="make room and try again") as caught:
        await fill()
    assert len(stored) > 5
    assert_shows_none_of(caught.value, [CANARY.encode()])

    assert [message.content for message in await door(history, "messages")] == stored
    await door(memory, "close")
    with opened_anew(sqlite_url) as memory:
        assert heard(memory) == stored
        say(memory, "after")
        assert heard(memory) == [*stored, "after"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB; where mounting is not allowed, a folder without its limit."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.call(mount, stderr=subprocess.DEVNULL) == 0
    if not mounted:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_what_was_stored_is_intact(small_disk: Path):
    url = f"sqlite:///{small_disk}/memory.db"
    stored: list[str] = []
    with opened_anew(url) as memory:

        def fill() -> None:
            for text in long_texts():
                say(memory, text)
                stored.append(text)

        with pytest.raises(DatabaseFull, match="make room and try again") as caught:
            fill()
        assert_shows_none_of(caught.value, [CANARY.encode()])
        assert len(stored) > 5
        assert heard(memory) == stored
        subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
        say(memory, "after")
        assert heard(memory) == [*stored, "after"]
    with opened_anew(url) as memory:
        assert heard(memory) == [*stored, "after"]


STATES = {
    "53100": DatabaseFull,  # disk_full
    "53200": DatabaseUnreachable,  # out_of_memory
    "53300": DatabaseUnreachable,  # too_many_connections
    "40001": DatabaseLocked,  # serialization_failure
    "40P01": DatabaseLocked,  # deadlock_detected
    "55P03": DatabaseLocked,  # lock_not_available
    "25006": DatabaseReadOnly,  # read_only_sql_transaction
    "42501": DatabaseReadOnly,  # insufficient_privilege
    "57P01": DatabaseUnreachable,  # admin_shutdown
    "58030": DatabaseError,  # io_error
    "XX001": DatabaseCorrupt,  # data_corrupted
    "22003": DatabaseError,  # numeric_value_out_of_range
}


def test_what_a_server_reports_is_told_by_its_kind_and_without_details(postgres_url: str):
    with opened_anew(postgres_url) as memory, closing(Attacker(postgres_url)) as attacker:
        say(memory, "before")
        for number, (state, kind) in enumerate(STATES.items()):
            attacker(
                "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" RAISE EXCEPTION 'refused' USING ERRCODE = '{state}',"
                f" DETAIL = '{CANARY}', HINT = '{CANARY}'; END $$"
            )
            if number == 0:
                attacker(
                    "CREATE TRIGGER refuses BEFORE INSERT ON records"
                    " FOR EACH ROW EXECUTE FUNCTION langmem_isolated.refuse()"
                )
            with pytest.raises(DatabaseError) as caught:
                say(memory, CANARY)
            assert type(caught.value) is kind, state
            assert f"refused (SQLSTATE {state})" in str(caught.value)
            assert_shows_none_of(caught.value, [CANARY.encode()])
        attacker("DROP TRIGGER refuses ON records")
        assert heard(memory) == ["before"]
        say(memory, "after")
        assert heard(memory) == ["before", "after"]


def test_errors_of_the_driver_are_not_chained_with_what_was_to_be_stored(database: Database):
    """A number too large for its column, which drivers like to quote."""
    secret = int.from_bytes(CANARY.encode()) % 10**30

    with pytest.raises((DatabaseError, OverflowError)) as caught:
        database.write(add, secret)

    if isinstance(caught.value, DatabaseError):
        assert_shows_none_of(caught.value, [str(secret).encode()])
    assert numbers(database) == []


_RENAME = (
    sa.update(schema.scopes)
    .where(schema.scopes.c.scope_id == sa.bindparam("which", type_=sa.LargeBinary))
    .values(level=sa.bindparam("new"))
)


@pytest.mark.parametrize("door", ["write", "read"])
def test_a_statement_that_changes_nothing_says_so(
    database_url: str, root_key: LocalRootKey, door: str
):
    """In a transaction of PostgreSQL it is sent ahead, and the answer is not there yet."""
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        scope = memory.scope(user_id="alice", module_id="tutor")
        scope.chat_history("monday").add_user_message("hello")
        run, there = getattr(memory._database, door), scope._records.keys().scope_id

        assert run(Transaction.changes, _RENAME, which=there, new=1) is True
        assert run(Transaction.changes, _RENAME, which=b"nobody", new=2) is False


# Ending


def test_closing_twice_is_fine_and_waits_for_what_runs(database_url: str):
    memory = opened_anew(database_url)
    say(memory, "before")
    loop_ended = []

    async def write_and_close() -> None:
        history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
        writing = asyncio.create_task(history.aadd_messages([HumanMessage("late")]))
        await asyncio.sleep(0)
        await memory.aclose()
        await memory.aclose()
        loop_ended.append(await writing)

    asyncio.run(write_and_close())
    memory.close()

    assert loop_ended == [None]
    with opened_anew(database_url) as memory:
        assert heard(memory) == ["before", "late"]


def test_several_processes_write_to_one_database_without_an_error(database_url: str):
    def talk(name: str) -> None:
        with opened_anew(database_url) as memory:
            for number in range(20):
                say(memory, f"{name} {number}")

    all_at_once([lambda name=name: talk(name) for name in "abc"])

    with opened_anew(database_url) as memory:
        found = heard(memory)
    for name in "abc":
        assert [text for text in found if text[0] == name] == [f"{name} {n}" for n in range(20)]


# File modes


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Nothing is taken from the modes of new files, as in many containers."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


@pytest.mark.parametrize("uri", [False, True])
def test_a_sqlite_database_that_is_made_is_its_owners_alone(
    tmp_path: Path, open_umask: None, uri: bool
):
    """Before SQLite opens it for the first time, and with its log and shared memory."""
    path = tmp_path / "memory ä.db"
    url = f"sqlite:///file:{path}?mode=rwc&uri=true" if uri else f"sqlite:///{path}"
    found = []
    with closing(Database(url)) as database:
        sa.event.listen(
            database._engine, "do_connect", lambda *_: found.append(modes(tmp_path)) and None
        )
        database.open()
        assert found[0] == {path.name: 0o600}
        assert modes(tmp_path) == {
            path.name: 0o600, f"{path.name}-wal": 0o600, f"{path.name}-shm": 0o600,
        }  # fmt: skip


def test_a_sqlite_file_that_is_there_keeps_its_mode(tmp_path: Path):
    path = tmp_path / "memory.db"
    path.touch()
    path.chmod(0o640)

    with closing(Database(f"sqlite:///{path}")) as database:
        database.open()
        assert set(modes(tmp_path).values()) == {0o640}


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_no_file_is_made_where_the_url_says_that_there_must_be_one(tmp_path: Path, mode: str):
    url = f"sqlite:///file:{tmp_path}/memory.db?mode={mode}&uri=true"

    with closing(Database(url)) as database, pytest.raises(DatabaseUnreachable):
        database.open()

    assert modes(tmp_path) == {}


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///:memory:", "sqlite:///file:shared?mode=memory&cache=shared&uri=true"],
)
def test_a_database_in_memory_makes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
):
    monkeypatch.chdir(tmp_path)
    with closing(Database(url)) as database:
        database.open()

    assert modes(tmp_path) == {}


@pytest.mark.parametrize("seed", [7, 8])
def test_scrubbed_files_hold_no_byte_of_a_removed_row_that_sqlite_has_moved_before(
    tmp_path: Path, seed: int
):
    chosen = random.Random(seed)

    def mixed_traffic(connection: sa.Connection) -> list[bytes]:
        execute = connection.exec_driver_sql
        execute("CREATE TABLE mixed (owner, name, sealed, PRIMARY KEY (owner, name)) WITHOUT ROWID")
        for _ in range(800):
            address = chosen.randrange(12).to_bytes() * 16, chosen.randrange(40).to_bytes(2)
            if chosen.random() < 0.9:
                sealed = chosen.randbytes(chosen.randrange(60, 1800))
                execute("INSERT OR REPLACE INTO mixed VALUES (?, ?, ?)", (*address, sealed))
            else:
                execute("DELETE FROM mixed WHERE owner = ? AND name = ?", address)
        gone = execute("DELETE FROM mixed WHERE owner = ? RETURNING sealed", (b"\3" * 16,)).all()
        return [sealed for (sealed,) in gone]

    with closing(Database(f"sqlite:///{tmp_path}/memory.db")) as database:
        removed = database.inspect(mixed_traffic)
        assert database.scrub()

    left = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    pieces = [one[at : at + 24] for one in removed for at in range(0, len(one) - 24, 24)]
    assert pieces
    assert not [piece for piece in pieces if piece in left]
