"""Attempts to store a body in a thread that others write and prune meanwhile."""

from collections.abc import Callable

from langmem_isolated.errors import DatabaseLocked

# Between two steps of ours may come a sweep, or another that writes for the same task: each failed
# attempt is one of those done.
MOST = 50


def until_stored(attempt: Callable[[], bool]) -> None:
    """Call ``attempt`` until it says that it stored.

    Raises:
        DatabaseLocked: It never did.
    """
    for _ in range(MOST):
        if attempt():
            return
    raise busy()


def busy() -> DatabaseLocked:
    """What is raised when no attempt succeeds; nothing was written."""
    return DatabaseLocked(
        f"A thread was pruned or written by others {MOST} times while it was being written. "
        "Nothing was written; try again."
    )
