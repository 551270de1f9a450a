"""Recall: hybrid search over all chat sessions and threads of one scope."""

import logging
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from sys import intern
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

from langchain_core.embeddings import Embeddings

from langmem_isolated._adapters.recalled import Recalled
from langmem_isolated._codecs.headers import decode_header
from langmem_isolated._codecs.messages import MESSAGE_V1, decode_partially
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import EPOCH, MICROSECOND, as_moment, now
from langmem_isolated._runtime.plaintext_cache import PlaintextCache
from langmem_isolated._search.bm25 import rank, terms, words
from langmem_isolated._search.rank_fusion import nearest, reciprocal_rank_fusion
from langmem_isolated._search.vectors import MODEL_BYTES, VectorSpace, model_digest
from langmem_isolated._storage import transcripts
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.transcripts import Embedded, Line, Source, Transcript
from langmem_isolated.errors import RecordDoesNotOpen
from langmem_isolated.scope import checked_id

_log = logging.getLogger(__name__)

_KINDS: dict[Kind, Literal["session", "thread"]] = {Kind.SESSION: "session", Kind.THREAD: "thread"}
# As the makers of models call them.
_ROLES = {"user": "human", "assistant": "ai"}
# By meaning, everything is somewhat near: so many, or ten times the limit, have a rank.
_NEAREST = 50
# Of an opened message in memory, besides its text, and of each of its words.
_OBJECT_BYTES, _WORD_BYTES = 700, 8


class _Candidate:
    """A message that a search may find, as it stands in a source."""

    __slots__ = ("channel", "key", "message_id", "role", "source", "text", "time", "words")

    def __init__(self, source: Source, line: Line) -> None:
        self.source = source
        self.key, plaintext, stored = line
        self.role, self.text, self.message_id, self.channel, written = decode_partially(plaintext)
        self.time: int = stored if written is None else written
        self.words: list[str] | None = None

    def split(self) -> list[str]:
        """Its words; a search that finds them in no cache has no use for them again."""
        return words(self.text) if self.words is None else self.words

    def keep_words(self) -> int:
        """Keep its words; about how many bytes it has then."""
        # Interned: the words of many messages take a sixth of the memory.
        self.words = [*map(intern, words(self.text))]
        return _OBJECT_BYTES + 2 * len(self.text) + _WORD_BYTES * len(self.words)


class _SourceNames(NamedTuple):
    """A source by the names that people know."""

    source_id: str
    channel: str | None
    birth: bytes


class _Search(NamedTuple):
    """What is asked for, once it was found to make sense."""

    query: str
    limit: int
    since: int
    sessions: frozenset[str] | None
    channel: str | None
    roles: frozenset[str] | None
    outside: Collection[str]

    def admits(self, candidate: _Candidate, place: _SourceNames) -> bool:
        """Whether a message may be found."""
        return (
            candidate.time >= self.since
            and (self.roles is None or candidate.role in self.roles)
            and (self.channel is None or (candidate.channel or place.channel) == self.channel)
        )


def _checked(
    query: str,
    limit: int = 10,
    since: datetime | None = None,
    sessions: Collection[str] | None = None,
    channel: str | None = None,
    roles: Collection[str] | None = None,
    outside: Collection[str] = (),
) -> _Search:
    if not isinstance(query, str):
        raise TypeError(f"query must be a str, got {type(query).__name__}")
    if limit < 0:
        raise ValueError(f"limit must be 0 or more, got {limit}")
    if since is not None and since.tzinfo is None:
        raise ValueError("since must have a time zone, as datetime.now(UTC) has")
    return _Search(
        query=query,
        limit=limit,
        since=0 if since is None else (since - EPOCH) // MICROSECOND,
        sessions=_each(sessions, lambda name: checked_id("session_id", name)),
        channel=channel,
        roles=_each(roles, lambda role: _ROLES.get(role, role)),
        outside=outside,
    )


def _each(given: Collection[str] | None, make: Any) -> frozenset[str] | None:
    if given is None:
        return None
    return frozenset(map(make, [given] if isinstance(given, str) else given))


class _Found(NamedTuple):
    """What a search goes through: messages in the order of their times, and where they are."""

    candidates: list[_Candidate]
    places: dict[Source, _SourceNames]


class _EmbeddingWork(NamedTuple):
    """Embeddings of what was found, by one model: those that are kept, and those to be made."""

    model: bytes
    known: dict[tuple[Source, bytes], bytes]
    missing: list[_Candidate]

    @property
    def texts(self) -> list[str]:
        return [candidate.text for candidate in self.missing]


