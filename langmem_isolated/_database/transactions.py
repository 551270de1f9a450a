"""Transaction runner: pooled connections, commit, rollback, retry, translation of driver errors.

The one place where a connection is checked out, begun, committed, rolled back and given back, where
a dead one is replaced, and where an error of the driver is translated.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from traceback import clear_frames
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar, cast

from sqlalchemy import Engine, Executable, exc

from langmem_isolated._database.backoff import Backoff
from langmem_isolated._database.dialects import AnyDialect
from langmem_isolated._database.statements import CompiledStatements
from langmem_isolated.errors import DatabaseLocked, DatabaseUnreachable

P = ParamSpec("P")
T = TypeVar("T")
Row = tuple[Any, ...]


# Questions that share a round trip, and cursors that are open at once.
_ASKED_AHEAD = 64


class _Undone(Exception):
    """An attempt failed of which nothing is left: the server undid it, or never committed it.

    Args:
        error: What to tell the caller where there is no other attempt.
        is_certain: Whether the server itself said so. It did not where the connection broke: a
            statement outside of a transaction may have been done by then.
    """

    def __init__(self, error: Exception, *, is_certain: bool) -> None:
        super().__init__()
        self.error, self.is_certain = error, is_certain


class Transaction:
    """One database transaction, handed to an operation; it must not outlive the call."""

    __slots__ = ("_open_cursor", "_statements", "connection", "is_stored")

    def __init__(
        self,
        statements: CompiledStatements,
        connection: Any,
        open_cursor: Callable[[Any], Any] | None = None,
    ) -> None:
        self._statements = statements
        self.connection = connection
        self._open_cursor = open_cursor or statements.dialect.open_cursor
        self.is_stored = False

    @property
    def is_postgres(self) -> bool:
        """Whether the server is one of PostgreSQL's kind."""
        return self._statements.is_postgres

    @property
    def is_distributed(self) -> bool:
        """Whether the tables have shards on several nodes."""
        return self._statements.dialect.is_distributed

    @property
    def has_modifying_ctes(self) -> bool:
        """Whether one statement may write to two tables, and costs less than two statements.

        On PostgreSQL. On a distributed server it would be pulled to the coordinator and committed
        in two phases: 3 times as slow, and invisible for a while if a worker dies in between.
        """
        return self.is_postgres and not self.is_distributed

    @property
    def is_open(self) -> bool:
        """Whether the database has not undone it all, as it does where the disk is full."""
        return not self._statements.dialect.is_clean(self.connection)

    def attempt(
        self,
        operation: Callable[Concatenate["Transaction", P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run ``operation``; where it raises, nothing of it stays in the transaction."""
        execute = self._open_cursor(self.connection).execute
        execute("SAVEPOINT attempt")
        try:
            result = operation(self, *args, **kwargs)
        except BaseException:
            if self.is_open:
                execute("ROLLBACK TO attempt")
            raise
        finally:
            if self.is_open:
                execute("RELEASE attempt")
        return result

    def query(self, statement: Executable, /, **values: object) -> Any:
        """A cursor whose rows are fetched later: questions asked before share a round trip."""
        return self._query(statement, values)

    def _query(self, statement: Executable, values: Mapping[str, object]) -> Any:
        # Not by keywords once more: a copy of 40 values, for every statement of everybody.
        statements = self._statements
        sql, names = statements.known.get(statement) or statements.compiled(statement)
        cursor = self._open_cursor(self.connection)
        cursor.execute(sql, [*map(values.__getitem__, names)])
        return cursor

    def rows(self, statement: Executable, /, **values: object) -> list[Row]:
        """All rows of a query."""
        rows: list[Row] = self._query(statement, values).fetchall()
        return rows

    def row(self, statement: Executable, /, **values: object) -> Row | None:
        """The first row of a query, or ``None``."""
        row: Row | None = self._query(statement, values).fetchone()
        return row

    def rows_of_each(
        self, statement: Executable, asked: Iterable[Mapping[str, object]]
    ) -> Iterator[list[Row]]:
        """All rows of a query, for each of ``asked``, in their order.

        Some are asked ahead: on PostgreSQL they share a round trip. Never all: SQLite goes through
        every open cursor at every write, and its driver crashed with 70,000 of them.
        """
        rest = iter(asked)
        while part := [self._query(statement, values) for values in islice(rest, _ASKED_AHEAD)]:
            yield from [cursor.fetchall() for cursor in part]

    def changes(self, statement: Executable, /, **values: object) -> bool:
        """Run a statement; whether it changed any row. 6 µs less than having SQLite return them."""
        return self._statements.dialect.has_changed(self._query(statement, values))

    def execute(self, statement: Executable, /, **values: object) -> None:
        """Run a statement that returns no rows."""
        self._query(statement, values)

    def execute_many(self, statement: Executable, rows: Sequence[dict[str, object]]) -> None:
        """Run a statement once for each of ``rows``, if there are any."""
        if not rows:
            return
        sql, names = self._statements.compiled(statement)
        cursor = self._open_cursor(self.connection)
        cursor.executemany(sql, [[*map(row.__getitem__, names)] for row in rows])


class TransactionRunner:
    """Runs operations on connections of a pool, each in a transaction or by itself.

    Args:
        engine: Whose pool the connections come from.
        dialect: What the database wants.
        pool_message: What to say when no connection is free in time.
    """

    def __init__(self, engine: Engine, dialect: AnyDialect, pool_message: str) -> None:
        self._engine = engine
        self._dialect = dialect
        self._pool_message = pool_message
        self.statements = CompiledStatements(engine.dialect, dialect)
        self.errors = cast("type[Exception]", engine.dialect.loaded_dbapi.Error)

    def run(
        self,
        begin: str | None,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run ``operation``; again, where an attempt was undone: it met others, or no server.

        Args:
            begin: The statement that begins the transaction; ``None`` for a single query, which
                needs none.
            operation: What is run; whatever it raises undoes all of it.

        Raises:
            DatabaseError: The database refused or failed, or no attempt within ``timeout`` came
                to its end.
        """
        try:
            return self._attempt(begin, operation, *args, **kwargs)
        except _Undone as undone:
            met = undone.error, undone.is_certain
        return self._run_again(True, met, begin, operation, *args, **kwargs)

    def run_once(
        self,
        begin: str | None,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """As :meth:`run`, for what may have been done when a connection breaks.

        It is run again only where the server said that it undid it.

        Raises:
            DatabaseError: The database refused or failed.
        """
        try:
            return self._attempt(begin, operation, *args, **kwargs)
        except _Undone as undone:
            met = undone.error, undone.is_certain
        return self._run_again(False, met, begin, operation, *args, **kwargs)

    def _run_again(
        self,
        is_undone_when_broken: bool,
        met: tuple[Exception, bool],
        begin: str | None,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        backoff, breaks = Backoff(self._dialect.timeout), 0
        while True:
            failure, is_certain = met
            breaks += not is_certain
            # What breaks a second connection, too, may be what broke the first one.
            may_repeat = is_certain or (is_undone_when_broken and breaks == 1)
            # Out here, so that callers see nothing of what only this class knows, in its context
            # too.
            if not (may_repeat and backoff.wait()):
                raise failure
            try:
                return self._attempt(begin, operation, *args, **kwargs)
            except _Undone as undone:
                met = undone.error, undone.is_certain

    def _attempt(
        self,
        begin: str | None,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run ``operation`` on a connection of the pool."""
        try:
            pool: Any = self._engine.pool
            connection = pool.connect()
        except (exc.SQLAlchemyError, self.errors) as error:
            self.raise_translated(error, is_connected=False)
        raw: Any = connection.dbapi_connection
        try:
            return self._transact(raw, begin, operation, *args, **kwargs)
        except self.errors as error:
            if not self._dialect.was_undone(error, raw):
                self.raise_translated(error)
            failure = self._dialect.translate(error)
        finally:
            # One that is not clean does not go back to the pool.
            if self._dialect.is_clean(raw):
                pool.give_back(connection)
            else:
                self._discard(connection, raw)
        raise _Undone(failure, is_certain=True)

    def _discard(self, connection: Any, raw: Any) -> None:
        if self._dialect.is_broken(raw):
            # The server went away: no other pooled connection is worth trying. As SQLAlchemy does
            # it itself; disposing of the pool would forget those that are in use, open.
            pool: Any = self._engine.pool
            pool._invalidate(connection)  # noqa: SLF001 - as its own pre-ping
        else:
            connection.invalidate()
        connection.close()

    def _transact(
        self,
        raw: Any,
        begin: str | None,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        committing = False
        try:
            if begin is None:
                cursors = self._dialect.autocommit_cursors()
                return operation(Transaction(self.statements, raw, cursors), *args, **kwargs)
            open_cursor, settings = self._dialect.open_cursor, self._dialect.carried()
            transaction = Transaction(self.statements, raw, open_cursor)
            with self._dialect.batch(raw) as batch:
                try:
                    self._dialect.begin(open_cursor(raw), begin)
                    if settings is not None:
                        open_cursor(raw).execute(settings.sql, settings.values)
                    result = operation(transaction, *args, **kwargs)
                    # What only read may be read again.
                    committing = begin != self._dialect.begin_snapshot
                    open_cursor(raw).execute("COMMIT")
                except BaseException:
                    self._dialect.settle(batch)
                    raise
            # Behind the end of the batch, which may bring that the commit failed.
            transaction.is_stored = True
        except BaseException as error:
            if committing and not isinstance(error, self.errors):
                # Interrupted behind the commit, if the connection knows of no transaction.
                transaction.is_stored = self._dialect.is_clean(raw)
            # Who keeps the error keeps its frames, and in them cursors that are not at their end:
            # SQLite's connection would go on seeing the old state, and could not write onto it.
            clear_frames(error.__traceback__)
            self._dialect.roll_back(raw)
            is_interrupted = not isinstance(error, Exception)
            # The driver closes the connection of who is interrupted twice: that is not the server.
            if self._dialect.is_broken(raw) and not (committing or is_interrupted):
                failure = _in_use(self._dialect.translate(error))
                raise _Undone(failure, is_certain=False) from None
            raise
        return result

    def raise_translated(self, error: Exception, *, is_connected: bool = True) -> NoReturn:
        """The one door through which the driver's errors become ours.

        Args:
            error: The driver's, or SQLAlchemy's around it.
            is_connected: Whether a connection had been made, on which something may be done.
        """
        if isinstance(error, exc.TimeoutError):
            raise DatabaseLocked(self._pool_message) from None
        driver = error.orig if isinstance(error, exc.DBAPIError) else error
        if not isinstance(driver, self.errors):
            raise error
        # Drivers quote rows and parameters; what we say of them is in the translation.
        translated = self._dialect.translate(driver)
        raise (_in_use(translated) if is_connected else translated) from None


def _in_use(error: Exception) -> Exception:
    """``error``, which says of a connection that broke what may have become of a write."""
    is_broken = isinstance(error, DatabaseUnreachable)
    return DatabaseUnreachable(f"{error} {DatabaseUnreachable.in_use}") if is_broken else error
