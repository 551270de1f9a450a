"""Databases of others: what is read stays as it is, and who writes to it goes on."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from langmem_isolated._database.foreign import open_sqlite
from langmem_isolated.errors import SourceRefused


@pytest.fixture(params=["delete", "wal"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "foreign.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {request.param}")
        connection.execute("CREATE TABLE said (text)")
        connection.executemany("INSERT INTO said VALUES (?)", [("x" * 500,)] * 1_000)
        connection.commit()
    return path


def test_its_application_writes_while_it_is_read(path: Path):
    with closing(open_sqlite(path)) as source:
        rows = source.execute("SELECT text FROM said")
        next(rows)
        with closing(sqlite3.connect(path, timeout=0)) as application:
            application.execute("INSERT INTO said VALUES ('meanwhile')")
            application.commit()

        assert len([*rows]) == 999
        assert source.execute("SELECT count(*) FROM said").fetchone() == (1_000,)


def test_nothing_is_written_into_it_nor_left_beside_it(path: Path):
    before = {one: one.read_bytes() for one in path.parent.iterdir()}

    with closing(open_sqlite(path)) as source:
        assert source.execute("SELECT count(*) FROM said").fetchone() == (1_000,)
        with pytest.raises(sqlite3.OperationalError):
            source.execute("DELETE FROM said")

    assert {one: one.read_bytes() for one in path.parent.iterdir()} == before


def test_what_is_in_its_log_is_read_and_the_log_stays(tmp_path: Path):
    path = tmp_path / "foreign.db"
    with closing(sqlite3.connect(path)) as application:
        application.execute("PRAGMA journal_mode = wal")
        application.execute("CREATE TABLE said (text)")
        application.execute("INSERT INTO said VALUES ('in the log')")
        application.commit()
        before = [one.read_bytes() for one in (path, path.with_name("foreign.db-wal"))]

        with closing(open_sqlite(path)) as source:
            assert source.execute("SELECT text FROM said").fetchall() == [("in the log",)]

        assert [one.read_bytes() for one in (path, path.with_name("foreign.db-wal"))] == before


def test_what_is_no_database_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no database")

    for name in ("notes.txt", "missing.db"):
        with pytest.raises(SourceRefused):
            open_sqlite(tmp_path / name)
