"""Shared reading: one module's way to another's records, and the terms by which it is open."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._storage.grants import StoredGrant
from langmem_isolated._storage.shared_database import SharedDatabase
from langmem_isolated.errors import NotShared
from langmem_isolated.lifecycle.sharing.terms import Terms
from langmem_isolated.scope import Scope

Demand = Callable[[Terms], None]
"""Raises `NotShared` where terms do not allow a call."""


class SharedReading:
    """Some calls' records, and what the grant that the last one met allows.

    Args:
        way: From which module to which.
        demand: What the calls need of the terms.
    """

    terms: Terms
    """Of the grant in whose snapshot something was last read."""
    grant: StoredGrant

    def __init__(self, way: WayIn, demand: Demand) -> None:
        self._demand = demand
        context, source, reader = way
        own = context.records(reader)
        self._refused = partial(context.audit.denied, "NotShared", [reader], is_within=True)
        self.records = SharedDatabase(context.database, context.keyring, source, own, self._admit)
        self.records.watcher = own.watcher

    def _admit(self, grant: StoredGrant | None) -> None:
        try:
            self._check(grant)
        except NotShared:
            self._refused()
            raise

    def _check(self, grant: StoredGrant | None) -> None:
        if grant is None:
            raise NotShared
        terms = Terms.decoded(grant.terms)
        self._demand(terms)
        self.grant, self.terms = grant, terms


class WayIn(NamedTuple):
    """From which module's records to which module's reader."""

    context: MemoryContext
    source: Owner
    reader: Owner

    @classmethod
    def of(cls, context: MemoryContext, scope: Scope, from_module: str) -> WayIn:
        """The way from a module of the same user in the same project to ``scope``."""
        source = Scope(scope.user_id, from_module, project_id=scope.project_id)
        return cls(context, Owner.private(source), Owner.private(scope))

    def reading(self, demand: Demand) -> SharedReading:
        """Calls that need something of the terms."""
        return SharedReading(self, demand)
