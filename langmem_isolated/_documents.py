"""Keeps collections of documents, and their embeddings in blocks that are opened together.

A collection has one row, as a session has: its ``head`` authenticates how many documents there are,
and changes with every write. A document is a record of its own; the embeddings of several make up a
block, numbered in the order they came. To fetch and open 10,000 embeddings one by one took 28 and
22 ms: as blocks of 32 KiB, 7 and 4. Each document says, sealed, in which block its embedding is,
and each block says whose embeddings it has.

A block's plaintext is, in bytes::

    4 count | 16 digest of a document, for each | embedding, for each, all of one length
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES, TAG_BYTES, tag_of
from langmem_isolated._database import schema
from langmem_isolated._database.database import Transaction
from langmem_isolated._storage.containers import (
    DIGEST,
    SCOPE_ID,
    STATE,
    State,
    StateRows,
    advance,
    row_of,
)
from langmem_isolated.errors import RecordDoesNotOpen

T = TypeVar("T")
R = TypeVar("R")

# A block that grows is sealed anew each time; longer ones opened no faster.
BLOCK_BYTES = 32_768
_COUNT_BYTES = 4
_NUMBER_BYTES = 8
# To ask for one takes 25 µs, to read all of 10,000 takes 15 ms.
_MOST_ASKED_FOR = 512

_r, _s = schema.records.c, schema.sessions.c
_KEY = bindparam("key", type_=sa.LargeBinary)


def _its(*kinds: Kind) -> sa.ColumnElement[bool]:
    numbers: list[sa.ColumnElement[int]] = [sa.literal_column(str(int(kind))) for kind in kinds]
    return sa.and_(_r.scope_id == SCOPE_ID, _r.parent == DIGEST, _r.kind.in_(numbers))


_STATE = select(*STATE).where(row_of(Kind.COLLECTION))
_BLOCKS = select(_r.key, _r.sealed).where(_its(Kind.EMBEDDING)).order_by(_r.key)
_DOCUMENTS = select(_r.key, _r.sealed).where(_its(Kind.DOCUMENT))
_DOCUMENT = _DOCUMENTS.where(_r.key == _KEY)
_BLOCK = select(_r.sealed).where(_its(Kind.EMBEDDING), _r.key == _KEY)
_NUMBERS = select(_r.key).where(_its(Kind.EMBEDDING)).order_by(_r.key)
_ONE: sa.ColumnElement[int] = sa.literal_column("1")
_NONE: sa.ColumnElement[int] = sa.literal_column("0")
# For SQLite, SQLAlchemy makes a parameter of an offset that is not given.
_ANY = select(_ONE).where(_its(Kind.DOCUMENT, Kind.EMBEDDING)).limit(_ONE).offset(_NONE)
_REMOVE_DOCUMENT = delete(schema.records).where(_its(Kind.DOCUMENT), _r.key == _KEY)
_REMOVE_BLOCK = delete(schema.records).where(_its(Kind.EMBEDDING), _r.key == _KEY)
_REMOVE_ALL = delete(schema.records).where(_its(Kind.DOCUMENT, Kind.EMBEDDING))
_MOVE = advance(Kind.COLLECTION)
_EMPTY = (
    update(schema.sessions)
    .where(row_of(Kind.COLLECTION))
    .values(
        head=bindparam("new_head"),
        next_sequence=sa.literal_column("0"),
        count=sa.literal_column("0"),
        size=sa.literal_column("0"),
        generation=bindparam("new_generation"),
        expires_at=sa.null(),
        updated_at=bindparam("now"),
    )
)


def _upsert(insert: Any) -> Any:
    values: dict[str, Any] = {
        name: bindparam(f"new_{name}") for name in ("kind", "key", "sealed", "size")
    }
    put = insert.values(
        scope_id=SCOPE_ID,
        parent=DIGEST,
        created_at=bindparam("now"),
        updated_at=bindparam("now"),
        **values,
    )
    replaced = {name: put.excluded[name] for name in ("sealed", "size", "updated_at")}
    return put.on_conflict_do_update(
        index_elements=["scope_id", "kind", "parent", "key"], set_=replaced
    )


# By whether it is PostgreSQL.
_PUT = {
    True: _upsert(postgresql.insert(schema.records)),
    False: _upsert(sqlite.insert(schema.records)),
}


_ROWS = StateRows(Kind.COLLECTION, _REMOVE_ALL, tag=bytes(TAG_BYTES))


class NewDocument(NamedTuple):
    """A document on its way in: its id, its plaintext and its embedding."""

    name: bytes
    body: bytes
    embedding: bytes


class Block(NamedTuple):
    """Embeddings in plaintext, one behind the other, and whose they are."""

    digests: list[bytes]
    embeddings: bytes

    @classmethod
    def unpacked(cls, plaintext: bytes) -> "Block":
        count = int.from_bytes(plaintext[:_COUNT_BYTES])
        end = _COUNT_BYTES + count * DIGEST_BYTES
        starts = range(_COUNT_BYTES, end, DIGEST_BYTES)
        return cls([plaintext[start : start + DIGEST_BYTES] for start in starts], plaintext[end:])

    def packed(self) -> bytes:
        return len(self.digests).to_bytes(_COUNT_BYTES) + b"".join(self.digests) + self.embeddings

    @property
    def length(self) -> int:
        """Bytes of an embedding."""
        return len(self.embeddings) // len(self.digests)

    def has_room_for(self, embedding: bytes) -> bool:
        return not self.digests or len(self.embeddings) + len(embedding) <= BLOCK_BYTES

    def with_one(self, digest: bytes, embedding: bytes) -> "Block":
        return Block([*self.digests, digest], self.embeddings + embedding)

    def without(self, digest: bytes) -> "Block":
        place, length = self.digests.index(digest), self.length
        rest = self.embeddings[: place * length] + self.embeddings[(place + 1) * length :]
        return Block(self.digests[:place] + self.digests[place + 1 :], rest)


class Stood(NamedTuple):
    """A document in plaintext, and the number of the block that has its embedding."""

    block: int
    body: bytes


@dataclass
class Collection:
    """A collection as one transaction sees it."""

    transaction: Transaction
    keys: ScopeKeys
    digest: bytes
    state: State
    _openers: dict[Kind, Callable[[bytes, bytes], bytes]] = field(default_factory=dict)

    @property
    def shared(self) -> dict[str, object]:
        """What every statement asks by."""
        return {"scope_id": self.keys.scope_id, "digest": self.digest}

    def place(self, kind: Kind) -> bytes:
        """Where records of ``kind`` stand; those of an emptied collection do not open there."""
        return self.keys.place(kind, self.digest + self.state.generation)

    def open(self, kind: Kind, key: bytes, sealed: bytes) -> bytes:
        if kind not in self._openers:
            self._openers[kind] = self.keys.opener(self.place(kind), kind)
        return self._openers[kind](key, sealed)

    def stood(self, key: bytes, sealed: bytes) -> Stood:
        plaintext = self.open(Kind.DOCUMENT, key, sealed)
        return Stood(int.from_bytes(plaintext[:_NUMBER_BYTES]), plaintext[_NUMBER_BYTES:])

    def named(self, name: bytes) -> bytes:
        """The digest of a document's id."""
        return self.keys.name(Kind.DOCUMENT, self.digest, name)

    def at(self, digests: Sequence[bytes]) -> Iterator[Stood | None]:
        """The documents of these digests, in their order, opened when they are asked for."""
        if len(digests) > _MOST_ASKED_FOR:
            everything: dict[bytes, bytes] = dict(self.transaction.rows(_DOCUMENTS, **self.shared))
            rows = (everything.get(digest) for digest in digests)
        else:
            asked = [self.transaction.ask(_DOCUMENT, **self.shared, key=key) for key in digests]
            answers = [answer.fetchone() for answer in asked]
            rows = (answer and answer[1] for answer in answers)
        for digest, sealed in zip(digests, rows, strict=True):
            yield None if sealed is None else self.stood(digest, sealed)

    def blocks(self) -> dict[int, Block]:
        """Every block, by its number.

        Raises:
            RecordDoesNotOpen: One was changed or moved, or documents are missing or too many.
        """
        rows = self.transaction.rows(_BLOCKS, **self.shared)
        found = {
            _number(key): Block.unpacked(self.open(Kind.EMBEDDING, key, sealed))
            for key, sealed in rows
        }
        if sum(len(block.digests) for block in found.values()) != self.state.count:
            raise _refused("it has not the documents that it counts")
        return found

    def everything(self) -> list[bytes]:
        """Every document in plaintext, in no order.

        Raises:
            RecordDoesNotOpen: One was changed or moved, or documents are missing or too many.
        """
        rows = self.transaction.rows(_DOCUMENTS, **self.shared)
        if len(rows) != self.state.count:
            raise _refused("it has not the documents that it counts")
        return [self.stood(key, sealed).body for key, sealed in rows]

    def first(
        self,
        ranked: Iterable[tuple[int, bytes, R]],
        accept: Callable[[bytes], T | None],
        count: int,
    ) -> list[tuple[T, R]]:
        """The first ``count`` documents that are accepted, with what they were ranked by.

        Args:
            ranked: Number of the block, digest, and what the caller wants back, best first.
            accept: Makes of a plaintext what the caller wants, or ``None`` to pass over it.
            count: No more than these are looked for.

        Raises:
            RecordDoesNotOpen: A document was changed or moved, or is missing.
        """
        count = min(count, self.state.count)
        found: list[tuple[T, R]] = []
        for part in _growing(ranked, count):
            stood_there = self.at([digest for _, digest, _ in part])
            for (block, _, extra), stood in zip(part, stood_there, strict=True):
                if stood is None or stood.block != block:
                    raise _refused("an embedding has no document", Kind.DOCUMENT)
                if (accepted := accept(stood.body)) is not None:
                    found.append((accepted, extra))
                if len(found) == count:
                    return found
        return found


