"""Threads of a scope as a checkpointer lists, names and keeps them."""

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Self, TypeVar

from langchain_core.runnables import RunnableConfig

from langmem_isolated._adapters.container_catalogue import ContainerCatalogue
from langmem_isolated._codecs.checkpoints.serializer import Serde
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.threads.listing import LISTING
from langmem_isolated.checkpointer.channel_values import thread_values
from langmem_isolated.checkpointer.thread import Thread, as_thread
from langmem_isolated.errors import ThreadNotFound
from langmem_isolated.scope import Scope, checked_thread_id

T = TypeVar("T")

Resolve = Callable[[RunnableConfig | None], tuple[Scope, ScopedDatabase]]


class ThreadMethods:
    """What a checkpointer does with whole threads; ``_resolve`` leads a call to its scope."""

    _resolve: Resolve
    _serde: Serde

    def threads(
        self,
        *,
        limit: int | None = None,
        before: Thread | None = None,
        archived: bool | None = False,
        search: str | None = None,
    ) -> list[Thread]:
        """The scope's threads, pinned ones first, then by last activity, newest first.

        >>> graph = scope.bind(builder.compile())
        >>> config = {"configurable": {"thread_id": "chat-1"}}
        >>> state = graph.invoke({"messages": [("human", "Hi")]}, config)
        >>> saver = scope.checkpointer()
        >>> saver.rename_thread("chat-1", "Greetings")
        >>> [thread.id for thread in saver.threads(search="greet")]
        ['chat-1']

        Args:
            limit: At most this many; by default all.
            before: For the next page, the last thread of this one.
            archived: Whether those that are archived, or those that are not; ``None`` for both.
            search: Only those whose title has these words, or words of which these are parts; upper
                and lower case and diacritics make no difference. Titles are sealed: all are opened,
                500 at a time.

        Raises:
            ScopeError: The call names no scope.
            ValueError: ``limit`` is negative.
            TypeError: ``limit`` is no number, ``before`` no thread, ``archived`` no bool, or
                ``search`` no text.
            LimitExceeded: ``search`` is beyond ``query_characters``.
        """
        if not isinstance(before, Thread | None):
            raise TypeError(
                f"before must be a Thread or None, got {kind_of(before)}. Give the last thread of "
                "the page before."
            )
        position = None if before is None else before.position
        return [
            as_thread(one) for one in self._catalogue().listed(position, limit, archived, search)
        ]

    async def athreads(
        self,
        *,
        limit: int | None = None,
        before: Thread | None = None,
        archived: bool | None = False,
        search: str | None = None,
    ) -> list[Thread]:
        """The scope's threads; see :meth:`threads`."""
        return await self._arun(
            None,
            lambda saver: saver.threads(
                limit=limit, before=before, archived=archived, search=search
            ),
        )

    def thread(self, thread_id: str) -> Thread:
        """One thread as a list shows it.

        Raises:
            ThreadNotFound: This scope has no such thread.
        """
        return as_thread(self._catalogue().get(checked_thread_id("thread_id", thread_id)))

    async def athread(self, thread_id: str) -> Thread:
        """One thread as a list shows it; see :meth:`thread`."""
        return await self._arun(None, lambda saver: saver.thread(thread_id))

    def thread_values(self, thread_id: str) -> dict[str, Any]:
        """What the thread's channels hold now, by their names; of an unknown thread nothing.

        For whoever has not the graph: channels that are kept as deltas are rebuilt from what was
        written to them, messages by their ids, dicts merged, all else one behind the other. With
        the graph, its ``get_state`` tells the same by its own reducers, and subgraphs besides.

        Raises:
            RecordDoesNotOpen: What is stored was changed, moved or removed.
        """
        thread_id = checked_thread_id("thread_id", thread_id)
        records = self._resolve(None)[1]
        return records.snapshot(thread_values, None, thread_id, self._serde, now()) or {}

    async def athread_values(self, thread_id: str) -> dict[str, Any]:
        """What the thread's channels hold now; see :meth:`thread_values`."""
        return await self._arun(None, lambda saver: saver.thread_values(thread_id))

    def rename_thread(self, thread_id: str, title: str | None) -> None:
        """Give the thread a title, sealed; ``None`` takes it away.

        Raises:
            ThreadNotFound: This scope has no such thread.
            LimitExceeded: The title is beyond ``message_bytes``.
        """
        self._catalogue().rename(checked_thread_id("thread_id", thread_id), title)

    async def arename_thread(self, thread_id: str, title: str | None) -> None:
        """Give the thread a title; see :meth:`rename_thread`."""
        await self._arun(None, lambda saver: saver.rename_thread(thread_id, title))

    def archive_thread(self, thread_id: str) -> None:
        """Leave the thread out of lists, unless ``archived=True``; graphs go on as before.

        Raises:
            ThreadNotFound: This scope has no such thread.
        """
        self._catalogue().mark(checked_thread_id("thread_id", thread_id), is_archived=True)

    async def aarchive_thread(self, thread_id: str) -> None:
        """Leave the thread out of lists; see :meth:`archive_thread`."""
        await self._arun(None, lambda saver: saver.archive_thread(thread_id))

    def unarchive_thread(self, thread_id: str) -> None:
        """List the thread again.

        Raises:
            ThreadNotFound: This scope has no such thread.
        """
        self._catalogue().mark(checked_thread_id("thread_id", thread_id), is_archived=False)

    async def aunarchive_thread(self, thread_id: str) -> None:
        """List the thread again; see :meth:`unarchive_thread`."""
        await self._arun(None, lambda saver: saver.unarchive_thread(thread_id))

    def pin_thread(self, thread_id: str) -> None:
        """List the thread before those that are not pinned.

        Raises:
            ThreadNotFound: This scope has no such thread.
        """
        self._catalogue().pin(checked_thread_id("thread_id", thread_id), is_pinned=True)

    async def apin_thread(self, thread_id: str) -> None:
        """List the thread first; see :meth:`pin_thread`."""
        await self._arun(None, lambda saver: saver.pin_thread(thread_id))

    def unpin_thread(self, thread_id: str) -> None:
        """List the thread among those that are not pinned.

        Raises:
            ThreadNotFound: This scope has no such thread.
        """
        self._catalogue().pin(checked_thread_id("thread_id", thread_id), is_pinned=False)

    async def aunpin_thread(self, thread_id: str) -> None:
        """List the thread among the others; see :meth:`unpin_thread`."""
        await self._arun(None, lambda saver: saver.unpin_thread(thread_id))

    def set_thread_lifetime(
        self,
        thread_id: str,
        *,
        idle: timedelta | None = None,
        absolute: timedelta | None = None,
    ) -> None:
        """Say how long the thread lives, in place of all that was said before.

        Where a checkpointer that writes to it has ``ttl=``, the earlier end counts. The thread is
        absent at once where its time is over.

        Args:
            thread_id: Which thread.
            idle: After it was last written, a microsecond or more; ``None`` for ever.
            absolute: After it was made; ``None`` for ever.

        Raises:
            ThreadNotFound: This scope has no such thread.
            TypeError: One is no `timedelta`.
            ValueError: One is below a microsecond.
        """
        thread_id = checked_thread_id("thread_id", thread_id)
        self._catalogue().set_lifetime(thread_id, idle, absolute)

    async def aset_thread_lifetime(
        self,
        thread_id: str,
        *,
        idle: timedelta | None = None,
        absolute: timedelta | None = None,
    ) -> None:
        """Say how long the thread lives; see :meth:`set_thread_lifetime`."""
        await self._arun(
            None,
            lambda saver: saver.set_thread_lifetime(thread_id, idle=idle, absolute=absolute),
        )

    def thread_size(self, thread_id: str) -> int:
        """Bytes of a thread's sealed records; 0 for an unknown one."""
        thread_id = checked_thread_id("thread_id", thread_id)
        found = self._resolve(None)[1].read(LISTING.find, None, thread_id, now())
        return 0 if found is None else found.size

    async def athread_size(self, thread_id: str) -> int:
        """Bytes of a thread's sealed records; see :meth:`thread_size`."""
        return await self._arun(None, lambda saver: saver.thread_size(thread_id))

    def _catalogue(self) -> ContainerCatalogue:
        return ContainerCatalogue(self._resolve(None)[1], LISTING, "thread", ThreadNotFound)

    def _copied(self, **attributes: Any) -> Self:
        clone = copy.copy(self)
        vars(clone).update(attributes)
        return clone

    async def _arun(self, config: RunnableConfig | None, body: Callable[[Self], T]) -> T:
        # Asked once, before the caller's context is left: in the worker only this scope is meant.
        found = self._resolve(config)
        return await found[1].arun(body, self._copied(_resolve=lambda _: found))
