"""Operations on one thread that run inside a transaction."""

import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from langmem_isolated._codecs.checkpoints.stored_bodies import Body
from langmem_isolated._codecs.headers import Header, encode_header
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.container_state import BIRTH_BYTES
from langmem_isolated._storage.threads import listing, reading, writing
from langmem_isolated._storage.threads.addresses import Life, Slot, thread_digest
from langmem_isolated._storage.threads.reading import Found, OpenBody
from langmem_isolated.checkpointer.bodies import bodies_of, references_of


class Asked(NamedTuple):
    """Which checkpoint is read: of a thread, in a namespace, by its id or the latest, and when."""

    digest: bytes
    parent: bytes
    checkpoint_id: bytes | None
    now: int


class Read(NamedTuple):
    """A checkpoint and the elements that its bodies refer to; ``None`` where one is missing."""

    found: Found
    bodies: list[Body]
    elements: dict[int, bytes] | None


def read_with_elements(
    transaction: Transaction,
    keys: ScopeKeys,
    find_elements: Callable[..., dict[int, bytes] | None],
    asked: Asked,
) -> Read | None:
    """A checkpoint, the writes behind it, and the elements that they refer to."""
    found = reading.get(transaction, keys, *asked)
    if found is None:
        return None
    bodies = bodies_of(found)
    return Read(
        found,
        bodies,
        find_elements(transaction, keys, Life(asked.digest, found.state.birth), bodies),
    )


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
