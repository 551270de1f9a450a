"""Restore: a backup in the place of a database, which forgets who was erased since it was made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from langmem_isolated._adapters.config_keys import ConfigKeys
from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._adapters.known_stores import KnownStores
from langmem_isolated._adapters.run_scope import RunScopes
from langmem_isolated._codecs.checkpoints.element_cache import ElementCaches
from langmem_isolated._database.copies import copy_into, opened_copy
from langmem_isolated._database.database import Database
from langmem_isolated._database.drafts import draft_beside
from langmem_isolated._database.replacement import put_in_place, taken_out_of_use
from langmem_isolated._runtime.arguments import callback, true_or_false
from langmem_isolated._runtime.limits import DEFAULT_LIMITS
from langmem_isolated._storage.installation import ids_of
from langmem_isolated._storage.keyring import Keyring
from langmem_isolated._storage.tombstones import TombstoneRules, tombstone_rules
from langmem_isolated.errors import DatabaseCorrupt, ErasureLogRefused, RestoreRefused, SchemaTooOld
from langmem_isolated.lifecycle.erasure.participants import Participants
from langmem_isolated.lifecycle.erasure.reapplication import reapplied
from langmem_isolated.lifecycle.restore_places import Place, Places
from langmem_isolated.root_keys import (
    RootKey,
    checked_provider,
    checked_providers,
    root_key_from_environment,
)

if TYPE_CHECKING:
    from langmem_isolated._storage.erasure_log import Tombstone
    from langmem_isolated.lifecycle.retention.sweeping import Progress

PathLike = str | os.PathLike[str]
Source = Literal["erasure log", "key store", "replaced database"]
"""Where it was known from who was erased."""

_MOVE = "Move it elsewhere, with its -wal and -shm, and restore again"


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore has done."""

    size: int
    """Bytes of the database."""
    principals_erased: int
    """How many users and others it had that were erased since, and has no longer."""
    counts: dict[str, int]
    """How many records, sessions, threads and collections of them were removed, by kind."""
    had_tombstones_from: tuple[Source, ...]
    """From where it is known who was erased; empty where nothing was, and nobody is forgotten."""
    kept: tuple[Path, ...]
    """What was replaced: files to be removed, once the restored database is seen to be the right
    one. Whoever is erased later can be read in them."""


def restore_backup(
    backup: PathLike,
    database: PathLike,
    *,
    root_key: RootKey | None = None,
    accepted_root_keys: Sequence[RootKey] = (),
    key_store: str | None = None,
    key_store_backup: PathLike | None = None,
    erasure_log: PathLike | None = None,
    replace: bool = False,
    without_tombstones: bool = False,
    progress: Progress | None = None,
) -> Restored:
    """Put a backup in the place of a SQLite database, without those who were erased since.

    A copy of the backup is checked, opened with the root key, and forgets everyone whom the erasure
    log, the key store or the database that it replaces know as erased, before it has its name: in
    one step, so killed at any point the former database stands there, or the restored one. The
    backup is left as it is. What is replaced is kept beside it, as ``NAME.replaced-TIME``.

    Args:
        backup: The file, of ``memory.backup`` or any other whole copy.
        database: The SQLite database, by its URL or its path. Nobody may use it meanwhile.
        root_key: What opens the backup; by default as for :class:`IsolatedMemory`.
        accepted_root_keys: Further ones: for a backup from before a rotation the former one.
        key_store: The URL of the database that holds the wrapped keys, if it is another one.
        key_store_backup: A backup of that, to be put in its place as well. Leave it out where the
            key store was not lost: an older one lacks the keys of who came since.
        erasure_log: The file that the memory had as ``erasure_log=``.
        replace: Whether a database that is there is replaced.
        without_tombstones: Restore although nothing tells who was erased since: they come back.
        progress: Told after each batch how many records have been removed so far.

    Raises:
        TypeError: An argument has another type.
        RestoreRefused: What is there may not be replaced, or is used, or belongs to another
            installation; the backup cannot be read; or nothing tells who was erased.
        ErasureLogRefused: The erasure log is not there, cannot be used, or was tampered with.
        RecordDoesNotOpen: A tombstone, or what is to be erased again, was tampered with.
        KeyringError: The root key or the key store is not that of the backup.
        DatabaseError: The database refused or failed.
    """
    true_or_false("replace", replace)
    true_or_false("without_tombstones", without_tombstones)
    if progress is not None:
        callback("progress", progress, example="progress=lambda removed: print(removed)")
    key = root_key_from_environment() if root_key is None else checked_provider(root_key)
    opener = _Opener(key, checked_providers(accepted_root_keys), tombstone_rules(erasure_log, None))
    places = Places.of(backup, database, key_store, key_store_backup, replace=replace)
    return _Restoring(opener, places, progress or (lambda _: None)).run(
        without_tombstones=without_tombstones
    )


def would_replace(
    backup: PathLike,
    database: PathLike,
    key_store: str | None = None,
    key_store_backup: PathLike | None = None,
) -> bool:
    """Whether :func:`restore_backup` with these would replace a database that is there.

    Raises:
        TypeError: An argument has another type.
        RestoreRefused: What is there may not be replaced, or there is no backup.
    """
    places = Places.of(backup, database, key_store, key_store_backup, replace=True)
    return places.is_any_replaced


@dataclass(frozen=True, slots=True, repr=False)
class _Opener:
    """Opens databases with the keys that were given."""

    root_key: RootKey
    accepted: Sequence[RootKey]
    rules: TombstoneRules

    def context(self, database: Database, key_store: Database | None) -> MemoryContext:
        keyring = Keyring(
            database, self.root_key, accepted_root_keys=self.accepted,
            key_store=key_store, tombstones=self.rules,
        )  # fmt: skip
        return MemoryContext(
            database, keyring, ElementCaches(), None, KnownStores(),
            ConfigKeys(), RunScopes(), DEFAULT_LIMITS,
        )  # fmt: skip


