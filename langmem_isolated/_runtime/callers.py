"""Callers: for whom a thread works at the moment, and how many of one owner's calls run at once.

One user who sends hundreds of calls must not take every connection and every worker thread: the
others would wait until all of these are done.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple, TypeVar

from langmem_isolated._runtime.budgets import EXACT, Budgets, Owner

T = TypeVar("T")


class _Thread(threading.local):
    """For whom a thread works."""

    owner: Owner = None


_thread = _Thread()


def current_owner() -> Owner:
    """For whom this thread works; ``None`` where it was not said."""
    return _thread.owner


def work_for(owner: Owner) -> Owner:
    """Have this thread work for ``owner`` from now on; returns for whom it did before."""
    before, _thread.owner = _thread.owner, owner
    return before


class Job(NamedTuple):
    """A job over what many have, as an owner: it works for none of them, and has its own budget."""

    name: str


class OnBehalfOf:
    """A context in which this thread works for ``owner``."""

    __slots__ = ("_before", "_owner")

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def __enter__(self) -> None:
        self._before = work_for(self._owner)

    def __exit__(self, *_: object) -> None:
        _thread.owner = self._before


class _Outermost(threading.local):
    """The call of a thread that has the place; others within have none of their own."""

    depth: int = 0
    owner: Owner = None
    clock: Callable[[], float]
    begun: float = 0


class Share:
    """So many calls of one owner at once; those beyond wait in a line of their own.

    Reentrant: a call that a thread makes within another has the place of that one. A call that
    meets nobody pays 3 µs.

    Args:
        most: How many.
        timeout: Seconds that one waits at most.
        refuse: Makes the error for one that waited so long.
        budgets: Who has to rest before the next call.
    """

    def __init__(
        self, most: int, timeout: float, refuse: Callable[[], Exception], budgets: Budgets
    ) -> None:
        self._budgets = budgets
        self._most = most
        self._timeout = timeout
        self._refuse = refuse
        self._lock = threading.Lock()
        # By thread: a place that an interrupt kept from being given back is its thread's next one.
        self._inside: dict[Owner, set[int]] = {}
        self._waiting: dict[Owner, deque[_Place]] = {}
        self._outermost = _Outermost()

    def __enter__(self) -> None:
        outermost = self._outermost
        if not outermost.depth:
            owner = _thread.owner
            self._enter(owner)
            if owner in self._budgets.debtors:
                self._rest(owner, self._budgets.rest(owner))
            outermost.owner, outermost.clock = owner, self._budgets.clock(owner)
            outermost.begun = outermost.clock()
        outermost.depth += 1

    def __exit__(self, *_: object) -> None:
        outermost = self._outermost
        outermost.depth -= 1
        if not outermost.depth:
            owner, clock = outermost.owner, outermost.clock
            seconds = clock() - outermost.begun
            self._budgets.spend(owner, seconds, is_exact=clock is EXACT)
            self._leave(owner)

    def _rest(self, owner: Owner, seconds: float) -> None:
        try:
            time.sleep(seconds)
        except BaseException:
            self._leave(owner)
            raise

    def _enter(self, owner: Owner) -> None:
        thread = threading.get_ident()
        with self._lock:
            inside = self._inside.get(owner)
            if inside is None:
                self._inside[owner] = {thread}
                return
            is_free = (
                len(inside) < self._budgets.at_once(owner, self._most)
                and owner not in self._waiting
            )
            if owner is None or is_free or thread in inside:
                inside.add(thread)
                return
            place = _Place(thread, threading.Lock())
            place.turn.acquire()
            self._waiting.setdefault(owner, deque()).append(place)
        try:
            is_in = place.turn.acquire(timeout=self._timeout)
        except BaseException:
            self._withdraw(owner, place)
            raise
        if not is_in:
            self._withdraw(owner, place)
            raise self._refuse()

    def _withdraw(self, owner: Owner, place: "_Place") -> None:
        """Leave the line; or the place, if it was handed over meanwhile."""
        with self._lock:
            waiting = self._waiting.get(owner, deque())
            if place in waiting:
                waiting.remove(place)
                if not waiting:
                    del self._waiting[owner]
                return
        self._leave(owner)

    def _leave(self, owner: Owner) -> None:
        with self._lock:
            inside = self._inside.get(owner, set())
            inside.discard(threading.get_ident())
            if self._waiting and (waiting := self._waiting.get(owner)):
                while waiting and len(inside) < self._budgets.at_once(owner, self._most):
                    following = waiting.popleft()
                    inside.add(following.thread)
                    following.turn.release()
                if not waiting:
                    del self._waiting[owner]
            if not inside:
                self._inside.pop(owner, None)


class _Place(NamedTuple):
    """In the line of an owner's calls: whose thread, and what it waits for."""

    thread: int
    turn: threading.Lock


class FairExecutor:
    """Runs calls in the threads of ``pool``, of one owner at most ``most`` at once.

    A pool takes calls in the order they came. Here those of one owner that are beyond its share are
    not given to the pool yet, so that another's stand behind few of them.

    Args:
        pool: The threads.
        most: How many of them one owner may have.
        budgets: Who has to rest, and does that in one of them.
    """

    def __init__(self, pool: Executor, most: int, budgets: Budgets) -> None:
        self._pool = pool
        self._most = most
        self._budgets = budgets
        self._lock = threading.Lock()
        self._running: dict[Owner, int] = {}
        self._waiting: dict[Owner, deque[Callable[[], None]]] = {}

    def submit(self, owner: Owner, call: Callable[[], T]) -> Future[T]:
        """Run ``call`` when it is its turn."""
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                _settle(future, call)

        with self._lock:
            running = self._running.get(owner, 0)
            if running >= self._budgets.at_once(owner, self._most):
                self._waiting.setdefault(owner, deque()).append(run)
                return future
            self._running[owner] = running + 1
        self._start(owner, run)
        return future

    def _start(self, owner: Owner, run: Callable[[], None]) -> None:
        try:
            self._pool.submit(self._run, owner, run)
        except BaseException:
            # What was put behind it meanwhile was accepted.
            self._go_on(owner)
            raise

    def _run(self, owner: Owner, run: Callable[[], None]) -> None:
        run()
        self._go_on(owner)

    def _go_on(self, owner: Owner) -> None:
        """After a call has ended: begin those of its owner that have a place now."""
        following = self._end(owner)
        while following:
            run = following.pop(0)
            try:
                # At the end of the line: those of others come first.
                self._pool.submit(self._run, owner, run)
            except RuntimeError:
                # The pool is being shut down, and finishes what it was given: this, too.
                run()
                following += self._end(owner)

    def _end(self, owner: Owner) -> list[Callable[[], None]]:
        """Take note that a call has ended; the next of its owner, which have their places now."""
        with self._lock:
            running, most = self._running.pop(owner) - 1, self._budgets.at_once(owner, self._most)
            waiting, following = self._waiting.pop(owner, deque()), []
            while waiting and running < most:
                following.append(waiting.popleft())
                running += 1
            if running:
                self._running[owner] = running
            if waiting:
                self._waiting[owner] = waiting
            return following

    def shutdown(self) -> None:
        """Finish all that was submitted."""
        self._pool.shutdown()


def _settle(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - as the standard library's executors do
        future.set_exception(error)
    else:
        future.set_result(result)
