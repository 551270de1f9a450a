"""Statistics: what scopes have, by level, project, module and day, with no look at any record.

Sessions, messages, threads, checkpoints, documents and their bytes come from the rows of sessions,
threads and collections (41 ms at a million records, where their own table took 805); items and
entries from two indexes that cover them; days from the table of usage. Columns are taken as they
stand: who can write to the database can change them.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.usage import HELD, PEOPLE, ZERO, number, total

_scopes, _sessions, _records, _usage = (
    table.c for table in (schema.scopes, schema.sessions, schema.records, schema.usage)
)
_NOW = bindparam("now", type_=sa.BigInteger)
_SINCE = bindparam("since", type_=sa.Integer)
Where = tuple[str, ...]
"""Of which columns of `scopes` the values are given: some of scope_id, project and module."""


def _alive(expires_at: sa.ColumnElement[int | None]) -> sa.ColumnElement[bool]:
    return sa.or_(expires_at.is_(None), expires_at > _NOW)


def _asked(where: Where) -> list[sa.ColumnElement[bool]]:
    return [_scopes[name] == bindparam(name, type_=sa.LargeBinary) for name in where]


def _of_scope(column: sa.ColumnElement[bytes], where: Where) -> list[sa.ColumnElement[bool]]:
    """Narrows a sum by scope to the one that is asked for, before any other is added up."""
    return [column == bindparam("scope_id", type_=sa.LargeBinary)] if "scope_id" in where else []


def _held_below(where: Where) -> sa.Select[Any]:
    """What each scope has below rows of each kind: led by the scope, so nothing is sorted."""
    return (
        select(
            _sessions.scope_id,
            _sessions.kind,
            sa.func.count().label("rows"),
            total(_sessions.count).label("below"),
            total(_sessions.size).label("size"),
            sa.func.max(_sessions.updated_at).label("last"),
        )
        .where(_alive(_sessions.expires_at), *_of_scope(_sessions.scope_id, where))
        # What counts a store's items has their kind, and they are counted by themselves.
        .where(_sessions.kind != number(Kind.ITEM))
        .group_by(_sessions.scope_id, _sessions.kind)
    )


def _held_singly(where: Where) -> list[sa.Select[Any]]:
    """What each scope has that no row counts, in the same columns: in the order of two indexes."""
    # No time is below 0. Who says nothing of it has SQLite take the key of the table for better
    # where one scope is asked for, and read all that its items hold: 390 µs of 1,000, and 150 so.
    return [
        _held(where, "records_items", _records.updated_at >= ZERO),
        _held(where, "records_uncounted"),
    ]


def _held(where: Where, index: str, *conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return (
        select(
            _records.scope_id,
            _records.kind,
            sa.func.count().label("rows"),
            ZERO.label("below"),
            total(_records.size).label("size"),
            sa.cast(sa.null(), sa.BigInteger).label("last"),
        )
        .where(sa.text(schema.PARTIAL_INDEXES[index]), *conditions, _alive(_records.expires_at))
        .where(*_of_scope(_records.scope_id, where))
        .group_by(_records.scope_id, _records.kind)
    )


def _summed(held: sa.FromClause, where: Where) -> sa.Select[Any]:
    return (
        select(
            _scopes.project,
            _scopes.module,
            held.c.kind,
            total(held.c.rows),
            total(held.c.below),
            total(held.c.size),
            sa.func.max(held.c.last),
        )
        .select_from(sa.join(held, schema.scopes, _scopes.scope_id == held.c.scope_id))
        .where(*_asked(where))
        .group_by(_scopes.project, _scopes.module, held.c.kind)
    )


def _below(where: Where) -> sa.Select[Any]:
    return _summed(_held_below(where).subquery("held"), where)


def _singly(where: Where) -> sa.Select[Any]:
    return _summed(sa.union_all(*_held_singly(where)).subquery("held"), where)


def _largest(where: Where) -> sa.Select[Any]:
    """The scopes that have the most bytes, and what they have of each kind."""
    held = sa.union_all(_held_below(where), *_held_singly(where)).cte("held")
    largest = (
        select(held.c.scope_id, total(held.c.size).label("bytes"))
        .select_from(sa.join(held, schema.scopes, _scopes.scope_id == held.c.scope_id))
        .where(*_asked(where))
        .group_by(held.c.scope_id)
        .order_by(sa.desc("bytes"), held.c.scope_id)
        .limit(bindparam("largest", type_=sa.Integer))
        .offset(ZERO)
        .cte("largest")
    )
    return (
        select(held.c.scope_id, held.c.kind, held.c.rows, held.c.below, held.c.size, held.c.last)
        .select_from(sa.join(largest, held, largest.c.scope_id == held.c.scope_id))
        .order_by(largest.c.bytes.desc(), held.c.scope_id)
    )


@cache
def held_by_scope() -> sa.CompoundSelect[Any]:
    """What one scope has: kind, rows, what is below them, bytes, last activity (µs)."""
    where = ("scope_id",)
    held = (one.subquery() for one in (_held_below(where), *_held_singly(where)))
    names = ("kind", "rows", "below", "size", "last")
    return sa.union_all(*(select(*(one.c[name] for name in names)) for one in held))


def _owners(where: Where) -> sa.Select[Any]:
    """Scopes of each module."""
    return (
        select(_scopes.project, _scopes.module, sa.func.count())
        .where(*_asked(where))
        .group_by(_scopes.project, _scopes.module)
    )


# Those of the other levels are nobody's, or not in a module.
_OF_PEOPLE = _scopes.level.in_([number(Level.PRIVATE), number(Level.ANONYMOUS)])


def _people(where: Where) -> sa.Select[Any]:
    """Users and guests of each module, each once: straight from an index, as DISTINCT is."""
    each = (
        select(_scopes.project, _scopes.module, _scopes.level, _scopes.principal)
        .where(_OF_PEOPLE, *_asked(where))
        .distinct()
        .subquery()
    )
    by = (each.c.project, each.c.module, each.c.level)
    return select(*by, sa.func.count()).group_by(*by)


def _people_of_projects(where: Where) -> sa.Select[Any]:
    """Users and guests of each project, each once: one may be in several modules."""
    each = (
        select(_scopes.principal, _scopes.project, _scopes.level)
        .where(_OF_PEOPLE, *_asked(where))
        .distinct()
        .subquery()
    )
    by = (each.c.project, each.c.level)
    return select(*by, sa.func.count()).group_by(*by)


_SCOPE_OF_USAGE = sa.join(schema.usage, schema.scopes, _usage.scope_id == _scopes.scope_id)


def _active(where: Where) -> sa.Select[Any]:
    """Users who wrote, by day, each once."""
    each = (
        select(_usage.day, _usage.principal)
        .where(_usage.day >= _SINCE, _usage.principal.is_not(None), *_asked(where))
        .distinct()
    )
    each_once = (each.select_from(_SCOPE_OF_USAGE) if where else each).subquery()
    return select(each_once.c.day, sa.func.count()).group_by(each_once.c.day)


def _grown(where: Where) -> sa.Select[Any]:
    """Messages, bytes, sessions and threads that each day added, less what it removed.

    A scope's row of a day has what was there before: the difference to its next row, or to what is
    there now, is the day's.
    """

    def following(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
        return sa.func.lead(column).over(partition_by=_usage.scope_id, order_by=_usage.day)

    stood = (
        select(
            _usage.scope_id,
            _usage.day,
            *(_usage[name] for name in HELD),
            *(following(_usage[name]).label(f"next_{name}") for name in HELD),
        )
        .select_from(_SCOPE_OF_USAGE if where else schema.usage)
        .where(_usage.kind == number(Kind.SCOPE), _usage.day >= _SINCE, *_asked(where))
        .cte("stood")
    )
    newest = select(stood.c.scope_id).where(stood.c.next_count.is_(None))
    now = (
        select(_sessions.scope_id, *(column.label(name) for name, column in HELD.items()))
        .where(_sessions.scope_id.in_(newest))
        .group_by(_sessions.scope_id)
        .cte("now")
    )
    added = [
        total(sa.func.coalesce(stood.c[f"next_{name}"], now.c[name], ZERO) - stood.c[name])
        for name in HELD
    ]
    joined = stood.outerjoin(now, stood.c.scope_id == now.c.scope_id)
    return select(stood.c.day, *added).select_from(joined).group_by(stood.c.day)


def _tokens(where: Where) -> sa.Select[Any]:
    """Answers of models and their tokens, by day, module and model."""
    by = (_usage.day, _scopes.project, _scopes.module, _usage.model)
    return (
        select(*by, total(_usage.count), total(_usage.input_tokens), total(_usage.output_tokens))
        .select_from(_SCOPE_OF_USAGE)
        .where(_usage.kind == number(Kind.MESSAGE), _usage.day >= _SINCE)
        .where(_usage.model != bindparam("nobody", type_=sa.LargeBinary), *_asked(where))
        .group_by(*by)
        .order_by(*by)
    )


class _Statements(NamedTuple):
    below: sa.Select[Any]
    singly: sa.Select[Any]
    owners: sa.Select[Any]
    people: sa.Select[Any]
    people_of_projects: sa.Select[Any]
    active: sa.Select[Any]
    grown: sa.Select[Any]
    tokens: sa.Select[Any]


_MAKERS = (_below, _singly, _owners, _people, _people_of_projects, _active, _grown, _tokens)


@cache
def _statements(where: Where) -> _Statements:
    """Made once: a statement is compiled once."""
    return _Statements(*(make(where) for make in _MAKERS))


_largest_of = cache(_largest)


class Counted(NamedTuple):
    """What was counted, as rows."""

    below: list[Row]
    """Project, module, kind, rows, what is below them, bytes, last activity (µs)."""
    singly: list[Row]
    """The same of what no row counts."""
    owners: list[Row]
    """Project, module, scopes."""
    people: list[Row]
    """Project, module, level, how many."""
    people_of_projects: list[Row]
    """Project, level, how many."""
    active: list[Row]
    """Day, users."""
    grown: list[Row]
    """Day, messages, bytes, sessions, threads."""
    tokens: list[Row]
    """Day, project, module, model, answers, input and output tokens."""
    largest: list[Row]
    """Scope, kind, rows, what is below them, bytes, last activity (µs)."""


def counted(
    transaction: Transaction, asked: Mapping[str, bytes], since: int, largest: int, now: int
) -> Counted:
    """What there is of all scopes, or of those that have these digests.

    Args:
        asked: Digests by the columns of `scopes` that have them.
        since: The first day, counted from 1970, of which days are told.
        largest: How many scopes are told of by themselves, the largest first.
        now: Microseconds since 1970, UTC: what expired by then is absent.
    """
    where = tuple(sorted(asked))
    given = {**asked, "now": now, "since": since, "nobody": PEOPLE}
    rows = [transaction.rows(statement, **given) for statement in _statements(where)]
    scopes = transaction.rows(_largest_of(where), largest=largest, **given) if largest else []
    return Counted._make([*rows, scopes])


_SCOPES_OF = select(_scopes.scope_id).where(
    _scopes.project.is_not_distinct_from(bindparam("project", type_=sa.LargeBinary)),
    _scopes.module.is_not_distinct_from(bindparam("module", type_=sa.LargeBinary)),
)
_USERS_OF_MODEL = select(_usage.scope_id, _usage.day).where(
    _usage.model == bindparam("model", type_=sa.LargeBinary),
    _usage.kind == number(Kind.MESSAGE),
)
# One is enough, unless its owner is erased at this moment.
_FEW = 3


def _few(statement: sa.Select[Any]) -> sa.Select[Any]:
    return statement.limit(sa.literal_column(str(_FEW))).offset(ZERO)


_SCOPES_OF, _USERS_OF_MODEL = _few(_SCOPES_OF), _few(_USERS_OF_MODEL)


def scopes_of(transaction: Transaction, project: bytes | None, module: bytes | None) -> list[bytes]:
    """Some scopes of a project's module."""
    rows = transaction.rows(_SCOPES_OF, project=project, module=module)
    return [scope_id for (scope_id,) in rows]


def users_of_model(transaction: Transaction, model: bytes) -> list[Row]:
    """Some scopes that used a model, and on which day."""
    return transaction.rows(_USERS_OF_MODEL, model=model)
