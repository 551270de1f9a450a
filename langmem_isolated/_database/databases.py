"""Databases of one memory: its own with its replica and the jobs', and that of its keys."""

from functools import partial
from typing import NamedTuple

from langmem_isolated._database.database import Database
from langmem_isolated._database.dialects import Synchronous
from langmem_isolated._database.row_level_security import Mode
from langmem_isolated._runtime.arguments import seconds
from langmem_isolated.errors import DatabaseError

# A replica that does not answer must not be waited for as a primary is, without which nothing goes.
_REPLICA_TIMEOUT = 3.0


class Databases(NamedTuple):
    """What a memory stands on; nothing is connected before the first use."""

    database: Database
    key_store: Database | None

    @classmethod
    def of(
        cls,
        url: str,
        *,
        key_store: str | None,
        jobs_url: str | None,
        read_replica: str | None,
        read_replica_lag: float,
        synchronous: Synchronous,
        pool_size: int,
        timeout: float,
        auto_upgrade: bool,
        row_level_security: Mode,
    ) -> "Databases":
        """Those that URLs lead to; see `IsolatedMemory` for the arguments.

        Raises:
            TypeError: An option has another type.
            ValueError: An option is out of its range.
            DatabaseError: A URL cannot be read, or two lead to what is one, or is not.
        """
        seconds("timeout", timeout, advice="Give seconds to wait for a lock or the server.")
        seconds("read_replica_lag", read_replica_lag, advice="How old may be what is read?")
        opened = partial(Database, synchronous=synchronous, pool_size=pool_size, timeout=timeout)
        jobs = None if jobs_url is None else opened(jobs_url, auto_upgrade=False)
        replica = None
        if read_replica is not None:
            replica = opened(
                read_replica,
                timeout=min(timeout, _REPLICA_TIMEOUT),
                auto_upgrade=False,
                row_level_security=row_level_security,
            )
        database = opened(
            url,
            auto_upgrade=auto_upgrade,
            row_level_security=row_level_security,
            jobs=jobs,
            replica=replica,
            replica_lag=read_replica_lag,
        )
        keys = None if key_store is None else opened(key_store, auto_upgrade=auto_upgrade)
        _refuse_other_jobs(database, jobs)
        refuse_no_replica(database, replica)
        _refuse_own_key_store(database, keys)
        return cls(database, keys)


def _refuse_other_jobs(database: Database, jobs: Database | None) -> None:
    url = database.url
    if jobs is not None and (not jobs.is_postgres or jobs.url.database != url.database):
        raise DatabaseError(
            "jobs_url must be of the same PostgreSQL database as url, under another role; got one "
            "of another database. Nothing was opened."
        )


def refuse_no_replica(database: Database, replica: Database | None) -> None:
    """Refuse two databases of which one cannot follow the other; nothing is connected.

    Raises:
        DatabaseError: One is SQLite, or both are one.
    """
    if replica is None:
        return
    if not (database.is_postgres and replica.is_postgres):
        raise DatabaseError(
            "read_replica= takes two servers of PostgreSQL, one of which follows the other; got "
            "SQLite, which has no replicas. Leave it out. Nothing was opened."
        )
    if replica.url == database.url:
        raise DatabaseError(
            "read_replica= and url= are one. Give the URL of a server that follows it, or leave it "
            "out. Nothing was opened."
        )


def _refuse_own_key_store(database: Database, key_store: Database | None) -> None:
    if key_store and key_store.url == database.url:
        raise DatabaseError(
            "key_store= names the database itself: backups of it would carry the keys. Expected "
            "another one; give its URL, or leave key_store out."
        )
