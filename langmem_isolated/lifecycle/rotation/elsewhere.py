"""Documents that a scope has sealed in third-party stores, sealed anew or left with their key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._adapters.document_tags import SealedTags
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage import wrapped_stores
from langmem_isolated._storage.wrapped_stores import StoreNote
from langmem_isolated.errors import RecordDoesNotOpen

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from langmem_isolated.wrapping import VectorStoreAdapter

# Between reading a document and writing it back no store can tell that others have changed it.
_AT_ONCE = 50
_NONE: list[StoreNote] = []


class SealedElsewhere:
    """Seals a scope's documents in third-party stores anew, if that is wanted.

    Args:
        context: Whose stores: those that were wrapped in this process, and those included.
        is_wanted: Whether to touch them at all.
    """

    def __init__(self, context: MemoryContext, *, is_wanted: bool) -> None:
        self._context = context
        self._is_wanted = is_wanted
        self.left: set[str] = set()
        """Names of stores whose documents keep a former key."""
        self.documents = 0
        """How many were sealed anew."""

    def __call__(self, owner: Owner, keys: ScopeKeys) -> bool:
        """Whether no document of the scope is left under a former key, as far as is noted."""
        records = self._context.operators(owner)
        notes = records.read(wrapped_stores.notes, _NONE, now())
        noted = {note.store: None for note in notes if note.is_sealed}
        tags = SealedTags(records, keys)
        left = {name for name in noted if not self._is_done(name, tags)}
        self.left |= left
        return not left

    def _is_done(self, name: str, tags: SealedTags) -> bool:
        stores = self._context.known_stores.of_name(name) if self._is_wanted else []
        return bool(stores) and all(map(partial(self._is_resealed, tags), stores))

    def _is_resealed(self, tags: SealedTags, store: VectorStoreAdapter) -> bool:
        """Whether all documents of an owner in a store are under the key that seals now."""
        from langmem_isolated.wrapping import all_owned

        is_whole, ids = True, all_owned(store, tags.owner)
        for start in range(0, len(ids), _AT_ONCE):
            asked = ids[start : start + _AT_ONCE]
            new = [*_resealed(store.get(asked), tags)]
            documents = [document for document in new if document is not None]
            # What the store lists and does not give is not known to be under another key.
            is_whole &= len(new) == len(asked)
            is_whole &= not documents or self._is_put(store, documents)
        return is_whole

    def _is_put(self, store: VectorStoreAdapter, documents: list[Document]) -> bool:
        vectors = None
        with suppress(KeyError):  # of one that was removed meanwhile: the next rotation looks again
            vectors = store.vectors([str(document.id) for document in documents])
        if vectors is None or len(vectors) != len(documents):
            return False
        store.put(documents, vectors)
        self.documents += len(documents)
        return True


def _resealed(found: list[Document], tags: SealedTags) -> Iterator[Document | None]:
    """Those that can be sealed anew; ``None`` for one that need not be."""
    for document in found:
        try:
            yield tags.resealed(document)
        except RecordDoesNotOpen:
            continue
