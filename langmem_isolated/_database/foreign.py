"""Read-only connections to databases that are not ours: nothing of them is changed, or made."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from langmem_isolated.errors import SourceRefused

if TYPE_CHECKING:
    import psycopg

_HEADER = b"SQLite format 3\x00"
# Offset of the file format write version, 2 where there is a write-ahead log:
# https://www.sqlite.org/fileformat.html, 1.3.
_VERSION_AT, _LOGGING = 18, b"\x02"
_WAIT_SECONDS = 30


def open_sqlite(path: Path, *, is_brief: bool = False) -> sqlite3.Connection:
    """One state of a foreign SQLite file, what is in its log included; its writers go on.

    The file and its log stay byte by byte as they are; the index of a log, ``-shm``, is SQLite's
    own and may change. Without a log, a reader keeps writers waiting for as long as it reads: such
    a file is copied first, into a temporary one that SQLite unlinks as it opens it.

    Args:
        path: The file.
        is_brief: Whether it is looked at for a moment, and not worth a copy.

    Raises:
        SourceRefused: It is not there, cannot be read, or is no SQLite database.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_VERSION_AT + 1)
    except OSError as error:
        raise SourceRefused(
            f"The file cannot be read: {error.strerror}", "Give the path of an SQLite database."
        ) from None
    if header[: len(_HEADER)] not in (_HEADER, b""):
        raise SourceRefused(
            "The file is no SQLite database", "Give the path of one, not its log or a dump of it."
        )
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        is_of_logging = header[_VERSION_AT : _VERSION_AT + 1] == _LOGGING
        copy = None if is_brief else _copy_without_log(path, uri, is_of_logging=is_of_logging)
        connection = copy or _connected(uri)
        for setting in _SETTINGS:
            connection.execute(setting)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise SourceRefused(
            f"SQLite cannot read the file ({type(error).__name__})",
            "Copy it together with its -wal file to a folder that can be written, and give that.",
        ) from None
    return connection


# Nothing is written, and what its schema names runs no function that does more than count.
_SETTINGS = ("PRAGMA query_only = 1", "PRAGMA trusted_schema = 0", "BEGIN")


def _connected(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(
        uri, uri=True, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
    )


def _copy_without_log(path: Path, uri: str, *, is_of_logging: bool) -> sqlite3.Connection | None:
    """A copy of a file that has no log; ``None`` where it has one, into which writers write.

    Args:
        path: The file.
        uri: What SQLite knows it by.
        is_of_logging: Whether its writers make a log: to be read, it would get an empty one. With
            immutable=1 it gets none, and what is in a log would be missing: so that there is none
            yet, and nobody has written, is looked at again behind the copy.
    """
    before = _state_without_log(path)
    if before is None:
        return None
    with closing(_connected(f"{uri}&immutable=1" if is_of_logging else uri)) as connection:
        # A name that is empty is a temporary file of SQLite's own.
        copy = _connected("")
        connection.backup(copy)
    if is_of_logging and _state_without_log(path) != before:
        copy.close()
        return None
    return copy


def _state_without_log(path: Path) -> tuple[int, int] | None:
    if path.with_name(f"{path.name}-wal").exists():
        return None
    now = path.stat()
    return now.st_size, now.st_mtime_ns


def open_postgres(url: str) -> psycopg.Connection[Any]:
    """One state of a foreign PostgreSQL database, in a transaction that may not write.

    Args:
        url: As of libpq or SQLAlchemy, with a password or without.

    Raises:
        SourceRefused: It cannot be reached, or the extra ``postgres`` is not installed.
    """
    try:
        import psycopg
    except ImportError:
        raise SourceRefused(
            "The source is a PostgreSQL database, and its driver is not installed",
            'pip install "langmem-isolated[postgres]" installs it.',
        ) from None
    scheme, separator, rest = url.partition("://")
    try:
        connection = psycopg.connect(f"{scheme.partition('+')[0]}{separator}{rest}")
    except psycopg.Error as error:
        raise SourceRefused(
            f"The source cannot be reached ({type(error).__name__})",
            "Give postgresql://user:password@host:port/name of a server that is there.",
        ) from None
    connection.read_only = True
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    return connection


def driver_errors() -> tuple[type[Exception], ...]:
    """What a driver raises when a foreign database cannot run or go on with a query."""
    psycopg_errors = sys.modules.get("psycopg")
    return (sqlite3.Error, psycopg_errors.Error) if psycopg_errors else (sqlite3.Error,)


@contextmanager
def reading() -> Iterator[None]:
    """What a driver raises while a source is read becomes an error of ours.

    Raises:
        SourceRefused: The database is damaged there, or its server is gone.
    """
    try:
        yield
    except driver_errors() as error:
        raise SourceRefused(
            f"The source could not be read further ({type(error).__name__})",
            "See that its server runs, or repair the file, and begin again.",
        ) from None
