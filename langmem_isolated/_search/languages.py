"""Languages of texts: told by function words, which are also what a query can do without."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from langmem_isolated._search.tables import listed

# Codes of ISO 639-1, as people give them; Snowball has names.
_CODES = {
    "ar": "arabic",
    "ca": "catalan",
    "cs": "czech",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fa": "persian",
    "fi": "finnish",
    "fr": "french",
    "ga": "irish",
    "hi": "hindi",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "it": "italian",
    "ko": "korean",
    "lt": "lithuanian",
    "nb": "norwegian",
    "ne": "nepali",
    "nl": "dutch",
    "nn": "norwegian",
    "no": "norwegian",
    "pl": "polish",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sr": "serbian",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
    "yi": "yiddish",
}
# So many texts tell which languages there are; to look at one takes 3 µs. A query tells its own.
_SAMPLE = 128


def language_name(code_or_name: str) -> str:
    """The name of a language in English, in lower case; one that is not known is returned as is."""
    name = code_or_name.casefold()
    return _CODES.get(name.partition("-")[0], name)


def stop_words(language: str) -> frozenset[str]:
    """The function words of a language, as far as they are known."""
    return listed("stop_words.txt").get(language, frozenset())


class _Lanes(NamedTuple):
    """Counters of all languages in one integer, two bytes for each: to add is to count."""

    languages: tuple[str, ...]
    of_word: dict[str, int]
    words: frozenset[str]


@cache
def _lanes() -> _Lanes:
    table = listed("stop_words.txt")
    of_word: dict[str, int] = {}
    for number, words in enumerate(table.values()):
        for word in words:
            of_word[word] = of_word.get(word, 0) + (1 << 16 * number)
    return _Lanes(tuple(table), of_word, frozenset(of_word))


def language_of(words: Iterable[str], fewest: int) -> str | None:
    """The language with most of a text's function words, if it leads with at least ``fewest``."""
    languages, of_word, known = _lanes()
    total = sum(map(of_word.__getitem__, known.intersection(words)))
    hits = memoryview(total.to_bytes(2 * len(languages), sys.byteorder)).cast("H").tolist()
    if sys.byteorder == "big":
        hits.reverse()
    most = max(hits)
    if most < fewest or hits.count(most) > 1:
        return None
    return languages[hits.index(most)]


def languages_in(texts: Sequence[Sequence[str]]) -> list[str]:
    """The languages of texts, as far as function words tell them; the most frequent first."""
    sample = texts[:: max(1, len(texts) // _SAMPLE)]
    found = Counter(language_of(text, fewest=2) for text in sample)
    return [language for language, _ in found.most_common() if language]
