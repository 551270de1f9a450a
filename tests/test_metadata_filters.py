"""Filters on documents' metadata mean the same everywhere, and what has no meaning is refused."""

import datetime as dt
import importlib
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from langchain_classic.retrievers import SelfQueryRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.structured_query import (
    Comparator,
    Comparison,
    FilterDirective,
    Operation,
    Operator,
    StructuredQuery,
    Visitor,
)

from langmem_isolated import IsolatedMemory
from langmem_isolated._search import store_filters
from langmem_isolated._search.metadata_filters import metadata_test
from tests.embeddings import NGramEmbeddings

PROJECT = Path(__file__).parent.parent

LANTERN = {
    "topic": "harbour",
    "year": 2020,
    "score": 0.5,
    "draft": True,
    "tags": ["red", "lamp"],
    "place": {"town": "Husum", "pier": 4},
    "numbers": [1, 2, 3],
    "day": "2020-05-01",
    "at": dt.datetime(2020, 5, 1, tzinfo=dt.UTC),
}


def test_a_value_that_has_no_one_answer_equals_nothing_and_ends_no_search(memory: IsolatedMemory):
    scope = memory.scope(user_id="alice", module_id="tutor")
    notes, store = scope.vector_store(NGramEmbeddings()), scope.store()
    values = {"array": np.array([1, 2]), "float": np.float64(1.5), "text": "harbour"}
    for name, value in values.items():
        notes.add_texts([name], [{"topic": value}], ids=[name])
        store.put(("notes",), name, {"topic": value})

    for wanted in ({"topic": "harbour"}, {"topic": 10**400}, {"topic": {"$ne": 10**400}}):
        expected = {"text"} if wanted["topic"] == "harbour" else set()
        expected = {*values} if isinstance(wanted["topic"], dict) else expected
        found = notes.similarity_search("text", filter=wanted)
        assert {document.id for document in found} == expected
        assert {item.key for item in store.search(("notes",), filter=wanted)} == expected


@pytest.mark.parametrize(
    "wanted",
    [
        None,
        {},
        {"topic": "harbour"},
        {"topic": "harbour", "year": 2020},
        {"year": 2020.0},
        {"draft": True},
        {"missing": None},
        {"tags": ["red", "lamp"]},
        {"place": {"town": "Husum"}},
        {"place": {"pier": {"$gt": 3}}},
        {"topic": {"$eq": "harbour"}},
        {"topic": {"$ne": "airport"}},
        {"missing": {"$ne": "x"}},
        {"topic": {"$in": ["airport", "harbour"]}},
        {"topic": {"$nin": ["airport"]}},
        {"missing": {"$nin": ["airport"]}},
        {"year": {"$gt": 2019, "$lt": 2021}},
        {"year": {"$gte": 2020, "$lte": 2020}},
        {"score": {"$gt": 0}},
        {"topic": {"$gt": "a"}},
        {"year": {"$not": {"$gt": 2020}}},
        {"day": {"$gte": "2020-05-01"}},
        {"at": {"$lt": dt.datetime(2021, 1, 1, tzinfo=dt.UTC)}},
        {"tags": {"$contains": "red"}},
        {"topic": {"$contains": "bou"}},
        {"numbers": {"$contains": 2.0}},
        {"tags": {"$not": {"$contains": "re"}}},
        {"missing": {"$not": {"$contains": "x"}}},
        {"$and": [{"topic": "harbour"}, {"year": {"$gt": 2000}}]},
        {"$or": [{"topic": "airport"}, {"year": 2020}]},
        {"$not": {"topic": "airport"}},
        {"$not": {"$or": [{"topic": "airport"}, {"year": 1999}]}},
        {"topic": "harbour", "$or": [{"year": 1}, {"score": {"$lt": 1}}]},
    ],
)
def test_a_document_passes_a_filter_that_says_the_truth_of_it(wanted):
    assert metadata_test(wanted)(LANTERN)


@pytest.mark.parametrize(
    "wanted",
    [
        {"topic": "airport"},
        {"topic": "harbour", "year": 2021},
        {"missing": "x"},
        {"draft": 1},
        {"year": "2020"},
        {"tags": ["red"]},
        {"tags": "red"},
        {"place": {"town": "Kiel"}},
        {"topic": {"town": "harbour"}},
        {"topic": {"$ne": "harbour"}},
        {"topic": {"$in": []}},
        {"topic": {"$in": ["airport"]}},
        {"topic": {"$nin": ["harbour"]}},
        {"year": {"$gt": 2019, "$lt": 2020}},
        {"year": {"$gt": "2019"}},
        {"draft": {"$gt": 0}},
        {"missing": {"$gt": 0}},
        {"year": {"$not": {"$gt": 2000}}},
        {"tags": {"$contains": "re"}},
        {"topic": {"$contains": "Harbour"}},
        {"numbers": {"$contains": True}},
        {"year": {"$contains": 2020}},
        {"year": {"$contains": "20"}},
        {"missing": {"$contains": "x"}},
        {"place": {"$contains": "town"}},
        {"$and": [{"topic": "harbour"}, {"year": 1999}]},
        {"$or": [{"topic": "airport"}, {"year": 1999}]},
        {"$not": {"topic": "harbour"}},
        {"topic": "airport", "$or": [{"year": 2020}]},
    ],
)
def test_a_document_does_not_pass_a_filter_that_says_something_else(wanted):
    assert not metadata_test(wanted)(LANTERN)


