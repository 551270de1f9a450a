"""WhatsApp: the text of a chat that a phone exported, alone or in a zip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import ClassVar
from zoneinfo import ZoneInfo

from langchain_core.messages import BaseMessage

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.people.json_stream import Broken
from langmem_isolated.importers.people.messenger import Messenger
from langmem_isolated.importers.people.names import id_of
from langmem_isolated.importers.people.whatsapp_lines import (
    ORDERS,
    Line,
    line_of,
    media_of,
    order_of,
)
from langmem_isolated.lifecycle import ForeignMessage, ForeignSession, Rejected

# WhatsApp takes 65,536 characters.
_MOST_LINE = 2**20
_MOST_TEXT = 2**22


class WhatsAppExport(Messenger):
    """Chats of WhatsApp, of Android or iOS.

    The order of day and month is found from all dates of a chat, and counted with what was left
    out, for it to be seen.

    Args:
        location: ``_chat.txt``, ``WhatsApp Chat with ….txt``, or a folder or zip with one.
        me: As of `Messenger`.
        timezone: Where the phone was: the export has its clock's time, such as ``Europe/Rome``.
        dates: ``"day-first"``, ``"month-first"`` or ``"year-first"``, in place of what is found.
    """

    kind = "whatsapp"
    product = "WhatsApp"
    patterns: ClassVar = (r"_chat\.txt", r".*whatsapp.*\.txt", r".*\.txt")

    def __init__(
        self,
        location: str,
        *,
        me: Sequence[str] | None = None,
        timezone: str = "UTC",
        dates: str | None = None,
    ) -> None:
        super().__init__(location, me=me)
        try:
            self._zone = ZoneInfo(timezone)
        except (ValueError, OSError, LookupError):
            raise SourceRefused(
                f"timezone is none that is known, of {len(timezone)} characters",
                "Write one such as Europe/Rome.",
            ) from None
        if dates is not None and dates not in ORDERS:
            raise SourceRefused("dates is no order", f"Write one of {', '.join(ORDERS)}.")
        self._dates = dates

    def read(self, name: str, place: str) -> Iterator[ForeignSession | Rejected]:
        """The chat of a file."""
        order, is_unsure = order_of(line for _, line in self._lines(name) if isinstance(line, Line))
        order = self._dates or order
        self.count(f"chats whose dates were read {order}")
        if is_unsure and not self._dates:
            self.count("chats whose dates would be days in another order, too: see --dates")
        title, where = self._title(name), f"{place}the chat"
        yield ForeignSession(
            id=id_of(title),
            place=where,
            messages=self.streamed(self._messages(name, place, order), where),
            fields={"title": title},
            title=title,
        )

    def _title(self, name: str) -> str:
        """What the chat is called: by its file, or of ``_chat.txt`` by what that is in."""
        path = self.exported.path
        own = PurePosixPath(name)
        if own.stem != "_chat":
            return own.stem
        if len(own.parts) > 1:
            return own.parts[-2]
        is_file = not (self.exported.is_zip or self.exported.is_folder)
        return path.absolute().parent.name if is_file else path.absolute().stem

    def _messages(self, name: str, place: str, order: str) -> Iterator[ForeignMessage | Rejected]:
        """Each with the lines that belong to it."""
        begun: tuple[int, Line] | None = None
        more: list[str] = []
        for number, line in self._lines(name):
            if isinstance(line, Line):
                if begun:
                    yield from self._message(begun, more, place, order)
                begun, more = (number, line), []
            elif line is None:
                yield Rejected(
                    f"{place}line {number}", "it is no UTF-8, or longer than any message"
                )
            elif begun:
                more.append(line)
            elif line.strip():
                yield Rejected(f"{place}line {number}", "it has neither a date nor a sender")
        if begun:
            yield from self._message(begun, more, place, order)

    def _message(
        self, begun: tuple[int, Line], more: list[str], place: str, order: str
    ) -> Iterator[ForeignMessage | Rejected]:
        number, line = begun
        where, text = f"{place}line {number}", "\n".join([line.text, *more])
        time = line.at(order)
        if line.sender is None:
            self.count("lines that WhatsApp tells something in")
        elif time is None:
            yield Rejected(where, f"its date is no day, read {order}")
        elif len(text) > _MOST_TEXT:
            yield Rejected(where, f"it has {len(text):,} characters with the lines behind it")
        else:
            yield ForeignMessage(self._written(line.sender, text), where, self._utc(time))

    def _written(self, sender: str, text: str) -> BaseMessage:
        media = media_of(text)
        if media is not None:
            self.count("media, which are not in the text")
            text = f"[{media}]"
        return self.written([sender], text, None)

    def _utc(self, time: datetime) -> datetime:
        return time.replace(tzinfo=self._zone).astimezone(UTC)

    def _lines(self, name: str) -> Iterator[tuple[int, Line | str | None]]:
        """Number, and what a line is: the first of a message, more of it, or unreadable."""
        with self.exported.open(name) as reading:
            for number, _, raw in reading.lines(_MOST_LINE):
                if raw is not None and b"\0" in raw:
                    raise Broken("it is no text in UTF-8")
                yield number, _decoded(raw)


def _decoded(raw: bytes | None) -> Line | str | None:
    if raw is None:
        return None
    try:
        text = raw.decode().rstrip("\r")
    except UnicodeDecodeError:
        return None
    return line_of(text) or text
