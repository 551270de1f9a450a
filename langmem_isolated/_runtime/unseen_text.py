"""Unseen text: characters that act, or that nobody sees, for who shows or quotes what users wrote.

What a person does not see a model still reads (tags, variation selectors, fillers), and what turns
the direction of text or steers a terminal makes either see something else.
"""

import re
import unicodedata
from collections.abc import Callable

# Controls, format characters, surrogates, separators of lines and paragraphs; and what has no
# meaning that we know: private use, and code points that this Python's Unicode has not assigned.
_ACTING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"})
# Letters, marks and symbols without a glyph: the property Default_Ignorable_Code_Point of Unicode
# (DerivedCoreProperties.txt), the blank of Braille, a null notehead, and a filler of Khitan.
_FILLERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U00016fe4\U0001d159\U000e0000-\U000e0fff]"
)


def is_unseen(character: str) -> bool:
    """Whether one character acts on what shows it, or is not seen."""
    return unicodedata.category(character) in _ACTING or bool(_FILLERS.match(character))


def with_escapes(text: str, escape: Callable[[str], str], *, keep: str = "") -> str:
    """``text`` with what is not seen as ``escape`` writes it, but for the characters of ``keep``.

    That takes apart emoji that are joined or varied by such characters (ZWJ, U+FE0F), and words
    of Persian and of Indic scripts: they stay readable, and nothing can hide between them.
    """
    if text.isprintable() and not _FILLERS.search(text):
        return text
    return "".join(escape(c) if c not in keep and is_unseen(c) else c for c in text)
