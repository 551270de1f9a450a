"""Installation: finds, makes and caches the directory key, and refuses a key store of another."""

import time
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import Select, bindparam, select, update

from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._database import schema
from langmem_isolated._database.admission import AdmissionToAll
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.checked_root_key import RootKeys
from langmem_isolated._storage.key_sets import KeySet, KeySets, Purpose, StoredKey, check
from langmem_isolated._storage.wrapped_keys import WrappedKeys
from langmem_isolated.errors import KeyNotFound, RecordDoesNotOpen

_row = schema.installation.c
_SELECT = select(_row.installation_id, _row.directory_id)
_SET_DIRECTORY_ID = (
    update(schema.installation)
    .where(_row.directory_id.is_(None))
    .values(directory_id=bindparam("directory_id"))
)
_ANY_SCOPE = select(select(schema.scopes.c.scope_id).exists())
_ANY_KEY = select(select(schema.keys.c.principal).exists())


class OpenInstallation(NamedTuple):
    """What the directory key of an installation opens."""

    directory: DirectoryKey
    keys: WrappedKeys


class Installation:
    """One database with its key store: its id, and its directory key.

    The directory key's principal is the installation itself: its row stands under the installation
    id, so a key store may serve several installations, and one of another is recognised.

    Args:
        database: Holds the scopes.
        key_sets: The key sets in the key store.
        keys_apart: Whether the key store is a database of its own.
        root_keys: The primary one wraps every key; each opens what it wrapped.
        seconds: How long the directory key is kept.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        database: Database,
        key_store: Database,
        root_keys: RootKeys,
        *,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._key_store = key_store
        self._sets = KeySets(key_store)
        self._root_keys = root_keys
        self._seconds = seconds
        self._clock = clock
        self._kept: tuple[float, OpenInstallation] | None = None

    def open(self, *, create: bool) -> OpenInstallation | None:
        """The directory key; ``None`` if nothing was ever stored and nothing is to be.

        Raises:
            KeyNotFound: The key store is not the one that this database was begun with.
            KeyringError: The root key is another, or breaks a promise.
            RecordDoesNotOpen: The directory key is not the one that was stored.
        """
        kept = self._kept
        if kept and kept[0] >= self._clock():
            return kept[1]
        found = self._find(create)
        self._kept = (self._clock() + self._seconds, found) if found else None
        return found

    @property
    def kept(self) -> OpenInstallation | None:
        """The directory key, if it is at hand."""
        kept = self._kept
        return kept[1] if kept and kept[0] >= self._clock() else None

    def forget(self) -> None:
        """Let go of the directory key; it is read again."""
        self._kept = None

    def forget_if_over_time(self) -> None:
        """Let go of the directory key if its time is over."""
        kept = self._kept
        if kept and kept[0] < self._clock():
            self._kept = None

    @property
    def own_key_store(self) -> Database | None:
        """The database of its own that holds the keys, if it is another one."""
        return None if self._key_store is self._database else self._key_store

    def over(self, database: Database, key_store: Database | None) -> "Installation":
        """The same over copies of both, under the same root keys."""
        keys = key_store or database
        return Installation(database, keys, self._root_keys, seconds=0, clock=self._clock)

    def _find(self, create: bool) -> OpenInstallation | None:
        installation_id, directory_id = ids_of(self._database)
        keys = WrappedKeys(self._root_keys, installation_id)
        found = self._sets.read_unchecked(installation_id)
        if not found.keys:
            self._refuse_if_begun(installation_id, directory_id)
            if not create:
                return None
            found = self._make(keys, installation_id)
        directory = DirectoryKey(keys.unwrap(installation_id, _only_key(found)))
        self._refuse_another(directory, directory_id, create)
        check(found, directory)
        return OpenInstallation(directory, keys)

    def _make(self, keys: WrappedKeys, installation_id: bytes) -> KeySet:
        secret, empty = SecretBytes.random(), KeySet(installation_id)
        stored = keys.wrap(secret, installation_id, Purpose.DIRECTORY, 1)
        self._sets.swap(empty, empty.with_primary(stored), DirectoryKey(secret))
        return self._sets.read_unchecked(installation_id)

    def _refuse_if_begun(self, installation_id: bytes, directory_id: bytes | None) -> None:
        """Refuse to go on without a directory key where there was one: all would seem empty."""
        is_begun = directory_id is not None or self._has(_ANY_SCOPE)
        if self._key_store is self._database:
            is_begun = is_begun or self._has(_ANY_KEY)
        # Another first use may have come between the two looks.
        if is_begun and not self._sets.read_unchecked(installation_id).keys:
            raise KeyNotFound(
                "This database was begun with a key store that is not the one given: its directory "
                "key is missing. Nothing was read or written; give the right key_store=…"
            )

    def _has(self, any_row: Select[bool]) -> bool:
        # Else the row of the installation alone tells whether it was begun.
        if not self._database.sees_everybody:
            return False
        with AdmissionToAll():
            return self._database.read(Transaction.rows, any_row)[0][0] in (True, 1)

    def _refuse_another(
        self, directory: DirectoryKey, directory_id: bytes | None, create: bool
    ) -> None:
        if directory_id is None and create:
            self._database.write(Transaction.execute, _SET_DIRECTORY_ID, directory_id=directory.id)
            _, directory_id = ids_of(self._database)
        if directory_id not in (None, directory.id):
            raise KeyNotFound(
                "The key store given belongs to another database: its directory key differs. "
                "Nothing was read or written; give the right key_store=…"
            )


def ids_of(database: Database) -> tuple[bytes, bytes | None]:
    """The ids of a database's installation and of its directory key, which an unused one has not.

    Raises:
        RecordDoesNotOpen: The row that has them is not there.
    """
    row = database.read(Transaction.row, _SELECT)
    if row is None or type(row[0]) is not bytes:
        raise RecordDoesNotOpen("key", "the row of the installation is not there")
    return row[0], row[1]


def _only_key(found: KeySet) -> StoredKey:
    """The directory key's row, before the set's MAC can be checked: what it holds is looked at."""
    match found.keys:
        case [StoredKey(purpose=Purpose.DIRECTORY, version=1, root_key_id=str(), wrapped=bytes())]:
            return found.keys[0]
    raise RecordDoesNotOpen("key", "the directory key is not the one that was stored")
