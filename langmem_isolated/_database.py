"""Runs operations in transactions, on SQLite and PostgreSQL, for threads and event loops alike.

An operation is a function of a :class:`Transaction`. ``write``, ``read`` and ``snapshot`` put it
into one transaction; ``arun`` puts any of our synchronous bodies into a worker thread. There is no
second body for async: measured against an async engine, a thread over the same sync engine is
faster on both databases and serves any number of event loops. A caller that is cancelled does not
stop its transaction, so a connection is never handed on half used.
"""

import asyncio
import select
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import copy_context
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Concatenate, Literal, NoReturn, ParamSpec, TypeVar, cast

from sqlalchemy import Connection, Dialect, Executable, create_engine, event, exc, make_url
from sqlalchemy.engine import URL
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from langmem_isolated import _schema
from langmem_isolated._forking import pause_for_forks, renew_in_children
from langmem_isolated.errors import (
    DatabaseCorrupt,
    DatabaseError,
    DatabaseFull,
    DatabaseLocked,
    DatabaseReadOnly,
    DatabaseUnreachable,
)

P = ParamSpec("P")
T = TypeVar("T")
Row = tuple[Any, ...]
_Compiled = tuple[str, list[str]]
Synchronous = Literal["FULL", "NORMAL"]

# Any number will do as long as every process takes the same one.
_UPGRADE_LOCK = 0x6C6D6973

_SQLITE_ERRORS: dict[str, type[DatabaseError]] = {
    "SQLITE_BUSY": DatabaseLocked,
    "SQLITE_LOCKED": DatabaseLocked,
    "SQLITE_FULL": DatabaseFull,
    "SQLITE_READONLY": DatabaseReadOnly,
    "SQLITE_CANTOPEN": DatabaseUnreachable,
    "SQLITE_NOTADB": DatabaseCorrupt,
    "SQLITE_CORRUPT": DatabaseCorrupt,
}
# By class of SQLSTATE, or the whole of it where the class is too wide (PostgreSQL, appendix A).
_POSTGRES_ERRORS: dict[str, type[DatabaseError]] = {
    "08": DatabaseUnreachable,
    "28": DatabaseUnreachable,
    "3D": DatabaseUnreachable,
    "57P": DatabaseUnreachable,
    "40": DatabaseLocked,
    "55P03": DatabaseLocked,
    "53100": DatabaseFull,
    "53": DatabaseUnreachable,
    "25006": DatabaseReadOnly,
    "42501": DatabaseReadOnly,
    "XX": DatabaseCorrupt,
}


class Conflict(Exception):
    """A unique constraint or foreign key refused a row; for the operation's caller to explain."""

    def __init__(self, foreign_key: bool) -> None:
        super().__init__(foreign_key)
        self.foreign_key = foreign_key


class _StaleConnection(DatabaseUnreachable):
    """A pooled connection was found dead before it did anything; worth one more attempt."""


def _explained(kind: type[DatabaseError] | None, what: str) -> DatabaseError:
    found = kind or DatabaseError
    return found(f"{' '.join(what.split())}. {found.advice}")


class Transaction:
    """One database transaction, handed to an operation; it must not outlive the call."""

    __slots__ = ("_connection", "_database", "_open_cursor")

    def __init__(self, database: "Database", connection: Any) -> None:
        self._database = database
        self._connection = connection
        self._open_cursor = database._dialect.open_cursor

    @property
    def is_postgres(self) -> bool:
        return self._database.is_postgres

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

    def execute(self, statement: Executable, /, **values: object) -> None:
        """Run a statement that returns no rows."""
        self.ask(statement, **values)

    def execute_many(self, statement: Executable, rows: Sequence[dict[str, object]]) -> None:
        """Run a statement once for each of ``rows``."""
        sql, names = self._database.compiled(statement)
        cursor = self._open_cursor(self._connection)
        cursor.executemany(sql, [[row[name] for name in names] for row in rows])


