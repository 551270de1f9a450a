"""Puts in what an export held: as it was, at the addresses that its new owner's keys give it.

What stands below a session, thread or collection goes in below a row that nobody sees, which the
last step of each publishes.
"""

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from langmem_isolated._codecs.headers import CollectionHeader, Header
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage import entries
from langmem_isolated._storage.container_state import (
    BIRTH_BYTES,
    GENERATION_BYTES,
    OPEN,
    ContainerState,
)
from langmem_isolated._storage.copying import staging
from langmem_isolated._storage.copying.containers import (
    ROWS,
    Line,
    OpenContainer,
    addressed,
    digest_of,
)
from langmem_isolated._storage.copying.import_position import Overtaken
from langmem_isolated._storage.copying.options import NO_MARK, Copied
from langmem_isolated._storage.copying.staging import Place, Step
from langmem_isolated._storage.documents import collection as collections
from langmem_isolated._storage.documents import writing as documents
from langmem_isolated._storage.documents.unit_of_work import NewDocument
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.items import reading, writing
from langmem_isolated._storage.items.addresses import Address, RecordAddresses
from langmem_isolated._storage.items.rows import NewItem, RowSealer, expiry
from langmem_isolated._storage.sessions.channel_limits import ChannelLimits, Kept
from langmem_isolated._storage.sessions.messages import channel_of


class Taken(Exception):
    """Something has the name; nothing was put in. ``number`` says which of those given."""

    def __init__(self, number: int = 0) -> None:
        self.number = number


class Arrived(NamedTuple):
    """A session or thread as its line says."""

    kind: Kind
    name: str
    header: Header
    is_closed: bool
    is_archived: bool
    is_pinned: bool
    idle_lifetime: int | None
    absolute_lifetime: int | None
    created_at: int
    updated_at: int
    expires_at: int | None
    next_sequence: int
    count: int  # type: ignore[assignment]  # in place of a tuple's own, which nobody calls
    limits: tuple[bool, dict[str, int]] | None = None
    """Of a session: whether they are its own, and of which channels it keeps how many."""

    def as_source(self) -> OpenContainer:
        """What staging makes its row of."""
        state = ContainerState(
            row_mac=b"",
            birth=os.urandom(BIRTH_BYTES),
            generation=bytes(GENERATION_BYTES),
            next_sequence=self.next_sequence,
            count=0,
            size=0,
            members=b"",
            newest=None,
            channels=None,
            state=OPEN,
            is_pinned=int(self.is_pinned),
            idle_lifetime=self.idle_lifetime,
            absolute_lifetime=self.absolute_lifetime,
            created_at=self.created_at,
            updated_at=self.updated_at,
            expires_at=None,
            revision=0,
            oldest_key=1,
        ).marked(is_closed=self.is_closed, is_archived=self.is_archived)
        return OpenContainer(self.kind, state, self.header, [])

    @property
    def ends_at(self) -> int | None:
        """When its time is up; beyond what a calendar has, by its lifetimes."""
        if self.expires_at is not None or not (self.idle_lifetime or self.absolute_lifetime):
            return self.expires_at
        return self.as_source().state.expiry_after(self.updated_at)


class ArrivedItem(NamedTuple):
    """An item as its line says; times in µs."""

    address: Address
    body: bytes
    vectors: list[bytes]
    created_at: int
    updated_at: int
    lifetime: int | None
    expires_at: int | None


class ArrivedEntry(NamedTuple):
    """An entry as its line says; times in µs."""

    kind: Kind
    names: tuple[bytes, ...]
    entry: Entry
    updated_at: int
    expires_at: int | None


# --- sessions and threads -------------------------------------------------------------------------


def is_taken(transaction: Transaction, keys: ScopeKeys, kind: Kind, name: str, now: int) -> bool:
    """Whether there is a session or thread of that name."""
    found = ROWS[kind].header(transaction, keys, digest_of(keys, kind, name))
    return found is not None and not found[0].is_expired(now)


