"""Cost per user, from ten users to a hundred thousand: rows, bytes, calls, jobs, keys, memory.

    python -m benchmarks.scale --json scale.json
    python -m benchmarks.scale --database postgres --sizes 10 100 1000 10000
    python -m benchmarks.scale --folder databases  # kept for another run

One database grows by users who all have the same, and is copied whenever it has one of the sizes.
Beyond ten thousand, on SQLite, rows are copied under the digests of other users: they take as much
room, their keys and indexes stand among the others', and nobody is they. The copies are then used
in turn, each time as some user at random whose keys are not at hand: so what a size costs is held
against ten users in the same minute. The line is fitted by least squares over the logarithms: a
slope of 0 is a cost that does not grow, of 0.02 one that grows by a fifth over four orders of
magnitude.
"""

import argparse
import hashlib
import math
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psycopg
from langchain_core.embeddings import Embeddings
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.base import PutOp
from rich.progress import track
from sqlalchemy import Connection, text

from benchmarks.harness import Report, Seconds, Target, in_turn, machine, microseconds, ratio
from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._database.schema import POSTGRES_SCHEMA
from langmem_isolated.memory import ScopedMemory
from tests.postgres import PostgresServer

# What each user has: two chat sessions of 12 messages, of 250 characters each, a thread of one
# turn, 10 items and 10 documents of 250 characters with embeddings of 384 dimensions.
SESSIONS, MESSAGES, ITEMS, DOCUMENTS, DIMENSIONS = 2, 12, 10, 10, 384
SIZES = (10, 100, 1_000, 10_000, 100_000)
TEXT = ("What did I tell you about my sister? She plays the cello, you said. " * 4)[:250]
SAID = [(AIMessage if number % 2 else HumanMessage)(TEXT) for number in range(MESSAGES)]
MOST_GROWTH, MOST_SLOPE = 1.2, 0.02
# So many are made by the calls that applications make, which takes 10 ms each and more.
REAL = 10_000
# The tables with rows of users, those first that others refer to; by which column one has rows.
TABLES = {
    "keys": "principal",
    "key_sets": "principal",
    "scopes": "scope_id",
    "key_uses": "scope_id",
    "sessions": "scope_id",
    "records": "scope_id",
    "usage": "scope_id",
}
# Keys of so many owners are kept by default; touching more must not make a process grow.
KEPT = 1_024


class Angles(Embeddings):
    """Numbers as a model gives them, 8 to 24 digits each, and no time spent on making them."""

    _known: ClassVar = [[math.sin(n * at) / 20 for at in range(DIMENSIONS)] for n in range(1, 11)]

    def embed_query(self, text: str) -> list[float]:
        return self._known[len(text) % len(self._known)]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._known[: len(texts)]


EMBEDDINGS = Angles()


class CountingKey:
    """A root key that counts how often it is asked, as a key service would."""

    def __init__(self) -> None:
        self._key = LocalRootKey(bytes(32))
        self.key_id = self._key.key_id
        self.asked = 0

    def wrap(self, *given: Any, **named: Any) -> bytes:
        return self._key.wrap(*given, **named)

    def unwrap(self, *given: Any, **named: Any) -> bytes:
        self.asked += 1
        return self._key.unwrap(*given, **named)


class SqliteFiles:
    """A SQLite file that grows, and its copies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = self._url("growing")

    def _url(self, name: str) -> str:
        return f"sqlite:///{self._folder}/{name}.db"

    def made(self, size: int) -> str | None:
        """The URL of a copy that a former run has left."""
        return self._url(str(size)) if (self._folder / f"{size}.db").exists() else None

    def copy(self, size: int) -> str:
        """The URL of a copy; nobody has the database open."""
        url = self._url(str(size))
        shutil.copyfile(*(one.removeprefix("sqlite:///") for one in (self.url, url)))
        return url

    def multiply(self, times: int) -> None:
        """Give each user's rows to further users, so that there are ``times`` as many."""
        path = self.url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.create_function("other", 2, _other, deterministic=True)
            for setting in ("synchronous = OFF", "foreign_keys = OFF", "cache_size = -1000000"):
                connection.execute(f"PRAGMA {setting}")
            for table, column in TABLES.items():
                _multiply(connection, table, column, times)


def _other(digest: bytes, number: int) -> bytes:
    """The digest of another user, as evenly spread as digests are."""
    return hashlib.sha256(digest + bytes([number])).digest()[: len(digest)]


