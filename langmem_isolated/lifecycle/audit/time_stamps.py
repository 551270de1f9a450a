"""Time stamps on anchors: somebody else signs when an anchor was there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

from langmem_isolated._crypto.time_stamps import TimeStampRefused, request_for, stamped_at
from langmem_isolated._crypto.time_stamps import checked_response as checked
from langmem_isolated._runtime.arguments import callback, kind_of
from langmem_isolated.errors import AnchorRefused

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.audit.anchors import Anchor

_SECONDS = 30
_MOST_BYTES = 1 << 20
_ASKED = "application/timestamp-query"


class TimeStamps:
    """Has each anchor stamped by an authority of RFC 3161, and hands it on with the stamp.

    The authority learns a hash of the anchor (SHA-512). Needs the extra ``evidence``.

    Args:
        authority: The address to which requests are posted, ``https://…`` or ``http://…``, or a
            function that takes a request, DER, and returns the response.
        keep: Where stamped anchors go: an `AnchorFile`, or any function.
        roots: Certificates of the authority's roots, PEM; :meth:`verify` needs them.

    Raises:
        TypeError: ``authority`` is neither, or ``keep`` no function.
        ValueError: The address is one of another kind.
    """

    def __init__(
        self,
        authority: str | Callable[[bytes], bytes] = "",
        keep: Callable[[Anchor], object] = lambda _: None,
        *,
        roots: Sequence[bytes] = (),
    ) -> None:
        callback("keep", keep, example='keep=AnchorFile("anchors.jsonl")')
        if not isinstance(authority, str) and not callable(authority):
            raise TypeError(f"authority must be an address, got {kind_of(authority)}.")
        if authority and isinstance(authority, str):
            _refuse_other_addresses(authority)
        self._authority, self._keep, self._roots = authority, keep, tuple(roots)

    def __call__(self, anchor: Anchor) -> None:
        """Have an anchor stamped, and keep it.

        Raises:
            AnchorRefused: The authority cannot be reached, or did not grant it; nothing was kept.
        """
        try:
            request = request_for(anchor.stampable())
            response = checked(self._answer(request.der), request)
        except OSError as error:
            told = f"The time stamping authority cannot be reached ({type(error).__name__})."
            raise AnchorRefused(told) from None
        except TimeStampRefused as error:
            raise AnchorRefused(f"It has no time stamp: {error}.") from None
        self._keep(replace(anchor, stamp=response))

    def _answer(self, request: bytes) -> bytes:
        if callable(self._authority):
            return self._authority(request)
        asked = Request(self._authority, request, {"Content-Type": _ASKED})  # noqa: S310 - checked
        with urlopen(asked, timeout=_SECONDS) as answer:  # noqa: S310 - checked
            response: bytes = answer.read(_MOST_BYTES)
        return response

    def verify(self, anchor: Anchor) -> datetime:
        """When an anchor was stamped, by the word of an authority under the roots that were given.

        Raises:
            AnchorRefused: It has no stamp, or one of something else or of another authority.
        """
        if anchor.stamp is None:
            raise AnchorRefused("It has no time stamp.")
        try:
            return stamped_at(anchor.stamp, anchor.stampable(), self._roots)
        except TimeStampRefused as error:
            raise AnchorRefused(f"Its time stamp is refused: {error}.") from None


def _refuse_other_addresses(authority: str) -> None:
    if not authority.startswith(("https://", "http://")):
        raise ValueError(
            "authority must be an address that begins with https:// or http://, got another. "
            "Nothing was asked."
        )