class _Sqlite:
    """What SQLite wants: WAL, one writer at a time, and its settings on every connection."""

    translation: Mapping[str, Any] = {}
    begin_write = "BEGIN IMMEDIATE"
    begin_snapshot = "BEGIN"

    def __init__(self, url: URL, synchronous: Synchronous, timeout: float) -> None:
        self.timeout = timeout
        self.in_memory = url.database in (None, "", ":memory:") or "mode=memory" in str(url)
        self.settings = (
            f"PRAGMA busy_timeout = {int(timeout * 1000)}",
            "PRAGMA journal_mode = WAL",
            f"PRAGMA synchronous = {synchronous}",
            "PRAGMA foreign_keys = ON",
            # Deleted content is overwritten with zeros: erased bytes do not linger in free pages.
            "PRAGMA secure_delete = ON",
            "PRAGMA trusted_schema = OFF",
        )

    def engine_options(self, pool_size: int) -> dict[str, Any]:
        # An in-memory database lives in its connection: there must be exactly one, kept for good.
        return {
            "pool_size": 1 if self.in_memory else pool_size,
            "connect_args": {"check_same_thread": False},
        }

    def prepare(self, connection: Any) -> None:
        deadline = time.monotonic() + self.timeout
        for setting in self.settings:
            while not self._is_set(connection, setting, time.monotonic() > deadline):
                time.sleep(0.005)

    def _is_set(self, connection: Any, setting: str, is_last_attempt: bool) -> bool:
        # SQLite does not wait, but fails at once, where two processes turn a new file to WAL.
        try:
            connection.execute(setting)
        except sqlite3.OperationalError as error:
            if is_last_attempt or not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise
            return False
        return True

    def lock_upgrade(self, connection: Connection) -> None:
        """Nothing to do: BEGIN IMMEDIATE is the lock."""

    open_cursor = staticmethod(sqlite3.Connection.cursor)

    def compiles_for(self, dialect: Dialect) -> Dialect:
        return dialect

    @staticmethod
    def batch(_: sqlite3.Connection) -> AbstractContextManager[None]:
        return nullcontext()

    def settle(self, _: None) -> None:
        """Nothing to do: every statement is done when it was executed."""

    def roll_back(self, connection: sqlite3.Connection) -> None:
        connection.rollback()

    def is_clean(self, connection: sqlite3.Connection) -> bool:
        return not connection.in_transaction

    def is_broken(self, _: sqlite3.Connection) -> bool:
        return False

    def translate(self, error: BaseException) -> Exception:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith("SQLITE_CONSTRAINT"):
            return Conflict(foreign_key=name == "SQLITE_CONSTRAINT_FOREIGNKEY")
        kind = next((_SQLITE_ERRORS[key] for key in _SQLITE_ERRORS if name.startswith(key)), None)
        return _explained(kind, f"SQLite: {error} ({name or type(error).__name__})")


class _Postgres:
    """What PostgreSQL wants: autocommit connections, binary results, explicit transactions."""

    translation: Mapping[str, Any] = {"schema_translate_map": {None: _schema.POSTGRES_SCHEMA}}
    begin_write = "BEGIN"
    begin_snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    in_memory = False

    def __init__(self, timeout: float) -> None:
        # An extra, so not imported before it is needed.
        psycopg = import_module("psycopg")
        self._cursor, self._binary = psycopg.RawCursor, psycopg.pq.Format.BINARY
        self._list_dumper = import_module("psycopg.types.array").ListBinaryDumper
        self.timeout = timeout

    def engine_options(self, pool_size: int) -> dict[str, Any]:
        return {
            "pool_size": pool_size,
            "connect_args": {"connect_timeout": max(2, int(self.timeout))},
        }

    def prepare(self, connection: Any) -> None:
        # Nothing that is stored depends on session state, so poolers are safe: behind one that
        # shares sessions, the wait for a lock is the server's own.
        connection.execute(f"SET lock_timeout = {int(self.timeout * 1000)}")
        # Lists of bytes would go as text, twice as long: an append took 412 µs instead of 326.
        connection.adapters.register_dumper(list, self._list_dumper)

    def look_before_use(self, connection: Any, *_: Any) -> None:
        """Have the pool replace its connections if this one died while nobody used it.

        Whatever a server says to a connection at rest is that it will not serve it any more; asking
        the operating system takes a microsecond, asking the server a round trip.
        """
        if _has_word(connection.pgconn.socket):
            raise exc.InvalidatePoolError

    def lock_upgrade(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})")
        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {_schema.POSTGRES_SCHEMA}")

    def open_cursor(self, connection: Any) -> Any:
        # A raw cursor takes $1 as the server does; rewriting %(name)s costs 25 µs a statement.
        cursor = self._cursor(connection)
        cursor.format = self._binary
        return cursor

    def compiles_for(self, dialect: Dialect) -> Dialect:
        return type(dialect)(paramstyle="numeric_dollar")  # type: ignore[call-arg]

    @staticmethod
    def batch(connection: Any) -> AbstractContextManager[Any]:
        # Statements whose rows nobody reads share a round trip with what follows: an append takes
        # two instead of five (500 against 707 µs on loopback).
        return cast(AbstractContextManager[Any], connection.pipeline())

    @staticmethod
    def settle(pipeline: Any) -> None:
        # What was sent behind a statement that failed fails too. Left to the end of the pipeline,
        # psycopg logs that as a warning, and a row refused is in the ordinary course of things.
        with suppress(Exception):
            pipeline.sync()

    def roll_back(self, connection: Any) -> None:
        if not connection.closed and not self.is_clean(connection):
            with suppress(Exception):
                # A connection that cannot be rolled back is found unclean, and thrown away.
                # Not by a statement of ours: here psycopg also forgets what it prepared. It counts
                # on statements that were sent behind the failure, which the server never saw.
                connection.rollback()

    def is_clean(self, connection: Any) -> bool:
        return bool(connection.info.transaction_status == 0)

    def is_broken(self, connection: Any) -> bool:
        return bool(connection.closed)

    def translate(self, error: BaseException) -> Exception:
        state: str = getattr(error, "sqlstate", None) or "08000"
        if state.startswith("23"):
            return Conflict(foreign_key=state == "23503")
        kind = next(
            (_POSTGRES_ERRORS[key] for key in _POSTGRES_ERRORS if state.startswith(key)), None
        )
        # The detail line of a server error quotes rows; the primary line does not.
        primary = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
        return _explained(kind, f"PostgreSQL: {primary} (SQLSTATE {state})")


