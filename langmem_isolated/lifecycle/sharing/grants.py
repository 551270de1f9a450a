"""Grants: what modules of one user let each other read, for operators."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.calls import explains_calls, made_by
from langmem_isolated._runtime.clock import EPOCH, MICROSECOND, as_moment, lifetime
from langmem_isolated._runtime.operations import found, observed
from langmem_isolated._storage import grants as stored
from langmem_isolated._storage.grants import StoredGrant
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import NotShared, ScopeError
from langmem_isolated.lifecycle.sharing.terms import Terms
from langmem_isolated.scope import Scope, checked_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from langmem_isolated.lifecycle.sharing.terms import SharedFields, SharedKind


@dataclass(frozen=True, slots=True)
class Grant:
    """What one module of a user lets another read, until when; names are not in the ``repr``."""

    from_module: str
    to_module: str
    kinds: tuple[str, ...]
    """Sorted."""
    fields: SharedFields
    """What narrows the kinds; empty where all of them is shared."""
    since: datetime
    """By the database's clock."""
    until: datetime | None
    """By the database's clock; ``None`` until it is revoked."""

    def __repr__(self) -> str:
        return f"Grant(kinds={self.kinds!r}, since={self.since!r}, until={self.until!r})"

    @classmethod
    def of(cls, from_module: str, to_module: str, grant: StoredGrant) -> Grant:
        """A grant as it is stored, between its modules."""
        terms = Terms.decoded(grant.terms)
        return cls(
            from_module,
            to_module,
            kinds=tuple(sorted(terms.kinds)),
            fields=terms.fields,
            since=EPOCH + grant.granted_at * MICROSECOND,
            # Later than any calendar goes is never.
            until=as_moment(grant.ends_at) if grant.ends_at else None,
        )


Granted = list[Grant]


