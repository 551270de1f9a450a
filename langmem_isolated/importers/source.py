"""Source of an import: yields what a foreign store has, and never changes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar, Self

from langmem_isolated.lifecycle import ForeignUnit, Rejected


class Source(ABC):
    """A foreign store that is read, once for each call of `units`, in one order always.

    It is opened read-only, never by a constructor that makes tables or changes settings, and what
    it has in memory is bounded by its largest record, not by their number. What is broken in it is
    yielded as `Rejected`, with its place and the reason, and what stands behind it goes on.
    """

    kind: ClassVar[str]
    """What the command line calls it: ``"sqlite-saver"``."""
    owners: ClassVar[Sequence[str]] = ()
    """Which of ``user``, ``module``, ``project`` and ``name`` each unit of it has among its
    ``fields``, so that they need no rule; a rule has precedence."""
    options: Mapping[str, Any] = MappingProxyType({})
    """What it was made with besides its location, where that changes what is read."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """By which it is known again: an absolute path, or a URL without a password, and a table.

        It becomes part of a digest, which the receipt of an import is found by.
        """

    @abstractmethod
    def units(self) -> Iterator[ForeignUnit | Rejected]:
        """Its sessions, threads, items, documents and profiles, in the same order each time.

        Raises:
            SourceRefused: It is not what this reads, or cannot be read at all.
        """

    def total(self) -> int | None:
        """How many messages, checkpoints, items or documents there are, where that is cheap."""
        return None

    def size(self) -> int | None:
        """How many bytes it has, where that is cheap."""
        sizes = [path.stat().st_size for path in self.files() if path.exists()]
        return sum(sizes) if sizes else None

    def files(self) -> Sequence[Path]:
        """The files that must be, byte by byte, as they were: a database and its log."""
        return ()

    def notes(self) -> Mapping[str, int]:
        """What is to be told of what `units` yielded last, by what it is, and how often.

        Of what was left out since it is no message, or made into text; words of ours, no content.
        """
        return {}

    def close(self) -> None:  # noqa: B027 - most hold nothing open between two calls
        """Let go of what it holds; closing twice is fine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
