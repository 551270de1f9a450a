"""Databases, keys and doors that every test may ask for."""

import gc
import itertools
import os
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._database.database import Database
from langmem_isolated._database.schema import POSTGRES_SCHEMA
from tests import served
from tests.citus import become_citus
from tests.pgbouncer import PgBouncer
from tests.postgres import PostgresServer, folder_in_memory
from tests.system import skip_without_programs, tell_what_was_left_out

served.give_jobs_a_role()
ROOT_KEY = bytes(range(32))
_numbers = itertools.count()

Door = Callable[..., Awaitable[Any]]
Wait = Callable[[float], None]


def pytest_runtest_setup(item: pytest.Item) -> None:
    skip_without_programs(item)


def pytest_configure() -> None:
    """Have `tmp_path` in memory, unless somebody says where, or there is too little of it."""
    if folder := folder_in_memory():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))


def pytest_collection_finish() -> None:
    """Leave what collection made out of each later look for garbage.

    A collected run has 1.3 million objects: to go through them takes a second each time, for tests
    that call `gc.collect` and for whoever is interrupted by it.
    """
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tell_what_was_left_out(terminalreporter)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server of this test process, with a template database that has our tables."""
    with PostgresServer() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE ours")
        if served.IS_BOUND:
            served.make_bound(server, "ours")
        database = Database(server.url("ours"))
        database.upgrade()
        database.close()
        if served.IS_DISTRIBUTED:
            become_citus(server.url("ours"))
        yield server


@pytest.fixture(scope="session")
def pgbouncer(postgres: PostgresServer) -> Iterator[PgBouncer]:
    """A pooler of this test process, in transaction mode."""
    with served.pooled(postgres) as bouncer:
        yield bouncer


def new_postgres_url(postgres: PostgresServer) -> str:
    """Make a database of 8 MB with our tables, for as long as the server is there."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE ours STRATEGY file_copy")
    return postgres.url(name, served.ROLES.application if served.IS_BOUND else "postgres")


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[str]:
    """A fresh PostgreSQL database with our tables; hundreds of them would fill a small disk."""
    url = new_postgres_url(postgres)
    if served.IS_POOLED:
        yield request.getfixturevalue("pgbouncer").url(url)
    else:
        yield url
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")


@pytest.fixture
def disk_path() -> Iterator[Path]:
    """A folder outside memory, where an environment is large and its programs may not run."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A fresh SQLite file."""
    return f"sqlite:///{tmp_path}/memory.db"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh database of either kind: a test that asks for it runs on both."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def root_key() -> LocalRootKey:
    return LocalRootKey(ROOT_KEY)


@pytest.fixture
def memory(database_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    """An open memory on a fresh database of either kind."""
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        yield memory


class Attacker:
    """Someone who may do anything with the database, and has no key: raw SQL, `?` for values."""

    def __init__(self, url: str) -> None:
        self._connection: Any
        self.is_postgres = url.startswith("postgresql")
        if self.is_postgres:
            self._connection = psycopg.connect(served.at_the_server(url), autocommit=True)
            self._connection.execute(f"SET search_path = {POSTGRES_SCHEMA}")
            # Foreign keys hold back who forgets them, not who may switch them off.
            self._connection.execute("SET session_replication_role = replica")
        else:
            path = url.removeprefix("sqlite:///")
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=30)

    def __call__(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        if self.is_postgres:
            sql = sql.replace("?", "%s")
        cursor = self._connection.execute(sql, values)
        return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def attacker(memory: IsolatedMemory, database_url: str) -> Iterator[Attacker]:
    """Who tampers with the database of `memory`."""
    attacker = Attacker(database_url)
    yield attacker
    attacker.close()


@pytest.fixture(params=["sync", "async"])
def door(request: pytest.FixtureRequest) -> Door:
    """Calls a method by its synchronous name through either door.

    `messages` is a name too, and `__call__` lists sessions.

    ``await door(history, "add_messages", [message])``
    """

    async def through(target: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        if request.param == "async":
            twins = {"messages": "aget_messages", "__call__": "alist"}
            return await getattr(target, twins.get(name, f"a{name}"))(*args, **kwargs)
        member = getattr(target, name)
        return member(*args, **kwargs) if callable(member) else member

    return through


@pytest.fixture
def telemetry(memory: IsolatedMemory) -> Iterator[Any]:
    """What an instrumented memory tells."""
    from tests.tracing import Telemetry

    telemetry = Telemetry()
    telemetry.watch(memory)
    yield telemetry
    telemetry.close()


@pytest.fixture
def wait_for(monkeypatch: pytest.MonkeyPatch) -> Wait:
    """Has so many seconds pass at once for what takes the time from this process's wall clock.

    What has to be done before a time is over can be as slow as the machine is.
    """
    passed, real = [0], time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + sum(passed))
    return lambda seconds: passed.append(round(seconds * 10**9))


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the wall clock of this process show noon (UTC) at first: no day ends amid a test."""
    real, day = time.time_ns, 86_400 * 10**9
    shift = day // 2 - real() % day
    monkeypatch.setattr(time, "time_ns", lambda: real() + shift)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; of a module, since no event loop of a test can run in its thread meanwhile."""
    from tests.browsing import chromium

    with chromium() as found:
        yield found
