"""Wrapped keys: each principal's keys, encrypted by a key-encryption key for one place alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.hpke import PUBLIC_BYTES
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.sealing import SealingKey, derive, framed, open_sealed, seal
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.key_encryption_keys import (
    KeyEncryptionKey,
    KeyEncryptionKeys,
    context_of,
)
from langmem_isolated._storage.key_sets import (
    KeyEncryptionKeyRetired,
    KeySet,
    KeySets,
    Purpose,
    State,
    StoredKey,
    Wrapping,
)
from langmem_isolated._storage.lent_locks import LentLocks, LockKey
from langmem_isolated.errors import MemoryLocked, RecordDoesNotOpen

# Before the public key of an inbox.
INBOX_FORM = b"\1"

# What each principal has.
OWNED = (Purpose.NAMING, Purpose.SEALING)


@dataclass(frozen=True, slots=True, repr=False)
class PrincipalKeys:
    """A principal's living keys; ``incarnation`` counts its lives, one per erasure.

    Of the sealing keys the last one seals; ``sealing_version`` is its number. Where the user alone
    has them, there is none. To ``inbox``, a public key, is sealed what comes meanwhile.
    """

    incarnation: int
    naming: SecretBytes
    sealing: Sequence[SecretBytes]
    sealing_version: int
    inbox: bytes | None = None

    @property
    def is_locked(self) -> bool:
        """Whether the user alone has the sealing keys."""
        return not self.sealing

    def entry(self, scope_id: bytes, birth: bytes) -> tuple[SealingKey, bytes]:
        """What opens and seals this principal's entries in the table of scopes.

        It stays with the server, as the naming key does: whose a scope is must be told for
        sweeps and erasures while the user alone holds the sealing keys.
        """
        place = framed(Kind.SCOPE.framed_bytes, scope_id, birth)
        return SealingKey(derive(self.naming, b"directory entries")), place

    def for_audit(self) -> SecretBytes:
        """Seals what is noted about this principal, until an erasure destroys its keys."""
        return derive(self.naming, b"audit")


class WrappedKeys:
    """Makes and opens the keys of one installation with its key-encryption keys.

    Args:
        key_encryption_keys: The primary one wraps; each opens what it wrapped.
        installation_id: 16 bytes; part of every context, so a key of another installation, or of
            its key store, does not open here.
        lent: The locks that users lend to this process: they open what these hold themselves.
    """

    def __init__(
        self,
        key_encryption_keys: KeyEncryptionKeys,
        installation_id: bytes,
        lent: LentLocks | None = None,
    ) -> None:
        self.key_encryption_keys = key_encryption_keys
        self.installation_id = installation_id
        self._lent = lent or LentLocks()

    def wrap(
        self,
        key: SecretBytes,
        principal: bytes,
        purpose: Purpose,
        version: int,
        lock: LockKey | None = None,
    ) -> StoredKey:
        """The row of a key, active and the primary one of its purpose; of any length.

        No service is asked: the key-encryption key is at hand. With a ``lock``, that wraps the key
        first.
        """
        if lock is not None:
            key = lock.wrap(key, self.context(principal, purpose, version))
        wrapper = self.key_encryption_keys.primary
        return StoredKey(
            purpose=int(purpose),
            version=version,
            state=int(State.ACTIVE),
            is_primary=1,
            wrapping=int(Wrapping.KEY_ENCRYPTION_KEY if lock is None else Wrapping.USERS_LOCK),
            kek=wrapper.version,
            wrapped=self._sealed(wrapper, key, principal, int(purpose), version),
            second_wrapped=None,
            second_parameters=None,
            root_key_id=wrapper.root_key_id,
            created_at=now(),
            destroyed_at=None,
        )

    def unwrap(self, principal: bytes, key: StoredKey) -> SecretBytes:
        """The key of a row.

        Raises:
            RootKeyMismatch: None of the root keys wrapped its key-encryption key.
            RecordDoesNotOpen: It is not what was stored there, or is wrapped in a way that this
                version does not know.
            MemoryLocked: The user's lock wraps it, and is not lent to this process.
        """
        opened = self._unwrapped_once(principal, key)
        if key.wrapping != Wrapping.USERS_LOCK:
            return opened
        lock = self._lock_of(principal, opened)
        return lock.unwrap(opened, self.context(principal, key.purpose, key.version))

    def _lock_of(self, principal: bytes, wrapped: SecretBytes) -> LockKey:
        """The lock that has wrapped a key, if it is the one that is lent.

        What is lent may be of a lock that another process has removed, and exchanged for another.

        Raises:
            MemoryLocked: It is not.
        """
        lock = self._lent.of(principal)
        if lock is None or not lock.has_wrapped(wrapped):
            raise MemoryLocked
        return lock

    def wrapped_again(self, principal: bytes, key: StoredKey, lock: LockKey | None) -> StoredKey:
        """The row of a key, wrapped by a lock, or by the key-encryption key alone.

        Raises:
            MemoryLocked: The user's lock wraps it, and is not lent to this process.
        """
        unwrapped, purpose = self.unwrap(principal, key), Purpose(key.purpose)
        again = self.wrap(unwrapped, principal, purpose, key.version, lock)
        return key._replace(
            wrapping=again.wrapping, kek=again.kek, wrapped=again.wrapped,
            root_key_id=again.root_key_id,
        )  # fmt: skip

    def context(self, principal: bytes, purpose: int, version: int) -> bytes:
        """What a wrapped key is bound to: it opens at this place alone."""
        return context_of(self.installation_id, principal, purpose, version)

    def _unwrapped_once(self, principal: bytes, key: StoredKey) -> SecretBytes:
        known = (Wrapping.KEY_ENCRYPTION_KEY, Wrapping.USERS_LOCK)
        if key.wrapping not in known or key.wrapped is None:
            raise RecordDoesNotOpen("key", "it is not wrapped by a key-encryption key")
        sealing = self.key_encryption_keys.of(key.kek).sealing
        context = self.context(principal, key.purpose, key.version)
        return SecretBytes(open_sealed({sealing.id: sealing}, context, key.wrapped, kind="key"))

    def change(
        self,
        sets: KeySets,
        principal: bytes,
        directory: DirectoryKey,
        change: Callable[[KeySet, "WrappedKeys"], KeySet],
    ) -> None:
        """Change a set as `KeySets.change` does, for what wraps keys.

        Where a rotation of the root key has retired the key-encryption key meanwhile, it is done
        with the next one.
        """
        is_done = False
        while not is_done:
            with self.renewed_if_retired():
                sets.change(principal, directory, lambda found: change(found, self))
                is_done = True

    @contextmanager
    def renewed_if_retired(self) -> Iterator[None]:
        """Have the next key-encryption key at hand where a swap was refused for the former one.

        Raises:
            RecordDoesNotOpen: There is no next one: it would be refused for ever.
        """
        try:
            yield
        except KeyEncryptionKeyRetired as refusal:
            self.key_encryption_keys.renew()
            if self.key_encryption_keys.primary.version == refusal.version:
                raise RecordDoesNotOpen("key", "its row says another state than its set") from None

    def rewrapped(self, found: KeySet) -> KeySet:
        """``found`` with every key wrapped by the primary key-encryption key; nothing is stored.

        Destroyed keys have nothing to wrap, and key-encryption keys are the root key's: both stay
        as they are.

        Raises:
            RootKeyMismatch: None of the root keys wrapped what wrapped one of them.
            RecordDoesNotOpen: One is not what was stored there.
        """
        primary = self.key_encryption_keys.primary
        keys = (
            key
            if key.wrapped is None
            or key.wrapping == Wrapping.ROOT_KEY
            or key.kek == primary.version
            else self._rewrapped(found.principal, key, primary)
            for key in found.keys
        )
        return replace(found, keys=tuple(keys))

    def _rewrapped(self, principal: bytes, key: StoredKey, wrapper: KeyEncryptionKey) -> StoredKey:
        # What a user holds besides stays wrapped by the user's lock.
        unwrapped = self._unwrapped_once(principal, key)
        wrapped = self._sealed(wrapper, unwrapped, principal, key.purpose, key.version)
        return key._replace(kek=wrapper.version, wrapped=wrapped, root_key_id=wrapper.root_key_id)

    def _sealed(
        self,
        wrapper: KeyEncryptionKey,
        key: SecretBytes,
        principal: bytes,
        purpose: int,
        version: int,
    ) -> bytes:
        context = self.context(principal, purpose, version)
        return seal(wrapper.sealing, context, key.reveal(), compress=False)

    def with_new_keys(self, found: KeySet, *purposes: Purpose) -> KeySet:
        """``found`` with a new key of each purpose; nothing is stored.

        Raises:
            MemoryLocked: The user holds the sealing keys, and has not lent the lock.
        """
        principal, lock = found.principal, None
        if Purpose.SEALING in purposes and is_user_held(found):
            sealing = found.living(Purpose.SEALING)[-1]
            lock = self._lock_of(principal, self._unwrapped_once(principal, sealing))
        added = (
            self.wrap(SecretBytes.random(), principal, purpose, found.next_version(purpose), lock)
            for purpose in purposes
        )
        return found.with_primary(*added)

    def unwrapped(self, found: KeySet) -> PrincipalKeys | None:
        """A principal's living keys; ``None`` if it has none, or none any more."""
        naming, sealing = (found.living(purpose) for purpose in OWNED)
        if not naming or not sealing:
            return None
        return PrincipalKeys(
            incarnation=naming[-1].version,
            naming=self.unwrap(found.principal, naming[-1]),
            sealing=self._unlocked(found.principal, sealing),
            sealing_version=sealing[-1].version,
            inbox=public_key(found),
        )

    def _unlocked(self, principal: bytes, sealing: Sequence[StoredKey]) -> list[SecretBytes]:
        """Sealing keys; none where the user alone has them."""
        try:
            return [self.unwrap(principal, key) for key in sealing]
        except MemoryLocked:
            return []

    def may_be_kept(self, found: KeySet, scope_id: bytes) -> bool:
        """Whether the keys of a scope that were unwrapped may be kept: their user still lends them.

        What they open is to be forgotten with the lock.
        """
        return not is_user_held(found) or self._lent.has_opened(found.principal, scope_id)

    def is_locked(self, found: KeySet) -> bool:
        """Whether the user alone has the sealing keys of a set."""
        sealing = found.living(Purpose.SEALING)
        return is_user_held(found) and not self._unlocked(found.principal, sealing)


def is_user_held(found: KeySet) -> bool:
    """Whether a lock of the user wraps the sealing keys."""
    return any(key.wrapping == Wrapping.USERS_LOCK for key in found.living(Purpose.SEALING))


def public_key(found: KeySet) -> bytes | None:
    """The public key of a set's inbox, to which anybody seals; ``None`` where it has none.

    Raises:
        RecordDoesNotOpen: It has another form.
    """
    rows = found.living(Purpose.INBOX)
    return public_key_of(rows[-1]) if rows else None


def public_key_of(row: StoredKey) -> bytes:
    """The public key in the row of an inbox's private one.

    Raises:
        RecordDoesNotOpen: It has another form.
    """
    stored = row.second_parameters or b""
    if stored[:1] != INBOX_FORM or len(stored) != 1 + PUBLIC_BYTES:
        raise RecordDoesNotOpen("key", "the key of the inbox has another form")
    return stored[1:]


def incarnation_of(found: KeySet) -> int | None:
    """Which life a principal is in; ``None`` if it has no keys, or none any more."""
    naming, sealing = (found.living(purpose) for purpose in OWNED)
    return naming[-1].version if naming and sealing else None
