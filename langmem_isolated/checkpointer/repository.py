"""Repository of one scope's threads: stores and reads checkpoints and writes, deduplicated."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from langgraph.checkpoint.base import DeltaChannelHistory
from langgraph.constants import START

from langmem_isolated._codecs.checkpoints.channel_versions import shortened
from langmem_isolated._codecs.checkpoints.decoder import Decoder
from langmem_isolated._codecs.checkpoints.element_cache import ElementCaches
from langmem_isolated._codecs.checkpoints.encoder import Encoder
from langmem_isolated._codecs.checkpoints.serializer import Serde
from langmem_isolated._codecs.checkpoints.stored_bodies import Body
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database.driver_errors import Conflict
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.garbage import paused_for
from langmem_isolated._runtime.operations import counted, found, observed, one
from langmem_isolated._storage.container_state import GENERATION_BYTES
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.threads import listing, reading, writing
from langmem_isolated._storage.threads.addresses import (
    Life,
    Slot,
    run_tag,
    thread_digest,
    write_key,
)
from langmem_isolated._storage.threads.listing import ThreadRows
from langmem_isolated._storage.threads.reading import OpenBody
from langmem_isolated.checkpointer import attempts, operations, pruning
from langmem_isolated.checkpointer.addresses import Address, id_bytes, parent_of
from langmem_isolated.checkpointer.arguments import Lifetimes
from langmem_isolated.checkpointer.bodies import (
    Snapshot,
    required_elements,
    snapshot_of,
)
from langmem_isolated.checkpointer.body_writer import BodyWriter, Encode
from langmem_isolated.checkpointer.delta_history import History, walk
from langmem_isolated.checkpointer.listing import ListCursor, page
from langmem_isolated.checkpointer.opened_elements import OpenedElements
from langmem_isolated.checkpointer.operations import Asked
from langmem_isolated.checkpointer.write_chain import WriteChain
from langmem_isolated.errors import AddressTaken
from langmem_isolated.scope import checked_thread_id

# So many elements too many cost a read less than another round trip: of a thread that nobody here
# knows, and of one of which it is known that it has no more.
GUESSED_OF_ANY, GUESSED_OF_KNOWN = 32, 128

IndexedWrites = Mapping[int, tuple[str, Any]]


class ThreadRepository:
    """The threads of one scope."""

    def __init__(
        self, records: ScopedDatabase, known: ElementCaches, serde: Serde, lifetimes: Lifetimes
    ) -> None:
        self.records = records
        self._known = known
        self._serde = serde
        self._lifetimes = lifetimes
        # Made before the keys are asked for, with each call.
        self._opened = OpenedElements(known.opened, records.database)

    @observed("search_memory", "checkpoint", found, records="records")
    def get(self, address: Address) -> Snapshot | None:
        """The checkpoint at ``address``."""
        keys = self.records.find_keys()
        if keys is None:
            return None
        parent, history = parent_of(keys, address), self.records.database.history
        digest = parent[:DIGEST_BYTES]
        wanted = address.checkpoint_id and id_bytes(address.checkpoint_id)
        asked = Asked(digest, parent, wanted or None, now(), self._guess(keys, digest))
        read = operations.read(self.records, keys, asked, self._opened)
        if not read or read.elements is None:
            return None
        found, bodies, elements = read.found, read.bodies, read.elements
        known = self._known.of(digest, found.state.generation, history)
        WriteChain.of(known).begin(found.state, keys)
        decoder = Decoder(elements, known, self._serde)
        with paused_for(len(elements)):
            self._opened.keep(keys, digest, found.state, read.new)
            return snapshot_of(address.thread_id, found.slot, decoder, bodies)

    def _guess(self, keys: ScopeKeys, digest: bytes) -> range:
        """The numbers of a thread's elements that a read needs, if they are few, or not known.

        On SQLite none: there a second statement takes less than the wide rows of one for both.
        """
        if not self.records.is_postgres:
            return range(0)
        chain: WriteChain | None = self._known.last(digest, self.records.database.history).chain
        if chain is None or chain.state is None:
            return range(GUESSED_OF_ANY)
        state = chain.state
        first = max(self._opened.of(keys, digest, state), default=-1) + 1
        are_few = state.next_sequence - first <= GUESSED_OF_KNOWN
        return range(first, state.next_sequence) if are_few else range(0)

    @observed("search_memory", "checkpoint", lambda page, *_: len(page[0]), records="records")
    def page(self, listing: ListCursor) -> tuple[list[Snapshot], ListCursor]:
        """The next checkpoints of a listing, and the listing that goes on behind them."""
        self.records.limits.check_filter(listing.filter)
        nothing: tuple[list[Snapshot], ListCursor] = [], replace(listing, is_done=True)
        return self.records.snapshot(page, nothing, listing, self._serde, now())

    @observed("search_memory", "checkpoint", records="records")
    def history(self, address: Address, channels: Sequence[str]) -> dict[str, DeltaChannelHistory]:
        """What the ancestors of a checkpoint contributed to channels."""
        histories = {channel: History() for channel in channels}
        if channels:
            histories = self.records.snapshot(
                walk, histories, address, channels, self._serde, now()
            )
        return {channel: history.result() for channel, history in histories.items()}

    @observed("verify", "thread", counted, records="records")
    def verify(self, thread_id: str) -> int:
        """Open everything of a thread, resolve every reference, count; the number of bodies."""
        return self.records.snapshot(self._verify, 0, thread_id)

    def _verify(self, transaction: Transaction, keys: ScopeKeys, thread_id: str) -> int:
        digest = thread_digest(keys, thread_id)
        stored = reading.verified(transaction, keys, digest)
        if stored:
            life = ThreadRows(transaction, keys)[digest].life
            required_elements(transaction, keys, life, [Body.of(one.plaintext) for one in stored])
        return len(stored)

    @observed("upsert_memory", "checkpoint", one, records="records")
    def put(
        self,
        address: Address,
        checkpoint: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> None:
        """Store a checkpoint whose parent is ``address``; the same id again replaces it."""
        parent = address.checkpoint_id and id_bytes(address.checkpoint_id)
        key = id_bytes(checkpoint["id"])
        envelope = shortened(checkpoint)
        run_id = metadata.get("run_id")

        def encode(encoder: Encoder) -> bytes:
            values = {
                channel: encoder.replace_by_references(value, is_passing=channel == START)
                for channel, value in checkpoint["channel_values"].items()
            }
            body = [parent or None, address.namespace, envelope, dict(metadata), values]
            return encoder.encode(body)

        keys = self.records.keys()
        slot = Slot(Kind.CHECKPOINT, parent_of(keys, address), key)
        tag = run_tag(keys, run_id) if isinstance(run_id, str) else None
        writer = self._writer(keys, address, slot, tag)
        try:
            attempts.until_stored(partial(writer.store, encode))
        except Conflict:
            attempts.until_stored(partial(writer.store, encode, writing.ANYTHING))

    @observed("upsert_memory", "write", lambda _, *given: len(given[2]), records="records")
    def put_writes(
        self,
        address: Address,
        writes: IndexedWrites,
        task: tuple[str, str],
    ) -> None:
        """Store what a task (its id and path) wrote behind the checkpoint at ``address``.

        What it has stored at an index stays; below 0, where special channels are, it gives way.
        """

        def encoding(merged: IndexedWrites) -> Encode:
            def encode(encoder: Encoder) -> bytes:
                rows = [
                    [index, channel, encoder.replace_by_references(value, is_passing=True)]
                    for index, (channel, value) in merged.items()
                ]
                return encoder.encode([*task, rows])

            return encode

        keys = self.records.keys()
        checkpoint = id_bytes(cast("str", address.checkpoint_id))
        key = write_key(keys, checkpoint, task[0])
        slot = Slot(Kind.WRITE, parent_of(keys, address), key)
        writer = self._writer(keys, address, slot)
        replaced: bytes | None = None
        merged: IndexedWrites = writes
        for _ in range(attempts.MOST):
            try:
                if writer.store(encoding(merged), replaced):
                    return
            except Conflict:
                pass  # what stands there is merged with it
            replaced, merged = self.records.snapshot(
                self._merged_writes, (None, writes), slot, writes
            )
        raise attempts.busy()

    def _writer(
        self, keys: ScopeKeys, address: Address, slot: Slot, tag: bytes | None = None
    ) -> BodyWriter:
        known, opened, lifetimes = self._known, self._opened, self._lifetimes
        return BodyWriter(
            self.records, known, opened, self._serde, lifetimes, keys, address.thread_id, slot, tag
        )

    def _merged_writes(
        self,
        transaction: Transaction,
        keys: ScopeKeys,
        slot: Slot,
        writes: IndexedWrites,
    ) -> tuple[bytes | None, IndexedWrites]:
        """What a task has stored, in plaintext, and ``writes`` together with it."""
        if (row := listing.ROWS.header(transaction, keys, slot.thread_digest)) is None:
            return None, writes
        life = Life(slot.thread_digest, row[0].birth)
        plaintext = reading.body_at(transaction, keys, slot, life.birth)
        if plaintext is None:
            return None, writes
        body = Body.of(plaintext)
        elements = required_elements(transaction, keys, life, [body])
        _, _, rows = Decoder(elements, None, self._serde).decode([body])[0]
        kept = {
            index: (channel, value)
            for index, channel, value in rows
            if index >= 0 or index not in writes
        }
        return plaintext, {**writes, **kept}

    def checked_ids(self, thread_ids: Iterable[str]) -> list[str]:
        """Ids of threads that are well formed, and no more than one call may name."""
        checked = [checked_thread_id("thread_id", thread_id) for thread_id in thread_ids]
        return self.records.limits.checked_count("ids", checked)

    @observed("delete_memory", "thread", one, records="records")
    def delete(self, thread_id: str) -> None:
        """Remove a thread with all it has."""
        keys = self.records.find_keys()
        if keys is not None:
            self.records.write_if_exists(operations.delete_thread, None, thread_id)
            self._opened.drop(keys, thread_digest(keys, thread_id))

    @observed("create_memory", "thread", one, records="records")
    def copy(self, source_id: str, target_id: str) -> None:
        """Copy a thread with all it has; nothing happens when there is no such thread.

        Raises:
            AddressTaken: The target has checkpoints already; nothing was written.
        """
        try:
            self.records.write_if_exists(operations.copy_thread, False, source_id, target_id, now())
        except Conflict:
            raise AddressTaken(Kind.THREAD.label) from None

    @observed("delete_memory", "checkpoint", records="records")
    def prune(self, thread_id: str, keep_last: int) -> None:
        """Keep the newest ``keep_last`` checkpoints of each namespace, and what they stand on."""
        keys = self.records.find_keys()
        if keys is not None:
            digest = thread_digest(keys, thread_id)
            self._sweep(keys, digest, lambda bodies: pruning.older(bodies, keep_last))

    @observed("delete_memory", "checkpoint", records="records")
    def delete_for_runs(self, run_ids: Iterable[str]) -> None:
        """Remove what runs stored, in every thread of the scope."""
        keys = self.records.find_keys()
        if keys is None:
            return
        for run_id in self.records.limits.checked_count("ids", [*run_ids]):
            slots = self.records.read(reading.of_run, [], run_tag(keys, run_id))
            for digest in {slot.thread_digest for slot in slots}:
                self._sweep(keys, digest, partial(pruning.of_run, run_id=run_id))

    def _sweep(
        self, keys: ScopeKeys, digest: bytes, choose: Callable[[list[OpenBody]], set[Slot]]
    ) -> None:
        generation = os.urandom(GENERATION_BYTES)
        self.records.write_if_exists(operations.sweep, None, digest, generation, choose)
        self._known.forget(digest)
        self._opened.drop(keys, digest)
