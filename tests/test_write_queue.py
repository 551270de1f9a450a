import ctypes
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from langmem_isolated._database import write_queue
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._database.write_queue import WriteQueue
from langmem_isolated.errors import DatabaseLocked
from tests.conftest import Attacker

NOTES = sa.Table("notes", sa.MetaData(), sa.Column("number", sa.Integer))
INSERT = sa.insert(NOTES).values(number=sa.bindparam("new_number"))
NUMBERS = sa.select(NOTES.c.number).order_by(sa.literal_column("rowid"))


class Stop(BaseException):
    """What ends a program, as KeyboardInterrupt does."""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Database]:
    """An open SQLite file with a table of numbers."""
    with opened(tmp_path) as database:
        yield database


@contextmanager
def opened(folder: Path, timeout: float = 60) -> Iterator[Database]:
    url = f"sqlite:///{folder}/notes.db"
    with closing(Database(url, timeout=timeout)) as database:
        database.open()
        with closing(Attacker(url)) as attacker:
            attacker("CREATE TABLE IF NOT EXISTS notes (number INTEGER)")
        yield database


def numbers(database: Database) -> list[int]:
    return [number for (number,) in database.read(Transaction.rows, NUMBERS)]


def adding(number: int, error: BaseException | None = None) -> Callable[[Transaction], int]:
    def add(transaction: Transaction) -> int:
        transaction.execute(INSERT, new_number=number)
        if error is not None:
            raise error
        return 10 * number

    return add


@contextmanager
def at_once(
    database: Database, operations: list[Callable[[Transaction], Any]]
) -> Iterator[list[Future[Any]]]:
    """Writes that all wait while another writes; it ends when the block does."""
    is_writing, go_on = threading.Event(), threading.Event()

    def hold(_: Transaction) -> None:
        is_writing.set()
        assert go_on.wait(60)

    with ThreadPoolExecutor(len(operations) + 1) as threads:
        holder = threads.submit(database.write, hold)
        assert is_writing.wait(60)
        waiting = []
        for number, operation in enumerate(operations, 1):
            waiting.append(one := threads.submit(database.write, operation))
            # One that has so little time may be refused before this thread looks.
            until(lambda n=number, one=one: one.done() or len(database._writes._waiting) == n)
        try:
            yield waiting
        finally:
            go_on.set()
        holder.result(60)
        for one in waiting:
            one.exception(60)
        assert not database._writes._waiting


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_writes_that_wait_share_a_transaction_and_each_gets_its_own_result(file: Database):
    seen = []

    def noting(number: int) -> Callable[[Transaction], int]:
        def note(transaction: Transaction) -> int:
            seen.append(transaction)
            return adding(number)(transaction)

        return note

    with at_once(file, [noting(number) for number in range(20)]) as waiting:
        pass

    assert [write.result() for write in waiting] == [10 * number for number in range(20)]
    assert numbers(file) == list(range(20))
    assert all(one is seen[0] for one in seen)


@pytest.mark.parametrize("error", [ValueError, Stop, KeyboardInterrupt])
def test_a_write_that_fails_fails_alone(file: Database, error: type[BaseException]):
    runs: Counter[int] = Counter()
    transactions = set()

    def counted(number: int) -> Callable[[Transaction], int]:
        def count(transaction: Transaction) -> int:
            runs[number] += 1
            transactions.add(transaction)
            return adding(number, error() if number in (1, 3) else None)(transaction)

        return count

    with at_once(file, [counted(number) for number in range(6)]) as waiting:
        pass

    assert [type(write.exception()) for write in waiting] == [
        error if number in (1, 3) else type(None) for number in range(6)
    ]
    assert sorted(numbers(file)) == [0, 2, 4, 5]
    # By itself, where it meets its own error; the others do not wait for another commit.
    assert runs == {0: 1, 1: 2, 2: 1, 3: 2, 4: 1, 5: 1}
    assert len(transactions) == 3


