"""What an application's memory gives to people who want to have what it holds of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import callback, kind_of
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.export.export import Exported, Profile, Progress


class UserExports:
    """The export of a user, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    def export_user(
        self,
        user_id: str,
        output: str | os.PathLike[str],
        *,
        project_id: str = "default",
        module_id: str | None = None,
        profile: Profile | None = None,
        progress: Progress | None = None,
    ) -> Exported:
        """Write all that a user has into an archive that is read without this package.

        A folder in the layout of BagIt (RFC 8493), or a zip file of one: a file of JSON lines for
        each kind, counts, and the SHA-256 of each file; `docs/privacy/leaving.md` says what the
        lines hold, and reads them. It is in plaintext, and its owner alone may read the files
        (mode 0600).

        Memory stays bounded: what is read comes in pages of 500 records or 1 MiB; the latest state
        of one thread is held as a whole. Each session, thread and collection is of one state of the
        database, and checked against what its row stands for. Until the archive is whole it stands
        in the same folder as ``.NAME.….partial``; a process that is killed leaves that, in
        plaintext, until the next export to the same place removes it.

        In the portable ``.mem`` format (1.1), which other programs import, messages and summaries
        are episodes, items of a store and facts of a profile facts, interests and attributes
        preferences, and documents resources; what it has no place for is counted in its manifest.

        >>> from tempfile import mkdtemp
        >>> memory.export_user("nobody", mkdtemp() + "/nobody.zip").counts["messages"]
        0

        Args:
            user_id: The user.
            output: Where it goes: a zip file if the name ends with ``.zip``, otherwise a folder.
            project_id: The project.
            module_id: Only what the user has in this module, and nothing that all modules of the
                user share; by default all.
            profile: ``"full"`` for all of it, ``"mem"`` for the portable ``.mem`` format; by
                default that where the name ends with ``.mem`` or ``.mem.zip``.
            progress: Called after each page with the number of lines written so far. What it raises
                ends the export, of which nothing stays.

        Returns:
            Where it is, and how many lines each file has.

        Raises:
            TypeError: ``output`` is no path, or ``progress`` no function.
            ValueError: ``profile`` is neither ``"full"`` nor ``"mem"``.
            ScopeError: An id is malformed.
            ExportExists: Something stands at ``output``; it was left alone.
            OSError: The folder is not there, cannot be written to, or is full; nothing stays.
            RecordDoesNotOpen: A record is not as it was stored; nothing stays.
            DatabaseError: The database refused or failed; nothing stays.
        """
        return self._exported(
            user_id, output, project_id, module_id, profile, progress, lambda: False
        )

    async def aexport_user(
        self,
        user_id: str,
        output: str | os.PathLike[str],
        *,
        project_id: str = "default",
        module_id: str | None = None,
        profile: Profile | None = None,
        progress: Progress | None = None,
    ) -> Exported:
        """Write all that a user has; see :meth:`export_user`. Cancelled, it ends behind a page."""
        ended = threading.Event()
        try:
            return await self._context.database.arun(
                self._exported,
                user_id,
                output,
                project_id,
                module_id,
                profile,
                progress,
                ended.is_set,
            )
        finally:
            ended.set()

    def _exported(
        self,
        user_id: str,
        output: str | os.PathLike[str],
        project_id: str,
        module_id: str | None,
        profile: Profile | None,
        progress: Progress | None,
        is_stopped: Callable[[], bool],
    ) -> Exported:
        from langmem_isolated.lifecycle.export.export import Export
        from langmem_isolated.lifecycle.locking.locking import collect_before_leaving

        if not isinstance(output, str | os.PathLike):
            raise TypeError(
                f"output must be the path of a zip file or folder that is not there yet, got "
                f'{kind_of(output)}. Write output="ann.zip". Nothing was written.'
            )
        if progress is not None:
            callback("progress", progress, example="progress=lambda written: print(written)")
        chosen = _profile_of(profile, Path(output))
        project = checked_id("project_id", project_id)
        module = None if module_id is None else checked_id("module_id", module_id)
        user = Owner(Level.USER, project, checked_id("user_id", user_id))
        collect_before_leaving(self._context, user)
        export = Export(self._context, user, module, chosen, progress, is_stopped)
        about = user if module is None else Owner(Level.PRIVATE, project, user.user, module)
        with self._context.audit.job("export", about) as job:
            exported = export.write_to(Path(output))
            job.count = sum(exported.counts.values())
        return exported


def _profile_of(profile: object, output: Path) -> Profile:
    if profile is None:
        return "mem" if output.name.endswith((".mem", ".mem.zip")) else "full"
    if profile == "mem":
        return "mem"
    if profile == "full":
        return "full"
    raise ValueError(
        'profile must be "full", for all that the user has, or "mem", for the portable format, got '
        f"{kind_of(profile)}. Nothing was written."
    )
