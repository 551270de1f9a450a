"""Discord: the package that it gives its users, and channels as DiscordChatExporter writes them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from langchain_core.messages import HumanMessage

from langmem_isolated.importers.people.export import value_or_reason
from langmem_isolated.importers.people.json_stream import MOST_BYTES, Broken, JsonStream, Unreadable
from langmem_isolated.importers.people.messenger import Messenger
from langmem_isolated.importers.people.values import (
    an_object,
    expected,
    inside,
    instant,
    objects,
    scalars,
    text_of,
)
from langmem_isolated.lifecycle import ForeignMessage, ForeignSession, Rejected

_WRITTEN = ("Default", "Reply", "ThreadStarterMessage", "ChatInputCommand", "ContextMenuCommand")


class DiscordExport(Messenger):
    """Channels of Discord.

    The package has nothing but what its owner wrote. An export of DiscordChatExporter has what
    everybody wrote, and ``me`` says who its owner is.

    Args:
        location: The folder or zip of the package, or a JSON file of DiscordChatExporter, or a
            folder of them.
        me: As of `Messenger`: names, nicknames or ids.
    """

    kind = "discord"
    product = "Discord"
    patterns: ClassVar = (r"c?\d+/channel\.json", r".*\.json")

    def read(self, name: str, place: str) -> Iterator[ForeignSession | Rejected]:
        """The channel of a file."""
        folder = name.removesuffix("channel.json")
        if {f"{folder}messages.json", f"{folder}messages.csv"} & set(self.exported.names):
            yield self._of_package(name, folder, place)
            return
        with self.document(name) as stream:
            yield from self._exported(stream, f"{place}the channel")

    def _of_package(self, name: str, folder: str, place: str) -> ForeignSession | Rejected:
        where = f"{place}the channel"
        try:
            channel = an_object(self.small(name))
            own_id = text_of(channel.get("id"))
            if own_id is None:
                raise expected("id to be text", channel.get("id"))
        except Unreadable as unreadable:
            return Rejected(where, unreadable.args[0])
        return ForeignSession(
            id=own_id,
            place=where,
            messages=self.streamed(self._own(folder, where), where),
            fields={**scalars(channel), "guild": inside(channel, "guild", "name")},
            title=text_of(channel.get("name")),
        )

    def _own(self, folder: str, where: str) -> Iterator[ForeignMessage | Rejected]:
        """What the owner wrote into a channel, by its ids, which are in the order of time."""
        kept: list[tuple[int, int, dict[str, Any]]] = []
        try:
            for number, row in enumerate(self._rows(folder), 1):
                if isinstance(row, dict) and str(row.get("ID", "")).isdecimal():
                    kept.append((int(str(row["ID"])[:30]), number, row))
                else:
                    yield Rejected(f"{where}, message {number}", "expected an object with ID")
        except Unreadable as unreadable:
            yield Rejected(f"{where}, its messages", unreadable.args[0])
        for own_id, number, row in sorted(kept, key=lambda one: one[:2]):
            text = "\n\n".join(filter(None, self._pieces(row)))
            if text:
                message = HumanMessage(text, id=str(own_id))
                time = instant(row.get("Timestamp"))
                yield ForeignMessage(message, f"{where}, message {number}", time)
            else:
                self.count("empty messages")

    def _pieces(self, row: dict[str, Any]) -> Iterator[str]:
        yield text_of(row.get("Contents")) or ""
        for _ in str(row.get("Attachments") or "").split():
            yield self.note("file")

    def _rows(self, folder: str) -> Iterator[Any]:
        if f"{folder}messages.json" in self.exported.names:
            with self.document(f"{folder}messages.json") as stream:
                for _ in stream.elements():
                    yield value_or_reason(stream)
        elif f"{folder}messages.csv" in self.exported.names:
            with self.exported.open(f"{folder}messages.csv") as reading:
                yield from _csv(line for _, _, line in reading.lines(MOST_BYTES))
        else:
            raise Unreadable("expected messages.json or messages.csv beside channel.json")

    def _exported(self, stream: JsonStream, where: str) -> Iterator[ForeignSession | Rejected]:
        head: dict[str, Any] = {}
        for key in stream.members():
            if key != "messages" or stream.peek() != "[":
                head[key] = value_or_reason(stream)
                continue
            own_id = text_of(inside(head, "channel", "id"))
            if own_id is None:
                yield Rejected(where, "expected channel.id, a text, before messages")
                continue
            channel = head["channel"]
            yield ForeignSession(
                id=own_id,
                place=where,
                messages=self.streamed(self.messages(stream, where), where),
                fields={**scalars(channel), "guild": inside(head, "guild", "name")},
                title=text_of(channel.get("name")),
            )

    def message(self, said: dict[str, Any], place: str) -> ForeignMessage | None:
        """A message as Discord has it; see `Messenger.message`."""
        if said.get("type") not in _WRITTEN:
            self.count("messages that Discord tells something in")
            return None
        pieces = [text_of(said.get("content"))]
        pieces += [
            self.note("file", file.get("fileName")) for file in objects(said.get("attachments"))
        ]
        pieces += [self.note("sticker", one.get("name")) for one in objects(said.get("stickers"))]
        pieces += [self.note("embed", one.get("title")) for one in objects(said.get("embeds"))]
        text = "\n\n".join(filter(None, pieces))
        if not text:
            self.count("empty messages")
            return None
        author = said.get("author")
        names = [text_of(inside(author, name)) for name in ("nickname", "name", "id")]
        message = self.written(names, text, text_of(said.get("id")))
        return ForeignMessage(message, place, instant(said.get("timestamp")))


def _csv(lines: Iterable[bytes | None]) -> Iterator[dict[str, Any]]:
    texts = ((line or b"").decode(errors="replace") + "\n" for line in lines)
    try:
        yield from csv.DictReader(texts)
    except csv.Error:
        raise Broken("it is no CSV from here on") from None
