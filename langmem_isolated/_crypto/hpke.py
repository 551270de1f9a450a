"""HPKE: what anybody seals and only the holder of a private key opens (RFC 9180, base mode).

Suite: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. Sealed bytes are those of the RFC: the
encapsulated key, 32 bytes, and behind it the ciphertext with its tag of 16. Where a record stands
is bound by ``info``, of which the keys are derived: each record has an encapsulation of its own.
"""

from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated.errors import RecordDoesNotOpen

PUBLIC_BYTES = 32
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class KeyPair(NamedTuple):
    """A private key, 32 bytes, and its public one."""

    private: SecretBytes
    public: bytes

    @classmethod
    def random(cls) -> "KeyPair":
        """A new pair."""
        return cls.of(SecretBytes.random())

    @classmethod
    def of(cls, private: SecretBytes) -> "KeyPair":
        """The pair of a private key; of any 32 bytes (RFC 7748, section 5)."""
        key = X25519PrivateKey.from_private_bytes(private.reveal())
        return cls(private, key.public_key().public_bytes_raw())


def seal_to(public: bytes, info: bytes, plaintext: bytes) -> bytes:
    """Seal ``plaintext`` to the holder of the private key of ``public``: 48 bytes more.

    Nobody who only seals can open it again.
    """
    return _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(public), info=info)


def open_from(private: SecretBytes, info: bytes, sealed: bytes) -> bytes:
    """Open what :func:`seal_to` sealed with ``info``.

    Raises:
        RecordDoesNotOpen: It was changed, moved, or sealed to another key.
    """
    try:
        key = X25519PrivateKey.from_private_bytes(private.reveal())
        return _SUITE.decrypt(sealed, key, info=info)
    except (InvalidTag, ValueError, TypeError):
        raise RecordDoesNotOpen("inbox", "it fails authentication") from None
