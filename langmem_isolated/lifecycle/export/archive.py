"""Archive of an export: a folder of files of lines, or a zip file of one.

Written beside its place under another name, and renamed when it is whole: who finds something at
the place finds all of it. What is written can be taken back to where a mark was set, as a
transaction that is run again wants it.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

from langmem_isolated._database.copies import make_durable
from langmem_isolated._database.drafts import draft_beside, publish_file, publish_folder
from langmem_isolated.errors import ExportExists
from langmem_isolated.lifecycle.export.lines import Line

_CHUNK_BYTES = 1 << 20


class Mark(NamedTuple):
    """How far the files of an archive were written."""

    ends: dict[str, int]
    counts: Counter[str]
    left_out: Counter[str]


class Archive(ABC):
    """An archive on its way to ``output``; left without :meth:`publish`, nothing stays of it.

    Args:
        output: Where it goes: a zip file if the name ends so, otherwise a folder.
        kinds: The names of its files of lines.

    Raises:
        ExportExists: Something stands there.
        OSError: The folder above cannot be written to, or is not there.
    """

    lines_in = "data"
    """The folder of its files of lines."""

    def __init__(self, output: Path, kinds: Iterable[str]) -> None:
        if os.path.lexists(output):
            raise ExportExists
        self._output = output
        self.counts: Counter[str] = Counter(dict.fromkeys(kinds, 0))
        self.left_out: Counter[str] = Counter()
        with ExitStack() as stack:
            self._draft = stack.enter_context(draft_beside(output))
            self._folder = self._draft / "archive"
            self._folder.mkdir(mode=0o700)
            (self._folder / self.lines_in).mkdir(mode=0o700)
            self._files = {kind: self._new_lines(kind, stack) for kind in self.counts}
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Let go of its files; closing twice is fine."""
        self._stack.close()

    def _new_lines(self, kind: str, stack: ExitStack) -> BinaryIO:
        file = _new_file(self._folder / self.lines_in / f"{kind}.jsonl")
        stack.callback(file.close)
        return file

    def add(
        self,
        kind: str,
        line: Line,
        within: Line | None = None,  # noqa: ARG002 - the session has a line of its own
    ) -> None:
        """Write one line, a record of ``kind`` that is in the session whose line ``within`` is."""
        # ASCII: lone surrogates, which UTF-8 has not, come back as they were.
        self._write_line(kind, json.dumps(line, allow_nan=False).encode())

    def _write_line(self, kind: str, line: bytes) -> None:
        self._files[kind].write(line + b"\n")
        self.counts[kind] += 1

    @property
    def read(self) -> int:
        """How many lines it has, and records that were left out."""
        return self.counts.total() + self.left_out.total()

    def mark(self) -> Mark:
        """How far it is written."""
        ends = {kind: file.tell() for kind, file in self._files.items()}
        return Mark(ends, self.counts.copy(), self.left_out.copy())

    def back_to(self, mark: Mark) -> None:
        """Take back what was written since."""
        for kind, file in self._files.items():
            file.seek(mark.ends[kind])
            file.truncate()
        self.counts, self.left_out = mark.counts.copy(), mark.left_out.copy()

    def publish(self, about: Line) -> None:
        """Write what tells of it, and give it its name.

        Raises:
            ExportExists: Something has come to stand there meanwhile.
        """
        for file in self._files.values():
            _to_disk(file)
            file.close()
        self._describe(about)
        make_durable(self._folder / self.lines_in)
        try:
            self._publish()
        except FileExistsError:
            raise ExportExists from None

    @abstractmethod
    def _describe(self, about: Line) -> None:
        """Write the files that tell of the others."""

    def _publish(self) -> None:
        if self._output.suffix == ".zip":
            publish_file(self._zipped(), self._output)
        else:
            publish_folder(self._folder, self._output)

    def _zipped(self) -> Path:
        path = self._draft / "zip"
        # A file may have a name that is no text; in a zip it is.
        root = self._output.stem.encode(errors="replace").decode()
        with _new_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for one in _files_in(self._folder):
                name = f"{root}/{one.relative_to(self._folder).as_posix()}"
                archive.write(one, name)
        return path

    def _manifest(self, paths: Iterable[Path]) -> str:
        lines = (f"{sha256_of(p)}  {p.relative_to(self._folder).as_posix()}\n" for p in paths)
        return "".join(lines)

    def _write(self, name: str, text: str) -> None:
        with _new_file(self._folder / name) as file:
            file.write(text.encode())
            _to_disk(file)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _new_file(path: Path) -> BinaryIO:
    """A file that its owner alone reads, and that was not there."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    return os.fdopen(descriptor, "w+b")


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _files_in(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
