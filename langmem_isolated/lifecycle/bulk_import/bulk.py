"""Bulk import: puts foreign records into scopes, as they were, and reads each of them back."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.calls import made_by
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.lru import LRUCache
from langmem_isolated.lifecycle.bulk_import.outcome import OnReject, PutOutcome
from langmem_isolated.lifecycle.bulk_import.records import (
    ForeignSession,
    ForeignUnit,
)
from langmem_isolated.lifecycle.bulk_import.sessions import SessionImport
from langmem_isolated.lifecycle.bulk_import.target import Target
from langmem_isolated.scope import Scope

if TYPE_CHECKING:
    from types import TracebackType

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
        context: MemoryContext,
    ) -> None:
        self._token, self._source, self._readmit, self._context = token, source, readmit, context
        self._sessions = SessionImport(now())
        self._targets = LRUCache[Scope, Target](entries=_TARGETS)
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
        outcome = self._put(target, unit, unit.id if name is None else name, on_reject)
        self._count += outcome.records
        return outcome

    def _put(self, target: Target, unit: ForeignUnit, name: str, on_reject: OnReject) -> PutOutcome:
        if isinstance(unit, ForeignSession):
            return self._sessions.put(target, unit, name, on_reject)
        raise TypeError(
            f"put() takes a foreign session, thread, item, document or profile, got "
            f"{kind_of(unit)}. Nothing was written."
        )

    def _target(self, scope: Scope) -> Target:
        found = self._targets.get(scope)
        if found is None:
            found = Target(self._context, scope, self._token, self._source, self._readmit)
            found.begin()
            self._targets.put(scope, found)
        return found
