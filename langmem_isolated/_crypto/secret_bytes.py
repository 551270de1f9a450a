"""Secret bytes: keys that no representation, pickle or traceback with locals shows."""

import hmac
import os
from typing import ClassVar

KEY_BYTES = 32


class SecretBytes:
    """The bytes of a key, shown by nothing but :meth:`reveal`.

    Error reporters print the local variables of every frame (`capture_locals`, `rich`, Sentry). A
    key stands in none of them as bytes: it is revealed only inside the call that uses it up.

    Raises:
        TypeError: ``value`` is not bytes.
    """

    __slots__ = ("_value",)
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __init__(self, value: bytes) -> None:
        if type(value) is not bytes:
            raise TypeError(f"a key must be bytes, got {type(value).__name__}")
        self._value = value

    @classmethod
    def random(cls) -> "SecretBytes":
        """A new key: 32 bytes of the operating system's."""
        return cls(os.urandom(KEY_BYTES))

    def reveal(self) -> bytes:
        """The bytes, for the call that uses them: never for a variable."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretBytes):
            return NotImplemented
        return hmac.compare_digest(self._value, other.reveal())

    def __repr__(self) -> str:
        return f"SecretBytes({len(self._value)} bytes)"

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")
