"""Times of a source: aware, whatever form they are stored in."""

from __future__ import annotations

from datetime import UTC, datetime


class TimeRefused(ValueError):
    """What is stored is no time; its text has nothing of it in it."""


def aware(stored: str | float | None) -> datetime | None:
    """A time of ISO 8601 or of seconds since 1970, as text or a number; UTC if it names no zone.

    Raises:
        TimeRefused: It is neither.
    """
    if stored is None:
        return None
    try:
        time = _parsed(stored)
    except (TypeError, ValueError, OverflowError, OSError):
        got = f"{len(stored)} characters" if isinstance(stored, str) else type(stored).__name__
        raise TimeRefused(f"expected a time of ISO 8601 or seconds since 1970, got {got}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _parsed(stored: str | float) -> datetime:
    if isinstance(stored, str):
        try:
            return datetime.fromisoformat(stored)
        except ValueError:
            stored = float(stored)
    return datetime.fromtimestamp(stored, UTC)
