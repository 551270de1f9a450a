"""LRU caches with a time to live: bounded, for many threads, begun anew in a forked child."""

import math
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cachetools import TTLCache

from langmem_isolated._runtime.forking import renew_in_children

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """A cache from which the least recently used values, and those out of time, are dropped.

    Args:
        entries: At most so many values.
        seconds: How long a value is kept after it was put; use does not prolong it. What is over
            time leaves memory with the next call.
        size: At most so much in all, by ``size_of``.
        size_of: How much of ``size`` a value takes.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        *,
        entries: int,
        seconds: float = math.inf,
        size: float = math.inf,
        size_of: Callable[[V], float] = lambda _: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = entries
        self._new: Callable[[], TTLCache[K, V]] = lambda: TTLCache(
            size, seconds, timer=clock, getsizeof=size_of
        )
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Give a forked child a lock that no thread of its parent holds, and an empty cache."""
        self._lock = threading.Lock()
        self._values = self._new()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def size(self) -> float:
        """How much the values take in all."""
        return self._values.currsize

    def get(self, key: K) -> V | None:
        """The value under ``key``, used now; ``None`` where there is none, or none any more."""
        with self._lock:
            self._values.expire()
            try:
                # Not `get`, which looks twice.
                return self._values[key]
            except KeyError:
                return None

    def put(self, key: K, value: V) -> None:
        """Keep ``value`` under ``key``; one that exceeds the bound alone is not kept."""
        with self._lock:
            self._put(key, value)

    def _put(self, key: K, value: V) -> None:
        self._values.pop(key, None)
        if self._values.getsizeof(value) <= self._values.maxsize:
            self._values[key] = value
        while len(self._values) > self._most:
            self._values.popitem()

    def update(self, key: K, change: Callable[[V | None], V]) -> V:
        """Replace the value under ``key`` by what ``change`` makes of it, and return that."""
        with self._lock:
            self._values.expire()
            value = change(self._values.get(key))
            self._put(key, value)
            return value

    def drop(self, key: K) -> None:
        """Let go of the value under ``key``, if there is one."""
        with self._lock:
            self._values.pop(key, None)

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._values.clear()
