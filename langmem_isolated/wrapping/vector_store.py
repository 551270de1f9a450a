"""Wrapped vector store: a shared third-party store in which each scope finds its own."""

# LangChain takes any keyword and most stores drop what they do not know: here it is refused.
# mypy: disable-error-code="override"
# ruff: noqa: A002 - LangChain calls it filter

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple, NoReturn

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langmem_isolated._adapters.document_tags import (
    OWNER,
    OwnerKeys,
    OwnerTags,
    SealedTags,
    prepared,
    readable,
    refuse_reserved,
    violation,
    whose,
)
from langmem_isolated._adapters.vector_store_base import (
    Found,
    ScopedVectorStore,
    check_diversity,
    checked_count,
)
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._runtime.calls import ONE_SCOPE, made_by
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.operations import found, given, observed
from langmem_isolated._search.metadata_filters import Filter, metadata_test
from langmem_isolated._search.vectors import VectorSpace, most_diverse
from langmem_isolated._storage import wrapped_stores
from langmem_isolated._storage.wrapped_stores import StoreNote
from langmem_isolated.errors import AnonymousNotFound, KeyDestroyed
from langmem_isolated.scope import checked_id
from langmem_isolated.wrapping.adapters import Hit, Query, VectorStoreAdapter, ids_of, parts_of
from langmem_isolated.wrapping.clearing import clear_owner
from langmem_isolated.wrapping.probe import ThrowawayOwner, probe
from langmem_isolated.wrapping.registry import adapter_of, unfiltered
from langmem_isolated.wrapping.unowned import Unowned, tell_of

# How many more than wanted are asked for where some of them may not pass.
_MORE = 4


class _Opened(NamedTuple):
    document: Document
    score: float
    stored_id: str


