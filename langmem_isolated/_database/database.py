"""Database facade: runs operations in transactions, for threads and event loops alike.

An operation is a function of a :class:`Transaction`. ``write``, ``read`` and ``snapshot`` put it
into one transaction; ``arun`` puts any of our synchronous bodies into a worker thread. There is no
second body for async: measured against an async engine, a thread over the same sync engine is
faster on both databases and serves any number of event loops. A caller that is cancelled does not
stop its transaction, so a connection is never handed on half used.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

from sqlalchemy import Connection, exc
from sqlalchemy.engine import URL
from sqlalchemy.pool import PoolProxiedConnection

from langmem_isolated._database import distribution
from langmem_isolated._database import row_level_security as policies
from langmem_isolated._database.admission import admitted
from langmem_isolated._database.dialects import Postgres, Sqlite, Synchronous
from langmem_isolated._database.engines import engine_of
from langmem_isolated._database.options import check_options
from langmem_isolated._database.replica import Replica
from langmem_isolated._database.scrubbing import scrubbed
from langmem_isolated._database.transactions import Transaction, TransactionRunner
from langmem_isolated._database.upgrades import run, versions
from langmem_isolated._database.upgrades.step import Step
from langmem_isolated._database.urls import checked_url, fails_over, without_pooler
from langmem_isolated._database.write_queue import WriteQueue
from langmem_isolated._runtime.budgets import Budgets
from langmem_isolated._runtime.callers import FairExecutor, Share, current_owner
from langmem_isolated._runtime.forking import pause_for_forks, renew_in_children
from langmem_isolated._runtime.operations import Operations
from langmem_isolated.errors import DatabaseError, DatabaseLocked, RowLevelSecurityError

_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"

P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """One database: its engine, its worker threads and, on SQLite, the queue of its writers.

    Args:
        url: An SQLAlchemy URL, ``sqlite:///file`` or ``postgresql://…`` (psycopg 3).
        synchronous: SQLite's setting. ``FULL`` survives power loss; ``NORMAL`` survives ``kill -9``
            and may lose the last commits at power loss.
        pool_size: Connections, and worker threads for async callers.
        timeout: Seconds to wait for a lock, a connection or the server.
        auto_upgrade: Whether to create or upgrade the tables at first use.
        row_level_security: ``"required"`` serves no PostgreSQL where it is not in force;
            ``"detect"`` asks at first use whether it is enabled, and refuses where it is without
            effect.
        jobs: The same database under a role that sees everybody's rows, for what an
            `AdmissionToAll` runs where row-level security binds the role of ``url``.
        replica: A server that follows this one, asked first by what may lag.
        replica_lag: How many seconds old, at most, what is read there may be.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        synchronous: Synchronous = "FULL",
        pool_size: int = 8,
        timeout: float = 30.0,
        auto_upgrade: bool = True,
        row_level_security: policies.Mode = "detect",
        jobs: "Database | None" = None,
        replica: "Database | None" = None,
        replica_lag: float = 5.0,
    ) -> None:
        self.url = checked_url(url)
        check_options(synchronous, pool_size, timeout, auto_upgrade)
        policies.check_mode(row_level_security)
        self.is_postgres = self.url.get_backend_name() == "postgresql"
        driver_url, pooler = without_pooler(self.url)
        self._dialect = (
            Postgres(timeout, pooler, fails_over=fails_over(self.url))
            if self.is_postgres
            else Sqlite(self.url, synchronous, timeout)
        )
        self._engine = engine_of(driver_url, self._dialect, pool_size, timeout)
        self.operations = Operations()
        self._timeout = timeout
        self._workers = 1 if self._dialect.in_memory else pool_size
        self._auto_upgrade = auto_upgrade
        self._security, self._jobs = row_level_security, jobs
        self.replica = None if replica is None else Replica(self, replica, replica_lag)
        self.is_bound = False
        full = f"No free connection within {timeout} s; pool_size is {self._workers}."
        self._transactions = TransactionRunner(self._engine, self._dialect, full)
        self.statements = self._transactions.statements
        self._paused: list[PoolProxiedConnection] = []
        self._renew()
        renew_in_children(self)
        pause_for_forks(self)

    def _renew(self) -> None:
        # Of each owner half: the other half is there for whoever comes next.
        most = max(1, self._workers // 2)
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="langmem_isolated")
        self._budgets = Budgets()
        self._executor = FairExecutor(pool, most, self._budgets)
        self._share = Share(most, self._timeout, self._no_turn, self._budgets)
        self._writes = WriteQueue(
            partial(self._transactions.run, self._dialect.begin_write),
            self._timeout,
            self._budgets,
        )
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
        with suppress(exc.SQLAlchemyError, self._transactions.errors):
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

    def write(
        self, operation: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation`` in one write transaction: all of it is stored, or nothing.

        On SQLite, writers that wait share a transaction (group commit): ``operation`` may be run
        more than once, and must not keep what it did in a run that failed.

        Raises:
            DatabaseError: The database refused or failed; one of its subclasses where the cause is
                known. After a broken connection at commit the outcome is unknown.
        """
        if not self._opened:
            self.open()
        if not self.is_postgres:
            return self._writes.write(operation, *args, **kwargs)
        with self._noting_write():
            if self._jobs is not None and self._is_for_jobs():
                return self._jobs.write(operation, *args, **kwargs)
            begin = self._dialect.begin_write
            with self._share:
                return self._transactions.run(begin, operation, *args, **kwargs)

    def write_once(
        self, operation: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation``, a single writing statement on PostgreSQL, which needs no transaction.

        On SQLite it may be several: there the transaction costs nothing. Distributed, too.
        """
        if not self._opened:
            self.open()
        if not self.is_postgres:
            return self._writes.write(operation, *args, **kwargs)
        with self._noting_write():
            if self._jobs is not None and self._is_for_jobs():
                return self._jobs.write_once(operation, *args, **kwargs)
            begin = self._dialect.begin_once
            # Not tried again if the connection breaks: it may have been done.
            with self._share:
                return self._transactions.run_once(begin, operation, *args, **kwargs)

    def read(
        self, operation: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation``, which makes a single query, without the cost of a transaction."""
        if not self._opened:
            self.open()
        if self._jobs is not None and self._is_for_jobs():
            return self._jobs.read(operation, *args, **kwargs)
        with self._share:
            return self._transactions.run(None, operation, *args, **kwargs)

    def snapshot(
        self, operation: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation``, which makes several queries that must see one state."""
        if not self._opened:
            self.open()
        if self._jobs is not None and self._is_for_jobs():
            return self._jobs.snapshot(operation, *args, **kwargs)
        with self._share:
            return self._transactions.run(self._dialect.begin_snapshot, operation, *args, **kwargs)

    def read_lagging(
        self, operation: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As :meth:`read`, on a replica that is near enough if there is one; see `Replica`."""
        if not self._opened:
            self.open()
        replica = self.replica
        if replica is None or self._is_for_jobs():
            return self.read(operation, *args, **kwargs)
        return replica.run(self.read, replica.doors.read, operation, *args, **kwargs)

    def snapshot_lagging(
        self, operation: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As :meth:`snapshot`, on a replica that is near enough if there is one."""
        if not self._opened:
            self.open()
        replica = self.replica
        if replica is None or self._is_for_jobs():
            return self.snapshot(operation, *args, **kwargs)
        return replica.run(self.snapshot, replica.doors.snapshot, operation, *args, **kwargs)

    @property
    def history(self) -> object:
        """The same for as long as what was acknowledged is certain to be there.

        A server that was promoted, or has crashed, may lack its last commits, where it was not told
        to wait for a replica or the disk; it gives numbers of theirs to others. Each connection
        that is made may lead to such a one. Behind a pooler, or the coordinator of a cluster, none
        is made when the server changes: there it is not told.
        """
        return self._dialect.history

    def give_up_silent(self) -> None:
        """PostgreSQL: take a server that says nothing for ``timeout`` for one that is gone."""
        if isinstance(self._dialect, Postgres):
            self._dialect.gives_up_silent = True

    def _noting_write(self) -> AbstractContextManager[None]:
        return nullcontext() if self.replica is None else self.replica.noting_write()

    def checkpoint_log(self) -> None:
        """SQLite: move what its log holds into the file, as far as nobody has to wait for it.

        Between the batches of a long job, outside of any write: a commit that finds 1,000 pages in
        the log does it itself, and took 276 ms instead of 24. Nothing is done on PostgreSQL.
        """
        if not self.is_postgres:
            self.inspect(lambda connection: connection.exec_driver_sql(_CHECKPOINT).fetchall())

    def scrub(self, most_bytes: int | None = None) -> bool:
        """SQLite: leave no byte of what was removed; whether that is so now. Never on PostgreSQL.

        What lives is written anew (``VACUUM``), and the log emptied. ``secure_delete`` alone makes
        zeros of what is freed, not of copies that SQLite leaves behind in a page when it builds it
        anew from the cells of others: in 1 of 8 files of 400 mixed writes, a row that was removed
        was still there as a whole. Writers wait meanwhile, 0.7 s for 64 MiB. Somebody who reads
        keeps the log as it is: it is tried for a second, and may be again.

        Args:
            most_bytes: A larger file is left as it is, and is not scrubbed.
        """
        return not self.is_postgres and self.inspect(lambda it: scrubbed(it, most_bytes))

    def _no_turn(self) -> DatabaseLocked:
        return DatabaseLocked(
            f"No turn within {self._timeout} s: this user's other calls are still running. Nothing "
            "was read or written."
        )

    async def arun(self, body: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one of our synchronous bodies in a worker thread.

        For whom this thread works is for whom it runs: of one owner a half of the threads at once.

        When the caller is cancelled, a body that has begun still runs to its end: its outcome is
        unknown to the caller, and its connection goes back clean.
        """
        return await asyncio.wrap_future(self.submit(body, *args, **kwargs))

    def submit(self, body: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin one of our synchronous bodies in a worker thread, whether or not anyone waits."""
        self.refuse_if_closed()
        owner, call = current_owner(), partial(copy_context().run, body, *args, **kwargs)
        return self._executor.submit(owner, call)

    def _is_for_jobs(self) -> bool:
        return self.is_bound and admitted() is None

    @property
    def sees_everybody(self) -> bool:
        """Whether a job over all scopes can be run, under whatever role."""
        if not self._opened:
            self.open()
        return not self.is_bound or self._jobs is not None

    def open(self) -> None:
        """Check the schema, and create or upgrade it if that is allowed. Done once, at first use.

        Raises:
            SchemaTooNew: A later version of this package wrote the database.
            SchemaTooOld: An upgrade is needed and ``auto_upgrade`` is off.
            RowLevelSecurityError: Row-level security is enabled, or required, and not in force.
            DatabaseError: The database cannot be opened.
        """
        with self._opening:
            self.refuse_if_closed()
            if self._opened:
                return
            found = self._within_engine(versions.version_of)
            if found < versions.newest() and self._auto_upgrade:
                self.upgrade()
            else:
                versions.check_version(found)
            self._learn_rules()
            if self.replica is not None:
                self.replica.open()
            self._opened = True

    def _learn_rules(self) -> None:
        if isinstance(self._dialect, Postgres):
            self._dialect.is_distributed = self._within_engine(distribution.is_distributed)
            found = self._within_engine(policies.examined)
            self.is_bound = self._dialect.is_bound = found.binds()
        if self._security == "required" and not self.is_bound:
            raise RowLevelSecurityError(RowLevelSecurityError.required)

    def upgrade(self, on_step: Callable[[Step], None] = lambda _: None) -> tuple[int, int]:
        """Bring the tables to the current version, a transaction for each step.

        Args:
            on_step: Told of each step that was taken.

        Returns:
            The version before and after.
        """
        return run.upgrade(self._within_engine, self._dialect, on_step)

    def _within_engine(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect() as connection:
                return work(connection)
        except (exc.DBAPIError, exc.TimeoutError) as error:
            self._transactions.raise_translated(error, is_connected=False)

    def inspect(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` on an SQLAlchemy connection outside a transaction, for diagnosis."""
        return self._within_engine(work)

    def close(self) -> None:
        """Finish what runs and close every connection. Closing twice is fine."""
        self._closed = True
        self._executor.shutdown()
        self._opened = False
        self._engine.dispose()
        for other in (self._jobs, self.replica):
            if other is not None:
                other.close()

    def refuse_if_closed(self) -> None:
        """Refuse what would fail later, where nobody hears of it.

        Raises:
            DatabaseError: The memory was closed.
        """
        if self._closed:
            raise DatabaseError(
                "This memory was closed. Nothing was read or written. Use it before close(), or "
                "inside its `with` block; to go on, make a new IsolatedMemory."
            )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "An IsolatedMemory and what was made from it cannot be pickled or copied: it stands on "
            "open connections and on keys. Make one in each process, from the same URL and root "
            "key; threads, tasks and forked children share one."
        )


# Whosever: at each call of a saver it is asked about one.
_READING = {Database.read, Database.snapshot, Database.read_lagging, Database.snapshot_lagging}


def only_reads(door: Callable[..., object]) -> bool:
    """Whether a door of a database does nothing but read."""
    return getattr(door, "__func__", None) in _READING
