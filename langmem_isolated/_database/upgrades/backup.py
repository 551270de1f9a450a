"""Backup before an upgrade: a copy of the version that is there, made without a root key."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import URL

from langmem_isolated._database.copies import copy_into, refuse_damaged
from langmem_isolated._database.drafts import draft_beside, publish_file
from langmem_isolated._database.files import path_of
from langmem_isolated._database.upgrades.versions import version_of
from langmem_isolated.errors import BackupRefused, DatabaseCorrupt

if TYPE_CHECKING:
    from langmem_isolated._database.database import Database


def default_backup(database: Database, version: int) -> Path:
    """A name beside a database on SQLite that no file has: ``memory.db.schema-1``, or ``-1-2``."""
    path = path_of(database.url.database, is_uri=bool(database.url.query.get("uri")))
    if path is None:
        raise BackupRefused("The database is in no file. Name one, or go on without a backup.")
    names = (f"{path.name}.schema-{version}{f'-{n}' if n > 1 else ''}" for n in range(1, 1000))
    return next(path.with_name(name) for name in names if not path.with_name(name).exists())


def back_up(database: Database, target: Path) -> int:
    """Write what is committed now into a new file of mode 0600; returns its bytes.

    By ``VACUUM INTO``, checked, and durable before it has its name: who is killed leaves none.

    Raises:
        BackupRefused: Something has the name, or nothing can be made there; that stays as it is.
        DatabaseCorrupt: The copy is damaged; it was removed.
        DatabaseError: The database refused or failed.
    """
    if target.exists():
        raise BackupRefused("Something has this name already, and stays as it is. Name a new file.")
    try:
        with draft_beside(target) as folder:
            draft = folder / "copy.db"
            copy_into(database, draft)
            _check(database, draft)
            publish_file(draft, target)
    except FileExistsError:
        raise BackupRefused("Something has this name by now. Name a new file.") from None
    except OSError as error:
        raise BackupRefused(f"Nothing can be made in its folder: {error.strerror}.") from None
    return target.stat().st_size


def _check(database: Database, draft: Path) -> None:
    url = URL.create("sqlite", database=str(draft))
    with closing(type(database)(url, pool_size=1, auto_upgrade=False)) as copy:
        refuse_damaged(copy)
        if copy.inspect(version_of) != database.inspect(version_of):
            raise DatabaseCorrupt("The copy has another version than the database. It was removed.")
