"""Application tables without owner columns: sessions, memory and profiles, by a table file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any, ClassVar

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.application.forms import (
    Unreadable,
    id_of,
    json_of,
    message_of,
    messages_of,
    moment_of,
)
from langmem_isolated.importers.application.queries import ForeignDatabase, Row, quoted
from langmem_isolated.importers.application.table_file import (
    MESSAGE,
    OWNERS,
    Table,
    TableFile,
    read_table_file,
)
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import (
    ForeignFact,
    ForeignItem,
    ForeignMessage,
    ForeignProfile,
    ForeignSession,
    ForeignUnit,
    Rejected,
)

_TRUE = (True, "1", "t", "true", "yes", "y", "T", "True", "TRUE")


class TablesSource(Source):
    """What a table file names of an application's database.

    Args:
        location: The path of an SQLite file, or a URL of PostgreSQL.
        tables: The table file.

    Raises:
        SourceRefused: The table file says what this does not know.
    """

    kind: ClassVar[str] = "tables"

    def __init__(self, location: str, *, tables: Path | str | None = None) -> None:
        if tables is None:
            raise SourceRefused(
                "Nothing says what the tables hold",
                "Give a table file, on the command line --tables.",
            )
        self._path = Path(tables)
        self._file: TableFile = read_table_file(self._path)
        self._database = ForeignDatabase(location)
        named = [*self._file.sessions, *self._file.items, *self._file.profiles]
        # Which these are, each table file says.
        self.owners = tuple(  # type: ignore[misc]
            name for name in OWNERS if all(name in table.columns for table in named)
        )

    @property
    def identity(self) -> str:
        """The database, and a digest of the table file."""
        digest = hashlib.sha256(self._path.read_bytes()).hexdigest()
        return f"{self._database.identity} {digest}"

    def units(self) -> Iterator[ForeignUnit | Rejected]:
        """Sessions, then items, then profiles, in the order of the table file."""
        yield from chain.from_iterable(map(self._sessions, self._file.sessions))
        yield from chain.from_iterable(map(self._items, self._file.items))
        yield from chain.from_iterable(map(self._profiles, self._file.profiles))

    def total(self) -> int | None:
        """How many rows of messages, items and profiles there are."""
        messages = (table.messages for table in self._file.sessions)
        counted = [table for table in messages if table] + [*self._file.items, *self._file.profiles]
        return sum(self._count(table.query) for table in counted) if counted else None

    def files(self) -> Sequence[Path]:
        """SQLite's file and its log."""
        return self._database.files()

    def close(self) -> None:
        """End the connection."""
        self._database.close()

    def _count(self, query: str) -> int:
        return int(next(self._database.rows(f"SELECT count(*) AS n FROM ({query}) AS q"))["n"])  # noqa: S608

    def _sessions(self, table: Table) -> Iterator[ForeignUnit | Rejected]:
        self._refuse_several_owners(table)
        rows = self._database.rows(_joined(table))
        # Compared by type as well: SQLite takes 1 and "1" for two.
        groups = groupby(rows, key=lambda row: (type(row["id"]), row["id"]))
        for number, (_, group) in enumerate(groups, start=1):
            yield _session(table, group, f"{table.name}, row {number} by id")
        if table.messages is not None:
            yield from self._without_session(table, table.messages)

    def _refuse_several_owners(self, table: Table) -> None:
        """A join that gives a session two rows would give it two owners, and double it."""
        doubled = self._count(
            f"SELECT id FROM ({table.query}) AS q GROUP BY id HAVING count(*) > 1"  # noqa: S608
        )
        if doubled:
            raise SourceRefused(
                f"The joins of {table.name} give {doubled:,} sessions more than one row",
                "Narrow them, so that each session has one owner.",
            )

    def _without_session(self, table: Table, messages: Table) -> Iterator[Rejected]:
        rows = self._database.rows(
            f"SELECT m.* FROM ({messages.query}) AS m "  # noqa: S608 - what the table file says
            f"WHERE NOT EXISTS (SELECT 1 FROM ({table.query}) AS s WHERE s.id = m.session)"
        )
        for number, row in enumerate(rows, start=1):
            place = _row_place(messages, row.get("id"), f"without session {number}")
            yield Rejected(place, f"a message of a session that {table.name} does not have")

    def _items(self, table: Table) -> Iterator[ForeignUnit | Rejected]:
        for number, row in enumerate(self._ordered(table, "user", "module", "key"), start=1):
            place = f"{table.name}, row {number} by user"
            try:
                yield _item(table, row, place)
            except Unreadable as error:
                yield Rejected(place, str(error))

    def _profiles(self, table: Table) -> Iterator[ForeignUnit | Rejected]:
        rows = self._ordered(table, *OWNERS)
        groups = groupby(rows, key=lambda row: [row.get(name) for name in OWNERS])
        for number, (_, group) in enumerate(groups, start=1):
            yield from _profile(table, group, f"{table.name}, profile {number} by user")

    def _ordered(self, table: Table, *names: str) -> Iterator[Row]:
        order = [name for name in (*names, *table.order, "attribute") if name in table.columns]
        by = ", ".join(quoted(name) for name in dict.fromkeys(order))
        return self._database.rows(f"SELECT * FROM ({table.query}) AS q ORDER BY {by}")  # noqa: S608


