"""Messages as OpenAI's files have them: ``{"messages": […]}`` in each line, or in a list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from langmem_isolated.importers.people.export import PeopleExport
from langmem_isolated.importers.people.json_stream import Unreadable
from langmem_isolated.importers.people.openai_messages import openai_message
from langmem_isolated.importers.people.values import expected, inside, instant, scalars, text_of
from langmem_isolated.lifecycle import ForeignMessage, ForeignSession, Rejected


class OpenAiMessages(PeopleExport):
    """Conversations as OpenAI's chat completions and fine-tuning files have them.

    A conversation is ``{"messages": […]}`` or a list of messages. One without an id, ``id``,
    ``session_id`` or ``custom_id``, is called
    by its file and number. Tool calls are kept as they are.

    Args:
        location: JSON lines with a conversation each, or JSON with a list of them, or with one.
    """

    kind = "openai-jsonl"
    product = "OpenAI's messages"
    patterns: ClassVar = (r".*\.jsonl", r".*\.json")

    def read(self, name: str, place: str) -> Iterator[ForeignSession | Rejected]:
        """The conversations of a file; a list of messages alone is one."""
        if self._is_one(name):
            yield from self.sessions(self.small(name), f"{place}conversation 1")
        else:
            yield from super().read(name, place)

    def sessions(self, value: Any, where: str) -> Iterator[ForeignSession | Rejected]:
        """A conversation."""
        said = value if isinstance(value, list) else inside(value, "messages")
        said = inside(value, "body", "messages") if said is None else said
        if not isinstance(said, list):
            raise expected("an object with messages, a list", said)
        fields = value if isinstance(value, dict) else {}
        ids = (text_of(fields.get(name)) for name in ("id", "session_id", "custom_id"))
        yield ForeignSession(
            id=next(filter(None, ids), self.unnamed(where)),
            place=where,
            messages=[self._found(one, f"{where}, message {n}") for n, one in enumerate(said, 1)],
            fields=scalars(fields),
            title=text_of(fields.get("title")),
            created_at=instant(fields.get("created_at")),
        )

    def _found(self, said: object, place: str) -> ForeignMessage | Rejected:
        try:
            time = inside(said, "timestamp") or inside(said, "created_at")
            return ForeignMessage(openai_message(said), place, instant(time))
        except Unreadable as unreadable:
            return Rejected(place, unreadable.args[0])

    def _is_one(self, name: str) -> bool:
        """Whether the file is a list of messages."""
        with self.document(name) as stream:
            if stream.peek() != "[":
                return False
            for _ in stream.elements():
                return stream.peek() == "{" and "role" in _keys(stream)
        return False


def _keys(stream: Any) -> set[str]:
    return set(stream.members())
