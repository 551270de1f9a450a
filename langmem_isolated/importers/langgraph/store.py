"""Store: items of any store of LangGraph, by its own methods."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from langgraph.store.base import BaseStore, Item

from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignItem, Rejected

_PAGE = 500


class StoreSource(Source):
    """The items of a store that is open in this process; its times to live are not in its items.

    >>> from langgraph.store.memory import InMemoryStore
    >>> from langmem_isolated.importers import StoreSource
    >>> theirs = InMemoryStore()
    >>> theirs.put(("users", "alice"), "name", {"first": "Alice"})
    >>> [(item.id, item.key, item.value) for item in StoreSource(theirs).units()]
    [('users.alice', 'name', {'first': 'Alice'})]

    Args:
        store: ``InMemoryStore``, or any other that lists its namespaces in a sync call. It must
            not change meanwhile.
        name: What it is known by again: an import goes on, and is found done, under one name.
    """

    kind = "store"

    def __init__(self, store: BaseStore, *, name: str = "") -> None:
        self._store, self._name = store, name

    @property
    def identity(self) -> str:
        """The store's class, and the name it was given."""
        return f"{type(self._store).__module__}.{type(self._store).__qualname__}/{self._name}"

    def units(self) -> Iterator[ForeignItem | Rejected]:
        """The items, namespace by namespace; see `Source.units`."""
        for number, namespace in enumerate(self._namespaces(), 1):
            for item in self._items(namespace):
                yield _foreign(item, f"an item of namespace {number}")

    def _namespaces(self) -> Iterator[tuple[str, ...]]:
        offset = 0
        while page := self._store.list_namespaces(limit=_PAGE, offset=offset):
            yield from page
            offset += len(page)

    def _items(self, namespace: tuple[str, ...]) -> Iterator[Item]:
        offset = 0
        # To be read must not put off when an item expires.
        while page := self._store.search(namespace, limit=_PAGE, offset=offset, refresh_ttl=False):
            yield from (item for item in page if tuple(item.namespace) == namespace)
            offset += len(page)


def _foreign(item: Item, place: str) -> ForeignItem | Rejected:
    if type(item.value) is not dict:
        return Rejected(place, f"its value is {type(item.value).__name__} in place of a dict")
    times = _aware(item.created_at), _aware(item.updated_at)
    labels = [*item.namespace]
    fields = {"prefix": ".".join(labels), "namespace": labels, "key": item.key}
    return ForeignItem(*(tuple(item.namespace), item.key, item.value, place, *times), fields=fields)


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)
