"""Replacement of a SQLite file: taken out of use, and another one put in its place at once."""

import os
import time
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.engine import URL

from langmem_isolated._database.copies import make_durable
from langmem_isolated._database.database import Database
from langmem_isolated.errors import DatabaseLocked, RestoreRefused

_BESIDE = ("-wal", "-shm", "-journal")
_IN_USE = (
    "Somebody has the database open that is to be replaced. Stop every process that uses it, and "
    "try again."
)
# For a process that is just closing it.
_PATIENCE_SECONDS = 2.0


def taken_out_of_use(path: Path) -> Database:
    """A SQLite file that nobody else has open, nor can use until it is closed.

    SQLite leaves the mode of its log only where nobody else is connected: that is the question, and
    the log is in the file then. The file's connection keeps it locked.

    Raises:
        RestoreRefused: Somebody else has it open.
        DatabaseError: It cannot be opened, or is no database.
    """
    url = URL.create("sqlite", database=str(path))
    database = Database(url, pool_size=1, timeout=_PATIENCE_SECONDS, auto_upgrade=False)
    try:
        database.inspect(_lock)
    except BaseException as error:
        database.close()
        if isinstance(error, DatabaseLocked):
            raise RestoreRefused(_IN_USE) from None
        raise
    return database


def _lock(connection: Connection) -> None:
    for statement in (
        "PRAGMA journal_mode = DELETE",
        "PRAGMA locking_mode = EXCLUSIVE",
        # With that mode what is locked stays so.
        "BEGIN EXCLUSIVE",
        "COMMIT",
    ):
        connection.exec_driver_sql(statement)


def refuse_remains(path: Path) -> None:
    """Refuse a place without a database where the log of one is left: SQLite would play it back.

    Raises:
        RestoreRefused: There is such a file.
    """
    left = [suffix for suffix in _BESIDE if Path(f"{path}{suffix}").exists()]
    if left:
        raise RestoreRefused(
            f"No database is there, but what SQLite keeps beside one ({', '.join(left)}): it holds "
            "what that one lacks, and would damage another. Move it elsewhere."
        )


def put_in_place(draft: Path, path: Path, *, is_replaced: bool) -> Path | None:
    """Give a whole file its name, in one step.

    Args:
        draft: The file, in the same file system.
        path: Its name.
        is_replaced: Whether a database has it, which was taken out of use and is kept.

    Returns:
        Where that one is kept.

    Raises:
        RestoreRefused: Something else has the name by now.
    """
    make_durable(draft)
    kept = _kept(path) if is_replaced else None
    if kept is None:
        _link(draft, path)
    else:
        _link(path, kept)
        draft.replace(path)
    make_durable(path.parent)
    return kept


def _kept(path: Path) -> Path:
    return path.with_name(f"{path.name}.replaced-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")


def _link(file: Path, name: Path) -> None:
    """Give a file a second name, which no other file has: renaming would take it away."""
    try:
        os.link(file, name)
    except FileExistsError:
        raise _taken(name) from None
    except OSError:
        # A file system without links.
        if os.path.lexists(name):
            raise _taken(name) from None
        file.rename(name)


def _taken(name: Path) -> RestoreRefused:
    return RestoreRefused(f"{name.name} is there by now, and stays as it is. Try again.")
