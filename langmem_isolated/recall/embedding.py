"""Embeddings of messages: which are kept, which are to be made, and how near they are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from struct import Struct

from langmem_isolated._search.embedding_models import MODEL_BYTES
from langmem_isolated._search.vectors import VectorSpace
from langmem_isolated._storage.transcripts import Embedded, Source
from langmem_isolated.recall.candidates import Candidate, Candidates

Address = tuple[Source, bytes]
# In the place of a vector, of which every length is a multiple of four: when it was refused.
_REFUSAL = Struct(">xQ")
# µs. What a provider refused is sent again after a day: it may have been an outage.
_REFUSED_FOR = 86_400_000_000
# To find one bad text among 1,000 takes 10 failures in a row; of a provider that is away all fail.
_MOST_FAILURES_IN_A_ROW = 16


class EmbeddingWork:
    """What is known of the embeddings of messages by one model, and what there is to do.

    Iterating over it gives parts to be embedded; what is told of each by :meth:`made` or
    :meth:`failed` decides which come next. A part that failed comes again in halves, so that a text
    that a provider refuses costs that text alone.

    Args:
        found: The messages that are to be searched.
        kept: What is stored of their embeddings, in plaintext.
        model: Digest of the model's name.
        query: The query's embedding.
        most: Characters of a text that are embedded.
        batch: At most so many texts in a part.
        now: Microseconds since 1970, UTC.
    """

    def __init__(
        self,
        found: Candidates,
        kept: Mapping[Address, bytes],
        model: bytes,
        query: Sequence[float],
        most: int,
        batch: int,
        now: int,
    ) -> None:
        self._messages = found.messages
        self._births = {source: place.birth for source, place in found.places.items()}
        self._model, self._most, self._now = model, most, now
        self._space = VectorSpace.of(query)
        self._query = self._space.pack(query)
        self._known = {
            address: plaintext[MODEL_BYTES:]
            for address, plaintext in kept.items()
            if plaintext.startswith(model) and self._is_valid(plaintext[MODEL_BYTES:])
        }
        missing = [one for one in found.messages if (one.source, one.key) not in self._known]
        self._parts = [missing[at : at + batch] for at in range(0, len(missing), batch)][::-1]
        self._failures = 0
        self._has_succeeded = False
        self._refused: list[Candidate] = []
        # Of those, how many were refused before the model last answered.
        self._settled = 0

    def _is_valid(self, stored: bytes) -> bool:
        """Whether a vector has the query's length, or a refusal is not yet over."""
        if len(stored) == _REFUSAL.size:
            (refused,) = _REFUSAL.unpack(stored)
            return bool(self._now - refused < _REFUSED_FOR)
        return len(stored) == len(self._query)

    def __iter__(self) -> Iterator[list[Candidate]]:
        while self._parts and self._failures < _MOST_FAILURES_IN_A_ROW:
            yield self._parts.pop()

    def texts(self, part: Iterable[Candidate]) -> list[str]:
        """What is to be embedded."""
        return [one.for_embedding(self._most) for one in part]

    def made(self, part: Sequence[Candidate], vectors: Sequence[Sequence[float]]) -> list[Embedded]:
        """Take a part's embeddings; returns what of them is to be stored.

        What is no list of finite numbers, or of another length, is no vector: its text is as one
        refused.

        Raises:
            ValueError: There are more or fewer than texts.
        """
        pairs = [*zip(part, vectors, strict=True)]
        self._failures, self._settled = 0, len(self._refused)
        packed = []
        for one, vector in pairs:
            try:
                packed.append((one, self._space.pack(vector)))
            except ValueError:
                self._refused.append(one)
        self._has_succeeded |= bool(packed)
        return self._stored(packed)

    def failed(self, part: Sequence[Candidate]) -> None:
        """Take note that a part could not be embedded."""
        self._failures += 1
        half = len(part) // 2
        if half:
            self._parts += [[*part[half:]], [*part[:half]]]
        else:
            self._refused += part

    def refusals(self) -> list[Embedded]:
        """What is to be stored of the texts that were refused.

        Nothing if every text was, and none since the model, which answered before, went away.
        """
        if not self._has_succeeded:
            return []
        is_away = self._failures >= _MOST_FAILURES_IN_A_ROW
        refused = self._refused[: self._settled] if is_away else self._refused
        mark = _REFUSAL.pack(self._now)
        return self._stored([(one, mark) for one in refused])

    def _stored(self, packed: Sequence[tuple[Candidate, bytes]]) -> list[Embedded]:
        self._known.update({(one.source, one.key): vector for one, vector in packed})
        return [
            Embedded(one.source, self._births[one.source], one.key, self._model + vector)
            for one, vector in packed
        ]

    def scores(self) -> list[float | None]:
        """How near each message is to the query, by cosine; ``None`` for one without embedding."""
        vectors = [self._known.get((one.source, one.key), b"") for one in self._messages]
        return self._space.scores(self._query, vectors)
