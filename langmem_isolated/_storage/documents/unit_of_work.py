"""Unit of work on a collection: the documents and blocks that one write changes, stored once."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from langmem_isolated._codecs.headers import (
    CollectionHeader,
    decode_collection,
    encode_collection,
)
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._search.equality import Term
from langmem_isolated._storage.containers import ContainerRows
from langmem_isolated._storage.documents import statements as sql
from langmem_isolated._storage.documents.blocks import (
    NUMBER_BYTES,
    VERSION_BYTES,
    Block,
    number_of,
    refused,
)
from langmem_isolated._storage.documents.collection import Collection, model_changed
from langmem_isolated.errors import EmbeddingModelChanged

ROWS = ContainerRows(Kind.COLLECTION, sql.REMOVE_ALL)


class NewDocument(NamedTuple):
    """A document on its way in: its id, its plaintext and its embedding."""

    name: bytes
    body: bytes
    embedding: bytes
    stored_at: int | None = None
    """In µs, of one that was stored elsewhere before."""
    terms: Sequence[Term] = ()
    """By what equality filters find it."""


class UnitOfWork:
    """What one write does to a collection: a block is read when it is needed, and stored once."""

    def __init__(self, collection: Collection) -> None:
        self._of = collection
        self._blocks: dict[int, Block] = {}
        self._new: dict[bytes, tuple[int, NewDocument]] = {}
        self._next = collection.state.next_sequence
        self._count = collection.state.count
        self._added_size = 0
        self._difference = 0
        self._header: CollectionHeader | None = None

    def _block(self, number: int) -> Block:
        """A block as it is after what was done so far; without embeddings if it is not there."""
        if number not in self._blocks:
            key = number.to_bytes(NUMBER_BYTES)
            row = self._of.transaction.row(sql.BLOCK, **self._of.shared, key=key)
            block = Block([], b"")
            if row is not None:
                block = Block.unpacked(self._of.open(Kind.EMBEDDING, key, row[0]))
                self._added_size -= len(row[0])
                self._difference -= self._of.part(Kind.EMBEDDING, key, row[1], block.version)
            self._blocks[number] = block
        return self._blocks[number]

    def remove_documents(self, digests: Iterable[bytes]) -> None:
        """Take out what there is of these documents."""
        asked = ({**self._of.shared, "key": digest} for digest in digests)
        found = self._of.transaction.rows_of_each(sql.DOCUMENT, asked)
        by_block: dict[int, set[bytes]] = defaultdict(set)
        for row in chain.from_iterable(found):
            by_block[self._take_out(*row)].add(row[0])
        for number, gone in by_block.items():
            self._remove_embeddings(number, gone)
        rows = [{**self._of.shared, "key": digest} for gone in by_block.values() for digest in gone]
        self._of.transaction.execute_many(sql.REMOVE_DOCUMENT, rows)

    def _take_out(self, digest: bytes, sealed: bytes, stored_at: object) -> int:
        """Count a document no more; the number of the block that has its embedding."""
        plaintext = self._of.open(Kind.DOCUMENT, digest, sealed)
        self._added_size -= len(sealed)
        self._difference -= self._of.part(Kind.DOCUMENT, digest, stored_at, plaintext)
        self._count -= 1
        return self._of.stored(plaintext).block

    def _remove_embeddings(self, number: int, digests: set[bytes]) -> None:
        block = self._block(number)
        if not digests.issubset(block.digests):
            raise refused("a document has no embedding", Kind.EMBEDDING)
        self._blocks[number] = block.without(digests)

    def check_length(self, length: int) -> None:
        """Prepare for embeddings of ``length`` bytes.

        Raises:
            EmbeddingModelChanged: Those that stay have another length.
        """
        if self._count and self._length() != length:
            raise EmbeddingModelChanged(
                f"Embeddings of {length // 4} numbers do not fit into this collection: its own "
                f"have {self._length() // 4}."
            )

    def take_model(self, header: CollectionHeader) -> None:
        """Prepare for embeddings of the model that ``header`` names.

        Raises:
            EmbeddingModelChanged: Those that stay are of another model.
        """
        of = self._of
        stored = decode_collection(_header(of.transaction, of.keys, of.digest)).embedding_name
        given = header.embedding_name
        if stored == given:
            return
        if self._count and stored is not None and given is not None:
            raise model_changed(stored, given)
        self._header = header

    def _length(self) -> int:
        """Bytes of an embedding that stays."""
        newest = self._block(self._next - 1)
        if newest.digests:
            return newest.length
        for (key,) in self._of.transaction.rows(sql.NUMBERS, **self._of.shared):
            if (block := self._block(number_of(key))).digests:
                return block.length
        raise refused("it has not the documents that it counts")

    def insert(self, documents: Mapping[bytes, NewDocument], length: int) -> None:
        """Put in documents that are not there, after :meth:`check_length`."""
        rest = iter(documents.items())
        room = self._block(self._next - 1).room(length) if self._next else 0
        while part := list(islice(rest, room or 1)):
            if not room:
                self._blocks[self._next] = Block([], b"")
                self._next += 1
            room = self._fill(self._next - 1, part, length)

    def _fill(self, number: int, part: list[tuple[bytes, NewDocument]], length: int) -> int:
        """Put documents into a block; how many more go in."""
        digests = [digest for digest, _ in part]
        block = self._blocks[number].with_more(digests, (new.embedding for _, new in part))
        self._blocks[number] = block
        self._new |= {digest: (number, new) for digest, new in part}
        self._count += len(part)
        return block.room(length)

    def flush(self, now: int) -> None:
        """Store what was changed, and what the collection's row says of it."""
        if not self._blocks:
            return
        rows, empty = [], []
        for number, block in self._blocks.items():
            key = number.to_bytes(NUMBER_BYTES)
            if block.digests:
                version = os.urandom(VERSION_BYTES)
                rows.append(self._row(Kind.EMBEDDING, key, block.packed(version)))
                self._difference += self._of.part(Kind.EMBEDDING, key, now, version)
            else:
                empty.append({**self._of.shared, "key": key})
        self._of.transaction.execute_many(sql.REMOVE_BLOCK, empty)
        rows += [self._document(digest, *new, now) for digest, new in self._new.items()]
        shared = {**self._of.shared, "now": now}
        if rows:
            put = sql.PUT[self._of.transaction.is_postgres]
            self._of.transaction.execute_many(put, [{**shared, **row} for row in rows])
        state = self._of.state.with_members(self._of.keys, self._difference)._replace(
            next_sequence=self._next,
            count=self._count,
            size=self._of.state.size + self._added_size + sum(row["new_size"] for row in rows),
            updated_at=now,
        )
        row = self._of.transaction, self._of.keys, self._of.digest, state
        if self._header is None:
            ROWS.update(*row)
        else:
            ROWS.rewrite(*row, encode_collection(self._header))

    def _document(self, digest: bytes, number: int, new: NewDocument, now: int) -> dict[str, Any]:
        """Count a document, whose embedding is in a block; its row."""
        plaintext = number.to_bytes(NUMBER_BYTES) + new.body
        stored_at = now if new.stored_at is None else new.stored_at
        self._difference += self._of.part(Kind.DOCUMENT, digest, stored_at, plaintext)
        row = {**self._row(Kind.DOCUMENT, digest, plaintext), "now": stored_at}
        if new.terms:
            row["new_equalities"] = self._of.digests_for(digest, stored_at, new.terms, new.body)
        return row

    def _row(self, kind: Kind, key: bytes, plaintext: bytes) -> dict[str, Any]:
        # Numbers of embeddings hardly shrink.
        sealed = self._of.keys.seal(
            self._of.aad_prefix(kind), key, plaintext, compress=kind is not Kind.EMBEDDING
        )
        return {
            "new_kind": int(kind),
            "new_key": key,
            "new_sealed": sealed,
            "new_size": len(sealed),
            "new_equalities": None,
        }


def _header(transaction: Transaction, keys: ScopeKeys, digest: bytes) -> bytes:
    """The header of a row that is locked."""
    found = ROWS.header(transaction, keys, digest)
    assert found is not None
    return found[1]
