"""Turns LangGraph's values into bytes that refer to the thread's elements, and back.

Messages, and the larger parts of lists and values, are *elements*: immutable, stored once in a
thread, known by a number. An encoded value says where an element stands and leaves the number to
the table of its body, so it can be encoded before new elements have got their numbers.
"""

import dataclasses
import importlib
import logging
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice
from typing import Any

import ormsgpack
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Send

from langmem_isolated._encoding import KNOWN_MESSAGES, decode_message, encode_message
from langmem_isolated._forking import renew_in_children
from langmem_isolated.errors import RecordError, ValueNotStorable

# An element costs a row of about 200 bytes once; a part inside a value costs its size every time.
LARGE_BYTES = 128
# A message on its way into a channel stands there twice, what is sent to a task in two bodies; as
# an element it would be one more row, and one more gap in the numbers of the messages around it.
PASSING_BYTES = 1024
VALUE_V1 = b"\x02"

_ELEMENT, _SEND, _DATACLASS, _SNAPSHOT, _OPAQUE, _ELEMENTS, _MESSAGE = range(64, 71)
_SCALARS = frozenset((int, float, bool, type(None)))
_UNPACKABLE = "int beyond 64 bits, a key that is no plain value, or a structure nested too deeply"
_NEXT = ormsgpack.Ext(_ELEMENT, b"\x00")
# LangGraph's own options: what is read back is what its serializer would give.
_OPTIONS = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
    | ormsgpack.OPT_REPLACE_SURROGATES
)
# What packs like another type has no fingerprint: a date that became its text must be noticed.
_FINGERPRINT_OPTIONS = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_FINGERPRINT_KEY = os.urandom(32)
_log = logging.getLogger("langmem_isolated")

TypeName = tuple[str, ...]


class Element:
    """A part on its way to become an element, with the MAC that would find it again."""

    __slots__ = ("mac", "plaintext")

    def __init__(self, mac: bytes, plaintext: bytes) -> None:
        self.mac = mac
        self.plaintext = plaintext


Reference = int | Element


class _Large:
    """Stands for a part that is an element."""

    __slots__ = ("reference",)

    def __init__(self, reference: Reference) -> None:
        self.reference = reference


class _Many:
    """Stands for a list of elements only, as a list of messages is."""

    __slots__ = ("references",)

    def __init__(self, references: list[Reference]) -> None:
        self.references = references


class _Taken:
    """Stands for an object that was taken apart: the code of its type, and its parts."""

    __slots__ = ("code", "parts")

    def __init__(self, code: int, parts: Any) -> None:
        self.code = code
        self.parts = parts


class Known:
    """What this process knows of one thread's elements, in one generation; holds no plaintext.

    Numbers by content MAC, and by message object: an object is recognised while it lives and its
    fields, at any depth, have the fingerprint they had.
    """

    MACS = 10_000

    def __init__(self, generation: bytes) -> None:
        self.generation = generation
        self.state: Any = None
        # LangGraph stores a checkpoint and a task's writes at once; in turn, each finds the state
        # that the other left.
        self.turn = threading.Lock()
        self.numbers: OrderedDict[bytes, int] = OrderedDict()
        self._objects: dict[int, tuple[weakref.ref[BaseMessage], int, int]] = {}
        self._purge_at = 4096

    def recognise(self, message: BaseMessage) -> int | None:
        """The number of a message that is unchanged since it was read or stored."""
        entry = self._objects.get(id(message))
        if entry is None or entry[0]() is not message or entry[2] != fingerprint(message):
            return None
        return entry[1]

    def remember(self, message: BaseMessage, number: int, print_: int | None) -> None:
        """Keep that ``message``, as its fingerprint has it, is element ``number``."""
        if print_ is not None:
            self._objects[id(message)] = (weakref.ref(message), number, print_)
            if len(self._objects) > self._purge_at:
                self._purge()

    def _purge(self) -> None:
        # Cheaper than a callback for each message: most live for one turn.
        living = {
            key: entry for key, entry in list(self._objects.items()) if entry[0]() is not None
        }
        self._objects, self._purge_at = living, 4 * len(living) + 4096

    def remember_mac(self, mac: bytes, number: int) -> None:
        """Keep that the element with ``mac`` is ``number``."""
        self.numbers[mac] = number
        while len(self.numbers) > self.MACS:
            self.numbers.popitem(last=False)