def _joined(table: Table) -> str:
    """A query of sessions, each as often as it has messages: the database sorts, not we.

    Two cursors side by side would need two columns of ids to be ordered alike, and one query for
    each session an index that few such tables have.
    """
    if table.messages is None:
        return f"SELECT * FROM ({table.query}) AS s ORDER BY s.id"  # noqa: S608
    columns = ", ".join(
        f"m.{quoted(name)} AS {quoted(f'message {name}')}" for name in table.messages.columns
    )
    order = "".join(f", {quoted(f'message {name}')}" for name in table.messages.order)
    return (
        f"SELECT s.*, {columns} FROM ({table.query}) AS s "  # noqa: S608
        f"LEFT JOIN ({table.messages.query}) AS m ON m.session = s.id ORDER BY s.id{order}"
    )


def _session(table: Table, rows: Iterator[Row], place: str) -> ForeignSession | Rejected:
    first = next(rows)
    try:
        return ForeignSession(
            _required_id(first["id"], "a session without an id"),
            place,
            _messages(table, chain([first], rows), place),
            _fields(table, first),
            title=_text_or_none(first.get("title")),
            created_at=moment_of(first.get("created_at")),
            updated_at=moment_of(first.get("updated_at")),
            is_archived=first.get("archived") in _TRUE,
            is_pinned=first.get("pinned") in _TRUE,
        )
    except Unreadable as error:
        return Rejected(place, str(error))


def _messages(table: Table, rows: Iterator[Row], place: str) -> Iterator[ForeignMessage | Rejected]:
    if table.messages is None:
        yield from _messages_of_column(next(rows).get("messages"), f"{place}, messages")
        return
    names = table.messages.columns
    for number, row in enumerate(rows, start=1):
        message = {name: row[f"message {name}"] for name in MESSAGE if name in names}
        if message.pop("session") is not None:
            where = _row_place(table.messages, message.get("id"), f"message {number} of {place}")
            yield _message(message, where)


def _message(row: Row, place: str) -> ForeignMessage | Rejected:
    try:
        return message_of(row, place)
    except Unreadable as error:
        return Rejected(place, str(error))


def _messages_of_column(value: object, place: str) -> Iterator[ForeignMessage | Rejected]:
    if value is None:
        return
    try:
        entries = json_of(value)
    except Unreadable as error:
        yield Rejected(place, str(error))
        return
    yield from messages_of(entries, place)


def _item(table: Table, row: Row, place: str) -> ForeignItem:
    key = _required_id(row["key"], "an item without a key")
    value = _value_of(row["value"])
    labels = (_required_id(row[name], "an item without a label") for name in table.labels)
    return ForeignItem(
        (*(table.namespace or (table.name,)), *labels),
        key,
        value if isinstance(value, dict) else {"value": value},
        place,
        created_at=moment_of(row.get("created_at")),
        updated_at=moment_of(row.get("updated_at")),
        expires_at=moment_of(row.get("expires_at")),
        fields=_fields(table, row),
    )


def _required_id(value: object, otherwise: str) -> str:
    if not (id_ := id_of(value)):
        raise Unreadable(otherwise)
    return id_


def _value_of(value: object) -> Any:
    """JSON's objects and lists as such; other text is text, which ``"5"`` and ``"null"`` are."""
    is_text = isinstance(value, str) and value.lstrip()[:1] not in ("{", "[")
    return value if is_text else json_of(value)


def _profile(table: Table, rows: Iterator[Row], place: str) -> Iterator[ForeignProfile | Rejected]:
    facts: list[ForeignFact] = []
    interests: list[str] = []
    attributes: dict[str, Any] = {}
    summary: str | None = None
    first: Row | None = None
    for number, row in enumerate(rows, start=1):
        first = first or row
        try:
            if text := _text_or_none(row.get("fact")):
                facts.append(ForeignFact(text, time=moment_of(row.get("time"))))
            if text := _text_or_none(row.get("interest")):
                interests.append(text)
            if name := _text_or_none(row.get("attribute")):
                attributes[name] = _value_of(row.get("value"))
            summary = _text_or_none(row.get("summary")) or summary
        except Unreadable as error:
            yield Rejected(f"{place}, row {number}", str(error))
    if first is not None:
        fields = _fields(table, first)
        yield ForeignProfile(
            fields["user"] or "",
            place,
            facts,
            interests,
            attributes,
            summary,
            fields,
            table.is_cross_module,
        )


def _fields(table: Table, row: Row) -> Mapping[str, Any]:
    """What rules of a mapping read: whose it is, and the further fields."""
    owners = {name: id_of(row[name]) for name in OWNERS if name in table.columns}
    return owners | {name: row[f"field {name}"] for name in table.fields}


def _text_or_none(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    raise Unreadable(f"text was expected, got {type(value).__name__}")


def _row_place(table: Table, id_: object, otherwise: str) -> str:
    """A row by its number, if it has one: other ids may tell of a person."""
    return f"{table.name}, id {id_}" if type(id_) is int else f"{table.name}, {otherwise}"
