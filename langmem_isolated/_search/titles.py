"""Titles: found by words, or the beginnings and parts of words, however these are written."""

from langmem_isolated._search.stemming import folded
from langmem_isolated._search.words import query_words, words


def title_parts(query: str) -> list[str]:
    """What :func:`has_parts` looks for: the words of a query in lower case, without diacritics."""
    return [folded(one.word) for one in query_words(query)]


def has_parts(title: str | None, parts: list[str]) -> bool:
    """Whether each part is in the title; nothing is asked of it where there are no parts."""
    if not parts:
        return True
    found = folded(" ".join(words(title or "")))
    return all(part in found for part in parts)
