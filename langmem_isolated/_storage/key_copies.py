"""Key copies: the keys of one installation, as they are wrapped, in another key store."""

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import LargeBinary, bindparam, delete, insert, select, text, union

from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._database import schema
from langmem_isolated._database.admission import AdmissionToAll
from langmem_isolated._database.database import Database
from langmem_isolated._database.table_copies import TableCopy
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.key_sets import KeySet, KeySets, StoredKey, check
from langmem_isolated._storage.scope_rows import ScopeRows
from langmem_isolated.errors import MoveRefused, RecordDoesNotOpen

_keys, _sets, _tombs = schema.keys.c, schema.key_sets.c, schema.tombstones.c
_PRINCIPALS = union(select(_keys.principal), select(_sets.principal)).order_by("principal")
_PRINCIPAL = bindparam("principal", type_=LargeBinary)
_DELETE_KEYS = delete(schema.keys).where(_keys.principal == _PRINCIPAL)
_DELETE_SET = delete(schema.key_sets).where(_sets.principal == _PRINCIPAL)
_PUT_KEY: Any = insert(schema.keys).values(
    {name: bindparam(name) for name in ("principal", *StoredKey._fields)}
)
_PUT_SET: Any = insert(schema.key_sets).values(
    {name: bindparam(name) for name in ("principal", "revision", "mac")}
)
_OWN = _tombs.directory_id == bindparam("directory_id", type_=LargeBinary)
_DELETE_TOMBSTONES = delete(schema.tombstones).where(_OWN)
_TOMBSTONES = select(_tombs.principal, _tombs.incarnation).where(_OWN)
# Readers go on; who would change a key waits, and meets that it is there no more.
_LOCK = text(
    "LOCK TABLE "
    + ", ".join(f"{schema.POSTGRES_SCHEMA}.{name}" for name in ("keys", "key_sets", "tombstones"))
    + " IN EXCLUSIVE MODE"
)


