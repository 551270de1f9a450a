"""Records of an import: what a line of an export stands for, checked as what is stored anew is."""

from __future__ import annotations

import math
import re
from array import array
from typing import Any, NamedTuple

from langchain_core.documents import Document

from langmem_isolated._codecs.checkpoints.channel_versions import restored
from langmem_isolated._codecs.documents import encode_document
from langmem_isolated._codecs.foreign import (
    ForeignForms,
    check_message,
    checked_metadata,
    message_bytes,
)
from langmem_isolated._codecs.foreign_elements import Elements
from langmem_isolated._codecs.headers import (
    HEADER_V1,
    CollectionHeader,
    Header,
    decode_header,
)
from langmem_isolated._codecs.messages import MessageMetadata
from langmem_isolated._codecs.refusals import NotStorable
from langmem_isolated._codecs.values import encode_value, is_utf8
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.clock import SECOND
from langmem_isolated._runtime.limits import Limits
from langmem_isolated._storage.copying.containers import Line
from langmem_isolated._storage.copying.imported import Arrived, ArrivedCollection, ArrivedItem
from langmem_isolated._storage.documents.unit_of_work import NewDocument
from langmem_isolated._storage.items.addresses import MAX_DEPTH, Address
from langmem_isolated.errors import LimitExceeded, ScopeError, ValueNotStorable
from langmem_isolated.lifecycle.imports.fields import Fields, from_base64
from langmem_isolated.scope import checked_id

# What stands before the numbers of an item's vector, for its model.
_MODEL_BYTES = 16
_NUMBER_BYTES = 4
# The largest float32.
_LARGEST = 3.4e38
_HISTORY = {kind.label: kind for kind in (Kind.CHECKPOINT, Kind.WRITE, Kind.ELEMENT)}
_CHECKPOINT = re.compile(f"[0-9a-f]{{{2 * DIGEST_BYTES}}}")
# A column takes what it ends at, in whatever year it begins, and what is numbered yet.
_MOST_LIFETIME = 2**63 - 1 - 10_000 * 366 * 24 * 3600 * SECOND
_MOST_NUMBERED = 2**62
_LIFETIMES = ("idle_lifetime", "absolute_lifetime")


class Message(NamedTuple):
    """A message, its id if it has one, and its channel."""

    line: Line
    id: str | None
    channel: str | None


_Metadata = MessageMetadata | None


