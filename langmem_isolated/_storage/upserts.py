"""Upserts into the table of records: what stands at the address is replaced."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from langmem_isolated._database import schema

ADDRESS = tuple(column.name for column in schema.records.primary_key)


def replace_at_address(insert: Any, *columns: str, **values: sa.ColumnElement[Any]) -> Any:
    """``insert`` as an upsert (ON CONFLICT … DO UPDATE) that replaces ``columns`` and ``values``.

    Args:
        insert: A dialect's insert into the table of records, with its values.
        columns: Take what was to be inserted.
        values: What other columns take.
    """
    replaced = {name: insert.excluded[name] for name in columns}
    return insert.on_conflict_do_update(index_elements=ADDRESS, set_={**replaced, **values})


def by_dialect(make: Callable[[Any], Any]) -> dict[bool, Any]:
    """By whether it is PostgreSQL: what ``make`` makes of the dialect's insert into records."""
    inserts = {True: postgresql.insert(schema.records), False: sqlite.insert(schema.records)}
    return {is_postgres: make(insert) for is_postgres, insert in inserts.items()}


def upserts(values: Mapping[str, Any], replaced: Sequence[str]) -> dict[bool, Any]:
    """By whether it is PostgreSQL: an upsert of ``values`` that replaces the columns named."""
    return by_dialect(lambda insert: replace_at_address(insert.values(values), *replaced))
