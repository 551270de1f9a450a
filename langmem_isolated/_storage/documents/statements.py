"""SQL of document collections."""

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database import schema
from langmem_isolated._storage import equalities
from langmem_isolated._storage.container_state import STATE
from langmem_isolated._storage.containers import DIGEST, SCOPE_ID, row_of
from langmem_isolated._storage.upserts import upserts

_records, _sessions = schema.records.c, schema.sessions.c
_KEY = bindparam("key", type_=sa.LargeBinary)


def _its(*kinds: Kind) -> sa.ColumnElement[bool]:
    numbers: list[sa.ColumnElement[int]] = [sa.literal_column(str(int(kind))) for kind in kinds]
    return sa.and_(
        _records.scope_id == SCOPE_ID, _records.parent == DIGEST, _records.kind.in_(numbers)
    )


ROW_OF_COLLECTION = select(*STATE, _sessions.sealed).where(row_of(Kind.COLLECTION))
BLOCKS = select(_records.key, _records.sealed).where(_its(Kind.EMBEDDING)).order_by(_records.key)
DOCUMENTS = select(_records.key, _records.sealed).where(_its(Kind.DOCUMENT))
# With what each adds to the collection's multiset hash.
EVERYTHING = select(_records.kind, _records.key, _records.sealed, _records.updated_at).where(
    _its(Kind.DOCUMENT, Kind.EMBEDDING)
)
DOCUMENT = DOCUMENTS.add_columns(_records.updated_at).where(_records.key == _KEY)
BLOCK = select(_records.sealed, _records.updated_at).where(
    _its(Kind.EMBEDDING), _records.key == _KEY
)


@cache
def candidates(count: int, *, is_postgres: bool) -> sa.Select[Any]:
    """Documents that may have ``count`` values; see :class:`equalities.Conditions`."""
    return select(_records.key, _records.equalities, equalities.HEAD, _records.updated_at).where(
        _its(Kind.DOCUMENT), equalities.may_have(count, is_postgres=is_postgres)
    )


NUMBERS = select(_records.key).where(_its(Kind.EMBEDDING)).order_by(_records.key)
_ONE: sa.ColumnElement[int] = sa.literal_column("1")
_NONE: sa.ColumnElement[int] = sa.literal_column("0")
# For SQLite, SQLAlchemy makes a parameter of an offset that is not given.
ANY_RECORD = select(_ONE).where(_its(Kind.DOCUMENT, Kind.EMBEDDING)).limit(_ONE).offset(_NONE)
_is_older = sa.and_(
    _its(Kind.DOCUMENT), _records.updated_at <= bindparam("until", type_=sa.BigInteger)
)
COUNT_OLDER = select(sa.func.count()).where(_is_older)
OLDER = (
    select(_records.key).where(_is_older).limit(bindparam("limit", type_=sa.Integer)).offset(_NONE)
)
REMOVE_DOCUMENT = delete(schema.records).where(_its(Kind.DOCUMENT), _records.key == _KEY)
REMOVE_BLOCK = delete(schema.records).where(_its(Kind.EMBEDDING), _records.key == _KEY)
REMOVE_ALL = delete(schema.records).where(_its(Kind.DOCUMENT, Kind.EMBEDDING))
# By whether it is PostgreSQL.
PUT = upserts(
    {
        "scope_id": SCOPE_ID,
        "parent": DIGEST,
        "created_at": bindparam("now"),
        "updated_at": bindparam("now"),
        **{n: bindparam(f"new_{n}") for n in ("kind", "key", "sealed", "size", "equalities")},
    },
    ("sealed", "size", "created_at", "updated_at", "equalities"),
)
