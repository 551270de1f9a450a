"""Canary places: the project that a verification makes for itself, and its removal.

Its id is random and carries a keyed digest of itself: whoever has not the root key can give no
project of theirs such an id, and so nothing of anybody's is taken for a canary and removed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.removal import remove_rows
from langmem_isolated._storage.scope_rows import ScopeRow

_PREFIX = "langmem_isolated canaries "
_TOKEN_CHARACTERS = 32
ABANDONED = 3_600_000_000
"""Microseconds: canaries that are older are those of a run that was killed."""


def new_project(directory: DirectoryKey) -> str:
    """A project's id for the canaries of one run."""
    return _signed(directory, secrets.token_hex(_TOKEN_CHARACTERS // 2))


def _signed(directory: DirectoryKey, token: str) -> str:
    start = f"{_PREFIX}{token}"
    return f"{start} {directory.project_of(Owner(Level.PROJECT, start)).hex()}"


def is_canary(owner: Owner, context: MemoryContext) -> bool:
    """Whether a scope was made by a verification."""
    if not owner.project.startswith(_PREFIX):
        return False
    directory = context.keyring.directory()
    token = owner.project.removeprefix(_PREFIX)[:_TOKEN_CHARACTERS]
    return directory is not None and owner.project == _signed(directory, token)


def is_abandoned(row: ScopeRow) -> bool:
    """Whether the run that made a canary was killed."""
    return row.created_at < now() - ABANDONED


def remove(context: MemoryContext, rows: Iterable[ScopeRow]) -> None:
    """Remove canary scopes: first all rows, then their keys.

    In this order another verification never meets a scope of theirs without keys. Nobody's memory
    is in them: they leave neither tombstone nor receipt, and nobody outside is asked.
    """
    lives, ended = context.keyring.lives(), {}
    for row in rows:
        remove_rows(context.database, row)
        ended[row.principal] = row.incarnation
    for principal, incarnation in ended.items():
        lives.end(principal, incarnation)
        lives.remove_destroyed(principal)


def rows_of(context: MemoryContext, project: str) -> list[ScopeRow]:
    """What there is of one run's canaries."""
    return [*context.keyring.lives().in_place(project, None)]
