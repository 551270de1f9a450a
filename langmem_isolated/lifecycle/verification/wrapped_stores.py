"""Third-party stores: documents there bear the mark of a scope, and open under it alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._adapters.document_tags import STAMP, OwnerTags, SealedTags
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage import wrapped_stores
from langmem_isolated._storage.wrapped_stores import StoreNote
from langmem_isolated.errors import (
    IsolationViolation,
    KeyDestroyed,
    KeyringError,
    MemoryLocked,
    RecordError,
)
from langmem_isolated.lifecycle.verification.report import Tally

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from langmem_isolated._crypto.scope_keys import ScopeKeys
    from langmem_isolated._storage.scoped_database import ScopedDatabase
    from langmem_isolated.wrapping import VectorStoreAdapter

_NONE: list[StoreNote] = []
_AT_ONCE = 1_000


class WrappedStores:
    """Looks at what scopes have in the stores that this process has wrapped, or was given.

    Args:
        context: Knows the stores.
        tally: Told of what is not right.
    """

    def __init__(self, context: MemoryContext, tally: Tally) -> None:
        self._context, self._tally = context, tally
        self._absent: set[str] = set()
        self._stores: dict[int, VectorStoreAdapter] = {}
        self._tags: dict[str, set[str]] = {}
        self._strangers: list[tuple[ScopedDatabase, ScopeKeys]] = []

    def examine(self, owner: Owner) -> None:
        """Look at one scope's documents, in each store that it ever wrote to.

        Raises:
            KeyDestroyed: The scope was erased meanwhile.
        """
        records = self._context.operators(owner)
        noted = records.snapshot(wrapped_stores.notes, _NONE, now())
        keys = records.find_keys() if noted else None
        if keys is None:
            return
        own = OwnerTags(records, keys).owner
        for note in noted:
            self._tags.setdefault(note.store, set()).add(note.tag)
            adapters = self._adapters(note.store)
            if not adapters:
                self._absent.add(note.store)
            for adapter in adapters:
                # Under the tag of a guest who was claimed, whose keys are gone, nothing opens.
                if note.tag == own:
                    self._examine_in(adapter, records, keys)
        self._strangers = [*self._strangers[-1:], (records, keys)]

    def _adapters(self, name: str) -> list[VectorStoreAdapter]:
        """What knows each store of a name, once: it may be wrapped here and included, too."""
        found: dict[int, VectorStoreAdapter] = {}
        for adapter in self._context.known_stores.of_name(name):
            found.setdefault(id(getattr(adapter, "store", adapter)), adapter)
        self._stores |= found
        return [*found.values()]

    def finish(self, *, is_whole: bool) -> None:
        """Tell of documents that bear no owner, or nobody's, and of stores that are not here.

        Args:
            is_whole: Whether every scope was examined.
        """
        # Where a scope is damaged its tags are not known: that is told of already.
        with suppress(RecordError, KeyringError):
            for name, tags in self._tags.items() if is_whole else ():
                for adapter in self._adapters(name):
                    self._tell_of_nobodys(name, adapter, tags)
        for adapter in self._stores.values():
            found = adapter.unowned()
            if found.documents:
                problem = "documents bear no owner: they were written past this package"
                self._tally.add(problem, place=adapter.name, count=found.documents)
        if self._absent:
            self._tally.not_checked = (
                f"{len(self._absent)} stores that scopes wrote to are not in this process: "
                "memory.erasure.include(store) has them checked"
            )
        elif not self._stores and not self._tally.examined:
            self._tally.not_checked = "no scope that was opened ever wrote to one"

    def _tell_of_nobodys(self, name: str, adapter: VectorStoreAdapter, known: set[str]) -> None:
        """Tell of documents whose owner is nobody in this database: erased, or another's."""
        from langmem_isolated.wrapping import all_owned

        find = getattr(adapter, "owners", None)
        unknown = find() - known if find else set()
        if unknown:
            # Somebody may have come since.
            unknown -= self._noted_by_now(name)
        for tag in sorted(unknown):
            if count := len(all_owned(adapter, tag)):
                problem = "documents bear the mark of nobody who has memory here"
                self._tally.add(problem, place=adapter.name, count=count)

    def _noted_by_now(self, name: str) -> set[str]:
        found = set()
        for records in self._context.walk():
            with suppress(KeyDestroyed):
                noted = records.snapshot(wrapped_stores.notes, _NONE, now())
                found |= {note.tag for note in noted if note.store == name}
        return found

    def _examine_in(
        self, adapter: VectorStoreAdapter, records: ScopedDatabase, keys: ScopeKeys
    ) -> None:
        scope = keys.scope_id.hex()
        for document in _documents(adapter, OwnerTags(records, keys).owner):
            if keys.is_locked and STAMP not in document.metadata:
                continue
            self._tally.examined += 1
            if not _opens(document, records, keys):
                problem = "a document's mark is not that of its owner, or it was changed"
                self._tally.add(problem, scope, adapter.name)
            elif any(_opens(document, *stranger) for stranger in self._strangers):
                self._tally.add("a document opens in another scope", scope, adapter.name)


def _documents(adapter: VectorStoreAdapter, owner: str) -> Iterator[Document]:
    from langmem_isolated.wrapping import all_owned

    ids = all_owned(adapter, owner)
    for start in range(0, len(ids), _AT_ONCE):
        yield from adapter.get(ids[start : start + _AT_ONCE])


def _opens(document: Document, records: ScopedDatabase, keys: ScopeKeys) -> bool:
    """Whether a document is this owner's, where it stands."""
    kind = OwnerTags if STAMP in document.metadata else SealedTags
    tags = kind(records, keys)
    try:
        opened = tags.untagged(document)
    except (IsolationViolation, MemoryLocked):
        return False
    return document.id == tags.stored_id(str(opened.id))
