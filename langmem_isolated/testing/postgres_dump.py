"""A PostgreSQL database as whoever gets a dump of it, or an account on its server, reads it."""

from collections.abc import Iterator
from typing import Any

from langmem_isolated.testing.canaries import overlapping

_TABLES = """
    SELECT format('%I.%I', n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm')
        AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
    ORDER BY 1
"""
_BESIDES = {
    "names and comments": (
        "SELECT relname FROM pg_class UNION ALL SELECT attname FROM pg_attribute "
        "UNION ALL SELECT description FROM pg_description"
    ),
    # The most common values of every column, in clear.
    "the planner's statistics": "SELECT * FROM pg_stats",
    "running statements": "SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
    "large objects": "SELECT lo_get(oid) FROM pg_largeobject_metadata",
}


def dumped(url: str) -> Iterator[tuple[str, bytes]]:
    """Every row of every table in the text form of ``COPY``, in blocks, and what they are of.

    Raises:
        PermissionError: The account may not read all of it: what it is kept from is not searched.
    """
    import psycopg

    try:
        # Rather an error than those rows alone that a policy lets through.
        with psycopg.connect(url, autocommit=True, options="-c row_security=off") as connection:
            yield from _blocks_of(connection)
    except psycopg.errors.InsufficientPrivilege:
        is_refused = True
    else:
        is_refused = False
    if is_refused:
        # Outside, so that the server's message, which names a table, is no part of it.
        raise PermissionError(
            "This account may not read every row of every table, so what it is kept from would not "
            "be searched. Give the URL of the owner or of a superuser."
        )


def _blocks_of(connection: Any) -> Iterator[tuple[str, bytes]]:
    tables = [name for (name,) in connection.execute(_TABLES)]
    queries = {f"table {name}": f"TABLE {name}" for name in tables} | _BESIDES
    for what, query in queries.items():
        with connection.cursor().copy(f"COPY ({query}) TO STDOUT") as rows:
            yield from ((what, block) for block in overlapping(map(bytes, rows)))
