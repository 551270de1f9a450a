"""Keeps every owner's keys, wrapped by a root key that lives outside the database.

A random *directory key* makes the digests by which tables name owners. Each owner's principal (for
private memory: the user) has one *naming key* and *sealing keys* by version, all random and 32
bytes, stored wrapped. HKDF gives every scope its own subkeys. Destroying a principal's keys makes
every record sealed with them unreadable, in backups too.
"""

import base64
import binascii
import json
import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sqlalchemy import BindParameter, Executable, Table, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from langmem_isolated import _schema
from langmem_isolated._database import Database, Row, Transaction
from langmem_isolated._forking import renew_in_children
from langmem_isolated._schema import Kind
from langmem_isolated._sealing import (
    DIGEST_BYTES,
    KEY_BYTES,
    DigestKey,
    Level,
    Owner,
    SealingKey,
    derive,
    digest,
    framed,
    open_sealed,
    opener,
    seal,
    under,
)
from langmem_isolated.errors import (
    KeyDestroyed,
    KeyNotFound,
    RootKeyInvalid,
    RootKeyMismatch,
    RootKeyMissing,
)

ROOT_KEY_VARIABLE = "LANGMEM_ISOLATED_ROOT_KEY"


@runtime_checkable
class RootKey(Protocol):
    """What wraps all other keys: implement these three over a KMS or an HSM to keep it there.

    ``wrap`` and ``unwrap`` are called from worker threads, never on an event loop and never inside
    a transaction; a call may take a network round trip.
    """

    @property
    def key_id(self) -> str:
        """A stable name of the root key, not secret, stored beside each wrapped key."""

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Encrypt the 32 bytes of ``key`` and bind them to ``context`` (as associated data)."""

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return what ``wrap`` took; raise for another ``context``, key or any changed bit."""


class LocalRootKey:
    """A root key of 32 bytes held by this process, from the environment or a file.

    Raises:
        RootKeyInvalid: ``key`` is not 32 bytes.
    """

    __slots__ = ("_key", "key_id")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise RootKeyInvalid(f"A root key must be {KEY_BYTES} bytes, got {len(key)}.")
        self._key = SealingKey(derive(key, b"root key"))
        self.key_id = f"local:{self._key.id.hex()}"

    @classmethod
    def generate_text(cls) -> str:
        """A new random root key as text: 32 bytes in base64, 44 characters."""
        return base64.b64encode(os.urandom(KEY_BYTES)).decode()

    @classmethod
    def from_text(cls, text: str) -> "LocalRootKey":
        """Read the form that ``langmem-isolated keygen`` prints: 32 bytes in base64.

        Raises:
            RootKeyInvalid: The text is anything else.
        """
        try:
            key = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise RootKeyInvalid(
                f"A root key must be 32 bytes in base64, got {len(text)} characters that are not. "
                "`langmem-isolated keygen` makes one."
            ) from None
        return cls(key)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "LocalRootKey":
        """Read a key file that only its owner can read.

        Raises:
            RootKeyInvalid: Others may read the file, or it does not hold a key.
            RootKeyMissing: There is no such file.
        """
        try:
            # As bytes: an error of decoding would carry what the file holds.
            with Path(path).open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read(1024)
        except FileNotFoundError:
            raise RootKeyMissing(ROOT_KEY_VARIABLE, "The root key file is not there") from None
        except OSError as error:
            raise RootKeyInvalid(f"The root key file cannot be read: {error.strerror}.") from None
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise RootKeyInvalid(
                f"The root key file has mode {stat.S_IMODE(mode):04o}: others may read it. "
                "Run `chmod 600` on it; if others may have read it, rotate the key."
            )
        return cls.from_text(content.decode("ascii", "replace"))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "LocalRootKey":
        """Read ``LANGMEM_ISOLATED_ROOT_KEY``, or the file that ``…_FILE`` names.

        Raises:
            RootKeyMissing: Neither variable is set.
            RootKeyInvalid: What is set is not a key.
        """
        if text := environment.get(ROOT_KEY_VARIABLE):
            return cls.from_text(text)
        if path := environment.get(f"{ROOT_KEY_VARIABLE}_FILE"):
            return cls.from_file(path)
        raise RootKeyMissing(ROOT_KEY_VARIABLE)

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Seal ``key`` with ``context`` as associated data."""
        return seal(self._key, context, key)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Open what :meth:`wrap` made, or raise ``RecordDoesNotOpen``."""
        return open_sealed({self._key.id: self._key}, context, wrapped, kind="key")

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")


class Purpose(IntEnum):
    """What a stored key is for; numbers are stored and never change."""

    DIRECTORY = 1
    NAMING = 2
    SEALING = 3


# What each principal has.
_OWNED = (Purpose.NAMING, Purpose.SEALING)
# The directory key belongs to the installation, not to a principal.
_INSTALLATION = bytes(DIGEST_BYTES)


