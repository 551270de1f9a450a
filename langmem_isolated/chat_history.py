"""Chat message history of LangChain, isolated and encrypted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
)

from langmem_isolated._adapters.compat import is_called_to_record
from langmem_isolated._codecs.headers import Header, decode_header, encode_header
from langmem_isolated._codecs.messages import (
    MessageMetadata,
    decode_message,
    decode_message_with_metadata,
    encode_message,
)
from langmem_isolated._codecs.storable import storable
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database.dialects import Conflict
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.limits import checked_number
from langmem_isolated._storage.container_state import BIRTH_BYTES, ContainerState
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.sessions import reading, writing
from langmem_isolated._storage.sessions.reading import LATEST, NOTHING, Recent
from langmem_isolated._storage.sessions.writing import Message
from langmem_isolated.errors import AddressTaken, RecordDoesNotOpen, ValueNotStorable
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
    """Some messages, oldest first, and where the next older page ends."""

    messages: list[BaseMessage]
    before: int | None
    """Give this to :meth:`IsolatedChatMessageHistory.page`; ``None`` when nothing is older."""


class IsolatedChatMessageHistory(BaseChatMessageHistory):
    """One session's messages: a drop-in `BaseChatMessageHistory` that belongs to one scope.

    Made by ``memory.scope(…).chat_history(session_id)``. Nothing is read or written before the
    first call. One object serves any number of threads, tasks and event loops.

    Args:
        records: The scope's records.
        session_id: 1 to 255 bytes, as :func:`~langmem_isolated.scope.checked_id` says. The same id
            in another scope is another session.
        channel: Of every message added through this object, unless the call names another.
        idempotent: Whether to leave out messages whose ``id`` this session has already. By default
            they are stored again, as LangChain's own histories do. Messages without id are always
            stored.

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
        self._header = encode_header(Header(session_id, channel=channel))
        # How this object last saw the session; appending from it saves PostgreSQL a transaction.
        self._state: ContainerState | None = None
        self._idempotent = idempotent

    def __repr__(self) -> str:
        return f"{type(self).__name__}(session_id=…)"

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """Every message, oldest first, in a list of the caller's own.

        Raises:
            RecordDoesNotOpen: A message was changed, moved, exchanged, added or cut off.
        """
        opened = self._records.read(reading.load, NOTHING, self._session_id, now())
        self._state = opened.state
        return [decode_message(plaintext) for plaintext in opened.messages]

    async def aget_messages(self) -> list[BaseMessage]:
        """Every message, oldest first; see :attr:`messages`."""
        return await self._records.arun(lambda: self.messages)

    def add_messages(self, messages: Sequence[BaseMessage], *, channel: str | None = None) -> None:
        """Add ``messages`` in their order, all or none; once this returns they are stored.

        Args:
            messages: Any of langchain-core's.
            channel: Where they were said, sealed with them; :func:`recent` finds them by it. By
                default that of this object.

        Raises:
            ValueNotStorable: A message holds a value without a stored form. From
                `RunnableWithMessageHistory`, which would only log it and lose the turn, the message
                is stored as far as it can be; see :func:`storable`.
            LimitExceeded: A message, or all of them together, are beyond ``limits``.
            ScopeError: ``channel`` is malformed.
            RecordDoesNotOpen: The session was tampered with.
            KeyDestroyed: The scope was erased.
            DatabaseError: The database refused or failed.
        """
        channel = self._channel if channel is None else checked_id("channel", channel)
        moment = now()
        said = MessageMetadata(moment, channel)
        try:
            encoded = self._encoded(messages, said)
        except ValueNotStorable:
            if not is_called_to_record():
                raise
            encoded = self._encoded(map(storable, messages), said)
        if not encoded:
            return
        placed = encoded, moment, None if channel is None else channel.encode()
        try:
            if self._idempotent or not self._append_optimistically(*placed):
                self._append(*placed, look_first=self._idempotent)
        except Conflict:
            self._append_known(*placed)

    def _encoded(self, messages: Iterable[BaseMessage], said: MessageMetadata) -> list[Message]:
        checked = partial(self._records.limits.checked_size, "message_bytes")
        encoded = [Message(checked(encode_message(m, said)), m.id) for m in messages]
        self._records.limits.check_batch([message.plaintext for message in encoded])
        return encoded

    def _append_optimistically(
        self, encoded: list[Message], moment: int, channel: bytes | None
    ) -> bool:
        known = self._state
        if known is None:
            return False
        self._state = self._records.write_once(
            writing.append_optimistically, None, self._session_id, known, encoded, moment, channel
        )
        return self._state is not None

    def _append_known(self, encoded: list[Message], moment: int, channel: bytes | None) -> None:
        try:
            self._append(encoded, moment, channel, look_first=True)
        except Conflict:
            raise AddressTaken(Kind.MESSAGE.label) from None

    def _append(
        self, encoded: list[Message], moment: int, channel: bytes | None, *, look_first: bool
    ) -> None:
        self._state = self._records.write(
            writing.append,
            self._session_id,
            self._header,
            encoded,
            os.urandom(BIRTH_BYTES),
            moment,
            skip_stored=self._idempotent,
            look_first=look_first,
            channel=channel,
        )

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

    def last(self, n: int) -> list[BaseMessage]:
        """The newest ``n`` messages, oldest first; reads only those."""
        return self.page(limit=n).messages

    async def alast(self, n: int) -> list[BaseMessage]:
        """The newest ``n`` messages; see :meth:`last`."""
        return await self._records.arun(self.last, n)

    def page(self, *, before: int | None = None, limit: int = 50) -> Page:
        """The newest ``limit`` messages older than ``before``, oldest first; reads only those.

        Args:
            before: The ``before`` of the page after this one; ``None`` for the newest page.
            limit: At most this many messages, 0 or more.

        Raises:
            ValueError: ``limit`` or ``before`` is negative, or no whole number.
            RecordDoesNotOpen: As for :attr:`messages`; the end is checked on every page.
        """
        before = LATEST if before is None else checked_number("before", before)
        end, limit = min(before, LATEST), min(checked_number("limit", limit), LATEST)
        opened = self._records.read(reading.page, NOTHING, self._session_id, end, limit, now())
        self._state = opened.state
        return Page([decode_message(plaintext) for plaintext in opened.messages], opened.before)

    async def apage(self, *, before: int | None = None, limit: int = 50) -> Page:
        """A page of messages; see :meth:`page`."""
        return await self._records.arun(self.page, before=before, limit=limit)

    def count(self) -> int:
        """How many messages the session has, without reading any."""
        return self._records.read(reading.count, 0, self._session_id, now())

    async def acount(self) -> int:
        """How many messages the session has."""
        return await self._records.arun(self.count)

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
        checked_number("max_tokens", max_tokens)
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