class Records:
    """Makes records of lines.

    Args:
        forms: Checks what was sealed.
        limits: How large each may be.
        is_known: Whether LangChain has made the messages of these lines before, so that it need
            not again. What was sealed is checked each time: only there a class can be.
    """

    def __init__(self, forms: ForeignForms, limits: Limits, *, is_known: bool) -> None:
        self._forms, self._limits, self._is_known = forms, limits, is_known

    def container(self, kind: Kind, fields: Fields) -> Arrived:
        """A session or thread, without what is below it."""
        header = self._header(fields.bytes("stored"))
        name = fields.id("id")
        if header.session_id != name:
            raise NotStorable("id is not the one that was sealed")
        lifetimes = [_lifetime(fields, one) for one in _LIFETIMES]
        if 0 in lifetimes:
            raise NotStorable("a lifetime must be above 0")
        next_sequence = fields.number("next_sequence")
        if next_sequence > _MOST_NUMBERED or (header.summarized or 0) > next_sequence:
            raise NotStorable("next_sequence is too large, or a summary stands for more than it")
        return Arrived(
            kind=kind,
            name=name,
            header=header,
            is_closed=fields.flag("closed"),
            is_archived=fields.flag("archived"),
            is_pinned=fields.flag("pinned"),
            idle_lifetime=lifetimes[0],
            absolute_lifetime=lifetimes[1],
            created_at=fields.time("created_at"),
            updated_at=fields.time("updated_at"),
            expires_at=fields.time_or_none("expires_at"),
            next_sequence=next_sequence,
            count=fields.number("count"),
            limits=_limits(fields) if kind is Kind.SESSION else None,
        )

    def collection(self, fields: Fields) -> ArrivedCollection:
        """A collection, without its documents."""
        header = CollectionHeader(fields.id("collection"), fields.text_or_none("embedded_by"))
        created_at, updated_at = fields.time("created_at"), fields.time("updated_at")
        return ArrivedCollection(header, created_at, updated_at, fields.number("count"))

    def _header(self, sealed: bytes) -> Header:
        if sealed[:1] != HEADER_V1 or type(self._forms.value(sealed[1:])) is not dict:
            raise NotStorable("stored has a form that this version does not know")
        header = decode_header(self._limits.checked_size("value_bytes", sealed))
        texts = (*header[:4], header.origin)
        are_texts = all(one is None or (type(one) is str and is_utf8(one)) for one in texts)
        summarized, mark = header.summarized, header.is_untrusted
        is_number = summarized is None or (type(summarized) is int and summarized >= 0)
        if not are_texts or not is_number or mark not in (None, True, False):
            raise NotStorable("stored is not of its types")
        return header

    def message(self, fields: Fields) -> Message:
        """A message of a session."""
        stored_at = fields.time("stored_at")
        plaintext, values, metadata = (
            self._sealed_message(fields) if "stored" in fields else self._readable_message(fields)
        )
        message_id = values.get("id")
        if metadata is not None and metadata.written != stored_at:
            raise NotStorable("written_at is not the time at which it was stored")
        has_alias = fields.flag("found_by_id")
        if has_alias and not (type(message_id) is str and message_id):
            raise NotStorable("found_by_id is true of a message without an id")
        self._limits.check("message_bytes", len(plaintext))
        key = fields.number("sequence").to_bytes(8)
        line = Line(Kind.MESSAGE, key, plaintext, stored_at, has_alias=has_alias)
        return Message(line, message_id, metadata and metadata.channel)

    def _sealed_message(self, fields: Fields) -> tuple[bytes, dict[str, Any], _Metadata]:
        plaintext = fields.bytes("stored")
        _, values, metadata = self._forms.message(plaintext)
        return plaintext, values, metadata

    def _readable_message(self, fields: Fields) -> tuple[bytes, dict[str, Any], _Metadata]:
        message = fields.dict("message")
        type_, values = message.get("type"), message.get("data")
        if type(type_) is not str or type(values) is not dict:
            raise NotStorable("message must have a type and an object of data")
        if not self._is_known:
            check_message(type_, values)
        written, form = fields.time_or_none("written_at"), fields.number("form")
        if form != (1 if written is None else 2):
            raise NotStorable("form is not the one that a message with these fields has")
        metadata = None
        if written is not None:
            beside = (fields.any(name) for name in ("channel", "untrusted", "tokens"))
            metadata = checked_metadata(written, *beside)
        return message_bytes(form, metadata, type_, values), values, metadata

    def history(self, fields: Fields, elements: Elements) -> Line | None:
        """A checkpoint, a task's writes or an element; ``None`` for what nothing reads.

        Args:
            fields: Of its line.
            elements: The thread's so far; another is added.
        """
        kind = _HISTORY.get(fields.text("record"))
        plaintext, stored_at = fields.bytes("stored"), fields.time("stored_at")
        if kind is None:
            raise NotStorable("record must be checkpoint, write or element")
        if kind is Kind.ELEMENT:
            return self._element(fields.number("number"), plaintext, stored_at, elements)
        name = fields.text("checkpoint")
        if not _CHECKPOINT.fullmatch(name):
            raise NotStorable(f"checkpoint must be {2 * DIGEST_BYTES} hexadecimal digits")
        namespace, key = fields.text_or_none("namespace"), bytes.fromhex(name)
        if namespace is not None and not is_utf8(namespace):
            raise NotStorable("namespace must be text that UTF-8 has a form for")
        structure = self._forms.body(plaintext, elements)
        if kind is Kind.CHECKPOINT:
            _check_checkpoint(structure, namespace)
        else:
            _check_writes(structure)
        if namespace is None:
            return None
        return Line(kind, key, plaintext, stored_at, namespace=namespace)

    def _element(self, number: int, plaintext: bytes, stored_at: int, elements: Elements) -> Line:
        elements.add(number, len(plaintext), self._forms.element(plaintext))
        return Line(Kind.ELEMENT, number.to_bytes(8), plaintext, stored_at)

    def item(self, fields: Fields) -> ArrivedItem:
        """An item of a store."""
        namespace, key = _labels(fields), fields.text("key")
        if not is_utf8(key):
            raise NotStorable("key must be text that UTF-8 has a form for")
        if "stored" in fields:
            body = fields.bytes("stored")
            value, *names = self._forms.value(body)
            if names != [key, *namespace]:
                raise NotStorable("key and namespace are not those that were sealed")
        else:
            value = fields.dict("value")
            body = encode_value([value, key, *namespace], "an item of a store")
        if type(value) is not dict:
            raise NotStorable("value must be an object")
        self._limits.check("value_bytes", len(body))
        vectors = [from_base64("vectors", one) for one in fields.list("vectors")]
        for vector in vectors:
            _check_numbers(vector[_MODEL_BYTES:])
        created, updated = fields.time("created_at"), fields.time("updated_at")
        if created > updated:
            raise NotStorable("created_at must not be after updated_at")
        lifetime, expires_at = _lifetime(fields, "lifetime"), fields.time_or_none("expires_at")
        if lifetime is not None and expires_at is None:
            # As far away as no calendar goes.
            expires_at = updated + lifetime
        if lifetime is None and expires_at is not None:
            raise NotStorable("expires_at is of an item that has a lifetime")
        address = Address(tuple(label.encode() for label in namespace), key.encode())
        return ArrivedItem(address, body, vectors, created, updated, lifetime, expires_at)

    def document(self, fields: Fields) -> NewDocument:
        """A document of a collection."""
        id_, text = fields.id("id"), fields.text("text")
        if "stored" in fields:
            body = fields.bytes("stored")
            sealed_id, text, metadata = self._forms.document(body)
            if sealed_id != id_:
                raise NotStorable("id is not the one that was sealed")
        else:
            metadata = fields.dict("metadata")
            body = encode_document(id_, Document(page_content=text, metadata=metadata))
        if type(text) is not str or type(metadata) is not dict:
            raise NotStorable("a document must have text and an object of metadata")
        self._limits.check("document_bytes", len(body))
        embedding = fields.bytes("embedding")
        _check_numbers(embedding)
        return NewDocument(id_.encode(), body, embedding, fields.time("stored_at"))