class KnownThreads:
    """What this process knows of the elements of the threads it used last."""

    def __init__(self, size: int = 256) -> None:
        self._size = size
        self._threads: OrderedDict[bytes, Known] = OrderedDict()
        self._lock = threading.Lock()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Give a forked child a lock that no thread of its parent holds."""
        self._lock = threading.Lock()
        self._threads = OrderedDict()

    def of(self, thread: bytes, generation: bytes) -> Known:
        """What is known of a thread in this generation; nothing when it has changed."""
        with self._lock:
            known = self._threads.get(thread)
            if known is None or known.generation != generation:
                known = self._threads[thread] = Known(generation)
            self._threads.move_to_end(thread)
            while len(self._threads) > self._size:
                self._threads.popitem(last=False)
            return known

    def forget(self, thread: bytes) -> None:
        """Drop what is known of a thread."""
        with self._lock:
            self._threads.pop(thread, None)

    def last(self, thread: bytes) -> Known:
        """What is known of a thread as last seen; stale knowledge is refused when it is used."""
        with self._lock:
            return self._threads.get(thread) or Known(b"")


def fingerprint(message: BaseMessage) -> int | None:
    """A keyed hash of all fields at full depth; ``None`` where a field is no plain value.

    SipHash of Python's own, 64 bits, under a random prefix: 0.05 µs where SHA-256 takes 0.6, and
    every message of a thread is asked at every step. It never leaves the process.
    """
    try:
        fields = [message.__dict__, message.__pydantic_extra__ or None]
        return hash(_FINGERPRINT_KEY + ormsgpack.packb(fields, None, _FINGERPRINT_OPTIONS))
    except ormsgpack.MsgpackEncodeError:
        return None


class Serde:
    """LangGraph's serializer, strict: a type that is not allowed is refused when it is written."""

    def __init__(self, allowed: Iterable[TypeName] = ()) -> None:
        self.allowed = frozenset(allowed)
        self.plus = JsonPlusSerializer(allowed_msgpack_modules=self.allowed or None)

    def dumps(self, value: Any) -> bytes:
        """A value that msgpack has no form for, in LangGraph's."""
        try:
            type_, packed = self.plus.dumps_typed(value)
        except (ormsgpack.MsgpackEncodeError, TypeError):
            raise ValueNotStorable(_name_of(value), "a checkpoint") from None
        for name in _names_in(packed) if type_ == "msgpack" else ():
            self.check(name)
        return ormsgpack.packb([type_, packed])

    def loads(self, packed: bytes) -> Any:
        """What :meth:`dumps` was given."""
        type_, inner = ormsgpack.unpackb(packed)
        return self.plus.loads_typed((type_, inner))

    def check(self, name: TypeName) -> None:
        """Refuse a type that would not be rebuilt.

        Raises:
            ValueNotStorable: It is neither one of LangGraph's safe types nor allowed.
        """
        if name in SAFE_MSGPACK_TYPES:
            return
        if name not in self.allowed:
            raise ValueNotStorable(
                ".".join(name), "a checkpoint (allow it: checkpointer(allow=[…the type…]))"
            )
        if _found(*name) is None:
            raise ValueNotStorable(
                ".".join(name), "a checkpoint (no class is found by that name in its module)"
            )

    def rebuild(self, module: str, name: str, fields: dict[str, Any]) -> Any:
        """The object of that class and fields; the fields where it is not allowed or cannot be."""
        if (module, name) in SAFE_MSGPACK_TYPES or (module, name) in self.allowed:
            # As LangGraph does: state outlives the classes of an application.
            with suppress(Exception):
                return _found(module, name)(**fields)
        _warn_not_rebuilt(module, name)
        return fields


