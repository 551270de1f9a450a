"""Target of a bulk import: one scope, marked as such, whose records are written and read back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.copying import import_marks, journal
from langmem_isolated._storage.copying.import_marks import PARTS_KEPT
from langmem_isolated._storage.copying.import_position import Overtaken
from langmem_isolated._storage.copying.options import Added
from langmem_isolated._storage.scoped_database import Operation
from langmem_isolated.errors import AddressTaken, ImportNotVerified, UserWasErased
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
        level: Of whom in the scope: of its module, or of what all modules of the user share.
    """

    def __init__(
        self,
        context: MemoryContext,
        scope: Scope,
        token: bytes,
        source: str,
        readmit: Collection[str],
        level: Level = Level.PRIVATE,
    ) -> None:
        self._context, self.scope, self.token, self._source = context, scope, token, source
        self._readmit = readmit
        self.records = context.operators(Owner.at(level, scope))
        self.limits = context.limits
        self._keys: ScopeKeys | None = None

    def refuse_erased(self) -> None:
        """Refuse a user who was erased and is not readmitted.

        Raises:
            UserWasErased: So it is.
        """
        user = Owner(Level.USER, self.scope.project_id, self.scope.user_id)
        if self.scope.user_id not in self._readmit and self._context.is_tombstoned(user):
            raise UserWasErased

    def write(self, operation: Operation[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an operation in one write transaction, which keeps the mark where there is none.

        Raises:
            UserWasErased: The user was erased meanwhile.
            MemoryLocked: The user alone has the keys.
        """
        if self._keys is not None:
            return self._write(self._keys, self._marked(operation), *args, **kwargs)
        keys = self.records.keys()
        # An erasure may have ended meanwhile; who is erased from now on stays so: all that follows
        # is put in with these keys, or not at all.
        self.refuse_erased()

        def begun(transaction: Transaction, keys: ScopeKeys, *more: Any, **named: Any) -> T:
            import_marks.begin(transaction, keys, self.token, self._source)
            return operation(transaction, keys, *more, **named)

        result = self._write(keys, begun, *args, **kwargs)
        self._keys = keys
        return result

    def _marked(self, operation: Operation[P, T]) -> Operation[P, T]:
        """The same behind a mark: a roll back may have taken it out since the first write."""

        def marked(
            transaction: Transaction, keys: ScopeKeys, /, *args: P.args, **kwargs: P.kwargs
        ) -> T:
            import_marks.keep(transaction, keys, self.token, self._source)
            return operation(transaction, keys, *args, **kwargs)

        return marked

    def _write(
        self, keys: ScopeKeys, operation: Operation[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        door = self.records.database.write
        return self.records.run_with_keys(keys, door, operation, *args, **kwargs)

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
        """Whether this import has put something in, and nobody has changed it since."""
        return self.records.write_if_exists(journal.is_as_put, False, self.token, one)

    @contextmanager
    def alone(self, one: Added) -> Iterator[None]:
        """Tell who puts in the same session or thread by this import from all others.

        Raises:
            Overtaken: Another process of this import has put it in meanwhile.
            AddressTaken: Somebody else has one of its name by now.
        """
        try:
            yield
        except AddressTaken:
            if self.records.read(journal.has_put, False, self.token, one):
                raise Overtaken from None
            raise

    @contextmanager
    def comparing(self, one: Added) -> Iterator[None]:
        """Let a difference pass where somebody has gone on with what was put in meanwhile.

        Raises:
            ImportNotVerified: What was read back is what was put in, and differs.
        """
        try:
            yield
        except ImportNotVerified:
            if self.is_as_put(one):
                raise
