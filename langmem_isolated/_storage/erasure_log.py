"""Erasure log: tombstones in a file outside the database, which no restored backup takes back.

Each line is one tombstone, as JSON without spaces, its names in this order::

    {"v":1,"principal":"…","incarnation":1,"erased_at":…,"expires_at":null,"mac":"…"}

``principal`` and ``mac`` are 16 bytes in hex, times microseconds since 1970. The MAC is that of the
row in the table, by a key that the directory key derives: a line of another installation is refused
as one that was changed is. A last line without an end was torn off by a crash, before anything was
destroyed: readers pass over it, and whoever appends next takes it away.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._database.copies import make_durable
from langmem_isolated._runtime.file_locks import locked_beside
from langmem_isolated.errors import ErasureLogRefused

_VERSION = 1
_END = b"\n"


class Tombstone(NamedTuple):
    """That a principal's lives were ended, up to one of them; it names nobody."""

    principal: bytes
    incarnation: int
    """The last life that was ended."""
    erased_at: int
    expires_at: int | None
    """When it may be forgotten; ``None`` for never."""
    mac: bytes

    @classmethod
    def of(
        cls,
        directory: DirectoryKey,
        principal: bytes,
        incarnation: int,
        erased_at: int,
        expires_at: int | None,
    ) -> "Tombstone":
        """One with its MAC."""
        columns = principal, incarnation, erased_at, expires_at
        return cls(*columns, directory.tombstone_mac(*columns))

    def is_authentic(self, directory: DirectoryKey) -> bool:
        """Whether this installation made it."""
        return directory.has_tombstone(self.mac, *self[:-1])

    def is_over(self, moment: int) -> bool:
        """Whether it may be forgotten at a time."""
        return self.expires_at is not None and self.expires_at <= moment

    @property
    def lasts(self) -> tuple[bool, int]:
        """What the one of two that is kept longer has more of."""
        return self.expires_at is None, self.expires_at or 0

    def encoded(self) -> bytes:
        """Its line, without the end."""
        told = {
            "v": _VERSION,
            "principal": self.principal.hex(),
            "incarnation": self.incarnation,
            "erased_at": self.erased_at,
            "expires_at": self.expires_at,
            "mac": self.mac.hex(),
        }
        return json.dumps(told, separators=(",", ":")).encode()

    @classmethod
    def decoded(cls, line: bytes) -> "Tombstone":
        """What :meth:`encoded` gave; not authenticated.

        Raises:
            ValueError: It is no such line.
        """
        told = json.loads(line)
        if not isinstance(told, dict) or told.pop("v", None) != _VERSION:
            raise ValueError("no line of this version")
        try:
            principal, mac = bytes.fromhex(told["principal"]), bytes.fromhex(told["mac"])
            found = cls(principal, told["incarnation"], told["erased_at"], told["expires_at"], mac)
        except (KeyError, TypeError) as error:
            raise ValueError("no line of a tombstone") from error
        if found.encoded() != line:
            raise ValueError("no line as they are written")
        return found


class ErasureLog:
    """One file of tombstones; several processes may append to it and read it at once.

    Args:
        path: Where it is, or will be made with the first tombstone, of mode 0600. Its folder has to
            be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_there(self) -> bool:
        """Whether there is such a file."""
        return self.path.exists()

    def read(self, directory: DirectoryKey) -> list[Tombstone]:
        """All of its tombstones; none where it was not made yet.

        Raises:
            ErasureLogRefused: It cannot be read, or a line is not what this installation wrote.
        """
        return [*_lines(self._content(), directory)]

    def find(self, directory: DirectoryKey, principal: bytes) -> list[Tombstone]:
        """Those of one principal; other lines are not looked at.

        Raises:
            ErasureLogRefused: It cannot be read, or one is not what this installation wrote.
        """
        content, name = self._content(), principal.hex().encode()
        return [*_lines(content, directory, only=name)] if name in content else []

    def append(self, *tombstones: Tombstone) -> None:
        """Add those that are not there, and have them survive loss of power.

        Raises:
            ErasureLogRefused: It cannot be written; what was in it stays.
        """
        with self._writing():
            content = self._content()
            known = {*content.split(_END)}
            new = dict.fromkeys(one.encoded() for one in tombstones)
            lines = b"".join(line + _END for line in new if line not in known)
            if lines:
                self._add(lines, torn=content.rpartition(_END)[2])

    def _add(self, lines: bytes, *, torn: bytes) -> None:
        is_new = not self.is_there
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        descriptor = os.open(self.path, flags, 0o600)
        try:
            if torn:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - len(torn))
            whole = torn + _END if _is_whole(torn) else b""
            _write_all(descriptor, whole + lines)
        finally:
            os.close(descriptor)
        if is_new:
            make_durable(self.path.parent)

    def remove(
        self, directory: DirectoryKey, moment: int, *, is_dry: bool = False
    ) -> list[Tombstone]:
        """Remove those that are over at a time, all at once; nothing is written where none is.

        Raises:
            ErasureLogRefused: A line is not what this installation wrote, or it cannot be written;
                it stays as it was.
        """
        over = [one for one in self.read(directory) if one.is_over(moment)]
        if over and not is_dry:
            with self._writing():
                kept = (one for one in self.read(directory) if not one.is_over(moment))
                self._replace(b"".join(one.encoded() + _END for one in kept))
        return over

    def _replace(self, content: bytes) -> None:
        draft = self.path.with_name(f".{self.path.name}.new")
        with suppress(FileNotFoundError):
            draft.unlink()
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)
        make_durable(self.path.parent)

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise ErasureLogRefused(f"It cannot be read: {error.strerror}.") from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with locked_beside(self.path):
                yield
        except OSError as error:
            raise ErasureLogRefused(f"It cannot be written: {error.strerror}.") from None


def _lines(content: bytes, directory: DirectoryKey, only: bytes = b"") -> Iterator[Tombstone]:
    """The tombstones of all lines, or of those that have ``only`` in them, in their order."""
    *lines, torn = content.split(_END)
    if _is_whole(torn):
        lines.append(torn)
    for number, line in enumerate(lines, start=1):
        if only in line:
            yield _checked(line, directory, number)


def _checked(line: bytes, directory: DirectoryKey, number: int) -> Tombstone:
    try:
        found = Tombstone.decoded(line)
    except (ValueError, RecursionError):
        raise ErasureLogRefused.line(number) from None
    if not found.is_authentic(directory):
        raise ErasureLogRefused.line(number)
    return found


def _is_whole(torn: bytes) -> bool:
    """Whether what stands behind the last end is a line that lacks only its own."""
    try:
        Tombstone.decoded(torn)
    except (ValueError, RecursionError):
        return False
    return True


def _write_all(descriptor: int, lines: bytes) -> None:
    """In one write, so that no other's comes between; what was written in part is torn."""
    if os.write(descriptor, lines) < len(lines):
        raise OSError(0, "there was room for a part of it only")
    os.fsync(descriptor)
