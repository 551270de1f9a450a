"""Exponential backoff with jitter: how long to wait before the next attempt, and when to stop."""

import random
import time

# Half a second each in the end, so that all of them take 4 s at most: 8 threads that added to one
# row under SERIALIZABLE, 160 times in all, took 3 of them for one at most.
_MOST = 12
_FIRST_SECONDS = 0.005
_LONGEST_SECONDS = 0.5


class Backoff:
    """Pauses between attempts, each up to twice as long as the one before.

    Args:
        seconds: How long there may be attempts, from now on.
        most: How many pauses; ``None`` for as many as there is time for.
    """

    __slots__ = ("_left", "_pause", "_until")

    def __init__(self, seconds: float, most: int | None = _MOST) -> None:
        self._until = time.monotonic() + seconds
        self._left = most
        self._pause = _FIRST_SECONDS

    def wait(self) -> bool:
        """Sleep until the next attempt may begin; ``False`` at once if there is to be none."""
        # Of two that met each other each waits for another time, or they meet again.
        pause = self._pause * random.uniform(0.5, 1)  # noqa: S311 - no secret
        if self._left == 0 or time.monotonic() + pause > self._until:
            return False
        if self._left is not None:
            self._left -= 1
        self._pause = min(2 * self._pause, _LONGEST_SECONDS)
        time.sleep(pause)
        return True