@pytest.mark.parametrize(
    "wanted",
    [
        [],
        [{"topic": "SECRET"}],
        "SECRET",
        0,
        len,
        {"$SECRET": 1},
        {"topic": {"$regex": "SECRET"}},
        {"topic": {"$eq": "SECRET", "plain": 1}},
        {"topic": {}},
        {"topic": {"$not": {}}},
        {"topic": {"$in": "SECRET"}},
        {"topic": {"$nin": {"SECRET": 1}}},
        {"topic": len},
        {"topic": {"$eq": print}},
        {1: "SECRET"},
        {"$and": []},
        {"$or": {"topic": "SECRET"}},
        {"$or": [{}]},
        {"$and": ["SECRET"]},
        {"$not": {}},
        {"$not": [{"topic": "SECRET"}]},
        {"tags": {"$contains": ["SECRET"]}},
        {"tags": {"$contains": {"SECRET": 1}}},
        {"tags": {"$contains": None}},
        {"tags": {"$contains": ""}},
        {"tags": {"$contains": len}},
        {"day": {"$gte": {"date": "SECRET", "type": "date"}}},
        {"$not": {"$or": [{"year": {"$lt": None}}]}},
    ],
)
def test_a_filter_without_meaning_is_refused_and_not_quoted(wanted):
    with pytest.raises(ValueError) as caught:
        metadata_test(wanted)

    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("nested", ["$not", "key"])
def test_a_filter_that_is_too_deep_is_refused(nested: str):
    wanted: dict[str, object] = {"topic": "harbour"}
    for _ in range(5_000):
        wanted = {nested: wanted}

    with pytest.raises(ValueError, match="32 levels deep"):
        metadata_test(wanted)


def test_a_chain_of_operators_that_is_too_deep_is_refused():
    wanted: dict[str, object] = {"$eq": 1}
    for _ in range(5_000):
        wanted = {"$not": wanted}

    with pytest.raises(ValueError, match="32 levels deep"):
        metadata_test({"year": wanted})


@pytest.mark.parametrize("operator", ["$gt", "$gte", "$lt", "$lte"])
@pytest.mark.parametrize(
    "limit",
    [None, True, [2020], (2020,), {"date": "2021-01-01"}, {1}, b"x", 1j, math.nan, object()],
)
@pytest.mark.parametrize("compiles", [metadata_test, store_filters.compiled])
def test_a_limit_without_an_order_is_refused_where_it_would_let_nothing_pass(
    compiles, operator: str, limit: object
):
    with pytest.raises(ValueError, match=f"order: a number.* got {type(limit).__name__}"):
        compiles({"year": {operator: limit}})


PARTS = {
    "eq": ("year", 2020, 2021),
    "ne": ("year", 2021, 2020),
    "gt": ("year", 2019, 2020),
    "gte": ("year", 2020, 2021),
    "lt": ("year", 2021, 2020),
    "lte": ("year", 2020, 2019),
    "in": ("topic", ["harbour"], ["airport"]),
    "nin": ("topic", ["airport"], ["harbour"]),
}


def translator(name: str) -> Visitor:
    module, _, class_name = name.rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it is no longer maintained
        found = importlib.import_module(f"langchain_community.query_constructors.{module}")
    made: Visitor = getattr(found, class_name)()
    return made


@pytest.mark.parametrize(
    "name", ["pinecone.PineconeTranslator", "astradb.AstraDBTranslator", "chroma.ChromaTranslator"]
)
def test_translators_of_langchain_that_the_documentation_names_write_our_filters(name: str):
    assert name.rpartition(".")[2] in (PROJECT / "docs/how-to/filters.md").read_text()
    visitor = translator(name)
    known = {one.value for one in visitor.allowed_comparators or []} & PARTS.keys()
    assert known >= PARTS.keys() - ({"in", "nin"} if "Chroma" in name else set())

    def passes(part: FilterDirective) -> bool:
        query = StructuredQuery(query="x", filter=part, limit=None)
        return metadata_test(visitor.visit_structured_query(query)[1]["filter"])(LANTERN)

    for comparator in known:
        key, truth, lie = PARTS[comparator]
        true, false = (
            Comparison(comparator=Comparator(comparator), attribute=key, value=value)
            for value in (truth, lie)
        )
        assert passes(true)
        assert not passes(false)
        assert passes(Operation(operator=Operator.OR, arguments=[true, false]))
        assert not passes(Operation(operator=Operator.AND, arguments=[true, false]))


def test_a_model_asks_in_its_own_words_and_finds_what_its_filter_lets_pass(memory: IsolatedMemory):
    notes = memory.scope(user_id="alice", module_id="m").vector_store(NGramEmbeddings())
    notes.add_texts(["a lantern", "another lantern"], [{"year": 2020}, {"year": 2021}])
    later = Comparison(comparator=Comparator.GT, attribute="year", value=2020)
    retriever = SelfQueryRetriever(
        vectorstore=notes,
        query_constructor=RunnableLambda(
            lambda _: StructuredQuery(query="lantern", filter=later, limit=None)
        ),
        structured_query_translator=translator("pinecone.PineconeTranslator"),
    )

    assert [found.page_content for found in retriever.invoke("later?")] == ["another lantern"]
