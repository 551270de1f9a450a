"""Checkpoint bodies: their stored form, and the snapshots rebuilt from it."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import ormsgpack
from langgraph.checkpoint.base import PendingWrite, writes_sort_key

from langmem_isolated._codecs.checkpoints.chunks import decode_chunk
from langmem_isolated._codecs.checkpoints.decoder import Decoder
from langmem_isolated._codecs.checkpoints.layout import (
    run_length_decode,
    run_length_encode,
    structure,
)
from langmem_isolated._codecs.checkpoints.serializer import Serde
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.threads import reading
from langmem_isolated._storage.threads.addresses import Life, Slot
from langmem_isolated._storage.threads.listing import ThreadRows
from langmem_isolated._storage.threads.reading import Found
from langmem_isolated.checkpointer.addresses import Address, id_text
from langmem_isolated.checkpointer.channel_versions import restored
from langmem_isolated.errors import RecordDoesNotOpen, RecordError

BODY_V1 = b"\x01"


class Snapshot(NamedTuple):
    """A checkpoint as it is read."""

    address: Address
    parent_id: str | None
    checkpoint: dict[str, Any]
    metadata: dict[str, Any]
    writes: list[PendingWrite]


class Body(NamedTuple):
    """A stored body whose references are still numbers."""

    numbers: list[int]
    packed: bytes
    chunks: list[int]
    """The numbers of elements that list the numbers of others."""

    @classmethod
    def of(cls, plaintext: bytes) -> "Body":
        """A body as it was sealed.

        Raises:
            RecordError: A later version stored it.
        """
        if plaintext[:1] != BODY_V1:
            raise RecordError(
                f"A checkpoint is stored in form {plaintext[0]}, this version knows {BODY_V1[0]}. "
                "Nothing was changed; install a later langmem-isolated."
            )
        runs, packed, *chunks = ormsgpack.unpackb(plaintext[1:])
        return cls(run_length_decode(runs), packed, run_length_decode(chunks[0]) if chunks else [])

    @staticmethod
    def sealed_form(runs: Iterable[range], packed: bytes, chunks: Iterable[range] = ()) -> bytes:
        """The plaintext that :meth:`of` reads."""
        parts = [run_length_encode(runs), packed]
        if encoded := run_length_encode(chunks):
            parts.append(encoded)
        return BODY_V1 + ormsgpack.packb(parts)


class Outline(NamedTuple):
    """What a checkpoint's body tells without its elements."""

    parent: bytes | None
    namespace: str
    envelope: dict[str, Any]
    metadata: dict[str, Any]
    values: dict[str, Any]

    @classmethod
    def of(cls, plaintext: bytes) -> "Outline":
        """The outline of a checkpoint as it was sealed."""
        return cls(*structure(Body.of(plaintext).packed))


def bodies_of(found: Found) -> list[Body]:
    """Of a checkpoint and the writes behind it."""
    return [Body.of(found.checkpoint), *map(Body.of, found.writes)]


def elements_of(
    transaction: Transaction, keys: ScopeKeys, life: Life, bodies: Iterable[Body]
) -> dict[int, bytes] | None:
    """The elements that bodies refer to; ``None`` when one is missing."""
    wanted: set[int] = set()
    chunks: set[int] = set()
    for body in bodies:
        wanted.update(body.numbers)
        chunks.update(body.chunks)
    elements = reading.elements(transaction, keys, life, wanted | chunks)
    if len(elements) < len(wanted | chunks):
        return None
    if listed := {number for chunk in chunks for number in decode_chunk(elements[chunk])} - wanted:
        elements |= reading.elements(transaction, keys, life, listed)
    return elements if len(elements) == len(wanted | chunks | listed) else None


def references_of(
    transaction: Transaction, keys: ScopeKeys, life: Life, plaintext: bytes
) -> set[int]:
    """The numbers of all elements that a stored body needs, those in its chunks included."""
    body = Body.of(plaintext)
    chunks = reading.elements(transaction, keys, life, body.chunks)
    return {*body.numbers, *body.chunks}.union(*map(decode_chunk, chunks.values()))


def required_elements(
    transaction: Transaction, keys: ScopeKeys, life: Life, bodies: Iterable[Body]
) -> dict[int, bytes]:
    """The elements that bodies refer to.

    Raises:
        RecordDoesNotOpen: One is missing.
    """
    elements = elements_of(transaction, keys, life, bodies)
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
