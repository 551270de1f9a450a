"""Key-value entries of a scope, in namespaces of their own, with expiry.

Those of caches, byte stores and indexes have the kind *entry*; grants, profiles, policies, claims,
receipts and store notes are entries of a kind of their own.

An entry's ``parent`` is a keyed digest of its space's names, its ``key`` one of its key below that,
and its ``tag``, where it has one, of what it is found by besides. The plaintext is, in bytes::

    1 form | 8 updated | 8 expires | 4 length of the names | 4 of the key | 4 of the tag
    names, framed | key | tag | value

Times are µs since 1970, UTC; 0 is no expiry. The table's columns for times and tag must say what
the sealed ones do: who can write to the table cannot let an entry live longer, seem newer or be
found by another tag. Expired means absent. Beside the expiry stands a MAC of it, as with every
record that has one, for those who sweep without opening.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import framed, unframed
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.expiry import check_expiry, expiry_mac
from langmem_isolated._storage.scoped_database import ScopeGone
from langmem_isolated._storage.upserts import upserts
from langmem_isolated._storage.write_barrier import MAY_SEAL, proof_of
from langmem_isolated.errors import RecordDoesNotOpen, RecordError

Names = Sequence[bytes]

# The kinds whose records are entries.
ENTRY_KINDS = frozenset(
    {Kind.ENTRY, Kind.GRANT, Kind.PROFILE, Kind.POLICY, Kind.CLAIM, Kind.RECEIPT, Kind.STORE_NOTE}
)
_FORM = 1
_HEAD = struct.Struct(">BQQIII")
_AT_ONCE = 64  # digests a statement; fewer are repeated: it is compiled once

_records, _scopes = schema.records.c, schema.scopes.c
_SCOPE_ID = bindparam("scope_id", type_=sa.LargeBinary)
_PARENT, _KEY = (bindparam(name, type_=sa.LargeBinary) for name in ("parent", "key"))
_NOW = bindparam("now", type_=sa.BigInteger)
_FROM_THE_FIRST: sa.ColumnElement[int] = sa.literal_column("0")  # SQLite would want a parameter

_OF_SCOPE = sa.and_(_records.scope_id == _SCOPE_ID, _records.kind == bindparam("kind"))
_HERE = _records.parent == _PARENT
_IN_SPACE = sa.and_(_OF_SCOPE, _HERE)
_ALIVE = sa.or_(_records.expires_at.is_(None), _records.expires_at > _NOW)
_ENTRIES = select(
    _records.key, _records.sealed, _records.tag, _records.updated_at, _records.expires_at
).where(_OF_SCOPE, _ALIVE)
_PROVE_SCOPE = (
    select(_scopes.scope_id)
    .where(_scopes.scope_id == _SCOPE_ID, _scopes.birth == bindparam("scope_birth"), MAY_SEAL)
    # Where an erasure is under way this waits, and then finds no row of the scope.
    .with_for_update(read=True, key_share=True)
)


def _among(column: sa.ColumnElement[Any], count: int) -> sa.ColumnElement[bool]:
    return column.in_([bindparam(f"digest_{n}", type_=sa.LargeBinary) for n in range(count)])


def _first(entries: sa.Select[Any]) -> sa.Select[Any]:
    return entries.limit(bindparam("limit", type_=sa.Integer)).offset(_FROM_THE_FIRST)


_AT = {n: _ENTRIES.where(_HERE, _among(_records.key, n)) for n in (1, _AT_ONCE)}
_PAGE = _first(_ENTRIES.where(_HERE, _records.key > _KEY).order_by(_records.key))
_ALL = _ENTRIES.where(_HERE).order_by(_records.created_at, _records.key)
_BY_TAG = _ENTRIES.where(_HERE, _records.tag == bindparam("digest", type_=sa.LargeBinary)).order_by(
    _records.created_at, _records.key
)
_COUNT = select(sa.func.count()).where(_IN_SPACE, _ALIVE)
_NEWEST = _first(_ENTRIES.where(_HERE).order_by(_records.updated_at.desc()))
_BETWEEN = _ENTRIES.where(
    _records.updated_at > bindparam("after", type_=sa.BigInteger),
    _records.updated_at < bindparam("before", type_=sa.BigInteger),
).order_by(_records.updated_at, _records.key)
_DATED = _first(_BETWEEN.where(_HERE))
# Without the parent, which a tag's digest covers: so that the index of the tags is used.
_TAGGED = _first(_BETWEEN.where(_among(_records.tag, _AT_ONCE)))
_REMOVE = delete(schema.records).where(_IN_SPACE, _records.key == _KEY)
_CLEAR = delete(schema.records).where(_IN_SPACE)
_SWEEP = (
    delete(schema.records).where(_OF_SCOPE, _records.expires_at <= _NOW).returning(_records.key)
)

# Of messages and elements, of items and documents.
_UNUSED = ("alias", "equalities")
# By whether it is PostgreSQL.
_PUT = upserts(
    {c.name: bindparam(c.name) for c in schema.records.columns if c.name not in _UNUSED},
    ("tag", "sealed", "size", "updated_at", "expires_at", "expiry_mac"),
)


class Entry(NamedTuple):
    """A value under its key; ``tag``, never empty, is what it is found by besides."""

    key: bytes
    value: bytes
    tag: bytes | None = None
    created_at: int | None = None  # given where it was first put elsewhere, in µs


class _Namespace:
    """One scope's space: where its entries stand, and what seals and opens them."""

    def __init__(self, keys: ScopeKeys, names: Names, kind: Kind = Kind.ENTRY) -> None:
        self._keys = keys
        self._names = framed(*names)
        self._kind = kind
        self.parent = keys.pseudonym(kind, b"space", *names)
        self._place = keys.aad_prefix(kind, self.parent)
        self._open, self._seal = keys.opener(self._place, kind), keys.sealer(kind)
        self.here = {"scope_id": keys.scope_id, "kind": int(kind), "parent": self.parent}

    def key(self, key: bytes) -> bytes:
        return self._keys.pseudonym(self._kind, b"key", self.parent, key)

    def tag(self, tag: bytes) -> bytes:
        return self._keys.pseudonym(self._kind, b"tag", self.parent, tag)

    def row(self, entry: Entry, now: int, expires_at: int | None) -> dict[str, Any]:
        """The row of an entry."""
        key, tag = self.key(entry.key), entry.tag or b""
        lengths = len(self._names), len(entry.key), len(tag)
        head = _HEAD.pack(_FORM, now, expires_at or 0, *lengths)
        plaintext = b"".join((head, self._names, entry.key, tag, entry.value))
        sealed = self._seal(self._place, key, plaintext)
        return {
            **self.here,
            "key": key,
            "tag": self.tag(tag) if tag else None,
            "sealed": sealed,
            "size": len(sealed),
            "created_at": now if entry.created_at is None else entry.created_at,
            "updated_at": now,
            "expires_at": expires_at,
            "expiry_mac": None if expires_at is None else self.expiry_mac(key, now, expires_at),
        }

    def expiry_mac(self, key: bytes, updated_at: int, expires_at: int) -> bytes:
        address = self.parent, key
        return expiry_mac(self._keys, self._kind, address, updated_at, expires_at)

    def opened(self, rows: Iterable[Row]) -> list[Entry]:
        """The entries of rows.

        Raises:
            RecordDoesNotOpen: One was changed, moved or exchanged.
            RecordError: A later version of this package wrote one.
        """
        return [self._opened(row) for row in rows]

    def _opened(self, row: Row) -> Entry:
        digest, sealed, *columns = row
        plaintext = self._open(digest, sealed)
        if plaintext[0] != _FORM:
            raise RecordError(
                f"A record of kind {self._kind.label} is stored in form {plaintext[0]}, this "
                f"version knows {_FORM}. Nothing was changed; install a later langmem-isolated."
            )
        _, updated, expires, names, key, tag = _HEAD.unpack_from(plaintext)
        key_at = _HEAD.size + names
        tag_at, value_at = key_at + key, key_at + key + tag
        entry = Entry(
            plaintext[key_at:tag_at], plaintext[value_at:], plaintext[tag_at:value_at] or None
        )
        if columns != [self.tag(entry.tag) if entry.tag else None, updated, expires or None]:
            raise RecordDoesNotOpen(
                self._kind.label, "its times or its tag are not those it was put with"
            )
        return entry


