"""Candidates: the messages that a search goes through, in their order."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Literal, NamedTuple

from langmem_isolated._codecs.headers import Header, decode_header
from langmem_isolated._codecs.messages import MESSAGE_V1, decode_partially
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._runtime.clock import as_moment
from langmem_isolated._search.words import words
from langmem_isolated._storage.transcripts import Line, Source, Transcript
from langmem_isolated.errors import RecordDoesNotOpen
from langmem_isolated.recall.options import EVERYTHING, Part, Search
from langmem_isolated.recall.results import Recalled

KINDS: dict[Kind, Literal["session", "thread"]] = {Kind.SESSION: "session", Kind.THREAD: "thread"}
# Who says a message that names nobody, as people ask for it.
_SPEAKERS = {"human": "user", "ai": "assistant"}
# Of an opened message in memory, besides its text, and of each of its words.
_OBJECT_BYTES, _WORD_BYTES = 700, 8


class Candidate:
    """A message that a search may find, as it stands in a source."""

    __slots__ = ("channel", "key", "message_id", "name", "role", "source", "text", "time", "words")

    def __init__(self, source: Source, line: Line) -> None:
        self.source = source
        self.key, plaintext, stored = line
        self.role, self.text, self.message_id, self.name, self.channel, written = decode_partially(
            plaintext
        )
        self.time: int = stored if written is None else written
        self.words: list[str] | None = None

    def split(self, most: int) -> list[str]:
        """Its words; a search that finds them in no cache has no use for them again.

        Args:
            most: Characters of its text that count.
        """
        if self.words is not None:
            return self.words
        speaker = self.name or _SPEAKERS.get(self.role, "")
        return words(f"{speaker} {self.text[:most]}")

    def keep_words(self, most: int, shared: dict[str, str]) -> int:
        """Keep its words; about how many bytes it has then.

        Args:
            most: As in :meth:`split`.
            shared: Words kept so far, each once: those of many messages take a sixth of the memory.
                Not interned, for up to Python 3.12.6 that would be until the process ends.
        """
        self.words = [shared.setdefault(word, word) for word in self.split(most)]
        return _OBJECT_BYTES + 2 * len(self.text) + _WORD_BYTES * len(self.words)

    def for_embedding(self, most: int) -> str:
        """What a model embeds: the text, behind the name of who said it.

        On conversations of people with names, meaning alone finds 0.40 instead of 0.36 of the
        answers among the first ten (benchmarks/recall.py).
        """
        text = self.text[:most]
        return f"{self.name}: {text}" if self.name else text


Conversations = Mapping[Source, Sequence[int]]
"""The numbers of the messages of each source, in the order they were said."""


class SourceNames(NamedTuple):
    """A source by the names that people know."""

    source_id: str
    title: str | None
    channel: str | None
    birth: bytes


class Candidates(NamedTuple):
    """What a search goes through: messages in the order of their times, and where they are."""

    messages: list[Candidate]
    places: dict[Source, SourceNames]

    @classmethod
    def admitted(
        cls,
        search: Search,
        transcripts: Iterable[Transcript],
        by_source: Mapping[Source, Sequence[Candidate]],
        part: Part = EVERYTHING,
    ) -> "Candidates":
        """The messages that a search may find, in a part of the scope."""
        places = {
            one.source: _names(header, one.birth, part)
            for one in transcripts
            if (header := decode_header(one.header)).session_id not in search.outside
            and (part.sessions is None or header.session_id in part.sessions)
            # What was claimed may have been said by anybody, until its owner confirms it.
            and not header.is_untrusted
        }
        found = [
            one
            for source in places
            for one in by_source[source]
            if _admits(search, one, places, part)
        ]
        found.sort(key=attrgetter("time"))
        return cls(_each_once(found), places)

    def conversations(self) -> Conversations:
        """The numbers of the messages of each source, in the order they were said."""
        numbers: dict[Source, list[int]] = defaultdict(list)
        for number, one in enumerate(self.messages):
            numbers[one.source].append(number)
        keys = [one.key for one in self.messages]
        for of_one in numbers.values():
            of_one.sort(key=keys.__getitem__)
        return numbers

    def recalled(self, number: int, score: float) -> Recalled:
        """A message as it is answered with.

        Raises:
            RecordDoesNotOpen: It was stored at no time.
        """
        one = self.messages[number]
        place, time = self.places[one.source], as_moment(one.time)
        if time is None:
            raise RecordDoesNotOpen(Kind.MESSAGE.label, "it was stored at no time")
        return Recalled(
            text=one.text,
            role=one.role,
            time=time,
            source=KINDS[one.source.kind],
            source_id=place.source_id,
            channel=one.channel or place.channel,
            message_id=one.message_id,
            score=score,
        )


def candidates_in(source: Source, lines: Iterable[Line]) -> list[Candidate]:
    """The messages among a source's lines that say something, of a thread as they are now."""
    if source.kind is Kind.THREAD:
        # Besides messages, a thread keeps values there, and that a message was removed.
        lines = (line for line in lines if line[1][:1] == MESSAGE_V1)
    candidates = [one for line in lines if (one := Candidate(source, line)).role != "remove"]
    if source.kind is Kind.THREAD:
        candidates = _as_they_are_now(candidates)
    return [one for one in candidates if one.text]


def _names(header: Header, birth: bytes, part: Part) -> SourceNames:
    title = header.title if part.has_channel(header.channel) else None
    return SourceNames(header.session_id, title, header.channel, birth)


def _admits(
    search: Search, one: Candidate, places: Mapping[Source, SourceNames], part: Part
) -> bool:
    if one.time < search.since or (search.roles is not None and one.role not in search.roles):
        return False
    if search.channel is None and part.channels is None:
        return True
    channel = one.channel or places[one.source].channel
    return search.channel in (None, channel) and part.has_channel(channel)


def _as_they_are_now(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Of a thread's messages with one id only the newest: the others are its past."""
    in_order = sorted(candidates, key=attrgetter("time"))
    return _newest((one.message_id or one, one) for one in in_order)


def _each_once(candidates: list[Candidate]) -> list[Candidate]:
    """Of messages with the same id, role and text only the newest.

    Those without id are kept, and those of a session with one id that say different things: servers
    repeat ids.
    """
    named = [one.message_id for one in candidates if one.message_id]
    if len(named) == len(set(named)):
        return candidates
    return _newest(
        ((one.message_id, one.role, one.text) if one.message_id else one, one) for one in candidates
    )


def _newest(keyed: Iterable[tuple[object, Candidate]]) -> list[Candidate]:
    """The last of each key, where it stands."""
    newest: dict[object, Candidate] = {}
    for key, one in keyed:
        newest.pop(key, None)
        newest[key] = one
    return [*newest.values()]
