"""Idle connections are handed out again at once, and never kept from those who wait."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from langmem_isolated._database.connection_pool import ConnectionPool
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Transaction


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(Database(database_url, pool_size=2, timeout=60)) as database:
        database.open()
        yield database


def pool_of(database: Database) -> ConnectionPool:
    pool = database._engine.pool
    assert isinstance(pool, ConnectionPool)
    return pool


def raw(transaction: Transaction) -> Any:
    return transaction.connection


def test_a_connection_given_back_is_handed_out_again_and_counts_as_idle(database: Database):
    first = database.read(raw)

    assert database.read(raw) is first
    assert pool_of(database).checkedout() == 0
    assert pool_of(database).checkedin() >= 1


def test_who_waits_gets_the_connection_that_is_given_back(database: Database):
    holding, go_on = threading.Barrier(3), threading.Event()

    def hold(_: Transaction) -> None:
        holding.wait(60)
        assert go_on.wait(60)

    with ThreadPoolExecutor(6) as threads:
        held = [threads.submit(database.read, hold) for _ in range(2)]
        holding.wait(60)
        waiting = [threads.submit(database.read, raw) for _ in range(4)]
        go_on.set()

        assert all(one.result(60) is not None for one in (*waiting,))
        assert [one.result(60) for one in held] == [None, None]


def test_idle_connections_are_there_for_whoever_takes_them_from_the_pool(database: Database):
    database.read(raw)
    fairies = [database._engine.raw_connection() for _ in range(2)]

    assert len({id(fairy.dbapi_connection) for fairy in fairies}) == 2
    for fairy in fairies:
        fairy.close()


def test_a_pool_that_is_disposed_of_closes_idle_connections_too(database: Database):
    connection = database.read(raw)

    database.close()

    assert pool_of(database).checkedin() == 0
    with pytest.raises(Exception, match="closed"):
        connection.execute("SELECT 1")


def test_a_connection_given_back_after_the_close_is_closed(database: Database):
    reading, go_on = threading.Event(), threading.Event()

    def hold(transaction: Transaction) -> Any:
        reading.set()
        assert go_on.wait(60)
        return raw(transaction)

    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(database.read, hold)
        assert reading.wait(60)
        database.close()
        go_on.set()

        with pytest.raises(Exception, match="closed"):
            held.result(60).execute("SELECT 1")


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_an_idle_connection_that_died_is_replaced(database: Database):
    """A file does not go away."""
    with ThreadPoolExecutor(2) as threads:
        together = threading.Barrier(2)

        def both(transaction: Transaction) -> int:
            together.wait(60)
            return int(raw(transaction).info.backend_pid)

        pids = [one.result(60) for one in [threads.submit(database.read, both) for _ in range(2)]]
    terminated = f"SELECT count(pg_terminate_backend(pid, 1000)) FROM unnest(ARRAY{pids[1:]}) pid"
    database.read(lambda transaction: raw(transaction).execute(terminated).fetchone())

    for _ in range(3):
        assert database.read(lambda transaction: raw(transaction).execute("SELECT 1").fetchone())
