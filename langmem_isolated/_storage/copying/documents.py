"""Copies document collections: each document with its embedding."""

import os
from collections.abc import Iterator
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import select

from langmem_isolated._codecs.documents import document_id, with_id
from langmem_isolated._codecs.headers import CollectionHeader, decode_collection
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.container_state import BIRTH_BYTES, ContainerState, open_header
from langmem_isolated._storage.containers import LISTED, in_scope
from langmem_isolated._storage.copying.options import BATCH, Conflicts, Copied, names_for
from langmem_isolated._storage.documents import collection, writing
from langmem_isolated._storage.documents.collection import Collection
from langmem_isolated._storage.documents.unit_of_work import NewDocument

_COLLECTIONS = select(*LISTED).where(in_scope(Kind.COLLECTION)).order_by(schema.sessions.c.digest)
_ONE: sa.ColumnElement[int] = sa.literal_column("1")


class OpenCollection(NamedTuple):
    """A collection with all its documents, and their embeddings, in plaintext."""

    header: CollectionHeader
    documents: list[NewDocument]


def open_collections(transaction: Transaction, keys: ScopeKeys) -> list[OpenCollection]:
    """Every collection of an owner that has documents.

    Raises:
        RecordDoesNotOpen: Something was changed, added, removed or restored.
    """
    found = []
    for *row, digest, sealed in transaction.rows(_COLLECTIONS, scope_id=keys.scope_id):
        state = ContainerState.checked(Kind.COLLECTION, keys, digest, tuple(row))
        if state.is_absent:
            continue
        header = decode_collection(open_header(Kind.COLLECTION, keys, digest, state, sealed))
        of = Collection(transaction, keys, digest, state, sealed)
        if documents := [*_documents(of)]:
            found.append(OpenCollection(header, documents))
    return found


def _documents(of: Collection) -> Iterator[NewDocument]:
    documents = of.everything_proved()
    for block in of.blocks().values():
        length = block.length
        for at, digest in enumerate(block.digests):
            embedding = block.embeddings[at * length : (at + 1) * length]
            body, stored_at = documents[digest]
            yield NewDocument(document_id(body).encode(), body, embedding, stored_at)


class _Target:
    """A collection of the owner that is copied to."""

    def __init__(self, transaction: Transaction, keys: ScopeKeys, name: str) -> None:
        self.transaction, self.keys, self.name = transaction, keys, name.encode()
        self.found = collection.find(transaction, keys, self.name)
        # One that is renamed may get the name of one that comes behind it.
        self._placed: dict[str, bytes] = {}

    def takes(self, opened: OpenCollection) -> bool:
        """Whether embeddings of both can be compared."""
        if self.found is None or not self.found.state.count:
            return True
        of = self.found
        header = decode_collection(
            open_header(Kind.COLLECTION, self.keys, of.digest, of.state, of.sealed_header)
        )
        block = next(iter(of.blocks().values()))
        names = {header.embedding_name, opened.header.embedding_name} - {None}
        return len(names) <= 1 and block.length == len(opened.documents[0].embedding)

    def has(self, id_: str) -> bytes | None:
        """The document of that id, also one that was placed and is not yet stored."""
        if self.found is None or id_ in self._placed:
            return self._placed.get(id_)
        (there,) = self.found.at([self.found.document_digest(id_.encode())])
        return there and there.body

    def place(
        self, document: NewDocument, conflicts: Conflicts, copied: Copied
    ) -> NewDocument | None:
        """A document under the id that it gets; ``None`` for one that is left out."""
        old, resolved = document.name.decode(), False
        for id_ in names_for(old):
            body = document.body if id_ == old else with_id(document.body, id_)
            there = self.has(id_)
            if there is None:
                copied.note_name(Kind.DOCUMENT, old, id_)
                self._placed[id_] = body
                return document._replace(name=id_.encode(), body=body)
            if there == body:
                return None
            if not resolved and copied.resolve(conflicts, Kind.DOCUMENT) != "rename":
                break
            resolved = True
        return None if conflicts == "skip" else document

    def clear(self) -> None:
        """Remove every document."""
        writing.clear(self.transaction, self.keys, self.name)
        self.found = None


def batches(opened: list[OpenCollection]) -> Iterator[OpenCollection]:
    """Collections in parts that one transaction takes."""
    # Each document has a row, and at worst a block of its own.
    size = BATCH // 2
    for header, documents in opened:
        for start in range(0, len(documents), size):
            yield OpenCollection(header, documents[start : start + size])


def copy_batch(
    transaction: Transaction,
    target: ScopeKeys,
    part: OpenCollection,
    conflicts: Conflicts,
    copied: Copied,
    now: int,
) -> None:
    """Put documents into the target's collection of that name, if their embeddings fit.

    Where they do not, the name of the collection counts as taken.

    Raises:
        AddressTaken: A name is taken, and that is refused.
        RecordDoesNotOpen: Something in the target was tampered with.
        ScopeGone: The target was erased; nothing was written.
    """
    into = _into(transaction, target, part, conflicts, copied)
    if into is None:
        return
    placed = (into.place(document, conflicts, copied) for document in part.documents)
    if new := [document for document in placed if document is not None]:
        header = part.header._replace(collection=into.name.decode())
        birth = os.urandom(BIRTH_BYTES)
        writing.put(transaction, target, into.name, header, new, birth, now)
        copied.counts[Kind.DOCUMENT] += len(new)
        for document in new:
            copied.note_added(Kind.DOCUMENT, into.name, document.name)


def _into(
    transaction: Transaction,
    keys: ScopeKeys,
    part: OpenCollection,
    conflicts: Conflicts,
    copied: Copied,
) -> _Target | None:
    for name in names_for(part.header.collection):
        into = _Target(transaction, keys, name)
        if into.takes(part):
            copied.note_name(Kind.COLLECTION, part.header.collection, name)
            return into
        if conflicts != "rename":
            break
    if copied.resolve(conflicts, Kind.COLLECTION) == "skip":
        return None
    into.clear()
    return into
