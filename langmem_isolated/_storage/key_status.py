"""Key status: which sealing keys are pending, and what was sealed by which version of them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.admission import AdmissionToAll
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.key_sets import Purpose, State

_keys, _uses = schema.keys.c, schema.key_uses.c
_IS_SEALING = _keys.purpose == sa.literal_column(str(int(Purpose.SEALING)))


def _owners(*states: State) -> sa.ColumnElement[int]:
    is_of = _keys.state.in_([sa.literal_column(str(int(state))) for state in states])
    return sa.func.count(sa.distinct(sa.case((is_of, _keys.principal))))


_IS_RETIRED = _keys.state == sa.literal_column(str(int(State.RETIRED)))
_COUNTS = select(
    _owners(State.ACTIVE, State.RETIRED),
    _owners(State.RETIRED),
    sa.func.count(sa.case((_IS_RETIRED, sa.literal_column("1")))),
    sa.func.min(sa.case((_IS_RETIRED, _keys.created_at))),
).where(_IS_SEALING)
_SINCE = select(schema.installation.c.rotating_since)
_SCOPE_ID = bindparam("scope_id", type_=sa.LargeBinary)
_SEALS = select(_uses.key_version, _uses.seals).where(_uses.scope_id == _SCOPE_ID)
# A key's id follows the format's byte.
_KEY_ID: list[sa.ColumnElement[int]] = [sa.literal_column("2"), sa.literal_column("16")]


def _by_key(table: sa.Table) -> Any:
    key_id = sa.func.substr(table.c.sealed, *_KEY_ID, type_=sa.LargeBinary)
    return select(key_id, sa.func.count()).where(table.c.scope_id == _SCOPE_ID).group_by(key_id)


_BY_KEY = [_by_key(schema.records), _by_key(schema.sessions)]


class KeyCounts(NamedTuple):
    """What a key store says of its sealing keys; nothing is opened or checked."""

    owners: int
    """Who has one that is not destroyed."""
    pending: int
    """Who has a former one besides."""
    former: int
    """How many there are of these."""
    oldest_made_at: int | None
    """When the oldest of them was made, in µs."""


def counts(key_store: Database) -> KeyCounts:
    """Of all installations that the key store serves."""
    with AdmissionToAll():
        row = key_store.read(Transaction.row, _COUNTS)
    assert row is not None
    return KeyCounts._make(row)


def rotating_since(database: Database) -> int | None:
    """Since when the keys of all are being rotated, in µs; ``None`` where they are not."""
    row = database.read(Transaction.row, _SINCE)
    return row[0] if row and type(row[0]) is int else None


class Uses(NamedTuple):
    """What a scope has, by the version of its key."""

    records: dict[int, int]
    """Sealed by it, headers of sessions, threads and collections among them."""
    seals: dict[int, int]
    """How often it has sealed, as far as counts are stored."""


def use_of(transaction: Transaction, keys: ScopeKeys, versions: Sequence[int]) -> Uses:
    """What a scope has.

    Args:
        transaction: Sees one state.
        keys: The scope's.
        versions: Of the keys that open, in their order.
    """
    by_id = dict(zip(keys.opening, versions, strict=True))
    records = dict.fromkeys(versions, 0)
    for key_id, count in _counted(transaction, keys.scope_id):
        if key_id in by_id:
            records[by_id[key_id]] += count
    seals = transaction.rows(_SEALS, scope_id=keys.scope_id)
    return Uses(records, dict(seals))


def _counted(transaction: Transaction, scope_id: bytes) -> Iterator[tuple[bytes, int]]:
    for statement in _BY_KEY:
        for key_id, count in transaction.rows(statement, scope_id=scope_id):
            yield bytes(key_id), count
