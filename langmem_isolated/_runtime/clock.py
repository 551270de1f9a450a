"""Clock: times as the tables hold them, and as people read them."""

import threading
import time
from datetime import UTC, datetime, timedelta

from langmem_isolated._runtime.forking import renew_in_children

EPOCH = datetime.fromtimestamp(0, UTC)
MICROSECOND = timedelta(microseconds=1)
SECOND = 1_000_000
"""Microseconds."""
# 73,000 years: from any time that a clock shows, so much later still fits a column.
_LONGEST = 2**61


class _Clock:
    """A wall clock that gives no time twice: what was written later has a later time."""

    def __init__(self) -> None:
        self._last = 0
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Give a forked child a lock that no thread of its parent holds."""
        self._lock = threading.Lock()

    def tick(self, moment: int) -> int:
        """``moment``, or what follows the last one given where that is not later.

        A clock that was set back by more than a second is believed.
        """
        with self._lock:
            if 0 <= self._last - moment < SECOND:
                moment = self._last + 1
            self._last = moment
            return moment

    def witness(self, moment: int, wall: int) -> None:
        """Give times later than ``moment``, which another process gave, from now on.

        What is a second or more ahead of this clock is not believed.
        """
        with self._lock:
            if self._last < moment < wall + SECOND:
                self._last = moment


_clock = _Clock()


def now() -> int:
    """Microseconds since 1970, UTC; each later than the one before in this process."""
    return _clock.tick(time.time_ns() // 1000)


def witness(moment: int) -> None:
    """Give times later than ``moment`` from now on: what follows something seen is later than it.

    So machines whose clocks differ by less than a second agree on the order of what one did after
    it saw what the other did (a hybrid logical clock, Kulkarni et al. 2014).
    """
    _clock.witness(moment, time.time_ns() // 1000)


def lifetime(ttl: timedelta | None) -> int | None:
    """A time to live in microseconds, 73,000 years at most; ``None`` for one that never ends."""
    return None if ttl is None else min(ttl // MICROSECOND, _LONGEST)


def as_moment(microseconds: int) -> datetime | None:
    """The moment that :func:`now` gave; ``None`` for what no clock shows, as tampering leaves."""
    try:
        return EPOCH + timedelta(microseconds=microseconds)
    except (OverflowError, TypeError):
        return None
