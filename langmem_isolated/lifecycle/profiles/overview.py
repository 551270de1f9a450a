"""Overview: what a profile page shows of one user in one module."""

from dataclasses import dataclass
from datetime import datetime

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._runtime.calls import ONE_SCOPE, made_by
from langmem_isolated._runtime.clock import as_moment, now
from langmem_isolated._runtime.operations import observed, one
from langmem_isolated._storage import overview
from langmem_isolated._storage.overview import Totals
from langmem_isolated._storage.scoped_database import ScopedDatabase


@made_by(f"{ONE_SCOPE}.overview()", first=int)
@dataclass(frozen=True, slots=True)
class Overview:
    """How much one user has in one module, and since when.

    >>> scope.chat_history("monday").add_user_message("Hi")
    >>> found = scope.overview()
    >>> found.conversations, found.messages, found.threads
    (1, 1, 0)
    """

    conversations: int
    """Chat sessions."""
    messages: int
    """In them."""
    threads: int
    """Of LangGraph; an agent with middleware and checkpointer has a session and a thread."""
    documents: int
    facts: int
    """In the module's profile."""
    first_activity: datetime | None
    """When the first of the sessions, threads and collections was made, UTC; ``None`` if none."""
    last_activity: datetime | None
    """When one was last written to."""


_NOTHING: tuple[dict[Kind, Totals], int] = ({}, 0)


@observed("search_memory", "profile", one, records=lambda records: records)
def overview_of(records: ScopedDatabase) -> Overview:
    """What one scope has, in two queries."""
    by_kind, facts = records.read(overview.totals, _NOTHING, now())
    sessions, threads, collections = (
        by_kind.get(kind, Totals()) for kind in (Kind.SESSION, Kind.THREAD, Kind.COLLECTION)
    )
    begun = [one.first for one in by_kind.values() if one.first is not None]
    ended = [one.last for one in by_kind.values() if one.last is not None]
    return Overview(
        conversations=sessions.rows,
        messages=sessions.below,
        threads=threads.rows,
        documents=collections.below,
        facts=facts,
        first_activity=as_moment(min(begun)) if begun else None,
        last_activity=as_moment(max(ended)) if ended else None,
    )
