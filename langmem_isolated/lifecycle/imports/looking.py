"""Looks whether an archive can be imported: that all of it is whole, and no name of it is taken."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.sealing import framed
from langmem_isolated._storage.copying import imported
from langmem_isolated._storage.copying.containers import Line
from langmem_isolated._storage.copying.import_position import Position
from langmem_isolated._storage.copying.imported import (
    Arrived,
    ArrivedCollection,
    ArrivedEntry,
    ArrivedItem,
    Channels,
)
from langmem_isolated._storage.documents.unit_of_work import NewDocument
from langmem_isolated._storage.profiles import BOUNDED
from langmem_isolated.errors import ImportConflict, ImportRefused, LimitExceeded
from langmem_isolated.lifecycle.imports.reading import At

if TYPE_CHECKING:
    from langmem_isolated._adapters.context import MemoryContext
    from langmem_isolated._storage.scoped_database import ScopedDatabase

_DIGEST_BYTES = 16
_BOUNDED = [part.space for part in BOUNDED]


class Look:
    """A sink that puts nothing in.

    Args:
        context: Where it is looked.
        begun_at: How far the import has come before: what is in up to there is its own.
        now: The time.
        stop: Called after each batch; what it raises ends the import.
    """

    def __init__(
        self,
        context: MemoryContext,
        begun_at: Position | None,
        now: int,
        stop: Callable[[], object],
    ) -> None:
        self._context, self._now, self._stop = context, now, stop
        self._begun_at = begun_at
        self._names: set[bytes] = set()
        self._in_profile = 0
        self._records: ScopedDatabase | None = None

    def owner(self, owner: Owner) -> None:
        """What follows is this owner's."""
        self._names.clear()
        self._in_profile = 0
        self._records = self._context.operators(owner)

    def _is_own(self, at: At) -> bool:
        return self._begun_at is not None and (at.step, at.lines) <= self._begun_at

    def _refuse_second(self, at: At, kind: int, *names: bytes) -> None:
        """Names in the archive are kept as digests: of a million it takes 100 MB."""
        told = framed(kind.to_bytes(2), *names)
        digest = hashlib.blake2b(told, digest_size=_DIGEST_BYTES).digest()
        if digest in self._names:
            raise ImportRefused("its name stands twice", at.file, at.number)
        self._names.add(digest)

    def _check_profile(self, at: At, one: ArrivedEntry) -> None:
        if one.kind is not Kind.PROFILE or one.names not in _BOUNDED:
            return
        self._in_profile += 1
        try:
            self._context.limits.check("profile_entries", self._in_profile)
        except LimitExceeded as refusal:
            raise ImportRefused(str(refusal).rstrip("."), at.file, at.number) from None

    def _refuse(self, what: str, at: At) -> None:
        raise ImportConflict(what, at.file, at.number, is_begun=self._begun_at is not None)

    def container(
        self, at: At, arrived: Arrived, channels: Channels, batches: Iterator[list[Line]]
    ) -> None:
        """Look at a session or thread."""
        del channels
        assert self._records is not None
        self._refuse_second(at, arrived.kind, arrived.name.encode())
        asked = arrived.kind, arrived.name, self._now
        if not self._is_own(at) and self._records.snapshot(imported.is_taken, False, *asked):
            self._refuse(arrived.kind.label, at)
        for _ in batches:
            self._stop()

    def collection(
        self, at: At, arrived: ArrivedCollection, batches: Iterator[list[NewDocument]]
    ) -> None:
        """Look at a collection."""
        assert self._records is not None
        name = arrived.header.collection
        self._refuse_second(at, 0, name.encode())
        if not self._is_own(at) and self._records.snapshot(
            imported.is_collection_taken, False, name
        ):
            self._refuse("collection", at)
        for _ in batches:
            self._stop()

    def items(self, items: list[tuple[At, ArrivedItem]]) -> None:
        """Look at items."""
        assert self._records is not None
        for at, one in items:
            self._refuse_second(at, 1, *one.address.namespace, one.address.key)
        new = [(at, one) for at, one in items if not self._is_own(at)]
        found = self._records.snapshot(
            imported.taken_item, None, [one for _, one in new], self._now
        )
        if found is not None:
            self._refuse("item", new[found][0])
        self._stop()

    def entries(self, entries: list[tuple[At, ArrivedEntry]]) -> None:
        """Look at entries."""
        assert self._records is not None
        for at, one in entries:
            self._refuse_second(at, one.kind, *one.names, one.entry.key)
            self._check_profile(at, one)
        new = [(at, one) for at, one in entries if not self._is_own(at)]
        found = self._records.snapshot(
            imported.taken_entry, None, [one for _, one in new], self._now
        )
        if found is not None:
            self._refuse(new[found][1].kind.label, new[found][0])
        self._stop()
