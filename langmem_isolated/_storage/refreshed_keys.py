"""Refreshed keys: one owner's keys in the first life that is met, read anew after a rotation."""

import logging
from contextlib import suppress

from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._storage.container_state import KeyOutdated
from langmem_isolated._storage.keyring import Keyring
from langmem_isolated.errors import DatabaseError, KeyDestroyed, KeyringError, RecordDoesNotOpen

_log = logging.getLogger("langmem_isolated.database")


def tell(error: DatabaseError, scope: str) -> None:
    """Log that the database failed: its class, and the digest of a scope."""
    # Its text quotes no row; its class is what a watcher counts.
    _log.error("The database failed (%s): scope %s.", type(error).__name__, scope)


class RefreshedKeys:
    """The keys of one owner.

    The first life met is kept: after an erasure this object gives no keys any more, even if the
    user has come back since.

    Args:
        keyring: Has them.
        owner: Whose.
    """

    def __init__(self, keyring: Keyring, owner: Owner) -> None:
        self._keyring = keyring
        self.owner = owner
        self._birth: bytes | None = None

    def keys(self) -> ScopeKeys:
        """The owner's keys, made at first use, for what is encoded before a transaction begins.

        Raises:
            KeyDestroyed: The owner was erased.
        """
        return self._of_same_life(self._obtain())

    def find_keys(self) -> ScopeKeys | None:
        """The owner's keys, or ``None`` when it has stored nothing."""
        keys = self._find()
        return keys and self._of_same_life(keys)

    def _obtain(self) -> ScopeKeys:
        if self._birth is not None:
            return self._find_again()
        try:
            return self._keyring.obtain(self.owner)
        except DatabaseError as error:
            tell(error, self._known_id())
            raise

    def _find_again(self) -> ScopeKeys:
        """The keys of a life that was met before: none are made for who was erased since."""
        keys = self._find()
        if keys is None:
            raise KeyDestroyed
        return keys

    def _find(self) -> ScopeKeys | None:
        try:
            return self._keyring.find(self.owner)
        except DatabaseError as error:
            tell(error, self._known_id())
            raise

    def _known_id(self) -> str:
        directory = self._keyring.directory_at_hand
        return "unknown" if directory is None else directory.scope_id_of(self.owner).hex()

    def fresh_keys(self, keys: ScopeKeys, error: RecordDoesNotOpen) -> ScopeKeys | None:
        """The owner's keys as they are now, if with those at hand it was refused for their age."""
        if isinstance(error, KeyOutdated):
            return self._newer_keys(keys)
        return self.rotated_keys(keys, error.key_id)

    def _newer_keys(self, keys: ScopeKeys) -> ScopeKeys | None:
        """The owner's keys as they are now, if it is the same life, and a later one seals."""
        self._keyring.forget(self.owner)
        # What else is wrong with keys or scope is for the next call to say.
        with suppress(KeyringError, RecordDoesNotOpen):
            fresh = self._find()
            if fresh and fresh.birth == keys.birth:
                return fresh if fresh.sealing_version > keys.sealing_version else None
        return None

    def rotated_keys(self, keys: ScopeKeys, key_id: bytes | None) -> ScopeKeys | None:
        """The owner's keys as they are now, if they have come to include ``key_id``, or did.

        That key may be destroyed by now: what was under it is under a later one.
        """
        if key_id is None or key_id in keys.opening:
            return None
        fresh = None
        for _ in range(2):  # another thread may have read them again already
            fresh = self._find()
            if fresh and (key_id in fresh.opening or fresh.is_locked):
                return fresh
            self._keyring.forget(self.owner)
        return fresh if fresh and fresh.sealing_version > keys.sealing_version else None

    def refuse_if_erased(self) -> None:
        """Refuse to go on in a life that ended in another process: what is there is no damage.

        Raises:
            KeyDestroyed: The owner was erased, whether or not it has come back since.
        """
        self._keyring.forget(self.owner)
        now = self._find()
        if now is None or now.birth != self._birth:
            raise KeyDestroyed

    def _of_same_life(self, keys: ScopeKeys) -> ScopeKeys:
        if self._birth is None:
            self._birth = keys.birth
        if self._birth != keys.birth:
            raise KeyDestroyed
        return keys
