"""The life of memory at a size: a million records of ten thousand users, counted, listed, swept.

    python -m benchmarks.lifecycle --json lifecycle.json
    python -m benchmarks.lifecycle --records 100000 --database postgres

The records are made in minutes through the storage floor, sealed as any other, a user a
transaction. Held against a count of the sessions table, against a database with one user, and
against a writer that no sweep, in a process of its own, runs beside.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from langchain_core.messages import AIMessage, HumanMessage
from rich.progress import track
from sqlalchemy import Connection, text

from benchmarks.harness import Report, Target, in_turn, machine, microseconds, ratio
from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._codecs.headers import Header, encode_header
from langmem_isolated._codecs.messages import MessageMetadata, encode_message
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.schema import POSTGRES_SCHEMA
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.session_rules import NO_RULES
from langmem_isolated._storage import entries
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.sessions import writing
from langmem_isolated._storage.sessions.beginning import NewSession
from langmem_isolated._storage.sessions.writing import Message, without_alias
from langmem_isolated._storage.usage import DAY, Use, first_of_day
from tests.postgres import PostgresServer

ROOT_KEY_TEXT = LocalRootKey.generate_text()
ROOT_KEY = LocalRootKey.from_text(ROOT_KEY_TEXT)
# Of each user: sessions of 16 messages, entries that live on, entries that have expired.
SESSIONS, MESSAGES, LIVING, EXPIRED = 5, 16, 10, 10
EACH = SESSIONS * MESSAGES + LIVING + EXPIRED
# Over which all of it came about.
DAYS = 360
MODULES = ("tutor", "planner", "notes", "shop", "help")
MOST_COUNTS, MOST_EMPTY, MOST_BESIDE = 10.0, 1.5, 5.0
SECONDS_ALONE = 20.0
SOMEONE = 77


def said(moment: int, model: Use) -> list[Message]:
    """A session's messages; every other is an answer that counts its tokens."""
    beside = MessageMetadata(moment, "ai")
    asks = encode_message(HumanMessage("How do I divide one half by three quarters? " * 3), beside)
    says = encode_message(AIMessage("Multiply by the reciprocal of the divisor. " * 5), beside)
    turn = [Message(asks, None), Message(says, None, model)]
    return turn * (MESSAGES // 2)


def store_user(
    transaction: Transaction, keys: ScopeKeys, user: int, today: int, model: Use
) -> None:
    """All that a user has, each session on a day of its own."""
    for number in range(SESSIONS):
        # Every user's own days, from the oldest to the newest.
        day = today - DAYS + 1 + number * (DAYS // SESSIONS) + user % (DAYS // SESSIONS)
        moment = day * DAY + user
        first_of_day(day, _store_session)(transaction, keys, number, moment, model)
    ago = (today - 2) * DAY
    living = [Entry(b"%d" % number, bytes(80)) for number in range(LIVING)]
    entries.put(transaction, keys, (b"kept",), living, ago)
    expired = [Entry(b"%d" % number, bytes(80)) for number in range(EXPIRED)]
    entries.put(transaction, keys, (b"short",), expired, ago, DAY)


def _store_session(
    transaction: Transaction, keys: ScopeKeys, number: int, moment: int, model: Use
) -> None:
    session_id = f"session {number}"
    birth = number.to_bytes(8) + keys.birth[:8]
    new = NewSession(encode_header(Header(session_id, "Fractions", "ai")), birth, NO_RULES)
    writing.append(
        transaction, keys, session_id, new, said(moment, model), moment, repeated=without_alias,
        look_first=False, retimed=lambda at: said(at, model),
        channel=b"ai",
    )  # fmt: skip


def records_of(memory: IsolatedMemory, user: int) -> ScopedDatabase:
    """Whose records: a module for each user, by its number."""
    scope = memory.scope(user_id=f"user {user}", module_id=MODULES[user % len(MODULES)])
    return scope._records


def make_user(memory: IsolatedMemory, user: int) -> None:
    """Make what one user has, in one transaction behind that of its keys."""
    today = time.time_ns() // 1000 // DAY
    records, name = records_of(memory, user), f"model {user % 3}"
    model = Use(records.model_digest(name), name, 300, 200)
    # Its days are told in the transaction itself; today is none of them.
    records.keys().active_day = today
    records.write(store_user, user, today, model)


def fill(memory: IsolatedMemory, users: int) -> float:
    """Make what ``users`` have; returns in how many seconds."""
    begin = time.perf_counter()
    for user in track(range(users), f"{users * EACH:,} records", transient=True):
        make_user(memory, user)
    return time.perf_counter() - begin


@contextmanager
def database(kind: str, folder: Path, name: str) -> Iterator[str]:
    """The URL of a new database."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/{name}.db"
        return
    with PostgresServer(fsync=True) as server:
        yield server.url()


def count_sessions(memory: IsolatedMemory) -> int:
    """``count(*)`` of the table, in the driver's words."""
    table = f"{POSTGRES_SCHEMA}.sessions" if memory._database.is_postgres else "sessions"

    def count(connection: Connection) -> int:
        return connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0

    return memory._database.inspect(count)


def analyze(memory: IsolatedMemory) -> None:
    """What autovacuum does in its time; SQLite is left as applications have it."""
    if memory._database.is_postgres:
        memory._database.inspect(lambda connection: connection.execute(text("VACUUM ANALYZE")))


def measure(report: Report, large: IsolatedMemory, small: IsolatedMemory, rounds: int) -> None:
    """Statistics and one user's list, in turn with what they are held against."""
    scopes = [
        memory.scope(user_id=f"user {SOMEONE}", module_id=MODULES[SOMEONE % len(MODULES)])
        for memory in (large, small)
    ]
    taken = {
        name: steps[0]
        for name, steps in in_turn(
            {
                "count(*) of sessions": [lambda _: count_sessions(large)],
                "memory.stats()": [lambda _: large.stats()],
                "memory.stats(module_id=…)": [lambda _: large.stats(module_id="tutor")],
                "memory.stats(largest=20)": [lambda _: large.stats(largest=20)],
                "scope.stats()": [lambda _: scopes[0].stats()],
                "scope.sessions()": [lambda _: scopes[0].sessions()],
                "scope.sessions(), one user": [lambda _: scopes[1].sessions()],
            },
            rounds,
        ).items()
    }
    report.table(
        "median",
        ("call", "ms"),
        [(name, f"{microseconds(seconds) / 1000:.2f}") for name, seconds in taken.items()],
    )
    count, stats = taken["count(*) of sessions"], taken["memory.stats()"]
    report.targets += [
        Target("stats, of a count of the sessions table", ratio(stats, count), MOST_COUNTS),
        Target(
            "a user's sessions, of those in a database with one user",
            ratio(taken["scope.sessions()"], taken["scope.sessions(), one user"]),
            MOST_EMPTY,
        ),
    ]


def slowest_append(memory: IsolatedMemory, is_over: Callable[[], bool]) -> tuple[float, int]:
    """The slowest of a writer's calls, in seconds, and how many there were."""
    history = memory.scope(user_id="writer", module_id="tutor").chat_history("diary")
    worst, calls = 0.0, 0
    while not is_over():
        begin = time.perf_counter()
        history.add_user_message("Another line of the diary.")
        worst, calls = max(worst, time.perf_counter() - begin), calls + 1
    return worst, calls


def measure_sweep(report: Report, url: str, memory: IsolatedMemory) -> None:
    """A writer beside a sweep of all that has expired, and without one for some seconds."""
    end = time.perf_counter() + SECONDS_ALONE
    alone, calls_alone = slowest_append(memory, lambda: time.perf_counter() > end)
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "langmem_isolated", "sweep", "--database", url, "--json"],
        env={**os.environ, "LANGMEM_ISOLATED_ROOT_KEY": ROOT_KEY_TEXT},
        stdout=subprocess.PIPE,
    ) as sweep:
        beside, calls_beside = slowest_append(memory, lambda: sweep.poll() is not None)
        taken = time.perf_counter() - begin
        assert sweep.stdout is not None
        swept = json.load(sweep.stdout)
    report.table(
        f"a sweep of {sum(swept['counts'].values()):,} records in {taken:.0f} s",
        ("writer", "calls a second", "slowest, ms"),
        [
            ("alone", f"{calls_alone / SECONDS_ALONE:.0f}", f"{alone * 1000:.1f}"),
            ("beside the sweep", f"{calls_beside / taken:.0f}", f"{beside * 1000:.1f}"),
        ],
    )
    report.targets.append(
        Target("a writer's slowest call beside a sweep, of alone", beside / alone, MOST_BESIDE)
    )


def main() -> int:
    """Print what was measured; 1 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    users = max(SOMEONE + 1, given.records // EACH)
    report = Report("The life of memory", machine("langmem-isolated", "SQLAlchemy"))
    with (
        tempfile.TemporaryDirectory() as folder,
        database(given.database, Path(folder), "large") as large_url,
        database(given.database, Path(folder), "small") as small_url,
        IsolatedMemory(large_url, root_key=ROOT_KEY, synchronous="NORMAL") as large,
        IsolatedMemory(small_url, root_key=ROOT_KEY, synchronous="NORMAL") as small,
    ):
        taken = fill(large, users)
        make_user(small, SOMEONE)
        for memory in (large, small):
            analyze(memory)
        report.settings["database"] = given.database
        report.settings["records"] = f"{users * EACH:,} of {users:,} users, made in {taken:.0f} s"
        report.settings["sessions"] = f"{count_sessions(large):,}"
        measure(report, large, small, given.rounds)
        measure_sweep(report, large_url, large)
    report.finish(given.json)
    return not all(target.met for target in report.targets)


if __name__ == "__main__":
    sys.exit(main())
