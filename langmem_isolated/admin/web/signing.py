"""Keyed digests of pages: CSRF tokens, and references that stand for names in paths."""

import base64
import hmac
import json
import secrets
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from langmem_isolated._runtime.arguments import kind_of

Named = TypeVar("Named")

FEWEST_BYTES = 32
# A form that stood open over a working day can still be sent.
TOKEN_SECONDS = 12 * 3600
_TIME_BYTES = 8
_REFERENCE_BYTES = 16


class Signer:
    """HMAC-SHA256 under a secret of the pages, for one purpose each; the secret has no ``repr``.

    Args:
        secret: At least 32 random bytes, the same in every process that serves these pages; by
            default drawn anew, which is enough for one process.
        clock: Seconds since 1970.

    Raises:
        TypeError: ``secret`` is not bytes.
        ValueError: It is shorter than 32 bytes.
    """

    def __init__(self, secret: bytes | None = None, clock: Callable[[], float] = time.time) -> None:
        self._secret = secrets.token_bytes(FEWEST_BYTES) if secret is None else _checked(secret)
        self._clock = clock

    def csrf_token(self, subject: str) -> str:
        """A token for the forms of ``subject``, whoever the request was authenticated as.

        It is bound to the subject, so that one user's is of no use to another, and ends after 12
        hours: the HMAC-based token pattern of OWASP's cheat sheet on CSRF.
        """
        moment = int(self._clock()).to_bytes(_TIME_BYTES)
        return _text(moment + self._token_mac(subject, moment))

    def is_csrf_token(self, subject: str, token: str) -> bool:
        """Whether ``token`` was made for ``subject`` within the last 12 hours."""
        try:
            plain = base64.urlsafe_b64decode(token.encode("ascii") + b"==")
        except ValueError:
            return False
        moment, mac = plain[:_TIME_BYTES], plain[_TIME_BYTES:]
        is_ours = hmac.compare_digest(mac, self._token_mac(subject, moment))
        return is_ours and 0 <= self._clock() - int.from_bytes(moment) <= TOKEN_SECONDS

    def _token_mac(self, subject: str, moment: bytes) -> bytes:
        return self._mac("csrf", subject, moment.hex())

    def reference(self, *names: str) -> str:
        """What stands for names in paths and forms: tells nothing of them, and is not guessed."""
        return _text(self._mac("reference", *names)[:_REFERENCE_BYTES])

    def named_by(
        self, reference: str, found: Iterable[Named], names: Callable[[Named], tuple[str, ...]]
    ) -> Named | None:
        """That one of ``found`` for whose names ``reference`` stands; ``None`` if there is none."""
        wanted = reference.encode(errors="replace")
        return next(
            (
                one
                for one in found
                if hmac.compare_digest(self.reference(*names(one)).encode(), wanted)
            ),
            None,
        )

    def _mac(self, *parts: str) -> bytes:
        # JSON keeps the parts apart.
        return hmac.digest(self._secret, json.dumps(parts).encode(), "sha256")


def _text(plain: bytes) -> str:
    return base64.urlsafe_b64encode(plain).rstrip(b"=").decode()


def _checked(secret: object) -> bytes:
    advice = "Make one with secrets.token_bytes(32), and keep it with the root key."
    if not isinstance(secret, bytes):
        raise TypeError(f"secret must be bytes, got {kind_of(secret)}. {advice}")
    if len(secret) < FEWEST_BYTES:
        raise ValueError(f"secret must be 32 bytes or more, got {len(secret)}. {advice}")
    return secret