def opened_anywhere(
    keys: ScopeKeys, kind: Kind, parent: bytes, row: Row
) -> tuple[list[bytes], Entry]:
    """An entry of any space of a kind, by its row as in the statements, and the space's names.

    Raises:
        RecordDoesNotOpen: It was changed, moved or exchanged.
        RecordError: A later version of this package wrote it.
    """
    digest, sealed, *_ = row
    plaintext = keys.open(keys.aad_prefix(kind, parent), digest, sealed, kind)
    length = _HEAD.unpack_from(plaintext)[3]
    names = unframed(plaintext[_HEAD.size : _HEAD.size + length])
    space = _Namespace(keys, names, kind)
    (entry,) = space.opened([row])
    if (space.parent, space.key(entry.key)) != (parent, digest):
        raise RecordDoesNotOpen(kind.label, "it stands at another's address")
    return names, entry


def check(keys: ScopeKeys, kind: Kind, parent: bytes, row: Row, mac: bytes | None) -> None:
    """Open an entry as :func:`opened_anywhere` does, and check the MAC of its expiry.

    Raises:
        RecordDoesNotOpen: It was changed, moved or exchanged.
        RecordError: A later version of this package wrote it.
    """
    opened_anywhere(keys, kind, parent, row)
    digest, _, _, updated_at, expires_at = row
    is_expected, expiry = expires_at is not None, (expires_at, mac)
    check_expiry(keys, kind, (parent, digest), updated_at, expiry, is_expected=is_expected)