class KeyCopies:
    """The keys and tombstones of one installation, copied from one key store to another.

    A key store may serve several installations: another's are left where they are, on both sides.

    Args:
        source: Has them.
        target: Gets them.
        scopes: Tell whether a set that does not check is of somebody who has memory here.
        directory: Of the installation.
    """

    def __init__(
        self, source: Database, target: Database, scopes: ScopeRows, directory: DirectoryKey
    ) -> None:
        self._from, self._to = KeySets(source), KeySets(target)
        self._scopes, self._directory = scopes, directory
        self.tombstones = TableCopy(
            schema.tombstones, owned=_OWN, named={"directory_id": directory.id}
        )

    def has_begun(self) -> bool:
        """Whether the target has the installation's own keys, which everything else hangs on."""
        return bool(self._to.read_unchecked(self._directory.installation_id).keys)

    def run(self) -> int:
        """Have the target hold what the source holds; how many sets and tombstones changed.

        Raises:
            RecordDoesNotOpen: A set is not as it was stored.
        """
        own = dict.fromkeys(self._own(self._from))
        changed = sum(map(self._put, own))
        for principal in [one for one in self._own(self._to) if one not in own]:
            self._to.database.write(_replace, KeySet(principal))
            changed += 1
        return changed + self._copy_tombstones()

    def refuse_later_ones(self) -> None:
        """Expect that nobody has worked with what a run before had copied.

        Raises:
            MoveRefused: The target has keys or erasures that the source lacks; both stay.
        """
        target, source = self._to.database, self._from.database
        if self._lacks(self._from, self._to) or self._erased(target) - self._erased(source):
            raise MoveRefused(
                "Since a move that was broken off, keys were made or destroyed there: to copy once "
                "more would undo that. Run it again with that key store as key_store=, on the "
                "command line --key-store: it removes what is left here."
            )

    def refuse_lacking(self) -> None:
        """Expect that the target has all that the source has of those who have memory.

        Raises:
            MoveRefused: It has not: to remove them would destroy that memory.
        """
        if self._lacks(self._to, self._from):
            raise MoveRefused(
                "Keys are in the database that the key store lacks: a move was broken off before "
                "all were copied. Run it again without key_store=; nothing was removed."
            )

    def _lacks(self, sets: KeySets, others: KeySets) -> bool:
        return any(
            sets.read_unchecked(principal).revision < others.read_unchecked(principal).revision
            and self._is_needed(principal)
            for principal in self._own(others)
        )

    def _is_needed(self, principal: bytes) -> bool:
        is_installation = principal == self._directory.installation_id
        return is_installation or bool(self._scopes.of_principal(self._directory, principal))

    def _erased(self, database: Database) -> set[tuple[Any, ...]]:
        rows = database.read(Transaction.rows, _TOMBSTONES, directory_id=self._directory.id)
        return {tuple(row) for row in rows}

    def remove(self, transaction: Transaction) -> int:
        """Remove all from the source, in a transaction of the source's; how many sets."""
        own = [*self._own(self._from)]
        for principal in own:
            _replace(transaction, KeySet(principal))
        transaction.execute(_DELETE_TOMBSTONES, directory_id=self._directory.id)
        return len(own)

    def _put(self, principal: bytes) -> bool:
        found, there = self._from.read_unchecked(principal), self._to.read_unchecked(principal)
        if found != there:
            self._to.database.write(_replace, found)
        return found != there

    def _copy_tombstones(self) -> int:
        return self._from.database.snapshot(self._tombstones_of)

    def _tombstones_of(self, source: Transaction) -> int:
        changed, target = 0, self._to.database
        for page in self.tombstones.pages(source):
            changed += self.tombstones.clear(page, target).removed
            changed += self.tombstones.fill(page, target)
        return changed

    def _own(self, sets: KeySets) -> Iterator[bytes]:
        for (principal,) in sets.database.read(Transaction.rows, _PRINCIPALS):
            if self._is_own(sets.read_unchecked(principal)):
                yield principal

    def _is_own(self, found: KeySet) -> bool:
        """Whether a set is of this installation: another's has a MAC by another directory key."""
        try:
            check(found, self._directory)
        except RecordDoesNotOpen:
            if self._scopes.of_principal(self._directory, found.principal):
                raise
            return False
        return True


def moved_keys(copies: KeyCopies, source: Database, prove: Callable[[], object]) -> int:
    """Copy all keys, and remove them from the source, while nobody changes any there.

    Killed in between, both have them, and the next call goes on.

    Args:
        copies: What copies.
        source: Has them.
        prove: Opens the installation by what was copied, or raises: then nothing is removed.

    Returns:
        How many sets of keys.
    """

    def moved(transaction: Transaction) -> int:
        if transaction.is_postgres:
            transaction.execute(_LOCK)
        copies.refuse_later_ones()
        if copies.run() and copies.run():
            raise MoveRefused("The key store is being written by another move.")
        prove()
        return copies.remove(transaction)

    with AdmissionToAll():
        return source.write(moved)


def left_removed(copies: KeyCopies, source: Database) -> int:
    """Remove from the source what a move that was broken off has left there; how many sets."""

    def removed(transaction: Transaction) -> int:
        copies.refuse_lacking()
        return copies.remove(transaction)

    with AdmissionToAll():
        return source.write(removed)


def _replace(transaction: Transaction, found: KeySet) -> None:
    transaction.execute(_DELETE_KEYS, principal=found.principal)
    transaction.execute(_DELETE_SET, principal=found.principal)
    rows = [{"principal": found.principal, **key._asdict()} for key in found.keys]
    transaction.execute_many(_PUT_KEY, rows)
    if found.mac is not None:
        row = {"principal": found.principal, "revision": found.revision, "mac": found.mac}
        transaction.execute(_PUT_SET, **row)
