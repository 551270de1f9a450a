"""A clock for tests: what expires, is swept or is due does so when the test says."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

from langmem_isolated._runtime import clock
from langmem_isolated._runtime.arguments import kind_of


class FakeClock:
    """The clock of the library in this process, set forward by the test and by nothing else.

    It begins at the present and stands. Lifetimes of sessions, threads, items and caches, retention
    and sweeps go by it. What goes by another clock stays with that: grants and guests by the
    database's, cached keys and time limits by the machine's monotonic one.

    >>> with FakeClock().installed() as clock:
    ...     saver = scope.checkpointer(ttl=timedelta(hours=1))
    ...     config = {"configurable": {"thread_id": "chat-1"}}
    ...     graph = builder.compile(checkpointer=saver)
    ...     _ = graph.invoke({"messages": [("human", "Hi")]}, config)
    ...     clock.advance(timedelta(hours=2))
    ...     graph.get_state(config).values
    {}
    """

    def __init__(self) -> None:
        self._nanoseconds = time.time_ns()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"FakeClock({self.now.isoformat()})"

    @property
    def now(self) -> datetime:
        """The moment that it shows, UTC."""
        return datetime.fromtimestamp(self._nanoseconds / 1e9, UTC)

    def time_ns(self) -> int:
        """Nanoseconds since 1970, as `time.time_ns`."""
        return self._nanoseconds

    def advance(self, span: timedelta | float) -> None:
        """Set it forward by a span, or by seconds.

        Raises:
            TypeError: It is neither.
            ValueError: It is below 0: what was written later would be earlier.
        """
        if isinstance(span, bool) or not isinstance(span, timedelta | int | float):
            raise TypeError(
                f"advance takes a timedelta or seconds, got {kind_of(span)}. "
                "Write clock.advance(timedelta(days=1))."
            )
        passed = span if isinstance(span, timedelta) else timedelta(seconds=span)
        if passed < timedelta(0):
            raise ValueError("advance takes a span of 0 or more, got one below. Use another clock.")
        with self._lock:
            self._nanoseconds += passed // timedelta(microseconds=1) * 1000

    @contextmanager
    def installed(self) -> Iterator["FakeClock"]:
        """The library goes by it inside, in every thread of this process."""
        with patch.object(clock, "time", self):
            yield self
