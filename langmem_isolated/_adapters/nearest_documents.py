"""Nearest documents: a collection's vectors, opened, ranked by cosine, and its documents."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from langchain_core.documents import Document

from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.plaintext_cache import PlaintextCache
from langmem_isolated._search.vectors import Ranking, VectorSpace
from langmem_isolated._storage.documents import collection as stored
from langmem_isolated._storage.documents.collection import Collection
from langmem_isolated.errors import EmbeddingModelChanged

# Bytes that a document's place in a cached table takes beside its vector.
_PLACE_BYTES = 100


class Hit(NamedTuple):
    """A document that was found."""

    document: Document
    score: float
    """Cosine similarity, from -1 to 1."""
    embedding: bytes


class Asked(NamedTuple):
    """A query's vector, packed, and by which model; ``None`` for one that the caller made."""

    vector: bytes
    model: str | None

    @classmethod
    def of(cls, embedding: Sequence[float], model: str | None = None) -> "Asked":
        """A query, unless its vector is not finite, in which case ``ValueError`` says so."""
        return cls(VectorSpace(len(embedding)).pack(embedding), model)


class _Table(NamedTuple):
    """A collection's embeddings, opened: row by row the block, the document and its vector."""

    blocks: list[int]
    digests: list[bytes]
    ranking: Ranking


def nearest(
    transaction: Transaction,
    keys: ScopeKeys,
    name: bytes,
    asked: Asked,
    accept: Callable[[bytes], Document | None],
    count: int,
    plaintext_cache: PlaintextCache | None,
) -> list[Hit]:
    """The ``count`` documents of the collection ``name`` nearest to what is asked, nearest first.

    Args:
        asked: The query's vector, and its model.
        accept: Makes a document of a plaintext, or ``None`` to pass over it.
        count: At most so many.
        plaintext_cache: Keeps the opened vectors.

    Raises:
        EmbeddingModelChanged: The query is of another model, or of another length.
        RecordDoesNotOpen: What is looked at was changed, moved or removed.
    """
    collection = stored.find(transaction, keys, name)
    if collection is None or not collection.state.count:
        return []
    table = _table(collection, len(asked.vector), plaintext_cache)
    if asked.model is not None:
        collection.check_model(asked.model)
    ranked = (
        (table.blocks[row], table.digests[row], (row, score))
        for row, score in table.ranking.nearest(asked.vector)
    )
    return [
        Hit(document, score, table.ranking.row(row))
        for document, (row, score) in collection.first(ranked, accept, count)
    ]


def _table(collection: Collection, length: int, plaintext_cache: PlaintextCache | None) -> _Table:
    keys = collection.keys
    key = keys.scope_id, keys.birth, ("embeddings", collection.digest)
    table: _Table | None = plaintext_cache.get(key, collection.state) if plaintext_cache else None
    if table is None:
        blocks = collection.blocks()
        digests = [digest for block in blocks.values() for digest in block.digests]
        packed = b"".join(block.embeddings for block in blocks.values())
        numbers = [number for number, block in blocks.items() for _ in block.digests]
        table = _Table(numbers, digests, Ranking(packed, len(packed) // len(digests)))
        if plaintext_cache:
            plaintext_cache.put(
                key, collection.state, table, len(packed) + _PLACE_BYTES * len(digests)
            )
    if table.ranking.length != length:
        raise EmbeddingModelChanged(
            f"The query's embedding has {length // 4} numbers, those of this collection "
            f"{table.ranking.length // 4}."
        )
    return table
