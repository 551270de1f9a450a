"""Key derivation (HKDF) for one owner: subkeys by purpose, and pseudonyms of its names."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NoReturn

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.multiset_hash import MultisetHash
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.seal_counter import UNCOUNTED, SealCounter
from langmem_isolated._crypto.sealing import (
    DigestKey,
    SealingKey,
    associated_data_of,
    derive,
    framed,
    open_all,
    open_sealed,
    opener,
    resealed,
    seal,
)
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated.errors import MemoryLocked

BIRTH_BYTES = 16

# Of threads, and of namespaces, of which each call of a subgraph has a new one.
_MOST_NAMES = 256


class ScopeKeys:
    """One owner's subkeys: they name, seal and authenticate what is its own, nothing else.

    Args:
        owner: Whose they are.
        scope_id: By which the tables know the owner.
        incarnation: Which life of its principal this is: one more after each erasure.
        birth: 16 random bytes of the scope's row. A scope that was removed and made again has
            others, and nothing of its former life opens: they are part of the associated data of
            every record, and of the context in which the keys of records and rows are derived.
        naming: The principal's naming key; names are the same in every life of a scope. What the
            server reads for its own duties is sealed by a subkey of it, too.
        sealing: The principal's sealing keys, for all else; all open, the last one seals.
        counter: Counts what is sealed.
        compress: Whether what is long is deflated before it is sealed.
        places: By which the tables know the principals of the project and module it is in.
        sealing_version: Which of the principal's sealing keys the last one is.
        inbox: The public key to which is sealed what comes while the user alone has the sealing
            keys; ``None`` where the server has them for good.
    """

    __slots__ = (
        *("_compress", "_names", "_naming", "_of_server", "_prefix", "_rows"),
        *("active_day", "birth", "inbox", "incarnation", "members", "met_former"),
        *("noted_stores", "opening"),
        *("places", "scope_id", "sealing", "sealing_version", "server_held"),
    )
    is_locked: ClassVar[bool] = False
    """Whether the user alone has the sealing keys."""

    def __init__(
        self,
        owner: Owner,
        scope_id: bytes,
        incarnation: int,
        birth: bytes,
        naming: SecretBytes,
        sealing: Sequence[SecretBytes],
        counter: SealCounter = UNCOUNTED,
        *,
        compress: bool = True,
        places: Sequence[bytes] = (),
        sealing_version: int = 1,
        inbox: bytes | None = None,
    ) -> None:
        self._compress, self.places, self.inbox = compress, places, inbox
        self.sealing_version = sealing_version
        self._prefix = owner.framed() + framed(birth)
        self._naming = DigestKey(derive(naming, b"names", owner.framed()))
        self._rows = DigestKey(derive(naming, b"rows", self._prefix))
        self.members = MultisetHash(derive(naming, b"members", self._prefix))
        # Not counted: at one such record a second, 2^32 of them take a scope 136 years.
        self.server_held = SealingKey(derive(naming, b"server-held records", self._prefix))
        self._of_server = {self.server_held.id: self.server_held}
        self._names: dict[tuple[bytes, ...], bytes] = {}
        self.active_day = -1
        """The last day, counted from 1970, of which the database knows that the owner wrote."""
        self.noted_stores: set[tuple[str, bool]] = set()
        """Third-party stores of which the database knows that the owner writes to them, and whether
        what is sealed."""
        self.met_former: list[bool] = []
        """Not empty once something was opened with a key that seals no more."""
        self.scope_id = scope_id
        self.incarnation = incarnation
        self.birth = birth
        self._take(sealing, counter)

    def _take(self, sealing: Sequence[SecretBytes], counter: SealCounter) -> None:
        subkeys = [derive(key, b"records", self._prefix) for key in sealing]
        self.sealing = SealingKey(subkeys[-1], counter)
        former = [*map(SealingKey, subkeys[:-1])]
        for key in former:
            key.decrypt = _noting(key.decrypt, self.met_former)
        self.opening = {key.id: key for key in (*former, self.sealing)}

    @property
    def ids(self) -> set[bytes]:
        """The ids of every key that has sealed the owner's records, as these carry them."""
        return {*self.opening, self.server_held.id}

    def refuse_if_locked(self) -> None:
        """Go on where the server has the sealing keys: what is kept elsewhere is asked for.

        Raises:
            MemoryLocked: The user alone has them.
        """
        if self.is_locked:
            raise MemoryLocked

    def pseudonym(self, kind: Kind, *parts: bytes) -> bytes:
        """The 16 bytes by which tables know a name that a caller chose."""
        return self._naming.digest(kind.framed_bytes, *parts)

    def pseudonyms(self, kind: Kind, *parts: bytes) -> Callable[[bytes], bytes]:
        """:meth:`pseudonym` of ``parts`` and one more, for several that begin alike."""
        return self._naming.digests(kind.framed_bytes, *parts)

    def pseudonym_of_name(self, kind: Kind, *parts: bytes) -> bytes:
        """As :meth:`pseudonym`, of a name that is asked for again and again, such as a thread's.

        The last names are remembered with their digests, 0.3 µs instead of 1.5: not for content.
        """
        name = (kind.framed_bytes, *parts)
        found = self._names.get(name)
        if found is None:
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            found = self._names[name] = self.pseudonym(kind, *parts)
        return found

    def row_mac(self, *parts: bytes | None) -> bytes:
        """16 bytes that authenticate the clear columns of a row."""
        return self._rows.digest(*parts)

    def aad_prefix(self, kind: Kind, parent: bytes, birth: bytes = b"") -> bytes:
        """The start of the associated data of every record of ``kind`` under ``parent``.

        Args:
            kind: Of the record.
            parent: As the row has it.
            birth: Of the session, thread or collection that the record belongs to.
        """
        return self._prefix + framed(kind.framed_bytes, parent, birth)

    def seal(
        self,
        prefix: bytes,
        key: bytes,
        plaintext: bytes,
        *,
        compress: bool = True,
        nonce: bytes | None = None,
    ) -> bytes:
        """Seal a record of content at ``key`` under :meth:`aad_prefix`.

        Args:
            prefix: The start of its associated data.
            key: Where it stands.
            plaintext: What it holds.
            compress: Whether to try.
            nonce: One of `nonces`, where several records are sealed at once.
        """
        compress, place = compress and self._compress, associated_data_of(prefix, key)
        return seal(self.sealing, place, plaintext, compress=compress, nonce=nonce)

    def seal_for_server(self, prefix: bytes, key: bytes, plaintext: bytes) -> bytes:
        """Seal a record of one of the kinds ``SERVER_HELD``; :meth:`seal` is for all others."""
        key_of_server, place = self.server_held, associated_data_of(prefix, key)
        return seal(key_of_server, place, plaintext, compress=self._compress)

    def sealer(self, kind: Kind) -> Callable[[bytes, bytes, bytes], bytes]:
        """What seals records of ``kind``, given :meth:`aad_prefix`, key and plaintext of each."""
        return self.seal_for_server if kind.is_server_held else self.seal

    def open(self, prefix: bytes, key: bytes, sealed: bytes, kind: Kind) -> bytes:
        """Open a record at ``key`` under :meth:`aad_prefix`, or raise ``RecordDoesNotOpen``."""
        keys = self._of_server if kind.is_server_held else self.opening
        return open_sealed(keys, associated_data_of(prefix, key), sealed, kind=kind.label)

    def resealed(self, prefix: bytes, key: bytes, sealed: bytes, kind: Kind) -> bytes:
        """A record at ``key`` under the key that seals now, as many bytes as before.

        What the server reads for its own duties is as it was: its key never changes.
        """
        if kind.is_server_held:
            return sealed
        place = associated_data_of(prefix, key)
        return resealed(self.opening, self.sealing, place, sealed, kind=kind.label)

    @property
    def former(self) -> list[bytes]:
        """The ids of the keys that open and do not seal any more, the latest first."""
        return [key_id for key_id in reversed(self.opening) if key_id != self.sealing.id]

    def opener(self, prefix: bytes, kind: Kind) -> Callable[[bytes, bytes], bytes]:
        """Opens many records under one :meth:`aad_prefix`, each by its key and sealed bytes."""
        keys = self._of_server if kind.is_server_held else self.opening
        return opener(keys, prefix, kind=kind.label)

    def open_all(
        self, prefix: bytes, kind: Kind, rows: Sequence[tuple[bytes, bytes, *tuple[Any, ...]]]
    ) -> list[bytes]:
        """What :meth:`opener` makes of each row's key and sealed bytes, if they are many faster."""
        keys = self._of_server if kind.is_server_held else self.opening
        return open_all(keys, prefix, rows, kind=kind.label)

    def every_key(self) -> list[SealingKey]:
        """All that open something of this scope, for who tries that they open nothing else."""
        return [*self.opening.values(), self.server_held]

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")


