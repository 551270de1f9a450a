"""PostgreSQL database: one state of one with LangGraph's tables, and where it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from langmem_isolated._database.foreign import open_postgres, reading
from langmem_isolated.errors import SourceRefused

_FETCHED = 500
# One that was left half way may still be open when the next begins.
_numbers = count()


class PostgresDatabase:
    """A database that is read, and has these tables.

    Args:
        location: Its URL.
        schema: Where its tables are; by default where the connection looks.
        tables: Columns that each table must have.

    Raises:
        SourceRefused: It cannot be reached, or lacks one of the tables.
    """

    def __init__(
        self, location: str, schema: str | None, tables: Mapping[str, Sequence[str]]
    ) -> None:
        self._connection = open_postgres(location)
        self._schema = schema
        self.names = {table: self._named(table).replace("%", "%%") for table in tables}
        """What stands in a statement for ``{table}``."""
        self.identity = self._known_as()
        """Host, port, database and schema."""
        try:
            for table, columns in tables.items():
                self._check(table, columns)
        except BaseException:
            self.close()
            raise

    def _check(self, table: str, columns: Sequence[str]) -> None:
        found = self.columns(table)
        if not found.issuperset(columns):
            what = f"only {len(found)} columns of another kind" if found else "no such table"
            raise SourceRefused(
                f"{table} is not as LangGraph makes it: {what}",
                "Give the database of a PostgresSaver or PostgresStore, and schema= if its tables "
                "are not where the connection looks.",
            )

    def _known_as(self) -> str:
        info = self._connection.info
        where = f"postgresql://{info.host}:{info.port}/{info.dbname}"
        return where if self._schema is None else f"{where}/{self._schema}"

    def _named(self, table: str) -> str:
        return table if self._schema is None else f"{_quoted(self._schema)}.{table}"

    def columns(self, table: str) -> set[str]:
        """The names of a table's columns; none if there is no such table."""
        found = self.rows(
            "SELECT attname FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            self._named(table),
        )
        return {name for (name,) in found}

    def count(self, table: str) -> int:
        """How many rows a table has."""
        ((count,),) = self.rows(f"SELECT count(*) FROM {self.names[table]}")  # noqa: S608 - quoted
        return int(count)

    def size(self, *tables: str) -> int:
        """How many bytes the tables have, with their indexes."""
        sql = (
            "SELECT sum(pg_total_relation_size(to_regclass(name))) FROM unnest(%s::text[]) AS name"
        )
        ((size,),) = self.rows(sql, [self._named(table) for table in tables])
        return int(size)

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """What a statement finds, with ``{table}`` for the name of a table."""
        with reading():
            return self._connection.execute(sql.format_map(self.names), values).fetchall()

    def stream(self, sql: str, *values: Any) -> Iterator[Any]:
        """What a statement finds, held by the server and fetched 500 rows at a time."""
        with reading(), self._connection.cursor(name=f"units_{next(_numbers)}") as cursor:
            cursor.itersize = _FETCHED
            cursor.execute(sql.format_map(self.names), values)
            yield from cursor

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
