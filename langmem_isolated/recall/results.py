"""What recall answers with."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from langmem_isolated._runtime.calls import ONE_SCOPE, made_by


@made_by(f"{ONE_SCOPE}.recall(query)", first=str)
@dataclass(frozen=True, slots=True)
class Recalled:
    """A message that was found again; what it says, who and where is left out of the ``repr``.

    >>> scope.chat_history("monday").add_user_message("My exam is on Friday.")
    >>> [(found.text, found.role, found.source_id) for found in scope.recall("exam")]
    [('My exam is on Friday.', 'human', 'monday')]
    """

    text: str = field(repr=False)
    role: str = field(repr=False)
    """``"human"``, ``"ai"``, ``"system"`` or ``"tool"``; a `ChatMessage`'s own."""
    time: datetime
    """When it was stored, UTC. Sealed in messages with a channel of their own."""
    source: Literal["session", "thread"]
    source_id: str = field(repr=False)
    """Of the chat session or the LangGraph thread."""
    channel: str | None = field(repr=False)
    """The message's own, or else its session's."""
    message_id: str | None = field(repr=False)
    score: float
    """The higher, the better, within one answer."""
