"""Header codec: what sessions and threads seal of themselves, as versioned bytes."""

from typing import NamedTuple

from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated._codecs.versions import later_form

HEADER_V1 = b"\x01"


class Header(NamedTuple):
    """What a session's row seals: its own id, and what people call it."""

    session_id: str
    title: str | None = None
    channel: str | None = None
    summary: str | None = None
    summarized: int | None = None
    """The summary stands for the messages with a sequence number below this."""


# The fields of the first version; headers without later ones keep their bytes.
_ALWAYS_STORED = ("session_id", "title", "channel")


def encode_header(header: Header) -> bytes:
    """A header as versioned bytes."""
    kept = {n: v for n, v in header._asdict().items() if v is not None or n in _ALWAYS_STORED}
    return HEADER_V1 + encode_value(kept, "a session's header")


def decode_header(plaintext: bytes) -> Header:
    """What :func:`encode_header` was given; fields that a later version added are left out.

    Raises:
        RecordError: A later version of this package wrote it in another form.
    """
    if plaintext[:1] != HEADER_V1:
        raise later_form("session's header", plaintext[:1], HEADER_V1)
    fields = decode_value(plaintext[1:])
    return Header(**{name: fields.get(name) for name in Header._fields})