def _found(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


@cache
def _warn_not_rebuilt(module: str, name: str) -> None:
    _log.warning(
        "A %s.%s in a checkpoint was read as a dict: it is not allowed, or has changed.",
        module,
        name,
    )


def _names_in(packed: bytes) -> set[TypeName]:
    """The types that LangGraph's serializer would import to read ``packed``."""
    names: set[TypeName] = set()

    def collect(code: int, inner: bytes) -> Any:
        parts = ormsgpack.unpackb(inner, ext_hook=collect, option=ormsgpack.OPT_NON_STR_KEYS)
        # Codes 0 to 5 are [module, name, …]; 6 and 7 hold arrays and snapshots.
        if code <= 5 and len(parts) >= 2:  # noqa: PLR2004
            names.add((parts[0], parts[1]))
        return None

    ormsgpack.unpackb(packed, ext_hook=collect, option=ormsgpack.OPT_NON_STR_KEYS)
    return names


def _name_of(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


class Encoder:
    """Encodes the values of one body; ``references`` are its elements in the order they stand."""

    def __init__(self, known: Known, mac: Callable[[bytes], bytes], serde: Serde) -> None:
        self.known = known
        self._mac = mac
        self._serde = serde
        self._refusal: ValueNotStorable | None = None
        self._is_passing = False
        self._is_sending = False
        self._stand_ins = 0
        self.references: list[Reference] = []
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

    def shrink(self, value: Any, *, is_passing: bool = False) -> Any:
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
            return self._shrunk(value)
        except RecursionError:
            raise ValueNotStorable(_UNPACKABLE, "a checkpoint") from None

    def _shrunk(self, value: Any) -> Any:
        kind = type(value)
        if kind in _SCALARS:
            return value
        if kind in KNOWN_MESSAGES:
            return self._placed(self._passed(value) or _Large(self._message(value)))
        # A copy: with durability="async" a node may change it while it is being stored.
        if isinstance(value, dict):
            value, kind = dict(value), dict
        elif kind is list:
            value = value.copy()
        if kind in (list, tuple) and value and KNOWN_MESSAGES.issuperset(map(type, value)):
            return self._placed(self._messages(value))
        mark = self._stand_ins
        shrunk = self._taken_apart(value, kind)
        if shrunk is None:
            return self._as_element(value)
        if kind is Send or self._stand_ins > mark:
            return self._placed(shrunk)
        # Nothing in it is an element: perhaps it is one as a whole.
        whole = self._as_element(shrunk)
        return self._placed(whole) if type(whole) is _Taken else whole

    def _placed(self, stand_in: Any) -> Any:
        self._stand_ins += 1
        return stand_in

    def _messages(self, messages: Sequence[BaseMessage]) -> Any:
        if len(messages) == 1 and (passed := self._passed(messages[0])):
            return [passed]
        return _Many([self._message(message) for message in messages])

    def _passed(self, message: BaseMessage) -> ormsgpack.Ext | None:
        """A small message without an id written out, where it is on its way into a channel."""
        if not self._is_passing or message.id is not None:
            return None
        try:
            plaintext = encode_message(message)
        except ValueNotStorable:
            return None
        return ormsgpack.Ext(_MESSAGE, plaintext) if len(plaintext) < PASSING_BYTES else None

    def _taken_apart(self, value: Any, kind: type) -> Any:
        """What stands for a container once its parts were shrunk."""
        if kind is list or kind is tuple:
            return [self._shrunk(item) for item in value]
        if kind is dict:
            return {key: self._shrunk(part) for key, part in value.items()}
        if kind is Send:
            return self._sent(value)
        if kind is _DeltaSnapshot:
            return _Taken(_SNAPSHOT, self._shrunk(value.value))
        if dataclasses.is_dataclass(kind) and not hasattr(kind, "model_dump"):
            self._serde.check((kind.__module__, kind.__name__))
            fields = {
                f.name: self._shrunk(getattr(value, f.name)) for f in dataclasses.fields(kind)
            }
            return _Taken(_DATACLASS, [kind.__module__, kind.__name__, fields])
        return None

    def _sent(self, send: Send) -> _Taken:
        outer, self._is_sending = self._is_sending, True
        arg = self._shrunk(send.arg)
        self._is_sending = outer
        return _Taken(_SEND, [send.node, arg, send.timeout])

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
        return self._placed(_Large(reference))

    def _intern(self, plaintext: bytes) -> Reference:
        mac = self._mac(plaintext)
        number = self.known.numbers.get(mac)
        return Element(mac, plaintext) if number is None else number

    def _default(self, part: Any) -> ormsgpack.Ext:
        try:
            return self._ext(part)
        except ValueNotStorable as refusal:
            self._refusal = refusal
            raise

    def _ext(self, part: Any) -> ormsgpack.Ext:
        kind = type(part)
        if kind is _Many:
            self.references += part.references
            return ormsgpack.Ext(_ELEMENTS, len(part.references).to_bytes(4))
        if kind is not _Large and kind is not _Taken:
            # It stands in a container that is not taken apart, such as a `deque`.
            if kind in KNOWN_MESSAGES:
                part = _Large(self._message(part))
            else:
                part = self._taken_apart(part, kind) or part
        if type(part) is _Large:
            self.references.append(part.reference)
            return _NEXT
        if type(part) is _Taken:
            return ormsgpack.Ext(part.code, self.encode(part.parts))
        return ormsgpack.Ext(_OPAQUE, self._serde.dumps(part))

    def _message(self, message: BaseMessage) -> Reference:
        number = self.known.recognise(message)
        if number is not None:
            return number
        # Before it is encoded: who changes it meanwhile must not be taken for what was stored.
        print_ = fingerprint(message)
        try:
            plaintext = encode_message(message)
        except ValueNotStorable:
            # A field holds a value of a type that may be allowed here, for example an artifact.
            opaque = ormsgpack.Ext(_OPAQUE, self._serde.dumps(message))
            return self._intern(VALUE_V1 + ormsgpack.packb(opaque))
        reference = self._intern(plaintext)
        self.seen.append((message, print_, reference))
        return reference


def table(numbers: Iterable[int]) -> list[int]:
    """Numbers as runs: how far each begins behind the end of the one before, and its length."""
    runs: list[int] = []
    end = 0
    for number in numbers:
        if runs and number == end:
            runs[-1] += 1
        else:
            runs += (number - end, 1)
        end = number + 1
    return runs


def numbers_of(runs: list[int]) -> list[int]:
    """What :func:`table` was given."""
    numbers: list[int] = []
    end = 0
    for gap, length in zip(runs[::2], runs[1::2], strict=True):
        start = end + gap
        end = start + length
        numbers.extend(range(start, end))
    return numbers


class Decoder:
    """Decodes bodies of one thread; an element is opened and rebuilt once for all of them.

    Snapshots share message objects, but one never holds the same object twice: what appears
    twice in it is rebuilt anew.

    Args:
        elements: Their plaintexts by number.
        known: Where to remember the messages that were rebuilt, if they are to go on living.
        serde: What reads LangGraph's own forms.
    """

    def __init__(self, elements: dict[int, bytes], known: Known | None, serde: Serde) -> None:
        self._elements = elements
        self._known = known
        self._serde = serde
        self._messages: dict[int, BaseMessage] = {}
        self._used: set[int] = set()
        self._numbers: Iterator[int] = iter(())
        self._failure: RecordError | None = None

    def decode(self, bodies: Iterable[tuple[list[int], bytes]]) -> list[Any]:
        """What was encoded of each body, the parts of one snapshot; numbers resolve references."""
        self._used = set()
        values = []
        for numbers, packed in bodies:
            self._numbers = iter(numbers)
            values.append(self._unpack(packed))
        return values

    def _unpack(self, packed: bytes) -> Any:
        try:
            return ormsgpack.unpackb(packed, ext_hook=self._hook, option=ormsgpack.OPT_NON_STR_KEYS)
        except ormsgpack.MsgpackDecodeError:
            # The unpacker hides what the hook raised.
            raise self._failure or RecordError(
                "A stored value cannot be rebuilt here. Nothing was changed; install a later "
                "langmem-isolated."
            ) from None

    def _hook(self, code: int, packed: bytes) -> Any:
        try:
            return self._part(code, packed)
        except RecordError as failure:
            self._failure = failure
            raise

    def _part(self, code: int, packed: bytes) -> Any:
        if code == _ELEMENTS:
            return [self._element(n) for n in islice(self._numbers, int.from_bytes(packed))]
        if code == _ELEMENT:
            return self._element(next(self._numbers))
        if code in (_MESSAGE, _OPAQUE):
            return decode_message(packed) if code == _MESSAGE else self._serde.loads(packed)
        if code == _SEND:
            node, arg, timeout = self._unpack(packed)
            return Send(node, arg, timeout=timeout)
        if code == _SNAPSHOT:
            return _DeltaSnapshot(self._unpack(packed))
        if code == _DATACLASS:
            return self._serde.rebuild(*self._unpack(packed))
        raise RecordError(
            f"A stored value has type code {code}, which this version does not know. "
            "Nothing was changed; install a later langmem-isolated."
        )

    def _element(self, number: int) -> Any:
        message = self._messages.get(number)
        if message is not None and number not in self._used:
            self._used.add(number)
            return message
        plaintext = self._elements[number]
        if plaintext[:1] == VALUE_V1:
            return self._unpack(plaintext[1:])
        message = decode_message(plaintext)
        if self._known is not None:
            self._known.remember(message, number, fingerprint(message))
        if number not in self._used:
            self._used.add(number)
            self._messages[number] = message
        return message


def structure(packed: bytes) -> Any:
    """An encoded value with ``None`` for every part that needs an element or a type."""
    return ormsgpack.unpackb(
        packed, ext_hook=lambda _code, _packed: None, option=ormsgpack.OPT_NON_STR_KEYS
    )
