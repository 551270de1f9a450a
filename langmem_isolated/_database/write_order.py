"""Order of writes: owners take turns, and whose writes take long come behind whose do not.

SQLite has one writer. Who sends hundreds of writes has one turn, then everybody else has one.
"""

import time
from collections.abc import Hashable, Sequence
from typing import Protocol

# Of the processor, in one write. A message takes 0.1 ms; one of 1 MB takes 5.
_LONG_SECONDS = 0.002
# A long write that waited so long comes first all the same.
_OVERDUE_SECONDS = 10.0
# Owners of whose writes is known that they take long.
_MOST_OWNERS = 1024


class Waiting(Protocol):
    """A write in the queue: whose, since when, and whether others may overtake it."""

    owner: Hashable
    since: float
    is_deferred: bool


class WriteOrder:
    """What is known of owners by what they wrote."""

    def __init__(self) -> None:
        self._seconds: dict[Hashable, float] = {}

    def place(self, waiting: Sequence[Waiting], mine: Waiting) -> int:
        """Behind how many of those that wait ``mine`` comes."""
        now = time.monotonic()
        own = self._is_behind(mine, now), sum(write.owner == mine.owner for write in waiting)
        mine.is_deferred = any(own)
        if not waiting or not waiting[-1].is_deferred:
            # As nearly always: nobody waits whom it could overtake.
            return len(waiting)
        turns: dict[Hashable, int] = {}
        for at, write in enumerate(waiting):
            turn = turns.get(write.owner, 0)
            if (self._is_behind(write, now), turn) > own:
                return at
            turns[write.owner] = turn + 1
        return len(waiting)

    def is_long(self, owner: Hashable) -> bool:
        """Whether its writes take long."""
        return owner in self._seconds

    def _is_behind(self, write: Waiting, now: float) -> bool:
        return self.is_long(write.owner) and now - write.since < _OVERDUE_SECONDS

    def learn(self, owner: Hashable, seconds: float) -> None:
        """Take note that a write of ``owner`` took so many seconds of the processor."""
        if owner is None or (seconds < _LONG_SECONDS and owner not in self._seconds):
            return
        average = (self._seconds.get(owner, seconds) + seconds) / 2
        if average < _LONG_SECONDS:
            self._seconds.pop(owner, None)
            return
        if len(self._seconds) >= _MOST_OWNERS:
            self._seconds.clear()
        self._seconds[owner] = average
