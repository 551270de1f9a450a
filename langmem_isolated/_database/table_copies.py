"""Table copies: rows of one database made those of another, as they are stored.

Rows are compared page by page in the order of their primary keys, so a copy that was ended goes on
by finding what is there already, and one that changes nothing has proved that both are equal.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Integer,
    Table,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    tuple_,
    update,
)

from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Row, Transaction

# Rows of one page at most, and about so many bytes of them in memory, however large records are.
_ROWS, _BYTES = 500, 8 * 2**20
_LIMIT, _FROM_THE_FIRST = (literal_column(number, Integer) for number in (str(_ROWS), "0"))
_NOTHING: Mapping[str, object] = {}

Key = tuple[Any, ...]


class Page(NamedTuple):
    """Rows that follow each other by their keys."""

    after: Key | None
    """Behind this key; ``None`` from the first on."""
    upto: Key | None
    """With this key as the last; ``None`` for all that come."""
    rows: dict[Key, Row]


class Changed(NamedTuple):
    """What one pass over a table has done at the target."""

    removed: int
    missing: int
    """How many rows of the source it lacks, yet or before they were put."""


class TableCopy:
    """Makes the rows of one table at a target those of a source.

    Args:
        table: Which.
        owned: Only rows for which this holds, with parameters that ``named`` gives.
        named: What the condition is asked with.
        is_updated: Whether rows that differ are changed where they are, because other tables refer
            to them; else they are removed and put.
    """

    def __init__(
        self,
        table: Table,
        *,
        owned: ColumnElement[bool] | None = None,
        named: Mapping[str, object] = _NOTHING,
        is_updated: bool = False,
    ) -> None:
        self.name, self._named, self._is_updated = table.name, dict(named), is_updated
        self._columns = [column.name for column in table.c]
        keys = list(table.primary_key)
        self._at = [self._columns.index(column.name) for column in keys]
        self._keys = [column.name for column in keys]
        order = tuple_(*keys)
        after, upto = (
            tuple_(*(bindparam(f"{side}_{key.name}", type_=key.type) for key in keys))
            for side in ("after", "upto")
        )
        exact = [key == bindparam(f"at_{key.name}", type_=key.type) for key in keys]
        size = func.length(table.c.sealed) if "sealed" in table.c else literal_column("0", Integer)

        def by(statement: Any, *conditions: Any) -> Any:
            both = conditions if owned is None else (owned, *conditions)
            return statement.where(*both) if both else statement

        sizes = select(*keys, size).order_by(*keys).limit(_LIMIT).offset(_FROM_THE_FIRST)
        self._sizes = {False: by(sizes), True: by(sizes, order > after)}
        rows = select(table)
        self._rows = {
            (False, False): by(rows),
            (True, False): by(rows, order > after),
            (False, True): by(rows, order <= upto),
            (True, True): by(rows, order > after, order <= upto),
        }
        self._insert = insert(table).values({name: bindparam(name) for name in self._columns})
        self._delete = delete(table).where(*exact)
        self._update = (
            update(table)
            .where(*exact)
            .values({name: bindparam(f"new_{name}") for name in self._columns})
        )

    def pages(self, source: Transaction) -> Iterator[Page]:
        """All rows of the source, in one state; the last page has no end."""
        after: Key | None = None
        while True:
            upto = self._end_of_page(source, after)
            yield Page(after, upto, self._found(source, after, upto))
            if upto is None:
                return
            after = upto

    def _end_of_page(self, source: Transaction, after: Key | None) -> Key | None:
        asked = self._bounds("after", after)
        rows = source.rows(self._sizes[after is not None], **asked, **self._named)
        size = 0
        for *key, length in rows[:-1]:
            size += length or 0
            if size > _BYTES:
                return tuple(key)
        return tuple(rows[-1][:-1]) if len(rows) == _ROWS else None

    def _found(
        self, transaction: Transaction, after: Key | None, upto: Key | None
    ) -> dict[Key, Row]:
        statement = self._rows[after is not None, upto is not None]
        asked = {**self._bounds("after", after), **self._bounds("upto", upto), **self._named}
        return {self._key_of(row): row for row in transaction.rows(statement, **asked)}

    def _bounds(self, side: str, key: Key | None) -> dict[str, object]:
        if key is None:
            return {}
        return {f"{side}_{name}": value for name, value in zip(self._keys, key, strict=True)}

    def _key_of(self, row: Row) -> Key:
        return tuple(row[index] for index in self._at)

    def clear(self, page: Page, target: Database) -> Changed:
        """Remove what of a page's range is not in the source, or not as it is there."""
        there = target.read(self._found, page.after, page.upto)
        gone = [key for key, row in there.items() if self._is_in_the_way(page.rows.get(key), row)]
        if gone:
            target.write(self._remove, gone)
        same = sum(page.rows.get(key) == row for key, row in there.items())
        return Changed(len(gone), len(page.rows) - same)

    def _is_in_the_way(self, wanted: Row | None, row: Row) -> bool:
        return wanted is None or (wanted != row and not self._is_updated)

    def fill(self, page: Page, target: Database) -> int:
        """Put what of a page the target lacks; how many rows."""
        return target.write(self._fill, page)

    def _fill(self, transaction: Transaction, page: Page) -> int:
        there = self._found(transaction, page.after, page.upto)
        new = [row for key, row in page.rows.items() if key not in there]
        other = [key for key in there if there[key] != page.rows.get(key, there[key])]
        named = [dict(zip(self._columns, row, strict=True)) for row in new]
        transaction.execute_many(self._insert, named)
        transaction.execute_many(self._update, [self._changed(page.rows[key]) for key in other])
        return len(new) + len(other)

    def _changed(self, row: Row) -> dict[str, object]:
        new = {f"new_{name}": value for name, value in zip(self._columns, row, strict=True)}
        return {**new, **self._bounds("at", self._key_of(row))}

    def _remove(self, transaction: Transaction, keys: list[Key]) -> None:
        transaction.execute_many(self._delete, [self._bounds("at", key) for key in keys])
