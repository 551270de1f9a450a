"""A source of JSON lines, for tests of what is the same for all: sessions, items, broken lines."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, message_to_dict

from langmem_isolated.importers import (
    ForeignItem,
    ForeignMessage,
    ForeignSession,
    ForeignUnit,
    Rejected,
    Source,
)

BEGAN = datetime(2025, 3, 1, tzinfo=UTC)
CANARY = "canary-7f3a"
BROKEN = {"broken": True}


class LinesSource(Source):
    """Reads what :func:`write_lines` wrote."""

    kind = "lines"

    def __init__(self, location: str | Path) -> None:
        self._path = Path(location)

    @property
    def identity(self) -> str:
        return str(self._path.absolute())

    def files(self) -> list[Path]:
        return [self._path]

    def units(self) -> Iterator[ForeignUnit | Rejected]:
        with self._path.open() as file:
            for number, line in enumerate(file, start=1):
                yield self._unit(json.loads(line), f"line {number}")

    def _unit(self, told: dict[str, Any], place: str) -> ForeignUnit | Rejected:
        if told == BROKEN:
            return Rejected(place, "it is broken")
        if "key" in told:
            return ForeignItem(tuple(told["namespace"]), told["key"], told["value"], place)
        messages = self._messages(told["messages"], place)
        return ForeignSession(told["id"], place, messages, {"owner": told.get("owner")})

    def _messages(self, said: list[Any], place: str) -> Iterator[ForeignMessage | Rejected]:
        for number, text in enumerate(said):
            at = f"{place}, message {number}"
            if text == BROKEN:
                yield Rejected(at, "it is broken")
                continue
            kind = AIMessage if number % 2 else HumanMessage
            written = BEGAN + timedelta(minutes=number)
            yield ForeignMessage(kind(text, id=f"m{number}"), at, written)


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    """A file of sessions ``{id, messages}``, items ``{namespace, key, value}`` and broken lines."""
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def sessions(users: int, per_user: int, messages: int) -> list[dict[str, Any]]:
    """Sessions ``user:number``."""
    return [
        {
            "id": f"user{user}:{number}",
            "owner": f"user{user}",
            "messages": [f"{user} {number} {index} {CANARY}" for index in range(messages)],
        }
        for user in range(users)
        for number in range(per_user)
    ]


def chat_database(path: Path, *, users: int, messages: int) -> Path:
    """What `SQLChatMessageHistory` writes: sessions ``user:0`` whose rows are mixed."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE message_store "
            "(id INTEGER PRIMARY KEY, session_id TEXT, message TEXT, owner TEXT)"
        )
        said = (
            (user, f"{user} {number} {CANARY}")
            for number in range(messages)
            for user in range(users)
        )
        database.executemany(
            "INSERT INTO message_store (session_id, message, owner) VALUES (?, ?, ?)",
            (
                (f"user{user}:0", json.dumps(message_to_dict(HumanMessage(text))), f"of user{user}")
                for user, text in said
            ),
        )
    return path
