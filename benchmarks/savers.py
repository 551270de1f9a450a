"""Savers as the benchmark opens them: LangGraph's loop alone, the peers, and ours.

The loop alone is LangGraph with a saver that keeps the latest checkpoint by reference: what no
saver can save.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiosqlite
import psycopg
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from benchmarks.chat_history import (
    POSTGRES,
    ROOT_KEY,
    SQLITE,
    Places,
    Synchronous,
    of_cursor,
    of_engine,
)
from langmem_isolated import IsolatedMemory

OURS, LOOP, MEMORY = "ours", "loop alone", "InMemorySaver"
PEERS = {SQLITE: "SqliteSaver", POSTGRES: "PostgresSaver"}
AES = {False: "", True: " + EncryptedSerializer"}


class KeepsLatest(BaseCheckpointSaver[Any]):
    """Keeps each namespace's latest checkpoint by reference, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._latest: dict[tuple[str, str], CheckpointTuple] = {}

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        place = config["configurable"]
        return self._latest.get((place["thread_id"], place.get("checkpoint_ns", "")))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self.get_tuple(config)

    def put(self, config: RunnableConfig, checkpoint: Any, metadata: Any, _: Any) -> RunnableConfig:
        place = config["configurable"]
        address = place["thread_id"], place.get("checkpoint_ns", "")
        names = "thread_id", "checkpoint_ns", "checkpoint_id"
        new = RunnableConfig(
            configurable=dict(zip(names, (*address, checkpoint["id"]), strict=True))
        )
        self._latest[address] = CheckpointTuple(new, checkpoint, metadata)
        return new

    async def aput(self, *arguments: Any) -> RunnableConfig:
        return self.put(*arguments)

    def put_writes(self, *_: Any) -> None:
        """Nothing: nobody resumes here."""

    async def aput_writes(self, *_: Any) -> None:
        """Nothing: nobody resumes here."""


@dataclass(frozen=True)
class Driver:
    """A saver, and how it was opened."""

    name: str
    database: str
    durability: str
    saver: BaseCheckpointSaver[Any]
    size: Callable[[], int]
    is_async: bool = False
    has_delta: bool = False
    is_warm: bool = False

    @property
    def label(self) -> str:
        kind = ", DeltaChannel" if self.has_delta else ", warm" if self.is_warm else ""
        door = ", async" if self.is_async else ""
        return f"{self.name}{kind}, {self.database} {self.durability}".rstrip(", ") + door

    def compares_with(self, other: "Driver") -> bool:
        return (self.database, self.durability, self.is_async) == (
            other.database,
            other.durability,
            other.is_async,
        )


@dataclass(frozen=True)
class Site:
    """Where and how drivers are opened."""

    places: Places
    loop: asyncio.AbstractEventLoop
    synchronous: Synchronous = "FULL"
    connections: int = 1

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        # Not asyncio.Runner.run: for its signal handler it makes a repr of the result, 5 ms for
        # 20 messages.
        return self.loop.run_until_complete(work())


Open = Callable[..., AbstractContextManager[Driver]]


def nothing() -> int:
    """What a saver without a disk takes of it."""
    return 0


@contextmanager
def loop_alone(_: Site, *, is_async: bool) -> Iterator[Driver]:
    yield Driver(LOOP, "", "", KeepsLatest(), nothing, is_async)


@contextmanager
def in_memory(_: Site, *, is_async: bool, aes: bool) -> Iterator[Driver]:
    yield Driver(MEMORY + AES[aes], "", "", InMemorySaver(serde=_serde(aes)), nothing, is_async)


@contextmanager
def sqlite_saver(
    site: Site, *, is_async: bool, aes: bool = False, delta: bool = False
) -> Iterator[Driver]:
    path = site.places.url(SQLITE).removeprefix("sqlite:///")
    setting = f"PRAGMA synchronous = {site.synchronous}"
    saver: Any
    close: Callable[[], object]

    async def opened() -> AsyncSqliteSaver:
        connection = await aiosqlite.connect(path)
        await connection.execute(setting)
        saver = AsyncSqliteSaver(connection, serde=_serde(aes))
        await saver.setup()
        return saver

    if is_async:
        saver = site.run(opened)
        close = partial(site.run, saver.conn.close)
    else:
        connection = sqlite3.connect(path, check_same_thread=False)
        connection.execute(setting)
        saver, close = SqliteSaver(connection, serde=_serde(aes)), connection.close
        saver.setup()
    with closing(sqlite3.connect(path)) as probe:
        # The mode is the file's; synchronous is the connection's.
        probe.execute(setting)
        durability = of_cursor(probe)
    name = PEERS[SQLITE] + AES[aes]
    yield Driver(name, SQLITE, durability, saver, partial(sqlite_bytes, path), is_async, delta)
    close()


