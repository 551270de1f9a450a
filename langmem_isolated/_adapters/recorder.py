"""Recorder of runs: appends each message, error and interrupt once to one chat session."""

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp, GraphInterrupt
from langgraph.types import Interrupt

from langmem_isolated._adapters.appending import Appender
from langmem_isolated._adapters.message_ids import derived_id, left_out, repeated_id, says_the_same
from langmem_isolated._adapters.quota import counts_messages
from langmem_isolated._adapters.run_scope import session_named_in
from langmem_isolated._codecs.storable import storable
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.operations import observed
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.sessions import reading
from langmem_isolated._storage.sessions.reading import IsEnd, Known
from langmem_isolated._storage.sessions.writing import Repeated
from langmem_isolated.chat_history import IsolatedChatMessageHistory
from langmem_isolated.errors import MemoryLocked, ScopeError, ValueNotStorable

_log = logging.getLogger("langmem_isolated")

EVENTS = "events"
"""The channel of errors and interrupts."""
ERROR, INTERRUPT = "error", "interrupt"

# What ends a run, as far as a coroutine may still wait: not `GeneratorExit`.
ENDINGS = (Exception, asyncio.CancelledError, KeyboardInterrupt, SystemExit)

# Through so many messages that are known it is looked for new ones: a room may say more in a turn.
_REACH = 200

FindRecords = Callable[[RunnableConfig | None], ScopedDatabase]


def session_of(config: RunnableConfig | None) -> str:
    """The chat session of a run: ``session_id`` in its ``configurable``, or else ``thread_id``.

    Raises:
        ScopeError: It has neither.
    """
    session_id = session_named_in(config)
    if session_id is None:
        raise ScopeError(
            "This run names no chat session. Put session_id or thread_id into "
            "config['configurable']; nothing was recorded."
        )
    # What is no id is refused by the history.
    return session_id  # type: ignore[no-any-return]


def event(role: str, text: str, type_: str, id_: str, **more: Any) -> ChatMessage:
    """An error or interrupt as it is recorded; ``type`` is in its ``additional_kwargs``."""
    facts = {"type": type_, **{name: value for name, value in more.items() if value is not None}}
    return ChatMessage(role=role, content=text, id=id_, additional_kwargs=facts)


def events_of(
    error: BaseException, place: str, tool_call_id: str | None = None
) -> list[ChatMessage]:
    """What is recorded of an exception; nothing for one by which LangGraph only passes control.

    Ids follow from the place and what happened: the same failure of the same step is one event,
    and so is the same question that it asks.
    """
    if isinstance(error, GraphInterrupt):
        return [interrupted(one, tool_call_id) for one in (error.args or ((),))[0]]
    if isinstance(error, GraphBubbleUp):
        return []
    kind, text = type(error).__qualname__, _text_of(error)
    id_ = derived_id(place, tool_call_id or "", kind, text)
    return [event(ERROR, text, kind, id_, tool_call_id=tool_call_id)]


def interrupted(interrupt: Interrupt, tool_call_id: str | None = None) -> ChatMessage:
    """What is recorded of an interrupt: its value, as JSON where that is no text."""
    text = interrupt.value if isinstance(interrupt.value, str) else _as_json(interrupt.value)
    id_ = derived_id(interrupt.id, text)
    return event(INTERRUPT, text, "Interrupt", id_, tool_call_id=tool_call_id)


def _text_of(error: BaseException) -> str:
    # LangGraph cancels with a bare object: its address says nothing, and differs each time.
    if isinstance(error, asyncio.CancelledError) and not isinstance((*error.args, "")[0], str):
        return ""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - that of an application raises what it likes
        return ""


def _as_json(value: object) -> str:
    """A value as JSON, or as Python writes it where JSON has no form for its keys."""
    with suppress(Exception):
        return json.dumps(value, ensure_ascii=False, default=str)
    return as_text(value)


def as_text(value: object) -> str:
    """A value as Python writes it; the name of its type where that fails."""
    with suppress(Exception):
        return repr(value)
    return type(value).__qualname__


