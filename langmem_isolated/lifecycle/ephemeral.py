"""Ephemeral memory: a database in memory alone, under a key that nobody else has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Self

from langmem_isolated._adapters.context import MemoryContext, SharingLevel
from langmem_isolated._adapters.known_stores import KnownStores
from langmem_isolated._adapters.run_scope import RunScopes
from langmem_isolated._codecs.checkpoints.element_cache import ElementCaches
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._database.database import Database
from langmem_isolated._runtime.arguments import true_or_false
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._storage import usage
from langmem_isolated._storage.keyring import Keyring
from langmem_isolated._storage.scoped_database import S, ScopedDatabase
from langmem_isolated.root_keys import LocalRootKey
from langmem_isolated.scope import Scope

if TYPE_CHECKING:
    from types import TracebackType

    from langmem_isolated._crypto.scope_keys import ScopeKeys
    from langmem_isolated._database.transactions import Transaction
    from langmem_isolated._storage.copying.options import Conflicts, Copied, Reader
    from langmem_isolated.lifecycle.guests.transferred import Transferred

_TOKEN_BYTES = 16


class _InMemory(ScopedDatabase):
    """An owner's records in memory, beside those of others that may be in a database."""

    def having_records(self, sources: Sequence[S]) -> list[S]:
        return [
            source
            for source in sources
            if not isinstance(source, ScopedDatabase) or source.find_keys() is not None
        ]


class EphemeralContext(MemoryContext):
    """What an ephemeral memory stands on."""

    lasting: MemoryContext
    """What it stands beside, whose quotas hold here, too."""
    long_term: MemoryContext | None = None
    """What is read besides."""

    @classmethod
    def beside(cls, context: MemoryContext, *, read_long_term: bool) -> Self:
        """A new one, with nothing in it, that writes nowhere else."""
        true_or_false("read_long_term", read_long_term)
        database = Database("sqlite://")
        keyring = Keyring(database, LocalRootKey(os.urandom(32)))
        made = cls(
            database, keyring, ElementCaches(), None, KnownStores(),
            context.config_keys, RunScopes(), context.limits, context.session_rules,
        )  # fmt: skip
        made.lasting = context
        made.long_term = context if read_long_term else None
        return made

    def records(self, owner: Owner) -> ScopedDatabase:
        """One owner's records in memory."""
        return _InMemory(self.database, self.keyring, owner, self.limits, self.session_rules)

    def private(self, scope: Scope) -> ScopedDatabase:
        """A scope's own records in memory; a guest's as well."""
        records = self.records(Owner.private(scope))
        records.lasting = self.lasting.private(scope)
        if self.long_term is not None:
            records.beside = (records.lasting,)
        return records

    def readable(self, scope: Scope, levels: Sequence[SharingLevel]) -> list[ScopedDatabase]:
        """What is in memory and, if it is read besides, what the scope reads at these levels."""
        own = super().readable(scope, levels)
        return own if self.long_term is None else [*own, *self.long_term.readable(scope, levels)]


def _count_uses(
    kept_in: ScopedDatabase,
    transaction: Transaction,
    keys: ScopeKeys,
    source: Reader,
    copied: Copied,
) -> None:
    """Count what was asked of models, once: kept again, nothing is copied any more."""
    if copied.counts:
        reading, digest_of = source.within(transaction), kept_in.model_digest
        usage.take_over(transaction, keys, reading, source.keys, digest_of)


@explains_calls
class EphemeralLife:
    """The life of a memory that is forgotten unless it is kept."""

    _context: MemoryContext
    _records: ScopedDatabase
    _kept_in: ScopedDatabase

    @cached_property
    def _token(self) -> bytes:
        """Of the copy that keeps it: kept again, because nobody was told that it was, it is one."""
        return os.urandom(_TOKEN_BYTES)

    def keep(self, *, conflicts: Conflicts = "rename") -> Transferred:
        """Store everything in the scope after all, all of it at once, and close.

        Killed before it is done, nothing of it is seen in the scope.

        Args:
            conflicts: What happens to names that the scope has already; see
                :meth:`IsolatedMemory.claim`.

        Raises:
            ValueError: ``conflicts`` is misspelt; nothing was stored or forgotten.
            AddressTaken: A name is taken, and that is refused; nothing was stored or forgotten.
            DatabaseError: The database refused or failed; nothing was forgotten.
        """
        from langmem_isolated._storage.copying.copy import Copy
        from langmem_isolated._storage.copying.options import checked_conflicts
        from langmem_isolated.lifecycle.guests.transferred import Transferred

        checked_conflicts(conflicts)
        copy = Copy(self._records, self._kept_in, self._token, conflicts)
        kept = Transferred.of(copy.run(at_once=True, finish=partial(_count_uses, self._kept_in)))
        self.close()
        return kept

    async def akeep(self, *, conflicts: Conflicts = "rename") -> Transferred:
        """Store everything in the scope after all; see :meth:`keep`."""
        return await self._kept_in.arun(self.keep, conflicts=conflicts)

    def close(self) -> None:
        """Forget everything. Closing twice is fine."""
        self._context.keyring.close()
        self._context.database.close()

    async def aclose(self) -> None:
        """Forget everything; see :meth:`close`."""
        await self._kept_in.arun(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
