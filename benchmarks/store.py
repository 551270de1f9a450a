"""Stores: items put, got, searched and listed, 10,000 items of 10 users.

    python -m benchmarks.store --json store.json

Ours is encrypted, the peers are not. They keep a user apart by the first label of a namespace, ours
by the scope. Two drivers are compared where both survive the same: loss of power, or `kill -9`.
SqliteStore is measured as it comes, on a rollback journal, and in WAL as well.
"""

import argparse
import itertools
import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg
from langgraph.store.base import BaseStore, PutOp
from langgraph.store.memory import InMemoryStore
from langgraph.store.postgres import PostgresStore
from langgraph.store.sqlite import SqliteStore

from benchmarks.harness import Report, Target, in_turn, machine, microseconds, ratio
from langmem_isolated import IsolatedMemory, LocalRootKey
from tests.postgres import PostgresServer

OURS, INDEXED, SQLITE, POSTGRES = "ours", "ours, indexed", "SqliteStore", "PostgresStore"
ROOT_KEY = LocalRootKey(bytes(32))
BATCH = 100
TOPICS = 5
DIMENSIONS = 384
KINDS = ("fact", "note", "plan", "wish")

# Our time may be so many times theirs. Where nothing passes a filter, every item of the scope is
# opened: to send and open 1,000 of them takes four times as long as a search of PostgresStore,
# and no code of ours makes it less. That is what the index is for.
LIMITS = {
    SQLITE: {
        "put": 0.45,
        "batch put, per item": 1.5,
        "get": 2,
        "search": 0.5,
        "search + filter": 0.9,
        "filter, no match": 1.5,
    },
    POSTGRES: dict.fromkeys(
        (
            "put",
            "put again",
            "batch put, per item",
            "get",
            "search",
            "search + filter",
            "filter, no match",
            "list_namespaces",
        ),
        1.2,
    ),
}
# Of a store with `equality=`, whose filters the database answers.
INDEXED_LIMITS = {"search + filter": 0.8, "filter, no match": 0.8}


@dataclass(frozen=True)
class Driver:
    """A way to keep items: a store and a namespace to begin with, for each user."""

    name: str
    label: str
    store: Callable[[str], BaseStore]
    root: Callable[[str], tuple[str, ...]]
    peer: str = ""


def shared(name: str, label: str, store: BaseStore) -> Driver:
    """A peer: one store for all, users apart by the first label."""
    return Driver(name, label, lambda _: store, lambda user: (user,))


def ours(
    memory: IsolatedMemory, label: str, peer: str, *, name: str = OURS, **options: Any
) -> Driver:
    stores: dict[str, BaseStore] = {}

    def store(user: str) -> BaseStore:
        if user not in stores:
            stores[user] = memory.scope(user_id=user, module_id=name).store(**options)
        return stores[user]

    return Driver(name, f"{name}, {label}", store, lambda _: (), peer)


def indexed(memory: IsolatedMemory, label: str, peer: str, options: dict[str, Any]) -> list[Driver]:
    """A store beside ours, in the same database, that is indexed; none by meaning."""
    if options:
        return []
    return [ours(memory, label, peer, name=INDEXED, equality=["kind"])]


