"""Marks of a scope: by what its rows would be known in another, read without opening them."""

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.containers import SCOPE_ID
from langmem_isolated.errors import RecordDoesNotOpen

_records, _sessions = schema.records.c, schema.sessions.c
_PAGE = 500
# So many of each scope's are tried with the keys of every other.
_TRIED = 64
# A key's id follows the format's byte.
_KEY_ID: list[sa.ColumnElement[int]] = [sa.literal_column("2"), sa.literal_column("16")]

_ADDRESS = (_records.kind, _records.parent, _records.key)
_BEHIND = [sa.bindparam(f"behind_{column.name}", type_=column.type) for column in _ADDRESS]


def _page(*columns: Any) -> sa.Select[Any]:
    return (
        select(*_ADDRESS, *columns)
        .where(_records.scope_id == SCOPE_ID, sa.tuple_(*_ADDRESS) > sa.tuple_(*_BEHIND))
        .order_by(*_ADDRESS)
        .limit(sa.literal_column(str(_PAGE)))
        .offset(sa.literal_column("0"))
    )


_ROWS = _page(_records.alias, sa.func.substr(_records.sealed, *_KEY_ID))
_SOME = _page(_records.sealed).limit(None).limit(sa.literal_column(str(_TRIED)))
_CONTAINERS = select(
    _sessions.kind, _sessions.digest, _sessions.birth, sa.func.substr(_sessions.sealed, *_KEY_ID)
).where(_sessions.scope_id == SCOPE_ID)
_BEFORE_ALL = (0, b"", b"")


class Marks(NamedTuple):
    """What tells a scope from every other."""

    scope_id: bytes
    keys: ScopeKeys
    digests: set[bytes]
    """Of names, and births: made with its keys, or at random."""
    sealed_with: set[bytes]
    """The ids of the keys that its rows say they are sealed with."""
    births: dict[bytes, bytes]
    """Of its sessions, threads and collections, by their digests."""
    some: list[Row]
    """Kind, parent, key and sealed bytes of some records."""
    containers: int
    records: int


def read(transaction: Transaction, keys: ScopeKeys) -> Marks:
    """The marks of a scope, of one state of the database."""
    containers = transaction.rows(_CONTAINERS, scope_id=keys.scope_id)
    births = {digest: birth for _, digest, birth, _ in containers}
    some = transaction.rows(_SOME, scope_id=keys.scope_id, **_behind(_BEFORE_ALL))
    marks = Marks(
        keys.scope_id, keys, {*births, *births.values(), keys.birth},
        {key_id for *_, key_id in containers}, births, some, len(containers), 0,
    )  # fmt: skip
    return marks._replace(records=_add_records(transaction, marks))


def _add_records(transaction: Transaction, marks: Marks) -> int:
    """Add the marks of every record; returns how many there are."""
    count, last = 0, _BEFORE_ALL
    while page := transaction.rows(_ROWS, scope_id=marks.scope_id, **_behind(last)):
        for _, parent, _, alias, key_id in page:
            marks.digests.update(part for part in (parent, alias) if part)
            marks.sealed_with.add(key_id)
        count, last = count + len(page), page[-1][:3]
    return count


def _behind(address: Row) -> dict[str, object]:
    names = ("behind_kind", "behind_parent", "behind_key")
    return dict(zip(names, address, strict=True))


def opened_by(keys: ScopeKeys, marks: Marks) -> bool:
    """Whether any of some records of a scope opens with another's keys, where it stands."""
    return any(_opens(keys, marks, *row) for row in marks.some)


def _opens(
    keys: ScopeKeys, marks: Marks, kind: int, parent: bytes, key: bytes, sealed: bytes
) -> bool:
    birth = marks.births.get(parent[:DIGEST_BYTES], b"")
    try:
        keys.open(keys.aad_prefix(Kind(kind), parent, birth), key, sealed, Kind(kind))
    except RecordDoesNotOpen:
        return False
    return True
