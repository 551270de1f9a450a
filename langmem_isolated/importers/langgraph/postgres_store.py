"""PostgresStore: items of langgraph-checkpoint-postgres' store."""

from __future__ import annotations

from collections.abc import Iterator

from langmem_isolated.importers.langgraph.items import item
from langmem_isolated.importers.langgraph.postgres_database import PostgresDatabase
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignItem, Rejected

_TABLES = {"store": ("prefix", "key", "value", "created_at", "updated_at")}


class PostgresStoreSource(Source):
    """The items in the table of ``PostgresStore`` or ``AsyncPostgresStore``; vectors stay there.

    Args:
        location: URL of the database.
        schema: Where the table is; by default where the connection looks.

    Raises:
        SourceRefused: There is no such table, or the server cannot be reached.
    """

    kind = "postgres-store"

    def __init__(self, location: str, *, schema: str | None = None) -> None:
        self._database = PostgresDatabase(location, schema, _TABLES)
        # Tables of before 2.0.16 have no times to live.
        has_ttl = self._database.columns("store").issuperset(("expires_at", "ttl_minutes"))
        self._database.names["ttl"] = "expires_at, ttl_minutes" if has_ttl else "NULL, NULL"

    @property
    def identity(self) -> str:
        """Host, port, database and schema."""
        return self._database.identity

    def total(self) -> int | None:
        """How many items there are."""
        return self._database.count("store")

    def size(self) -> int | None:
        """How many bytes the table has."""
        return self._database.size("store")

    def close(self) -> None:
        """Let go of the connection."""
        self._database.close()

    def units(self) -> Iterator[ForeignItem | Rejected]:
        """The items by namespace and key; see `Source.units`."""
        for row, prefix, key, value, created, updated, expires, ttl in self._database.stream(
            "SELECT ctid::text, prefix, key, value::text, created_at, updated_at, {ttl} "
            'FROM {store} ORDER BY prefix COLLATE "C", key COLLATE "C"'
        ):
            times = {"created_at": created, "updated_at": updated, "expires_at": expires}
            yield item(f"store, ctid {row}", prefix, key, value, times, ttl)