@contextmanager
def all_drivers(
    folder: Path, server: PostgresServer | None, index: dict[str, Any] | None = None
) -> Iterator[list[Driver]]:
    options: dict[str, Any] = {"index": index} if index else {}
    with ExitStack() as stack:
        drivers = [shared("InMemoryStore", "InMemoryStore", InMemoryStore(**options))]
        # Where Python cannot load extensions, SqliteStore has no vectors either.
        for journal in () if index else ("DELETE", "WAL"):
            connection = sqlite3.connect(
                folder / f"{journal}.db", check_same_thread=False, isolation_level=None
            )
            stack.callback(connection.close)
            connection.execute(f"PRAGMA journal_mode = {journal}")
            durable = connection.execute("PRAGMA synchronous").fetchone()[0]
            assert durable == 2, "SQLite was compiled with another default than FULL"
            label = "SqliteStore" + (", WAL FULL" if journal == "WAL" else "")
            store = SqliteStore(connection, **options)
            store.setup()
            drivers.append(shared(SQLITE if journal == "DELETE" else label, label, store))
        levels: tuple[Literal["FULL", "NORMAL"], ...] = ("FULL", "NORMAL")
        for level in levels:
            url = f"sqlite:///{folder}/ours-{level}.db"
            memory = IsolatedMemory(url, root_key=ROOT_KEY, synchronous=level)
            peer = SQLITE if level == "FULL" else ""
            drivers.append(ours(stack.enter_context(memory), f"SQLite {level}", peer, **options))
            if peer:
                drivers += indexed(memory, f"SQLite {level}", peer, options)
        if server:
            with psycopg.connect(server.url(), autocommit=True) as admin:
                for name in ("theirs", "ours"):
                    admin.execute(f"DROP DATABASE IF EXISTS {name}".encode())
                    admin.execute(f"CREATE DATABASE {name}".encode())
            if not index:
                # Its vectors need an extension, which the server has not.
                theirs = stack.enter_context(PostgresStore.from_conn_string(server.url("theirs")))
                theirs.setup()
                drivers.append(shared(POSTGRES, POSTGRES, theirs))
            memory = IsolatedMemory(server.url("ours"), root_key=ROOT_KEY)
            entered = stack.enter_context(memory)
            drivers.append(ours(entered, "PostgreSQL", POSTGRES, **options))
            drivers += indexed(entered, "PostgreSQL", POSTGRES, options)
        yield drivers


def value(number: int) -> dict[str, Any]:
    """A memory as an agent keeps it: 250 characters, and where they are from."""
    text = f"{number:06} She plays the cello, you said, and her brother the piano. " * 5
    return {
        "text": text[:250],
        "kind": KINDS[number % len(KINDS)],
        "weight": number % 100,
        "tags": ["family", "music", f"tag{number % 7}"],
        "source": {"session": f"session-{number % 50}", "turn": number, "model": "a-model-4"},
    }


class Crowd:
    """The users of one driver, and what is asked of it."""

    def __init__(self, driver: Driver, users: int, items: int) -> None:
        self.driver = driver
        self.items = items
        self.users = [f"user{number}" for number in range(users)]
        # The same sequence for every driver.
        self._random = random.Random(7)
        self._new = itertools.count()

    def _one(self) -> tuple[BaseStore, tuple[str, ...], int]:
        user = self._random.choice(self.users)
        return self.driver.store(user), self.driver.root(user), self._random.randrange(self.items)

    def namespace(self, root: tuple[str, ...], number: int) -> tuple[str, ...]:
        return (*root, "memories", f"topic{number % TOPICS}")

    def fill(self, batch: int) -> None:
        """Put a batch of items for every user."""
        for user in self.users:
            store, root = self.driver.store(user), self.driver.root(user)
            numbers = range(batch * BATCH, batch * BATCH + BATCH)
            store.batch([PutOp(self.namespace(root, n), f"key{n}", value(n)) for n in numbers])

    def put(self, _: int) -> None:
        store, root, number = self._one()
        store.put((*root, "new"), f"new{next(self._new)}", value(number))

    def put_again(self, _: int) -> None:
        store, root, number = self._one()
        store.put(self.namespace(root, number), f"key{number}", value(number))

    def get(self, _: int) -> None:
        store, root, number = self._one()
        item = store.get(self.namespace(root, number), f"key{number}")
        assert item is not None
        assert item.value == value(number)

    def search(self, _: int, *, found: int = 10, **options: Any) -> None:
        store, root, _number = self._one()
        assert len(store.search((*root, "memories"), **options)) == found

    def search_filtered(self, number: int) -> None:
        self.search(number, filter={"kind": "note", "weight": {"$gte": 10}})

    def search_in_vain(self, number: int) -> None:
        self.search(number, found=0, filter={"kind": "none"})

    def list_namespaces(self, _: int) -> None:
        store, root, _number = self._one()
        listed = store.list_namespaces(prefix=(*root, "memories"))
        assert len(listed) == TOPICS


def times(count: int, step: Callable[[int], object]) -> Callable[[int], None]:
    """A step so short that it is taken several times."""

    def repeated(number: int) -> None:
        for _ in range(count):
            step(number)

    return repeated