class ScopeKeys:
    """One owner's subkeys: they name, seal and authenticate what is its own, nothing else."""

    __slots__ = ("_head", "_naming", "_prefix", "incarnation", "opening", "scope_id", "sealing")

    def __init__(
        self, owner: Owner, scope_id: bytes, incarnation: int, naming: bytes, sealing: list[bytes]
    ) -> None:
        self._prefix = owner.framed()
        self._naming = DigestKey(derive(naming, b"names", self._prefix))
        self._head = DigestKey(derive(naming, b"heads", self._prefix))
        self.scope_id = scope_id
        self.incarnation = incarnation
        versions = [SealingKey(derive(key, b"records", self._prefix)) for key in sealing]
        self.sealing = versions[-1]
        self.opening = {version.id: version for version in versions}

    def name(self, kind: Kind, *parts: bytes) -> bytes:
        """The 16 bytes by which tables know a name that a caller chose."""
        return self._naming.digest(kind.framed_bytes, *parts)

    def head(self, *parts: bytes | None) -> bytes:
        """16 bytes that authenticate a session row's clear columns."""
        return self._head.digest(*parts)

    def place(self, kind: Kind, parent: bytes) -> bytes:
        """The start of the associated data of every record of ``kind`` under ``parent``."""
        return self._prefix + framed(kind.framed_bytes, parent)

    def seal(self, place: bytes, key: bytes, plaintext: bytes, *, compress: bool = True) -> bytes:
        """Seal a record at ``key`` under :meth:`place`."""
        return seal(self.sealing, under(place, key), plaintext, compress=compress)

    def open(self, place: bytes, key: bytes, sealed: bytes, kind: Kind) -> bytes:
        """Open a record at ``key`` under :meth:`place`, or raise ``RecordDoesNotOpen``."""
        return open_sealed(self.opening, under(place, key), sealed, kind=kind.label)

    def opener(self, place: bytes, kind: Kind) -> Callable[[bytes, bytes], bytes]:
        """Opens many records under one :meth:`place`, each by its key and sealed bytes."""
        return opener(self.opening, place, kind=kind.label)

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")


_k, _s, _i = _schema.keys.c, _schema.scopes.c, _schema.installation.c

_SELECT_KEYS = (
    select(_k.purpose, _k.version, _k.wrapped, _k.root_key_id)
    .where(_k.principal == bindparam("principal"))
    .order_by(_k.purpose, _k.version)
)


def _insert_if_absent(table: Table, *columns: str) -> dict[bool, Executable]:
    """By whether it is PostgreSQL: the loser of a race writes nothing and reads again."""
    values: dict[str, BindParameter[Any]] = {column: bindparam(column) for column in columns}
    primary_key = [column.name for column in table.primary_key]
    return {
        True: postgresql.insert(table)
        .values(values)
        .on_conflict_do_nothing(index_elements=primary_key),
        False: sqlite.insert(table)
        .values(values)
        .on_conflict_do_nothing(index_elements=primary_key),
    }


_INSERT_KEY = _insert_if_absent(
    _schema.keys, "principal", "purpose", "version", "wrapped", "root_key_id", "created_at"
)
_DIRECTORY_ID = select(_i.directory_id)
_SET_DIRECTORY_ID = (
    update(_schema.installation)
    .where(_i.directory_id.is_(None))
    .values(directory_id=bindparam("directory_id"))
)
_SELECT_SCOPE = select(_s.incarnation).where(_s.scope_id == bindparam("scope_id"))
_INSERT_SCOPE = _insert_if_absent(
    _schema.scopes, "scope_id", "principal", "level", "incarnation", "sealed", "created_at"
)
_SELECT_ENTRIES = select(_s.scope_id, _s.sealed).where(_s.principal == bindparam("principal"))
_DELETE_SCOPE = delete(_schema.scopes).where(
    _s.scope_id == bindparam("scope_id"), _s.incarnation == bindparam("incarnation")
)


@dataclass(frozen=True, slots=True, repr=False)
class _PrincipalKeys:
    """A principal's live keys in plaintext; ``incarnation`` counts its lives, one per erasure."""

    incarnation: int
    naming: bytes
    sealing: list[bytes]

    def entry(self, scope_id: bytes) -> tuple[dict[bytes, SealingKey], bytes]:
        """What opens and seals this principal's entries in the table of scopes."""
        versions = [SealingKey(derive(key, b"directory entries")) for key in self.sealing]
        return {key.id: key for key in versions}, framed(Kind.SCOPE.framed_bytes, scope_id)


@dataclass(frozen=True, slots=True, repr=False)
class _Directory:
    """The installation's directory key, and how long it is kept."""

    key: bytes
    until: float


