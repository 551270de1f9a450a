"""Usage: on which days a scope wrote, and what it asked of language models, counted when written.

A row of the table is one scope's, of one day (UTC, counted from 1970), and of a kind:

- *scope*: it wrote on this day, and whose principal's it is if it is a user's. ``count`` and
  ``size`` are its messages and bytes in sessions, threads and collections before that, and in the
  place of tokens stand its sessions and threads, so that the difference to the next row is what the
  day added;
- *message*: what models were asked, by the digest of the model, whose name is sealed beside it:
  answers and tokens. Under the empty digest: what people said while a quota of messages held.

A scope's first write of a day stores the first row, in the same transaction; the process remembers
it, and later writes pay nothing. Nothing here is authenticated: rows are added to, not rewritten.
"""

from collections.abc import Callable, Iterable
from enum import IntEnum
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.statements import InsertsByDialect
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.working_locked import works_locked

P = ParamSpec("P")
T = TypeVar("T")

DAY = 86_400_000_000
"""Microseconds."""
PEOPLE = b""
"""In place of a model's digest: what people said."""

_usage, _sessions, _scopes = schema.usage.c, schema.sessions.c, schema.scopes.c
_SCOPE_ID = bindparam("scope_id", type_=sa.LargeBinary)
_ADDRESS = [column.name for column in schema.usage.primary_key]
_COUNTS = ("count", "input_tokens", "output_tokens")


ZERO: sa.ColumnElement[int] = sa.literal_column("0")


def number(kind: IntEnum) -> sa.ColumnElement[int]:
    """A kind or level in a statement."""
    return sa.literal_column(str(int(kind)))


