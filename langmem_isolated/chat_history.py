"""Chat message history of LangChain, isolated and encrypted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
)

from langmem_isolated._adapters.appending import Appender
from langmem_isolated._adapters.compat import is_called_to_record
from langmem_isolated._adapters.message_ids import left_out
from langmem_isolated._adapters.timed_messages import TimedMessage, TimedPage, timed_page
from langmem_isolated._codecs.headers import decode_header, encode_header
from langmem_isolated._codecs.messages import decode_messages
from langmem_isolated._codecs.storable import storable
from langmem_isolated._runtime.arguments import kind_of, whole_number
from langmem_isolated._runtime.calls import ONE_SCOPE, explains_call, made_by
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.operations import counted, found, observed
from langmem_isolated._storage.container_state import BIRTH_BYTES, ContainerState
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.sessions import reading, writing
from langmem_isolated._storage.sessions.reading import LATEST, NOTHING, Opened
from langmem_isolated.errors import ValueNotStorable
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langchain_core.chat_history import BaseChatMessageHistory
else:
    try:
        from langchain_core.chat_history import BaseChatMessageHistory
    except ImportError:  # deprecated since langchain-core 1.6.4, to be removed in 2.0
        BaseChatMessageHistory = object


TokenCounter = Callable[[list[BaseMessage]], int] | Callable[[BaseMessage], int]

# Messages read at a time while a token budget fills; most budgets fill within one.
_WINDOW_PAGE = 64


class Page(NamedTuple):
    """Some messages, oldest first, and where the next older page ends.

    >>> history = scope.chat_history("monday")
    >>> history.add_messages([HumanMessage("one"), HumanMessage("two"), HumanMessage("three")])
    >>> page = history.page(limit=2)
    >>> [message.text for message in page.messages]
    ['two', 'three']
    >>> [message.text for message in history.page(before=page.before).messages]
    ['one']
    """

    messages: list[BaseMessage]
    before: int | None
    """Give this to :meth:`IsolatedChatMessageHistory.page`; ``None`` when nothing is older."""


@made_by(f"{ONE_SCOPE}.chat_history(session_id)", first=ScopedDatabase)
class IsolatedChatMessageHistory(BaseChatMessageHistory):
    """One session's messages: a drop-in `BaseChatMessageHistory` that belongs to one scope.

    Made by ``memory.scope(…).chat_history(session_id)``. Nothing is read or written before the
    first call. One object serves any number of threads, tasks and event loops.

    >>> history = scope.chat_history("monday")
    >>> history.add_messages([HumanMessage("What is 6 times 7?"), AIMessage("42")])
    >>> [message.text for message in history.last(1)]
    ['42']
    >>> scope.module("planner").chat_history("monday").messages
    []

    Args:
        records: The scope's records.
        session_id: 1 to 255 bytes, as :func:`~langmem_isolated.scope.checked_id` says. The same id
            in another scope is another session.
        channel: Of every message added through this object, unless the call names another.
        idempotent: Whether to leave out messages that this session has already: those whose ``id``
            it has, if they say the same. One that says something else, as from a server that
            repeats its ids, is stored under an id made of both. By default all are stored again, as
            LangChain's own histories do. Messages without id are always stored.

    Raises:
        ScopeError: ``session_id`` or ``channel`` is missing or malformed.
    """

    def __init__(
        self,
        records: ScopedDatabase,
        session_id: str,
        *,
        channel: str | None = None,
        idempotent: bool = False,
    ) -> None:
        self._records = records
        self._session_id = checked_id("session_id", session_id)
        self._channel = None if channel is None else checked_id("channel", channel)
        self._appender = Appender(records, session_id, channel)
        self._repeated = left_out if idempotent else None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(session_id=…)"

    @property
    @observed("search_memory", "message", found)
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """Every message, oldest first, in a list of the caller's own.

        Raises:
            RecordDoesNotOpen: A message was changed, moved, exchanged, added or cut off.
        """
        opened = self._records.read_lagging(reading.load, NOTHING, self._session_id, now())
        self._appender.state = opened.state
        return decode_messages(opened.messages)

    async def aget_messages(self) -> list[BaseMessage]:
        """Every message, oldest first; see :attr:`messages`."""
        return await self._records.arun(lambda: self.messages)

    def add_messages(self, messages: Sequence[BaseMessage], *, channel: str | None = None) -> None:
        """Add ``messages`` in their order, all or none; once this returns they are stored.

        Args:
            messages: Any of langchain-core's.
            channel: Where they were said, sealed with them; `recent` finds them by it. By
                default that of this object.

        Raises:
            ValueNotStorable: ``messages`` is no list, or has something else in it; or a message
                holds a value without a stored form. From
                `RunnableWithMessageHistory`, which would only log it and lose the turn, the message
                is stored as far as it can be, with the names of the types that are not.
            LimitExceeded: A message, or all of them together, are beyond ``limits``.
            ScopeError: ``channel`` is malformed.
            SessionClosed: The session was closed.
            RecordDoesNotOpen: The session was tampered with.
            KeyDestroyed: The scope was erased.
            DatabaseError: The database refused or failed.
        """
        listed = _listed(messages)
        channel = self._channel if channel is None else checked_id("channel", channel)
        try:
            self._appender.add(listed, channel, self._repeated)
        except ValueNotStorable:
            if not is_called_to_record():
                raise
            self._appender.add([*map(storable, listed)], channel, self._repeated)

    def _add(self, messages: Sequence[BaseMessage], is_recorded: bool, **named: str) -> None:
        try:
            self.add_messages(messages, **named)
        except ValueNotStorable:
            if not is_recorded:
                raise
            self.add_messages([*map(storable, messages)], **named)

    async def aadd_messages(
        self, messages: Sequence[BaseMessage], *, channel: str | None = None
    ) -> None:
        """Add ``messages``; see :meth:`add_messages`. If cancelled, they may have been stored."""
        # Who calls is asked here: in the worker's thread nothing tells.
        await self._records.arun(self._add, messages, is_called_to_record(), **_named(channel))

    def add_message(self, message: BaseMessage) -> None:
        """Add one message; see :meth:`add_messages`."""
        self.add_messages([message])

    async def aadd_message(self, message: BaseMessage) -> None:
        """Add one message; see :meth:`add_messages`."""
        await self.aadd_messages([message])

    def add_user_message(self, message: HumanMessage | str) -> None:
        """Add what the user said; see :meth:`add_messages`."""
        self.add_messages([_as_message(HumanMessage, message)])

    async def aadd_user_message(self, message: HumanMessage | str) -> None:
        """Add what the user said; see :meth:`add_messages`."""
        await self.aadd_messages([_as_message(HumanMessage, message)])

    def add_ai_message(self, message: AIMessage | str) -> None:
        """Add what the model said; see :meth:`add_messages`."""
        self.add_messages([_as_message(AIMessage, message)])

    async def aadd_ai_message(self, message: AIMessage | str) -> None:
        """Add what the model said; see :meth:`add_messages`."""
        await self.aadd_messages([_as_message(AIMessage, message)])

    @observed("delete_memory", "message")
    def clear(self) -> None:
        """Remove every message of this session, and its summary.

        The session itself stays, with its title.
        """
        birth = os.urandom(BIRTH_BYTES)
        self._records.write_if_exists(
            writing.clear, None, self._session_id, _without_summary, birth, now()
        )

    async def aclear(self) -> None:
        """Remove every message; see :meth:`clear`."""
        await self._records.arun(self.clear)

    @explains_call
    def last(self, n: int) -> list[BaseMessage]:
        """The newest ``n`` messages, oldest first; reads only those."""
        return self.page(limit=n).messages

    async def alast(self, n: int) -> list[BaseMessage]:
        """The newest ``n`` messages; see :meth:`last`."""
        return await self._records.arun(self.last, n)

    def timed(self, n: int | None = None) -> list[TimedMessage]:
        """The newest ``n`` messages, or all, oldest first, with when and where they were said.

        Raises:
            ValueError: ``n`` is negative.
            RecordDoesNotOpen: As for :attr:`messages`.
        """
        return timed_page(self._page(None, LATEST if n is None else n)).messages

    async def atimed(self, n: int | None = None) -> list[TimedMessage]:
        """The newest messages with when they were said; see :meth:`timed`."""
        return await self._records.arun(self.timed, n)

    @explains_call
    def page(self, *, before: int | None = None, limit: int = 50) -> Page:
        """The newest ``limit`` messages older than ``before``, oldest first; reads only those.

        All of a session, where others dropped out of their channels between them.

        Args:
            before: The ``before`` of the page after this one; ``None`` for the newest page.
            limit: At most this many messages, 0 or more.

        Raises:
            ValueError: ``limit`` or ``before`` is negative.
            TypeError: One is no number.
            RecordDoesNotOpen: As for :attr:`messages`; the end is checked on every page.
        """
        opened = self._page(before, limit)
        return Page(decode_messages(opened.messages), opened.before)

    @explains_call
    def timed_page(self, *, before: int | None = None, limit: int = 50) -> TimedPage:
        """A page as :meth:`page` has it, with when and where each message was said.

        Raises:
            ValueError: ``limit`` or ``before`` is negative.
            TypeError: One is no number.
            RecordDoesNotOpen: As for :attr:`messages`; the end is checked on every page.
        """
        return timed_page(self._page(before, limit))

    async def atimed_page(self, *, before: int | None = None, limit: int = 50) -> TimedPage:
        """A page with when and where each message was said; see :meth:`timed_page`."""
        return await self._records.arun(self.timed_page, before=before, limit=limit)

    @observed("search_memory", "message", lambda opened, *_: len(opened.messages))
    def _page(self, before: int | None, limit: int) -> Opened:
        limit = min(whole_number("limit", limit), LATEST)
        end = LATEST if before is None else min(whole_number("before", before), LATEST)
        opened = self._records.read_lagging(
            reading.page, NOTHING, self._session_id, end, limit, now()
        )
        self._appender.state = opened.state
        return opened

    async def apage(self, *, before: int | None = None, limit: int = 50) -> Page:
        """A page of messages; see :meth:`page`."""
        return await self._records.arun(self.page, before=before, limit=limit)

    @observed("search_memory", "message", counted)
    def count(self) -> int:
        """How many messages the session has, without reading any."""
        return self._records.read_lagging(reading.count, 0, self._session_id, now())

    async def acount(self) -> int:
        """How many messages the session has."""
        return await self._records.arun(self.count)

    @explains_call
    def window(
        self,
        *,
        max_tokens: int,
        token_counter: TokenCounter | Literal["approximate"] = "approximate",
        **options: Any,
    ) -> list[BaseMessage]:
        """The newest messages that fit a token budget, as `trim_messages` keeps them.

        Reads backwards, no further than the budget reaches; ``include_system=True`` needs the first
        message and reads the whole session.

        Args:
            max_tokens: The budget.
            token_counter: As `trim_messages` takes it: a function, a chat model or
                ``"approximate"``.
            options: Further options of `trim_messages` (``start_on``, ``end_on``, …); ``strategy``
                is ``"last"``.

        Raises:
            ValueError: ``max_tokens`` is negative.
        """
        whole_number("max_tokens", max_tokens)
        # It imports splitters of text, which few applications need.
        from langchain_core.messages import trim_messages

        def trim(messages: list[BaseMessage], **more: Any) -> list[BaseMessage]:
            return trim_messages(
                messages,
                strategy="last",
                max_tokens=max_tokens,
                token_counter=token_counter,
                **more,
            )

        if options.get("include_system"):
            return trim(self.messages, **options)
        end_on = options.get("end_on")

        def is_full(read: list[BaseMessage]) -> bool:
            # Once the budget drops the oldest message read, older ones cannot fit either.
            if fitting := trim(read, end_on=end_on):
                return fitting[0] is not read[0]
            # Nothing fits, unless what was read so far has nothing to end on.
            return not end_on or bool(
                trim_messages(
                    read, strategy="last", max_tokens=0, token_counter=lambda _: 0, end_on=end_on
                )
            )

        page = self.page(limit=_WINDOW_PAGE)
        read = page.messages
        while page.before is not None and not is_full(read):
            page = self.page(before=page.before, limit=_WINDOW_PAGE)
            read = page.messages + read
        return trim(read, **options)

    async def awindow(
        self,
        *,
        max_tokens: int,
        token_counter: TokenCounter | Literal["approximate"] = "approximate",
        **options: Any,
    ) -> list[BaseMessage]:
        """The newest messages that fit a token budget; see :meth:`window`."""
        return await self._records.arun(
            self.window, max_tokens=max_tokens, token_counter=token_counter, **options
        )

    def __str__(self) -> str:
        from langchain_core.messages import get_buffer_string

        return get_buffer_string(self.messages)


def _named(channel: str | None) -> dict[str, str]:
    # Who derives from the history may know `add_messages` as LangChain has it.
    return {} if channel is None else {"channel": channel}


def _as_message(message_class: type[BaseMessage], message: BaseMessage | str) -> BaseMessage:
    return message_class(content=message) if isinstance(message, str) else message


def _listed(messages: Iterable[BaseMessage]) -> list[BaseMessage]:
    """What may be gone through once, such as a generator, as what may be gone through again."""
    if isinstance(messages, BaseMessage | str | Mapping) or not hasattr(messages, "__iter__"):
        raise ValueNotStorable(
            kind_of(messages),
            "add_messages()",
            cause="messages are given in a list",
            advice="Write add_messages([HumanMessage(text)]).",
        )
    return [*messages]


def _without_summary(header: bytes, _: ContainerState) -> bytes:
    return encode_header(decode_header(header)._replace(summary=None, summarized=None))
