"""Archive that is read: a folder or zip file as an export writes it, and nothing else.

Its files are opened by the names that an export gives them. No name in the archive is ever a path,
links are not followed, and what is read is bounded by what the archive says of itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from langmem_isolated.errors import ImportRefused
from langmem_isolated.lifecycle.export.bag import FORMAT
from langmem_isolated.lifecycle.export.export import FILES

_CHUNK_BYTES = 1 << 18
_TAGS = ("bagit.txt", "bag-info.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt")
_ABOUT = "data/about.json"
_NAMES = {*_TAGS, _ABOUT, *(f"data/{kind}.jsonl" for kind in FILES)}
# Ten years of statistics of a hundred modules are 60 MB.
_MOST_SMALL_BYTES = 100_000_000
# A line has a record readable and as it was sealed. 16 MB, the most that a value may have by
# default, are 22 MB of base64, and up to 96 MB as JSON with an escape for each byte.
MOST_LINE_BYTES = 128_000_000
_OF_BUNDLES = "manifest.json"
_BUNDLE = (
    "it seems to be of the portable .mem format, which the source mem of an import reads. What is "
    "put in here is the full profile"
)
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError)


class ExportArchive:
    """An export that is there.

    Args:
        path: A zip file or folder.

    Raises:
        ImportRefused: It is neither, has other files than an export, or a file is a link.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._stack = ExitStack()
        self._blocks: dict[str, list[bytes]] = {}
        with ExitStack() as opened:
            self._files: _Files = _Folder(path) if path.is_dir() else _Zip(path)
            opened.callback(self._files.close)
            self._check_names()
            self._stack = opened.pop_all()

    def close(self) -> None:
        """Let go of its files; closing twice is fine."""
        self._stack.close()

    def _check_names(self) -> None:
        there = self._files.names()
        if _OF_BUNDLES in there:
            raise ImportRefused(_BUNDLE)
        if missing := sorted(_NAMES.difference(there)):
            raise ImportRefused("it is not there", missing[0])
        if len(there) != len(_NAMES):
            raise ImportRefused("it has files that an export has not, or one of them twice")

    def verified(self) -> tuple[bytes, dict[str, Any]]:
        """SHA-256 of the manifest, which no other export has, and what the archive says of itself.

        Raises:
            ImportRefused: A file is not as it was exported, or is of a later version.
            OSError: It cannot be read.
        """
        tags = self._manifest("tagmanifest-sha256.txt")
        self._check_files({*_TAGS} - {"tagmanifest-sha256.txt"}, tags)
        size = self._declared_size()
        found = self._check_files(_NAMES - {*_TAGS}, self._manifest("manifest-sha256.txt"))
        if found != size:
            raise ImportRefused("the files have not the size that it gives", "bag-info.txt")
        about = self._about()
        return hashlib.sha256(self._small("manifest-sha256.txt")).digest(), about

    def _manifest(self, name: str) -> dict[str, str]:
        """The SHA-256 of files by their names."""
        found = {}
        for number, line in enumerate(self._text(name).splitlines(), 1):
            digest, separator, file = line.partition("  ")
            if not separator or file not in _NAMES or file in found:
                raise ImportRefused("it names another file than an export has", name, number)
            found[file] = digest
        return found

    def _check_files(self, names: set[str], manifest: dict[str, str]) -> int:
        """Compare files with a manifest; how many bytes they have."""
        size = 0
        for name in sorted(names):
            digest, length = self._digest(name)
            if manifest.get(name) != digest:
                raise ImportRefused("its SHA-256 is not that of the manifest", name)
            size += length
        return size

    def _digest(self, name: str) -> tuple[str, int]:
        digest, length, blocks = hashlib.sha256(), 0, list[bytes]()
        with self._open(name) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                length += len(chunk)
                blocks.append(_digest_of(chunk))
        self._blocks[name] = blocks
        return digest.hexdigest(), length

    def _declared_size(self) -> int:
        told = dict(
            line.split(": ", 1) for line in self._text("bag-info.txt").splitlines() if ": " in line
        )
        if told.get("Langmem-Isolated-Export-Format") != str(FORMAT):
            raise ImportRefused(
                f"it is no export of format {FORMAT}, which this version knows", "bag-info.txt"
            )
        size, _, count = told.get("Payload-Oxum", "").partition(".")
        if not size.isdecimal() or count != str(len(_NAMES) - len(_TAGS)):
            raise ImportRefused("it gives no size and number of files", "bag-info.txt")
        return int(size)

    def _about(self) -> dict[str, Any]:
        try:
            about = json.loads(self._small(_ABOUT))
        except (ValueError, RecursionError):
            raise ImportRefused("it is not JSON", _ABOUT) from None
        if type(about) is not dict or about.get("format") != FORMAT:
            raise ImportRefused(f"it is not of format {FORMAT}, which this version knows", _ABOUT)
        return about

    def _text(self, name: str) -> str:
        try:
            return self._small(name).decode("ascii")
        except UnicodeDecodeError:
            raise ImportRefused("it is not ASCII", name) from None

    def _small(self, name: str) -> bytes:
        found = bytearray()
        with self._open(name) as file:
            # Asked for all that it may have, a file would take as much memory.
            while chunk := file.read(_CHUNK_BYTES):
                found += chunk
                if len(found) > _MOST_SMALL_BYTES:
                    raise ImportRefused("it is too long", name)
        return bytes(found)

    @contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO]:
        with self._files.open(name) as file, _telling(name):
            # A reading that is refused leaves its files where they are.
            self._stack.callback(file.close)
            if name in self._blocks:
                unchanged: Any = _Unchanged(file, name, self._blocks[name])
                yield io.BufferedReader(unchanged, _CHUNK_BYTES)
            else:
                yield file

    def lines(self, kind: str, until: bytes | None = None) -> Iterator[tuple[int, bytes]]:
        """The lines of a file, each behind its number, without what ends it.

        Args:
            kind: Which file.
            until: A line that is too long is cut somewhere behind it.
        """
        name = f"data/{kind}.jsonl"
        with self._open(name) as file:
            number = 0
            while line := file.readline(MOST_LINE_BYTES + 1):
                number += 1
                if not line.endswith(b"\n") and not (
                    until is not None and until in line and _pass_over_line(file)
                ):
                    _refuse_line(line, name, number)
                yield number, line.removesuffix(b"\n")


