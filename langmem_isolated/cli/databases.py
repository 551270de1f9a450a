"""Opens existing databases for commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from langmem_isolated._database.database import Database
from langmem_isolated._runtime.environment import DATABASE_VARIABLE
from langmem_isolated.errors import DatabaseUnreachable

if TYPE_CHECKING:
    from langmem_isolated.memory import IsolatedMemory


def existing_memory(url: str, key_store: str | None) -> IsolatedMemory:
    """A memory over databases that are there; asking must not make one."""
    from langmem_isolated.memory import IsolatedMemory

    for place in filter(None, (url, key_store)):
        existing_database(place).close()
    return IsolatedMemory(url, key_store=key_store, auto_upgrade=False)


def existing_database(url: str) -> Database:
    """A database that is there, its tables left as they are.

    Raises:
        DatabaseUnreachable: There is none, and none was made.
    """
    database = Database(url, auto_upgrade=False)
    name = database.url.database or ""
    path = unquote(urlsplit(name).path) if name.startswith("file:") else name
    if not database.is_postgres and not Path(path).is_file():
        raise DatabaseUnreachable(
            "There is no database file at the place given, and nothing was made there. "
            f"Give --database or {DATABASE_VARIABLE}."
        )
    return database
