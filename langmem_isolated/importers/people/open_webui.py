"""Open WebUI: its export of chats as JSON, and its database ``webui.db``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from langchain_core.messages import AIMessage, BaseMessage

from langmem_isolated._database.foreign import open_sqlite
from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.people.branched import BranchedExport
from langmem_isolated.importers.people.json_stream import MOST_BYTES, Unreadable, parsed
from langmem_isolated.importers.people.replies import model_of, spoken_by, usage_of
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

_COLUMNS = (
    *("id", "user_id", "title", "created_at", "updated_at", "archived", "pinned", "folder_id"),
)
_OF_USER = ("email", "name", "username", "role")


class OpenWebUiExport(BranchedExport):
    """Chats of Open WebUI.

    Args:
        location: The JSON export, or ``webui.db``, whose chats are of several people: a rule maps
            ``user_id``, ``user_email``, ``user_name`` or ``user_username`` of each.
        branches: ``"all"`` makes a session of every other branch, too.
    """

    kind = "open-webui"
    product = "Open WebUI"
    patterns: ClassVar = (r"webui\.db", r"(?:all-)?chats?-export.*\.json", r".*\.json")

    def files(self) -> Sequence[Path]:
        """The file, and the log of a database beside it."""
        log = self.exported.path.with_name(f"{self.exported.path.name}-wal")
        return [*super().files(), *([log] if log.exists() else [])]

    def read(self, name: str, place: str) -> Iterator[ForeignSession | Rejected]:
        """The chats of a JSON file or a database."""
        with self.exported.open(name) as reading:
            is_database = reading.read(16) == b"SQLite format 3\0"
        if not is_database:
            yield from super().read(name, place)
            return
        if self.exported.is_zip:
            raise SourceRefused("The database is inside of a zip", "Unpack it, and give the file.")
        path = self.exported.path / name if self.exported.is_folder else self.exported.path
        with closing(open_sqlite(path)) as connection:
            yield from self._of_rows(connection)

    def sessions(self, value: Any, where: str) -> Iterator[ForeignSession | Rejected]:
        """A chat, and its other branches where they are wanted."""
        entry = an_object(value, "a chat as an object")
        # Some exports have the chats alone, without their rows.
        chat = an_object(entry.get("chat", entry), "chat to be an object")
        own_id = text_of(entry.get("id")) or text_of(chat.get("id"))
        if own_id is None:
            raise expected("id to be text", entry.get("id"))
        messages = self._by_id(chat)
        leaf = text_of(inside(chat, "history", "currentId"))
        parents = {one: text_of(inside(said, "parentId")) for one, said in messages.items()}
        title = text_of(entry.get("title")) or text_of(chat.get("title"))
        for way in self.branches_of(own_id, where, parents, leaf):
            yield ForeignSession(
                id=way.id,
                place=way.place,
                messages=list(self._found(messages, way.nodes, where)),
                fields=scalars(entry),
                title=title,
                created_at=instant(entry.get("created_at", chat.get("timestamp"))),
                updated_at=instant(entry.get("updated_at")),
                is_archived=entry.get("archived") in (True, 1),
                is_pinned=entry.get("pinned") in (True, 1),
            )

    def _by_id(self, chat: dict[str, Any]) -> dict[str, Any]:
        """Messages by their ids; those of the older layout, which is a list, one behind another."""
        found = inside(chat, "history", "messages")
        if isinstance(found, dict):
            return found
        listed = chat.get("messages")
        if not isinstance(listed, list):
            raise expected("history.messages to be an object", found)
        ids = [text_of(inside(said, "id")) or f"message {n}" for n, said in enumerate(listed)]
        parents = [None, *ids]
        return {
            own: {"parentId": parent, **(said if isinstance(said, dict) else {"role": None})}
            for own, parent, said in zip(ids, parents, listed, strict=False)
        }

    def _found(
        self, messages: Mapping[str, Any], path: list[str], where: str
    ) -> Iterator[ForeignMessage | Rejected]:
        for number, node in enumerate(path, 1):
            place = f"{where}, message {number} of its branch"
            try:
                said = an_object(messages[node], "a message as an object")
                message = self._message(said)
            except Unreadable as unreadable:
                yield Rejected(place, unreadable.args[0])
                continue
            if message is not None:
                yield ForeignMessage(message, place, instant(said.get("timestamp")))

    def _message(self, said: dict[str, Any]) -> BaseMessage | None:
        pieces = [self._text(said.get("content"))]
        pieces += [
            self.note("image" if file.get("type") == "image" else "file", file.get("name"))
            for file in objects(said.get("files"))
        ]
        text = "\n\n".join(piece for piece in pieces if piece)
        if not text:
            self.count("empty messages")
            return None
        role = said.get("role")
        model = model_of(said.get("model"))
        message = spoken_by(role, text, text_of(said.get("id")), model) if role else None
        if message is None:
            raise expected("role to be user, assistant or system", role)
        if isinstance(message, AIMessage):
            message.usage_metadata = usage_of(
                said.get("usage"), "prompt_tokens", "completion_tokens"
            )
        return message

    def _text(self, content: object) -> str:
        if isinstance(content, str) or content is None:
            return content or ""
        if not isinstance(content, list):
            raise expected("content to be text or a list", content)
        return "\n\n".join(
            text_of(part.get("text")) or self.note("part that is not text", part.get("type"))
            for part in objects(content)
        )

    def _of_rows(self, connection: Any) -> Iterator[ForeignSession | Rejected]:
        try:
            rows = connection.execute(_statement(connection))
            names = [column[0] for column in rows.description]
            for number, row in enumerate(rows, 1):
                yield from self._of_row(dict(zip(names, row, strict=True)), f"chat, row {number}")
        except connection.Error as error:
            raise SourceRefused(
                f"The database cannot be read ({type(error).__name__})",
                "Give webui.db of Open WebUI, with its -wal file beside it.",
            ) from None

    def _of_row(self, row: dict[str, Any], where: str) -> Iterator[ForeignSession | Rejected]:
        try:
            yield from self.sessions({**row, "chat": _decoded(row["chat"])}, where)
        except Unreadable as unreadable:
            yield Rejected(where, unreadable.args[0])


def _decoded(chat: object) -> Any:
    if not isinstance(chat, str | bytes):
        raise expected("chat to be JSON", chat)
    raw = chat.encode("utf-8", "surrogatepass") if isinstance(chat, str) else chat
    if len(raw) > MOST_BYTES:
        raise Unreadable(f"it has more than {MOST_BYTES // 2**20} MB")
    return parsed(raw)


def _statement(connection: Any) -> str:
    """Reads every chat with its user; older versions lack columns, and the table of users."""
    there = _columns(connection, "chat")
    if not {"id", "chat"} <= there:
        raise SourceRefused(
            "The database has no table of chats", "Give webui.db of Open WebUI, or its JSON export."
        )
    # Their names are ours, not the database's.
    wanted = [f"chat.{name}" for name in _COLUMNS if name in there] + ["chat.chat"]
    users = _columns(connection, "user")
    join = ""
    if "user_id" in there and "id" in users:
        wanted += [f'"user".{name} AS user_{name}' for name in _OF_USER if name in users]
        join = ' LEFT JOIN "user" ON "user".id = chat.user_id'
    return f"SELECT {', '.join(wanted)} FROM chat{join} ORDER BY chat.rowid"  # noqa: S608


def _columns(connection: Any, table: str) -> set[str]:
    return {row[1] for row in connection.execute(f"PRAGMA table_info({json.dumps(table)})")}
