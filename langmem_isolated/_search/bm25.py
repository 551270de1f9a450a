"""BM25: how well texts fit a query by its words.

The score is BM25 as Lucene has it, and a test compares it with the library bm25s. That library
makes an index of all words before it answers: over 10,000 messages of 40 words 225 ms, or 102 of
the query's words alone. Messages are added at every turn, so the index would rarely be used twice.
"""

import math
from collections import Counter
from collections.abc import Sequence

from langmem_isolated._search.matching import Matches, matching

# How soon a repeated word stops to count for more, and how much long texts are held back.
_SATURATION, _LENGTH = 1.5, 0.75
# By how much a rare word counts for more than in BM25, as an exponent. On conversations with 530
# questions, 1.5 finds 1 % more of the answers than 1 (benchmarks/recall.py).
_RARITY = 1.5
# To count all words of a text takes as long as to count so many one by one.
_FEW = 6


def bm25(matches: Matches, texts: Sequence[Sequence[str]], rarity: float = 1.0) -> list[float]:
    """The score of each text, 0 for one that has none of the words.

    Args:
        matches: Which words count, and for which term.
        texts: The words of each text.
        rarity: Exponent of a term's inverse document frequency.
    """
    shared = frozenset(matches.term_of).intersection
    found: list[dict[int, int]] = [{} for _ in range(matches.terms)]
    for number, text in enumerate(texts):
        matching_words = shared(text)
        count = text.count if len(matching_words) < _FEW else Counter(text).__getitem__
        for word in matching_words:
            having = found[matches.term_of[word]]
            having[number] = having.get(number, 0) + count(word)
    mean = sum(map(len, texts)) / len(texts) if any(texts) else 1
    scores = [0.0] * len(texts)
    for having in found:
        weight = math.log1p((len(texts) - len(having) + 0.5) / (len(having) + 0.5)) ** rarity
        for number, n in having.items():
            held_back = _SATURATION * (1 - _LENGTH + _LENGTH * len(texts[number]) / mean)
            scores[number] += weight * n / (n + held_back)
    return scores


def query_scores(
    query: str, texts: Sequence[Sequence[str]], language: str | None = None
) -> list[float]:
    """How well each text fits a query by its words.

    Args:
        query: What is asked.
        texts: What :func:`~.words.words` made of each text.
        language: As in :func:`~.matching.matching`.
    """
    return bm25(matching(query, texts, language), texts, _RARITY)


def best_first(scores: Sequence[float]) -> list[tuple[int, float]]:
    """Number and score of what scores above 0, the best first; of equals, the later one first."""
    found = [(number, score) for number, score in enumerate(scores) if score > 0]
    return sorted(found, key=lambda one: (-one[1], -one[0]))
