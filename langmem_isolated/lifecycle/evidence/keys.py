"""Evidence keys: what signs evidence packs, and what others pin to verify them.

Both are texts that say what they are, so that neither is taken for the other, nor for a root key:
`lmi-evidence-secret:` and `lmi-evidence-public:`, followed by 32 bytes in URL-safe base64 without
padding.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from langmem_isolated._crypto.secret_bytes import KEY_BYTES, SecretBytes
from langmem_isolated._crypto.signing import SigningKey
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.environment import EVIDENCE_KEY_VARIABLE
from langmem_isolated.errors import EvidenceKeyInvalid

_SECRET, _PUBLIC = "lmi-evidence-secret:", "lmi-evidence-public:"
_MAKE = "`langmem-isolated evidence keygen` makes a pair."
_MOST_BYTES = 1024
_OTHERS = 0o077


class EvidenceKey:
    """Signs evidence packs (Ed25519, RFC 8032). It is no root key, and opens nothing.

    Whoever has it can sign any report: keep it where the database's operators are not, if others
    are to believe more than that the operators said so.

    >>> key = EvidenceKey.from_text(EvidenceKey.generate_text())
    >>> key.public_text.startswith("lmi-evidence-public:")
    True
    """

    __slots__ = ("_key",)

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    @classmethod
    def generate_text(cls) -> str:
        """A new random key as text: its prefix, and 32 bytes in URL-safe base64."""
        return f"{_SECRET}{_encoded(os.urandom(KEY_BYTES))}"

    @classmethod
    def from_text(cls, text: str) -> EvidenceKey:
        """Read the form that ``langmem-isolated evidence keygen`` writes.

        Raises:
            EvidenceKeyInvalid: The text is anything else.
        """
        seed = _decoded(_SECRET, text)
        # Error reporters print the variables of every frame: it may be a key mistyped.
        received, text = _described(text), ""
        if seed is None:
            raise EvidenceKeyInvalid(
                f"An evidence key must be {_SECRET} and {KEY_BYTES} bytes in base64, got "
                f"{received}. {_MAKE}"
            )
        return cls(SigningKey(seed))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> EvidenceKey:
        """Read a key file that only its owner can read: mode 0400 or 0600, of this user or root.

        Raises:
            EvidenceKeyInvalid: There is none, others may read it, or it holds no such key.
        """
        try:
            with Path(path).open("rb") as file:
                _refuse_shared(file.fileno())
                content = SecretBytes(file.read(_MOST_BYTES))
        except OSError as error:
            raise EvidenceKeyInvalid(
                f"The evidence key file cannot be read: {error.strerror}. Nothing was signed. "
                f"{_MAKE}"
            ) from None
        return cls.from_text(content.reveal().decode("ascii", "replace").strip())

    @classmethod
    def from_environment(cls) -> EvidenceKey:
        """Read ``LANGMEM_ISOLATED_EVIDENCE_KEY``, or the file that ``…_FILE`` names.

        Raises:
            EvidenceKeyInvalid: Neither is set, or what is set is no such key.
        """
        if os.environ.get(EVIDENCE_KEY_VARIABLE):
            return cls.from_text(os.environ[EVIDENCE_KEY_VARIABLE])
        if path := os.environ.get(f"{EVIDENCE_KEY_VARIABLE}_FILE"):
            return cls.from_file(path)
        raise EvidenceKeyInvalid(
            f"No evidence key: set {EVIDENCE_KEY_VARIABLE} (or {EVIDENCE_KEY_VARIABLE}_FILE, a "
            f"path), or give one. Nothing was signed. {_MAKE}"
        )

    @property
    def public_text(self) -> str:
        """What verifies its signatures, for others to pin before they are shown a report."""
        return f"{_PUBLIC}{_encoded(self._key.public)}"

    @property
    def public(self) -> bytes:
        """The same, 32 bytes."""
        return self._key.public

    def sign(self, message: bytes) -> bytes:
        """Its signature, 64 bytes."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"EvidenceKey({self.public_text!r})"

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")


def public_key(text: str) -> bytes:
    """The 32 bytes of a public key in the form that ``evidence keygen`` prints.

    Raises:
        EvidenceKeyInvalid: The text is anything else.
    """
    found = _decoded(_PUBLIC, text)
    if found is None:
        received, text = _described(text), ""
        raise EvidenceKeyInvalid(
            f"A public key must be {_PUBLIC} and {KEY_BYTES} bytes in base64, got {received}. "
            "`langmem-isolated evidence keygen` printed it; a report's own is not to be believed."
        )
    return found.reveal()


def _encoded(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def _decoded(prefix: str, text: object) -> SecretBytes | None:
    if not isinstance(text, str) or not text.strip().startswith(prefix):
        return None
    body = text.strip().removeprefix(prefix)
    try:
        found = SecretBytes(base64.b64decode(f"{body}=", b"-_", validate=True))
    except (binascii.Error, ValueError):
        return None
    # One text for each key: other bits behind the last byte would be another.
    is_whole = len(found) == KEY_BYTES and _encoded(found.reveal()) == body
    return found if is_whole else None


def _described(text: object) -> str:
    if not isinstance(text, str):
        return kind_of(text)
    if text.strip().startswith(_SECRET):
        return "a secret key, or most of one"
    if text.strip().startswith(_PUBLIC):
        return "a public key, or most of one"
    return f"another text of {len(text)} characters"


def _refuse_shared(descriptor: int) -> None:
    if os.name != "posix":
        return
    status = os.fstat(descriptor)
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & _OTHERS:
        raise EvidenceKeyInvalid(
            "The evidence key file belongs to another user, or others may read it. Nothing was "
            "signed. Run `chmod 600` on it; if others may have read it, make another pair."
        )