def _multiply(connection: sqlite3.Connection, table: str, column: str, times: int) -> None:
    columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
    digests = ("scope_id", "principal")
    taken = [f"other({name}, ?2)" if name in digests else f'"{name}"' for name in columns]
    # In the order of the copies' digests: at random every row would read and write a page anew.
    users = connection.execute(
        f"SELECT DISTINCT {column} FROM {table} WHERE {column} IN (SELECT {column} FROM scopes)"
    ).fetchall()
    numbers = range(1, times)
    copies = sorted((_other(user, number), user, number) for (user,) in users for number in numbers)
    connection.execute("BEGIN")
    connection.executemany(
        f"INSERT INTO {table} SELECT {', '.join(taken)} FROM {table} WHERE {column} = ?1",
        [(user, number) for _, user, number in copies],
    )
    connection.execute("COMMIT")


class PostgresDatabases:
    """A database of a PostgreSQL server that grows, and its copies."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._run("CREATE DATABASE growing")
        self.url = server.url("growing")

    def _run(self, statement: str) -> None:
        with psycopg.connect(self._server.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    @staticmethod
    def made(_: int) -> None:
        """Nothing: the server ends with the run."""

    def copy(self, size: int) -> str:
        """The URL of a copy, analysed as autovacuum does it; nobody has the database open."""
        self._run(f"CREATE DATABASE users_{size} TEMPLATE growing")
        with psycopg.connect(self._server.url(f"users_{size}"), autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
        return self._server.url(f"users_{size}")


def scope_of(memory: IsolatedMemory, user: int) -> ScopedMemory:
    return memory.scope(user_id=f"user-{user}", module_id="tutor")


def make_user(memory: IsolatedMemory, graph: Any, user: int) -> None:
    """All that a user has, by the calls that applications make."""
    scope = scope_of(memory, user)
    for number in range(SESSIONS):
        scope.chat_history(f"session-{number}").add_messages(SAID)
    run(scope, graph, "thread")
    values = [{"text": TEXT, "number": number} for number in range(ITEMS)]
    puts = [PutOp(("notes",), f"item-{number}", value) for number, value in enumerate(values)]
    scope.store().batch(puts)
    texts = [f"{number} {TEXT}" for number in range(DOCUMENTS)]
    scope.vector_store(EMBEDDINGS).add_texts(texts, ids=texts)


def run(scope: ScopedMemory, graph: Any, thread: str) -> object:
    """One turn of a graph."""
    said = {"messages": [("human", TEXT)]}
    return scope.bind(graph).invoke(said, {"configurable": {"thread_id": thread}})


def chat() -> Any:
    """A graph of one node that answers."""
    builder = StateGraph(MessagesState)
    builder.add_node("answer", lambda _: {"messages": [("ai", TEXT)]})
    return builder.add_edge(START, "answer").compile()


def grown(
    report: Report, databases: SqliteFiles | PostgresDatabases, sizes: Sequence[int]
) -> list[str]:
    """The URLs of copies with so many users."""
    urls, graph, made = [], chat(), 0
    for size in sizes:
        if url := databases.made(size):
            urls.append(url)
            made = size
            continue
        if size > REAL and isinstance(databases, SqliteFiles):
            databases.multiply(size // made)
        else:
            _make(databases.url, graph, range(made, size))
        report.console.print(f"{size:,} users are made")
        made = size
        urls.append(databases.copy(size))
    return urls


def _make(url: str, graph: Any, users: range) -> None:
    with IsolatedMemory(url, root_key=CountingKey(), synchronous="NORMAL") as memory:
        for user in track(users, f"{users.stop:,} users", transient=True):
            make_user(memory, graph, user)


def tables_of(memory: IsolatedMemory) -> dict[str, tuple[int, int]]:
    """Rows and bytes of each table with its indexes, as the database tells them."""
    is_postgres = memory._database.is_postgres
    listed = (
        f"SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relkind = 'r'"
        f" AND relnamespace = '{POSTGRES_SCHEMA}'::regnamespace"
        if is_postgres
        else "SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_schema USING (name) GROUP BY 1"
    )

    def ask(connection: Connection) -> dict[str, tuple[int, int]]:
        prefix = f"{POSTGRES_SCHEMA}." if is_postgres else ""
        count = f"SELECT count(*) FROM {prefix}{{}}"
        return {
            name: (connection.scalar(text(count.format(name))) or 0, int(size))
            for name, size in connection.execute(text(listed)).all()
        }

    return memory._database.inspect(ask)


def sizes_of_users(
    report: Report, memories: dict[int, IsolatedMemory], fixed: IsolatedMemory
) -> None:
    """Rows and bytes a user, without what a database has before it has any."""
    empty, rows, each = tables_of(fixed), [], {}
    for users, memory in memories.items():
        found = tables_of(memory)
        bytes_ = sum(size for _, size in found.values()) - sum(size for _, size in empty.values())
        count = sum(number for number, _ in found.values())
        each[users] = bytes_ / users
        rows.append((f"{users:,}", count / users, each[users], bytes_ / 2**20))
    largest = max(memories)
    report.table("per user", ("users", "rows", "bytes", "in all, MiB"), rows)
    by_table = [
        (name, number / largest, size / largest)
        for name, (number, size) in tables_of(memories[largest]).items()
        if size / largest > 1
    ]
    report.table(f"a user's part of each table, of {largest:,}", ("", "rows", "bytes"), by_table)
    report.measured("bytes per user", "ours", **{str(users): each[users] for users in each})
    report.measured("tables", "ours", **{name: (n, size) for name, n, size in by_table})
    flat(report, "bytes", {users: value for users, value in each.items() if users >= 100})


def flat(report: Report, what: str, costs: dict[int, float]) -> tuple[float, float]:
    """Hold the cost of each size against the smallest's; the growth, and the slope of the line."""
    smallest, largest = min(costs), max(costs)
    growth = costs[largest] / costs[smallest]
    slope = float(np.polyfit(np.log(list(costs)), np.log(list(costs.values())), 1)[0])
    report.measured(f"growth of {what}", "ours", growth=growth, slope=slope)
    report.targets.append(Target(f"{what} per user, of {smallest:,}'s", growth, MOST_GROWTH))
    return growth, slope


