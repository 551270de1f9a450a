"""Lock secrets: a key from a passphrase (Argon2id), from 32 bytes, or from a recovery code (HKDF).

What a key was derived with is stored beside what it wraps, in bytes::

    1 form | 16 salt | 4 memory, KiB | 4 iterations | 4 lanes

The last three are 0 where nothing is stretched. Sources: Argon2id and its parameters: RFC 9106,
section 4; HKDF-SHA256: RFC 5869; text of passphrases: NFC, as RFC 8265 has it; base32: RFC 4648.
"""

import base64
import hashlib
import os
import struct
import unicodedata
from enum import IntEnum
from threading import BoundedSemaphore
from typing import NamedTuple

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from langmem_isolated._crypto.sealing import derive
from langmem_isolated._crypto.secret_bytes import KEY_BYTES, SecretBytes
from langmem_isolated.errors import RecordDoesNotOpen

_STORED = struct.Struct(">B16sIII")
_SALT_BYTES = 16
_MOST_MEMORY = 2**20
"""KiB: a row that asks for more would stop the process that reads it."""
_MOST_WORK = 2**22
"""KiB of memory times iterations: 4 s on the machine where 64 MiB three times took 0.2."""
_MOST_LANES = 64
_KIB_A_LANE = 8
_LEAST_CHARACTERS = 8
"""NIST SP 800-63B, 5.1.1.2."""

_CODE_BYTES, _CHECK_BYTES, _GROUP = 16, 4, 4
# What is taken for a letter when it is copied by hand; base32 has none of them.
_MISREAD = str.maketrans("018", "OIB", " -\n\t")

# Two at once: each takes as much memory as its parameters say.
_AT_ONCE = BoundedSemaphore(2)


class SecretKind(IntEnum):
    """Where a key comes from; numbers are stored and never change."""

    PASSPHRASE = 1
    SECRET = 2
    RECOVERY = 3


class PassphraseCost(NamedTuple):
    """What Argon2id takes for one passphrase; as RFC 9106 recommends it second, for 64 MiB.

    About 0.2 s on a small server.
    """

    memory: int = 2**16
    """KiB; 8 for each lane at least, 1 GiB at most."""
    iterations: int = 3
    lanes: int = 4

    def check(self) -> None:
        """Refuse what Argon2id does not take, or what would stop a process.

        Raises:
            ValueError: A number is out of range; it says which are in it.
        """
        is_possible = 1 <= self.lanes <= _MOST_LANES and self.iterations >= 1
        least = _KIB_A_LANE * self.lanes
        is_bounded = self.memory * self.iterations <= _MOST_WORK
        if not (is_possible and least <= self.memory <= _MOST_MEMORY and is_bounded):
            raise ValueError(
                f"the cost of a passphrase must be 1 to {_MOST_LANES} lanes, 1 iteration or more, "
                f"{_KIB_A_LANE} KiB a lane to {_MOST_MEMORY} KiB of memory, and at most "
                f"{_MOST_WORK} KiB times iterations; got {self.lanes} lanes, {self.iterations} "
                f"iterations, {self.memory} KiB"
            )


