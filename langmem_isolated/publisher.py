"""Publisher: shared documents that more than one scope reads, for operators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.calls import made_by
from langmem_isolated.errors import ScopeError
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore

    from langmem_isolated.vector_store import IsolatedVectorStore
    from langmem_isolated.wrapping import WrappedVectorStore


@made_by("memory.publisher(module_id=…)", first=MemoryContext)
class Publisher:
    """The right to write at one shared level, made by ``memory.publisher(…)``.

    Who holds it may publish: keep it in the operator's code, away from requests and models. Scopes
    read what it wrote along with their own documents, and cannot change it.

    >>> library = memory.publisher(module_id="tutor").vector_store(embeddings)
    >>> ids = library.add_texts(["Percentages are fractions of 100."])
    >>> [found.page_content for found in scope.vector_store(embeddings).similarity_search("100")]
    ['Percentages are fractions of 100.']
    """

    def __init__(self, context: MemoryContext, owner: Owner) -> None:
        self._context = context
        self._owner = owner

    def __repr__(self) -> str:
        return f"Publisher(level={self._owner.level.name.lower()!r})"

    def vector_store(
        self,
        embeddings: Embeddings | None = None,
        /,
        *,
        wrapping: VectorStore | None = None,
        **options: Any,
    ) -> IsolatedVectorStore | WrappedVectorStore:
        """The level's own vector store; see :meth:`ScopedMemory.vector_store`."""
        sources = [self._context.records(self._owner)]
        return self._context.vector_store(sources, embeddings, wrapping, **options)

    def stamped(self, documents: Iterable[Document]) -> list[Document]:
        """Copies of ``documents`` with the level's stamp; see :meth:`ScopedMemory.stamped`."""
        from langmem_isolated._adapters.document_tags import ResultGuard

        return ResultGuard([self._context.records(self._owner)]).stamped(documents)


def published_owner(user_id: str | None, module_id: str | None, project_id: str | None) -> Owner:
    """Whose documents a publisher writes.

    Raises:
        ScopeError: No id is given, or both a user's and a module's, or one is malformed.
    """
    if user_id is None and module_id is None and project_id is None:
        raise ScopeError(
            "publisher() needs user_id=, module_id= or project_id=, got none: say who reads what "
            "it writes. There is no default."
        )
    if user_id is not None and module_id is not None:
        raise ScopeError(
            "publisher() takes user_id= or module_id=, got both: what both share is private to the "
            "scope. Write memory.scope(user_id=…, module_id=…).vector_store(…) for that."
        )
    project = checked_id("project_id", "default" if project_id is None else project_id)
    if user_id is not None:
        return Owner(Level.USER, project, checked_id("user_id", user_id))
    if module_id is not None:
        return Owner(Level.MODULE, project, None, checked_id("module_id", module_id))
    return Owner(Level.PROJECT, project)