def is_event(message: BaseMessage) -> bool:
    """Whether it is an error or interrupt as recorded here."""
    return isinstance(message, ChatMessage) and message.role in (ERROR, INTERRUPT)


def until(start: int) -> Callable[[], IsEnd]:
    """A search that ends where messages have a sequence number below ``start``."""
    return lambda: lambda _, known: known.sequence < start


class Recorder:
    """One chat session to which a run is recorded.

    Args:
        records: The scope's records.
        session_id: Which session.
        channel: Of all messages; errors and interrupts are in that of ``EVENTS``.

    Raises:
        ScopeError: ``session_id`` or ``channel`` is malformed.
    """

    def __init__(self, records: ScopedDatabase, session_id: str, channel: str) -> None:
        self.session_id = session_id
        self.records = records
        self.arun = records.arun
        self.history = IsolatedChatMessageHistory(records, session_id, channel=channel)
        self.behind = -1
        """The sequence number of the newest message that what is said now answers."""
        self._channel = channel
        self._appender = Appender(records, session_id, channel)

    def add(self, messages: Sequence[BaseMessage]) -> None:
        """Record messages that have ids, except those recorded before.

        One that cannot be stored exactly is recorded as far as it can be, with the names of the
        types that are not.
        """
        self._add(messages, left_out)
        if self._appender.state is not None:
            self.behind = self._appender.state.next_sequence - 1

    def add_said(self, messages: Sequence[BaseMessage], place: str) -> None:
        """Record messages that came about just now, at ``place``; see :meth:`add`.

        Servers repeat ids: one is known only if the session has it, word for word, behind what it
        answers, as when a step is taken again. Every other is recorded, under an id of its own.
        """
        self._add(messages, partial(left_out, place=place, behind=self.behind))

    def _add(self, messages: Sequence[BaseMessage], repeated: Repeated) -> None:
        self._appender.counts_people = counts_messages(self.records)
        try:
            self._appender.add(messages, self._channel, repeated)
        except ValueNotStorable:
            # The run goes on: what it answers was paid for.
            self._appender.add([*map(storable, messages)], self._channel, repeated)

    def add_events(self, events: Sequence[ChatMessage]) -> None:
        """Record errors and interrupts, except those recorded before.

        What fails here is told in the log: it must not take the place of what is recorded.
        """
        try:
            self._appender.add(events, EVENTS, left_out)
        except Exception as failure:  # noqa: BLE001 - of the database, of keys, of damaged records
            kind = type(failure).__name__
            _log.error("An error or interrupt of a run was not recorded: %s.", kind)

    def catch_up(self, messages: Sequence[BaseMessage], *, is_start: bool = False) -> None:
        """Record those of ``messages`` that are new.

        Looks them up from the newest back, past what tools answered: those that answer side by side
        come in any order. Before any other message is recorded, all before it were. While tools
        answer it ends at the first that is known; otherwise it goes on through the turn before, for
        other middleware puts messages where they belong, such as answers to calls that have none.

        Args:
            messages: Of the state of a run.
            is_start: Whether the run begins: then a question of a known id that says something else
                is new. Later other middleware may have edited it.
        """
        newest_first = [
            m if m.id else _with_id(m) for m in reversed(messages) if not _is_summary(m)
        ]
        walk = _Walk(newest_first, is_start)
        try:
            found = self.trace(newest_first, walk.begin)
        except MemoryLocked:
            # What is known is found out when the user unlocks: until then all of it waits.
            self.add(newest_first[::-1])
            return
        self.behind = max(self.behind, walk.newest, self._sequence_of_edited(newest_first, walk))
        new = [n for n, sequence in enumerate(found) if sequence is None or n in walk.edited]
        if new and len(found) == len(newest_first):
            new = self._without_dropped(newest_first, found, new)
        if new:
            self.add([newest_first[number] for number in reversed(new)])

    def _without_dropped(
        self,
        newest_first: Sequence[BaseMessage],
        found: Sequence[int | None],
        new: list[int],
    ) -> list[int]:
        """Those of the ``new`` that never were in the session.

        A thread keeps what dropped out of its session: by a policy, or a limit of a channel. Where
        some did, what is older than all that is known was among it; of nothing known, what is older
        than the newest turn.
        """
        known = [number for number, sequence in enumerate(found) if sequence is not None]
        oldest = known[-1] if known else _begin_of_turn(newest_first)
        later = [number for number in new if number <= oldest]
        if len(later) == len(new):
            return new
        has_lost = self.records.read_apart(reading.has_lost, False, self.session_id, now())
        return later if has_lost else new

    def _sequence_of_edited(self, newest_first: Sequence[BaseMessage], walk: "_Walk") -> int:
        """Where the newest is recorded, if that is under an id made of its own and what it says."""
        if 0 not in walk.different:
            return -1
        ids = [repeated_id(newest_first[0])]
        found = self.records.read_apart(reading.trace, [], self.session_id, ids, until(0), now())
        return max((sequence for sequence in found if sequence is not None), default=-1)

    @observed("search_memory", "message", records="records")
    def trace(
        self, newest_first: Sequence[BaseMessage], begin: Callable[[], IsEnd]
    ) -> Sequence[int | None]:
        """The sequence numbers of messages, up to where it ends; ``begin`` as in the reading."""
        ids = [str(message.id) for message in newest_first]
        # Each look-up stands for itself: what is added is looked up again under the lock.
        found = self.records.read_apart(reading.trace, None, self.session_id, ids, begin, now())
        return [None] * len(newest_first) if found is None else found


