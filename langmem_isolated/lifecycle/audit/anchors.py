"""Anchors: the ends of an audit log's chains, kept where who changes the database cannot reach.

An anchor is one line of JSON in ASCII, without spaces, its names in this order::

    {"v":1,"directory":"…","taken_at":…,"entries":…,"heads":[[first,next,"…"],…],"mac":"…"}

``directory`` is the id of the installation's directory key, ``taken_at`` microseconds since 1970,
``heads`` one for each shard: the sequence of the first entry that is kept, that of the next one,
and the hash of the last, in hex. The MAC is by a key that the directory key derives. A time stamp
of somebody else's stands behind it, ``"stamp":"…"`` in base64, over the line without it (RFC 3161).
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langmem_isolated._database.copies import make_durable
from langmem_isolated._runtime.clock import EPOCH, as_moment
from langmem_isolated._runtime.file_locks import locked_beside
from langmem_isolated.errors import AnchorRefused

if TYPE_CHECKING:
    from langmem_isolated._crypto.directory import DirectoryKey
    from langmem_isolated._storage.audit_rows import ChainEnds

_VERSION = 1
_END = b"\n"
_BEGIN = b'{"v":'
_LABEL = "anchor"


@dataclass(frozen=True, slots=True)
class Head:
    """The end of one chain."""

    first_sequence: int
    next_sequence: int
    hash: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Anchor:
    """The ends of all chains at one moment; it names nobody, and says nothing of what was done."""

    directory_id: bytes
    taken_at: int
    """Microseconds since 1970, by the clock of who took it."""
    heads: tuple[Head, ...]
    mac: bytes
    stamp: bytes | None = None
    """A time stamp token of RFC 3161, DER."""

    def __repr__(self) -> str:
        return f"Anchor(entries={self.entries}, time={self.time!r})"

    @classmethod
    def of(cls, directory: DirectoryKey, ends: list[ChainEnds], taken_at: int) -> Anchor:
        """One with its MAC."""
        heads = tuple(Head(one.first_sequence, one.next_sequence, one.hash) for one in ends)
        made = cls(directory.id, taken_at, heads, b"")
        return replace(made, mac=directory.audit_mac(_LABEL, made.unsigned()))

    @property
    def entries(self) -> int:
        """How many entries there ever were."""
        return sum(head.next_sequence - 1 for head in self.heads)

    @property
    def time(self) -> datetime:
        """When it was taken, UTC, by the clock of who took it."""
        return as_moment(self.taken_at) or EPOCH

    def is_authentic(self, directory: DirectoryKey) -> bool:
        """Whether this installation made it."""
        is_ours = self.directory_id == directory.id
        return is_ours and directory.has_audit(self.mac, _LABEL, self.unsigned())

    def unsigned(self) -> bytes:
        """What its MAC is over: the line without it."""
        return _json(self._told())

    def stampable(self) -> bytes:
        """What a time stamp is over: the line without it."""
        return _json(self._told() | {"mac": self.mac.hex()})

    def _told(self) -> dict[str, Any]:
        heads = [[one.first_sequence, one.next_sequence, one.hash.hex()] for one in self.heads]
        return {
            "v": _VERSION,
            "directory": self.directory_id.hex(),
            "taken_at": self.taken_at,
            "entries": self.entries,
            "heads": heads,
        }

    def encoded(self) -> bytes:
        """Its line, without the end."""
        told = self._told() | {"mac": self.mac.hex()}
        if self.stamp is not None:
            told["stamp"] = base64.b64encode(self.stamp).decode()
        return _json(told)

    @classmethod
    def decoded(cls, line: bytes) -> Anchor:
        """What :meth:`encoded` gave; not authenticated.

        Raises:
            AnchorRefused: It is no such line.
        """
        try:
            return cls._decoded(line)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            raise AnchorRefused(
                "It is no line as anchors have it, or of a later version."
            ) from None

    @classmethod
    def _decoded(cls, line: bytes) -> Anchor:
        told = json.loads(line)
        heads = tuple(Head(first, end, bytes.fromhex(h)) for first, end, h in told["heads"])
        stamp = told.get("stamp")
        found = cls(
            bytes.fromhex(told["directory"]), told["taken_at"], heads, bytes.fromhex(told["mac"]),
            None if stamp is None else base64.b64decode(stamp, validate=True),
        )  # fmt: skip
        if told["v"] != _VERSION or found.encoded() != line:
            raise ValueError("no line as they are written")
        return found


def _json(told: dict[str, Any]) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode()


class AnchorFile:
    """A file of anchors, a line each, to which anchors are appended and nothing else.

    Keep it where who can write to the database cannot: on another machine, or on storage that
    takes appends alone. Several processes may append at once; each line is on the disk when the
    call returns.

    >>> from tempfile import mkdtemp
    >>> keep = AnchorFile(mkdtemp() + "/anchors.jsonl")
    >>> keep.read()
    []

    Args:
        path: Where it is, or will be made, of mode 0600. Its folder has to be there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __call__(self, anchor: Anchor) -> None:
        """Append an anchor.

        Raises:
            AnchorRefused: It cannot be written, or is another file; what is in it stays.
        """
        try:
            with locked_beside(self.path):
                self._append(anchor.encoded() + _END)
        except OSError as error:
            raise AnchorRefused(f"The file cannot be written: {error.strerror}.") from None

    def _append(self, line: bytes) -> None:
        is_new = not self.path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        descriptor = os.open(self.path, flags, 0o600)
        try:
            content = self.path.read_bytes()
            _refuse_other_files(content)
            torn = content.rpartition(_END)[2]
            if torn:
                os.ftruncate(descriptor, len(content) - len(torn))
            whole = torn + _END if _is_whole(torn) else b""
            _write_all(descriptor, whole + line)
        finally:
            os.close(descriptor)
        if is_new:
            make_durable(self.path.parent)

    def read(self) -> list[Anchor]:
        """All of its anchors, as they were written; none where it was not made yet.

        Whether they are this installation's is for :meth:`AuditLog.check_anchors` to say.

        Raises:
            AnchorRefused: It cannot be read, or a line is none.
        """
        return [*self._read()]

    def _read(self) -> Iterator[Anchor]:
        try:
            *lines, torn = self.path.read_bytes().split(_END)
        except FileNotFoundError:
            return
        except OSError as error:
            raise AnchorRefused(f"The file cannot be read: {error.strerror}.") from None
        # What a crash has torn off, nobody was told is kept; it may lack its end alone.
        lines += [torn] if _is_whole(torn) else []
        for number, line in enumerate(lines, start=1):
            try:
                yield Anchor.decoded(line)
            except AnchorRefused:
                told = f"Line {number} is no anchor as they are written: it was changed."
                raise AnchorRefused(told) from None


def _is_whole(torn: bytes) -> bool:
    try:
        Anchor.decoded(torn)
    except AnchorRefused:
        return False
    return True


def _refuse_other_files(content: bytes) -> None:
    """Refuse to write to what is no file of anchors, such as the database itself."""
    begins = content[: len(_BEGIN)]
    # A power loss can leave zeros of a first line.
    if begins != _BEGIN[: len(begins)] and content.strip(b"\0"):
        raise AnchorRefused("The file is another one: its first line is no anchor.")


def _write_all(descriptor: int, line: bytes) -> None:
    """In one write, so that no other's comes between; what was written in part is torn."""
    if os.write(descriptor, line) < len(line):
        raise OSError(0, "there was room for a part of it only")
    os.fsync(descriptor)
