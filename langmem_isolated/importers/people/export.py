"""Export of a product: a source that reads conversations, and counts what is no text in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.people.files import ExportFiles
from langmem_isolated.importers.people.json_stream import (
    MOST_BYTES,
    Broken,
    JsonStream,
    Unreadable,
    parsed,
)
from langmem_isolated.importers.people.names import id_of
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignMessage, ForeignSession, Rejected

_MOST_NAME = 80
_HEAD = 2**20


class PeopleExport(Source):
    """What a product gave somebody of their own conversations.

    Args:
        location: The path of a file, a folder or a zip.
    """

    product: ClassVar[str]
    """What people call it."""
    patterns: ClassVar[Sequence[str]]
    """What its files are called in a folder or a zip; the first that any are called so counts."""
    part: ClassVar[str] = "file"
    """What places call one of several files."""

    def __init__(self, location: str) -> None:
        self.exported = ExportFiles(Path(location))
        self._counts: Counter[str] = Counter()

    @property
    def identity(self) -> str:
        """The absolute path."""
        return str(self.exported.path.absolute())

    def files(self) -> Sequence[Path]:
        """Those that the export consists of."""
        return self.exported.paths()

    def notes(self) -> Mapping[str, int]:
        """How often what is no text was left out, or stands as a note in what was read last."""
        return dict(self._counts)

    def units(self) -> Iterator[ForeignSession | Rejected]:
        """Its conversations, in the order of the export.

        Raises:
            SourceRefused: There is no file in it that this reads.
        """
        self._counts.clear()
        names = self.wanted()
        for number, name in enumerate(names, 1):
            # By its number: names of files are names of people.
            place = "" if len(names) == 1 else f"{self.part} {number}, "
            try:
                yield from self.read(name, place)
            except Unreadable as broken:
                yield Rejected(f"{place}what is left of the file", broken.args[0])

    def read(self, name: str, place: str) -> Iterator[ForeignSession | Rejected]:
        """What is in one of its files.

        Args:
            name: What the file is called in the export.
            place: What places in it begin with.

        Raises:
            Broken: Nothing behind can be read.
        """
        for where, value in self.values(name, place):
            if isinstance(value, Unreadable):
                yield Rejected(where, value.args[0])
                continue
            try:
                yield from self.sessions(value, where)
            except Unreadable as unreadable:
                yield Rejected(where, unreadable.args[0])

    def sessions(self, value: Any, where: str) -> Iterator[ForeignSession | Rejected]:
        """What is in one conversation of the export.

        Raises:
            Unreadable: It is no conversation.
        """
        raise NotImplementedError

    def wanted(self) -> list[str]:
        """The files that are read.

        Raises:
            SourceRefused: There are none.
        """
        if not (self.exported.is_folder or self.exported.is_zip):
            return self.exported.names
        for pattern in self.patterns:
            if found := self.exported.matching(pattern):
                return found
        raise SourceRefused(
            f"The {'zip' if self.exported.is_zip else 'folder'} with "
            f"{len(self.exported.names):,} files has no file of {self.product}",
            "Leave out the kind of the source to be told what it looks like.",
        )

    def streamed(
        self, messages: Iterator[ForeignMessage | Rejected], where: str
    ) -> Iterator[ForeignMessage | Rejected]:
        """Messages that are read as they are gone through; where they break off, a reject."""
        try:
            yield from messages
        except Unreadable as broken:
            yield Rejected(f"{where}, what is left of its messages", broken.args[0])

    def unnamed(self, where: str) -> str:
        """The id of a conversation that has none: those of two files are not one."""
        return f"{id_of(self.exported.path.stem)}, {where}"

    def note(self, what: str, name: object = None) -> str:
        """Count what is no text; what stands for it in a message."""
        self.count(what)
        told = f": {name[:_MOST_NAME]}" if isinstance(name, str) and name else ""
        return f"[{what}{told}]"

    def count(self, what: str) -> None:
        """Count what is left out."""
        self._counts[what] += 1

    def values(self, name: str, place: str) -> Iterator[tuple[str, Any]]:
        """Place and value of each conversation of a JSON document, or of JSON lines.

        One that cannot be read is an `Unreadable`, and those behind it follow.
        """
        if self._are_lines(name):
            yield from self.lines(name, place)
            return
        with self.document(name) as stream:
            if stream.peek() == "[":
                for number in stream.elements():
                    yield f"{place}conversation {number}", value_or_reason(stream)
            elif stream.peek():
                yield f"{place}conversation 1", value_or_reason(stream)

    def lines(self, name: str, place: str) -> Iterator[tuple[str, Any]]:
        """Place and value of each line that is not empty."""
        with self.exported.open(name) as reading:
            for number, _, line in reading.lines(MOST_BYTES):
                if line is None or line.strip():
                    yield f"{place}line {number}", parsed_or_reason(line)

    def small(self, name: str) -> Any:
        """A file that is read whole.

        Raises:
            Unreadable: It is no JSON, or larger than what is read whole.
        """
        with self.document(name) as stream:
            return stream.value()

    @contextmanager
    def document(self, name: str) -> Iterator[JsonStream]:
        """A file as a stream of JSON.

        Raises:
            Broken: It cannot be read.
        """
        with self.exported.open(name) as reading:
            yield JsonStream(reading)

    def _are_lines(self, name: str) -> bool:
        """Whether the first line is a value, and another one follows."""
        with self.exported.open(name) as reading:
            first, _, rest = reading.read(_HEAD).removeprefix(b"\xef\xbb\xbf").partition(b"\n")
        if not rest.strip():
            return False
        try:
            parsed(first)
        except Unreadable:
            return False
        return True


def value_or_reason(stream: JsonStream) -> Any:
    """The next value, or why it cannot be read.

    Raises:
        Broken: What stands behind it cannot be read, either.
    """
    try:
        return stream.value()
    except Broken:
        raise
    except Unreadable as unreadable:
        return unreadable


def parsed_or_reason(line: bytes | None) -> Any:
    """The value of a line, or why it cannot be read; ``None`` is one that is too long."""
    if line is None:
        return Unreadable(f"it has more than {MOST_BYTES // 2**20} MB")
    try:
        return parsed(line)
    except Unreadable as unreadable:
        return unreadable