CALLS = (
    "first call of a process",
    "append two messages",
    "load twelve",
    "graph turn, new thread",
    "put an item",
    "search items",
    "search documents",
    "list sessions",
    "a new user's first message",
)


def calls_of(memory: IsolatedMemory, users: int, graph: Any) -> list[Callable[[int], object]]:
    """What a user does, in the order of ``CALLS``; a user at random in each round."""
    chosen = random.Random(1)
    at: dict[str, ScopedMemory] = {}

    def first(_: int) -> object:
        at["scope"] = scope_of(memory, chosen.randrange(min(users, REAL)))
        return at["scope"].chat_history("session-0").last(1)

    def new(number: int) -> object:
        history = scope_of(memory, users + number + 1).chat_history("session-0")
        return history.add_messages(SAID[:2])

    return [
        first,
        lambda _: at["scope"].chat_history("session-0").add_messages(SAID[:2]),
        lambda _: at["scope"].chat_history("session-1").messages,
        lambda number: run(at["scope"], graph, f"thread-{number}"),
        lambda _: at["scope"].store().put(("notes",), "item-1", {"text": TEXT}),
        lambda _: at["scope"].store().search(("notes",), limit=10),
        lambda _: at["scope"].vector_store(EMBEDDINGS).similarity_search(TEXT, k=4),
        lambda _: at["scope"].sessions(),
        new,
    ]


def calls(report: Report, memories: dict[int, IsolatedMemory], rounds: int) -> None:
    """What calls take of the processor at each size, all sizes in turn; the disk's part is none."""
    graph = chat()
    actions = {str(users): calls_of(memory, users, graph) for users, memory in memories.items()}
    taken = in_turn(actions, rounds, warm_up=5, clock=time.process_time)
    smallest, rows = str(min(memories)), []
    for number, call in enumerate(CALLS):
        each = {int(users): steps[number] for users, steps in taken.items()}
        rows.append(_row(report, call, each, taken[smallest][number]))
    header = ["µs of the processor, users:", *(f"{users:,}" for users in memories)]
    report.table("calls, medians", [*header, "times", "slope"], rows)


def _row(report: Report, call: str, each: dict[int, Seconds], base: Seconds) -> list[object]:
    """The growth is of medians of ratios within rounds; a round's noise is in both."""
    costs = {users: ratio(seconds, base) for users, seconds in each.items()}
    growth, slope = flat(report, call, costs)
    medians = {users: microseconds(seconds) for users, seconds in each.items()}
    report.measured(call, "ours", **{str(users): value for users, value in medians.items()})
    return [call, *medians.values(), growth, slope]


