"""Telegram: ``result.json`` of Telegram Desktop, of one chat or of all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from langmem_isolated.importers.people.export import value_or_reason
from langmem_isolated.importers.people.json_stream import JsonStream
from langmem_isolated.importers.people.messenger import Messenger
from langmem_isolated.importers.people.values import (
    expected,
    inside,
    instant,
    scalars,
    text_of,
)
from langmem_isolated.lifecycle import ForeignMessage, ForeignSession, Rejected

_LISTS = ("chats", "left_chats")
_KINDS = ("sticker", "animation", "video_file", "video_message", "voice_message", "audio_file")
_MEDIA = ("photo", "file", "location_information", "contact_information", "poll")


class TelegramExport(Messenger):
    """Chats of Telegram. An export of all chats says itself who its owner is.

    Args:
        location: The file, or the folder or zip with it.
        me: As of `Messenger`.
    """

    kind = "telegram"
    product = "Telegram"
    patterns: ClassVar = (r"result\.json", r"messages\.json")

    def read(self, name: str, place: str) -> Iterator[ForeignSession | Rejected]:
        """The chats of a file."""
        with self.document(name) as stream:
            yield from self._document(stream, place)

    def _document(self, stream: JsonStream, place: str) -> Iterator[ForeignSession | Rejected]:
        head: dict[str, Any] = {}
        for key in stream.members():
            if key == "messages":
                yield self._chat(head, stream, f"{place}the chat")
            elif key in _LISTS and stream.peek() == "{":
                yield from self._listed(stream, f"{place}{key.replace('_', ' ')}")
            elif key == "personal_information":
                self._own(value_or_reason(stream))
            else:
                head[key] = value_or_reason(stream)

    def _own(self, told: object) -> None:
        """Whose export it is."""
        number = inside(told, "user_id")
        if isinstance(number, int) and not self._me:
            self._me = frozenset([f"user{number}"])

    def _listed(self, stream: JsonStream, place: str) -> Iterator[ForeignSession | Rejected]:
        for key in stream.members():
            if key != "list" or stream.peek() != "[":
                continue
            for number in stream.elements():
                where = f"{place}, number {number}"
                if stream.peek() != "{":
                    yield Rejected(where, "expected a chat as an object")
                    continue
                yield from self._one(stream, where)

    def _one(self, stream: JsonStream, where: str) -> Iterator[ForeignSession | Rejected]:
        head: dict[str, Any] = {}
        for key in stream.members():
            if key == "messages":
                yield self._chat(head, stream, where)
            else:
                head[key] = value_or_reason(stream)

    def _chat(
        self, head: dict[str, Any], stream: JsonStream, where: str
    ) -> ForeignSession | Rejected:
        """A chat, whose messages are read as they are gone through."""
        own_id = head.get("id")
        if isinstance(own_id, bool) or not isinstance(own_id, int | str) or own_id == "":
            return Rejected(where, expected("an id before messages", own_id).args[0])
        if stream.peek() != "[":
            return Rejected(where, "expected messages to be a list")
        return ForeignSession(
            id=str(own_id),
            place=where,
            messages=self.streamed(self.messages(stream, where), where),
            fields=scalars(head),
            title=text_of(head.get("name")),
        )

    def message(self, said: dict[str, Any], place: str) -> ForeignMessage | None:
        """A message as Telegram has it; see `Messenger.message`."""
        if said.get("type") != "message":
            self.count("messages that Telegram tells something in")
            return None
        pieces = [_text(said.get("text")), *self._media(said)]
        text = "\n\n".join(piece for piece in pieces if piece)
        if not text:
            self.count("empty messages")
            return None
        names = (text_of(said.get("from")), text_of(said.get("from_id")))
        time = instant(said.get("date_unixtime")) or instant(said.get("date"))
        own_id = said.get("id")
        known = str(own_id) if isinstance(own_id, int | str) else None
        return ForeignMessage(self.written(names, text, known), place, time)

    def _media(self, said: dict[str, Any]) -> Iterator[str]:
        kind = text_of(said.get("media_type"))
        there = next((name for name in _MEDIA if said.get(name) is not None), None)
        if kind or there:
            what = kind if kind in _KINDS else there or "media"
            name = said.get("sticker_emoji") or said.get("file_name")
            yield self.note(what.removesuffix("_information").replace("_", " "), name)


def _text(value: object) -> str:
    """What a message says; pieces of it may be links, names or code."""
    if isinstance(value, list):
        return "".join(_text(piece) for piece in value if not isinstance(piece, list))
    if isinstance(value, dict):
        return text_of(value.get("text")) or ""
    if isinstance(value, str):
        return value
    raise expected("text to be text or a list", value)
