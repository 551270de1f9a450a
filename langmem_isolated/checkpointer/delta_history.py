"""Delta channels: gathers what a checkpoint's ancestors contributed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from langgraph.checkpoint.base import DeltaChannelHistory, PendingWrite

from langmem_isolated._codecs.checkpoints.serializer import Serde
from langmem_isolated._codecs.checkpoints.stored_bodies import Body, Outline
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.threads import reading
from langmem_isolated._storage.threads.addresses import Bounds, Slot, thread_digest
from langmem_isolated._storage.threads.listing import ThreadRows
from langmem_isolated.checkpointer.addresses import Address, id_bytes, parent_of
from langmem_isolated.checkpointer.bodies import decoders, snapshot_of
from langmem_isolated.checkpointer.listing import PAGE


@dataclass
class History:
    """What ancestors contributed to one channel, newest first while it is gathered."""

    writes: list[PendingWrite] = field(default_factory=list)
    seed: list[Any] = field(default_factory=list)

    def result(self) -> DeltaChannelHistory:
        """What was gathered, oldest first."""
        history = DeltaChannelHistory(writes=self.writes[::-1])
        if self.seed:
            history["seed"] = self.seed[0]
        return history


class _Chain:
    """A namespace's checkpoints by id, read a page at a time, for a walk along parents."""

    def __init__(
        self, transaction: Transaction, keys: ScopeKeys, digest: bytes, parent: bytes
    ) -> None:
        self._transaction = transaction
        self._keys = keys
        self._thread = digest
        self._parent = parent
        self.threads = ThreadRows(transaction, keys)
        self._read: dict[bytes, tuple[Slot, list[bytes]]] = {}

    def parent_of_target(self, checkpoint_id: str | None, now: int) -> bytes | None:
        """The parent of the checkpoint that the walk is for."""
        wanted = checkpoint_id and id_bytes(checkpoint_id)
        found = reading.get(
            self._transaction, self._keys, self._thread, self._parent, wanted or None, now
        )
        return None if found is None else Outline.of(found.checkpoint).parent

    def at(self, key: bytes) -> tuple[Slot, list[bytes]] | None:
        """The checkpoint with this id and the writes behind it, in plaintext."""
        if key not in self._read:
            # Parents are older nearly always: the page ends with the one asked for.
            stored = reading.checkpoints(
                self._transaction,
                self._keys,
                Bounds.namespace(self._parent),
                (key + b"\x00", b""),
                PAGE,
                self.threads,
            )
            slots = [slot for slot, _ in stored]
            writes = reading.writes_behind(self._transaction, self._keys, slots, self.threads)
            for slot, body in stored:
                self._read[slot.key] = slot, [body, *writes[slot.parent, slot.key]]
        return self._read.get(key)


def walk(
    transaction: Transaction,
    keys: ScopeKeys,
    address: Address,
    channels: Iterable[str],
    serde: Serde,
    now: int,
) -> dict[str, History]:
    """What the ancestors of a checkpoint contributed to channels."""
    # Here, not by the caller: an attempt that is undone leaves nothing to the next one.
    histories = {channel: History() for channel in channels}
    digest = thread_digest(keys, address.thread_id)
    chain = _Chain(transaction, keys, digest, parent_of(keys, address))
    cursor = chain.parent_of_target(address.checkpoint_id, now)
    missing = set(histories)
    walked: dict[Slot, list[Body]] = {}
    while cursor is not None and missing and (stored := chain.at(cursor)) is not None:
        slot, plaintexts = stored
        if slot in walked:
            break
        walked[slot] = [Body.of(plaintext) for plaintext in plaintexts]
        outline = Outline.of(plaintexts[0])
        missing -= outline.values.keys()
        cursor = outline.parent
    by_thread = decoders(transaction, keys, walked, chain.threads, serde)
    left = dict(histories)
    for slot, bodies in walked.items():
        ancestor = snapshot_of(address.thread_id, slot, by_thread[digest], bodies)
        for write in reversed(ancestor.writes):
            if write[1] in left:
                left[write[1]].writes.append(write)
        values = ancestor.checkpoint["channel_values"]
        for channel in left.keys() & values.keys():
            left.pop(channel).seed.append(values[channel])
    return histories
