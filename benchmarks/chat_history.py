"""Chat histories: a turn appended, a session loaded, many sessions, many users at once.

    python -m benchmarks.chat_history --json chat_history.json

Ours is encrypted, the peers are not. The floor is what Python does with the driver alone: a raw
connection, a key made ready beforehand, one table, our codec. It authenticates every message, but
neither the end of a session nor who reads it. Two drivers are compared where their durability is
the same, as their databases report it; SQLChatMessageHistory is shown at its own default, too.
"""

import argparse
import gc
import itertools
import json
import os
import sqlite3
import statistics
import tempfile
import threading
import time
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from uuid import uuid4

import psycopg
import sqlalchemy as sa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from langchain_community.chat_message_histories import SQLChatMessageHistory
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, message_to_dict
from langchain_postgres import PostgresChatMessageHistory

from benchmarks.harness import (
    Report,
    Seconds,
    Target,
    in_turn,
    machine,
    microseconds,
    percentile,
    ratio,
)
from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._codecs.messages import decode_message, encode_message
from tests.postgres import PostgresServer

C = TypeVar("C")

OURS, FLOOR, LIST = "ours", "floor", "plain list"
IN_MEMORY = "InMemoryChatMessageHistory"
COMMUNITY, LANGCHAIN_POSTGRES = "SQLChatMessageHistory", "langchain-postgres"
SQLITE, POSTGRES = "SQLite", "PostgreSQL"
Synchronous = Literal["FULL", "NORMAL"]
SETTINGS: tuple[Synchronous, ...] = ("FULL", "NORMAL")

ROOT_KEY = LocalRootKey(bytes(32))
SESSIONS_PER_USER = 100
MESSAGES_PER_SESSION = 10
SAMPLE = 20
# Of the applications that keep some messages back and write them together.
BUFFER = 3


class Session(NamedTuple):
    """One chat session of one driver."""

    append: Callable[[Sequence[BaseMessage]], object]
    load: Callable[[], Sequence[BaseMessage]]


@dataclass(frozen=True)
class Driver:
    """A way to keep chat sessions, given a user and a session id."""

    name: str
    database: str
    durability: str
    session: Callable[[str, str], Session]
    per_request: bool = False
    """Whether users make their history anew for each turn, rather than keep it."""

    @property
    def label(self) -> str:
        how = ", made per request" if self.per_request else ""
        return f"{self.name}, {self.database} {self.durability}".rstrip(", ") + how

    def compares_with(self, other: "Driver") -> bool:
        return (self.database, self.per_request) == (other.database, other.per_request) and (
            other.durability in (self.durability, _AS_DURABLE.get(self.durability))
        )


# SQLite's default, too, survives loss of power with every commit.
_ROLLBACK = "DELETE FULL"
_AS_DURABLE = {"WAL FULL": _ROLLBACK}

Opener = Callable[..., AbstractContextManager[Driver]]


class Pool(Generic[C]):
    """Connections for as many threads as ask at once."""

    def __init__(self, connect: Callable[[], C]) -> None:
        self._connect = connect
        self._free: deque[C] = deque()

    @contextmanager
    def one(self) -> Iterator[C]:
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self._connect()
        yield connection
        self._free.append(connection)

    def close(self, close: Callable[[C], object]) -> None:
        while self._free:
            close(self._free.pop())


def turns(messages: int) -> list[BaseMessage]:
    """A conversation, 250 characters a message."""
    said = ("What did I tell you about my sister? ", "She plays the cello, you said. ")
    return [
        (AIMessage if number % 2 else HumanMessage)(f"{number:06} {said[number % 2] * 9}"[:250])
        for number in range(messages)
    ]


TURN = turns(2)


def sqlite_durability(value: Callable[[str], Any]) -> str:
    synchronous = ("OFF", "NORMAL", "FULL", "EXTRA")[value("PRAGMA synchronous")]
    return f"{value('PRAGMA journal_mode').upper()} {synchronous}"


def postgres_durability(value: Callable[[str], Any]) -> str:
    return f"fsync {value('SHOW fsync')}, commit {value('SHOW synchronous_commit')}"


