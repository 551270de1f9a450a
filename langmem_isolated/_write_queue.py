"""Lets threads that want to write at the same time share a transaction, where one writes at a time.

SQLite has one writer. Whoever gets the turn writes for those who wait as well, in one transaction:
a commit, and the wait for the disk, is paid once. Each gets its own result. Where a shared
transaction fails, nothing of it was stored, and each of its writes is done again by itself, so that
an error reaches the one whose it is.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from langmem_isolated.errors import DatabaseLocked

T = TypeVar("T")

# More would make those who wait for the first wait for the last.
TOGETHER = 64
# How soon a turn is taken up that somebody was interrupted in passing on.
_LOOK_AGAIN_SECONDS = 1.0
# Before a turn is handed over, for other processes, which poll: three threads that wrote on and on
# kept a second process out for minutes.
_PAUSE_SECONDS = 0.0005


class _Write:
    """One write on its way in."""

    __slots__ = ("_ready", "by_itself", "is_done", "operation", "result")

    def __init__(self, operation: Callable[[Any], Any]) -> None:
        self.operation = operation
        # Signals interrupt the main thread: it writes for nobody else.
        self.by_itself = threading.current_thread() is threading.main_thread()
        self.is_done = False
        self.result: Any = None
        self._ready = threading.Lock()
        self._ready.acquire()

    def finish(self, result: Any) -> None:
        self.result, self.is_done = result, True
        self.wake()

    def wake(self) -> None:
        """Have the thread that waits look what there is for it to do."""
        with suppress(RuntimeError):
            self._ready.release()

    def wait(self, seconds: float) -> None:
        """Wait until it is done, or may be begun."""
        self._ready.acquire(timeout=seconds)


class WriteQueue:
    """Runs writes one after the other, those that wait in one transaction.

    Args:
        run: Runs an operation in a transaction of its own.
        timeout: Seconds to wait for a turn.
    """

    def __init__(self, run: Callable[[Callable[[Any], Any]], Any], timeout: float) -> None:
        self._run = run
        self._timeout = timeout
        # SQLite's busy handler sleeps and retries without a queue: 50 writers saw a p99 of 118 ms,
        # with a lock in the process 27 ms. Re-entrant: Ctrl-C may strike after a turn is taken, and
        # must not lock out the thread it struck.
        self._turn = threading.RLock()
        self._waiting: deque[_Write] = deque()

    def write(self, operation: Callable[[Any], T]) -> T:
        """Run ``operation``; once this returns, what it wrote is stored.

        Raises:
            DatabaseLocked: Its turn did not come in time; nothing was written.
        """
        mine = _Write(operation)
        deadline = time.monotonic() + self._timeout
        # Who comes when others wait does not overtake them: handing the turn over leaves a moment
        # in which another process gets in.
        may_begin = not self._waiting
        try:
            self._waiting.append(mine)
            while not mine.is_done:
                if may_begin and self._turn.acquire(blocking=False):
                    self._take_turn(mine)
                else:
                    self._wait(mine, deadline)
                may_begin = True
        except BaseException:
            self._withdraw(mine)
            raise
        return cast(T, mine.result)

    def _take_turn(self, mine: _Write) -> None:
        try:
            if not mine.is_done:
                self._write(self._those_with(mine))
        finally:
            self._turn.release()
            if self._waiting:
                time.sleep(_PAUSE_SECONDS)
                self._wake_next()

    def _wait(self, mine: _Write, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0 and self._withdraw(mine):
            raise DatabaseLocked(f"No turn to write within {self._timeout} s. Nothing was written.")
        mine.wait(min(left, _LOOK_AGAIN_SECONDS) if left > 0 else _LOOK_AGAIN_SECONDS)

    def _wake_next(self) -> None:
        with suppress(IndexError):
            self._waiting[0].wake()

    def _withdraw(self, mine: _Write) -> bool:
        """Whether it was still waiting, and is not any more."""
        with suppress(ValueError):
            self._waiting.remove(mine)
            self._wake_next()
            return True
        return False

    def _those_with(self, mine: _Write) -> list[_Write]:
        """``mine`` and those that wait with it; only who has the turn takes from them."""
        with suppress(ValueError):
            self._waiting.remove(mine)
        batch = [mine]
        with suppress(IndexError):
            while not mine.by_itself and len(batch) < TOGETHER and not self._waiting[0].by_itself:
                batch.append(self._waiting.popleft())
        return batch

    def _write(self, batch: list[_Write]) -> None:
        try:
            results = self._run(lambda transaction: [one.operation(transaction) for one in batch])
        except BaseException:
            if len(batch) == 1:
                raise
            # Perhaps another's: each finds its own error by itself.
            for one in batch:
                one.by_itself = True
            self._waiting.extendleft(batch[:0:-1])
        else:
            for one, result in zip(batch, results, strict=True):
                one.finish(result)
