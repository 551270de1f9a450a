"""Garbage collection: paused while many objects are made at once that all live on."""

import gc
import threading
from types import TracebackType

from langmem_isolated._runtime.forking import renew_in_children


class CollectionPause:
    """Pauses the cyclic garbage collector of the process, for any number of threads at once.

    To rebuild 10,000 messages makes 40,000 containers, all of them in use. The collector goes
    through the young ones 57 times and, being due by then, through everything the process has: 130
    of 150 ms. Paused, it looks once, behind it.

    The process has one collector: what others leave meanwhile, some milliseconds, waits too. Where
    it is off already, it stays off. A thread that switches it off during a pause finds it on again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._was_enabled = False
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Go on in a child, where nobody ends what was paused."""
        if self._depth and self._was_enabled:
            gc.enable()
        self._lock = threading.Lock()
        self._depth = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._depth:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            # A child that was forked meanwhile has begun anew.
            self._depth = max(self._depth - 1, 0)
            if not self._depth and self._was_enabled:
                gc.enable()


collection_paused = CollectionPause()
