"""Addresses of a thread's checkpoints and writes."""

from typing import NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES


def mac_of(keys: ScopeKeys, digest: bytes, plaintext: bytes) -> bytes:
    """What finds an element in its thread."""
    return keys.pseudonym(Kind.ELEMENT, digest, plaintext)


END = b"\xff" * (2 * DIGEST_BYTES + 1)


class Slot(NamedTuple):
    """Where a checkpoint or a task's writes stand."""

    kind: Kind
    parent: bytes
    key: bytes

    @property
    def thread_digest(self) -> bytes:
        """The digest of the thread it belongs to."""
        return self.parent[:DIGEST_BYTES]


class Life(NamedTuple):
    """A thread by its digest, in the life that its birth names."""

    digest: bytes
    birth: bytes


class Bounds(NamedTuple):
    """Which parents a list covers: one namespace, or all of a thread or of the scope."""

    low: bytes
    high: bytes

    @classmethod
    def namespace(cls, parent: bytes) -> "Bounds":
        return cls(parent, parent)

    @classmethod
    def thread(cls, thread: bytes) -> "Bounds":
        return cls(thread, thread + END[: DIGEST_BYTES + 1])

    @classmethod
    def scope(cls) -> "Bounds":
        return cls(b"", END)
