"""A root key of 32 bytes, from the environment or a file."""

import base64
import binascii
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from langmem_isolated._crypto.sealing import KEY_BYTES, SealingKey, derive, open_sealed, seal
from langmem_isolated._runtime.environment import ROOT_KEY_VARIABLE
from langmem_isolated.errors import RootKeyInvalid, RootKeyMissing


class LocalRootKey:
    """A root key of 32 bytes held by this process, from the environment or a file.

    Raises:
        RootKeyInvalid: ``key`` is not 32 bytes.
    """

    __slots__ = ("_key", "key_id")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise RootKeyInvalid(f"A root key must be {KEY_BYTES} bytes, got {len(key)}.")
        self._key = SealingKey(derive(key, b"root key"))
        self.key_id = f"local:{self._key.id.hex()}"

    @classmethod
    def generate_text(cls) -> str:
        """A new random root key as text: 32 bytes in base64, 44 characters."""
        return base64.b64encode(os.urandom(KEY_BYTES)).decode()

    @classmethod
    def from_text(cls, text: str) -> "LocalRootKey":
        """Read the form that ``langmem-isolated keygen`` prints: 32 bytes in base64.

        Raises:
            RootKeyInvalid: The text is anything else.
        """
        try:
            key = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise RootKeyInvalid(
                f"A root key must be 32 bytes in base64, got {len(text)} characters that are not. "
                "`langmem-isolated keygen` makes one."
            ) from None
        return cls(key)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "LocalRootKey":
        """Read a key file that only its owner can read.

        Raises:
            RootKeyInvalid: Others may read the file, or it does not hold a key.
            RootKeyMissing: There is no such file.
        """
        try:
            # As bytes: an error of decoding would carry what the file holds.
            with Path(path).open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read(1024)
        except FileNotFoundError:
            raise RootKeyMissing(ROOT_KEY_VARIABLE, "The root key file is not there") from None
        except OSError as error:
            raise RootKeyInvalid(f"The root key file cannot be read: {error.strerror}.") from None
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise RootKeyInvalid(
                f"The root key file has mode {stat.S_IMODE(mode):04o}: others may read it. "
                "Run `chmod 600` on it; if others may have read it, rotate the key."
            )
        return cls.from_text(content.decode("ascii", "replace"))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "LocalRootKey":
        """Read ``LANGMEM_ISOLATED_ROOT_KEY``, or the file that ``…_FILE`` names.

        Raises:
            RootKeyMissing: Neither variable is set.
            RootKeyInvalid: What is set is not a key.
        """
        if text := environment.get(ROOT_KEY_VARIABLE):
            return cls.from_text(text)
        if path := environment.get(f"{ROOT_KEY_VARIABLE}_FILE"):
            return cls.from_file(path)
        raise RootKeyMissing(ROOT_KEY_VARIABLE)

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Seal ``key`` with ``context`` as associated data."""
        return seal(self._key, context, key)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Open what :meth:`wrap` made, or raise ``RecordDoesNotOpen``."""
        return open_sealed({self._key.id: self._key}, context, wrapped, kind="key")

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")
