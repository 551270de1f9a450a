"""Holds what every scope of a memory stands on."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from langmem_isolated._database import Database
from langmem_isolated._records import ScopedRecords
from langmem_isolated._sealing import Level, Owner
from langmem_isolated._values import KnownThreads
from langmem_isolated._warm import WarmCache
from langmem_isolated.errors import ScopeError
from langmem_isolated.keyring import Keyring
from langmem_isolated.scope import Scope

SharingLevel = Literal["private", "user", "module", "project"]
"""Who reads a document: this user in this module, in all modules; all users of the module, all."""

SHARING_LEVELS: tuple[SharingLevel, ...] = ("private", "user", "module", "project")


class Ground(NamedTuple):
    """What every scope of a memory stands on."""

    database: Database
    keyring: Keyring
    known_threads: KnownThreads
    warm: WarmCache | None

    def records(self, owner: Owner) -> ScopedRecords:
        """One owner's records."""
        return ScopedRecords(self.database, self.keyring, owner)

    def readable(self, scope: Scope, levels: Sequence[SharingLevel]) -> list[ScopedRecords]:
        """The records that a scope reads at each of ``levels``.

        Raises:
            ScopeError: A level has another name, or there is none.
        """
        if isinstance(levels, str) or not levels or not set(levels).issubset(SHARING_LEVELS):
            raise ScopeError(f"levels must be some of {', '.join(SHARING_LEVELS)}.")
        return [self.records(Owner.at(Level[level.upper()], scope)) for level in levels]
