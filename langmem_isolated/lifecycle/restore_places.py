"""Places of a restore: which backup is to stand where, and what may not be replaced."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from langmem_isolated._database.files import path_of
from langmem_isolated._database.replacement import refuse_remains
from langmem_isolated._database.urls import checked_url
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.errors import RestoreRefused


@dataclass(frozen=True, slots=True)
class Place:
    """A file to be restored: its backup, where it is to be, and whether one is there."""

    backup: Path
    target: Path
    is_replaced: bool

    @classmethod
    def of(cls, backup: object, target: Path, *, replace: bool) -> Place:
        """A file's place, checked.

        Raises:
            TypeError: ``backup`` is no path.
            RestoreRefused: There is no such backup, or the database there may not be replaced.
        """
        source = _path("backup", backup)
        if not source.is_file():
            raise RestoreRefused("There is no backup of this name. Give the file.")
        if not target.parent.is_dir():
            raise RestoreRefused("The folder of the database is not there. Make it first.")
        # What a link leads to is replaced, and the link stays: SQLite's log is beside the former.
        target = target.resolve()
        is_there = target.exists()
        if is_there and not replace:
            raise RestoreRefused(
                "A database is there, and stays. To have it replaced, and kept under another name: "
                "replace=True."
            )
        if is_there and source.samefile(target):
            raise RestoreRefused("The backup is the database itself. Give another file.")
        if not is_there:
            refuse_remains(target)
        return cls(source, target, is_there)


@dataclass(frozen=True, slots=True)
class Places:
    """What is restored where."""

    data: Place
    keys: Place | None
    key_store: str | None

    @property
    def is_any_replaced(self) -> bool:
        """Whether a database stands at one of them."""
        return self.data.is_replaced or (self.keys is not None and self.keys.is_replaced)

    @classmethod
    def of(
        cls,
        backup: object,
        database: object,
        key_store: str | None,
        key_store_backup: object,
        *,
        replace: bool,
    ) -> Places:
        """The places that the arguments of a restore ask for, checked.

        Raises:
            TypeError: A path is none.
            RestoreRefused: A backup is not there, or a database may not be replaced.
            DatabaseError: A URL cannot be read.
        """
        data = Place.of(backup, _file("database", database), replace=replace)
        if key_store_backup is None:
            _refuse_key_store(key_store, data.target)
            return cls(data, None, key_store)
        if key_store is None:
            raise RestoreRefused(
                "key_store_backup= has no place without key_store=, the URL of the key store. "
                "Leave it out where the wrapped keys are in the database."
            )
        place = Place.of(key_store_backup, _file("key_store", key_store), replace=replace)
        return cls(data, place, key_store)


def _refuse_key_store(key_store: str | None, data: Path) -> None:
    """Refuse a key store that is not there, for to open it would make an empty one."""
    if key_store is None or checked_url(key_store).get_backend_name() == "postgresql":
        return
    path = _file("key_store", key_store)
    if not path.is_file():
        raise RestoreRefused(
            "There is no key store at the place given, and none was made. Give the right "
            "key_store=…, or restore its backup too: key_store_backup=…"
        )
    if path.resolve() == data:
        raise RestoreRefused("key_store= names the database itself. Leave it out.")


def _path(name: str, value: object) -> Path:
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise TypeError(
            f"{name} must be a str or a pathlib.Path, got {kind_of(value)}. Nothing was restored. "
            'Name files: restore_backup("monday.db", "memory.db").'
        )
    return Path(value).absolute()


def _file(name: str, value: object) -> Path:
    """The file of a SQLite database that is given by its URL or its path.

    Raises:
        RestoreRefused: It is on PostgreSQL, or in no file.
        DatabaseError: The URL cannot be read.
    """
    if not isinstance(value, str) or "://" not in value:
        return _path(name, value)
    url = checked_url(value)
    if url.get_backend_name() == "postgresql":
        raise RestoreRefused(_POSTGRES)
    path = path_of(url.database, is_uri=bool(url.query.get("uri")))
    if path is None:
        raise RestoreRefused(f"{name} names no file. Give the path of the database.")
    return path.absolute()


_POSTGRES = (
    "PostgreSQL restores its own backups. Keep every process from the database, run pg_restore "
    "--clean --if-exists --dbname=DATABASE FILE, and then langmem-isolated restore without a file, "
    "or memory.reapply_erasures(): it forgets again who was erased since."
)