def _without_summary(header: bytes, _: ContainerState) -> bytes:
    return encode_header(decode_header(header)._replace(summary=None, summarized=None))


def recent(records: ScopedDatabase, limits: Mapping[str, int]) -> list[BaseMessage]:
    """The newest messages of some channels, over all sessions of the scope, oldest first.

    Reads and opens those alone. They are ordered by the time they were written, which is sealed
    with each, and by session and sequence where that is the same. What comes back was said in that
    channel at that time; that someone with the database in hand removed a message, or took it out
    of its channel, shows when its session is read, not here.

    Args:
        records: The scope's records.
        limits: How many messages of each channel at most.

    Raises:
        ScopeError: The name of a channel is malformed.
        ValueError: A limit is negative.
        RecordDoesNotOpen: A message was changed, moved, or put into another channel or time.
    """
    wanted = [
        (checked_id("channel", channel).encode(), min(checked_number("a limit", limit), LATEST))
        for channel, limit in limits.items()
    ]
    found = records.snapshot(reading.recent, [], wanted, now())
    said = [line for pair in zip(limits, found, strict=False) for line in _checked_channel(*pair)]
    return [message for *_, message in sorted(said, key=itemgetter(slice(3)))]


def _checked_channel(
    channel: str, found: Sequence[Recent]
) -> Iterator[tuple[int, bytes, int, BaseMessage]]:
    for written, session, sequence, plaintext in found:
        said = decode_message_with_metadata(plaintext)
        if said.metadata is None or said.metadata[:2] != (written, channel):
            raise RecordDoesNotOpen(Kind.MESSAGE.label, "it was put into another channel or time")
        yield written, session, sequence, said.message
