"""Key rotation: gives owners new sealing keys, seals what they have anew, destroys former keys.

A former key is destroyed when nothing needs it. That is known from three things, in this order: the
``oldest_key`` of every scope, authenticated, says that nobody seals with it any more; the index of
key use says that nothing of it is left; a look at all records of the scope finds none.

Who holds keys in memory had the row of the scope before them. So every scope in which somebody may
still seal with a former key is among those that are listed once the new key is there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy import bindparam, select, update

from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.admission import AdmissionToAll
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.key_sets import KeySet, KeySets, Purpose, State
from langmem_isolated._storage.key_uses import oldest_in_use
from langmem_isolated._storage.keyring import Keyring
from langmem_isolated._storage.resealing import Resealing
from langmem_isolated._storage.scope_rows import ScopeRow, ScopeRows, owner_of
from langmem_isolated._storage.wrapped_keys import PrincipalKeys, WrappedKeys
from langmem_isolated._storage.write_barrier import raise_barrier
from langmem_isolated.errors import MemoryLocked

# Scopes that began while others were sealed anew are looked at so often.
_LOOKS = 3
_keys, _installation = schema.keys.c, schema.installation.c


def _is(column: sa.Column[int], number: int) -> sa.ColumnElement[bool]:
    return column == sa.literal_column(str(int(number)))


_PRINCIPALS = (
    select(_keys.principal)
    .distinct()
    .where(
        _keys.principal > bindparam("behind", type_=sa.LargeBinary),
        _is(_keys.purpose, Purpose.SEALING),
        sa.or_(
            _is(_keys.state, State.RETIRED),
            sa.and_(
                _is(_keys.state, State.ACTIVE),
                _keys.created_at < bindparam("since", type_=sa.BigInteger),
            ),
        ),
    )
    .order_by(_keys.principal)
    .limit(sa.literal_column("500"))
    .offset(sa.literal_column("0"))
)
_SINCE = select(_installation.rotating_since)
_BEGIN = (
    update(schema.installation)
    .where(_installation.rotating_since.is_(None))
    .values(rotating_since=bindparam("now", type_=sa.BigInteger))
)
_END = (
    update(schema.installation)
    .where(_installation.rotating_since == bindparam("since", type_=sa.BigInteger))
    .values(rotating_since=sa.null())
)

Elsewhere = Callable[[Owner, ScopeKeys], bool]
"""Seals anew what a scope has elsewhere; whether nothing there is left under former keys."""


@dataclass(slots=True)
class Tally:
    """What a rotation has done so far."""

    owners: int = 0
    """How many were brought to the end: no former key of theirs is left."""
    keys_made: int = 0
    keys_destroyed: int = 0
    records: int = 0
    """Sealed anew, headers of sessions, threads and collections among them."""
    damaged: int = 0
    """That stay as they are, with the key they name: they were tampered with."""
    locked: int = 0
    """How many owners alone have their keys."""


@dataclass(frozen=True, slots=True, repr=False)
class KeyRotation:
    """Rotates the sealing keys of owners of one installation.

    Args:
        database: Holds the scopes.
        keyring: Has the keys.
        elsewhere: Called for each scope, once its records are sealed anew.
    """

    database: Database
    keyring: Keyring
    elsewhere: Elsewhere
    tally: Tally = field(default_factory=Tally)

    # --- of all

    def begun(self) -> int:
        """Since when all keys are being rotated, in µs; from now on, if they were not."""
        with AdmissionToAll():
            self.database.write(Transaction.execute, _BEGIN, now=now())
            row = self.database.read(Transaction.row, _SINCE)
        assert row is not None
        return int(row[0])

    def end(self, since: int) -> None:
        """All keys have been rotated: the next time begins anew."""
        with AdmissionToAll():
            self.database.write(Transaction.execute, _END, since=since)

    def principals(self, since: int) -> Iterator[bytes]:
        """All who have a former key, or one made before, as the key store says, in their order.

        It may serve other installations too, whose principals have no scope here.
        """
        behind = b""
        while rows := self._page(behind, since):
            yield from (principal for (principal,) in rows)
            behind = rows[-1][0]

    def _page(self, behind: bytes, since: int) -> list[Row]:
        with AdmissionToAll():
            return self.keyring.key_store.read(
                Transaction.rows, _PRINCIPALS, behind=behind, since=since
            )

    # --- of one

    def run(self, principal: bytes, made_before: int | None = None) -> Iterator[int]:
        """Rotate the sealing key of one; gives how many records were sealed, behind each step.

        To come to an end between two steps, however it happens, loses nothing: it is gone on with.

        Args:
            principal: Whose, by which the tables know it.
            made_before: Make a new key if the one that seals was made before, in µs. By default
                if no former one is left, of a rotation that has not come to its end.

        Raises:
            KeyringError: A key cannot be had, or belongs to another root key.
            MemoryLocked: The user holds the keys, and has not lent them to this process.
            RecordDoesNotOpen: The keys or a scope's row are not as they were stored.
        """
        opened = self.keyring.installation.open(create=False)
        if opened is None:
            return
        one = _OnePrincipal(self, opened.directory, opened.keys, principal)
        yield from one.run(made_before)


class _OnePrincipal:
    """The rotation of one principal's sealing key."""

    def __init__(
        self, rotation: KeyRotation, directory: DirectoryKey, keys: WrappedKeys, principal: bytes
    ) -> None:
        self._rotation = rotation
        self._tally = rotation.tally
        self._directory = directory
        self._wrapped = keys
        self._principal = principal
        self._sets = KeySets(rotation.keyring.key_store)
        self._scopes = ScopeRows(rotation.database)
        # By their births, scopes in which nothing is left under former keys; and in which something
        # stays, with how much of it was tampered with.
        self._clean: set[bytes] = set()
        self._unclean: dict[bytes, int] = {}

    def run(self, made_before: int | None) -> Iterator[int]:
        """Make a new key if one is due, and bring everything under the one that seals."""
        if not self._scopes.of_principal(self._directory, self._principal):
            # Nothing was sealed, or it is another installation's.
            return
        is_new = self._make_key(made_before)
        yield 0
        sealed_before = self._tally.records
        yield from self._reseal_all()
        if self._former() and not is_new and self._tally.records == sealed_before:
            # A rotation before this one came to its end, but for what stays: this is another.
            self._make_key(now())
            yield from self._reseal_all()
        self._tally.owners += not self._former()
        self._tally.damaged += sum(self._unclean.values())

    def _make_key(self, made_before: int | None) -> bool:
        """Whether it was due, and so was made.

        Raises:
            MemoryLocked: The user holds the keys, and has not lent them to this process.
        """
        made: list[bool] = []

        def with_new_key(found: KeySet, keys: WrappedKeys) -> KeySet:
            # Of the last call: others may have made one meanwhile.
            made[:] = [_is_due(found, made_before)]
            return keys.with_new_keys(found, Purpose.SEALING) if made[0] else found

        self._wrapped.change(self._sets, self._principal, self._directory, with_new_key)
        self._tally.keys_made += made[0]
        return made[0]

    def _former(self) -> list[int]:
        """The versions of former keys that are not destroyed."""
        return [key.version for key in self._key_set().living(Purpose.SEALING)[:-1]]

    def _key_set(self) -> KeySet:
        return self._sets.read(self._principal, self._directory)

    def _reseal_all(self) -> Iterator[int]:
        principal = self._wrapped.unwrapped(self._key_set())
        if principal is None:
            return
        if principal.is_locked:
            raise MemoryLocked
        # What was found of the key that sealed before says nothing of this one: another process may
        # have made it meanwhile, and then everything is under a key that this destroys.
        self._clean.clear()
        self._unclean.clear()
        for _ in range(_LOOKS):
            rows = self._rows_left(principal)
            if not rows:
                break
            for row in rows:
                yield from self._reseal(row, owner_of(row, principal), principal.sealing_version)
        if not self._unclean and not self._rows_left(principal):
            self._destroy_below(principal.sealing_version)

    def _rows_left(self, principal: PrincipalKeys) -> list[ScopeRow]:
        """The scopes of this life of which it is not known yet what they need."""
        return [
            row
            for row in self._scopes.of_principal(self._directory, self._principal)
            if row.incarnation == principal.incarnation
            and row.birth not in self._clean
            and row.birth not in self._unclean
        ]

    def _reseal(self, row: ScopeRow, owner: Owner, version: int) -> Iterator[int]:
        keys = self._fresh_keys(owner)
        if keys is None or keys.birth != row.birth:
            # It was removed; if it was begun again, it is looked at again.
            return
        if keys.is_locked:
            raise MemoryLocked
        if row.oldest_key < keys.sealing_version:
            raised = raise_barrier(
                self._rotation.database, self._directory, row, keys.sealing_version
            )
            if raised is None:
                return
        work = Resealing(self._rotation.database, keys)
        if self._is_in_use(row, version) or not work.is_clean:
            for count in work.steps():
                self._tally.records += count
                yield count
        if work.is_clean and self._rotation.elsewhere(owner, keys):
            work.forget_former()
            self._clean.add(row.birth)
        else:
            self._unclean[row.birth] = len(work.damaged)

    def _fresh_keys(self, owner: Owner) -> ScopeKeys | None:
        self._rotation.keyring.forget(owner)
        return self._rotation.keyring.find(owner)

    def _is_in_use(self, row: ScopeRow, version: int) -> bool:
        """Whether the index says that something older than a version may be there."""
        oldest = oldest_in_use(self._rotation.database, row.scope_id)
        return row.oldest_key < version or (oldest is not None and oldest < version)

    def _destroy_below(self, version: int) -> None:
        moment = now()
        found = self._sets.change(
            self._principal,
            self._directory,
            lambda found: found.with_destroyed(Purpose.SEALING, version, moment),
        )
        former = found.living(Purpose.SEALING)[:-1]
        self._tally.keys_destroyed += sum(key.version < version for key in former)


def _is_due(found: KeySet, made_before: int | None) -> bool:
    living = found.living(Purpose.SEALING)
    if made_before is None:
        return len(living) == 1
    return bool(living) and living[-1].created_at < made_before
