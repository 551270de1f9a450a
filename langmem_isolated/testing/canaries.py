"""Canaries: texts that stand nowhere else, and the forms in which one is found again."""

import base64
import hashlib
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from langmem_isolated._runtime.arguments import kind_of

# Letters and digits alone, so that quoting, escaping and splitting into words leave it as it is;
# letters of both cases, so that one changed to the other is a form of its own.
_MARK = "Zk4wQx"
_ID_CHARACTERS = 8
"""Of 32, so 40 bits: among 1,000 canaries two are the same in one of 2 million runs."""
_ALPHABET = "ABCDEFGHjkmnpqrstuvwxyz234567890"
_SHORTEST = 6
"""Characters: what is shorter stands in any database by chance."""
AS_IT_IS = "as it is"
_OVERLAP_BYTES = 4096
"""Longer than any form: those of the kit have 84 bytes, six a character, and texts given 680."""


@dataclass(frozen=True)
class Canary:
    """A text that stands nowhere else, and says whose it is when it is found.

    A canary of the kit is one word of 28 letters and digits, made of its label alone, so that each
    run has the same. It says the same thing twice: cut in two, as by a page of a file, a log
    record's length or a title, one half still tells whose it was.

    Args:
        label: What a failure calls it; the text itself is never shown.
        text: What is put in and looked for; of 6 characters or more.

    >>> Canary.of("alice, message 1").text == Canary.of("alice, message 1").text
    True
    >>> Canary("the PIN", "My PIN is 1234").is_in('{"next": "TXkgUElOIGlzIDEyMzQ="}')  # base64
    True
    >>> Canary("the PIN", "My PIN is 1234").is_in("MY PIN IS 1234".encode("utf-16"))
    True

    Raises:
        TypeError: ``text`` is no `str`.
        ValueError: ``text`` is shorter than 6 characters.
    """

    label: str
    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(
                f"A canary's text must be a str, got {kind_of(self.text)}. Write "
                'Canary("the PIN", "My PIN is 1234").'
            )
        if len(self.text) < _SHORTEST:
            raise ValueError(
                f"A canary must have {_SHORTEST} characters or more, got {len(self.text)}: a "
                "shorter text may stand anywhere by chance. Leave the text to Canary.of(label)."
            )

    @classmethod
    def of(cls, label: str) -> "Canary":
        """The kit's canary of this label."""
        digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).digest()
        half = _MARK + "".join(_ALPHABET[byte % 32] for byte in digest[:_ID_CHARACTERS])
        return cls(label, half * 2)

    def __repr__(self) -> str:
        return f"Canary({self.label!r})"

    @property
    def is_marked(self) -> bool:
        """Whether it is one of the kit's."""
        return self.text.startswith(_MARK) and self.half * 2 == self.text

    @property
    def half(self) -> str:
        """What a canary of the kit says twice."""
        return self.text[: len(self.text) // 2]

    @cached_property
    def forms(self) -> tuple["Form", ...]:
        """What to look for."""
        found = _forms_of(self.half if self.is_marked else self.text)
        return tuple({(form.pattern, form.is_any_case): form for form in found}.values())

    def form_in(self, plaintext: "Plaintext", names: Container[str] | None = None) -> str | None:
        """The name of the first form in which it is there, among those of these names."""
        looked_for = (form for form in self.forms if names is None or form.name in names)
        return next((form.name for form in looked_for if plaintext.has(form)), None)

    def is_in(self, readable: bytes | str) -> bool:
        """Whether any form of it is in a text or in bytes."""
        return self.form_in(Plaintext(readable)) is not None


@dataclass(frozen=True)
class Form:
    """A canary as a text or a file may have it."""

    name: str
    pattern: bytes
    is_any_case: bool = True


class Plaintext:
    """What somebody can read, looked through for forms."""

    def __init__(self, readable: bytes | str) -> None:
        self._exact = (
            readable.encode("utf-8", "surrogatepass") if isinstance(readable, str) else readable
        )
        # Of bytes only the letters of ASCII change, those of UTF-16 included.
        self._lowered = self._exact.lower()

    def has(self, form: Form) -> bool:
        """Whether this form is in it."""
        return form.pattern in (self._lowered if form.is_any_case else self._exact)

    def marks(self) -> set[str]:
        """The names of the forms in which any canary of the kit is in it."""
        return {form.name for form in _MARKS if self.has(form)}

    def halves(self) -> set[bytes]:
        """What stands in it as canaries of the kit do, as they are, in lower case."""
        return {*_HALF.findall(self._lowered)}


def _forms_of(text: str) -> Iterator[Form]:
    spelled = {
        AS_IT_IS: text,
        "backwards": text[::-1],
        "JSON-escaped": "".join(f"\\u{ord(character):04x}" for character in text),
        "URL-encoded": "".join(f"%{byte:02x}" for byte in text.encode("utf-8", "surrogatepass")),
        "as character references": "".join(f"&#{ord(character)};" for character in text),
    }
    for name, written in spelled.items():
        yield from _encoded(name, written.encode("utf-8", "surrogatepass"))
    for codec in ("utf-16-le", "utf-16-be"):
        yield from _encoded(codec.upper(), text.encode(codec, "surrogatepass"))


def _encoded(name: str, written: bytes) -> Iterator[Form]:
    yield Form(name, written.lower())
    if name in (AS_IT_IS, "UTF-16-LE", "UTF-16-BE"):
        yield Form(f"{name}, in hexadecimal", written.hex().encode())
        # Which case its letters have is not known to who looks for it in base64.
        for cased in {written, written.lower(), written.upper(), written.swapcase()}:
            yield from _in_base64(name, cased)


def _in_base64(name: str, written: bytes) -> Iterator[Form]:
    """At each of the three places that bytes can have in base64, without what neighbours change."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + written + bytes(2))
        first = -(-before * 8 // 6)
        whole = encoded[first : (before + len(written)) * 8 // 6]
        yield Form(f"{name}, in base64", whole, is_any_case=False)
        yield Form(f"{name}, in base64", whole.translate(_URL_SAFE), is_any_case=False)


_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_MARKS = Canary("any", _MARK).forms
_HALF = re.compile(_MARK.lower().encode() + rb"[a-z0-9]{%d}" % _ID_CHARACTERS)


class Canaries:
    """Canaries handed out to users, and a search for all of them at once."""

    def __init__(self, canaries: Iterable[Canary] = ()) -> None:
        self._marked: dict[bytes, Canary] = {}
        self._others: list[Canary] = []
        for canary in canaries:
            self.add(canary)

    def add(self, canary: Canary) -> Canary:
        """Look for this one, too."""
        if canary.is_marked:
            self._marked[canary.half.lower().encode()] = canary
        else:
            self._others.append(canary)
        return canary

    def found_in(self, readable: bytes | str) -> list[tuple[Canary, str]]:
        """Each canary that is there, with the name of its form."""
        plaintext = Plaintext(readable)
        found = [(one, form) for one in self._others if (form := one.form_in(plaintext))]
        if self._marked and (names := plaintext.marks()):
            found += self._marked_in(plaintext, names)
        return found

    def _marked_in(self, plaintext: Plaintext, names: set[str]) -> Iterator[tuple[Canary, str]]:
        """Those as they are by their spelling; only for other forms each is looked for."""
        for half in plaintext.halves() & self._marked.keys():
            yield self._marked[half], AS_IT_IS
        if rarer := names - {AS_IT_IS}:
            for canary in tuple(self._marked.values()):
                if form := canary.form_in(plaintext, rarer):
                    yield canary, form


def overlapping(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Blocks, each behind the end of the one before: a canary may stand across."""
    before = b""
    for block in blocks:
        yield before + block
        before = (before + block)[-_OVERLAP_BYTES:]
