"""What was said in a conversation, a page of it or all; and what a thread keeps beside it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage

from langmem_isolated.scoped_memory import ScopedMemory

_MESSAGES = "messages"
# LangGraph's own.
_INNER = ("__", "branch:")
_PAGE = 50

Message = tuple[BaseMessage, datetime | None, str | None]


class Said(NamedTuple):
    """Messages of a conversation, oldest first."""

    messages: list[Message]
    before: int | None
    """Where the next older page ends; ``None`` when nothing is older."""
    others: dict[str, Any]
    """What a thread keeps beside its messages, by the names of its channels."""


def in_session(scoped: ScopedMemory, session_id: str, before: int | None) -> Said:
    """A page of a chat; reads only that."""
    page = scoped.chat_history(session_id).timed_page(before=before, limit=_PAGE)
    return Said([one[1:] for one in page.messages], page.before, {})


def in_thread(scoped: ScopedMemory, thread_id: str, before: int | None) -> Said:
    """A page of a thread, whose latest state is one value and is read as a whole."""
    every = all_in_thread(scoped, thread_id)
    end = len(every.messages) if before is None else min(before, len(every.messages))
    begin = max(0, end - _PAGE)
    return Said(every.messages[begin:end], begin or None, every.others)


def all_in_session(scoped: ScopedMemory, session_id: str) -> Said:
    """All of a chat."""
    return Said([one[1:] for one in scoped.chat_history(session_id).timed()], None, {})


def all_in_thread(scoped: ScopedMemory, thread_id: str) -> Said:
    """All of a thread."""
    values = scoped.checkpointer().thread_values(thread_id)
    found = values.pop(_MESSAGES, [])
    listed = found if isinstance(found, list) else [found]
    messages: list[Message] = [(one, None, None) for one in listed if isinstance(one, BaseMessage)]
    others = {name: value for name, value in values.items() if not name.startswith(_INNER)}
    if len(messages) < len(listed):
        others[_MESSAGES] = [one for one in listed if not isinstance(one, BaseMessage)]
    return Said(messages, None, others)
