"""Thread encoder: a thread that another saver has, as the records that it becomes here.

In memory alone, at the size that it is stored at. Where they stand is for whoever stores them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from langgraph.constants import START

from langmem_isolated._codecs.checkpoints.channel_versions import shortened
from langmem_isolated._codecs.checkpoints.element_cache import ElementCache, ElementCaches
from langmem_isolated._codecs.checkpoints.encoder import Encoder
from langmem_isolated._codecs.checkpoints.serializer import Serde
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._runtime.limits import Limits
from langmem_isolated._storage.copying.containers import Line
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.threads.addresses import Slot
from langmem_isolated.checkpointer.addresses import checked_namespace, id_bytes
from langmem_isolated.checkpointer.arguments import Lifetimes
from langmem_isolated.checkpointer.bodies import Snapshot
from langmem_isolated.checkpointer.listing import ListCursor
from langmem_isolated.checkpointer.new_bodies import new_body, run_of
from langmem_isolated.checkpointer.repository import IndexedWrites, ThreadRepository

_GENERATION = b"encoded "


class TaskWrites(NamedTuple):
    """What a task wrote behind a checkpoint, by index."""

    task_id: str
    task_path: str
    writes: IndexedWrites


class NewCheckpoint(NamedTuple):
    """A checkpoint on its way in, as ``CheckpointTuple`` has it."""

    namespace: str
    id: str
    parent_id: str | None
    checkpoint: Mapping[str, Any]
    metadata: Mapping[str, Any]
    tasks: Sequence[TaskWrites]


class ThreadEncoder:
    """Encodes the checkpoints of one thread, parents before children.

    Args:
        limits: How large each may be.
        lines: What the thread has already.
        next_number: Of its next element.
    """

    def __init__(self, limits: Limits, lines: Iterable[Line] = (), next_number: int = 0) -> None:
        self._limits, self._serde, self._known = (
            limits,
            Serde(is_strict=False),
            ElementCache(_GENERATION),
        )
        self.lines = [*lines]
        self.next_number = next_number
        self._numbers = {
            _mac(one.plaintext): int.from_bytes(one.key)
            for one in self.lines
            if one.kind is Kind.ELEMENT
        }

    def add(self, new: NewCheckpoint, stored_at: int) -> None:
        """Encode a checkpoint, and what was written behind it; all of it or nothing.

        Raises:
            ScopeError: An id is no UUID, or the namespace no text.
            ValueNotStorable: A value has no stored form.
            LimitExceeded: More is new than one checkpoint may bring.
        """
        before, key = len(self.lines), id_bytes(new.id)
        try:
            self._add_checkpoint(new, key, stored_at)
            for task in new.tasks:
                self._add_writes(new, task, key, stored_at)
        except BaseException:
            # Elements stay: what comes may refer to them, and what nothing refers to is swept.
            self.lines[before:] = [x for x in self.lines[before:] if x.kind is Kind.ELEMENT]
            raise

    def remove(self, namespace: str, checkpoint_id: str) -> None:
        """Leave out a checkpoint, and what was written behind it."""
        key = id_bytes(checkpoint_id)

        def stays(line: Line) -> bool:
            is_below = line.namespace == namespace and line.key.startswith(key)
            return line.kind is Kind.ELEMENT or not is_below

        self.lines = [*filter(stays, self.lines)]

    def _add_checkpoint(self, new: NewCheckpoint, key: bytes, stored_at: int) -> None:
        encoder = self._encoder()
        values = {
            channel: encoder.replace_by_references(value, is_passing=channel == START)
            for channel, value in new.checkpoint["channel_values"].items()
        }
        parent = id_bytes(new.parent_id) if new.parent_id else None
        namespace = checked_namespace(new.namespace)
        body = [parent, namespace, shortened(new.checkpoint), dict(new.metadata), values]
        self._add(encoder, encoder.encode(body), Slot(Kind.CHECKPOINT, b"", key), new, stored_at)

    def _add_writes(self, new: NewCheckpoint, task: TaskWrites, key: bytes, stored_at: int) -> None:
        encoder = self._encoder()
        rows = [
            [index, channel, encoder.replace_by_references(value, is_passing=True)]
            for index, (channel, value) in task.writes.items()
        ]
        body = encoder.encode([task.task_id, task.task_path, rows])
        self._add(encoder, body, Slot(Kind.WRITE, b"", key), new, stored_at)

    def _encoder(self) -> Encoder:
        return Encoder(self._known, _mac, self._serde)

    def _add(
        self, encoder: Encoder, packed: bytes, slot: Slot, new: NewCheckpoint, stored_at: int
    ) -> None:
        body = new_body(encoder, packed, slot, None, None, self._limits)
        for mac, plaintext in body.elements:
            if mac not in self._numbers:
                number = self._numbers[mac] = self.next_number
                key = number.to_bytes(8)
                self.lines.append(Line(Kind.ELEMENT, key, plaintext, stored_at))
                self._known.put_mac(mac, number)
                self.next_number += 1
        plaintext = body.plaintext(self._numbers)
        line = Line(slot.kind, slot.key, plaintext, stored_at, namespace=new.namespace)
        self.lines.append(line)
        for fingerprint, reference in encoder.seen:
            self._known.put(fingerprint, run_of(reference, self._numbers).start)


def _mac(plaintext: bytes) -> bytes:
    """What finds an element again, within the encoder alone."""
    return blake2b(plaintext, digest_size=16).digest()


def stored_checkpoints(records: ScopedDatabase, thread_id: str) -> Iterator[Snapshot]:
    """Every checkpoint of a thread as a saver reads it, newest first, a page in memory.

    Raises:
        RecordDoesNotOpen: What is stored was changed, moved or removed.
    """
    serde, lifetimes = Serde(is_strict=False), Lifetimes(None, None)
    threads = ThreadRepository(records, ElementCaches(1), serde, lifetimes)
    config: Any = {"configurable": {"thread_id": thread_id}}
    listing = ListCursor.of(config, None, None, None)
    while not listing.is_done:
        page, listing = threads.page(listing)
        yield from page
