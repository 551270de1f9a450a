"""Quotas, as operators set them."""

from __future__ import annotations

import builtins
from typing import get_args

from langmem_isolated._adapters import quota as quotas
from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._adapters.quota import Measure, Period, Quota
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import kind_of, whole_number
from langmem_isolated._runtime.calls import explains_calls, made_by
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage import entries
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.scope import checked_id


@made_by("memory.quotas", first=MemoryContext)
@explains_calls
class Quotas:
    """How much each user may ask of models in a day or a month, UTC; for operators.

    Made by ``memory.quotas``. The middleware and the callback handler check them before a model is
    asked, and raise :class:`~langmem_isolated.errors.QuotaExceeded`; a call that is on its way when
    the last token goes is not stopped. Tokens are counted from ``usage_metadata`` of every message
    that is stored in a chat session, whoever stores it; messages are what people say where the
    middleware or the handler records, from when the quota was set. Clearing a session gives nothing
    back. Another process notices what was set or removed within ten seconds.

    >>> from langmem_isolated.lifecycle import Quota
    >>> everyones = memory.quotas.set(tokens=100_000, per="day")
    >>> alices = memory.quotas.set(messages=20, per="day", user_id="alice", module_id="tutor")
    >>> [quota.limit for quota in memory.quotas.list(user_id="alice")]
    [100000, 20]
    """

    def __init__(self, context: MemoryContext) -> None:
        self._context = context

    def set(
        self,
        *,
        per: Period,
        tokens: int | None = None,
        messages: int | None = None,
        user_id: str | None = None,
        module_id: str | None = None,
        project_id: str = "default",
    ) -> Quota:
        """Set a quota, in place of one with the same measure, period, user and module.

        Args:
            per: ``"day"`` or ``"month"``, of the calendar, UTC.
            tokens: Input and output together, 0 or more.
            messages: What the user says, 0 or more. One of both is given.
            user_id: For this user, in place of everyone's with the same measure, period and module;
                by default for each user of the project.
            module_id: What counts is asked in this module; by default in all modules together.
            project_id: The project.

        Returns:
            It, as :meth:`list` gives it and :meth:`remove` takes it.

        Raises:
            TypeError: A limit is no whole number.
            ValueError: A limit is negative, both or none are given, or ``per`` is neither.
            ScopeError: An id is malformed.
            DatabaseError: The database refused or failed.
        """
        measure, limit = _limit(tokens, messages)
        quota = Quota(
            measure, limit, _period(per), checked_id("project_id", project_id),
            _id("module_id", module_id), _id("user_id", user_id),
        )  # fmt: skip
        records = self._context.records(quota.kept_by)
        self._context.audit.write(
            "quota", quota.kept_by, records, "write",
            entries.put, quotas.SPACE, [quota.entry()], now(), kind=Kind.POLICY,
        )  # fmt: skip
        quotas.forget(self._context.database)
        return quota

    async def aset(
        self,
        *,
        per: Period,
        tokens: int | None = None,
        messages: int | None = None,
        user_id: str | None = None,
        module_id: str | None = None,
        project_id: str = "default",
    ) -> Quota:
        """Set a quota; see :meth:`set`."""
        return await self._context.database.arun(
            self.set, per=per, tokens=tokens, messages=messages,
            user_id=user_id, module_id=module_id, project_id=project_id,
        )  # fmt: skip

    def list(
        self, *, user_id: str | None = None, project_id: str = "default"
    ) -> builtins.list[Quota]:
        """The quotas of everyone in a project, and behind them those of one user, as they were set.

        Raises:
            ScopeError: An id is malformed.
            DatabaseError: The database refused or failed.
        """
        project = checked_id("project_id", project_id)
        keepers = [Owner(Level.PROJECT, project)]
        if user_id is not None:
            keepers.append(Owner(Level.USER, project, checked_id("user_id", user_id)))
        kept = map(self._context.records, keepers)
        return [quota for records in kept for quota in quotas.quotas_of(records)]

    async def alist(
        self, *, user_id: str | None = None, project_id: str = "default"
    ) -> builtins.list[Quota]:
        """The quotas of a project; see :meth:`list`."""
        return await self._context.database.arun(self.list, user_id=user_id, project_id=project_id)

    def remove(self, quota: Quota) -> None:
        """Remove a quota that :meth:`list` gave; nothing happens if it is not there any more.

        Raises:
            TypeError: ``quota`` is none.
            DatabaseError: The database refused or failed.
        """
        if type(quota) is not Quota:
            raise TypeError(
                f"remove() takes a quota of memory.quotas.list(), got {kind_of(quota)}. Nothing "
                "was removed."
            )
        records: ScopedDatabase = self._context.records(quota.kept_by)
        key = quota.entry().key
        self._context.audit.write(
            "quota_removed", quota.kept_by, records, "write_if_exists",
            entries.remove, None, quotas.SPACE, [key], kind=Kind.POLICY,
        )  # fmt: skip
        quotas.forget(self._context.database)

    async def aremove(self, quota: Quota) -> None:
        """Remove a quota; see :meth:`remove`."""
        await self._context.database.arun(self.remove, quota)


def _limit(tokens: int | None, messages: int | None) -> tuple[Measure, int]:
    if (tokens is None) == (messages is None):
        raise ValueError(
            f"set() takes tokens= or messages=, got {'none' if tokens is None else 'both'}. Write "
            'memory.quotas.set(tokens=100_000, per="day"); call it again for the other.'
        )
    if tokens is not None:
        return "tokens", whole_number("tokens", tokens, advice="It is how many may be used.")
    return "messages", whole_number("messages", messages, advice="It is how many may be said.")


def _period(per: Period) -> Period:
    if per not in get_args(Period):
        raise ValueError(
            f'per must be "day" or "month", got another {kind_of(per)}. Write per="day". Nothing '
            "was changed."
        )
    return per


def _id(name: str, value: str | None) -> str | None:
    return None if value is None else checked_id(name, value)
