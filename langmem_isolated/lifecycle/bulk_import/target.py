"""Target of a bulk import: one scope, with its receipt, whose records are written and read back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ParamSpec, TypeVar

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.copying import import_receipts, journal
from langmem_isolated._storage.copying.import_receipts import PARTS_KEPT
from langmem_isolated._storage.copying.options import Added
from langmem_isolated._storage.scoped_database import Operation
from langmem_isolated.errors import UserWasErased
from langmem_isolated.scope import Scope

P = ParamSpec("P")
T = TypeVar("T")


class Target:
    """One scope that an import puts something into.

    Args:
        context: Where.
        scope: Which.
        token: Of the import.
        source: What the kind of its source is called.
        readmit: Ids of users who may come back though they were erased.
    """

    def __init__(
        self,
        context: MemoryContext,
        scope: Scope,
        token: bytes,
        source: str,
        readmit: Collection[str],
    ) -> None:
        self._context, self.scope, self.token, self._source = context, scope, token, source
        self._readmit = readmit
        self.records = context.operators(Owner.private(scope))
        self.limits = context.limits
        self._keys: ScopeKeys | None = None

    def begin(self) -> None:
        """Keep that the import puts something in here; once this returns it is stored.

        Raises:
            UserWasErased: The user was erased, and is not readmitted.
            MemoryLocked: The user alone has the keys.
        """
        self._refuse_erased()
        self._keys = self.records.keys()
        # An erasure may have ended meanwhile; who is erased from now on stays so: all that follows
        # is put in with these keys, or not at all.
        self._refuse_erased()
        self.write(import_receipts.begin, self.token, self._source)

    def _refuse_erased(self) -> None:
        user = Owner(Level.USER, self.scope.project_id, self.scope.user_id)
        if self.scope.user_id not in self._readmit and self._context.is_tombstoned(user):
            raise UserWasErased

    def write(self, operation: Operation[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an operation in one write transaction, with the keys that were met at first."""
        assert self._keys is not None
        door = self.records.database.write
        return self.records.run_with_keys(self._keys, door, operation, *args, **kwargs)

    def write_noted(
        self,
        added: Sequence[Added],
        operation: Operation[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """The same, and keep in its transaction that ``added`` is what it has put in."""

        def noted(transaction: Transaction, keys: ScopeKeys, *more: Any, **named: Any) -> T:
            result = operation(transaction, keys, *more, **named)
            journal.record(transaction, keys, [*added], [], token=self.token, kept=PARTS_KEPT)
            return result

        return self.write(noted, *args, **kwargs)

    def is_as_put(self, one: Added) -> bool:
        """Whether this import has put in a session or thread, and nobody has changed it since."""
        return self.records.snapshot(journal.is_as_put, False, self.token, one)
