"""Slack: the export of a workspace, a zip or a folder with a folder of days for each channel."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from langmem_isolated.importers.people.json_stream import Unreadable
from langmem_isolated.importers.people.messenger import Messenger
from langmem_isolated.importers.people.values import (
    expected,
    inside,
    instant,
    objects,
    scalars,
    text_of,
)
from langmem_isolated.lifecycle import ForeignMessage, ForeignSession, Rejected

_LISTS = ("channels.json", "groups.json", "dms.json", "mpims.json")
_WRITTEN = (None, "bot_message", "me_message", "file_share", "thread_broadcast", "file_comment")
# <@U123>, <#C123|general>, <!here>, <https://example.org|a page>
_REFERENCE = re.compile(r"<([@#!]?)([^<>|]{1,2000})(?:\|([^<>]{0,2000}))?>")


class SlackExport(Messenger):
    """Channels of Slack.

    Answers in a thread stand where they were written in time; ``response_metadata`` has
    ``thread_ts`` of the message that they answer.

    Args:
        location: The zip, or the folder that it was unpacked to.
        me: As of `Messenger`: names, real names, or ids of members.
    """

    kind = "slack"
    product = "Slack"
    part = "channel"
    patterns: ClassVar = (r"[^/]+/\d{4}-\d\d-\d\d\.json",)

    def __init__(self, location: str, *, me: Sequence[str] | None = None) -> None:
        super().__init__(location, me=me)
        self._members: dict[str, list[str]] = {}
        self._channels: dict[str, dict[str, Any]] = {}
        self._days: dict[str, list[str]] = {}

    def wanted(self) -> list[str]:
        """The folders of channels."""
        self._members = dict(self._read_members())
        self._channels = {
            known: one
            for one in self._listed(_LISTS)
            for known in (text_of(one.get("name")), text_of(one.get("id")))
            if known
        }
        self._days = {}
        for name in super().wanted():
            self._days.setdefault(name.rpartition("/")[0], []).append(name)
        return list(self._days)

    def read(self, name: str, place: str) -> Iterator[ForeignSession | Rejected]:
        """The channel of a folder."""
        folder = name.rpartition("/")[2]
        channel = self._channels.get(folder, {})
        where = place.removesuffix(", ") or "the channel"
        yield ForeignSession(
            id=text_of(channel.get("id")) or folder,
            place=where,
            messages=self._days_of(name, where),
            fields={**scalars(channel), "folder": folder},
            title=text_of(channel.get("name")) or folder,
            is_archived=channel.get("is_archived") is True,
        )

    def _days_of(self, folder: str, where: str) -> Iterator[ForeignMessage | Rejected]:
        for name in self._days[folder]:
            yield from self._day(name, f"{where}, {name.rpartition('/')[2]}")

    def _day(self, name: str, where: str) -> Iterator[ForeignMessage | Rejected]:
        try:
            said = self.small(name)
            if not isinstance(said, list):
                raise expected("a list of messages", said)
        except Unreadable as unreadable:
            yield Rejected(where, unreadable.args[0])
            return
        numbered = enumerate(said, 1)
        for number, one in sorted(numbered, key=lambda pair: str(inside(pair[1], "ts") or "")):
            yield from self.read_message(one, f"{where}, message {number}")

    def message(self, said: dict[str, Any], place: str) -> ForeignMessage | None:
        """A message as Slack has it; see `Messenger.message`."""
        if said.get("type", "message") != "message" or said.get("subtype") not in _WRITTEN:
            self.count("messages that Slack tells something in")
            return None
        pieces = [self._readable(text_of(said.get("text")) or "")]
        pieces += [self.note("file", file.get("name")) for file in objects(said.get("files"))]
        pieces += [
            text_of(one.get("fallback")) or self.note("attachment")
            for one in objects(said.get("attachments"))
        ]
        text = "\n\n".join(filter(None, pieces))
        if not text:
            self.count("empty messages")
            return None
        sent = text_of(said.get("ts"))
        message = self.written(self._names(said), text, sent)
        if text_of(said.get("thread_ts")) and said["thread_ts"] != sent:
            message.response_metadata = {"thread_ts": said["thread_ts"]}
        return ForeignMessage(message, place, instant(sent))

    def _names(self, said: dict[str, Any]) -> list[str | None]:
        """Of who wrote it: as the list of members has it, or as the message, of a bot."""
        user = text_of(said.get("user"))
        told = said.get("user_profile")
        return [
            *(self._members.get(user, []) if user else ()),
            *(text_of(inside(told, name)) for name in ("display_name", "real_name", "name")),
            text_of(said.get("username")),
            user,
            text_of(said.get("bot_id")),
        ]

    def _readable(self, text: str) -> str:
        """Its text with names for ids, and without Slack's escapes."""
        return html.unescape(_REFERENCE.sub(self._reference, text))

    def _reference(self, found: re.Match[str]) -> str:
        mark, target, label = found.groups()
        if mark == "@":
            known = self._members.get(target)
            return f"@{label or (known[0] if known else target)}"
        if mark == "#":
            name = text_of(inside(self._channels.get(target), "name"))
            return f"#{label or name or target}"
        if mark == "!":
            return f"@{label or target}"
        return f"{label} ({target})" if label and label != target else target

    def _listed(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The objects of lists beside the channels; one that cannot be read is none."""
        for wanted in names:
            for name in self.exported.matching(re.escape(wanted)):
                try:
                    yield from objects(self.small(name))
                except Unreadable:
                    self.count("lists of members or channels that cannot be read")

    def _read_members(self) -> Iterator[tuple[str, list[str]]]:
        for one in self._listed(["users.json"]):
            profile = one.get("profile")
            names = [
                *(text_of(inside(profile, name)) for name in ("display_name", "real_name")),
                *(text_of(one.get(name)) for name in ("real_name", "name")),
            ]
            if own_id := text_of(one.get("id")):
                yield own_id, [name for name in names if name]
