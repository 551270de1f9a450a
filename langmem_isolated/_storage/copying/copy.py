"""One copy from an owner to another: staged in batches, and published all at once or in batches."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.driver_errors import Conflict
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.copying import documents, entries, items, staging
from langmem_isolated._storage.copying.containers import (
    OpenContainer,
    Source,
    open_container,
    sources,
)
from langmem_isolated._storage.copying.options import (
    BATCH,
    NO_MARK,
    Added,
    Conflicts,
    Copied,
    Mark,
    Reader,
    Renamed,
)
from langmem_isolated._storage.copying.staging import Step
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import AddressTaken, DatabaseLocked, RecordDoesNotOpen

T = TypeVar("T")

# Others may change the source, or go on with the same copy, between two looks.
_ATTEMPTS = 64
_FIRST = (b"", b"")
Behind = tuple[bytes, bytes]
_NO_SOURCES: list[Source] = []

CopyPage = Callable[..., Behind | None]
"""Copies a page of what has no row above it."""

Finish = Callable[[Transaction, ScopeKeys, Reader, Copied], None]
"""What belongs into the last transaction; told the target's keys and the source."""


Hold = Callable[[Transaction, ScopeKeys], None]
"""Keeps others from putting anything into the source until a transaction ends; told its keys."""


Journal = Callable[[Transaction, ScopeKeys, list[Added], list[Renamed]], None]
"""Keeps what a transaction put in, as a part of it; told the target's keys."""


class _Changed(Exception):
    """The source, or what was staged, is not what it was; nothing was published."""


@dataclass
class _Staged:
    """A session or thread of the source, and how far its copy has come."""

    source: Source
    container: OpenContainer
    step: Step | None
    """``None`` for one that is left out."""


