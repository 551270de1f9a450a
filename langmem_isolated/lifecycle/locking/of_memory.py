"""Users' own locks, as a memory gives them to an application."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.lock_secrets import RECOMMENDED, PassphraseCost
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import callback, true_or_false
from langmem_isolated._runtime.arguments import seconds as checked_seconds
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._runtime.operations import found, observed
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.locking.values import (
        Collected,
        Lent,
        LockedSession,
        LockState,
        NewLock,
    )


@explains_calls
class UserLocks:
    """Users' own locks, as :class:`IsolatedMemory` has them."""

    _context: MemoryContext

    def lock_with(
        self,
        user_id: str,
        *,
        passphrase: str | None = None,
        secret: bytes | None = None,
        project_id: str = "default",
        cost: PassphraseCost = RECOMMENDED,
        progress: Callable[[int], object] | None = None,
    ) -> NewLock:
        """Lock a user's memory: from now on nobody reads it without a secret of the user.

        The user's sealing keys, and a new one, are wrapped by a random key that the secret opens,
        and everything of all modules is sealed anew by the new one: copies of the keys in older
        backups do not open what is here. Then the memory is locked in this process, and in others
        as soon as they read their keys again, within ``key_cache_seconds``.

        Locked, the server counts, expires, sweeps, erases, and keeps owner tags, quotas, grants and
        policies; what is added to chat histories waits in an inbox that the user's key alone opens.
        All else raises `MemoryLocked`.

        >>> history = memory.scope(user_id="vera", module_id="tutor").chat_history("a")
        >>> history.add_user_message("I am afraid of the exam.")
        >>> lock = memory.lock_with("vera", passphrase="correct horse battery")
        >>> history.messages
        Traceback (most recent call last):
        langmem_isolated.errors.MemoryLocked: This user's memory is locked: ...

        Args:
            user_id: Who.
            passphrase: 8 characters or more; stretched by Argon2id (RFC 9106). Or
            secret: 32 random bytes, such as the PRF extension of a passkey gives.
            project_id: In which project.
            cost: What the passphrase is stretched by; by default 64 MiB, three times, 4 lanes.
            progress: Called with the number of records sealed anew so far.

        Returns:
            The recovery code, shown once. It is 128 random bits and a checksum, in base32 (RFC
            4648).
            With neither it nor the secret everything is lost.

        Raises:
            LockRefused: The user has a lock; nothing was changed.
            ScopeError: An id is malformed.
            TypeError: Not exactly one of ``passphrase`` and ``secret`` is given, or one is of
                another type.
            ValueError: The passphrase is too short, the secret not 32 bytes, or ``cost`` is out of
                range.
            RecordDoesNotOpen: The user's keys were tampered with; nothing was changed.
            DatabaseError: The database refused or failed. If the user has a lock then, `unlock`
                with the secret and :meth:`change_secret` make another recovery code.
        """
        from langmem_isolated.lifecycle.locking import locking
        from langmem_isolated.lifecycle.locking.values import NewLock

        given = locking.given_secret(passphrase=passphrase, secret=secret)
        cost.check()
        told = _told(progress)
        user = _user(user_id, project_id)
        with self._context.audit.job("lock_with", user):
            code, records = locking.lock(self._context, user, given, cost, told)
        return NewLock(code, records)

    async def alock_with(self, user_id: str, **named: Any) -> NewLock:
        """Lock a user's memory; see :meth:`lock_with`."""
        return await self._context.database.arun(partial(self.lock_with, user_id, **named))

    def unlock(
        self,
        user_id: str,
        *,
        passphrase: str | None = None,
        secret: bytes | None = None,
        recovery: str | None = None,
        seconds: float,
        project_id: str = "default",
        progress: Callable[[int], object] | None = None,
    ) -> Lent:
        """Open a user's memory in this process, for so long at most.

        What had waited in the inbox is brought into its sessions, in its order, before this
        returns. Killed meanwhile, nothing is lost or doubled: the next unlock goes on.

        >>> lock = memory.lock_with("vito", passphrase="correct horse battery")
        >>> history = memory.scope(user_id="vito", module_id="tutor").chat_history("a")
        >>> history.add_user_message("Hello?")
        >>> with memory.unlock("vito", passphrase="correct horse battery", seconds=60):
        ...     history.messages
        [HumanMessage(content='Hello?', ...)]

        Args:
            user_id: Who.
            passphrase: The user's. Or
            secret: the user's 32 bytes. Or
            recovery: the recovery code.
            seconds: How long the keys stay in this process's memory, above 0.
            project_id: In which project.
            progress: Called with the number of messages brought into sessions so far.

        Returns:
            A handle. Its ``lock()``, or the end of a ``with`` statement, locks at once.

        Raises:
            WrongSecret: The secret is another's; nothing was opened.
            LockRefused: The user has no lock, or none that this kind of secret opens.
            ScopeError: An id is malformed.
            TypeError: Not exactly one secret is given, or one is of another type.
            ValueError: The recovery code was mistyped, or ``seconds`` is not above 0.
            RecordDoesNotOpen: The user's keys were tampered with.
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.locking import locking
        from langmem_isolated.lifecycle.locking.values import Lent

        given = locking.given_secret(passphrase=passphrase, secret=secret, recovery=recovery)
        checked_seconds("seconds", seconds)
        user = _user(user_id, project_id)
        with self._context.audit.job("unlock", user):
            collected = locking.open_lock(self._context, user, given, seconds, _told(progress))
        return Lent(collected, partial(locking.close_lock, self._context, user))

    async def aunlock(self, user_id: str, **named: Any) -> Lent:
        """Open a user's memory in this process; see :meth:`unlock`."""
        return await self._context.database.arun(partial(self.unlock, user_id, **named))

    def lock(self, user_id: str, *, project_id: str = "default") -> None:
        """Forget a user's keys in this process, at once; without a lock, or locked, nothing more.

        Raises:
            ScopeError: An id is malformed.
        """
        from langmem_isolated.lifecycle.locking import locking

        locking.close_lock(self._context, _user(user_id, project_id))

    async def alock(self, user_id: str, *, project_id: str = "default") -> None:
        """Forget a user's keys; see :meth:`lock`."""
        await self._context.database.arun(partial(self.lock, user_id, project_id=project_id))

    @observed("update_memory", "user", records="_context")
    def collect_inbox(
        self,
        user_id: str,
        *,
        project_id: str = "default",
        progress: Callable[[int], object] | None = None,
    ) -> Collected:
        """Bring into their sessions what other processes have put into the inbox since the unlock.

        Args:
            user_id: Whose memory is open in this process.
            project_id: In which project.
            progress: Called with the number of messages so far.

        Raises:
            MemoryLocked: It is locked here.
            ScopeError: An id is malformed.
            DatabaseError: The database refused or failed; what is not done waits.
        """
        from langmem_isolated.lifecycle.locking import locking

        return locking.collect_all(self._context, _user(user_id, project_id), _told(progress))

    async def acollect_inbox(self, user_id: str, **named: Any) -> Collected:
        """Empty the inbox; see :meth:`collect_inbox`."""
        return await self._context.database.arun(partial(self.collect_inbox, user_id, **named))

    def change_secret(
        self,
        user_id: str,
        *,
        passphrase: str | None = None,
        secret: bytes | None = None,
        recovery: str | None = None,
        new_passphrase: str | None = None,
        new_secret: bytes | None = None,
        new_recovery: bool = False,
        project_id: str = "default",
        cost: PassphraseCost = RECOMMENDED,
    ) -> str | None:
        """Exchange what opens a user's lock; no record is sealed again, and no process locked.

        Backups that were made before open with what opened the lock then.

        Args:
            user_id: Who.
            passphrase: The present one. Or
            secret: the present 32 bytes. Or
            recovery: the recovery code.
            new_passphrase: Takes the place of passphrase and secret. Or
            new_secret: takes it.
            new_recovery: Whether there is to be another recovery code, and the present one end.
            project_id: In which project.
            cost: As for :meth:`lock_with`.

        Returns:
            The new recovery code, if one was asked for.

        Raises:
            WrongSecret: The present secret is another's; nothing was changed.
            LockRefused: The user has no lock, or none that this kind of secret opens.
            ScopeError: An id is malformed.
            TypeError: Not exactly one present secret is given, or nothing new, or two new secrets.
            ValueError: As for :meth:`lock_with`.
            RecordDoesNotOpen: The user's keys were tampered with.
            DatabaseError: The database refused or failed; nothing was changed.
        """
        from langmem_isolated.lifecycle.locking import locking

        given = locking.given_secret(passphrase=passphrase, secret=secret, recovery=recovery)
        new, more = None, {"new_passphrase": new_passphrase, "new_secret": new_secret}
        if not true_or_false("new_recovery", new_recovery) or any(
            value is not None for value in more.values()
        ):
            new = locking.given_secret(**more)
        cost.check()
        user = _user(user_id, project_id)
        with self._context.audit.job("change_secret", user):
            return locking.change_secret(
                self._context, user, given, new, cost, new_recovery=new_recovery
            )

    async def achange_secret(self, user_id: str, **named: Any) -> str | None:
        """Exchange what opens a user's lock; see :meth:`change_secret`."""
        return await self._context.database.arun(partial(self.change_secret, user_id, **named))

    def remove_lock(
        self,
        user_id: str,
        *,
        passphrase: str | None = None,
        secret: bytes | None = None,
        recovery: str | None = None,
        project_id: str = "default",
        progress: Callable[[int], object] | None = None,
    ) -> Collected:
        """Give a user's keys back to the server, for good; what waits in the inbox is brought in.

        Raises:
            WrongSecret: The secret is another's; nothing was changed.
            LockRefused: The user has no lock, or none that this kind of secret opens.
            ScopeError: An id is malformed.
            TypeError: Not exactly one secret is given, or one is of another type.
            ValueError: The recovery code was mistyped.
            RecordDoesNotOpen: The user's keys were tampered with.
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.locking import locking

        given = locking.given_secret(passphrase=passphrase, secret=secret, recovery=recovery)
        user = _user(user_id, project_id)
        with self._context.audit.job("remove_lock", user):
            return locking.remove_lock(self._context, user, given, _told(progress))

    async def aremove_lock(self, user_id: str, **named: Any) -> Collected:
        """Give a user's keys back to the server; see :meth:`remove_lock`."""
        return await self._context.database.arun(partial(self.remove_lock, user_id, **named))

    @observed("stats", "user", records="_context")
    def lock_state(self, user_id: str, *, project_id: str = "default") -> LockState:
        """Whether a user's memory is locked, what opens it, and what is there, counted.

        Raises:
            ScopeError: An id is malformed.
            RecordDoesNotOpen: The user's keys were tampered with.
        """
        from langmem_isolated.lifecycle.locking import locking

        return locking.state_of(self._context, _user(user_id, project_id))

    async def alock_state(self, user_id: str, *, project_id: str = "default") -> LockState:
        """Whether a user's memory is locked; see :meth:`lock_state`."""
        return await self._context.database.arun(
            partial(self.lock_state, user_id, project_id=project_id)
        )

    @observed("search_memory", "session", found, records="_context")
    def locked_sessions(
        self, user_id: str, *, module_id: str, project_id: str = "default"
    ) -> list[LockedSession]:
        """The sessions of a user in a module, counted without being opened: no id, no title.

        Raises:
            ScopeError: An id is malformed.
            RecordDoesNotOpen: A session's row was tampered with.
        """
        from langmem_isolated.lifecycle.locking import locking

        project, user = checked_id("project_id", project_id), checked_id("user_id", user_id)
        module = checked_id("module_id", module_id)
        return locking.sessions_of(self._context, Owner(Level.PRIVATE, project, user, module))

    async def alocked_sessions(
        self, user_id: str, *, module_id: str, project_id: str = "default"
    ) -> list[LockedSession]:
        """The sessions of a user, unopened; see :meth:`locked_sessions`."""
        return await self._context.database.arun(
            partial(self.locked_sessions, user_id, module_id=module_id, project_id=project_id)
        )


def _user(user_id: str, project_id: str) -> Owner:
    project = checked_id("project_id", project_id)
    return Owner(Level.USER, project, checked_id("user_id", user_id))


def _told(progress: Callable[[int], object] | None) -> Callable[[int], object]:
    if progress is None:
        return lambda _: None
    callback("progress", progress, example="progress=lambda done: print(done)")
    return progress