class RecallOptions(TypedDict, total=False):
    """What narrows a search."""

    limit: int
    """At most so many messages; 10 if not given."""
    since: datetime | None
    """With a time zone: nothing older."""
    sessions: Collection[str] | None
    """Ids of the chat sessions and threads to search; all if not given."""
    channel: str | None
    """Only what was said there."""
    roles: Collection[str] | None
    """Only what these said: ``"human"``, ``"ai"``, ``"tool"``, …"""
    outside: Collection[str]
    """Ids of sessions and threads that are not searched."""


class Recall:
    """Search over everything that was said in one scope: ``memory.scope(…).recall("fractions")``.

    Args:
        records: The scope's records.
        plaintext_cache: Keeps opened messages; by default they are opened for every search.
    """

    def __init__(self, records: ScopedDatabase, plaintext_cache: PlaintextCache | None) -> None:
        self._records = records
        self._plaintext_cache = plaintext_cache
        self.arun = records.arun

    def __call__(
        self,
        query: str,
        *,
        embeddings: Embeddings | None = None,
        **options: Unpack[RecallOptions],
    ) -> list[Recalled]:
        """What was said before in this scope and fits ``query`` best, the best first.

        Searches every chat session and LangGraph thread, past states included. A message counts
        once, as it is newest. Only what shares a word with the query is found by words.

        Args:
            query: Words, or a question. Never a pattern.
            embeddings: Searches by meaning, too, and joins both by rank. Messages are embedded when
                they are first searched, and their embeddings are kept, sealed.
            options: Those of :class:`RecallOptions`.

        Raises:
            RecordDoesNotOpen: A message was changed, moved or exchanged, or some are missing.
            ScopeError: An id among ``sessions`` is malformed.
            ValueError: ``limit`` is negative, or ``since`` has no time zone.
        """
        search = _checked(query, **options)
        found = self._found(search)
        if embeddings is None or not query.strip() or not found.candidates:
            return _answer(search, found, [])
        work = self._work(found, embeddings)
        if work.missing:
            self._store_embeddings(found, work, embeddings.embed_documents(work.texts))
        return _answer(search, found, _scores(found, work, embeddings.embed_query(query)))

    async def arecall(
        self,
        query: str,
        *,
        embeddings: Embeddings | None = None,
        **options: Unpack[RecallOptions],
    ) -> list[Recalled]:
        """What was said before in this scope; see :meth:`__call__`."""
        if embeddings is None:
            return await self.arun(lambda: self(query, **options))
        search = _checked(query, **options)
        found = await self.arun(self._found, search)
        if not query.strip() or not found.candidates:
            return _answer(search, found, [])
        work = await self.arun(self._work, found, embeddings)
        if work.missing:
            made = await embeddings.aembed_documents(work.texts)
            await self.arun(self._store_embeddings, found, work, made)
        asked = await embeddings.aembed_query(query)
        return await self.arun(lambda: _answer(search, found, _scores(found, work, asked)))

    def _found(self, search: _Search) -> _Found:
        transcripts, candidates_in = self._records.snapshot(
            self._read, ([], {}), search.sessions, now()
        )
        headers = {one.source: decode_header(one.header) for one in transcripts}
        places = {
            one.source: _SourceNames(header.session_id, header.channel, one.birth)
            for one in transcripts
            if (header := headers[one.source]).session_id not in search.outside
        }
        every = [candidate for source in places for candidate in candidates_in[source]]
        admitted = [
            candidate for candidate in every if search.admits(candidate, places[candidate.source])
        ]
        admitted.sort(key=attrgetter("time"))
        return _Found(_each_once(admitted, places), places)

    def _read(
        self, transaction: Transaction, keys: ScopeKeys, names: frozenset[str] | None, now: int
    ) -> tuple[list[Transcript], dict[Source, list[_Candidate]]]:
        by_source: dict[Source, list[_Candidate]] = {}

        def is_known(source: Source, row_mac: bytes) -> bool:
            if self._plaintext_cache:
                kept = self._plaintext_cache.get((keys.scope_id, keys.birth, source), row_mac)
                if kept is not None:
                    by_source[source] = kept
            return source in by_source

        wanted = None
        if names is not None:
            wanted = {
                Source(kind, keys.pseudonym(kind, n.encode())) for n in names for kind in _KINDS
            }
        found = transcripts.read(transaction, keys, wanted, is_known, now)
        for transcript in found:
            if transcript.lines is not None:
                by_source[transcript.source] = new = _candidates(
                    transcript.source, transcript.lines
                )
                if self._plaintext_cache:
                    key = keys.scope_id, keys.birth, transcript.source
                    self._plaintext_cache.put(
                        key,
                        transcript.row_mac,
                        new,
                        sum(candidate.keep_words() for candidate in new),
                    )
        return found, by_source

    def _work(self, found: _Found, embeddings: Embeddings) -> _EmbeddingWork:
        model = model_digest(embeddings)
        births = {source: place.birth for source, place in found.places.items()}
        kept = self._records.read(transcripts.embeddings, {}, births)
        known = {
            address: plaintext[MODEL_BYTES:]
            for address, plaintext in kept.items()
            if plaintext.startswith(model)
        }
        missing = [
            candidate
            for candidate in found.candidates
            if (candidate.source, candidate.key) not in known
        ]
        return _EmbeddingWork(model, known, missing)

    def _store_embeddings(
        self, found: _Found, work: _EmbeddingWork, made: Sequence[Sequence[float]]
    ) -> None:
        space = VectorSpace(len(made[0]))
        new = [
            (candidate, space.pack(embedding))
            for candidate, embedding in zip(work.missing, made, strict=True)
        ]
        work.known.update({(candidate.source, candidate.key): packed for candidate, packed in new})
        embedded = [
            Embedded(
                candidate.source,
                found.places[candidate.source].birth,
                candidate.key,
                work.model + packed,
            )
            for candidate, packed in new
        ]
        self._records.write_if_exists(transcripts.put_embeddings, None, embedded, now())


