"""Lent locks: the keys of users' locks, as long as these lend them to this process."""

import math
import threading
import time
from collections.abc import Callable

from langmem_isolated._crypto.sealing import (
    KEY_ID_BYTES,
    SealingKey,
    derive,
    open_sealed,
    seal,
)
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._runtime.forking import renew_in_children


class LockKey:
    """The random key of a user's lock: it wraps the user's keys below the server's own wrap."""

    __slots__ = ("_sealing", "secret")

    def __init__(self, secret: SecretBytes) -> None:
        self.secret = secret
        self._sealing = SealingKey(derive(secret, b"lock"))

    def wrap(self, key: SecretBytes, context: bytes) -> SecretBytes:
        """``key`` for one place alone."""
        return SecretBytes(seal(self._sealing, context, key.reveal(), compress=False))

    def unwrap(self, wrapped: SecretBytes, context: bytes) -> SecretBytes:
        """What was wrapped for a place.

        Raises:
            RecordDoesNotOpen: Another lock wrapped it, or it was changed or moved.
        """
        keys = {self._sealing.id: self._sealing}
        return SecretBytes(open_sealed(keys, context, wrapped.reveal(), kind="key"))

    def has_wrapped(self, wrapped: SecretBytes) -> bool:
        """Whether it is this lock that wrapped a key, as the key's id in what is wrapped says."""
        return wrapped.reveal()[1 : 1 + KEY_ID_BYTES] == self._sealing.id

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")


class LentLocks:
    """By principal, the locks that are lent to this process; a forked child has none of them.

    Args:
        clock: Seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.ended: Callable[[bytes], None] = lambda _: None
        """Told which principal's lock is no longer there."""
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Begin without any."""
        self._mutex = threading.Lock()
        self.held: dict[bytes, tuple[float, LockKey]] = {}
        self._timers: dict[bytes, threading.Timer] = {}
        self.opened: dict[bytes, set[bytes]] = {}
        """By principal, the ids of the scopes whose keys a lock has opened."""

    def lend(self, principal: bytes, lock: LockKey, seconds: float) -> None:
        """Keep a lock for so long, in place of one that is there."""
        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self.end_over_time)
        timer.daemon = True
        with self._mutex:
            former = self._timers.pop(principal, None)
            self.held[principal] = (self._clock() + seconds, lock)
            self._timers[principal] = timer
        if former:
            former.cancel()
        # For a process that asks for nothing any more: who asks is not kept waiting for it.
        timer.start()

    def of(self, principal: bytes) -> LockKey | None:
        """The lock of a principal, if it is lent."""
        until, lock = self.held.get(principal, (0.0, None))
        return lock if lock is not None and self._clock() < until else None

    def has_opened(self, principal: bytes, scope_id: bytes) -> bool:
        """Note what the lock of a principal has opened; ``False`` if it is no longer lent."""
        with self._mutex:
            is_lent = self.of(principal) is not None
            if is_lent:
                self.opened.setdefault(principal, set()).add(scope_id)
        return is_lent

    def seconds_left(self, principal: bytes) -> float:
        """How long it stays; 0 where it is not lent."""
        until, _ = self.held.get(principal, (0.0, None))
        return max(0.0, until - self._clock())

    def end(self, principal: bytes, by: float = math.inf) -> None:
        """Forget a lock at once; not one that is lent for longer than ``by``."""
        with self._mutex:
            until, _ = self.held.get(principal, (0.0, None))
            if until > by:
                return
            self.held.pop(principal, None)
            timer = self._timers.pop(principal, None)
        if timer:
            timer.cancel()
        self.ended(principal)

    def end_over_time(self) -> None:
        """Forget every lock whose time is over."""
        now = self._clock()
        for principal, (until, _) in [*self.held.items()]:
            if until <= now:
                # Unless it was lent anew at this moment.
                self.end(principal, by=now)

    def end_all(self) -> None:
        """Forget every lock."""
        for principal in [*self.held]:
            self.end(principal)
