"""Carried settings: a statement outside of a transaction, and what it needs set, in one round trip.

PostgreSQL ends the transaction around a pipeline where the client synchronises. A setting that is
local to it and the statement behind it are sent together, and nothing of it is left on the session,
which behind a transaction pooler the next one is given. Written onto libpq, since psycopg's own
pipeline asks twice: 55 µs for both statements instead of 195, on loopback, where the statement
alone takes psycopg 78.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from psycopg import Connection, errors
from psycopg.adapt import PyFormat, Transformer
from psycopg.generators import fetch_many
from psycopg.pq import ExecStatus, Format
from psycopg.waiting import Ready, Wait

# As psycopg's own: more than these would cost the server memory for every connection.
_MOST_PREPARED = 100
# From this use on a statement is prepared: what runs once is not worth keeping.
_PREPARED_FROM = 3
_FAILED = ExecStatus.FATAL_ERROR


class PreparedStatements:
    """What one connection has prepared, by text and types of its parameters."""

    __slots__ = ("_count", "_names", "_uses")

    def __init__(self) -> None:
        self._names: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._uses: dict[tuple[str, tuple[int, ...]], int] = {}
        self._count = 0

    def find(self, sql: str, types: tuple[int, ...]) -> tuple[bytes | None, bool]:
        """The name of a statement, if it is prepared or is to be; and whether it is to be now."""
        key = sql, types
        if name := self._names.get(key):
            return name, False
        uses = self._uses[key] = self._uses.get(key, 0) + 1
        if uses < _PREPARED_FROM or len(self._names) >= _MOST_PREPARED:
            return None, False
        self._count += 1
        name = self._names[key] = b"_langmem_%d" % self._count
        return name, True

    def forget(self) -> None:
        """Prepare anew what is used: after a failure it is not known what the server has."""
        self._names.clear()
        self._uses.clear()


class StatementsOfConnections:
    """What each connection has prepared, for as long as there is the connection."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[Any, PreparedStatements] = WeakKeyDictionary()

    def of(self, connection: Any) -> PreparedStatements:
        """That of one connection."""
        found = self._of.get(connection)
        return self._of.setdefault(connection, PreparedStatements()) if found is None else found


class CarriedSettings(NamedTuple):
    """What a transaction has set while it lasts."""

    sql: str
    values: Sequence[str]
    statements: "StatementsOfConnections | None"

    @classmethod
    def of(
        cls, values: Mapping[str, str], statements: "StatementsOfConnections | None"
    ) -> "CarriedSettings":
        """One statement for all of them.

        Args:
            values: By the name of a setting, a constant of ours and nothing that was given.
            statements: What connections have prepared; ``None`` where nothing may be.
        """
        calls = (f"set_config('{name}', ${n}, true)" for n, name in enumerate(values, 1))
        return cls(f"SELECT {', '.join(calls)}", [*values.values()], statements)

    def open_cursor(self, connection: Connection[Any]) -> "CarryingCursor":
        """A cursor for statements outside of a transaction."""
        prepared = None if self.statements is None else self.statements.of(connection)
        return CarryingCursor(connection, self, prepared)


class CarryingCursor:
    """A cursor whose every statement is a transaction, with the settings it needs in front.

    Args:
        connection: Of psycopg, in autocommit mode and in no transaction.
        settings: What is set.
        prepared: What the connection has prepared; ``None`` where nothing may be.
    """

    __slots__ = ("_connection", "_prepared", "_result", "_settings", "_transformer")

    def __init__(
        self,
        connection: Connection[Any],
        settings: CarriedSettings,
        prepared: PreparedStatements | None,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._prepared = prepared
        self._transformer = Transformer(connection)
        self._result: Any = None

    def execute(self, sql: str, values: Sequence[Any] = ()) -> None:
        """Run a statement; its rows are all there when this returns.

        Raises:
            psycopg.Error: The server refused or failed, or the connection broke.
        """
        try:
            self._execute(sql, values)
        except errors.InvalidSqlStatementName:
            # psycopg has had the server forget all that was prepared, as after it rolled back.
            # Nothing was done.
            self._execute(sql, values)

    def _execute(self, sql: str, values: Sequence[Any]) -> None:
        transformer = self._transformer
        dumped = transformer.dump_sequence(values, [PyFormat.AUTO] * len(values))
        types = tuple(transformer.types or ())
        carried = [value.encode() for value in self._settings.values]
        pgconn = self._connection.pgconn
        pgconn.enter_pipeline_mode()
        try:
            count = self._send(self._settings.sql, carried, (0,) * len(carried), None)
            count += self._send(sql, dumped, types, transformer.formats)
            pgconn.pipeline_sync()
            results = self._connection.wait(_answers(pgconn, count))
        finally:
            _leave_pipeline(pgconn)
        self._take(results)

    def _send(self, sql: str, values: Any, types: tuple[int, ...], formats: Any) -> int:
        """Send a statement; how many answers it will have."""
        pgconn = self._connection.pgconn
        name, is_new = (None, False) if self._prepared is None else self._prepared.find(sql, types)
        if name is None:
            pgconn.send_query_params(sql.encode(), values, types, formats, Format.BINARY)
            return 1
        if is_new:
            pgconn.send_prepare(name, sql.encode(), types)
        pgconn.send_query_prepared(name, values, formats, Format.BINARY)
        return 1 + is_new

    def _take(self, results: list[Any]) -> None:
        for result in results:
            if result.status == _FAILED:
                if self._prepared is not None:
                    self._prepared.forget()
                raise errors.error_from_result(result, self._connection.info.encoding)
        self._result = results[-1]
        self._transformer.set_pgresult(self._result, set_loaders=True, format=Format.BINARY)

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each of ``rows``, each a transaction."""
        for values in rows:
            self.execute(sql, values)

    def fetchall(self) -> list[Any]:
        """All rows of the statement."""
        rows: list[Any] = self._transformer.load_rows(0, self._result.ntuples, tuple)
        return rows

    def fetchone(self) -> Any:
        """The first row of the statement, or ``None``."""
        return self._transformer.load_row(0, tuple) if self._result.ntuples else None

    @property
    def rowcount(self) -> int:
        """How many rows the statement returned or changed."""
        return self._result.command_tuples or 0


def _answers(pgconn: Any, count: int) -> Generator[Wait, Ready | int, list[Any]]:
    """Wait for the last result of each of ``count`` statements, and for the end of it all."""
    while pgconn.flush():
        if (yield Wait.RW) & Ready.R:
            pgconn.consume_input()
    found: list[Any] = []
    try:
        while len(found) <= count:
            found.append((yield from fetch_many(pgconn))[-1])
    except errors.DatabaseError:
        # A server that ends says why before it is gone.
        if all(result.status != _FAILED for result in found):
            raise
    return found[:count]


def _leave_pipeline(pgconn: Any) -> None:
    """Leave a connection as it was found, or closed: nothing may be answered to who comes next."""
    try:
        pgconn.exit_pipeline_mode()
    except errors.Error:
        pgconn.finish()
