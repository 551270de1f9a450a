"""Group commit: threads that want to write at the same time share a transaction.

SQLite has one writer. The thread that gets the lock is the leader: it writes for the followers that
wait as well, in one transaction, so that a commit, and the wait for the disk, is paid once. Each
gets its own result. A write that fails among others is undone (savepoint), and done again by itself
in the thread whose it is: there it meets its own error.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from langmem_isolated._database.write_order import WriteOrder
from langmem_isolated._runtime.budgets import EXACT, Budgets
from langmem_isolated._runtime.callers import current_owner
from langmem_isolated.errors import DatabaseLocked

P = ParamSpec("P")
T = TypeVar("T")

# More would make those who wait for the first wait for the last.
MAX_BATCH = 64
# For so long the leader writes for others; a message takes 0.1 ms.
_GROUP_SECONDS = 0.005
# How soon the lead is taken up that somebody was interrupted in passing on.
_LOOK_AGAIN_SECONDS = 1.0
# Before the lead is handed over, for other processes, which poll: three threads that wrote on
# and on kept a second process out for more than 30 s.
_PAUSE_SECONDS = 0.0005


class Transaction(Protocol):
    """What a write is run in."""

    is_stored: bool

    @property
    def is_open(self) -> bool:
        """Whether the database has not undone it all, as it does where the disk is full."""

    def attempt(
        self, operation: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation``; where it raises, nothing of it stays."""


