"""Vector store proxy: leads every call to the store of the scope which the call means."""

# LangChain takes any keyword and most stores drop what they do not know: here it is refused.
# mypy: disable-error-code="override"

from collections.abc import Callable
from typing import Any, NoReturn

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableConfig
from langchain_core.vectorstores import VectorStore

from langmem_isolated._adapters.compat import relevance_of
from langmem_isolated._adapters.vector_store_base import ScopedVectorStore
from langmem_isolated._search.metadata_filters import Filter
from langmem_isolated.retriever import RetrieverOfRun

FindStore = Callable[[RunnableConfig | None], ScopedVectorStore]

_LED = (
    *("add_documents", "add_texts", "delete", "clear", "reembed", "get_by_ids", "find"),
    *("similarity_search_by_vector", "similarity_search_with_score"),
    *("max_marginal_relevance_search", "max_marginal_relevance_search_by_vector"),
)


class VectorStoreOfRun(VectorStore):
    """A vector store for one graph that serves everybody: each call is of the run that makes it.

    Made by ``memory.vector_store(…)``. It has every method of a scope's store that reads or writes
    documents, with the same parameters; for the rest, ``memory.of_run().vector_store(…)``.

    Args:
        find: Makes the store of the scope that a call means, with the call's config if it has one;
            asked in the caller's context.
        embeddings: What turns texts into vectors, where that is ours to do.
    """

    def __init__(self, find: FindStore, embeddings: Embeddings | None) -> None:
        self._find = find
        self._embeddings = embeddings

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def embeddings(self) -> Embeddings | None:
        """What turns texts into vectors, where that is ours to do."""
        return self._embeddings

    def of_run(self, config: RunnableConfig | None = None) -> ScopedVectorStore:
        """The store of the scope that this call means, or one with ``config``."""
        return self._find(config)

    def as_retriever(self, **options: Any) -> RetrieverOfRun:
        """A retriever over the store of each call's scope, also of each part of a batch.

        Args:
            options: Those of LangChain's `VectorStore.as_retriever`.
        """
        return RetrieverOfRun(lambda config: self._find(config).as_retriever(**options))

    @classmethod
    def from_texts(cls, *_: Any, **__: Any) -> NoReturn:
        """Refused: make it with ``memory.vector_store(…)``.

        Raises:
            TypeError: Always.
        """
        raise TypeError(f"{cls.__name__} is made by memory.vector_store(…).")

    def similarity_search(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Filter | None = None,  # noqa: A002
    ) -> list[Document]:
        """The nearest documents; see `ScopedVectorStore.similarity_search`."""
        return self.of_run().similarity_search(query, k, filter=filter)

    async def asimilarity_search(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Filter | None = None,  # noqa: A002
    ) -> list[Document]:
        """The nearest documents; see :meth:`similarity_search`."""
        return await self.of_run().asimilarity_search(query, k, filter=filter)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return relevance_of(self.of_run())


def _led(name: str) -> Callable[..., Any]:
    def call(self: VectorStoreOfRun, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.of_run(), name)(*args, **kwargs)

    return _named(call, name)


def _aled(name: str) -> Callable[..., Any]:
    async def call(self: VectorStoreOfRun, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self.of_run(), name)(*args, **kwargs)

    return _named(call, name)


def _named(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    call.__name__, call.__qualname__ = name, f"VectorStoreOfRun.{name}"
    call.__doc__ = f"See `ScopedVectorStore.{name}`."
    return call


for _name in _LED:
    setattr(VectorStoreOfRun, _name, _led(_name))
    setattr(VectorStoreOfRun, f"a{_name}", _aled(f"a{_name}"))
