"""Terminal output: stored text escaped so that it cannot act there."""

import unicodedata

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Controls, format characters (they turn the direction of text, or are not seen), surrogates, and
# separators of lines: what a hostile user may put into a message to rewrite the operator's screen.
_ACTING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Joiners that Persian, Indic scripts and emoji are written with.
_HARMLESS = frozenset("\n\u200c\u200d")


def printable(text: str) -> str:
    """``text`` with each character that steers a terminal shown as its escape; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(map(_shown, text.replace("\r\n", "\n").expandtabs(4)))


def _shown(character: str) -> str:
    if character in _HARMLESS or unicodedata.category(character) not in _ACTING:
        return character
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