class Keyring:
    """Finds, makes and caches the keys of owners.

    Args:
        database: Holds the scopes.
        root_key: Wraps every key.
        key_store: Holds the keys; the same database when ``None``.
        cache_size: How many owners' unwrapped keys are kept.
        cache_seconds: For how long: an erasure in another process ends their use here at the
            latest then (writes are refused at once).
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        database: Database,
        root_key: RootKey,
        *,
        key_store: Database | None = None,
        cache_size: int = 1024,
        cache_seconds: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._root_key = root_key
        self._key_store = key_store or database
        self._cache_size = cache_size
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._cache: OrderedDict[Owner, tuple[float, ScopeKeys]] = OrderedDict()
        self._directory_cache: _Directory | None = None
        self._lock = threading.Lock()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Give a forked child a lock that no thread of its parent holds."""
        self._lock = threading.Lock()

    def obtain(self, owner: Owner) -> ScopeKeys:
        """The owner's keys, made at first use.

        Processes that come first together agree: keys and scope are inserted if absent and read
        again. The scope's row is made before the keys are read for the last time, and an erasure
        destroys the keys before it deletes rows, so a row never outlives its keys.

        Raises:
            KeyDestroyed: The owner is being erased at this moment.
            KeyringError: A key cannot be had, or belongs to another root key.
        """
        if keys := self._cached(owner):
            return keys
        directory = self._directory(create=True)
        assert directory is not None
        for _ in range(3):
            principal = self._principal(directory, owner, create=True)
            if principal and self._register(directory, owner, principal):
                return self._remember(owner, _scope_keys(directory, owner, principal))
        raise KeyDestroyed

    def find(self, owner: Owner) -> ScopeKeys | None:
        """The owner's keys, or ``None`` when nothing was ever stored for it; makes nothing."""
        if keys := self._cached(owner):
            return keys
        directory = self._directory(create=False)
        principal = directory and self._principal(directory, owner, create=False)
        if not directory or not principal:
            return None
        if self._incarnation(_scope_id(directory, owner)) != principal.incarnation:
            return None
        return self._remember(owner, _scope_keys(directory, owner, principal))

    def forget(self, owner: Owner) -> None:
        """Drop the owner's keys from the cache; the next use reads them again."""
        with self._lock:
            self._cache.pop(owner, None)

    def owners(self, principal_of: Owner) -> list[Owner]:
        """Every owner that shares the principal of ``principal_of`` and holds memory.

        For a user: the modules. Tables name no one; the names are sealed with the principal's key.
        """
        directory = self._directory(create=False)
        principal = directory and self._principal(directory, principal_of, create=False)
        if not directory or not principal:
            return []
        rows = self._database.read(
            Transaction.rows, _SELECT_ENTRIES, principal=_principal_id(directory, principal_of)
        )
        owners = []
        for scope_id, sealed in rows:
            opening, place = principal.entry(scope_id)
            level, project, user, module = json.loads(
                open_sealed(opening, place, sealed, kind=Kind.SCOPE.label)
            )
            owners.append(Owner(Level(level), project, user, module))
        return owners

    def check(self) -> bool:
        """Prove that the root key opens this installation; ``False`` when it has no keys yet."""
        self._directory_cache = None
        return self._directory(create=False) is not None

    def _cached(self, owner: Owner) -> ScopeKeys | None:
        with self._lock:
            entry = self._cache.get(owner)
            if entry is None:
                return None
            if entry[0] < self._clock():
                del self._cache[owner]
                return None
            self._cache.move_to_end(owner)
            return entry[1]

    def _remember(self, owner: Owner, keys: ScopeKeys) -> ScopeKeys:
        with self._lock:
            self._cache[owner] = (self._clock() + self._cache_seconds, keys)
            self._cache.move_to_end(owner)
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return keys

    def _directory(self, create: bool) -> bytes | None:
        cached = self._directory_cache
        if cached and cached.until >= self._clock():
            return cached.key
        known_id = self._directory_id()
        rows = self._rows(_INSTALLATION)
        if not rows and known_id is not None:
            raise KeyNotFound(
                "This database was begun with a key store that is not the one given: its directory "
                "key is missing. Nothing was read or written; give the right key_store=…"
            )
        if not rows:
            if not create:
                return None
            self._insert(_INSTALLATION, Purpose.DIRECTORY, 1)
            rows = self._rows(_INSTALLATION)
        directory = self._unwrap(_INSTALLATION, rows[0])
        identity = derive(directory, b"directory id")[:DIGEST_BYTES]
        if known_id is None and create:
            self._database.write(Transaction.execute, _SET_DIRECTORY_ID, directory_id=identity)
            known_id = self._directory_id()
        if known_id not in (None, identity):
            raise KeyNotFound(
                "The key store given belongs to another database: its directory key differs. "
                "Nothing was read or written; give the right key_store=…"
            )
        self._directory_cache = _Directory(directory, self._clock() + self._cache_seconds)
        return directory

    def _directory_id(self) -> bytes | None:
        row = self._database.read(Transaction.row, _DIRECTORY_ID)
        return row[0] if row else None

    def _principal(self, directory: bytes, owner: Owner, *, create: bool) -> _PrincipalKeys | None:
        principal = _principal_id(directory, owner)
        rows = self._rows(principal)
        if not _has_both(rows) and self._database.read(
            Transaction.row, _SELECT_ENTRIES, principal=principal
        ):
            # A scope's row is made after its keys: read now, they must be there.
            rows = self._rows(principal)
            if not _has_both(rows):
                raise KeyNotFound(
                    "The key store has no keys of an owner whose memory this database holds: it is "
                    "an older copy, or another. Nothing was read or written; give the right one."
                )
        live = {row[0] for row in rows if row[2]}
        # One of the two may stand alone: another first use is between them, or was killed there.
        missing = [p for p in _OWNED if create and p not in live]
        for purpose in missing:
            used = [version for row_purpose, version, *_ in rows if row_purpose == purpose]
            self._insert(principal, purpose, max(used, default=0) + 1)
        if missing:
            rows = self._rows(principal)
        naming = [row for row in rows if row[0] == Purpose.NAMING and row[2]]
        sealing = [row for row in rows if row[0] == Purpose.SEALING and row[2]]
        if not naming or not sealing:
            return None
        return _PrincipalKeys(
            incarnation=naming[-1][1],
            naming=self._unwrap(principal, naming[-1]),
            sealing=[self._unwrap(principal, row) for row in sealing],
        )

    def _register(self, directory: bytes, owner: Owner, principal: _PrincipalKeys) -> bool:
        """Make the scope's row stand for this incarnation; ``False`` if the keys died meanwhile."""
        scope_id = _scope_id(directory, owner)
        if self._incarnation(scope_id) == principal.incarnation:
            return True
        opening, place = principal.entry(scope_id)
        entry = json.dumps([owner.level, owner.project, owner.user, owner.module]).encode()
        self._database.write(
            Transaction.execute,
            _INSERT_SCOPE[self._database.is_postgres],
            scope_id=scope_id,
            principal=_principal_id(directory, owner),
            level=int(owner.level),
            incarnation=principal.incarnation,
            sealed=seal(list(opening.values())[-1], place, entry),
            created_at=_milliseconds(),
        )
        live = [
            version
            for purpose, version, wrapped, _ in self._rows(_principal_id(directory, owner))
            if purpose == Purpose.NAMING and wrapped
        ]
        if live[-1:] == [principal.incarnation]:
            return self._incarnation(scope_id) == principal.incarnation
        self._database.write(
            Transaction.execute,
            _DELETE_SCOPE,
            scope_id=scope_id,
            incarnation=principal.incarnation,
        )
        return False

    def _incarnation(self, scope_id: bytes) -> int | None:
        row = self._database.read(Transaction.row, _SELECT_SCOPE, scope_id=scope_id)
        return row[0] if row else None

    def _rows(self, principal: bytes) -> list[Row]:
        return self._key_store.read(Transaction.rows, _SELECT_KEYS, principal=principal)

    def _insert(self, principal: bytes, purpose: Purpose, version: int) -> None:
        context = framed(b"langmem-isolated/v1", principal, bytes([purpose]), version.to_bytes(4))
        self._key_store.write(
            Transaction.execute,
            _INSERT_KEY[self._key_store.is_postgres],
            principal=principal,
            purpose=int(purpose),
            version=version,
            wrapped=self._root_key.wrap(os.urandom(KEY_BYTES), context),
            root_key_id=self._root_key.key_id,
            created_at=_milliseconds(),
        )

    def _unwrap(self, principal: bytes, row: Row) -> bytes:
        purpose, version, wrapped, root_key_id = row
        if root_key_id != self._root_key.key_id:
            raise RootKeyMismatch(root_key_id, self._root_key.key_id)
        context = framed(b"langmem-isolated/v1", principal, bytes([purpose]), version.to_bytes(4))
        return self._root_key.unwrap(wrapped, context)


def _has_both(rows: list[Row]) -> bool:
    """Whether a principal has had its keys: they may have been destroyed since."""
    return {row[0] for row in rows}.issuperset(_OWNED)


def _principal_id(directory: bytes, owner: Owner) -> bytes:
    return digest(directory, b"principal", owner.principal())


def _scope_id(directory: bytes, owner: Owner) -> bytes:
    return digest(directory, b"scope", owner.framed())


def _scope_keys(directory: bytes, owner: Owner, principal: _PrincipalKeys) -> ScopeKeys:
    return ScopeKeys(
        owner,
        _scope_id(directory, owner),
        principal.incarnation,
        principal.naming,
        principal.sealing,
    )


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000
