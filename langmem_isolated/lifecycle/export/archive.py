"""Archive of an export: a folder in the layout of BagIt (RFC 8493), or a zip file of one.

Written beside its place under another name, and renamed when it is whole: who finds something at
the place finds all of it. What is written can be taken back to where a mark was set, as a
transaction that is run again wants it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

from langmem_isolated.errors import ExportExists

FORMAT = 1
_CHUNK_BYTES = 1 << 20
_DECLARATION = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"


class Mark(NamedTuple):
    """How far the files of an archive were written."""

    ends: dict[str, int]
    counts: Counter[str]


class Archive:
    """An archive on its way to ``output``; left without :meth:`publish`, nothing stays of it.

    Args:
        output: Where it goes: a zip file if the name ends so, otherwise a folder.
        kinds: The names of its files of lines.

    Raises:
        ExportExists: Something stands there.
        OSError: The folder above cannot be written to, or is not there.
    """

    def __init__(self, output: Path, kinds: Iterable[str]) -> None:
        if os.path.lexists(output):
            raise ExportExists
        self._output = output
        self._folder = output.with_name(f".{output.name}.{secrets.token_hex(4)}.partial")
        self._folder.mkdir(mode=0o700)
        (self._folder / "data").mkdir(mode=0o700)
        self.counts: Counter[str] = Counter(dict.fromkeys(kinds, 0))
        self._files = {kind: _new_file(self._lines(kind)) for kind in self.counts}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._zip.unlink(missing_ok=True)

    @property
    def _zip(self) -> Path:
        return self._folder.with_suffix(".partial-zip")

    def _lines(self, kind: str) -> Path:
        return self._folder / "data" / f"{kind}.jsonl"

    def add(self, kind: str, line: dict[str, Any]) -> None:
        """Write one line."""
        # ASCII: lone surrogates, which UTF-8 has not, come back as they were.
        self._files[kind].write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self.counts[kind] += 1

    def mark(self) -> Mark:
        """How far it is written."""
        return Mark({kind: file.tell() for kind, file in self._files.items()}, self.counts.copy())

    def back_to(self, mark: Mark) -> None:
        """Take back what was written since."""
        for kind, file in self._files.items():
            file.seek(mark.ends[kind])
            file.truncate()
        self.counts = mark.counts.copy()

    def publish(self, about: dict[str, Any]) -> None:
        """Write what tells of it, and give it its name.

        Raises:
            ExportExists: Something has come to stand there meanwhile.
        """
        self._close()
        self._write("data/about.json", json.dumps(about, indent=2) + "\n")
        self._write("bagit.txt", _DECLARATION)
        payload = sorted(path for path in (self._folder / "data").iterdir())
        size = sum(path.stat().st_size for path in payload)
        self._write(
            "bag-info.txt",
            f"Bagging-Date: {datetime.now(UTC):%Y-%m-%d}\nPayload-Oxum: {size}.{len(payload)}\n"
            f"Langmem-Isolated-Export-Format: {FORMAT}\n",
        )
        self._write("manifest-sha256.txt", self._manifest(payload))
        tags = sorted(path for path in self._folder.iterdir() if path.is_file())
        self._write("tagmanifest-sha256.txt", self._manifest(tags))
        if self._output.suffix == ".zip":
            self._publish_zip()
        else:
            self._publish_folder()

    def _publish_zip(self) -> None:
        with _new_file(self._zip) as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for path in _files_in(self._folder):
                    name = f"{self._output.stem}/{path.relative_to(self._folder).as_posix()}"
                    archive.write(path, name)
            _to_disk(file)
        try:
            # Unlike a rename it never takes the place of another.
            os.link(self._zip, self._output)
        except FileExistsError:
            raise ExportExists from None

    def _publish_folder(self) -> None:
        # A rename would take the place of a folder that is empty.
        if os.path.lexists(self._output):
            raise ExportExists
        try:
            self._folder.rename(self._output)
        except OSError:
            if os.path.lexists(self._output):
                raise ExportExists from None
            raise

    def _manifest(self, paths: Iterable[Path]) -> str:
        lines = (f"{_sha256(p)}  {p.relative_to(self._folder).as_posix()}\n" for p in paths)
        return "".join(lines)

    def _write(self, name: str, text: str) -> None:
        with _new_file(self._folder / name) as file:
            file.write(text.encode())
            _to_disk(file)

    def _close(self) -> None:
        for file in self._files.values():
            if not file.closed:
                _to_disk(file)
                file.close()


def _new_file(path: Path) -> BinaryIO:
    """A file that its owner alone reads, and that was not there."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    return os.fdopen(descriptor, "w+b")


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _files_in(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
