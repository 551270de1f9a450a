"""Reads a collection: its documents, its embedding blocks, the first that are accepted."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeVar

from langmem_isolated._codecs.headers import decode_collection
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._search.equality import Term
from langmem_isolated._storage import equalities
from langmem_isolated._storage.container_state import (
    ContainerState,
    is_member_sum,
    member_part,
    open_header,
)
from langmem_isolated._storage.documents import statements as sql
from langmem_isolated._storage.documents.blocks import NUMBER_BYTES, Block, number_of, refused
from langmem_isolated.errors import EmbeddingModelChanged

T = TypeVar("T")
R = TypeVar("R")
# To ask for one takes 25 µs, to read all of 10,000 takes 15 ms.
MOST_ASKED_FOR = 512


class StoredDocument(NamedTuple):
    """A document in plaintext, and the number of the block that has its embedding."""

    block: int
    body: bytes


class ProvedDocument(NamedTuple):
    """A document in plaintext, and when it was stored, in µs."""

    body: bytes
    stored_at: int


@dataclass
class Collection:
    """A collection as one transaction sees it."""

    transaction: Transaction
    keys: ScopeKeys
    digest: bytes
    state: ContainerState
    sealed_header: bytes = b""
    _openers: dict[Kind, Callable[[bytes, bytes], bytes]] = field(default_factory=dict)

    @property
    def shared(self) -> dict[str, object]:
        """What every statement asks by."""
        return {"scope_id": self.keys.scope_id, "digest": self.digest}

    def aad_prefix(self, kind: Kind) -> bytes:
        """Where records of ``kind`` stand; those of an emptied collection do not open there."""
        return self.keys.aad_prefix(kind, self.digest, self.state.birth)

    def open(self, kind: Kind, key: bytes, sealed: bytes) -> bytes:
        if kind not in self._openers:
            self._openers[kind] = self.keys.opener(self.aad_prefix(kind), kind)
        return self._openers[kind](key, sealed)

    def part(self, kind: Kind, key: bytes, stored_at: object, content: bytes) -> int:
        """What a document, by its plaintext, or a block, by its version, adds to ``members``."""
        return member_part(self.keys, kind, (self.digest, key), stored_at, content)

    def document(self, key: bytes, sealed: bytes) -> StoredDocument:
        plaintext = self.open(Kind.DOCUMENT, key, sealed)
        return self.stored(plaintext)

    @staticmethod
    def stored(plaintext: bytes) -> StoredDocument:
        """What a document's plaintext holds."""
        return StoredDocument(int.from_bytes(plaintext[:NUMBER_BYTES]), plaintext[NUMBER_BYTES:])

    def document_digest(self, name: bytes) -> bytes:
        """The digest of a document's id."""
        return self.keys.pseudonym(Kind.DOCUMENT, self.digest, name)

    def digests_for(
        self,
        key: bytes,
        stored_at: object,
        terms: Sequence[Term],
        body: bytes,
        former: object = None,
    ) -> bytes | None:
        """By what equality filters find a document; see :func:`equalities.digests`."""
        place, timed = (self.digest, key), with_time(stored_at, body)
        return equalities.digests(
            self.keys, Kind.DOCUMENT, place, self.digest, terms, timed, former
        )

    def at(self, digests: Sequence[bytes]) -> Iterator[StoredDocument | None]:
        """The documents of these digests, in their order, opened when they are asked for."""
        if len(digests) > MOST_ASKED_FOR:
            everything: dict[bytes, bytes] = dict(
                self.transaction.rows(sql.DOCUMENTS, **self.shared)
            )
            rows = (everything.get(digest) for digest in digests)
        else:
            asked = ({**self.shared, "key": key} for key in digests)
            answers = self.transaction.rows_of_each(sql.DOCUMENT, asked)
            rows = (found[0][1] if found else None for found in answers)
        for digest, sealed in zip(digests, rows, strict=True):
            yield None if sealed is None else self.document(digest, sealed)

    def blocks(self) -> dict[int, Block]:
        """Every block, by its number.

        Raises:
            RecordDoesNotOpen: One was changed or moved, or documents are missing or too many.
        """
        rows = self.transaction.rows(sql.BLOCKS, **self.shared)
        found = {
            number_of(key): Block.unpacked(self.open(Kind.EMBEDDING, key, sealed))
            for key, sealed in rows
        }
        if sum(len(block.digests) for block in found.values()) != self.state.count:
            raise refused("it has not the documents that it counts")
        return found

    def blocks_at(self, numbers: Sequence[int]) -> dict[int, Block]:
        """The blocks of these numbers, by them.

        Raises:
            RecordDoesNotOpen: One was changed or moved, or is missing.
        """
        names = [number.to_bytes(NUMBER_BYTES) for number in numbers]
        asked = ({**self.shared, "key": key} for key in names)
        found: dict[int, Block] = {}
        answers = self.transaction.rows_of_each(sql.BLOCK, asked)
        for number, key, rows in zip(numbers, names, answers, strict=True):
            if not rows:
                raise refused("a document has no embedding", Kind.EMBEDDING)
            found[number] = Block.unpacked(self.open(Kind.EMBEDDING, key, rows[0][0]))
        return found

    def any_block(self) -> int:
        """The number of a block; there is one where there are documents.

        Raises:
            RecordDoesNotOpen: There is none.
        """
        row = self.transaction.row(sql.NUMBERS, **self.shared)
        if row is None:
            raise refused("it has not the documents that it counts")
        return number_of(row[0])

    def everything(self) -> list[bytes]:
        """Every document in plaintext, in no order.

        Raises:
            RecordDoesNotOpen: One was changed or moved, or documents are missing or too many.
        """
        rows = self.transaction.rows(sql.DOCUMENTS, **self.shared)
        if len(rows) != self.state.count:
            raise refused("it has not the documents that it counts")
        return [self.document(key, sealed).body for key, sealed in rows]

    def everything_proved(self) -> dict[bytes, ProvedDocument]:
        """Every document by its digest, once it is proved that these were stored, and when.

        Who stores them anew vouches for them: no older one may be among them.

        Raises:
            RecordDoesNotOpen: A document or an embedding was changed, added, removed or restored.
        """
        found: dict[bytes, ProvedDocument] = {}
        total = 0
        for kind, key, sealed, stored_at in self.transaction.rows(sql.EVERYTHING, **self.shared):
            plaintext = self.open(Kind(kind), key, sealed)
            if kind == Kind.DOCUMENT:
                found[key] = ProvedDocument(self.stored(plaintext).body, stored_at)
                total += self.part(Kind.DOCUMENT, key, stored_at, plaintext)
            else:
                total += self.part(Kind(kind), key, stored_at, Block.unpacked(plaintext).version)
        if len(found) != self.state.count or not is_member_sum(self.keys, self.state, total):
            raise refused("it has not the documents that it stands for")
        return found

    def check_model(self, given: str) -> None:
        """Refuse a query of another model than the collection's; one without a name takes any.

        Raises:
            EmbeddingModelChanged: It is another's.
            RecordDoesNotOpen: The collection's header was changed or exchanged.
        """
        header = open_header(
            Kind.COLLECTION, self.keys, self.digest, self.state, self.sealed_header
        )
        stored = decode_collection(header).embedding_name
        if stored is not None and stored != given:
            raise model_changed(stored, given)

    def first(
        self,
        ranked: Iterable[tuple[int, bytes, R]],
        accept: Callable[[bytes, bytes], T | None],
        count: int,
    ) -> list[tuple[T, R]]:
        """The first ``count`` documents that are accepted, with what they were ranked by.

        Args:
            ranked: Number of the block, digest, and what the caller wants back, best first.
            accept: Makes of a digest and a plaintext what the caller wants, or ``None`` to pass
                over it.
            count: No more than these are looked for.

        Raises:
            RecordDoesNotOpen: A document was changed or moved, or is missing.
        """
        count = min(count, self.state.count)
        found: list[tuple[T, R]] = []
        for part in _growing_batches(ranked, count):
            documents = self.at([digest for _, digest, _ in part])
            for (block, digest, extra), document in zip(part, documents, strict=True):
                if document is None or document.block != block:
                    raise refused("an embedding has no document", Kind.DOCUMENT)
                if (accepted := accept(digest, document.body)) is not None:
                    found.append((accepted, extra))
                if len(found) == count:
                    return found
        return found


