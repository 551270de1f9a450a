"""Foreign AES: opens what LangGraph's ``EncryptedSerializer`` sealed with pycryptodome.

Nothing is sealed here. It is AES in EAX mode, 16 bytes of nonce, 16 of tag, then the ciphertext,
without associated data: a row that was moved elsewhere opens there, too.
"""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.cmac import CMAC

KEY_BYTES = (16, 24, 32)
_BLOCK = 16


class ForeignAes:
    """A key that the source's rows were sealed with; its ``repr`` has nothing of it.

    Args:
        key: 16, 24 or 32 bytes.

    Raises:
        ValueError: It has another length.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) not in KEY_BYTES:
            raise ValueError(f"a key of AES has 16, 24 or 32 bytes, this one has {len(key)}")
        self._aes = AES(key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def open(self, sealed: bytes) -> bytes:
        """The plaintext.

        Raises:
            ValueError: It was sealed with another key, or changed.

        Source: Bellare, Rogaway, Wagner, "The EAX Mode of Operation" (2004), figure 3.
        """
        nonce, tag, ciphertext = sealed[:_BLOCK], sealed[_BLOCK : 2 * _BLOCK], sealed[2 * _BLOCK :]
        start = self._omac(0, nonce)
        parts = zip(start, self._omac(1, b""), self._omac(2, ciphertext), strict=True)
        if not hmac.compare_digest(bytes(n ^ h ^ c for n, h, c in parts), tag):
            raise ValueError("it was sealed with another key, or changed")
        decryptor = Cipher(self._aes, CTR(start)).decryptor()
        return decryptor.update(ciphertext) + decryptor.finalize()

    def _omac(self, purpose: int, part: bytes) -> bytes:
        mac = CMAC(self._aes)
        mac.update(purpose.to_bytes(_BLOCK) + part)
        return mac.finalize()
