"""Overview storage: how much a scope has, from its container rows and its index, nothing opened."""

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage import entries
from langmem_isolated._storage.profiles import Part
from langmem_isolated._storage.working_locked import works_locked

_rows = schema.sessions.c
# Rows of one scope: 50 sessions take 0.1 ms, where their messages would be counted in 5.
_BY_KIND = (
    select(
        _rows.kind,
        sa.func.count(),
        # Of integers PostgreSQL makes a numeric.
        sa.cast(sa.func.sum(_rows.count), sa.BigInteger),
        sa.func.min(_rows.created_at),
        sa.func.max(_rows.updated_at),
    )
    .where(
        _rows.scope_id == bindparam("scope_id", type_=sa.LargeBinary),
        sa.or_(
            _rows.expires_at.is_(None), _rows.expires_at > bindparam("now", type_=sa.BigInteger)
        ),
    )
    .group_by(_rows.kind)
)


class Totals(NamedTuple):
    """The rows of one kind together: how many, what they count below them, and their times."""

    rows: int = 0
    below: int = 0
    first: int | None = None
    last: int | None = None


@works_locked
def totals(transaction: Transaction, keys: ScopeKeys, now: int) -> tuple[dict[Kind, Totals], int]:
    """The totals of each kind of container row, and how many facts the scope's profile has.

    Times are µs since 1970. As the rows say: their MACs are checked where they are read one by one,
    and by `verify`.
    """
    found = transaction.rows(_BY_KIND, scope_id=keys.scope_id, now=now)
    facts = entries.count(transaction, keys, Part.FACTS.space, now, kind=Kind.PROFILE)
    return {Kind(kind): Totals(*of_kind) for kind, *of_kind in found}, facts
