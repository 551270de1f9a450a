"""What an application's memory gives to people who come with an export of theirs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from langmem_isolated._adapters.allowed_types import allowed_names
from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import callback, kind_of, refuse_single
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.imports.run import Imported, Progress, Request


class UserImports:
    """The import of a user, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    def import_user(
        self,
        path: str | os.PathLike[str],
        *,
        user_id: str | None = None,
        project_id: str = "default",
        readmit: Iterable[str] = (),
        allow: Iterable[type | tuple[str, ...]] = (),
        progress: Progress | None = None,
    ) -> Imported:
        """Put in what :meth:`export_user` wrote, record by record as it was.

        All of the archive is checked before anything is written: the SHA-256 of each file, each
        line and its limits, and that the user has nothing under a name that it has. Sessions,
        threads and collections are seen when they are whole, items and entries by batches of at
        most 500 rows. Killed at any point, the same call goes on behind the last batch, and nothing
        is put in twice; once it is done, another finds its names taken. Memory stays bounded by the
        longest line. `docs/privacy/leaving.md` says what is left out, and what differs.

        >>> from tempfile import mkdtemp
        >>> archive = mkdtemp() + "/alice.zip"
        >>> exported = memory.export_user("alice", archive)
        >>> memory.import_user(archive, user_id="alice-2").counts == exported.counts
        True

        Args:
            path: A zip file or folder, as an export writes it. Nothing in it is trusted: no name of
                the archive is opened as a path, and no class is looked up by a name in it.
            user_id: Who gets it; by default the user whose export it is.
            project_id: In which project.
            readmit: Ids of users who may come back though they were erased here; they come in as
                new. The list is there so that a script for many users names each of them.
            allow: Types, or ``(module, name)``, whose objects may be in it besides those that
                LangGraph takes for safe; reading will rebuild them.
            progress: Called after each batch with the number of lines that are in. What it raises
                ends the import, and the same call goes on.

        Returns:
            Whose it has become, how many lines of each file are in, and how many were left out.

        Raises:
            TypeError: ``path`` is no path, ``progress`` no function, or a list holds other types.
            ScopeError: An id is malformed.
            ImportRefused: It is no export, not as it was exported, of a later version, or has a
                line with what may not be stored or is beyond ``limits``; nothing was written. Or it
                was changed after it had been checked: what is in by then is as it was checked.
            ImportConflict: The user has something under a name that it has. Nothing was written,
                unless somebody put it there while the import went on.
            UserWasErased: The user was erased here, and ``readmit`` does not name them.
            DatabaseLocked: Another process imports the same archive.
            OSError: It cannot be read.
            DatabaseError: The database refused or failed; to call again goes on.
        """
        return self._imported(path, user_id, project_id, readmit, allow, progress, lambda: False)

    async def aimport_user(
        self,
        path: str | os.PathLike[str],
        *,
        user_id: str | None = None,
        project_id: str = "default",
        readmit: Iterable[str] = (),
        allow: Iterable[type | tuple[str, ...]] = (),
        progress: Progress | None = None,
    ) -> Imported:
        """Put in an export; see :meth:`import_user`. Cancelled, it ends behind a batch."""
        ended = threading.Event()
        try:
            return await self._context.database.arun(
                self._imported, path, user_id, project_id, readmit, allow, progress, ended.is_set
            )
        finally:
            ended.set()

    def _imported(
        self,
        path: str | os.PathLike[str],
        user_id: str | None,
        project_id: str,
        readmit: Iterable[str],
        allow: Iterable[type | tuple[str, ...]],
        progress: Progress | None,
        is_stopped: Callable[[], bool],
    ) -> Imported:
        from langmem_isolated.lifecycle.imports.run import Import

        if progress is not None:
            callback("progress", progress, example="progress=lambda done: print(done)")
        request = _request(path, user_id, project_id, readmit, allow)
        asked = request.user_id
        owner = None if asked is None else Owner(Level.USER, request.project_id, asked)
        with self._context.audit.job("import", owner) as job:
            imported = Import(self._context, request, progress, is_stopped).run()
            job.count = sum(imported.counts.values())
        return imported


def _request(
    path: object,
    user_id: object,
    project_id: object,
    readmit: Iterable[str],
    allow: Iterable[type | tuple[str, ...]],
) -> Request:
    from langmem_isolated._codecs.classes import AllowedTypes
    from langmem_isolated.lifecycle.imports.run import Request

    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"path must be that of a zip file or folder that an export wrote, got "
            f'{kind_of(path)}. Write import_user("ann.zip"). Nothing was read or written.'
        )
    refuse_single("readmit", readmit, (), example='readmit=["ann"]')
    return Request(
        Path(os.fspath(path)),
        None if user_id is None else checked_id("user_id", user_id),
        checked_id("project_id", project_id),
        AllowedTypes(allowed_names(allow)),
        frozenset(checked_id("readmit", one) for one in readmit),
    )