class _Walk:
    """The way back through a run's messages, until all that may be new was seen."""

    def __init__(self, newest_first: Sequence[BaseMessage], is_start: bool) -> None:
        self._messages = newest_first
        self._is_start = is_start
        self._is_deep = bool(newest_first) and not isinstance(newest_first[0], ToolMessage)
        self.begin()

    def begin(self) -> IsEnd:
        """Go the way from its start, and forget what was seen on one that led nowhere."""
        self._has_answer = False
        self.newest = -1
        """The highest sequence number seen."""
        self.different: set[int] = set()
        """Which questions say something else than what is recorded under their id."""
        self.edited: set[int] = set()
        """Which of those are new."""
        return self.is_end

    def is_end(self, number: int, known: Known) -> bool:
        """Whether nothing older can be new."""
        message = self._messages[number]
        self.newest = max(self.newest, known.sequence)
        if isinstance(message, HumanMessage) and self._is_different(message, known):
            self.different.add(number)
            if self._is_start:
                self.edited.add(number)
                return False
        if self._is_deep and number < _REACH:
            self._has_answer |= isinstance(message, AIMessage)
            return self._has_answer and isinstance(message, HumanMessage)
        return not isinstance(message, ToolMessage)

    def _is_different(self, message: HumanMessage, known: Known) -> bool:
        # What was answered, other middleware may have edited since; unless the run begins with an
        # answer, as when LangGraph puts a question that was sent again in the place of the first.
        begins_with_question = not isinstance(self._messages[0], AIMessage)
        is_answered = self._has_answer and begins_with_question
        return not is_answered and not says_the_same(message, known.plaintext)


def _begin_of_turn(newest_first: Sequence[BaseMessage]) -> int:
    """Where the newest turn begins: with its question, or the first of several in a row."""
    begin = 0
    for number, message in enumerate(newest_first):
        if isinstance(message, HumanMessage):
            begin = number
        elif isinstance(newest_first[begin], HumanMessage):
            break
    return begin if isinstance(newest_first[begin], HumanMessage) else len(newest_first)


def _is_summary(message: BaseMessage) -> bool:
    """Whether LangChain's middleware wrote it in place of messages that were recorded."""
    return message.additional_kwargs.get("lc_source") == "summarization"


def _with_id(message: BaseMessage) -> BaseMessage:
    message.id = str(uuid.uuid4())
    return message
