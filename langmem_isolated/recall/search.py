"""Search over everything that was said in one scope."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from operator import add
from typing import Unpack

from langchain_core.embeddings import Embeddings

from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.arguments import checked_embeddings, whole_number
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.operations import Operation, given, observed
from langmem_isolated._runtime.plaintext_cache import CacheOfCall, PlaintextCache
from langmem_isolated._search.bm25 import query_scores
from langmem_isolated._search.embedding_models import embedding_model_name, model_digest
from langmem_isolated._search.fusion import (
    MEANING_BESIDE,
    WORDS_BESIDE,
    nearest,
    standardised,
    with_neighbours,
)
from langmem_isolated._search.vectors import VectorSpace
from langmem_isolated._search.words import words
from langmem_isolated._storage import transcripts
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.transcripts import Embedded, Source, Transcript
from langmem_isolated.errors import LangmemIsolatedError
from langmem_isolated.recall.candidates import (
    KINDS,
    Candidate,
    Candidates,
    Conversations,
    candidates_in,
)
from langmem_isolated.recall.embedding import EmbeddingWork
from langmem_isolated.recall.options import EVERYTHING, Part, RecallOptions, Search
from langmem_isolated.recall.results import Recalled
from langmem_isolated.recall.steps import Embed, Steps, aperform, perform

_log = logging.getLogger("langmem_isolated.recall")

# By meaning, everything is somewhat near: so many, or ten times the limit, are found by it.
_NEAREST = 50
# Of a title's score, that each message below it gets. On conversations with titles, all parts up to
# the whole find 0.2 to 0.5 % more of the answers (benchmarks/recall.py).
_OF_TITLE = 0.5
_BATCH = 64


@explains_calls
class Recall:
    """Search over everything that was said in one scope: ``memory.scope(…).recall("fractions")``.

    Args:
        records: The scope's records.
        plaintext_cache: Keeps opened messages; by default they are opened for every search.
        part: What of it may be searched, asked once the conversations were read; then embeddings
            are not kept, either.
    """

    def __init__(
        self,
        records: ScopedDatabase,
        plaintext_cache: PlaintextCache | None,
        *,
        part: Callable[[], Part] | None = None,
    ) -> None:
        self._records = records
        self._part = part
        self._plaintext_cache = plaintext_cache
        self._most = records.limits.recall_characters
        self.arun = records.arun

    def __call__(
        self,
        query: str,
        *,
        embeddings: Embeddings | None = None,
        embedding_name: str | None = None,
        embedding_batch: int = _BATCH,
        **options: Unpack[RecallOptions],
    ) -> list[Recalled]:
        """What was said before in this scope and fits ``query`` best, the best first.

        Searches every chat session and LangGraph thread, past states included. A message counts
        once, as it is newest. Words are compared by their stems, in the languages of the messages;
        names of speakers and titles of sessions count as words. Found is what shares a word with
        the query, and what was said up to three messages before or after it: a question shares its
        words with the question of then rather than with the answer. What ``options`` leave out is
        not looked at: it finds no message beside it, and the next one that is not left out counts
        as beside.

        Args:
            query: Words, or a question. Never a pattern.
            embeddings: Searches by meaning, too, and adds both scores, each in standard deviations.
                Messages are embedded when they are first searched, and their embeddings are kept,
                sealed. For what could not be embedded, words stand in.
            embedding_name: Names the model, if its class and settings do not: what another name
                has embedded is embedded anew.
            embedding_batch: At most so many texts are given to ``embeddings`` at once.
            options: Those of :class:`RecallOptions`.

        Raises:
            RecordDoesNotOpen: A message was changed, moved or exchanged, or some are missing.
            ScopeError: An id among ``sessions`` is malformed.
            LimitExceeded: The query is too long.
            TypeError: The query is no text, ``since`` no date, or ``embeddings`` no `Embeddings`.
            ValueError: ``limit`` is negative, ``since`` has no time zone, a role is misspelt, or
                ``embedding_batch`` is below 1.
        """
        model = _model(embeddings, embedding_name, embedding_batch)
        with self._observing() as told:
            answer = perform(self._steps(query, options, model, embedding_batch), embeddings)
            told.count = len(answer)
        return answer

    async def arecall(
        self,
        query: str,
        *,
        embeddings: Embeddings | None = None,
        embedding_name: str | None = None,
        embedding_batch: int = _BATCH,
        **options: Unpack[RecallOptions],
    ) -> list[Recalled]:
        """What was said before in this scope; as calling this object finds it."""
        model = _model(embeddings, embedding_name, embedding_batch)
        steps = self._steps(query, options, model, embedding_batch)
        with self._observing() as told:
            answer = await aperform(steps, embeddings, self.arun)
            told.count = len(answer)
        return answer

    def _observing(self) -> AbstractContextManager[Operation]:
        records = self._records
        return records.operations.observing("search_memory", "message", records.owner)

    def into_prompt(self, found: list[Recalled]) -> list[Recalled]:
        """What was found, noted in the audit log as going into a prompt, where that is wanted."""
        self._records.told_recall(len(found))
        return found

    def cut(self, text: str) -> str:
        """What of a text that nobody bounded, a model's or a message, is a query."""
        return text[: self._records.limits.query_characters]

    def _steps(
        self, query: str, options: RecallOptions, model: bytes | None, batch: int
    ) -> Steps[list[Recalled]]:
        search = Search.checked(query, **options)
        self._records.limits.check_query(query)
        found: Candidates = yield lambda: self._found(search)
        meaning: list[float | None] = []
        if model is not None and query.strip() and found.messages:
            meaning = yield from self._meaning(search.query, found, model, batch)
        answer: list[Recalled] = yield lambda: _answer(search, found, meaning, self._most)
        _log.info("recall: %d found, at most %d", len(answer), search.limit)
        return answer

    def _meaning(
        self, query: str, found: Candidates, model: bytes, batch: int
    ) -> Steps[list[float | None]]:
        """How near each message is to the query; nothing if the model does not answer."""
        try:
            asked = yield Embed("embed_query", query)
        except Exception as error:  # noqa: BLE001 - providers raise anything
            _told(error, "the query was not embedded")
            return []
        try:
            yield partial(VectorSpace.of, asked)
        except ValueError as error:
            _told(error, "the query was not embedded")
            return []
        work = yield lambda: self._work(found, model, asked, batch)
        for part in work:
            try:
                vectors = yield Embed("embed_documents", work.texts(part))
                made = yield partial(work.made, part, vectors)
            except Exception as error:  # noqa: BLE001 - providers raise anything
                _told(error, "%d texts were not embedded", len(part))
                work.failed(part)
            else:
                yield partial(self._store, made)
        yield lambda: self._store(work.refusals())
        scores: list[float | None] = yield work.scores
        return scores

    def _work(
        self, found: Candidates, model: bytes, asked: Sequence[float], batch: int
    ) -> EmbeddingWork:
        births = {source: place.birth for source, place in found.places.items()}
        kept: dict[tuple[Source, bytes], bytes] = {}
        for records in (self._records, *self._records.beside):
            kept |= records.read(transcripts.embeddings, {}, births)
        return EmbeddingWork(found, kept, model, asked, self._most, batch, now())

    def _store(self, embedded: list[Embedded]) -> None:
        if embedded and self._part is None:
            self._put(embedded)

    @observed("upsert_memory", "embedding", given)
    def _put(self, embedded: list[Embedded]) -> None:
        self._records.write_if_exists(transcripts.put_embeddings, None, embedded, now())

    def _found(self, search: Search) -> Candidates:
        cache = CacheOfCall(self._plaintext_cache)
        asked = search.sessions, cache, now()
        read, by_source = self._records.snapshot_lagging(self._read, ([], {}), *asked)
        for records in self._records.beside:
            # Names are digested under keys of their own: none of both are the same.
            more, messages = records.snapshot_lagging(self._read, ([], {}), *asked)
            read, by_source = [*read, *more], {**by_source, **messages}
        part = EVERYTHING if self._part is None else self._part()
        return Candidates.admitted(search, read, by_source, part)

    def _read(
        self,
        transaction: Transaction,
        keys: ScopeKeys,
        names: frozenset[str] | None,
        cache: CacheOfCall,
        now: int,
    ) -> tuple[list[Transcript], dict[Source, list[Candidate]]]:
        by_source: dict[Source, list[Candidate]] = {}
        shared: dict[str, str] = {}

        def is_known(source: Source, row_mac: bytes) -> bool:
            kept = cache.get((keys.scope_id, keys.birth, source), row_mac)
            if kept is not None:
                by_source[source] = kept
            return source in by_source

        wanted = None
        if names is not None:
            wanted = {
                Source(kind, keys.pseudonym(kind, n.encode())) for n in names for kind in KINDS
            }
        found = transcripts.read(transaction, keys, wanted, is_known, now)
        for transcript in found:
            if transcript.lines is not None:
                by_source[transcript.source] = new = candidates_in(
                    transcript.source, transcript.lines
                )
                if cache:
                    key = keys.scope_id, keys.birth, transcript.source
                    size = sum(candidate.keep_words(self._most, shared) for candidate in new)
                    cache.put(key, transcript.row_mac, new, size)
        return found, by_source


