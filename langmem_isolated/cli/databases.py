"""Opens existing databases for commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from langmem_isolated._database.database import Database
from langmem_isolated._runtime.environment import DATABASE_VARIABLE, KEY_STORE_VARIABLE
from langmem_isolated.cli.options import DEFAULT_DATABASE
from langmem_isolated.errors import DatabaseUnreachable

if TYPE_CHECKING:
    from langmem_isolated.memory import IsolatedMemory
    from langmem_isolated.root_keys import RootKey

DATABASE = f"--database or {DATABASE_VARIABLE}"
KEY_STORE = f"--key-store or {KEY_STORE_VARIABLE}"


def existing_memory(
    url: str,
    key_store: str | None,
    *accepted_root_keys: RootKey,
    erasure_log: Path | None = None,
    tombstone_days: int | None = None,
    jobs_url: str | None = None,
) -> IsolatedMemory:
    """A memory over databases that are there; asking must not make one."""
    from langmem_isolated.memory import IsolatedMemory

    existing_database(url).close()
    if key_store:
        existing_database(key_store, given_as=KEY_STORE).close()
    return IsolatedMemory(
        url,
        accepted_root_keys=accepted_root_keys,
        key_store=key_store,
        erasure_log=erasure_log,
        tombstone_days=tombstone_days,
        auto_upgrade=False,
        jobs_url=jobs_url,
    )


def existing_database(url: str, *, given_as: str = DATABASE) -> Database:
    """A database that is there, its tables left as they are.

    Raises:
        DatabaseUnreachable: There is none, and none was made.
    """
    database = Database(url, auto_upgrade=False)
    name = database.url.database or ""
    path = unquote(urlsplit(name).path) if name.startswith("file:") else name
    if not database.is_postgres and not Path(path).is_file():
        place = "at the place given"
        if url == DEFAULT_DATABASE:
            place = f"{path} in this folder, where it is looked for by default"
        raise DatabaseUnreachable(
            f"There is no database file {place}, and nothing was made there. "
            f"Give the URL of the application: {given_as}. For a new one, run "
            "langmem-isolated schema upgrade."
        )
    return database
