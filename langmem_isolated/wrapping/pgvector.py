"""Adapter of `PGVectorStore` (langchain-postgres)."""

import json
import re
from copy import copy
from dataclasses import replace
from typing import Any

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langmem_isolated._adapters.document_tags import OWNER
from langmem_isolated._codecs.values import is_utf8
from langmem_isolated._search.metadata_filters import Filter
from langmem_isolated.wrapping.adapters import Hit, Query, StandardAdapter, Vector, VectorRows
from langmem_isolated.wrapping.filter_conditions import OneOf, Within, conditions
from langmem_isolated.wrapping.pushdown import filter_of
from langmem_isolated.wrapping.unowned import MOST, Unowned

# From here on JSON shows floats with an exponent.
_LARGEST_PLAIN = 10**15
# A backslash that is itself escaped begins nothing.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class PGVectorStoreAdapter(StandardAdapter):
    """`PGVectorStore` of langchain-postgres, with an engine that has a loop of its own.

    Of the caller's filter only equality of texts, whole numbers and truth values is pushed down:
    other comparisons cast what stands in the rows, whoever's they are, and fail on what cannot be.
    Where an index of vectors stops before it has found enough, the search is done without it.
    """

    seals = True

    def __init__(self, store: VectorStore) -> None:
        super().__init__(store)
        self._inner = self.store._PGVectorStore__vs
        if self.store._engine._loop is None:
            raise TypeError(
                "This PGEngine has no loop of its own, and every call here may come from any "
                "thread: make it with PGEngine.from_connection_string(…)."
            )
        inner, unindexed = copy(self._inner), copy(self.store)
        inner.index_query_options = _WithoutIndex()
        unindexed._PGVectorStore__vs = inner
        self._unindexed = StandardAdapter(unindexed)

    @property
    def name(self) -> str:
        """PGVectorStore, and the table, with its schema unless that is the public one."""
        schema, table = self._inner.schema_name, self._inner.table_name
        return f"PGVectorStore {table if schema == 'public' else f'{schema}.{table}'}"

    def where(self, owners: list[str], wanted: Filter | None) -> dict[str, Any]:
        """The store's own filter language."""
        return filter_of([OneOf(OWNER, owners), *conditions(wanted)], self._word)

    def _word(self, condition: OneOf | Within) -> dict[str, Any] | None:
        if isinstance(condition, Within) or condition.key in self._columns:
            return None
        forms = [_json_texts(value) for value in condition.values]
        if not all(forms):
            return None
        texts = [text for form in forms for text in form]
        return {condition.key: {"$in": texts} if len(texts) > 1 else {"$eq": texts[0]}}

    @property
    def _columns(self) -> set[str]:
        inner = self._inner
        columns = {*inner.metadata_columns} - {OWNER}
        return columns | {inner.id_column, inner.content_column, inner.embedding_column}

    def put(self, documents: list[Document], vectors: list[Vector] | None) -> None:
        """Store documents, unless PostgreSQL could not look into their metadata any more.

        Raises:
            ValueError: Metadata hold NUL or lone surrogates. A column of JSON takes them, and then
                refuses every search of the table, whoever's.
        """
        if not all(_is_readable(document.metadata) for document in documents):
            raise ValueError(
                "Metadata hold NUL or lone surrogates, and PostgreSQL cannot search among these. "
                "Take them out of the texts, or wrap the store with seal=True."
            )
        super().put(documents, vectors)

    def put_vectors(self, rows: VectorRows) -> None:
        """Store vectors as they are."""
        self.store.add_embeddings(rows.texts, rows.vectors, metadatas=rows.metadatas, ids=rows.ids)

    def prepared(self, query: str) -> Query:
        """The text for a search by words, too."""
        return query if self._inner.hybrid_search_config else super().prepared(query)

    def search(self, query: Query, k: int, owners: list[str], wanted: Filter | None) -> list[Hit]:
        """The nearest documents; too few are looked for again without an index of vectors."""
        options = {"filter": self.where(owners, wanted), **self._words(query, k)}
        hits = self.nearest(query, k, **options)
        return hits if len(hits) >= k else self._unindexed.nearest(query, k, **options)

    def _words(self, query: Query, k: int) -> dict[str, Any]:
        """Settings of its own for a hybrid search.

        The store would keep the first query's words in shared ones, and search by them for all. And
        it would look at as many as those say, the 4 nearest by default, whatever ``k`` is.
        """
        shared = self._inner.hybrid_search_config
        if not shared:
            return {}
        if not isinstance(query, str):
            return {"hybrid_search_config": None}
        weights = {**shared.fusion_function_parameters}
        own = replace(
            shared,
            fts_query=query,
            fusion_function_parameters=weights,
            primary_top_k=max(k, shared.primary_top_k),
            secondary_top_k=max(k, shared.secondary_top_k),
        )
        return {"hybrid_search_config": own}

    def owned(self, owner: str, k: int) -> list[str]:
        """Ids of the owner's documents."""
        found: list[str] = self.store.get(where=self.where([owner], None), limit=k, include=[])[
            "ids"
        ]
        return found

    def unowned(self) -> Unowned:
        """How many documents have no owner, up to 10,000."""
        found = self.store.get(where={OWNER: {"$exists": False}}, limit=MOST, include=[])
        return Unowned(len(found["ids"]), len(found["ids"]) < MOST)

    def other_columns(self) -> list[str]:
        """Columns of the table that this store does not read, and would not write."""
        inner = self._inner

        async def names() -> set[str]:
            query = f'SELECT * FROM "{inner.schema_name}"."{inner.table_name}" LIMIT 0'  # noqa: S608 - its own names, which it quotes alike
            async with inner.engine.connect() as connection:
                return {*(await connection.exec_driver_sql(query)).keys()}

        known = self._columns | {OWNER, inner.metadata_json_column}
        return sorted(self.store._engine._run_as_sync(names()) - known)

    def unowned_ids(self) -> list[Any]:
        """Ids of all rows without an owner.

        Raises:
            TypeError: The table has columns that would be lost: the store does not read them.
        """
        if others := self.other_columns():
            raise TypeError(
                f"The table has {len(others)} columns that this PGVectorStore does not read. "
                "Nothing was changed. Make it with metadata_columns=[…] of all of them."
            )
        found: list[Any] = self.store.get(where={OWNER: {"$exists": False}}, include=[])["ids"]
        return found

    def vectors(self, ids: list[str]) -> list[Vector] | None:
        """The stored vectors."""
        found = self.store.get(ids=ids, include=["embeddings"])
        stored = dict(zip(found["ids"], found["embeddings"], strict=True))
        return [json.loads(stored[id_]) for id_ in ids]


class _WithoutIndex:
    """Settings of one query: vectors are compared one by one, and none is overlooked."""

    def to_parameter(self) -> list[str]:
        return ["enable_indexscan = off"]


def _is_readable(metadata: dict[str, Any]) -> bool:
    shown = json.dumps(metadata, ensure_ascii=False, default=str)
    return is_utf8(shown) and not _NUL.search(shown)


def _json_texts(value: str | float) -> list[str]:
    """How JSON in the database may show a value; none if that depends."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    # Zero, large ones and fractions have several forms.
    is_plain = value and value == int(value) and abs(value) < _LARGEST_PLAIN
    return [f"{int(value)}", f"{int(value)}.0"] if is_plain else []
