"""Locks: makes, opens, changes and removes what users hold their own keys with."""

from collections.abc import Sequence
from typing import NamedTuple

from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.lock_secrets import LockSecret, SecretKind
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._storage import user_held_keys
from langmem_isolated._storage.key_sets import KeySet, KeySets
from langmem_isolated._storage.lent_locks import LentLocks, LockKey
from langmem_isolated._storage.user_held_keys import StretchedSecret
from langmem_isolated._storage.wrapped_keys import WrappedKeys, is_user_held


class FoundLock(NamedTuple):
    """What there is of a user's lock."""

    secrets: frozenset[SecretKind]
    """What opens it; empty without a lock."""
    seconds_left: float
    """How long it is lent to this process yet."""


class Locks(NamedTuple):
    """The locks of one installation's users."""

    directory: DirectoryKey
    keys: WrappedKeys
    sets: KeySets
    lent: LentLocks

    def make(self, owner: Owner, secrets: Sequence[StretchedSecret], seconds: float) -> None:
        """Lock a user's keys, and have the lock lent for so long.

        Raises:
            LockRefused: The user has a lock.
            RecordDoesNotOpen: The user's keys are not as they were stored.
        """
        principal, lock = self.directory.principal_of(owner), LockKey(SecretBytes.random())
        self.keys.change(
            self.sets,
            principal,
            self.directory,
            lambda found, keys: user_held_keys.locked(keys, found, lock, secrets),
        )
        self._lend(principal, lock, seconds)

    def open(self, owner: Owner, secret: LockSecret, seconds: float) -> None:
        """Open a user's lock with a secret, and have it lent for so long.

        Raises:
            LockRefused: The user has no lock, or none that this kind of secret opens.
            WrongSecret: It is another's.
            RecordDoesNotOpen: The user's keys are not as they were stored.
        """
        principal = self.directory.principal_of(owner)
        self._lend(principal, self._opened(principal, secret), seconds)

    def change(
        self,
        owner: Owner,
        secret: LockSecret,
        secrets: Sequence[StretchedSecret],
        in_place_of: frozenset[SecretKind],
    ) -> None:
        """Exchange the secrets of some kinds, with one that opens the lock; no record is touched.

        Raises:
            LockRefused: The user has no lock, or none that this kind of secret opens.
            WrongSecret: It is another's.
            RecordDoesNotOpen: The user's keys are not as they were stored.
        """

        def changed(found: KeySet, keys: WrappedKeys) -> KeySet:
            # Of the set that is swapped: others may have changed the secret, or the lock itself.
            lock = user_held_keys.opened_lock(keys, found, secret)
            return user_held_keys.with_other_secrets(
                keys, found, lock, secrets, in_place_of=in_place_of
            )

        principal = self.directory.principal_of(owner)
        self.keys.change(self.sets, principal, self.directory, changed)

    def remove(self, owner: Owner) -> None:
        """Give a user's keys back to the server for good; the lock must be lent.

        Raises:
            LockRefused: The user has no lock.
            MemoryLocked: It is not lent to this process.
        """
        principal = self.directory.principal_of(owner)
        self.keys.change(
            self.sets,
            principal,
            self.directory,
            lambda found, keys: user_held_keys.unlocked(keys, found),
        )
        self.lent.end(principal)

    def forget(self, owner: Owner) -> None:
        """Let go of a user's lock, and of every key that it opened, in this process."""
        self.lent.end(self.directory.principal_of(owner))

    def find(self, owner: Owner) -> FoundLock:
        """What there is of a user's lock.

        Raises:
            RecordDoesNotOpen: The user's keys are not as they were stored.
        """
        principal = self.directory.principal_of(owner)
        found = self.sets.read(principal, self.directory)
        secrets = user_held_keys.kinds_of_secrets(found) if is_user_held(found) else frozenset()
        seconds = 0.0 if self.keys.is_locked(found) else self.lent.seconds_left(principal)
        return FoundLock(secrets, seconds)

    def inbox_keys(self, owner: Owner) -> list[SecretBytes]:
        """What opens a user's inbox, the latest first; nothing for one who never had a lock.

        Raises:
            MemoryLocked: The lock is not lent to this process.
            RecordDoesNotOpen: The user's keys are not as they were stored.
        """
        principal = self.directory.principal_of(owner)
        found = self.sets.read(principal, self.directory)
        return user_held_keys.inbox_keys(self.keys, found)

    def _opened(self, principal: bytes, secret: LockSecret) -> LockKey:
        found = self.sets.read(principal, self.directory)
        return user_held_keys.opened_lock(self.keys, found, secret)

    def _lend(self, principal: bytes, lock: LockKey, seconds: float) -> None:
        # What is at hand was read while the user held the keys alone, or before there was a lock.
        self.lent.end(principal)
        self.lent.lend(principal, lock, seconds)