def of_engine(engine: sa.Engine) -> str:
    durability = sqlite_durability if engine.name == "sqlite" else postgres_durability
    with engine.connect() as connection:
        return durability(lambda sql: connection.exec_driver_sql(sql).scalar())


def of_cursor(cursor: Any) -> str:
    durability = (
        sqlite_durability if isinstance(cursor, sqlite3.Connection) else postgres_durability
    )
    return durability(lambda sql: cursor.execute(sql).fetchone()[0])


def kind_of(url: str) -> str:
    return SQLITE if url.startswith("sqlite") else POSTGRES


@contextmanager
def plain_list() -> Iterator[Driver]:
    kept: dict[str, list[BaseMessage]] = defaultdict(list)
    yield Driver(LIST, "", "", lambda _, name: Session(kept[name].extend, kept[name].copy))


@contextmanager
def in_memory() -> Iterator[Driver]:
    """LangChain's own history, in which everything goes with the process."""
    kept: dict[str, InMemoryChatMessageHistory] = {}

    def session(_: str, name: str) -> Session:
        with warnings.catch_warnings():
            # Deprecated in langchain-core, and still what people begin with.
            warnings.simplefilter("ignore", DeprecationWarning)
            history = kept.setdefault(name, InMemoryChatMessageHistory())
        return Session(history.add_messages, lambda: history.messages)

    yield Driver(IN_MEMORY, "", "", session)


@contextmanager
def community(
    url: str, synchronous: Synchronous | None = None, *, per_request: bool = False
) -> Iterator[Driver]:
    """SQLChatMessageHistory on one engine, or as its documentation has it: a URL each time."""
    address = url.replace("postgresql:", "postgresql+psycopg:")
    engine = sa.create_engine(address)
    if synchronous:

        @sa.event.listens_for(engine, "connect")
        def _(raw: Any, _: object) -> None:
            raw.execute("PRAGMA journal_mode = WAL")
            raw.execute(f"PRAGMA synchronous = {synchronous}")

    def session(_: str, name: str) -> Session:
        history = SQLChatMessageHistory(name, connection=address if per_request else engine)
        return Session(history.add_messages, lambda: history.messages)

    yield Driver(COMMUNITY, kind_of(url), of_engine(engine), session, per_request)
    engine.dispose()


@contextmanager
def langchain_postgres(url: str) -> Iterator[Driver]:
    pool = Pool(lambda: psycopg.connect(url))
    with pool.one() as connection:
        PostgresChatMessageHistory.create_tables(connection, "messages")
        durability = of_cursor(connection)
        connection.rollback()

    def session(_: str, name: str) -> Session:
        def append(messages: Sequence[BaseMessage]) -> None:
            with pool.one() as connection:
                history(connection).add_messages(messages)

        def load() -> Sequence[BaseMessage]:
            with pool.one() as connection:
                return history(connection).messages

        def history(connection: psycopg.Connection[Any]) -> PostgresChatMessageHistory:
            return PostgresChatMessageHistory("messages", name, sync_connection=connection)

        return Session(append, load)

    yield Driver(LANGCHAIN_POSTGRES, POSTGRES, durability, session)
    pool.close(psycopg.Connection.close)


@contextmanager
def ours(
    url: str, synchronous: Synchronous = "FULL", *, per_request: bool = False
) -> Iterator[Driver]:
    with IsolatedMemory(url, root_key=ROOT_KEY, synchronous=synchronous) as memory:

        def session(user: str, name: str) -> Session:
            history = memory.scope(user_id=user, module_id="tutor").chat_history(name)
            return Session(history.add_messages, lambda: history.messages)

        durability = of_engine(memory._database._engine)
        yield Driver(OURS, kind_of(url), durability, session, per_request)


