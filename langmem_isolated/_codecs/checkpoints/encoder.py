"""Encoder: serializes the values of one body, with references for what is an element."""

import dataclasses
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, cast

import ormsgpack
from langchain_core.messages import BaseMessage
from langgraph.types import Send

from langmem_isolated._codecs.checkpoints.chunks import encode_chunk, is_fragmented, stretches
from langmem_isolated._codecs.checkpoints.element_cache import ElementCache, fingerprint
from langmem_isolated._codecs.checkpoints.layout import (
    CHUNKED,
    DATACLASS,
    ELEMENT,
    ELEMENTS,
    MESSAGE,
    OPAQUE,
    SEND,
    SNAPSHOT,
    VALUE_V1,
)
from langmem_isolated._codecs.checkpoints.serializer import Serde
from langmem_isolated._codecs.compat import DeltaSnapshot
from langmem_isolated._codecs.message_fields import KNOWN_MESSAGES
from langmem_isolated._codecs.messages import encode_message
from langmem_isolated.errors import ValueNotStorable

# An element costs a row of about 200 bytes once; a part inside a value costs its size every time.
LARGE_BYTES = 128
# A message on its way into a channel stands there twice, what is sent to a task in two bodies; as
# an element it would be one more row, and one more gap in the numbers of the messages around it.
PASSING_BYTES = 1024

_SCALARS = frozenset((int, float, bool, type(None)))
_UNPACKABLE = "int beyond 64 bits, a key that is no plain value, or a structure nested too deeply"
_NEXT = ormsgpack.Ext(ELEMENT, b"\x00")
# LangGraph's own options: what is read back is what its serializer would give.
_OPTIONS = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
    | ormsgpack.OPT_REPLACE_SURROGATES
)


class Element:
    """A part on its way to become an element, with the MAC that would find it again."""

    __slots__ = ("mac", "plaintext")

    def __init__(self, mac: bytes, plaintext: bytes) -> None:
        self.mac = mac
        self.plaintext = plaintext


# An element that is known has its number, those of a block have a range of them.
Reference = range | Element


class _ElementStandIn:
    """Stands for a part that is an element."""

    __slots__ = ("reference",)

    def __init__(self, reference: Reference) -> None:
        self.reference = reference


class _ElementListStandIn:
    """Stands for a list of elements only, as a list of messages is."""

    __slots__ = ("count", "references")

    def __init__(self, count: int, references: list[Reference]) -> None:
        self.count = count
        self.references = references


class _ChunkedListStandIn:
    """Stands for a list of elements part of which are in chunks.

    ``parts`` are the lengths of its stretches: so many elements, or one chunk where it is 0.
    """

    __slots__ = ("chunks", "parts", "references")

    def __init__(self) -> None:
        self.parts: list[int] = []
        self.references: list[Reference] = []
        self.chunks: list[Reference] = []


class _Decomposed:
    """Stands for an object that was taken apart: the code of its type, and its parts."""

    __slots__ = ("code", "parts")

    def __init__(self, code: int, parts: Any) -> None:
        self.code = code
        self.parts = parts


