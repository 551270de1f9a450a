"""Header codec: what sessions, threads and collections seal of themselves, as versioned bytes."""

from typing import NamedTuple

from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated._codecs.versions import later_form

HEADER_V1 = b"\x01"
# Of a map with one pair: collections began without a version.
_WITHOUT_VERSION = b"\x81"


class Header(NamedTuple):
    """What a session's row seals: its own id, and what people call it."""

    session_id: str
    title: str | None = None
    channel: str | None = None
    summary: str | None = None
    summarized: int | None = None
    """The summary stands for the messages with a sequence number below this."""
    origin: str | None = None
    """Where it came from, if it did not begin here."""
    is_untrusted: bool | None = None
    """Whether it came from elsewhere, and nobody has confirmed it; ``None`` if not."""


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


class CollectionHeader(NamedTuple):
    """What a collection's row seals: its own name, and by which model it is embedded."""

    collection: str
    embedding_name: str | None = None
    """``None`` until a store that knows it writes."""


def encode_collection(header: CollectionHeader) -> bytes:
    """A collection's header as versioned bytes."""
    kept = {name: value for name, value in header._asdict().items() if value is not None}
    return HEADER_V1 + encode_value(kept, "a collection's header")


def decode_collection(plaintext: bytes) -> CollectionHeader:
    """What :func:`encode_collection` was given; later fields are left out.

    Raises:
        RecordError: A later version of this package wrote it in another form.
    """
    version = plaintext[:1]
    if version not in (HEADER_V1, _WITHOUT_VERSION):
        raise later_form("collection's header", version, HEADER_V1)
    fields = decode_value(plaintext[1:] if version == HEADER_V1 else plaintext)
    return CollectionHeader(**{name: fields.get(name) for name in CollectionHeader._fields})