class Sealed:
    """The floor's rows: sealed with one key, bound to their place."""

    def __init__(self) -> None:
        self.scope = os.urandom(16)
        self._aead = AESGCM(os.urandom(32))

    def _place(self, session: bytes, number: int) -> bytes:
        return self.scope + session + number.to_bytes(8)

    def seal(self, session: bytes, number: int, plaintext: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._aead.encrypt(nonce, plaintext, self._place(session, number))

    def open(self, session: bytes, number: int, sealed: bytes) -> BaseMessage:
        place = self._place(session, number)
        return decode_message(self._aead.decrypt(sealed[:12], sealed[12:], place))


FLOOR_TABLE = (
    "CREATE TABLE messages (scope {0} NOT NULL, session {0} NOT NULL, number BIGINT NOT NULL,"
    " sealed {0} NOT NULL, PRIMARY KEY (scope, session, number))"
)
FLOOR_NEXT = "SELECT COALESCE(MAX(number) + 1, 0) FROM messages WHERE scope = {0} AND session = {0}"
FLOOR_LOAD = (
    "SELECT number, sealed FROM messages WHERE scope = {0} AND session = {0} ORDER BY number"
)


@contextmanager
def floor_on_sqlite(url: str, synchronous: Synchronous) -> Iterator[Driver]:
    path = url.removeprefix("sqlite:///")

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        return connection

    pool, writer, rows = Pool(connect), threading.Lock(), Sealed()
    next_number, load_all = FLOOR_NEXT.format("?"), FLOOR_LOAD.format("?")
    insert = "INSERT INTO messages VALUES (?, ?, ?, ?)"
    with pool.one() as connection:
        connection.execute(FLOOR_TABLE.format("BLOB") + " WITHOUT ROWID")
        durability = of_cursor(connection)

    def session(_: str, name: str) -> Session:
        where = rows.scope, name.encode()

        def append(messages: Sequence[BaseMessage]) -> None:
            encoded = [encode_message(message) for message in messages]
            with pool.one() as connection, writer:
                connection.execute("BEGIN IMMEDIATE")
                first = connection.execute(next_number, where).fetchone()[0]
                sealed = [rows.seal(where[1], n, m) for n, m in enumerate(encoded, first)]
                connection.executemany(
                    insert, [(*where, n, s) for n, s in enumerate(sealed, first)]
                )
                connection.execute("COMMIT")

        def load() -> list[BaseMessage]:
            with pool.one() as connection:
                found = connection.execute(load_all, where).fetchall()
            return [rows.open(where[1], number, sealed) for number, sealed in found]

        return Session(append, load)

    yield Driver(FLOOR, SQLITE, durability, session)
    pool.close(sqlite3.Connection.close)


@contextmanager
def floor_on_postgres(url: str) -> Iterator[Driver]:
    def connect() -> psycopg.Cursor[Any]:
        return psycopg.connect(url, autocommit=True).cursor(binary=True)

    pool, rows = Pool(connect), Sealed()
    next_number, load_all = FLOOR_NEXT.format("%s"), FLOOR_LOAD.format("%s")
    insert = "INSERT INTO messages SELECT %s, %s, UNNEST(%s::bigint[]), UNNEST(%s::bytea[])"
    with pool.one() as cursor:
        cursor.execute(FLOOR_TABLE.format("BYTEA"))
        durability = of_cursor(cursor)

    def session(_: str, name: str) -> Session:
        where = rows.scope, name.encode()

        def append(messages: Sequence[BaseMessage]) -> None:
            encoded = [encode_message(message) for message in messages]
            with pool.one() as cursor:
                cursor.execute("BEGIN")
                cursor.execute(next_number, where)
                first = (cursor.fetchone() or [0])[0]
                sealed = [rows.seal(where[1], n, m) for n, m in enumerate(encoded, first)]
                cursor.execute(insert, (*where, list(range(first, first + len(sealed))), sealed))
                cursor.execute("COMMIT")

        def load() -> list[BaseMessage]:
            with pool.one() as cursor:
                found = cursor.execute(load_all, where).fetchall()
            return [rows.open(where[1], number, sealed) for number, sealed in found]

        return Session(append, load)

    yield Driver(FLOOR, POSTGRES, durability, session)
    pool.close(lambda cursor: cursor.connection.close())


class Places:
    """Fresh databases: files in a folder, and databases of one PostgreSQL server."""

    def __init__(self, folder: Path, server: PostgresServer | None) -> None:
        self._folder = folder
        self._server = server
        self._numbers = itertools.count()
        self._kept: list[sqlite3.Connection] = []
        self.kinds = [SQLITE, POSTGRES] if server else [SQLITE]

    def url(self, kind: str, *, worn_in: bool = True) -> str:
        """A new one; ``worn_in`` puts a SQLite file into WAL mode."""
        if kind == SQLITE:
            path = self._folder / f"{next(self._numbers)}.db"
            if worn_in:
                self._wear_in(path)
            return f"sqlite:///{path}"
        assert self._server is not None
        name = f"benchmark_{next(self._numbers)}"
        with psycopg.connect(self._server.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._server.url(name)

    def _wear_in(self, path: Path) -> None:
        """Commit as often as SQLite's first checkpoint takes, and keep the file open.

        Until then every commit makes the log longer, and flushing a file that grows takes twice as
        long: 211 against 99 µs. A database in use is past that.
        """
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        for number in range(1_100):
            connection.execute(f"PRAGMA user_version = {number}")
        self._kept.append(connection)

    def close(self) -> None:
        for connection in self._kept:
            connection.close()


@contextmanager
def all_drivers(places: Places) -> Iterator[list[Driver]]:
    with ExitStack() as stack:
        enter = stack.enter_context
        drivers = [enter(plain_list()), enter(in_memory())]
        drivers.append(enter(community(places.url(SQLITE, worn_in=False))))
        for synchronous in SETTINGS:
            drivers += [
                enter(community(places.url(SQLITE), synchronous)),
                enter(floor_on_sqlite(places.url(SQLITE), synchronous)),
                enter(ours(places.url(SQLITE), synchronous)),
            ]
        if POSTGRES in places.kinds:
            drivers += [
                enter(driver(places.url(POSTGRES)))
                for driver in (community, langchain_postgres, floor_on_postgres, ours)
            ]
        yield drivers


def append_and_load(report: Report, places: Places, lengths: Sequence[int]) -> None:
    """A turn appended to, and all read from, sessions of several lengths."""
    seconds: dict[tuple[str, str, int], Seconds] = {}
    with all_drivers(places) as drivers:
        for length in lengths:
            for (measure, label), taken in _at_length(drivers, length).items():
                seconds[measure, label, length] = taken
                report.measured(measure, label, length=length, median_us=microseconds(taken))
    header = [f"{length:,}" for length in lengths]
    for measure in ("append", "load"):
        rows = [
            [d.label, *(microseconds(seconds[measure, d.label, n]) for n in lengths)]
            for d in drivers
        ]
        report.table(f"{measure}: µs at a length of", ["", *header], rows)
    for measure in ("append", "load"):
        rows = []
        for mine, other in _pairs(drivers):
            found = [
                ratio(seconds[measure, mine.label, n], seconds[measure, other.label, n])
                for n in lengths
            ]
            rows.append([other.label, *found])
            for length, value in zip(lengths, found, strict=True):
                _judge(report, measure, mine, other, length, value)
        report.table(f"{measure}: ours takes so many times as long as", ["", *header], rows)


def each_at_once(report: Report, places: Places, messages: int = 300) -> None:
    """What it costs to store each message as it is said, and what a buffer of three would save."""
    said = turns(BUFFER)
    rows = []
    with ExitStack() as stack:
        enter = stack.enter_context
        drivers = [enter(in_memory())]
        drivers += [enter(ours(places.url(SQLITE), synchronous)) for synchronous in SETTINGS]
        if POSTGRES in places.kinds:
            drivers.append(enter(ours(places.url(POSTGRES))))
        actions: dict[str, list[Callable[[int], object]]] = {}
        for driver in drivers:
            one, together = (driver.session("alice", str(uuid4())) for _ in range(2))
            actions[driver.label] = [
                lambda _, one=one: [one.append([message]) for message in said],
                lambda _, together=together: together.append(said),
            ]
        taken = in_turn(actions, messages // BUFFER)
    for label, (singly, buffered) in taken.items():
        each, three = microseconds(singly) / BUFFER, microseconds(buffered) / BUFFER
        rows.append((label, each, three, each - three))
        report.measured("each at once", label, each_us=each, buffered_us=three)
    header = ["", "each at once", f"{BUFFER} at once", "saved by the buffer"]
    report.table("a message stored: µs", header, rows)


def _at_length(drivers: list[Driver], length: int) -> dict[tuple[str, str], Seconds]:
    rounds = max(8, min(80, 40_000 // length))
    # Short sessions would grow by what is appended, so rounds take turns among several. Each is
    # used before it counts: SQLChatMessageHistory maps its table anew for every object.
    count = 16 if length <= 100 else 1
    before = turns(length)
    actions = {}
    for driver in drivers:
        sessions = [driver.session("alice", str(uuid4())) for _ in range(count)]
        for session in sessions:
            session.append(before)
            assert session.load() == before, driver.label
        # In the order of a chain's turn: it reads the history, then adds to it.
        actions[driver.label] = (
            lambda n, sessions=sessions: sessions[n % count].load(),
            lambda n, sessions=sessions: sessions[n % count].append(TURN),
        )
    taken = in_turn(actions, rounds)
    return {
        (measure, label): seconds
        for label, steps in taken.items()
        for measure, seconds in zip(("load", "append"), steps, strict=True)
    }


def _pairs(drivers: list[Driver]) -> list[tuple[Driver, Driver]]:
    return [
        (mine, other)
        for mine in drivers
        if mine.name == OURS
        for other in drivers
        if other.name != OURS and mine.compares_with(other)
    ]


def _judge(
    report: Report, measure: str, mine: Driver, other: Driver, length: int, value: float
) -> None:
    """Hold a ratio against what we promise of it, if anything."""
    report.measured(f"{measure} ratio", other.label, length=length, ratio=value)
    limit = None
    if other.name == COMMUNITY and mine.database == SQLITE and length == 1_000:
        is_default = other.durability == _ROLLBACK
        limit = {"append": 1 / 8 if is_default else 1 / 5, "load": 0.3}[measure]
    elif other.name == LANGCHAIN_POSTGRES and length <= 1_000:
        limit = 0.6 if measure == "load" else 1.2 if length == 1_000 else 1.6
    elif other.name == FLOOR and mine.database == SQLITE:
        limit = 2.5
    if limit:
        what = f"{measure} at {length:,}, against {other.label}"
        report.targets.append(Target(what, value, limit))


def opening(report: Report, places: Places) -> None:
    """A scope and a history opened again, once its keys are known."""
    with ExitStack() as stack:
        drivers = [stack.enter_context(ours(places.url(kind))) for kind in places.kinds]
        for driver in drivers:
            driver.session("alice", "s").append(TURN)
        many = 100

        def action(driver: Driver) -> Callable[[int], None]:
            def open_many(_: int) -> None:
                for _ in range(many):
                    driver.session("alice", "s")

            return open_many

        taken = in_turn({driver.label: [action(driver)] for driver in drivers}, 50)
    for label, (seconds,) in taken.items():
        each = microseconds(seconds) / many
        report.measured("open", label, median_us=each)
        report.targets.append(Target(f"opening a scope again, {label}", each, 50, unit="µs"))


def many_sessions(report: Report, places: Places, sessions: int) -> None:
    """One session loaded from a database of many, and from one that has no other."""
    with ExitStack() as stack:
        actions = {}
        for kind, driver in itertools.product(places.kinds, (ours, community)):
            for count in (1, sessions):
                url = places.url(kind)
                begin = time.perf_counter()
                _fill(driver.__name__, url, count)
                opened = stack.enter_context(driver(url, "NORMAL" if kind == SQLITE else None))  # type: ignore[arg-type]
                sample = [
                    opened.session(*_named(number))
                    for number in range(0, count, max(1, count // SAMPLE))
                ]
                assert all(session.load() == turns(MESSAGES_PER_SESSION) for session in sample)
                elapsed = time.perf_counter() - begin
                report.console.print(f"filled {opened.label} with {count:,} in {elapsed:.0f} s")
                actions[f"{opened.name}, {kind}/{count}"] = [
                    lambda n, sample=sample: sample[n % len(sample)].load()
                ]
        taken = in_turn(actions, 100, warm_up=SAMPLE)
    rows = []
    for name in dict.fromkeys(key.split("/")[0] for key in taken):
        (alone,), (among,) = taken[f"{name}/1"], taken[f"{name}/{sessions}"]
        times = ratio(among, alone)
        rows.append((name, microseconds(alone), microseconds(among), times))
        report.measured(
            "load among many",
            name,
            sessions=sessions,
            alone_us=microseconds(alone),
            among_us=microseconds(among),
            ratio=times,
        )
        if name.startswith(OURS):
            what = f"load among {sessions:,} sessions, {name}, against an empty database"
            report.targets.append(Target(what, times, 1.5))
    title = f"load a session of {MESSAGES_PER_SESSION}, pages warm: µs"
    report.table(title, ["", "alone", f"among {sessions:,}", "times"], rows)


def _named(number: int) -> tuple[str, str]:
    return f"user-{number // SESSIONS_PER_USER}", f"session-{number}"


def _fill(driver: str, url: str, sessions: int) -> None:
    messages = turns(MESSAGES_PER_SESSION)
    if driver == "ours":
        # Filling need not survive a loss of power.
        unsafe = "" if kind_of(url) == SQLITE else "?options=-csynchronous_commit%3Doff"
        with ours(url + unsafe, "NORMAL") as filling:
            for number in range(sessions):
                filling.session(*_named(number)).append(messages)
        return
    texts = [json.dumps(message_to_dict(message)) for message in messages]
    with community(url) as filling:
        filling.session("", "")
        with sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:")).begin() as c:
            table = sa.table("message_store", sa.column("session_id"), sa.column("message"))
            for start in range(0, sessions, 1_000):
                numbers = range(start, min(start + 1_000, sessions))
                rows = [{"session_id": _named(n)[1], "message": t} for n in numbers for t in texts]
                c.execute(table.insert(), rows)


@dataclass
class Crowd:
    """What many users at once saw of one driver."""

    driver: Driver
    seconds: Seconds
    elapsed: float
    errors: Counter[str]
    lost: int

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.elapsed


def crowd(driver: Driver, users: int, count: int) -> Crowd:
    """Let ``users`` threads each read and continue a session of their own, ``count`` times."""
    seconds: list[Seconds] = [[] for _ in range(users)]
    errors: Counter[str] = Counter()
    names = [(f"user-{number}", str(uuid4())) for number in range(users)]
    reused = [None if driver.per_request else driver.session(*name) for name in names]
    start = threading.Barrier(users + 1)

    def take_turn(number: int) -> None:
        begin = time.perf_counter()
        try:
            session = reused[number] or driver.session(*names[number])
            session.load()
            session.append(TURN)
        except Exception as error:  # noqa: BLE001 - whatever a driver raises is what users see
            reason = str(getattr(error, "orig", error)).splitlines()[0].rsplit(": ")[-1]
            errors[f"{type(error).__name__}: {reason}"] += 1
        else:
            seconds[number].append(time.perf_counter() - begin)

    def user(number: int) -> None:
        # The first turn connects and makes keys; it is not timed.
        take_turn(number)
        start.wait()
        for _ in range(count):
            take_turn(number)

    threads = [threading.Thread(target=user, args=(number,)) for number in range(users)]
    for thread in threads:
        thread.start()
    start.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begin
    gc.collect()
    kept = sum(len(driver.session(*name).load()) for name in names) // len(TURN)
    done = [second for each in seconds for second in each]
    return Crowd(
        driver, [s for each in seconds for s in each[-count:]], elapsed, errors, len(done) - kept
    )


def many_users(report: Report, places: Places, users: int, count: int, repeats: int = 3) -> None:
    """Turns of many users at once, each in a session of its own."""
    on_sqlite: list[Opener] = [community, floor_on_sqlite, ours, partial(ours, per_request=True)]
    on_postgres: list[Opener] = [community, langchain_postgres, floor_on_postgres, ours]
    on_postgres += [partial(opener, per_request=True) for opener in (ours, community)]
    contenders: list[tuple[str, Opener]] = [
        (SQLITE, partial(opener, synchronous=synchronous))
        for synchronous in SETTINGS
        for opener in on_sqlite
    ]
    contenders.append((SQLITE, partial(community, synchronous="FULL", per_request=True)))
    if POSTGRES in places.kinds:
        contenders += [(POSTGRES, opener) for opener in on_postgres]
    seen: dict[str, list[Crowd]] = defaultdict(list)
    for _ in range(repeats):
        for kind, opener in contenders:
            with opener(places.url(kind)) as driver:
                seen[driver.label].append(crowd(driver, users, count))
            # The engines of SQLChatMessageHistory made per request close when they are collected.
            gc.collect()
    rows = [_crowded(report, label, crowds) for label, crowds in seen.items()]
    header = ["", "turns/s", "p50 ms", "p99 ms", "errors", "lost", "of which"]
    report.table(f"{users} users, {count} turns each, at once, {repeats} times", header, rows)
    for mine, other in _pairs([crowds[0].driver for crowds in seen.values()]):
        if other.name == COMMUNITY and not mine.per_request:
            _judge_crowds(report, seen[mine.label], seen[other.label])


def _crowded(report: Report, label: str, crowds: list[Crowd]) -> tuple[object, ...]:
    rate = statistics.median(each.rate for each in crowds)
    milliseconds = [second * 1e3 for each in crowds for second in each.seconds]
    p50, p99 = percentile(milliseconds, 50), percentile(milliseconds, 99)
    errors = sum((each.errors for each in crowds), Counter[str]())
    lost = sum(each.lost for each in crowds)
    report.measured(
        "many users",
        label,
        turns_per_second=rate,
        p50_ms=p50,
        p99_ms=p99,
        errors=dict(errors),
        lost=lost,
    )
    text = ", ".join(f"{number} {reason}" for reason, number in errors.most_common(2))
    return label, rate, p50, p99, errors.total(), lost, text


def _judge_crowds(report: Report, mine: list[Crowd], other: list[Crowd]) -> None:
    times = statistics.median(a.rate / b.rate for a, b in zip(mine, other, strict=True))
    what = f"turns a second of many users, against {other[0].driver.label}"
    report.targets.append(Target(what, times, 3, at_least=True))
    failed = sum(each.errors.total() + each.lost for each in mine)
    what = f"turns of many users that failed, {mine[0].driver.label}"
    report.targets.append(Target(what, failed, 0, unit="turns"))


PARTS = ("each-at-once", "append-load", "opening", "sessions", "users")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--lengths", nargs="+", type=int, default=[10, 100, 1_000, 10_000])
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--sqlite-only", action="store_true")
    parser.add_argument(
        "--folder", type=Path, help="where databases are made; by default a new one"
    )
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    options = parser.parse_args()
    packages = ("langchain-core", "langchain-community", "langchain-postgres", "psycopg")
    report = Report("Chat histories", machine(*packages, "SQLAlchemy", "cryptography"))
    report.settings["durability"] = "as the databases report it, beside each name"
    report.settings["messages"] = "250 characters each; a turn is a question and an answer"
    report.settings["order"] = "a round takes each driver once, shuffled: load, then append"
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder))
        server = None if options.sqlite_only else stack.enter_context(PostgresServer(fsync=True))
        places = Places(Path(folder), server)
        stack.callback(places.close)
        if "each-at-once" in options.parts:
            each_at_once(report, places)
        if "append-load" in options.parts:
            append_and_load(report, places, options.lengths)
        if "opening" in options.parts:
            opening(report, places)
        if "users" in options.parts:
            many_users(report, places, options.users, options.turns)
        if "sessions" in options.parts:
            many_sessions(report, places, options.sessions)
    report.finish(options.json)


if __name__ == "__main__":
    main()
