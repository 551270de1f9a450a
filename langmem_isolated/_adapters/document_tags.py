"""Owner tags (keyed MACs) on documents in stores and retrievers that are not ours.

A tagged document bears three metadata keys: whose it is, its id, and a MAC over id and text that
only the owner's key can make. So no stamp can be made up, or copied onto another document. Other
metadata are not part of it: stores and retrievers add, drop and round them. Sealing covers all.
"""

import base64
import binascii
import json
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from langchain_core.documents import Document

from langmem_isolated._adapters.vector_store_arguments import check_documents
from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import equal, framed, key_id_of
from langmem_isolated._runtime.limits import Limits
from langmem_isolated._runtime.operations import Operation, Operations
from langmem_isolated._storage.scoped_database import Owned
from langmem_isolated.errors import IsolationViolation, RecordDoesNotOpen

RESERVED = "langmem_"
OWNER, ID, STAMP = "langmem_owner", "langmem_id", "langmem_stamp"
_TAG_KEYS = {OWNER, ID, STAMP}

# Four parts: names of documents in our own collections have fewer, so none is ever the same.
_WHOSE, _WHERE, _WHAT, _MARK = b"owner", b"stored id", b"stamp", b"mark"
_ELSEWHERE = b"documents elsewhere"


S = TypeVar("S", bound=Owned)


class OwnerKeys(Owned, Protocol):
    """What gives an owner's keys: `ScopedDatabase`, or a stand-in for a probe."""

    operations: Operations

    def having_records(self, sources: Sequence[S]) -> list[S]:
        """Those of ``sources`` whose owner has stored anything."""

    def living_keys(self) -> ScopeKeys:
        """The owner's keys, made at first use, if its life goes on at this moment."""

    def find_living_keys(self) -> ScopeKeys | None:
        """The owner's keys, or ``None`` when it has stored nothing, or its life is over."""

    def check_life(self, keys: ScopeKeys) -> ScopeKeys:
        """The keys that seal by now; `KeyDestroyed` if the life that ``keys`` are of is over."""

    def refuse_if_ended(self) -> None:
        """Raise `KeyDestroyed` if the life that was met here is over."""

    def rotated_keys(self, keys: ScopeKeys, key_id: bytes | None) -> ScopeKeys | None:
        """The owner's keys as they are now, if they have come to include ``key_id``."""

    @property
    def write(self) -> Callable[..., Any]:
        """Runs an operation in a transaction that writes."""

    @property
    def limits(self) -> Limits:
        """How much one call may bring."""

    @property
    def arun(self) -> Callable[..., Awaitable[Any]]:
        """Runs a synchronous body in a worker thread."""


class OwnerTags:
    """One owner's tags: made on documents that go out, checked and taken off when they return."""

    def __init__(self, records: OwnerKeys, keys: ScopeKeys) -> None:
        self._records = records
        self._keys = keys
        self.owner = self._digest(_WHOSE, b"", b"").hex()

    def stored_id(self, name: str) -> str:
        """The id by which a foreign store knows a document: a keyed digest in the form of a UUID.

        Another owner's document of the same id has another one.
        """
        return str(uuid.UUID(bytes=self._digest(_WHERE, _bytes(name), b"")))

    def tagged(self, document: Document) -> Document:
        """The document, which must have an id, with this owner's tags."""
        name = _name(document)
        tags = {
            OWNER: self.owner,
            ID: json.dumps(name),
            STAMP: self._stamp(name, document.page_content),
        }
        return Document(
            id=name, page_content=document.page_content, metadata=document.metadata | tags
        )

    def placed(self, document: Document) -> Document:
        """The tagged document under the id that a foreign store shall know it by."""
        tagged, id_ = self.tagged(document), self.stored_id(_name(document))
        return Document(id=id_, page_content=tagged.page_content, metadata=tagged.metadata)

    def untagged(self, document: Document) -> Document:
        """The document as it was before :meth:`tagged`.

        Raises:
            IsolationViolation: The tags are not those of this owner on this document.
        """
        metadata = document.metadata
        try:
            name = json.loads(metadata[ID])
            expected = self._stamp(name, document.page_content)
            is_valid = equal(_bytes(metadata[STAMP]), expected.encode())
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            is_valid = False
        if not is_valid or metadata.get(OWNER) != self.owner:
            raise violation()
        kept = {key: value for key, value in metadata.items() if key not in _TAG_KEYS}
        return Document(id=name, page_content=document.page_content, metadata=kept)

    def mark(self, document: Document) -> str:
        """A keyed digest of all of a document, by which it is known to be what it was."""
        body = json.dumps(document.metadata, sort_keys=True, default=repr)
        parts = (_name(document), document.page_content, body)
        return self._digest(_MARK, b"", framed(*map(_bytes, parts))).hex()

    def _stamp(self, name: str, text: str) -> str:
        return self._digest(_WHAT, _bytes(name), _bytes(text)).hex()

    def _digest(self, purpose: bytes, *parts: bytes) -> bytes:
        return self._keys.pseudonym(Kind.DOCUMENT, _ELSEWHERE, purpose, *parts)


