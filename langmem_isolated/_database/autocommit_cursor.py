"""Autocommit cursor: a statement outside of a transaction, and its settings, in one round trip.

Written onto libpq. What psycopg's own cursors make anew for each statement is made once for each
connection: a look-up of one row takes 19 µs of the processor instead of 35, on loopback.

PostgreSQL ends the transaction around a pipeline where the client synchronises. A setting that is
local to it and the statement behind it are sent together, and nothing of it is left on the session,
which behind a transaction pooler the next one is given. psycopg's own pipeline asks twice: both
statements take 195 µs, and 55 so.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import proxy

from psycopg import Connection, errors
from psycopg.adapt import PyFormat, Transformer
from psycopg.generators import execute, fetch_many
from psycopg.pq import ExecStatus, Format
from psycopg.waiting import Ready, Wait

# As psycopg's own: more than these would cost the server memory for every connection.
_MOST_PREPARED = 100
# From this use on a statement is prepared: what runs once is not worth keeping.
_PREPARED_FROM = 3
_FAILED, _END = ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_SYNC
# Of a statement that the server has forgotten, and of one whose tables have changed.
_STALE = errors.InvalidSqlStatementName, errors.FeatureNotSupported
_Statement = tuple[str, tuple[int, ...]]


class _Context:
    """Whose adapters a transformer uses; it keeps no connection, which keeps the transformer."""

    def __init__(self, connection: Connection[Any]) -> None:
        self.adapters = connection.adapters
        self.connection = proxy(connection)


class PreparedStatements:
    """What one connection has prepared, by text and types of its parameters.

    Args:
        connection: Of psycopg.
        may_prepare: Whether the connection is served by one session, which keeps it.
    """

    __slots__ = ("_count", "_most", "_names", "_uses", "transformer")

    def __init__(self, connection: Connection[Any], *, may_prepare: bool) -> None:
        self.transformer = Transformer(_Context(connection))
        """psycopg's, of values to parameters and of results to rows."""
        self._names: dict[_Statement, bytes] = {}
        self._uses: dict[_Statement, int] = {}
        self._count = 0
        self._most = _MOST_PREPARED if may_prepare else 0

    def find(self, sql: str, types: tuple[int, ...]) -> tuple[bytes | None, bool]:
        """The name of a statement, if it is prepared or is to be; and whether it is to be now."""
        key = sql, types
        if name := self._names.get(key):
            return name, False
        if len(self._names) >= self._most:
            return None, False
        uses = self._uses[key] = self._uses.get(key, 0) + 1
        if uses < _PREPARED_FROM:
            return None, False
        self._count += 1
        name = self._names[key] = b"_langmem_%d" % self._count
        return name, True

    def forget(self) -> None:
        """Prepare anew what is used: it is not known what the server has."""
        self._names.clear()
        self._uses.clear()


class CarriedSettings(NamedTuple):
    """What a transaction has set while it lasts."""

    sql: str
    values: Sequence[str]

    @classmethod
    def of(cls, values: Mapping[str, str]) -> "CarriedSettings":
        """One statement for all of them.

        Args:
            values: By the name of a setting, a constant of ours and nothing that was given.
        """
        calls = (f"set_config('{name}', ${n}, true)" for n, name in enumerate(values, 1))
        return cls(f"SELECT {', '.join(calls)}", [*values.values()])