def _noting(decrypt: Callable[..., bytes], met: list[bool]) -> Callable[..., bytes]:
    # Not the scope's keys themselves: they would be kept by what they keep.
    def noted(*sealed: Any) -> bytes:
        if not met:
            met.append(True)
        return decrypt(*sealed)

    return noted


class LockedScopeKeys(ScopeKeys):
    """The subkeys of an owner whose sealing keys the user alone has, and has not lent.

    They name and authenticate rows, open and seal what the server reads for its own duties, and
    seal to the inbox. Content they neither seal nor open.
    """

    __slots__ = ()
    is_locked = True

    def _take(self, sealing: Sequence[SecretBytes], counter: SealCounter) -> None:  # noqa: ARG002
        # No attribute `sealing`: whatever would seal past :meth:`seal` fails.
        self.opening = {}

    def seal(self, *_: object, **__: object) -> NoReturn:
        """Refuse: nothing of a locked user is sealed but to the inbox.

        Raises:
            MemoryLocked: Always.
        """
        raise MemoryLocked

    @property
    def former(self) -> list[bytes]:
        """Refuse: which keys there are is known to the user alone.

        Raises:
            MemoryLocked: Always.
        """
        raise MemoryLocked

    def open(self, prefix: bytes, key: bytes, sealed: bytes, kind: Kind) -> bytes:
        """Open what the server reads for its own duties.

        Raises:
            MemoryLocked: It is content.
            RecordDoesNotOpen: It was changed, moved or exchanged.
        """
        self._refuse(kind)
        return super().open(prefix, key, sealed, kind)

    def opener(self, prefix: bytes, kind: Kind) -> Callable[[bytes, bytes], bytes]:
        """What opens many; each as :meth:`open`."""
        return partial(self._open_one, prefix, kind)

    def open_all(
        self, prefix: bytes, kind: Kind, rows: Sequence[tuple[bytes, bytes, *tuple[Any, ...]]]
    ) -> list[bytes]:
        """What opens many at once; each as :meth:`open`."""
        return [self.open(prefix, row[0], row[1], kind) for row in rows]

    def _open_one(self, prefix: bytes, kind: Kind, key: bytes, sealed: bytes) -> bytes:
        return self.open(prefix, key, sealed, kind)

    @staticmethod
    def _refuse(kind: Kind) -> None:
        if not kind.is_server_held:
            raise MemoryLocked
