"""Owner state: by which digests tables know an owner, and what one look found of it."""

from typing import NamedTuple

from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.scope_keys import LockedScopeKeys, ScopeKeys
from langmem_isolated._crypto.seal_counter import SealCounter
from langmem_isolated._storage.installation import Installation, OpenInstallation
from langmem_isolated._storage.key_sets import KeySet, Purpose
from langmem_isolated._storage.scope_rows import ScopeRow, Traces
from langmem_isolated._storage.wrapped_keys import PrincipalKeys, WrappedKeys, incarnation_of
from langmem_isolated.errors import KeyDestroyed, KeyNotFound, RecordDoesNotOpen


class OwnerPlace(NamedTuple):
    """An owner, and by which digests the tables know it."""

    owner: Owner
    directory: DirectoryKey
    keys: WrappedKeys
    principal: bytes
    scope_id: bytes

    @classmethod
    def of(cls, owner: Owner, opened: OpenInstallation) -> "OwnerPlace":
        directory, keys = opened
        principal, scope_id = directory.principal_of(owner), directory.scope_id_of(owner)
        return cls(owner, directory, keys, principal, scope_id)

    def scope_keys(
        self, row: ScopeRow, principal: PrincipalKeys, counter: SealCounter, *, compress: bool
    ) -> ScopeKeys:
        """The owner's keys, as far as the server has them."""
        made = LockedScopeKeys if principal.is_locked else ScopeKeys
        return made(
            self.owner, row.scope_id, row.incarnation, row.birth,
            principal.naming, principal.sealing, counter,
            compress=compress, places=self.places, sealing_version=principal.sealing_version,
            inbox=principal.inbox,
        )  # fmt: skip

    @property
    def places(self) -> list[bytes]:
        """By which the tables know the principals of its project and module."""
        return [*map(self.directory.principal_of, self.owner.places())]


def ids_of(installation: Installation, *owners: Owner) -> list[bytes]:
    """By which tables know owners: their scopes, their principals, and those of their places."""
    opened = installation.open(create=True)
    assert opened is not None
    places = [OwnerPlace.of(owner, opened) for owner in owners]
    return [one for place in places for one in (place.scope_id, place.principal, *place.places)]


class OwnerState(NamedTuple):
    """What one look found of an owner: the keys of its principal, and the row of its scope."""

    key_set: KeySet
    row: ScopeRow | None
    traces: Traces | None

    @property
    def fits(self) -> bool:
        """Whether the row is of the life that the keys are of."""
        return bool(
            self.row
            and self.row.incarnation == incarnation_of(self.key_set)
            and self.row.oldest_key <= self.key_set.living(Purpose.SEALING)[-1].version
        )

    @property
    def is_leftover(self) -> bool:
        """Whether the row is of a former life: of a first use that an erasure overtook."""
        return bool(self.row and self.row.incarnation < (incarnation_of(self.key_set) or 0))

    def misfit(self) -> Exception:
        """Why keys and rows do not fit each other, as often as one looks."""
        if self.is_leftover:
            return RecordDoesNotOpen(Kind.SCOPE.label, "its row is of a former life of its owner")
        is_living = incarnation_of(self.key_set) is not None
        if (self.row and is_living) or (any(self.traces or (True,)) and not self.key_set.keys):
            return KeyNotFound(
                "The key store has no keys of an owner whose memory this database holds: it is an "
                "older copy, or another. Nothing was read or written; give the right one."
            )
        return KeyDestroyed()