def _lifetime(fields: Fields, name: str) -> int | None:
    found = fields.number_or_none(name)
    if found is not None and found > _MOST_LIFETIME:
        raise NotStorable(f"{name} must be 0 to {_MOST_LIFETIME}, got another number")
    return found


def _limits(fields: Fields) -> tuple[bool, dict[str, int]] | None:
    if fields.any("limits") is None:
        return None
    told = fields.dict("limits")
    is_own, channels = told.get("own"), told.get("channels")
    if type(is_own) is not bool or type(channels) is not dict:
        raise NotStorable("limits must have own and channels")
    for name, limit in channels.items():
        _checked(name, "a channel")
        if type(limit) is not int or not 1 <= limit < 2**63:
            raise NotStorable("a limit must be a whole number of 1 or more")
    return is_own, channels


def _checked(value: object, what: str) -> str:
    try:
        return checked_id(what, value)
    except ScopeError as refusal:
        raise NotStorable(str(refusal)) from None


def _labels(fields: Fields) -> list[str]:
    labels = fields.list("namespace")
    are_labels = all(type(one) is str and one and is_utf8(one) for one in labels)
    if not are_labels or not 1 <= len(labels) <= MAX_DEPTH or labels[0] == "langgraph":
        raise NotStorable(f"namespace must be 1 to {MAX_DEPTH} labels, the first not langgraph")
    return labels


def _check_numbers(packed: bytes) -> None:
    if not packed or len(packed) % _NUMBER_BYTES:
        raise NotStorable("an embedding must be numbers of 4 bytes each")
    numbers = array("f", packed)
    largest = max(map(abs, numbers))
    # So that its square is finite as well, and every score a number.
    if not math.isfinite(sum(numbers)) or largest * largest * len(numbers) > _LARGEST:
        raise NotStorable("an embedding must be finite numbers of ordinary size")


def _check_checkpoint(structure: Any, namespace: str | None) -> None:
    if type(structure) is not list or len(structure) != len(_OUTLINE):
        raise NotStorable("a checkpoint has other parts than this version knows")
    for part, kinds in zip(structure, _OUTLINE, strict=True):
        if type(part) not in kinds:
            raise NotStorable(f"a part of a checkpoint must not be {kind_of(part)}")
    parent, sealed_namespace, envelope, *_ = structure
    try:
        restored(envelope)
    except (AttributeError, TypeError, ValueError):
        raise NotStorable("versions of a checkpoint's channels are none") from None
    if parent is not None and len(parent) != DIGEST_BYTES:
        raise NotStorable("a checkpoint's parent has not the length of an id")
    if namespace is None or sealed_namespace != namespace:
        raise NotStorable("namespace is not the one that was sealed")


def _check_writes(structure: Any) -> None:
    if type(structure) is not list or len(structure) != len(_WRITES):
        raise NotStorable("writes must have a task, its path, and what was written")
    task, path, rows = structure
    if (type(task), type(path), type(rows)) != _WRITES or not all(map(_is_write, rows)):
        raise NotStorable("writes must have a task, its path, and what was written")


def _is_write(row: Any) -> bool:
    is_row = type(row) is list and len(row) == 3  # noqa: PLR2004
    return is_row and (type(row[0]), type(row[1])) == (int, str)


_WRITES = (str, str, list)
# Parent, namespace, envelope, metadata and values.
_OUTLINE: tuple[tuple[type, ...], ...] = ((bytes, type(None)), (str,), (dict,), (dict,), (dict,))


REFUSALS = (NotStorable, LimitExceeded, ValueNotStorable)
"""What a line that is no record of an export raises."""
