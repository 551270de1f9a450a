"""File locks: one process at a time, let go when it ends, however it ends."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        # Tries for ten seconds, then raises OSError.
        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextmanager
def locked_beside(path: Path) -> Iterator[None]:
    """Wait for whoever else has ``path`` locked, other threads of this process too.

    What is locked is ``NAME.lock`` beside it, an empty file of mode 0600 that stays: ``path``
    itself may be replaced meanwhile.

    Raises:
        OSError: It cannot be made or locked.
    """
    beside = path.with_name(f"{path.name}.lock")
    descriptor = os.open(beside, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)
