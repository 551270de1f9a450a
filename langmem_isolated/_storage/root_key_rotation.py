"""Root key rotation: wraps every stored key by another root key; records stay as they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat

from langmem_isolated._storage.checked_root_key import CheckedRootKey, RootKeys
from langmem_isolated._storage.installation import Installation, OpenInstallation
from langmem_isolated._storage.key_sets import KeySet, KeySets, check
from langmem_isolated._storage.scope_rows import ScopeRows
from langmem_isolated.errors import RecordDoesNotOpen


@dataclass(frozen=True, slots=True, repr=False)
class RootKeyRotation:
    """Wraps every key of an installation by ``new``, one set after another.

    Each set is compared and swapped on its own, so a run that was ended is gone on with by the
    next one. That of the directory key comes last: until then whoever has the former root key can
    begin, and so go on.

    Args:
        installation: Whose keys.
        sets: Those in the key store, which may be of several installations.
        scopes: Tell whose a set is that does not open.
        root_keys: What opens them; ``new`` becomes the primary one.
        new: Wraps them.
    """

    installation: Installation
    sets: KeySets
    scopes: ScopeRows
    root_keys: RootKeys
    new: CheckedRootKey

    def run(self) -> Iterator[int]:
        """Wrap all; gives behind each set how many keys of it were wrapped anew.

        Raises:
            KeyringError: A key cannot be had, or a root key breaks a promise.
            RecordDoesNotOpen: Keys are not as they were stored.
        """
        opened = self._begun()
        if opened is None:
            return
        # The first pass looks at all, and so refuses a set that only says it is wrapped by `new`.
        # Others may have made keys under the former one meanwhile: again, until there are none.
        for except_by in chain([""], repeat(self.new.key_id)):
            count = 0
            for number in self._pass(opened, except_by):
                count += number
                yield number
            if not count and except_by:
                return

    def _begun(self) -> OpenInstallation | None:
        """The installation, opened by what there is; from here on ``new`` wraps."""
        self.new.prove()
        self.root_keys.accept(self.new)
        try:
            self.installation.forget()
            opened = self.installation.open(create=False)
        except BaseException:
            self.root_keys.refuse(self.new)
            raise
        self.root_keys.make_primary(self.new)
        return opened

    def _pass(self, opened: OpenInstallation, except_by: str) -> Iterator[int]:
        """Every set of users and others; behind them that of the directory key."""
        own = opened.keys.installation_id
        for principal in self.sets.walk_wrapped(except_by=except_by):
            if principal != own:
                yield self._rewrap(opened, principal)
        yield self._rewrap(opened, own)

    def _rewrap(self, opened: OpenInstallation, principal: bytes) -> int:
        """How many keys of a set were wrapped anew."""
        while True:
            found = self.sets.read_unchecked(principal)
            if not self._is_ours(found, opened):
                return 0
            new = opened.keys.rewrapped(found, self.new)
            if new == found or self.sets.swap(found, new, opened.directory):
                return sum(key not in found.keys for key in new.keys)

    def _is_ours(self, found: KeySet, opened: OpenInstallation) -> bool:
        """Whether a set is of this installation: another's has a MAC by another directory key.

        Raises:
            RecordDoesNotOpen: It is of one who has memory here, and not as it was stored.
        """
        try:
            check(found, opened.directory)
        except RecordDoesNotOpen:
            is_own = found.principal == opened.keys.installation_id
            if is_own or self.scopes.of_principal(opened.directory, found.principal):
                raise
            return False
        return True
