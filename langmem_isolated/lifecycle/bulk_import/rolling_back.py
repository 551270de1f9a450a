"""Roll back: takes out what an import put in, as far as nobody has changed it since.

Where it put in anything its mark stands, so every scope is looked at. Killed at any point the
same call goes on: a scope's mark goes last, together with the scope if it was made for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.copying import import_marks, journal
from langmem_isolated._storage.copying.import_marks import ImportMark
from langmem_isolated._storage.copying.journal import Part, Undone
from langmem_isolated._storage.copying.options import Added
from langmem_isolated._storage.key_sets import KeySet
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import LegalHold, MemoryLocked
from langmem_isolated.lifecycle.retention import holds
from langmem_isolated.lifecycle.sharing.merge_values import Named
from langmem_isolated.lifecycle.sharing.merging import named

Progress = Callable[[int], object]
# Parts of a journal that are in memory at once: 500 names each at most.
_PARTS = 8


@dataclass(frozen=True, slots=True)
class Left:
    """What is left where it was put in, because it was changed since; it is its owner's now."""

    user_id: str = field(repr=False)
    module_id: str | None = field(repr=False)
    """``None`` for what all modules of the user share."""
    project_id: str = field(repr=False)
    what: Named = field(repr=False)


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What was taken out again; the ``repr`` has numbers alone."""

    counts: dict[str, int]
    """By kind: sessions and threads count as one each."""
    left: tuple[Left, ...] = field(repr=False)
    """What was changed since it was put in."""
    scopes: int
    """How many scopes it was taken out of."""
    held: int = 0
    """Of how many scopes nothing was taken out, because their users are on legal hold."""
    locked: int = 0
    """Of how many, because their users alone have the keys."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do; otherwise the same call goes on later."""
        return not self.held and not self.locked

    def as_dict(self) -> dict[str, Any]:
        """The numbers as a dict, for JSON."""
        numbers = {"scopes": self.scopes, "held": self.held, "locked": self.locked}
        return {"counts": self.counts, "left": len(self.left), **numbers}


class RollBack:
    """Takes out what an import put in.

    Args:
        context: Where.
        token: Of the import.
        progress: Told after each transaction how many records are out by then.
        is_stopped: Asked after each transaction.
    """

    def __init__(
        self,
        context: MemoryContext,
        token: bytes,
        progress: Progress,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._context, self._token = context, token
        self._progress, self._is_stopped = progress, is_stopped
        self._counts: Counter[str] = Counter()
        self._left: list[Left] = []
        self._scopes = self._held = self._locked = 0

    def run(self) -> RolledBack:
        """Take it out.

        Raises:
            RecordDoesNotOpen: What was put in, or the journal, was changed, moved or exchanged.
        """
        for records in self._context.walk():
            try:
                self._out_of(records)
            except MemoryLocked:
                self._locked += 1
            except LegalHold:
                self._held += 1
            if self._is_stopped():
                break
        if self._scopes and (cache := self._context.plaintext_cache):
            cache.clear()
        counts = dict(sorted(self._counts.items()))
        return RolledBack(counts, tuple(self._left), self._scopes, self._held, self._locked)

    def _out_of(self, records: ScopedDatabase) -> None:
        if records.owner.level not in (Level.PRIVATE, Level.USER):
            return
        mark = records.read(import_marks.find, None, self._token)
        if mark is None:
            return
        is_ended = False
        while not is_ended:
            if not self._undo_parts(records):
                return
            is_ended = self._end(records, mark)
        self._scopes += 1

    def _end(self, records: ScopedDatabase, mark: ImportMark) -> bool:
        """Forget the import in a scope; ``False`` where it has put in more meanwhile."""
        lives = self._context.keyring.lives()
        principal = lives.directory.principal_of(records.owner)
        spare = lives.spare_keys(principal) if mark.made_scope else None
        with self._unless_held(records.owner) as refuse:
            is_gone = records.write(_end, self._token, mark, spare, refuse)
        if is_gone:
            lives.take_out(principal, spare)
        return is_gone is not None

    def _undo_parts(self, records: ScopedDatabase) -> bool:
        """Take out part by part; ``False`` where it was stopped."""
        none: list[Part] = []
        while parts := records.read(journal.some_parts, none, self._token, _PARTS):
            for part in parts:
                with self._unless_held(records.owner) as refuse:
                    undone = records.write(_undo, self._token, part, refuse)
                self._note(records.owner, undone)
                if self._is_stopped():
                    return False
        return True

    def _note(self, owner: Owner, undone: Undone) -> None:
        self._counts.update(one.kind.label for one in undone.removed)
        self._left += map(_left_of(owner), undone.left)
        self._progress(self._counts.total())

    @contextmanager
    def _unless_held(self, owner: Owner) -> Iterator[Callable[[Transaction], None]]:
        """What refuses to take out anything of a user on hold, in each transaction that does."""
        project = holds.records_with(self._context, owner.project)
        # Not made: a project in which nothing was ever held has none. So it is looked for anew
        # before each transaction: the first hold may be placed between two.
        keys = project.find_keys()
        with project.admission():
            yield lambda transaction: holds.refuse_held(transaction, keys, owner.user)


def _undo(
    transaction: Transaction,
    keys: ScopeKeys,
    token: bytes,
    part: Part,
    refuse: Callable[[Transaction], None],
) -> Undone:
    refuse(transaction)
    return journal.undo_part(transaction, keys, token, part)


def _end(
    transaction: Transaction,
    keys: ScopeKeys,
    token: bytes,
    mark: ImportMark,
    spare: KeySet | None,
    refuse: Callable[[Transaction], None],
) -> bool | None:
    """Forget the import in a scope; whether the scope was made for it, and is gone with it.

    ``None`` where it is going on, and has put in more: nothing was forgotten.
    """
    refuse(transaction)
    if journal.has_grown(transaction, keys, token):
        return None
    import_marks.forget(transaction, keys, token)
    import_marks.remove_collections(transaction, keys, mark.collections)
    is_gone = mark.made_scope and import_marks.is_bare(transaction, keys)
    if is_gone:
        import_marks.remove_scope(transaction, keys, spare)
    return is_gone


def _left_of(owner: Owner) -> Callable[[Added], Left]:
    assert owner.user is not None
    ids = owner.user, owner.module, owner.project
    return lambda one: Left(*ids, named(one))
