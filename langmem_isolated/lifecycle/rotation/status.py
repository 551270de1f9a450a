"""Status of keys, as operators see it: what is pending, and which version has sealed what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._database.admission import Admission
from langmem_isolated._storage import key_status
from langmem_isolated._storage.key_sets import KeySet, KeySets, Purpose, State
from langmem_isolated._storage.key_uses import most_seals
from langmem_isolated.scope import checked_id

MOST_SEALS = 2**32
"""How many records one key may seal with random nonces (NIST SP 800-38D, 8.3)."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """The sealing keys of an installation."""

    owners: int
    """Users, and others, who have keys. A key store that serves several databases counts all."""
    pending: int
    """How many of them have a former key that is not destroyed: a rotation is to go on."""
    former_keys: int
    """How many such keys there are."""
    oldest_former: datetime | None
    """When the oldest of them was made."""
    rotating_since: datetime | None
    """Since when ``rotate_keys(all=True)`` is under way, if it is."""
    most_seals: int
    """How many records the key of a scope has sealed that was used most, as far as is stored."""
    seals_allowed: int = MOST_SEALS
    """At this less 2^24 a key seals no more until it is rotated."""


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """One sealing key of a user."""

    version: int
    state: str
    """``"active"`` seals and opens, ``"retired"`` only opens, ``"destroyed"`` is gone."""
    made_at: datetime
    destroyed_at: datetime | None


@dataclass(frozen=True, slots=True)
class ScopeKeyUse:
    """By which version of the user's key what is in one scope was sealed."""

    scope: str
    """Its digest, as logs name it."""
    module: str | None
    """``None`` for what a user has in all modules."""
    oldest_key: int
    """The oldest version that may still seal in it."""
    records: Mapping[int, int]
    """By version, headers of sessions, threads and collections among them; of a locked user none
    is told, since the user alone knows which key is which."""
    seals: Mapping[int, int]
    """By version, how often it has sealed here, as far as that is stored."""


@dataclass(frozen=True, slots=True)
class UserKeyStatus:
    """A user's sealing keys, and what was sealed by them."""

    keys: Sequence[KeyVersion]
    scopes: Sequence[ScopeKeyUse]

    @property
    def is_pending(self) -> bool:
        """Whether a rotation is to go on: a former key is not destroyed."""
        return any(key.state == "retired" for key in self.keys)


def status(context: MemoryContext) -> KeyStatus:
    """Of all."""
    found = key_status.counts(context.keyring.key_store)
    return KeyStatus(
        owners=found.owners,
        pending=found.pending,
        former_keys=found.former,
        oldest_former=_moment(found.oldest_made_at),
        rotating_since=_moment(key_status.rotating_since(context.database)),
        most_seals=most_seals(context.database),
    )


def status_of(context: MemoryContext, user_id: str, project_id: str) -> UserKeyStatus:
    """Of one user."""
    project = checked_id("project_id", project_id)
    user = Owner(Level.USER, project, checked_id("user_id", user_id))
    directory = context.keyring.directory()
    if directory is None:
        return UserKeyStatus([], [])
    sets = KeySets(context.keyring.key_store)
    found = sets.read(directory.principal_of(user), directory)
    return UserKeyStatus(_versions(found), _uses(context, user, found))


def _versions(found: KeySet) -> list[KeyVersion]:
    return [
        KeyVersion(
            key.version,
            State(key.state).name.lower(),
            _EPOCH + timedelta(microseconds=key.created_at),
            _moment(key.destroyed_at),
        )
        for key in found.keys
        if key.purpose == Purpose.SEALING
    ]


def _uses(context: MemoryContext, user: Owner, found: KeySet) -> list[ScopeKeyUse]:
    versions = [key.version for key in found.living(Purpose.SEALING)]
    told = []
    for row, owner in context.keyring.owned_rows(user):
        context.keyring.forget(owner)
        keys = context.keyring.find(owner)
        # Others may have rotated or erased since: what it is now, the next call tells.
        if keys is not None and (keys.is_locked or len(keys.opening) == len(versions)):
            known = [] if keys.is_locked else versions
            with Admission(keys.scope_id):
                use = context.database.snapshot(key_status.use_of, keys, known)
            told.append(ScopeKeyUse(keys.scope_id.hex(), owner.module, row.oldest_key, *use))
    return told


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
