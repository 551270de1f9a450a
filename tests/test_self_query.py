"""Which of LangChain's translators for `SelfQueryRetriever` write filters that are ours."""

import warnings
from typing import Any

import pytest
from langchain_core.structured_query import (
    Comparator,
    Comparison,
    Operation,
    Operator,
    StructuredQuery,
    Visitor,
)

from langmem_isolated._search.metadata_filters import metadata_test
from tests.test_docs import PAGES

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from langchain_community.query_constructors.astradb import AstraDBTranslator
    from langchain_community.query_constructors.chroma import ChromaTranslator
    from langchain_community.query_constructors.pinecone import PineconeTranslator


def year(comparator: Comparator, value: Any) -> Comparison:
    return Comparison(comparator=comparator, attribute="year", value=value)


def both(operator: Operator) -> Operation:
    arguments: list[Any] = [year(Comparator.GTE, 2024), year(Comparator.LT, 2026)]
    return Operation(operator=operator, arguments=arguments)


# What a model may ask for, the years that pass, and those that do not.
ASKED: list[tuple[Any, list[int], list[int]]] = [
    (year(Comparator.EQ, 2025), [2025], [2024, 2026]),
    (year(Comparator.NE, 2025), [2024, 2026], [2025]),
    (year(Comparator.GT, 2025), [2026], [2025]),
    (year(Comparator.GTE, 2025), [2025], [2024]),
    (year(Comparator.LT, 2025), [2024], [2025]),
    (year(Comparator.LTE, 2025), [2025], [2026]),
    (both(Operator.AND), [2024, 2025], [2023, 2026]),
    (both(Operator.OR), [2023, 2027], []),
]
LISTS: list[tuple[Any, list[int], list[int]]] = [
    (year(Comparator.IN, [2024, 2025]), [2024, 2025], [2026]),
    (year(Comparator.NIN, [2024, 2025]), [2026], [2024, 2025]),
]


@pytest.mark.parametrize(
    ("translator", "asked"),
    [
        (PineconeTranslator(), ASKED + LISTS),
        (AstraDBTranslator(), ASKED + LISTS),
        (ChromaTranslator(), ASKED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_translator_that_the_guide_names_writes_filters_as_ours(
    translator: Visitor, asked: list[tuple[Any, list[int], list[int]]]
):
    assert f"`{type(translator).__name__}()`" in PAGES["docs/guide.md"].replace(
        "`structured_query_translator=", "`"
    )
    for wanted, passing, others in asked:
        _, written = translator.visit_structured_query(StructuredQuery(query="", filter=wanted))
        passes = metadata_test(written["filter"])
        assert [n for n in passing + others if passes({"year": n})] == passing