def measure(report: Report, crowds: Sequence[Crowd], rounds: int) -> None:
    steps: Mapping[str, tuple[int, Callable[[Crowd], Callable[[int], object]]]] = {
        "get": (10, lambda crowd: crowd.get),
        "search": (1, lambda crowd: crowd.search),
        "search + filter": (1, lambda crowd: crowd.search_filtered),
        "filter, no match": (1, lambda crowd: crowd.search_in_vain),
        "list_namespaces": (1, lambda crowd: crowd.list_namespaces),
        "put": (1, lambda crowd: crowd.put),
        "put again": (1, lambda crowd: crowd.put_again),
    }
    batches = crowds[0].items // BATCH
    filled = in_turn({c.driver.label: [c.fill] for c in crowds}, batches, warm_up=0)
    per_batch = BATCH * len(crowds[0].users)
    taken = {
        label: {"batch put, per item": [second / per_batch for second in seconds]}
        for label, (seconds,) in filled.items()
    }
    actions = {
        c.driver.label: [times(count, step(c)) for count, step in steps.values()] for c in crowds
    }
    for label, all_seconds in in_turn(actions, rounds).items():
        for (name, (count, _)), seconds in zip(steps.items(), all_seconds, strict=True):
            taken[label][name] = [second / count for second in seconds]
    _report(report, "µs", [c.driver for c in crowds], taken)


def measure_meaning(report: Report, crowds: Sequence[Crowd], rounds: int) -> None:
    """The same search by a query: 384 numbers an item."""
    for crowd in crowds:
        for batch in range(crowd.items // BATCH):
            crowd.fill(batch)
    actions = {
        c.driver.label: [lambda n, c=c: c.search(n, query=f"a question {n}")] for c in crowds
    }
    taken = {
        label: {"search by meaning": seconds}
        for label, (seconds,) in in_turn(actions, rounds).items()
    }
    _report(report, "by meaning, µs", [c.driver for c in crowds], taken)


def _report(
    report: Report,
    title: str,
    drivers: Sequence[Driver],
    taken: Mapping[str, Mapping[str, list[float]]],
) -> None:
    names = list(taken[drivers[0].label])
    rows = [[d.label, *(microseconds(taken[d.label][name]) for name in names)] for d in drivers]
    report.table(title, ["", *names], rows)
    for driver in drivers:
        for name in names:
            median = microseconds(taken[driver.label][name])
            report.measured(name, driver.label, median_us=median)
    by_name = {driver.name: driver for driver in drivers}
    for driver in drivers:
        limits = INDEXED_LIMITS if driver.name == INDEXED else LIMITS.get(driver.peer, {})
        for name, limit in limits.items():
            if driver.peer in by_name and name in names:
                other = by_name[driver.peer].label
                value = ratio(taken[driver.label][name], taken[other][name])
                what = f"{name}, indexed" if driver.name == INDEXED else name
                report.targets.append(Target(f"{what}, against {other}", value, limit))


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Vectors as an embedding model would give them, at little cost."""
    generators = map(random.Random, texts)
    return [[one.random() - 0.5 for _ in range(DIMENSIONS)] for one in generators]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--items", type=int, default=1_000, help="items of each user")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--sqlite-only", action="store_true")
    parser.add_argument("--folder", type=Path, help="where databases are made; a new one if absent")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    options = parser.parse_args()
    packages = (
        "langgraph-checkpoint",
        "langgraph-checkpoint-sqlite",
        "langgraph-checkpoint-postgres",
    )
    report = Report("Stores", machine(*packages, "psycopg", "SQLAlchemy", "cryptography"))
    report.settings["durability"] = "FULL, or fsync on, unless said otherwise"
    with ExitStack() as stack:
        server = None if options.sqlite_only else stack.enter_context(PostgresServer(fsync=True))
        index = {"dims": DIMENSIONS, "embed": embed, "fields": ["text"]}
        for part, rounds, given in (
            (measure, options.rounds, None),
            (measure_meaning, options.rounds // 10, index),
        ):
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder))
            with all_drivers(Path(folder), server, given) as drivers:
                users = options.users if given is None else 1
                part(report, [Crowd(d, users, options.items) for d in drivers], rounds)
    report.finish(options.json)


if __name__ == "__main__":
    main()
