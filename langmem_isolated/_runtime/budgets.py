"""Budgets: how much time one owner's calls may take while others call, too.

A token bucket. Everybody may take a burst at once; who goes on and on, and lets others wait, rests
between calls, so that most of theirs meet nobody. Who is alone never rests.
"""

import threading
import time
from collections.abc import Callable, Container, Hashable

from langmem_isolated._runtime.forking import renew_in_children

Owner = Hashable

# Seconds that an owner may take at once: 30 messages of 1 MB, or 20 searches of 10,000 documents.
_BURST_SECONDS = 1.0
# What comes back in each second: with a third, two in three of others' calls meet no long one, and
# who has a long job to do while others call, such as an import, takes three times as long.
_RATE = 0.33
# The longest rest. A call that took longer than it stands for is not made up for.
_MOST_REST_SECONDS = 1.0
# Others count as calling for so long after a call: longer than a long call keeps them waiting.
_COMPANY_SECONDS = 10.0
# What is shorter is not counted, however often: a turn's calls take a millisecond each, and who
# makes nothing but those in a loop leaves others their share.
_SHORT_SECONDS = 0.02
# Of what nobody else can do meanwhile, as write to SQLite. A message takes 0.1 ms, one of 1 MB 10.
_SHORT_EXCLUSIVE_SECONDS = 0.002
EXACT = time.thread_time
"""A clock by which nothing but the processor's time counts."""
# Owners who have taken some of their burst.
_MOST_OWNERS = 1024


class Budgets:
    """What owners have left."""

    def __init__(self) -> None:
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Begin anew, with a lock that no thread of a parent holds."""
        self._lock = threading.Lock()
        # What is left, and when that was so.
        self._left: dict[Owner, tuple[float, float]] = {}
        self.debtors: Container[Owner] = self._left
        """Who may have to rest: all others do not."""
        self._last: tuple[Owner, float] = (None, 0.0)
        self._last_other: tuple[Owner, float] = (None, 0.0)
        # Who has taken long by the wall, and may have waited only.
        self._timed: set[Owner] = set()

    def clock(self, owner: Owner) -> Callable[[], float]:
        """By what a call of ``owner`` is timed: by :data:`EXACT` where the last one took long.

        To ask the system for that takes 1 to 4 µs, twice: all others are timed by the wall.
        """
        return EXACT if owner in self._timed else time.perf_counter

    def spend(
        self, owner: Owner, seconds: float, *, held: float | None = None, is_exact: bool = True
    ) -> None:
        """Take note of a call of ``owner``.

        Args:
            owner: Whose it was.
            seconds: What it took of the processor: by this it is short or not. Or by the wall,
                where not ``is_exact``: then the next one is timed exactly, if this was long.
            held: How long it kept all others out, where it did, the wait for the disk included.
                That is what counts then.
            is_exact: See ``seconds``.
        """
        now = time.monotonic()
        if owner != self._last[0]:
            self._last_other = self._last
        self._last = owner, now
        least = _SHORT_SECONDS if held is None else _SHORT_EXCLUSIVE_SECONDS
        if owner is not None and seconds >= least:
            counted = seconds if held is None else held
            self._take(owner, counted if is_exact else 0, now)
        elif is_exact:
            self._timed.discard(owner)

    def _take(self, owner: Owner, seconds: float, now: float) -> None:
        with self._lock:
            if max(len(self._left), len(self._timed)) >= _MOST_OWNERS:
                self._left.clear()
                self._timed.clear()
            self._timed.add(owner)
            if seconds:
                left = self._of(owner, now) - seconds
                self._left[owner] = max(left, -_MOST_REST_SECONDS * _RATE), now

    def rest(self, owner: Owner) -> float:
        """For how many seconds the next call of ``owner`` is not begun; 0 for nearly all."""
        if owner not in self._left:
            return 0
        now = time.monotonic()
        _, last_of_others = self._last if self._last[0] != owner else self._last_other
        with self._lock:
            left = self._of(owner, now)
            if left >= _BURST_SECONDS:
                self._left.pop(owner, None)
        return 0 if left >= 0 or now - last_of_others > _COMPANY_SECONDS else -left / _RATE

    def at_once(self, owner: Owner, most: int) -> int:
        """How many of at most ``most`` calls run at once: one of an owner who has to rest.

        Who rests in several threads at once does not rest.
        """
        return 1 if self.rest(owner) else most

    def _of(self, owner: Owner, now: float) -> float:
        left, then = self._left.get(owner, (_BURST_SECONDS, now))
        return min(_BURST_SECONDS, left + (now - then) * _RATE)
