"""Keyring: finds, makes and caches every owner's keys (envelope encryption).

A random *directory key* makes the digests by which tables name owners. Each owner's principal (for
private memory: the user) has one *naming key* and *sealing keys* by version, all random and 32
bytes, stored wrapped. HKDF gives every scope its own subkeys. Destroying a principal's keys makes
every record sealed with them unreadable, in backups too.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence

from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.database import Database
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.lru import LRUCache
from langmem_isolated._storage.checked_root_key import CheckedRootKey, RootKeys
from langmem_isolated._storage.former_lives import FormerLives
from langmem_isolated._storage.installation import Installation
from langmem_isolated._storage.key_sets import KeySet, KeySets, Purpose
from langmem_isolated._storage.key_uses import KeyUses
from langmem_isolated._storage.lent_locks import LentLocks
from langmem_isolated._storage.lives import Lives
from langmem_isolated._storage.locks import Locks
from langmem_isolated._storage.owner_state import OwnerPlace, OwnerState
from langmem_isolated._storage.root_key_rotation import RootKeyRotation
from langmem_isolated._storage.scope_rows import ScopeRow, ScopeRows, Traces, owner_of
from langmem_isolated._storage.tombstones import FOR_EVER, TombstoneRules, Tombstones
from langmem_isolated._storage.wrapped_keys import OWNED, WrappedKeys, incarnation_of
from langmem_isolated.errors import KeyDestroyed
from langmem_isolated.root_keys import RootKey

_log = logging.getLogger("langmem_isolated.scopes")

# What does not fit at so many looks, with pauses between the later ones, is no change that came
# between them. Three were not enough for four processes that erased and began at once.
_LOOKS = 16
_LOOKS_AT_ONCE = 3
_PAUSE_SECONDS = 0.004


class Keyring:
    """Finds, makes and caches the keys of owners.

    Args:
        database: Holds the scopes.
        root_key: Wraps the key-encryption key of an installation that begins.
        accepted_root_keys: Open what they wrapped.
        key_store: Holds the keys; the same database when ``None``.
        cache_size: How many owners' unwrapped keys are kept.
        cache_seconds: For how long: an erasure in another process ends their use here at the
            latest then (writes are refused at once). What is over time leaves memory when anybody
            asks for keys, all of it at :meth:`close`; a process that does nothing keeps it.
        compress: Whether records are deflated before they are sealed.
        tombstones: Where it is kept besides who was erased, and for how long.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        database: Database,
        root_key: RootKey,
        *,
        accepted_root_keys: Sequence[RootKey] = (),
        key_store: Database | None = None,
        cache_size: int = 1024,
        cache_seconds: float = 300.0,
        compress: bool = True,
        tombstones: TombstoneRules = FOR_EVER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        keys = key_store or database
        self._database = database
        self._sets = KeySets(keys)
        self._scopes = ScopeRows(database)
        self._root_keys = RootKeys(root_key, accepted_root_keys)
        self.lent = LentLocks(clock)
        self.lent.ended = self._forget_principal
        self.when_locked: Callable[[bytes], None] = lambda _: None
        """Told the id of each scope of which nothing opened is to be kept any more."""
        self._installation = Installation(
            database, keys, self._root_keys, seconds=cache_seconds, clock=clock, lent=self.lent
        )
        self.tombstones = Tombstones(keys, self._installation, tombstones)
        self._uses = KeyUses(database)
        self._compress = compress
        self._cache = LRUCache[Owner, ScopeKeys](
            entries=cache_size, seconds=cache_seconds, clock=clock
        )

    def obtain(self, owner: Owner) -> ScopeKeys:
        """The owner's keys, made at first use.

        Processes that come first together agree: keys and scope are inserted if absent and read
        again. The scope's row is made before the keys are read for the last time, an erasure
        destroys the keys before it deletes rows, and keys for a later life are made when no row is
        left: so a row never outlives its keys.

        Raises:
            KeyDestroyed: The owner is being erased at this moment.
            KeyringError: A key cannot be had, or belongs to another root key.
            RecordDoesNotOpen: The keys or the scope's row are not as they were stored.
        """
        if keys := self._cached(owner):
            return keys
        opened = self._installation.open(create=True)
        assert opened is not None
        place, made = OwnerPlace.of(owner, opened), None
        for sight in self._looks(place):
            if sight.fits:
                if made and sight.row and sight.row.birth == made.birth:
                    _log.info("Memory was made: scope %s.", place.scope_id.hex())
                return self._remember(place, sight)
            if made:
                # An erasure came between: the row has outlived its keys.
                self._scopes.delete(made)
            made = self._make_what_is_missing(place, sight)
        raise sight.misfit()

    def find(self, owner: Owner) -> ScopeKeys | None:
        """The owner's keys, or ``None`` when nothing was ever stored for it; makes nothing.

        Raises:
            KeyringError: A key cannot be had, or belongs to another root key.
            RecordDoesNotOpen: The keys or the scope's row are not as they were stored.
        """
        if keys := self._cached(owner):
            return keys
        opened = self._installation.open(create=False)
        if opened is None:
            return None
        place = OwnerPlace.of(owner, opened)
        for sight in self._looks(place):
            if sight.fits:
                return self._remember(place, sight)
            if self._has_nothing(place, sight):
                return None
        raise sight.misfit()

    def present(self, owners: Sequence[Owner]) -> set[Owner]:
        """Those of at most four owners that have stored anything, asked at once."""
        missing = [owner for owner in owners if self._cache.get(owner) is None]
        opened = self._installation.open(create=False) if missing else None
        there = set(owners).difference(missing)
        if opened:
            by_id = {opened.directory.scope_id_of(owner): owner for owner in missing}
            there.update(by_id[scope_id] for scope_id in self._scopes.present([*by_id]))
        return there

    def forget(self, owner: Owner) -> None:
        """Drop the owner's keys from the cache; the next use reads them again."""
        self._cache.drop(owner)

    def owners(self, principal_of: Owner) -> list[Owner]:
        """Every owner that shares the principal of ``principal_of`` and holds memory.

        For a user: the modules. Tables name no one; the names are sealed with the principal's key.
        """
        return [owner for _, owner in self.owned_rows(principal_of)]

    def owned_rows(self, principal_of: Owner) -> Iterator[tuple[ScopeRow, Owner]]:
        """The same with their rows."""
        opened = self._installation.open(create=False)
        if opened is None:
            return
        place = OwnerPlace.of(principal_of, opened)
        principal = place.keys.unwrapped(self._sets.read(place.principal, place.directory))
        if principal is not None:
            for row in self._scopes.of_principal(place.directory, place.principal):
                yield row, owner_of(row, principal)

    def scopes_of(self, owner: Owner) -> list[ScopeRow]:
        """The row of every scope that is left of the owner's principal, erased or not."""
        opened = self._installation.open(create=False)
        if opened is None:
            return []
        return self._scopes.of_principal(opened.directory, opened.directory.principal_of(owner))

    def walk(
        self, *, project: str | None = None, module: str | None = None
    ) -> Iterator[tuple[ScopeRow, Owner]]:
        """Every scope that has memory, and whose it is; for operators' jobs.

        An owner that is erased meanwhile is left out.

        Args:
            project: Only this project's; by default all.
            module: Only this module's of it.

        Raises:
            KeyringError: A key cannot be had, or belongs to another root key.
            RecordDoesNotOpen: The keys or a scope's row are not as they were stored.
        """
        opened = self._installation.open(create=False)
        if opened is None:
            return
        directory, keys = opened
        digests = directory.digests_of(project, module)
        for row in self._scopes.walk(directory, **digests):
            principal = keys.unwrapped(self._sets.read(row.principal, directory))
            if principal is not None and principal.incarnation == row.incarnation:
                yield row, owner_of(row, principal)

    def owner_of(self, scope_id: bytes) -> Owner | None:
        """Whose scope it is by which tables know it; ``None`` for one that has no memory.

        Raises:
            KeyringError: A key cannot be had, or belongs to another root key.
            RecordDoesNotOpen: The keys or the scope's row are not as they were stored.
        """
        opened = self._installation.open(create=False)
        row = opened and self._scopes.by_id(opened.directory, scope_id)
        if not opened or not row:
            return None
        principal = opened.keys.unwrapped(self._sets.read(row.principal, opened.directory))
        return None if principal is None else owner_of(row, principal)

    def directory(self, *, create: bool = False) -> DirectoryKey | None:
        """What makes the digests by which tables know owners.

        ``None`` when nothing was ever stored, unless it is to be made.
        """
        opened = self._installation.open(create=create)
        return opened and opened.directory

    @property
    def directory_at_hand(self) -> DirectoryKey | None:
        """The same without any I/O, where it was read before."""
        kept = self._installation.kept
        return kept and kept.directory

    def change_keys(self, owner: Owner, change: Callable[[KeySet, WrappedKeys], KeySet]) -> None:
        """Change the key set of the owner's principal, as `KeySets.change` does."""
        opened = self._installation.open(create=True)
        assert opened is not None
        place = OwnerPlace.of(owner, opened)
        place.keys.change(self._sets, place.principal, place.directory, change)
        self.forget(owner)

    def rotate(self, owner: Owner) -> None:
        """Give the owner's principal a new sealing key; the former opens and seals no more."""
        self.change_keys(owner, lambda found, keys: keys.with_new_keys(found, Purpose.SEALING))

    def destroy(self, owner: Owner) -> None:
        """Destroy all keys of the owner's principal."""
        self.change_keys(owner, lambda found, _: found.destroyed(now()))
        principal = owner.principal()
        for cached in self._cache:
            if cached.principal() == principal:
                self.forget(cached)

    def root_key_rotation(self, new: RootKey) -> RootKeyRotation:
        """What wraps every key by another root key; nothing is done yet."""
        parts = self._installation, self._sets, self._scopes, self._root_keys
        return RootKeyRotation(*parts, CheckedRootKey(new))

    def former_lives(self) -> FormerLives:
        """What finds lives that erasures have ended already, by the digests of principals."""
        return FormerLives(self._installation, self._sets, self._scopes, self._root_keys)

    def remove_destroyed(self, owner: Owner) -> None:
        """Remove the destroyed keys of a principal that has nothing left and cannot come back.

        Raises:
            KeyNotFound: Some of its keys are not destroyed; nothing was removed.
        """
        opened = self._installation.open(create=False)
        if opened is not None:
            self._sets.remove(opened.directory.principal_of(owner), opened.directory)

    def lives(self) -> Lives:
        """What ends lives of principals, and finds what is left of them."""
        opened = self._installation.open(create=True)
        assert opened is not None
        return Lives(opened.directory, self._database, self._sets, self._scopes, self._cache)

    @property
    def key_store(self) -> Database:
        """Holds the keys; the database itself, unless they have one of their own."""
        return self._sets.database

    def check(self) -> bool:
        """Prove that the root key opens this installation; ``False`` when it has no keys yet."""
        self._installation.forget()
        return self._installation.open(create=False) is not None

    @property
    def installation(self) -> Installation:
        """What opens the directory key."""
        return self._installation

    def close(self) -> None:
        """Store what was counted, and let go of every key."""
        self._uses.store()
        self.lent.end_all()
        self._cache.clear()
        self._installation.forget()

    def locks(self) -> Locks:
        """What makes, opens, changes and removes users' locks."""
        opened = self._installation.open(create=True)
        assert opened is not None
        return Locks(opened.directory, opened.keys, self._sets, self.lent)

    def _forget_principal(self, principal: bytes) -> None:
        directory = self.directory_at_hand
        for owner in self._cache:
            if directory is None or directory.principal_of(owner) == principal:
                kept = self._cache.get(owner)
                self._cache.drop(owner)
                if kept is not None:
                    self.when_locked(kept.scope_id)
        # Keys leave the cache before what they opened does.
        for scope_id in self.lent.opened.pop(principal, ()):
            self.when_locked(scope_id)

    def _cached(self, owner: Owner) -> ScopeKeys | None:
        if self.lent.held:
            self.lent.end_over_time()
        self._uses.store_if_due()
        self._installation.forget_if_over_time()
        return self._cache.get(owner)

    def _remember(self, place: OwnerPlace, sight: OwnerState) -> ScopeKeys:
        row, principal = sight.row, place.keys.unwrapped(sight.key_set)
        assert row is not None
        assert principal is not None
        version = principal.sealing_version
        seals = row.seals if row.used_key == version else None
        counter = self._uses.counter(row.scope_id, version, seals if type(seals) is int else 0)
        keys = place.scope_keys(row, principal, counter, compress=self._compress)
        self._cache.put(place.owner, keys)
        if keys.is_locked:
            self.when_locked(keys.scope_id)
        elif not place.keys.may_be_kept(sight.key_set, keys.scope_id):
            # Taken back while they were unwrapped: who took them back has not found them here.
            self._cache.drop(place.owner)
        return keys

    def _looks(self, place: OwnerPlace) -> Iterator[OwnerState]:
        for number in range(_LOOKS):
            if number >= _LOOKS_AT_ONCE:
                time.sleep(_PAUSE_SECONDS)
            yield self._look(place)

    def _look(self, place: OwnerPlace) -> OwnerState:
        """The row of the owner's scope, and after it the keys of its principal.

        In this order: a row that was there while its keys lived is one that their erasure will see
        and delete, so nobody writes below a row that a first use leaves behind.
        """
        found = self._scopes.look(place.directory, place.scope_id, place.principal)
        key_set = self._sets.read(place.principal, place.directory)
        if not isinstance(found, Traces):
            return OwnerState(key_set, found, None)
        return OwnerState(key_set, None, found.refuse_orphans())

    def _make_what_is_missing(self, place: OwnerPlace, sight: OwnerState) -> ScopeRow | None:
        """One step of a first use; the scope's row if that was it."""
        if not incarnation_of(sight.key_set):
            self._make_keys(place, sight.key_set)
        elif sight.row is None:
            return self._make_scope(place, sight.key_set)
        elif sight.is_leftover and not self._traces(place, sight.key_set).has_records:
            self._scopes.delete(sight.row)
        return None

    def _make_keys(self, place: OwnerPlace, found: KeySet) -> None:
        traces = self._traces(place, found)
        if found.keys and any(traces):
            # What was put there to look like an erasure is refused first.
            self._scopes.of_principal(place.directory, place.principal)
            # Unless another call began the next life behind the look at the keys.
            if not incarnation_of(self._sets.read(place.principal, place.directory)):
                raise KeyDestroyed
        elif not any(traces):
            missing = [purpose for purpose in OWNED if not found.living(purpose)]
            # Looked at again in either case, and made once more where it was lost.
            with place.keys.renewed_if_retired():
                self._sets.swap(found, place.keys.with_new_keys(found, *missing), place.directory)

    def _make_scope(self, place: OwnerPlace, found: KeySet) -> ScopeRow | None:
        if principal := place.keys.unwrapped(found):
            return self._scopes.make(place.directory, place.owner, principal)
        return None

    def _has_nothing(self, place: OwnerPlace, sight: OwnerState) -> bool:
        """Whether the owner was erased or never stored anything; not, where looks do not agree."""
        if incarnation_of(sight.key_set) is None:
            return bool(sight.key_set.keys) or not any(sight.traces or (True,))
        if sight.is_leftover:
            return not self._traces(place, sight.key_set).has_records
        return sight.row is None

    def _traces(self, place: OwnerPlace, found: KeySet) -> Traces:
        traces = self._scopes.traces(place.scope_id, place.principal, is_new=not found.keys)
        return traces.refuse_orphans()