class SealedTags(OwnerTags):
    """Owner tags that hide the document: id, text and metadata become sealed bytes, in base64."""

    def tagged(self, document: Document) -> Document:
        """The document sealed: only its owner's digest is left to be filtered by."""
        name = _name(document)
        body = encode_value([name, document.page_content, document.metadata], "a document")
        sealed = self._keys.seal(self._place, self._digest(_WHERE, _bytes(name), b""), body)
        text = base64.b64encode(sealed).decode()
        return Document(id=name, page_content=text, metadata={OWNER: self.owner})

    def untagged(self, document: Document) -> Document:
        """The document opened; its ``id`` must be the one it is stored under.

        Raises:
            IsolationViolation: It was not sealed by this owner, or for another id.
        """
        try:
            stored_at = uuid.UUID(document.id).bytes
            sealed = base64.b64decode(document.page_content, validate=True)
            body = self._opened(stored_at, sealed)
        except (AttributeError, RecordDoesNotOpen, TypeError, binascii.Error, ValueError):
            body = None
        if body is None or document.metadata.get(OWNER) != self.owner:
            raise violation()
        name, text, metadata = decode_value(body)
        return Document(id=name, page_content=text, metadata=metadata)

    def resealed(self, document: Document) -> Document | None:
        """A stored document under the key that seals now; ``None`` for one that is, or is clear.

        Raises:
            RecordDoesNotOpen: It was changed, or brought from another place.
        """
        if ID in document.metadata:
            return None
        try:
            stored_at = uuid.UUID(document.id).bytes
            sealed = base64.b64decode(document.page_content, validate=True)
        except (AttributeError, TypeError, ValueError):
            raise RecordDoesNotOpen(Kind.DOCUMENT.label, "it is not sealed") from None
        if key_id_of(sealed) not in self._keys.former:
            return None
        new = self._keys.resealed(self._place, stored_at, sealed, Kind.DOCUMENT)
        text = base64.b64encode(new).decode()
        return Document(id=document.id, page_content=text, metadata=document.metadata)

    @property
    def _place(self) -> bytes:
        return self._keys.aad_prefix(Kind.DOCUMENT, _ELSEWHERE)

    def _opened(self, stored_at: bytes, sealed: bytes) -> bytes:
        try:
            return self._keys.open(self._place, stored_at, sealed, Kind.DOCUMENT)
        except RecordDoesNotOpen as error:
            # Another process may have rotated the keys meanwhile.
            fresh = self._records.rotated_keys(self._keys, error.key_id)
            if fresh is None:
                raise
        return fresh.open(self._place, stored_at, sealed, Kind.DOCUMENT)


