"""Wall clock: times as the tables hold them, and as people read them."""

import time
from datetime import UTC, datetime

EPOCH = datetime.fromtimestamp(0, UTC)


def now() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def now_microseconds() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def as_moment(milliseconds: int) -> datetime | None:
    """The moment that :func:`now` gave; ``None`` for what no clock shows, as tampering leaves."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OSError, OverflowError, TypeError, ValueError):
        return None