def _candidates(source: Source, lines: Iterable[Line]) -> list[_Candidate]:
    if source.kind is Kind.THREAD:
        # Besides messages, a thread keeps values there, and that a message was removed.
        lines = (line for line in lines if line[1][:1] == MESSAGE_V1)
    candidates = [_Candidate(source, line) for line in lines]
    return [one for one in candidates if one.role != "remove" and one.text]


def _each_once(
    candidates: list[_Candidate], places: dict[Source, _SourceNames]
) -> list[_Candidate]:
    """Of messages with one id in a session and a thread of one name, only the newest.

    Of messages with the same id, role and text anywhere, too. Those without id are kept.
    """
    named = [one.message_id for one in candidates if one.message_id]
    if len(named) == len(set(named)):
        return candidates
    newest: dict[object, _Candidate] = {}
    for one in candidates:
        id_ = one.message_id
        where = (places[one.source].source_id, id_) if id_ else one
        newest.pop(where, None)
        newest[where] = one
    different: dict[object, _Candidate] = {}
    for one in newest.values():
        id_ = one.message_id
        content = (id_, one.role, one.text) if id_ else one
        different.pop(content, None)
        different[content] = one
    return [*different.values()]


def _scores(found: _Found, work: _EmbeddingWork, asked: Sequence[float]) -> list[float | None]:
    """How near each message is to the query in meaning."""
    space = VectorSpace(len(asked))
    return space.scores(space.pack(asked), [work.known[t.source, t.key] for t in found.candidates])


def _answer(search: _Search, found: _Found, nearness: Sequence[float | None]) -> list[Recalled]:
    by_words = rank(terms(search.query), (candidate.split() for candidate in found.candidates))
    if nearness:
        near = nearest(nearness, max(_NEAREST, 10 * search.limit))
        ranked = reciprocal_rank_fusion([number for number, _ in by_words], near)
    else:
        ranked = by_words
    answer = [
        _as_recalled(found.candidates[number], found.places, score)
        for number, score in ranked[: search.limit]
    ]
    _log.info("recall: %d found, at most %d", len(answer), search.limit)
    return answer


def _as_recalled(
    candidate: _Candidate, places: dict[Source, _SourceNames], score: float
) -> Recalled:
    place, time = places[candidate.source], as_moment(candidate.time)
    if time is None:
        raise RecordDoesNotOpen(Kind.MESSAGE.label, "it was stored at no time")
    return Recalled(
        text=candidate.text,
        role=candidate.role,
        time=time,
        source=_KINDS[candidate.source.kind],
        source_id=place.source_id,
        channel=candidate.channel or place.channel,
        message_id=candidate.message_id,
        score=score,
    )
