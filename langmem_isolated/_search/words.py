"""Tokenization: the words of a text in any script, alike for every way to write them."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

# Scripts that put no spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han.
_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff" + _HAN
_RUN = re.compile(f"[{_SPACELESS}]+")
HAN = re.compile(f"[{_HAN}]")
# Pictures are words: a flag is two letters, and other pictures stand alone.
_SYMBOLS = "\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff"
_PICTURES = f"[\U0001f1e6-\U0001f1ff]{{2}}|[{_SYMBOLS}\U0001f000-\U0001faff]"
# To split ASCII by a table takes 1.2 µs for 25 words, by the pattern 2.6; a table of a str's, 1.7.
_ASCII = bytes(
    ord(c.lower()) if c.isascii() and (c.isalnum() or c == "_") else ord(" ")
    for c in map(chr, range(256))
)
# What is neither ASCII nor typographic punctuation, which makes an otherwise plain text no other.
_BEYOND = re.compile("[^\x00-\x7f\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u00a0]")
# The last plane in which scripts, marks and digits stand, and where invisible tags do.
_SCANNED = [*range(0x20000), *range(0xE0000, 0xE1000)]
_VOWEL_MARKS = [
    *range(0x0591, 0x05C8),  # Hebrew
    *(*range(0x0610, 0x061B), *range(0x064B, 0x0660), 0x0640, 0x0670, *range(0x06D6, 0x06ED)),
]
# These are letters, and written as often with the other apostrophes, which are none.
_APOSTROPHES = (0x02BB, 0x02BC)
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_VARIATION_SELECTORS = [*range(0xFE00, 0xFE10), *range(0x180B, 0x180E)]
# Of more marks in a row those behind do not count: to put them in order takes time by the square of
# their number. Unicode's stream-safe texts have 30.
_MOST_MARKS, _STEP = 64, 8
# These are letters, and become marks.
_HALF_WIDTH_MARKS = "\uff9e\uff9f"
# What is done at once with a text, and lets no other thread run, takes 20 ms for so many
# characters: one of them may stand for 18.
_PIECE = 4_096


# Four times as fast as the pattern that knows of marks and pictures.
_PLAIN_WORD = re.compile(r"\w+")


class _Tables(NamedTuple):
    word: re.Pattern[str]
    translation: dict[int, str]
    marks: frozenset[str]
    many_marks: re.Pattern[str]
    special: re.Pattern[str]
    """What makes a text more than letters, digits and what is between them."""


@cache
def _tables() -> _Tables:
    r"""What a word is, with marks that ``\w`` leaves out, and what makes no difference.

    Without marks नमस्ते would be two words. To go through all characters takes 30 ms, once.
    """
    marks, translation = [], dict.fromkeys([*_VARIATION_SELECTORS, *_SKIN_TONES], "")
    for code in _SCANNED:
        category = unicodedata.category(character := chr(code))
        if category[0] == "M":
            marks.append(character)
        elif category == "Cf":  # soft hyphens, joiners, directions
            translation[code] = ""
        elif category == "Nd":
            translation[code] = str(unicodedata.decimal(character))
    translation.update(dict.fromkeys(_VOWEL_MARKS, ""))
    translation.update(dict.fromkeys(_APOSTROPHES, " "))
    of_words = "".join(marks)
    all_marks = of_words + _HALF_WIDTH_MARKS
    return _Tables(
        re.compile(rf"\w+(?:[{of_words}]+\w*)*|{_PICTURES}"),
        translation,
        frozenset(all_marks),
        re.compile(f"([{all_marks}]{{{_MOST_MARKS}}})[{all_marks}]+"),
        re.compile(
            f"[{_of_the_first_plane([*all_marks, *map(chr, translation)])}"
            f"{_SPACELESS}{_SYMBOLS}\U00010000-\U0010ffff]"
        ),
    )


def _of_the_first_plane(characters: Iterable[str]) -> str:
    """Those that are not ASCII: a class of them and of whole planes takes a third of the time."""
    return "".join(one for one in characters if "\x7f" < one < "\U00010000")


def words(text: str) -> list[str]:
    """Every word of a text, in one form for upper and lower case and all ways to write a character.

    Vowel marks, soft hyphens and characters that are not seen make no difference, nor does the
    script of digits; a picture is a word. Where a script has no spaces, each character is a word,
    and each two that follow another.
    """
    if text.isascii() or not _BEYOND.search(text):
        return text.encode("ascii", "replace").translate(_ASCII).decode("ascii").split()
    if len(text) <= _PIECE and not _tables().special.search(normal := _normal(text).casefold()):
        return _PLAIN_WORD.findall(normal)
    return [part for word in _raw_words(text) for part in _parts(word)]


class QueryWord(NamedTuple):
    """A word that is asked for, and what stands in where no text has it."""

    word: str
    fallback: tuple[str, ...] = ()


def query_words(query: str) -> list[QueryWord]:
    """The words of a query; of a script without spaces the pairs of characters.

    Where no text has any of the pairs of a word, single Han characters stand in.
    """
    return [part for word in _raw_words(query) for part in _query_parts(word)]


def _raw_words(text: str) -> list[str]:
    tables = _tables()
    found = []
    for piece in _pieces(text):
        normal = _normal(piece).casefold().translate(tables.translation)
        # Case folding takes characters apart: İ is i with a dot.
        found += tables.word.findall(_normal(normal))
    return found


def _pieces(text: str) -> Iterator[str]:
    """The text cut behind spaces; where there are none for long, between any two characters."""
    start = 0
    while len(text) - start > _PIECE:
        end = 1 + max(text.rfind(space, start, start + _PIECE) for space in " \n")
        end = end or start + _PIECE
        yield text[start:end]
        start = end
    yield text[start:]


def _normal(text: str) -> str:
    tables = _tables()
    # A sample tells, in a tenth of the pattern's time, that there are not so many in a row.
    sample = bytes(map(tables.marks.__contains__, text[::_STEP]))
    if bytes([True]) * (_MOST_MARKS // _STEP) in sample:
        text = tables.many_marks.sub(r"\1", text)
    return unicodedata.normalize("NFKC", text)


def _parts(word: str) -> list[str]:
    if word.isascii() or not _RUN.search(word):
        return [word]
    parts = []
    for run, is_spaceless in _runs(word):
        parts += [*run, *_pairs(run)] if is_spaceless else [run]
    return parts


def _query_parts(word: str) -> list[QueryWord]:
    parts = []
    for run, is_spaceless in _runs(word):
        single = tuple(HAN.findall(run))
        found = _pairs(run) if is_spaceless else []
        parts += [QueryWord(pair, single) for pair in found] or [QueryWord(run)]
    return parts


def _runs(word: str) -> list[tuple[str, bool]]:
    """A word cut where its script changes to or from one that puts no spaces."""
    cut = re.split(f"({_RUN.pattern})", word)
    return [(part, bool(number % 2)) for number, part in enumerate(cut) if part]


def _pairs(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(len(run) - 1)]
