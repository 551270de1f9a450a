"""Clear: removes at once what people no longer want, and leaves them their account.

Sessions, threads and collections become absent first, all of them, and then their records are
removed in batches: a reader meets what there was, or nothing, and never a part of one. What is
stored while a clear runs stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._database.admission import Admission
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage import due
from langmem_isolated._storage.batch_removal import BELOW, Due
from langmem_isolated._storage.due import Pages, Reach
from langmem_isolated._storage.entries import ENTRY_KINDS
from langmem_isolated._storage.owner_state import ids_of
from langmem_isolated._storage.sessions.dropping import Kept
from langmem_isolated.errors import DatabaseLocked, LegalHold, MemoryLocked, RecordDoesNotOpen
from langmem_isolated.lifecycle.retention import holds
from langmem_isolated.lifecycle.retention.steps import (
    DropMessages,
    HideContainer,
    RemoveContainer,
    RemoveRecords,
    Step,
    Task,
)
from langmem_isolated.lifecycle.retention.sweeping import Progress, Removal

if TYPE_CHECKING:
    from langmem_isolated._adapters.context import MemoryContext
    from langmem_isolated._crypto.scope_keys import ScopeKeys
    from langmem_isolated._database.transactions import Row

# A user's policies are of the account, a guest's claim says how long the guest lives, and documents
# in third-party stores stay, which their notes find.
_RECORDS = sorted({Kind.ITEM, *ENTRY_KINDS} - {Kind.POLICY, Kind.CLAIM, Kind.STORE_NOTE})
# What somebody else has locked is looked at so often, with pauses.
_LOOKS = 100
_PAUSE_SECONDS = 0.01
_MANY = 2**31 - 1


class Clearing:
    """Clears owners, one after the other.

    Args:
        context: Whose memory.
        progress: Told after each batch how many records have been removed so far.
    """

    def __init__(self, context: MemoryContext, progress: Progress | None = None) -> None:
        self._context = context
        self._removal = Removal(context)
        if progress is not None:
            self._removal.progress = progress
        # Whether somebody else has had something for as long as it is waited for.
        self._is_left = False
        # What is stored after this stays.
        self._before = Due(created=now())

    def owners(self, owners: Iterable[Owner]) -> dict[str, int]:
        """Remove all that ``owners`` have, but for what is of the account; counts by kind.

        Raises:
            LegalHold: A user is on hold.
            RecordDoesNotOpen: An item or entry was tampered with, and stays.
            DatabaseLocked: Somebody else had something for a second, and it stays.
        """
        for owner in owners:
            with self._admission(owner):
                self._owner(owner)
        return self._result()

    def _admission(self, owner: Owner) -> Admission:
        """The owner's rows, and those of its project, which may hold a user's."""
        project = Owner(Level.PROJECT, owner.project)
        return Admission(*ids_of(self._context.keyring.installation, owner, project))

    def _owner(self, owner: Owner) -> None:
        self._refuse_held(owner)
        if keys := self._context.keyring.find(owner):
            of = _Of(owner, keys)
            self._containers(of, BELOW)
            for kind in _RECORDS:
                self._until_none_is_locked(partial(self._records, of, kind))

    def session(self, owner: Owner, digest: bytes) -> dict[str, int]:
        """Remove one session, by its digest; as :meth:`owners`."""
        with self._admission(owner):
            return self._session(owner, digest)

    def _session(self, owner: Owner, digest: bytes) -> dict[str, int]:
        self._refuse_held(owner)
        if keys := self._context.keyring.find(owner):
            of = _Of(owner, keys)
            hide = HideContainer(Kind.SESSION, digest, self._before)
            self._removal.run([of.task(hide)])
            for kind in (Kind.SESSION, Kind.INBOX):
                remove = of.task(RemoveContainer(kind, digest, Due()))
                self._until_none_is_locked(partial(self._removal.run, [remove]))
        return self._result()

    def channel(self, owner: Owner, channel: str) -> dict[str, int]:
        """Remove the messages of a channel, and the sessions that have no others; as above."""
        with self._admission(owner):
            return self._channel(owner, channel)

    def _channel(self, owner: Owner, channel: str) -> dict[str, int]:
        self._refuse_held(owner)
        if keys := self._context.keyring.find(owner):
            until = self._before.created
            kept = Kept(channels={channel.encode(): until})
            reach = Reach(scope_id=keys.scope_id)
            pages = due.with_older(Kind.SESSION, Kind.MESSAGE, reach, until, _MANY)
            drop = partial(self._go_through, _Of(owner, keys), pages, partial(_drop, kept))
            self._until_none_is_locked(drop)
        return self._result()

    def _refuse_held(self, owner: Owner) -> None:
        if owner.user is not None:
            holds.check(self._context, owner.user, owner.project)

    def _containers(self, of: _Of, kinds: Iterable[Kind]) -> None:
        """First all are hidden, then all are removed."""
        for kind in kinds:
            self._go_through(of, self._made(of, kind), partial(_hide, kind, self._before))
        for kind in kinds:
            remove = partial(_remove, kind)
            self._until_none_is_locked(partial(self._go_through, of, self._made(of, kind), remove))

    def _made(self, of: _Of, kind: Kind) -> Pages:
        reach = Reach(scope_id=of.keys.scope_id)
        return due.containers(kind, reach, created=self._before.created)

    def _records(self, of: _Of, kind: Kind) -> None:
        until = self._before.created
        pages = due.older_records(kind, Reach(scope_id=of.keys.scope_id), until)
        self._go_through(of, pages, partial(_remove_records, kind, Due(updated=until)))

    def _go_through(self, of: _Of, pages: Pages, steps: Callable[[list[Row]], list[Step]]) -> None:
        while rows := self._context.database.read(pages.rows):
            sound = [*filter(pages.is_sound, rows)]
            self._removal.damaged |= {(of.keys.scope_id, row) for row in {*rows} - {*sound}}
            self._removal.run([of.task(step) for step in steps(sound)])
            pages = pages.after(rows[-1])

    def _until_none_is_locked(self, run: Callable[[], None]) -> None:
        for look in range(_LOOKS):
            time.sleep(_PAUSE_SECONDS if look else 0)
            self._removal.locked = 0
            run()
            if not self._removal.locked:
                return
        self._is_left = True

    def _result(self) -> dict[str, int]:
        if cache := self._context.plaintext_cache:
            cache.clear()
        if self._removal.held:
            raise LegalHold
        if self._removal.unopened:
            raise MemoryLocked("Only what needs not be opened was removed.")
        if self._removal.damaged:
            raise RecordDoesNotOpen(
                Kind.ITEM.label, "its expiry or what counts it was changed; all others were removed"
            )
        if self._is_left:
            raise DatabaseLocked(
                "Somebody else had some of it for a second; all others were removed. To call again "
                "goes on."
            )
        return self._removal.by_label()


class _Of(NamedTuple):
    """Whose memory is cleared, and its keys."""

    owner: Owner
    keys: ScopeKeys

    def task(self, step: Step) -> Task:
        return Task(self.owner, self.keys, step)


def _hide(kind: Kind, before: Due, rows: list[Row]) -> list[Step]:
    return [HideContainer(kind, digest, before) for _, digest in rows]


def _remove(kind: Kind, rows: list[Row]) -> list[Step]:
    # Those that are hidden meet it, and no others.
    return [RemoveContainer(kind, digest, Due()) for _, digest in rows]


def _drop(kept: Kept, rows: list[Row]) -> list[Step]:
    return [DropMessages(digest, kept, with_empty=True) for _, digest in rows]


def _remove_records(kind: Kind, before: Due, rows: list[Row]) -> list[Step]:
    return [RemoveRecords(kind, [(parent, key) for _, parent, key in rows], before)]
