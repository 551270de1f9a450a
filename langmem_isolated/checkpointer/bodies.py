"""Checkpoint bodies: their stored form, and the snapshots rebuilt from it."""

from collections.abc import Iterable, Mapping
from itertools import chain, filterfalse
from typing import Any, NamedTuple, cast

from langgraph.checkpoint.base import PendingWrite, writes_sort_key

from langmem_isolated._codecs.checkpoints.channel_versions import restored
from langmem_isolated._codecs.checkpoints.chunks import decode_chunk
from langmem_isolated._codecs.checkpoints.decoder import Decoder, OpenedElement
from langmem_isolated._codecs.checkpoints.serializer import Serde
from langmem_isolated._codecs.checkpoints.stored_bodies import Body
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.threads import reading
from langmem_isolated._storage.threads.addresses import Life, Slot
from langmem_isolated._storage.threads.listing import ThreadRows
from langmem_isolated._storage.threads.reading import Found
from langmem_isolated.checkpointer.addresses import Address, id_text
from langmem_isolated.checkpointer.opened_elements import NONE
from langmem_isolated.errors import RecordDoesNotOpen


class Snapshot(NamedTuple):
    """A checkpoint as it is read."""

    address: Address
    parent_id: str | None
    checkpoint: dict[str, Any]
    metadata: dict[str, Any]
    writes: list[PendingWrite]


def bodies_of(found: Found) -> list[Body]:
    """Of a checkpoint and the writes behind it."""
    return [Body.of(found.checkpoint), *map(Body.of, found.writes)]


def elements_of(
    transaction: Transaction,
    keys: ScopeKeys,
    life: Life,
    bodies: Iterable[Body],
    kept: Mapping[int, OpenedElement] = NONE,
) -> Mapping[int, OpenedElement] | None:
    """The elements that bodies refer to; ``None`` when one is missing.

    Args:
        transaction: Where those are read that were not opened before.
        keys: Of their scope.
        life: That of their thread.
        bodies: Which refer to them.
        kept: Elements that were opened before; all of them are given back.
    """
    bodies = [*bodies]
    chunks = {chunk for body in bodies for chunk in body.chunks}
    wanted = chain(chunks, *(body.numbers for body in bodies))
    elements = _completed(transaction, keys, life, kept, wanted)
    if elements is None or not chunks:
        return elements
    listed = chain(*(decode_chunk(cast("bytes", elements[chunk])) for chunk in chunks))
    return _completed(transaction, keys, life, elements, listed)


def _completed(
    transaction: Transaction,
    keys: ScopeKeys,
    life: Life,
    known: Mapping[int, OpenedElement],
    wanted: Iterable[int],
) -> Mapping[int, OpenedElement] | None:
    """``known`` itself where all that is wanted is there, and otherwise with the rest."""
    missing = {*filterfalse(known.__contains__, wanted)}
    found = reading.elements(transaction, keys, life, missing) if missing else {}
    if len(found) < len(missing):
        return None
    return {**known, **found} if found else known


def references_of(
    transaction: Transaction, keys: ScopeKeys, life: Life, plaintext: bytes
) -> set[int]:
    """The numbers of all elements that a stored body needs, those in its chunks included."""
    body = Body.of(plaintext)
    chunks = reading.elements(transaction, keys, life, body.chunks)
    return {*body.numbers, *body.chunks}.union(*map(decode_chunk, chunks.values()))


def required_elements(
    transaction: Transaction,
    keys: ScopeKeys,
    life: Life,
    bodies: Iterable[Body],
    kept: Mapping[int, OpenedElement] = NONE,
) -> Mapping[int, OpenedElement]:
    """The elements that bodies refer to; see :func:`elements_of`.

    Raises:
        RecordDoesNotOpen: One is missing.
    """
    elements = elements_of(transaction, keys, life, bodies, kept)
    if elements is None:
        raise RecordDoesNotOpen(Kind.CHECKPOINT.label, "elements it refers to are missing")
    return elements


def decoders(
    transaction: Transaction,
    keys: ScopeKeys,
    bodies: Mapping[Slot, list[Body]],
    threads: ThreadRows,
    serde: Serde,
) -> dict[bytes, Decoder]:
    """For each thread, what decodes its bodies, whose messages share their objects."""
    by_thread: dict[bytes, list[Body]] = {}
    for slot, its_bodies in bodies.items():
        by_thread.setdefault(slot.thread_digest, []).extend(its_bodies)
    return {
        digest: Decoder(
            required_elements(transaction, keys, threads[digest].life, its_bodies), None, serde
        )
        for digest, its_bodies in by_thread.items()
    }


def snapshot_of(thread_id: str, slot: Slot, decoder: Decoder, bodies: list[Body]) -> Snapshot:
    """What a checkpoint's body, and those of the writes behind it, stand for."""
    values, *tasks = decoder.decode(bodies)
    parent, namespace, envelope, metadata, channel_values = values
    writes = [
        (writes_sort_key(path, task, index), (task, channel, value))
        for task, path, rows in tasks
        for index, channel, value in rows
    ]
    return Snapshot(
        Address(thread_id, namespace, id_text(slot.key)),
        parent and id_text(parent),
        {**restored(envelope), "channel_values": channel_values},
        metadata,
        [write for _, write in sorted(writes, key=lambda write: write[0])],
    )
