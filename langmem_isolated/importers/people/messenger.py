"""Messengers: what people wrote to one another, of whom one is the owner of the export."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from langchain_core.messages import HumanMessage

from langmem_isolated.importers.people.export import PeopleExport, value_or_reason
from langmem_isolated.importers.people.json_stream import JsonStream, Unreadable
from langmem_isolated.importers.people.names import one_line
from langmem_isolated.importers.people.values import an_object
from langmem_isolated.lifecycle import ForeignMessage, ForeignSession, Rejected

_MOST_NAME = 80
# What OpenAI takes as the name of who wrote a message; it refuses any other.
_NOT_IN_NAMES = re.compile(r"[\s<|\\/>]+")


class Messenger(PeopleExport):
    """Chats of people with one another.

    What the owner wrote becomes a `HumanMessage`. What others wrote must look neither as said by
    the user nor by an assistant, in prompts and in what recall quotes, and models' services leave
    out ``name``: it becomes a `HumanMessage` with the name, whose text begins with it, ``"Bob: "``.

    Args:
        location: The path of a file, a folder or a zip.
        me: The names, or ids, of the owner, compared as they are written. Without any, everybody is
            somebody else.
    """

    def __init__(self, location: str, *, me: Sequence[str] | None = None) -> None:
        super().__init__(location)
        self._given = self._me = frozenset(me or ())
        self._met = False

    def units(self) -> Iterator[ForeignSession | Rejected]:
        """Its chats; at the end, a reject if none of the owner's names wrote any.

        Raises:
            SourceRefused: There is no file in it that this reads.
        """
        self._met = False
        yield from super().units()
        if self._given and not self._met:
            yield Rejected(
                "the whole export",
                f"none of {len(self._given)} names of --me wrote a message: they are compared "
                "as they are written",
            )

    def messages(self, stream: JsonStream, where: str) -> Iterator[ForeignMessage | Rejected]:
        """The messages of the list that the stream stands at, as they are gone through."""
        for number in stream.elements():
            place = f"{where}, message {number}"
            yield from self.read_message(value_or_reason(stream), place)

    def read_message(self, value: object, place: str) -> Iterator[ForeignMessage | Rejected]:
        """A message, or why it cannot be read; nothing where the product tells something in it."""
        try:
            if isinstance(value, Unreadable):
                raise value
            found = self.message(an_object(value, "a message as an object"), place)
        except Unreadable as unreadable:
            yield Rejected(place, unreadable.args[0])
            return
        if found is not None:
            yield found

    def message(self, said: dict[str, Any], place: str) -> ForeignMessage | None:
        """A message; ``None`` for what is counted as left out.

        Raises:
            Unreadable: It is none.
        """
        raise NotImplementedError

    def written(self, names: Iterable[str | None], text: str, own_id: str | None) -> HumanMessage:
        """A message.

        Args:
            names: Of who wrote it, what others see as the first, and ids.
            text: What it says.
            own_id: The message's id.
        """
        known = [name for name in names if name]
        if not self._me.isdisjoint(known):
            self._met = True
            return HumanMessage(text, id=own_id)
        if not self._me:
            self._counts["messages taken for somebody else's: see --me"] += 1
        shown = one_line(known[0])[:_MOST_NAME] if known else "somebody"
        name = _NOT_IN_NAMES.sub("_", shown)[:64] or "somebody"
        return HumanMessage(f"{shown}: {text}", id=own_id, name=name)
