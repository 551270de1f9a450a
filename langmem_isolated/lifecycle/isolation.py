"""Isolation of one user's modules, verified against each other on what is stored."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._storage import scope_marks
from langmem_isolated._storage.scope_marks import Marks
from langmem_isolated.errors import IsolationViolation
from langmem_isolated.lifecycle.verification.verified import verified
from langmem_isolated.scope import checked_id


@dataclass(frozen=True, slots=True)
class ModuleIsolation:
    """What was verified: nothing of one module is known, sealed or opened in another."""

    modules: tuple[str, ...]
    sessions: int
    messages: int
    records: int
    """Of all kinds, each opened with the keys of its own module."""
    pairs: int
    """Of modules, in both directions."""


def verify_module_isolation(
    context: MemoryContext, *, user_id: str, project_id: str
) -> ModuleIsolation:
    """See `IsolatedMemory.verify_module_isolation`."""
    user = Owner(Level.USER, checked_id("project_id", project_id), checked_id("user_id", user_id))
    owners = [one for one in context.keyring.owners(user) if one.level is Level.PRIVATE]
    scopes = [context.operators(owner) for owner in owners]
    found = [records.snapshot(scope_marks.read, None) for records in scopes]
    marks = [one for one in found if one is not None]
    for one, other in permutations(marks, 2):
        _verify_apart(one, other)
    own = [verified(records) for records in scopes]
    return ModuleIsolation(
        modules=tuple(sorted(owner.module or "" for owner in owners)),
        sessions=sum(one.sessions for one in own),
        messages=sum(one.messages for one in own),
        records=sum(one.records for one in marks),
        pairs=len(marks) * (len(marks) - 1),
    )


def _verify_apart(one: Marks, other: Marks) -> None:
    """Refuse what stands in ``one`` and is of ``other``."""
    if one.scope_id == other.scope_id or one.keys.ids & other.keys.ids:
        raise _violation("the same keys", one, other)
    if one.sealed_with & other.keys.ids:
        raise _violation("a record that the other's key has sealed", one, other)
    if one.digests & other.digests:
        raise _violation("a name or a birth of the other", one, other)
    if scope_marks.opened_by(other.keys, one):
        raise _violation("a record that the other's keys open", one, other)


def _violation(what: str, one: Marks, other: Marks) -> IsolationViolation:
    return IsolationViolation(
        f"Two modules of this user are not apart: scope {one.scope_id.hex()} has {what}, which is "
        f"scope {other.scope_id.hex()}. Nothing was changed. Someone moved rows in the database: "
        "scope.verify() tells whether what is left is whole, and a backup has what it was."
    )
