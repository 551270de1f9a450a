"""Signing keys: Ed25519 (RFC 8032), for what others are to verify without our keys."""

from __future__ import annotations

from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from langmem_isolated._crypto.secret_bytes import KEY_BYTES, SecretBytes

SIGNATURE_BYTES = 64


class SignatureRefused(Exception):
    """A signature is not that of this key on this message."""


class SigningKey:
    """A private key, made of 32 secret bytes (RFC 8032, 5.1.5). Signatures are deterministic.

    Raises:
        ValueError: ``seed`` is not 32 bytes.
    """

    __slots__ = ("_key", "public")

    def __init__(self, seed: SecretBytes) -> None:
        if len(seed) != KEY_BYTES:
            raise ValueError(f"a seed must be {KEY_BYTES} bytes, got {len(seed)}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed.reveal())
        self.public = self._key.public_key().public_bytes_raw()
        """32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(message)

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys are not pickled")


def check_signature(public: bytes, signature: bytes, message: bytes) -> None:
    """Refuse a signature that is not that of ``public`` on ``message``.

    Raises:
        SignatureRefused: It is not; or ``public`` is no public key of 32 bytes.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise SignatureRefused from None
