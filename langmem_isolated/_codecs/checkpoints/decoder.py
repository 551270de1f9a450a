"""Decoder: deserializes the bodies of one thread, each element once for all of them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, cast

import ormsgpack
from langchain_core.messages import BaseMessage
from langgraph.types import Send

from langmem_isolated._codecs.checkpoints.chunks import decode_chunk
from langmem_isolated._codecs.checkpoints.element_cache import ElementCache
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
from langmem_isolated._codecs.classes import rebuild
from langmem_isolated._codecs.compat import DeltaSnapshot
from langmem_isolated._codecs.forms import OBJECT, TEXT
from langmem_isolated._codecs.message_fields import Prototype
from langmem_isolated._codecs.messages import decode_message, decode_messages
from langmem_isolated._codecs.values import decode_value, from_ext
from langmem_isolated.errors import RecordError

# An element in memory: its plaintext, or what stands for a message.
OpenedElement = bytes | Prototype


def _dict(parts: tuple[bytes, list[Any]]) -> dict[Any, Any]:
    return dict(zip(decode_value(parts[0]), parts[1], strict=True))


_CONTAINERS: dict[int, Callable[[Any], Any]] = {
    DEQUE: lambda parts: deque(*parts),
    DICT: _dict,
    SEND: lambda parts: Send(parts[0], parts[1], timeout=parts[2]),
    SNAPSHOT: DeltaSnapshot,
}


class Decoder:
    """Decodes bodies of one thread; an element is opened and rebuilt once for all of them.

    Snapshots share message objects, but one never holds the same object twice: what appears
    twice in it is rebuilt anew.

    Args:
        elements: By number their plaintexts, or what stands for them in memory.
        known: Where to remember the messages that were rebuilt, if they are to go on living.
        serde: Which types are rebuilt.
    """

    def __init__(
        self, elements: Mapping[int, OpenedElement], known: ElementCache | None, serde: Serde
    ) -> None:
        self._elements = elements
        self._known = known
        self._serde = serde
        self._messages: dict[int, BaseMessage] = {}
        self._used: set[int] = set()
        self._numbers: Iterator[int] = iter(())
        self._chunks: Iterator[int] = iter(())
        self._failure: RecordError | None = None

    def decode(self, bodies: Iterable[tuple[list[int], bytes, list[int]]]) -> list[Any]:
        """What was encoded of each body, the parts of one snapshot.

        Args:
            bodies: For each the numbers of its elements, the encoded value, and the numbers of its
                chunks.
        """
        self._used = set()
        values = []
        for numbers, packed, chunks in bodies:
            self._numbers, self._chunks = iter(numbers), iter(chunks)
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
        # One frame a level, and that of `_unpack`: nested objects are read from deep stacks.
        try:
            if code in _CONTAINERS:
                return _CONTAINERS[code](self._unpack(packed))
            if code == OBJECT:
                return rebuild(self._unpack(packed), self._serde.types)
            return self._part(code, packed)
        except RecordError as failure:
            self._failure = failure
            raise

    def _part(self, code: int, packed: bytes) -> Any:
        if code in (ELEMENTS, CHUNKED):
            return self._many(self._numbers_in_list(code, packed))
        if code == ELEMENT:
            return self._many([next(self._numbers)])[0]
        if code == MESSAGE:
            return decode_message(packed, self._serde.types)
        if code == VALUE:
            return decode_value(packed, self._serde.types)
        if code == TEXT:
            return from_ext(code, packed)
        raise RecordError(
            f"A stored value has type code {code}, which this version does not know. "
            "Nothing was changed; install a later langmem-isolated."
        )

    def _numbers_in_list(self, code: int, packed: bytes) -> list[int]:
        if code == ELEMENTS:
            return list(islice(self._numbers, int.from_bytes(packed)))
        numbers: list[int] = []
        for length in ormsgpack.unpackb(packed):
            if length:
                numbers += islice(self._numbers, length)
            else:
                numbers += decode_chunk(cast("bytes", self._elements[next(self._chunks)]))
        return numbers

    def _many(self, numbers: list[int]) -> list[Any]:
        parts = [*map(self._elements.__getitem__, numbers)]
        if self._are_new_messages(numbers, parts):
            elements: list[Any] = decode_messages(parts, self._serde.types)
            self._used.update(numbers)
            self._messages.update(zip(numbers, elements, strict=True))
            if self._known is not None:
                self._known.put_read(elements, numbers)
            return elements
        return [self._element(number) for number in numbers]

    def _are_new_messages(self, numbers: list[int], parts: list[OpenedElement]) -> bool:
        """Whether all are messages, each once, and none was rebuilt before."""
        distinct = set(numbers)
        return (
            len(distinct) == len(numbers)
            and distinct.isdisjoint(self._messages)
            and all(part[:1] != VALUE_V1 for part in parts if type(part) is bytes)
        )

    def _element(self, number: int) -> Any:
        message = self._messages.get(number)
        if message is not None and number not in self._used:
            self._used.add(number)
            return message
        part = self._elements[number]
        if isinstance(part, bytes) and part[:1] == VALUE_V1:
            return self._unpack(part[1:])
        (message,) = decode_messages([part], self._serde.types)
        if number not in self._used:
            self._used.add(number)
            self._messages[number] = message
        return message
