"""Key sets: all keys of one principal, their states, and the MAC that holds them together.

A set is read whole and changed whole: whoever changes it compares and swaps its row, in one
transaction with the keys. So a state that was changed, a key that was added, removed or put back
alone is an error, and never looks like an erasure or like a user who has nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from typing import NamedTuple

from sqlalchemy import Integer, LargeBinary, bindparam, delete, literal_column, select, update

from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._database import schema
from langmem_isolated._database.admission import Admission, AdmissionToAll
from langmem_isolated._database.database import Database
from langmem_isolated._database.statements import InsertsByDialect, insert_if_absent
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated.errors import KeyNotFound, RecordDoesNotOpen


class Purpose(IntEnum):
    """What a stored key is for; numbers are stored and never change.

    Of an inbox the row has the private key, with the public one in ``second_parameters``; of a lock
    its key, wrapped by one secret of the user, with what that takes.
    """

    DIRECTORY = 1
    NAMING = 2
    SEALING = 3
    KEY_ENCRYPTION = 4
    INBOX = 5
    LOCK = 6


class State(IntEnum):
    """What a key is good for; numbers are stored and never change."""

    ACTIVE = 1
    RETIRED = 2
    """It opens and does not seal."""
    DESTROYED = 3


class Wrapping(IntEnum):
    """What has wrapped a key; numbers are stored and never change."""

    ROOT_KEY = 1
    KEY_ENCRYPTION_KEY = 2
    USERS_LOCK = 3
    """A user's lock, and the key-encryption key around it."""


class KeyEncryptionKeyRetired(Exception):
    """What wrapped a key wraps no more, since a rotation of the root key; nothing was written.

    For who wraps, to read again which one does now.
    """

    def __init__(self, version: int | None) -> None:
        super().__init__()
        self.version = version


class StoredKey(NamedTuple):
    """A row of the table of keys, without its principal."""

    purpose: int
    version: int
    state: int
    is_primary: int
    wrapping: int
    kek: int | None
    wrapped: bytes | None
    second_wrapped: bytes | None
    second_parameters: bytes | None
    root_key_id: str
    created_at: int
    destroyed_at: int | None

    def destroyed(self, at: int) -> "StoredKey":
        """This key without what could be unwrapped."""
        if self.state == State.DESTROYED:
            return self
        return self._replace(
            state=int(State.DESTROYED), is_primary=0,
            wrapped=None, second_wrapped=None, second_parameters=None, destroyed_at=at,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, repr=False)
class KeySet:
    """All keys of a principal; ``revision`` counts the changes, 0 for a set that is not stored."""

    principal: bytes
    revision: int = 0
    mac: bytes | None = None
    keys: tuple[StoredKey, ...] = ()

    def living(self, purpose: Purpose) -> list[StoredKey]:
        """The keys of a purpose that were not destroyed, by version, the primary one last."""
        found = [k for k in self.keys if k.purpose == purpose and k.state != State.DESTROYED]
        return sorted(found, key=lambda key: (key.is_primary, key.version))

    def all_living(self) -> list[StoredKey]:
        """The keys of every purpose that were not destroyed."""
        return [key for key in self.keys if key.state != State.DESTROYED]

    def next_version(self, purpose: Purpose) -> int:
        """The version of a further key; those of destroyed keys are not given again."""
        return 1 + max((key.version for key in self.keys if key.purpose == purpose), default=0)

    def with_primary(self, *added: StoredKey) -> "KeySet":
        """The set with new keys, each the primary one of its purpose: the former is retired."""
        purposes = {key.purpose for key in added}
        kept = (
            key._replace(is_primary=0, state=int(State.RETIRED))
            if key.purpose in purposes and key.state == State.ACTIVE
            else key
            for key in self.keys
        )
        return replace(self, keys=tuple(sorted((*kept, *added))))

    def destroyed(self, at: int) -> "KeySet":
        """The set with every key destroyed."""
        return replace(self, keys=tuple(key.destroyed(at) for key in self.keys))

    def with_destroyed(self, purpose: Purpose, below: int, at: int) -> "KeySet":
        """The set with every retired key of a purpose destroyed whose version is below another."""
        keys = (
            key.destroyed(at)
            if (key.purpose, key.state) == (purpose, State.RETIRED) and key.version < below
            else key
            for key in self.keys
        )
        return replace(self, keys=tuple(keys))

    def lived_until(self, life: int, at: int, root_key_id: str) -> "KeySet":
        """The set of who has lived so often, if not more often: the next life is a later one."""
        if self.next_version(Purpose.NAMING) > life:
            return self
        ended = StoredKey(
            int(Purpose.NAMING), life, int(State.DESTROYED), 0, int(Wrapping.ROOT_KEY),
            None, None, None, None, root_key_id, at, at,
        )  # fmt: skip
        return replace(self, keys=tuple(sorted((*self.keys, ended))))

    def columns(self) -> Iterator[object]:
        """What the MAC is over."""
        yield self.principal
        yield self.revision
        yield len(self.keys)
        for key in self.keys:
            yield from key


