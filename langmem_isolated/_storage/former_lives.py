"""Former lives: what an older copy brought back of them, found by principals' digests.

A tombstone names nobody: whose a principal is, is known where its keys live and one of its scopes
does. Where only keys or only rows are left, they are ended all the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.checked_root_key import RootKeys
from langmem_isolated._storage.installation import Installation, OpenInstallation
from langmem_isolated._storage.key_sets import KeySet, KeySets, Purpose
from langmem_isolated._storage.scope_rows import ScopeRow, ScopeRows, owner_of


class FormerLife(NamedTuple):
    """What there is of a principal's lives up to one that was ended."""

    owner: Owner | None
    """Whose, if that can be known: of the user or guest, without a module."""
    is_marked: bool
    """Whether it is known here that the principal has lived so often."""
    has_keys: bool
    rows: list[ScopeRow]

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done."""
        return self.is_marked and not self.has_keys and not self.rows


@dataclass(frozen=True, slots=True, repr=False)
class FormerLives:
    """Finds lives that were ended before.

    Args:
        installation: Whose.
        sets: The key sets in the key store.
        scopes: The scopes in the database.
        root_keys: Open the keys, and name the ones that take the place of others.
    """

    installation: Installation
    sets: KeySets
    scopes: ScopeRows
    root_keys: RootKeys

    def find(self, principal: bytes, life: int) -> FormerLife:
        """What there is of a principal's lives up to ``life``.

        Raises:
            KeyringError: A key cannot be had, or belongs to another root key.
            RecordDoesNotOpen: The keys or a scope's row are not as they were stored.
        """
        opened = self._opened()
        found = self.sets.read(principal, opened.directory)
        rows = self.scopes.of_principal(opened.directory, principal)
        former = [row for row in rows if row.incarnation <= life]
        is_marked = found.next_version(Purpose.NAMING) > life
        if not found.all_living() or _is_later(found, life):
            return FormerLife(None, is_marked, False, former)
        return FormerLife(_owner(opened, found, former), is_marked, True, former)

    def mark(self, principal: bytes, life: int) -> None:
        """Have it be known that a principal has lived so often, where the copy is from before.

        So the next life of who comes back is a later one, which no tombstone speaks of.

        Raises:
            RecordDoesNotOpen: The keys are not as they were stored.
        """
        name = self.root_keys.primary.key_id
        self.sets.change(
            principal, self._opened().directory, lambda found: found.lived_until(life, now(), name)
        )

    def projects(self) -> Iterator[Owner]:
        """Every project that has memory of its own.

        Raises:
            KeyringError: A key cannot be had, or belongs to another root key.
            RecordDoesNotOpen: The keys or a scope's row are not as they were stored.
        """
        opened = self._opened()
        for row in self.scopes.walk(opened.directory):
            if row.level == Level.PROJECT:
                principal = opened.keys.unwrapped(self.sets.read(row.principal, opened.directory))
                if principal is not None:
                    yield owner_of(row, principal)

    def _opened(self) -> OpenInstallation:
        opened = self.installation.open(create=False)
        assert opened is not None, "tombstones were opened with it"
        return opened


def _is_later(found: KeySet, life: int) -> bool:
    return found.next_version(Purpose.NAMING) - 1 > life


def _owner(opened: OpenInstallation, found: KeySet, rows: list[ScopeRow]) -> Owner | None:
    principal = opened.keys.unwrapped(found)
    owners: Iterator[Owner] = (
        owner_of(row, principal)
        for row in rows
        if principal and row.incarnation == principal.incarnation
    )
    owner = next(owners, None)
    if owner is None or owner.level in (Level.MODULE, Level.PROJECT):
        return owner
    if owner.guest is not None:
        return Owner.anonymous(owner.guest, project=owner.project)
    return Owner(Level.USER, owner.project, owner.user)
