"""User listing: users by the digests of their principals, page by page, with what they have.

A page costs what its users have: their scopes are found by an index, and each is summed by itself.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._crypto.owners import Level
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.statistics import held_by_scope
from langmem_isolated._storage.usage import ZERO, number

_scopes = schema.scopes.c
_OF_USERS = _scopes.level.in_([number(Level.PRIVATE), number(Level.USER)])


def _reached(has_project: bool) -> list[sa.ColumnElement[bool]]:
    behind = _scopes.principal > bindparam("after", type_=sa.LargeBinary)
    project = _scopes.project == bindparam("project", type_=sa.LargeBinary)
    return [_OF_USERS, behind, *([project] if has_project else [])]


@cache
def _page(has_project: bool) -> sa.Select[Any]:
    return (
        select(_scopes.principal)
        .where(*_reached(has_project))
        .group_by(_scopes.principal)
        .order_by(_scopes.principal)
        .limit(bindparam("limit", type_=sa.Integer))
        .offset(ZERO)
    )


@cache
def _scopes_of_page(has_project: bool) -> sa.Select[Any]:
    return (
        select(_scopes.principal, _scopes.scope_id, _scopes.level)
        .where(*_reached(has_project))
        .where(_scopes.principal <= bindparam("last", type_=sa.LargeBinary))
        .order_by(_scopes.principal, _scopes.scope_id)
    )


_SCOPE_OF = (
    select(_scopes.scope_id)
    .where(_OF_USERS, _scopes.principal == bindparam("principal", type_=sa.LargeBinary))
    .limit(sa.literal_column("1"))
    .offset(ZERO)
)


class HeldScope(NamedTuple):
    """One scope of a user, and what it has."""

    principal: bytes
    scope_id: bytes
    is_module: bool
    """Whether it is of one module; otherwise of what the user has in all."""
    held: Sequence[Row]
    """Kind, rows, what is below them, bytes, last activity (µs)."""


def users_behind(
    transaction: Transaction, after: bytes, project: bytes | None, limit: int, now: int
) -> list[HeldScope]:
    """The scopes of the users behind ``after``, in the order of their digests.

    Args:
        after: The principal's digest of the last user of the page before; empty for the first.
        project: The digest of a project, for its users alone.
        limit: How many users.
        now: Microseconds since 1970, UTC: what expired by then is absent.
    """
    given = {"after": after} if project is None else {"after": after, "project": project}
    users = transaction.rows(_page(project is not None), limit=limit, **given)
    if not users:
        return []
    (last,) = users[-1]
    scopes = transaction.rows(_scopes_of_page(project is not None), last=last, **given)
    asked = [{"scope_id": scope_id, "now": now} for _, scope_id, _ in scopes]
    held = transaction.rows_of_each(held_by_scope(), asked)
    return [
        HeldScope(principal, scope_id, level == Level.PRIVATE, rows)
        for (principal, scope_id, level), rows in zip(scopes, held, strict=True)
    ]


def scope_of_principal(transaction: Transaction, principal: bytes) -> bytes | None:
    """One scope of a user, by the digest of the principal; ``None`` if there is none."""
    row = transaction.row(_SCOPE_OF, principal=principal)
    return None if row is None else row[0]
