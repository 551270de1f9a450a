"""The former class's files as a source: read as they are, moved in, undone by one call."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from examples.user_agent.user_agent import MESSAGES, MODULE, SESSION
from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers import (
    ForeignFact,
    ForeignMessage,
    ForeignProfile,
    ForeignSession,
    ForeignUnit,
    Rejected,
    Source,
)

# A file is read whole; more than this is none of an agent's.
MOST_BYTES = 64 * 2**20


class AgentFilesSource(Source):
    """A session and a profile for each ``{user_id}.json``.

    Args:
        folder: The folder with the files.

    Raises:
        SourceRefused: There is no such folder.
    """

    kind: ClassVar[str] = "agent-files"
    owners: ClassVar[Sequence[str]] = ("user", "module")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not folder.is_dir():
            raise SourceRefused("There is no such folder", "Give the one that has {user_id}.json.")

    @property
    def identity(self) -> str:
        """The absolute path of the folder."""
        return str(self._folder.resolve())

    def files(self) -> Sequence[Path]:
        """The files of agents, by name."""
        return sorted(self._folder.glob("*.json"))

    def units(self) -> Iterator[ForeignUnit | Rejected]:
        """Each user's conversation and facts; what cannot be read is rejected by its number."""
        for number, path in enumerate(self.files(), start=1):
            place = f"file {number} by name"
            try:
                yield from _units_of(path.stem, _read(path), place)
            except _Unreadable as broken:
                yield Rejected(place, str(broken))


class _Unreadable(ValueError):
    """What a file is instead of an agent's; no content of it."""


def _read(path: Path) -> dict[str, Any]:
    """What the former class wrote."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise _Unreadable(f"a link, a folder, or a file of more than {MOST_BYTES >> 20} MB")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise _Unreadable("no JSON") from None
    lists = [found.get(name) for name in ("messages", "facts")] if isinstance(found, dict) else []
    if not lists or not all(isinstance(one, list) for one in lists):
        raise _Unreadable("JSON without lists of messages and facts")
    if not all(isinstance(fact, str) for fact in found["facts"]):
        raise _Unreadable("a fact that is no text")
    return dict(found)


def _units_of(user: str, found: dict[str, Any], place: str) -> Iterator[ForeignUnit]:
    owner = {"user": user, "module": MODULE}
    said = [
        _message(one, f"{place}, message {number}")
        for number, one in enumerate(found["messages"], start=1)
    ]
    yield ForeignSession(SESSION, place, said, owner)
    yield ForeignProfile(user, place, [*map(ForeignFact, found["facts"])], fields=owner)


def _message(one: Any, place: str) -> ForeignMessage | Rejected:
    match one:
        case {
            "role": "user" | "assistant" | "system" as role,
            "content": str(text),
            "time": str(at),
        }:
            time = _moment(at)
        case _:
            return Rejected(place, "a message without role, text and time as the class wrote them")
    if time is None:
        return Rejected(place, "a time that is none, or has no time zone")
    return ForeignMessage(MESSAGES[role](text), place, time)


def _moment(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else None