def _growing_batches(ranked: Iterable[T], count: int) -> Iterator[list[T]]:
    """``ranked`` in parts: the first has ``count``, the next ones more, the last what is left."""
    rest, size = iter(ranked), count
    while part := list(islice(rest, size)):
        yield part
        size = 4 * size if 4 * size <= MOST_ASKED_FOR else sys.maxsize


def with_time(stored_at: object, body: bytes) -> bytes:
    """A document's body behind its column ``updated_at``.

    Raises:
        RecordDoesNotOpen: ``stored_at`` is no time.
    """
    if type(stored_at) is not int or stored_at < 0:
        raise refused("it was stored at no time", Kind.DOCUMENT)
    return stored_at.to_bytes(8) + body


def model_changed(stored: str, given: str) -> EmbeddingModelChanged:
    return EmbeddingModelChanged(
        f"This collection is embedded by {stored!r}, and these embeddings are {given!r}.",
        stored,
        given,
    )


def find(transaction: Transaction, keys: ScopeKeys, name: bytes) -> Collection | None:
    """The collection of that name, to be read; ``None`` when nothing was stored in it.

    Raises:
        RecordDoesNotOpen: Its row was changed, moved or removed.
    """
    digest = keys.pseudonym(Kind.COLLECTION, name)
    row = transaction.row(sql.ROW_OF_COLLECTION, scope_id=keys.scope_id, digest=digest)
    if row is not None:
        state = ContainerState.checked(Kind.COLLECTION, keys, digest, row)
        if state.is_absent:
            return None
        return Collection(transaction, keys, digest, state, row[-1])
    expect_no_records(transaction, keys, digest)
    return None


def expect_no_records(transaction: Transaction, keys: ScopeKeys, digest: bytes) -> None:
    if transaction.row(sql.ANY_RECORD, scope_id=keys.scope_id, digest=digest) is not None:
        raise refused("it has documents that it does not count")


def everything(transaction: Transaction, keys: ScopeKeys, name: bytes) -> list[bytes]:
    """Every document of a collection in plaintext, in no order; see :func:`find`."""
    collection = find(transaction, keys, name)
    return collection.everything() if collection else []
