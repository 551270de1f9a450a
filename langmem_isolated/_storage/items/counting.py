"""Counted items: a container row that stands for all items of a scope, where one is wanted.

Without it a put reads nothing before it writes, and writers do not wait for each other: 8 of them
stored 4,554 items a second on PostgreSQL, and 524 where each locked one row. With it
`_storage/verification.py` notices an item that was removed or rolled back. Once a scope has the row
every writer keeps it, whether or not its store was asked to: the statements for those who do not
count find the row and write nothing.
"""

from collections.abc import Iterable, Sequence

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.container_state import ContainerState, member_part
from langmem_isolated._storage.containers import ContainerRows
from langmem_isolated._storage.items import statements as sql
from langmem_isolated._storage.items.addresses import RecordAddress, RecordAddresses

ROWS = ContainerRows(Kind.ITEM)


def digest_of(keys: ScopeKeys) -> bytes:
    """The digest of the row that stands for a scope's items."""
    return keys.pseudonym_of_name(Kind.ITEM, b"counted")


def item_part(
    keys: ScopeKeys, place: RecordAddress, created_at: object, updated_at: object, plaintext: bytes
) -> int:
    """What an item adds to ``members``."""
    created = created_at.to_bytes(8) if type(created_at) is int and created_at >= 0 else None
    return member_part(keys, Kind.ITEM, place, updated_at, created, plaintext)


class ItemCount:
    """The row that stands for a scope's items, locked, and what a write changes of it."""

    def __init__(
        self, transaction: Transaction, keys: ScopeKeys, places: RecordAddresses, now: int
    ) -> None:
        self._transaction, self._keys, self._places, self._now = transaction, keys, places, now
        self._digest = digest_of(keys)
        self._difference = self._count = self._size = 0

    def locked(self) -> ContainerState | None:
        """The row's state, the row locked; ``None`` where items are not counted.

        Nobody begins to count them then before the transaction ends.
        """
        scope = {"scope_id": self._keys.scope_id, "scope_birth": self._keys.birth}
        self._transaction.query(sql.SHARE_SCOPE, **scope)
        return ROWS.locked(self._transaction, self._keys, self._digest)

    def take_out(self, rows: Iterable[Row]) -> None:
        """Count items no more that stand in ``rows``, as ``sql.STORED_AT`` has them."""
        for row in rows:
            self._add(row, -1)

    def _add(self, row: Row, sign: int) -> None:
        parent, key, sealed, created_at, updated_at, *_ = row
        plaintext = self._places.items[parent](key, sealed)
        part = item_part(self._keys, (parent, key), created_at, updated_at, plaintext)
        self._difference += sign * part
        self._count += sign
        self._size += sign * len(sealed)

    def put_in(self, rows: Iterable[Row]) -> None:
        """Count items that stand in ``rows`` now, as ``sql.STORED_AT`` has them."""
        for row in rows:
            self._add(row, 1)

    def at(self, places: Sequence[RecordAddress]) -> list[Row]:
        """What stands at ``places``, expired or not."""
        asked = (
            {"scope_id": self._keys.scope_id, "given_parent": parent, "given_key": key}
            for parent, key in places
        )
        found = self._transaction.rows_of_each(sql.STORED_AT, asked)
        return [row for rows in found for row in rows]

    def store(self, state: ContainerState) -> None:
        """Store what the row stands for now."""
        new = state.with_members(self._keys, self._difference)._replace(
            count=state.count + self._count, size=state.size + self._size, updated_at=self._now
        )
        ROWS.update(self._transaction, self._keys, self._digest, new)


def begin(transaction: Transaction, keys: ScopeKeys, header: bytes, birth: bytes, now: int) -> None:
    """Make the row that stands for all items of a scope, unless there is one.

    Args:
        header: Its sealed part, in plaintext.
        birth: 16 random bytes.

    Raises:
        ScopeGone: The scope was erased; nothing was written.
    """
    digest = digest_of(keys)
    if ROWS.locked(transaction, keys, digest) is not None:
        return
    # Who is writing items at this moment has the scope's row for share: it is waited for. Who puts
    # some without asking first, and waits for this, finds that the row was renewed.
    scope = {"scope_id": keys.scope_id, "scope_birth": keys.birth}
    transaction.row(sql.LOCK_SCOPE, **scope)
    transaction.execute(sql.RENEW_SCOPE, **scope)
    state = ROWS.get_or_create(transaction, keys, digest, header, birth, now)
    if state.birth == birth:
        counted = ItemCount(transaction, keys, RecordAddresses(keys), now)
        counted.put_in(transaction.rows(sql.EVERY, scope_id=keys.scope_id))
        counted.store(state)
