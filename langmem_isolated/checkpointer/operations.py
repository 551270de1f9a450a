"""Operations on one thread: what each does inside a transaction."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, cast

from langmem_isolated._codecs.checkpoints.decoder import OpenedElement
from langmem_isolated._codecs.checkpoints.stored_bodies import Body
from langmem_isolated._codecs.headers import Header, encode_header
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.container_state import BIRTH_BYTES
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.threads import listing, reading, writing
from langmem_isolated._storage.threads.addresses import Life, Slot, thread_digest
from langmem_isolated._storage.threads.reading import Found, OpenBody
from langmem_isolated.checkpointer.bodies import (
    bodies_of,
    elements_of,
    references_of,
    required_elements,
)
from langmem_isolated.checkpointer.opened_elements import OpenedElements
from langmem_isolated.errors import RecordDoesNotOpen


class Asked(NamedTuple):
    """Which checkpoint is read: of a thread, in a namespace, by its id or the latest, and when."""

    digest: bytes
    parent: bytes
    checkpoint_id: bytes | None
    now: int
    guess: range
    """Numbers of elements that it may need: with the right guess, one statement reads all."""


class Read(NamedTuple):
    """A checkpoint and the elements that its bodies refer to; ``None`` where one is missing."""

    found: Found
    bodies: list[Body]
    elements: Mapping[int, OpenedElement] | None
    kept: Mapping[int, OpenedElement]
    """Those of them that were opened before."""

    @property
    def new(self) -> dict[int, bytes]:
        """Those that were opened now."""
        if self.elements is None or self.elements is self.kept:
            return {}
        numbers = self.elements.keys() - self.kept.keys()
        return {number: cast("bytes", self.elements[number]) for number in numbers}


def read(
    records: ScopedDatabase, keys: ScopeKeys, asked: Asked, opened: OpenedElements
) -> Read | None:
    """A checkpoint with its elements, or ``None``.

    Raises:
        RecordDoesNotOpen: What is stored was changed, moved or removed.
    """
    run, database = records.run_with_keys, records.database
    try:
        read = run(keys, database.read, _read_with_elements, elements_of, asked, opened)
        if not read or read.elements is not None:
            return read
    except RecordDoesNotOpen:
        # A sweep or another life of the thread came between the two, or someone tampered: one state
        # of both will tell, and nothing that was opened before.
        pass
    nothing = OpenedElements(None, database)
    return run(keys, database.snapshot, _read_with_elements, required_elements, asked, nothing)


def _read_with_elements(
    transaction: Transaction,
    keys: ScopeKeys,
    find_elements: Callable[..., Mapping[int, OpenedElement] | None],
    asked: Asked,
    opened: OpenedElements,
) -> Read | None:
    """A checkpoint, the writes behind it, and the elements that they refer to.

    Args:
        transaction: Where they are read.
        keys: Of their scope.
        find_elements: How the elements are read that were not ``opened`` before.
        asked: Which checkpoint.
        opened: What was.
    """
    found = reading.get(transaction, keys, *asked)
    if found is None:
        return None
    bodies, life = bodies_of(found), Life(asked.digest, found.state.birth)
    kept = opened.of(keys, asked.digest, found.state)
    known = kept
    if found.elements:
        wanted = {number for body in bodies for number in (*body.numbers, *body.chunks)}
        guessed = reading.opened(keys, life, found.elements, wanted - kept.keys())
        known = {**kept, **guessed} if guessed else kept
    return Read(found, bodies, find_elements(transaction, keys, life, bodies, known), kept)


def delete_thread(transaction: Transaction, keys: ScopeKeys, thread_id: str) -> None:
    """Remove a thread with all it has."""
    listing.ROWS.remove(transaction, keys, thread_digest(keys, thread_id))


def sweep(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    generation: bytes,
    choose: Callable[[list[OpenBody]], set[Slot]],
) -> None:
    """Remove the bodies that ``choose`` names, and the elements that no other body needs."""
    references = partial(references_of, transaction, keys)
    writing.sweep(transaction, keys, digest, generation, choose, references)


def copy_thread(
    transaction: Transaction, keys: ScopeKeys, source_id: str, target_id: str, now: int
) -> bool:
    """Copy a thread with all it has; ``False`` if there is no such thread."""
    target = thread_digest(keys, target_id)
    return writing.copy(
        transaction,
        keys,
        thread_digest(keys, source_id),
        target,
        encode_header(Header(target_id)),
        os.urandom(BIRTH_BYTES),
        now,
    )
