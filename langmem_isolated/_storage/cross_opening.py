"""Cross-opening: tries to open records of a scope where they do not belong; none may open.

A record opens under its own scope, at its own address, in its own life. Some of each kind are tried
with the keys of other scopes, at the addresses of others, and with its own keys at another place,
kind and life: by decrypting, whatever key id the record carries.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES, associated_data_of, opens
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.containers import SCOPE_ID

_records, _sessions = schema.records.c, schema.sessions.c
_SAMPLED = 2
"""Records of each kind of a scope."""
_SOME = (
    select(_records.kind, _records.parent, _records.key, _records.sealed)
    .where(
        _records.scope_id == SCOPE_ID,
        _records.kind == bindparam("kind", type_=sa.SmallInteger),
        _records.parent >= bindparam("low", type_=sa.LargeBinary),
    )
    .order_by(_records.parent, _records.key)
    .limit(sa.literal_column(str(_SAMPLED)))
    .offset(sa.literal_column("0"))
)
_BIRTH = select(_sessions.birth).where(
    _sessions.scope_id == SCOPE_ID, _sessions.digest == bindparam("digest", type_=sa.LargeBinary)
)


class Sealed(NamedTuple):
    """A record as it stands in the table, and the life of what it is below."""

    kind: Kind
    parent: bytes
    key: bytes
    sealed: bytes
    birth: bytes

    def place(self, keys: ScopeKeys) -> bytes:
        """The associated data of this address in the scope of ``keys``."""
        return associated_data_of(keys.aad_prefix(self.kind, self.parent, self.birth), self.key)


def sample(transaction: Transaction, keys: ScopeKeys, start: bytes) -> list[Sealed]:
    """Up to two records of each kind that a scope has.

    Args:
        start: 16 random bytes: those are taken whose parents follow it, or else the first.
    """
    found: list[Sealed] = []
    for low in (start, b""):
        missing = {*Kind} - {one.kind for one in found}
        asked = ({"scope_id": keys.scope_id, "kind": int(k), "low": low} for k in sorted(missing))
        for rows in transaction.rows_of_each(_SOME, asked):
            found += [_sealed(transaction, keys, *row) for row in rows if _is_bytes(*row[1:])]
    return found


def _is_bytes(*parts: object) -> bool:
    return all(type(part) is bytes for part in parts)


def _sealed(
    transaction: Transaction, keys: ScopeKeys, kind: int, parent: bytes, key: bytes, sealed: bytes
) -> Sealed:
    asked = {"scope_id": keys.scope_id, "digest": parent[:DIGEST_BYTES]}
    (birth,) = transaction.row(_BIRTH, **asked) or (b"",)
    return Sealed(Kind(kind), parent, key, sealed, birth if type(birth) is bytes else b"")


class CrossOpening:
    """Tries every sampled record of a scope in those that were met before it, and at other places.

    Args:
        others: Of how many scopes the keys are kept; each record is tried in as many.
    """

    def __init__(self, others: int) -> None:
        self._others: deque[ScopeKeys] = deque(maxlen=others)
        self.attempts = 0
        self.records = 0

    @property
    def is_full(self) -> bool:
        """Whether it has as many other scopes as it keeps."""
        return len(self._others) == self._others.maxlen

    def add(self, keys: ScopeKeys) -> None:
        """Try later records in this scope, too."""
        if all(keys.scope_id != one.scope_id for one in self._others):
            self._others.append(keys)

    def tried(self, keys: ScopeKeys, sampled: Sequence[Sealed]) -> list[Sealed]:
        """Those of a scope's records that opened where they do not belong."""
        self.records += len(sampled)
        others = [one for one in self._others if one.scope_id != keys.scope_id]
        return [one for one in sampled if self._opens_elsewhere(one, keys, others, sampled)]

    def _opens_elsewhere(
        self,
        record: Sealed,
        keys: ScopeKeys,
        others: Sequence[ScopeKeys],
        sampled: Sequence[Sealed],
    ) -> bool:
        own = (*_in_other_scopes(record, keys, others), *_at_other_places(record, keys, sampled))
        opened = False
        for with_keys, place in own:
            for key in with_keys.every_key():
                self.attempts += 1
                opened |= opens(key, place, record.sealed)
        return opened


def _in_other_scopes(
    record: Sealed, keys: ScopeKeys, others: Iterable[ScopeKeys]
) -> Iterator[tuple[ScopeKeys, bytes]]:
    """With another's keys here and where it would stand there, and with its own there."""
    for other in others:
        yield other, record.place(keys)
        yield other, record.place(other)
        yield keys, record.place(other)


def _at_other_places(
    record: Sealed, keys: ScopeKeys, sampled: Sequence[Sealed]
) -> Iterator[tuple[ScopeKeys, bytes]]:
    """With its own keys, at the address of another, as another kind, and in another life."""
    address = record.kind, record.parent, record.key
    for other in sampled:
        if (other.kind, other.parent, other.key) != address:
            yield keys, other.place(keys)
    kinds = [*Kind]
    next_kind = kinds[(kinds.index(record.kind) + 1) % len(kinds)]
    yield keys, record._replace(kind=next_kind).place(keys)
    yield keys, record._replace(birth=os.urandom(DIGEST_BYTES)).place(keys)
