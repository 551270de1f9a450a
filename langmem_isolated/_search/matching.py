"""Which words of texts match the words of a query."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from langmem_isolated._search.languages import (
    language_name,
    language_of,
    languages_in,
    stop_words,
)
from langmem_isolated._search.stemming import forms
from langmem_isolated._search.words import QueryWord, query_words


class Matches(NamedTuple):
    """The words that match, by the term of the query that they match."""

    term_of: Mapping[str, int]
    terms: int
    """How many terms the query has; they are numbered from 0."""


def matching(query: str, texts: Sequence[Sequence[str]], language: str | None = None) -> Matches:
    """The words of the texts that match one of a query.

    Words match that have one stem, with or without diacritics or a Korean particle. A query's
    function words match nothing, unless it has no others.

    Args:
        query: What is asked.
        texts: What :func:`~.words.words` made of each text.
        language: Of query and texts, a code of ISO 639-1 or an English name; by default those that
            are found in them.
    """
    asked = query_words(query)
    if not asked:
        return Matches({}, 0)
    vocabulary: set[str] = set()
    # One by one: all at once keep other threads waiting for a second, if there are 10,000.
    for text in texts:
        vocabulary.update(text)
    spoken = _spoken(asked, texts, language)
    chosen = _without_stop_words(_with_fallbacks(asked, vocabulary), spoken)
    terms = _terms(chosen, spoken)
    found = forms(vocabulary, spoken, {form[:1] for form in terms})
    term_of = {word: terms[form] for word, form in found if form in terms}
    return Matches(term_of, len(chosen))


def _spoken(
    asked: Sequence[QueryWord], texts: Sequence[Sequence[str]], language: str | None
) -> list[str]:
    """The languages of query and texts, that of the query first if it is known."""
    if language is not None:
        return [language_name(language)]
    own = language_of((one.word for one in asked), fewest=1)
    return [*dict.fromkeys([own, *languages_in(texts)] if own else languages_in(texts))]


def _with_fallbacks(asked: Sequence[QueryWord], vocabulary: Collection[str]) -> list[str]:
    """The words asked for; in place of those of which no text has any, what stands in for them."""
    found = {one.fallback for one in asked if one.word in vocabulary}
    words = ([one.word] if one.fallback in found else one.fallback or [one.word] for one in asked)
    return [word for part in words for word in part]


def _without_stop_words(words: list[str], spoken: Sequence[str]) -> list[str]:
    # Cyrillic words are nobody else's.
    listed = stop_words("russian").union(*map(stop_words, spoken[:1]))
    return [word for word in words if word not in listed] or words


def _terms(words: Sequence[str], spoken: Sequence[str]) -> dict[str, int]:
    """The number of a query's word by its forms; two with a form in common have one number."""
    numbers = {word: number for number, word in enumerate(words)}
    terms: dict[str, int] = {}
    for word, form in forms(numbers, spoken):
        numbers[word] = terms.setdefault(form, numbers[word])
    return terms
