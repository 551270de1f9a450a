"""SQLite file: one state of a database with LangGraph's tables, and where it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from langmem_isolated._database.foreign import open_sqlite, reading
from langmem_isolated.errors import SourceRefused


class SqliteFile:
    """A file that is read, and has these tables.

    Args:
        location: Its path.
        tables: Columns that each table must have.

    Raises:
        SourceRefused: It is no SQLite database, or lacks one of the tables.
    """

    def __init__(self, location: str | Path, tables: Mapping[str, Sequence[str]]) -> None:
        self._path = Path(location)
        self._connection = open_sqlite(self._path)
        # Text that is no text is told from text by its type.
        self._connection.text_factory = _text
        try:
            self._check(tables)
        except SourceRefused:
            self.close()
            raise

    def _check(self, tables: Mapping[str, Sequence[str]]) -> None:
        for table, columns in tables.items():
            if not self.columns(table).issuperset(columns):
                found = [*self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
                raise SourceRefused(
                    f"The file has no table {table} as LangGraph makes it, but {len(found)} others",
                    "Without a kind, import FILE says what it looks like.",
                )

    @property
    def identity(self) -> str:
        """The absolute path."""
        return str(self._path.resolve())

    def files(self) -> list[Path]:
        """The file and its log."""
        return [self._path, self._path.with_name(self._path.name + "-wal")]

    def columns(self, table: str) -> set[str]:
        """The names of a table's columns; none if there is no such table."""
        return {name for (name,) in self.rows("SELECT name FROM pragma_table_info(?)", table)}

    def count(self, table: str) -> int:
        """How many rows a table has."""
        with reading():
            ((count,),) = self.rows(f"SELECT count(*) FROM {table}")  # noqa: S608 - a constant
        return int(count)

    def rows(self, sql: str, *values: Any) -> Iterator[Any]:
        """What a statement finds, row by row."""
        return self._connection.execute(sql, values)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