def _growing(ranked: Iterable[T], count: int) -> Iterator[list[T]]:
    """``ranked`` in parts: the first has ``count``, the next ones more, the last what is left."""
    rest, size = iter(ranked), count
    while part := list(islice(rest, size)):
        yield part
        size = 4 * size if 4 * size <= _MOST_ASKED_FOR else sys.maxsize


def _number(key: object) -> int:
    if type(key) is not bytes or len(key) != _NUMBER_BYTES:
        raise _refused("its address is not a number", Kind.EMBEDDING)
    return int.from_bytes(key)


def _refused(reason: str, kind: Kind = Kind.COLLECTION) -> RecordDoesNotOpen:
    return RecordDoesNotOpen(kind.label, reason)


def find(transaction: Transaction, keys: ScopeKeys, name: bytes) -> Collection | None:
    """The collection of that name, to be read; ``None`` when nothing was stored in it.

    Raises:
        RecordDoesNotOpen: Its row was changed, moved or removed.
    """
    digest = keys.name(Kind.COLLECTION, name)
    row = transaction.row(_STATE, scope_id=keys.scope_id, digest=digest)
    if row is not None:
        state = State.checked(Kind.COLLECTION, keys, digest, row)
        return Collection(transaction, keys, digest, state)
    _expect_no_records(transaction, keys, digest)
    return None


