"""Collections: the documents of one scope, listed and removed without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from langmem_isolated._codecs.documents import decode_document
from langmem_isolated._codecs.headers import decode_collection
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._runtime.arguments import refuse_single
from langmem_isolated._runtime.calls import ONE_SCOPE, explains_calls, made_by
from langmem_isolated._runtime.clock import EPOCH, as_moment, now
from langmem_isolated._runtime.operations import found, given, observed
from langmem_isolated._storage.copying import streaming
from langmem_isolated._storage.documents import collection as stored
from langmem_isolated._storage.documents import writing
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from langmem_isolated._crypto.scope_keys import ScopeKeys
    from langmem_isolated._database.transactions import Transaction


@made_by(f"{ONE_SCOPE}.collections()", first=str)
@dataclass(frozen=True, slots=True)
class DocumentCollection:
    """A collection of documents as a list shows it; its name is left out of the ``repr``."""

    name: str = field(repr=False)
    embedding_name: str | None
    """Which model embedded its documents, where that is known."""
    documents: int
    created: datetime
    last_activity: datetime

    @classmethod
    def of(cls, found: streaming.Found) -> DocumentCollection:
        """A collection by its row."""
        header, state = decode_collection(found.header), found.state
        return cls(
            name=header.collection,
            embedding_name=header.embedding_name,
            documents=state.count,
            created=as_moment(state.created_at) or EPOCH,
            last_activity=as_moment(state.updated_at) or EPOCH,
        )


@made_by(f"{ONE_SCOPE}.collections", first=ScopedDatabase)
@explains_calls
class Collections:
    """The collections of one scope's own documents, as ``memory.scope(…).collections`` gives them.

    For pages and jobs that have no embedding model: calling it lists them. Documents of wrapped
    vector stores, and what publishers share, are not among them.

    >>> _ = scope.vector_store(embeddings).add_texts(["Fractions are parts."], ids=["one"])
    >>> [(found.name, found.documents) for found in scope.collections()]
    [('default', 1)]
    >>> [document.page_content for document in scope.collections.documents("default")]
    ['Fractions are parts.']
    >>> scope.collections.delete("default", ["one"])
    >>> scope.collections.documents("default")
    []
    """

    def __init__(self, records: ScopedDatabase) -> None:
        self._records = records

    @observed("search_memory", "collection", found)
    def __call__(self) -> list[DocumentCollection]:
        """The collections that have documents, by their names.

        Raises:
            RecordDoesNotOpen: A collection's row was changed, moved or exchanged.
            MemoryLocked: The user's memory is locked in this process.
            DatabaseError: The database refused or failed.
        """
        found = self._records.snapshot(_collections, [], now())
        made = (DocumentCollection.of(one) for one in found if one.state.count)
        return sorted(made, key=lambda one: one.name)

    async def alist(self) -> list[DocumentCollection]:
        """The collections that have documents; see :meth:`__call__`."""
        return await self._records.arun(self)

    @observed("search_memory", "document", found)
    def documents(self, collection: str) -> list[Document]:
        """The documents of a collection, by their ids; none where there is no such collection.

        Raises:
            ScopeError: ``collection`` is malformed.
            RecordDoesNotOpen: A document was changed or moved, or some are missing or too many.
            MemoryLocked: The user's memory is locked in this process.
        """
        name = checked_id("collection", collection).encode()
        bodies = self._records.snapshot(stored.everything, [], name)
        return sorted(map(decode_document, bodies), key=lambda document: str(document.id))

    async def adocuments(self, collection: str) -> list[Document]:
        """The documents of a collection; see :meth:`documents`."""
        return await self._records.arun(self.documents, collection)

    @observed("delete_memory", "document", given)
    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """Remove the documents of a collection that have these ids, with their embeddings.

        Raises:
            ScopeError: ``collection`` is malformed.
            TypeError: ``ids`` is a single str.
            RecordDoesNotOpen: The collection, or what is to be removed, was tampered with.
            MemoryLocked: The user's memory is locked in this process.
        """
        refuse_single("ids", ids, (), example='ids=["one"]')
        name = checked_id("collection", collection).encode()
        names = [one.encode() for one in self._records.limits.checked_count("ids", [*ids])]
        self._records.write_if_exists(writing.remove, None, name, names, now())

    async def adelete(self, collection: str, ids: Sequence[str]) -> None:
        """Remove documents of a collection; see :meth:`delete`."""
        await self._records.arun(self.delete, collection, ids)


def _collections(transaction: Transaction, keys: ScopeKeys, moment: int) -> list[streaming.Found]:
    digests = streaming.digests(transaction, keys, Kind.COLLECTION)
    found = (
        streaming.container(transaction, keys, Kind.COLLECTION, digest, moment)
        for digest in digests
    )
    return [one for one in found if one is not None and not one.state.is_absent]
