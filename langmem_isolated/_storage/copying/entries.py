"""Copies key-value entries: those of byte stores, caches and indexes, and profiles."""

from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage import entries, profiles
from langmem_isolated._storage.containers import SCOPE_ID
from langmem_isolated._storage.copying.options import BATCH, Conflicts, Copied, Reader
from langmem_isolated._storage.copying.paging import FIRST, Behind, fitting
from langmem_isolated._storage.entries import Entry

# Not what was decided for the source: grants, policies, claims and receipts stay there.
KINDS = (Kind.ENTRY, Kind.PROFILE)

_records = schema.records.c
_PAGE = (
    select(
        _records.parent,
        _records.key,
        _records.sealed,
        _records.tag,
        _records.updated_at,
        _records.expires_at,
        _records.created_at,
    )
    .where(
        _records.scope_id == SCOPE_ID,
        _records.kind == bindparam("kind", type_=sa.SmallInteger),
        sa.or_(_records.expires_at.is_(None), _records.expires_at > bindparam("now")),
        sa.tuple_(_records.parent, _records.key)
        > sa.tuple_(
            bindparam("parent", type_=sa.LargeBinary), bindparam("key", type_=sa.LargeBinary)
        ),
    )
    .order_by(_records.parent, _records.key)
    .limit(bindparam("limit", type_=sa.Integer))
    .offset(sa.literal_column("0"))
)


def copy_page(
    transaction: Transaction,
    target: ScopeKeys,
    source: Reader,
    behind: Behind,
    conflicts: Conflicts,
    copied: Copied,
    now: int,
    *,
    kind: Kind,
    apart: bool = False,
) -> Behind | None:
    """Copy the next entries, and say behind which the others begin, if there are any.

    Their keys are what others look them up by, so none is renamed: the target's own stays.

    Args:
        transaction: Of the target.
        target: Who gets them.
        source: Who has them.
        behind: Behind which they stand.
        conflicts: What happens to keys that the target has.
        copied: Told what was done.
        now: The time.
        kind: Of the entries.
        apart: Whether those of a profile wait apart until somebody confirms them.

    Raises:
        AddressTaken: A key is taken, and that is refused.
        RecordDoesNotOpen: An entry was changed, moved or exchanged.
        ScopeGone: The target was erased; nothing was written.
    """
    asked = {"scope_id": source.keys.scope_id, "kind": int(kind), "now": now}
    parent, key = behind
    rows = source.within(transaction).rows(_PAGE, **asked, parent=parent, key=key, limit=BATCH)
    policy: Conflicts = "skip" if conflicts == "rename" else conflicts
    above = profiles.UNCONFIRMED if apart and kind is Kind.PROFILE else ()
    for parent, *row, _ in rows:
        names, entry = entries.opened_anywhere(source.keys, kind, parent, tuple(row))
        _put(transaction, target, kind, (*above, *names), entry, tuple(row), policy, copied)
    return rows[-1][:2] if len(rows) == BATCH else None


def _put(
    transaction: Transaction,
    target: ScopeKeys,
    kind: Kind,
    names: Sequence[bytes],
    entry: Entry,
    row: Row,
    conflicts: Conflicts,
    copied: Copied,
) -> None:
    *_, updated_at, expires_at = row
    (there,) = entries.get(transaction, target, names, [entry.key], updated_at, kind=kind)
    is_taken = there is not None and there != entry.value
    if there == entry.value or (is_taken and copied.resolve(conflicts, kind) == "skip"):
        return
    lifetime = None if expires_at is None else expires_at - updated_at
    entries.put(transaction, target, names, [entry], updated_at, lifetime, kind=kind)
    copied.counts[kind] += 1
    copied.note_added(kind, entry.key, *names)


def opened_entries(
    transaction: Transaction, source: ScopeKeys, kind: Kind, now: int
) -> Iterator[tuple[list[bytes], Entry]]:
    """A source's entries of a kind, each behind the names of its space.

    Raises:
        RecordDoesNotOpen: An entry was changed, moved or exchanged.
    """
    for parent, *row, _ in entry_rows(transaction, source, kind, now):
        yield entries.opened_anywhere(source, kind, parent, tuple(row))


def entry_rows(transaction: Transaction, source: ScopeKeys, kind: Kind, now: int) -> Iterator[Row]:
    """The rows of a source's entries of a kind, unopened, read by bounded pages."""
    asked = {"scope_id": source.scope_id, "kind": int(kind), "now": now}
    behind: Behind = FIRST
    while True:
        limit = fitting(transaction, source, kind, behind, now=now)
        parent, key = behind
        rows = transaction.rows(_PAGE, **asked, parent=parent, key=key, limit=limit)
        yield from rows
        if len(rows) < limit:
            return
        behind = rows[-1][:2]
