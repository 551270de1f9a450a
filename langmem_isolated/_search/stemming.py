"""Stemming: the forms under which a word is found; the only home of `Stemmer`, which is Snowball's.

Snowball has algorithms for 33 languages, and the package PyStemmer has them in C: 2,500 words take
0.6 ms, in Python 50.
"""

import threading
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from itertools import chain, filterfalse

import Stemmer

from langmem_isolated._search.tables import lines, listed

# Beside Latin, letters tell the language, or near enough for its stems.
_SCRIPTS = (
    ("\u0370", "\u03ff", ("greek",)),
    ("\u0400", "\u052f", ("russian",)),
    ("\u0530", "\u058f", ("armenian",)),
    ("\u0600", "\u06ff", ("arabic", "persian")),
    ("\u0900", "\u097f", ("hindi",)),
    ("\u0b80", "\u0bff", ("tamil",)),
)
_FIRST_SYLLABLE, _LAST_SYLLABLE = "\uac00", "\ud7a3"
# Korean syllables with one initial and vowel: without a final consonant, and with each of 27.
_FINALS = 28
_LONGEST_PARTICLE = 3
# Letters that no mark can be taken from, though people leave it out.
_PLAIN = str.maketrans(
    {"ł": "l", "ø": "o", "đ": "d", "\u0131": "i", "ħ": "h", "æ": "ae", "œ": "oe"}
)
# Words that are stemmed while no other thread runs: 3 ms.
_AT_ONCE = 10_000
_DIACRITICS = dict.fromkeys([*range(0x0300, 0x0370), *range(0x0653, 0x0656)])

# Stemmers that take away prefixes, or write initials in another way.
_CHANGE_INITIALS = frozenset(
    ["dutch", "esperanto", "indonesian", "irish", "porter", "serbian", "sesotho", "turkish"]
)

_per_thread = threading.local()


def forms(
    words: Collection[str], languages: Sequence[str], initials: Collection[str] | None = None
) -> Iterator[tuple[str, str]]:
    """Every word with each form under which it is found: its stems, without diacritics.

    Args:
        words: As :func:`~.words.words` makes them.
        languages: Of words in Latin letters, and of others if they are not told by their letters.
            In one that is not known, a word is its own form.
        initials: The first letters of the forms that are looked for, if not all are.
    """
    known = [language for language in languages if language in _algorithms()]
    plain = [word for word in words if word.isascii()]
    asked = [(language, _may_begin(plain, language, initials)) for language in known]
    stems = [zip(some, _stems(one, some), strict=True) for one, some in asked] or [
        zip(plain, plain, strict=True)
    ]
    others = filterfalse(str.isascii, words)
    return chain(
        chain.from_iterable(stems),
        ((word, form) for word in others for form in _forms_beyond_ascii(word, known)),
    )


def _may_begin(words: list[str], language: str, initials: Collection[str] | None) -> list[str]:
    """The words that may have a form that begins with one of some letters: a third of the work."""
    if initials is None or language in _CHANGE_INITIALS:
        return words
    irregular = _irregular() if language == "english" else ()
    return [word for word in words if word[:1] in initials or word in irregular]


@cache
def _algorithms() -> frozenset[str]:
    return frozenset(Stemmer.algorithms())


@cache
def _irregular() -> dict[str, str]:
    rows = (line.split() for line in lines("irregular_english.txt"))
    return {form: word for word, *others in rows for form in others}


def _stems(language: str, words: Sequence[str]) -> list[str]:
    # A stemmer serves one thread at a time. It keeps no words: others' would tell by time.
    stemmers = _per_thread.__dict__
    if language not in stemmers:
        stemmers[language] = Stemmer.Stemmer(language, maxCacheSize=0)
    if language == "english":
        irregular = _irregular()
        words = [irregular.get(word, word) for word in words]
    stems: list[str] = []
    for start in range(0, len(words), _AT_ONCE):
        stems += stemmers[language].stemWords(words[start : start + _AT_ONCE])
    return stems


def _forms_beyond_ascii(word: str, latin: Sequence[str]) -> set[str]:
    if _is_syllable(word[-1]):
        return _korean_forms(word, latin)
    own = next((names for first, last, names in _SCRIPTS if first <= word[0] <= last), latin)
    plain = folded(word)
    # Stemmers need the marks, and who leaves them out is understood as well.
    stems = {folded(stem) for name in own for stem in _stems(name, [word, plain])}
    return stems or {plain}


def folded(word: str) -> str:
    """A word without diacritics; marks that are vowels or change a consonant stay."""
    apart = unicodedata.normalize("NFKD", word).translate(_DIACRITICS)
    return unicodedata.normalize("NFC", apart).translate(_PLAIN)


def _is_syllable(character: str) -> bool:
    return _FIRST_SYLLABLE <= character <= _LAST_SYLLABLE


def _korean_forms(word: str, latin: Sequence[str]) -> set[str]:
    noun = _without_particle(word)
    if _is_syllable(noun[-1]):
        return {word, noun}
    # A particle stands behind words in other letters, and numbers, as well: API를.
    return {word, *(form for _, form in forms([noun], latin))}


def _without_particle(word: str) -> str:
    particles = listed("korean_particles.txt")
    for length in range(min(_LONGEST_PARTICLE, len(word) - 1), 0, -1):
        noun, particle = word[:-length], word[-length:]
        if particle in particles["either"].union(*(particles[end] for end in _endings(noun))):
            return noun
    return word


def _endings(noun: str) -> Sequence[str]:
    """What a noun may end in; how one in other letters is said is not known."""
    if not _is_syllable(noun[-1]):
        return "vowel", "consonant"
    is_open = (ord(noun[-1]) - ord(_FIRST_SYLLABLE)) % _FINALS == 0
    return ("vowel",) if is_open else ("consonant",)
