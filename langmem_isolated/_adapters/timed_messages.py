"""Timed messages: messages of a session with when and where they were said."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from langchain_core.messages import BaseMessage

from langmem_isolated._codecs.messages import decode_message_with_metadata
from langmem_isolated._runtime.clock import as_moment
from langmem_isolated._runtime.garbage import paused_for
from langmem_isolated._storage.sessions.reading import Opened


class TimedMessage(NamedTuple):
    """A message of a session, and what is sealed beside it."""

    number: int
    """Its place in the session, from 1 on."""
    message: BaseMessage
    said_at: datetime | None
    """When it was stored, UTC."""
    channel: str | None
    """Where it was said."""


class TimedPage(NamedTuple):
    """Some messages, oldest first, and where the next older page ends."""

    messages: list[TimedMessage]
    before: int | None
    """Of the page after this one; ``None`` when nothing is older."""


def timed_page(found: Opened) -> TimedPage:
    """What was read, with when and where it was said."""
    with paused_for(len(found.messages)):
        messages = [_timed(*line) for line in enumerate(found.messages, found.first)]
    return TimedPage(messages, found.before)


def _timed(number: int, plaintext: bytes) -> TimedMessage:
    message, said = decode_message_with_metadata(plaintext)
    said_at, channel = (None, None) if said is None else (as_moment(said.written), said.channel)
    return TimedMessage(number, message, said_at, channel)
