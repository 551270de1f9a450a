"""Values of foreign JSON: read as what they should be, or said to be something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from langmem_isolated.importers.people.json_stream import Unreadable

# Seconds, milliseconds, microseconds or nanoseconds: a number of one is no likely time of another.
_UNITS = ((1e11, 1), (1e14, 1e3), (1e17, 1e6), (1e20, 1e9))
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = 32_503_680_000  # The year 3000.


def expected(what: str, received: object) -> Unreadable:
    """What to raise of a value of another type; types and lengths alone are told."""
    if received is None:
        return Unreadable(f"expected {what}, got nothing")
    sized = f" of {len(received)}" if isinstance(received, str | list | dict) else ""
    return Unreadable(f"expected {what}, got {type(received).__name__}{sized}")


def an_object(value: object, what: str = "an object") -> dict[str, Any]:
    """The value, which is one.

    Raises:
        Unreadable: It is none.
    """
    if not isinstance(value, dict):
        raise expected(what, value)
    return value


def text_of(value: object) -> str | None:
    """The value, if it is a text of at least one character."""
    return value if isinstance(value, str) and value else None


def objects(value: object) -> Iterator[dict[str, Any]]:
    """The objects of a list, if it is one; what is no object is left out."""
    yield from (one for one in value if isinstance(one, dict)) if isinstance(value, list) else ()


def inside(value: object, *keys: str) -> Any:
    """What is found along keys; ``None`` if something on the way is no object or not there."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def scalars(value: Mapping[str, Any]) -> dict[str, Any]:
    """What of an object rules of a mapping can read: its texts, numbers and truth values."""
    return {key: one for key, one in value.items() if isinstance(one, str | int | float | bool)}


def instant(value: object) -> datetime | None:
    """A time as exports write them, aware; ``None`` if it is none.

    Args:
        value: Of seconds, or finer, since 1970; or of ISO 8601, which is UTC where it has no zone;
            or as MongoDB writes it, ``{"$date": …}``, ``{"$numberLong": …}``.
    """
    if isinstance(value, dict):
        return instant(value.get("$date", value.get("$numberLong")))
    if isinstance(value, str):
        return _of_text(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return _of_number(value)


def _of_number(value: float) -> datetime | None:
    per_second = next((unit for most, unit in _UNITS if value < most), None)
    if per_second is None or not 0 < value / per_second < _LATEST:
        return None
    return _BEGINNING + timedelta(microseconds=round(value * 1_000_000 / per_second))


def _of_text(value: str) -> datetime | None:
    try:
        number = float(value)
    except ValueError:
        return _of_iso(value)
    return _of_number(number)


def _of_iso(value: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(value)
        time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return time if time.timestamp() > 0 else None