def _expect_no_records(transaction: Transaction, keys: ScopeKeys, digest: bytes) -> None:
    if transaction.row(_ANY, scope_id=keys.scope_id, digest=digest) is not None:
        raise _refused("it has documents that it does not count")


def everything(transaction: Transaction, keys: ScopeKeys, name: bytes) -> list[bytes]:
    """Every document of a collection in plaintext, in no order; see :func:`find`."""
    collection = find(transaction, keys, name)
    return collection.everything() if collection else []


class _Change:
    """What one write does to a collection: a block is read when it is needed, and stored once."""

    def __init__(self, collection: Collection) -> None:
        self._of = collection
        self._blocks: dict[int, Block] = {}
        self._new: dict[bytes, tuple[int, bytes]] = {}
        self._next = collection.state.next_sequence
        self._count = collection.state.count
        self._added_size = 0

    def _block(self, number: int) -> Block:
        """A block as it is after what was done so far; without embeddings if it is not there."""
        if number not in self._blocks:
            key = number.to_bytes(_NUMBER_BYTES)
            row = self._of.transaction.row(_BLOCK, **self._of.shared, key=key)
            block = Block([], b"")
            if row is not None:
                block = Block.unpacked(self._of.open(Kind.EMBEDDING, key, row[0]))
                self._added_size -= len(row[0])
            self._blocks[number] = block
        return self._blocks[number]

    def take_out(self, digests: Iterable[bytes]) -> None:
        """Take out what there is of these documents."""
        asked = [
            (digest, self._of.transaction.ask(_DOCUMENT, **self._of.shared, key=digest))
            for digest in digests
        ]
        for digest, answer in asked:
            if row := answer.fetchone():
                self._take_out(digest, row[1])

    def _take_out(self, digest: bytes, sealed: bytes) -> None:
        number = self._of.stood(digest, sealed).block
        block = self._block(number)
        if digest not in block.digests:
            raise _refused("a document has no embedding", Kind.EMBEDDING)
        self._blocks[number] = block.without(digest)
        self._added_size -= len(sealed)
        self._count -= 1
        self._of.transaction.execute(_REMOVE_DOCUMENT, **self._of.shared, key=digest)

    def expect(self, length: int) -> None:
        """Prepare for embeddings of ``length`` bytes.

        Raises:
            ValueError: Those that stay have another length.
        """
        if self._count and self._length() != length:
            raise ValueError(
                f"Embeddings of {length // 4} numbers do not fit into this collection: its own "
                f"have {self._length() // 4}. Use the embeddings it was filled with, or clear()."
            )

    def _length(self) -> int:
        """Bytes of an embedding that stays."""
        newest = self._block(self._next - 1)
        if newest.digests:
            return newest.length
        for (key,) in self._of.transaction.rows(_NUMBERS, **self._of.shared):
            if (block := self._block(_number(key))).digests:
                return block.length
        raise _refused("it has not the documents that it counts")

    def put_in(self, digest: bytes, document: NewDocument) -> None:
        """Put in a document that is not there, after :meth:`expect`."""
        newest = self._next - 1
        if not self._next or not self._block(newest).has_room_for(document.embedding):
            newest, self._next = self._next, self._next + 1
            self._blocks[newest] = Block([], b"")
        self._blocks[newest] = self._blocks[newest].with_one(digest, document.embedding)
        self._new[digest] = newest, document.body
        self._count += 1

    def store(self, now: int) -> None:
        """Store what was changed, and what the collection's row says of it."""
        if not self._blocks:
            return
        state, rows = self._of.state, []
        for number, block in self._blocks.items():
            key = number.to_bytes(_NUMBER_BYTES)
            if block.digests:
                rows.append(self._row(Kind.EMBEDDING, key, block.packed()))
            else:
                self._of.transaction.execute(_REMOVE_BLOCK, **self._of.shared, key=key)
        for digest, (number, body) in self._new.items():
            plaintext = number.to_bytes(_NUMBER_BYTES) + body
            rows.append(self._row(Kind.DOCUMENT, digest, plaintext))
        shared = {**self._of.shared, "now": now}
        if rows:
            put = _PUT[self._of.transaction.is_postgres]
            self._of.transaction.execute_many(put, [{**shared, **row} for row in rows])
            state = replace(state, tag=tag_of(rows[-1]["new_sealed"]))
        state = replace(state, next_sequence=self._next, count=self._count)
        added = self._added_size + sum(row["new_size"] for row in rows)
        moved = state.as_new(self._of.keys, self._of.digest, added)
        self._of.transaction.execute(_MOVE, **shared, **moved)

    def _row(self, kind: Kind, key: bytes, plaintext: bytes) -> dict[str, Any]:
        # Numbers of embeddings hardly shrink.
        sealed = self._of.keys.seal(
            self._of.place(kind), key, plaintext, compress=kind is not Kind.EMBEDDING
        )
        return {
            "new_kind": int(kind),
            "new_key": key,
            "new_sealed": sealed,
            "new_size": len(sealed),
        }


