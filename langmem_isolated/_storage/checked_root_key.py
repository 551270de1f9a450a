"""Checked root keys: providers' root keys, each tried before it is trusted with a key."""

import os
from collections.abc import Sequence

from langmem_isolated._crypto.secret_bytes import KEY_BYTES, SecretBytes
from langmem_isolated.errors import KeyServiceUnavailable, RootKeyInvalid, RootKeyMismatch
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

    def prove(self) -> None:
        """Try the provider, if it was not tried yet.

        Raises:
            RootKeyInvalid: It breaks a promise.
        """
        self._try_once()

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
        except KeyServiceUnavailable:
            # No refusal: nobody has looked at the context.
            raise
        except Exception:  # noqa: BLE001 - each provider refuses in its own way
            return
        raise RootKeyInvalid(
            f"{_BROKEN} unwrap() must raise for another context than wrap() was given, but it gave "
            "the key: so keys could be moved between users."
        )


class RootKeys:
    """The root key that wraps, and those that open besides; each named by its ``key_id``.

    One object for all that open with them, also those that are about to: a key that is accepted
    is there for them at once.

    Args:
        primary: Wraps every new key.
        accepted: These open what they have wrapped, and wrap nothing.
    """

    def __init__(self, primary: RootKey, accepted: Sequence[RootKey] = ()) -> None:
        self._all = tuple(CheckedRootKey(root_key) for root_key in (primary, *accepted))

    @property
    def primary(self) -> CheckedRootKey:
        """The one that wraps."""
        return self._all[0]

    def of(self, key_id: str) -> CheckedRootKey:
        """The one that has wrapped a key.

        Raises:
            RootKeyMismatch: It is none of these.
        """
        for root_key in self._all:
            if root_key.key_id == key_id:
                return root_key
        primary, *accepted = (root_key.key_id for root_key in self._all)
        raise RootKeyMismatch(key_id, primary, accepted)

    def accept(self, root_key: CheckedRootKey) -> None:
        """Open with one more."""
        self._all = (*self._all, root_key)

    def refuse(self, root_key: CheckedRootKey) -> None:
        """Open no more with one that was accepted."""
        self._all = tuple(kept for kept in self._all if kept is not root_key)

    def make_primary(self, root_key: CheckedRootKey) -> None:
        """Wrap with this one from now on; the others still open."""
        others = (kept for kept in self._all if kept.key_id != root_key.key_id)
        self._all = (root_key, *others)


_BROKEN = "The root key does not keep the promises of RootKey, nothing was written with it:"


def _shape(found: object) -> SecretBytes | str:
    """The key, or what it is instead."""
    if type(found) is not bytes:
        return _type_of(found)
    return SecretBytes(found) if len(found) == KEY_BYTES else f"{len(found)} bytes"


def _type_of(value: object) -> str:
    return type(value).__name__