def _has_word(socket: int) -> bool:
    """Whether there is something to read, or the end of it."""
    if not hasattr(select, "poll"):  # Windows, where select takes any number
        return bool(select.select([socket], [], [], 0)[0])
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))


class Database:
    """One database: its engine, its worker threads and, on SQLite, its single writer's turn.

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
        self.url = _checked_url(url)
        self.is_postgres = self.url.get_backend_name() == "postgresql"
        self._dialect = (
            _Postgres(timeout) if self.is_postgres else _Sqlite(self.url, synchronous, timeout)
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
        if isinstance(self._dialect, _Postgres):
            event.listen(self._engine, "checkout", self._dialect.look_before_use)
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
        # SQLite's busy handler sleeps and retries without a queue: 50 writers saw a p99 of 118 ms,
        # with a lock in the process 27 ms. Re-entrant: Ctrl-C may strike after a turn is taken, and
        # must not lock out the thread it struck.
        self._writer = threading.RLock()
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
        if not self._writer.acquire(timeout=self._timeout):
            raise DatabaseLocked(f"No turn to write within {self._timeout} s. Nothing was written.")
        try:
            return self._run(self._dialect.begin_write, operation, *args, **kwargs)
        finally:
            self._writer.release()

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
        open_cursor = self._dialect.open_cursor
        committing = False
        with self._connection() as raw:
            try:
                if begin is None:
                    return operation(Transaction(self, raw), *args, **kwargs)
                with self._dialect.batch(raw) as batch:
                    try:
                        open_cursor(raw).execute(begin)
                        result = operation(Transaction(self, raw), *args, **kwargs)
                        committing = True
                        open_cursor(raw).execute("COMMIT")
                    except BaseException:
                        self._dialect.settle(batch)
                        raise
            except BaseException as error:
                self._dialect.roll_back(raw)
                if self._dialect.is_broken(raw) and not committing:
                    raise _StaleConnection(str(self._dialect.translate(error))) from None
                raise
            return result

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """A connection of the pool; one that is not clean afterwards does not go back to it."""
        try:
            connection = self._engine.raw_connection()
        except (exc.SQLAlchemyError, self._errors) as error:
            self._raise_translated(error)
        raw: Any = connection.dbapi_connection
        try:
            yield raw
        except self._errors as error:
            self._raise_translated(error)
        finally:
            if self._dialect.is_broken(raw):
                # The server went away: no other pooled connection is worth trying. As SQLAlchemy
                # does it itself; disposing of the pool would forget those that are in use, open.
                self._engine.pool._invalidate(connection)
            elif not self._dialect.is_clean(raw):
                connection.invalidate()
            connection.close()

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
            found = self._within_engine(_schema.version_of)
            if found < len(_schema.UPGRADES) and self._auto_upgrade:
                self.upgrade()
            else:
                _schema.check_version(found)
            self._opened = True

    def upgrade(self) -> tuple[int, int]:
        """Bring the tables to the current version; returns the version before and after."""
        return self._within_engine(self._upgrade)

    def _upgrade(self, connection: Connection) -> tuple[int, int]:
        connection.exec_driver_sql(self._dialect.begin_write)
        try:
            self._dialect.lock_upgrade(connection)
            versions = _schema.upgrade(connection)
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


_UNREADABLE = "The database URL cannot be read; expected sqlite:///file or postgresql://…"


def _checked_url(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (exc.ArgumentError, ValueError):
        # The message quotes the text, which may hold a password (that of a port, the end of one).
        raise DatabaseError(_UNREADABLE) from None
    if backend == "postgresql":
        if find_spec("psycopg") is None:
            raise DatabaseError(
                "PostgreSQL needs an extra: run pip install 'langmem-isolated[postgres]'."
            )
        return parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        if parsed.host or "\0" in (parsed.database or ""):
            raise DatabaseError(_UNREADABLE)
        return parsed.set(drivername="sqlite+pysqlite")
    raise DatabaseError(f"The database URL must be for sqlite or postgresql, got {backend!r}.")
