"""Grants: what one module of a user lets another of the same user read.

A grant is sealed twice, as entries of its kind: with the scope that grants, under the module that
may read, and with the scope that reads, under the module that grants; both hold the same bytes::

    16 id | 8 granted at | 8 ends at, 0 for never | terms

A third entry of the granting scope, the *ledger*, names for each reading module the id of the one
grant that is in force. It is rewritten with every grant and every revocation, in the transaction of
these: a grant's two rows, put back as they were before it was revoked, are not in the ledger.

Times are µs since 1970, UTC, by the database's clock.
"""

import os
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import framed, unframed
from langmem_isolated._database import schema
from langmem_isolated._database.database_clock import database_now
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage import entries
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.scoped_database import ScopeGone
from langmem_isolated._storage.working_locked import works_locked

_GRANTED, _RECEIVED = (b"granted",), (b"received",)
# Under no module: ids are never empty.
_LEDGER = b""
_ID_BYTES = 16
_HEAD = struct.Struct(f">{_ID_BYTES}sQQ")
# Entries are asked for as of 1970, so that none is left out by this process's clock.
_AT_ANY_TIME = 0

_scopes = schema.scopes.c
# Who grants and who revokes wait for each other, and for nobody who only writes records.
_LOCK = (
    select(_scopes.scope_id)
    .where(
        _scopes.scope_id == bindparam("scope_id", type_=sa.LargeBinary),
        _scopes.birth == bindparam("scope_birth", type_=sa.LargeBinary),
    )
    .with_for_update(key_share=True)
)


class StoredGrant(NamedTuple):
    """A grant as both sides hold it."""

    id: bytes
    """16 random bytes."""
    granted_at: int
    ends_at: int
    """0 for never."""
    terms: bytes

    @classmethod
    def of(cls, value: bytes) -> "StoredGrant":
        """What an entry holds."""
        id_, granted_at, ends_at = _HEAD.unpack_from(value)
        return cls(id_, granted_at, ends_at, value[_HEAD.size :])

    @property
    def value(self) -> bytes:
        """What an entry of it holds."""
        return _HEAD.pack(*self[:3]) + self.terms

    def is_over(self, now: int) -> bool:
        """Whether it has ended, by the database's clock."""
        return 0 < self.ends_at <= now


@works_locked
def find(
    transaction: Transaction,
    keys: ScopeKeys,
    reader_keys: ScopeKeys,
    modules: tuple[bytes, bytes],
) -> StoredGrant | None:
    """The grant in force by which one module reads of another; ``None`` where there is none.

    Args:
        keys: Of the scope that grants.
        reader_keys: Of the scope that reads.
        modules: Which module grants, and which reads.

    Raises:
        RecordDoesNotOpen: An entry was changed, moved or exchanged.
    """
    granting, reading = modules
    granted, ledger = _get(transaction, keys, _GRANTED, reading, _LEDGER)
    (received,) = _get(transaction, reader_keys, _RECEIVED, granting)
    if granted is None or granted != received:
        return None
    grant = StoredGrant.of(granted)
    is_in_force = _ledger(ledger).get(reading) == grant.id
    return grant if is_in_force and not grant.is_over(database_now(transaction)) else None


@works_locked
def granted_by(transaction: Transaction, keys: ScopeKeys) -> list[tuple[bytes, StoredGrant]]:
    """The grants of a scope that are in force, each behind the module that reads by it.

    Raises:
        RecordDoesNotOpen: An entry was changed, moved or exchanged.
    """
    found = entries.all_of(transaction, keys, _GRANTED, _AT_ANY_TIME, kind=Kind.GRANT)
    values = {entry.key: entry.value for entry in found}
    in_force, now = _ledger(values.pop(_LEDGER, None)), database_now(transaction)
    grants = ((module, StoredGrant.of(value)) for module, value in values.items())
    return [
        (module, grant)
        for module, grant in grants
        if in_force.get(module) == grant.id and not grant.is_over(now)
    ]


def put(
    transaction: Transaction,
    keys: ScopeKeys,
    reader_keys: ScopeKeys,
    modules: tuple[bytes, bytes],
    terms: bytes,
    end_of: Callable[[int], int],
) -> StoredGrant:
    """Put a grant in force, in place of the one that the two modules had.

    Args:
        keys: Of the scope that grants.
        reader_keys: Of the scope that reads.
        modules: Which module grants, and which reads.
        terms: What is granted.
        end_of: When it ends if it is granted at a given time, 0 for never; may refuse.

    Raises:
        ScopeGone: A scope was erased; nothing was written.
        RecordDoesNotOpen: The ledger was changed, moved or exchanged.
    """
    granting, reading = modules
    in_force = _locked_ledger(transaction, keys)
    now = database_now(transaction)
    grant = StoredGrant(os.urandom(_ID_BYTES), now, end_of(now), terms)
    _put_ledger(transaction, keys, {**in_force, reading: grant.id}, now)
    lifetime = grant.ends_at - now if grant.ends_at else None
    for side, space, key in ((keys, _GRANTED, reading), (reader_keys, _RECEIVED, granting)):
        entry = Entry(key, grant.value)
        entries.put(transaction, side, space, [entry], now, lifetime, kind=Kind.GRANT)
    return grant


def revoke(
    transaction: Transaction,
    keys: ScopeKeys,
    reader_keys: ScopeKeys | None,
    modules: tuple[bytes, bytes],
) -> bool:
    """Take a grant out of force, on both sides; ``False`` if none was.

    Args:
        keys: Of the scope that grants.
        reader_keys: Of the scope that reads; ``None`` where it has nothing any more.
        modules: Which module grants, and which reads.

    Raises:
        ScopeGone: The scope was erased.
        RecordDoesNotOpen: The ledger was changed, moved or exchanged.
    """
    granting, reading = modules
    in_force = _locked_ledger(transaction, keys)
    if in_force.pop(reading, None) is None:
        return False
    _put_ledger(transaction, keys, in_force, database_now(transaction))
    entries.remove(transaction, keys, _GRANTED, [reading], kind=Kind.GRANT)
    if reader_keys:
        entries.remove(transaction, reader_keys, _RECEIVED, [granting], kind=Kind.GRANT)
    return True


def _get(
    transaction: Transaction, keys: ScopeKeys, space: tuple[bytes], *wanted: bytes
) -> list[bytes | None]:
    return entries.get(transaction, keys, space, wanted, _AT_ANY_TIME, kind=Kind.GRANT)


def _locked_ledger(transaction: Transaction, keys: ScopeKeys) -> dict[bytes, bytes]:
    if transaction.row(_LOCK, scope_id=keys.scope_id, scope_birth=keys.birth) is None:
        raise ScopeGone
    return _ledger(*_get(transaction, keys, _GRANTED, _LEDGER))


def _ledger(value: bytes | None) -> dict[bytes, bytes]:
    """By reading module, the id of the grant that is in force."""
    parts = unframed(value or b"")
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _put_ledger(
    transaction: Transaction, keys: ScopeKeys, in_force: Mapping[bytes, bytes], now: int
) -> None:
    ledger = framed(*(part for pair in in_force.items() for part in pair))
    entries.put(transaction, keys, _GRANTED, [Entry(_LEDGER, ledger)], now, kind=Kind.GRANT)
