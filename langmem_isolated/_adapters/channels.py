"""Channels: the newest messages of some, over all chat sessions of a scope."""

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter

from langchain_core.messages import BaseMessage

from langmem_isolated._codecs.messages import decode_message_with_metadata
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._runtime.arguments import mapping, whole_number
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.operations import found, observed
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.sessions import reading
from langmem_isolated._storage.sessions.reading import LATEST, Recent
from langmem_isolated.errors import RecordDoesNotOpen
from langmem_isolated.scope import checked_id


@observed("search_memory", "message", found, records=lambda records, *_: records)
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
    mapping("limits", limits, advice='Write scope.recent({"general": 10}).')
    wanted = [
        (checked_id("channel", channel).encode(), min(whole_number("a limit", limit), LATEST))
        for channel, limit in limits.items()
    ]
    found = records.snapshot_lagging(reading.recent, [], wanted, now())
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
