"""Channel limits: how many messages of a channel a session keeps; the oldest drop out.

A session's column ``channels`` holds, in bytes, once one of its channels is limited::

    1 form | 1 whether the limits are its own | 8 dense from
    for each limited channel: 16 digest | 8 limit | 8 count | 8 first

``dense from`` is the sequence number from which on no message is missing: what dropped out of one
channel may have stood between messages of another. ``first`` is a number that no message of the
channel is below, so that the oldest is found without going through others. The column is under the
row MAC, as the multiset hash of the messages is: where there are gaps, it is that which tells that
none is missing besides.
"""

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.session_rules import SessionRules
from langmem_isolated._storage.container_state import ContainerState
from langmem_isolated._storage.sessions import statements as sql
from langmem_isolated._storage.sessions.messages import channel_of, checked_parts
from langmem_isolated.errors import RecordDoesNotOpen, RecordError

_FORM = 1
_HEAD = struct.Struct(">BBQ")
_CHANNEL = struct.Struct(f">{DIGEST_BYTES}sQQQ")
# Channels that applications have without having thought of names.
CUSTOMARY = ("general", "ai")
# What one transaction takes out: deletes of 500 rows take 8 to 20 ms.
MOST_AT_ONCE = 500


class Kept(NamedTuple):
    """What a session keeps of one channel."""

    limit: int
    count: int = 0  # type: ignore[assignment]  # in place of a tuple's own, which nobody calls
    first: int = 0

    @property
    def excess(self) -> int:
        """How many messages are too many."""
        return max(0, self.count - self.limit)

    def with_more(self, added: int) -> "Kept":
        """The same with further messages."""
        return self._replace(count=self.count + added)


class ChannelLimits(NamedTuple):
    """What a session keeps, by the digest of the channel."""

    is_own: bool
    dense_from: int
    kept: Mapping[bytes, Kept]

    @classmethod
    def of(cls, state: ContainerState) -> "ChannelLimits | None":
        """Those that a session's row says; ``None`` where none ever held for it.

        Raises:
            RecordError: A later version of this package wrote them.
        """
        packed = state.channels
        if packed is None:
            return None
        form, is_own, dense_from = _HEAD.unpack_from(packed)
        if form != _FORM:
            raise RecordError(
                f"A session's channels are stored in form {form}, this version knows {_FORM}. "
                "Nothing was changed; install a later langmem-isolated."
            )
        kept = {digest: Kept(*of) for digest, *of in _CHANNEL.iter_unpack(packed[_HEAD.size :])}
        return cls(bool(is_own), dense_from, kept)

    def packed(self) -> bytes:
        """The column that says so."""
        channels = (_CHANNEL.pack(digest, *self.kept[digest]) for digest in sorted(self.kept))
        return _HEAD.pack(_FORM, self.is_own, self.dense_from) + b"".join(channels)

    def emptied(self) -> "ChannelLimits":
        """The same limits, when nothing is there any more."""
        return ChannelLimits(self.is_own, 0, {d: Kept(of.limit) for d, of in self.kept.items()})


class NamedLimits(NamedTuple):
    """Limits by the names of the channels, which another owner has other digests for."""

    is_own: bool
    kept: Mapping[str, Kept]

    @classmethod
    def of(
        cls, keys: ScopeKeys, state: ContainerState, names: Iterable[str]
    ) -> "NamedLimits | None":
        """A session's limits, of those channels whose names are known."""
        limits = ChannelLimits.of(state)
        if limits is None:
            return None
        digests = {name: channel_of(keys, name.encode()) for name in names}
        kept = {
            name: limits.kept[digest] for name, digest in digests.items() if digest in limits.kept
        }
        return cls(limits.is_own, kept)

    def packed(self, keys: ScopeKeys) -> bytes:
        """The column of an owner's session that has these limits, and no gaps."""
        kept = {channel_of(keys, n.encode()): of._replace(first=0) for n, of in self.kept.items()}
        return ChannelLimits(self.is_own, 0, kept).packed()


class Room(NamedTuple):
    """What the session has become when messages dropped out, before others are added."""

    state: ContainerState
    limits: ChannelLimits
    skipped: int = 0
    """How many of those that are added, the oldest, are too many themselves."""


def dense_from(state: ContainerState) -> int:
    """The sequence number from which on no message is missing."""
    limits = ChannelLimits.of(state)
    return state.next_sequence - state.count if limits is None else limits.dense_from


