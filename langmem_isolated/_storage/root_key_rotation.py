"""Root key rotation: a new key-encryption key under another root key; records stay as they are."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.checked_root_key import CheckedRootKey, RootKeys
from langmem_isolated._storage.installation import Installation, OpenInstallation
from langmem_isolated._storage.key_encryption_keys import with_new_key
from langmem_isolated._storage.key_sets import (
    KeyEncryptionKeyRetired,
    KeySet,
    KeySets,
    Purpose,
    check,
)
from langmem_isolated._storage.scope_rows import ScopeRows
from langmem_isolated.errors import KeyringError, RecordDoesNotOpen, RootKeyMismatch


@dataclass(frozen=True, slots=True, repr=False)
class RootKeyRotation:
    """Wraps every key of an installation anew, by a key-encryption key that ``new`` wraps.

    Not only the key-encryption key itself: an old backup has what it wrapped of those who were
    erased since, and it would open with ``new``.

    First the former key-encryption key is retired: from then on no process stores a key that it
    wrapped, so one pass over all sets finds them all. Each set is compared and swapped on its own,
    so a run that was ended is gone on with by the next one. At the end the directory key is wrapped
    anew and the former key-encryption key destroyed, in one swap: until then whoever has the former
    root key can begin, and so go on.

    Args:
        installation: Whose keys.
        sets: Those in the key store, which may be of several installations.
        scopes: Tell whose a set is that does not open.
        root_keys: What opens them; ``new`` becomes the primary one.
        new: Wraps the next key-encryption key.
    """

    installation: Installation
    sets: KeySets
    scopes: ScopeRows
    root_keys: RootKeys
    new: CheckedRootKey

    def run(self) -> Iterator[int]:
        """Wrap all; gives behind each set how many keys of it were wrapped anew.

        Raises:
            KeyringError: A key cannot be had, a root key breaks a promise, or another rotation has
                begun meanwhile.
            RecordDoesNotOpen: Keys are not as they were stored.
        """
        opened = self._opened()
        if opened is None:
            return
        self._begin(opened)
        try:
            for principal in self.sets.walk_wrapped():
                if principal != opened.keys.installation_id:
                    yield self._rewrap(opened, principal)
            yield self._end(opened)
        except (KeyEncryptionKeyRetired, RootKeyMismatch):
            # All opened when it began, so what does not is of another one.
            raise _overtaken() from None

    def _opened(self) -> OpenInstallation | None:
        """The installation, opened by what there is; from here on ``new`` is the primary one."""
        self.new.prove()
        self.root_keys.accept(self.new)
        try:
            self.installation.forget()
            opened = self.installation.open(create=False)
            if opened:
                # What nobody here could open would be found when half is done.
                opened.keys.key_encryption_keys.open_all()
        except BaseException:
            self.root_keys.refuse(self.new)
            raise
        self.root_keys.make_primary(self.new)
        return opened

    def _begin(self, opened: OpenInstallation) -> None:
        """Retire the key-encryption key, unless a run before has done so."""
        own = opened.keys.installation_id
        self.sets.change(own, opened.directory, self._begun)
        opened.keys.key_encryption_keys.renew()

    def _begun(self, found: KeySet) -> KeySet:
        return found if self._is_primary(found) else with_new_key(found, self.new)

    def _is_primary(self, found: KeySet) -> bool:
        """Whether ``new`` has wrapped what wraps now."""
        return found.living(Purpose.KEY_ENCRYPTION)[-1].root_key_id == self.new.key_id

    def _rewrap(self, opened: OpenInstallation, principal: bytes) -> int:
        """How many keys of a set were wrapped anew."""
        while True:
            found = self.sets.read_unchecked(principal)
            if not self._is_ours(found, opened):
                return 0
            new = opened.keys.rewrapped(found)
            if new == found or self.sets.swap(found, new, opened.directory):
                return sum(key not in found.keys for key in new.keys)

    def _end(self, opened: OpenInstallation) -> int:
        """How many keys of the installation were wrapped anew; the former wrapper is destroyed."""
        counts: list[int] = []

        def ended(found: KeySet) -> KeySet:
            if not self._is_primary(found):
                raise _overtaken()
            new = opened.keys.rewrapped(found)
            counts.append(sum(key not in found.keys for key in new.keys))
            return _without_former(new)

        self.sets.change(opened.keys.installation_id, opened.directory, ended)
        return counts[-1]

    def _is_ours(self, found: KeySet, opened: OpenInstallation) -> bool:
        """Whether a set is of this installation: another's has a MAC by another directory key.

        Raises:
            RecordDoesNotOpen: It is of one who has memory here, and not as it was stored.
        """
        try:
            check(found, opened.directory)
        except RecordDoesNotOpen:
            if self.scopes.of_principal(opened.directory, found.principal):
                raise
            return False
        return True


def _without_former(found: KeySet) -> KeySet:
    """The set with every key-encryption key destroyed that wraps no more."""
    keys = (
        key.destroyed(now())
        if key.purpose == Purpose.KEY_ENCRYPTION and not key.is_primary
        else key
        for key in found.keys
    )
    return replace(found, keys=tuple(keys))


def _overtaken() -> KeyringError:
    return KeyringError(
        "Another rotation of the root key has begun meanwhile, to another root key: this one has "
        "ended. Nothing is lost; what it has wrapped anew, the other one wraps once more."
    )
