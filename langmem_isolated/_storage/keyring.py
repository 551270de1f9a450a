"""Keyring: finds, makes and caches every owner's keys (envelope encryption).

A random *directory key* makes the digests by which tables name owners. Each owner's principal (for
private memory: the user) has one *naming key* and *sealing keys* by version, all random and 32
bytes, stored wrapped. HKDF gives every scope its own subkeys. Destroying a principal's keys makes
every record sealed with them unreadable, in backups too.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from sqlalchemy import LargeBinary, bindparam, delete, select, update

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys, principal_digest, scope_digest
from langmem_isolated._crypto.sealing import DIGEST_BYTES, derive, open_sealed, seal
from langmem_isolated._database import schema
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.lru import LRUCache
from langmem_isolated._storage.wrapped_keys import (
    OWNED,
    PrincipalKeys,
    Purpose,
    WrappedKeys,
    insert_if_absent,
)
from langmem_isolated.errors import KeyDestroyed, KeyNotFound
from langmem_isolated.root_keys import RootKey

# The directory key belongs to the installation, not to a principal.
_INSTALLATION = bytes(DIGEST_BYTES)

_scopes, _installation = schema.scopes.c, schema.installation.c

_DIRECTORY_ID = select(_installation.directory_id)
_SET_DIRECTORY_ID = (
    update(schema.installation)
    .where(_installation.directory_id.is_(None))
    .values(directory_id=bindparam("directory_id"))
)
_SELECT_SCOPE = select(_scopes.incarnation).where(_scopes.scope_id == bindparam("scope_id"))
# One for each level of sharing.
_ASKED = [f"scope_id_{number}" for number in range(4)]
_SELECT_PRESENT = select(_scopes.scope_id).where(
    _scopes.scope_id.in_([bindparam(name, type_=LargeBinary) for name in _ASKED])
)
_INSERT_SCOPE = insert_if_absent(
    schema.scopes, "scope_id", "principal", "level", "incarnation", "sealed", "created_at"
)
_SELECT_ENTRIES = select(_scopes.scope_id, _scopes.sealed).where(
    _scopes.principal == bindparam("principal")
)
_DELETE_SCOPE = delete(schema.scopes).where(
    _scopes.scope_id == bindparam("scope_id"), _scopes.incarnation == bindparam("incarnation")
)


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
        self._keys = WrappedKeys(key_store or database, root_key)
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._cache = LRUCache[Owner, ScopeKeys](
            entries=cache_size, seconds=cache_seconds, clock=clock
        )
        self._directory_cache: _Directory | None = None

    def obtain(self, owner: Owner) -> ScopeKeys:
        """The owner's keys, made at first use.

        Processes that come first together agree: keys and scope are inserted if absent and read
        again. The scope's row is made before the keys are read for the last time, and an erasure
        destroys the keys before it deletes rows, so a row never outlives its keys.

        Raises:
            KeyDestroyed: The owner is being erased at this moment.
            KeyringError: A key cannot be had, or belongs to another root key.
        """
        if keys := self._cache.get(owner):
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
        if keys := self._cache.get(owner):
            return keys
        directory = self._directory(create=False)
        rows = directory and self._checked_rows(principal_digest(directory, owner))
        # To unwrap may be to ask a service, and a search asks for owners that have nothing.
        known = directory and rows and self._incarnation(scope_digest(directory, owner))
        if not directory or not rows or not known:
            return None
        principal = self._unwrapped(principal_digest(directory, owner), rows)
        if not principal or principal.incarnation != known:
            return None
        return self._remember(owner, _scope_keys(directory, owner, principal))

    def present(self, owners: Sequence[Owner]) -> set[Owner]:
        """Those of at most four owners that have stored anything, asked at once."""
        missing = [owner for owner in owners if self._cache.get(owner) is None]
        directory = self._directory(create=False) if missing else None
        there = set(owners).difference(missing)
        if directory:
            by_id = {scope_digest(directory, owner): owner for owner in missing}
            asked = dict(zip(_ASKED, islice(cycle(by_id), len(_ASKED)), strict=True))
            rows = self._database.read(Transaction.rows, _SELECT_PRESENT, **asked)
            there.update(by_id[scope_id] for (scope_id,) in rows)
        return there

    def forget(self, owner: Owner) -> None:
        """Drop the owner's keys from the cache; the next use reads them again."""
        self._cache.drop(owner)

    def owners(self, principal_of: Owner) -> list[Owner]:
        """Every owner that shares the principal of ``principal_of`` and holds memory.

        For a user: the modules. Tables name no one; the names are sealed with the principal's key.
        """
        directory = self._directory(create=False)
        principal = directory and self._principal(directory, principal_of, create=False)
        if not directory or not principal:
            return []
        rows = self._database.read(
            Transaction.rows, _SELECT_ENTRIES, principal=principal_digest(directory, principal_of)
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

    def _remember(self, owner: Owner, keys: ScopeKeys) -> ScopeKeys:
        self._cache.put(owner, keys)
        return keys

    def _directory(self, create: bool) -> bytes | None:
        cached = self._directory_cache
        if cached and cached.until >= self._clock():
            return cached.key
        known_id = self._directory_id()
        rows = self._keys.rows(_INSTALLATION)
        if not rows and known_id is not None:
            raise KeyNotFound(
                "This database was begun with a key store that is not the one given: its directory "
                "key is missing. Nothing was read or written; give the right key_store=…"
            )
        if not rows:
            if not create:
                return None
            self._keys.insert(_INSTALLATION, Purpose.DIRECTORY, 1)
            rows = self._keys.rows(_INSTALLATION)
        directory = self._keys.unwrap(_INSTALLATION, rows[0])
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

    def _principal(self, directory: bytes, owner: Owner, *, create: bool) -> PrincipalKeys | None:
        principal = principal_digest(directory, owner)
        rows = self._checked_rows(principal)
        live = {row[0] for row in rows if row[2]}
        # One of the two may stand alone: another first use is between them, or was killed there.
        missing = [p for p in OWNED if create and p not in live]
        for purpose in missing:
            used = [version for row_purpose, version, *_ in rows if row_purpose == purpose]
            self._keys.insert(principal, purpose, max(used, default=0) + 1)
        if missing:
            rows = self._keys.rows(principal)
        return self._unwrapped(principal, rows)

    def _checked_rows(self, principal: bytes) -> list[Row]:
        """The principal's keys, wrapped; those that must be there are."""
        rows = self._keys.rows(principal)
        if not _has_both(rows) and self._database.read(
            Transaction.row, _SELECT_ENTRIES, principal=principal
        ):
            # A scope's row is made after its keys: read now, they must be there.
            rows = self._keys.rows(principal)
            if not _has_both(rows):
                raise KeyNotFound(
                    "The key store has no keys of an owner whose memory this database holds: it is "
                    "an older copy, or another. Nothing was read or written; give the right one."
                )
        return rows

    def _unwrapped(self, principal: bytes, rows: list[Row]) -> PrincipalKeys | None:
        naming = [row for row in rows if row[0] == Purpose.NAMING and row[2]]
        sealing = [row for row in rows if row[0] == Purpose.SEALING and row[2]]
        if not naming or not sealing:
            return None
        return PrincipalKeys(
            incarnation=naming[-1][1],
            naming=self._keys.unwrap(principal, naming[-1]),
            sealing=[self._keys.unwrap(principal, row) for row in sealing],
        )

    def _register(self, directory: bytes, owner: Owner, principal: PrincipalKeys) -> bool:
        """Make the scope's row stand for this incarnation; ``False`` if the keys died meanwhile."""
        scope_id = scope_digest(directory, owner)
        if self._incarnation(scope_id) == principal.incarnation:
            return True
        opening, place = principal.entry(scope_id)
        entry = json.dumps([owner.level, owner.project, owner.user, owner.module]).encode()
        self._database.write(
            Transaction.execute,
            _INSERT_SCOPE[self._database.is_postgres],
            scope_id=scope_id,
            principal=principal_digest(directory, owner),
            level=int(owner.level),
            incarnation=principal.incarnation,
            sealed=seal(list(opening.values())[-1], place, entry),
            created_at=now(),
        )
        live = [
            version
            for purpose, version, wrapped, _ in self._keys.rows(principal_digest(directory, owner))
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


def _has_both(rows: list[Row]) -> bool:
    """Whether a principal has had its keys: they may have been destroyed since."""
    return {row[0] for row in rows}.issuperset(OWNED)


def _scope_keys(directory: bytes, owner: Owner, principal: PrincipalKeys) -> ScopeKeys:
    return ScopeKeys(
        owner,
        scope_digest(directory, owner),
        principal.incarnation,
        principal.naming,
        principal.sealing,
    )
