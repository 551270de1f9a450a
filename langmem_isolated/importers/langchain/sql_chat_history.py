"""Tables of messages, of langchain-community and langchain-postgres.

Both have a row for each message, with its session's id, in the order of a serial number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from langmem_isolated.importers.application.queries import ForeignDatabase, quoted
from langmem_isolated.importers.langchain.stored_messages import StoredMessage, sessions_of
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignSession, Rejected


class SqlChatHistorySource(Source):
    """Sessions of one table of SQLite or PostgreSQL, in the order of their ids.

    The database sorts the rows, since their sessions are interleaved and there may be no index.

    Args:
        location: The path of an SQLite file, or a URL of SQLite or PostgreSQL.
        table: As the histories were given, like what follows.
        schema: Of the table, where it is not on PostgreSQL's search path.
        session_column: With the session's id.
        message_column: With the message, as text or JSON.
        order_column: By which the rows of a session are in order.
        time_column: With the time of writing, if there is one.
        columns: Further columns that say whose a session is: mapping rules read them, and a
            session's id stands for one session in each combination of their values.

    Raises:
        SourceRefused: There is no such table, it lacks a column, or it cannot be read.
    """

    kind = "sql-chat-history"

    def __init__(
        self,
        location: str | Path,
        *,
        table: str = "message_store",
        schema: str | None = None,
        session_column: str = "session_id",
        message_column: str = "message",
        order_column: str = "id",
        time_column: str | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        self._database = ForeignDatabase(str(location))
        self._is_postgres = str(location).startswith("postgres")
        self._name, self._order, self._columns = table, order_column, tuple(columns)
        self._table = quoted(*filter(None, (schema, table)))
        self._query = self._select(
            [session_column, *columns], [message_column, *filter(None, [time_column])]
        )
        next(self._database.rows(f"{self._query} LIMIT 0"), None)

    @property
    def identity(self) -> str:
        """The absolute path or the URL without user and password, and what is read there."""
        return f"{self._database.identity} {self._query}"

    def files(self) -> Sequence[Path]:
        """The file of SQLite, and its log."""
        return self._database.files()

    def close(self) -> None:
        """End the connection."""
        self._database.close()

    def total(self) -> int:
        """How many rows there are."""
        query = f"SELECT count(*) AS n FROM {self._table}"  # noqa: S608 - it is quoted
        return int(next(self._database.rows(query))["n"])

    def units(self) -> Iterator[ForeignSession | Rejected]:
        """The sessions, each with its messages in order."""
        return sessions_of(map(self._stored, self._database.rows(self._query)), self._columns)

    def _select(self, owner: Sequence[str], message: Sequence[str]) -> str:
        """The rows, session by session; compared as bytes, whatever the columns' collations are."""
        parts = [self._bytes(name) for name in owner]
        order = ", ".join(f'{part} COLLATE "C"' if self._is_postgres else part for part in parts)
        parts += [self._bytes(name) for name in message]
        named = ", ".join(f'{part} AS "{number}"' for number, part in enumerate(parts))
        number = f"one.{quoted(self._order)}"
        table = f"{self._table} AS one ORDER BY {order}, {number}"
        return f"SELECT {number} AS number, {named} FROM {table}"  # noqa: S608 - all are quoted

    def _bytes(self, name: str) -> str:
        """A column as what no driver decodes: text of SQLite may be any bytes, or be a number."""
        # By its table: SQLite takes a quoted name that it does not know for text.
        column = f"one.{quoted(name)}"
        if self._is_postgres:
            # As JSON, a time has one form, whatever form the server is set to.
            return f"(to_json({column}) #>> '{{}}')"
        return f"CAST({column} AS BLOB)"

    def _stored(self, row: Mapping[str, Any]) -> StoredMessage:
        number, id_, *others = row.values()
        owner = tuple(map(_text, others[: len(self._columns)]))
        stored, written_at = (*others[len(self._columns) :], None)[:2]
        number = number if isinstance(number, int) else f"a {type(number).__name__}"
        place = f"{self._name}, {self._order} {number}"
        return StoredMessage(_text(id_), place, stored, _text(written_at), owner)


def _text(stored: str | bytes | None) -> str | bytes | None:
    """Text as text; bytes that are none stay bytes, and are refused where text is needed."""
    try:
        return stored.decode() if isinstance(stored, bytes) else stored
    except UnicodeDecodeError:
        return stored


class PostgresChatHistorySource(SqlChatHistorySource):
    """Sessions of a table of langchain-postgres, whose rows have the time of writing.

    Args:
        location: ``postgresql://…``.
        table: As the histories were given.
        schema: Of the table, where it is not on the search path.
        columns: As of `SqlChatHistorySource`.

    Raises:
        SourceRefused: There is no such table, it lacks a column, or it cannot be read.
    """

    kind = "postgres-chat-history"

    def __init__(
        self,
        location: str,
        *,
        table: str = "chat_history",
        schema: str | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        super().__init__(
            location,
            table=table,
            schema=schema,
            time_column="created_at",
            columns=columns,
        )
