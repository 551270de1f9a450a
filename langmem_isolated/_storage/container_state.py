"""Container state: the clear columns of a session's, thread's or collection's row, authenticated.

Every clear column is under a MAC, the *row MAC*, which changes with every write. The row has a
random *birth*: it is part of the associated data of all that is below the row and of its own
header, so what belonged to a row that was removed opens below no other. Its *generation* changes
when records below it are swept away. ``members`` is the multiset hash of the records below it.
"""

import struct
from typing import NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.multiset_hash import MULTISET_BYTES
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import equal
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Row
from langmem_isolated.errors import RecordDoesNotOpen

_NUMBERS = struct.Struct(">QQQHHQQQQQQI")
# In place of a number that is not there; no column holds it.
_ABSENT = 2**64 - 1
BIRTH_BYTES = 16
OPEN = 1
CLOSED_STATES = (2, 4)
ARCHIVED_STATES = (3, 4)
GENERATION_BYTES = 8
# When a row expired whose records are being removed in batches; no clock gives this time.
GONE = 0
# When a row expired that nobody has seen yet: a copy that is not whole.
UNSEEN = 1


class KeyOutdated(RecordDoesNotOpen):
    """A later sealing key has taken the place of those at hand; for `ScopedDatabase` to read them.

    Whoever holds keys may seal with them for as long as they are kept, and does not hear of a
    rotation in another process. It is told by every row whose records were sealed anew.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind, "a later key of its owner seals it by now")


class ContainerState(NamedTuple):
    """The columns of a row, once its row MAC has been found to fit."""

    row_mac: bytes
    birth: bytes
    generation: bytes
    next_sequence: int
    count: int  # type: ignore[assignment]  # in place of a tuple's own, which nobody calls
    size: int
    members: bytes
    newest: bytes | None
    """What stands for the newest record below it, where these have an order."""
    channels: bytes | None
    """How many messages of which channels are kept; see `_storage/sessions/channel_limits.py`."""
    state: int
    """1 open, 2 closed, 3 archived, 4 closed and archived."""
    is_pinned: int
    idle_lifetime: int | None
    absolute_lifetime: int | None
    created_at: int
    updated_at: int
    expires_at: int | None
    revision: int
    """How often the header was rewritten."""
    oldest_key: int
    """The oldest version of the sealing key that may still seal below the row, and its header."""

    @classmethod
    def checked(cls, kind: Kind, keys: ScopeKeys, digest: bytes, row: Row) -> "ContainerState":
        """The state that a row begins with, as ``STATE`` has it.

        Raises:
            RecordDoesNotOpen: The row was tampered with.
            KeyOutdated: Keys of a later version alone seal here.
        """
        state = cls._make(row[: len(cls._fields)])
        try:
            fits = equal(state.row_mac, state.computed_mac(kind, keys, digest))
        except (TypeError, struct.error):
            # SQLite keeps any type in any column, and whoever tampers with rows knows it.
            fits = False
        if not fits:
            raise RecordDoesNotOpen(kind.label, "its row MAC does not fit its columns")
        if state.oldest_key > keys.sealing_version:
            raise KeyOutdated(kind.label)
        return state

    def computed_mac(self, kind: Kind, keys: ScopeKeys, digest: bytes) -> bytes:
        """The row MAC that fits the other columns: 16 bytes."""
        numbers = _NUMBERS.pack(
            self.next_sequence,
            self.count,
            self.size,
            self.state,
            self.is_pinned,
            _ABSENT if self.idle_lifetime is None else self.idle_lifetime,
            _ABSENT if self.absolute_lifetime is None else self.absolute_lifetime,
            self.created_at,
            self.updated_at,
            _ABSENT if self.expires_at is None else self.expires_at,
            self.revision,
            self.oldest_key,
        )
        return keys.row_mac(
            kind.framed_bytes,
            digest,
            self.birth,
            self.generation,
            self.members,
            self.newest,
            self.channels,
            numbers,
        )

    def authenticated(self, kind: Kind, keys: ScopeKeys, digest: bytes) -> "ContainerState":
        """The state with the row MAC that fits its other columns."""
        return ContainerState(self.computed_mac(kind, keys, digest), *self[1:])

    def with_members(self, keys: ScopeKeys, difference: int) -> "ContainerState":
        """The state with other records below it, whose parts differ by so much in sum."""
        return self._replace(members=self.members_and(keys, difference))

    def members_and(self, keys: ScopeKeys, difference: int) -> bytes:
        """What stands for the records below it and others, whose parts are so much in sum."""
        return keys.members.masked(keys.members.unmasked(self.members) + difference)

    @property
    def but_keys(self) -> "ContainerState":
        """The row without what a rotation of keys changes: equal for as long as nobody writes."""
        return self._replace(row_mac=b"", oldest_key=0)

    @property
    def is_gone(self) -> bool:
        """Whether its records are being removed: to readers it is absent, and stands for none."""
        return self.expires_at == GONE

    @property
    def is_absent(self) -> bool:
        """Whether nobody is to see it, any more or yet, where nothing else expires."""
        return self.expires_at in (GONE, UNSEEN)

    def is_expired(self, now: int) -> bool:
        """Whether its time was up at ``now``."""
        return self.expires_at is not None and self.expires_at <= now

    def expiry_after(self, activity: int, *, otherwise: int | None = None) -> int | None:
        """When its time is up, if nothing is done to it after ``activity``; ``None`` for never.

        Args:
            activity: Microseconds since 1970, UTC.
            otherwise: When it is up for another reason, if that is earlier.
        """
        idle, absolute = self.idle_lifetime, self.absolute_lifetime
        if idle is None and absolute is None:
            return otherwise
        ends = (
            otherwise,
            None if idle is None else activity + idle,
            None if absolute is None else self.created_at + absolute,
        )
        return min((end for end in ends if end is not None), default=None)

    @property
    def has_lifetime(self) -> bool:
        """Whether it says itself how long it lives."""
        return self.idle_lifetime is not None or self.absolute_lifetime is not None

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more messages."""
        return self.state in CLOSED_STATES

    @property
    def is_archived(self) -> bool:
        """Whether lists leave it out, unless they are asked for it."""
        return self.state in ARCHIVED_STATES

    def marked(self, *, is_closed: bool, is_archived: bool) -> "ContainerState":
        """The state with these marks, and no others."""
        return self._replace(state=OPEN + is_closed + 2 * is_archived)

    def old(self) -> dict[str, object]:
        """Every column by the name of its parameter: what :func:`compare_and_swap` begins from."""
        return dict(zip(_OLD, self, strict=True))

    def new(self) -> dict[str, object]:
        """Every column by the name of its parameter: what a row is taken to."""
        return dict(zip(_NEW, self, strict=True))

    def swapped(self, new: "ContainerState") -> dict[str, object]:
        """The parameters of :func:`compare_and_swap`, from this state to a new one."""
        return dict(zip(_OLD_AND_NEW, (*self, *new), strict=True))


