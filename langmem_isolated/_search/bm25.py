"""Lexical search: tokenization of any script, and BM25 ranking.

The score is BM25 as Lucene has it, and a test compares it with the library bm25s. That library
makes an index of all words before it answers: over 10,000 messages of 40 words 225 ms, or 102 of
the query's words alone. Messages are added at every turn, so the index would rarely be used twice;
to count the query's words takes 11.
"""

import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from functools import cache

# How soon a repeated word stops to count for more, and how much long texts are held back.
_SATURATION, _LENGTH = 1.5, 0.75

# Scripts that put no spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han.
_RUN = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_END_OF_PLANE = 0x10000
# To split ASCII by a table takes 1.7 µs for 40 words, by the pattern 8.
_ASCII = "".join(c.lower() if c.isalnum() or c == "_" else " " for c in map(chr, range(128)))


@cache
def _word() -> re.Pattern[str]:
    r"""Letters, digits and underscores with the marks on them, which ``\w`` leaves out.

    Without marks नमस्ते would be two words. To find them takes 6 ms, once.
    """
    every = map(chr, range(_END_OF_PLANE))
    marks = "".join(char for char in every if unicodedata.category(char).startswith("M"))
    return re.compile(rf"\w+(?:[{marks}\u200c\u200d]+\w*)*")


def words(text: str) -> list[str]:
    """Every word of a text, alike for upper and lower case and for all ways to write a character.

    Where a script has no spaces, each character is one, and each two that follow another.
    """
    if text.isascii():
        return text.translate(_ASCII).split()
    found = _word().findall(unicodedata.normalize("NFKC", text).casefold())
    return [part for word in found for part in _parts(word, pairs_only=False)]


def terms(query: str) -> frozenset[str]:
    """The words that a query asks for; of a script without spaces the pairs of characters."""
    found = _word().findall(unicodedata.normalize("NFKC", query).casefold())
    return frozenset(part for word in found for part in _parts(word, pairs_only=True))


def _parts(word: str, *, pairs_only: bool) -> list[str]:
    if word.isascii() or not _RUN.search(word):
        return [word]
    parts: list[str] = []
    end = 0
    for run in _RUN.finditer(word):
        parts += [word[end : run.start()]] if run.start() > end else []
        characters, end = run[0], run.end()
        pairs = [characters[at : at + 2] for at in range(len(characters) - 1)]
        parts += pairs if pairs and pairs_only else [*characters, *pairs]
    return parts + ([word[end:]] if end < len(word) else [])


def rank(asked: Collection[str], texts: Iterable[Sequence[str]]) -> list[tuple[int, float]]:
    """The texts that have at least one of the words ``asked`` for, the best first.

    Args:
        asked: What :func:`terms` made of a query.
        texts: What :func:`words` made of each text.

    Returns:
        Number and BM25 score of each; of equal scores, the one further behind in ``texts`` first.
    """
    shared = frozenset(asked).intersection
    lengths: list[int] = []
    counts: dict[str, list[tuple[int, int]]] = {word: [] for word in asked}
    for number, text in enumerate(texts):
        lengths.append(len(text))
        for word in shared(text):
            counts[word].append((number, text.count(word)))
    mean = sum(lengths) / len(lengths) if any(lengths) else 1
    scores: dict[int, float] = {}
    for having in counts.values():
        weight = math.log1p((len(lengths) - len(having) + 0.5) / (len(having) + 0.5))
        for number, n in having:
            held_back = _SATURATION * (1 - _LENGTH + _LENGTH * lengths[number] / mean)
            scores[number] = scores.get(number, 0.0) + weight * n / (n + held_back)
    return sorted(scores.items(), key=lambda found: (-found[1], -found[0]))
