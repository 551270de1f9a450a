"""Databases, keys and doors that every test may ask for."""

import itertools
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._database import Database
from tests.postgres import PostgresServer

ROOT_KEY = bytes(range(32))
_numbers = itertools.count()

Door = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server of this test process, with a template database that has our tables."""
    with PostgresServer() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE ours")
        database = Database(server.url("ours"))
        database.upgrade()
        database.close()
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """A fresh PostgreSQL database with our tables."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE ours STRATEGY file_copy")
    return postgres.url(name)


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


@pytest.fixture(params=["sync", "async"])
def door(request: pytest.FixtureRequest) -> Door:
    """Calls a method by its synchronous name through either door; `messages` is a name too.

    ``await door(history, "add_messages", [message])``
    """

    async def through(target: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        if request.param == "async":
            return await getattr(target, {"messages": "aget_messages"}.get(name, f"a{name}"))(
                *args, **kwargs
            )
        member = getattr(target, name)
        return member(*args, **kwargs) if callable(member) else member

    return through