class Encoder:
    """Encodes the values of one body.

    ``references`` are its elements in the order they stand, ``chunks`` those that list others.
    """

    def __init__(self, known: ElementCache, mac: Callable[[bytes], bytes], serde: Serde) -> None:
        self.known = known
        self._mac = mac
        self._serde = serde
        self._refusal: ValueNotStorable | None = None
        self._is_passing = False
        self._is_sending = False
        self._stand_ins = 0
        self.references: list[Reference] = []
        self.chunks: list[Reference] = []
        self.seen: list[tuple[BaseMessage, int | None, Reference]] = []

    def encode(self, value: Any) -> bytes:
        """``value`` as msgpack with references.

        Raises:
            ValueNotStorable: A part is of a type that is not allowed.
        """
        try:
            return ormsgpack.packb(value, self._default, _OPTIONS)
        except (ormsgpack.MsgpackEncodeError, RecursionError):
            # The packer hides what the hook raised, and its own message may quote the value.
            raise self._refusal or ValueNotStorable(_UNPACKABLE, "a checkpoint") from None

    def replace_by_references(self, value: Any, *, is_passing: bool = False) -> Any:
        """``value`` with its messages and larger parts replaced by what stands for them.

        Args:
            value: Any value of a channel.
            is_passing: Whether it is on its way into a channel. A single message without an id
                gets one there and is another then: it is written out, and becomes no element.

        Raises:
            ValueNotStorable: A part is of a type that is not allowed.
        """
        self._is_passing = is_passing
        try:
            return self._with_references(value)
        except RecursionError:
            raise ValueNotStorable(_UNPACKABLE, "a checkpoint") from None

    def _with_references(self, value: Any) -> Any:
        kind = type(value)
        if kind in _SCALARS:
            return value
        if kind in KNOWN_MESSAGES:
            return self._counted_stand_in(
                self._inlined_message(value) or _ElementStandIn(self._message(value))
            )
        # A copy: with durability="async" a node may change it while it is being stored.
        if isinstance(value, dict):
            value, kind = dict(value), dict
        elif kind is list:
            value = value.copy()
        if kind in (list, tuple) and value and KNOWN_MESSAGES.issuperset(map(type, value)):
            return self._counted_stand_in(self._messages(value))
        mark = self._stand_ins
        replaced = self._decomposed(value, kind)
        if replaced is None:
            return self._as_element(value)
        if kind is Send or self._stand_ins > mark:
            return self._counted_stand_in(replaced)
        # Nothing in it is an element: perhaps it is one as a whole.
        whole = self._as_element(replaced)
        return self._counted_stand_in(whole) if type(whole) is _Decomposed else whole

    def _counted_stand_in(self, stand_in: Any) -> Any:
        self._stand_ins += 1
        return stand_in

    def _messages(self, messages: Sequence[BaseMessage]) -> Any:
        if len(messages) == 1 and (inlined := self._inlined_message(messages[0])):
            return [inlined]
        references: list[Reference] = []
        start = 0
        while start < len(messages):
            block = self.known.numbers_of_block(messages, start)
            references += block or (self._message(messages[start]),)
            start += sum(map(len, block)) or 1
        if is_fragmented(references):
            return self._chunked(references)
        return _ElementListStandIn(len(messages), references)

    def _chunked(self, references: list[Reference]) -> _ChunkedListStandIn:
        """What stands for a list in many runs: those that have numbers, and behind them the new."""
        numbered = list(takewhile(lambda reference: isinstance(reference, range), references))
        stand_in = _ChunkedListStandIn()
        for runs, is_chunk in stretches(cast("list[range]", numbered)):
            if is_chunk:
                stand_in.chunks.append(self._intern(encode_chunk(runs)))
                stand_in.parts.append(0)
            else:
                stand_in.references += runs
                stand_in.parts.append(sum(map(len, runs)))
        if rest := references[len(numbered) :]:
            stand_in.references += rest
            stand_in.parts.append(sum(1 if isinstance(r, Element) else len(r) for r in rest))
        return stand_in

    def _inlined_message(self, message: BaseMessage) -> ormsgpack.Ext | None:
        """A small message without an id written out, where it is on its way into a channel."""
        if not self._is_passing or message.id is not None:
            return None
        try:
            plaintext = encode_message(message)
        except ValueNotStorable:
            return None
        return ormsgpack.Ext(MESSAGE, plaintext) if len(plaintext) < PASSING_BYTES else None

    def _decomposed(self, value: Any, kind: type) -> Any:
        """What stands for a container once its parts were replaced."""
        if kind is list or kind is tuple:
            return [self._with_references(item) for item in value]
        if kind is dict:
            return {key: self._with_references(part) for key, part in value.items()}
        if kind is Send:
            return self._decomposed_send(value)
        if kind is DeltaSnapshot:
            return _Decomposed(SNAPSHOT, self._with_references(value.value))
        if dataclasses.is_dataclass(kind) and not hasattr(kind, "model_dump"):
            self._serde.check((kind.__module__, kind.__name__))
            fields = {
                f.name: self._with_references(getattr(value, f.name))
                for f in dataclasses.fields(kind)
            }
            return _Decomposed(DATACLASS, [kind.__module__, kind.__name__, fields])
        return None

    def _decomposed_send(self, send: Send) -> _Decomposed:
        outer, self._is_sending = self._is_sending, True
        arg = self._with_references(send.arg)
        self._is_sending = outer
        return _Decomposed(SEND, [send.node, arg, send.timeout])

    def _as_element(self, value: Any) -> Any:
        if type(value) in (str, bytes) and len(value) < LARGE_BYTES:
            return value
        mark = len(self.references)
        packed = self.encode(value)
        if len(packed) < LARGE_BYTES or len(self.references) > mark:
            del self.references[mark:]
            return value
        reference = self._intern(VALUE_V1 + packed)
        if self._is_sending and isinstance(reference, Element) and len(packed) < PASSING_BYTES:
            return value
        return self._counted_stand_in(_ElementStandIn(reference))

    def _intern(self, plaintext: bytes) -> Reference:
        mac = self._mac(plaintext)
        number = self.known.numbers.get(mac)
        return Element(mac, plaintext) if number is None else range(number, number + 1)

    def _default(self, part: Any) -> ormsgpack.Ext:
        try:
            return self._ext(part)
        except ValueNotStorable as refusal:
            self._refusal = refusal
            raise

    def _ext(self, part: Any) -> ormsgpack.Ext:
        kind = type(part)
        if kind is _ElementListStandIn:
            self.references += part.references
            return ormsgpack.Ext(ELEMENTS, part.count.to_bytes(4))
        if kind is _ChunkedListStandIn:
            self.references += part.references
            self.chunks += part.chunks
            return ormsgpack.Ext(CHUNKED, ormsgpack.packb(part.parts))
        if kind is not _ElementStandIn and kind is not _Decomposed:
            # It stands in a container that is not taken apart, such as a `deque`.
            if kind in KNOWN_MESSAGES:
                part = _ElementStandIn(self._message(part))
            else:
                part = self._decomposed(part, kind) or part
        if type(part) is _ElementStandIn:
            self.references.append(part.reference)
            return _NEXT
        if type(part) is _Decomposed:
            return ormsgpack.Ext(part.code, self.encode(part.parts))
        return ormsgpack.Ext(OPAQUE, self._serde.dumps(part))

    def _message(self, message: BaseMessage) -> Reference:
        number = self.known.number_of(message)
        if number is not None:
            return range(number, number + 1)
        # Before it is encoded: who changes it meanwhile must not be taken for what was stored.
        print_ = fingerprint(message)
        try:
            plaintext = encode_message(message)
        except ValueNotStorable:
            # A field holds a value of a type that may be allowed here, for example an artifact.
            opaque = ormsgpack.Ext(OPAQUE, self._serde.dumps(message))
            return self._intern(VALUE_V1 + ormsgpack.packb(opaque))
        reference = self._intern(plaintext)
        self.seen.append((message, print_, reference))
        return reference
