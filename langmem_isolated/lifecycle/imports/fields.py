"""Fields of a line: read by name and type, as an export writes them."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime
from typing import Any, NoReturn

from langmem_isolated._codecs.refusals import NotStorable
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.clock import EPOCH, MICROSECOND
from langmem_isolated.errors import ScopeError
from langmem_isolated.scope import checked_id

_MOST_NUMBER = 2**63 - 1


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


class Fields:
    """One line.

    Args:
        line: Its bytes.

    Raises:
        NotStorable: It is no JSON object.
    """

    __slots__ = ("_values",)

    def __init__(self, line: bytes) -> None:
        try:
            self._values = _DECODER.decode(line.decode("ascii"))
        except (ValueError, RecursionError):
            raise NotStorable("it is not JSON") from None
        if type(self._values) is not dict:
            raise NotStorable("it is no JSON object")

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def any(self, name: str) -> Any:
        """A value of any type.

        Raises:
            NotStorable: There is none.
        """
        if name not in self._values:
            raise NotStorable(f"it has no {name}")
        return self._values[name]

    def _typed(self, name: str, kind: type, wanted: str) -> Any:
        value = self.any(name)
        if type(value) is not kind:
            raise NotStorable(f"{name} must be {wanted}, got {kind_of(value)}")
        return value

    def text(self, name: str) -> str:
        """Text."""
        found: str = self._typed(name, str, "text")
        return found

    def text_or_none(self, name: str) -> str | None:
        """Text, or nothing."""
        return None if self.any(name) is None else self.text(name)

    def id(self, name: str) -> str:
        """Text that can be an id."""
        try:
            return checked_id(name, self.any(name))
        except ScopeError as refusal:
            raise NotStorable(str(refusal)) from None

    def flag(self, name: str) -> bool:
        """Whether something is so."""
        found: bool = self._typed(name, bool, "true or false")
        return found

    def number(self, name: str) -> int:
        """A whole number of 0 or more that a column takes."""
        found: int = self._typed(name, int, "a whole number")
        if not 0 <= found <= _MOST_NUMBER:
            raise NotStorable(f"{name} must be 0 to {_MOST_NUMBER}, got another number")
        return found

    def number_or_none(self, name: str) -> int | None:
        """A whole number, or nothing."""
        return None if self.any(name) is None else self.number(name)

    def time(self, name: str) -> int:
        """A moment in µs since 1970."""
        text = self.text(name)
        try:
            moment = datetime.fromisoformat(text)
            found = (moment - EPOCH) // MICROSECOND
        except (ValueError, TypeError, OverflowError):
            raise NotStorable(f"{name} must be a moment in ISO 8601 with its offset") from None
        if found < 0:
            raise NotStorable(f"{name} must be 1970 or later")
        return found

    def time_or_none(self, name: str) -> int | None:
        """A moment in µs since 1970, or nothing."""
        return None if self.any(name) is None else self.time(name)

    def list(self, name: str) -> list[Any]:
        """A list."""
        found: list[Any] = self._typed(name, list, "a list")
        return found

    def dict(self, name: str) -> dict[str, Any]:
        """An object."""
        found: dict[str, Any] = self._typed(name, dict, "an object")
        return found

    def bytes(self, name: str) -> bytes:
        """Bytes, from base64."""
        return from_base64(name, self.any(name))


def from_base64(name: str, value: object) -> bytes:
    """Bytes that an export wrote as base64.

    Raises:
        NotStorable: It did not.
    """
    try:
        return base64.b64decode(value, validate=True)  # type: ignore[arg-type]
    except (TypeError, ValueError, binascii.Error):
        raise NotStorable(f"{name} must be base64, got other {kind_of(value)}") from None
