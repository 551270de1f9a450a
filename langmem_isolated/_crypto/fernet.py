"""Fernet tokens of other applications: opened, never made.

Format: version 0x80 | 8 time | 16 IV | AES-128-CBC | 32 HMAC, in base64
(https://github.com/fernet/spec/blob/master/Spec.md).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from cryptography.fernet import Fernet, InvalidToken

from langmem_isolated._crypto.secret_bytes import SecretBytes


class FernetRefused(Exception):
    """A token does not open with a key, or one of them is none; says which, without content."""


class OpenedToken(NamedTuple):
    """What stood in a token, and when it was written."""

    plaintext: bytes
    written_at: datetime


class FernetKey:
    """A key of Fernet's, shown by nothing.

    Args:
        key: As ``Fernet.generate_key()`` writes it: 32 bytes in URL-safe base64.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = SecretBytes(key)

    def open(self, token: bytes) -> OpenedToken:
        """Decrypt a token, however old it is.

        Raises:
            FernetRefused: The key is none, or ``token`` was not made with it.
        """
        cipher = self._cipher()
        try:
            plaintext, seconds = cipher.decrypt(token), cipher.extract_timestamp(token)
            return OpenedToken(plaintext, datetime.fromtimestamp(seconds, UTC))
        except (InvalidToken, OverflowError, ValueError, OSError):
            raise FernetRefused(
                f"a token of {len(token):,} bytes that does not open: the key is another's, or "
                "the token was changed or cut off"
            ) from None

    def _cipher(self) -> Fernet:
        try:
            return Fernet(self._key.reveal())
        except ValueError:
            raise FernetRefused(
                f"a key that is not 32 bytes in URL-safe base64, but {len(self._key):,} bytes"
            ) from None