def total(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """The sum of a column as an integer of eight bytes, 0 for no rows."""
    return sa.cast(sa.func.coalesce(sa.func.sum(column), ZERO), sa.BigInteger)


# Of a row of any kind.
MESSAGES = sa.case((_sessions.kind == number(Kind.SESSION), _sessions.count), else_=ZERO)
_SESSIONS, _THREADS = (
    sa.case((_sessions.kind == number(kind), sa.literal_column("1")), else_=ZERO)
    for kind in (Kind.SESSION, Kind.THREAD)
)
HELD: dict[str, sa.ColumnElement[int]] = {
    "count": total(MESSAGES),
    "size": total(_sessions.size),
    "input_tokens": total(_SESSIONS),
    "output_tokens": total(_THREADS),
}
"""What a scope has, in the columns of its row of a day, from the rows of its sessions."""
# What the rows of a scope's sessions, threads and collections stand for: no record is looked at.
_BEFORE: dict[str, Any] = {
    # The row's own: by it a distributed server sees that one shard has all three tables.
    "scope_id": _scopes.scope_id,
    "day": sa.cast(bindparam("day"), sa.Integer),
    "kind": number(Kind.SCOPE),
    "model": sa.cast(bindparam("nobody", type_=sa.LargeBinary), sa.LargeBinary),
    **HELD,
    "principal": sa.case((_scopes.level == number(Level.PRIVATE), _scopes.principal)),
}
_STOOD = (
    select(*(value.label(name) for name, value in _BEFORE.items()))
    .select_from(
        sa.outerjoin(schema.scopes, schema.sessions, _sessions.scope_id == _scopes.scope_id)
    )
    .where(_scopes.scope_id == _SCOPE_ID)
    .group_by(_scopes.scope_id)
)
_FIRST_OF_DAY = InsertsByDialect(
    schema.usage,
    lambda insert: insert.from_select([*_BEFORE], _STOOD).on_conflict_do_nothing(
        index_elements=_ADDRESS
    ),
)
_ADD = InsertsByDialect(
    schema.usage,
    lambda insert: _adding(
        insert.values({column.name: bindparam(column.name) for column in schema.usage.columns})
    ),
)


def _adding(insert: Any) -> Any:
    more = {name: _usage[name] + insert.excluded[name] for name in _COUNTS}
    return insert.on_conflict_do_update(index_elements=_ADDRESS, set_=more).inline()


def first_of_day(
    day: int, operation: Callable[Concatenate[Transaction, ScopeKeys, P], T]
) -> Callable[Concatenate[Transaction, ScopeKeys, P], T]:
    """``operation``, and before it, in its transaction, that the scope wrote on ``day``, once."""

    def noted(transaction: Transaction, keys: ScopeKeys, /, *args: P.args, **kwargs: P.kwargs) -> T:
        insert = _FIRST_OF_DAY[transaction.is_postgres]
        transaction.execute(insert, scope_id=keys.scope_id, day=day, nobody=PEOPLE)
        return operation(transaction, keys, *args, **kwargs)

    return noted


class Use(NamedTuple):
    """What one message counts for."""

    digest: bytes
    """The model's, or ``PEOPLE``."""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


SAID = Use(PEOPLE)
"""Of a message that a person said."""

_digest = attrgetter("digest")


def add(transaction: Transaction, keys: ScopeKeys, uses: Iterable[Use], now: int) -> None:
    """Add what messages count for to that of their day.

    In the order of the models: two who add to the same rows wait for each other, and do not
    deadlock.
    """
    place = keys.aad_prefix(Kind.USAGE, b"")
    rows = []
    for digest, group in groupby(sorted(uses, key=_digest), _digest):
        same = [*group]
        name = same[0].model.encode(errors="backslashreplace")
        rows.append(
            {
                "scope_id": keys.scope_id,
                "day": now // DAY,
                "kind": int(Kind.MESSAGE),
                "model": digest,
                "count": len(same),
                "size": 0,
                "input_tokens": sum(one.input_tokens for one in same),
                "output_tokens": sum(one.output_tokens for one in same),
                "sealed": keys.seal_for_server(place, digest, name) if digest else None,
                "principal": None,
            }
        )
    transaction.execute_many(_ADD[transaction.is_postgres], rows)


_ALL = select(
    _usage.day,
    _usage.model,
    _usage.count,
    _usage.input_tokens,
    _usage.output_tokens,
    _usage.sealed,
).where(_usage.scope_id == _SCOPE_ID, _usage.kind == number(Kind.MESSAGE))


def take_over(
    transaction: Transaction,
    keys: ScopeKeys,
    reading: Transaction,
    source: ScopeKeys,
    digest_of: Callable[[str], bytes],
) -> None:
    """Add what another scope asked of models, and what was said there, to this one's, by days.

    Args:
        transaction: Of this scope.
        keys: This scope's.
        reading: Of the other, which may be in another database.
        source: The other's keys.
        digest_of: What finds a model in this scope's database.

    Raises:
        RecordDoesNotOpen: The name of a model was changed or moved.
    """
    place, rows = keys.aad_prefix(Kind.USAGE, b""), []
    for day, model, *counts, sealed in reading.rows(_ALL, scope_id=source.scope_id):
        row = dict(zip(_COUNTS, counts, strict=True)) | {
            "scope_id": keys.scope_id,
            "day": day,
            "kind": int(Kind.MESSAGE),
            "model": model,
            "size": 0,
            "sealed": None,
            "principal": None,
        }
        if sealed is not None:
            name = source.open(source.aad_prefix(Kind.USAGE, b""), model, sealed, Kind.USAGE)
            digest = digest_of(name.decode())
            row |= {"model": digest, "sealed": keys.seal_for_server(place, digest, name)}
        rows.append(row)
    if rows:
        rows.sort(key=itemgetter("day", "model"))
        transaction.execute_many(_ADD[transaction.is_postgres], rows)


_NAME = select(_usage.sealed).where(
    _usage.scope_id == _SCOPE_ID,
    _usage.day == bindparam("day"),
    _usage.kind == number(Kind.MESSAGE),
    _usage.model == bindparam("model", type_=sa.LargeBinary),
)


@works_locked
def model_name(transaction: Transaction, keys: ScopeKeys, digest: bytes, day: int) -> str | None:
    """The name of a model that the scope used on a day, if it did.

    Raises:
        RecordDoesNotOpen: It was changed or moved.
    """
    row = transaction.row(_NAME, scope_id=keys.scope_id, day=day, model=digest)
    if row is None or row[0] is None:
        return None
    return keys.open(keys.aad_prefix(Kind.USAGE, b""), digest, row[0], Kind.USAGE).decode()


class Spent(NamedTuple):
    """What one user's scopes used since a day."""

    tokens: int
    messages: int


_others = schema.scopes.alias("others")
_PRINCIPAL = select(_scopes.principal).where(_scopes.scope_id == _SCOPE_ID).scalar_subquery()
_BY_PEOPLE = _usage.model == bindparam("nobody", type_=sa.LargeBinary)
_SPENT = select(
    total(_usage.input_tokens + _usage.output_tokens),
    total(sa.case((_BY_PEOPLE, _usage.count), else_=ZERO)),
).where(
    _usage.kind == number(Kind.MESSAGE),
    _usage.day >= bindparam("day", type_=sa.Integer),
)
_SPENT_HERE = _SPENT.where(_usage.scope_id == _SCOPE_ID)
_SPENT_BY_USER = _SPENT.where(
    _usage.scope_id.in_(select(_others.c.scope_id).where(_others.c.principal == _PRINCIPAL))
)


@works_locked
def spent(transaction: Transaction, keys: ScopeKeys, day: int, *, in_all_modules: bool) -> Spent:
    """What the scope, or all scopes of its user, used since ``day``."""
    statement = _SPENT_BY_USER if in_all_modules else _SPENT_HERE
    row = transaction.row(statement, scope_id=keys.scope_id, day=day, nobody=PEOPLE)
    assert row is not None
    return Spent(*map(int, row))
