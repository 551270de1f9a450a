"""Table shapes: our tables as the database has them, beside those that this version makes."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, inspect

from langmem_isolated._database import schema
from langmem_isolated._database.database import Database

_SQLITE_TRIGGERS = "SELECT tbl_name, name FROM sqlite_master WHERE type = 'trigger'"
_POSTGRES_TRIGGERS = """
SELECT c.relname, t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE NOT t.tgisinternal AND c.relnamespace = %(schema)s::text::regnamespace
UNION ALL SELECT tablename, rulename FROM pg_rules WHERE schemaname = %(schema)s::text
"""


def differences(database: Database) -> list[tuple[str, str]]:
    """Tables, and what is not as this version makes them: columns, triggers, rules, views."""
    return database.inspect(lambda connection: [*_found(connection, database.is_postgres)])


def _found(connection: Connection, is_postgres: bool) -> Iterator[tuple[str, str]]:
    inspector, where = inspect(connection), schema.POSTGRES_SCHEMA if is_postgres else None
    taken = {*inspector.get_table_names(schema=where)}
    for name, table in schema.metadata.tables.items():
        if name not in taken:
            yield name, "the table is missing"
            continue
        columns = {column["name"] for column in inspector.get_columns(name, schema=where)}
        if missing := {*table.c.keys()} - columns:
            yield name, f"{len(missing)} columns are missing"
        if more := columns - {*table.c.keys()}:
            yield name, f"{len(more)} columns are none of ours"
        kept = {key["referred_table"] for key in inspector.get_foreign_keys(name, schema=where)}
        if wanted := {key.column.table.name for key in table.foreign_keys} - kept:
            yield name, f"the foreign key to {', '.join(sorted(wanted))} is missing"
    yield from _triggers(connection, is_postgres)


def _triggers(connection: Connection, is_postgres: bool) -> Iterator[tuple[str, str]]:
    found: list[Any] = (
        [*connection.exec_driver_sql(_POSTGRES_TRIGGERS, {"schema": schema.POSTGRES_SCHEMA})]
        if is_postgres
        else [*connection.exec_driver_sql(_SQLITE_TRIGGERS)]
    )
    for table, _ in found:
        if table in schema.metadata.tables:
            yield table, "a trigger or rule changes what is done to it"
