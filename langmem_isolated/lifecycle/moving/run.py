"""Moves of an installation and of its keys: what is copied when, and what proves that it is."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langmem_isolated._database.admission import AdmissionToAll
from langmem_isolated._database.database import Database
from langmem_isolated._storage.audit_notes import AuditNote
from langmem_isolated._storage.installation import ids_of
from langmem_isolated._storage.key_copies import KeyCopies, left_removed, moved_keys
from langmem_isolated._storage.moved_installation import MovedInstallation
from langmem_isolated._storage.scope_rows import ScopeRows
from langmem_isolated.errors import MoveRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from langmem_isolated._adapters.context import MemoryContext
    from langmem_isolated._storage.installation import OpenInstallation

# Passes that find something more: so often somebody may have written meanwhile.
_PASSES = 5


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move has done."""

    rows: dict[str, int]
    """How many rows were put into the new database, by table; those of a run before are not."""
    is_finished: bool
    """Whether the new database is the installation; not after ``finish=False``."""


@dataclass(frozen=True, slots=True)
class KeysMoved:
    """What a move of keys has done."""

    key_sets: int
    """Users, and other owners, whose keys are in the new key store alone, and tombstones."""
    is_scrubbed: bool
    """Whether no byte of them is left in the SQLite file that had them; never on PostgreSQL."""


class Move:
    """One move of an installation.

    Args:
        context: Of the memory that moves.
        target: Where to.
        key_store: Where the keys go, if not there.
        told: After each page, how many rows were put.
    """

    def __init__(
        self,
        context: MemoryContext,
        target: Database,
        key_store: Database | None,
        told: Callable[[int], object],
    ) -> None:
        self._context, self._key_store = context, key_store
        self._installation = context.keyring.installation
        self._target = target
        self._moved = MovedInstallation(context.database, target, told)

    def run(self, *, finish: bool) -> Moved:
        """Copy all; with ``finish`` the target is the installation then."""
        opened = self._installation.open(create=False)
        if opened is None:
            raise MoveRefused("Nothing was ever stored here: there is nothing to move.")
        # What this process has counted of seals goes along.
        self._context.keyring._uses.store()  # noqa: SLF001 - otherwise stored when it is closed
        keys = self._key_copies(opened)
        self._moved.refuse_what_is_there(has_begun=keys is None or keys.has_begun())
        if finish:
            # Before the copy, which has it then, too.
            self._context.audit.note(None, AuditNote("move_to"))
        self._copy(keys)
        if finish:
            self._moved.publish(self._prove)
        return Moved(dict(+self._moved.put), finish)

    def _copy(self, keys: KeyCopies | None) -> None:
        """Copy until a pass over both sides, which reads all anew, finds them equal."""
        is_new = keys is not None and not keys.has_begun()
        for _ in range(_PASSES):
            # Keys first: with them and without a directory key nobody opens what is half there.
            differed = self._copy_keys(keys)
            differed += self._moved.make_equal(is_new=is_new)
            if not differed:
                return
            is_new = False
        raise MoveRefused("The source is being written. Stop what writes, and run it again.")

    def _copy_keys(self, keys: KeyCopies | None) -> int:
        if keys is None:
            return 0
        with AdmissionToAll():
            return keys.run()

    def _key_copies(self, opened: OpenInstallation) -> KeyCopies | None:
        """What copies the keys; ``None`` where they stay in the key store that has them."""
        database, source = self._context.database, self._context.keyring.key_store
        target = self._key_store or self._target
        if target.url == source.url:
            return None
        return KeyCopies(source, target, ScopeRows(database), opened.directory)

    def _prove(self) -> None:
        self._installation.over(self._target, self._key_store).open(create=False)


def move_keys(context: MemoryContext, key_store: Database) -> KeysMoved:
    """Move the keys of an installation to another key store; see `MemoryMoves.move_keys`."""
    keyring, database = context.keyring, context.database
    installation, source = keyring.installation, keyring.key_store
    # By what is in them: one database has many URLs, and its keys would be removed as the source's.
    there, here = ids_of(key_store)[0], ids_of(database)[0]
    if there == here:
        raise MoveRefused("It is the database that holds what the keys open.")
    opened = installation.open(create=False)
    if opened is None:
        raise MoveRefused("Nothing was ever stored here: give key_store= from the beginning on.")
    scopes = ScopeRows(database)
    if there == ids_of(source)[0]:
        # They are there: of a move that was broken off something may be left here.
        copies = KeyCopies(database, key_store, scopes, opened.directory)
        return KeysMoved(left_removed(copies, database), database.scrub())
    copies = KeyCopies(source, key_store, scopes, opened.directory)
    number = moved_keys(
        copies, source, lambda: installation.over(database, key_store).open(create=False)
    )
    keyring.installation.forget()
    return KeysMoved(number, source.scrub())


def opened_target(url: str, stack: ExitStack) -> Database:
    """A database that is moved to; its tables are made if there are none."""
    database = stack.enter_context(closing(Database(url)))
    database.open()
    return database
