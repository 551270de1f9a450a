"""Wrapped keys: each principal's keys, encrypted by the root key."""

import os
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from sqlalchemy import BindParameter, Table, bindparam, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.sealing import KEY_BYTES, SealingKey, derive, framed
from langmem_isolated._database import schema
from langmem_isolated._database.database import Database
from langmem_isolated._database.statements import InsertsByDialect
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated.errors import RootKeyMismatch
from langmem_isolated.root_keys import RootKey


class Purpose(IntEnum):
    """What a stored key is for; numbers are stored and never change."""

    DIRECTORY = 1
    NAMING = 2
    SEALING = 3


# What each principal has.
OWNED = (Purpose.NAMING, Purpose.SEALING)

_keys = schema.keys.c

_SELECT_KEYS = (
    select(_keys.purpose, _keys.version, _keys.wrapped, _keys.root_key_id)
    .where(_keys.principal == bindparam("principal"))
    .order_by(_keys.purpose, _keys.version)
)


def insert_if_absent(table: Table, *columns: str) -> InsertsByDialect:
    """By whether it is PostgreSQL: the loser of a race writes nothing and reads again."""
    values: dict[str, BindParameter[Any]] = {column: bindparam(column) for column in columns}
    primary_key = [column.name for column in table.primary_key]
    return InsertsByDialect(
        table,
        lambda insert: insert.values(values).on_conflict_do_nothing(index_elements=primary_key),
    )


_INSERT_KEY = insert_if_absent(
    schema.keys, "principal", "purpose", "version", "wrapped", "root_key_id", "created_at"
)


@dataclass(frozen=True, slots=True, repr=False)
class PrincipalKeys:
    """A principal's live keys in plaintext; ``incarnation`` counts its lives, one per erasure."""

    incarnation: int
    naming: bytes
    sealing: list[bytes]

    def entry(self, scope_id: bytes) -> tuple[dict[bytes, SealingKey], bytes]:
        """What opens and seals this principal's entries in the table of scopes."""
        versions = [SealingKey(derive(key, b"directory entries")) for key in self.sealing]
        return {key.id: key for key in versions}, framed(Kind.SCOPE.framed_bytes, scope_id)


class WrappedKeys:
    """The keys that one database stores, and the root key that opens them."""

    def __init__(self, database: Database, root_key: RootKey) -> None:
        self._database = database
        self._root_key = root_key

    def rows(self, principal: bytes) -> list[Row]:
        """Purpose, version, wrapped key (``None`` once destroyed) and root key of each."""
        return self._database.read(Transaction.rows, _SELECT_KEYS, principal=principal)

    def insert(self, principal: bytes, purpose: Purpose, version: int) -> None:
        """Make a key, unless there is one of this purpose and version."""
        self._database.write(
            Transaction.execute,
            _INSERT_KEY[self._database.is_postgres],
            principal=principal,
            purpose=int(purpose),
            version=version,
            wrapped=self._root_key.wrap(
                os.urandom(KEY_BYTES), _context(principal, purpose, version)
            ),
            root_key_id=self._root_key.key_id,
            created_at=now(),
        )

    def unwrap(self, principal: bytes, row: Row) -> bytes:
        """The key of one of :meth:`rows`.

        Raises:
            RootKeyMismatch: Another root key wrapped it.
        """
        purpose, version, wrapped, root_key_id = row
        if root_key_id != self._root_key.key_id:
            raise RootKeyMismatch(root_key_id, self._root_key.key_id)
        return self._root_key.unwrap(wrapped, _context(principal, purpose, version))


def _context(principal: bytes, purpose: int, version: int) -> bytes:
    return framed(b"langmem-isolated/v1", principal, bytes([purpose]), version.to_bytes(4))
