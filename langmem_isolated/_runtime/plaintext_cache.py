"""Keeps what was opened for a while, where the operator wants that: bounded, expiring, checked."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from langmem_isolated._runtime.forking import renew_in_children

Key = tuple[bytes, int, Hashable]
"""Whose it is, scope id and incarnation, and what."""


class _Entry(NamedTuple):
    until: float
    token: Hashable
    value: Any
    size: int


class PlaintextCache:
    """Opened data, kept in this process until it is stale, old or crowded out by later uses.

    It never answers by itself: a value is given out under the token with which it was put, and who
    asks reads the token from the database at every use. So a change or an erasure is seen at once.
    Values are shared between threads, and must not be changed.

    Args:
        seconds: How long a value is kept after it was put. It leaves memory with the next call
            after that, or with :meth:`clear`.
        entries: At most so many values.
        size: At most so many bytes in all, by what :meth:`put` is told.
        clock: Seconds that only go forward.

    Raises:
        ValueError: A bound is not above 0.
    """

    def __init__(
        self,
        *,
        seconds: float,
        entries: int = 16_384,
        size: int = 256 * 2**20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, bound in (("seconds", seconds), ("entries", entries), ("size", size)):
            if not bound > 0:
                raise ValueError(f"{name} must be above 0, got {bound}")
        self._seconds = seconds
        self._most = entries
        self._size = size
        self._clock = clock
        self._renew()
        renew_in_children(self)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._held = 0
        self._first_to_go = math.inf

    def renew_after_fork(self) -> None:
        """Give a forked child a lock that no thread of its parent holds, and nothing to keep."""
        self._renew()

    def get(self, key: Key, token: Hashable) -> Any | None:
        """What was put under ``key`` with this very ``token``; another's is dropped."""
        with self._lock:
            self._drop_expired()
            entry = self._entries.get(key)
            if entry is None or entry.token != token:
                self._drop(key)
                return None
            self._entries.move_to_end(key)
            return entry.value

    def put(self, key: Key, token: Hashable, value: Any, size: int) -> None:
        """Keep ``value``, of about ``size`` bytes; one that exceeds the bound alone is not kept."""
        with self._lock:
            self._drop_expired()
            self._drop(key)
            if size > self._size:
                return
            until = self._clock() + self._seconds
            self._entries[key] = _Entry(until, token, value, size)
            self._first_to_go = min(self._first_to_go, until)
            self._held += size
            while len(self._entries) > self._most or self._held > self._size:
                self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._entries.clear()
            self._held = 0

    def _drop_expired(self) -> None:
        now = self._clock()
        if now < self._first_to_go:
            return
        for key in [key for key, entry in self._entries.items() if entry.until <= now]:
            self._drop(key)
        self._first_to_go = min((entry.until for entry in self._entries.values()), default=math.inf)

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry:
            self._held -= entry.size