@made_by("memory.grants", first=MemoryContext)
@explains_calls
class Grants:
    """What modules of one user share with each other, as ``memory.grants`` gives and takes it.

    Nothing is shared that is not granted here. A grant is for reading, between two modules of one
    user in one project: there is none across users or projects, and what a module may read, it
    cannot share on. Keep this in the operator's code, away from requests and models.

    >>> grant = memory.grants.allow(
    ...     user_id="alice", from_module="tutor", to_module="planner", kinds=["message"]
    ... )
    >>> tutor, planner = (memory.scope(user_id="alice", module_id=m) for m in ("tutor", "planner"))
    >>> tutor.chat_history("monday").add_user_message("I have a test on Friday.")
    >>> [said.text for said in planner.shared_from("tutor").messages("monday")]
    ['I have a test on Friday.']
    >>> memory.grants.revoke(user_id="alice", from_module="tutor", to_module="planner")
    >>> memory.grants.list(user_id="alice")
    []
    """

    def __init__(self, context: MemoryContext) -> None:
        self._context = context

    def allow(
        self,
        *,
        user_id: str,
        from_module: str,
        to_module: str,
        kinds: Collection[SharedKind],
        fields: SharedFields | None = None,
        until: datetime | timedelta | None = None,
        project_id: str = "default",
    ) -> Grant:
        """Let one module of a user read what another has, from now on.

        It takes the place of what the two had before, narrower or wider. Both sides keep it,
        sealed, and it is in force when this returns.

        Args:
            user_id: Whose modules.
            from_module: Which module's memory is read.
            to_module: Which module reads it.
            kinds: One or more of ``"message"`` (chat sessions, and what recall finds, of threads
                too), ``"item"`` (the store), ``"document"`` (the module's own collections) and
                ``"profile"``.
            fields: What narrows them: see :class:`SharedFields`.
            until: A moment with a time zone, or how long from now; by the database's clock. For as
                long as it is not revoked if left out.
            project_id: In which project.

        Raises:
            ScopeError: An id is missing or malformed, or the modules are one.
            ValueError: A kind or a field is not known, or ``until`` is over or without a time zone.
            TypeError: An argument has another type.
            RecordDoesNotOpen: The module's grants were changed, moved or exchanged.
            KeyDestroyed: The user was erased meanwhile.
            DatabaseError: The database refused or failed; nothing was granted.
        """
        source, reader, modules = self._sides(user_id, from_module, to_module, project_id)
        terms = Terms.checked(kinds, fields)
        end_of = _end_of(until)
        with reader.admission():
            grant = self._context.audit.write(
                "grant", source.owner, source, "write",
                stored.put, reader.keys(), modules, terms.encoded(), end_of,
            )  # fmt: skip
        return Grant.of(from_module, to_module, grant)

    async def aallow(
        self,
        *,
        user_id: str,
        from_module: str,
        to_module: str,
        kinds: Collection[SharedKind],
        fields: SharedFields | None = None,
        until: datetime | timedelta | None = None,
        project_id: str = "default",
    ) -> Grant:
        """Let one module of a user read what another has; see :meth:`allow`."""
        return await self._context.database.arun(
            self.allow,
            user_id=user_id,
            from_module=from_module,
            to_module=to_module,
            kinds=kinds,
            fields=fields,
            until=until,
            project_id=project_id,
        )

    def revoke(
        self, *, user_id: str, from_module: str, to_module: str, project_id: str = "default"
    ) -> None:
        """End a grant: once this returns, no process reads by it any more.

        Raises:
            NotShared: None was in force between the two.
            ScopeError: An id is missing or malformed, or the modules are one.
            RecordDoesNotOpen: The module's grants were changed, moved or exchanged.
            DatabaseError: The database refused or failed; the grant is still in force.
        """
        source, reader, modules = self._sides(user_id, from_module, to_module, project_id)
        with reader.admission():
            found = self._context.audit.write(
                "revoke", source.owner, source, "write_if_exists",
                stored.revoke, False, reader.find_keys(), modules,
            )  # fmt: skip
        if not found:
            raise NotShared

    async def arevoke(
        self, *, user_id: str, from_module: str, to_module: str, project_id: str = "default"
    ) -> None:
        """End a grant; see :meth:`revoke`."""
        await self._context.database.arun(
            self.revoke,
            user_id=user_id,
            from_module=from_module,
            to_module=to_module,
            project_id=project_id,
        )

    @observed("search_memory", "grant", found, records="_context")
    def list(self, *, user_id: str, project_id: str = "default") -> Granted:
        """The grants of one user that are in force, by the modules that grant and read.

        Raises:
            ScopeError: An id is missing or malformed.
            RecordDoesNotOpen: A module's grants were changed, moved or exchanged.
        """
        project, user = checked_id("project_id", project_id), checked_id("user_id", user_id)
        owners = self._context.keyring.owners(Owner(Level.USER, project, user))
        found = [
            Grant.of(owner.module, module.decode(), grant)
            for owner in owners
            if owner.level is Level.PRIVATE and owner.module is not None
            for module, grant in self._context.records(owner).snapshot(stored.granted_by, [])
        ]
        return sorted(found, key=lambda grant: (grant.from_module, grant.to_module))

    async def alist(self, *, user_id: str, project_id: str = "default") -> Granted:
        """The grants of one user; see :meth:`list`."""
        return await self._context.database.arun(self.list, user_id=user_id, project_id=project_id)

    def _sides(
        self, user_id: str, from_module: str, to_module: str, project_id: str
    ) -> tuple[ScopedDatabase, ScopedDatabase, tuple[bytes, bytes]]:
        modules = [
            checked_id(n, m) for n, m in (("from_module", from_module), ("to_module", to_module))
        ]
        if from_module == to_module:
            raise ScopeError(
                "from_module and to_module must be two, got one twice. A module reads its own "
                "memory without a grant."
            )
        source, reader = (
            self._context.private(Scope(user_id, module, project_id=project_id))
            for module in modules
        )
        return source, reader, (from_module.encode(), to_module.encode())


def _end_of(until: object) -> Callable[[int], int]:
    """When a grant ends that is made at a given time, both in µs; refuses one that is over."""
    if until is None:
        return lambda _: 0
    if isinstance(until, timedelta):
        span = lifetime(until) or 0
        return lambda now: _later(now + span, now)
    if not isinstance(until, datetime):
        raise TypeError(
            "until must be a datetime with a time zone, a timedelta or None, got "
            f"{kind_of(until)}. Write datetime(2026, 12, 31, tzinfo=UTC) or timedelta(days=7). "
            "Nothing was granted."
        )
    if until.tzinfo is None:
        raise ValueError(
            "until must have a time zone, as datetime.now(UTC) has, got a datetime without. Write "
            "until.astimezone() if it is local time. Nothing was granted."
        )
    moment = (until - EPOCH) // MICROSECOND
    return lambda now: _later(moment, now)


def _later(end: int, now: int) -> int:
    if end <= now:
        raise ValueError(
            "until must be later than now by the database's clock, got what is over. Nothing was "
            "granted, and what was granted before is as it was; memory.grants.revoke(…) ends it."
        )
    return end
