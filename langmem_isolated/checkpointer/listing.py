"""Keyset pagination over checkpoints, newest first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from langchain_core.runnables import RunnableConfig

from langmem_isolated._codecs.checkpoints.serializer import Serde
from langmem_isolated._codecs.checkpoints.stored_bodies import Body, Outline
from langmem_isolated._codecs.headers import decode_header
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.arguments import whole_number
from langmem_isolated._storage.threads import reading
from langmem_isolated._storage.threads.addresses import END, Bounds, Slot, thread_digest
from langmem_isolated._storage.threads.listing import ThreadRow, ThreadRows
from langmem_isolated.checkpointer.addresses import (
    Address,
    checked_namespace,
    id_bytes,
    parent_of,
)
from langmem_isolated.checkpointer.bodies import Snapshot, decoders, snapshot_of
from langmem_isolated.scope import checked_thread_id

PAGE = 100


@dataclass
class ListCursor:
    """A walk over checkpoints, newest first."""

    thread_id: str | None
    namespace: str | None
    only: bytes | None
    filter: Mapping[str, Any]
    before: tuple[bytes, bytes]
    left: int | None
    is_done: bool = False

    @classmethod
    def of(
        cls,
        config: RunnableConfig | None,
        filter_: dict[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> "ListCursor":
        """The walk that ``BaseCheckpointSaver.list`` is asked for.

        Raises:
            ScopeError: An id is malformed.
            ValueError: ``limit`` is negative.
        """
        if limit is not None:
            whole_number("limit", limit)
        configurable = (config or {}).get("configurable", {})
        thread_id = configurable.get("thread_id")
        only = configurable.get("checkpoint_id")
        last = (before or {}).get("configurable", {}).get("checkpoint_id")
        end = id_bytes(last) if last else END
        if only:
            end = min(end, id_bytes(only) + b"\x00")
        return cls(
            thread_id=None if thread_id is None else checked_thread_id("thread_id", thread_id),
            namespace=checked_namespace(configurable.get("checkpoint_ns")),
            only=id_bytes(only) if only else None,
            filter=filter_ or {},
            before=(end, b""),
            left=limit,
            is_done=limit == 0,
        )

    def bounds(self, keys: ScopeKeys) -> Bounds:
        """Which parents the walk covers."""
        if self.thread_id is None:
            return Bounds.scope()
        if self.namespace is None:
            return Bounds.thread(thread_digest(keys, self.thread_id))
        return Bounds.namespace(parent_of(keys, Address(self.thread_id, self.namespace, None)))

    @property
    def page_size(self) -> int:
        """How many rows to read next: no more than are wanted, where none will be left out."""
        wants_all = not self.filter and self.only is None and self.thread_id is not None
        return min(PAGE, self.left) if wants_all and self.left is not None else PAGE

    def advance(self, stored: Sequence[tuple[Slot, bytes]]) -> None:
        """Go on behind what was read."""
        if len(stored) < self.page_size:
            self.is_done = True
        if stored:
            self.before = (stored[-1][0].key, stored[-1][0].parent)
            self.is_done = self.is_done or (self.only is not None and self.before[0] < self.only)

    def wants(self, slot: Slot, outline: Outline) -> bool:
        """Whether a checkpoint is one of those asked for."""
        if self.only is not None and slot.key != self.only:
            return False
        if self.namespace is not None and outline.namespace != self.namespace:
            return False
        metadata = outline.metadata
        return all(metadata.get(key) == value for key, value in self.filter.items())

    def take(self, matching: list[tuple[Slot, bytes]]) -> list[tuple[Slot, bytes]]:
        """As many as are left to be given out."""
        if self.left is None:
            return matching
        taken = matching[: max(0, self.left)]
        self.left -= len(taken)
        self.is_done = self.is_done or self.left <= 0
        return taken


def page(
    transaction: Transaction, keys: ScopeKeys, asked: ListCursor, serde: Serde, now: int
) -> tuple[list[Snapshot], ListCursor]:
    """The next checkpoints of a listing, and the listing that goes on behind them."""
    # A copy: the operation may be tried again.
    listing = replace(asked)
    bounds = listing.bounds(keys)
    threads = ThreadRows(transaction, keys)
    names: dict[bytes, str | None] = {}
    matching: list[tuple[Slot, bytes]] = []
    while not matching and not listing.is_done:
        stored = reading.checkpoints(
            transaction, keys, bounds, listing.before, listing.page_size, threads
        )
        listing.advance(stored)
        wanted = [row for row in stored if listing.wants(row[0], Outline.of(row[1]))]
        for slot, _ in wanted:
            if slot.thread_digest not in names:
                names[slot.thread_digest] = _name_of(threads[slot.thread_digest], now)
        matching = [row for row in wanted if names[row[0].thread_digest] is not None]
    matching = listing.take(matching)
    writes = reading.writes_behind(transaction, keys, [slot for slot, _ in matching], threads)
    bodies = {
        slot: [Body.of(body), *map(Body.of, writes[slot.parent, slot.key])]
        for slot, body in matching
    }
    by_thread = decoders(transaction, keys, bodies, threads, serde)
    snapshots = [
        snapshot_of(
            cast("str", names[slot.thread_digest]), slot, by_thread[slot.thread_digest], its_bodies
        )
        for slot, its_bodies in bodies.items()
    ]
    return snapshots, listing


def _name_of(thread: ThreadRow, now: int) -> str | None:
    """A thread's id; ``None`` when it is expired."""
    return None if thread.state.is_expired(now) else decode_header(thread.header).session_id
