"""Plaintext cache: LRU with time to live and a validator, off by default."""

import time
from collections.abc import Callable, Hashable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

from langmem_isolated._runtime.lru import LRUCache

Key = tuple[bytes, bytes, Hashable]
"""Whose it is, scope id and birth, and what."""


class _Entry(NamedTuple):
    token: Hashable
    value: Any
    size: int


class PlaintextCache:
    """Opened values, kept in this process until they are stale, over time or least recently used.

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
        self._entries = LRUCache[Key, _Entry](
            entries=entries, seconds=seconds, size=size, size_of=attrgetter("size"), clock=clock
        )
        self.epoch = object()
        """Another one whenever something is let go of on purpose: see :meth:`merge`."""

    def get(self, key: Key, token: Hashable) -> Any | None:
        """What was put under ``key`` with this very ``token``; another's is dropped."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.token != token:
            self._entries.drop(key)
            return None
        return entry.value

    def put(
        self, key: Key, token: Hashable, value: Any, size: int, epoch: object | None = None
    ) -> None:
        """Keep ``value``, of about ``size`` bytes; one that exceeds the bound alone is not kept.

        Args:
            key: Whose it is, and what.
            token: Under which alone it is given out.
            value: Which nobody changes.
            size: About how many bytes it has.
            epoch: As :meth:`merge` takes it; ``None`` keeps the value in any case.
        """
        self._entries.put_if(lambda: epoch in (None, self.epoch), key, _Entry(token, value, size))

    def merge(
        self, key: Key, token: Hashable, parts: Mapping[int, tuple[Any, int]], epoch: object
    ) -> None:
        """Keep ``parts`` beside those that are kept under ``key`` with this very ``token``.

        They are given out as one dict, and go when the first of them goes.

        Args:
            key: Whose they are, and what.
            token: As :meth:`put`.
            parts: Opened values by number, each with its size as :meth:`put` takes it; one number
                has one value under one token.
            epoch: As it was before the first of them was read. If something was let go of since,
                such as all that is of a user who has locked it, they are not kept.
        """

        def merged(entry: _Entry | None) -> _Entry | None:
            if self.epoch is not epoch:
                return None
            kept = entry if entry and entry.token == token else _Entry(token, {}, 0)
            new = {number: part for number, part in parts.items() if number not in kept.value}
            kept.value.update((number, value) for number, (value, _) in new.items())
            return kept._replace(size=kept.size + sum(size for _, size in new.values()))

        self._entries.amend(key, merged)

    def drop(self, key: Key) -> None:
        """Let go of what is kept under ``key``."""
        self.epoch = object()
        self._entries.drop(key)

    def forget(self, scope_id: bytes) -> None:
        """Let go of all that is a scope's."""
        self.epoch = object()
        for key in self._entries:
            if key[0] == scope_id:
                self._entries.drop(key)

    def clear(self) -> None:
        """Let go of everything."""
        self.epoch = object()
        self._entries.clear()


class CacheOfCall:
    """A plaintext cache for one call, which begins before any key is asked for; or none.

    Args:
        cache: Where values stay. If something was let go of since this was made, such as all that
            is of a user who has locked it, what the call opened does not get there.
    """

    def __init__(self, cache: PlaintextCache | None) -> None:
        self._cache = cache
        self._epoch = None if cache is None else cache.epoch

    def __bool__(self) -> bool:
        return self._cache is not None

    def get(self, key: Key, token: Hashable) -> Any | None:
        """See :meth:`PlaintextCache.get`; ``None`` without a cache."""
        return None if self._cache is None else self._cache.get(key, token)

    def put(self, key: Key, token: Hashable, value: Any, size: int) -> None:
        """See :meth:`PlaintextCache.put`."""
        if self._cache is not None:
            self._cache.put(key, token, value, size, self._epoch)