@dataclass
class Copy:
    """A copy of everything that one owner has to another, in this database or another.

    Args:
        source: Who has it; nothing of it is changed.
        target: Who gets it.
        token: 16 random bytes, the same when a copy that was interrupted is begun again.
        conflicts: What happens to names that the target has.
        mark: What the headers of copied sessions and threads say besides.
        journal: Run in every transaction that puts something in, unless all is put in at once.
        hold: Run in the transaction that compares the source, for one that is gone after it.
    """

    source: ScopedDatabase
    target: ScopedDatabase
    token: bytes
    conflicts: Conflicts = "rename"
    mark: Mark = NO_MARK
    journal: Journal | None = None
    hold: Hold | None = None
    _staged: dict[tuple[Kind, bytes], _Staged] = field(default_factory=dict)
    _whose: dict[bytes, tuple[Kind, bytes]] = field(default_factory=dict)
    """Which of the source is staged at a digest of the target."""
    _copied: Copied = field(default_factory=Copied)

    def run(self, *, at_once: bool = False, finish: Finish | None = None) -> Copied:
        """Copy everything, and say what.

        Killed at any point, it goes on when it is run again with the same token.

        Args:
            at_once: Whether nothing is seen of it before all is; then one transaction puts in all
                that has no row above it: items, documents and entries. Otherwise at most 500 rows
                a transaction, and what was put in is seen.
            finish: Run in the last transaction.

        Raises:
            AddressTaken: A name is taken, and that is refused; what was put in at once stays out.
            RecordDoesNotOpen: Something of the source is not as it was stored.
            KeyDestroyed: The source or the target was erased.
            DatabaseLocked: The source changed whenever it was compared.
        """
        with self.source.admission(), self.target.admission():
            return self._run(at_once, finish)

    def _run(self, at_once: bool, finish: Finish | None) -> Copied:
        for _ in range(_ATTEMPTS):
            self._copied = Copied()
            source_keys = self.source.find_keys()
            if source_keys is None:
                return self._copied
            try:
                self._stage()
                self._publish(source_keys, at_once, finish)
            except _Changed:
                continue
            except RecordDoesNotOpen as error:
                # The source's keys may have been rotated meanwhile.
                if self.source.fresh_keys(source_keys, error) is None:
                    raise
                continue
            except AddressTaken:
                self._discard()
                raise
            return self._copied
        raise DatabaseLocked("What is copied was changed by others whenever it was compared.")

    def _stage(self) -> None:
        """Bring what stands below sessions and threads up to what the source has now."""
        there = self.source.read(sources, _NO_SOURCES, now())
        for source in there:
            known = self._staged.get(source[:2])
            if known is None or known.source != source:
                self._stage_one(source)
        for gone in self._staged.keys() - {source[:2] for source in there}:
            self._drop(self._staged.pop(gone))

    def _stage_one(self, source: Source) -> None:
        container = self.source.snapshot(open_container, None, source, now())
        if container is None:
            return
        opened_as = source._replace(row_mac=container.state.row_mac)
        step = None
        while step is None:
            begun = self._begin(source, container)
            if begun is None:
                break
            step = self._filled(begun)
        self._staged[source[:2]] = _Staged(opened_as, container, step)
        if step is not None:
            self._whose[step.place.digest] = source[:2]

    def _begin(self, source: Source, container: OpenContainer) -> Step | None:
        def is_anothers(digest: bytes) -> bool:
            return self._whose.get(digest, source[:2]) != source[:2]

        how = self.token, self.mark, self.conflicts, Copied(), now()
        return self.target.write(staging.begin, container, *how, is_anothers)

    def _filled(self, step: Step) -> Step | None:
        while step.missing:
            try:
                # Its own row is one, too.
                put = self.target.write(staging.put, step, BATCH - 1)
            except Conflict:
                return None
            if put is None:
                return None
            step = put
        return step

    def _publish(self, source: ScopeKeys, at_once: bool, finish: Finish | None) -> None:
        if self.source.database is self.target.database:
            self._publish_from(None, source, at_once, finish)
        else:
            self.source.snapshot(self._publish_from, None, at_once, finish)

    def _publish_from(
        self,
        reading: Transaction | None,
        source: ScopeKeys,
        at_once: bool,
        finish: Finish | None,
    ) -> None:
        reader = Reader(source, reading)
        if at_once:
            self.target.write(self._publish_all, reader, finish)
            return
        self.target.write(self._publish_containers_alone, reader)
        self._copy_others_in_batches(reader)
        if finish is not None:
            self.target.write(finish, reader, self._copied)

    def _pages(self) -> tuple[CopyPage, ...]:
        apart = self.mark.is_untrusted
        kinds = (partial(entries.copy_page, kind=kind, apart=apart) for kind in entries.KINDS)
        return items.copy_page, *kinds

    def _publish_all(
        self, transaction: Transaction, keys: ScopeKeys, source: Reader, finish: Finish | None
    ) -> None:
        self._publish_containers(transaction, keys, source)
        moment = now()
        for page in self._pages():
            behind: Behind | None = _FIRST
            while behind is not None:
                behind = page(
                    transaction, keys, source, behind, self.conflicts, self._copied, moment
                )
        opened = documents.open_collections(source.within(transaction), source.keys)
        for part in documents.batches(opened):
            documents.copy_batch(transaction, keys, part, self.conflicts, self._copied, moment)
        if finish is not None:
            finish(transaction, keys, source, self._copied)

    def _copy_others_in_batches(self, source: Reader) -> None:
        for page in self._pages():
            behind: Behind | None = _FIRST
            while behind is not None:
                behind = self._write_batch(page, source, behind)
        opened: list[documents.OpenCollection] = (
            documents.open_collections(source.transaction, source.keys)
            if source.transaction
            else self.source.snapshot(documents.open_collections, [])
        )
        for part in documents.batches(opened):
            self._write_batch(documents.copy_batch, part)

    def _write_batch(self, put_in: Callable[..., T], *what: object) -> T:
        rest, batch = self.target.write(self._put_in_batch, put_in, *what)
        self._copied.update(batch)
        return rest

    def _put_in_batch(
        self, transaction: Transaction, keys: ScopeKeys, put_in: Callable[..., T], *what: object
    ) -> tuple[T, Copied]:
        # Of its own: a transaction may be run again.
        batch = Copied()
        rest = put_in(transaction, keys, *what, self.conflicts, batch, now())
        self._keep(transaction, keys, batch)
        return rest, batch

    def _keep(self, transaction: Transaction, keys: ScopeKeys, put_in: Copied) -> None:
        if self.journal and put_in.added:
            self.journal(transaction, keys, put_in.added, put_in.renamed)

    def _publish_containers_alone(
        self, transaction: Transaction, keys: ScopeKeys, source: Reader
    ) -> None:
        self._publish_containers(transaction, keys, source)
        self._keep(transaction, keys, self._copied)

    def _publish_containers(
        self, transaction: Transaction, keys: ScopeKeys, source: Reader
    ) -> None:
        """Show the sessions and threads, if they are what the source has now."""
        self._copied, moment = Copied(), now()
        reading = source.within(transaction)
        found = sources(reading, source.keys, moment, locked=True)
        if self.hold is not None:
            # Behind the rows' locks, as writers take them; others may have begun meanwhile.
            self.hold(reading, source.keys)
            found = sources(reading, source.keys, moment, locked=True)
        there = {one[:2]: one for one in found}
        if there != {place: staged.source for place, staged in self._staged.items()}:
            raise _Changed
        for one in self._staged.values():
            self._show(transaction, keys, one, moment)

    def _show(self, transaction: Transaction, keys: ScopeKeys, one: _Staged, moment: int) -> None:
        container, step, copied = one.container, one.step, self._copied
        if step is None:
            copied.skipped[container.kind] += 1
            return
        if not staging.publish(transaction, keys, container, step, self.mark, moment):
            del self._staged[one.source[:2]]
            raise _Changed
        copied.counts[container.kind] += 1
        copied.counts.update(line.kind for line in container.lines)
        copied.replaced[container.kind] += step.place.is_late
        copied.note_name(container.kind, container.header.session_id, step.place.name)
        copied.note_added(container.kind, step.place.name.encode())

    def _discard(self) -> None:
        for one in self._staged.values():
            self._drop(one)
        self._staged.clear()

    def _drop(self, one: _Staged) -> None:
        if one.step is not None:
            self._whose.pop(one.step.place.digest, None)
            self.target.write_if_exists(staging.discard, None, one.step.place)
