"""SqliteStore: items of langgraph-checkpoint-sqlite's store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from langmem_isolated._database.foreign import reading
from langmem_isolated.importers.langgraph.items import item
from langmem_isolated.importers.langgraph.sqlite_file import SqliteFile
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignItem, Rejected

_COLUMNS = ("prefix", "key", "value", "created_at", "updated_at")


class SqliteStoreSource(Source):
    """The items in a file of ``SqliteStore`` or ``AsyncSqliteStore``; vectors are left there.

    Args:
        location: The file.

    Raises:
        SourceRefused: It is no such file.
    """

    kind = "sqlite-store"

    def __init__(self, location: str | Path) -> None:
        self._file = SqliteFile(location, {"store": _COLUMNS})
        # Files of before 2.0.9 have no times to live.
        has_ttl = self._file.columns("store").issuperset(("expires_at", "ttl_minutes"))
        self._ttl = "expires_at, ttl_minutes" if has_ttl else "NULL, NULL"

    @property
    def identity(self) -> str:
        """The file's absolute path."""
        return self._file.identity

    def files(self) -> Sequence[Path]:
        """The file and its log."""
        return self._file.files()

    def total(self) -> int | None:
        """How many items there are."""
        return self._file.count("store")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def units(self) -> Iterator[ForeignItem | Rejected]:
        """The items by namespace and key; see `Source.units`."""
        with reading():
            for row, prefix, key, value, created, updated, expires, ttl in self._file.rows(
                f"SELECT rowid, {', '.join(_COLUMNS)}, {self._ttl} FROM store "  # noqa: S608 - constants
                "ORDER BY prefix, key"
            ):
                times = {"created_at": created, "updated_at": updated, "expires_at": expires}
                yield item(f"store, rowid {row}", prefix, key, value, times, ttl)
