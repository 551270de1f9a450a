"""Adopting store: a third-party vector store whose documents without an owner get one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._adapters.document_tags import OwnerTags
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.calls import made_by
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import UserWasErased, WrappedStoreKeeps
from langmem_isolated.lifecycle.retention import holds
from langmem_isolated.scope import Scope
from langmem_isolated.wrapping import Stored, WrappedVectorStore

# Vectors that a store normalises once more differ in the last of the 24 bits of a float.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-6
# How many a search is asked for, to see that a document is found.
_ASKED = 4


@made_by("memory.adopting(store)", first=MemoryContext)
class AdoptingStore:
    """A third-party store, some of whose documents bear no owner."""

    def __init__(
        self,
        context: MemoryContext,
        store: VectorStore,
        options: dict[str, Any],
        readmit: frozenset[str],
    ) -> None:
        self._context, self._store = context, store
        self._options, self._readmit = options, readmit
        self._adapter: Any = options["adapter"]

    @property
    def name(self) -> str:
        """By which erasures know the store."""
        return str(self._options["name"] or self._adapter.name)

    def unowned_ids(self) -> list[Any]:
        """Ids of all documents that bear no owner.

        Raises:
            TypeError: The adapter does not list them.
        """
        found: list[Any] = self._adapter.unowned_ids()
        return found

    def stored(self, ids: Sequence[Any]) -> list[Stored]:
        """What the store has under ids, in their order; those that are not there left out."""
        found = {str(one.id): one for one in self._adapter.stored([*ids])} if ids else {}
        return [found[str(id_)] for id_ in ids if str(id_) in found]

    def of(self, scope: Scope) -> AdoptedDocuments:
        """The documents of one scope in it.

        Raises:
            UserWasErased: The user was erased, and is not readmitted.
            TypeError: The store cannot be sealed, and ``seal`` was asked for.
        """
        user = Owner(Level.USER, scope.project_id, scope.user_id)
        if scope.user_id not in self._readmit and self._context.is_tombstoned(user):
            raise UserWasErased
        records = self._context.private(scope)
        wrapped: Any = self._context.vector_store(
            [records], None, self._store, probe=False, **self._options
        )
        return AdoptedDocuments(wrapped, records, self._adapter)

    @staticmethod
    def is_same(one: Document | None, other: Document | None) -> bool:
        """Whether two documents have the same text and metadata."""
        return one is other or (one is not None and other is not None and _are_same(one, other))

    def refuse_held(self, scope: Scope) -> None:
        """Refuse to take anything from a user who is on hold.

        Raises:
            LegalHold: The user is.
        """
        holds.check(self._context, scope.user_id, scope.project_id)

    def put_back(self, found: Sequence[Stored]) -> None:
        """Store documents without an owner, under the ids that they had."""
        self._adapter.put_back([*found])

    def remove(self, ids: Sequence[Any]) -> None:
        """Remove documents by the ids that the store has.

        Raises:
            WrappedStoreKeeps: The store still has what it was told to remove.
        """
        self._adapter.delete([*ids])
        if self.stored(ids):
            raise WrappedStoreKeeps(self._adapter.name)


class AdoptedDocuments:
    """One scope's documents in a third-party store, by the ids that they had in it before."""

    def __init__(self, wrapped: WrappedVectorStore, records: ScopedDatabase, adapter: Any) -> None:
        self._wrapped, self._records, self._adapter = wrapped, records, adapter

    def taken(self, found: Sequence[Stored]) -> set[str]:
        """Ids under which the scope has a document of its own, and another one."""
        own = {one.id: one for one in self._wrapped.get_by_ids(_names(found))}
        return {
            str(one.id)
            for one in _documents(found)
            if one.id in own and not _are_same(one, own[one.id])
        }

    def put(self, found: Sequence[Stored]) -> None:
        """Store documents as the scope's, with the vectors that they have; else they are embedded.

        Raises:
            ValueError: An id or metadata are not what a scope's document may have.
            LimitExceeded: A text is beyond ``limits``.
            KeyDestroyed: The owner was erased meanwhile; nothing of this call is left.
        """
        vectors = [one.vector for one in found if one.vector is not None]
        if len(vectors) == len(found) and self._adapter.seals:
            self._wrapped.put_embedded(_documents(found), vectors)
        else:
            self._wrapped.add_documents(_documents(found))

    def difference(self, found: Sequence[Stored]) -> tuple[str, str] | None:
        """The id of the first that the scope finds otherwise, and what differs; ``None`` if none.

        Each is read as its owner reads it.
        """
        own = {one.id: one for one in self.stored(_names(found))}
        for one in found:
            if (what := _difference(own.get(str(one.id)), one)) is not None:
                return str(one.id), what
        return None

    def is_found(self, one: Stored) -> bool:
        """Whether a search by its vector leads to it, or to as many others as were asked for."""
        if one.vector is None:
            return True
        found = self._wrapped.find(one.vector, k=_ASKED)
        names = {document.id for document, _ in found.hits}
        return str(one.id) in names or len(names) == _ASKED

    def marks(self, found: Sequence[Stored]) -> list[str]:
        """Keyed digests of documents, by which they are known to be what they were."""
        tags = OwnerTags(self._records, self._records.living_keys())
        return [tags.mark(one) for one in _documents(found)]

    def stored(self, names: Sequence[str]) -> list[Stored]:
        """The scope's documents of these names, opened, with their vectors."""
        tags = self._wrapped.own_tags()
        if tags is None:
            return []
        places = {tags.stored_id(name): name for name in names}
        own = {one.id: one for one in self._wrapped.get_by_ids([*names])}
        return [
            one._replace(id=name, document=own[name])
            for one in self._adapter.stored([*places])
            if (name := places[str(one.id)]) in own
        ]

    def remove(self, names: Sequence[str]) -> None:
        """Remove the scope's documents of these names."""
        self._wrapped.delete([*names])


def _difference(own: Stored | None, one: Stored) -> str | None:
    if own is None or own.document is None or one.document is None:
        return "it is not there"
    if not _are_same(own.document, one.document):
        return "its text or metadata"
    is_kept = one.vector is None or (own.vector and _is_kept(own.vector, one.vector))
    return None if is_kept else "its vector"


def _documents(found: Iterable[Stored]) -> list[Document]:
    return [one.document for one in found if one.document is not None]


def _names(found: Iterable[Stored]) -> list[str]:
    return [str(one.id) for one in _documents(found)]


def _are_same(one: Document, other: Document) -> bool:
    return one.page_content == other.page_content and _are_equal(one.metadata, other.metadata)


def _are_equal(one: Any, other: Any) -> bool:
    """Whether values are equal; what is no number is another one that is none."""
    match one, other:
        case dict(), dict():
            return one.keys() == other.keys() and all(_are_equal(one[k], other[k]) for k in one)
        case (list(), list()) | (tuple(), tuple()):
            return len(one) == len(other) and all(map(_are_equal, one, other))
        case float(), float():
            return one == other or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def _is_kept(own: Sequence[float], one: Sequence[float]) -> bool:
    """Whether it is the same, or at length 1, as which a store that ranks by cosine keeps it.

    A folder of Qdrant gives vectors as they were put once it was opened anew, and else at length 1.
    """
    length = math.hypot(*one)
    return _are_close(own, one) or (length > 0 and _are_close(own, [x / length for x in one]))


def _are_close(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
        or (math.isnan(a) and math.isnan(b))
        for a, b in zip(one, other, strict=True)
    )