def test_where_the_database_undoes_everything_each_write_is_done_once(file: Database):
    """As SQLite does by itself where the disk is full."""

    def failing(transaction: Transaction) -> None:
        adding(1)(transaction)
        transaction.execute(sa.text("ROLLBACK"))
        raise ValueError

    with at_once(file, [adding(0), failing, adding(2), adding(3)]) as waiting:
        pass

    assert [write.result() for write in waiting[:1] + waiting[2:]] == [0, 20, 30]
    assert isinstance(waiting[1].exception(), ValueError)
    assert sorted(numbers(file)) == [0, 2, 3]


def test_where_another_process_keeps_the_lock_all_are_refused_in_time(tmp_path: Path):
    with (
        opened(tmp_path, timeout=0.5) as file,
        closing(Attacker(f"sqlite:///{tmp_path}/notes.db")) as attacker,
    ):
        attacker("BEGIN IMMEDIATE")
        begin = time.monotonic()
        with ThreadPoolExecutor(80) as threads:
            refused = [threads.submit(file.write, adding(number)) for number in range(80)]
        took = time.monotonic() - begin
        attacker("ROLLBACK")

        assert all(isinstance(write.exception(), DatabaseLocked) for write in refused)
        # Half a second and what the machine takes; one behind the other they would wait for 40 s.
        assert took < 30
        assert numbers(file) == []


def interrupt(thread: int) -> None:
    """What libraries that limit the time of a thread do."""
    raised = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(Stop)
    )
    assert raised == 1


def test_an_interrupt_amid_the_write_of_another_loses_none(file: Database):
    runs = []

    def interrupting(transaction: Transaction) -> int:
        runs.append(threading.get_ident())
        if len(runs) == 1:
            interrupt(threading.get_ident())
        return adding(1)(transaction)

    with at_once(file, [adding(0), interrupting, adding(2)]) as waiting:
        pass

    assert [write.result() for write in waiting] == [0, 10, 20]
    assert sorted(numbers(file)) == [0, 1, 2]


def test_an_interrupt_amid_a_write_of_its_own_ends_that_one_alone(file: Database):
    def interrupted(transaction: Transaction) -> int:
        interrupt(threading.get_ident())
        return adding(0)(transaction)

    with at_once(file, [interrupted, adding(1), adding(2)]) as waiting:
        pass

    assert type(waiting[0].exception()) is Stop
    assert [write.result() for write in waiting[1:]] == [10, 20]
    assert sorted(numbers(file)) == [1, 2]


def test_what_was_stored_when_an_interrupt_struck_is_not_stored_again(
    file: Database, monkeypatch: Any
):
    leaders = []

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, *values: Any) -> "Cursor":
            result = super().execute(sql, *values)
            if sql == "COMMIT" and leaders == [threading.get_ident()]:
                leaders.append(0)
                raise Stop
            return result

    def leading(transaction: Transaction) -> int:
        leaders.append(threading.get_ident())
        return adding(0)(transaction)

    with at_once(file, [leading, adding(1), adding(2)]) as waiting:
        monkeypatch.setattr(file._dialect, "open_cursor", lambda raw: raw.cursor(Cursor))

    assert type(waiting[0].exception()) is Stop
    assert [write.result() for write in waiting[1:]] == [10, 20]
    assert sorted(numbers(file)) == [0, 1, 2]


def test_a_write_whose_turn_does_not_come_is_refused_and_never_done(tmp_path: Path):
    with opened(tmp_path, timeout=0.2) as file:
        with at_once(file, [adding(1)]) as (waiting,):
            assert isinstance(waiting.exception(60), DatabaseLocked)
            assert numbers(file) == []

        file.write(adding(2))

        assert numbers(file) == [2]


