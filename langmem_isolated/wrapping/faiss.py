"""Adapter of `FAISS` (langchain-community)."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langmem_isolated._adapters.document_tags import OWNER
from langmem_isolated._search.metadata_filters import Filter
from langmem_isolated.wrapping.adapters import (
    Hit,
    Query,
    StandardAdapter,
    Stored,
    Vector,
    VectorRows,
)
from langmem_isolated.wrapping.pushdown import owner_test
from langmem_isolated.wrapping.unowned import Unowned, counted, owners_in, without_owner


class FAISSAdapter(StandardAdapter):
    """`FAISS` of langchain-community: it filters after the search, so the search is widened.

    FAISS adds vectors before it refuses an id that is taken, and every later search fails: here
    the old vector goes first. One store takes one call at a time. An index that looks at a part of
    its vectors only (IVF) finds what it looks at.
    """

    seals = True
    name = "FAISS"

    def __init__(self, store: VectorStore) -> None:
        super().__init__(store)
        self._lock = _lock_of(store)

    def where(self, owners: list[str], wanted: Filter | None) -> Callable[[dict[str, Any]], bool]:
        """A function of the metadata."""
        return owner_test(owners, wanted)

    def put(self, documents: list[Document], vectors: list[Vector] | None) -> None:
        """Embed first, so that nothing is removed if that fails."""
        if vectors is None:
            texts = [document.page_content for document in documents]
            vectors = self.store._embed_documents(texts)
        self.put_vectors(VectorRows.of(documents, vectors))

    def put_vectors(self, rows: VectorRows) -> None:
        """Store vectors as they are."""
        if any(len(vector) != self.store.index.d for vector in rows.vectors):
            raise ValueError(f"The vectors of this store have {self.store.index.d} numbers.")
        with self._lock:
            self.delete(rows.ids)
            pairs = zip(rows.texts, rows.vectors, strict=True)
            self.store.add_embeddings(pairs, metadatas=rows.metadatas, ids=rows.ids)

    def get(self, ids: list[str]) -> list[Document]:
        """The documents that have these ids."""
        with self._lock:
            return super().get(ids)

    def delete(self, ids: list[str]) -> None:
        """Remove documents; FAISS itself raises for ids that are not there."""
        with self._lock:
            # By the index: documents that older versions have stored do not know their ids.
            known = {*self.store.index_to_docstore_id.values()}
            if there := [id_ for id_ in dict.fromkeys(ids) if id_ in known]:
                self.store.delete(there)

    def prepared(self, query: str) -> Query:
        """The query's vector, outside of the lock."""
        return list(self.store._embed_query(query))

    def search(self, query: Query, k: int, owners: list[str], wanted: Filter | None) -> list[Hit]:
        """The nearest documents, from among more and more."""
        where = self.where(owners, wanted)
        with self._lock:
            total, fetch_k = self.store.index.ntotal, max(64, 4 * k)
            hits: list[Hit] = []
            while total:
                hits = self.nearest(query, k, filter=where, fetch_k=min(fetch_k, total))
                if len(hits) >= k or fetch_k >= total:
                    break
                fetch_k *= 4
        return hits

    def owned(self, owner: str, k: int) -> list[str]:
        """Ids of the owner's documents."""
        with self._lock:
            documents = self._documents()
            return [id_ for id_, one in documents if one.metadata.get(OWNER) == owner][:k]

    def unowned(self) -> Unowned:
        """How many documents have no owner, of the first 10,000."""
        with self._lock:
            return counted(one.metadata for _, one in self._documents())

    def unowned_ids(self) -> list[Any]:
        """Ids of all documents without an owner."""
        with self._lock:
            return without_owner((id_, one.metadata) for id_, one in self._documents())

    def stored(self, ids: list[Any]) -> list[Stored]:
        """What is there under ids, also of documents that do not know theirs."""
        with self._lock:
            found = {id_: self.store.docstore.search(id_) for id_ in ids}
            there = [id_ for id_ in ids if isinstance(found[id_], Document)]
            vectors: Sequence[Vector | None] = self.vectors(there) or [None] * len(there)
        return [
            Stored(id_, _named(id_, found[id_]), vector)
            for id_, vector in zip(there, vectors, strict=True)
        ]

    def owners(self) -> set[str]:
        """The owner tags of the first 10,000 documents."""
        with self._lock:
            return owners_in(one.metadata for _, one in self._documents())

    def _documents(self) -> Iterator[tuple[str, Document]]:
        for id_ in self.store.index_to_docstore_id.values():
            found = self.store.docstore.search(id_)
            if isinstance(found, Document):
                yield id_, found

    def vectors(self, ids: list[str]) -> list[Vector] | None:
        """The stored vectors, if this kind of index gives them back."""
        with self._lock:
            rows = {id_: row for row, id_ in self.store.index_to_docstore_id.items()}
            try:
                return [self.store.index.reconstruct(rows[id_]).tolist() for id_ in ids]
            except RuntimeError:
                return None


def _named(id_: str, document: Document) -> Document:
    return Document(id=id_, page_content=document.page_content, metadata={**document.metadata})


_locks: WeakKeyDictionary[VectorStore, threading.RLock] = WeakKeyDictionary()
_locks_lock = threading.Lock()


def _lock_of(store: VectorStore) -> threading.RLock:
    """The one lock of a store, however often it is wrapped."""
    with _locks_lock:
        return _locks.setdefault(store, threading.RLock())
