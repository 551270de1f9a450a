"""Writer lock of SQLite between processes: tried again after short waits of random length.

Inside a process writers queue; between processes there is no queue, only tries. SQLite's own
(``busy_timeout``) come further and further apart, up to 100 ms, while a gap between two commits of
another process lasts half a millisecond: of four processes with 50 writers each, one writer in a
hundred waited for 870 ms, and one for 1.7 s. Tried this way 180 and 275 ms, and as many commits.
"""

import random
import sqlite3
import time

from langmem_isolated._database.options import milliseconds

# About as long as a leader pauses for other processes; a try that fails takes 3 µs. From 1 to 2 ms
# let one in a hundred wait for 350 ms.
_STEP_SECONDS = 0.0003, 0.0009
# Who waited so long met another process: SQLite's first wait is of a millisecond.
_MET_SECONDS = 0.001
# Who wrote within so long knows whether there are others, and takes those met to be there still.
_LATELY_SECONDS = 0.1


class WriterLock:
    """Begins write transactions, while other processes begin theirs.

    Args:
        begin: The statement that takes the lock.
        timeout: Seconds to wait for it, as every connection's ``busy_timeout`` has them, too.
    """

    def __init__(self, begin: str, timeout: float) -> None:
        self._begin = begin
        self._timeout = timeout
        self._milliseconds = milliseconds(timeout)
        self._wrote_at = self._met_at = -_LATELY_SECONDS

    def take(self, cursor: sqlite3.Cursor) -> None:
        """Begin a write transaction.

        Raises:
            sqlite3.OperationalError: The lock was not free in time, or the file refused.
        """
        before = time.monotonic()
        is_known = before - self._wrote_at < _LATELY_SECONDS
        if is_known and before - self._met_at > _LATELY_SECONDS:
            # Alone, as nearly always: to turn SQLite's own waiting off and on takes 9 µs.
            cursor.execute(self._begin)
            self._wrote_at = time.monotonic()
            has_met = self._wrote_at - before > _MET_SECONDS
        else:
            has_met = self._poll(cursor, before + self._timeout)
            self._wrote_at = time.monotonic()
        if has_met:
            self._met_at = self._wrote_at

    def _poll(self, cursor: sqlite3.Cursor, deadline: float) -> bool:
        """Try until the lock is taken; whether it was another's before."""
        has_met = False
        cursor.execute("PRAGMA busy_timeout = 0")
        try:
            while not self._is_taken(cursor, is_last=time.monotonic() > deadline):
                has_met = True
                time.sleep(random.uniform(*_STEP_SECONDS))  # noqa: S311 - no secret
            return has_met
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {self._milliseconds}")

    def _is_taken(self, cursor: sqlite3.Cursor, *, is_last: bool) -> bool:
        try:
            cursor.execute(self._begin)
        except sqlite3.OperationalError as error:
            if is_last or not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise
            return False
        return True
