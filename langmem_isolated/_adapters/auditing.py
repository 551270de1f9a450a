"""Auditing: notes in the audit log what is done, with it or not at all."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

from langmem_isolated._adapters.audit_actor import Actor, current_actor
from langmem_isolated._adapters.audit_batch import AuditBatch, Noted
from langmem_isolated._adapters.audit_places import Place, place_of
from langmem_isolated._adapters.drop_in import is_in_event_loop
from langmem_isolated._adapters.observed_jobs import Job, observed_job, observed_write
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._database.database_clock import database_now
from langmem_isolated._runtime.audit_options import OFF, AuditOptions, AuditSettings
from langmem_isolated._storage.audit import AuditChains
from langmem_isolated._storage.audit_notes import AuditNote
from langmem_isolated._storage.audit_rows import AuditRow, Draft
from langmem_isolated.errors import (
    AuditIsOff,
    AuditLogBroken,
    LangmemIsolatedError,
    RecordDoesNotOpen,
)

if TYPE_CHECKING:
    from langmem_isolated._crypto.scope_keys import ScopeKeys
    from langmem_isolated._database.database import Database
    from langmem_isolated._database.transactions import Transaction
    from langmem_isolated._storage.keyring import Keyring
    from langmem_isolated._storage.scoped_database import ScopedDatabase

_log = logging.getLogger("langmem_isolated.audit")

# What another process has switched is known at the latest then to what asks no more often.
_KNOWN_SECONDS = 60.0
_READ, _RECALL = "read", "recall"

P = ParamSpec("P")
T = TypeVar("T")


class Audit:
    """The audit log of one memory, as what is noted in it comes by.

    Args:
        database: Holds it.
        keyring: Has the keys of subjects.
        options: With these it is switched on at first use; ``None`` leaves it as it is.
    """

    def __init__(
        self, database: Database, keyring: Keyring, options: AuditOptions | None = None
    ) -> None:
        self._database, self._keyring, self.options = database, keyring, options
        self.operations = database.operations
        self.left_out = self.operations.left_out
        self._known = None if options is None else options.settings
        self._is_stored = self._has_begun = options is None
        self._asked_at = 0.0
        self._was_there = False
        self._batch = AuditBatch(self._store)

    # --- whether it is on

    @property
    def settings(self) -> AuditSettings:
        """What the installation says now, switched on first where options were given."""
        if not self._is_stored and self.options is not None:
            self._store_options(self.options.settings)
        chains = self.chains()
        stored = None if chains is None else chains.settings()
        if stored is None and self._was_there:
            raise AuditLogBroken(None, "all of it was removed")
        self._was_there = stored is not None
        self._known = OFF if stored is None else AuditSettings.decoded(stored)
        self._asked_at = time.monotonic()
        return self._known

    def begin(self) -> None:
        """Switch it on where options were given and nothing was done yet: at first use."""
        if not self._has_begun:
            # Others wait for nothing: that it is on is known to this process.
            self._has_begun = True
            try:
                self.look()
            except BaseException:
                self._has_begun = False
                raise

    def look(self) -> None:
        """Find out whether it is on, where anything was ever stored or options were given."""
        if self.options is None and self._keyring.directory_at_hand is None:
            self._known, self._asked_at = OFF, time.monotonic()
            return
        try:
            _ = self.settings
        except AuditLogBroken as error:
            # Users are served; what would have to be noted is refused.
            _log.error("What has to be noted is refused: %s", error)

    def _store_options(self, settings: AuditSettings) -> None:
        chains = self._made()
        if chains.settings() != settings.encoded():
            self.switch(settings)
        self._is_stored = True

    def switch(self, settings: AuditSettings, reason: str | None = None) -> None:
        """Store other settings, and an entry that says so."""
        operation = "audit_on" if settings.is_on else "audit_off"
        note, actor, chains = AuditNote(operation, reason=reason), current_actor(), self._made()
        row = chains.set(settings.encoded(), self._place(chains, None).draft(note, actor))
        self._known, self._asked_at, self._is_stored = settings, time.monotonic(), True
        self._was_there = True
        self._tell(row, note, actor)

    def chains(self) -> AuditChains | None:
        """What stores it; ``None`` where nothing was ever stored in the database."""
        directory = self._keyring.directory()
        return None if directory is None else AuditChains(self._database, directory)

    def _made(self) -> AuditChains:
        directory = self._keyring.directory(create=True)
        assert directory is not None
        return AuditChains(self._database, directory)

    def required(self) -> AuditChains:
        """What stores it, whether or not it is on now.

        Raises:
            AuditIsOff: It never was.
        """
        is_on = self.settings.is_on
        chains = self.chains()
        if chains is None or (not is_on and not chains.heads()):
            raise AuditIsOff
        return chains

    # --- what is noted

    def note(self, owner: Owner | None, note: AuditNote, *, outlives: bool = False) -> None:
        """Append an entry in a transaction of its own, if the log is on.

        Args:
            owner: Whose memory it is about; ``None`` for everybody's.
            note: What it says, without who acts and why.
            outlives: Whether it opens after an erasure of the owner: then it has no reason.
        """
        if self.settings.is_on and not self._leaves_out(owner):
            self._append(owner, note, current_actor(), outlives=outlives)

    def _leaves_out(self, owner: Owner | None) -> bool:
        return owner is not None and owner.project in self.left_out

    def _append(
        self, owner: Owner | None, note: AuditNote, actor: Actor, *, outlives: bool = False
    ) -> None:
        chains = self._made()
        place = self._place(chains, owner, outlives=outlives)
        (row,) = chains.append(place.draft(note, actor))
        self._tell(row, note, actor)

    def _place(self, chains: AuditChains, owner: Owner | None, *, outlives: bool = False) -> Place:
        return place_of(self._keyring, chains.directory, owner, outlives=outlives)

    def note_by_database(self, owner: Owner, made: Callable[[int], AuditNote]) -> AuditNote:
        """Append an entry that is made of the time by the database's clock; the log is on."""
        chains, actor = self._made(), current_actor()
        place = self._place(chains, owner)

        def noted(transaction: Transaction) -> tuple[AuditRow, AuditNote]:
            note = made(database_now(transaction))
            return chains.append_within(transaction, place.draft(note, actor)), note

        with chains.admission(place.draft(AuditNote(""), actor)):
            row, note = self._database.write(noted)
        self._tell(row, note, actor)
        return note

    @observed_write
    def write(
        self,
        operation: str,
        owner: Owner,
        records: ScopedDatabase,
        door: Literal["write", "write_if_exists"],
        body: Callable[Concatenate[Transaction, ScopeKeys, P], T],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> T:
        """Call a door of ``records`` with ``body`` and an entry of it, in one transaction.

        Where ``body`` answers ``False``, nothing was done and nothing is noted.

        Args:
            operation: What the entry calls it.
            owner: Whose memory it is about.
            records: Whose keys ``body`` is given.
            door: Which.
            body: What is run.
        """
        run: Callable[..., T] = getattr(records, door)
        if not self.settings.is_on or self._leaves_out(owner):
            return run(body, *args, **kwargs)
        if door == "write":
            # They seal the entry, too: made before its transaction begins.
            records.keys()
        chains, actor, note = self._made(), current_actor(), AuditNote(operation)
        draft = self._place(chains, owner).draft(note, actor)
        rows: list[AuditRow] = []

        def noted(transaction: Transaction, keys: ScopeKeys, *more: Any, **named: Any) -> T:
            rows.clear()
            result = body(transaction, keys, *more, **named)
            if result is not False:
                rows.append(chains.append_within(transaction, draft))
            return result

        with chains.admission(draft):
            result = run(noted, *args, **kwargs)
        for row in rows:
            self._tell(row, note, actor)
        return result

    @observed_job
    @contextmanager
    def job(
        self, operation: str, owner: Owner | None = None, *, erases: bool = False
    ) -> Iterator[Job]:
        """Note that an operation of several transactions begins, and how it ended.

        It is noted before anything is done: one that is killed has begun, and has no end.

        Args:
            operation: What the entries call it.
            owner: Whose memory it is about.
            erases: Whether it destroys the owner's keys: its end opens afterwards all the same.
        """
        job, is_on = Job(), self.settings.is_on
        if is_on:
            self.note(owner, AuditNote(operation, "begun", call=job.call))
        try:
            yield job
        except BaseException as error:
            if is_on:
                outcome = AuditNote(operation, "failed", call=job.call, count=job.count)
                self._note_beside(owner, outcome, outlives=erases, error=error)
            raise
        if is_on:
            done = AuditNote(operation, "done", call=job.call, count=job.count)
            self.note(owner, done, outlives=erases)

    def denied(self, operation: str, owners: Iterable[Owner], *, is_within: bool = False) -> None:
        """Note that a call was refused; in an event loop, or within a transaction, beside it.

        Args:
            operation: What refused it.
            owners: Whose memory it named.
            is_within: Whether a transaction of the call goes on.
        """
        if self._known is not None and not self._known.is_on:
            return
        for owner in owners:
            note = AuditNote(operation, "refused")
            # Not known yet: it is asked, where nobody waits for it, when it is noted.
            if is_within or self._known is None or is_in_event_loop():
                with suppress(LangmemIsolatedError):
                    self._database.submit(self._note_beside, owner, note)
            else:
                self._note_beside(owner, note)

    def _note_beside(
        self,
        owner: Owner | None,
        note: AuditNote,
        *,
        outlives: bool = False,
        error: BaseException | None = None,
    ) -> None:
        """Note what is raised anyhow: that it could not be noted must not hide it."""
        try:
            self.note(owner, note, outlives=outlives)
        except LangmemIsolatedError as failed:
            told = type(error).__name__ if error else note.outcome
            _log.error(
                "An entry of the audit log is missing (%s): %s.", told, type(failed).__name__
            )

    # --- what comes often, and is stored within a second

    def recalled(self, owner: Owner, count: int) -> None:
        """Note that so many records of an owner went into a prompt; no I/O here."""
        if self._wants_recalls() and not self._leaves_out(owner):
            self._batch.add(_RECALL, owner, count)

    def was_read(self, owner: Owner) -> None:
        """Note that an owner's memory was read; no I/O here."""
        known = self._known
        if known is not None and known.is_on and known.reads and not self._leaves_out(owner):
            self._batch.add(_READ, owner, 1)

    @property
    def watches(self) -> bool:
        """Whether recalls or reads may be noted, as far as is known; asked for each new scope."""
        known = self._known
        is_stored = known is not None and self._is_stored
        if is_stored and time.monotonic() - self._asked_at > _KNOWN_SECONDS:
            self._look_aside()
        is_wanted = known is None or (known.is_on and (known.recalls or known.reads))
        return is_wanted or not self._has_begun

    def _look_aside(self) -> None:
        """Ask again what the installation says, in a thread of its own; one of a minute does."""
        self._asked_at = time.monotonic()
        with suppress(LangmemIsolatedError):
            self._database.submit(self._look_again)

    def _look_again(self) -> None:
        try:
            _ = self.settings
        except LangmemIsolatedError as error:
            _log.error("It is not known whether auditing is on: %s.", type(error).__name__)

    def _wants_recalls(self) -> bool:
        # Where nothing is known yet it is asked when they are stored, in a thread of its own.
        return self._known is None or (self._known.is_on and self._known.recalls)

    def flush(self) -> None:
        """Store what was noted of recalls and reads until now.

        Raises:
            LangmemIsolatedError: It could not be stored, and is kept for the next time.
        """
        self._batch.flush()

    def _store(self, noted: Counter[Noted]) -> None:
        settings = self.settings
        if not settings.is_on:
            return
        wanted = {_RECALL: settings.recalls, _READ: settings.reads}
        chains = self._made()
        notes = [
            (owner, AuditNote(operation, count=count), actor)
            for (operation, owner, actor), count in noted.items()
            if wanted[operation]
        ]
        drafts = [(draft, one) for one in notes if (draft := self._drafted(chains, *one))]
        rows = chains.append(*(draft for draft, _ in drafts)) if drafts else []
        for row, (_, (_, note, actor)) in zip(rows, drafts, strict=True):
            self._tell(row, note, actor)

    def _drafted(
        self, chains: AuditChains, owner: Owner, note: AuditNote, actor: Actor
    ) -> Draft | None:
        """An entry of what comes often; ``None`` if its owner's keys were tampered with."""
        try:
            return self._place(chains, owner).draft(note, actor)
        except RecordDoesNotOpen as error:
            # It would keep everybody's from being stored, for as long as they are not mended.
            _log.error("An entry of the audit log is missing: %s.", type(error).__name__)
            return None

    def close(self) -> None:
        """Store what was noted, if it can be."""
        self._batch.close()

    def _tell(self, row: AuditRow, note: AuditNote, actor: Actor) -> None:
        """A log record of an entry: fields for who collects them, and no ids, names or reasons."""
        if self.options is not None and not self.options.logged:
            return
        directory = self._keyring.directory_at_hand
        who = None if directory is None or actor.name is None else directory.actor_of(actor.name)
        told = {
            "audit_operation": note.operation,
            "audit_outcome": note.outcome,
            "audit_count": note.count,
            "audit_call": note.call,
            "audit_subject": row.scope_id and row.scope_id.hex(),
            "audit_actor": who and who.hex(),
            "audit_shard": row.shard,
            "audit_sequence": row.sequence,
        }
        _log.info("Audit: %s %s.", note.operation, note.outcome, extra=told)
