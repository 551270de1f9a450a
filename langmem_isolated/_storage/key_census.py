"""Key census: every key set of an installation, its tombstones and its erasures, checked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._database import schema
from langmem_isolated._database.database import Database
from langmem_isolated._storage.census import asked_of_all
from langmem_isolated._storage.erasure_jobs import ErasureJobs
from langmem_isolated._storage.installation import OpenInstallation
from langmem_isolated._storage.key_sets import KeySets, check
from langmem_isolated._storage.tombstones import Tombstones
from langmem_isolated._storage.wrapped_keys import incarnation_of
from langmem_isolated.errors import KeyringError, RecordDoesNotOpen

_ERASED = ("principal", "incarnation", "began_at", "finished_at", "sealed")
_BEHIND = bindparam("behind", type_=sa.LargeBinary)
_sets, _keys = schema.key_sets.c, schema.keys.c
_NAMED = sa.union(
    select(_sets.principal).where(_sets.principal > _BEHIND),
    select(_keys.principal).where(_keys.principal > _BEHIND),
).subquery()
_PAGE = (
    select(_NAMED.c.principal)
    .order_by(_NAMED.c.principal)
    .limit(sa.literal_column("500"))
    .offset(sa.literal_column("0"))
)
_ERASURES = select(*(schema.erasures.c[name] for name in _ERASED)).order_by(
    schema.erasures.c.began_at
)
_LOOKS = 5
_PAUSE_SECONDS = 0.02


class KeyFlaw(NamedTuple):
    """A key set, tombstone or erasure that is not as it was stored."""

    what: str
    """``"key set"``, ``"tombstone"`` or ``"erasure"``."""
    place: str
    """The principal's digest, in hex."""
    reason: str


class KeyCensus:
    """Looks at every key set, tombstone and erasure.

    Args:
        database: Holds the erasures.
        key_store: Holds keys and tombstones, perhaps of several installations.
        opened: Checks them.
        tombstones: Those of this installation.
    """

    def __init__(
        self,
        database: Database,
        key_store: Database,
        opened: OpenInstallation,
        tombstones: Tombstones,
    ) -> None:
        self._database, self._key_store = database, key_store
        self._sets = KeySets(key_store)
        self._directory, self._keys = opened
        self._tombstones = tombstones
        self._jobs = ErasureJobs(database, opened.directory)
        self._is_shared = key_store is not database
        self.sets = self.tombstones = self.erasures = self.foreign = 0
        """How many were looked at; ``foreign`` of another installation, or not told from one."""

    def flaws(self) -> Iterator[KeyFlaw]:
        """All that are not as they were stored."""
        yield from self._key_sets()
        yield from self._ended()
        yield from self._erased()

    def _key_sets(self) -> Iterator[KeyFlaw]:
        behind = b""
        while rows := asked_of_all(self._key_store, _PAGE, behind=behind):
            for (principal,) in rows:
                if reason := self._reason(principal):
                    yield KeyFlaw("key set", principal.hex(), reason)
            behind = rows[-1][0]

    def _reason(self, principal: bytes) -> str | None:
        """Why a set is none, as often as one looks; ``None`` for one that is, or another's."""
        reason = None
        for look in range(_LOOKS):
            time.sleep(look * _PAUSE_SECONDS)
            reason = self._looked_at(principal)
            if reason is None:
                self.sets += 1
                return None
        if self._is_shared and principal != self._keys.installation_id:
            # Whose scopes need it is told by the census of scopes.
            self.foreign += 1
            return None
        return reason

    def _looked_at(self, principal: bytes) -> str | None:
        found = self._sets.read_unchecked(principal)
        try:
            check(found, self._directory)
            if principal != self._keys.installation_id:
                self._keys.unwrapped(found)
        except RecordDoesNotOpen as error:
            return error.reason
        except KeyringError as error:
            return f"a key of it cannot be had ({type(error).__name__})"
        return None

    def _ended(self) -> Iterator[KeyFlaw]:
        """Tombstones that do not fit, and lives that are there although one speaks of them."""
        for page in self._tombstones.pages():
            for one in page:
                self.tombstones += 1
                if not one.is_authentic(self._directory):
                    yield KeyFlaw("tombstone", one.principal.hex(), "it is not as it was stored")
                elif self._lives(one.principal, one.incarnation):
                    yield KeyFlaw("tombstone", one.principal.hex(), "who was erased is there again")

    def _lives(self, principal: bytes, ended: int) -> bool:
        """Whether a life is there that was ended, and no erasure is about to end it."""
        for look in range(_LOOKS):
            time.sleep(look * _PAUSE_SECONDS)
            try:
                life = incarnation_of(self._sets.read(principal, self._directory))
            except RecordDoesNotOpen:
                return False
            if life is None or life > ended or self._jobs.unfinished_of(principal):
                return False
        return True

    def _erased(self) -> Iterator[KeyFlaw]:
        for row in asked_of_all(self._database, _ERASURES):
            self.erasures += 1
            try:
                self._jobs.opened(row)
            except RecordDoesNotOpen as error:
                place = row[0].hex() if type(row[0]) is bytes else ""
                yield KeyFlaw("erasure", place, error.reason)