def put(
    transaction: Transaction,
    keys: ScopeKeys,
    name: bytes,
    header: bytes,
    documents: Sequence[NewDocument],
    generation: bytes,
    now: int,
) -> None:
    """Store documents, no two of one id, in place of those that have their ids.

    Args:
        name: The collection's.
        header: The sealed part of a new collection's row, in plaintext.
        documents: One or more, with embeddings of one length.
        generation: 8 random bytes for a new collection's row.

    Raises:
        ScopeGone: The scope was erased; nothing was written.
        ValueError: The collection's embeddings have another length; nothing was written.
        RecordDoesNotOpen: The collection's row, or what is to be replaced, was tampered with.
    """
    digest = keys.name(Kind.COLLECTION, name)
    state = _ROWS.begun(transaction, keys, digest, header, generation, now)
    if not state.next_sequence:
        _expect_no_records(transaction, keys, digest)
    collection = Collection(transaction, keys, digest, state)
    change = _Change(collection)
    digests = [collection.named(document.name) for document in documents]
    change.take_out(digests)
    change.expect(len(documents[0].embedding))
    for digest, document in zip(digests, documents, strict=True):
        change.put_in(digest, document)
    change.store(now)


def remove(
    transaction: Transaction, keys: ScopeKeys, name: bytes, names: Sequence[bytes], now: int
) -> None:
    """Remove the documents that have these ids."""
    digest = keys.name(Kind.COLLECTION, name)
    if state := _ROWS.locked(transaction, keys, digest):
        collection = Collection(transaction, keys, digest, state)
        change = _Change(collection)
        change.take_out(dict.fromkeys(map(collection.named, names)))
        change.store(now)


def clear(
    transaction: Transaction, keys: ScopeKeys, name: bytes, generation: bytes, now: int
) -> None:
    """Remove every document, whatever was done to them; none opens under the new ``generation``."""
    shared = {"scope_id": keys.scope_id, "digest": keys.name(Kind.COLLECTION, name)}
    has_row = _ROWS.lock(transaction, keys, shared["digest"]) is not None
    _ROWS.empty_below(transaction, keys, shared["digest"], has_row=has_row)
    if not has_row:
        return
    new_head = _ROWS.empty(generation).head(keys, shared["digest"])
    transaction.execute(_EMPTY, **shared, new_head=new_head, new_generation=generation, now=now)