def stage(transaction: Transaction, keys: ScopeKeys, source: OpenContainer, now: int) -> Step:
    """Make the row of a session or thread, which nobody sees; what was staged before goes.

    Raises:
        AddressTaken: There is one of its name.
    """
    token = source.state.birth
    step = staging.begin(transaction, keys, source, token, NO_MARK, "refuse", Copied(), now)
    assert step is not None
    return step


def put_lines(transaction: Transaction, keys: ScopeKeys, step: Step, lines: Sequence[Line]) -> Step:
    """Put in lines below it.

    Raises:
        Overtaken: Its row is not as it was left.
    """
    missing = [*addressed(keys, step.place.digest, [*lines])]
    put = staging.put(transaction, keys, step._replace(missing=missing), len(missing))
    if put is None:
        raise Overtaken
    return put


class Channels:
    """How many messages of each channel a session has, and from which on none is missing."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.dense_from = self._next = 0

    def add(self, sequence: int, channel: str | None) -> None:
        """Count the next message."""
        if sequence != self._next:
            self.dense_from = sequence
        self._next = sequence + 1
        if channel is not None:
            self.counts[channel] = self.counts.get(channel, 0) + 1

    def column(self, keys: ScopeKeys, arrived: Arrived) -> bytes | None:
        """The column of a session that keeps so many of its channels."""
        if arrived.limits is None:
            return None
        is_own, limits = arrived.limits
        kept = {
            channel_of(keys, name.encode()): Kept(limit, self.counts.get(name, 0))
            for name, limit in limits.items()
        }
        is_whole = self._next == arrived.next_sequence
        dense_from = self.dense_from if is_whole else arrived.next_sequence
        return ChannelLimits(is_own, dense_from, kept).packed()


def publish(
    transaction: Transaction,
    keys: ScopeKeys,
    arrived: Arrived,
    step: Step,
    channels: Channels,
) -> None:
    """Let a session or thread be seen, when all that is below it is in.

    Raises:
        Overtaken: Its row is not as it was left.
    """
    rows, digest = ROWS[arrived.kind], step.place.digest
    state = rows.locked(transaction, keys, digest)
    if state is None or state.but_keys != step.left:
        raise Overtaken
    seen = state._replace(
        next_sequence=arrived.next_sequence,
        channels=channels.column(keys, arrived),
        updated_at=arrived.updated_at,
        expires_at=arrived.ends_at,
    )
    rows.update(transaction, keys, digest, seen)


def append(
    transaction: Transaction,
    keys: ScopeKeys,
    name: str,
    left: ContainerState,
    lines: Sequence[Line],
    updated_at: int,
) -> ContainerState:
    """Put further messages into a session; how its row is left.

    Raises:
        Overtaken: Its row is not as it was left.
    """
    place = Place(Kind.SESSION, name, digest_of(keys, Kind.SESSION, name), left.birth)
    put_lines(transaction, keys, Step(place, left, []), lines)
    state = ROWS[Kind.SESSION].locked(transaction, keys, place.digest)
    assert state is not None
    later = state._replace(updated_at=max(updated_at, state.updated_at))
    return ROWS[Kind.SESSION].update(transaction, keys, place.digest, later).but_keys


class ArrivedCollection(NamedTuple):
    """A collection as its line says."""

    header: CollectionHeader
    created_at: int
    updated_at: int
    count: int  # type: ignore[assignment]  # as that of `Arrived`


# --- collections ----------------------------------------------------------------------------------


def is_collection_taken(transaction: Transaction, keys: ScopeKeys, name: str) -> bool:
    """Whether there is a collection of that name with documents in it."""
    found = collections.find(transaction, keys, name.encode())
    return found is not None and found.state.count > 0


def stage_collection(
    transaction: Transaction, keys: ScopeKeys, arrived: ArrivedCollection
) -> ContainerState:
    """Make the row of a collection, which nobody sees; how it is left.

    Raises:
        Taken: There is one of its name.
    """
    if is_collection_taken(transaction, keys, arrived.header.collection):
        raise Taken
    birth = os.urandom(BIRTH_BYTES)
    return documents.stage(transaction, keys, arrived.header, birth, arrived.created_at)


def put_documents(
    transaction: Transaction,
    keys: ScopeKeys,
    name: str,
    left: ContainerState,
    new: Sequence[NewDocument],
    now: int,
) -> ContainerState:
    """Put documents into it; how its row is left.

    Raises:
        Overtaken: Its row is not as it was left.
    """
    put = documents.put_staged(transaction, keys, name.encode(), left, new, now)
    if put is None:
        raise Overtaken
    return put


def publish_collection(
    transaction: Transaction, keys: ScopeKeys, arrived: ArrivedCollection, left: ContainerState
) -> None:
    """Let a collection be seen.

    Raises:
        Overtaken: Its row is not as it was left.
    """
    name = arrived.header.collection.encode()
    if not documents.publish(transaction, keys, name, left, arrived.updated_at):
        raise Overtaken


# --- items and entries ----------------------------------------------------------------------------


def taken_item(
    transaction: Transaction, keys: ScopeKeys, items: Sequence[ArrivedItem], now: int
) -> int | None:
    """The number of the first whose address has an item."""
    addresses = [one.address for one in items]
    found = reading.get(transaction, keys, addresses, now)
    return next((number for number, one in enumerate(found) if one is not None), None)


def put_items(
    transaction: Transaction, keys: ScopeKeys, items: Sequence[ArrivedItem], now: int
) -> None:
    """Put in items, no two of one address, with their vectors and times.

    Raises:
        Taken: An address has an item.
        ScopeGone: The user was erased.
    """
    if (number := taken_item(transaction, keys, items, now)) is not None:
        raise Taken(number)
    places = RecordAddresses(keys)
    placed = sorted((places.of(one.address), one) for one in items)
    rows = [row for place, one in placed for row in _item_rows(keys, place, one)]
    writing.put_rows(transaction, keys, places, [place for place, _ in placed], rows, now)


def _item_rows(
    keys: ScopeKeys, place: tuple[bytes, bytes], one: ArrivedItem
) -> Iterable[dict[str, object]]:
    new = NewItem(one.address, one.body, one.vectors, one.lifetime)
    first, *others = RowSealer(keys, one.updated_at).rows(place, new)
    if one.lifetime is not None and one.expires_at is not None:
        since = one.expires_at - one.lifetime
        at = keys, place, one.updated_at, one.lifetime
        first |= expiry(*at, prefix="given", since=since)
    return [{**first, "given_created_at": one.created_at}, *others]


def taken_entry(
    transaction: Transaction, keys: ScopeKeys, new: Sequence[ArrivedEntry], now: int
) -> int | None:
    """The number of the first whose key has an entry."""
    for names, numbers in _by_space(new).items():
        wanted = [new[number].entry.key for number in numbers]
        kind = new[numbers[0]].kind
        found = entries.get(transaction, keys, names, wanted, now, kind=kind)
        for number, value in zip(numbers, found, strict=True):
            if value is not None:
                return number
    return None


def put_entries(
    transaction: Transaction, keys: ScopeKeys, new: Sequence[ArrivedEntry], now: int
) -> None:
    """Put in entries of one kind, no two under one key, with their times.

    Raises:
        Taken: A key has an entry.
        ScopeGone: The user was erased.
    """
    if (number := taken_entry(transaction, keys, new, now)) is not None:
        raise Taken(number)
    for kind, names, entry, updated_at, expires_at in new:
        lifetime = None if expires_at is None else expires_at - updated_at
        entries.put(transaction, keys, names, [entry], updated_at, lifetime, kind=kind)


def _by_space(new: Sequence[ArrivedEntry]) -> dict[tuple[bytes, ...], list[int]]:
    groups: dict[tuple[bytes, ...], list[int]] = {}
    for number, one in enumerate(new):
        groups.setdefault(one.names, []).append(number)
    return groups