@contextmanager
def postgres_saver(
    site: Site, *, is_async: bool, aes: bool = False, delta: bool = False
) -> Iterator[Driver]:
    url = site.places.url(POSTGRES)
    # As the savers' own from_conn_string has it.
    kwargs: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    many = site.connections
    saver: Any
    close: Callable[[], object]

    async def opened() -> AsyncPostgresSaver:
        connection: Any
        if many == 1:
            connection = await psycopg.AsyncConnection.connect(url, **kwargs)
        else:
            connection = AsyncConnectionPool(url, min_size=many, kwargs=kwargs, open=False)
            await connection.open(wait=True)
        saver = AsyncPostgresSaver(connection, serde=_serde(aes))
        await saver.setup()
        return saver

    if is_async:
        saver = site.run(opened)
        close = partial(site.run, saver.conn.close)
    else:
        connection: Any = (
            psycopg.connect(url, **kwargs)
            if many == 1
            else ConnectionPool(url, min_size=many, kwargs=kwargs, open=True)
        )
        saver, close = PostgresSaver(connection, serde=_serde(aes)), connection.close
        saver.setup()
    with psycopg.connect(url) as probe:
        durability = of_cursor(probe.cursor())
    name = PEERS[POSTGRES] + AES[aes]
    yield Driver(name, POSTGRES, durability, saver, partial(postgres_bytes, url), is_async, delta)
    close()


@contextmanager
def ours(site: Site, *, is_async: bool, kind: str, warm: bool = False) -> Iterator[Driver]:
    url = site.places.url(kind)
    # Two connections serve one run: LangGraph stores a checkpoint and a task's writes at once.
    pool = max(2, site.connections)
    with IsolatedMemory(
        url,
        root_key=ROOT_KEY,
        synchronous=site.synchronous,
        pool_size=pool,
        plaintext_cache_seconds=3_600 if warm else 0,
    ) as memory:
        size = (
            partial(sqlite_bytes, url.removeprefix("sqlite:///"))
            if kind == SQLITE
            else partial(postgres_bytes, url)
        )
        durability = of_engine(memory._database._engine)
        saver = memory.checkpointer()
        yield Driver(OURS, kind, durability, saver, size, is_async, is_warm=warm)


def _serde(aes: bool) -> Any:
    return EncryptedSerializer.from_pycryptodome_aes(key=bytes(32)) if aes else None


def sqlite_bytes(path: str) -> int:
    """The file as it is once its log is written back; to write it back would disturb the turns."""
    with closing(sqlite3.connect(path)) as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (page,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages * page)


def postgres_bytes(url: str) -> int:
    """All tables with their indexes and what they keep beside."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT SUM(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n"
            " ON n.oid = c.relnamespace WHERE c.relkind = 'r'"
            " AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchone()
    return int(row[0]) if row else 0


def contenders(kinds: Sequence[str], doors: Sequence[bool]) -> dict[str, Open]:
    """How to open each driver, by the name that ``--only`` takes."""
    named: dict[str, Open] = {"loop": loop_alone}
    for aes in (False, True):
        named["memory" + "-aes" * aes] = partial(in_memory, aes=aes)
    for kind, opener in ((SQLITE, sqlite_saver), (POSTGRES, postgres_saver)):
        if kind in kinds:
            name = kind.lower()
            named[name] = opener
            named[f"{name}-aes"] = partial(opener, aes=True)
            named[f"{name}-delta"] = partial(opener, delta=True)
            named[f"ours-{name}"] = partial(ours, kind=kind)
            named[f"warm-{name}"] = partial(ours, kind=kind, warm=True)
    return {
        ("async-" if door else "") + name: partial(opener, is_async=door)
        for door in doors
        for name, opener in named.items()
    }