def _chunks(digests: Iterable[bytes], size: int = _AT_ONCE) -> list[dict[str, bytes]]:
    """What statements ask by that look for ``size`` digests; the last is repeated to fill one."""
    unique = list(dict.fromkeys(digests))
    return [
        {f"digest_{n}": unique[min(start + n, len(unique) - 1)] for n in range(size)}
        for start in range(0, len(unique), size)
    ]


def get(
    transaction: Transaction,
    keys: ScopeKeys,
    names: Names,
    wanted: Sequence[bytes],
    now: int,
    *,
    kind: Kind = Kind.ENTRY,
) -> list[bytes | None]:
    """The value under each key of ``wanted``, or ``None``: one query for one key.

    Raises:
        RecordDoesNotOpen: An entry was changed, moved or exchanged.
    """
    space, size = _Namespace(keys, names, kind), 1 if len(wanted) == 1 else _AT_ONCE
    shared = {**space.here, "now": now}
    asked = ({**shared, **chunk} for chunk in _chunks(map(space.key, wanted), size))
    answers = transaction.rows_of_each(_AT[size], asked)
    found = {entry.key: entry.value for rows in answers for entry in space.opened(rows)}
    return [found.get(key) for key in wanted]


def put(
    transaction: Transaction,
    keys: ScopeKeys,
    names: Names,
    entries: Iterable[Entry],
    now: int,
    lifetime: int | None = None,
    *,
    kind: Kind = Kind.ENTRY,
) -> None:
    """Store ``entries`` in place of what stands under their keys; the last of each key counts.

    Args:
        names: The space's.
        entries: One or more.
        now: The time, in µs, that they were put at.
        lifetime: How long they live, in µs; for ever by default.
        kind: One of ``ENTRY_KINDS``.

    Raises:
        ScopeGone: The scope was erased; nothing was written.
    """
    space, expires_at = _Namespace(keys, names, kind), None if lifetime is None else now + lifetime
    rows = {entry.key: space.row(entry, now, expires_at) for entry in entries}
    proof = transaction.query(_PROVE_SCOPE, **proof_of(keys, kind))
    # In one order everywhere: two who put the same keys wait for each other, and do not deadlock.
    ordered = sorted(rows.values(), key=lambda row: row["key"])
    transaction.execute_many(_PUT[transaction.is_postgres], ordered)
    if proof.fetchone() is None:
        raise ScopeGone