def jobs(report: Report, memories: dict[int, IsolatedMemory], folder: Path) -> None:
    """What goes over everybody, and what an erasure and an export of one user take."""
    rows = []
    for users, memory in memories.items():
        done = {
            "statistics": lambda memory=memory: memory.stats(),
            "sweep, nothing due": lambda memory=memory: memory.sweep(),
            "export of a user": lambda memory=memory, n=users: memory.export_user(
                "user-1", folder / f"{n}.zip"
            ),
            "erasure of a user": lambda memory=memory: memory.erase_user("user-2"),
        }
        if not memory._database.is_postgres:
            done["backup"] = lambda memory=memory, n=users: memory.backup(folder / f"{n}.copy")
        taken = {name: _timed(call) for name, call in done.items()}
        rows.append((f"{users:,}", *(seconds * 1e3 for seconds in taken.values())))
        for name, seconds in taken.items():
            report.measured(
                name, "ours", users=users, ms=seconds * 1e3, each_us=seconds * 1e6 / users
            )
        (folder / f"{users}.copy").unlink(missing_ok=True)
    report.table("jobs, ms", ("users", *done), rows)


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def resident() -> float:
    """MiB of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def memory_of_process(report: Report, url: str, users: int) -> None:
    """How a process grows by the users whom it serves, and how often it asks its root key."""
    key, rows, grown, touched = CountingKey(), [], {}, 0
    with IsolatedMemory(url, root_key=key) as memory:
        scope_of(memory, 0).chat_history("session-0").last(1)
        # The first time, a provider that is not ours is tried out as well.
        before, asked = resident(), key.asked
        for upto in [n for n in (KEPT, 2 * KEPT, 9 * KEPT) if n <= min(users, REAL)] or [users]:
            for user in range(touched, upto):
                assert scope_of(memory, user).chat_history("session-0").last(1)
            touched = upto
            grown[upto] = resident() - before
            rows.append((f"{upto:,}", grown[upto], key.asked - asked))
    report.table("one process", ("users served", "grown by MiB", "root key asked again"), rows)
    report.measured("process", "ours", **{str(n): mib for n, mib in grown.items()}, asked=key.asked)
    again = key.asked - asked
    report.targets.append(Target("a process that serves more users asks its root key", again, 0))
    if touched > 2 * KEPT:
        growth = grown[touched] / grown[2 * KEPT]
        what = f"memory of a process that served {touched:,} users, of {2 * KEPT:,}'s"
        report.targets.append(Target(what, growth, MOST_GROWTH))


@contextmanager
def databases_in(kind: str, folder: Path) -> Any:
    """Where databases are made."""
    if kind == "sqlite":
        yield SqliteFiles(folder)
        return
    with PostgresServer(fsync=True) as server:
        yield PostgresDatabases(server)


def main() -> int:
    """Print what was measured; 1 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where SQLite files are kept")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    report = Report("Cost per user", machine("langmem-isolated", "SQLAlchemy"))
    report.settings["database"] = given.database
    report.settings["a user has"] = (
        f"{SESSIONS} sessions of {MESSAGES} messages, a thread of one turn, {ITEMS} items, "
        f"{DOCUMENTS} documents of {DIMENSIONS} dimensions"
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        databases = stack.enter_context(databases_in(given.database, given.folder or folder))
        fixed = databases.made(0) or _empty(databases)
        urls = grown(report, databases, given.sizes)
        memory_of_process(report, urls[-1], given.sizes[-1])

        def opened(url: str) -> IsolatedMemory:
            # Keys of one owner alone are kept, so that a user's first call finds none at hand.
            options = {"key_cache_size": 1, "pool_size": 2, "synchronous": "NORMAL"}
            memory: AbstractContextManager[IsolatedMemory] = IsolatedMemory(
                url, root_key=CountingKey(), **options
            )
            return stack.enter_context(memory)

        memories = {size: opened(url) for size, url in zip(given.sizes, urls, strict=True)}
        sizes_of_users(report, memories, opened(fixed))
        calls(report, memories, given.rounds)
        jobs(report, memories, folder)
    report.finish(given.json)
    return not all(target.met for target in report.targets)


def _empty(databases: SqliteFiles | PostgresDatabases) -> str:
    """The URL of a copy with the tables and the installation's keys, and nobody's."""
    with IsolatedMemory(databases.url, root_key=CountingKey()) as memory:
        memory.scope(user_id="nobody", module_id="tutor").chat_history("s").add_messages(SAID[:1])
        memory.erase_user("nobody")
    return databases.copy(0)


if __name__ == "__main__":
    sys.exit(main())
