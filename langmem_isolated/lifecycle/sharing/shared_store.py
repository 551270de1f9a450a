"""Shared store: another module's items, to be read and not written."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchOp,
    TTLConfig,
)

from langmem_isolated._database.statements import NO_LIMIT
from langmem_isolated._runtime.arguments import whole_number
from langmem_isolated._storage.shared_database import read_only
from langmem_isolated.lifecycle.sharing.reading import SharedReading, WayIn
from langmem_isolated.lifecycle.sharing.terms import Terms
from langmem_isolated.store import IsolatedStore, StoreIndexConfig


class SharedStore(BaseStore):
    """Another module's items as a LangGraph `BaseStore` that only reads.

    Made by ``scope.shared_from(…).store()``. ``put`` and ``delete`` raise `IsolationViolation`.
    Reading does not make an item live longer. Where a grant is narrowed to namespaces, searches
    begin in one of them, and no other is listed.

    Args:
        way: From which module's store to which module.
        index: As :class:`IsolatedStore` has it, to search by meaning.
    """

    supports_ttl = True

    def __init__(self, way: WayIn, index: StoreIndexConfig | IndexConfig | None = None) -> None:
        self._way = way
        self._index = index
        self.ttl_config = TTLConfig(refresh_on_read=False)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Read in one snapshot with the grant; the results are in the order of ``ops``.

        Raises:
            IsolationViolation: One writes; nothing was read or written.
            NotShared: One reads what is not shared; nothing was read.
            RecordDoesNotOpen: An item or the grant was changed, moved or exchanged.
        """
        asked = [*map(_reading, ops)]
        reading = self._way.reading(partial(_demand, asked))
        return _shown(asked, self._store(reading).batch(map(_whole, asked)), reading)

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Read in one snapshot with the grant; see :meth:`batch`."""
        asked = [*map(_reading, ops)]
        reading = self._way.reading(partial(_demand, asked))
        return _shown(asked, await self._store(reading).abatch(map(_whole, asked)), reading)

    def _store(self, reading: SharedReading) -> IsolatedStore:
        set_up = self._way.context.set_up
        return IsolatedStore(lambda: reading.records, index=self._index, set_up=set_up)


def _reading(op: Op) -> Op:
    """An operation that only reads, and makes nothing live longer."""
    if isinstance(op, PutOp):
        raise read_only()
    if isinstance(op, GetOp | SearchOp):
        return op._replace(refresh_ttl=False)
    if isinstance(op, ListNamespacesOp):
        whole_number("limit", op.limit)
        whole_number("offset", op.offset)
    return op


def _whole(op: Op) -> Op:
    """What is asked of the store: which namespaces are shared is known once they were read."""
    if isinstance(op, ListNamespacesOp):
        return op._replace(max_depth=None, limit=NO_LIMIT, offset=0)
    return op


def _demand(ops: Iterable[Op], terms: Terms) -> None:
    terms.check_kind("item")
    for op in ops:
        if isinstance(op, GetOp):
            terms.check_namespace(op.namespace)
        elif isinstance(op, SearchOp):
            terms.check_namespace(op.namespace_prefix)


def _shown(ops: list[Op], results: list[Result], reading: SharedReading) -> list[Result]:
    return [
        _listed(op, result, reading.terms) if isinstance(op, ListNamespacesOp) else result
        for op, result in zip(ops, results, strict=True)
    ]


def _listed(op: ListNamespacesOp, namespaces: Any, terms: Terms) -> Result:
    shared = {found[: op.max_depth] for found in namespaces if terms.has_namespace(found)}
    return sorted(shared)[op.offset : op.offset + op.limit]