def _pass_over_line(file: BinaryIO) -> bool:
    """Go behind the end of a line; ``False`` if it has none."""
    while piece := file.readline(_CHUNK_BYTES):
        if piece.endswith(b"\n"):
            return True
    return False


def _digest_of(block: bytes) -> bytes:
    return hashlib.blake2b(block, digest_size=16).digest() if block else b""


class _Unchanged(io.RawIOBase):
    """A file that is, block by block, as it was when its SHA-256 was compared.

    It is read again to be looked at and to be put in: who can write to it must not have the one
    looked at, and another put in.
    """

    def __init__(self, file: BinaryIO, name: str, blocks: list[bytes]) -> None:
        self._file, self._name, self._blocks = file, name, iter(blocks)
        self._block = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._block:
            self._block = memoryview(self._next())
        length = min(len(buffer), len(self._block))
        buffer[:length], self._block = self._block[:length], self._block[length:]
        return length

    def _next(self) -> bytes:
        block = self._file.read(_CHUNK_BYTES)
        if _digest_of(block) != next(self._blocks, b""):
            raise ImportRefused("it has changed since it was checked", self._name)
        return block


def _refuse_line(line: bytes, name: str, number: int) -> NoReturn:
    if len(line) > MOST_LINE_BYTES:
        raise ImportRefused(f"it is longer than {MOST_LINE_BYTES:,} bytes", name, number)
    raise ImportRefused("it does not end", name, number)


@contextmanager
def _telling(name: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGED:
        raise ImportRefused("the zip file is damaged there", name) from None


class _Files:
    """The files of an archive, by the names that an export gives them."""

    def names(self) -> list[str]:
        """Every file there is."""
        raise NotImplementedError

    def open(self, name: str) -> BinaryIO:
        """One of them."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what is open."""


class _Folder(_Files):
    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._data = -1
        try:
            self._data = os.open("data", _NO_LINK | os.O_DIRECTORY, dir_fd=self._folder)
        except OSError:
            os.close(self._folder)
            if (path / _OF_BUNDLES).is_file():
                raise ImportRefused(_BUNDLE) from None
            raise ImportRefused("it is no folder of an export", "data") from None

    def close(self) -> None:
        os.close(self._data)
        os.close(self._folder)

    def names(self) -> list[str]:
        with os.scandir(self._folder) as tags, os.scandir(self._data) as payload:
            return [
                *(one.name for one in tags if one.name != "data"),
                *(f"data/{one.name}" for one in payload),
            ]

    def open(self, name: str) -> BinaryIO:
        folder = self._data if name.startswith("data/") else self._folder
        try:
            # Not to wait for who writes into a pipe.
            descriptor = os.open(
                name.removeprefix("data/"), _NO_LINK | os.O_NONBLOCK, dir_fd=folder
            )
        except OSError:
            raise ImportRefused("it cannot be opened, or is a link", name) from None
        file = os.fdopen(descriptor, "rb", _CHUNK_BYTES)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            file.close()
            raise ImportRefused("it is no file", name)
        return file


_NO_LINK = os.O_RDONLY | os.O_NOFOLLOW


class _Zip(_Files):
    def __init__(self, path: Path) -> None:
        with ExitStack() as opened:
            file = opened.enter_context(_InPieces(io.FileIO(path)))
            self._size = path.stat().st_size
            try:
                self._zip = zipfile.ZipFile(file)
                found = [one for one in self._zip.infolist() if not one.is_dir()]
            except _NOT_READ:
                raise ImportRefused("it is neither a zip file nor a folder") from None
            self._stack = opened.pop_all()
        # One folder, in which all of them stand.
        self._root = found[0].filename.partition("/")[0] + "/" if found else "/"
        self._members = {one.filename.removeprefix(self._root): one for one in found}
        self._count = len(found)

    def close(self) -> None:
        self._zip.close()
        self._stack.close()

    def names(self) -> list[str]:
        # One that stands twice is counted twice.
        return [*self._members, *[""] * (self._count - len(self._members))]

    def open(self, name: str) -> BinaryIO:
        member = self._members[name]
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise ImportRefused("it is no file", name)
        if member.compress_type not in _METHODS or member.flag_bits & _NOT_PLAIN:
            raise ImportRefused("it is compressed or encrypted in a way that no export is", name)
        with _telling(name):
            if not 0 <= member.header_offset <= self._size:
                raise zipfile.BadZipFile
            unpacked: Any = self._zip.open(member)
            # Its own `readline` is Python, and takes four times as long.
            return io.BufferedReader(unpacked, _CHUNK_BYTES)


# Others take memory without a bound.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Encrypted, or a difference to another file.
_NOT_PLAIN = 0x1 | 0x20 | 0x40
# What the reader of zip files raises of versions, names and fields that it does not know.
_NOT_READ = (zipfile.BadZipFile, NotImplementedError, ValueError, IndexError, struct.error)


class _InPieces(io.BufferedReader):
    """A zip file, of which nobody reads much at once: a list of millions of members would be."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _CHUNK_BYTES:
            raise zipfile.BadZipFile
        return super().read(size)
