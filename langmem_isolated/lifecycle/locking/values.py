"""What locking a user's memory gives: the recovery code, what is lent, and what is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Literal, Self

SecretName = Literal["passphrase", "secret", "recovery"]


@dataclass(frozen=True, slots=True)
class NewLock:
    """A lock that was made just now."""

    recovery_code: str = field(repr=False)
    """Opens the lock when the secret is lost. Shown once: nothing here knows it any more."""
    records: int
    """How many records were sealed anew, by a key that only the user has."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What was brought from the inbox into its sessions."""

    messages: int
    damaged: int
    """Sessions whose inbox was tampered with: it stays as it is, and `verify` tells where."""


@dataclass(frozen=True, slots=True)
class Lent:
    """A user's memory, open in this process until its time is over or it is locked again.

    In a ``with`` statement it is locked at the end.
    """

    collected: Collected
    """What had waited."""
    _lock: Callable[[], None] = field(repr=False)

    def lock(self) -> None:
        """Lock the memory again in this process, at once."""
        self._lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock()


@dataclass(frozen=True, slots=True)
class LockedModule:
    """What there is of a locked user in one module; nothing of it is opened for that."""

    module_id: str | None
    """``None`` for what the user has in all modules."""
    sessions: int
    messages: int
    threads: int
    waiting: int
    """Messages in the inbox, which the next unlock brings into their sessions."""


@dataclass(frozen=True, slots=True)
class LockState:
    """Whether a user's memory is locked, and what is there."""

    has_lock: bool
    seconds_left: float
    """How long this process has it open yet; 0 where it is locked here."""
    opened_by: tuple[SecretName, ...]
    """What opens the lock."""
    modules: tuple[LockedModule, ...]

    @property
    def is_locked(self) -> bool:
        """Whether this process can read nothing."""
        return self.has_lock and self.seconds_left == 0

    @property
    def waiting(self) -> int:
        """Messages that wait in the inbox."""
        return sum(module.waiting for module in self.modules)


@dataclass(frozen=True, slots=True)
class LockedSession:
    """A session whose id and title the user alone can read."""

    digest: str
    """By which the tables know it, in hex; it is the same as long as the session is there."""
    messages: int
    size: int
    """Of its sealed messages, in bytes."""
    waiting: int
    created: datetime
    last_activity: datetime
    expires: datetime | None
