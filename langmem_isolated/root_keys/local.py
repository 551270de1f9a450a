"""A root key of 32 bytes, from the environment or a file."""

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path

from langmem_isolated._crypto.sealing import SealingKey, derive, open_sealed, seal
from langmem_isolated._crypto.secret_bytes import KEY_BYTES, SecretBytes
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.environment import ROOT_KEY_VARIABLE
from langmem_isolated.errors import RootKeyInvalid, RootKeyMissing
from langmem_isolated.root_keys.files import refusal
from langmem_isolated.root_keys.texts import described


class LocalRootKey:
    """A root key of 32 bytes held by this process, from the environment or a file.

    >>> root_key = LocalRootKey.from_text(LocalRootKey.generate_text())
    >>> root_key.key_id.startswith("local:")
    True

    Raises:
        RootKeyInvalid: ``key`` is not 32 bytes.
    """

    __slots__ = ("_key", "key_id")

    def __init__(self, key: bytes) -> None:
        if not isinstance(key, bytes) or len(key) != KEY_BYTES:
            # Error reporters print the variables of every frame: it may be most of a key.
            received, key = _received(key), b""
            raise RootKeyInvalid(f"A root key must be {KEY_BYTES} bytes, got {received}")
        self._key = SealingKey(derive(SecretBytes(key), b"root key"))
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
        key = _decoded(text) if isinstance(text, str) else None
        # As above: the text may be a key mistyped.
        received, text = described(text), ""
        if key is None or len(key) != KEY_BYTES:
            raise RootKeyInvalid(
                f"A root key must be 32 bytes in base64, 44 characters, got {received} "
                "`langmem-isolated keygen` makes one."
            )
        return cls(key.reveal())

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "LocalRootKey":
        """Read a key file that only its owner can read.

        The owner is the effective user or root, the mode 0400 or 0600. A secret mounted into a
        container is read, too, and so is a credential of systemd: a file of root with mode 0440, in
        a group of this process or in root's.

        Raises:
            RootKeyInvalid: The file is another user's, others may read it, or it holds no key.
            RootKeyMissing: There is no such file.
        """
        if not _is_path(path):
            # As above: it may be a key.
            kind, path = kind_of(path), ""
            raise RootKeyInvalid(
                f"The root key file must be named by a path, a str or Path, got {kind}. "
                "`langmem-isolated keygen --file root.key` makes one."
            )
        try:
            # As bytes: an error of decoding would carry what the file holds.
            with Path(path).open("rb") as file:
                reason = refusal(file.fileno())
                content = SecretBytes(b"" if reason else file.read(1024))
        except FileNotFoundError:
            is_home, path = str(path).startswith("~"), ""
            reason = "The root key file is not there"
            reason += " (~ is not expanded: give Path(…).expanduser())" if is_home else ""
            raise RootKeyMissing(ROOT_KEY_VARIABLE, reason) from None
        except OSError as error:
            raise RootKeyInvalid(
                f"The root key file cannot be read: {error.strerror}. Expected a file that its "
                "owner can read; `langmem-isolated keygen --file root.key` makes one."
            ) from None
        if reason:
            raise RootKeyInvalid(reason)
        return cls.from_text(content.reveal().decode("ascii", "replace"))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "LocalRootKey":
        """Read ``LANGMEM_ISOLATED_ROOT_KEY``, or the file that ``…_FILE`` names.

        Args:
            environment: Where the variables are; those of the process when ``None``.

        Raises:
            RootKeyMissing: Neither variable is set.
            RootKeyInvalid: What is set is not a key, or the two are different keys.
        """
        path = _variable(environment, f"{ROOT_KEY_VARIABLE}_FILE")
        if not _variable(environment, ROOT_KEY_VARIABLE):
            if path:
                return cls.from_file(path)
            raise RootKeyMissing(ROOT_KEY_VARIABLE)
        key = cls.from_text(_variable(environment, ROOT_KEY_VARIABLE))
        # An image sets the path whether or not a file is mounted there. Where one is, memory sealed
        # with the other key could not be opened by whoever keeps the file.
        if path and Path(path).exists() and cls.from_file(path).key_id != key.key_id:
            raise RootKeyInvalid(
                f"{ROOT_KEY_VARIABLE} and the file of {ROOT_KEY_VARIABLE}_FILE have different root "
                "keys; one was expected. Unset the variable that is not meant."
            )
        return key

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Seal ``key`` with ``context`` as associated data."""
        return seal(self._key, context, key)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Open what :meth:`wrap` made, or raise ``RecordDoesNotOpen``."""
        return open_sealed({self._key.id: self._key}, context, wrapped, kind="key")

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike)


def _received(key: object) -> str:
    if isinstance(key, bytes):
        return f"{len(key)}. `langmem-isolated keygen` makes one as text, for from_text(text)."
    if isinstance(key, str):
        return f"a str of {len(key)} characters. Use LocalRootKey.from_text(text)."
    return f"{kind_of(key)}. Use LocalRootKey.from_text(text), or from_file(path)."


def _decoded(text: str) -> SecretBytes | None:
    # Raised from here, an error would bring the frames of the decoder, which hold the text.
    try:
        return SecretBytes(base64.b64decode(text.strip(), validate=True))
    except (binascii.Error, ValueError):
        return None


def _variable(environment: Mapping[str, str] | None, name: str) -> str:
    # Never the mapping in a variable of ours: its representation shows what it holds.
    return (os.environ if environment is None else environment).get(name, "")