def _model(embeddings: object, name: str | None, batch: int) -> bytes | None:
    if embeddings is None:
        return None
    checked_embeddings(embeddings)
    whole_number("embedding_batch", batch, least=1)
    return model_digest(embedding_model_name(embeddings, name))


def _told(error: Exception, what: str, *count: int) -> None:
    """Log what a provider refused, by the class of its error; raise errors of this package."""
    if isinstance(error, LangmemIsolatedError):
        raise error
    _log.warning(f"recall: {what} (%s); words stand in", *count, type(error).__name__)


def _answer(
    search: Search, found: Candidates, meaning: Sequence[float | None], most: int
) -> list[Recalled]:
    conversations = found.conversations()
    scores = _word_scores(search, found, conversations, most)
    admitted: Iterable[int] = (number for number, score in enumerate(scores) if score > 0)
    if meaning:
        near = nearest(meaning, max(_NEAREST, 10 * search.limit))
        admitted = {*admitted, *near}
        scores = list(map(add, standardised(scores), _meaning_scores(conversations, meaning)))
    ranked = sorted(admitted, key=lambda number: (scores[number], number), reverse=True)
    return [found.recalled(number, scores[number]) for number in ranked[: search.limit]]


def _word_scores(
    search: Search, found: Candidates, conversations: Conversations, most: int
) -> list[float]:
    texts = [one.split(most) for one in found.messages]
    alone = query_scores(search.query, texts, search.language)
    scores = with_neighbours(alone, conversations.values(), WORDS_BESIDE)
    titles = [words(found.places[source].title or "") for source in conversations]
    if any(titles):
        of_titles = query_scores(search.query, titles, search.language)
        for numbers, score in zip(conversations.values(), of_titles, strict=True):
            for number in numbers:
                scores[number] += _OF_TITLE * score
    return scores


def _meaning_scores(conversations: Conversations, meaning: Sequence[float | None]) -> list[float]:
    """Standardised; a message without an embedding is as near as the mean."""
    known = [score for score in meaning if score is not None]
    mean = sum(known) / len(known) if known else 0.0
    # From the mean: who has no neighbour is as one whose neighbours are like all others.
    filled = [0.0 if score is None else score - mean for score in meaning]
    beside = with_neighbours(filled, conversations.values(), MEANING_BESIDE)
    return standardised(beside)
