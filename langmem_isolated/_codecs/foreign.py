"""Foreign bytes: stored forms that somebody else may have written, checked before they are kept.

What we sealed ourselves is rebuilt as it is read. What comes from elsewhere is not ours: here it is
unpacked with no class of an application rebuilt, found or imported, and refused where it names one
that is not allowed, or is no stored form at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import ormsgpack

from langmem_isolated._codecs.checkpoints import layout
from langmem_isolated._codecs.checkpoints.stored_bodies import BODY_V1
from langmem_isolated._codecs.classes import AllowedTypes
from langmem_isolated._codecs.documents import DOCUMENT_V1
from langmem_isolated._codecs.foreign_elements import Elements
from langmem_isolated._codecs.forms import BY_CODE, MESSAGE, OBJECT
from langmem_isolated._codecs.message_fields import validate_fields
from langmem_isolated._codecs.messages import MESSAGE_V1, MESSAGE_V2, MessageMetadata
from langmem_isolated._codecs.refusals import NotStorable, shown_class
from langmem_isolated._codecs.values import encode_value

# As deep as a value may be on its way in.
_DEEPEST = 200
_MOST_NUMBER = 2**63 - 1
_ANY_KEYS = ormsgpack.OPT_NON_STR_KEYS

_Hook = Callable[[int, bytes], Any]


class _StandIn:
    """In place of an object or message that is not rebuilt; may stand in sets and as a key."""


class ForeignForms:
    """Checks stored forms.

    Args:
        types: The classes whose objects may be in them.
    """

    def __init__(self, types: AllowedTypes) -> None:
        self._types = types
        self._depth = 0
        self._reason: str | None = None
        self._elements = self._chunks = 0

    def value(self, packed: bytes) -> Any:
        """What ``packed`` holds, with the plain fields of objects in their place.

        Raises:
            NotStorable: It is not what `encode_value` makes, or has a class that is not allowed.
        """
        return self._unpacked(packed, self._in_value)

    def message(self, plaintext: bytes) -> tuple[str, dict[str, Any], MessageMetadata | None]:
        """Type, fields and metadata of a message as it is sealed.

        Raises:
            NotStorable: It is not what `encode_message` makes, or has a class that is not allowed.
        """
        form = plaintext[:1]
        if form not in (MESSAGE_V1, MESSAGE_V2):
            raise NotStorable("a message has a form that this version does not know")
        parts = self.value(plaintext[1:])
        *beside, type_, fields = _parts("message", parts, 2 if form == MESSAGE_V1 else 4)
        check_message(type_, fields)
        return type_, fields, _metadata(*beside) if beside else None

    def document(self, body: bytes) -> list[Any]:
        """Id, text and metadata of a document as it is sealed.

        Raises:
            NotStorable: It is not what `encode_document` makes.
        """
        if body[:1] != DOCUMENT_V1:
            raise NotStorable("a document has a form that this version does not know")
        return _parts("document", self.value(body[1:]), 3)

    def element(self, plaintext: bytes) -> list[range] | None:
        """The numbers that an element of a thread lists, if it is a chunk; ``None`` for others.

        Raises:
            NotStorable: It is none.
        """
        form, packed = plaintext[:1], plaintext[1:]
        if form == MESSAGE_V1:
            self.message(plaintext)
        elif form == layout.VALUE_V1:
            self._unpacked(packed, self._in_body, _ANY_KEYS)
            if self._elements or self._chunks:
                raise NotStorable("an element refers to others")
        elif form == layout.CHUNK_V1:
            return _runs(self._unpacked(packed, self._in_value))
        else:
            raise NotStorable("an element has a form that this version does not know")
        return None

    def body(self, plaintext: bytes, elements: Elements) -> Any:
        """What a checkpoint or a task's writes hold, ``None`` for what stands in an element.

        Args:
            plaintext: As it is sealed.
            elements: Those of its thread.

        Raises:
            NotStorable: It is none, or refers to elements that are not there.
        """
        if plaintext[:1] != BODY_V1:
            raise NotStorable("a checkpoint has a form that this version does not know")
        parts = _parts("checkpoint", self.value(plaintext[1:]), 2, 3)
        if type(parts[1]) is not bytes:
            raise NotStorable("a checkpoint has another part than bytes")
        listed, chunks = _runs(parts[0]), _runs(parts[2] if len(parts) > 2 else [])  # noqa: PLR2004
        structure = self._unpacked(parts[1], self._in_body, _ANY_KEYS)
        elements.check(listed, chunks, self._elements, self._chunks)
        return structure

    def _unpacked(self, packed: bytes, hook: _Hook, option: int | None = None) -> Any:
        self._depth, self._reason = 0, None
        self._elements = self._chunks = 0
        try:
            return ormsgpack.unpackb(packed, ext_hook=hook, option=option)
        except (ValueError, RecursionError):
            # The unpacker says nothing of what the hook raised.
            raise NotStorable(self._reason or "it is not of a stored form") from None

    def _inner(self, packed: bytes, hook: _Hook, option: int | None = None) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise NotStorable("it is nested too deeply")
        plain = ormsgpack.unpackb(packed, ext_hook=hook, option=option)
        self._depth -= 1
        return plain

    def _in_value(self, code: int, packed: bytes) -> Any:
        return self._noted(self._checked_value, code, packed)

    def _in_body(self, code: int, packed: bytes) -> Any:
        return self._noted(self._checked_body, code, packed)

    def _noted(self, check: _Hook, code: int, packed: bytes) -> Any:
        try:
            return check(code, packed)
        except NotStorable as refusal:
            self._reason = self._reason or str(refusal)
            raise

    def _checked_value(self, code: int, packed: bytes) -> Any:
        plain = self._inner(packed, self._in_value)
        if code == OBJECT:
            return self._checked_object(plain)
        if code == MESSAGE:
            check_message(*plain)
            return _StandIn()
        if code not in BY_CODE:
            raise NotStorable("it has a type that this version does not know")
        return BY_CODE[code](plain)

    def _checked_body(self, code: int, packed: bytes) -> Any:
        """As :meth:`_checked_value`, of what threads have besides."""
        if code in (*_NUMBERED, *_CONTAINERS):
            if code in _CONTAINERS:
                _check_container(code, self._inner(packed, self._in_body, _ANY_KEYS))
            else:
                self._count_taken(code, packed)
            return None
        if code == layout.DICT:
            keys, values = self._inner(packed, self._in_body, _ANY_KEYS)
            return dict(zip(self._inner(keys, self._in_value), values, strict=True))
        if code == layout.VALUE:
            return self._inner(packed, self._in_value)
        if code == layout.MESSAGE:
            return self._checked_inner_message(packed)
        if code == OBJECT:
            return self._checked_object(self._inner(packed, self._in_body, _ANY_KEYS))
        return self._checked_value(code, packed)

    def _count_taken(self, code: int, packed: bytes) -> None:
        """Count what is taken of a body's elements; they have numbers beside it."""
        if code != layout.CHUNKED:
            self._elements += 1 if code == layout.ELEMENT else int.from_bytes(packed)
            return
        lengths = self._inner(packed, self._in_value)
        if type(lengths) is not list or not all(map(_is_count, lengths)):
            raise NotStorable("lengths of a list's parts are not numbers")
        self._elements += sum(lengths)
        self._chunks += lengths.count(0)

    def _checked_inner_message(self, plaintext: bytes) -> _StandIn:
        if plaintext[:1] != MESSAGE_V1:
            raise NotStorable("a message has a form that this version does not know")
        check_message(*_parts("message", self._inner(plaintext[1:], self._in_value), 2))
        return _StandIn()

    def _checked_object(self, plain: Any) -> Any:
        kind, module, name, *_ = _parts("object", plain, 4, 5)
        if not all(type(part) is str for part in (kind, module, name)):
            raise NotStorable("an object has a name that is no text")
        if kind not in _KINDS:
            raise NotStorable("an object is of a kind that this version does not know")
        if not self._types.admits(module, name):
            raise NotStorable(f"{shown_class(module, name)} is not among those that allow= names")
        return _StandIn()


