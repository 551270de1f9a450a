"""New bodies: what an encoder made, ready to be stored once its new elements have numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from langmem_isolated._codecs.checkpoints.encoder import Element, Encoder, Reference
from langmem_isolated._codecs.checkpoints.stored_bodies import Body
from langmem_isolated._runtime.limits import Limits
from langmem_isolated._storage.threads.addresses import Slot
from langmem_isolated._storage.threads.writing import NewBody, NewElement


def new_body(
    encoder: Encoder,
    packed: bytes,
    slot: Slot,
    tag: bytes | None,
    replaces: bytes | None,
    limits: Limits,
) -> NewBody:
    """An encoded body with the elements in it that are new.

    Args:
        encoder: What encoded it.
        packed: What it gave.
        slot: Where the body is to stand.
        tag: Of a checkpoint: what finds its run.
        replaces: See :class:`NewBody`.
        limits: How much of it may be new.

    Raises:
        LimitExceeded: The body and its new elements have more bytes than a value may.
    """
    references: list[Any] = encoder.references
    chunks: list[Any] = encoder.chunks
    new: dict[bytes, NewElement] = {}
    size = len(packed)
    for one in (*references, *chunks):
        if type(one) is Element and one.mac not in new:
            new[one.mac] = NewElement(one.mac, one.plaintext)
            size += len(one.plaintext)
    limits.check("value_bytes", size)

    def plaintext(numbers: Mapping[bytes, int]) -> bytes:
        if not new:
            return Body.sealed_form(references, packed, chunks)
        runs_of_chunks = _runs(chunks, numbers) if chunks else ()
        return Body.sealed_form(_runs(references, numbers), packed, runs_of_chunks)

    return NewBody(slot, tag, [*new.values()], plaintext, replaces)


def _runs(references: Sequence[Reference], numbers: Mapping[bytes, int]) -> list[range]:
    return [run_of(reference, numbers) for reference in references]


def run_of(reference: Reference, numbers: Mapping[bytes, int]) -> range:
    """The numbers that a reference means, once new elements have theirs."""
    if isinstance(reference, range):
        return reference
    number = numbers[reference.mac]
    return range(number, number + 1)
