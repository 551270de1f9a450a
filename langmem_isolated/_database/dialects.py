"""SQL dialects: what SQLite and PostgreSQL want, and the translation of their errors."""

import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, cast

from sqlalchemy import Connection, Dialect, exc
from sqlalchemy.engine import URL

from langmem_isolated._database import schema
from langmem_isolated._database.admission import SETTING, admitted, array_literal
from langmem_isolated._database.backoff import Backoff
from langmem_isolated._database.driver_errors import Conflict, explained, translated
from langmem_isolated._database.files import path_of, why_it_cannot_be_opened
from langmem_isolated._database.liveness import Liveness, bound_silence, is_readable
from langmem_isolated._database.options import milliseconds
from langmem_isolated._database.urls import Pooler
from langmem_isolated._database.writer_lock import WriterLock
from langmem_isolated.errors import (
    DatabaseCorrupt,
    DatabaseError,
    DatabaseFull,
    DatabaseLocked,
    DatabaseReadOnly,
    DatabaseUnreachable,
    RowLevelSecurityError,
)

if TYPE_CHECKING:
    from langmem_isolated._database.autocommit_cursor import CarriedSettings

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
# What a row that stands in the way is refused by; triggers and checks are not ours.
_SQLITE_CONFLICTS = ("PRIMARYKEY", "UNIQUE", "ROWID", "FOREIGNKEY")


# Serialization failed, a deadlock was found: who comes again may have better luck.
_UNDONE = ("40001", "40P01")
_READ_ONLY = "25006"
_OUR_SCHEMA = f"SELECT FROM pg_namespace WHERE nspname = '{schema.POSTGRES_SCHEMA}'"
# How PgBouncer begins to say that it takes no options.
_NOT_POOLED = "unsupported startup parameter"
# How a server begins to say what it says at any other time, too: libpq has no SQLSTATE of a
# connection that was refused.
_LASTING = ("authentication failed", "does not exist", "pg_hba.conf")
_NO_BATCH = nullcontext()


