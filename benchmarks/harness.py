"""Runs what is compared in turn, says by how much it differs, and which targets are met.

Absolute figures differ from machine to machine and from minute to minute; ratios of things measured
in the same round hold. Every round therefore runs each action once, in an order of its own, and a
ratio is the median of the rounds' ratios.
"""

import json
import os
import platform
import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Seconds = list[float]


def in_turn(
    actions: Mapping[str, Sequence[Callable[[int], object]]],
    rounds: int,
    *,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[Seconds]]:
    """Seconds of each step of each action in each round.

    Args:
        actions: What to run, by name: steps that belong together, one behind the other; each is
            given the number of the round, warm-up included.
        rounds: How many rounds count.
        warm_up: Rounds before those, not counted.
        clock: By the wall; ``time.process_time`` where others have the machine, too.
    """
    seconds: dict[str, list[Seconds]] = {name: [[] for _ in actions[name]] for name in actions}
    order = list(actions)
    shuffle = random.Random(1).shuffle
    for number in range(warm_up + rounds):
        shuffle(order)
        for name in order:
            for step, taken in zip(actions[name], seconds[name], strict=True):
                begin = clock()
                step(number)
                elapsed = clock() - begin
                if number >= warm_up:
                    taken.append(elapsed)
    return seconds


def ratio(ours: Seconds, other: Seconds) -> float:
    """How many times as long ours took, as the median over rounds."""
    return statistics.median(a / b for a, b in zip(ours, other, strict=True))


def microseconds(seconds: Seconds) -> float:
    """The median, in µs."""
    return statistics.median(seconds) * 1e6


def percentile(seconds: Iterable[float], percent: int) -> float:
    """The value that ``percent`` in a hundred do not exceed."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def machine(*packages: str) -> dict[str, Any]:
    """What the figures were taken on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "memory GiB": round(memory / 2**30, 1),
        "load before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{package: version(package) for package in packages},
    }


@dataclass(frozen=True)
class Target:
    """A promise about a figure: at most, or at least, ``limit``."""

    what: str
    value: float
    limit: float
    at_least: bool = False
    unit: str = "times"

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass
class Report:
    """What was measured: printed as it comes, written as JSON at the end."""

    title: str
    machine: dict[str, Any]
    settings: dict[str, str] = field(default_factory=dict)
    measures: list[dict[str, Any]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    # A pipe or a file has no width of its own, and tables are wider than rich's 80 columns.
    console: Console = field(default_factory=lambda: Console(width=None if os.isatty(1) else 140))

    def __post_init__(self) -> None:
        self.console.print(f"[bold]{self.title}[/bold]")
        self.console.print(", ".join(f"{name} {value}" for name, value in self.machine.items()))

    def table(self, title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table; the first column is text, the others are figures."""
        table = Table(title=title, title_justify="left")
        for number, name in enumerate(header):
            table.add_column(name, justify="right" if number else "left")
        for row in rows:
            table.add_row(*(_shown(cell) for cell in row))
        self.console.print(table)

    def measured(self, measure: str, driver: str, **figures: object) -> None:
        """Keep figures for the JSON file."""
        self.measures.append({"measure": measure, "driver": driver, **figures})

    def finish(self, path: Path | None) -> None:
        """Print the settings and which targets are met, and write everything to ``path``."""
        for name, setting in self.settings.items():
            self.console.print(f"{name}: {setting}")
        rows = [
            (
                target.what,
                f"{target.value:.2f} {target.unit}",
                f"{'at least' if target.at_least else 'at most'} {target.limit:g}",
                "[green]met[/green]" if target.met else "[red]missed[/red]",
            )
            for target in self.targets
        ]
        self.table("Targets", ("what", "measured", "target", ""), rows)
        if path:
            content = {
                "benchmark": self.title,
                "machine": self.machine,
                "settings": self.settings,
                "measures": self.measures,
                "targets": [{**asdict(target), "met": target.met} for target in self.targets],
            }
            path.write_text(json.dumps(content, indent=1) + "\n")


def _shown(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if cell >= 100 else f"{cell:.2f}"
    return str(cell)
