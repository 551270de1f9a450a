"""Seal counter: how often a key has sealed, and when it must seal no more.

With random 96-bit nonces AES-256-GCM may seal at most 2^32 records under one key (NIST SP 800-38D,
8.3). Every seal takes a step of an iterator; where a batch of them ends, the bound is looked at.
"""

import threading
from collections.abc import Iterator
from itertools import repeat
from operator import length_hint
from typing import Protocol

from langmem_isolated._runtime.forking import renew_in_children
from langmem_isolated.errors import KeyExhausted


class SealLog(Protocol):
    """Who is told of one key's seals, from whatever thread seals: it must do no I/O, nor wait."""

    def batch_ended(self) -> None:
        """There is a whole batch to be stored."""

    def half_used(self) -> None:
        """Half of the seals that the key is good for are done."""

    def forgotten(self, seals: int) -> None:
        """Nobody seals with the key any more, and so many seals were not collected."""


class _Refill:
    """The lock of all refills: there is one in 65,536 seals."""

    def __init__(self) -> None:
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Give a forked child a lock that no thread of its parent holds."""
        self.lock = threading.Lock()


_refill = _Refill()


class SealCounter:
    """Counts this process's seals with one key, on top of those stored before; any thread's.

    Args:
        stored: How many seals the database knew of when the key was loaded.
        log: Who stores them; nobody when ``None``.
    """

    # Seals between two looks at the bound: at most so many are lost when a process is killed.
    BATCH = 2**16
    WARN_AT = 2**31
    # 2^24 below the bound: room for 256 processes that have a whole batch uncounted.
    REFUSE_AT = 2**32 - 2**24

    __slots__ = ("__weakref__", "_log", "_size", "_stored", "_uncollected", "left")

    def __init__(self, stored: int = 0, log: SealLog | None = None) -> None:
        self._stored = stored
        self._uncollected = self._size = 0
        self._log = log
        self.left: Iterator[object] = iter(())

    def refill(self) -> None:
        """Begin another batch where ``left`` has ended, and take one step of it.

        Raises:
            KeyExhausted: The key has sealed as often as it may.
        """
        with _refill.lock:
            if not length_hint(self.left):
                self._begin_batch()
            next(self.left, None)
        if self._log and self._stored + self._uncollected >= self.WARN_AT:
            self._log.half_used()
        if self._log and self._uncollected:
            self._log.batch_ended()

    def _begin_batch(self) -> None:
        self._uncollected += self._size
        total = self._stored + self._uncollected
        self._size = max(0, min(self.BATCH, self.REFUSE_AT - total))
        if not self._size:
            raise KeyExhausted(total)
        self.left = iter(range(self._size))

    def collect(self) -> int:
        """How many seals are not stored yet; from now on they count as stored."""
        with _refill.lock:
            rest = length_hint(self.left)
            taken, self._uncollected, self._size = self._uncollected + self._size - rest, 0, rest
            self._stored += taken
        return taken

    def learn(self, stored: int) -> None:
        """How many seals are stored in all, those of other processes among them."""
        self._stored = max(self._stored, stored)

    def put_back(self, seals: int) -> None:
        """What was collected could not be stored."""
        with _refill.lock:
            self._stored -= seals
            self._uncollected += seals

    def __del__(self) -> None:
        # Without the lock: the garbage collector may come while this very thread holds it.
        seals = self._uncollected + self._size - length_hint(self.left) if self._log else 0
        if self._log and seals:
            self._log.forgotten(seals)


UNCOUNTED = SealCounter()
"""For keys that seal little: the root key one record for each key, and names of scopes."""
UNCOUNTED.left = repeat(None)
