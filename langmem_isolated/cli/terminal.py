"""Terminal output: stored text escaped so that it cannot act there."""

import json
import sys
from datetime import UTC, datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from langmem_isolated._runtime.unseen_text import with_escapes

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


def print_json(value: object) -> None:
    """Print a value as one document of JSON, in ASCII: nothing in it acts on a terminal."""
    # `\x7f` is ASCII, and JSON leaves it as it is.
    text = json.dumps(value, indent=2, default=_plain).replace("\x7f", "\\u007f")
    sys.stdout.write(f"{text}\n")


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)
