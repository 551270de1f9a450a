"""Time stamps (RFC 3161): asked for by a hash, and verified by the roots of who signs them.

The one home of `rfc3161-client` (extra ``evidence``), which is imported when a stamp is asked for
or verified.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, NamedTuple

from cryptography import x509

_EXTRA = "Time stamps need another package: pip install 'langmem-isolated[evidence]'."


class TimeStampRefused(Exception):
    """A response is no time stamp of what was asked; the text quotes nothing of it."""


class StampRequest(NamedTuple):
    """A request for a stamp."""

    der: bytes
    nonce: int
    imprint: bytes


def request_for(content: bytes) -> StampRequest:
    """A request for a stamp over the SHA-512 of ``content``, with a nonce.

    Raises:
        ImportError: The extra ``evidence`` is not installed.
    """
    made = _library().TimestampRequestBuilder().data(content).build()
    return StampRequest(made.as_bytes(), made.nonce, made.message_imprint.message)


def checked_response(response: bytes, request: StampRequest) -> bytes:
    """``response``, DER, if it grants a stamp for the hash and the nonce of ``request``.

    Who signed it is not verified.

    Raises:
        TimeStampRefused: It does not.
    """
    told = _decoded(_library(), response).tst_info
    if (told.nonce, told.message_imprint.message) != (request.nonce, request.imprint):
        raise TimeStampRefused("the answer is to another request")
    return response


def stamped_at(response: bytes, content: bytes, roots: Sequence[bytes]) -> datetime:
    """When a stamp over ``content`` was signed, by the word of an authority under one of ``roots``.

    Args:
        response: What the authority answered, DER.
        content: What was stamped.
        roots: Certificates, PEM, several in one if need be.

    Raises:
        TimeStampRefused: It is of something else, or signed by nobody under these roots.
    """
    library = _library()
    found = _decoded(library, response)
    builder = library.VerifierBuilder(roots=_certificates(roots))
    try:
        builder.build().verify_message(found, content)
    except (library.VerificationError, ValueError) as error:
        raise TimeStampRefused(f"it does not verify ({type(error).__name__})") from None
    moment: datetime = found.tst_info.gen_time
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _certificates(roots: Sequence[bytes]) -> list[x509.Certificate]:
    try:
        found = [one for root in roots for one in x509.load_pem_x509_certificates(root)]
    except ValueError:
        raise TimeStampRefused("a root is no certificate in PEM") from None
    if not found:
        raise TimeStampRefused("no root was given that it could be signed under")
    return found


def _decoded(library: Any, response: bytes) -> Any:
    try:
        found = library.decode_timestamp_response(response)
    except ValueError:
        raise TimeStampRefused("the answer is no response of RFC 3161") from None
    if library.PKIStatus(found.status) != library.PKIStatus.GRANTED:
        raise TimeStampRefused("the authority did not grant it")
    return found


def _library() -> Any:
    try:
        return import_module("rfc3161_client")
    except ImportError:
        raise ImportError(_EXTRA) from None
