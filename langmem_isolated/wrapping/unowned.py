"""Unowned documents: those of a third-party store that bear no owner, and that no scope finds."""

import logging
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from langmem_isolated._adapters.document_tags import OWNER

_log = logging.getLogger("langmem_isolated")
_TOLD = (
    "This %s holds documents that bear no owner: %s. They were written past this package, and no "
    "scope finds them. langmem_isolated.importers.Adoption gives each to its scope; or add them "
    "again, each by the vector store of the scope it belongs to."
)

MOST = 10_000
"""At most so many documents are looked at one by one: a first use is to take no minutes."""


class Unowned(NamedTuple):
    """How many documents of a store bear no owner.

    >>> ids = shared.add_texts(["Stored before it was wrapped."])
    >>> print(scope.vector_store(wrapping=shared, probe=False).unowned())
    1
    """

    documents: int
    is_exact: bool
    """Whether all were looked at; otherwise there are at least so many."""

    def __str__(self) -> str:
        return f"{self.documents}" if self.is_exact else f"at least {self.documents}"


def tell_of(found: Unowned, store: str) -> None:
    """Warn in the log of documents without an owner, if there are any."""
    if found.documents:
        _log.warning(_TOLD, store, found)


def without_owner(pairs: Iterable[tuple[Any, Mapping[str, Any] | None]]) -> list[Any]:
    """The ids of those pairs of id and metadata that have no owner."""
    return [id_ for id_, metadata in pairs if OWNER not in (metadata or {})]


def owners_in(metadatas: Iterable[Mapping[str, Any] | None], most: int = MOST) -> set[str]:
    """The owner tags that the first ``most`` metadata bear."""
    found = ((metadata or {}).get(OWNER) for metadata in islice(metadatas, most))
    return {owner for owner in found if isinstance(owner, str)}


def counted(metadatas: Iterable[Mapping[str, Any] | None], most: int = MOST) -> Unowned:
    """How many metadata have no owner, of the first ``most``."""
    seen = [OWNER in (metadata or {}) for metadata in islice(metadatas, most + 1)]
    return Unowned(seen[:most].count(False), len(seen) <= most)
