"""Upserts (ON CONFLICT … DO UPDATE) into the table of records."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from langmem_isolated._database import schema
from langmem_isolated._database.statements import InsertsByDialect

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


def upserts(values: Mapping[str, Any], replaced: Sequence[str]) -> InsertsByDialect:
    """By whether it is PostgreSQL: an upsert of ``values`` that replaces the columns named.

    Without a RETURNING of what SQLAlchemy takes for generated, which `executemany` refuses from
    Python 3.13 on.
    """
    return InsertsByDialect(
        schema.records, lambda insert: replace_at_address(insert.values(values), *replaced).inline()
    )
