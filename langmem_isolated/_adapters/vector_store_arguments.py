"""Arguments of `vector_store` and `retriever`: embeddings, or another package's vector store."""

from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langmem_isolated._runtime.arguments import checked_embeddings, kind_of, refuse_single

# What a memory fills in by itself.
_OURS = {"self", "sources", "records", "store", "embeddings", "plaintext_cache"}


def check_source(embeddings: object, wrapping: object) -> None:
    """Refuse anything but either embeddings or a vector store of another package.

    Raises:
        TypeError: Neither is given, or both, or one in place of the other, or something else.
    """
    if (embeddings is None) == (wrapping is None):
        given = "neither" if embeddings is None else "both"
        raise TypeError(
            f"vector_store() takes embeddings, or wrapping=…, and not both, got {given}. Write "
            "vector_store(embeddings), or vector_store(wrapping=store)."
        )
    if isinstance(embeddings, VectorStore):
        raise TypeError(
            f"vector_store() takes embeddings by position, got {kind_of(embeddings)}, a vector "
            "store. Write vector_store(wrapping=store)."
        )
    if embeddings is not None:
        checked_embeddings(embeddings)
    elif not isinstance(wrapping, VectorStore):
        raise TypeError(
            f"wrapping= takes an object of a LangChain VectorStore, got {kind_of(wrapping)}. Make "
            "the store first, such as Chroma(…), or give embeddings by position."
        )


def check_options(options: dict[str, Any], *, of: type) -> None:
    """Refuse options that a class of vector stores does not have.

    Raises:
        TypeError: It has no option of that name.
    """
    known = [name for name in signature(of).parameters if name not in _OURS]
    if unknown := [name for name in options if name not in known]:
        raise TypeError(
            f"vector_store() got an unexpected keyword argument {unknown[0]!r}; here it has "
            f"{', '.join(known)}. Embeddings are given by position, a store as wrapping=…."
        )


def check_documents(documents: Iterable[Any]) -> list[Any]:
    """``documents`` in a list, if they are LangChain's.

    Raises:
        TypeError: One is given alone, or is something else.
    """
    refuse_single("documents", documents, (Document,), example="[document]")
    listed = list(documents)
    for one in listed:
        if not isinstance(one, Document):
            raise TypeError(
                f"documents must be LangChain's Documents, got a {kind_of(one)} among them. Write "
                "Document(text), or give texts to add_texts(). Nothing was written."
            )
    return listed


def check_retrieved(source: object) -> None:
    """Refuse what is neither embeddings, nor a vector store, nor a retriever.

    Raises:
        TypeError: It is none of these.
    """
    embeds = hasattr(source, "embed_documents") and hasattr(source, "embed_query")
    finds = hasattr(source, "similarity_search") or hasattr(source, "invoke")
    if isinstance(source, type) or not (embeds or finds):
        raise TypeError(
            "retriever() takes embeddings, a vector store or a retriever, got "
            f"{kind_of(source)}. Make an object of one of these first."
        )


def checked_query(query: str | list[float]) -> str | list[float]:
    """``query``, if it is a text or the numbers of a vector; else `TypeError`."""
    if isinstance(query, str):
        return query
    numbers = hasattr(query, "__getitem__") and len(query) > 0 and not isinstance(query[0], str)
    if isinstance(query, bytes | Mapping) or not numbers:
        raise TypeError(
            f"query must be a str, or a vector as a list of float, got {kind_of(query)}. "
            "Ask for one text at a time. Nothing was read."
        )
    return query