@made_by(f"{ONE_SCOPE}.vector_store(wrapping=store)", "memory.vector_store(wrapping=store)")
class WrappedVectorStore(ScopedVectorStore):
    """A third-party vector store in which this scope finds its own documents, and no others.

    Made by ``memory.scope(…).vector_store(wrapping=store)``. Every document bears its owner's
    stamp; the owner is part of every search, the caller's filter stands under it and cannot widen
    it; ids are keyed digests, so no one overwrites or deletes what is another's; each document that
    comes back is checked. Text, metadata and vectors are readable in the store, unless ``seal``:
    then vectors are, and much of a text can be guessed from its vector.

    Filters are mappings as in `IsolatedVectorStore`, the same for every store. Keyword arguments
    that are not known are refused. A search returns ``k`` documents whenever ``k`` pass; an index
    that finds approximately may miss near ones, as it does without us.

    >>> alice = scope.vector_store(wrapping=shared)
    >>> ids = alice.add_texts(["Alice's draft"], ids=["draft"])
    >>> bob = memory.scope(user_id="bob", module_id="tutor").vector_store(wrapping=shared)
    >>> bob.similarity_search("draft")
    []

    Args:
        store: The vector store; it may hold the documents of any number of scopes.
        records: Whose documents are read; those of the first are written.
        adapter: What knows the store; by default found by its class.
        seal: Encrypt text and metadata with the owner's key. Filters are then applied to what came
            back, so selective ones ask for many documents.
        probe: Try the store with two owners who do not exist, and remove what they wrote. The log
            then tells of documents that were in it before and bear no owner, see :meth:`unowned`.
        post_filter: Take a store that has no adapter, drop what is another's after the search.
        stamped: Hand documents out with their stamps, for a retriever that checks them again.
        name: By which an erasure knows the store again, in any process; by default its kind and the
            name of its collection or table. Give one to stores that would have the same.

    Raises:
        TypeError: No adapter is known for this store, or it cannot store what is sealed.
        IsolationViolation: The probe found that the store does not keep owners apart.
    """

    def __init__(
        self,
        store: VectorStore,
        records: Sequence[OwnerKeys],
        *,
        adapter: VectorStoreAdapter | None = None,
        seal: bool = False,
        probe: bool = True,
        post_filter: bool = False,
        stamped: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(records[0].owner, records[0].arun, records[0].limits)
        self._store, self._records, self._own = store, records, records[0]
        self._adapter = adapter or adapter_of(store) or unfiltered(store, allowed=post_filter)
        self._seals = seal
        self._stamps = stamped
        self.store_name = self._adapter.name if name is None else checked_id("name", name)
        """By which erasures know the store."""
        if seal and (store.embeddings is None or not self._adapter.seals):
            raise TypeError(
                f"{type(store).__name__} cannot be sealed: it must have embeddings, and its "
                "adapter must be able to store vectors that are not made from the sealed text."
            )
        if probe:
            self.probe()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self._store).__name__})"

    @property
    def embeddings(self) -> Embeddings | None:
        """What turns texts into vectors."""
        return self._store.embeddings

    @classmethod
    def from_texts(cls, *_: Any, **__: Any) -> NoReturn:
        """Refused: a wrapped store belongs to a scope."""
        raise TypeError(
            "A wrapped store is made by memory.scope(…).vector_store(wrapping=store), and filled "
            "by its add_texts."
        )

    @classmethod
    async def afrom_texts(cls, *_: Any, **__: Any) -> NoReturn:
        """Refused: a wrapped store belongs to a scope."""
        cls.from_texts()

    def probe(self) -> None:
        """Try the store with two owners who do not exist; the log tells of documents without owner.

        Raises:
            IsolationViolation: One of them met the other, or a document lost its tags.
        """

        def of_no_one() -> WrappedVectorStore:
            owner = ThrowawayOwner()
            return WrappedVectorStore(
                self._store, [owner], adapter=self._adapter, seal=self._seals, probe=False
            )

        probe(of_no_one(), of_no_one())
        self._tell_of_unowned()

    def _tell_of_unowned(self) -> None:
        with suppress(Exception):  # of a store that was tried: it works without being counted
            tell_of(self.unowned(), type(self._store).__name__)

    def unowned(self) -> Unowned:
        """How many documents of the store bear no owner, as it was filled past this package.

        No scope finds, replaces or removes them. Whoever has the store itself reads them.
        """
        return self._adapter.unowned()

    async def aunowned(self) -> Unowned:
        """How many documents bear no owner; see :meth:`unowned`."""
        found: Unowned = await self._arun(self.unowned)
        return found

    async def aprobe(self) -> None:
        """Try the store; see :meth:`probe`."""
        await self._arun(self.probe)

    def add_documents(
        self,
        documents: Iterable[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,  # noqa: ARG002 - LangChain's index passes its own
    ) -> list[str]:
        """Store documents in place of this owner's that have their ids.

        Args:
            documents: What to store. Metadata may be what the store takes, when sealed anything.
            ids: One for each document; by default its own ``id``, or a new UUID. 1 to 1,024 bytes.
            batch_size: No effect: they are handed to the store 1,000 at a time.

        Returns:
            The ids.

        Raises:
            ValueError: There are not as many ids as documents, an id is empty or too long, or
                metadata hold a key that begins with ``langmem_``.
            TypeError: An id is not a str.
            LimitExceeded: A text, or all of them together, are beyond ``limits``.
            KeyDestroyed: The owner was erased, or is being erased; of what this call wrote, nothing
                is left.
        """
        new = [prepared(document, id_) for id_, document in self._named(documents, ids)]
        # The last of one id counts.
        for part in parts_of([*{document.id: document for document in new}.values()]):
            self._put(part)
        return [str(document.id) for document in new]

    def put_embedded(
        self, documents: Sequence[Document], vectors: Sequence[Sequence[float]]
    ) -> list[str]:
        """Store documents, as :meth:`add_documents` does, with the store's vectors of them.

        Args:
            documents: What to store.
            vectors: One for each; nothing is embedded.

        Raises:
            TypeError: The store takes no vectors as they are.
            ValueError: There are not as many; or as there.
        """
        if not self._adapter.seals:
            raise TypeError(f"{type(self._store).__name__} takes no vectors. Use add_documents().")
        new = [prepared(document, id_) for id_, document in self._named(documents, None)]
        pairs = {one.id: (one, [*vector]) for one, vector in zip(new, vectors, strict=True)}
        for part in parts_of([*pairs.values()]):
            self._put([one for one, _ in part], [vector for _, vector in part])
        return [str(document.id) for document in new]

    @observed("upsert_memory", "document", given, records="_own")
    def _put(self, documents: list[Document], vectors: list[list[float]] | None = None) -> None:
        keys = self._records[0].living_keys()
        keys.refuse_if_locked()
        if self._seals and vectors is None:
            texts = [document.page_content for document in documents]
            vectors = self._embedder().embed_documents(texts)
        self._note(keys)
        sealed_by = None
        while sealed_by is not keys:  # again where others have rotated them while it was put
            tags, sealed_by = self._kind(self._records[0], keys), keys
            stored = [tags.placed(document) for document in documents]
            try:
                self._adapter.put(stored, vectors)
            finally:
                keys = self._undo_if_ended(keys, stored)

    def _note(self, keys: ScopeKeys) -> None:
        """Have the scope know of this store, before it holds anything that is to be erased."""
        known = self.store_name, self._seals
        if known not in keys.noted_stores:
            tag = self._kind(self._records[0], keys).owner
            self._records[0].write(wrapped_stores.note, StoreNote(known[0], tag, known[1]), now())
            keys.noted_stores.add(known)

    def _undo_if_ended(self, keys: ScopeKeys, stored: list[Document]) -> ScopeKeys:
        """Remove what was put while an erasure took place, which has looked; else what seals now.

        Raises:
            KeyDestroyed: It was.
        """
        try:
            return self._records[0].check_life(keys)
        except (KeyDestroyed, AnonymousNotFound):
            self._adapter.delete(ids_of(stored))
            raise

    @observed("delete_memory", "document", given, records="_own")
    def _remove(self, names: list[str]) -> None:
        tags = self.own_tags()
        if tags is not None:
            for part in parts_of([*{tags.stored_id(name): None for name in names}]):
                self._adapter.delete(part)

    @observed("delete_memory", "document", records="_own")
    def clear(self) -> None:
        """Remove every document of this owner.

        Raises:
            KeyDestroyed: The owner was erased, or is being erased.
            WrappedStoreKeeps: The store still has what it was told to remove.
        """
        tags = self.own_tags()
        if tags is not None:
            clear_owner(self._adapter, tags.owner)

    def own_tags(self) -> OwnerTags | None:
        """Those of the first owner, if it has stored anything."""
        keys = self._records[0].find_living_keys()
        if keys is None:
            self._records[0].refuse_if_ended()
            return None
        return self._kind(self._records[0], keys)

    @observed("search_memory", "document", found, records="_own")
    def _at(self, names: list[str]) -> dict[str, Document]:
        found: dict[str, Document] = {}
        for tags in reversed(self.readable_tags().values()):
            wanted = {tags.stored_id(name): name for name in names}
            for document in chain.from_iterable(map(self._adapter.get, parts_of([*wanted]))):
                if document.id not in wanted:
                    raise violation()
                found[wanted[document.id]] = self._untagged(document, tags)
        return found

    def find(self, query: str | list[float], k: int = 4, *, filter: Filter | None = None) -> Found:
        """The ``k`` nearest documents that pass, with scores, and whether there are no more.

        Args:
            query: A text or a vector.
            k: How many.
            filter: As in :meth:`similarity_search`.
        """
        self._check_search(query, filter)
        opened, exhausted = self._nearest(query, k, filter)
        return Found([(one.document, one.score) for one in opened], exhausted)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        relevance = self._adapter.relevance()
        # LangChain warns of what is beyond, and quotes the documents.
        return lambda score: min(1.0, max(0.0, relevance(score)))

    def _diverse(
        self, query: Query, k: int, fetch_k: int, lambda_mult: float, filter: Filter | None
    ) -> list[Document]:
        self._check_search(query, filter)
        check_diversity(fetch_k, lambda_mult)
        asked = self._prepared(query)
        vector = self._embedder().embed_query(asked) if isinstance(asked, str) else asked
        opened, _ = self._nearest(asked, max(checked_count(k), fetch_k), filter)
        if not opened:
            return []
        vectors: list[list[float]] | None = None
        with suppress(KeyError):  # of one that others have removed since it was found
            vectors = self._adapter.vectors([one.stored_id for one in opened])
        if vectors is None:
            texts = [one.document.page_content for one in opened]
            vectors = self._embedder().embed_documents(texts)
        pack = VectorSpace(len(vector)).pack
        chosen = most_diverse(pack(vector), [pack(one) for one in vectors], k, lambda_mult)
        return [opened[place].document for place in chosen]

    @observed("search_memory", "document", lambda hits, *_: len(hits[0]), records="_own")
    def _nearest(self, query: Query, k: int, filter: Filter | None) -> tuple[list[_Opened], bool]:
        """The nearest documents that pass, and whether there are no more."""
        count, passes = checked_count(k), metadata_test(filter)
        refuse_reserved(filter, nested=True)
        readable = self.readable_tags()
        if not readable:
            return [], True
        query = self._prepared(query)
        asked = count if self._adapter.filters and not filter else count * _MORE
        while True:
            hits = self._adapter.search(query, asked, [*readable], None if self._seals else filter)
            opened = [one for one in self._opened(hits, readable) if passes(one.document.metadata)]
            exhausted = len(hits) < asked
            if exhausted or len(opened) >= count:
                return opened[:count], exhausted and len(opened) <= count
            asked *= 2

    def _prepared(self, query: Query) -> Query:
        if not isinstance(query, str):
            return query
        # The words of what is sealed cannot be searched for.
        return self._embedder().embed_query(query) if self._seals else self._adapter.prepared(query)

    def _opened(self, hits: Iterable[Hit], readable: Mapping[str, OwnerTags]) -> list[_Opened]:
        if not self._adapter.filters:
            hits = [hit for hit in hits if hit.document.metadata.get(OWNER) in readable]
        return [self._open(hit, whose(hit.document, readable)) for hit in hits]

    def _open(self, hit: Hit, tags: OwnerTags) -> _Opened:
        document = self._untagged(hit.document, tags)
        return _Opened(document, hit.score, hit.document.id or tags.stored_id(str(document.id)))

    def _untagged(self, stored: Document, tags: OwnerTags) -> Document:
        document = tags.untagged(stored)
        # A copy under another id is not the document that was written.
        if stored.id is not None and stored.id != tags.stored_id(str(document.id)):
            raise violation()
        return OwnerTags.tagged(tags, document) if self._stamps else document

    def readable_tags(self) -> dict[str, OwnerTags]:
        """The tags of every owner that may be read, by their value in ``langmem_owner``."""
        return readable(self._records, self._kind)

    @property
    def _kind(self) -> type[OwnerTags]:
        return SealedTags if self._seals else OwnerTags

    def _embedder(self) -> Embeddings:
        if self._store.embeddings is None:
            raise NotImplementedError(f"This {type(self._store).__name__} has no embeddings.")
        return self._store.embeddings
