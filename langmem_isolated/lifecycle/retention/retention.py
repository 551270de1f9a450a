"""Retention: policies, legal holds and sweeping in the background, for operators."""

from __future__ import annotations

import builtins
import logging
import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level
from langmem_isolated._runtime.arguments import seconds
from langmem_isolated._runtime.calls import explains_calls, made_by
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.operations import found, observed
from langmem_isolated._storage import due, entries
from langmem_isolated._storage.entries import Entry
from langmem_isolated.errors import LangmemIsolatedError, PolicyNotFound
from langmem_isolated.lifecycle.retention import holds, policies
from langmem_isolated.lifecycle.retention.holds import Hold
from langmem_isolated.lifecycle.retention.plans import read_of_all, stored_policies
from langmem_isolated.lifecycle.retention.policies import Policy
from langmem_isolated.lifecycle.retention.sweeping import Owners, Removal, Sweep

if TYPE_CHECKING:
    from langmem_isolated._crypto.scope_keys import ScopeKeys
    from langmem_isolated._database.transactions import Transaction

_log = logging.getLogger("langmem_isolated.retention")
_MADE_BY = "memory.retention, where memory = IsolatedMemory(url)"


@made_by(_MADE_BY, first=MemoryContext)
@explains_calls
class Retention:
    """How long memory is kept, as ``memory.retention`` gives it; for operators.

    Policies and holds are sealed in the database, and count in every process. A policy removes
    nothing by itself: ``memory.sweep()`` does, once, and :meth:`start` again and again. It reaches
    what was stored before it, too. Of several that reach a scope the narrowest counts, alone: one
    of the user before one of the module, one of a channel before one of all.

    >>> memory.retention.keep("message", days=365)
    Policy(message, age=365 days, 0:00:00)
    >>> policy = memory.retention.keep("message", module_id="tutor", days=90)
    >>> [policy.module_id for policy in memory.retention.list()]
    [None, 'tutor']
    >>> memory.retention.remove("message", module_id="tutor")
    >>> memory.sweep().is_done
    True
    """

    def __init__(self, context: MemoryContext) -> None:
        self._context = context
        self._background: _Background | None = None
        self._lock = threading.Lock()

    def keep(
        self,
        kind: str,
        *,
        module_id: str | None = None,
        channel: str | None = None,
        user_id: str | None = None,
        project_id: str = "default",
        days: int | None = None,
        age: timedelta | None = None,
        idle: timedelta | None = None,
        keep_latest: int | None = None,
    ) -> Policy:
        """Keep memory of a kind for so long, in place of what was said for the same place before.

        Args:
            kind: ``"message"`` (``age``, ``keep_latest``), ``"session"`` and ``"thread"`` (``age``,
                ``idle``), ``"checkpoint"`` (all three), ``"item"``, ``"document"``, ``"entry"``
                and ``"receipt"`` (``age``).
            module_id: Only in this module; by default in all, and in what a user or the project
                has in common.
            channel: Only messages of this channel.
            user_id: Only of this user. The policy goes with the user.
            project_id: Of which project.
            days: The same as ``age=timedelta(days=…)``.
            age: Messages, checkpoints and documents go so long after they were stored, sessions and
                threads after they began, items and entries after they were last put. The newest
                checkpoint of a thread's namespace stays.
            idle: Sessions and threads go when nothing was done in them for so long. Checkpoints:
                of threads in which nothing was, ``keep_latest`` stay, 1 by default.
            keep_latest: So many of the newest stay: messages of a session, checkpoints of each
                namespace of a thread.

        Raises:
            ScopeError: An id is malformed.
            TypeError: A limit has another type.
            ValueError: The kind is not known, has not this limit, or no limit is given.
            DatabaseError: The database refused or failed.
        """
        policy = policies.checked(
            kind, module_id=module_id, channel=channel, user_id=user_id, project_id=project_id,
            days=days, age=age, idle=idle, keep_latest=keep_latest,
        )  # fmt: skip
        entry = Entry(policy.key, policy.encoded())
        self._context.audit.write(
            "policy", policy.owner, self._context.records(policy.owner), "write",
            entries.put, policies.SPACE, [entry], now(), kind=Kind.POLICY,
        )  # fmt: skip
        return policy

    async def akeep(
        self,
        kind: str,
        *,
        module_id: str | None = None,
        channel: str | None = None,
        user_id: str | None = None,
        project_id: str = "default",
        days: int | None = None,
        age: timedelta | None = None,
        idle: timedelta | None = None,
        keep_latest: int | None = None,
    ) -> Policy:
        """Keep memory of a kind for so long; see :meth:`keep`."""
        return await self._context.database.arun(
            self.keep, kind, module_id=module_id, channel=channel, user_id=user_id,
            project_id=project_id, days=days, age=age, idle=idle, keep_latest=keep_latest,
        )  # fmt: skip

    def remove(
        self,
        kind: str,
        *,
        module_id: str | None = None,
        channel: str | None = None,
        user_id: str | None = None,
        project_id: str = "default",
    ) -> None:
        """End a policy: what it was about falls under the next wider one, or is kept for ever.

        Raises:
            PolicyNotFound: There is none for this very place.
            ScopeError: An id is malformed.
            ValueError: The kind is not known.
        """
        policy = policies.address(kind, module_id, channel, user_id, project_id)
        moment = now()

        def remove(transaction: Transaction, keys: ScopeKeys) -> bool:
            asked = transaction, keys, policies.SPACE, [policy.key]
            (found,) = entries.get(*asked, moment, kind=Kind.POLICY)
            entries.remove(*asked, kind=Kind.POLICY)
            return found is not None

        records = self._context.records(policy.owner)
        if not self._context.audit.write(
            "policy_removed", policy.owner, records, "write_if_exists", remove, False
        ):
            raise PolicyNotFound("policy")

    async def aremove(
        self,
        kind: str,
        *,
        module_id: str | None = None,
        channel: str | None = None,
        user_id: str | None = None,
        project_id: str = "default",
    ) -> None:
        """End a policy; see :meth:`remove`."""
        await self._context.database.arun(
            self.remove, kind, module_id=module_id, channel=channel, user_id=user_id,
            project_id=project_id,
        )  # fmt: skip

    @observed("search_memory", "policy", found, records="_context")
    def list(self) -> list[Policy]:
        """All policies of all projects and users, the widest first."""
        found = stored_policies(self._context, Owners(self._context).of)
        return sorted(found, key=lambda policy: (policy.project_id, policy.rank, policy.key))

    async def alist(self) -> builtins.list[Policy]:
        """All policies; see :meth:`list`."""
        return await self._context.database.arun(self.list)

    def hold(
        self,
        user_id: str,
        *,
        reason: str,
        by: str,
        until: datetime | timedelta | None = None,
        project_id: str = "default",
    ) -> Hold:
        """Put a user's memory on legal hold: nothing of it is swept, cleared or erased.

        It counts for every module of the user, those begun later included, from the moment in
        which this returns. What people remove themselves, one session or item at a time, goes, and
        what makes way for something new: by the limits of channels, by ``max_sessions``, where an
        expired session or thread is begun again, and where a claim or merge replaces.

        Args:
            user_id: Whose memory.
            reason: Why; 1 to 10,000 characters, sealed.
            by: Who ordered it; the same.
            until: It ends by itself then, at a moment with a time zone, or so long from now. By
                default when it is released.
            project_id: The user's project.

        Raises:
            ScopeError: An id is malformed.
            TypeError: ``reason`` or ``by`` is no text, or ``until`` neither a moment nor a span.
            ValueError: A text is empty or too long, or the time is over or without a time zone.
        """
        return holds.place(self._context, user_id, project_id, reason, by, until)

    async def ahold(
        self,
        user_id: str,
        *,
        reason: str,
        by: str,
        until: datetime | timedelta | None = None,
        project_id: str = "default",
    ) -> Hold:
        """Put a user's memory on legal hold; see :meth:`hold`."""
        return await self._context.database.arun(
            self.hold, user_id, reason=reason, by=by, until=until, project_id=project_id
        )

    def release(self, user_id: str, *, project_id: str = "default") -> None:
        """End a user's legal hold; what is due goes with the next sweep.

        Raises:
            PolicyNotFound: The user has none.
            ScopeError: An id is malformed.
        """
        holds.release(self._context, user_id, project_id)

    async def arelease(self, user_id: str, *, project_id: str = "default") -> None:
        """End a user's legal hold; see :meth:`release`."""
        await self._context.database.arun(self.release, user_id, project_id=project_id)

    @observed("search_memory", "policy", found, records="_context")
    def holds(self) -> builtins.list[Hold]:
        """All legal holds of all projects, by when they were placed."""
        owners, pages = Owners(self._context), due.scopes_with_policies()
        found: builtins.list[Hold] = []
        while rows := read_of_all(self._context, pages):
            known = filter(None, (owners.of(scope_id) for (scope_id,) in rows))
            for owner in (one.owner for one in known if one.owner.level is Level.PROJECT):
                found += holds.holds_of(self._context, owner.project)
            pages = pages.after(rows[-1])
        return sorted(found, key=lambda hold: hold.since)

    async def aholds(self) -> builtins.list[Hold]:
        """All legal holds; see :meth:`holds`."""
        return await self._context.database.arun(self.holds)

    def start(self, *, every: float | timedelta = timedelta(hours=1)) -> None:
        """Sweep in the background, now and then again and again, until :meth:`stop`.

        In a thread of its own, which does not keep the process alive, and ends with the memory. A
        sweep that fails is logged by the type of its error, and tried again the next time. A forked
        child has no such thread; call it there again. Called again, it takes another interval.

        Args:
            every: From the end of a sweep to the begin of the next, in seconds or as a `timedelta`.

        Raises:
            TypeError: ``every`` is neither.
            ValueError: It is not above 0.
            DatabaseError: The memory was closed.
        """
        span = every.total_seconds() if isinstance(every, timedelta) else every
        pause = seconds("every", span, advice="Give seconds, or a timedelta.")
        self._context.database.refuse_if_closed()
        with self._lock:
            former, self._background = self._background, _Background(self._context, pause)
            background = self._background
        if former:
            former.stop()
        background.start()

    async def astart(self, *, every: float | timedelta = timedelta(hours=1)) -> None:
        """Sweep in the background; see :meth:`start`."""
        await self._context.database.arun(self.start, every=every)

    def stop(self) -> None:
        """End sweeping in the background, behind the batch that runs. Stopping twice is fine."""
        with self._lock:
            former, self._background = self._background, None
        if former:
            former.stop()

    async def astop(self) -> None:
        """End sweeping in the background; see :meth:`stop`."""
        await self._context.database.arun(self.stop)


class _Background(threading.Thread):
    """Sweeps, and waits, and sweeps again."""

    def __init__(self, context: MemoryContext, pause: float) -> None:
        super().__init__(name="langmem_isolated_sweep", daemon=True)
        self._memory = context
        self._pause = pause
        self._ended = threading.Event()

    def run(self) -> None:
        """Sweep until it is stopped."""
        while not self._ended.is_set():
            self._sweep()
            self._ended.wait(min(self._pause, threading.TIMEOUT_MAX))

    def _sweep(self) -> None:
        try:
            Sweep(Removal(self._memory, is_stopped=self._ended.is_set)).run()
        except LangmemIsolatedError as error:
            _log.warning("A sweep failed and is tried again: %s", type(error).__name__)
        except Exception as error:  # noqa: BLE001 - the next sweep is to come whatever happens
            _log.error("A sweep failed and is tried again: %s", type(error).__name__)

    def stop(self) -> None:
        """Wait for the batch that runs, and end."""
        self._ended.set()
        if self.is_alive() and self is not threading.current_thread():
            self.join()
