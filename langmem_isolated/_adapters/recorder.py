"""Recorder of runs: appends each message, error and interrupt once to one chat session."""

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from langchain_core.messages import BaseMessage, ChatMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp, GraphInterrupt
from langgraph.types import Interrupt

from langmem_isolated._adapters.run_scope import session_named_in
from langmem_isolated._codecs.storable import storable, stored_form
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.sessions import reading
from langmem_isolated.chat_history import IsolatedChatMessageHistory
from langmem_isolated.errors import ScopeError, ValueNotStorable

_log = logging.getLogger("langmem_isolated")

EVENTS = "events"
"""The channel of errors and interrupts."""
ERROR, INTERRUPT = "error", "interrupt"

# What ends a run, as far as a coroutine may still wait: not `GeneratorExit`.
ENDINGS = (Exception, asyncio.CancelledError, KeyboardInterrupt, SystemExit)

FindRecords = Callable[[RunnableConfig | None], ScopedDatabase]

_NAMES = uuid.UUID("0a5d9c2e-6f0b-4d0e-9a3b-3b1d0a1f7c55")


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


def derived_id(*parts: str) -> str:
    """An id that the same parts always have."""
    # Some of Python's text has no form in UTF-8, and this function takes no other.
    return str(uuid.uuid5(_NAMES, "\0".join(parts).encode(errors="backslashreplace").decode()))


def named(message: BaseMessage, place: str) -> BaseMessage:
    """The message with an id: its own, or one that it has whenever it is made at ``place``."""
    if message.id:
        return message
    # A copy: tools may return one object again and again, to anyone.
    return message.model_copy(update={"id": derived_id(place, stored_form(message).hex())})


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
        self.history = IsolatedChatMessageHistory(
            records, session_id, channel=channel, idempotent=True
        )

    def add(self, messages: Sequence[BaseMessage]) -> None:
        """Record messages that have ids, except those recorded before.

        One that cannot be stored exactly is recorded as far as it can be; see :func:`storable`.
        """
        try:
            self.history.add_messages(messages)
        except ValueNotStorable:
            # The run goes on: what it answers was paid for.
            self.history.add_messages([*map(storable, messages)])

    def add_events(self, events: Sequence[ChatMessage]) -> None:
        """Record errors and interrupts, except those recorded before.

        What fails here is told in the log: it must not take the place of what is recorded.
        """
        try:
            self.history.add_messages(events, channel=EVENTS)
        except Exception as failure:  # noqa: BLE001 - of the database, of keys, of damaged records
            kind = type(failure).__name__
            _log.error("An error or interrupt of a run was not recorded: %s.", kind)

    def catch_up(self, messages: Sequence[BaseMessage]) -> None:
        """Record those at the end of ``messages`` that are new.

        Looks them up from the newest back to the first that is known and no tool's: those that
        tools answer side by side come in any order. Before any other message is recorded, all
        before it were.
        """
        newest_first = [m if m.id else _with_id(m) for m in reversed(messages)]

        def is_known(index: int, _: int) -> bool:
            return not isinstance(newest_first[index], ToolMessage)

        found = self.trace(newest_first, is_known)
        new = [m for m, sequence in zip(newest_first, found, strict=False) if sequence is None]
        self.add(new[::-1])

    def trace(
        self, newest_first: Sequence[BaseMessage], is_end: Callable[[int, int], bool]
    ) -> Sequence[int | None]:
        """The sequence numbers of messages, up to where it ends."""
        ids = [str(message.id) for message in newest_first]
        # Each look-up stands for itself: what is added is looked up again under the lock.
        found = self.records.read_apart(reading.trace, None, self.session_id, ids, is_end)
        return [None] * len(newest_first) if found is None else found


def _with_id(message: BaseMessage) -> BaseMessage:
    message.id = str(uuid.uuid4())
    return message
