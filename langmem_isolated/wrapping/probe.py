"""Isolation probe (canary): tries a vector store with two owners who do not exist."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from langchain_core.documents import Document

from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._runtime.limits import DEFAULT_LIMITS
from langmem_isolated._runtime.operations import Operations
from langmem_isolated.errors import IsolationViolation

_NAME = "canary"
_TEXT = "langmem-isolated looks whether this store keeps owners apart"


class ThrowawayOwner:
    """An owner that exists in this object only: its keys are random and stored nowhere."""

    def __init__(self) -> None:
        self.limits, self.operations = DEFAULT_LIMITS, Operations()
        self.owner = Owner.anonymous(os.urandom(16).hex(), project="probe")
        nobody, birth = bytes(DIGEST_BYTES), os.urandom(16)
        naming, sealing = SecretBytes.random(), SecretBytes.random()
        self._keys = ScopeKeys(self.owner, nobody, 0, birth, naming, [sealing])

    def having_records(self, sources: Sequence[Any]) -> list[Any]:
        """All: each is asked for its keys."""
        return list(sources)

    def living_keys(self) -> ScopeKeys:
        """Its keys."""
        return self._keys

    def find_living_keys(self) -> ScopeKeys | None:
        """Its keys."""
        return self._keys

    def check_life(self, keys: ScopeKeys) -> ScopeKeys:
        """Nobody erases it, or rotates its keys."""
        return keys

    def refuse_if_ended(self) -> None:
        """Nobody erases it."""

    def write(self, operation: Callable[..., Any], *args: Any) -> None:
        """Nothing: what it writes is removed at once, and there is nothing to be noted."""

    def rotated_keys(self, keys: ScopeKeys, key_id: bytes | None) -> ScopeKeys | None:  # noqa: ARG002
        """None: nobody rotates them."""
        return None

    async def arun(self, body: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run ``body`` where the caller is: a probe is synchronous."""
        return body(*args, **kwargs)


class Store(Protocol):
    """What the probe asks of a wrapped store."""

    def add_documents(self, documents: list[Document], /) -> list[str]:
        """Store documents."""

    def get_by_ids(self, ids: list[str], /) -> list[Document]:
        """The documents of these ids."""

    def delete(self, ids: list[str], /) -> None:
        """Remove documents."""

    def similarity_search(self, query: str, k: int, /) -> list[Document]:
        """The ``k`` nearest documents."""


def probe(one: Store, other: Store) -> None:
    """Raise `IsolationViolation` if the owners of ``one`` and ``other`` meet in their store.

    Both write a document of the same id and the same vector; what they wrote is removed again,
    whatever happens.
    """
    try:
        _probe(one, other)
    finally:
        for store in (one, other):
            store.delete([_NAME])


def _probe(one: Store, other: Store) -> None:
    _put(one, 1)
    _put(other, 2)
    _expect(_seen(one) == [1] and _seen(other) == [2], "it hands out another owner's document")
    _expect(
        _found(one) == [1] and _found(other) == [2], "a write replaced another owner's document"
    )
    _put(one, 3)
    _expect(_found(one) == [3] and _seen(one) == [3], "a document does not replace its older self")
    _expect(_found(other) == [2], "a write replaced another owner's document")
    one.delete([_NAME])
    _expect(_found(one) == [] and _seen(one) == [], "what was deleted is still there")
    _expect(_found(other) == _seen(other) == [2], "a deletion took another owner's document")


def _put(store: Store, version: int) -> None:
    store.add_documents([Document(id=_NAME, page_content=_TEXT, metadata={"version": version})])


def _seen(store: Store) -> list[Any]:
    return [document.metadata.get("version") for document in store.similarity_search(_TEXT, 2)]


def _found(store: Store) -> list[Any]:
    return [document.metadata.get("version") for document in store.get_by_ids([_NAME])]


def _expect(kept: bool, reason: str) -> None:
    if not kept:
        raise IsolationViolation(
            f"This vector store does not keep owners apart: {reason}. Nothing was stored. Make it "
            "keep metadata and take ids, write an adapter for it, or use another."
        )
