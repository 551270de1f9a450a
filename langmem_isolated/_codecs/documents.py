"""Document codec: documents as versioned bytes, and back."""

from langchain_core.documents import Document

from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated._codecs.versions import later_form

DOCUMENT_V1 = b"\x01"


def encode_document(id_: str, document: Document) -> bytes:
    """A document under an id as versioned bytes.

    Raises:
        ValueNotStorable: Metadata hold a value that :func:`encode_value` refuses.
    """
    return DOCUMENT_V1 + encode_value([id_, document.page_content, document.metadata], "a document")


def document_id(plaintext: bytes) -> str:
    """The id that :func:`encode_document` was given.

    Raises:
        RecordError: A later version of this package wrote it.
    """
    if plaintext[:1] != DOCUMENT_V1:
        raise later_form("document", plaintext[:1], DOCUMENT_V1)
    id_: str = decode_value(plaintext[1:])[0]
    return id_


def with_id(plaintext: bytes, id_: str) -> bytes:
    """The document under another id."""
    return encode_document(id_, decode_document(plaintext))


def decode_document(plaintext: bytes) -> Document:
    """What :func:`encode_document` was given.

    Raises:
        RecordError: A later version of this package wrote it.
    """
    if plaintext[:1] != DOCUMENT_V1:
        raise later_form("document", plaintext[:1], DOCUMENT_V1)
    id_, page_content, metadata = decode_value(plaintext[1:])
    return Document(id=id_, page_content=page_content, metadata=metadata)
