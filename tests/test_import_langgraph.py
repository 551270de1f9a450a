"""Threads and items of LangGraph's own savers and stores are read whole, and run nothing."""

from pathlib import Path

import pytest
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver

from langmem_isolated.importers.langgraph.postgres_saver import PostgresSaverSource
from langmem_isolated.importers.langgraph.sqlite_saver import SqliteSaverSource
from tests import langgraph_threads as threads


@pytest.fixture(scope="module")
def sqlite_threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of `SqliteSaver` with two threads; tests that change it copy it."""
    path = tmp_path_factory.mktemp("savers") / "checkpoints.sqlite"
    with SqliteSaver.from_conn_string(str(path)) as saver:
        threads.fill(saver)
    return path


def test_a_sqlite_saver_is_read_as_langgraph_reads_it(sqlite_threads: Path):
    with SqliteSaverSource(sqlite_threads, allow=threads.ALLOW) as source:
        found = threads.read(source)
        again = threads.read(source)
        total = source.total()

    with SqliteSaver.from_conn_string(str(sqlite_threads)) as saver:
        listed = [*saver.list(None)]
    assert [*threads.tuples(found)] == [*threads.tuples(again)]
    assert threads.by_id(threads.tuples(found)) == threads.by_id(listed)
    assert total == len(listed)


def test_a_postgres_saver_is_read_as_langgraph_reads_it(postgres_url: str):
    with PostgresSaver.from_conn_string(postgres_url) as saver:
        saver.setup()
        threads.fill(saver)
        with PostgresSaverSource(postgres_url, allow=threads.ALLOW) as source:
            found = threads.read(source)
            again = threads.read(source)
            total, size = source.total(), source.size()
        listed = [*saver.list(None)]

    assert [*threads.tuples(found)] == [*threads.tuples(again)]
    assert threads.by_id(threads.tuples(found)) == threads.by_id(listed)
    assert total == len(listed)
    assert size
