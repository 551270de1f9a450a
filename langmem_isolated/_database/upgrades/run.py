"""Run of an upgrade: each step a transaction, from the version that is there to the newest."""

import time
from collections.abc import Callable
from typing import Protocol

from sqlalchemy import Connection, exc

from langmem_isolated._database.upgrades.step import Step
from langmem_isolated._database.upgrades.versions import take_next

Taken = tuple[int, Step | None]

# What PostgreSQL's kind says where another process made the schema, a table or the row just now, or
# undoes a transaction for its sake. Not behind an advisory lock, which to some engines is none.
_RACED = ("42P06", "42P07", "23505", "40001")
_RACES, _PAUSE_SECONDS = 20, 0.1


class Dialect(Protocol):
    """What is asked of the database's dialect."""

    begin_write: str

    def lock_upgrade(self, connection: Connection, /) -> None:
        """Wait until no other process upgrades, and keep it from that until the commit."""


def upgrade(
    inspect: Callable[[Callable[[Connection], Taken]], Taken],
    dialect: Dialect,
    on_step: Callable[[Step], None],
) -> tuple[int, int]:
    """Take all steps that are left; returns the version before and after.

    Whoever is killed, in a step or between two, leaves a database of a whole version.

    Args:
        inspect: Runs a function on a connection outside of a transaction.
        dialect: Of the database.
        on_step: Told of each step that was taken.

    Raises:
        SchemaTooNew: A later version wrote the database; nothing was changed.
        DatabaseError: The database refused or failed; the step was rolled back.
    """
    before, step = inspect(lambda connection: _next_step(connection, dialect))
    after = before
    while step is not None:
        on_step(step)
        after, step = inspect(lambda connection: _next_step(connection, dialect))
    return before, after


def _next_step(connection: Connection, dialect: Dialect) -> Taken:
    for _ in range(_RACES):
        try:
            return _take_step(connection, dialect)
        except exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _RACED:
                raise
        time.sleep(_PAUSE_SECONDS)
    return _take_step(connection, dialect)


def _take_step(connection: Connection, dialect: Dialect) -> Taken:
    connection.exec_driver_sql(dialect.begin_write)
    try:
        dialect.lock_upgrade(connection)
        taken = take_next(connection)
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise
    return taken
