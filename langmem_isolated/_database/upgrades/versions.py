"""Versions of the tables: which a database has, which this package writes, and the way between."""

import os
from contextlib import nullcontext

from sqlalchemy import Connection, inspect

from langmem_isolated._database.schema import POSTGRES_SCHEMA, installation, metadata
from langmem_isolated._database.upgrades import v1_tables
from langmem_isolated._database.upgrades.all_rows import all_rows
from langmem_isolated._database.upgrades.step import Step
from langmem_isolated.errors import DatabaseCorrupt, DatabaseError, SchemaTooNew, SchemaTooOld

# The step at index n takes a database from version n to n + 1; a released step is never edited.
STEPS: tuple[Step, ...] = (v1_tables.STEP,)

# What every version has in its row; later ones may have more.
_EVER = {"id", "version", "installation_id"}


def newest() -> int:
    """The version that this package reads and writes."""
    return len(STEPS)


def pending(found: int) -> tuple[Step, ...]:
    """The steps that a database of a version has yet to take.

    Raises:
        SchemaTooNew: A later version of this package wrote it.
    """
    if found > newest():
        raise SchemaTooNew(found, newest())
    return STEPS[found:]


def version_of(connection: Connection) -> int:
    """The schema version that the database has; 0 for one without our tables."""
    inspector, schema = inspect(connection), _schema_of(connection)
    if not inspector.has_table("installation", schema=schema):
        return 0
    columns = {column["name"] for column in inspector.get_columns("installation", schema=schema)}
    if not columns.issuperset(_EVER):
        return 0  # other software's: making ours will refuse
    found = connection.scalar(installation.select().with_only_columns(installation.c.version)) or 0
    if type(found) is not int:
        raise DatabaseCorrupt(
            f"The schema version in the database is no whole number, it is {type(found).__name__}. "
            f"{DatabaseCorrupt.advice}"
        )
    return found


def check_version(found: int) -> None:
    """Accept only the version this package writes.

    Raises:
        SchemaTooNew: A later version wrote the database.
        SchemaTooOld: An earlier one did, or none.
    """
    if pending(found):
        raise SchemaTooOld(found, newest())


def take_next(connection: Connection) -> tuple[int, Step | None]:
    """Take the next step inside the caller's transaction, and move the version in it.

    The caller holds the lock that keeps a second process from doing the same.

    Returns:
        The version before, and the step; ``None`` if there is none left.

    Raises:
        SchemaTooNew: A later version wrote the database; nothing was changed.
        DatabaseError: Tables of other software have our names.
    """
    found = version_of(connection)
    if not (left := pending(found)):
        return found, None
    step = left[0]
    if found == 0:
        _refuse_foreign(connection)
    with all_rows(connection) if step.rewrites_rows else nullcontext():
        for statement in step.statements(connection.dialect.name):
            connection.exec_driver_sql(statement)
    _move_version(connection, step.version)
    return found, step


def _move_version(connection: Connection, version: int) -> None:
    if version == 1:
        row = {"id": 1, "version": version, "installation_id": os.urandom(16)}
        connection.execute(installation.insert().values(row))
    else:
        connection.execute(installation.update().values(version=version))


def _refuse_foreign(connection: Connection) -> None:
    taken = set(inspect(connection).get_table_names(schema=_schema_of(connection)))
    if foreign := sorted(taken & set(metadata.tables)):
        raise DatabaseError(
            f"The database has tables of other software with our names: {', '.join(foreign)}. "
            "They were left alone; give us a database (or SQLite file) of our own."
        )


def _schema_of(connection: Connection) -> str | None:
    return POSTGRES_SCHEMA if connection.dialect.name == "postgresql" else None