_OLD = [f"old_{name}" for name in ContainerState._fields]
_NEW = [f"new_{name}" for name in ContainerState._fields]
_OLD_AND_NEW = [*_OLD, *_NEW]
STATE = tuple(schema.sessions.c[name] for name in ContainerState._fields)


def open_header(
    kind: Kind, keys: ScopeKeys, digest: bytes, state: ContainerState, sealed: bytes
) -> bytes:
    """A row's header in plaintext: that of this life and this revision, and no other.

    Raises:
        RecordDoesNotOpen: It is another's, or was changed.
    """
    prefix = keys.aad_prefix(kind, b"", state.birth)
    return keys.open(prefix, header_key(digest, state), sealed, kind)


def header_key(digest: bytes, state: ContainerState) -> bytes:
    return digest + state.revision.to_bytes(8)


def is_member_sum(keys: ScopeKeys, state: ContainerState, total: int) -> bool:
    """Whether the records below a row, whose parts add up to ``total``, are those it stands for."""
    return len(state.members) == MULTISET_BYTES and keys.members.is_of(state.members, total)


def member_part(
    keys: ScopeKeys,
    kind: Kind,
    address: tuple[bytes, bytes],
    stored_at: object,
    *content: bytes | None,
) -> int:
    """What a record adds to ``members`` of the row that it stands below.

    Args:
        address: Its parent and key.
        stored_at: Its column ``updated_at``.
        content: What stands for the rest of it.

    Raises:
        RecordDoesNotOpen: ``stored_at`` is no time.
    """
    # SQLite keeps any type in any column, and whoever tampers with rows knows it.
    if type(stored_at) is not int or not 0 <= stored_at < _ABSENT:
        raise RecordDoesNotOpen(kind.label, "it was stored at no time")
    return keys.members.part(kind.framed_bytes, *address, stored_at.to_bytes(8), *content)
