"""Wrapped keys: each principal's keys, encrypted by the root key for one place alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.sealing import SealingKey, derive, framed
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.checked_root_key import CheckedRootKey, RootKeys
from langmem_isolated._storage.key_sets import KeySet, Purpose, State, StoredKey, Wrapping
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
    """Makes and opens the keys of one installation with its root keys.

    Args:
        root_keys: The primary one wraps them; each opens what it wrapped.
        installation_id: 16 bytes; part of every context, so a key of another installation, or of
            its key store, does not open here.
    """

    def __init__(self, root_keys: RootKeys, installation_id: bytes) -> None:
        self._root_keys = root_keys
        self.installation_id = installation_id

    def wrap(self, key: SecretBytes, principal: bytes, purpose: Purpose, version: int) -> StoredKey:
        """The row of a key, active and the primary one of its purpose."""
        root_key = self._root_keys.primary
        return StoredKey(
            purpose=int(purpose),
            version=version,
            state=int(State.ACTIVE),
            is_primary=1,
            wrapping=int(Wrapping.ROOT_KEY),
            kek=None,
            wrapped=root_key.wrap(key, self._context(principal, purpose, version)),
            second_wrapped=None,
            second_parameters=None,
            root_key_id=root_key.key_id,
            created_at=now(),
            destroyed_at=None,
        )

    def unwrap(self, principal: bytes, key: StoredKey) -> SecretBytes:
        """The key of a row.

        Raises:
            RootKeyMismatch: None of these root keys wrapped it.
            RecordDoesNotOpen: It is wrapped in a way that this version does not know.
        """
        root_key = self._root_keys.of(key.root_key_id)
        if key.wrapping != Wrapping.ROOT_KEY or key.wrapped is None:
            raise RecordDoesNotOpen("key", "it is not wrapped by the root key alone")
        context = self._context(principal, key.purpose, key.version)
        return root_key.unwrap(key.wrapped, context)

    def rewrapped(self, found: KeySet, root_key: CheckedRootKey) -> KeySet:
        """``found`` with every key wrapped by ``root_key``; nothing is stored.

        Destroyed keys have nothing to wrap: they stay as they are.

        Raises:
            RootKeyMismatch: None of these root keys wrapped one of them.
            RecordDoesNotOpen: One is wrapped in a way that this version does not know.
        """
        keys = (
            key
            if key.wrapped is None or key.root_key_id == root_key.key_id
            else self._rewrapped(found.principal, key, root_key)
            for key in found.keys
        )
        return replace(found, keys=tuple(keys))

    def _rewrapped(self, principal: bytes, key: StoredKey, root_key: CheckedRootKey) -> StoredKey:
        context = self._context(principal, key.purpose, key.version)
        wrapped = root_key.wrap(self.unwrap(principal, key), context)
        return key._replace(wrapped=wrapped, root_key_id=root_key.key_id)

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

    def _context(self, principal: bytes, purpose: int, version: int) -> bytes:
        return framed(
            b"langmem-isolated/v1", self.installation_id, principal,
            bytes([purpose]), version.to_bytes(4),
        )  # fmt: skip


def incarnation_of(found: KeySet) -> int | None:
    """Which life a principal is in; ``None`` if it has no keys, or none any more."""
    naming, sealing = (found.living(purpose) for purpose in OWNED)
    return naming[-1].version if naming and sealing else None