class ResultGuard:
    """Result guard: tags documents for retrievers that are not ours, and checks what these return.

    Args:
        records: Whose documents may be read; the first is whose are stamped.
    """

    def __init__(self, records: Sequence[OwnerKeys]) -> None:
        self._records = records

    def stamped(self, documents: Iterable[Document]) -> list[Document]:
        """Copies of ``documents`` with the first owner's stamps; a missing id is made.

        What cuts a document into pieces must come before: a piece is another document.

        Raises:
            ValueError: Metadata hold a key that begins with ``langmem_``.
            KeyDestroyed: The owner was erased, or is being erased.
        """
        keys = self._records[0].living_keys()
        keys.refuse_if_locked()
        tags = OwnerTags(self._records[0], keys)
        return [tags.tagged(prepared(document)) for document in check_documents(documents)]

    def checked(self, documents: Iterable[Document]) -> list[Document]:
        """The documents without their stamps.

        Raises:
            IsolationViolation: One has no valid stamp of an owner that may be read; none is
                handed out.
            KeyDestroyed: The owner was erased, or is being erased, and documents came all the same.
        """
        owners = readable(self._records, OwnerTags)
        try:
            return [whose(document, owners).untagged(document) for document in documents]
        except IsolationViolation:
            # Those of a life that is over are nobody's damage.
            self._records[0].refuse_if_ended()
            raise

    def observing(self) -> AbstractContextManager[Operation]:
        """A context for one search: observers are told of it, whoever searches."""
        records = self._records[0]
        return records.operations.observing("search_memory", "document", records.owner)

    async def achecked(self, documents: Iterable[Document]) -> list[Document]:
        """The documents without their stamps; see :meth:`checked`."""
        checked: list[Document] = await self._records[0].arun(self.checked, documents)
        return checked


def readable(records: Sequence[OwnerKeys], kind: type[OwnerTags]) -> dict[str, OwnerTags]:
    """The tags of every owner that has stored anything, by its value in ``langmem_owner``.

    Asked of the database anew each time: an owner that was erased in another process is not there.
    """
    found = [(one, one.find_living_keys()) for one in records[0].having_records(records)]
    for _, keys in found:
        if keys:
            keys.refuse_if_locked()
    tags = [kind(one, keys) for one, keys in found if keys]
    return {one.owner: one for one in tags}


def whose(document: Document, owners: Mapping[str, OwnerTags]) -> OwnerTags:
    """The tags of the owner that ``document`` claims to be of, or `IsolationViolation`."""
    owner = document.metadata.get(OWNER)
    if not isinstance(owner, str) or owner not in owners:
        raise violation()
    return owners[owner]


def prepared(document: Document, id_: str | None = None) -> Document:
    """``document`` with an id: ``id_``, its own or a new UUID.

    Raises:
        ValueError: Metadata hold a key that begins with ``langmem_``.
    """
    refuse_reserved(document.metadata, nested=False)
    return Document(
        id=id_ or document.id or str(uuid.uuid4()),
        page_content=document.page_content,
        metadata=document.metadata,
    )


def refuse_reserved(value: Any, *, nested: bool) -> None:
    """Raise `ValueError` if a key begins with ``langmem_``: only our own code writes those."""
    if isinstance(value, Mapping):
        if any(isinstance(key, str) and key.startswith(RESERVED) for key in value):
            raise ValueError(
                f"Metadata keys that begin with {RESERVED!r} are reserved. Rename them. Nothing "
                "was written."
            )
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    if nested:
        for part in value:
            refuse_reserved(part, nested=True)


def violation() -> IsolationViolation:
    """What is raised instead of handing a document out; it quotes nothing."""
    return IsolationViolation(
        "A document came back that bears no valid mark of an owner this scope may read: it is "
        "another's, was changed, or was written past this package. Nothing was handed out. What is "
        "this scope's is written through scope.vector_store(wrapping=…), with the same seal=, or "
        "with what scope.stamped(documents) gives."
    )


def _name(document: Document) -> str:
    assert document.id is not None
    return document.id


def _bytes(text: str) -> bytes:
    # Lone surrogates are for the store to refuse, not for a digest to fail on and quote.
    return text.encode("utf-8", "surrogatepass")
