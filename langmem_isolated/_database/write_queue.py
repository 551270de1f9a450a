"""Lets threads that want to write at the same time share a transaction, where one writes at a time.

SQLite has one writer. Whoever gets the turn writes for those who wait as well, in one transaction:
a commit, and the wait for the disk, is paid once. Each gets its own result. A write that fails
among others is undone, and done again by itself in the thread whose it is: there it meets its own
error.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar, cast

from langmem_isolated.errors import DatabaseLocked

T = TypeVar("T")

# More would make those who wait for the first wait for the last.
TOGETHER = 64
# How soon a turn is taken up that somebody was interrupted in passing on.
_LOOK_AGAIN_SECONDS = 1.0
# Before a turn is handed over, for other processes, which poll: three threads that wrote on and on
# kept a second process out for more than 30 s.
_PAUSE_SECONDS = 0.0005


class Transaction(Protocol):
    """What a write is run in."""

    is_stored: bool

    @property
    def is_open(self) -> bool:
        """Whether the database has not undone it all, as it does where the disk is full."""

    def attempt(self, operation: Callable[[Any], T]) -> T:
        """Run ``operation``; where it raises, nothing of it stays."""


class _Write:
    """One write on its way in."""

    __slots__ = ("_ready", "_transaction", "by_itself", "has_run", "operation", "result")

    def __init__(self, operation: Callable[[Any], Any]) -> None:
        self.operation = operation
        # Signals interrupt the main thread: it writes for nobody else.
        self.by_itself = threading.current_thread() is threading.main_thread()
        self.has_run = False
        self.result: Any = None
        self._transaction: Transaction | None = None
        self._ready = threading.Lock()
        self._ready.acquire()

    def run(self, transaction: Transaction) -> None:
        """Run it in its own thread."""
        self._transaction, self.has_run = transaction, False
        self.result = self.operation(transaction)
        self.has_run = True

    def run_for(self, transaction: Transaction) -> None:
        """Run it for the thread whose it is; if it fails that one does it again, by itself."""
        self._transaction, self.has_run = transaction, False
        try:
            self.result = transaction.attempt(self.operation)
        except BaseException:
            if not transaction.is_open:
                raise
            self.by_itself = True
        else:
            self.has_run = True

    @property
    def is_done(self) -> bool:
        """Whether it is stored."""
        return self.has_run and self._transaction is not None and self._transaction.is_stored

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

    def __init__(
        self, run: Callable[[Callable[[Transaction], None]], None], timeout: float
    ) -> None:
        self._run = run
        self._timeout = timeout
        # SQLite's busy handler sleeps and retries without a queue: 50 writers saw a p99 of 118 ms,
        # with a lock in the process 27 ms. One that knows its owner: nobody gives back another's.
        self._turn = threading.RLock()
        self._waiting: deque[_Write] = deque()

    def write(self, operation: Callable[[Any], T]) -> T:
        """Run ``operation``; once this returns, what it wrote is stored.

        Raises:
            DatabaseLocked: Its turn did not come in time; nothing was written.
        """
        mine = _Write(operation)
        deadline = time.monotonic() + self._timeout
        try:
            self._waiting.append(mine)
            # Who comes when others wait does not overtake them.
            may_begin = len(self._waiting) == 1
            while not mine.is_done:
                left = self._time_left(mine, deadline)
                if may_begin and self._turn.acquire(blocking=False):
                    self._take_turn(mine)
                else:
                    mine.wait(min(left, _LOOK_AGAIN_SECONDS))
                may_begin = True
        except BaseException:
            self._withdraw(mine)
            with suppress(RuntimeError):
                # Interrupted between taking the turn and using it; not if it was given back.
                self._turn.release()
            raise
        return cast(T, mine.result)

    def _time_left(self, mine: _Write, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left > 0:
            return left
        if self._withdraw(mine):
            raise DatabaseLocked(f"No turn to write within {self._timeout} s. Nothing was written.")
        # It was begun.
        return _LOOK_AGAIN_SECONDS

    def _take_turn(self, mine: _Write) -> None:
        try:
            if not mine.is_done:
                self._write(self._those_with(mine))
        finally:
            self._turn.release()
            if self._waiting:
                time.sleep(_PAUSE_SECONDS)
                self._wake_next()

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
        mine, *others = batch

        def together(transaction: Transaction) -> None:
            mine.run(transaction)
            for other in others:
                other.run_for(transaction)

        try:
            self._run(together)
        except BaseException as error:
            if mine.is_done:
                # Interrupted behind the commit.
                self._finish(others)
                raise
            if not others or not mine.has_run or not isinstance(error, Exception):
                self._put_back(others)
                raise
            # The commit failed, or the database undid everything: perhaps for one of them.
            for one in batch:
                one.by_itself = True
            self._put_back(batch)
        else:
            self._finish(others)

    def _finish(self, others: list[_Write]) -> None:
        self._put_back([one for one in others if not one.has_run])
        for one in others:
            one.wake()

    def _put_back(self, writes: list[_Write]) -> None:
        self._waiting.extendleft(reversed(writes))
