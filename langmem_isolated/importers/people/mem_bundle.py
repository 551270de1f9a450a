"""Mem bundle: memory in the portable ``.mem`` format 1.x, which other programs export.

https://github.com/MacPaw/portable-memory, Spec/portable-memory-spec.md.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.langchain.messages import MessageRefused, message_from
from langmem_isolated.importers.people.files import ExportFiles
from langmem_isolated.importers.people.json_stream import MOST_BYTES, Unreadable, parsed
from langmem_isolated.importers.people.values import (
    an_object,
    expected,
    inside,
    instant,
    scalars,
    text_of,
)
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import (
    ForeignFact,
    ForeignItem,
    ForeignMessage,
    ForeignProfile,
    ForeignSession,
    ForeignUnit,
    Rejected,
)

_CLASSES: Mapping[str, type[BaseMessage]] = {
    "user": HumanMessage,
    "assistant": AIMessage,
    "system": SystemMessage,
}
# The format's own limit, `MemLimits.max_file_bytes`.
_MOST_FILE_BYTES = 256 * 2**20
_CHUNK = 2**16
_PROFILE = ("preference", "core")
_OF_USER = "user"
# What of a fact says that it holds no longer.
_OVER = ("supersededBy", "prunedAt")


class _Record(NamedTuple):
    kind: str
    place: str
    fields: dict[str, Any]

    @property
    def key(self) -> str:
        """By which it is found again: its id, or what of it is one."""
        ids = (
            f"{self.fields.get(f'src{of}ID')} {self.fields.get(f'dst{of}ID')}"
            for of in ("Fact", "Episode")
            if f"src{of}ID" in self.fields
        )
        named = (text_of(self.fields.get(name)) for name in ("id", "key", "name"))
        return next(filter(None, (*named, *ids)), self.place)


class MemBundle(Source):
    """What another program has remembered, from the folder or zip that it exported.

    Episodes that somebody said become messages, of a session for each context. Facts about the
    user, preferences and core blocks become the profile, of which only what still holds is taken.
    All other records become items, under the name of their kind, as they are. What tombstones name
    is left out.

    Args:
        location: The bundle.

    Raises:
        SourceRefused: It is no bundle of format 1, or a file's SHA-256 is not that of CHECKSUMS.
    """

    kind = "mem"
    owners: ClassVar[Sequence[str]] = ()

    def __init__(self, location: str) -> None:
        self._exported = ExportFiles(Path(location))
        self._over: set[str] = set()
        self._deleted: set[tuple[str, str]] = set()
        self._check_format()
        self._check_sums()

    @property
    def identity(self) -> str:
        """The absolute path."""
        return str(self._exported.path.absolute())

    def files(self) -> Sequence[Path]:
        """Those that it consists of."""
        return self._exported.paths()

    def notes(self) -> Mapping[str, int]:
        """How much was left out."""
        told = {
            "deleted by a tombstone": len(self._deleted),
            "facts that hold no longer": len(self._over),
        }
        return {what: count for what, count in told.items() if count}

    def units(self) -> Iterator[ForeignUnit | Rejected]:
        """Sessions, the profile, and items, in the order of its files."""
        self._deleted.clear()
        self._over.clear()
        yield from self._sessions()
        yield from self._profile()
        for name in self._exported.matching(r"items/[A-Za-z]+\.jsonl"):
            yield from self._items(_kind_of(name))

    def _check_format(self) -> None:
        try:
            manifest = an_object(parsed(self._read(self._required("manifest.json"))))
        except Unreadable as unreadable:
            raise _refused(f"Its manifest cannot be read: {unreadable.args[0]}") from None
        found = manifest.get("format")
        if not isinstance(found, str) or not found.startswith("1."):
            raise _refused("It is of another version than 1 of the .mem format")

    def _check_sums(self) -> None:
        for line in self._read(self._required("CHECKSUMS")).decode("utf-8", "replace").splitlines():
            digest, _, name = line.partition("  ")
            found = self._exported.matching(_literally(name))
            if not found or hashlib.sha256(self._read(found[0])).hexdigest() != digest:
                raise _refused("A file of it is not the one that was exported, or is missing")

    def _required(self, name: str) -> str:
        found = self._exported.matching(_literally(name))
        if not found:
            raise _refused(f"There is no {name} in it")
        return min(found, key=len)

    def _read(self, name: str) -> bytes:
        read = bytearray()
        try:
            with self._exported.open(name) as reading:
                while chunk := reading.read(_CHUNK):
                    read += chunk
                    if len(read) > _MOST_FILE_BYTES:
                        raise _refused("A file of it has more than the 256 MiB that the format has")
        except Unreadable as unreadable:
            raise _refused(f"A file of it cannot be read: {unreadable.args[0]}") from None
        return bytes(read)

    def _records(self, kind: str) -> Iterator[_Record | Rejected]:
        """The records of a kind that no tombstone names."""
        for name in self._exported.matching(rf"items/{kind}\.jsonl"):
            with self._exported.open(name) as reading:
                for number, _, line in reading.lines(MOST_BYTES):
                    place = f"{kind}, line {number}"
                    try:
                        record = _Record(kind, place, _line(line))
                    except Unreadable as unreadable:
                        yield Rejected(place, unreadable.args[0])
                        continue
                    if (kind, record.key) in self._tombstones:
                        self._deleted.add((kind, record.key))
                    else:
                        yield record

    @cached_property
    def _tombstones(self) -> frozenset[tuple[str, str]]:
        found = set()
        for name in self._exported.matching(r"audit/tombstones\.jsonl"):
            with self._exported.open(name) as reading:
                for _, _, line in reading.lines(MOST_BYTES):
                    # One that cannot be read deletes what nobody knows: nothing may be put in.
                    stone = _line(line)
                    found.add((str(stone.get("targetKind")), str(stone.get("targetID"))))
                    found.update(_derived(stone))
        return frozenset(found)

    # --- what was said

    def _sessions(self) -> Iterator[ForeignSession | Rejected]:
        contexts = {
            one.key: one.fields for one in self._records("context") if isinstance(one, _Record)
        }
        said: dict[str, list[_Record]] = defaultdict(list)
        for one in self._records("episode"):
            if isinstance(one, Rejected):
                yield one
            elif _is_said(one):
                said[text_of(one.fields.get("contextID")) or "episodes"].append(one)
        named: set[tuple[Any, str]] = set()
        for context, episodes in said.items():
            session = _session(context, contexts.get(context, {}), episodes)
            if (session.fields.get("module"), session.id) in named:
                # An application may call a session and a thread the same.
                session = replace(session, id=context, title=session.title or session.id)
            named.add((session.fields.get("module"), session.id))
            yield session

    # --- what is known of the user

    def _profile(self) -> Iterator[ForeignProfile | Rejected]:
        facts: list[ForeignFact] = []
        attributes: dict[str, Any] = {}
        summaries: list[str] = []
        for kind in ("fact", *_PROFILE):
            for one in self._records(kind):
                if isinstance(one, Rejected):
                    yield one
                elif kind == "preference":
                    attributes[one.key] = one.fields.get("value")
                elif kind == "core":
                    summaries.append(str(one.fields.get("content") or ""))
                elif _is_of_user(one) and not self._is_over(one):
                    moment = instant(one.fields.get("tValidFrom"))
                    facts.append(ForeignFact(str(one.fields.get("text") or ""), time=moment))
        if facts or attributes or any(summaries):
            yield ForeignProfile(
                "profile", "the profile", facts, (), attributes, "\n\n".join(summaries) or None
            )

    def _is_over(self, fact: _Record) -> bool:
        is_over = any(fact.fields.get(name) for name in _OVER)
        if is_over:
            self._over.add(fact.key)
        return is_over

    # --- all else

    def _items(self, kind: str) -> Iterator[ForeignItem | Rejected]:
        if kind in (*_PROFILE, "context"):
            return
        for one in self._records(kind):
            # Rejects of episodes and facts are told where those are read.
            if isinstance(one, Rejected):
                if kind not in ("episode", "fact"):
                    yield one
            elif not _is_said(one) and not (kind == "fact" and _is_of_user(one)):
                yield ForeignItem((kind,), one.key, one.fields, one.place, fields=_fields(one))


def _kind_of(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".jsonl")


def _literally(name: str) -> str:
    return name.replace(".", r"\.") if name.replace("/", "").replace(".", "").isalnum() else r"\b\B"


def _line(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise expected(f"a line of at most {MOST_BYTES:,} bytes", None)
    return an_object(parsed(line))


def _derived(stone: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for kind in ("fact", "edge", "entity", "chunk"):
        ids = inside(stone, "derived", f"{kind}IDs")
        yield from ((kind, str(one)) for one in ids if ids) if isinstance(ids, list) else ()


def _is_said(record: _Record) -> bool:
    return record.kind == "episode" and text_of(record.fields.get("speaker")) is not None


def _is_of_user(record: _Record) -> bool:
    return record.fields.get("subject") == _OF_USER


def _fields(record: _Record) -> dict[str, Any]:
    """What rules of a mapping can read: its metadata, such as the module of an export of ours."""
    return scalars(record.fields) | scalars(inside(record.fields, "metadata") or {})


def _session(context: str, about: Mapping[str, Any], episodes: Sequence[_Record]) -> ForeignSession:
    first, label = _fields(episodes[0]), text_of(about.get("label"))
    name = text_of(first.get("session")) or text_of(first.get("thread")) or context
    return ForeignSession(
        id=name,
        place=episodes[0].place,
        messages=[_message(one) for one in sorted(episodes, key=_order)],
        fields=first | {"context": label or context},
        title=None if label == name else label,
        created_at=instant(about.get("createdAt")),
        is_archived=about.get("archived") is True,
    )


def _order(episode: _Record) -> tuple[float, int]:
    """By time; within a second, as the format has it, by the number that an export of ours has."""
    moment = instant(episode.fields.get("eventTime"))
    number = text_of(inside(episode.fields, "metadata", "sequence")) or ""
    return moment.timestamp() if moment else 0, int(number) if number.isdecimal() else 0


def _message(episode: _Record) -> ForeignMessage | Rejected:
    fields = episode.fields
    try:
        message = _spoken(fields)
    except MessageRefused as refusal:
        return Rejected(episode.place, str(refusal))
    channel = text_of(inside(fields, "metadata", "channel"))
    return ForeignMessage(message, episode.place, instant(fields.get("eventTime")), channel)


def _spoken(fields: Mapping[str, Any]) -> BaseMessage:
    """The message as an export of ours has it besides, or what the speaker said."""
    if "langchainMessage" in fields:
        return message_from(fields["langchainMessage"])
    speaker, text = str(fields["speaker"]), text_of(fields.get("details")) or ""
    id_ = text_of(inside(fields, "metadata", "messageID")) or text_of(fields.get("id"))
    if speaker in _CLASSES:
        return _CLASSES[speaker](text, id=id_)
    # As in messengers: nobody's words but the user's look as theirs.
    return HumanMessage(f"{speaker}: {text}", name=speaker, id=id_)


def _refused(what: str) -> SourceRefused:
    return SourceRefused(what, "Give a bundle of the .mem format, whole, as it was exported.")
