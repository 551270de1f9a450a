"""Re-embedding: a collection's documents get the vectors of another model."""

import os
from collections.abc import Iterable, Sequence
from itertools import islice

from langmem_isolated._adapters.embedding_calls import packed
from langmem_isolated._codecs.documents import decode_document
from langmem_isolated._codecs.headers import CollectionHeader
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.container_state import BIRTH_BYTES
from langmem_isolated._storage.documents import collection as stored
from langmem_isolated._storage.documents import writing
from langmem_isolated._storage.scoped_database import ScopedDatabase


class Reembedding:
    """What is still to be embedded of a collection, and what was.

    The provider is asked outside of transactions. Others write meanwhile: what they stored is found
    when the vectors are to be exchanged, under the lock of the collection's row, and embedded, too;
    each time it is less. To exchange 5,000 vectors of 384 numbers takes 0.3 s.

    Args:
        records: Whose collection.
        collection: Its name.
        header: What its row is to seal.
        batch: At most so many texts at once.
    """

    def __init__(
        self, records: ScopedDatabase, collection: bytes, header: CollectionHeader, batch: int
    ) -> None:
        self._records = records
        self._collection = collection
        self._header = header
        self._batch = batch
        self._vectors: dict[str, bytes] = {}
        self._missing: list[str] | None = None
        self.count = 0
        """How many documents have another embedding now."""

    def next_texts(self) -> list[str]:
        """The next texts to be embedded; none when the collection has its vectors."""
        if self._missing is None:
            self._expect(self._records.snapshot(stored.everything, [], self._collection))
        elif not self._missing:
            self.count, bodies = self._exchange()
            self._expect(bodies)
        return (self._missing or [])[: self._batch]

    def _expect(self, bodies: Iterable[bytes]) -> None:
        self._missing = [*dict.fromkeys(map(_text, bodies))]

    def _exchange(self) -> tuple[int, list[bytes]]:
        return self._records.write_if_exists(
            writing.reembed,
            (0, []),
            self._collection,
            self._header,
            lambda body: self._vectors.get(_text(body)),
            os.urandom(BIRTH_BYTES),
            now(),
        )

    def take(self, texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> None:
        """Keep the vectors of ``texts``.

        Raises:
            ValueError: There are more or fewer, or one is not finite or of another length.
        """
        new = packed(vectors, len(texts))
        known = islice(self._vectors.values(), 1)
        if len({len(vector) for vector in (*known, *new)}) > 1:
            raise ValueError("The embeddings of these documents have different lengths.")
        self._vectors.update(zip(texts, new, strict=True))
        self._missing = (self._missing or [])[len(texts) :]


def _text(body: bytes) -> str:
    return decode_document(body).page_content
