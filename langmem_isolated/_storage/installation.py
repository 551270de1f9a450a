"""Installation: finds, makes and caches the directory key, and refuses a key store of another."""

import threading
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
from langmem_isolated._runtime.forking import renew_in_children
from langmem_isolated._storage.checked_root_key import RootKeys
from langmem_isolated._storage.key_encryption_keys import KeyEncryptionKeys, with_new_key
from langmem_isolated._storage.key_sets import KeySet, KeySets, Purpose, StoredKey, check
from langmem_isolated._storage.lent_locks import LentLocks
from langmem_isolated._storage.wrapped_keys import WrappedKeys
from langmem_isolated.errors import KeyNotFound, KeyServiceUnavailable, RecordDoesNotOpen

_row = schema.installation.c
_SELECT = select(_row.installation_id, _row.directory_id)
_SET_DIRECTORY_ID = (
    update(schema.installation)
    .where(_row.directory_id.is_(None))
    .values(directory_id=bindparam("directory_id"))
)
_ANY_SCOPE = select(select(schema.scopes.c.scope_id).exists())
# How long a service that did not answer is left alone. Every thread that waits for it would wait as
# long as one request may take.
_PAUSE_SECONDS = 1.0
_ANY_KEY = select(select(schema.keys.c.principal).exists())


class OpenInstallation(NamedTuple):
    """What the directory key of an installation opens."""

    directory: DirectoryKey
    keys: WrappedKeys


class _Kept(NamedTuple):
    opened: OpenInstallation
    renew_at: float
    until: float


class Installation:
    """One database with its key store: its id, and its directory key.

    The directory key's principal is the installation itself: its row stands under the installation
    id, so a key store may serve several installations, and one of another is recognised.

    Args:
        database: Holds the scopes.
        key_sets: The key sets in the key store.
        keys_apart: Whether the key store is a database of its own.
        root_keys: The primary one wraps the key-encryption key of a new installation, which wraps
            all others; each opens what it wrapped.
        seconds: How long directory key and key-encryption keys are kept.
        clock: Seconds that only go forward.
        lent: The locks that users lend to this process.
    """

    def __init__(
        self,
        database: Database,
        key_store: Database,
        root_keys: RootKeys,
        *,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        lent: LentLocks | None = None,
    ) -> None:
        self._lent = lent or LentLocks(clock)
        self._database = database
        self._key_store = key_store
        self._sets = KeySets(key_store)
        self._root_keys = root_keys
        self._clock = clock
        self._seconds = seconds
        self._kept: _Kept | None = None
        self._refusal: tuple[float, KeyServiceUnavailable] | None = None
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Give a forked child a lock that no thread of its parent holds."""
        self._asking = threading.Lock()

    def open(self, *, create: bool) -> OpenInstallation | None:
        """The directory key; ``None`` if nothing was ever stored and nothing is to be.

        A key service is asked by one thread at a time. From half of its time on what is kept is
        read again when somebody's keys are unwrapped, and kept on where the service does not
        answer: where users come and go, no short outage is noticed. A service that does not answer
        is asked once in a second.

        Raises:
            KeyNotFound: The key store is not the one that this database was begun with.
            KeyServiceUnavailable: What holds the root key does not answer.
            KeyringError: The root key is another, or breaks a promise.
            RecordDoesNotOpen: The directory key is not the one that was stored.
        """
        kept = self._kept_in_time()
        if kept and (kept.renew_at >= self._clock() or self._asking.locked()):
            return kept.opened
        with self._asking:
            kept = self._kept_in_time()
            if kept and kept.renew_at >= self._clock():
                return kept.opened
            return self._renewed(kept, create)

    def _renewed(self, kept: _Kept | None, create: bool) -> OpenInstallation | None:
        error = self._last_refusal()
        if error is None:
            try:
                return self._keep(self._find(create))
            except KeyServiceUnavailable as refusal:
                # Without its traceback, which would keep every frame and what is in it.
                error = refusal.again()
            self._refusal = self._clock() + _PAUSE_SECONDS, error
        if kept is None:
            raise error.again()
        self._kept = kept._replace(renew_at=self._clock() + _PAUSE_SECONDS)
        return kept.opened

    def _keep(self, found: OpenInstallation | None) -> OpenInstallation | None:
        now = self._clock()
        self._kept = _Kept(found, now + self._seconds / 2, now + self._seconds) if found else None
        return found

    def _last_refusal(self) -> KeyServiceUnavailable | None:
        """Of a service that did not answer a moment ago: whoever asks would wait in vain."""
        refusal = self._refusal
        return refusal[1] if refusal and refusal[0] > self._clock() else None

    def _kept_in_time(self) -> "_Kept | None":
        kept = self._kept
        return kept if kept and kept.until >= self._clock() else None

    @property
    def kept(self) -> OpenInstallation | None:
        """The directory key, if it is at hand."""
        kept = self._kept_in_time()
        return kept and kept.opened

    def forget(self) -> None:
        """Let go of the directory key; it is read again."""
        self._kept = None

    def forget_if_over_time(self) -> None:
        """Let go of the directory key if its time is over."""
        kept = self._kept
        if kept and kept.until < self._clock():
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
        found = self._sets.read_unchecked(installation_id)
        if not found.keys:
            self._refuse_if_begun(installation_id, directory_id)
            if not create:
                return None
            found = self._make(installation_id)
        opened = self._opened(found)
        self._refuse_another(opened.directory, directory_id, create)
        check(found, opened.directory)
        return opened

    def _opened(self, found: KeySet) -> OpenInstallation:
        """What a set opens that is not checked yet: the key that checks it is in it."""
        directory: DirectoryKey | None = None

        def read() -> KeySet:
            return self._sets.read(found.principal, directory) if directory else found

        wrappers = KeyEncryptionKeys(self._root_keys, found, read)
        keys = WrappedKeys(wrappers, found.principal, self._lent)
        secret = keys.unwrap(found.principal, _directory_key(found))
        directory = DirectoryKey(secret, found.principal)
        return OpenInstallation(directory, keys)

    def _make(self, installation_id: bytes) -> KeySet:
        secret, empty = SecretBytes.random(), KeySet(installation_id)
        begun = with_new_key(empty, self._root_keys.primary)
        wrappers = KeyEncryptionKeys(self._root_keys, begun, lambda: begun)
        keys = WrappedKeys(wrappers, installation_id)
        stored = keys.wrap(secret, installation_id, Purpose.DIRECTORY, 1)
        directory = DirectoryKey(secret, installation_id)
        self._sets.swap(empty, begun.with_primary(stored), directory)
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


def _directory_key(found: KeySet) -> StoredKey:
    """The directory key's row, before the set's MAC can be checked: what it holds is looked at."""
    match [key for key in found.keys if key.purpose == Purpose.DIRECTORY]:
        case [StoredKey(version=1, kek=int(), root_key_id=str(), wrapped=bytes()) as key]:
            return key
    raise RecordDoesNotOpen("key", "the directory key is not the one that was stored")
