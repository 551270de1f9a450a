"""Bulk import: puts foreign records into scopes, as they were, and reads each of them back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Self

from langmem_isolated._crypto.owners import Level
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.calls import made_by
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.lru import LRUCache
from langmem_isolated._storage.copying.import_position import Overtaken
from langmem_isolated._storage.copying.options import BATCH
from langmem_isolated.errors import AddressTaken, DatabaseLocked, KeyDestroyed
from langmem_isolated.lifecycle.bulk_import.documents import DocumentImport
from langmem_isolated.lifecycle.bulk_import.items import ItemImport
from langmem_isolated.lifecycle.bulk_import.outcome import REJECTED, OnReject, OnTaken, PutOutcome
from langmem_isolated.lifecycle.bulk_import.profiles import ProfileImport
from langmem_isolated.lifecycle.bulk_import.records import (
    ForeignDocument,
    ForeignItem,
    ForeignProfile,
    ForeignSession,
    ForeignThread,
    ForeignUnit,
    Rejected,
)
from langmem_isolated.lifecycle.bulk_import.sessions import SessionImport
from langmem_isolated.lifecycle.bulk_import.target import Target
from langmem_isolated.lifecycle.bulk_import.threads import ThreadImport
from langmem_isolated.scope import Scope

if TYPE_CHECKING:
    from types import TracebackType

    from langchain_core.embeddings import Embeddings

    from langmem_isolated._adapters.context import MemoryContext

# Scopes that are at hand: sources have what is of one user together, more or less.
_TARGETS = 256


@made_by("memory.bulk_import(token, source=…)", first=bytes)
class BulkImport:
    """An import into any number of scopes, each record of which is read back and compared.

    Made by :meth:`IsolatedMemory.bulk_import`, and used in a ``with`` block. Sessions, threads and
    collections are seen when they are whole. Killed at any point, the same calls under the same
    token go on: what is there is found, and nothing is put in twice. All of it stands in journals,
    by which :meth:`IsolatedMemory.roll_back` takes it out.
    """

    def __init__(
        self,
        token: bytes,
        source: str,
        readmit: frozenset[str],
        embeddings: Embeddings | None,
        context: MemoryContext,
    ) -> None:
        self._token, self._source, self._readmit, self._context = token, source, readmit, context
        moment = now()
        self._sessions, self._threads = SessionImport(moment), ThreadImport(moment)
        self._items, self._documents = ItemImport(moment), DocumentImport(embeddings)
        self._profiles = ProfileImport(moment)
        self._targets = LRUCache[tuple[Level, Scope], Target](entries=_TARGETS)
        self._ending = ExitStack()
        self._count = 0

    def __enter__(self) -> Self:
        self._job = self._ending.enter_context(self._context.audit.job("import"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._job.count = self._count
        self._ending.__exit__(kind, error, traceback)

    def put(
        self, scope: Scope, unit: ForeignUnit, *, name: str | None = None, on_reject: OnReject
    ) -> PutOutcome:
        """Put one session, thread, item, document or profile into a scope, and compare it.

        Args:
            scope: Whose it becomes.
            unit: What.
            name: What a session or thread is called there; by default as in its source.
            on_reject: Told of each part that cannot be put in, while the rest goes on.

        Returns:
            What became of it. A session or thread that is there under the name is ``"present"`` if
            it begins with all that the source has. It is ``"continued"`` if the source has more,
            and this very import has put in what is there, and nobody has changed it since.

        Raises:
            AddressTaken: There is something else under its name; nothing was written.
            UserWasErased: The user was erased, and the import does not readmit them.
            MemoryLocked: The user alone has the keys.
            ImportNotVerified: What was read back is not what was put in.
            RecordDoesNotOpen: What is there was tampered with.
            DatabaseLocked: Another process puts in the same.
            DatabaseError: The database refused or failed; to call again goes on.
        """
        target = self._target(scope)
        with _unless_erased(target):
            outcome = self._put(target, unit, unit.id if name is None else name, on_reject)
        self._count += outcome.records
        return outcome

    def _put(self, target: Target, unit: ForeignUnit, name: str, on_reject: OnReject) -> PutOutcome:
        if isinstance(unit, ForeignSession):
            return self._sessions.put(target, unit, name, on_reject)
        if isinstance(unit, ForeignThread):
            return self._threads.put(target, unit, name, on_reject)
        if isinstance(unit, ForeignProfile):
            shared = self._target(target.scope, Level.USER) if unit.is_cross_module else target
            return self._profiles.put(shared, unit, on_reject)
        return self._put_alike(target, [unit], on_reject, _refuse_taken)[0]

    def put_many(
        self, scope: Scope, units: Sequence[ForeignUnit], *, on_reject: OnReject
    ) -> list[PutOutcome]:
        """Put up to 500 items, documents and others into a scope, and compare them.

        Items share a transaction, and so do the documents of a collection; sessions, threads and
        profiles are put in as :meth:`put` does it. An item or document under whose address there is
        something else is rejected, and the others go in.

        Args:
            scope: Whose they become.
            units: What.
            on_reject: As for :meth:`put`.

        Returns:
            What became of each, in their order.

        Raises:
            ValueError: There are more than 500; nothing was written.
            UserWasErased: And all others as of :meth:`put`.
        """
        if len(units) > BATCH:
            raise ValueError(
                f"put_many() takes {BATCH} at most, got {len(units):,}. Nothing was written; call "
                "it more often."
            )

        def taken(unit: ForeignUnit, kind: str) -> PutOutcome:
            on_reject(Rejected(unit.place, f"another {kind} stands under its address"))
            return REJECTED

        target, outcomes = self._target(scope), dict[int, PutOutcome]()
        with _unless_erased(target):
            for kind in (ForeignItem, ForeignDocument):
                numbers = [number for number, unit in enumerate(units) if isinstance(unit, kind)]
                alike = [units[number] for number in numbers]
                made = self._put_alike(target, alike, on_reject, taken) if alike else []
                outcomes.update(zip(numbers, made, strict=True))
            for number, unit in enumerate(units):
                if number not in outcomes:
                    outcomes[number] = self._put(target, unit, unit.id, on_reject)
        self._count += sum(one.records for one in outcomes.values())
        return [outcomes[number] for number in range(len(units))]

    def _put_alike(
        self,
        target: Target,
        units: Sequence[ForeignUnit],
        on_reject: OnReject,
        on_taken: OnTaken,
    ) -> list[PutOutcome]:
        items = [unit for unit in units if isinstance(unit, ForeignItem)]
        documents = [unit for unit in units if isinstance(unit, ForeignDocument)]
        if len(items) == len(units):
            return self._items.put(target, items, on_reject, on_taken)
        if len(documents) == len(units):
            return self._documents.put(target, documents, on_reject, on_taken)
        raise TypeError(
            f"put() takes a foreign session, thread, item, document or profile, got "
            f"{kind_of(units[0])}. Nothing was written."
        )

    def _target(self, scope: Scope, level: Level = Level.PRIVATE) -> Target:
        found = self._targets.get((level, scope))
        if found is None:
            found = Target(self._context, scope, self._token, self._source, self._readmit, level)
            found.refuse_erased()
            self._targets.put((level, scope), found)
        return found


@contextmanager
def _unless_erased(target: Target) -> Iterator[None]:
    """Tell an erasure while the import goes on from what others do to a scope otherwise.

    Raises:
        UserWasErased: The user was erased since the import looked.
        DatabaseLocked: Another process puts in the same, or takes it out.
    """
    try:
        yield
    except KeyDestroyed:
        target.refuse_erased()
        raise
    except Overtaken:
        target.refuse_erased()
        raise DatabaseLocked(
            "Another process puts in the same, or takes out what this one had put in. What is in "
            "stays, and the same import goes on with it."
        ) from None


def _refuse_taken(_: ForeignUnit, kind: str) -> PutOutcome:
    raise AddressTaken(kind)
