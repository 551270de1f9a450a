"""Backup of the target of an import, made before anything is written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from langmem_isolated._database.drafts import draft_beside, publish_folder
from langmem_isolated.errors import BackupElsewhere, BackupRefused, MemoryLocked
from langmem_isolated.scope import Scope

if TYPE_CHECKING:
    from langmem_isolated import IsolatedMemory


def back_up(memory: IsolatedMemory, path: Path, scopes: Iterable[Scope]) -> str | None:
    """Copy what is in the target already.

    On SQLite ``path`` becomes a copy of the database. On PostgreSQL it becomes a folder with an
    export of each user of ``scopes`` who has memory already: in plaintext, so its owner alone may
    read it (mode 0700). Users are told apart by 64 bytes each in memory.

    Returns:
        Where it is; ``None`` if nothing is there that could be lost.

    Raises:
        BackupRefused: Something stands at ``path``, or it cannot be written.
        OSError: The folder cannot be written to.
        DatabaseError: The database refused or failed.
    """
    if not memory.stats(days=1).total.scopes:
        return None
    try:
        memory.backup(path)
    except BackupElsewhere:
        return str(path) if _export_users(memory, path, scopes) else None
    return str(path)


def _export_users(memory: IsolatedMemory, folder: Path, scopes: Iterable[Scope]) -> int:
    """Export users into a folder that has its name when it is whole; none where nobody has memory.

    Killed in between, the same import finds its place free.
    """
    if os.path.lexists(folder):
        raise _taken()
    seen, exported = set[tuple[str, str]](), 0
    with draft_beside(folder) as draft:
        for scope in scopes:
            user = scope.project_id, scope.user_id
            if user in seen:
                continue
            seen.add(user)
            if memory.modules(scope.user_id, project_id=scope.project_id):
                exported += _is_exported(memory, draft, scope, exported + 1)
        if exported:
            _publish(draft, folder)
    return exported


def _is_exported(memory: IsolatedMemory, folder: Path, scope: Scope, number: int) -> bool:
    try:
        archive = folder / f"user-{number:06}.zip"
        memory.export_user(scope.user_id, archive, project_id=scope.project_id)
    except MemoryLocked:
        # Who alone has the keys gets nothing from an import either.
        return False
    return True


def _publish(draft: Path, folder: Path) -> None:
    try:
        publish_folder(draft, folder)
    except FileExistsError:
        raise _taken() from None


def _taken() -> BackupRefused:
    return BackupRefused("Something has this name already, and stays as it is. Name a new folder.")
