"""Templates: HTML with everything escaped that a page did not write itself."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

_HERE = Path(__file__).parent.parent
# What nobody sees: marks that turn the direction of what follows, a page's own words with it; tags,
# which spell text that models read; and half characters, which UTF-8 has not. A flag of a region is
# spelled in tags, too.
_UNSEEN = re.compile(
    "(\U0001f3f4[\U000e0020-\U000e007f]+)"
    "|[\u202a-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
)
_UNITS = ("B", "kB", "MB", "GB", "TB")
_SPANS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


class _Revalidated(StaticFiles):
    """Files that browsers keep, and ask for by their ETag whether they are still the same."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


def static_files() -> StaticFiles:
    """Style sheet and script, of this host alone."""
    return _Revalidated(directory=_HERE / "static")


def rendered(template: str, values: Mapping[str, Any]) -> str:
    """A page's HTML.

    Raises:
        jinja2.UndefinedError: The template asks for what is not among ``values``.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(moment=moment, size=size, number=number, span=span)
    return made


def visible(value: Any) -> Any:
    """A text with what nobody would see of it written out: ``[U+202E]``; all else as it is."""
    # What is markup already was made of parts that came through here.
    if not isinstance(value, str) or hasattr(value, "__html__") or value.isascii():
        return value
    return _UNSEEN.sub(lambda found: found[1] or f"[U+{ord(found[0]):04X}]", value)


def moment(value: datetime | None) -> str:
    """A time to the minute, UTC."""
    return "never" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def number(value: int) -> str:
    """A count with its thousands apart."""
    return f"{value:,}"


def span(length: timedelta) -> str:
    """How long, in the largest unit that tells it without a rest: 90 days, 36 hours."""
    seconds = max(round(length.total_seconds()), 1)
    each, unit = next((each, unit) for each, unit in _SPANS if seconds % each == 0)
    count = seconds // each
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Bytes in the unit that leaves up to three digits: 1,200 are 1.2 kB."""
    for unit in _UNITS:
        # As it is rounded: 999,999 are 1.0 MB. Below 0 is what shrank.
        if abs(count) < 999.5 or unit == _UNITS[-1]:  # noqa: PLR2004 - decimal prefixes (ISO 80000-1)
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 9.95 else f"{count:.1f} {unit}"  # noqa: PLR2004
