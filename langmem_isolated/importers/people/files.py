"""Files of an export: one file, a folder or a zip, read where they are and never unpacked."""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.people.json_stream import Broken

_MOST_FILES = 200_000
_MOST_NAME = 1_000
# Text is packed to a fifth; whoever packs to a 250th has packed one thing a million times.
_MOST_UNPACKED = 250
_SMALL = 100 * 2**20
_CHUNK = 2**16
_UNREADABLE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)


class ExportFiles:
    """The files at a path, by their names there, with ``/`` between folders.

    Links are left out, in folders as in zips, so that nothing outside is read.

    Args:
        path: A file, a folder or a zip.

    Raises:
        SourceRefused: There is nothing that can be read, or the zip is a bomb or encrypted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            kind = path.stat().st_mode
            self.is_zip = stat.S_ISREG(kind) and _is_zip(path)
        except SourceRefused:
            raise
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise SourceRefused(f"The export cannot be read: {why}", _GIVE) from None
        self.is_folder = stat.S_ISDIR(kind)
        if not self.is_folder and not stat.S_ISREG(kind):
            raise SourceRefused("The path is neither a file nor a folder", _GIVE)
        self.names = sorted(self._names())

    def matching(self, pattern: str) -> list[str]:
        """The files whose name, below whatever folder, matches ``pattern``, in order."""
        wanted = re.compile(rf"(?:.*/)?{pattern}", re.IGNORECASE)
        return [name for name in self.names if wanted.fullmatch(name)]

    @contextmanager
    def open(self, name: str) -> Iterator[Reading]:
        """A file, for reading from its beginning.

        Raises:
            Broken: It cannot be read, here or later.
        """
        try:
            with self._opened(name) as file:
                yield Reading(file)
        except _UNREADABLE as error:
            raise Broken(f"it cannot be read ({type(error).__name__})") from None

    @contextmanager
    def _opened(self, name: str) -> Iterator[IO[bytes]]:
        with ExitStack() as opened:
            if self.is_zip:
                with _damage_is_told():
                    archive = opened.enter_context(zipfile.ZipFile(self.path))
                    file = opened.enter_context(archive.open(name))
            else:
                path = self.path / name if self.is_folder else self.path
                file = opened.enter_context(path.open("rb"))
            yield file

    def paths(self) -> list[Path]:
        """The files that this reads from."""
        return [self.path / name for name in self.names] if self.is_folder else [self.path]

    def _names(self) -> Iterator[str]:
        if self.is_zip:
            yield from self._names_in_zip()
        elif self.is_folder:
            yield from self._names_in_folder()
        else:
            yield self.path.name

    def _names_in_zip(self) -> Iterator[str]:
        try:
            with _damage_is_told(), zipfile.ZipFile(self.path) as archive:
                members = archive.infolist()
                files = [member for member in members if not member.is_dir()]
        except _UNREADABLE as error:
            raise SourceRefused(
                f"The zip cannot be read ({type(error).__name__})", "Fetch it again."
            ) from None
        _check_sizes(members, self.path.stat().st_size)
        for member in files:
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            if not is_link and len(member.filename) <= _MOST_NAME:
                yield member.filename

    def _names_in_folder(self) -> Iterator[str]:
        count = 0
        for folder, folders, files in os.walk(self.path, onerror=_refuse_folder):
            folders.sort()
            for file in files:
                path = Path(folder, file)
                if _is_file(path):
                    count += 1
                    if count > _MOST_FILES:
                        raise SourceRefused(
                            f"The folder has more than {_MOST_FILES:,} files", _GIVE
                        )
                    yield path.relative_to(self.path).as_posix()


_ZIP = b"PK\3\4"
_GIVE = "Give the file, folder or zip that the product's export wrote."


def _refuse_folder(error: OSError) -> None:
    """Refuse a folder in which nobody knows what there is; one that has gone has nothing."""
    if not isinstance(error, FileNotFoundError):
        raise SourceRefused(f"A folder of it cannot be read: {error.strerror}", _GIVE)


def _is_file(path: Path) -> bool:
    """Whether it is a file, no link and not gone meanwhile."""
    with suppress(FileNotFoundError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


@contextmanager
def _damage_is_told() -> Iterator[None]:
    """Tell what the reader of zips raises of names and fields that it does not know as damage."""
    try:
        yield
    except (ValueError, IndexError, struct.error):
        raise zipfile.BadZipFile from None


def _is_zip(path: Path) -> bool:
    """Whether it begins as one, too: a database may have one at its end."""
    with path.open("rb") as file:
        head = file.read(len(_ZIP))
    if head[:2] == _ZIP[:2] and zipfile.is_zipfile(path):
        return True
    if head == _ZIP:
        raise SourceRefused("The file is the beginning of a zip", "Fetch the export again.")
    return False


def _check_sizes(members: list[zipfile.ZipInfo], packed: int) -> None:
    unpacked = sum(member.file_size for member in members)
    if len(members) > _MOST_FILES or unpacked > max(_SMALL, _MOST_UNPACKED * packed):
        raise SourceRefused(
            f"The zip has {len(members):,} files that unpack to {unpacked // 2**20:,} MB from "
            f"{packed // 2**20:,} MB",
            "No export does. Give one that the product wrote.",
        )
    if any(member.flag_bits & 1 for member in members):
        raise SourceRefused("The zip is encrypted", "Unpack it, and give the folder.")


class Reading:
    """A file that is read: a failure of the file system or of a zip is `Broken`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        try:
            return self._file.read(size)
        except _UNREADABLE as error:
            raise Broken(f"it cannot be read ({type(error).__name__})") from None

    def seek(self, position: int) -> None:
        """Go on from there."""
        self._file.seek(position)

    def lines(self, most: int) -> Iterator[tuple[int, int, bytes | None]]:
        """Number, position and bytes of each line; no bytes of a line of more than ``most``.

        Numbers begin with 1. A mark of the order of bytes is left out.
        """
        number, position = 0, 0
        rest, is_long = b"", False
        while chunk := self.read(_CHUNK):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                number += 1
                line_is_long = is_long or len(line) > most
                yield number, position, None if line_is_long else _without_mark(number, line)
                position, is_long = position + len(line) + 1, False
            if len(rest) > most:
                position, rest, is_long = position + len(rest), b"", True
        if rest or is_long:
            yield number + 1, position, None if is_long else _without_mark(number + 1, rest)


def _without_mark(number: int, line: bytes) -> bytes:
    return line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
