"""New bodies: what an encoder made, ready to be stored once its new elements have numbers."""

from collections.abc import Mapping, Sequence
from typing import cast

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
    references, chunks = encoder.references, encoder.chunks
    new = {ref.mac: ref for ref in (*references, *chunks) if type(ref) is Element}

    def plaintext(numbers: Mapping[bytes, int]) -> bytes:
        if not new:
            known = cast("list[range]", references), cast("list[range]", chunks)
            return Body.sealed_form(known[0], packed, known[1])
        return Body.sealed_form(_runs(references, numbers), packed, _runs(chunks, numbers))

    elements = [NewElement(element.mac, element.plaintext) for element in new.values()]
    limits.check("value_bytes", len(packed) + sum(len(one.plaintext) for one in elements))
    return NewBody(slot, tag, elements, plaintext, replaces)


def _runs(references: Sequence[Reference], numbers: Mapping[bytes, int]) -> list[range]:
    return [run_of(reference, numbers) for reference in references]


def run_of(reference: Reference, numbers: Mapping[bytes, int]) -> range:
    """The numbers that a reference means, once new elements have theirs."""
    if isinstance(reference, range):
        return reference
    number = numbers[reference.mac]
    return range(number, number + 1)
