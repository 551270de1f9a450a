"""Messages of an import: encoded for a session, and compared with what the session has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from langmem_isolated._codecs.messages import (
    MessageMetadata,
    decode_message_with_metadata,
    encode_message,
)
from langmem_isolated._codecs.refusals import NotStorable
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._runtime.limits import Limits
from langmem_isolated._storage.copying.containers import Line
from langmem_isolated._storage.copying.options import BATCH
from langmem_isolated.errors import LimitExceeded, ScopeError, ValueNotStorable
from langmem_isolated.lifecycle.bulk_import.canonical import DIGEST_BYTES, digest, message_form
from langmem_isolated.lifecycle.bulk_import.outcome import OnReject
from langmem_isolated.lifecycle.bulk_import.records import ForeignMessage, Rejected
from langmem_isolated.lifecycle.bulk_import.times import microseconds
from langmem_isolated.scope import checked_id

REFUSALS = (NotStorable, LimitExceeded, ValueNotStorable, ScopeError)
"""What a record that cannot be put in raises."""
_TIME_BYTES = 8
_NO_TIME = b"\xff" * _TIME_BYTES
_MARK_BYTES = DIGEST_BYTES + _TIME_BYTES


class Marks:
    """What messages say and when they were written, in their order: 24 bytes each."""

    def __init__(self) -> None:
        self._marks = bytearray()

    def __len__(self) -> int:
        return len(self._marks) // _MARK_BYTES

    def add(self, said: bytes, written: int | None) -> None:
        """Add the next message; without a time where its source has none."""
        self._marks += said + (_NO_TIME if written is None else written.to_bytes(_TIME_BYTES))

    def is_at(self, number: int, stored: Marks, at: int) -> bool:
        """Whether one of these is a stored one; of any time, if its source has none for it."""
        mine, theirs = self._at(number), stored._at(at)
        if mine[DIGEST_BYTES:] == _NO_TIME:
            return mine[:DIGEST_BYTES] == theirs[:DIGEST_BYTES]
        return mine == theirs

    def _at(self, number: int) -> bytes:
        return bytes(self._marks[number * _MARK_BYTES : (number + 1) * _MARK_BYTES])

    def reversed(self) -> Marks:
        """The same in the other order."""
        turned = Marks()
        for number in reversed(range(len(self))):
            turned._marks += self._at(number)
        return turned


class NewMessage(NamedTuple):
    """A message on its way in."""

    plaintext: bytes
    written: int
    id: str | None
    said: bytes
    """By which it is compared."""
    own_time: int | None
    """That of its source."""

    def line(self, sequence: int, ids: set[str]) -> Line:
        """Where it stands; the first of an id is found by it."""
        has_alias = bool(self.id) and self.id not in ids
        if self.id:
            ids.add(self.id)
        key = sequence.to_bytes(8)
        return Line(Kind.MESSAGE, key, self.plaintext, self.written, has_alias=has_alias)


class NewMessages:
    """The messages of a foreign session, as they are to be stored; gone through once.

    Args:
        found: Those of the source.
        limits: How large each may be.
        otherwise: When one was written whose source has no time for it, nor for one before it.
        on_reject: Told of those that are left out.
    """

    def __init__(
        self,
        found: Iterable[ForeignMessage | Rejected],
        limits: Limits,
        otherwise: int,
        on_reject: OnReject,
    ) -> None:
        self._found, self._limits, self._on_reject = iter(found), limits, on_reject
        self._last = otherwise
        self.size = self.rejected = 0

    def batch(self, most: int = BATCH) -> list[NewMessage]:
        """The next ones, at most so many; none at the end."""
        return [*islice(self._made(), most)]

    def _made(self) -> Iterator[NewMessage]:
        for one in self._found:
            new = one if isinstance(one, Rejected) else self._new_or_rejected(one)
            if isinstance(new, Rejected):
                self.rejected += 1
                self._on_reject(new)
            else:
                self.size += len(new.plaintext)
                yield new

    def _new_or_rejected(self, one: ForeignMessage) -> NewMessage | Rejected:
        try:
            return self._new(one)
        except REFUSALS as refusal:
            return Rejected(one.place, str(refusal))

    def _new(self, one: ForeignMessage) -> NewMessage:
        own_time = microseconds(one.written_at)
        channel = None if one.channel is None else checked_id("channel", one.channel)
        written = self._last if own_time is None else own_time
        plaintext = encode_message(one.message, MessageMetadata(written, channel))
        self._limits.check("message_bytes", len(plaintext))
        self._last = written
        said = digest([message_form(one.message), channel])
        return NewMessage(plaintext, written, one.message.id, said, own_time)


def stored_mark(plaintext: bytes) -> tuple[bytes, int | None]:
    """By what a stored message is compared, as adapters read it, and when it was written."""
    message, metadata = decode_message_with_metadata(plaintext)
    channel = metadata and metadata.channel
    return digest([message_form(message), channel]), metadata and metadata.written


def add_all(marks: Marks, messages: Sequence[NewMessage]) -> None:
    """Add new messages to marks."""
    for one in messages:
        marks.add(one.said, one.own_time)
