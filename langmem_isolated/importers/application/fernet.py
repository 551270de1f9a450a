"""Per-user Fernet blobs: a users table with each user's key and an encrypted conversation."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from langmem_isolated._crypto.fernet import FernetKey, FernetRefused, OpenedToken
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.application.forms import Unreadable, id_of, json_of, messages_of
from langmem_isolated.importers.application.queries import ForeignDatabase, Row, quoted
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import (
    ForeignItem,
    ForeignMessage,
    ForeignSession,
    ForeignUnit,
    Rejected,
)

_MAIN = "messages"
_CHANNELS = ("general_chat", "ai_conversation")
_KEY_FILE_COLUMNS = ("id", "key")


class FernetSource(Source):
    """Conversations that an application keeps encrypted, each user's with the user's own key.

    A document is one session per user: ``messages``, then what was said in the channels
    ``general_chat`` and ``ai_conversation``; all else in it, such as ``metadata``, is an item of
    the namespace ``(memory_column,)``.

    Args:
        location: The path of an SQLite file, or a URL of PostgreSQL.
        table: The users table, with its schema if it is in another than the first.
        id_column: Whose row it is.
        key_column: The user's key, as ``Fernet.generate_key()`` writes it.
        memory_column: The token.
        keys: A CSV file of the columns ``id`` and ``key``, in place of ``key_column``.
        channel: Names in the document whose messages are kept as channels of the session.
    """

    kind: ClassVar[str] = "fernet"
    owners: ClassVar[Sequence[str]] = ("user",)

    def __init__(
        self,
        location: str,
        *,
        table: str = "users",
        id_column: str = "id",
        key_column: str = "encryption_key",
        memory_column: str = "conversation_memory",
        keys: Path | str | None = None,
        channel: Sequence[str] = (),
    ) -> None:
        self._database = ForeignDatabase(location)
        self._table, self._name = table, memory_column
        self._channels = tuple(channel) or _CHANNELS
        self._keys = _keys_of(Path(keys)) if keys is not None else None
        key = "NULL" if keys is not None else quoted(key_column)
        owner = quoted(id_column)
        self._query = (
            f"SELECT {owner} AS owner, {key} AS key, {quoted(memory_column)} AS token "  # noqa: S608
            f"FROM {quoted(*table.split('.'))} ORDER BY {owner}"
        )

    @property
    def identity(self) -> str:
        """The database, the table and the column."""
        return f"{self._database.identity} {self._table} {self._name}"

    def units(self) -> Iterator[ForeignUnit | Rejected]:
        """The session and items of each user, in the order of their ids."""
        for number, row in enumerate(self._database.rows(self._query), start=1):
            place = f"{self._table}, row {number} by id"
            # A user who has said nothing has no token.
            if row["token"]:
                yield from self._units_of(row, place)

    def total(self) -> int | None:
        """Unknown: what a token holds is seen when it is opened."""
        return None

    def files(self) -> Sequence[Path]:
        """SQLite's file and its log."""
        return self._database.files()

    def close(self) -> None:
        """End the connection."""
        self._database.close()

    def _units_of(self, row: Row, place: str) -> Iterator[ForeignUnit | Rejected]:
        try:
            owner = id_of(row["owner"]) or ""
            opened = self._opened(owner, row)
            document = json_of(opened.plaintext)
            if not isinstance(document, dict):
                raise Unreadable(f"JSON that is no object, but {kind_of(document)}")  # noqa: TRY301
        except (Unreadable, FernetRefused) as error:
            yield Rejected(place, str(error))
            return
        yield from self._sessions(owner, document, opened.written_at, place)
        yield from self._items(owner, document, opened.written_at, place)

    def _opened(self, owner: str, row: Row) -> OpenedToken:
        key = self._keys.get(owner) if self._keys is not None else _key_of(row["key"])
        if key is None:
            raise Unreadable("a token for which there is no key")
        return key.open(_bytes_of(row["token"]))

    def _sessions(
        self, owner: str, document: Mapping[str, Any], written_at: datetime, place: str
    ) -> Iterator[ForeignSession]:
        names = [name for name in (_MAIN, *self._channels) if document.get(name)]
        if names:
            said = self._said(document, names, written_at, place)
            yield ForeignSession(self._name, place, said, {"user": owner}, updated_at=written_at)

    def _said(
        self, document: Mapping[str, Any], names: Sequence[str], written_at: datetime, place: str
    ) -> Iterator[ForeignMessage | Rejected]:
        """What was said, in the order of time where all of it has one; else name by name."""
        read = [
            message
            for name in names
            for message in messages_of(
                document[name],
                f"{place}, {name}",
                channel=None if name == _MAIN else name,
            )
        ]
        times = [entry.written_at for entry in read if isinstance(entry, ForeignMessage)]
        if len(names) > 1 and all(times):
            read.sort(key=lambda entry: getattr(entry, "written_at", None) or written_at)
        for entry in read:
            yield _timed(entry, written_at)

    def _items(
        self, owner: str, document: Mapping[str, Any], written_at: datetime, place: str
    ) -> Iterator[ForeignItem]:
        for name in sorted(set(document) - {_MAIN, *self._channels}):
            value = document[name]
            yield ForeignItem(
                (self._name,),
                name,
                value if isinstance(value, dict) else {"value": value},
                place,
                created_at=written_at,
                updated_at=written_at,
                fields={"user": owner},
            )


def _timed(entry: ForeignMessage | Rejected, otherwise: datetime) -> ForeignMessage | Rejected:
    """A message without a time was there when the token was written."""
    if isinstance(entry, Rejected) or entry.written_at:
        return entry
    return ForeignMessage(entry.message, entry.place, otherwise, entry.channel)


def _key_of(value: object) -> FernetKey | None:
    return FernetKey(_bytes_of(value)) if value else None


def _bytes_of(value: object) -> bytes:
    """Text, or bytes as SQLite and psycopg have them."""
    if isinstance(value, str):
        # What is no ASCII is no base64, and is refused as such.
        return value.strip().encode(errors="surrogatepass")
    if isinstance(value, bytes | memoryview):
        return bytes(value).strip()
    raise Unreadable(f"text or bytes were expected, got {kind_of(value)}")


def _keys_of(path: Path) -> dict[str, FernetKey]:
    """Each user's key of a CSV file.

    Raises:
        SourceRefused: It cannot be read, lacks a column, or has two keys of one id.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not set(_KEY_FILE_COLUMNS) <= set(rows.fieldnames or ()):
                raise _keys_refused("lacks the column id or key in its first line")
            pairs = [(row["id"], FernetKey(_bytes_of(row["key"] or ""))) for row in rows]
    except OSError as error:
        raise _keys_refused(f"cannot be read: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        if isinstance(error, SourceRefused):
            raise
        raise _keys_refused(f"is no CSV in UTF-8 ({type(error).__name__})") from None
    keys = dict(pairs)
    if len(keys) < len(pairs):
        raise _keys_refused("has two keys of one id")
    return keys


def _keys_refused(what: str) -> SourceRefused:
    return SourceRefused(
        f"The file of keys {what}", "Give a CSV file whose first line is id,key (UTF-8)."
    )
