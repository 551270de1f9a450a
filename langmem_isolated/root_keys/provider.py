"""What every provider of a root key must do."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class RootKey(Protocol):
    """What wraps all other keys: implement these three over a KMS or an HSM to keep it there.

    ``wrap`` and ``unwrap`` are called from worker threads, never on an event loop and never inside
    a transaction; a call may take a network round trip. Both are tried once in each memory before
    anything is done with them, so a process needs the right to either.
    """

    @property
    def key_id(self) -> str:
        """A stable name of the root key, not secret, stored beside each wrapped key."""

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Encrypt the 32 bytes of ``key`` and bind them to ``context`` (as associated data).

        Returns ``bytes``. ``key`` is bare here: keep it out of logs and of what an error holds.
        """

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return the 32 ``bytes`` that ``wrap`` took; raise for another context, key or bit."""
