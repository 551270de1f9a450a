"""Queries on an application's database, SQLite or PostgreSQL: read-only, row by row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from langmem_isolated._database.foreign import driver_errors, open_postgres, open_sqlite
from langmem_isolated.errors import SourceRefused

Row = dict[str, Any]
# Of what a URL may say besides, what leads to other tables; a password may be there as well.
_OF_THE_PLACE = ("host", "port", "dbname", "service", "options")
_SCHEMES = ("postgres", "postgresql")
# Rows that a server-side cursor brings at a time: messages of 1 MB each would be 50 MB. 100,000 of
# 2 KB take as long with 200.
_ROWS_AT_ONCE = 50


def quoted(*names: str) -> str:
    """A name of SQL, its parts in quotation marks: ``"public"."users"``."""
    return ".".join(f'"{name.replace(chr(34), 2 * chr(34))}"' for name in names)


class ForeignDatabase:
    """A database of an application, in the state it has when it is first asked.

    Args:
        location: The path of an SQLite file, or a URL of SQLite or PostgreSQL.
    """

    def __init__(self, location: str) -> None:
        scheme, separator, rest = str(location).partition("://")
        is_sqlite = scheme.partition("+")[0] == "sqlite"
        self._url = location if separator and not is_sqlite else None
        self._path = Path(rest.removeprefix("/") if is_sqlite and separator else location)
        self._connection: Any = None
        self._numbers = itertools.count()
        if self._url and scheme.partition("+")[0] not in _SCHEMES:
            raise SourceRefused(
                "The location is a URL of another database than SQLite and PostgreSQL",
                "Give the path of an SQLite file, or postgresql://user@host/name.",
            )

    @property
    def identity(self) -> str:
        """An absolute path, or the URL without user and password."""
        if self._url is None:
            return str(self._path.resolve())
        parts = urlsplit(self._url)
        told = [(name, value) for name, value in parse_qsl(parts.query) if name in _OF_THE_PLACE]
        host = parts.netloc.rpartition("@")[2]
        return f"postgresql://{host}{parts.path}?{urlencode(sorted(told))}"

    def files(self) -> Sequence[Path]:
        """The file of SQLite, and its log."""
        if self._url is not None:
            return ()
        return (self._path, self._path.with_name(f"{self._path.name}-wal"))

    def rows(self, query: str, *values: object) -> Iterator[Row]:
        """The rows of a query by the names of their columns, one at a time.

        Args:
            query: With ``?`` in place of values, if there are any.

        Raises:
            SourceRefused: The database cannot run it.
        """
        cursor = self._cursor()
        try:
            self._run(cursor, query, values)
            names = [column[0] for column in cursor.description or ()]
            for row in self._fetched(cursor):
                yield dict(zip(names, row, strict=True))
        finally:
            # Where a reader stops half way, the database may be closed before this is.
            with suppress(*driver_errors()):
                cursor.close()

    def has_table(self, name: str) -> bool:
        """Whether SQLite's file has a table."""
        found = self.rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", name)
        return next(found, None) is not None

    def close(self) -> None:
        """End the connection; closing twice is fine."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _cursor(self) -> Any:
        if self._connection is None:
            self._connection = open_postgres(self._url) if self._url else open_sqlite(self._path)
            if self._url is None:
                self._connection.text_factory = _text_or_bytes
        if self._url is None:
            return self._connection.cursor()
        cursor = self._connection.cursor(name=f"rows_{next(self._numbers)}")
        cursor.itersize = _ROWS_AT_ONCE
        return cursor

    def _run(self, cursor: Any, query: str, values: Sequence[object]) -> None:
        if self._url is not None and values:
            query = query.replace("?", "%s")
        try:
            # Without values a driver takes % and ? as they stand.
            cursor.execute(query, *([values] if values else ()))
        except driver_errors() as error:
            raise self._refusal(error) from None

    def _fetched(self, cursor: Any) -> Iterator[Sequence[Any]]:
        """Its rows; what the database finds broken as it goes on ends the source."""
        rows = iter(cursor)
        while True:
            try:
                row = next(rows, None)
            except driver_errors() as error:
                raise self._refusal(error) from None
            if row is None:
                return
            yield row

    def _refusal(self, error: Exception) -> SourceRefused:
        """Names of tables and columns are told, which the mapping file has; values are not."""
        told = _told_of_names(error)
        return SourceRefused(
            f"The database cannot run a query ({type(error).__name__}{told})",
            "Compare the names of tables and columns with those of the database.",
        )


def _text_or_bytes(stored: bytes) -> str | bytes:
    """Text; what is none stays bytes, so that one broken row does not end a query."""
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored


# SQLite's: "no such column: p.owner", 'near "JION": syntax error', "ambiguous column name: id".
_OF_NAMES = ("no such ", "near ", "ambiguous column name")


def _told_of_names(error: Exception) -> str:
    """What the database says, if it is about names: a query's, and no value's."""
    state = getattr(error, "sqlstate", None)
    told = error.diag.message_primary if state else str(error)  # type: ignore[attr-defined]
    # 42: syntax error or access rule violation.
    is_of_names = state.startswith("42") if state else told.startswith(_OF_NAMES)
    return f": {told}" if is_of_names else ""
