"""Addresses of a thread's checkpoints and writes."""

from typing import NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES


def mac_of(keys: ScopeKeys, digest: bytes, plaintext: bytes) -> bytes:
    """What finds an element in its thread."""
    return keys.pseudonym(Kind.ELEMENT, digest, plaintext)


def thread_digest(keys: ScopeKeys, thread_id: str) -> bytes:
    """The digest by which tables know a thread."""
    return keys.pseudonym_of_name(Kind.THREAD, thread_id.encode())


def namespace_parent(keys: ScopeKeys, digest: bytes, namespace: str) -> bytes:
    """Under what the checkpoints of a thread's namespace stand."""
    return digest + keys.pseudonym_of_name(Kind.CHECKPOINT, b"namespace", namespace.encode())


def write_key(keys: ScopeKeys, checkpoint_id: bytes, task_id: str) -> bytes:
    """Where what a task wrote stands behind a checkpoint."""
    return checkpoint_id + keys.pseudonym(Kind.WRITE, checkpoint_id, _any_text(task_id))


def run_tag(keys: ScopeKeys, run_id: str) -> bytes:
    """What finds a run's checkpoints in its scope."""
    return keys.pseudonym(Kind.CHECKPOINT, b"run", _any_text(run_id))


def _any_text(text: str) -> bytes:
    """Text of a caller's choice as bytes; some of Python's has no form in UTF-8."""
    return text.encode(errors="surrogatepass")


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