class _Write:
    """One write in the queue."""

    __slots__ = (
        *("_call", "_ready", "_transaction", "by_itself", "has_run", "result"),
        *("begun", "is_deferred", "is_exact", "owner", "seconds", "since"),
    )

    def __init__(self, operation: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> None:
        self._call = operation, args, kwargs
        self.owner = current_owner()
        self.since = self.begun = time.monotonic()
        self.seconds: float | None = None
        self.is_exact = self.is_deferred = False
        self.by_itself = False
        self.has_run = False
        self.result: Any = None
        self._transaction: Transaction | None = None
        self._ready = threading.Lock()
        self._ready.acquire()

    def know_thread(self) -> None:
        """Take note, in its own thread, of which that is, where others wait as well."""
        # Signals interrupt the main thread: it writes for nobody else.
        self.by_itself |= threading.current_thread() is threading.main_thread()

    def run(self, transaction: Transaction) -> None:
        """Run it in its own thread, which leads."""
        operation, args, kwargs = self._call
        self._transaction, self.has_run = transaction, False
        self.result = operation(transaction, *args, **kwargs)
        self.has_run = True

    def run_for_follower(self, transaction: Transaction) -> None:
        """Run it for the thread whose it is; if it fails that one does it again, by itself."""
        operation, args, kwargs = self._call
        self._transaction, self.has_run = transaction, False
        try:
            self.result = transaction.attempt(operation, *args, **kwargs)
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
    """Runs writes one after the other, those that wait in one transaction (group commit).

    Args:
        run: Runs an operation in a transaction of its own.
        timeout: Seconds to wait for a write to begin.
        budgets: Who has to rest.
    """

    def __init__(
        self,
        run: Callable[[Callable[[Transaction], None]], None],
        timeout: float,
        budgets: Budgets,
    ) -> None:
        self._run = run
        self._timeout = timeout
        # SQLite's busy handler sleeps and retries without a queue: 50 writers saw a p99 of 118 ms,
        # with a lock in the process 27 ms. One that knows its owner: nobody gives back another's.
        self._lead = threading.RLock()
        self._waiting: deque[_Write] = deque()
        self._order = WriteOrder()
        self._budgets = budgets

    def write(
        self, operation: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation``; once this returns, what it wrote is stored.

        Raises:
            DatabaseLocked: It was not begun in time; nothing was written.
        """
        result: T = self._write(_Write(operation, args, kwargs))
        return result

    def _write(self, mine: _Write) -> Any:
        deadline = time.monotonic() + self._timeout
        try:
            may_lead = True
            rest = self._budgets.rest(mine.owner)
            is_alone = not self._waiting and not rest
            if is_alone and self._lead.acquire(blocking=False):
                # Most writes are alone, and need no place in the queue.
                self._lead_batch(mine)
            else:
                may_lead = self._enter(mine)
            while not mine.is_done:
                left = self._time_left(mine, deadline)
                rest = self._budgets.rest(mine.owner)
                if may_lead and not rest and self._lead.acquire(blocking=False):
                    self._lead_batch(mine)
                else:
                    mine.wait(min(left, rest or _LOOK_AGAIN_SECONDS))
                may_lead = True
        except BaseException:
            self._withdraw(mine)
            with suppress(RuntimeError):
                # Interrupted between taking the lead and using it; not if it was given back.
                self._lead.release()
            raise
        return mine.result

    def _enter(self, mine: _Write) -> bool:
        """Enter the queue; whether it may lead at once."""
        mine.know_thread()
        self._waiting.insert(self._order.place([*self._waiting], mine), mine)
        # Who comes when others wait does not overtake them.
        return self._next() is mine

    def _lead_batch(self, mine: _Write) -> None:
        """As the leader: write for those who wait as well, then pass the lead on."""
        try:
            if not mine.is_done:
                self._commit(mine, self._take_followers(mine))
                self._learn(mine)
        finally:
            self._lead.release()
            if self._waiting and self._next() is not None:
                time.sleep(_PAUSE_SECONDS)
                self._wake_next()

    def _commit(self, mine: _Write, followers: list[_Write]) -> None:
        def write_all(transaction: Transaction) -> None:
            mine.begun, clock = time.monotonic(), self._budgets.clock(mine.owner)
            begun = clock()
            mine.run(transaction)
            mine.seconds, mine.is_exact = clock() - begun, clock is EXACT
            end = time.monotonic() + _GROUP_SECONDS if followers else 0
            for follower in followers:
                if time.monotonic() < end:
                    follower.run_for_follower(transaction)

        try:
            self._run(write_all)
        except BaseException as error:
            if mine.is_done:
                # Interrupted behind the commit.
                self._finish(followers)
                raise
            if not followers or not mine.has_run or not isinstance(error, Exception):
                self._requeue(followers)
                raise
            # The commit failed, or the database undid everything: perhaps for one of them.
            for write in (mine, *followers):
                write.by_itself = True
            self._requeue([mine, *followers])
        else:
            self._finish(followers)

    def _learn(self, mine: _Write) -> None:
        if mine.seconds is None:
            return
        held = time.monotonic() - mine.begun
        self._budgets.spend(mine.owner, mine.seconds, held=held, is_exact=mine.is_exact)
        if mine.is_exact:
            self._order.learn(mine.owner, mine.seconds)

    def _take_followers(self, mine: _Write) -> list[_Write]:
        """Take ``mine`` and those that wait with it from the queue; only the leader does.

        Not those that take long: it would wait for them.
        """
        if not self._waiting:
            return []
        mine.know_thread()
        with suppress(ValueError):
            self._waiting.remove(mine)
        followers: list[_Write] = []
        with suppress(IndexError):
            while not mine.by_itself and len(followers) + 1 < MAX_BATCH:
                following = self._waiting[0]
                if following.by_itself or self._order.is_long(following.owner):
                    break
                followers.append(self._waiting.popleft())
        return followers

    def _finish(self, followers: list[_Write]) -> None:
        """Wake those that are stored, and put back those that failed or were not begun."""
        if not followers:
            return
        self._requeue([write for write in followers if not write.has_run])
        for write in followers:
            write.wake()

    def _requeue(self, writes: list[_Write]) -> None:
        self._waiting.extendleft(reversed(writes))

    def _time_left(self, mine: _Write, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left > 0:
            return left
        if self._withdraw(mine):
            raise DatabaseLocked(f"No turn to write within {self._timeout} s. Nothing was written.")
        # It was begun.
        return _LOOK_AGAIN_SECONDS

    def _withdraw(self, mine: _Write) -> bool:
        """Whether it was still waiting, and is not any more."""
        with suppress(ValueError):
            self._waiting.remove(mine)
            self._wake_next()
            return True
        return False

    def _next(self) -> _Write | None:
        """The first that waits for its turn, and does not rest."""
        resting = self._budgets.rest
        return next((write for write in list(self._waiting) if not resting(write.owner)), None)

    def _wake_next(self) -> None:
        if (write := self._next()) is not None:
            write.wake()