class _Restoring:
    """One restore."""

    def __init__(self, opener: _Opener, places: Places, progress: Progress) -> None:
        self._opener, self._places, self._progress = opener, places, progress
        self._sources: list[Source] = []

    def run(self, *, without_tombstones: bool) -> Restored:
        data, keys = self._places.data, self._places.keys
        with ExitStack() as stack:
            former, former_keys = _former(data, stack), _former(keys, stack) if keys else None
            copy = _copy(_draft(data, stack), stack)
            key_copy = _copy(_draft(keys, stack), stack) if keys else None
            key_store = key_copy.database if key_copy else self._key_store(stack)
            context = self._opener.context(copy.database, key_store)
            context.open()
            others = self._known(copy.database, former, former_keys)
            if not self._sources and not without_tombstones:
                raise RestoreRefused(_UNKNOWN)
            done = reapplied(context, self._progress, Participants(), others)
            whole, whole_keys = copy.living(), key_copy.living() if key_copy else None
            size = whole.stat().st_size
            # The data first: the key store that stands there yet has the keys of all that is in it.
            kept = [put_in_place(whole, data.target, is_replaced=data.is_replaced)]
            if keys and whole_keys:
                kept.append(put_in_place(whole_keys, keys.target, is_replaced=keys.is_replaced))
        sources, names = tuple(self._sources), tuple(path for path in kept if path)
        return Restored(size, done.principals, done.counts, sources, names)

    def _key_store(self, stack: ExitStack) -> Database | None:
        """The key store that stays as it is."""
        url = self._places.key_store
        if url is None:
            return None
        return stack.enter_context(closing(Database(url, auto_upgrade=False)))

    def _known(
        self, database: Database, former: Database | None, former_keys: Database | None
    ) -> list[Tombstone]:
        """Notes from where it is known who was erased; gives what is to be replaced knows of it."""
        log, places = self._opener.rules.log, self._places
        if log is not None:
            if not log.is_there:
                raise ErasureLogRefused("There is none at the place given.")
            self._sources.append("erasure log")
        is_same = former is not None and _is_same(former, database)
        if places.key_store is None:
            return self._stored("replaced database", former) if former and is_same else []
        if places.keys is None:
            self._sources.append("key store")
            return []
        return self._stored("key store", database, former_keys) if former_keys else []

    def _stored(
        self, source: Source, database: Database, key_store: Database | None = None
    ) -> list[Tombstone]:
        self._sources.append(source)
        return self._opener.context(database, key_store).keyring.tombstones.stored()


_UNKNOWN = (
    "Nothing tells who was erased since the backup was made, and they would come back: there is no "
    "erasure log, no key store of its own and no former database. Give erasure_log=… "
    "(--erasure-log), or say that it is meant: without_tombstones=True (--without-erasure-log)."
)


def _former(place: Place, stack: ExitStack) -> Database | None:
    """The database that is to be replaced, which nobody else can use any more.

    Raises:
        RestoreRefused: It cannot be read, or somebody uses it.
    """
    if not place.is_replaced:
        return None
    try:
        former = stack.enter_context(closing(taken_out_of_use(place.target)))
        former.open()
    except DatabaseCorrupt:
        raise RestoreRefused(f"What is there cannot be read. {_MOVE}.") from None
    except SchemaTooOld as error:
        if error.found:
            raise
        return None  # No tables at all: it knows of nobody.
    return former


def _is_same(former: Database, database: Database) -> bool:
    """Whether a database is of the same installation as another; one that is unused is of none.

    Raises:
        RestoreRefused: It is of another one.
    """
    former_id, directory_id = ids_of(former)
    if former_id == ids_of(database)[0]:
        return True
    if directory_id is None:
        return False
    raise RestoreRefused(f"The database that is there is no other state of this one. {_MOVE}.")


def _draft(place: Place, stack: ExitStack) -> Path:
    """A copy of a backup, in a folder beside its target that goes with all that is in it."""
    try:
        draft = stack.enter_context(draft_beside(place.target)) / "copy.db"
        # A copy of a database that was in use has some of it in its log.
        for suffix in ("", "-wal", "-journal"):
            _copy_file(Path(f"{place.backup}{suffix}"), Path(f"{draft}{suffix}"))
    except OSError as error:
        raise RestoreRefused(f"The backup cannot be copied there: {error.strerror}.") from None
    return draft


def _copy_file(source: Path, target: Path) -> None:
    if source.exists():
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with source.open("rb") as reading, os.fdopen(descriptor, "wb") as writing:
            shutil.copyfileobj(reading, writing, 2**20)


@dataclass(frozen=True, slots=True)
class _Copy:
    """A copy of a backup, open."""

    database: Database
    draft: Path

    def living(self) -> Path:
        """What lives in it, in another file beside it: no byte of what was removed is in that.

        Whoever made the backup may have copied free pages, and SQLite itself can leave traces of
        what it moved in a page that it built anew.
        """
        whole = self.draft.with_name("whole.db")
        copy_into(self.database, whole)
        return whole


def _copy(draft: Path, stack: ExitStack) -> _Copy:
    """Open a copy of a backup.

    Raises:
        RestoreRefused: It is none of ours, or damaged.
    """
    try:
        return _Copy(stack.enter_context(closing(opened_copy(draft))), draft)
    except DatabaseCorrupt:
        raise RestoreRefused("The backup is damaged, or no SQLite database.") from None
    except SchemaTooOld as error:
        if error.found:
            raise
        raise RestoreRefused("The backup has no tables of ours: it is another file.") from None
