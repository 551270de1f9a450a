"""Foreign records: what a store that is moved in from has, before it is known whose it is.

A source makes them, a mapping finds the scope of each, and a bulk import puts them in. Nothing in
them is trusted, and no class is named in them but those that a strict decoder was told to allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from langchain_core.messages import BaseMessage


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record of the source that cannot be put in."""

    place: str
    """Where it stands in its source, such as ``"message_store, id 17"``; never content."""
    reason: str
    """What it is and what was expected: types and lengths, never content."""


@dataclass(frozen=True, slots=True)
class ForeignMessage:
    """A message of a session."""

    message: BaseMessage = field(repr=False)
    place: str
    written_at: datetime | None = None
    """Aware; ``None`` where the source has no time."""
    channel: str | None = None


@dataclass(frozen=True, slots=True)
class ForeignSession:
    """A chat session with its messages, the oldest first."""

    id: str = field(repr=False)
    """What the source calls it; what mapping rules read as ``id``."""
    place: str
    messages: Iterable[ForeignMessage | Rejected] = field(repr=False)
    """Gone through once, so that it can be a stream."""
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What else mapping rules can read: columns, and documents of JSON as dicts and lists."""
    title: str | None = field(default=None, repr=False)
    created_at: datetime | None = None
    """Aware, as all times here; that of the first message, where that is earlier or none is given,
    else of the import."""
    updated_at: datetime | None = None
    is_archived: bool = False
    is_pinned: bool = False


@dataclass(frozen=True, slots=True)
class ForeignWrite:
    """What a task wrote behind a checkpoint to one channel."""

    task_id: str
    task_path: str
    index: int
    channel: str
    value: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class ForeignCheckpoint:
    """A checkpoint, as ``CheckpointTuple`` of LangGraph has it, and what was written behind it."""

    namespace: str
    """``checkpoint_ns``: empty for the graph itself, otherwise of a subgraph."""
    id: str
    parent_id: str | None
    checkpoint: Mapping[str, Any] = field(repr=False)
    """With its ``channel_values``; a delta channel's are those of its snapshots alone."""
    metadata: Mapping[str, Any] = field(repr=False)
    place: str
    writes: Sequence[ForeignWrite] = field(default=(), repr=False)
    """In the order of ``(task_path, task_id, index)``."""


@dataclass(frozen=True, slots=True)
class ForeignThread:
    """A thread of LangGraph with its checkpoints, parents before children."""

    id: str = field(repr=False)
    place: str
    checkpoints: Iterable[ForeignCheckpoint | Rejected] = field(repr=False)
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)
    title: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ForeignItem:
    """An item of a store of LangGraph."""

    namespace: tuple[str, ...] = field(repr=False)
    """As it is in the source; a mapping may take labels of it that name a user or module."""
    key: str = field(repr=False)
    value: Mapping[str, Any] = field(repr=False)
    place: str
    created_at: datetime | None = None
    updated_at: datetime | None = None
    ttl_seconds: float | None = None
    expires_at: datetime | None = None
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def id(self) -> str:
        """What mapping rules read as ``id``: the namespace, its labels joined by ``.``."""
        return ".".join(self.namespace)


@dataclass(frozen=True, slots=True)
class ForeignDocument:
    """A document of a collection, with its embedding where the source has one."""

    collection: str
    id: str = field(repr=False)
    text: str = field(repr=False)
    metadata: Mapping[str, Any] = field(repr=False)
    place: str
    embedding: Sequence[float] | None = field(default=None, repr=False)
    stored_at: datetime | None = None
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class ForeignFact:
    """A fact or interest of a profile."""

    text: str = field(repr=False)
    source: str = "import"
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class ForeignProfile:
    """What a store knows of a user in one module."""

    id: str = field(repr=False)
    """What the source calls the user."""
    place: str
    facts: Sequence[ForeignFact] = field(default=(), repr=False)
    interests: Sequence[str] = field(default=(), repr=False)
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """JSON by name."""
    summary: str | None = field(default=None, repr=False)
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)
    is_cross_module: bool = False
    """Whether all modules of the user share it; then the module is where it was learned."""


ForeignUnit = ForeignSession | ForeignThread | ForeignItem | ForeignDocument | ForeignProfile
"""What one rule of a mapping is asked for, and what is put in or left out as a whole."""
