"""All rows: lets a step meet them where row-level security binds the owner of the tables."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

from langmem_isolated._database.row_level_security import quoted
from langmem_isolated._database.schema import POSTGRES_SCHEMA

_FORCED = text(
    "SELECT relname FROM pg_class WHERE relforcerowsecurity AND relnamespace = "
    "(SELECT oid FROM pg_namespace WHERE nspname = :schema) ORDER BY relname"
)


@contextmanager
def all_rows(connection: Connection) -> Iterator[None]:
    """Let the owner of the tables meet all rows, within the transaction that runs.

    Policies are forced upon the owner, too: an upgrade that rewrites rows would be refused. The
    change locks the tables until the transaction ends, so nobody else meets more than before; one
    that fails is rolled back with it. Nothing is done on SQLite.
    """
    forced = _forced(connection)
    for table in forced:
        connection.exec_driver_sql(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    yield
    for table in forced:
        connection.exec_driver_sql(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def _forced(connection: Connection) -> list[str]:
    if connection.dialect.name != "postgresql":
        return []
    names = connection.scalars(_FORCED, {"schema": POSTGRES_SCHEMA})
    return [f"{POSTGRES_SCHEMA}.{quoted(name)}" for name in names]
