"""Container tally: what was found below a session, thread or collection, beside what it counts."""

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._storage.container_state import ContainerState, is_member_sum
from langmem_isolated.errors import RecordDoesNotOpen


class ContainerTally:
    """A session, thread or collection, and what was found below it."""

    def __init__(self, kind: Kind, digest: bytes, state: ContainerState) -> None:
        self.kind = kind
        self.digest = digest
        self.state = state
        self.total = 0
        self.counted = 0
        self.aliased: set[str] = set()
        self.unaliased: set[str] = set()
        self.is_damaged = False
        """Something below it does not open: what it counts cannot be compared."""
        self.wanted: set[int] = set()
        """Of a thread: the numbers of the elements that its checkpoints and writes refer to."""
        self.chunks: set[int] = set()
        """Of these: those that list the numbers of others."""
        self.elements: set[int] = set()
        """Of a thread: the numbers that are there."""
        self.placed: dict[bytes, int] = {}
        """Of a collection: which block its documents say that they are in."""

    def check(self, keys: ScopeKeys) -> None:
        """Refuse a row that stands for other records than were found; of a locked user, so many."""
        if not (self.state.is_gone or self._fits(keys)):
            raise RecordDoesNotOpen(self.kind.label, "it has not the records that it stands for")

    def _fits(self, keys: ScopeKeys) -> bool:
        if self.counted != self.state.count:
            return False
        if keys.is_locked and not self.kind.is_server_held:
            return True
        # Where the oldest drop out, the one that had the alias may have been among them.
        has_aliases = self.state.channels is not None or self.unaliased <= self.aliased
        return has_aliases and is_member_sum(keys, self.state, self.total)

    def check_references(self) -> None:
        """Refuse what refers to records that are not there."""
        if self.state.is_gone:
            return
        if not self.wanted <= self.elements:
            raise RecordDoesNotOpen(self.kind.label, "it refers to elements that are not there")
        if self.placed:
            raise RecordDoesNotOpen(self.kind.label, "a document has no embedding in its block")