def test_a_write_that_was_begun_in_time_is_not_refused_while_it_lasts(
    tmp_path: Path, monkeypatch: Any
):
    real, passed, looked = time.monotonic, [0], threading.Event()
    monkeypatch.setattr(time, "monotonic", lambda: real() + passed[0])
    monkeypatch.setattr(write_queue, "_LOOK_AGAIN_SECONDS", 0.01)
    time_left = WriteQueue._time_left

    def looking(*args: Any) -> float:
        left = time_left(*args)
        if passed[0]:
            looked.set()
        return left

    def slow(transaction: Transaction) -> int:
        passed[0] = 100
        assert looked.wait(60), "the other write has not looked how much time it has"
        return adding(0)(transaction)

    monkeypatch.setattr(WriteQueue, "_time_left", looking)
    with opened(tmp_path) as file:
        with at_once(file, [slow, adding(1)]) as waiting:
            pass

        assert [write.result() for write in waiting] == [0, 10]
        assert numbers(file) == [0, 1]


def test_a_turn_that_nobody_passed_on_is_taken_up(tmp_path: Path, monkeypatch: Any):
    """Ctrl-C can strike between giving a turn back and waking who waits for it."""
    with opened(tmp_path, timeout=60) as file:
        with at_once(file, [adding(1)]) as (waiting,):
            monkeypatch.setattr(file._writes, "_wake_next", lambda: None)

        assert waiting.result(60) == 10
        assert numbers(file) == [1]


def test_the_main_thread_which_signals_interrupt_writes_for_nobody_else(file: Database):
    writers: dict[int, threading.Thread] = {}
    is_writing, go_on = threading.Event(), threading.Event()

    def noting(number: int) -> Callable[[Transaction], None]:
        def note(transaction: Transaction) -> None:
            writers[number] = threading.current_thread()
            adding(number)(transaction)

        return note

    def hold(_: Transaction) -> None:
        is_writing.set()
        assert go_on.wait(60)

    def queue_behind_the_main_thread() -> None:
        for number in range(1, 5):
            until(lambda n=number: len(file._writes._waiting) == n)
            threads.submit(file.write, noting(number))
        until(lambda: len(file._writes._waiting) == 5)
        go_on.set()

    with ThreadPoolExecutor(6) as threads:
        threads.submit(file.write, hold)
        assert is_writing.wait(60)
        threads.submit(queue_behind_the_main_thread)
        file.write(noting(0))

    assert writers.pop(0) is threading.main_thread()
    assert len(writers) == 4
    assert threading.main_thread() not in writers.values()
    assert sorted(numbers(file)) == list(range(5))


def test_another_process_is_not_kept_out_by_threads_that_write_on_and_on(file: Database):
    """As another process would be: this one has locks of its own."""
    stop = threading.Event()

    def write_on() -> int:
        written = 0
        while not stop.is_set():
            file.write(adding(0))
            written += 1
        return written

    with (
        ThreadPoolExecutor(3) as threads,
        closing(Database(file.url, timeout=60)) as other,
    ):
        writing = [threads.submit(write_on) for _ in range(3)]
        try:
            for number in range(1, 21):
                other.write(adding(number))
        finally:
            stop.set()
        written = sum(one.result() for one in writing)

    found = numbers(file)
    assert [number for number in found if number] == list(range(1, 21))
    assert found.count(0) == written


@settings(max_examples=30, deadline=None)
@given(fails=st.lists(st.booleans(), min_size=1, max_size=12))
def test_what_succeeded_is_stored_once_and_what_failed_is_not(
    tmp_path_factory: pytest.TempPathFactory, fails: list[bool]
):
    with opened(tmp_path_factory.mktemp("queue")) as file:
        errors = [ValueError(number) if fail else None for number, fail in enumerate(fails)]
        operations = [adding(number, error) for number, error in enumerate(errors)]
        with at_once(file, operations) as waiting:
            pass

        assert [write.exception() for write in waiting] == errors
        assert sorted(numbers(file)) == [n for n, fail in enumerate(fails) if not fail]