_KINDS = frozenset("mv1dte")
_CONTAINERS = (layout.DEQUE, layout.SEND, layout.SNAPSHOT)
# What stands in elements, whose numbers are beside the body.
_NUMBERED = (layout.ELEMENT, layout.ELEMENTS, layout.CHUNKED)


def _parts(what: str, plain: Any, *lengths: int) -> list[Any]:
    if type(plain) is not list or len(plain) not in lengths:
        raise NotStorable(f"a part of a {what} has not the length that this version knows")
    return plain


def check_message(type_: object, fields: object) -> None:
    """Refuse what langchain-core makes no message of.

    Raises:
        NotStorable: It is that.
    """
    if type(type_) is not str or type(fields) is not dict:
        raise NotStorable("a message has other parts than a message has")
    if not validate_fields(type_, fields):
        raise NotStorable("a message has a type or fields that langchain-core's messages have not")


def _metadata(written: Any, others: Any) -> MessageMetadata:
    channel, untrusted, tokens = [*_parts("message", others, *range(4)), None, None, None][:3]
    return checked_metadata(written, channel, untrusted, tokens)


def checked_metadata(written: Any, channel: Any, untrusted: Any, tokens: Any) -> MessageMetadata:
    """What stands beside a message.

    Raises:
        NotStorable: It is no time, channel or mark, or there are no two numbers of tokens.
    """
    counts = None if tokens is None else _parts("message", tokens, 2)
    is_channel = channel is None or (type(channel) is str and channel.isprintable() and channel)
    are_counts = all(map(_is_count, (written, *(counts or ()))))
    if not (are_counts and is_channel and untrusted in (None, False, True)):
        raise NotStorable("what stands beside a message is not of its types")
    tokens = None if counts is None else (counts[0], counts[1])
    return MessageMetadata(written, channel, bool(untrusted), tokens)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST_NUMBER


def message_bytes(form: int, metadata: MessageMetadata | None, type_: str, fields: Any) -> bytes:
    """A message as it is sealed, of parts that JSON has."""
    beside = metadata.packed() if metadata else ()
    return bytes([form]) + encode_value([*beside, type_, fields], "a message")


def _check_container(code: int, plain: Any) -> None:
    if code == layout.DEQUE:
        deque(*_parts("deque", plain, 2))
    elif code == layout.SEND:
        node, _, timeout = _parts("task", plain, 3)
        if type(node) is not str or isinstance(timeout, str | bytes | list | dict):
            raise NotStorable("a task names no node")


def _runs(runs: Any) -> list[range]:
    """The numbers that were encoded as runs.

    Raises:
        NotStorable: They are no runs.
    """
    if type(runs) is not list or len(runs) % 2 or not all(type(one) is int for one in runs):
        raise NotStorable("numbers of elements are not runs")
    found, end = [], 0
    for gap, length in zip(runs[::2], runs[1::2], strict=True):
        start = end + gap
        end = start + length
        if length < 0 or start < 0 or end > _MOST_NUMBER:
            raise NotStorable("it refers to elements that are not there")
        found.append(range(start, end))
    return found
