"""Run of a rotation of sealing keys: of one user, or of all, until its time is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import callback, seconds, true_or_false
from langmem_isolated._runtime.callers import Job, OnBehalfOf
from langmem_isolated._storage.key_rotation import KeyRotation, Tally
from langmem_isolated.errors import MemoryLocked, RecordDoesNotOpen
from langmem_isolated.lifecycle.rotation.elsewhere import SealedElsewhere
from langmem_isolated.scope import checked_id

# Whose budget of writes a rotation takes: while others write, it rests for two thirds of the time.
_CALLER = Job("rotation")


@dataclass(frozen=True, slots=True)
class KeysRotated:
    """What a call of ``memory.rotate_keys()`` has done."""

    owners: int
    """Users, and others, who have no former key any more."""
    keys_made: int
    keys_destroyed: int
    records: int
    """How many were sealed anew, headers of sessions, threads and collections among them."""
    damaged: int
    """How many stay as they are, with the key that they name, because they were tampered with."""
    is_done: bool
    """Whether all was gone through; where not, the next call goes on."""
    locked: int = 0
    """Users who alone have their keys, and have not unlocked them here: theirs stay as they are."""
    documents: int = 0
    """How many were sealed anew in third-party stores."""
    stores_left: tuple[str, ...] = ()
    """Names of third-party stores with sealed documents of these users, which keep former keys."""


def checked_owner(user_id: str | None, project_id: str, *, of_all: bool) -> Owner | None:
    """Whose keys are meant; ``None`` for all.

    Raises:
        TypeError: It is not said, or twice.
        ScopeError: An id is malformed.
    """
    true_or_false("all", of_all)
    if (user_id is None) is not of_all:
        given = "both" if of_all else "neither"
        raise TypeError(
            f"rotate_keys() takes a user_id or all=True, got {given}. Write "
            'memory.rotate_keys("ann") or memory.rotate_keys(all=True). Nothing was changed.'
        )
    project = checked_id("project_id", project_id)
    if user_id is None:
        return None
    return Owner(Level.USER, project, checked_id("user_id", user_id))


class RotationRun:
    """One call.

    Args:
        context: Whose keys.
        max_seconds: Begin no batch after so many.
        progress: Told how many records have been sealed.
        is_stopped: Whether the caller has gone.
        with_stores: Whether documents in third-party stores are sealed anew, too.
    """

    def __init__(
        self,
        context: MemoryContext,
        max_seconds: float | None,
        progress: Callable[[int], object] | None,
        is_stopped: Callable[[], bool],
        *,
        with_stores: bool = False,
    ) -> None:
        if progress is not None:
            callback("progress", progress, example="progress=lambda sealed: print(sealed)")
        if max_seconds is not None:
            seconds("max_seconds", max_seconds, or_none=True)
        self._context = context
        self._progress = progress
        self._is_stopped = is_stopped
        self._ends = None if max_seconds is None else time.monotonic() + max_seconds
        true_or_false("with_stores", with_stores)
        self._elsewhere = SealedElsewhere(context, is_wanted=with_stores)
        self._rotation = KeyRotation(context.database, context.keyring, self._elsewhere)

    def run(self, owner: Owner | None) -> KeysRotated:
        """Rotate the keys of an owner's principal, or of all."""
        with OnBehalfOf(_CALLER):
            steps = self._of_all() if owner is None else self._of_one(owner)
            is_done = self._go_through(steps)
        return self._told(self._rotation.tally, is_done=is_done)

    def _of_one(self, owner: Owner) -> Iterator[int]:
        directory = self._context.keyring.directory()
        if directory is not None:
            yield from self._rotation.run(directory.principal_of(owner))

    def _of_all(self) -> Iterator[int]:
        since, failure = self._rotation.begun(), None
        for principal in self._rotation.principals(since):
            try:
                yield from self._rotation.run(principal, since)
            except MemoryLocked:
                self._rotation.tally.locked += 1
            except RecordDoesNotOpen as error:
                failure = failure or error
        if failure is not None:
            raise failure
        self._rotation.end(since)

    def _go_through(self, steps: Iterator[int]) -> bool:
        """Whether it came to its end."""
        for sealed in steps:
            if sealed:
                self._context.database.checkpoint_log()
                if self._progress is not None:
                    self._progress(self._rotation.tally.records)
            if self._is_stopped() or (self._is_over() and self._has_done_something()):
                return False
        return True

    def _is_over(self) -> bool:
        return self._ends is not None and time.monotonic() >= self._ends

    def _has_done_something(self) -> bool:
        """Whether calls that end at once come to an end all the same."""
        return bool(self._rotation.tally.records or self._rotation.tally.keys_made)

    def _told(self, tally: Tally, *, is_done: bool) -> KeysRotated:
        return KeysRotated(
            tally.owners,
            tally.keys_made,
            tally.keys_destroyed,
            tally.records,
            tally.damaged,
            is_done,
            tally.locked,
            self._elsewhere.documents,
            tuple(sorted(self._elsewhere.left)),
        )
