"""What nobody sees, or what acts on who shows it, is escaped: for models, and on a terminal."""

import json
import sys
import unicodedata

import pytest

from langmem_isolated._runtime.unseen_text import is_unseen
from langmem_isolated.cli.terminal import printable
from langmem_isolated.recall.tool import as_json_line

# Without a glyph, though of categories that have one: letters, marks, symbols.
FILLERS = [
    *map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, 0x16FE4, 0x1D159)),
    *map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))),
]
EVERYTHING = [chr(code) for code in range(sys.maxunicode + 1)]
HIDDEN = [
    *(c for c in EVERYTHING if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")),
    *FILLERS,
]


def test_of_all_of_unicode_no_format_character_and_no_filler_reaches_a_model():
    for start in range(0, len(EVERYTHING), 4096):
        text = "".join(EVERYTHING[start : start + 4096])
        line = as_json_line({"text": text})

        assert not set(line[:-1]) & {*HIDDEN, *"<>&"}
        # UTF-16 cannot tell two lone surrogates from a pair: as numbers they are the same.
        assert json.loads(line)["text"].encode("utf-16", errors="surrogatepass") == text.encode(
            "utf-16", errors="surrogatepass"
        )


def test_of_all_of_unicode_no_format_character_and_no_filler_reaches_a_terminal():
    shown = printable("".join(c for c in EVERYTHING if c not in "\n\t"))

    assert not set(shown) & set(HIDDEN)
    shown.encode()


@pytest.mark.parametrize("character", FILLERS)
def test_a_filler_between_letters_is_seen(character: str):
    escape = f"a{character}b".encode("unicode_escape").decode()

    assert printable(f"a{character}b") == escape
    assert character not in as_json_line({"text": f"a{character}b"})


@pytest.mark.parametrize(
    "text",
    [
        "déjà vu",
        "日本語　テキスト",
        "नमस्ते",
        "שלום",
        "مرحبا",
        "👍🏽 🎉",
        "🇨🇭",
        "e\u0301",
        "a\u00a0b",
        "½ €",
    ],
)
def test_what_is_seen_stays_as_it_is(text: str):
    assert printable(text) == text
    assert text in as_json_line({"text": text})


def test_joined_emoji_are_taken_apart_and_stay_readable():
    """Persian's joiners, too: what may stand between letters unseen may also say something."""
    family, heart = "\U0001f468\u200d\U0001f469", "\u2764\ufe0f"

    assert printable(family) == "\U0001f468\\u200d\U0001f469"
    assert printable(heart) == "\u2764\\ufe0f"
    assert json.loads(as_json_line({"text": family + heart}))["text"] == family + heart


def test_hardly_anything_is_taken_for_unseen_that_is_seen():
    """Letters, marks, numbers, punctuation and symbols are seen, but for the fillers."""
    taken = [c for c in EVERYTHING if unicodedata.category(c)[0] in "LMNPS" and is_unseen(c)]

    assert set(taken) == {*FILLERS} - {"\u180e"}, "U+180E is a format character"
