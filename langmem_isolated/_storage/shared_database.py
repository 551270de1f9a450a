"""Shared database: another module's records of the same user, read under a grant."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage import grants
from langmem_isolated._storage.grants import StoredGrant
from langmem_isolated._storage.keyring import Keyring
from langmem_isolated._storage.scoped_database import Operation, Owned, P, ScopedDatabase, T
from langmem_isolated.errors import IsolationViolation

S = TypeVar("S", bound=Owned)
Admits = Callable[[StoredGrant | None], None]


class SharedDatabase(ScopedDatabase):
    """The records of a scope, for another module of its user that may read some of them.

    Every call asks for the grant, in the snapshot of what it reads: what is revoked is read no
    more, by any process, from the moment on that the revocation is stored. No call writes.

    Args:
        database: Holds the records.
        keyring: Finds the keys.
        owner: Whose records are read.
        reader: Who reads them.
        admits: Takes the grant in force, or ``None``; raises what refuses the call.

    Raises:
        ValueError: The two are not modules of one user and project.
    """

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        owner: Owner,
        reader: ScopedDatabase,
        admits: Admits,
    ) -> None:
        if _user_of(owner) != _user_of(reader.owner):
            raise ValueError("nothing is shared between users or projects")
        # Who reads here is not the owner: no call is the first write of the owner's day.
        super().__init__(database, keyring, owner, reader.limits, is_owners=False)
        self._reader = reader
        self._admits = admits
        self._modules = _module_of(owner), _module_of(reader.owner)

    def having_records(self, sources: Sequence[S]) -> list[S]:
        """All of ``sources``: whether there is anything is told to nobody without a grant."""
        return [*sources]

    def read(self, operation: Operation[P, T], default: T, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``operation`` in the snapshot that has the grant.

        Raises:
            IsolationViolation: No grant in force allows it; nothing was read.
        """
        return self.snapshot(operation, default, *args, **kwargs)

    def snapshot(
        self,
        operation: Operation[P, T],
        default: T,  # noqa: ARG002 - a scope that has stored nothing has granted nothing
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run ``operation``; see :meth:`read`."""
        keys = super().find_keys()
        if keys is None:
            self._refuse()
        return self.run_with_keys(keys, self._in_grants_snapshot, operation, *args, **kwargs)

    # A grant that was revoked is known to the primary alone.
    read_lagging, snapshot_lagging = read, snapshot

    def write(self, *_: object, **__: object) -> NoReturn:
        """Refuse: nothing is written, and a module's keys are handed to no other.

        Raises:
            IsolationViolation: Always.
        """
        raise read_only()

    keys = find_keys = write_if_exists = write_once = write

    def _in_grants_snapshot(self, *call: Any, **kwargs: Any) -> Any:
        reader_keys = self._reader.find_keys()
        if reader_keys is None:
            self._refuse()
        door = self.database.snapshot
        return self._reader.run_with_keys(reader_keys, door, self._granted, *call, **kwargs)

    def _granted(
        self,
        transaction: Transaction,
        reader_keys: ScopeKeys,
        operation: Operation[..., T],
        keys: ScopeKeys,
        *args: Any,
        **kwargs: Any,
    ) -> T:
        self._admits(grants.find(transaction, keys, reader_keys, self._modules))
        keys.refuse_if_locked()
        return operation(transaction, keys, *args, **kwargs)

    def _refuse(self) -> NoReturn:
        self._admits(None)
        raise read_only()


def _user_of(owner: Owner) -> tuple[str, str | None]:
    return owner.project, owner.user


def _module_of(owner: Owner) -> bytes:
    if owner.user is None or owner.module is None:
        raise ValueError("only a user's modules share")
    return owner.module.encode()


def read_only() -> IsolationViolation:
    """What a write through a view raises."""
    return IsolationViolation(
        "What another module shares can be read and not written. Nothing was written. Write to "
        "this module's own memory, memory.scope(user_id=…, module_id=…), or let the other's code "
        "write to its."
    )
