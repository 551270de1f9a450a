"""Puts an archive in, each step with how far it has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.copying import import_position, imported
from langmem_isolated._storage.copying.containers import Line
from langmem_isolated._storage.copying.import_position import (
    BEGINNING,
    Marker,
    Overtaken,
    Position,
)
from langmem_isolated._storage.copying.imported import (
    Arrived,
    ArrivedCollection,
    ArrivedEntry,
    ArrivedItem,
    Channels,
    Taken,
)
from langmem_isolated._storage.documents.unit_of_work import NewDocument
from langmem_isolated.errors import AddressTaken, DatabaseLocked, ImportConflict
from langmem_isolated.lifecycle.imports.reading import At

if TYPE_CHECKING:
    from langmem_isolated._adapters.context import MemoryContext

P = ParamSpec("P")
T = TypeVar("T")


class Put:
    """A sink that puts in what it is given.

    Args:
        context: Where.
        owners: Whose the archive is; the position is kept with the first.
        manifest: SHA-256 of the archive's manifest.
        now: The time.
        told: Told after each batch how many lines are in.
    """

    def __init__(
        self,
        context: MemoryContext,
        owners: list[Owner],
        manifest: bytes,
        now: int,
        told: Callable[[int], object],
    ) -> None:
        self._manifest, self._now, self._told, self._lines = manifest, now, told, 0
        self._of = {owner: context.operators(owner) for owner in owners}
        self._keys: dict[Owner, ScopeKeys] = {}
        self._first = self._records = self._of[owners[0]]
        self.begun_at: Position | None = self._first.read(import_position.find, None, manifest, now)
        self._position = self.begun_at or BEGINNING

    def begin(self, refuse_erased: Callable[[], object]) -> None:
        """Begin, unless that was done before.

        Args:
            refuse_erased: Asked once the keys are there: by then an erasure may have ended.

        Raises:
            KeyDestroyed: The user was erased.
        """
        # Who has nothing but a name is there again, too. And who is erased from now on stays so:
        # what follows is put in with these keys, or not at all.
        self._keys = {owner: records.keys() for owner, records in self._of.items()}
        refuse_erased()
        if self.begun_at is None:
            with _refusing():
                self._write(import_position.begin, self._manifest, self._now)

    def end(self) -> None:
        """Forget how far it had come."""
        self._records = self._first
        self._write(import_position.end, self._manifest)

    def owner(self, owner: Owner) -> None:
        """What follows is this owner's."""
        self._records = self._of[owner]

    def _write(
        self,
        operation: Callable[Concatenate[Transaction, ScopeKeys, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Write with the keys met at the beginning: others would be made for who was erased."""
        records = self._records
        keys, door = self._keys[records.owner], records.database.write
        try:
            return records.run_with_keys(keys, door, operation, *args, **kwargs)
        except Overtaken:
            records.refuse_if_erased()
            raise

    def _is_done(self, at: At) -> bool:
        return (at.step, at.lines) <= self._position

    def _move(self, at: At, put: Callable[[Transaction, ScopeKeys], T]) -> T:
        """Put something in, and keep that it is in, at once."""
        old, new = self._position, Position(at.step, at.lines)
        marker = Marker(self._keys[self._first.owner], self._manifest)

        def moved(transaction: Transaction, keys: ScopeKeys) -> T:
            import_position.move(transaction, marker, old, new, now())
            return put(transaction, keys)

        with self._first.admission():
            result = self._write(moved)
        self._position = new
        return result

    def _count(self, lines: int) -> None:
        self._lines += lines
        self._told(self._lines)

    def container(
        self, at: At, arrived: Arrived, channels: Channels, batches: Iterator[list[Line]]
    ) -> None:
        """Put in a session or thread, which is seen when it is whole."""
        if self._is_done(at):
            for batch in batches:
                self._lines += len(batch)
            self._lines += 1
            return
        with _refusing(at, arrived.kind.label):
            step = self._write(imported.stage, arrived.as_source(), self._now)
            for batch in batches:
                step = self._write(imported.put_lines, step, batch)
                self._count(len(batch))
            self._move(at, lambda t, keys: imported.publish(t, keys, arrived, step, channels))
        self._count(1)

    def collection(
        self, at: At, arrived: ArrivedCollection, batches: Iterator[list[NewDocument]]
    ) -> None:
        """Put in a collection, which is seen when it is whole."""
        if self._is_done(at):
            for documents in batches:
                self._lines += len(documents)
            self._lines += 1
            return
        name = arrived.header.collection
        with _refusing(at, "collection"):
            left = self._write(imported.stage_collection, arrived)
            for documents in batches:
                left = self._write(imported.put_documents, name, left, documents, self._now)
                self._count(len(documents))
            self._move(at, lambda t, keys: imported.publish_collection(t, keys, arrived, left))
        self._count(1)

    def items(self, items: list[tuple[At, ArrivedItem]]) -> None:
        """Put in items."""
        self._many(items, "item", imported.put_items)

    def entries(self, entries: list[tuple[At, ArrivedEntry]]) -> None:
        """Put in entries of one kind."""
        self._many(entries, entries[0][1].kind.label, imported.put_entries)

    def _many(
        self,
        arrived: list[tuple[At, T]],
        what: str,
        put: Callable[[Transaction, ScopeKeys, list[T], int], None],
    ) -> None:
        left = [(at, one) for at, one in arrived if not self._is_done(at)]
        if left:
            new = [one for _, one in left]
            with _refusing(left[0][0], what, [at for at, _ in left]):
                self._move(left[-1][0], lambda t, keys: put(t, keys, new, now()))
        self._count(len(arrived))


_BEGINNING = At(0, 0, "", 0)


@contextmanager
def _refusing(at: At = _BEGINNING, what: str = "", each: Sequence[At] = ()) -> Iterator[None]:
    """Say in the words of an import what stood in its way."""
    try:
        yield
    except AddressTaken:
        raise ImportConflict(what, at.file, at.number, is_begun=True) from None
    except Taken as taken:
        at = each[taken.number] if each else at
        raise ImportConflict(what, at.file, at.number, is_begun=True) from None
    except Overtaken:
        raise DatabaseLocked(
            "Another process imports the same archive, or has removed what this one had put in. "
            "What is in stays, and the same call goes on with it."
        ) from None
