"""Runs operations in transactions, on SQLite and PostgreSQL, for threads and event loops alike.

An operation is a function of a :class:`Transaction`. ``write``, ``read`` and ``snapshot`` put it
into one transaction; ``arun`` puts any of our synchronous bodies into a worker thread. There is no
second body for async: measured against an async engine, a thread over the same sync engine is
faster on both databases and serves any number of event loops. A caller that is cancelled does not
stop its transaction, so a connection is never handed on half used.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar, cast

from sqlalchemy import Connection, Executable, create_engine, event, exc
from sqlalchemy.engine import URL
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from langmem_isolated._database import schema
from langmem_isolated._database.dialects import Postgres, Sqlite, Synchronous, checked_url
from langmem_isolated._database.write_queue import WriteQueue
from langmem_isolated._runtime.forking import pause_for_forks, renew_in_children
from langmem_isolated.errors import DatabaseError, DatabaseLocked, DatabaseUnreachable

P = ParamSpec("P")
T = TypeVar("T")
Row = tuple[Any, ...]
_Compiled = tuple[str, list[str]]


class _StaleConnection(DatabaseUnreachable):
    """A pooled connection was found dead before it did anything; worth one more attempt."""


class Transaction:
    """One database transaction, handed to an operation; it must not outlive the call."""

    __slots__ = ("_connection", "_database", "_open_cursor", "is_stored")

    def __init__(self, database: "Database", connection: Any) -> None:
        self._database = database
        self._connection = connection
        self._open_cursor = database._dialect.open_cursor
        self.is_stored = False

    @property
    def is_postgres(self) -> bool:
        return self._database.is_postgres

    @property
    def is_open(self) -> bool:
        """Whether the database has not undone it all, as it does where the disk is full."""
        return not self._database._dialect.is_clean(self._connection)

    def attempt(self, operation: Callable[["Transaction"], T]) -> T:
        """Run ``operation``; where it raises, nothing of it stays in the transaction."""
        execute = self._open_cursor(self._connection).execute
        execute("SAVEPOINT attempt")
        try:
            result = operation(self)
        except BaseException:
            if self.is_open:
                execute("ROLLBACK TO attempt")
            raise
        finally:
            if self.is_open:
                execute("RELEASE attempt")
        return result

    def ask(self, statement: Executable, /, **values: object) -> Any:
        """A cursor whose rows are fetched later: questions asked before share a round trip."""
        sql, names = self._database.compiled(statement)
        cursor = self._open_cursor(self._connection)
        cursor.execute(sql, [values[name] for name in names])
        return cursor

    def rows(self, statement: Executable, /, **values: object) -> list[Row]:
        """All rows of a query."""
        return cast(list[Row], self.ask(statement, **values).fetchall())

    def row(self, statement: Executable, /, **values: object) -> Row | None:
        """The first row of a query, or ``None``."""
        return cast(Row | None, self.ask(statement, **values).fetchone())

    def changes(self, statement: Executable, /, **values: object) -> bool:
        """Run a statement; whether it changed any row. 6 µs less than having SQLite return them."""
        return bool(self.ask(statement, **values).rowcount)

    def execute(self, statement: Executable, /, **values: object) -> None:
        """Run a statement that returns no rows."""
        self.ask(statement, **values)

    def execute_many(self, statement: Executable, rows: Sequence[dict[str, object]]) -> None:
        """Run a statement once for each of ``rows``."""
        sql, names = self._database.compiled(statement)
        cursor = self._open_cursor(self._connection)
        cursor.executemany(sql, [[row[name] for name in names] for row in rows])


class Database:
    """One database: its engine, its worker threads and, on SQLite, the queue of its writers.

    Args:
        url: An SQLAlchemy URL, ``sqlite:///file`` or ``postgresql://…`` (psycopg 3).
        synchronous: SQLite's setting. ``FULL`` survives power loss; ``NORMAL`` survives ``kill -9``
            and may lose the last commits at power loss.
        pool_size: Connections, and worker threads for async callers.
        timeout: Seconds to wait for a lock, a connection or the server.
        auto_upgrade: Whether to create or upgrade the tables at first use.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        synchronous: Synchronous = "FULL",
        pool_size: int = 8,
        timeout: float = 30.0,
        auto_upgrade: bool = True,
    ) -> None:
        self.url = checked_url(url)
        self.is_postgres = self.url.get_backend_name() == "postgresql"
        self._dialect = (
            Postgres(timeout) if self.is_postgres else Sqlite(self.url, synchronous, timeout)
        )
        options = self._dialect.engine_options(pool_size)
        self._engine = create_engine(
            self.url,
            poolclass=QueuePool,
            isolation_level="AUTOCOMMIT",
            max_overflow=0,
            pool_timeout=timeout,
            # The connection used last has its pages and prepared statements warm.
            pool_use_lifo=True,
            # A transaction ends before its connection goes back, or the connection does not.
            pool_reset_on_return=None,
            hide_parameters=True,
            **options,
        ).execution_options(**self._dialect.translation)
        event.listen(self._engine, "connect", lambda raw, _: self._dialect.prepare(raw))
        if isinstance(self._dialect, Postgres):
            event.listen(self._engine, "checkout", self._dialect.pre_ping)
        self._errors = cast(type[Exception], self._engine.dialect.loaded_dbapi.Error)
        self._timeout = timeout
        self._workers = options["pool_size"]
        self._auto_upgrade = auto_upgrade
        self._compiled: dict[Executable, _Compiled] = {}
        self._paused: list[PoolProxiedConnection] = []
        self._renew()
        renew_in_children(self)
        pause_for_forks(self)

    def _renew(self) -> None:
        self._executor = ThreadPoolExecutor(self._workers, thread_name_prefix="langmem_isolated")
        self._writes = WriteQueue(partial(self._run, self._dialect.begin_write), self._timeout)
        self._opening = threading.Lock()
        self._opened = self._closed = False

    def pause_before_fork(self) -> None:
        """Let what runs on SQLite end, and close every connection until the fork is over.

        SQLite keeps its locks in the memory of the process too. In a child that inherits them, what
        the parent was writing would look like a write of its own that never ends.
        """
        if self.is_postgres or self._dialect.in_memory or self._closed:
            return
        # Whoever has all connections knows that nobody else works with one.
        with suppress(exc.SQLAlchemyError, self._errors):
            while len(self._paused) < self._workers:
                self._paused.append(self._engine.raw_connection())
        for connection in self._paused:
            raw: Any = connection.dbapi_connection
            raw.close()

    def resume_after_fork(self) -> None:
        """Give the connections back; they are opened again when they are asked for."""
        for connection in self._paused:
            connection.invalidate()
            connection.close()
        self._paused = []

    def renew_after_fork(self) -> None:
        """Let a forked child begin with connections of its own: on shared ones replies cross."""
        # Kept, not given back: the lock of the pool they came from may be held for ever.
        self._of_parent, self._paused = self._paused, []
        self._engine.dispose(close=False)
        self._renew()

    def compiled(self, statement: Executable) -> _Compiled:
        """The driver's text of a statement, compiled once, and its parameters in their order."""
        try:
            return self._compiled[statement]
        except KeyError:
            compiled = statement.compile(  # type: ignore[attr-defined]
                dialect=self._dialect.compiles_for(self._engine.dialect),
                render_schema_translate=self.is_postgres,
                **self._dialect.translation,
            )
            return self._compiled.setdefault(statement, (str(compiled), compiled.positiontup))

    def write(
        self, operation: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation`` in one write transaction: all of it is stored, or nothing.

        Raises:
            DatabaseError: The database refused or failed; one of its subclasses where the cause is
                known. After a broken connection at commit the outcome is unknown.
        """
        if self.is_postgres:
            return self._run(self._dialect.begin_write, operation, *args, **kwargs)
        return self._writes.write(lambda transaction: operation(transaction, *args, **kwargs))

    def write_once(
        self, operation: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation``, a single writing statement on PostgreSQL, which needs no transaction.

        On SQLite it may be several: there the transaction costs nothing.
        """
        if self.is_postgres and self._opened:
            # Not tried again if the connection breaks: it may have been done.
            return self._attempt(None, operation, *args, **kwargs)
        return self.write(operation, *args, **kwargs)

    def read(
        self, operation: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation``, which makes a single query, without the cost of a transaction."""
        return self._run(None, operation, *args, **kwargs)

    def snapshot(
        self, operation: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation``, which makes several queries that must see one state."""
        return self._run(self._dialect.begin_snapshot, operation, *args, **kwargs)

    async def arun(self, body: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one of our synchronous bodies in a worker thread.

        When the caller is cancelled, a body that has begun still runs to its end: its outcome is
        unknown to the caller, and its connection goes back clean.
        """
        self._refuse_if_closed()
        call = partial(copy_context().run, body, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def _run(
        self,
        begin: str | None,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        if not self._opened:
            self.open()
        try:
            return self._attempt(begin, operation, *args, **kwargs)
        except _StaleConnection:
            return self._attempt(begin, operation, *args, **kwargs)

    def _attempt(
        self,
        begin: str | None,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        try:
            connection = self._engine.raw_connection()
        except (exc.SQLAlchemyError, self._errors) as error:
            self._raise_translated(error)
        raw: Any = connection.dbapi_connection
        try:
            return self._on(raw, begin, operation, *args, **kwargs)
        except self._errors as error:
            self._raise_translated(error)
        finally:
            # One that is not clean does not go back to the pool.
            if self._dialect.is_broken(raw):
                # The server went away: no other pooled connection is worth trying. As SQLAlchemy
                # does it itself; disposing of the pool would forget those that are in use, open.
                self._engine.pool._invalidate(connection)
            elif not self._dialect.is_clean(raw):
                connection.invalidate()
            connection.close()

    def _on(
        self,
        raw: Any,
        begin: str | None,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        open_cursor = self._dialect.open_cursor
        transaction = Transaction(self, raw)
        committing = False
        try:
            if begin is None:
                return operation(transaction, *args, **kwargs)
            with self._dialect.batch(raw) as batch:
                try:
                    open_cursor(raw).execute(begin)
                    result = operation(transaction, *args, **kwargs)
                    committing = True
                    open_cursor(raw).execute("COMMIT")
                    transaction.is_stored = True
                except BaseException:
                    self._dialect.settle(batch)
                    raise
        except BaseException as error:
            if committing and not isinstance(error, self._errors):
                # Interrupted behind the commit, if the connection knows of no transaction.
                transaction.is_stored = self._dialect.is_clean(raw)
            self._dialect.roll_back(raw)
            if self._dialect.is_broken(raw) and not committing:
                raise _StaleConnection(str(self._dialect.translate(error))) from None
            raise
        return result

    def _raise_translated(self, error: Exception) -> NoReturn:
        """The one door through which the driver's errors become ours."""
        if isinstance(error, exc.TimeoutError):
            raise DatabaseLocked(
                f"No free connection within {self._timeout} s; pool_size is {self._workers}."
            ) from None
        driver = error.orig if isinstance(error, exc.DBAPIError) else error
        if not isinstance(driver, self._errors):
            raise error
        # Drivers quote rows and parameters; what we say of them is in the translation.
        raise self._dialect.translate(driver) from None

    def open(self) -> None:
        """Check the schema, and create or upgrade it if that is allowed. Done once, at first use.

        Raises:
            SchemaTooNew: A later version of this package wrote the database.
            SchemaTooOld: An upgrade is needed and ``auto_upgrade`` is off.
            DatabaseError: The database cannot be opened.
        """
        with self._opening:
            self._refuse_if_closed()
            if self._opened:
                return
            found = self._within_engine(schema.version_of)
            if found < len(schema.UPGRADES) and self._auto_upgrade:
                self.upgrade()
            else:
                schema.check_version(found)
            self._opened = True

    def upgrade(self) -> tuple[int, int]:
        """Bring the tables to the current version; returns the version before and after."""
        return self._within_engine(self._upgrade)

    def _upgrade(self, connection: Connection) -> tuple[int, int]:
        connection.exec_driver_sql(self._dialect.begin_write)
        try:
            self._dialect.lock_upgrade(connection)
            versions = schema.upgrade(connection)
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        return versions

    def _within_engine(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect() as connection:
                return work(connection)
        except (exc.DBAPIError, exc.TimeoutError) as error:
            self._raise_translated(error)

    def inspect(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` on an SQLAlchemy connection outside a transaction, for diagnosis."""
        return self._within_engine(work)

    def close(self) -> None:
        """Finish what runs and close every connection. Closing twice is fine."""
        self._closed = True
        self._executor.shutdown()
        self._opened = False
        self._engine.dispose()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise DatabaseError("This memory was closed. Nothing was read or written.")
