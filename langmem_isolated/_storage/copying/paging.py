"""Paging: how much of what an owner has is held at once, by number and by bytes."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam, func, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.containers import SCOPE_ID

T = TypeVar("T")

PAGE = 500
PAGE_BYTES = 1 << 20
"""A page has as many bytes, sealed and in plaintext, and those of its last record."""

Behind = tuple[bytes, bytes]
FIRST: Behind = (b"", b"")
# Above every parent: digests, alone or with what is below them.
EVERY = b"\xff" * 65

_records = schema.records.c
# The length alone: neither database fetches what is sealed for it.
_SIZES = (
    select(func.length(_records.sealed))
    .where(
        _records.scope_id == SCOPE_ID,
        _records.kind == bindparam("kind", type_=sa.SmallInteger),
        sa.or_(_records.expires_at.is_(None), _records.expires_at > bindparam("now")),
        _records.parent < bindparam("high", type_=sa.LargeBinary),
        sa.tuple_(_records.parent, _records.key)
        > sa.tuple_(
            bindparam("parent", type_=sa.LargeBinary), bindparam("key", type_=sa.LargeBinary)
        ),
    )
    .order_by(_records.parent, _records.key)
    .limit(bindparam("limit", type_=sa.Integer))
    .offset(sa.literal_column("0"))
)


def fitting(
    transaction: Transaction,
    keys: ScopeKeys,
    kind: Kind,
    behind: Behind,
    *,
    high: bytes = EVERY,
    now: int = 0,
) -> int:
    """How many of the next records a page may have: one at least.

    Args:
        transaction: That reads them.
        keys: Whose.
        kind: Of the records.
        behind: Parent and key behind which they stand.
        high: Below which their parents are.
        now: Those that have expired by then are not among them.
    """
    asked = {"scope_id": keys.scope_id, "kind": int(kind), "high": high, "now": now}
    parent, key = behind
    rows = transaction.rows(_SIZES, **asked, parent=parent, key=key, limit=PAGE)
    total = 0
    for number, (size,) in enumerate(rows, 1):
        total += size
        if total >= PAGE_BYTES:
            return number
    return PAGE


def in_pages(records: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Records by pages, taken as they come: what is compressed is opened page by page alone."""
    page: list[T] = []
    held = 0
    for one in records:
        page.append(one)
        held += size_of(one)
        if held >= PAGE_BYTES or len(page) == PAGE:
            yield page
            page, held = [], 0
    if page:
        yield page