class LockSecret(NamedTuple):
    """What a user knows or has: its bytes, and of which kind they are."""

    kind: SecretKind
    value: SecretBytes

    @classmethod
    def of_passphrase(cls, passphrase: str) -> "LockSecret":
        """A passphrase, however its characters were composed.

        Raises:
            TypeError: It is no str.
            ValueError: It has fewer than 8 characters.
        """
        if type(passphrase) is not str:
            raise TypeError(f"passphrase must be a str, got {type(passphrase).__name__}")
        if len(passphrase) < _LEAST_CHARACTERS:
            raise ValueError(
                f"passphrase must have {_LEAST_CHARACTERS} characters or more, got "
                f"{len(passphrase)}; several words are easier to keep than signs"
            )
        text = unicodedata.normalize("NFC", passphrase).encode(errors="surrogatepass")
        return cls(SecretKind.PASSPHRASE, SecretBytes(text))

    @classmethod
    def of_secret(cls, secret: bytes) -> "LockSecret":
        """32 bytes that nobody can guess, as the PRF extension of a passkey gives them.

        Raises:
            TypeError: It is not bytes.
            ValueError: It is not 32 bytes.
        """
        if type(secret) is not bytes:
            raise TypeError(f"secret must be bytes, got {type(secret).__name__}")
        if len(secret) != KEY_BYTES:
            raise ValueError(f"secret must be {KEY_BYTES} bytes, got {len(secret)}")
        return cls(SecretKind.SECRET, SecretBytes(secret))

    @classmethod
    def of_recovery(cls, code: str) -> "LockSecret":
        """A recovery code, in whatever case and groups it was typed.

        Raises:
            TypeError: It is no str.
            ValueError: It was mistyped: it is too long or too short, or its checksum does not fit.
        """
        if type(code) is not str:
            raise TypeError(f"recovery must be a str, got {type(code).__name__}")
        return cls(SecretKind.RECOVERY, SecretBytes(_decoded(code)))

    @classmethod
    def new_recovery(cls, random: bytes | None = None) -> tuple["LockSecret", str]:
        """A new recovery code, and how it is written.

        Args:
            random: 16 bytes; only known-answer tests pass them.
        """
        random = os.urandom(_CODE_BYTES) if random is None else random
        return cls(SecretKind.RECOVERY, SecretBytes(random)), _encoded(random)

    def stretched(self, stored: bytes) -> SecretBytes:
        """The 32-byte key that this secret is with what was stored beside it.

        Raises:
            RecordDoesNotOpen: What was stored has another form, or would take too much memory.
        """
        kind, salt, cost = _unpacked(stored)
        if kind != self.kind:
            raise RecordDoesNotOpen("key", "another kind of secret opens it")
        if kind is SecretKind.PASSPHRASE:
            return _argon2id(self.value, salt, cost)
        return derive(self.value, b"lock secret", bytes([kind]) + salt)


RECOMMENDED = PassphraseCost()


def new_parameters(
    kind: SecretKind, cost: PassphraseCost = RECOMMENDED, salt: bytes | None = None
) -> bytes:
    """What is stored beside what a secret of ``kind`` wraps; only tests pass a ``salt``."""
    salt = os.urandom(_SALT_BYTES) if salt is None else salt
    numbers = cost if kind is SecretKind.PASSPHRASE else (0, 0, 0)
    return _STORED.pack(kind, salt, *numbers)


def kind_of(stored: bytes | None) -> SecretKind:
    """Which kind of secret opens what stands beside ``stored``.

    Raises:
        RecordDoesNotOpen: It has another form.
    """
    return _unpacked(stored)[0]


def _unpacked(stored: bytes | None) -> tuple[SecretKind, bytes, PassphraseCost]:
    try:
        form, salt, *numbers = _STORED.unpack(stored or b"")
        kind, cost = SecretKind(form), PassphraseCost(*numbers)
        if kind is SecretKind.PASSPHRASE:
            cost.check()
    except (struct.error, ValueError):
        raise RecordDoesNotOpen("key", "the parameters of its secret are out of range") from None
    return kind, salt, cost


def _argon2id(passphrase: SecretBytes, salt: bytes, cost: PassphraseCost) -> SecretBytes:
    argon2 = Argon2id(
        salt=salt, length=KEY_BYTES, iterations=cost.iterations, lanes=cost.lanes,
        memory_cost=cost.memory,
    )  # fmt: skip
    with _AT_ONCE:
        return SecretBytes(argon2.derive(passphrase.reveal()))


def _encoded(random: bytes) -> str:
    text = base64.b32encode(random + _checksum(random)).decode()
    return "-".join(text[at : at + _GROUP] for at in range(0, len(text), _GROUP))


def _decoded(code: str) -> bytes:
    try:
        decoded = base64.b32decode(code.upper().translate(_MISREAD))
    except ValueError:
        decoded = b""
    random, check = decoded[:_CODE_BYTES], decoded[_CODE_BYTES:]
    if len(decoded) != _CODE_BYTES + _CHECK_BYTES or check != _checksum(random):
        raise ValueError(
            "recovery was mistyped: a recovery code is eight groups of four letters and digits, "
            "and its last ones tell whether the others are right"
        )
    return random


def _checksum(random: bytes) -> bytes:
    return hashlib.sha256(b"langmem-isolated/recovery" + random).digest()[:_CHECK_BYTES]
