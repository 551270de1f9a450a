"""Encoder: serializes the values of one body, with references for what is an element."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from itertools import takewhile
from typing import Any, cast

import ormsgpack
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langgraph.types import Send

from langmem_isolated._codecs.checkpoints.chunks import encode_chunk, is_fragmented, stretches
from langmem_isolated._codecs.checkpoints.element_cache import ElementCache, fingerprint
from langmem_isolated._codecs.checkpoints.layout import (
    CHUNKED,
    DEQUE,
    DICT,
    ELEMENT,
    ELEMENTS,
    MESSAGE,
    SEND,
    SNAPSHOT,
    VALUE,
    VALUE_V1,
)
from langmem_isolated._codecs.checkpoints.serializer import Serde
from langmem_isolated._codecs.classes import ENUM, Parts, dumped, taken_apart
from langmem_isolated._codecs.compat import DeltaSnapshot
from langmem_isolated._codecs.forms import OBJECT, text_of_exception
from langmem_isolated._codecs.message_fields import KNOWN_MESSAGES
from langmem_isolated._codecs.messages import encode_message
from langmem_isolated._codecs.values import encode_value, is_utf8, text_ext
from langmem_isolated.errors import ValueNotStorable

# An element costs a row of about 200 bytes once; a part inside a value costs its size every time.
LARGE_BYTES = 128
# A message on its way into a channel stands there twice, what is sent to a task in two bodies; as
# an element it would be one more row, and one more gap in the numbers of the messages around it.
PASSING_BYTES = 1024

_SCALARS = frozenset((int, float, bool, type(None)))
# Stored whole: taken apart, what is small of a document would be stored again every time.
_WHOLE = frozenset((str, bytes, Document))
_UNPACKABLE = "a key that is no plain value, or a structure nested too deeply"
# Of other keys msgpack makes text, or has none at all.
_NATIVE_KEYS = frozenset((str, int, float, bool, type(None), bytes))
_NEXT = ormsgpack.Ext(ELEMENT, b"\x00")
# As LangGraph's: tuples are read back as lists.
_OPTIONS = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
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
        self.seen: list[tuple[int | None, Reference]] = []

    def encode(self, value: Any) -> bytes:
        """``value`` as msgpack with references.

        Raises:
            ValueNotStorable: A part is of a type that is not allowed.
        """
        mark = self._mark()
        try:
            return ormsgpack.packb(value, self._default, _OPTIONS)
        except (ormsgpack.MsgpackEncodeError, RecursionError):
            # The packer hides what the hook raised, and its own message may quote the value.
            if self._refusal is not None:
                raise self._refusal from None
        self._return_to(mark)
        try:
            return ormsgpack.packb(self._careful(value), self._default, _OPTIONS)
        except (ormsgpack.MsgpackEncodeError, RecursionError):
            raise self._refusal or ValueNotStorable(_UNPACKABLE, "a checkpoint") from None

    def _mark(self) -> tuple[int, int, int]:
        """How much is known of the body so far; see :meth:`_return_to`."""
        return len(self.references), len(self.chunks), len(self.seen)

    def _return_to(self, mark: tuple[int, int, int]) -> None:
        """Let go of what came since: of an attempt nothing of which is in the body."""
        lists: tuple[list[Any], ...] = self.references, self.chunks, self.seen
        for one, length in zip(lists, mark, strict=True):
            del one[length:]

    def _careful(self, value: Any) -> Any:
        """``value`` with what msgpack lacks replaced: odd keys, text with lone surrogates."""
        if isinstance(value, str) and not isinstance(value, Enum):
            return value if is_utf8(value) else text_ext(value)
        if type(value) in (list, tuple):
            return [self._careful(part) for part in value]
        if not isinstance(value, dict):
            return value
        if _NATIVE_KEYS.issuperset(map(type, value)) and all(
            is_utf8(key) for key in value if type(key) is str
        ):
            return {key: self._careful(part) for key, part in value.items()}
        return self._of_odd_keys(value)

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
        if isinstance(value, BaseException):
            # LangGraph stores those that end a task, and reads their text.
            value = text_of_exception(value)
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
            print_ = fingerprint(messages[start])
            block = self.known.numbers_of_block(messages, start, print_)
            references += block or (self._recognised(messages[start], print_),)
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
        plaintext = encode_message(message, types=self._serde.types)
        return ormsgpack.Ext(MESSAGE, plaintext) if len(plaintext) < PASSING_BYTES else None

    def _decomposed(self, value: Any, kind: type) -> Any:
        """What stands for a container once its parts were replaced."""
        if kind in _WHOLE:
            return None
        if kind is list or kind is tuple:
            return [self._with_references(item) for item in value]
        if kind is dict and _NATIVE_KEYS.issuperset(map(type, value)):
            return {key: self._with_references(part) for key, part in value.items()}
        if take_apart := _CONTAINERS.get(kind):
            return take_apart(self, value)
        parts = taken_apart(value, self._serde.types)
        return None if parts is None or parts.kind == ENUM else self._object(value, parts)

    def _deque(self, value: deque[Any]) -> _Decomposed:
        return _Decomposed(DEQUE, [[*map(self._with_references, value)], value.maxlen])

    def _snapshot(self, value: DeltaSnapshot) -> _Decomposed:
        return _Decomposed(SNAPSHOT, self._with_references(value.value))

    def _of_odd_keys(self, value: dict[Any, Any]) -> _Decomposed:
        keys = encode_value(list(value), "a checkpoint", self._serde.types)
        return _Decomposed(DICT, [keys, [*map(self._with_references, value.values())]])

    def _object(self, value: Any, parts: Parts) -> _Decomposed:
        mark, stand_ins = self._mark(), self._stand_ins
        try:
            return self._fields(parts)
        except (ValueNotStorable, RecursionError) as refusal:
            for fallback in dumped(value, parts):
                self._return_to(mark)
                self._stand_ins, self._refusal = stand_ins, None
                with suppress(ValueNotStorable):
                    return self._fields(fallback)
            self._refusal = refusal if isinstance(refusal, ValueNotStorable) else None
            raise

    def _fields(self, parts: Parts) -> _Decomposed:
        fields = {name: self._with_references(part) for name, part in parts.fields.items()}
        return _Decomposed(OBJECT, parts.stored(fields))

    def _send(self, send: Send) -> _Decomposed:
        outer, self._is_sending = self._is_sending, True
        arg = self._with_references(send.arg)
        self._is_sending = outer
        return _Decomposed(SEND, [send.node, arg, send.timeout])

    def _as_element(self, value: Any) -> Any:
        if type(value) in (str, bytes) and len(value) < LARGE_BYTES:
            return value
        mark = self._mark()
        packed = self.encode(value)
        if len(packed) < LARGE_BYTES or self._mark() != mark:
            self._return_to(mark)
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
        return ormsgpack.Ext(VALUE, encode_value(part, "a checkpoint", self._serde.types))

    def _message(self, message: BaseMessage) -> Reference:
        return self._recognised(message, fingerprint(message))

    def _recognised(self, message: BaseMessage, print_: int | None) -> Reference:
        """What refers to a message that had this fingerprint.

        It was taken before the message is encoded, and is taken again behind that: if somebody
        changes it meanwhile, another message that is as this one was must not be taken for what was
        stored.
        """
        number = self.known.number_of(print_)
        if number is not None:
            return range(number, number + 1)
        reference = self._intern(encode_message(message, types=self._serde.types))
        if print_ is not None and fingerprint(message) == print_:
            self.seen.append((print_, reference))
        return reference


_CONTAINERS: dict[type, Callable[[Encoder, Any], Any]] = {
    dict: Encoder._of_odd_keys,  # noqa: SLF001
    deque: Encoder._deque,  # noqa: SLF001
    Send: Encoder._send,  # noqa: SLF001
    DeltaSnapshot: Encoder._snapshot,  # noqa: SLF001
}
