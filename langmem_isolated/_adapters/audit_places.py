"""Places of audit entries: whom they are about, what seals them, and what they may say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.sealing import SealingKey
from langmem_isolated._storage.audit_keys import subject_key, subject_of
from langmem_isolated._storage.audit_rows import Draft

if TYPE_CHECKING:
    from langmem_isolated._adapters.audit_actor import Actor
    from langmem_isolated._crypto.directory import DirectoryKey
    from langmem_isolated._storage.audit_notes import AuditNote
    from langmem_isolated._storage.keyring import Keyring

_PERSONS = (Level.USER, Level.ANONYMOUS)


class Place(NamedTuple):
    """Where entries about somebody belong, and what seals them."""

    key: SealingKey
    scope_id: bytes | None
    scope: str | None
    module: str | None
    says_why: bool

    def draft(self, note: AuditNote, actor: Actor) -> Draft:
        """An entry, with who acts and, unless an erasure of the subject leaves it, why."""
        reason = note.reason or actor.reason if self.says_why else None
        told = replace(note, actor=actor.name, reason=reason, scope=self.scope, module=self.module)
        return Draft(self.key, self.scope_id, told.encoded())


def place_of(
    keyring: Keyring, directory: DirectoryKey, owner: Owner | None, *, outlives: bool
) -> Place:
    """Where entries about an owner belong; asked outside of transactions.

    Args:
        keyring: Has the keys of subjects.
        directory: Its key seals what no subject's does.
        owner: Whose memory they are about; ``None`` for everybody's.
        outlives: Whether they open after an erasure of the owner.
    """
    if owner is None:
        return Place(directory.audit, None, None, None, not outlives)
    subject = subject_of(owner)
    key = None if outlives else subject_key(keyring, owner)
    # What is about who has no keys, yet or any more, opens after every erasure, too.
    is_kept = key is None and subject.level in _PERSONS
    return Place(
        key or directory.audit,
        directory.scope_id_of(subject),
        directory.scope_id_of(subject if is_kept else owner).hex(),
        None if key is None else owner.module,
        not (outlives or is_kept),
    )
