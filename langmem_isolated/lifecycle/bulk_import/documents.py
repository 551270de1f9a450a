"""Documents of an import: many in a transaction, with their embeddings, read back one by one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from langchain_core.documents import Document

from langmem_isolated._adapters.embedding_calls import packed
from langmem_isolated._codecs.documents import decode_document, encode_document
from langmem_isolated._codecs.headers import CollectionHeader
from langmem_isolated._codecs.refusals import NotStorable
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._search.embedding_models import embedding_model_name
from langmem_isolated._storage.container_state import BIRTH_BYTES
from langmem_isolated._storage.copying import import_marks
from langmem_isolated._storage.copying.imported import Taken
from langmem_isolated._storage.copying.options import Added
from langmem_isolated._storage.documents import collection, writing
from langmem_isolated._storage.documents.unit_of_work import NewDocument
from langmem_isolated.errors import EmbeddingModelChanged, ImportNotVerified
from langmem_isolated.lifecycle.bulk_import.canonical import digest
from langmem_isolated.lifecycle.bulk_import.messages import REFUSALS
from langmem_isolated.lifecycle.bulk_import.outcome import (
    REJECTED,
    OnReject,
    OnTaken,
    PutOutcome,
)
from langmem_isolated.lifecycle.bulk_import.records import ForeignDocument, Rejected
from langmem_isolated.lifecycle.bulk_import.target import Target
from langmem_isolated.lifecycle.bulk_import.times import microseconds
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

_Address = tuple[str, str]
_Found = dict[_Address, bytes]


class _New(NamedTuple):
    """A document on its way in, and by what it is compared."""

    unit: ForeignDocument
    new: NewDocument
    said: bytes

    @property
    def address(self) -> _Address:
        """Its collection and id."""
        return self.unit.collection, self.unit.id

    @property
    def added(self) -> Added:
        """What a journal calls it."""
        return Added(Kind.DOCUMENT, (self.unit.collection.encode(), self.new.name))


class DocumentImport:
    """Puts foreign documents into scopes.

    Args:
        embeddings: Embed those whose source has no embedding for them.
    """

    def __init__(self, embeddings: Embeddings | None) -> None:
        self._embeddings = embeddings

    @cached_property
    def _model(self) -> str | None:
        return None if self._embeddings is None else embedding_model_name(self._embeddings)

    def put(
        self,
        target: Target,
        units: Sequence[ForeignDocument],
        on_reject: OnReject,
        on_taken: OnTaken,
    ) -> list[PutOutcome]:
        """Put some in, or find them there; see `BulkImport.put_many`."""
        made = [self._made(target, unit, on_reject) for unit in units]
        first: dict[_Address, _New] = {}
        for new_one in filter(None, made):
            first.setdefault(new_one.address, new_one)
        there = _there(target, [*first])
        new = [one for address, one in first.items() if address not in there]
        refused = self._put_new(target, self._embedded(new), there, on_reject)
        outcomes = []
        for one in made:
            if one is None or one.address in refused:
                outcomes.append(REJECTED)
            elif one.address not in there and first[one.address] is one:
                outcomes.append(PutOutcome("copied", 1, len(one.new.body)))
            elif there.get(one.address, first[one.address].said) == one.said:
                outcomes.append(PutOutcome("present", 1))
            else:
                outcomes.append(on_taken(one.unit, Kind.DOCUMENT.label))
        return outcomes

    def _made(self, target: Target, unit: ForeignDocument, on_reject: OnReject) -> _New | None:
        try:
            checked_id("collection", unit.collection)
            name = checked_id("id", unit.id).encode()
            if type(unit.text) is not str or not isinstance(unit.metadata, Mapping):
                raise NotStorable("it must have text, and a dict of metadata")
            metadata = dict(unit.metadata)
            body = encode_document(unit.id, Document(unit.text, metadata=metadata))
            target.limits.check("document_bytes", len(body))
            new = NewDocument(name, body, self._own(unit), microseconds(unit.stored_at))
            return _New(unit, new, digest([unit.id, unit.text, metadata]))
        except REFUSALS as refusal:
            on_reject(Rejected(unit.place, str(refusal)))
            return None

    def _own(self, unit: ForeignDocument) -> bytes:
        """The embedding that its source has; nothing where it is to be made."""
        if unit.embedding is None:
            if self._embeddings is None:
                raise NotStorable("it has no embedding, and the import was given no embeddings")
            return b""
        try:
            return packed([unit.embedding], 1)[0]
        except ValueError:
            raise NotStorable("its embedding must be a list of finite numbers") from None

    def _embedded(self, new: Sequence[_New]) -> list[_New]:
        bare = [one for one in new if not one.new.embedding]
        if not bare or self._embeddings is None:
            return [*new]
        texts = [one.unit.text for one in bare]
        vectors = packed(self._embeddings.embed_documents(texts), len(texts))
        made = {
            one.address: one._replace(new=one.new._replace(embedding=vector))
            for one, vector in zip(bare, vectors, strict=True)
        }
        return [made.get(one.address, one) for one in new]

    def _put_new(
        self, target: Target, new: Sequence[_New], there: _Found, on_reject: OnReject
    ) -> set[_Address]:
        """Put in by collections, a transaction each; those that do not fit into theirs.

        What somebody else has put there meanwhile is added to what is ``there``, and stays.
        """
        groups: dict[tuple[str, bool, int], list[_New]] = {}
        for one in new:
            is_made = one.unit.embedding is None
            key = one.unit.collection, is_made, len(one.new.embedding)
            groups.setdefault(key, []).append(one)
        refused: set[_Address] = set()
        for (name, is_made, _), group in groups.items():
            header = CollectionHeader(name, self._model if is_made else None)
            try:
                self._put_group(target, header, group, there)
            except EmbeddingModelChanged as refusal:
                refused |= {one.address for one in group}
                for one in group:
                    on_reject(Rejected(one.unit.place, str(refusal)))
        return refused

    def _put_group(
        self, target: Target, header: CollectionHeader, group: Sequence[_New], there: _Found
    ) -> None:
        while group := [one for one in group if one.address not in there]:
            documents = [one.new for one in group]
            birth, names = os.urandom(BIRTH_BYTES), [one.added for one in group]
            try:
                target.write_noted(names, _put, target.token, header, documents, birth, now())
            except Taken:
                there |= _there(target, [one.address for one in group])
            else:
                self._verify(target, group)
                return

    def _verify(self, target: Target, group: Sequence[_New]) -> None:
        """Read documents as a vector store does, and compare.

        Raises:
            ImportNotVerified: One is not what the source has.
        """
        found = _there(target, [one.address for one in group])
        for one in group:
            with target.comparing(one.added):
                if found.get(one.address) != one.said:
                    raise ImportNotVerified(one.unit.place, "its text or metadata")


def _put(
    transaction: Transaction,
    keys: ScopeKeys,
    token: bytes,
    header: CollectionHeader,
    documents: Sequence[NewDocument],
    birth: bytes,
    moment: int,
) -> None:
    name = header.collection.encode()
    if collection.find(transaction, keys, name) is None:
        import_marks.note_collection(transaction, keys, token, name)
    given = transaction, keys, name, header, documents, birth, moment
    if not writing.put(*given, replaces=False):
        raise Taken


def _there(target: Target, addresses: Sequence[_Address]) -> _Found:
    """What documents say, as a vector store reads them, of those that are there."""
    nothing: _Found = {}
    return target.records.snapshot(_read, nothing, addresses) if addresses else nothing


def _read(transaction: Transaction, keys: ScopeKeys, addresses: Sequence[_Address]) -> _Found:
    by_collection: dict[str, list[str]] = {}
    for name, id_ in addresses:
        by_collection.setdefault(name, []).append(id_)
    found: _Found = {}
    for name, ids in by_collection.items():
        if (of := collection.find(transaction, keys, name.encode())) is None:
            continue
        digests = [of.document_digest(id_.encode()) for id_ in ids]
        for id_, stored in zip(ids, of.at(digests), strict=True):
            if stored is not None:
                document = decode_document(stored.body)
                said = [document.id, document.page_content, document.metadata]
                found[name, id_] = digest(said)
    return found
