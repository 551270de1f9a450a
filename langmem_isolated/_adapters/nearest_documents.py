"""Nearest documents: a collection's vectors, opened, ranked by cosine, and its documents."""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import islice
from typing import NamedTuple

from langchain_core.documents import Document

from langmem_isolated._codecs.documents import decode_document
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.plaintext_cache import CacheOfCall
from langmem_isolated._search.equality import EqualityFields, Term
from langmem_isolated._search.metadata_filters import Filter, metadata_test
from langmem_isolated._search.vectors import Ranking, VectorSpace
from langmem_isolated._storage.documents import collection as stored
from langmem_isolated._storage.documents.collection import MOST_ASKED_FOR, Collection
from langmem_isolated._storage.documents.lookup import Lookup
from langmem_isolated._storage.equalities import NewDigests
from langmem_isolated.errors import EmbeddingModelChanged, RecordDoesNotOpen

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


class Passing(NamedTuple):
    """Which documents pass a filter."""

    accept: Callable[[bytes], Document | None]
    """Makes a document of a plaintext, or ``None`` to pass over it."""
    terms: Sequence[Term] = ()
    """Of what passes, as far as it is indexed by it."""
    terms_of: Callable[[bytes], Sequence[Term]] | None = None
    """The terms of a plaintext, in every field that is indexed."""

    @classmethod
    def of(cls, wanted: Filter | None, equality: EqualityFields | None) -> "Passing":
        """Those whose metadata pass a filter, which is indexed by these fields.

        Raises:
            ValueError: The filter has no meaning.
        """
        passes = metadata_test(wanted)

        def accept(body: bytes) -> Document | None:
            document = decode_document(body)
            return document if passes(document.metadata) else None

        if equality is None:
            return cls(accept)
        terms = equality.conditions(wanted, has_and=True)
        return cls(accept, terms, partial(terms_of, equality))


def terms_of(equality: EqualityFields | None, body: bytes) -> Sequence[Term]:
    """What a document, as it is stored, has in the fields: what a filter will see of it."""
    return equality.terms(decode_document(body).metadata) if equality else ()


class Nearest(NamedTuple):
    """What a search found, the nearest first, and what it had to open for having no digests."""

    hits: list[Hit] = []  # noqa: RUF012 - a default that nobody changes
    unindexed: Sequence[NewDigests] = ()


def nearest(
    transaction: Transaction,
    keys: ScopeKeys,
    name: bytes,
    asked: Asked,
    passing: Passing,
    count: int,
    plaintext_cache: CacheOfCall,
) -> Nearest:
    """The ``count`` documents of the collection ``name`` nearest to what is asked.

    Args:
        asked: The query's vector, and its model.
        passing: Which documents count.
        count: At most so many.
        plaintext_cache: Keeps the opened vectors.

    Raises:
        EmbeddingModelChanged: The query is of another model, or of another length.
        RecordDoesNotOpen: What is looked at was changed, moved or removed.
    """
    collection = stored.find(transaction, keys, name)
    if collection is None or not collection.state.count:
        return Nearest()
    lookup = None
    if passing.terms:
        assert passing.terms_of is not None
        lookup = Lookup(collection, passing.terms, passing.terms_of)

    def accept(digest: bytes, body: bytes) -> Document | None:
        if lookup is not None:
            lookup.look_at(digest, body)
        return passing.accept(body)

    is_few = lookup is not None and len(lookup.candidates) <= MOST_ASKED_FOR
    if lookup is not None and is_few and not plaintext_cache:
        hits = _among(collection, asked, lookup.candidates, accept, count)
    else:
        hits = _among_all(collection, asked, lookup, accept, count, plaintext_cache)
    return Nearest(hits, lookup.unindexed if lookup else ())


Accept = Callable[[bytes, bytes], Document | None]


def _among_all(
    collection: Collection,
    asked: Asked,
    lookup: Lookup | None,
    accept: Accept,
    count: int,
    plaintext_cache: CacheOfCall,
) -> list[Hit]:
    """The nearest that are accepted, of all: documents are opened in the order of their vectors."""
    table = _table(collection, plaintext_cache)
    _check(collection, asked, table.ranking.length)
    ranked = (
        (table.blocks[row], table.digests[row], (row, score))
        for row, score in table.ranking.nearest(asked.vector)
        if lookup is None or table.digests[row] in lookup.candidates
    )
    return [
        Hit(document, score, table.ranking.row(row))
        for document, (row, score) in collection.first(ranked, accept, count)
    ]


def _among(
    collection: Collection, asked: Asked, digests: AbstractSet[bytes], accept: Accept, count: int
) -> list[Hit]:
    """The nearest that are accepted, of a few: no block is opened that has none of them."""
    found: dict[bytes, tuple[int, Document]] = {}
    for digest, stored_document in zip(digests, collection.at([*digests]), strict=True):
        assert stored_document is not None
        document = accept(digest, stored_document.body)
        if document is not None:
            found[digest] = stored_document.block, document
    numbers = sorted({number for number, _ in found.values()})
    blocks = collection.blocks_at(numbers or [collection.any_block()])
    _check(collection, asked, next(iter(blocks.values())).length)
    # In the order of all blocks: of two that are as near the one that was put first comes first.
    placed = [
        (digest, block.embedding(row))
        for number, block in blocks.items()
        for row, digest in enumerate(block.digests)
        if found.get(digest, (None,))[0] == number
    ]
    if len(placed) != len(found):
        raise RecordDoesNotOpen(Kind.EMBEDDING.label, "a document has no embedding")
    if not placed:
        return []
    ranking = Ranking(b"".join(embedding for _, embedding in placed), len(asked.vector))
    best = islice(ranking.nearest(asked.vector), min(count, len(placed)))
    return [Hit(found[placed[row][0]][1], score, placed[row][1]) for row, score in best]


def _check(collection: Collection, asked: Asked, length: int) -> None:
    """Refuse a query that cannot be compared with the collection's vectors of ``length`` bytes."""
    if length != len(asked.vector):
        raise EmbeddingModelChanged(
            f"The query's embedding has {len(asked.vector) // 4} numbers, those of this collection "
            f"{length // 4}."
        )
    if asked.model is not None:
        collection.check_model(asked.model)


def _table(collection: Collection, plaintext_cache: CacheOfCall) -> _Table:
    keys = collection.keys
    key = keys.scope_id, keys.birth, ("embeddings", collection.digest)
    table: _Table | None = plaintext_cache.get(key, collection.state)
    if table is None:
        blocks = collection.blocks()
        digests = [digest for block in blocks.values() for digest in block.digests]
        packed = b"".join(block.embeddings for block in blocks.values())
        numbers = [number for number, block in blocks.items() for _ in block.digests]
        table = _Table(numbers, digests, Ranking(packed, len(packed) // len(digests)))
        plaintext_cache.put(key, collection.state, table, len(packed) + _PLACE_BYTES * len(digests))
    return table
