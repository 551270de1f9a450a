"""Third-party stores of an erasure: which hold documents of its owners, and their removal there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage import wrapped_stores
from langmem_isolated._storage.wrapped_stores import StoreNote
from langmem_isolated.errors import KeyDestroyed, WrappedStoreMissing

if TYPE_CHECKING:
    from langmem_isolated.wrapping import VectorStoreAdapter

TagsByStore = dict[str, list[str]]
"""Owner tags by the name of the store that has documents which bear them; plain JSON."""

_NONE: list[StoreNote] = []


def owner_tags(context: MemoryContext, owners: Iterable[Owner]) -> TagsByStore:
    """Which third-party stores hold documents of ``owners``, and by which owner tags.

    To be asked once their erasure has begun, so that none is noted behind it, and before their keys
    are destroyed, which open the notes. The tags tell nobody whose they are; who has them and a
    store finds the documents.

    Raises:
        RecordDoesNotOpen: A note was changed, moved or exchanged.
    """
    found: dict[str, set[str]] = {}
    for owner in owners:
        records = context.operators(owner)
        # Somebody else who erases them has noted it before.
        with suppress(KeyDestroyed):
            for note in records.write_if_exists(wrapped_stores.noted, _NONE, now()):
                found.setdefault(note.store, set()).add(note.tag)
    return {name: sorted(tags) for name, tags in sorted(found.items())}


def clear_wrapped(
    context: MemoryContext, owners: Iterable[Owner], without: Collection[str] = ()
) -> dict[str, int]:
    """Remove all documents of ``owners`` from third-party stores; see :func:`clear_by_tags`."""
    return clear_by_tags(context, owner_tags(context, owners), without)


def clear_by_tags(
    context: MemoryContext, tags: Mapping[str, Sequence[str]], without: Collection[str] = ()
) -> dict[str, int]:
    """Remove all documents that bear these owner tags; each store is asked again whether any is.

    Args:
        context: Whose stores: those that were wrapped in this process, and those included.
        tags: As :func:`owner_tags` gave them.
        without: Names of stores that are left alone.

    Returns:
        How many documents there were, by the name of the store; of those in ``without`` nothing.

    Raises:
        WrappedStoreMissing: A store is neither here nor in ``without``; nothing was removed.
        WrappedStoreKeeps: A store still has what it was told to remove.
    """
    from langmem_isolated.wrapping import clear_owner

    stores = known(context, tags, without)
    return {
        name: sum(clear_owner(one, tag) for one in found for tag in tags[name])
        for name, found in stores.items()
    }


def known(
    context: MemoryContext, names: Iterable[str], without: Collection[str] = ()
) -> dict[str, list[VectorStoreAdapter]]:
    """What knows each of these stores.

    Raises:
        WrappedStoreMissing: One is neither here nor in ``without``.
    """
    stores = {name: context.known_stores.of_name(name) for name in names if name not in without}
    if absent := [name for name, found in stores.items() if not found]:
        raise WrappedStoreMissing(absent)
    return stores


def missing(context: MemoryContext, names: Iterable[str]) -> list[str]:
    """The names of stores that are not here."""
    return [name for name in names if not context.known_stores.of_name(name)]
