"""Semantic index: what finds the texts in a value, embeds them and ranks them."""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Literal

from langchain_core.embeddings import Embeddings
from langgraph.store.base import IndexConfig, ensure_embeddings, get_text_at_path, tokenize_path

from langmem_isolated._adapters.embedding_calls import counted
from langmem_isolated._search.embedding_models import embedding_model_name, model_digest
from langmem_isolated._search.vectors import VectorSpace
from langmem_isolated._storage.items import reading


class StoreIndexConfig(IndexConfig, total=False):
    """LangGraph's `IndexConfig`, how vectors are compared, and which may be."""

    distance_type: Literal["cosine", "l2", "inner_product"]
    """``"cosine"`` if not given. The score of ``"l2"`` is the negative distance."""
    embedding_name: str | None
    """Names the model, if its class and settings do not; vectors of another are ranked last."""


class Index:
    """What finds the texts in a value, embeds them and ranks them."""

    def __init__(self, config: StoreIndexConfig) -> None:
        self.space = VectorSpace(config.get("dims", 0), config.get("distance_type", "cosine"))
        self.embeddings: Embeddings = ensure_embeddings(config.get("embed"))
        name = embedding_model_name(self.embeddings, config.get("embedding_name"))
        self._model = model_digest(name)
        self._paths = [_tokens(path) for path in config.get("fields") or ["$"]]

    def vectors(self, texts: Collection[str], made: Sequence[Sequence[float]]) -> list[bytes]:
        """What is stored of the embeddings of ``texts``: behind 16 bytes for the model."""
        return [self._model + self.space.pack(vector) for vector in counted(made, len(texts))]

    def meaning(self, query: bytes) -> reading.Meaning:
        """How near vectors are to a query, packed, if they are of this model."""
        return reading.Meaning(self._model, partial(self.space.scores, query))

    def texts(self, value: dict[str, Any], fields: list[str] | None) -> list[str]:
        """The texts of ``value`` to embed, in ``fields`` or those of the index."""
        paths = self._paths if fields is None else [_tokens(path) for path in fields]
        try:
            return [text for path in paths for text in get_text_at_path(value, path)]
        except TypeError:
            raise TypeError(
                "What is indexed must be JSON, and a field of this value is not. Nothing was "
                "written. Name other fields to index, or put it with index=False."
            ) from None


def _tokens(path: str) -> str | list[str]:
    return path if path == "$" else tokenize_path(path)