_keys, _sets = schema.keys.c, schema.key_sets.c
# All in one statement, so in one state; a row for the set even if there are no keys, and rows for
# the keys even if there is no set.
_asked = select(bindparam("principal", type_=LargeBinary).label("principal")).subquery()
_SELECT_SET = (
    select(_sets.revision, _sets.mac, *(_keys[name] for name in StoredKey._fields))
    .select_from(
        _asked.outerjoin(schema.key_sets, _sets.principal == _asked.c.principal).outerjoin(
            schema.keys, _keys.principal == _asked.c.principal
        )
    )
    .order_by(_keys.purpose, _keys.version)
)
# As text: what SQLAlchemy makes a parameter by itself would have to be given with each call.
_PAGE, _FROM_THE_FIRST = (literal_column(number, Integer) for number in ("500", "0"))
_SELECT_PRINCIPALS = (
    select(_keys.principal)
    .distinct()
    .where(_keys.principal > bindparam("behind"), _keys.wrapped.is_not(None))
    .order_by(_keys.principal)
    .limit(_PAGE)
    .offset(_FROM_THE_FIRST)
)
_INSERT_SET = insert_if_absent(schema.key_sets, "principal", "revision", "mac")
_SWAP_SET = (
    update(schema.key_sets)
    .where(
        _sets.principal == bindparam("principal"),
        _sets.revision == bindparam("old_revision"),
        _sets.mac == bindparam("old_mac"),
    )
    .values(revision=bindparam("revision"), mac=bindparam("mac"))
)
# Locked for share: a rotation that retires it waits for who has looked, and is seen by who comes.
_SELECT_KEK_STATE = (
    select(_keys.state)
    .where(
        _keys.principal == bindparam("installation_id"),
        _keys.purpose == bindparam("purpose"),
        _keys.version == bindparam("version"),
    )
    .with_for_update(read=True)
)
_SELECT_MAC = select(_sets.mac).where(_sets.principal == bindparam("principal"))
_SELECT_SCOPE = select(schema.scopes.c.scope_id).where(
    schema.scopes.c.principal == bindparam("principal", type_=LargeBinary)
)
_DELETE_SET = delete(schema.key_sets).where(
    _sets.principal == bindparam("principal"), _sets.mac == bindparam("mac")
)
_DELETE_KEYS = delete(schema.keys).where(_keys.principal == bindparam("principal"))
_PUT_KEY = InsertsByDialect(
    schema.keys,
    lambda insert: (
        insert.values({name: bindparam(name) for name in ("principal", *StoredKey._fields)})
        .on_conflict_do_update(
            index_elements=["principal", "purpose", "version"],
            set_={name: insert.excluded[name] for name in StoredKey._fields[2:]},
        )
        .inline()
    ),
)


