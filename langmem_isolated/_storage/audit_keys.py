"""Audit keys: what seals the entries about a subject, until an erasure destroys it."""

from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.sealing import SealingKey
from langmem_isolated._storage.key_sets import KeySets
from langmem_isolated._storage.keyring import Keyring


def subject_of(owner: Owner) -> Owner:
    """Whom an entry about an owner's memory is about: of a module's the user, or the guest."""
    if owner.level is Level.PRIVATE:
        return Owner(Level.USER, owner.project, owner.user)
    if owner.level is Level.ANONYMOUS:
        return Owner(Level.ANONYMOUS, owner.project, guest=owner.guest)
    return owner


def subject_key(keyring: Keyring, owner: Owner) -> SealingKey | None:
    """What seals entries about an owner's subject; ``None`` for one without keys, or any more.

    A subkey of the naming key, which stays with the server and does not rotate. It is unwrapped at
    every call, never inside a transaction: no cache outlives an erasure.

    Raises:
        KeyringError: The key cannot be had, or belongs to another root key.
        RecordDoesNotOpen: The subject's keys are not as they were stored.
    """
    opened = keyring.installation.open(create=False)
    if opened is None:
        return None
    principal = opened.directory.principal_of(owner)
    found = KeySets(keyring.key_store).read(principal, opened.directory)
    keys = opened.keys.unwrapped(found)
    return None if keys is None else SealingKey(keys.for_audit())
