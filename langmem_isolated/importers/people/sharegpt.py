"""ShareGPT: ``{"id": …, "conversations": [{"from": …, "value": …}]}``, in a list or in lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from langmem_isolated.importers.people.export import PeopleExport
from langmem_isolated.importers.people.json_stream import Unreadable
from langmem_isolated.importers.people.replies import spoken_by
from langmem_isolated.importers.people.values import an_object, expected, inside, scalars, text_of
from langmem_isolated.lifecycle import ForeignMessage, ForeignSession, Rejected

_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(
        ("gpt", "chatgpt", "assistant", "model", "bing", "bard", "claude"), "assistant"
    ),
    "system": "system",
}


class ShareGptExport(PeopleExport):
    """Conversations in ShareGPT's layout, without times.

    Args:
        location: A JSON list, or JSON lines.
    """

    kind = "sharegpt"
    product = "ShareGPT"
    patterns: ClassVar = (r".*\.jsonl?",)

    def sessions(self, value: Any, where: str) -> Iterator[ForeignSession | Rejected]:
        """A conversation; one without an id is called by its file and number."""
        conversation = an_object(value, "a conversation as an object")
        named = (conversation.get(name) for name in ("conversations", "conversation", "items"))
        said = next((one for one in named if one is not None), None)
        if not isinstance(said, list):
            raise expected("conversations to be a list", said)
        own_id = conversation.get("id")
        is_number = isinstance(own_id, int) and not isinstance(own_id, bool)
        yield ForeignSession(
            id=str(own_id) if is_number else text_of(own_id) or self.unnamed(where),
            place=where,
            messages=[
                found
                for number, one in enumerate(said, 1)
                for found in self._found(one, f"{where}, message {number}")
            ],
            fields=scalars(conversation),
            title=text_of(conversation.get("title")),
        )

    def _found(self, said: object, place: str) -> Iterator[ForeignMessage | Rejected]:
        sender = inside(said, "from") or inside(said, "role")
        text = inside(said, "value")
        text = inside(said, "text") if text is None else text
        try:
            if not isinstance(sender, str) or not isinstance(text, str):
                raise expected("from and value to be text", sender if text else text)
        except Unreadable as unreadable:
            yield Rejected(place, unreadable.args[0])
            return
        # What functions were called with, and gave, is without the ids that models need.
        message = spoken_by(_ROLES.get(sender.lower(), ""), text, None, {})
        if message is None:
            self.count("calls and results of tools, and messages of roles that are not known")
        else:
            yield ForeignMessage(message, place)