class KeySets:
    """The key sets in one database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def read(self, principal: bytes, directory: DirectoryKey) -> KeySet:
        """A principal's set, checked.

        Raises:
            RecordDoesNotOpen: The set is not as it was made.
        """
        found = self.read_unchecked(principal)
        check(found, directory)
        return found

    def walk_wrapped(self) -> Iterator[bytes]:
        """The principals that have keys.

        In their order, a page in one state each; of all installations of this key store.
        """
        behind = b""
        while rows := self._wrapped_behind(behind):
            yield from (principal for (principal,) in rows)
            behind = rows[-1][0]

    def _wrapped_behind(self, behind: bytes) -> list[Row]:
        with AdmissionToAll():
            return self.database.read(Transaction.rows, _SELECT_PRINCIPALS, behind=behind)

    def read_unchecked(self, principal: bytes) -> KeySet:
        """A set as it is found: for that of the directory key, which is needed to check it."""
        with Admission(principal):
            rows = self.database.read(Transaction.rows, _SELECT_SET, principal=principal)
        revision, mac, *_ = rows[0]
        keys = tuple(StoredKey(*row[2:]) for row in rows if row[2] is not None)
        return KeySet(principal, revision or 0, mac, keys)

    def change(
        self, principal: bytes, directory: DirectoryKey, change: Callable[[KeySet], KeySet]
    ) -> KeySet:
        """Change a set by compare-and-swap; what it was.

        Args:
            principal: Whose.
            directory: Checks and authenticates it.
            change: Makes the new set of the one that stands there; called outside of transactions,
                and again where another process has changed the set meanwhile.

        Raises:
            KeyEncryptionKeyRetired: A key of the new set was wrapped by one; nothing was written.
            RecordDoesNotOpen: The set is not as it was made.
        """
        while True:
            found = self.read(principal, directory)
            new = change(found)
            if new == found or self.swap(found, new, directory):
                return found

    def swap(self, old: KeySet, new: KeySet, directory: DirectoryKey) -> bool:
        """Store ``new`` in place of ``old``, if ``old`` still stands there; whether it did.

        The loser of a race writes nothing and reads again.

        Raises:
            KeyEncryptionKeyRetired: A key was wrapped by one; nothing was written.
        """
        new = replace(new, revision=old.revision + 1)
        mac = directory.key_set_mac(*new.columns())
        changed = [key for key in new.keys if key not in old.keys]
        is_proof = new.principal == directory.installation_id
        wrappers = set() if is_proof else {key.kek for key in changed if key.wrapped is not None}
        proved = partial(_prove, directory.installation_id, wrappers)
        with Admission(new.principal, directory.installation_id):
            return self.database.write(_swap, old, replace(new, mac=mac), changed, proved)

    def remove(self, principal: bytes, directory: DirectoryKey) -> None:
        """Remove a set all of whose keys are destroyed.

        Raises:
            KeyNotFound: One is not; nothing was removed.
            RecordDoesNotOpen: The set is not as it was made.
        """
        found = self.read(principal, directory)
        if found.all_living():
            raise KeyNotFound("Keys that are in use are not removed. Destroy them first.")
        with Admission(principal):
            self.database.write(_remove, found)

    def take_out(self, found: KeySet, is_needed: Callable[[], bool]) -> None:
        """Remove a set that seals nothing, as if it had never been made.

        Whoever makes a scope with it meanwhile looks at the keys behind that: they find none and
        begin again, or they found them, and then it is put back.

        Args:
            found: As it was read; another is left alone.
            is_needed: Asked behind the removal whether something is sealed with it after all.
        """
        with Admission(found.principal):
            self.database.write(_remove, found)
        if is_needed():
            self.put_back(found)

    def put_back(self, found: KeySet) -> None:
        """Store a set as it was read before, if there is none by now."""
        nothing = KeySet(found.principal)
        with Admission(found.principal):
            self.database.write(_swap, nothing, found, found.keys, lambda _: None)


def check(found: KeySet, directory: DirectoryKey) -> None:
    """Refuse a set that is not as it was made; one that was never made is as it should be.

    Raises:
        RecordDoesNotOpen: A key, its state, or the set's own row was changed, added or removed.
    """
    is_absent = not found.keys and found.mac is None
    if not is_absent and not directory.has_key_set(found.mac, *found.columns()):
        raise RecordDoesNotOpen("key", "the keys of its owner are not the set that was stored")


def remove_with_last_scope(transaction: Transaction, found: KeySet) -> None:
    """Remove a set of this database, if no scope of its principal is left."""
    if transaction.row(_SELECT_SCOPE, principal=found.principal) is None:
        _remove(transaction, found)


def _remove(transaction: Transaction, found: KeySet) -> None:
    if transaction.changes(_DELETE_SET, principal=found.principal, mac=found.mac):
        transaction.execute(_DELETE_KEYS, principal=found.principal)


def _prove(installation_id: bytes, wrappers: set[int | None], transaction: Transaction) -> None:
    """Expect that what has wrapped keys wraps still.

    A rotation of the root key first retires the former key-encryption key, then goes through all
    sets once: what was proved before, it finds; what comes behind is refused here.
    """
    asked = {"installation_id": installation_id, "purpose": int(Purpose.KEY_ENCRYPTION)}
    for version in wrappers:
        if transaction.row(_SELECT_KEK_STATE, **asked, version=version) != (State.ACTIVE,):
            raise KeyEncryptionKeyRetired(version)


def _swap(
    transaction: Transaction,
    old: KeySet,
    new: KeySet,
    changed: Sequence[StoredKey],
    prove: Callable[[Transaction], None],
) -> bool:
    prove(transaction)
    values = {"principal": new.principal, "revision": new.revision, "mac": new.mac}
    if old.mac is None:
        transaction.execute(_INSERT_SET[transaction.is_postgres], **values)
    else:
        transaction.execute(_SWAP_SET, **values, old_revision=old.revision, old_mac=old.mac)
    # Asked, not counted: inside a transaction PostgreSQL answers when it is read.
    if transaction.row(_SELECT_MAC, principal=new.principal) != (new.mac,):
        return False
    rows = [{"principal": new.principal, **key._asdict()} for key in changed]
    transaction.execute_many(_PUT_KEY[transaction.is_postgres], rows)
    return True