def remove(
    transaction: Transaction,
    keys: ScopeKeys,
    names: Names,
    unwanted: Iterable[bytes],
    *,
    kind: Kind = Kind.ENTRY,
) -> None:
    """Remove the entries under the keys of ``unwanted``, where there are any."""
    space = _Namespace(keys, names, kind)
    digests = sorted(map(space.key, unwanted))
    transaction.execute_many(_REMOVE, [{**space.here, "key": digest} for digest in digests])


def clear(
    transaction: Transaction, keys: ScopeKeys, names: Names, *, kind: Kind = Kind.ENTRY
) -> None:
    """Remove every entry of a space."""
    transaction.execute(_CLEAR, **_Namespace(keys, names, kind).here)


def all_of(
    transaction: Transaction, keys: ScopeKeys, names: Names, now: int, *, kind: Kind = Kind.ENTRY
) -> list[Entry]:
    """Every entry of a space, by when it was first put.

    Raises:
        RecordDoesNotOpen: An entry was changed, moved or exchanged.
    """
    space = _Namespace(keys, names, kind)
    return space.opened(transaction.rows(_ALL, **space.here, now=now))


def tagged(
    transaction: Transaction,
    keys: ScopeKeys,
    names: Names,
    tag: bytes,
    now: int,
    *,
    kind: Kind = Kind.ENTRY,
) -> list[Entry]:
    """The entries of a space that are found by ``tag`` besides, by when they were first put.

    Raises:
        RecordDoesNotOpen: An entry was changed, moved or exchanged.
    """
    space = _Namespace(keys, names, kind)
    return space.opened(transaction.rows(_BY_TAG, **space.here, digest=space.tag(tag), now=now))


def count(
    transaction: Transaction, keys: ScopeKeys, names: Names, now: int, *, kind: Kind = Kind.ENTRY
) -> int:
    """How many entries a space has; none is opened."""
    row = transaction.row(_COUNT, **_Namespace(keys, names, kind).here, now=now)
    assert row is not None
    return int(row[0])


def page(
    transaction: Transaction, keys: ScopeKeys, names: Names, behind: bytes, limit: int, now: int
) -> tuple[list[bytes], bytes]:
    """Up to ``limit`` keys of a space, and what the next page begins behind; ``b""`` at the end.

    Raises:
        RecordDoesNotOpen: An entry was changed, moved or exchanged.
    """
    space = _Namespace(keys, names)
    rows = transaction.rows(_PAGE, **space.here, key=behind, limit=limit, now=now)
    last = rows[-1][0] if len(rows) == limit else b""
    return [entry.key for entry in space.opened(rows)], last


def newest(transaction: Transaction, keys: ScopeKeys, names: Names, now: int) -> int:
    """When something was last put into a space, in µs; 0 for an empty one.

    Raises:
        RecordDoesNotOpen: The entry was changed, moved or exchanged.
    """
    space = _Namespace(keys, names)
    rows = transaction.rows(_NEWEST, **space.here, limit=1, now=now)
    space.opened(rows)
    return max((updated_at for _, _, _, updated_at, _ in rows), default=0)


def updated_between(
    transaction: Transaction,
    keys: ScopeKeys,
    names: Names,
    *,
    after: int,
    before: int,
    tags: Sequence[bytes] | None,
    limit: int,
    now: int,
) -> list[bytes]:
    """Up to ``limit`` keys of a space that were put last between two times, in µs, without these.

    With ``tags`` those alone that have one of them.

    Raises:
        RecordDoesNotOpen: An entry was changed, moved or exchanged.
    """
    space = _Namespace(keys, names)
    span = {"after": after, "before": before, "now": now}
    if tags is None:
        rows = transaction.rows(_DATED, **space.here, **span, limit=limit)
        return [entry.key for entry in space.opened(rows)]
    found: list[bytes] = []
    of_scope = {"scope_id": keys.scope_id, "kind": int(Kind.ENTRY)}
    for chunk in _chunks(map(space.tag, tags)):
        left = {"limit": limit - len(found), **of_scope}
        found += [e.key for e in space.opened(transaction.rows(_TAGGED, **left, **span, **chunk))]
    return found


def sweep(transaction: Transaction, keys: ScopeKeys, now: int) -> int:
    """Remove a scope's expired entries; returns how many."""
    return len(transaction.rows(_SWEEP, scope_id=keys.scope_id, kind=int(Kind.ENTRY), now=now))
