"""Journal of an adoption: which document of a store went to which scope, for a way back.

JSON lines in a file of mode 0600: the first says what the store is called, each further one has a
document's id, the scope, and a keyed digest of the document. No text and no metadata are in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from langmem_isolated.errors import JournalRefused
from langmem_isolated.scope import Scope

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class JournalHead:
    """Which adoption a journal is of."""

    store: str
    is_sealed: bool

    def line(self) -> dict[str, Any]:
        """As it is written."""
        return {"format": _FORMAT, "store": self.store, "sealed": self.is_sealed}


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A document that was, or was about to be, given to a scope."""

    id: Any = field(repr=False)
    """By which the store knew it: a text, or a whole number."""
    scope: Scope = field(repr=False)
    mark: str = field(repr=False)
    """Keyed digest of what it was."""

    def line(self) -> dict[str, Any]:
        """As it is written."""
        scope = self.scope
        ids = {"project": scope.project_id, "user": scope.user_id, "module": scope.module_id}
        return {"id": self.id, **ids, "mark": self.mark}

    @classmethod
    def of(cls, line: dict[str, Any]) -> Self:
        """What a line says."""
        scope = Scope(line["user"], line["module"], project_id=line["project"])
        return cls(line["id"], scope, line["mark"])


class Journal:
    """A journal that is being written; what :meth:`add` returned from survives loss of power.

    Args:
        path: A new file, or the one that the same adoption wrote before.
        head: Which adoption.

    Raises:
        JournalRefused: The file is of another adoption, or no journal.
        OSError: It cannot be made or written.
    """

    def __init__(self, path: Path, head: JournalHead) -> None:
        if path.exists() and not _is_begun(path, head):
            if read_head(path) != head:
                raise JournalRefused("it is of another store, or was sealed otherwise")
            _drop_half_a_line(path)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if _is_begun(path, head):
            os.ftruncate(self._descriptor, 0)
            self._write([head.line()])

    def add(self, entries: Sequence[JournalEntry]) -> None:
        """Keep entries, before anything is done to what they are about."""
        self._write([one.line() for one in entries])

    def _write(self, lines: Sequence[dict[str, Any]]) -> None:
        text = _text(lines)
        while text:
            text = text[os.write(self._descriptor, text) :]
        os.fsync(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _text(lines: Sequence[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()


def _is_begun(path: Path, head: JournalHead) -> bool:
    """Whether who was to write the first line was killed before it was whole."""
    whole = _text([head.line()])
    with path.open("rb") as file:
        found = file.read(len(whole))
    return found != whole and whole.startswith(found)


def read_head(path: Path) -> JournalHead:
    """Which adoption a journal is of.

    Raises:
        JournalRefused: It is no journal, or of a later version of this package.
    """
    head = next(_lines(path), None)
    if head is None or not {"format", "store", "sealed"} <= head.keys():
        raise JournalRefused("the file is no journal of an adoption")
    if head["format"] != _FORMAT:
        raise JournalRefused("a later version of this package wrote it")
    return JournalHead(str(head["store"]), bool(head["sealed"]))


def read_entries(path: Path) -> Iterator[JournalEntry]:
    """What a journal has, each document once.

    Raises:
        JournalRefused: A line in it is none of ours.
    """
    seen = set()
    for line in _lines(path):
        if "format" in line:
            continue
        try:
            entry = JournalEntry.of(line)
        except (KeyError, TypeError, ValueError):
            raise JournalRefused("a line in it is none that an adoption writes") from None
        if (entry.id, entry.mark) not in seen:
            seen.add((entry.id, entry.mark))
            yield entry


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for text in file:
            # Whoever was killed while it was written had not yet done what it says.
            if not text.endswith(b"\n"):
                return
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            if not isinstance(line, dict):
                raise JournalRefused("a line in it is none that an adoption writes")
            yield line


def _drop_half_a_line(path: Path) -> None:
    with path.open("rb+") as file:
        kept = sum(len(line) for line in file if line.endswith(b"\n"))
        file.truncate(kept)
