"""What every provider of a root key must do."""

import os
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.errors import RootKeyInvalid


@runtime_checkable
class RootKey(Protocol):
    """What wraps all other keys: implement these three over a KMS or an HSM to keep it there.

    It wraps one key-encryption key for each installation, which wraps the others: it is asked once
    in a process, and again when ``key_cache_seconds`` are over, not once a user.

    ``wrap`` and ``unwrap`` are called from worker threads, never on an event loop and never inside
    a transaction; a call may take a network round trip. Both are tried once in each memory before
    anything is done with them, so a process needs the right to either.

    >>> isinstance(LocalRootKey(bytes(32)), RootKey)
    True
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


def checked_provider(root_key: RootKey) -> RootKey:
    """``root_key``, if it has what a provider has; what it does is tried at its first use.

    Raises:
        RootKeyInvalid: It is the key itself, a path, a class, or anything else without ``wrap``.
    """
    kind, advice, is_class = kind_of(root_key), _advice(root_key), isinstance(root_key, type)
    # A provider's `key_id` may ask a service: it is not read here.
    names = ("wrap", "unwrap", "key_id")
    has_all = all(hasattr(type(root_key), name) or hasattr(root_key, name) for name in names)
    if is_class or not has_all:
        # Error reporters print the variables of every frame.
        del root_key
        raise RootKeyInvalid(
            "root_key must be a LocalRootKey, or another object with wrap, unwrap and key_id, got "
            f"{kind}. {advice}"
        )
    return root_key


def checked_providers(root_keys: Sequence[RootKey]) -> tuple[RootKey, ...]:
    """``accepted_root_keys``, each looked at as :func:`checked_provider` does.

    Raises:
        TypeError: It is no list or tuple.
        RootKeyInvalid: One of them is no provider.
    """
    if not isinstance(root_keys, list | tuple):
        kind = kind_of(root_keys)
        # As above: it may be a key.
        del root_keys
        raise TypeError(
            f"accepted_root_keys must be a list or tuple of root keys, got {kind}. "
            "Write accepted_root_keys=[LocalRootKey.from_file(path)]."
        )
    return tuple(checked_provider(root_key) for root_key in root_keys)


def _advice(given: object) -> str:
    if isinstance(given, str) and given.startswith(("aws-kms:", "pkcs11:")):
        return "Write root_key=named_root_key(name), from langmem_isolated.root_keys."
    if isinstance(given, str):
        return "Write root_key=LocalRootKey.from_text(text), or from_file(path)."
    if isinstance(given, bytes | bytearray):
        return "Write root_key=LocalRootKey(key) for 32 raw bytes."
    if isinstance(given, os.PathLike):
        return "Write root_key=LocalRootKey.from_file(path)."
    return "Write root_key=LocalRootKey.from_file(path), or leave it out to use the environment."
