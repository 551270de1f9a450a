"""Garbage collection: paused while many objects are made at once that all live on."""

import gc
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

from langmem_isolated._runtime.forking import renew_in_children

# The collector looks behind 700 new containers; a message has four.
_MANY = 175


class CollectionPause:
    """Pauses the cyclic garbage collector of the process, for any number of threads at once.

    To rebuild 10,000 messages makes 40,000 containers, all of them in use. The collector goes
    through the young ones 57 times and, being due by then, through everything the process has: 130
    of 150 ms. Paused, it looks once, behind it.

    The process has one collector: what others leave meanwhile, some milliseconds, waits too. Where
    it is off already, it stays off. A thread that switches it off during a pause finds it on again.

    Args:
        longest: Seconds after which it is on again although threads go on without a gap: garbage
            must not pile up. It is that, too, that ends a pause whose thread was interrupted on its
            way in. A rebuild of 10,000 messages takes a tenth of it.
    """

    def __init__(self, longest: float = 0.25) -> None:
        self._longest = longest
        self._lock = threading.Lock()
        self._depth = 0
        self._was_enabled = False
        self._began = 0.0
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Go on in a child, where nobody ends what was paused."""
        if self._depth and self._was_enabled:
            gc.enable()
        self._lock = threading.Lock()
        self._depth = 0

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._began = time.monotonic()
                self._was_enabled = gc.isenabled()
                gc.disable()
            elif self._was_enabled and time.monotonic() - self._began > self._longest:
                gc.enable()

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


def paused_for(messages: int) -> AbstractContextManager[None]:
    """The pause of the process while so many messages are rebuilt; none where they are few."""
    return collection_paused if messages >= _MANY else nullcontext()
