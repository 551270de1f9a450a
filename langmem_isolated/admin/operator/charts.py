"""Charts: the geometry of bars by day, for inline SVG without a style or a script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

WIDTH, HEIGHT = 640, 160
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 4, 10, 24
# So many days have their dates below them: more would touch on a narrow screen.
_LABELS = 5


@dataclass(frozen=True, slots=True)
class Bar:
    """One value of a day."""

    x: float
    y: float
    width: float
    height: float
    series: int
    label: str


@dataclass(frozen=True, slots=True)
class Label:
    """A date below the bars."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars by day, with the same as a table beside them."""

    name: str
    series: tuple[str, ...]
    bars: list[Bar]
    labels: list[Label]
    most: str
    """The value of the highest line."""
    rows: list[tuple[str, tuple[str, ...]]]
    """Days with their values, the newest first; those without are left out."""
    told: tuple[str, ...]
    """What is said of each series beside its name."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    base: int = HEIGHT - _BOTTOM


def chart(
    name: str,
    series: Sequence[str],
    days: Sequence[tuple[date, Sequence[int]]],
    shown: Callable[[int], str] = "{:,}".format,
    *,
    is_summed: bool = True,
) -> Chart:
    """Bars of each series side by side, day by day.

    Args:
        name: What is counted.
        series: Names of what is counted side by side.
        days: Days, the oldest first, with a value for each series; below 0 counts as 0.
        shown: A value as people read it.
        is_summed: Whether days add up; if not, as for people who come again, the most is told.
    """
    most = max((max(values) for _, values in days), default=0)
    slot = (WIDTH - _LEFT - _RIGHT) / max(len(days), 1)
    bars = [
        bar
        for place, (day, values) in enumerate(days)
        for bar in _bars(day, values, _LEFT + place * slot, slot, most, series, shown)
    ]
    every = max(1, len(days) // _LABELS)
    labels = [
        Label(round(_LEFT + (place + 0.5) * slot, 1), f"{day:%d %b}")
        for place, (day, _) in enumerate(days)
        if place % every == every // 2
    ]
    rows = [(str(day), tuple(map(shown, values))) for day, values in days if any(values)]
    columns = zip(*(values for _, values in days), strict=True)
    told = tuple(shown(sum(c)) if is_summed else f"{shown(max(c))} a day at most" for c in columns)
    return Chart(name, tuple(series), bars, labels, shown(max(most, 0)), rows[::-1], told)


def _bars(
    day: date,
    values: Sequence[int],
    left: float,
    slot: float,
    most: int,
    series: Sequence[str],
    shown: Callable[[int], str],
) -> list[Bar]:
    room, width = HEIGHT - _TOP - _BOTTOM, slot * 0.8 / len(values)
    made = []
    for place, (name, value) in enumerate(zip(series, values, strict=True)):
        if value > 0:
            # What is there is seen, however little it is beside the most.
            height = max(1.0, room * value / most)
            x, y = left + slot * 0.1 + place * width, HEIGHT - _BOTTOM - height
            x, y, wide, high = (round(number, 1) for number in (x, y, width, height))
            made.append(Bar(x, y, wide, high, place, f"{day}: {shown(value)} {name}"))
    return made
