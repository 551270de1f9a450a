"""Backups: a copy of all memory that holds nothing of what was deleted, and that opens."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._database.copies import copy_into, opened_copy
from langmem_isolated._database.drafts import draft_beside, publish_file
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated.errors import BackupElsewhere, BackupRefused

if TYPE_CHECKING:
    from langmem_isolated._database.database import Database


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup has written."""

    size: int
    """Bytes of the copy of the database."""
    seconds: float
    """How long all of it took."""
    has_wrapped_keys: bool
    """Whether the wrapped keys are in the copy of the database: not where `key_store=` has them."""
    key_store_size: int | None = None
    """Bytes of the copy of the key store; ``None`` where none was asked for."""


@explains_calls
class MemoryBackups:
    """Backups, as :class:`IsolatedMemory` has them."""

    _context: MemoryContext

    def backup(
        self, path: str | os.PathLike[str], *, key_store: str | os.PathLike[str] | None = None
    ) -> Backup:
        """Copy all memory on SQLite into a new file of mode 0600, while others go on writing.

        What was acknowledged before the call is in it, and no byte of what was deleted before. It
        is written in a folder of its own beside ``path``, checked (SQLite's ``quick_check``, the
        version, and that the root key opens it) and durable before it has its name: one that was
        killed leaves nothing there, only a folder ``.NAME.….partial`` that the next backup to the
        same place removes. The copy of a key store has its name last: one without it, or without
        a return, is to be made again.

        The root key is not in it. The wrapped keys are, unless the memory has a ``key_store=`` of
        its own: then the copy opens with that key store or a copy of it alone.

        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> memory.backup(f"{folder.name}/monday.db")
        Backup(size=..., seconds=..., has_wrapped_keys=True, key_store_size=None)
        >>> folder.cleanup()

        Args:
            path: The new file.
            key_store: A new file for the key store, where it is a database of its own; it is copied
                after the database, so that it has the keys of all that is there. Keep it apart.

        Raises:
            TypeError: A path is neither text nor a path.
            BackupRefused: There is something at a path already, which stays as it is; its folder is
                not there or cannot be written; both paths are one; or ``key_store`` is given and
                the memory has none of its own.
            BackupElsewhere: What is to be copied is on PostgreSQL; says what to run in its place.
            KeyringError: The root key does not open the copy; it was removed.
            DatabaseError: The database refused or failed, or the copy is damaged; it was removed.
        """
        with self._context.audit.job("backup"):
            return _Copying(self._context, path, key_store).run()

    async def abackup(
        self, path: str | os.PathLike[str], *, key_store: str | os.PathLike[str] | None = None
    ) -> Backup:
        """Copy all memory into a new file; see :meth:`backup`. Cancelled, it runs to its end."""
        return await self._context.database.arun(self.backup, path, key_store=key_store)


class _Copying:
    """One backup: what is copied, and where to."""

    def __init__(self, context: MemoryContext, path: object, key_store: object) -> None:
        self._context = context
        self._installation = context.keyring.installation
        self._target = _new_file("path", path)
        self._key_target = None if key_store is None else _new_file("key_store", key_store)
        self._refuse_what_cannot_be()

    def run(self) -> Backup:
        since = time.monotonic()
        self._context.open()
        with ExitStack() as stack:
            draft = stack.enter_context(_draft(self._target))
            copy_into(self._context.database, draft)
            # Behind the database: keys are made before what they seal.
            key_draft = self._key_draft(stack)
            self._refuse_what_does_not_open(draft, key_draft)
            # Keys last: killed between the two, it leaves no copy of keys that nobody knows of.
            size = _publish(draft, self._target)
            key_size = self._publish_keys(key_draft)
        return Backup(size, time.monotonic() - since, not self._key_database, key_size)

    @property
    def _key_database(self) -> Database | None:
        return self._installation.own_key_store

    def _key_draft(self, stack: ExitStack) -> Path | None:
        if self._key_target is None or self._key_database is None:
            return None
        draft = stack.enter_context(_draft(self._key_target))
        copy_into(self._key_database, draft)
        return draft

    def _refuse_what_does_not_open(self, draft: Path, key_draft: Path | None) -> None:
        with ExitStack() as stack:
            copy = stack.enter_context(closing(opened_copy(draft)))
            keys = self._key_database
            if key_draft:
                keys = stack.enter_context(closing(opened_copy(key_draft)))
            self._installation.over(copy, keys).open(create=False)

    def _publish_keys(self, key_draft: Path | None) -> int | None:
        if key_draft is None or self._key_target is None:
            return None
        try:
            return _publish(key_draft, self._key_target)
        except BaseException:
            # Whole or not at all.
            self._target.unlink(missing_ok=True)
            raise

    def _refuse_what_cannot_be(self) -> None:
        if self._context.database.is_postgres:
            raise BackupElsewhere("database")
        if self._key_target is None:
            return
        if self._key_database is None:
            raise BackupRefused(
                "key_store= is for a memory that has a key store of its own, and this one keeps "
                "its wrapped keys in the database: leave it out, they are in the backup."
            )
        if self._key_database.is_postgres:
            raise BackupElsewhere("key store")
        if self._key_target == self._target:
            raise BackupRefused("path and key_store name one file. Give each one of its own.")


def _new_file(name: str, value: object) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise TypeError(
            f"{name} must be a str or a pathlib.Path, got {kind_of(value)}. Nothing was written. "
            'Name a new file: memory.backup("monday.db").'
        )
    path = Path(os.path.abspath(value))  # noqa: PTH100 - a link at its end is not followed
    if "\0" in str(path) or not path.parent.is_dir():
        raise BackupRefused(f"The folder that {name} names is not there. Make it first.")
    if os.path.lexists(path):
        raise _taken()
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise BackupRefused(f"SQLite opens no path like {name}: it is no UTF-8.") from None
    return path


def _taken() -> BackupRefused:
    return BackupRefused("Something has this name already, and stays as it is. Name a new file.")


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """A file's name in a folder beside ``target`` that goes with all that is in it."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(draft_beside(target))
        except OSError as error:
            raise BackupRefused(f"Nothing can be made in its folder: {error.strerror}.") from None
        yield folder / "copy.db"


def _publish(draft: Path, target: Path) -> int:
    """Give a copy its name, unless another has it by now; returns its bytes."""
    size = draft.stat().st_size
    try:
        publish_file(draft, target)
    except FileExistsError:
        raise _taken() from None
    return size
