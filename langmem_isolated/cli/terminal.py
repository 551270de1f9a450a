"""Terminal output: stored text escaped so that it cannot act there."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from typer import BadParameter

from langmem_isolated._runtime.unseen_text import with_escapes
from langmem_isolated.errors import LangmemIsolatedError

DAMAGED = "(damaged: it does not open)"
"""Stands where a row that was tampered with has no name."""


def printable(text: str) -> str:
    """``text`` with each character that steers a terminal, or is not seen, shown as its escape.

    Lines stay lines. What a hostile user puts into a message to rewrite the operator's screen, or
    to hide something on it, is seen.
    """
    return with_escapes(text.replace("\r\n", "\n").expandtabs(4), _as_escape, keep="\n")


def _as_escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def one_line(text: str) -> str:
    """``text`` as :func:`printable` shows it, on one line."""
    return " ".join(printable(text).split())


def cell(value: object, style: str = "") -> Text:
    """A table's cell that shows ``value`` and interprets nothing in it, rich's markup included."""
    return Text(printable(str(value)), style=style)


def table(*headings: str) -> Table:
    """An empty table in which nothing is cut off: what is too wide goes on below."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in headings:
        made.add_column(heading, overflow="fold")
    return made


def print_table(shown: Table) -> None:
    """Print a table as wide as the terminal is."""
    Console().print(shown)


def minute(moment: datetime) -> str:
    """A moment as tables show it."""
    return f"{moment:%Y-%m-%d %H:%M}"


def second(moment: datetime | None) -> str:
    """A moment to the second; nothing for one that is not known."""
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def print_counts(counts: Mapping[str, int], *, nothing: str, what: str = "removed") -> None:
    """Print how many there were of each kind, or ``nothing``."""
    if not counts:
        sys.stdout.write(f"{nothing}\n")
        return
    shown = table("kind", what)
    for kind, count in counts.items():
        shown.add_row(cell(kind), f"{count:,}")
    print_table(shown)


@contextmanager
def as_usage() -> Iterator[None]:
    """Shows what cannot be meant as other commands that are written wrong."""
    try:
        yield
    except LangmemIsolatedError:
        raise
    except ValueError as error:
        raise BadParameter(one_line(str(error))) from None


# What is over sooner shows no bar.
_PATIENCE_SECONDS = 1.0


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """Shows on a terminal how many there are by now, once that has taken more than a second.

    It is told by a call; beside standard output, which is for results.
    """
    console, since = Console(stderr=True), time.monotonic()
    columns = SpinnerColumn(), TextColumn("{task.completed:,} " + what), TimeElapsedColumn()
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=None)

    def count(number: int) -> None:
        if time.monotonic() - since > _PATIENCE_SECONDS:
            bar.start()
            bar.update(task, completed=number)

    try:
        yield count
    finally:
        bar.stop()


@contextmanager
def pulse(doing: str) -> Iterator[None]:
    """A bar on standard error while something runs of which nobody knows how long it takes."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        progress.add_task(doing, total=None)
        yield


def print_json(value: object) -> None:
    """Print a value as one document of JSON, in ASCII: nothing in it acts on a terminal."""
    # `\x7f` is ASCII, and JSON leaves it as it is.
    text = json.dumps(value, indent=2, default=_plain).replace("\x7f", "\\u007f")
    sys.stdout.write(f"{text}\n")


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)
