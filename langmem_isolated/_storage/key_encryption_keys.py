"""Key-encryption keys: one an installation, wrapped by its root key; it wraps all other keys."""

from collections.abc import Callable
from typing import NamedTuple

from langmem_isolated._crypto.sealing import SealingKey, derive, framed
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.checked_root_key import CheckedRootKey, RootKeys
from langmem_isolated._storage.key_sets import KeySet, Purpose, State, StoredKey, Wrapping
from langmem_isolated.errors import RecordDoesNotOpen


class KeyEncryptionKey(NamedTuple):
    """An open key-encryption key; all that it wraps says its version and what wrapped it."""

    version: int
    root_key_id: str
    sealing: SealingKey


class KeyEncryptionKeys:
    """Those of one installation, opened as they are needed: a root key is asked once for each.

    They stand in the installation's own key set, beside the directory key.

    Args:
        root_keys: Each opens what it wrapped.
        found: The installation's key set, as it was read.
        read: Reads and checks it again, where another process has begun a new key meanwhile.
    """

    def __init__(self, root_keys: RootKeys, found: KeySet, read: Callable[[], KeySet]) -> None:
        self._root_keys = root_keys
        self._found = found
        self._read = read
        self._opened: dict[int, KeyEncryptionKey] = {}

    @property
    def primary(self) -> KeyEncryptionKey:
        """The one that wraps.

        Raises:
            RootKeyMismatch: None of these root keys wrapped it.
            RecordDoesNotOpen: There is none, or it is not the one that was stored.
        """
        living = self._found.living(Purpose.KEY_ENCRYPTION)
        if not living or living[-1].state != State.ACTIVE:
            raise RecordDoesNotOpen("key", "the key-encryption key is not there")
        return self._open(living[-1])

    def of(self, version: int | None) -> KeyEncryptionKey:
        """The one that has wrapped a key.

        Raises:
            RootKeyMismatch: None of these root keys wrapped it.
            RecordDoesNotOpen: It was destroyed, or is not the one that was stored.
        """
        if version in self._opened:
            return self._opened[version]
        stored = self._stored(version)
        if stored is None:
            self.renew()
            stored = self._stored(version)
        if stored is None:
            raise RecordDoesNotOpen("key", "the key-encryption key that wrapped it is not there")
        return self._open(stored)

    def open_all(self) -> None:
        """Open every one that lives; raises as :meth:`of` does."""
        for stored in self._found.living(Purpose.KEY_ENCRYPTION):
            self._open(stored)

    def renew(self) -> None:
        """Read again which there are."""
        self._found = self._read()

    def _stored(self, version: int | None) -> StoredKey | None:
        living = self._found.living(Purpose.KEY_ENCRYPTION)
        return next((key for key in living if key.version == version), None)

    def _open(self, stored: StoredKey) -> KeyEncryptionKey:
        if stored.version not in self._opened:
            self._opened[stored.version] = self._unwrapped(stored)
        return self._opened[stored.version]

    def _unwrapped(self, stored: StoredKey) -> KeyEncryptionKey:
        root_key = self._root_keys.of(stored.root_key_id)
        if stored.wrapping != Wrapping.ROOT_KEY or type(stored.wrapped) is not bytes:
            raise RecordDoesNotOpen("key", "it is not wrapped by a root key")
        context = _context(self._found.principal, stored.version)
        return _ready(stored, root_key.unwrap(stored.wrapped, context))


def with_new_key(found: KeySet, root_key: CheckedRootKey) -> KeySet:
    """An installation's key set with a new key-encryption key; nothing is stored."""
    version = found.next_version(Purpose.KEY_ENCRYPTION)
    wrapped = root_key.wrap(SecretBytes.random(), _context(found.principal, version))
    return found.with_primary(
        StoredKey(
            purpose=int(Purpose.KEY_ENCRYPTION),
            version=version,
            state=int(State.ACTIVE),
            is_primary=1,
            wrapping=int(Wrapping.ROOT_KEY),
            kek=None,
            wrapped=wrapped,
            second_wrapped=None,
            second_parameters=None,
            root_key_id=root_key.key_id,
            created_at=now(),
            destroyed_at=None,
        )
    )


def context_of(installation_id: bytes, principal: bytes, purpose: int, version: int) -> bytes:
    """What a wrapped key is bound to: it opens at this place alone."""
    return framed(
        b"langmem-isolated/v1", installation_id, principal,
        bytes([purpose]), version.to_bytes(4),
    )  # fmt: skip


def _context(installation_id: bytes, version: int) -> bytes:
    return context_of(installation_id, installation_id, Purpose.KEY_ENCRYPTION, version)


def _ready(stored: StoredKey, key: SecretBytes) -> KeyEncryptionKey:
    # Uncounted: it seals twice for each new user, and may for 2^32 keys (NIST SP 800-38D, 8.3).
    sealing = SealingKey(derive(key, b"key wrapping"))
    return KeyEncryptionKey(stored.version, stored.root_key_id, sealing)
