"""Lines of a WhatsApp export: who wrote what when, in the languages and orders of the phones."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

# WhatsApp puts the first before all that it writes itself, and before names from right to left.
_MARKS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
_HALF = r"[AaPp]\.?\s?[Mm]\.?|上午|下午|午前|午後|오전|오후|ص|م"
# Years of two digits are of this century.
_CENTURY = 100
_HALF_DAY = 12
_LATER = ("p", "下午", "午後", "오후", "م")
# Languages from right to left have marks between the parts of a date. Their number is bounded:
# otherwise a line of nothing else would take minutes.
_GAP = rf"[{_MARKS}\s]{{0,3}}"
_HEAD = re.compile(
    rf"[{_MARKS}]{{0,9}}(\[)?[{_MARKS}]{{0,9}}"
    rf"(\d{{1,4}}){_GAP}(?:[./-]|年|년){_GAP}(\d{{1,2}}){_GAP}(?:[./-]|月|월){_GAP}(\d{{1,4}})"
    rf"(?:\.|日|일|\s\u0433\.)?{_GAP}[,،]?\s+(?:klo\s)?"
    rf"(?:({_HALF})\s?)?(\d{{1,2}})[:.](\d{{2}})(?:[:.](\d{{2}}))?(?:\s?({_HALF}))?"
    r"(?(1)\]|\s[-\u2013])\s?(.*)",
    re.DOTALL,
)
_WRITTEN = re.compile(r"([^:]{1,100}):(?:\s(.*))?", re.DOTALL)
_ANDROID_MEDIA = re.compile(r"<[^<>]{1,60}>|\S{1,100}\.\w{2,4} \([^()]{1,40}\)")

DAY_FIRST, MONTH_FIRST, YEAR_FIRST = "day-first", "month-first", "year-first"
ORDERS = {DAY_FIRST: (2, 1, 0), MONTH_FIRST: (2, 0, 1), YEAR_FIRST: (0, 1, 2)}
"""Where year, month and day stand in a date."""


class Line(NamedTuple):
    """The first line of a message."""

    date: tuple[int, int, int]
    time: tuple[int, int, int]
    is_half_day: bool
    sender: str | None
    """``None`` of what WhatsApp tells, such as that somebody came."""
    text: str

    def at(self, order: str) -> datetime | None:
        """When it was written, by the phone's clock; ``None`` if there is no such day."""
        year, month, day = (self.date[place] for place in ORDERS[order])
        try:
            return datetime(year + 2000 if year < _CENTURY else year, month, day, *self.time)  # noqa: DTZ001
        except ValueError:
            return None


def line_of(text: str) -> Line | None:
    """A line that begins a message; ``None`` of one that goes on with the last."""
    found = _HEAD.fullmatch(text.rstrip("\r\n"))
    if found is None:
        return None
    _, *date, before, hour, minute, second, after, rest = found.groups()
    half = before or after
    time = (_hour(int(hour), half), int(minute), int(second or 0))
    written = _WRITTEN.fullmatch(rest)
    sender = written[1].strip(f"{_MARKS} \u202f\u00a0~") if written else None
    first, middle, last = map(int, date)
    said = (written[2] or "") if written and sender else rest
    return Line((first, middle, last), time, half is not None, sender or None, said)


def _hour(hour: int, half: str | None) -> int:
    if half is None or hour > _HALF_DAY:
        return hour
    return hour % _HALF_DAY + (_HALF_DAY if half.lower().startswith(_LATER) else 0)


class _Fit:
    """How well dates fit an order: how many are days, how often time goes back, and the span."""

    def __init__(self) -> None:
        self.days = self.back = 0
        self.first = self.last = self.latest = datetime.min  # noqa: DTZ901

    def add(self, time: datetime | None) -> None:
        if time is None:
            return
        self.first = time if not self.days else min(self.first, time)
        self.latest = max(self.latest, time)
        self.back += time < self.last
        self.last, self.days = time, self.days + 1

    @property
    def rank(self) -> tuple[int, int, int]:
        return self.days, -self.back, -(self.latest - self.first).days


def order_of(lines: Iterable[Line]) -> tuple[str, bool]:
    """In which order dates are written, and whether day and month could be the other way round.

    It is the one in which most dates are days, then in which time goes back least often, then in
    which a chat is shortest: days that are taken for years make it long. Otherwise it is
    month-first with twelve hours, as in the United States, else day-first.
    """
    fits = {order: _Fit() for order in ORDERS}
    has_half_days = False
    for line in lines:
        has_half_days = has_half_days or line.is_half_day
        for order, fit in fits.items():
            fit.add(line.at(order))
    best = max(fit.rank for fit in fits.values())
    fitting = [order for order, fit in fits.items() if fit.rank == best]
    is_unsure = {DAY_FIRST, MONTH_FIRST} <= set(fitting)
    return (MONTH_FIRST if is_unsure and has_half_days else fitting[0]), is_unsure


def media_of(text: str) -> str | None:
    """What WhatsApp wrote in place of a picture or another file; ``None`` of what people wrote."""
    if text.startswith("\u200e"):
        return text.strip(f"{_MARKS} <>")
    found = _ANDROID_MEDIA.fullmatch(text.strip(_MARKS))
    return found[0].strip("<>") if found else None
