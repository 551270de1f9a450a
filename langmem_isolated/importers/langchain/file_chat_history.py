"""`FileChatMessageHistory` of langchain-community: a JSON list of messages in a file each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import count
from json.decoder import WHITESPACE  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.langchain.messages import read_message
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignMessage, ForeignSession, Rejected

_BROKEN = "expected a JSON list of messages, got what is none from character"


class FileChatHistorySource(Source):
    """A file of a session, or a folder of such files.

    A session is called what its file is called, without the suffix; below a folder's own folders
    with the path to it, as ``alice/monday``. Mapping rules read its folder as ``folder``.

    Args:
        location: The file, or the folder.
        pattern: Which files of a folder, and of folders in it, are sessions.
        encoding: As `FileChatMessageHistory` was given.

    Raises:
        SourceRefused: There is no such file or folder.
    """

    kind = "file-chat-history"

    def __init__(
        self, location: str | Path, *, pattern: str = "*.json", encoding: str = "utf-8"
    ) -> None:
        self._path = Path(location).resolve()
        self._pattern, self._encoding = pattern, encoding
        if not self._path.exists():
            raise SourceRefused(
                "There is no file or folder at the location",
                "Give the file of a chat history, or the folder that has them.",
            )

    @property
    def identity(self) -> str:
        """The absolute path."""
        return str(self._path)

    def files(self) -> Sequence[Path]:
        """Every session's, in the order of their paths.

        Raises:
            SourceRefused: A folder cannot be read; `rglob` would leave it out.
        """
        if not self._path.is_dir():
            return (self._path,)
        for _ in os.walk(self._path, onerror=_refuse_folder):
            pass
        return sorted(path for path in self._path.rglob(self._pattern) if path.is_file())

    def units(self) -> Iterator[ForeignSession | Rejected]:
        """A session of each file, in the order of their paths."""
        for number, path in enumerate(self.files(), 1):
            # By its number: a file's name is the session's id, and often the user's.
            yield self._session(path, f"file {number} in the order of paths")

    def _session(self, path: Path, place: str) -> ForeignSession | Rejected:
        if path.is_symlink():
            # What it leads to may be another user's.
            return Rejected(place, "expected a file, got a link")
        try:
            text = path.read_text(encoding=self._encoding).removeprefix("\ufeff")
        except OSError as error:
            return Rejected(place, f"expected a file that can be read, got {error.strerror}")
        except UnicodeError:
            return Rejected(place, f"expected text in {self._encoding}, got other bytes")
        if not text.lstrip().startswith("["):
            return Rejected(place, f"{_BROKEN} 1 on")
        name = path.relative_to(self._path).with_suffix("") if path != self._path else path.stem
        folder = path.parent.relative_to(self._path).as_posix() if path != self._path else "."
        id_ = name.as_posix() if isinstance(name, Path) else name
        return ForeignSession(id_, place, _messages(text, place), {"folder": folder})


def _refuse_folder(error: OSError) -> None:
    raise SourceRefused(
        f"A folder of it cannot be read: {error.strerror}",
        "Give a folder of which all may be read.",
    )


def _messages(text: str, place: str) -> Iterator[ForeignMessage | Rejected]:
    """The messages one by one; those in front of what is broken are whole, and come."""
    elements = _elements(text)
    for number in count(1):
        where = f"{place}, message {number}"
        try:
            element = next(elements)
        except StopIteration:
            return
        except json.JSONDecodeError as error:
            yield Rejected(where, f"{_BROKEN} {error.pos + 1:,} on")
            return
        except (ValueError, RecursionError) as error:
            yield Rejected(where, f"expected a JSON list, got {type(error).__name__} in it")
            return
        yield read_message(element, where)


def _elements(text: str) -> Iterator[Any]:
    """What stands in a JSON list, read element by element: a whole list takes ten times its text.

    Raises:
        JSONDecodeError: It ends too early, or is no JSON from there on.
    """
    decode = json.JSONDecoder().raw_decode
    at = _after_space(text, text.index("[") + 1)
    while text[at : at + 1] != "]":
        element, at = decode(text, at)
        yield element
        at = _after_space(text, at)
        if text[at : at + 1] == ",":
            at = _after_space(text, at + 1)
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("no end of the list", text, at)
    if text[at + 1 :].strip():
        raise json.JSONDecodeError("more behind the list", text, at + 1)


def _after_space(text: str, at: int) -> int:
    end: int = WHITESPACE.match(text, at).end()
    return end
