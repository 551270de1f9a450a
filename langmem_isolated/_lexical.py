"""Splits texts of any script into words, and ranks them by the words that they share with a query.

The score is BM25 as Lucene has it, and a test compares it with the library bm25s. That library
makes an index of all words before it answers: over 10,000 messages of 40 words 225 ms, or 102 of
the query's words alone. Messages are added at every turn, so the index would rarely be used twice;
to count the query's words takes 11.
"""

import math
import re
import unicodedata
from collections.abc import Collection, Sequence
from functools import cache

# How soon a repeated word stops to count for more, and how much long texts are held back.
_SATURATION, _LENGTH = 1.5, 0.75

# Scripts that put no spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han.
_RUN = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_END_OF_PLANE = 0x10000


@cache
def _word() -> re.Pattern[str]:
    r"""Letters, digits and underscores with the marks on them, which ``\w`` leaves out.

    Without marks नमस्ते would be two words. To find them takes 6 ms, once.
    """
    every = map(chr, range(_END_OF_PLANE))
    marks = "".join(char for char in every if unicodedata.category(char).startswith("M"))
    return re.compile(rf"\w+(?:[{marks}\u200c\u200d]+\w*)*")


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", text).casefold()


def words(text: str) -> list[str]:
    """Every word of a text, alike for upper and lower case and for all ways to write a character.

    Where a script has no spaces, each character is one, and each two that follow another.
    """
    found = _word().findall(_folded(text))
    if text.isascii():
        return found
    return [part for word in found for part in _parts(word, pairs_only=False)]


def terms(query: str) -> frozenset[str]:
    """The words that a query asks for; of a script without spaces the pairs of characters."""
    found = _word().findall(_folded(query))
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


def rank(asked: Collection[str], texts: Sequence[Sequence[str]]) -> list[tuple[int, float]]:
    """The texts that have at least one of the words ``asked`` for, the best first.

    Args:
        asked: What :func:`terms` made of a query.
        texts: What :func:`words` made of each text.

    Returns:
        Number and BM25 score of each; of equal scores, the one further behind in ``texts`` first.
    """
    asked = frozenset(asked)
    counted: list[tuple[int, dict[str, int]]] = []
    having = dict.fromkeys(asked, 0)
    for number, text in enumerate(texts):
        if not asked.isdisjoint(text):
            counts = {word: text.count(word) for word in asked.intersection(text)}
            counted.append((number, counts))
            for word in counts:
                having[word] += 1
    if not counted:
        return []
    weights = {word: math.log1p((len(texts) - n + 0.5) / (n + 0.5)) for word, n in having.items()}
    mean = sum(map(len, texts)) / len(texts)

    def score(number: int, counts: dict[str, int]) -> float:
        held_back = _SATURATION * (1 - _LENGTH + _LENGTH * len(texts[number]) / mean)
        return sum(weights[word] * n / (n + held_back) for word, n in counts.items())

    scored = [(number, score(number, counts)) for number, counts in counted]
    scored.sort(key=lambda found: (-found[1], -found[0]))
    return scored