class Sqlite:
    """What SQLite wants: WAL, one writer at a time, and its settings on every connection."""

    translation: Mapping[str, Any] = {}
    begin_write = begin_once = "BEGIN IMMEDIATE"
    begin_snapshot = "BEGIN"
    is_distributed = False
    history: object = None

    def __init__(self, url: URL, synchronous: Synchronous, timeout: float) -> None:
        self.timeout = timeout
        self._path = path_of(url.database, is_uri=bool(url.query.get("uri")))
        self.in_memory = url.database in (None, "", ":memory:") or "mode=memory" in str(url)
        self._writer_lock = WriterLock(self.begin_write, timeout)
        self.settings = (
            f"PRAGMA busy_timeout = {milliseconds(timeout)}",
            "PRAGMA journal_mode = WAL",
            f"PRAGMA synchronous = {synchronous}",
            "PRAGMA foreign_keys = ON",
            # Deleted content is overwritten with zeros: erased bytes do not linger in free pages.
            "PRAGMA secure_delete = ON",
            "PRAGMA trusted_schema = OFF",
            # A user's 1,000 items are 0.5 MB: with SQLite's own 2 MB, of ten users each search
            # read its pages from the file again, a tenth of its time.
            "PRAGMA cache_size = -8000",
            # What sorting and savepoints spill must not reach the disk where nothing else does.
            *(("PRAGMA temp_store = MEMORY",) if self.in_memory else ()),
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

    def autocommit_cursors(self) -> Callable[[sqlite3.Connection], sqlite3.Cursor]:
        """What opens cursors for statements outside of a transaction."""
        return self.open_cursor

    def begin(self, cursor: sqlite3.Cursor, statement: str) -> None:
        """Begin a transaction; one that writes waits for other processes' writers."""
        if statement == self.begin_write and not self.in_memory:
            self._writer_lock.take(cursor)
        else:
            cursor.execute(statement)

    @staticmethod
    def has_changed(cursor: sqlite3.Cursor) -> bool:
        return bool(cursor.rowcount)

    @staticmethod
    def carried() -> None:
        """Nothing to set: one process has the file, and a transaction sees all of it."""

    def compiles_for(self, dialect: Dialect) -> Dialect:
        return dialect

    @staticmethod
    def batch(_: sqlite3.Connection) -> AbstractContextManager[None]:
        return _NO_BATCH

    def settle(self, _: None) -> None:
        """Nothing to do: every statement is done when it was executed."""

    def roll_back(self, connection: sqlite3.Connection) -> None:
        connection.rollback()

    def is_clean(self, connection: sqlite3.Connection) -> bool:
        return not connection.in_transaction

    def is_broken(self, _: sqlite3.Connection) -> bool:
        return False

    @staticmethod
    def was_undone(_: BaseException, __: sqlite3.Connection) -> bool:
        """Never: one that writes has the file to itself before it begins."""
        return False

    def translate(self, error: BaseException) -> Exception:
        name = getattr(error, "sqlite_errorname", "")
        constraint = name.removeprefix("SQLITE_CONSTRAINT_")
        if constraint in _SQLITE_CONFLICTS:
            return Conflict(foreign_key=constraint == "FOREIGNKEY")
        if name == "SQLITE_ERROR" and str(error).startswith(("no such table", "no such column")):
            return explained(DatabaseCorrupt, f"SQLite: {error}")
        if str(error).startswith("Could not decode"):
            # The driver quotes what the column holds.
            return explained(DatabaseCorrupt, "SQLite: a column holds text that is no UTF-8.")
        kind = next((_SQLITE_ERRORS[key] for key in _SQLITE_ERRORS if name.startswith(key)), None)
        told = f"SQLite: {error} ({name or type(error).__name__})"
        if name.startswith("SQLITE_CANTOPEN"):
            told += f": {why_it_cannot_be_opened(self._path)}"
        return explained(kind, told)


class Postgres:
    """What PostgreSQL wants: autocommit connections, binary results, explicit transactions."""

    translation: Mapping[str, Any] = {"schema_translate_map": {None: schema.POSTGRES_SCHEMA}}
    # Whatever the server's default: what is read behind a lock has to be as the lock found it, and
    # REPEATABLE READ shows what was there before the wait.
    begin_write = "BEGIN ISOLATION LEVEL READ COMMITTED"
    begin_snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    in_memory = False

    def __init__(
        self, timeout: float, pooler: Pooler | None = None, *, fails_over: bool = False
    ) -> None:
        # An extra, so not imported before it is needed.
        psycopg = import_module("psycopg")
        self._autocommit = import_module("langmem_isolated._database.autocommit_cursor")
        self._open_with = self._autocommit.AutocommitCursor
        self._open_alone = partial(self._open_with, None)
        self._cursor, self._binary = psycopg.RawCursor, psycopg.pq.Format.BINARY
        self._list_dumper = import_module("psycopg.types.array").ListBinaryDumper
        self._error, self._no_rows = psycopg.OperationalError, psycopg.ProgrammingError
        self.timeout = timeout
        self.lock_timeout = str(milliseconds(timeout))
        self.is_pooled = None if pooler is None else pooler == "transaction"
        self.is_bound, self._fails_over = False, fails_over
        self.is_distributed = False
        self._liveness = Liveness(timeout, fails_over)
        self.history = object()
        """Another one with each connection: its server may lack what the last one acknowledged."""
        self.gives_up_silent = False

    @property
    def begin_once(self) -> str | None:
        """What begins the transaction of a write that may be one statement, and then needs none."""
        return self.begin_write if self.is_distributed else None

    def engine_options(self, pool_size: int) -> dict[str, Any]:
        return {"pool_size": pool_size}

    def connect(self, dialect: Any, _: object, args: Any, options: dict[str, Any]) -> Any:
        """A new connection, which waits no longer for a lock than it was told to.

        It is told when it begins: nothing is set on a session, which a pooler would hand on. One
        that shares sessions is told in every transaction. Where the URL names several servers, none
        of which writes at the moment, one is waited for: it is promoted.
        """
        backoff = Backoff(self.timeout, most=None)
        options = self._liveness.of_client | options
        while True:
            try:
                raw = self._connect(dialect, args, options)
            except self._error as error:
                is_lasting = not self._fails_over or any(it in str(error) for it in _LASTING)
                if is_lasting or not backoff.wait():
                    raise
            else:
                _tell_version(dialect, divmod(raw.info.server_version, 10_000))
                self.history = object()
                return raw

    def _connect(self, dialect: Any, args: Any, options: dict[str, Any]) -> Any:
        if self.is_pooled:
            return dialect.connect(*args, **options)
        given = options.get("options", "")
        told = f"{self._liveness.of_server} -c lock_timeout={self.lock_timeout}"
        try:
            return dialect.connect(*args, **{**options, "options": f"{told} {given}".strip()})
        except self._error as error:
            # As PgBouncer refuses what it cannot hold for each of those that share a session.
            if self.is_pooled is not None or _NOT_POOLED not in str(error):
                raise
        self.is_pooled = True
        return dialect.connect(*args, **options)

    def prepare(self, connection: Any) -> None:
        if self.is_pooled is None:
            # A pooler answers for itself: the process that serves a statement is another one.
            server = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
            self.is_pooled = server != connection.pgconn.backend_pid
        if self.is_pooled:
            # What one session has prepared, the next one that is given has not, or another.
            connection.prepare_threshold = None
        # Lists of bytes would go as text, twice as long: an append took 412 µs instead of 326.
        connection.adapters.register_dumper(list, self._list_dumper)
        connection.prepared_statements = self._autocommit.PreparedStatements(
            connection, may_prepare=not self.is_pooled
        )
        if self.gives_up_silent:
            # A second more than the server takes to say that a lock was not free.
            bound_silence(connection, self.timeout + 1, self._error)

    def pre_ping(self, connection: Any, *_: Any) -> None:
        """Have the pool replace its connections if this one died while nobody used it.

        Whatever a server says to a connection at rest is that it will not serve it any more; asking
        the operating system takes a microsecond, asking the server a round trip.
        """
        if not self.is_usable(connection):
            raise exc.InvalidatePoolError

    @staticmethod
    def is_usable(connection: Any) -> bool:
        return not connection.closed and not is_readable(connection.pgconn.socket)

    def lock_upgrade(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})")
        # Looked for first: to be told that it is there takes the right to make others.
        if connection.exec_driver_sql(_OUR_SCHEMA).first() is None:
            connection.exec_driver_sql(f"CREATE SCHEMA {schema.POSTGRES_SCHEMA}")

    @staticmethod
    def begin(cursor: Any, statement: str) -> None:
        cursor.execute(statement)

    def open_cursor(self, connection: Any) -> Any:
        # A raw cursor takes $1 as the server does; rewriting %(name)s costs 25 µs a statement.
        cursor = self._cursor(connection)
        cursor.format = self._binary
        return cursor

    def autocommit_cursors(self) -> Callable[[Any], Any]:
        """What opens cursors for statements outside of a transaction."""
        settings = self.carried()
        return self._open_alone if settings is None else partial(self._open_with, settings)

    def has_changed(self, cursor: Any) -> bool:
        """Whether a statement changed rows; in a pipeline it is not known before one asks."""
        if cursor.rowcount < 0:
            try:
                cursor.fetchone()
            except self._no_rows as error:
                if error.sqlstate is not None:
                    raise
        return bool(cursor.rowcount)

    def carried(self) -> "CarriedSettings | None":
        """What the next transaction has set while it lasts.

        Raises:
            RowLevelSecurityError: It is for everybody's rows, and this role sees one's at a time.
        """
        if not (self.is_pooled or self.is_bound):
            return None
        values: dict[str, str] = {}
        if self.is_pooled:
            values["lock_timeout"] = self.lock_timeout
        if self.is_bound and (ids := _admitted_ids()):
            values[SETTING] = array_literal(ids)
        if not values:
            return None
        settings: CarriedSettings = self._autocommit.CarriedSettings.of(values)
        return settings

    def compiles_for(self, dialect: Dialect) -> Dialect:
        return type(dialect)(paramstyle="numeric_dollar")  # type: ignore[call-arg]

    @staticmethod
    def batch(connection: Any) -> AbstractContextManager[Any]:
        # Statements whose rows nobody reads share a round trip with what follows: an append takes
        # two instead of five (500 against 707 µs on loopback).
        return cast("AbstractContextManager[Any]", connection.pipeline())

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
        """Whether others may have it: in no transaction, and in no pipeline that nobody ends."""
        pgconn = connection.pgconn
        return bool(pgconn.transaction_status == pgconn.pipeline_status == 0)

    def is_broken(self, connection: Any) -> bool:
        return bool(connection.closed)

    def was_undone(self, error: BaseException, connection: Any) -> bool:
        """Whether the server undid a transaction that may be done at another time, or elsewhere.

        A server that lost its role is left, where the URL says that there are others: its
        connection is closed, so that the pool looks for the one that writes.
        """
        state = getattr(error, "sqlstate", None)
        if state == _READ_ONLY and self._fails_over:
            connection.close()
            return True
        return state in _UNDONE

    def translate(self, error: BaseException) -> Exception:
        return translated(error, is_distributed=self.is_distributed)


def _tell_version(dialect: Any, version: tuple[int, int]) -> None:
    """Have SQLAlchemy take the version that the server told the driver.

    It would ask for a text, a round trip more, and fails at that of other engines than PostgreSQL.
    """
    dialect._get_server_version_info = lambda _: version  # noqa: SLF001


def _admitted_ids() -> frozenset[bytes]:
    ids = admitted()
    if ids is None:
        raise RowLevelSecurityError(RowLevelSecurityError.everybodys)
    return ids


AnyDialect = Sqlite | Postgres
