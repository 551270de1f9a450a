"""Wrapped keys: each principal's keys, encrypted by a key-encryption key for one place alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from langmem_isolated._crypto.directory import DirectoryKey
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
from langmem_isolated.errors import RecordDoesNotOpen

# What each principal has.
OWNED = (Purpose.NAMING, Purpose.SEALING)


@dataclass(frozen=True, slots=True, repr=False)
class PrincipalKeys:
    """A principal's living keys; ``incarnation`` counts its lives, one per erasure.

    Of the sealing keys the last one seals; ``sealing_version`` is its number.
    """

    incarnation: int
    naming: SecretBytes
    sealing: Sequence[SecretBytes]
    sealing_version: int

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
    """

    def __init__(self, key_encryption_keys: KeyEncryptionKeys, installation_id: bytes) -> None:
        self.key_encryption_keys = key_encryption_keys
        self.installation_id = installation_id

    def wrap(self, key: SecretBytes, principal: bytes, purpose: Purpose, version: int) -> StoredKey:
        """The row of a key, active and the primary one of its purpose; of any length.

        No service is asked: the key-encryption key is at hand.
        """
        wrapper = self.key_encryption_keys.primary
        return StoredKey(
            purpose=int(purpose),
            version=version,
            state=int(State.ACTIVE),
            is_primary=1,
            wrapping=int(Wrapping.KEY_ENCRYPTION_KEY),
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
        """
        if key.wrapping != Wrapping.KEY_ENCRYPTION_KEY or key.wrapped is None:
            raise RecordDoesNotOpen("key", "it is not wrapped by a key-encryption key alone")
        sealing = self.key_encryption_keys.of(key.kek).sealing
        context = context_of(self.installation_id, principal, key.purpose, key.version)
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
        """Have the next key-encryption key at hand where a swap was refused for the former one."""
        try:
            yield
        except KeyEncryptionKeyRetired:
            self.key_encryption_keys.renew()

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
        unwrapped = self.unwrap(principal, key)
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
        context = context_of(self.installation_id, principal, purpose, version)
        return seal(wrapper.sealing, context, key.reveal(), compress=False)

    def with_new_keys(self, found: KeySet, *purposes: Purpose) -> KeySet:
        """``found`` with a new key of each purpose; nothing is stored."""
        added = (
            self.wrap(SecretBytes.random(), found.principal, purpose, found.next_version(purpose))
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
            sealing=[self.unwrap(found.principal, key) for key in sealing],
            sealing_version=sealing[-1].version,
        )


def incarnation_of(found: KeySet) -> int | None:
    """Which life a principal is in; ``None`` if it has no keys, or none any more."""
    naming, sealing = (found.living(purpose) for purpose in OWNED)
    return naming[-1].version if naming and sealing else None
