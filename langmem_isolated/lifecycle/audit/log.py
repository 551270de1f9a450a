"""Audit log: what operators ask of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING

from langmem_isolated._adapters.audit_actor import Actor, acting_as, checked_text
from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import callback, kind_of
from langmem_isolated._runtime.audit_options import OFF, AuditOptions
from langmem_isolated._runtime.calls import explains_calls, made_by
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.operations import found, observed
from langmem_isolated.errors import AuditIsOff
from langmem_isolated.lifecycle.audit.anchors import Anchor
from langmem_isolated.lifecycle.audit.break_glass import MINUTES, ended, in_force, opened, permitted
from langmem_isolated.lifecycle.audit.checks import checked_anchors, verified
from langmem_isolated.lifecycle.audit.reading import entries_of
from langmem_isolated.lifecycle.audit.values import (
    AnchorsChecked,
    AuditEntry,
    AuditStatus,
    AuditVerified,
    BreakGlass,
)
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.audit.time_stamps import TimeStamps

Progress = Callable[[int], object]


@made_by("memory.audit", first=MemoryContext)
@explains_calls
class AuditLog:
    """Who did and read what, and why, as ``memory.audit`` has it; for operators.

    An entry says who, whose memory by its digest, what was done, how much, why and when, and never
    content. It is sealed with a key of the user's, and hashed with the entry before it: an erasure
    makes a user's entries unreadable, and the chain is whole. What is done in one transaction has
    its entry in it; what takes longer has one before it begins and one behind its end.

    Off, nothing is written. It is switched on by ``IsolatedMemory(…, audit=AuditOptions())``, or
    :meth:`switch_on`, for every process that opens the database, and off by :meth:`switch_off`
    alone.

    >>> memory.audit.switch_on(AuditOptions())
    >>> with memory.audit.acting_as("bob", reason="Ticket 12"):
    ...     grant = memory.grants.allow(
    ...         user_id="alice", from_module="tutor", to_module="planner", kinds=["item"]
    ...     )
    >>> entry, *_ = memory.audit.entries(user_id="alice")
    >>> entry.operation, entry.actor, entry.reason
    ('grant', 'bob', 'Ticket 12')
    >>> memory.audit.verify().entries
    2
    """

    def __init__(self, context: MemoryContext) -> None:
        self._context = context
        self._audit = context.audit

    # --- on and off

    def status(self) -> AuditStatus:
        """Whether it is on, what goes into it, and how much there is.

        Raises:
            AuditLogBroken: The row of a chain's ends was changed or removed.
        """
        settings, chains = self._audit.settings, self._audit.chains()
        ends = chains.heads() if chains else []
        return AuditStatus(
            settings.is_on, settings.recalls, settings.reads, settings.audit_days,
            entries=sum(one.next_sequence - one.first_sequence for one in ends),
            removed=sum(one.first_sequence - 1 for one in ends),
        )  # fmt: skip

    async def astatus(self) -> AuditStatus:
        """Whether it is on, and how much there is; see :meth:`status`."""
        return await self._context.database.arun(self.status)

    def switch_on(self, options: AuditOptions | None = None) -> None:
        """Have every process note what is done from now on; others know within a minute.

        Args:
            options: What goes into it beside what always does, and how long it stays.

        Raises:
            TypeError: ``options`` are no `AuditOptions`.
        """
        options = AuditOptions() if options is None else options
        if not isinstance(options, AuditOptions):
            raise TypeError(
                f"options must be AuditOptions(…), got {kind_of(options)}. Nothing was changed."
            )
        self._audit.options = options
        self._audit.switch(options.settings)

    async def aswitch_on(self, options: AuditOptions | None = None) -> None:
        """Have every process note what is done; see :meth:`switch_on`."""
        await self._context.database.arun(self.switch_on, options)

    def switch_off(self, *, reason: str) -> None:
        """Have nothing noted any more; this itself is an entry, and what is there stays.

        Args:
            reason: Why, 1 to 1,000 characters.

        Raises:
            AuditIsOff: It is off.
            TypeError: ``reason`` is no text.
            ValueError: It is empty or longer.
        """
        checked_text("reason", reason)
        if not self._audit.settings.is_on:
            raise AuditIsOff
        self._audit.flush()
        self._audit.switch(OFF, reason)

    async def aswitch_off(self, *, reason: str) -> None:
        """Have nothing noted any more; see :meth:`switch_off`."""
        await self._context.database.arun(self.switch_off, reason=reason)

    # --- who acts

    def acting_as(self, actor: str, reason: str | None = None) -> AbstractContextManager[Actor]:
        """Say who does what the block does, and why, for its entries; for ``with``.

        It holds in the block's thread or task, and in what that calls asynchronously.

        Args:
            actor: Who, such as the name under which an operator has logged in.
            reason: Why, such as a ticket's number.

        Raises:
            TypeError: One is no text.
            ValueError: One is empty, or has more than 1,000 characters.
        """
        return acting_as(actor, reason)

    def break_glass(
        self,
        user_id: str,
        *,
        reason: str,
        minutes: int = MINUTES,
        project_id: str = "default",
    ) -> BreakGlass:
        """Permit whoever acts to read a user's memory by the command line, for a while.

        It is an entry of the log, which the user sees: ``scope.audit_log()``. In Python nobody is
        asked for it, but by :meth:`reading`.

        >>> scope.chat_history("monday").add_user_message("Hi")
        >>> memory.audit.switch_on()
        >>> with memory.audit.acting_as("bob"):
        ...     permitted = memory.audit.break_glass("alice", reason="Ticket 12", minutes=5)
        ...     with memory.audit.reading("alice", "support"):
        ...         said = scope.chat_history("monday").messages
        >>> [(entry.operation, entry.actor, entry.reason) for entry in scope.audit_log()][-1]
        ('break_glass', 'bob', 'Ticket 12')

        Args:
            user_id: Whose memory.
            reason: Why, 1 to 1,000 characters.
            minutes: For how long, by the database's clock: 1 to 1,440.
            project_id: In which project.

        Raises:
            AuditIsOff: The log is off: nothing would tell of it.
            ValueError: Nobody acts, or ``reason`` or ``minutes`` are out of their range.
            TypeError: ``reason`` is no text, or ``minutes`` no whole number.
            ScopeError: An id is malformed.
        """
        return opened(self._context, _user(user_id, project_id), reason, minutes)

    async def abreak_glass(
        self,
        user_id: str,
        *,
        reason: str,
        minutes: int = MINUTES,
        project_id: str = "default",
    ) -> BreakGlass:
        """Permit whoever acts to read a user's memory; see :meth:`break_glass`."""
        return await self._context.database.arun(
            self.break_glass, user_id, reason=reason, minutes=minutes, project_id=project_id
        )

    def permission(self, user_id: str, *, project_id: str = "default") -> BreakGlass | None:
        """What permits whoever acts to read a user's memory now, if anything does; not noted.

        Raises:
            ScopeError: An id is malformed.
        """
        return in_force(self._context, _user(user_id, project_id))

    async def apermission(self, user_id: str, *, project_id: str = "default") -> BreakGlass | None:
        """What permits to read a user's memory; see :meth:`permission`."""
        return await self._context.database.arun(self.permission, user_id, project_id=project_id)

    def end_break_glass(self, user_id: str, *, project_id: str = "default") -> None:
        """End what :meth:`break_glass` permitted to whoever acts, before its time is over.

        Raises:
            ReasonRequired: Nothing is permitted.
            ValueError: Nobody acts.
        """
        ended(self._context, _user(user_id, project_id))

    async def aend_break_glass(self, user_id: str, *, project_id: str = "default") -> None:
        """End what was permitted; see :meth:`end_break_glass`."""
        await self._context.database.arun(self.end_break_glass, user_id, project_id=project_id)

    def reading(
        self,
        user_id: str,
        operation: str | None,
        *,
        module_id: str | None = None,
        project_id: str = "default",
    ) -> AbstractContextManager[BreakGlass | None]:
        """Refuse the block to who has no permission of :meth:`break_glass`, and note it.

        For ``with``, in operators' pages of your own. With the log off everybody gets through.

        Args:
            user_id: Whose memory is read.
            operation: What entries call it; ``None`` for what has entries of its own, as an
                export.
            module_id: In which module; by default in all.
            project_id: In which project.

        Raises:
            ReasonRequired: On entering, where nothing is permitted to whoever acts.
            TypeError: ``operation`` is no text.
            ValueError: It is empty or too long.
            ScopeError: An id is malformed.
        """
        if operation is not None:
            checked_text("operation", operation)
        owner = _user(user_id, project_id)
        if module_id is not None:
            module = checked_id("module_id", module_id)
            owner = Owner(Level.PRIVATE, owner.project, owner.user, module)
        return permitted(self._context, owner, operation)

    # --- what it says

    @observed("search_memory", "audit_entry", found, records="_context")
    def entries(
        self,
        *,
        user_id: str | None = None,
        project_id: str = "default",
        limit: int = 100,
        before: datetime | None = None,
        since: datetime | None = None,
    ) -> list[AuditEntry]:
        """What was done and read, the newest first; of everybody, or of one user.

        Of who was erased there are times and digests, and nothing that was said of them.

        Args:
            user_id: Only what is about this user.
            project_id: The user's project.
            limit: At most so many.
            before: Only what was earlier; the time of the last one gives the next page.
            since: Only what was not earlier.

        Raises:
            AuditIsOff: There is no audit log.
            RecordDoesNotOpen: An entry was changed or moved.
            ValueError: ``limit`` is below 1, or a time has no time zone.
            TypeError: An argument has another type.
            ScopeError: An id is malformed.
        """
        owner = None if user_id is None else _user(user_id, project_id)
        return entries_of(self._context, owner, limit, before, since)

    async def aentries(
        self,
        *,
        user_id: str | None = None,
        project_id: str = "default",
        limit: int = 100,
        before: datetime | None = None,
        since: datetime | None = None,
    ) -> list[AuditEntry]:
        """What was done and read; see :meth:`entries`."""
        return await self._context.database.arun(
            self.entries, user_id=user_id, project_id=project_id,
            limit=limit, before=before, since=since,
        )  # fmt: skip

    # --- what proves it

    @observed("verify", "audit_entry", records="_context")
    def verify(self, *, progress: Progress | None = None) -> AuditVerified:
        """Verify that every entry follows the one before it, from beginning to end.

        Noticed is every entry that was changed in any column, removed, added, reordered or
        exchanged, and a chain that was cut off. Not that the whole log was put back as it once was,
        with the rows of its ends: for that there are anchors.

        Args:
            progress: Told after each page how many entries were looked at.

        Raises:
            AuditLogBroken: The log is not what was written.
            RecordDoesNotOpen: An entry fits its chain and was sealed for another place.
            AuditIsOff: There is no audit log.
            TypeError: ``progress`` is no function.
        """
        if progress is not None:
            callback("progress", progress, example="progress=print")
        return verified(self._context, progress)

    async def averify(self, *, progress: Progress | None = None) -> AuditVerified:
        """Verify that every entry follows the one before it; see :meth:`verify`."""
        return await self._context.database.arun(self.verify, progress=progress)

    def anchor(self, *sinks: Callable[[Anchor], object]) -> Anchor:
        """The ends of all chains now, handed to each of ``sinks``: keep it outside the database.

        >>> memory.audit.switch_on()
        >>> kept = []
        >>> memory.audit.anchor(kept.append)
        Anchor(entries=..., time=...)
        >>> memory.audit.check_anchors(kept).anchors
        1

        Args:
            sinks: Where it goes: an `AnchorFile`, `TimeStamps`, any function; besides those of
                ``AuditOptions(anchor_to=…)``.

        Raises:
            AuditIsOff: There is no audit log.
            AuditLogBroken: The row of a chain's ends was changed or removed.
            AnchorRefused: A sink cannot keep it.
            TypeError: A sink is no function.
        """
        for sink in sinks:
            callback("an anchor's sink", sink, example='AnchorFile("anchors.jsonl")')
        self._audit.flush()
        chains = self._audit.required()
        anchor = Anchor.of(chains.directory, chains.heads(), now())
        options = self._audit.options
        for keep in (*(options.anchor_to if options else ()), *sinks):
            keep(anchor)
        return anchor

    async def aanchor(self, *sinks: Callable[[Anchor], object]) -> Anchor:
        """The ends of all chains now; see :meth:`anchor`."""
        return await self._context.database.arun(self.anchor, *sinks)

    def check_anchors(
        self, anchors: Iterable[Anchor], *, stamps: TimeStamps | None = None
    ) -> AnchorsChecked:
        """Check that the log is one with anchors that were kept elsewhere.

        Noticed is a database that was set back to before one of them, and a chain that was cut,
        reordered or written anew since, by whoever holds all keys, too. Together with
        :meth:`verify`: anchors say where chains have to be, not what is between.

        Args:
            anchors: Such as ``AnchorFile("anchors.jsonl").read()``.
            stamps: Whose time stamps on them are verified; by default none are.

        Raises:
            AuditLogBroken: The log is not what it was when one was taken.
            AnchorRefused: One was not made by this installation, or has no time stamp of these.
            AuditIsOff: There is no audit log, and no anchor says that there was one.
            TypeError: ``anchors`` is no list of anchors.
        """
        return checked_anchors(self._context, anchors, stamps)

    async def acheck_anchors(
        self, anchors: Iterable[Anchor], *, stamps: TimeStamps | None = None
    ) -> AnchorsChecked:
        """Check that the log is one with anchors; see :meth:`check_anchors`."""
        return await self._context.database.arun(self.check_anchors, anchors, stamps=stamps)


def _user(user_id: str, project_id: str) -> Owner:
    project = checked_id("project_id", project_id)
    return Owner(Level.USER, project, checked_id("user_id", user_id))
