"""What an application's memory gives to people before they log in."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._runtime.operations import found, observed

if TYPE_CHECKING:
    from langmem_isolated._storage.copying.options import Conflicts
    from langmem_isolated.lifecycle.guests.transferred import Transferred
    from langmem_isolated.scope import AnonymousScope, Scope

A = TypeVar("A")
IDLE = timedelta(days=30)


@explains_calls
class AnonymousSessions(Generic[A]):
    """Anonymous sessions and their claims, as :class:`IsolatedMemory` has them."""

    _context: MemoryContext

    def _of_guest(self, scope: AnonymousScope) -> A:
        raise NotImplementedError

    @observed("create_memory_store", "guest", records="_context")
    def anonymous(
        self,
        *,
        module_id: str,
        project_id: str = "default",
        idle: timedelta | None = IDLE,
        absolute: timedelta | None = None,
    ) -> A:
        """Begin an anonymous session: the memory of somebody who has not logged in.

        It has keys of its own. Its random id is the only access to it, and is given out here alone:
        ``guest.id``. Keep it where a password would be kept, in a cookie that is ``HttpOnly``,
        ``Secure`` and ``SameSite``. All that a scope has works on it, bound to it: configs that
        name a user are refused.

        >>> guest = memory.anonymous(module_id="tutor")
        >>> guest.chat_history("first").add_user_message("What is 6 times 7?")
        >>> memory.recover(guest.id).chat_history("first").count()
        1

        Args:
            module_id: The part of the application where it takes place.
            project_id: As in :class:`Scope`.
            idle: It expires when nobody has got into it (:meth:`recover`) for so long, give or take
                a tenth; ``None`` for no limit.
            absolute: It expires so long from now on in any case; ``None`` for no limit.

        Raises:
            ScopeError: ``module_id`` or ``project_id`` is malformed.
            TypeError: A limit is no `timedelta`.
            ValueError: A limit is shorter than a microsecond.
        """
        from langmem_isolated.lifecycle.guests.anonymous import begun

        return self._of_guest(begun(self._context, module_id, project_id, idle, absolute))

    async def aanonymous(
        self,
        *,
        module_id: str,
        project_id: str = "default",
        idle: timedelta | None = IDLE,
        absolute: timedelta | None = None,
    ) -> A:
        """Begin an anonymous session; see :meth:`anonymous`."""
        return await self._context.database.arun(
            self.anonymous, module_id=module_id, project_id=project_id, idle=idle, absolute=absolute
        )

    @observed("search_memory", "guest", found, records="_context")
    def recover(self, anonymous_id: str, *, project_id: str = "default") -> A:
        """Get into an anonymous session again: after a restart, a logout, in another process.

        Raises:
            AnonymousNotFound: It has expired, was claimed, or never was: which of these is not
                told. From then on every operation of what was got before raises the same; one that
                only reads within a second, where another process has claimed or removed it.
            ScopeError: ``project_id`` is malformed.
        """
        from langmem_isolated.lifecycle.guests.anonymous import recovered

        return self._of_guest(recovered(self._context, anonymous_id, project_id))

    async def arecover(self, anonymous_id: str, *, project_id: str = "default") -> A:
        """Get into an anonymous session again; see :meth:`recover`."""
        return await self._context.database.arun(self.recover, anonymous_id, project_id=project_id)

    def claim(
        self,
        anonymous_id: str,
        scope: Scope | object,
        *,
        confirmed: bool,
        conflicts: Conflicts = "rename",
    ) -> Transferred:
        """Make what was said anonymously a user's, after the login.

        All of it is sealed anew for the user, what stands below sessions and threads in
        transactions of at most 500 rows, and is seen when all of it is there: whoever reads finds
        all or nothing. Then the keys of the anonymous session are destroyed, and its rows removed.
        Killed at any point it goes on when it is called again; until then the anonymous session can
        be read. Called again after it is done, by the same user, it answers the same.

        The sessions and threads say where they came from (``session.origin``), and nothing of them
        is recalled into prompts before the user confirms them: ``scope.sessions.confirm(…)`` or
        ``scope.confirm_claimed()``. What a profile would tell a model waits for the latter. Items
        and documents are there at once.

        Args:
            anonymous_id: Proves that who logged in is who talked.
            scope: The user's, ``memory.scope(user_id=…, module_id=…)``, in the same project and
                module.
            confirmed: ``True``, once the user has said, after the login, that it is theirs: a login
                link can be planted in another's browser, whose words it would collect.
            conflicts: What happens to names that the user has already: ``"rename"`` gives what is
                claimed another (``main-2``), ``"skip"`` leaves it out, and it is gone,
                ``"replace"`` puts it in place of the user's, ``"refuse"`` claims nothing.

        Raises:
            AnonymousNotFound: As for :meth:`recover`; also if another user has begun to claim it.
            ValueError: ``confirmed`` is not ``True``, or ``conflicts`` is misspelt.
            ScopeError: ``scope`` is no user's, or in another module than the anonymous session.
            AddressTaken: A name is taken, and that is refused.
            RecordDoesNotOpen: Something of it was tampered with; nothing was claimed.
        """
        from langmem_isolated.lifecycle.guests.claims import claimant, claimed

        owner = claimant(scope)
        with self._context.audit.job("claim", owner) as job:
            done = claimed(
                self._context, anonymous_id, scope, confirmed=confirmed, conflicts=conflicts
            )
            job.count = sum(done.counts.values())
        return done

    async def aclaim(
        self,
        anonymous_id: str,
        scope: Scope | object,
        *,
        confirmed: bool,
        conflicts: Conflicts = "rename",
    ) -> Transferred:
        """Make what was said anonymously a user's; see :meth:`claim`. If cancelled, it goes on."""
        return await self._context.database.arun(
            self.claim, anonymous_id, scope, confirmed=confirmed, conflicts=conflicts
        )
