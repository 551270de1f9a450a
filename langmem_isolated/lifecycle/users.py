"""Users: who has memory, by digests, with how much of it; for operators."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._database.admission import Admission, AdmissionToAll
from langmem_isolated._runtime.arguments import kind_of, whole_number
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.operations import found, observed
from langmem_isolated._storage import user_listing
from langmem_isolated._storage.user_listing import HeldScope
from langmem_isolated.errors import RecordDoesNotOpen
from langmem_isolated.lifecycle.statistics import Totals
from langmem_isolated.scope import checked_id

_MOST_USERS = 1_000
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class UserStats:
    """What one user has in all modules. It names nobody."""

    digest: str
    """By which the tables and receipts of erasures know the user, in 32 hexadecimal digits."""
    project_id: str | None
    """In which project; ``None`` where nothing of the user's opens."""
    modules: int
    """In how many modules."""
    totals: Totals


@dataclass(frozen=True, slots=True)
class UserName:
    """Who a digest stands for; not in the ``repr``."""

    user_id: str = field(repr=False)
    project_id: str = field(repr=False)


@explains_calls
class UserListings:
    """Who has memory, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    @observed("search_memory", "user", found, records="_context")
    def users(
        self, *, project_id: str | None = None, limit: int = 50, after: str | None = None
    ) -> list[UserStats]:
        """Users by their digests, with how much each has, in the order of the digests; paged.

        Counted as :meth:`stats` does, without opening a record. Nobody is named;
        :meth:`find_user` does. Anonymous sessions are not among them.

        >>> memory.scope(user_id="zoe", module_id="tutor").chat_history("a").add_user_message("Hi")
        >>> [user] = memory.users()
        >>> user.modules, user.totals.messages, user.digest == memory.user_digest("zoe")
        (1, 1, True)

        Args:
            project_id: Only users of this project; by default of all.
            limit: At most so many, 1 to 1,000.
            after: The digest of the last one of a page, for the next.

        Raises:
            TypeError: ``limit`` is no whole number, or ``after`` no text.
            ValueError: ``limit`` is out of its range, or ``after`` no digest.
            ScopeError: ``project_id`` is malformed.
            KeyringError: A key cannot be had, or belongs to another root key.
            DatabaseError: The database refused or failed.
        """
        _checked_limit(limit)
        behind = b"" if after is None else _plain("after", after)
        project = None if project_id is None else checked_id("project_id", project_id)
        directory = self._context.keyring.directory()
        if directory is None:
            return []
        asked = None if project is None else directory.project_of(Owner(Level.PROJECT, project))
        with AdmissionToAll():
            found = self._context.database.snapshot(
                user_listing.users_behind, behind, asked, limit, now()
            )
        return list(_told(self._context, found, project))

    async def ausers(
        self, *, project_id: str | None = None, limit: int = 50, after: str | None = None
    ) -> list[UserStats]:
        """Users by their digests; see :meth:`users`."""
        return await self._context.database.arun(
            self.users, project_id=project_id, limit=limit, after=after
        )

    def user_digest(self, user_id: str, *, project_id: str = "default") -> str | None:
        """By which digest the tables know a user; ``None`` for one who has no memory.

        Raises:
            ScopeError: An id is malformed.
            DatabaseError: The database refused or failed.
        """
        project = checked_id("project_id", project_id)
        user = Owner(Level.USER, project, checked_id("user_id", user_id))
        directory = self._context.keyring.directory()
        if directory is None:
            return None
        principal = directory.principal_of(user)
        return None if self._scope_of(principal) is None else principal.hex()

    async def auser_digest(self, user_id: str, *, project_id: str = "default") -> str | None:
        """By which digest the tables know a user; see :meth:`user_digest`."""
        return await self._context.database.arun(self.user_digest, user_id, project_id=project_id)

    @observed("search_memory", "user", found, records="_context")
    def find_user(self, digest: str) -> UserName | None:
        """Who a user's digest stands for; ``None`` where there is none, as after an erasure.

        >>> memory.scope(user_id="zoe", module_id="tutor").store().put(("a",), "b", {"n": 1})
        >>> memory.find_user(memory.user_digest("zoe")).user_id
        'zoe'

        Args:
            digest: As :meth:`users` and :meth:`user_digest` give it.

        Raises:
            TypeError: ``digest`` is no text.
            ValueError: It has not 32 hexadecimal digits.
            KeyringError: A key cannot be had, or belongs to another root key.
            RecordDoesNotOpen: The user's keys, or a scope's row, are not as they were stored.
            DatabaseError: The database refused or failed.
        """
        scope_id = self._scope_of(_plain("digest", digest))
        owner = None if scope_id is None else self._context.keyring.owner_of(scope_id)
        if owner is None or owner.user is None:
            return None
        return UserName(owner.user, owner.project)

    async def afind_user(self, digest: str) -> UserName | None:
        """Who a user's digest stands for; see :meth:`find_user`."""
        return await self._context.database.arun(self.find_user, digest)

    def _scope_of(self, principal: bytes) -> bytes | None:
        with Admission(principal):
            return self._context.database.read(user_listing.scope_of_principal, principal)


def _told(
    context: MemoryContext, found: Iterable[HeldScope], project: str | None
) -> Iterator[UserStats]:
    for principal, scopes in groupby(found, attrgetter("principal")):
        of_user = list(scopes)
        totals = Totals(users=1, scopes=len(of_user))
        for scope in of_user:
            for row in scope.held:
                totals.add(*row)
        named = project or _project_of(context, of_user[0].scope_id)
        yield UserStats(principal.hex(), named, sum(one.is_module for one in of_user), totals)


def _project_of(context: MemoryContext, scope_id: bytes) -> str | None:
    with suppress(RecordDoesNotOpen):
        owner = context.keyring.owner_of(scope_id)
        return None if owner is None else owner.project
    return None


def _checked_limit(limit: object) -> None:
    advice = f"Give 1 to {_MOST_USERS:,}."
    if (number := whole_number("limit", limit, least=1, advice=advice)) > _MOST_USERS:
        raise ValueError(f"limit must be {_MOST_USERS:,} or less, got {number:,}. {advice}")


def _plain(name: str, digest: object) -> bytes:
    advice = "Give a digest that memory.users() or memory.user_digest(…) gave."
    if not isinstance(digest, str):
        raise TypeError(f"{name} must be a text, got {kind_of(digest)}. {advice}")
    with suppress(ValueError):
        if len(plain := bytes.fromhex(digest)) == _DIGEST_BYTES:
            return plain
    raise ValueError(
        f"{name} must have {2 * _DIGEST_BYTES} hexadecimal digits, got a text of "
        f"{len(digest)} characters. {advice}"
    )
