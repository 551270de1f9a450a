"""Registry of sources: what each is called, where it is found, and which options it takes.

The command line makes a command of each entry. A source's module is loaded when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langmem_isolated.importers.source import Source


@dataclass(frozen=True)
class SourceOption:
    """An option of one source, of the command line and of :meth:`SourceSpec.make`."""

    name: str
    """``"table"``; on the command line ``--table``."""
    help: str
    default: Any = None
    type: type = str
    """``str``, ``int``, ``float``, ``bool`` (a flag) or ``pathlib.Path``."""
    is_repeated: bool = False
    """Whether it is given any number of times; then :meth:`SourceSpec.make` takes a list."""


@dataclass(frozen=True)
class SourceSpec:
    """A source that can be named."""

    kind: str
    """What the command line calls it: ``"sqlite-saver"``."""
    help: str
    """One line: of which package and version, and what it brings."""
    location: str
    """One line: what ``LOCATION`` is: a file, a folder or a URL."""
    home: str
    """Module and class: ``"langmem_isolated.importers.langgraph.sqlite_saver:SqliteSaverSource"``,
    called with the location and the options by name."""
    options: Sequence[SourceOption] = ()
    examples: Sequence[str] = ()
    """What follows ``langmem-isolated import``."""

    def make(self, location: str, **options: Any) -> Source:
        """Open the source, read-only.

        Raises:
            SourceRefused: It is not what this reads, or a package that reads it is not installed.
        """
        module, _, name = self.home.partition(":")
        made: Source = getattr(import_module(module), name)(location, **options)
        made.options = options
        return made
