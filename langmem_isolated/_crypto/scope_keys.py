"""Key derivation (HKDF) for one owner, and the pseudonyms by which tables know it."""

from collections.abc import Callable

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.sealing import (
    DigestKey,
    SealingKey,
    associated_data_of,
    derive,
    digest,
    framed,
    open_sealed,
    opener,
    seal,
)

# Of threads, and of namespaces, of which each call of a subgraph has a new one.
_MOST_NAMES = 256


class ScopeKeys:
    """One owner's subkeys: they name, seal and authenticate what is its own, nothing else."""

    __slots__ = (
        *("_head", "_names", "_naming", "_prefix", "incarnation", "opening", "scope_id"),
        "sealing",
    )

    def __init__(
        self, owner: Owner, scope_id: bytes, incarnation: int, naming: bytes, sealing: list[bytes]
    ) -> None:
        self._prefix = owner.framed()
        self._naming = DigestKey(derive(naming, b"names", self._prefix))
        self._head = DigestKey(derive(naming, b"heads", self._prefix))
        self._names: dict[tuple[bytes, ...], bytes] = {}
        self.scope_id = scope_id
        self.incarnation = incarnation
        versions = [SealingKey(derive(key, b"records", self._prefix)) for key in sealing]
        self.sealing = versions[-1]
        self.opening = {version.id: version for version in versions}

    def pseudonym(self, kind: Kind, *parts: bytes) -> bytes:
        """The 16 bytes by which tables know a name that a caller chose."""
        return self._naming.digest(kind.framed_bytes, *parts)

    def pseudonym_of_name(self, kind: Kind, *parts: bytes) -> bytes:
        """As :meth:`pseudonym`, of a name that is asked for again and again, such as a thread's.

        The last names are remembered with their digests, 0.4 µs instead of 2.2: not for content.
        """
        name = (kind.framed_bytes, *parts)
        found = self._names.get(name)
        if found is None:
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            found = self._names[name] = self.pseudonym(kind, *parts)
        return found

    def row_mac(self, *parts: bytes | None) -> bytes:
        """16 bytes that authenticate a session row's clear columns."""
        return self._head.digest(*parts)

    def aad_prefix(self, kind: Kind, parent: bytes) -> bytes:
        """The start of the associated data of every record of ``kind`` under ``parent``."""
        return self._prefix + framed(kind.framed_bytes, parent)

    def seal(self, prefix: bytes, key: bytes, plaintext: bytes, *, compress: bool = True) -> bytes:
        """Seal a record at ``key`` under :meth:`aad_prefix`."""
        return seal(self.sealing, associated_data_of(prefix, key), plaintext, compress=compress)

    def open(self, prefix: bytes, key: bytes, sealed: bytes, kind: Kind) -> bytes:
        """Open a record at ``key`` under :meth:`aad_prefix`, or raise ``RecordDoesNotOpen``."""
        return open_sealed(self.opening, associated_data_of(prefix, key), sealed, kind=kind.label)

    def opener(self, prefix: bytes, kind: Kind) -> Callable[[bytes, bytes], bytes]:
        """Opens many records under one :meth:`aad_prefix`, each by its key and sealed bytes."""
        return opener(self.opening, prefix, kind=kind.label)

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")


def principal_digest(directory: bytes, owner: Owner) -> bytes:
    """By which the tables know whose keys seal the owner's records."""
    return digest(directory, b"principal", owner.principal())


def scope_digest(directory: bytes, owner: Owner) -> bytes:
    """By which the tables know the owner."""
    return digest(directory, b"scope", owner.framed())
