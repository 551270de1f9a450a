"""Thread summary: a thread as a list shows it."""

from dataclasses import dataclass, field
from datetime import datetime
from types import NoneType

from langmem_isolated._codecs.headers import decode_header
from langmem_isolated._runtime.calls import ONE_SCOPE, made_by
from langmem_isolated._storage.container_listing import Listed, Position


@made_by(f"{ONE_SCOPE}.checkpointer().threads()", first=(str, NoneType))
@dataclass(frozen=True, slots=True)
class Thread:
    """One thread as a list shows it; its names are left out of the ``repr``.

    >>> graph = scope.bind(builder.compile())
    >>> config = {"configurable": {"thread_id": "chat-1"}}
    >>> state = graph.invoke({"messages": [("human", "Hi")]}, config)
    >>> [(thread.id, thread.checkpoints) for thread in scope.checkpointer().threads()]
    [('chat-1', 3)]
    """

    id: str | None
    title: str | None
    """What people call it, as :meth:`IsolatedCheckpointSaver.rename_thread` was told."""
    checkpoints: int
    size: int
    """Bytes of its sealed records."""
    created: datetime
    last_activity: datetime
    expires: datetime | None
    """When it is gone, if nothing is written to it before; ``None`` for never."""
    pinned: bool
    archived: bool
    damaged: bool
    """Whether the row was tampered with; then ``id`` and ``title`` are ``None``."""
    position: Position = field(repr=False)
    """Where it stands in the list."""

    def __repr__(self) -> str:
        return f"Thread(checkpoints={self.checkpoints}, size={self.size}, damaged={self.damaged})"


def as_thread(listed: Listed) -> Thread:
    """A thread's row as a list shows it."""
    sound = listed.sound_header
    header = None if sound is None else decode_header(sound)
    return Thread(
        id=header and header.session_id,
        title=header and header.title,
        checkpoints=listed.count,
        size=listed.size,
        created=listed.created,
        last_activity=listed.last_activity,
        expires=listed.expires,
        pinned=listed.is_pinned == 1,
        archived=listed.is_archived,
        damaged=header is None,
        position=listed.position,
    )
