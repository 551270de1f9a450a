"""Blind index: keyed digests by which the database finds what has a value in a field.

They stand in a column of the item or document itself, so that they are put, replaced and removed
with it, in one statement::

    16 MAC | for each field: 8 field | 8 value

The field's 8 bytes are a keyed digest of the store or collection and the field, the value's one of
these and the value. The MAC covers the address, all that stands behind it, and what the record
holds and when it was put: so nobody who compares copies of the database learns that it was put
again as it was. What has no digest of a field, because it was put by somebody who does not index,
is always among those that may have the value: no filter misses it. Who exchanges digests can hide a
record from equality filters, and :func:`check` tells.

The keys are the naming key's: they never rotate, and are destroyed at an erasure.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, update

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES, HEADER_BYTES
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._search.equality import Term
from langmem_isolated.errors import RecordDoesNotOpen

STORE = b"store"
"""Stands for the items of a scope, as its digest does for a collection."""
_HALF = 8
_ENTRY = 2 * _HALF
RecordAddress = tuple[bytes, bytes]


def _field(keys: ScopeKeys, place: bytes, term: Term) -> bytes:
    named = keys.pseudonym_of_name(Kind.BLIND_INDEX, place, b"field", *term.path)
    return named[:_HALF]


def _entry(keys: ScopeKeys, place: bytes, term: Term) -> bytes:
    value = keys.pseudonym(Kind.BLIND_INDEX, place, b"value", *term.path, term.form)
    return _field(keys, place, term) + value[:_HALF]


def _mac(keys: ScopeKeys, kind: Kind, address: RecordAddress, entries: bytes, body: bytes) -> bytes:
    return keys.row_mac(b"equalities", kind.framed_bytes, *address, entries, body)


def digests(
    keys: ScopeKeys,
    kind: Kind,
    address: RecordAddress,
    place: bytes,
    terms: Iterable[Term],
    body: bytes,
    former: object = None,
    *,
    entries: dict[Term, bytes] | None = None,
) -> bytes | None:
    """What stands in the column ``equalities``; nothing where there is no term.

    Args:
        address: Parent and key of the record.
        place: :data:`STORE`, or the collection's digest.
        terms: Its values in the fields.
        body: When it was put, and what it holds.
        former: What stands there, for this body: other fields are kept.
        entries: What was made of terms of other records of this place, and is made here.

    Raises:
        RecordDoesNotOpen: ``former`` was exchanged.
    """
    check(keys, kind, address, former, body)
    kept = former[DIGEST_BYTES:] if isinstance(former, bytes) else b""
    starts = range(0, len(kept), _ENTRY)
    by_field = {kept[at : at + _HALF]: kept[at : at + _ENTRY] for at in starts}
    made = {} if entries is None else entries
    for term in terms:
        entry = made.get(term) or made.setdefault(term, _entry(keys, place, term))
        by_field[entry[:_HALF]] = entry
    if not by_field:
        return None
    stored = b"".join(by_field[field] for field in sorted(by_field))
    return _mac(keys, kind, address, stored, body) + stored


def check(keys: ScopeKeys, kind: Kind, address: RecordAddress, column: object, body: bytes) -> None:
    """Expect a column to be the one that was stored for this body at this address, or none.

    Raises:
        RecordDoesNotOpen: It was changed, moved or exchanged: a filter may miss the record.
    """
    if column is None:
        return
    if type(column) is not bytes or (
        _mac(keys, kind, address, column[DIGEST_BYTES:], body) != column[:DIGEST_BYTES]
    ):
        raise RecordDoesNotOpen(kind.label, "its digests for equality filters are not its own")


class NewDigests(NamedTuple):
    """By what equality filters find a record from now on."""

    address: RecordAddress
    head: bytes
    """The beginning of its sealed bytes, which no other version of it has."""
    digests: bytes


_records = schema.records.c
# Before the ciphertext: with the nonce, which is random and new each time.
_HEAD_FROM: sa.ColumnElement[int] = sa.literal_column("1")
_HEAD_BYTES: sa.ColumnElement[int] = sa.literal_column(str(HEADER_BYTES))
HEAD = sa.type_coerce(sa.func.substr(_records.sealed, _HEAD_FROM, _HEAD_BYTES), sa.LargeBinary)
_STORE = (
    update(schema.records)
    .where(
        _records.scope_id == bindparam("scope_id", type_=sa.LargeBinary),
        _records.kind == bindparam("of_kind"),
        _records.parent == bindparam("of_parent"),
        _records.key == bindparam("of_key"),
        # The version that was read, and no later one.
        bindparam("head", type_=sa.LargeBinary) == HEAD,
    )
    .values(equalities=bindparam("new_equalities", type_=sa.LargeBinary))
)


def store(transaction: Transaction, keys: ScopeKeys, kind: Kind, new: Sequence[NewDigests]) -> None:
    """Store the digests of records, where these are as they were read."""
    # In the order that all writers of items have.
    transaction.execute_many(
        _STORE,
        [
            {
                "scope_id": keys.scope_id,
                "of_kind": int(kind),
                "of_parent": address[0],
                "of_key": address[1],
                "head": head,
                "new_equalities": digests,
            }
            for address, head, digests in sorted(new)
        ],
    )


class Conditions:
    """What the database is asked: which records may have these values in these fields.

    Args:
        keys: The owner's.
        place: :data:`STORE`, or the collection's digest.
        terms: One or more, which must all hold.
    """

    def __init__(self, keys: ScopeKeys, place: bytes, terms: Sequence[Term]) -> None:
        entries = [_entry(keys, place, term) for term in terms]
        self._fields = {entry[:_HALF] for entry in entries}
        self.count = len(entries)
        self.values: dict[str, object] = {}
        """By the names of the parameters of :func:`may_have`."""
        for number, entry in enumerate(entries):
            self.values |= {f"entry_{number}": entry, f"field_{number}": entry[:_HALF]}

    def lacks_digests(self, column: object) -> bool:
        """Whether a record with this column is let pass only for having none of a field."""
        return type(column) is not bytes or not all(field in column for field in self._fields)


@cache
def may_have(
    count: int, *, is_postgres: bool, column: sa.ColumnElement[Any] = _records.equalities
) -> sa.ColumnElement[bool]:
    """The condition of SQL that lets pass what may have ``count`` values."""
    # `pg_catalog.` because POSITION is a word of the grammar.
    position: Any = sa.func.pg_catalog.position if is_postgres else sa.func.instr
    zero: sa.ColumnElement[int] = sa.literal_column("0")

    def has(name: str) -> Any:
        return position(column, bindparam(name, type_=sa.LargeBinary))

    return sa.or_(
        column.is_(None),
        sa.and_(
            *(sa.or_(has(f"entry_{n}") > zero, has(f"field_{n}") == zero) for n in range(count))
        ),
    )
