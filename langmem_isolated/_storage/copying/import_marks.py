"""Marks of imports: which of them have put something into a scope, and what they made for it.

A mark is an entry of kind *receipt* in a space of its own, under the token of the import; what it
has put in is in the journal of that token. Both are kept for longer than anybody goes without
noticing that an import went wrong.
"""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import delete, exists, select

from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import SECOND, now
from langmem_isolated._storage import entries
from langmem_isolated._storage.containers import SCOPE_ID
from langmem_isolated._storage.documents import collection
from langmem_isolated._storage.documents import writing as documents
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.items import statements as sql
from langmem_isolated._storage.key_sets import KeySet, remove_with_last_scope

KEPT_DAYS = 400
KEPT = KEPT_DAYS * 24 * 3600 * SECOND
"""Microseconds that a mark is kept, from when the import last began in its scope."""
PARTS_KEPT = 2 * KEPT
SPACE = (b"imported",)
_VERSION = 1

_IS_BARE = select(
    *(
        ~exists().where(table.c.scope_id == SCOPE_ID)
        for table in (schema.sessions, schema.records, schema.usage)
    )
)
_DELETE_SCOPE = delete(schema.scopes).where(
    schema.scopes.c.scope_id == SCOPE_ID,
    schema.scopes.c.birth == sa.bindparam("birth", type_=sa.LargeBinary),
)


class ImportMark(NamedTuple):
    """That an import has put something into a scope."""

    source: str
    """What the kind of its source is called."""
    begun_at: int
    made_scope: bool
    """Whether nothing was in the scope before."""
    collections: list[bytes]
    """The names of those that it made."""


def begin(transaction: Transaction, keys: ScopeKeys, token: bytes, source: str) -> ImportMark:
    """The mark of an import in a scope, made where it is the first time.

    Raises:
        ScopeGone: The user was erased.
        RecordDoesNotOpen: It was changed, moved or exchanged.
    """
    mark = find(transaction, keys, token)
    if mark is None:
        mark = ImportMark(source, now(), is_bare(transaction, keys), [])
    _put(transaction, keys, token, mark)
    return mark


def keep(transaction: Transaction, keys: ScopeKeys, token: bytes, source: str) -> None:
    """Have a mark of an import that goes on, whoever has forgotten it since it began.

    Raises:
        RecordDoesNotOpen: It was changed, moved or exchanged.
    """
    if transaction.is_postgres:
        # From here on no roll back forgets it before this transaction ends.
        transaction.query(sql.SHARE_SCOPE, scope_id=keys.scope_id, scope_birth=keys.birth)
    if find(transaction, keys, token) is None:
        begin(transaction, keys, token, source)


def _put(transaction: Transaction, keys: ScopeKeys, token: bytes, mark: ImportMark) -> None:
    entry = Entry(token, encode_value([_VERSION, *mark], "a receipt"))
    entries.put(transaction, keys, SPACE, [entry], now(), KEPT, kind=Kind.RECEIPT)


def note_collection(transaction: Transaction, keys: ScopeKeys, token: bytes, name: bytes) -> None:
    """Keep that a collection is made by an import that has begun."""
    mark = find(transaction, keys, token)
    assert mark is not None
    made = mark._replace(collections=[*mark.collections, name])
    _put(transaction, keys, token, made)


def remove_collections(transaction: Transaction, keys: ScopeKeys, names: Sequence[bytes]) -> None:
    """Remove collections in which nothing is."""
    for name in names:
        found = collection.find(transaction, keys, name)
        if found is not None and not found.state.count:
            documents.clear(transaction, keys, name)


def find(transaction: Transaction, keys: ScopeKeys, token: bytes) -> ImportMark | None:
    """The mark of an import, if it has put anything into the scope.

    Raises:
        RecordDoesNotOpen: It was changed, moved or exchanged.
    """
    (value,) = entries.get(transaction, keys, SPACE, [token], now(), kind=Kind.RECEIPT)
    return None if value is None else ImportMark(*decode_value(value)[1:])


def forget(transaction: Transaction, keys: ScopeKeys, token: bytes) -> None:
    """Remove a mark."""
    entries.remove(transaction, keys, SPACE, [token], kind=Kind.RECEIPT)


def is_bare(transaction: Transaction, keys: ScopeKeys) -> bool:
    """Whether nothing is in the scope, and its owner has never written into it."""
    row = transaction.row(_IS_BARE, scope_id=keys.scope_id)
    return row is not None and all(row)


def remove_scope(transaction: Transaction, keys: ScopeKeys, spare: KeySet | None) -> None:
    """Remove the row of a scope in which nothing is, and with the last one its keys."""
    transaction.execute(_DELETE_SCOPE, scope_id=keys.scope_id, birth=keys.birth)
    if spare is not None:
        remove_with_last_scope(transaction, spare)
