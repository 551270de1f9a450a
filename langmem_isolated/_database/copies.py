"""Copies of a SQLite database: made while others write, free of what was deleted, and checked."""

import os
from pathlib import Path

from sqlalchemy.engine import URL

from langmem_isolated._database.database import Database
from langmem_isolated.errors import DatabaseCorrupt


def copy_into(database: Database, path: Path) -> None:
    """Write what is committed now to a new file of mode 0600; writers go on meanwhile.

    By ``VACUUM INTO``, which writes living rows alone. The backup API copies pages as they are:
    507 traces of a deleted table, where it was deleted without ``secure_delete``.

    Raises:
        DatabaseError: The database refused or failed.
    """
    # SQLite would make it with what the umask leaves; an empty file it fills.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    database.inspect(lambda connection: connection.exec_driver_sql("VACUUM INTO ?", (str(path),)))


def opened_copy(path: Path) -> Database:
    """A copy as a database, its tables left as they are.

    Raises:
        DatabaseCorrupt: Its pages are not whole.
        SchemaTooNew: A later version of this package wrote it.
        SchemaTooOld: An earlier one did.
        DatabaseError: It cannot be opened.
    """
    copy = Database(URL.create("sqlite", database=str(path)), pool_size=1, auto_upgrade=False)
    try:
        copy.open()
        refuse_damaged(copy)
    except BaseException:
        copy.close()
        raise
    return copy


def refuse_damaged(copy: Database) -> None:
    """Refuse a copy whose pages are not whole.

    Raises:
        DatabaseCorrupt: SQLite's quick_check found something.
    """
    found = copy.inspect(lambda connection: connection.exec_driver_sql("PRAGMA quick_check").all())
    if [tuple(row) for row in found] != [("ok",)]:
        raise DatabaseCorrupt(
            "SQLite's quick_check finds the copy damaged. It was removed; langmem-isolated doctor "
            "looks at the database itself."
        )


def make_durable(path: Path) -> None:
    """Have a file, or the names in a folder, survive loss of power."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folder
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
