"""State of the tables: their version, the steps that are pending, and how much there is."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, exc, func, select, text
from sqlalchemy.pool import NullPool

from langmem_isolated._database.files import path_of
from langmem_isolated._database.schema import POSTGRES_SCHEMA, metadata
from langmem_isolated._database.upgrades import versions
from langmem_isolated._database.upgrades.step import Step

if TYPE_CHECKING:
    from langmem_isolated._database.database import Database

_POSTGRES_TABLES = text("""
SELECT relname, CASE WHEN reltuples >= 0 THEN reltuples::bigint END, pg_total_relation_size(oid)
FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace =
    (SELECT oid FROM pg_namespace WHERE nspname = :schema)
ORDER BY relname
""")
_SQLITE_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
_SQLITE_SIZE = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
_JOBS = {
    "erasures that are not finished": "SELECT count(*) FROM {}erasures WHERE finished_at IS NULL",
    "rotations of all keys": "SELECT count(rotating_since) FROM {}installation",
}


@dataclass(frozen=True, slots=True)
class TableState:
    """How much a table has."""

    name: str
    rows: int | None
    """Counted on SQLite; on PostgreSQL what its statistics say, ``None`` before there are any."""
    size: int | None
    """Bytes with indexes; ``None`` on SQLite, where tables share a file."""


@dataclass(frozen=True, slots=True)
class SchemaState:
    """How the tables of one database stand."""

    backend: str
    version: int
    """0 where there are none of ours."""
    newest: int
    """The version of this package."""
    pending: tuple[Step, ...]
    tables: tuple[TableState, ...]
    size: int
    """Bytes of all tables; on SQLite of the file without its log."""
    jobs: dict[str, int | None]
    """What has begun and is not finished, by what it is; ``None`` where the role may not see it."""
    others: int = 0
    """Tables of other software in the file of SQLite; PostgreSQL has a schema for ours."""

    @property
    def is_too_new(self) -> bool:
        """Whether a later version of this package wrote the database."""
        return self.version > self.newest


def state_of(database: Database) -> SchemaState:
    """How the tables stand; a later version is looked at, too.

    Nothing is changed, and no file made: SQLite's is opened to be read alone, and stays byte by
    byte as it is, with its log.

    Raises:
        DatabaseError: The database cannot be opened, or refused.
    """
    path = path_of(database.url.database, is_uri=bool(database.url.query.get("uri")))
    if database.is_postgres or path is None:
        return database.inspect(_state)
    if not path.exists():
        return SchemaState("sqlite", 0, versions.newest(), versions.STEPS, (), 0, {})
    # What is wrong with the file, the database itself says in our words.
    with suppress(exc.DBAPIError):
        return _read_only(path)
    return database.inspect(_state)


def _read_only(path: Path) -> SchemaState:
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    with engine.connect() as connection:
        return _state(connection)


def _state(connection: Connection) -> SchemaState:
    version, is_postgres = versions.version_of(connection), connection.dialect.name == "postgresql"
    names = [] if is_postgres else _sqlite_names(connection)
    ours = [name for name in names if name in metadata.tables]
    tables = _postgres_tables(connection) if is_postgres else _sqlite_tables(connection, ours)
    size = sum(one.size or 0 for one in tables)
    return SchemaState(
        backend=connection.dialect.name,
        version=version,
        newest=versions.newest(),
        pending=versions.STEPS[version:],
        tables=tuple(tables),
        size=size if is_postgres else connection.exec_driver_sql(_SQLITE_SIZE).scalar_one(),
        jobs=_jobs(connection, f"{POSTGRES_SCHEMA}." if is_postgres else "") if version else {},
        others=len(names) - len(ours),
    )


def _postgres_tables(connection: Connection) -> list[TableState]:
    found = connection.execute(_POSTGRES_TABLES, {"schema": POSTGRES_SCHEMA})
    return [TableState(*row) for row in found]


def _sqlite_names(connection: Connection) -> list[str]:
    return [name for (name,) in connection.exec_driver_sql(_SQLITE_TABLES).all()]


def _sqlite_tables(connection: Connection, ours: Sequence[str]) -> list[TableState]:
    counts = (
        connection.scalar(select(func.count()).select_from(metadata.tables[name])) for name in ours
    )
    return [TableState(name, count, None) for name, count in zip(ours, counts, strict=True)]


def _jobs(connection: Connection, prefix: str) -> dict[str, int | None]:
    return {what: _count(connection, sql.format(prefix)) for what, sql in _JOBS.items()}


def _count(connection: Connection, sql: str) -> int | None:
    try:
        return int(connection.exec_driver_sql(sql).scalar_one())
    except exc.DBAPIError:
        # Row-level security shows this role one scope's rows, or another version has no such table.
        return None
