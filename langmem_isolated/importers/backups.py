"""Backup of the target of an import, made before anything is written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from langmem_isolated.errors import BackupElsewhere, MemoryLocked
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
    seen, exported = set[tuple[str, str]](), 0
    for scope in scopes:
        user = scope.project_id, scope.user_id
        if user in seen:
            continue
        seen.add(user)
        if memory.modules(scope.user_id, project_id=scope.project_id):
            exported += _is_exported(memory, folder, scope, exported + 1)
    return exported


def _is_exported(memory: IsolatedMemory, folder: Path, scope: Scope, number: int) -> bool:
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        archive = folder / f"user-{number:06}.zip"
        memory.export_user(scope.user_id, archive, project_id=scope.project_id)
    except MemoryLocked:
        # Who alone has the keys gets nothing from an import either.
        return False
    return True
