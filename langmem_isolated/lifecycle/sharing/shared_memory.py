"""Shared memory: what another module of the same user lets this one read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._database.statements import NO_LIMIT
from langmem_isolated._runtime.arguments import whole_number
from langmem_isolated._runtime.calls import ONE_SCOPE, explains_calls, made_by
from langmem_isolated._runtime.operations import found, observed
from langmem_isolated.errors import ScopeError
from langmem_isolated.lifecycle.sharing.grants import Grant
from langmem_isolated.lifecycle.sharing.reading import SharedReading, WayIn
from langmem_isolated.lifecycle.sharing.terms import SharedKind, Terms
from langmem_isolated.scope import Scope, checked_id

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langchain_core.messages import BaseMessage
    from langgraph.store.base import IndexConfig

    from langmem_isolated.lifecycle.sharing.shared_profile import SharedProfile
    from langmem_isolated.lifecycle.sharing.shared_store import SharedStore
    from langmem_isolated.recall import Recall, Recalled, RecallOptions
    from langmem_isolated.retriever import IsolatedBM25Retriever, IsolatedRetriever
    from langmem_isolated.sessions import Session
    from langmem_isolated.store import StoreIndexConfig
    from langmem_isolated.vector_store import IsolatedVectorStore

# Sessions looked at in one read, where some are not shared.
_PAGE = 100


@made_by(f"{ONE_SCOPE}.shared_from(module_id)", first=MemoryContext)
@explains_calls
class SharedMemory:
    """What another module of the same user lets this one read; it cannot be written.

    Made by ``scope.shared_from(module_id)``, without I/O. Every call asks for the grant, in the
    snapshot of what it reads: after a revocation nothing is handed out, by any process, and a grant
    ends by the database's clock. What is handed out is not taken back.

    Every method raises `NotShared` where no grant in force allows it, `RecordDoesNotOpen` where
    what it reads, or a grant, was changed, moved or exchanged, and `DatabaseError` where the
    database refuses or fails.

    >>> grant = memory.grants.allow(
    ...     user_id="alice", from_module="tutor", to_module="planner", kinds=["message", "item"]
    ... )
    >>> scope.chat_history("monday").add_user_message("I have a test on Friday.")
    >>> shared = scope.module("planner").shared_from("tutor")
    >>> [found.text for found in shared.recall("When is the test?")]
    ['I have a test on Friday.']
    >>> shared.documents(embeddings).similarity_search("test")
    Traceback (most recent call last):
    langmem_isolated.errors.NotShared: No grant in force lets the one module ...

    Args:
        context: The memory's.
        scope: Who reads.
        module_id: Whose memory is read.

    Raises:
        ScopeError: ``module_id`` is missing or malformed, or the scope's own.
    """

    def __init__(self, context: MemoryContext, scope: Scope, module_id: str) -> None:
        if checked_id("module_id", module_id) == scope.module_id:
            raise ScopeError(
                "shared_from() takes another module's id, got that of this scope itself, which "
                "reads its own memory without a grant. Leave shared_from() out."
            )
        self._context = context
        self._module_ids = module_id, scope.module_id
        self._way = WayIn.of(context, scope, module_id)
        # The source's own, for whom worker threads run.
        self._arun = context.records(self._way.reader).arun

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    @observed("search_memory", "grant", found, records="_context")
    def grant(self) -> Grant:
        """By which grant this module reads."""
        reading = self._way.reading(lambda _: None)
        reading.records.snapshot(_nothing, None)
        return Grant.of(*self._module_ids, reading.grant)

    async def agrant(self) -> Grant:
        """By which grant this module reads; see :meth:`grant`."""
        return await self._arun(self.grant)

    def sessions(self, *, limit: int = 100, before: Session | None = None) -> list[Session]:
        """The chat sessions that are shared, by last activity, newest first.

        Where a grant is narrowed to channels, these are sessions whose own channel is among them.

        Args:
            limit: At most this many.
            before: For the next page, the last session of this one.

        Raises:
            ValueError: ``limit`` is negative.
            TypeError: ``limit`` is no number, or ``before`` no session.
        """
        wanted = min(whole_number("limit", limit), NO_LIMIT)
        found: list[Session] = []
        for page in self._pages(before, max(_PAGE, wanted)):
            found += page
            if len(found) >= wanted:
                break
        return found[:wanted]

    async def asessions(self, *, limit: int = 100, before: Session | None = None) -> list[Session]:
        """The chat sessions that are shared; see :meth:`sessions`."""
        return await self._arun(self.sessions, limit=limit, before=before)

    def messages(self, session_id: str, *, limit: int | None = None) -> list[BaseMessage]:
        """The newest messages of a session that are shared, or all, oldest first.

        Args:
            session_id: Which session.
            limit: At most this many.

        Raises:
            ScopeError: ``session_id`` is missing or malformed.
            ValueError: ``limit`` is negative.
            TypeError: ``limit`` is no number.
        """
        from langmem_isolated.chat_history import IsolatedChatMessageHistory

        session_id = checked_id("session_id", session_id)
        wanted = min(NO_LIMIT if limit is None else whole_number("limit", limit), NO_LIMIT)
        reading = self._way.reading(lambda terms: terms.check_session(session_id))
        history = IsolatedChatMessageHistory(reading.records, session_id)
        said = history.timed(wanted)
        # The terms are those of the last read: what came between may have narrowed them.
        if said and reading.terms.channels is not None:
            own = self._channel_of(reading, session_id)
            lines = history.timed()
            said = [one for one in lines if reading.terms.has_channel(one.channel or own)]
        return [line.message for line in said[max(0, len(said) - wanted) :]]

    async def amessages(self, session_id: str, *, limit: int | None = None) -> list[BaseMessage]:
        """The newest messages of a session that are shared; see :meth:`messages`."""
        return await self._arun(self.messages, session_id, limit=limit)

    def recall(
        self,
        query: str,
        *,
        embeddings: Embeddings | None = None,
        embedding_name: str | None = None,
        **options: Unpack[RecallOptions],
    ) -> list[Recalled]:
        """What was said in the other module and fits ``query`` best; see :class:`Recall`.

        What is not shared is not looked at, so it moves no rank. Embeddings that the other module
        has are used; what it has not is embedded for this call alone, and kept nowhere.
        """
        asked: dict[str, Any] = {"embeddings": embeddings, "embedding_name": embedding_name}
        return self._recall()(query, **asked, **options)

    async def arecall(
        self,
        query: str,
        *,
        embeddings: Embeddings | None = None,
        embedding_name: str | None = None,
        **options: Unpack[RecallOptions],
    ) -> list[Recalled]:
        """What was said in the other module; see :meth:`recall`."""
        asked: dict[str, Any] = {"embeddings": embeddings, "embedding_name": embedding_name}
        return await self._recall().arecall(query, **asked, **options)

    def store(self, *, index: StoreIndexConfig | IndexConfig | None = None) -> SharedStore:
        """The other module's items, to be read; see :class:`SharedStore`.

        Args:
            index: As ``scope.store()`` takes it, to search by meaning.
        """
        from langmem_isolated.lifecycle.sharing.shared_store import SharedStore

        return SharedStore(self._way, index)

    def documents(
        self,
        embeddings: Embeddings,
        *,
        collection: str = "default",
        embedding_name: str | None = None,
    ) -> IsolatedVectorStore:
        """The other module's documents, to be searched; writing raises `IsolationViolation`.

        Args:
            embeddings: Those that the collection was embedded with.
            collection: Which collection.
            embedding_name: Names the model, as in ``scope.vector_store()``.

        Raises:
            ScopeError: ``collection`` is missing or malformed.
        """
        from langmem_isolated.vector_store import IsolatedVectorStore

        return IsolatedVectorStore(
            [self._documents(collection).records],
            embeddings,
            collection,
            embedding_name=embedding_name,
            plaintext_cache=self._context.plaintext_cache,
        )

    def retriever(
        self,
        embeddings: Embeddings,
        *,
        collection: str = "default",
        embedding_name: str | None = None,
        k: int = 4,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - as vector stores call it
        search_type: Literal["similarity", "mmr"] = "similarity",
    ) -> IsolatedRetriever:
        """A retriever over :meth:`documents`; see :class:`IsolatedRetriever`."""
        from langmem_isolated.retriever import IsolatedRetriever

        whole_number("k", k, least=1, advice="Leave it out for 4.")
        store = self.documents(embeddings, collection=collection, embedding_name=embedding_name)
        found = store.as_retriever(search_type=search_type, search_kwargs={"k": k})
        return IsolatedRetriever(found, filter=filter)

    def bm25_retriever(
        self,
        *,
        k: int = 4,
        collection: str = "default",
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - as vector stores call it
    ) -> IsolatedBM25Retriever:
        """A retriever that ranks the shared documents by words, without embeddings."""
        from langmem_isolated.retriever import IsolatedBM25Retriever

        whole_number("k", k, least=1, advice="Leave it out for 4.")
        sources = [self._documents(collection).records]
        return IsolatedBM25Retriever(sources, collection, k=k, filter=filter)

    def profile(self) -> SharedProfile:
        """What the other module knows of the user, to be read; see :class:`SharedProfile`."""
        from langmem_isolated.lifecycle.sharing.shared_profile import SharedProfile

        return SharedProfile(self._way)

    def _documents(self, collection: str) -> SharedReading:
        checked_id("collection", collection)
        return self._way.reading(lambda terms: terms.check_collection(collection))

    def _recall(self) -> Recall:
        from langmem_isolated.recall import Part, Recall

        reading = self._way.reading(partial(_check_kind, "message"))
        return Recall(
            reading.records,
            self._context.plaintext_cache,
            part=lambda: Part(reading.terms.sessions, reading.terms.channels),
        )

    def _pages(self, before: Session | None, size: int) -> Iterator[list[Session]]:
        from langmem_isolated.sessions import Sessions

        reading = self._way.reading(partial(_check_kind, "message"))
        list_page = Sessions(reading.records)
        page = list_page(limit=size, before=before)
        while page:
            terms = reading.terms
            yield [one for one in page if terms.has_session(one.id, one.channel)]
            page = list_page(limit=size, before=page[-1]) if len(page) == size else []

    @staticmethod
    def _channel_of(reading: SharedReading, session_id: str) -> str | None:
        from langmem_isolated.sessions import Sessions

        return Sessions(reading.records).get(session_id).channel


def _check_kind(kind: SharedKind, terms: Terms) -> None:
    terms.check_kind(kind)


def _nothing(*_: object) -> None:
    """Read nothing but the grant."""
