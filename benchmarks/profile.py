"""Profiles: one is loaded, saved to and switched, with 200 facts of each of 20 users.

    python -m benchmarks.profile --json profile.json

Ours is encrypted. Beside it LangGraph's SqliteStore, which is not, keeps a user's facts as items
of one namespace: it knows no duplicate, no bound and no revision.
"""

import argparse
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from langgraph.store.sqlite import SqliteStore

from benchmarks.harness import Report, Target, in_turn, machine, microseconds, percentile
from langmem_isolated import IsolatedMemory, LocalRootKey
from tests.postgres import PostgresServer

ROOT_KEY = LocalRootKey(bytes(32))
USERS, FACTS = 20, 200
# Milliseconds that each may take.
LIMITS = {"load": 10.0, "save": 5.0, "switch": 1.0, "page": 10.0}

Action = Callable[[int], object]


def fact(number: int) -> str:
    return f"Fact {number}: the user said that exams of the kind number {number} are on a Friday."


def ours(url: str, *, kept: list[IsolatedMemory]) -> Mapping[str, Action]:
    memory = IsolatedMemory(url, root_key=ROOT_KEY).open()
    kept.append(memory)
    tutors = [memory.scope(user_id=str(n), module_id="tutor") for n in range(USERS)]
    for tutor in tutors:
        tutor.profile().add_facts([fact(number) for number in range(FACTS)])
        tutor.module("planner").profile().add_fact("one")

    def of(number: int) -> int:
        return number % USERS

    return {
        "load": lambda n: tutors[of(n)].profile().contents(),
        "save": lambda n: tutors[of(n)].profile().set_attribute("round", n),
        "save a new fact": lambda n: tutors[of(n)].profile().add_fact(f"new {n}"),
        "switch": lambda n: tutors[of(n)].module("planner").profile(),
        "page": lambda n: tutors[of(n)].overview(),
    }


def sqlite_store(folder: str) -> tuple[SqliteStore, Mapping[str, Action]]:
    connection = sqlite3.connect(
        f"{folder}/theirs.db", check_same_thread=False, isolation_level=None
    )
    connection.execute("PRAGMA journal_mode = WAL")
    store = SqliteStore(connection)
    store.setup()
    for user in range(USERS):
        for number in range(FACTS):
            store.put((str(user), "facts"), str(number), {"text": fact(number)})
    return store, {
        "load": lambda n: store.search((str(n % USERS), "facts"), limit=FACTS + 100),
        "save": lambda n: store.put((str(n % USERS), "round"), "x", {"value": n}),
        "save a new fact": lambda n: store.put(
            (str(n % USERS), "facts"), f"new {n}", {"text": "x"}
        ),
    }


def measure(report: Report, drivers: Mapping[str, Mapping[str, Action]], rounds: int) -> None:
    """Time each action of each driver, all of them in every round."""
    names = list(next(iter(drivers.values())))
    rows = {driver: ["" for _ in names] for driver in drivers}
    for column, name in enumerate(names):
        actions = {driver: [of[name]] for driver, of in drivers.items() if name in of}
        for driver, [seconds] in in_turn(actions, rounds).items():
            taken = microseconds(seconds) / 1e3
            slow = percentile(seconds, 95) * 1e3
            report.measured(name, driver, median_ms=taken, p95_ms=slow)
            rows[driver][column] = f"{taken:.3f} ({slow:.3f})"
            limit = LIMITS.get(name.partition(" ")[0])
            if driver.startswith("ours") and limit:
                report.targets.append(Target(f"{name}, {driver}", taken, limit, unit="ms"))
    title = f"ms, median (95 %), {FACTS} facts of each of {USERS} users"
    report.table(title, ("", *names), [(driver, *cells) for driver, cells in rows.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    options = parser.parse_args()
    report = Report("Profiles", machine("langgraph", "langgraph-checkpoint-sqlite"))
    kept: list[IsolatedMemory] = []
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as server:
        store, theirs = sqlite_store(folder)
        with closing(store.conn):
            drivers = {
                "ours, SQLite": ours(f"sqlite:///{folder}/ours.db", kept=kept),
                "ours, PostgreSQL": ours(server.url(), kept=kept),
                "SqliteStore, WAL": theirs,
            }
            measure(report, drivers, options.rounds)
        for memory in kept:
            memory.close()
    report.finish(options.json)


if __name__ == "__main__":
    main()
