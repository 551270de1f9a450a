"""LangGraph `BaseStore`, isolated and encrypted."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from langchain_core.runnables import RunnableConfig
from langgraph.store.base import (
    NOT_PROVIDED,
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    MatchCondition,
    NamespacePath,
    NotProvided,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
)

from langmem_isolated._adapters.drop_in import DropIn, Ready
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._runtime.clock import now
from langmem_isolated._search.equality import EqualityFields
from langmem_isolated._storage.items import writing
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import EmbeddingModelWarning
from langmem_isolated.scope import Scope
from langmem_isolated.store.arguments import check_options
from langmem_isolated.store.batch import Batch, Namespace
from langmem_isolated.store.semantic_index import Index, StoreIndexConfig

__all__ = ["IsolatedStore", "Namespace", "StoreIndexConfig"]


class IsolatedStore(DropIn, BaseStore):
    """LangGraph's long-term memory: a drop-in `BaseStore` in which each scope sees its own items.

    Made by ``memory.scope(…).store()``, or by ``memory.store()``, which takes the scope from the
    run that calls. Namespaces, keys, values and vectors are sealed. One object serves any number of
    threads, tasks and event loops.

    - Values are mappings of JSON values, and whatever else has an exact stored form: bytes, tuples,
      sets, times, UUIDs, Decimals, messages and documents come back as they were.
    - ``search`` returns the items put last first; with a query and an ``index`` the nearest first,
      ranked exactly, and behind them items without vectors of the index's model; that there are
      vectors of another is told once by an `EmbeddingModelWarning`.
    - Filters follow `InMemoryStore`, on the opened values: a missing key is ``None``; ``$gt`` and
      its like compare numbers with numbers and texts with texts, and nothing else passes.
    - A batch reads, then writes, in one transaction: reads see what was there before it, and of
      several puts at one address the last counts.
    - An item whose time to live is over is absent at once, swept or not.

    >>> store = scope.store()
    >>> store.put(("facts", "school"), "fractions", {"level": 3})
    >>> [item.key for item in store.search(("facts",), filter={"level": {"$gte": 2}})]
    ['fractions']

    Args:
        resolve: Whose records are meant; asked when an operation is called, in the caller's
            context.
        index: ``dims``, ``embed``, ``fields`` as in LangGraph's `IndexConfig`, and
            ``distance_type`` and ``embedding_name``. Without it queries and ``index=`` have no
            effect.
        ttl: ``default_ttl`` (minutes) and ``refresh_on_read`` as in LangGraph's `TTLConfig`.
            Nothing sweeps by itself: :meth:`sweep` only frees space.
        integrity: ``"counted"`` has a row stand for all items of the scope from the first put on,
            for every store of it: ``scope.verify()`` then notices an item that was removed or
            rolled back. Writers of one scope wait for each other.
        equality: Fields by which the database itself finds items: ``{"category": "x"}`` in a filter
            then opens what has that value, not every item; ``"author.name"`` is a key in a mapping.
            Answers are the same with it and without. Whoever reads the database learns which items
            of the scope share a value in a field, and nothing across scopes; so no field whose
            values say much by how often they occur. Items that are there already are indexed as
            searches open them.
        bound_to: The scope that every call means; ``None`` where each call is led to its own.
        set_up: Makes or checks the tables, for :meth:`setup`.

    Raises:
        TypeError: An option is of another type.
        ValueError: ``index``, ``ttl`` or ``equality`` holds a value that has no meaning here.
        ImportError: ``index`` was given and NumPy is not installed.
    """

    supports_ttl = True
    _made_by = "store"

    def __init__(
        self,
        resolve: Callable[[], ScopedDatabase],
        *,
        index: StoreIndexConfig | IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        integrity: Literal["counted"] | None = None,
        equality: Sequence[str] | None = None,
        bound_to: Scope | None = None,
        set_up: Callable[[], Ready],
    ) -> None:
        check_options(index, ttl, integrity)
        self._equality = None if equality is None else EqualityFields(equality)
        self._is_counted = integrity == "counted"
        self._has_told = False
        self._resolve = resolve
        self._set_up = set_up
        self.bound_to = bound_to
        self._index = Index(cast("StoreIndexConfig", index)) if index else None
        self.embeddings = self._index.embeddings if self._index else None
        self.index_config = index
        self.ttl_config = ttl

    def is_of(self, scope: Scope, config: RunnableConfig) -> bool:  # noqa: ARG002 - as of a saver
        """Whether operations that are called now would mean ``scope``.

        Raises:
            ScopeError: Nothing names a scope.
            IsolationViolation: What names one disagrees.
        """
        return self._resolve().owner == Owner.private(scope)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations in one transaction; the results are in their order.

        Raises:
            InvalidNamespaceError: A namespace is malformed or, for a put, reserved.
            ValueNotStorable: A value has no exact stored form; nothing was written.
            LimitExceeded: A value, a query, a filter, or all together are beyond ``limits``.
            RecordDoesNotOpen: An item was changed, moved or exchanged.
            ScopeError: No scope is named where the scope comes from the run.
            KeyDestroyed: The scope was erased.
            DatabaseError: The database refused or failed.
        """
        records = self._resolve()
        batch = Batch.of(ops, self._index, records.limits, self._equality)
        if self._index:
            model = self._index.embeddings
            batch.embed(
                model.embed_documents([*batch.documents]) if batch.documents else [],
                [model.embed_query(text) for text in batch.queries],
            )
        results = batch.perform(records, is_counted=self._is_counted)
        self._tell(batch.strangers)
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations; see :meth:`batch`. If cancelled, writes may have been stored."""
        records = self._resolve()
        batch = Batch.of(ops, self._index, records.limits, self._equality)
        if self._index:
            model = self._index.embeddings
            batch.embed(
                await model.aembed_documents([*batch.documents]) if batch.documents else [],
                [await model.aembed_query(text) for text in batch.queries],
            )
        results: list[Result] = await records.arun(
            batch.perform, records, is_counted=self._is_counted
        )
        self._tell(batch.strangers)
        return results

    def _tell(self, strangers: int) -> None:
        """Warn once of vectors that no query of this store is compared with."""
        if strangers and not self._has_told:
            self._has_told = True
            warnings.warn(EmbeddingModelWarning(strangers), stacklevel=4)

    def sweep(self) -> int:
        """Remove the scope's expired items from the database; returns how many."""
        return self._resolve().write_if_exists(writing.sweep, 0, now())

    async def asweep(self) -> int:
        """Remove expired items; see :meth:`sweep`."""
        records = self._resolve()
        return await records.arun(records.write_if_exists, writing.sweep, 0, now())

    def get(
        self, namespace: Namespace, key: str, *, refresh_ttl: bool | None = None
    ) -> Item | None:
        """The item at ``key``, or ``None``; see `BaseStore.get`."""
        op = GetOp(namespace, str(key), self._refreshes(refresh_ttl))
        return cast("Item | None", self.batch([op])[0])

    async def aget(
        self, namespace: Namespace, key: str, *, refresh_ttl: bool | None = None
    ) -> Item | None:
        """The item at ``key``; see :meth:`get`."""
        op = GetOp(namespace, str(key), self._refreshes(refresh_ttl))
        return cast("Item | None", (await self.abatch([op]))[0])

    def search(
        self,
        namespace_prefix: Namespace,
        /,
        *,
        query: str | None = None,
        filter: dict[str, Any] | None = None,  # noqa: A002
        limit: int = 10,
        offset: int = 0,
        refresh_ttl: bool | None = None,
    ) -> list[SearchItem]:
        """Items below a prefix; see the class, and `BaseStore.search`."""
        refreshes = self._refreshes(refresh_ttl)
        op = SearchOp(namespace_prefix, filter, limit, offset, query, refreshes)
        return cast("list[SearchItem]", self.batch([op])[0])

    async def asearch(
        self,
        namespace_prefix: Namespace,
        /,
        *,
        query: str | None = None,
        filter: dict[str, Any] | None = None,  # noqa: A002
        limit: int = 10,
        offset: int = 0,
        refresh_ttl: bool | None = None,
    ) -> list[SearchItem]:
        """Items below a prefix; see :meth:`search`."""
        refreshes = self._refreshes(refresh_ttl)
        op = SearchOp(namespace_prefix, filter, limit, offset, query, refreshes)
        return cast("list[SearchItem]", (await self.abatch([op]))[0])

    def put(
        self,
        namespace: Namespace,
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None = None,
        *,
        ttl: float | NotProvided | None = NOT_PROVIDED,
    ) -> None:
        """Store an item, or replace what it holds; see `BaseStore.put`."""
        self.batch([PutOp(namespace, str(key), value, index, self._minutes(ttl))])

    async def aput(
        self,
        namespace: Namespace,
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None = None,
        *,
        ttl: float | NotProvided | None = NOT_PROVIDED,
    ) -> None:
        """Store an item; see :meth:`put`. If cancelled, it may have been stored."""
        await self.abatch([PutOp(namespace, str(key), value, index, self._minutes(ttl))])

    def delete(self, namespace: Namespace, key: str) -> None:
        """Remove an item, if there is one."""
        self.batch([PutOp(namespace, str(key), None)])

    async def adelete(self, namespace: Namespace, key: str) -> None:
        """Remove an item, if there is one."""
        await self.abatch([PutOp(namespace, str(key), None)])

    def list_namespaces(
        self,
        *,
        prefix: NamespacePath | None = None,
        suffix: NamespacePath | None = None,
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Namespace]:
        """The namespaces that have items, sorted; see `BaseStore.list_namespaces`."""
        op = ListNamespacesOp(_conditions(prefix, suffix), max_depth, limit, offset)
        return cast("list[Namespace]", self.batch([op])[0])

    async def alist_namespaces(
        self,
        *,
        prefix: NamespacePath | None = None,
        suffix: NamespacePath | None = None,
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Namespace]:
        """The namespaces that have items; see :meth:`list_namespaces`."""
        op = ListNamespacesOp(_conditions(prefix, suffix), max_depth, limit, offset)
        return cast("list[Namespace]", (await self.abatch([op]))[0])

    def _refreshes(self, given: bool | None) -> bool:
        return (self.ttl_config or {}).get("refresh_on_read", True) if given is None else given

    def _minutes(self, given: float | NotProvided | None) -> float | None:
        if isinstance(given, NotProvided):
            return (self.ttl_config or {}).get("default_ttl")
        return given


def _conditions(
    prefix: NamespacePath | None, suffix: NamespacePath | None
) -> tuple[MatchCondition, ...]:
    given: tuple[tuple[Literal["prefix", "suffix"], NamespacePath | None], ...] = (
        ("prefix", prefix),
        ("suffix", suffix),
    )
    return tuple(MatchCondition(kind, path) for kind, path in given if path)
