"""First record: what the beginning of a JSON file says of the rest."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from langmem_isolated.importers.people.json_stream import JsonStream, Unreadable

_MOST_KEYS = 200
_MOST_ELEMENTS = 5
_SHOWN = 8
# What looks like a name of a field; other keys may be content.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,30}")
# Whose first object is looked into.
_INNER = ("messages", "conversations", "conversation", "items")


@dataclass
class FirstRecord:
    """The first object of a JSON file, and of what is in it."""

    is_list: bool = False
    """Whether it stands in a list."""
    keys: list[str] = field(default_factory=list)
    inner: list[str] = field(default_factory=list)
    """The keys of the first object in its messages."""

    @classmethod
    def of(cls, head: bytes) -> FirstRecord | None:
        """What is found in the first bytes of a file; ``None`` if they are no JSON."""
        found = cls()
        try:
            stream = JsonStream(io.BytesIO(head))
            if stream.peek() not in ("{", "["):
                return None
            found.is_list = stream.peek() == "["
            _into_list(stream, found) if found.is_list else found.read(stream)
        except Unreadable:
            # It goes on behind its first bytes, or is none.
            return found if found.keys else None
        return found

    def read(self, stream: JsonStream) -> None:
        """Note the keys of an object."""
        for key in stream.members():
            self.keys.append(key)
            if key in _INNER and stream.peek() == "[":
                _first_object(stream, self.inner)
            if len(self.keys) == _MOST_KEYS:
                return

    def described(self) -> str:
        """What it is, with those keys that look like names of fields."""
        container = "a JSON list of objects" if self.is_list else "a JSON object"
        if not self.keys:
            return "a JSON list without objects" if self.is_list else "an empty JSON object"
        named = [key for key in self.keys if _NAME.fullmatch(key)]
        if len(named) < len(self.keys):
            return f"{container} with {len(self.keys)} keys"
        more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
        return f"{container} with the keys {', '.join(named[:_SHOWN])}{more}"

    def has(self, keys: Sequence[str], inner: Sequence[str] = ()) -> bool:
        """Whether those keys are all there."""
        return set(keys) <= set(self.keys) and set(inner) <= set(self.inner)


def _into_list(stream: JsonStream, found: FirstRecord) -> None:
    """Note the first object of a list, or of the list that it begins with."""
    for number in stream.elements():
        if stream.peek() == "{":
            found.read(stream)
            return
        if stream.peek() == "[":
            _first_object(stream, found.keys)
        else:
            stream.value()
        if found.keys or number == _MOST_ELEMENTS:
            return


def _first_object(stream: JsonStream, keys: list[str]) -> None:
    for number in stream.elements():
        if stream.peek() == "{":
            for key in stream.members():
                keys.append(key)
                if len(keys) == _MOST_KEYS:
                    return
            return
        if number == _MOST_ELEMENTS:
            return