def digests_of(keys: ScopeKeys, wanted: Mapping[str, int]) -> dict[bytes, int]:
    """Limits by the digests of their channels."""
    return {channel_of(keys, name.encode()): limit for name, limit in wanted.items()}


def beginning(
    keys: ScopeKeys, wanted: Mapping[str, int] | None, rules: SessionRules
) -> bytes | None:
    """The column of a new session: with its own limits if it has any, or those of all."""
    limits = digests_of(keys, rules.channel_limits if wanted is None else wanted)
    if wanted is None and not limits:
        return None
    return ChannelLimits(wanted is not None, 0, {d: Kept(n) for d, n in limits.items()}).packed()


def in_force(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    state: ContainerState,
    rules: SessionRules,
) -> ChannelLimits | None:
    """The limits that hold for a session: its own, or else those of ``rules``."""
    stored = ChannelLimits.of(state)
    if stored is None and not rules.channel_limits:
        return None
    if stored is not None and stored.is_own:
        return stored
    wanted = digests_of(keys, rules.channel_limits)
    if stored is not None and wanted == {d: of.limit for d, of in stored.kept.items()}:
        return stored
    return counted(transaction, keys, digest, state, wanted, is_own=False)


def counted(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    state: ContainerState,
    wanted: Mapping[bytes, int],
    *,
    is_own: bool,
) -> ChannelLimits:
    """Limits as they begin to hold for a session that has messages: its channels are counted."""
    counts = dict.fromkeys(wanted, 0)
    for (tag,) in transaction.rows(sql.TAGS, scope_id=keys.scope_id, digest=digest):
        # SQLite keeps any type in any column.
        channel = tag[:DIGEST_BYTES] if type(tag) is bytes else b""
        if channel in counts:
            counts[channel] += 1
    kept = {channel: Kept(limit, counts[channel]) for channel, limit in wanted.items()}
    return ChannelLimits(is_own, dense_from(state), kept)


def with_room(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    state: ContainerState,
    limits: ChannelLimits,
    channel: bytes | None,
    added: int,
) -> Room:
    """Take out what is too many once ``added`` messages of a channel are there.

    At most ``MOST_AT_ONCE``; where more are too many, the next ones take them out.

    Raises:
        RecordDoesNotOpen: A message was changed, moved, removed, or put into another channel.
    """
    found = b"" if channel is None else channel_of(keys, channel)
    kept = limits.kept.get(found)
    if kept is None:
        return Room(state, limits)
    skipped = max(0, added - kept.limit)
    stored = added - skipped
    gone = min(kept.count, kept.with_more(stored).excess, MOST_AT_ONCE)
    smaller, limits = taken_out(transaction, keys, digest, state, limits, found, gone)
    limits = limits._replace(kept={**limits.kept, found: limits.kept[found].with_more(stored)})
    if skipped:
        limits = limits._replace(dense_from=state.next_sequence + skipped)
    return Room(smaller, limits, skipped)


def taken_out(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    state: ContainerState,
    limits: ChannelLimits,
    channel: bytes,
    gone: int,
) -> tuple[ContainerState, ChannelLimits]:
    """Delete the oldest ``gone`` messages of a channel, by its digest; state and limits after it.

    Raises:
        RecordDoesNotOpen: A message was changed, moved, removed, or put into another channel.
    """
    if not gone:
        return state, limits
    kept = limits.kept[channel]
    here = {"scope_id": keys.scope_id, "digest": digest}
    rows = transaction.rows(
        sql.OLDEST_OF_CHANNEL,
        **here,
        first=kept.first.to_bytes(8),
        lowest=channel + bytes(8),
        highest=channel + b"\xff" * 8,
        limit=gone,
    )
    if len(rows) < gone:
        raise RecordDoesNotOpen(Kind.SESSION.label, "messages of a channel are missing")
    parts = checked_parts(keys, digest, state, rows)
    transaction.execute_many(sql.REMOVE_ONE, [{**here, "key": key} for key, *_ in rows])
    behind = int.from_bytes(rows[-1][0]) + 1
    after = kept._replace(count=kept.count - gone, first=behind)
    smaller = state.with_members(keys, -sum(parts))._replace(
        count=state.count - gone, size=state.size - sum(len(sealed) for _, sealed, *_ in rows)
    )
    return smaller, limits._replace(
        dense_from=max(limits.dense_from, behind), kept={**limits.kept, channel: after}
    )
