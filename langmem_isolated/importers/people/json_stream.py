"""JSON stream: reads one value after another out of a document that is larger than memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn, Protocol

MOST_BYTES = 64 * 2**20
"""Of one value that is read whole: the longest conversations of ChatGPT have a quarter of it."""
_TOO_LONG = f"it has more than {MOST_BYTES // 2**20} MB"
_MOST_LEVELS = 200
_CHUNK = 2**16
_SPACE = re.compile(rb"[ \t\r\n]*+")
# What no bracket is in: it is passed over in C, so that a value takes two steps for each bracket.
_NEUTRAL = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
_REST_OF_TEXT = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_SCALAR = re.compile(rb'[^ \t\r\n,:"\[\]{}]*+')


class Unreadable(ValueError):
    """A record, not what stands behind it, cannot be read; the reason, without content."""


class Broken(Unreadable):
    """Nothing behind this place can be read."""


class Stream(Protocol):
    """What is read from."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""


def parsed(text: bytes) -> Any:
    """A value of JSON.

    Raises:
        Unreadable: It is none, or has numbers or a depth beyond JSON's.
    """
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_refuse, strict=False)
    except UnicodeDecodeError:
        raise Unreadable("it has a byte that is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise Unreadable(f"it is not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"a number or a depth beyond JSON's ({type(error).__name__})") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


class JsonStream:
    """Goes through a document once, from its first byte to its last.

    It stands before a value, and :meth:`value`, :meth:`elements` or :meth:`members` read it. What
    has been begun and not read to its end is passed over. Memory is bounded by the largest value
    that is read whole; a longer one is passed over, too.

    Args:
        stream: What is read, from where it stands.
        chunk: Bytes that are read at once, at least.
    """

    def __init__(self, stream: Stream, *, chunk: int = _CHUNK) -> None:
        self._stream, self._chunk = stream, chunk
        self._text, self._at, self._before = b"", 0, 0
        self._open = 0
        self._more()
        if self._text[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in self._text[:4]:
            raise Broken("it is UTF-16 or UTF-32, expected UTF-8; save it again as UTF-8")
        if self._text.startswith(b"\xef\xbb\xbf"):
            self._at = 3

    @property
    def position(self) -> int:
        """How many bytes have been read."""
        return self._before + self._at

    def peek(self) -> str:
        """The first character of the next value; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return chr(self._text[self._at])
            if not self._more():
                return ""

    def elements(self) -> Iterator[int]:
        """Stand before each element of a list, in turn; its number, from 1.

        Raises:
            Broken: There is no list, or it does not go on as JSON does.
        """
        self._expect("[", "a list")
        self._open += 1
        level, number = self._open, 0
        while self._next_in("]", is_first=not number):
            number += 1
            before = self.position
            yield number
            self._pass_over(level, before)
        self._open -= 1

    def members(self) -> Iterator[str]:
        """Stand before the value of each key of an object, in turn; the key.

        Raises:
            Broken: There is no object, or it does not go on as JSON does.
        """
        self._expect("{", "an object")
        self._open += 1
        level, is_first = self._open, True
        while self._next_in("}", is_first=is_first):
            is_first = False
            if self.peek() != '"':
                raise Broken("it is no JSON from here on: expected a key")
            key = self.value()
            self._expect(":", "a colon")
            self.peek()
            before = self.position
            yield key
            self._pass_over(level, before)
        self._open -= 1

    def value(self) -> Any:
        """The next value, whole.

        Raises:
            Unreadable: It is malformed, or longer or deeper than what is read; what stands behind
                it can be.
            Broken: The document ends within it.
        """
        if not self.peek():
            raise Broken("it ends where a value was expected")
        start, reason = self.position, self._scan(0, MOST_BYTES)
        if reason:
            raise Unreadable(reason)
        return parsed(self._text[start - self._before : self._at])

    def skip(self) -> None:
        """Pass over the next value."""
        if self.peek():
            self._scan(0, 0)

    def _pass_over(self, level: int, before: int) -> None:
        """What of a value was not read, down to the list or object of ``level``."""
        if self._open > level:
            self._scan(self._open - level, 0)
            self._open = level
        elif self.position == before:
            self.skip()

    def _scan(self, level: int, most: int) -> str | None:
        """Go to the end of a value, ``level`` brackets out; why it was not kept."""
        start, reason = self.position, None if most else "it is passed over"
        if not level and self.peek() not in "[{":
            return self._scan_text(most) if self.peek() == '"' else self._scan_scalar(most)
        while True:
            found = _NEUTRAL.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if reason is None and self.position - start > most:
                reason = _TOO_LONG
            if self._at == len(self._text):
                self._need(start, reason)
                continue
            here = self._text[self._at]
            if here == ord('"'):
                # The text goes on behind what has been read of it.
                reason = self._scan_text(most, start, reason)
                continue
            level += 1 if here in b"[{" else -1
            self._at += 1
            if level == 0:
                return reason
            if level > _MOST_LEVELS and reason is None:
                reason = f"it is nested in more than {_MOST_LEVELS} levels"

    def _scan_text(
        self, most: int, start: int | None = None, reason: str | None = None
    ) -> str | None:
        """Go to the end of a text, which is kept as far as what it is in began at ``start``."""
        start = self.position if start is None else start
        reason = reason if most else "it is passed over"
        self._at += 1
        while True:
            found = _REST_OF_TEXT.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text) and self._text[self._at] == ord('"'):
                self._at += 1
                return reason
            if reason is None and self.position - start > most:
                reason = _TOO_LONG
            self._need(start, reason)

    def _scan_scalar(self, most: int) -> str | None:
        start = self.position
        while True:
            found = _SCALAR.match(self._text, self._at)
            end = found.end() if found else self._at
            if end < len(self._text) or not self._more():
                break
            if len(self._text) - self._at > _CHUNK * 4:
                raise Broken("it is no JSON from here on")
        end = max(end, self._at + 1)
        self._at = min(end, len(self._text))
        return None if most and self.position > start else "it is passed over"

    def _need(self, start: int, reason: str | None) -> None:
        if reason is not None:
            start = self.position
        if not self._more(keep_from=start - self._before):
            raise Broken("it ends within a value; fetch it again if it was cut off")

    def _more(self, keep_from: int | None = None) -> bool:
        """Read on, ever more at once, so that a long value is not copied again for each chunk."""
        kept = self._at if keep_from is None else keep_from
        size = max(self._chunk, len(self._text) - kept)
        chunk = self._stream.read(size)
        self._text = self._text[kept:] + chunk
        self._at -= kept
        self._before += kept
        return bool(chunk)

    def _expect(self, wanted: str, what: str) -> None:
        if self.peek() != wanted:
            raise Broken(f"it is no JSON from here on: expected {what}")
        self._at += 1

    def _next_in(self, end: str, *, is_first: bool) -> bool:
        """Whether another element or member follows."""
        here = self.peek()
        if here == end:
            self._at += 1
            return False
        if not is_first:
            self._expect(",", "a comma")
            here = self.peek()
        if here in ("", "]", "}"):
            raise Broken("it ends within a list or an object; fetch it again if it was cut off")
        return True
