"""Checked root key: a provider's root key, tried before it is trusted with a key."""

import os

from langmem_isolated._crypto.secret_bytes import KEY_BYTES, SecretBytes
from langmem_isolated.errors import RootKeyInvalid
from langmem_isolated.root_keys import RootKey


class CheckedRootKey:
    """A root key that has proved, at its first use here, that it keeps what `RootKey` promises.

    A provider that returns another key than it took loses memory for good, and one that ignores the
    context lets keys be moved between users: both would be found out when it is too late.
    """

    def __init__(self, root_key: RootKey) -> None:
        self._root_key = root_key
        self._is_tried = False

    @property
    def key_id(self) -> str:
        """The provider's name of the key, stored beside each wrapped key."""
        return self._root_key.key_id

    def wrap(self, key: SecretBytes, context: bytes) -> bytes:
        """Encrypt ``key``, bound to ``context``.

        Raises:
            RootKeyInvalid: The provider breaks a promise.
        """
        self._try_once()
        return self._wrap(key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> SecretBytes:
        """What :meth:`wrap` took.

        Raises:
            RootKeyInvalid: The provider breaks a promise.
        """
        self._try_once()
        return self._unwrap(wrapped, context)

    def _wrap(self, key: SecretBytes, context: bytes) -> bytes:
        wrapped = self._root_key.wrap(key.reveal(), context)
        if type(wrapped) is not bytes:
            raise RootKeyInvalid(f"{_BROKEN} wrap() must give bytes, got {_type_of(wrapped)}.")
        return wrapped

    def _unwrap(self, wrapped: bytes, context: bytes) -> SecretBytes:
        found = _shape(self._root_key.unwrap(wrapped, context))
        if isinstance(found, str):
            raise RootKeyInvalid(
                f"{_BROKEN} unwrap() must give the {KEY_BYTES} bytes that wrap() took, got {found}."
            )
        return found

    def _try_once(self) -> None:
        # Twice at worst, if two threads come first: it only costs.
        if not self._is_tried:
            self._try_name()
            self._try_keys()
            self._is_tried = True

    def _try_name(self) -> None:
        name = self._root_key.key_id
        if type(name) is not str or not name or name != self._root_key.key_id:
            raise RootKeyInvalid(
                f"{_BROKEN} key_id must be text that is not empty and stays the same, got "
                f"{_type_of(name)}."
            )

    def _try_keys(self) -> None:
        key, context = SecretBytes.random(), os.urandom(32)
        wrapped = self._wrap(key, context)
        if self._unwrap(wrapped, context) != key:
            raise RootKeyInvalid(f"{_BROKEN} unwrap() gave another key than wrap() took.")
        try:
            self._root_key.unwrap(wrapped, context[::-1] + b"another")
        except Exception:  # noqa: BLE001 - each provider refuses in its own way
            return
        raise RootKeyInvalid(
            f"{_BROKEN} unwrap() must raise for another context than wrap() was given, but it gave "
            "the key: so keys could be moved between users."
        )


_BROKEN = "The root key does not keep the promises of RootKey, nothing was written with it:"


def _shape(found: object) -> SecretBytes | str:
    """The key, or what it is instead."""
    if type(found) is not bytes:
        return _type_of(found)
    return SecretBytes(found) if len(found) == KEY_BYTES else f"{len(found)} bytes"


def _type_of(value: object) -> str:
    return type(value).__name__
