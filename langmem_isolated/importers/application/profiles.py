"""Profile files by persona: ``profiles/{persona}/user_{id}.json``, and the older flat layout."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.application.forms import (
    Unreadable,
    first_of,
    json_of,
    moment_of,
)
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignFact, ForeignProfile, ForeignUnit, Rejected

_PROFILE = re.compile(r"user_(?P<id>.+)\.json", re.DOTALL)
# Beside profiles stands what applications make of them: user_index.json, index_cache/.
_CACHE = re.compile(r".*(_index|_cache)\.json|index_cache.*", re.DOTALL)
_CACHES = (".npy", ".npz", ".faiss", ".pkl", ".index", ".lock", ".tmp")
_FLAT = "default"
_FACT_TEXTS = ("text", "fact", "content", "value")
_FACT_TIMES = ("time", "timestamp", "created_at", "date", "learned_at")
_INTEREST_NAMES = ("name", "interest", "topic", "text")
# A profile is read whole; more than this is none.
_MOST_BYTES = 16 * 2**20


class ProfileFilesSource(Source):
    """Profiles that an application keeps as files of JSON, a folder for each persona.

    Args:
        location: The folder of profiles.
        persona: Which of them; all by default. ``"default"`` names the files in the folder itself.

    Raises:
        SourceRefused: There is no such folder, or none of a persona.
    """

    kind: ClassVar[str] = "profiles"
    owners: ClassVar[Sequence[str]] = ("user", "module")

    def __init__(self, location: str, *, persona: Sequence[str] = ()) -> None:
        self._folder = Path(location)
        self._wanted = tuple(persona)
        if not self._folder.is_dir() or not self._personas():
            raise SourceRefused(
                "There is no such folder, or no profile in it",
                "Give the folder that has {persona}/user_{id}.json, or user_{id}.json.",
            )
        if missing := [name for name in self._wanted if name not in self._personas()]:
            raise SourceRefused(
                f"There is no persona of {len(missing[0])} characters as it was given",
                f"Leave --persona out, or give one of the {len(self._personas())} that there are.",
            )

    @property
    def identity(self) -> str:
        """The absolute path of the folder."""
        return str(self._folder.resolve())

    def units(self) -> Iterator[ForeignUnit | Rejected]:
        """A profile for each file, in the order of personas and names."""
        for persona in self._chosen():
            for number, path in enumerate(self._files_of(persona), start=1):
                yield self._unit_of(path, persona, f"{persona}, file {number} by name")

    def total(self) -> int | None:
        """How many profiles there are."""
        return len(self.files())

    def files(self) -> Sequence[Path]:
        """The files of profiles."""
        return [path for persona in self._chosen() for path in self._files_of(persona)]

    def _chosen(self) -> list[str]:
        return [name for name in self._personas() if not self._wanted or name in self._wanted]

    def _personas(self) -> list[str]:
        folders = {path.name for path in self._folder.iterdir() if _is_persona(path)}
        flat = {_FLAT} if any(map(_is_kept, self._folder.iterdir())) else set()
        return sorted(folders | flat)

    def _files_of(self, persona: str) -> list[Path]:
        """A persona's files; those of the older layout stand behind those of the folder."""
        folders = [self._folder / persona] + [self._folder] * (persona == _FLAT)
        return [
            path
            for folder in folders
            if folder.is_dir()
            for path in sorted(folder.iterdir())
            if _is_kept(path)
        ]

    def _unit_of(self, path: Path, persona: str, place: str) -> ForeignProfile | Rejected:
        try:
            if path.parent == self._folder and (self._folder / persona / path.name).exists():
                raise Unreadable("an older file of a user who has one in the persona's folder")  # noqa: TRY301
            return _profile(path, persona, place)
        except Unreadable as error:
            return Rejected(place, str(error))


def _is_persona(path: Path) -> bool:
    is_cache = path.name.startswith(".") or _CACHE.fullmatch(path.name)
    return path.is_dir() and not path.is_symlink() and not is_cache


def _is_kept(path: Path) -> bool:
    """Whether a file is anything but a cache, a hidden file or a folder."""
    is_cache = path.suffix in _CACHES or _CACHE.fullmatch(path.name)
    return not (is_cache or path.name.startswith(".") or path.is_dir())


def _profile(path: Path, persona: str, place: str) -> ForeignProfile:
    named = _PROFILE.fullmatch(path.name)
    if named is None:
        raise Unreadable("a file whose name is not user_{id}.json")
    document = json_of(_read(path))
    if not isinstance(document, dict):
        raise Unreadable(f"JSON that is no object, but {kind_of(document)}")
    attributes = dict(document)
    return ForeignProfile(
        named["id"],
        place,
        [_fact(*fact) for fact in enumerate(_list(attributes.pop("facts", None), "facts"), 1)],
        _interests(attributes),
        attributes,
        _summary(attributes),
        {"user": named["id"], "module": persona},
    )


def _read(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        Unreadable: It leads elsewhere, is no file, is too long, or cannot be read.
    """
    try:
        kind = path.lstat()
        if not stat.S_ISREG(kind.st_mode) or kind.st_size > _MOST_BYTES:
            raise Unreadable(f"a link, a pipe, or a file of more than {_MOST_BYTES >> 20} MB")
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(f"a file that cannot be read: {error.strerror}") from None


def _list(value: object, name: str) -> list[Any]:
    if value is None or isinstance(value, list):
        return value or []
    raise Unreadable(f"{name} that are no list, but {kind_of(value)}")


def _fact(number: int, entry: object) -> ForeignFact:
    """A fact that is text, or an object with its text, and perhaps its source and time."""
    if isinstance(entry, str):
        return ForeignFact(entry)
    if not isinstance(entry, dict) or not isinstance(text := first_of(entry, _FACT_TEXTS), str):
        raise Unreadable(f"fact {number} is neither text nor has one: {kind_of(entry)}")
    source = entry.get("source")
    time = moment_of(first_of(entry, _FACT_TIMES))
    return (
        ForeignFact(text, source, time) if isinstance(source, str) else ForeignFact(text, time=time)
    )


def _interests(attributes: dict[str, Any]) -> list[str]:
    """The names of interests; where more is told of them, that stays an attribute, too."""
    value = attributes.pop("interests", None)
    entries = list(value) if isinstance(value, dict) else _list(value, "interests")
    if not all(isinstance(entry, str) for entry in entries) or isinstance(value, dict):
        attributes["interests"] = value
    return [_interest(entry) for entry in entries]


def _interest(entry: object) -> str:
    name = first_of(entry, _INTEREST_NAMES) if isinstance(entry, dict) else entry
    if not isinstance(name, str):
        raise Unreadable(f"an interest that is neither text nor has a name: {kind_of(entry)}")
    return name


def _summary(attributes: dict[str, Any]) -> str | None:
    return attributes.pop("summary") if isinstance(attributes.get("summary"), str) else None