class AutocommitCursor:
    """A cursor whose every statement is a transaction, with the settings it needs in front.

    Args:
        settings: What is set, if anything.
        connection: Of psycopg, in autocommit mode and in no transaction; as the dialect prepares
            one, with what it has prepared.
    """

    __slots__ = ("_connection", "_result", "_settings", "_statements")

    def __init__(self, settings: CarriedSettings | None, connection: Any) -> None:
        self._settings = settings
        self._connection = connection
        self._statements: PreparedStatements = connection.prepared_statements
        self._result: Any = None

    def execute(self, sql: str, values: Sequence[Any] = ()) -> None:
        """Run a statement; its rows are all there when this returns.

        Raises:
            psycopg.Error: The server refused or failed, or the connection broke.
        """
        try:
            self._execute(sql, values)
        except _STALE:
            # psycopg has had the server forget all that was prepared, as after it rolled back, or
            # somebody has upgraded the tables. Nothing was done.
            self._execute(sql, values)

    def _execute(self, sql: str, values: Sequence[Any]) -> None:
        transformer, pgconn = self._statements.transformer, self._connection.pgconn
        dumped = transformer.dump_sequence(values, [PyFormat.AUTO] * len(values))
        types, formats = tuple(transformer.types or ()), transformer.formats
        name, is_new = self._statements.find(sql, types)
        if name and not is_new and self._settings is None:
            pgconn.send_query_prepared(name, dumped, formats, Format.BINARY)
            results = self._connection.wait(execute(pgconn))
        else:
            results = self._in_pipeline((sql, dumped, types, formats), name, is_new=is_new)
        self._take(results, is_new=is_new)

    def _in_pipeline(self, statement: Any, name: bytes | None, *, is_new: bool) -> list[Any]:
        """The results of a statement and of what is sent in front of it, in one round trip."""
        pgconn, settings = self._connection.pgconn, self._settings
        pgconn.enter_pipeline_mode()
        try:
            if settings is not None:
                carried = [value.encode() for value in settings.values]
                types = (0,) * len(carried)
                its_name, is_its_first = self._statements.find(settings.sql, types)
                first = settings.sql, carried, types, None
                self._send(first, its_name, is_new=is_its_first)
            self._send(statement, name, is_new=is_new)
            pgconn.pipeline_sync()
            results: list[Any] = self._connection.wait(_answers(pgconn))
            return results
        finally:
            _leave_pipeline(pgconn)

    def _send(self, statement: Any, name: bytes | None, *, is_new: bool) -> None:
        pgconn, (sql, values, types, formats) = self._connection.pgconn, statement
        if name is None:
            pgconn.send_query_params(sql.encode(), values, types, formats, Format.BINARY)
            return
        if is_new:
            pgconn.send_prepare(name, sql.encode(), types)
        pgconn.send_query_prepared(name, values, formats, Format.BINARY)

    def _take(self, results: list[Any], *, is_new: bool) -> None:
        for result in results:
            if result.status == _FAILED:
                error = errors.error_from_result(result, self._connection.info.encoding)
                if is_new or isinstance(error, _STALE):
                    self._statements.forget()
                raise error
        self._result = results[-1]

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each of ``rows``, each a transaction."""
        for values in rows:
            self.execute(sql, values)

    def fetchall(self) -> list[Any]:
        """All rows of the statement."""
        transformer, result = self._statements.transformer, self._result
        transformer.set_pgresult(result, set_loaders=True, format=Format.BINARY)
        rows: list[Any] = transformer.load_rows(0, result.ntuples, tuple)
        # The connection keeps the transformer: not with what was read.
        transformer.set_pgresult(None)
        return rows

    def fetchone(self) -> Any:
        """The first row of the statement, or ``None``."""
        return next(iter(self.fetchall()), None)

    @property
    def rowcount(self) -> int:
        """How many rows the statement returned or changed."""
        return self._result.command_tuples or 0


def _answers(pgconn: Any) -> Generator[Wait, Ready | int, list[Any]]:
    """Wait for the last result of each statement, and for the end of it all.

    What fails at its commit had its result before, and has another one behind it.
    """
    while pgconn.flush():
        if (yield Wait.RW) & Ready.R:
            pgconn.consume_input()
    found: list[Any] = []
    try:
        while (result := (yield from fetch_many(pgconn))[-1]).status != _END:
            found.append(result)
    except errors.DatabaseError:
        # A server that ends says why before it is gone.
        if all(result.status != _FAILED for result in found):
            raise
    return found


def _leave_pipeline(pgconn: Any) -> None:
    """Leave a connection as it was found, or closed: nothing may be answered to who comes next."""
    try:
        pgconn.exit_pipeline_mode()
    except errors.Error:
        pgconn.finish()
