"""Stored messages: rows and documents that have one each, read and grouped to sessions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Any

from langmem_isolated.importers.langchain.messages import read_message
from langmem_isolated.importers.langchain.times import TimeRefused, aware
from langmem_isolated.lifecycle import ForeignMessage, ForeignSession, Rejected


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it is stored, and what it hangs below."""

    session: Any = field(repr=False)
    """The session's id; the row is rejected if it is no text."""
    place: str
    stored: Any = field(repr=False)
    """JSON text, or the object in it."""
    written_at: Any = field(default=None, repr=False)
    owner: tuple[Any, ...] = field(default=(), repr=False)
    """What else tells whose the session is: one id with two owners is two sessions."""

    def read(self) -> ForeignMessage | Rejected:
        """The message, or why it is none."""
        try:
            written_at = aware(self.written_at)
        except TimeRefused as refusal:
            return Rejected(self.place, str(refusal))
        return read_message(self.stored, self.place, written_at)


def sessions_of(
    messages: Iterable[StoredMessage], columns: Sequence[str] = ()
) -> Iterator[ForeignSession | Rejected]:
    """The sessions of messages that come session by session, each with its messages as a stream.

    Args:
        messages: In order of session, owner, and age.
        columns: What the parts of ``owner`` are called among a session's ``fields``.
    """
    for (id_, owner), group in groupby(messages, lambda message: (message.session, message.owner)):
        unread = next((part for part in owner if isinstance(part, bytes)), id_)
        if not isinstance(unread, str):
            yield from (Rejected(message.place, _no_session(unread)) for message in group)
            continue
        first = next(group)
        fields = dict(zip(columns, owner, strict=True))
        read = (message.read() for message in chain((first,), group))
        yield ForeignSession(id_, first.place, read, fields)


def _no_session(id_: object) -> str:
    return f"expected the id of its session and its owner as text, got {type(id_).__name__}"
