"""Journal of a copy: what it put in, kept with the target so that it can be taken out again.

A *receipt* is an entry of its kind in the target's scope that says what was copied from where; the
*parts* of its journal are entries in a space of their own, each written in the transaction that put
in what it names. Beside each name stands a MAC of what was put in under it: what has another now
was changed since.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import select

from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import SECOND, now
from langmem_isolated._storage import entries
from langmem_isolated._storage.containers import SCOPE_ID
from langmem_isolated._storage.copying.containers import ROWS
from langmem_isolated._storage.copying.options import Added, Renamed
from langmem_isolated._storage.copying.proofs import lock_collections, proofs, remove
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.items import statements as sql
from langmem_isolated._storage.scoped_database import ScopeGone

TOKEN_BYTES = 16
KEPT = 30 * 24 * 3600 * SECOND
"""Microseconds that a receipt is kept; it holds names."""
# Parts outlive their receipt: without one of them not all would be taken out.
_PARTS_KEPT = 2 * KEPT
_PART_KEY_BYTES = 16
_RECEIPTS = (b"receipts",)
_VERSION = 1
_records = schema.records.c
_SOME = (
    select(_records.key, _records.sealed, _records.tag, _records.updated_at, _records.expires_at)
    .where(
        _records.scope_id == SCOPE_ID,
        _records.kind == sa.literal_column(str(int(Kind.RECEIPT))),
        _records.parent == sa.bindparam("parent", type_=sa.LargeBinary),
    )
    .limit(sa.bindparam("limit", type_=sa.Integer))
    .offset(sa.literal_column("0"))
)


class Receipt(NamedTuple):
    """What a copy was, and has done so far."""

    token: bytes
    what: str
    """What it was called by, such as ``"merge"``."""
    from_module: str
    conflicts: str
    begun_at: int
    finished_at: int | None
    counts: dict[int, int]
    """By kind."""

    @property
    def value(self) -> bytes:
        """What its entry holds."""
        return encode_value([_VERSION, *self[1:]], "a receipt")

    @classmethod
    def of(cls, entry: Entry) -> "Receipt":
        """The receipt of an entry."""
        _, *fields = decode_value(entry.value)
        return cls(entry.key, *fields)


class Part(NamedTuple):
    """What one transaction put in."""

    key: bytes
    lines: list[tuple[Added, bytes]]
    """Each with the MAC of what was put in."""
    renamed: list[Renamed]


class Undone(NamedTuple):
    """What was taken out, and what was left because it was changed."""

    removed: list[Added]
    left: list[Added]


def begin(
    transaction: Transaction, keys: ScopeKeys, what: str, from_module: str, conflicts: str
) -> Receipt:
    """The receipt of a copy that was begun so and did not end, or a new one.

    Raises:
        ScopeGone: The target was erased.
        RecordDoesNotOpen: A receipt was changed, moved or exchanged.
    """
    asked = what, from_module, conflicts
    if (unfinished := _unfinished(transaction, keys, asked)) is not None:
        return unfinished
    new = Receipt(os.urandom(TOKEN_BYTES), *asked, now(), None, {})
    _put(transaction, keys, new)
    return new


def _unfinished(
    transaction: Transaction, keys: ScopeKeys, asked: tuple[str, str, str]
) -> Receipt | None:
    for receipt in receipts(transaction, keys):
        if receipt.finished_at is None and receipt[1:4] == asked:
            return receipt
    return None


def added_by_unfinished(
    transaction: Transaction, keys: ScopeKeys, what: str, from_module: str, conflicts: str
) -> list[Added]:
    """What a copy has put in that was begun so and did not end.

    Raises:
        RecordDoesNotOpen: A receipt or part was changed, moved or exchanged.
    """
    begun = _unfinished(transaction, keys, (what, from_module, conflicts))
    found = parts(transaction, keys, begun.token) if begun else iter(())
    return [added for part in found for added, _ in part.lines]


def finish(transaction: Transaction, keys: ScopeKeys, receipt: Receipt) -> Receipt:
    """Say in a receipt that its copy is whole, and how much it has put in.

    Raises:
        ScopeGone: The target was erased.
    """
    lines = (line for part in parts(transaction, keys, receipt.token) for line in part.lines)
    counts = Counter(int(added.kind) for added, _ in lines)
    whole = receipt._replace(finished_at=now(), counts=dict(counts))
    _put(transaction, keys, whole)
    return whole


def receipts(transaction: Transaction, keys: ScopeKeys) -> list[Receipt]:
    """Every receipt of a target, the oldest first.

    Raises:
        RecordDoesNotOpen: One was changed, moved or exchanged.
    """
    found = entries.all_of(transaction, keys, _RECEIPTS, now(), kind=Kind.RECEIPT)
    return [Receipt.of(entry) for entry in found]


def record(
    transaction: Transaction,
    keys: ScopeKeys,
    added: list[Added],
    renamed: list[Renamed],
    *,
    token: bytes,
    kept: int = _PARTS_KEPT,
) -> None:
    """Keep what this transaction has put in.

    A session or thread has a part of its own: to take it out is a transaction's work. What this
    copy has kept of it before gives way.

    Args:
        added: What.
        renamed: Which of it stands under another name than it had.
        token: Of the copy.
        kept: For how long, in µs.

    Raises:
        ScopeGone: The target was erased.
    """
    large = [[one] for one in added if one.kind in ROWS]
    small = [one for one in added if one.kind not in ROWS]
    groups = [*large, small] if small else large
    for number, group in enumerate(groups):
        macs = proofs(transaction, keys, group)
        lines = [[int(one.kind), *one.names, proof] for one, proof in zip(group, macs, strict=True)]
        names = [[int(kind), old, new] for kind, old, new in renamed] if number == 0 else []
        value = encode_value([_VERSION, lines, names], "a receipt")
        entry = Entry(_part_key(group), value)
        given = transaction, keys, _space(token), [entry], now(), kept
        entries.put(*given, kind=Kind.RECEIPT)


def parts(transaction: Transaction, keys: ScopeKeys, token: bytes) -> Iterator[Part]:
    """What a copy has put in, by transactions.

    Raises:
        RecordDoesNotOpen: A part was changed, moved or exchanged.
    """
    found = entries.all_of(transaction, keys, _space(token), now(), kind=Kind.RECEIPT)
    yield from map(_part, found)


def _part(entry: Entry) -> Part:
    _, lines, renamed = decode_value(entry.value)
    return Part(
        entry.key,
        [(Added(Kind(kind), tuple(names)), proof) for kind, *names, proof in lines],
        [Renamed(Kind(kind), old, new) for kind, old, new in renamed],
    )


def all_parts(transaction: Transaction, keys: ScopeKeys, token: bytes) -> list[Part]:
    """As :func:`parts`, read at once."""
    return [*parts(transaction, keys, token)]


def some_parts(transaction: Transaction, keys: ScopeKeys, token: bytes, most: int) -> list[Part]:
    """As :func:`parts`, at most so many, in any order.

    Raises:
        RecordDoesNotOpen: A part was changed, moved or exchanged.
    """
    parent = keys.pseudonym(Kind.RECEIPT, b"space", *_space(token))
    rows = transaction.rows(_SOME, scope_id=keys.scope_id, parent=parent, limit=most)
    found = (entries.opened_anywhere(keys, Kind.RECEIPT, parent, row) for row in rows)
    return [_part(entry) for _, entry in found]


def is_as_put(transaction: Transaction, keys: ScopeKeys, token: bytes, one: Added) -> bool:
    """Whether a copy has put this in, and nobody has changed it since.

    Raises:
        RecordDoesNotOpen: A part, or it itself, was changed, moved or exchanged.
    """
    (there,) = proofs(transaction, keys, [one])
    return any((one, there) in part.lines for part in _parts_of(transaction, keys, token, one))


def has_put(transaction: Transaction, keys: ScopeKeys, token: bytes, one: Added) -> bool:
    """Whether a copy has put in this session or thread, whatever became of it since.

    Raises:
        RecordDoesNotOpen: The part was changed, moved or exchanged.
    """
    return any(_parts_of(transaction, keys, token, one))


def _parts_of(
    transaction: Transaction, keys: ScopeKeys, token: bytes, one: Added
) -> Iterator[Part]:
    """The parts in which something may stand: of a session or thread its own."""
    if one.kind not in ROWS:
        yield from parts(transaction, keys, token)
        return
    key = _part_key([one])
    given = transaction, keys, _space(token), [key], now()
    (value,) = entries.get(*given, kind=Kind.RECEIPT)
    if value is not None:
        yield _part(Entry(key, value))


def _part_key(group: Sequence[Added]) -> bytes:
    """Of a session or thread one and the same: what stands there by now is in its only part."""
    (kind, names), *_ = group
    if kind not in ROWS:
        return os.urandom(_PART_KEY_BYTES)
    return kind.framed_bytes + names[0]


def undo_part(transaction: Transaction, keys: ScopeKeys, token: bytes, part: Part) -> Undone:
    """Take out what one transaction put in and nobody changed since, and forget the part.

    Raises:
        ScopeGone: The target was erased.
        RecordDoesNotOpen: Something was changed, moved or exchanged behind our back.
    """
    _lock_scope(transaction, keys)
    # Whoever goes on with the copy may have kept something else in it since it was read.
    given = transaction, keys, _space(token), [part.key], now()
    (value,) = entries.get(*given, kind=Kind.RECEIPT)
    lines = [] if value is None else _part(Entry(part.key, value)).lines
    lock_collections(transaction, keys, [added for added, _ in lines])
    there = proofs(transaction, keys, [added for added, _ in lines])
    known = [(added, proof, at) for (added, proof), at in zip(lines, there, strict=True) if at]
    removed = [added for added, proof, at in known if proof == at]
    remove(transaction, keys, removed)
    entries.remove(transaction, keys, _space(token), [part.key], kind=Kind.RECEIPT)
    return Undone(removed, [added for added, proof, at in known if proof != at])


def _lock_scope(transaction: Transaction, keys: ScopeKeys) -> None:
    """Let nobody put anything into this scope before this transaction ends."""
    scope = {"scope_id": keys.scope_id, "scope_birth": keys.birth}
    if transaction.row(sql.LOCK_SCOPE, **scope) is None:
        raise ScopeGone


def has_grown(transaction: Transaction, keys: ScopeKeys, token: bytes) -> bool:
    """Whether a copy has put in more since all of its parts were undone; no more comes now.

    Raises:
        ScopeGone: The target was erased.
        RecordDoesNotOpen: A part was changed, moved or exchanged.
    """
    _lock_scope(transaction, keys)
    return bool(some_parts(transaction, keys, token, 1))


def forget(transaction: Transaction, keys: ScopeKeys, token: bytes) -> None:
    """Remove a receipt, and what is left of its journal."""
    entries.clear(transaction, keys, _space(token), kind=Kind.RECEIPT)
    entries.remove(transaction, keys, _RECEIPTS, [token], kind=Kind.RECEIPT)


def _put(transaction: Transaction, keys: ScopeKeys, receipt: Receipt) -> None:
    entry = Entry(receipt.token, receipt.value)
    entries.put(transaction, keys, _RECEIPTS, [entry], now(), KEPT, kind=Kind.RECEIPT)


def _space(token: bytes) -> tuple[bytes, bytes]:
    return b"journal", token
