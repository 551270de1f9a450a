"""Stores and reads the checkpoints, writes and threads of one scope."""

import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, cast

import ormsgpack
from langgraph.checkpoint.base import DeltaChannelHistory, PendingWrite, writes_sort_key
from langgraph.constants import START

from langmem_isolated._database import Transaction
from langmem_isolated._dialects import Conflict
from langmem_isolated._encoding import Header, decode_header, encode_header
from langmem_isolated._records import ScopedRecords, now
from langmem_isolated._schema import Kind
from langmem_isolated._states import Listed
from langmem_isolated._threads import reading, roster, storing
from langmem_isolated._threads.reading import Found, OpenBody
from langmem_isolated._threads.slots import Bounds, Slot
from langmem_isolated._threads.storing import NewBody, NewElement, Stored
from langmem_isolated._values import (
    Decoder,
    Element,
    Encoder,
    Known,
    KnownThreads,
    Reference,
    Serde,
    numbers_of,
    structure,
    table,
)
from langmem_isolated.errors import (
    AddressTaken,
    DatabaseLocked,
    RecordDoesNotOpen,
    RecordError,
    ScopeError,
)
from langmem_isolated.keyring import ScopeKeys

BODY_V1 = b"\x01"
GENERATION_BYTES = 8
# Between two steps of ours may come a sweep, or another that writes for the same task: each failed
# attempt is one of those done.
ATTEMPTS = 50
PAGE = 100
# A statement is made for each number of rows: 100 take 160 ms to compile, and above 9,362 they have
# more parameters than PostgreSQL takes.
ONTO_ELEMENTS = 16

IndexedWrites = Mapping[int, tuple[str, Any]]
Encode = Callable[[Encoder], bytes]


class Address(NamedTuple):
    """A checkpoint's place; without ``checkpoint_id`` the latest of its namespace."""

    thread_id: str
    namespace: str
    checkpoint_id: str | None


class Snapshot(NamedTuple):
    """A checkpoint as it is read."""

    address: Address
    parent_id: str | None
    checkpoint: dict[str, Any]
    metadata: dict[str, Any]
    writes: list[PendingWrite]


class _Body(NamedTuple):
    """A stored body whose references are still numbers."""

    numbers: list[int]
    packed: bytes

    @classmethod
    def of(cls, plaintext: bytes) -> "_Body":
        if plaintext[:1] != BODY_V1:
            raise RecordError(
                f"A checkpoint is stored in form {plaintext[0]}, this version knows {BODY_V1[0]}. "
                "Nothing was changed; install a later langmem-isolated."
            )
        runs, packed = ormsgpack.unpackb(plaintext[1:])
        return cls(numbers_of(runs), packed)

    @staticmethod
    def sealed_form(numbers: Iterable[int], packed: bytes) -> bytes:
        return BODY_V1 + ormsgpack.packb([table(numbers), packed])


class _Outline(NamedTuple):
    """What a checkpoint's body tells without its elements."""

    parent: bytes | None
    namespace: str
    envelope: dict[str, Any]
    metadata: dict[str, Any]
    values: dict[str, Any]

    @classmethod
    def of(cls, plaintext: bytes) -> "_Outline":
        return cls(*structure(_Body.of(plaintext).packed))


def id_bytes(checkpoint_id: str) -> bytes:
    """A checkpoint id as 16 bytes, which sort as its text does.

    Raises:
        ScopeError: It is not a UUID in its canonical form: ids are visible in the database, so they
            must not carry anything else.
    """
    try:
        parsed = uuid.UUID(checkpoint_id)
    except (ValueError, AttributeError, TypeError):
        parsed = None
    if parsed is None or str(parsed) != checkpoint_id:
        raise ScopeError(
            "checkpoint_id must be a UUID as text in its canonical form, got "
            f"{type(checkpoint_id).__name__}. LangGraph makes such ids."
        )
    return parsed.bytes


@dataclass
class _History:
    """What ancestors contributed to one channel, newest first while it is gathered."""

    writes: list[PendingWrite] = field(default_factory=list)
    seed: list[Any] = field(default_factory=list)

    def result(self) -> DeltaChannelHistory:
        history = DeltaChannelHistory(writes=self.writes[::-1])
        if self.seed:
            history["seed"] = self.seed[0]
        return history


class Threads:
    """The threads of one scope."""

    def __init__(
        self, records: ScopedRecords, known: KnownThreads, serde: Serde, ttl: timedelta | None
    ) -> None:
        self.records = records
        self._known = known
        self._serde = serde
        self._ttl = ttl

    # Reading

    def get(self, address: Address) -> Snapshot | None:
        """The checkpoint at ``address``."""
        keys = self.records.find_keys()
        if keys is None:
            return None
        thread, parent = _thread(keys, address.thread_id), _parent(keys, address)
        wanted = address.checkpoint_id and id_bytes(address.checkpoint_id)
        asked = thread, parent, wanted or None, now()
        found = self.records.read(reading.get, None, *asked)
        elements = found and self.records.read(_elements_of, {}, thread, _bodies_of(found))
        if found and elements is None:
            # A sweep came between the two, or someone tampered: one state of both will tell.
            found, elements = self.records.snapshot(self._found, (None, {}), *asked)
        if not found or elements is None:
            return None
        known = self._known.of(thread, found.state.generation)
        known.state = found.state
        decoder = Decoder(elements, known, self._serde)
        return _snapshot(address.thread_id, found.slot, decoder, _bodies_of(found))

    def _found(
        self,
        transaction: Transaction,
        keys: ScopeKeys,
        thread: bytes,
        parent: bytes,
        checkpoint_id: bytes | None,
        now: int,
    ) -> tuple[Found | None, dict[int, bytes]]:
        found = reading.get(transaction, keys, thread, parent, checkpoint_id, now)
        if found is None:
            return None, {}
        return found, self._elements(transaction, keys, thread, _bodies_of(found))

    def page(self, listing: "Listing") -> "tuple[list[Snapshot], Listing]":
        """The next checkpoints of a listing, and the listing that goes on behind them."""
        return self.records.snapshot(self._page, ([], replace(listing, is_done=True)), listing)

    def _page(
        self, transaction: Transaction, keys: ScopeKeys, asked: "Listing"
    ) -> "tuple[list[Snapshot], Listing]":
        # A copy: the operation may be tried again.
        listing = replace(asked)
        bounds = listing.bounds(keys)
        names: dict[bytes, str | None] = {}
        matching: list[tuple[Slot, bytes]] = []
        while not matching and not listing.is_done:
            stored = reading.checkpoints(
                transaction, keys, bounds, listing.before, listing.page_size
            )
            listing.advance(stored)
            wanted = [row for row in stored if listing.wants(row[0], _Outline.of(row[1]))]
            for slot, _ in wanted:
                if slot.thread not in names:
                    names[slot.thread] = _name_of(transaction, keys, slot.thread)
            matching = [row for row in wanted if names[row[0].thread] is not None]
        matching = listing.take(matching)
        writes = reading.writes_behind(transaction, keys, [slot for slot, _ in matching])
        bodies = {
            slot: [_Body.of(body), *map(_Body.of, writes[slot.parent, slot.key])]
            for slot, body in matching
        }
        decoders = self._decoders(transaction, keys, bodies)
        snapshots = [
            _snapshot(cast(str, names[slot.thread]), slot, decoders[slot.thread], its_bodies)
            for slot, its_bodies in bodies.items()
        ]
        return snapshots, listing

    def _decoders(
        self, transaction: Transaction, keys: ScopeKeys, bodies: Mapping[Slot, list[_Body]]
    ) -> dict[bytes, Decoder]:
        by_thread: dict[bytes, list[_Body]] = {}
        for slot, its_bodies in bodies.items():
            by_thread.setdefault(slot.thread, []).extend(its_bodies)
        return {
            thread: Decoder(
                self._elements(transaction, keys, thread, its_bodies), None, self._serde
            )
            for thread, its_bodies in by_thread.items()
        }

    def _elements(
        self, transaction: Transaction, keys: ScopeKeys, thread: bytes, bodies: Iterable[_Body]
    ) -> dict[int, bytes]:
        elements = _elements_of(transaction, keys, thread, bodies)
        if elements is None:
            raise RecordDoesNotOpen(Kind.CHECKPOINT.label, "elements it refers to are missing")
        return elements

    def history(self, address: Address, channels: Sequence[str]) -> dict[str, DeltaChannelHistory]:
        """What the ancestors of a checkpoint contributed to channels."""
        histories = {channel: _History() for channel in channels}
        if channels:
            self.records.snapshot(self._walk, None, address, histories)
        return {channel: history.result() for channel, history in histories.items()}

    def _walk(
        self,
        transaction: Transaction,
        keys: ScopeKeys,
        address: Address,
        histories: Mapping[str, _History],
    ) -> None:
        thread = _thread(keys, address.thread_id)
        chain = _Chain(transaction, keys, thread, _parent(keys, address))
        cursor = chain.parent_of_target(address.checkpoint_id)
        missing = set(histories)
        walked: dict[Slot, list[_Body]] = {}
        while cursor is not None and missing and (stored := chain.at(cursor)) is not None:
            slot, plaintexts = stored
            if slot in walked:
                break
            walked[slot] = [_Body.of(plaintext) for plaintext in plaintexts]
            outline = _Outline.of(plaintexts[0])
            missing -= outline.values.keys()
            cursor = outline.parent
        decoders = self._decoders(transaction, keys, walked)
        left = dict(histories)
        for slot, bodies in walked.items():
            ancestor = _snapshot(address.thread_id, slot, decoders[thread], bodies)
            for write in reversed(ancestor.writes):
                if write[1] in left:
                    left[write[1]].writes.append(write)
            values = ancestor.checkpoint["channel_values"]
            for channel in left.keys() & values.keys():
                left.pop(channel).seed.append(values[channel])

    def list_threads(self) -> list[Listed]:
        """The scope's threads by last activity, newest first."""
        return self.records.read(roster.listing, [], now())

    def size(self, thread_id: str) -> int:
        """Bytes of a thread's sealed records."""
        keys = self.records.find_keys()
        listed = [] if keys is None else self.list_threads()
        return sum(one.size for one in listed if keys and one.digest == _thread(keys, thread_id))

    def verify(self, thread_id: str) -> int:
        """Open everything of a thread, resolve every reference, count; the number of bodies."""
        return self.records.snapshot(self._verify, 0, thread_id)

    def _verify(self, transaction: Transaction, keys: ScopeKeys, thread_id: str) -> int:
        thread = _thread(keys, thread_id)
        bodies = reading.verified(transaction, keys, thread)
        self._elements(transaction, keys, thread, [_Body.of(body.plaintext) for body in bodies])
        return len(bodies)

    # Writing

    def put(
        self,
        address: Address,
        checkpoint: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> None:
        """Store a checkpoint whose parent is ``address``; the same id again replaces it."""
        parent = address.checkpoint_id and id_bytes(address.checkpoint_id)
        key = id_bytes(checkpoint["id"])
        envelope = {name: part for name, part in checkpoint.items() if name != "channel_values"}
        run_id = metadata.get("run_id")

        def encode(encoder: Encoder) -> bytes:
            values = {
                channel: encoder.shrink(value, is_passing=channel == START)
                for channel, value in checkpoint["channel_values"].items()
            }
            body = [parent or None, address.namespace, envelope, dict(metadata), values]
            return encoder.encode(body)

        keys = self.records.keys()
        slot = Slot(Kind.CHECKPOINT, _parent(keys, address), key)
        tag = _run_tag(keys, run_id) if isinstance(run_id, str) else None
        try:
            self._store(address.thread_id, slot, encode, tag)
        except Conflict:
            self._store(address.thread_id, slot, encode, tag, replaces=storing.ANYTHING)

    def put_writes(
        self,
        address: Address,
        writes: IndexedWrites,
        task: tuple[str, str],
    ) -> None:
        """Store what a task (its id and path) wrote behind the checkpoint at ``address``.

        What it has stored at an index stays; below 0, where special channels are, it gives way.
        """

        def encoding(merged: IndexedWrites) -> Encode:
            def encode(encoder: Encoder) -> bytes:
                rows = [
                    [index, channel, encoder.shrink(value, is_passing=True)]
                    for index, (channel, value) in merged.items()
                ]
                return encoder.encode([*task, rows])

            return encode

        keys = self.records.keys()
        checkpoint = id_bytes(cast(str, address.checkpoint_id))
        key = checkpoint + keys.name(Kind.WRITE, checkpoint, task[0].encode())
        slot = Slot(Kind.WRITE, _parent(keys, address), key)
        replaced: bytes | None = None
        merged: IndexedWrites = writes
        for _ in range(ATTEMPTS):
            with suppress(Conflict):
                if self._stored(address.thread_id, slot, encoding(merged), None, replaced):
                    return
            replaced, merged = self.records.snapshot(self._merged, (None, writes), slot, writes)
        raise _busy()

    def _merged(
        self,
        transaction: Transaction,
        keys: ScopeKeys,
        slot: Slot,
        writes: IndexedWrites,
    ) -> tuple[bytes | None, IndexedWrites]:
        """What a task has stored, in plaintext, and ``writes`` together with it."""
        plaintext = reading.body_at(transaction, keys, slot)
        if plaintext is None:
            return None, writes
        body = _Body.of(plaintext)
        elements = self._elements(transaction, keys, slot.thread, [body])
        _, _, rows = Decoder(elements, None, self._serde).decode([body])[0]
        kept = {
            index: (channel, value)
            for index, channel, value in rows
            if index >= 0 or index not in writes
        }
        return plaintext, {**writes, **kept}

    def _store(
        self,
        thread_id: str,
        slot: Slot,
        encode: Encode,
        tag: bytes | None,
        replaces: bytes | None = None,
    ) -> None:
        for _ in range(ATTEMPTS):
            if self._stored(thread_id, slot, encode, tag, replaces):
                return
        raise _busy()

    def _stored(
        self, thread_id: str, slot: Slot, encode: Encode, tag: bytes | None, replaces: bytes | None
    ) -> bool:
        """Try once; ``False`` when the thread was swept, or the body to replace changed."""
        keys = self.records.keys()
        thread = _thread(keys, thread_id)
        known = self._known.last(thread)
        encoder = Encoder(known, lambda plaintext: _mac(keys, thread, plaintext), self._serde)
        packed = encode(encoder)
        references = encoder.references
        new = {ref.mac: ref for ref in references if isinstance(ref, Element)}

        def plaintext(numbers: Mapping[bytes, int]) -> bytes:
            resolved = (numbers[ref.mac] if isinstance(ref, Element) else ref for ref in references)
            return _Body.sealed_form(resolved, packed)

        elements = [NewElement(element.mac, element.plaintext) for element in new.values()]
        body = NewBody(slot, tag, elements, plaintext, replaces)
        # A body without numbers that were known before is right in any generation.
        found_in = known.generation if len(new) < len(references) else b""
        moment = now()
        expires_at = None if self._ttl is None else moment + int(self._ttl.total_seconds() * 1000)
        stored = self._stored_onto(thread, body, known, moment, expires_at)
        try:
            stored = stored or self.records.write(
                storing.put,
                thread,
                encode_header(Header(thread_id)),
                body,
                (found_in, os.urandom(GENERATION_BYTES)),
                moment,
                expires_at,
            )
        except Conflict:
            if replaces is None:
                raise
            raise RecordDoesNotOpen(
                Kind.ELEMENT.label, "one stands where the thread's next belongs"
            ) from None
        if stored is None:
            self._known.forget(thread)
            return False
        self._remember(thread, stored, encoder)
        return True

    def _stored_onto(
        self, thread: bytes, body: NewBody, known: Known, now: int, expires_at: int | None
    ) -> Stored | None:
        """Try to store onto the state that this process knows of a thread."""
        # On SQLite the lock is the process's own, and asking for the row costs 4 µs.
        if not self.records.is_postgres or body.replaces is not None:
            return None
        if len(body.elements) > ONTO_ELEMENTS:
            return None
        with known.turn:
            if known.state is None:
                return None
            found = {mac: known.numbers.get(mac) for mac, _ in body.elements}
            numbers = {mac: number for mac, number in found.items() if number is not None}
            try:
                stored = self.records.write_once(
                    storing.put_onto, None, thread, body, known.state, numbers, now, expires_at
                )
            except Conflict:
                # The other way finds out what stands there.
                stored = None
            known.state = stored and stored.state
            return stored

    def _remember(self, thread: bytes, stored: Stored, encoder: Encoder) -> None:
        known = self._known.of(thread, stored.state.generation)
        known.state = stored.state
        for mac, number in stored.numbers.items():
            known.remember_mac(mac, number)
        for message, print_, reference in encoder.seen:
            known.remember(message, _number(reference, stored.numbers), print_)

    def delete(self, thread_id: str) -> None:
        """Remove a thread with all it has."""
        self.records.change(_delete_thread, None, thread_id)

    def copy(self, source_id: str, target_id: str) -> None:
        """Copy a thread with all it has; nothing happens when there is no such thread.

        Raises:
            AddressTaken: The target has checkpoints already; nothing was written.
        """
        try:
            self.records.change(_copy_thread, False, source_id, target_id)
        except Conflict:
            raise AddressTaken(Kind.THREAD.label) from None

    def prune(self, thread_id: str, keep_last: int) -> None:
        """Keep the newest ``keep_last`` checkpoints of each namespace, and what they stand on."""
        keys = self.records.find_keys()
        if keys is not None:
            self._sweep(_thread(keys, thread_id), lambda bodies: _older(bodies, keep_last))

    def delete_for_runs(self, run_ids: Iterable[str]) -> None:
        """Remove what runs stored, in every thread of the scope."""
        keys = self.records.find_keys()
        if keys is None:
            return
        for run_id in run_ids:
            slots = self.records.read(reading.of_run, [], _run_tag(keys, run_id))
            for thread in {slot.thread for slot in slots}:
                self._sweep(thread, partial(_of_run, run_id=run_id))

    def _sweep(self, thread: bytes, choose: Callable[[list[OpenBody]], set[Slot]]) -> None:
        self.records.change(
            storing.sweep,
            None,
            thread,
            os.urandom(GENERATION_BYTES),
            choose,
            lambda plaintext: _Body.of(plaintext).numbers,
        )
        self._known.forget(thread)


@dataclass
class Listing:
    """A walk over checkpoints, newest first."""

    thread_id: str | None
    namespace: str | None
    only: bytes | None
    filter: Mapping[str, Any]
    before: tuple[bytes, bytes]
    left: int | None
    is_done: bool = False

    def bounds(self, keys: ScopeKeys) -> Bounds:
        """Which parents the walk covers."""
        if self.thread_id is None:
            return Bounds.scope()
        if self.namespace is None:
            return Bounds.thread(_thread(keys, self.thread_id))
        return Bounds.namespace(_parent(keys, Address(self.thread_id, self.namespace, None)))

    @property
    def page_size(self) -> int:
        """How many rows to read next: no more than are wanted, where none will be left out."""
        wants_all = not self.filter and self.only is None and self.thread_id is not None
        return min(PAGE, self.left) if wants_all and self.left is not None else PAGE

    def advance(self, stored: Sequence[tuple[Slot, bytes]]) -> None:
        """Go on behind what was read."""
        if len(stored) < self.page_size:
            self.is_done = True
        if stored:
            self.before = (stored[-1][0].key, stored[-1][0].parent)
            self.is_done = self.is_done or (self.only is not None and self.before[0] < self.only)

    def wants(self, slot: Slot, outline: _Outline) -> bool:
        """Whether a checkpoint is one of those asked for."""
        if self.only is not None and slot.key != self.only:
            return False
        if self.namespace is not None and outline.namespace != self.namespace:
            return False
        metadata = outline.metadata
        return all(metadata.get(key) == value for key, value in self.filter.items())

    def take(self, matching: list[tuple[Slot, bytes]]) -> list[tuple[Slot, bytes]]:
        """As many as are left to be given out."""
        if self.left is None:
            return matching
        taken = matching[: max(0, self.left)]
        self.left -= len(taken)
        self.is_done = self.is_done or self.left <= 0
        return taken


class _Chain:
    """A namespace's checkpoints by id, read a page at a time, for a walk along parents."""

    def __init__(
        self, transaction: Transaction, keys: ScopeKeys, thread: bytes, parent: bytes
    ) -> None:
        self._transaction = transaction
        self._keys = keys
        self._thread = thread
        self._parent = parent
        self._read: dict[bytes, tuple[Slot, list[bytes]]] = {}

    def parent_of_target(self, checkpoint_id: str | None) -> bytes | None:
        """The parent of the checkpoint that the walk is for."""
        wanted = checkpoint_id and id_bytes(checkpoint_id)
        found: Found | None = reading.get(
            self._transaction, self._keys, self._thread, self._parent, wanted or None, now()
        )
        return None if found is None else _Outline.of(found.checkpoint).parent

    def at(self, key: bytes) -> tuple[Slot, list[bytes]] | None:
        """The checkpoint with this id and the writes behind it, in plaintext."""
        if key not in self._read:
            # Parents are older nearly always: the page ends with the one asked for.
            stored = reading.checkpoints(
                self._transaction,
                self._keys,
                Bounds.namespace(self._parent),
                (key + b"\x00", b""),
                PAGE,
            )
            slots = [slot for slot, _ in stored]
            writes = reading.writes_behind(self._transaction, self._keys, slots)
            for slot, body in stored:
                self._read[slot.key] = slot, [body, *writes[slot.parent, slot.key]]
        return self._read.get(key)


def _name_of(transaction: Transaction, keys: ScopeKeys, thread: bytes) -> str | None:
    """A thread's id; ``None`` when it is expired."""
    header = roster.header_of(transaction, keys, thread, now())
    return None if header is None else decode_header(header).session_id


def _thread(keys: ScopeKeys, thread_id: str) -> bytes:
    return keys.name(Kind.THREAD, thread_id.encode())


def _parent(keys: ScopeKeys, address: Address) -> bytes:
    namespace = keys.name(Kind.CHECKPOINT, b"namespace", address.namespace.encode())
    return _thread(keys, address.thread_id) + namespace


def _mac(keys: ScopeKeys, thread: bytes, plaintext: bytes) -> bytes:
    return keys.name(Kind.ELEMENT, thread, plaintext)


def _run_tag(keys: ScopeKeys, run_id: str) -> bytes:
    return keys.name(Kind.CHECKPOINT, b"run", run_id.encode())


def _busy() -> DatabaseLocked:
    return DatabaseLocked(
        f"A thread was pruned or written by others {ATTEMPTS} times while it was being written. "
        "Nothing was written; try again."
    )


def _number(reference: Reference, numbers: Mapping[bytes, int]) -> int:
    return numbers[reference.mac] if isinstance(reference, Element) else reference


def _bodies_of(found: Found) -> list[_Body]:
    return [_Body.of(found.checkpoint), *map(_Body.of, found.writes)]


def _elements_of(
    transaction: Transaction, keys: ScopeKeys, thread: bytes, bodies: Iterable[_Body]
) -> dict[int, bytes] | None:
    """The elements that bodies refer to; ``None`` when one is missing."""
    wanted = {number for body in bodies for number in body.numbers}
    elements = reading.elements(transaction, keys, thread, wanted)
    return elements if len(elements) == len(wanted) else None


def _snapshot(thread_id: str, slot: Slot, decoder: Decoder, bodies: list[_Body]) -> Snapshot:
    values, *tasks = decoder.decode(bodies)
    parent, namespace, envelope, metadata, channel_values = values
    writes = [
        (writes_sort_key(path, task, index), (task, channel, value))
        for task, path, rows in tasks
        for index, channel, value in rows
    ]
    return Snapshot(
        Address(thread_id, namespace, str(uuid.UUID(bytes=slot.key))),
        parent and str(uuid.UUID(bytes=parent)),
        {**envelope, "channel_values": channel_values},
        metadata,
        [write for _, write in sorted(writes, key=lambda write: write[0])],
    )


def _delete_thread(transaction: Transaction, keys: ScopeKeys, thread_id: str) -> None:
    roster.remove(transaction, keys, _thread(keys, thread_id))


def _copy_thread(transaction: Transaction, keys: ScopeKeys, source_id: str, target_id: str) -> bool:
    target = _thread(keys, target_id)
    return storing.copy(
        transaction,
        keys,
        (_thread(keys, source_id), target),
        encode_header(Header(target_id)),
        lambda plaintext: _mac(keys, target, plaintext),
        os.urandom(GENERATION_BYTES),
        now(),
    )


def _of_run(bodies: list[OpenBody], run_id: str) -> set[Slot]:
    """The checkpoints that a run stored, with their writes."""
    return _with_writes(
        bodies,
        {
            body.slot
            for body in bodies
            if body.slot.kind is Kind.CHECKPOINT
            and _Outline.of(body.plaintext).metadata.get("run_id") == run_id
        },
    )


def _older(bodies: list[OpenBody], keep_last: int) -> set[Slot]:
    """The checkpoints behind the newest of each namespace, with their writes.

    A delta channel is rebuilt from its ancestors' writes, back to the nearest that holds its value:
    those ancestors stay. A call of a subgraph, which has a namespace of its own, goes with the root
    checkpoint that it started from.
    """
    by_parent: dict[bytes, dict[bytes, _Outline]] = {}
    for body in bodies:
        if body.slot.kind is Kind.CHECKPOINT:
            outlines = by_parent.setdefault(body.slot.parent, {})
            outlines[body.slot.key] = _Outline.of(body.plaintext)
    kept_of = {
        parent: {
            kept
            for head in sorted(outlines, reverse=True)[:keep_last]
            for kept in _foundations(head, outlines)
        }
        for parent, outlines in by_parent.items()
    }
    roots_gone = {
        str(uuid.UUID(bytes=key))
        for parent, outlines in by_parent.items()
        for key, outline in outlines.items()
        if outline.namespace == "" and key not in kept_of[parent]
    }
    gone = {
        Slot(Kind.CHECKPOINT, parent, key)
        for parent, outlines in by_parent.items()
        for key in outlines
        if key not in kept_of[parent] or _started_from(outlines[max(outlines)]) in roots_gone
    }
    return _with_writes(bodies, gone)


def _started_from(outline: _Outline) -> str | None:
    """The root checkpoint that a call of a subgraph started from."""
    # The namespace of a call has its task's id behind a colon; that of a subgraph with a memory of
    # its own (`checkpointer=True`) has none, and outlives its calls.
    is_call = ":" in outline.namespace
    return (outline.metadata.get("parents") or {}).get("") if is_call else None


def _foundations(head: bytes, outlines: Mapping[bytes, _Outline]) -> set[bytes]:
    """A checkpoint and the ancestors that its delta channels are rebuilt from."""
    outline = outlines[head]
    deltas = set(outline.metadata.get("counters_since_delta_snapshot") or ())
    # A channel without a version was never written, and has no ancestors.
    missing = (deltas & outline.envelope["channel_versions"].keys()) - outline.values.keys()
    kept, cursor = {head}, outline.parent
    while missing and cursor is not None and cursor in outlines and cursor not in kept:
        kept.add(cursor)
        missing -= outlines[cursor].values.keys()
        cursor = outlines[cursor].parent
    return kept


def _with_writes(bodies: list[OpenBody], gone: set[Slot]) -> set[Slot]:
    """``gone`` checkpoints and the writes behind them."""
    addresses = {(slot.parent, slot.key) for slot in gone}
    behind = {
        body.slot
        for body in bodies
        if body.slot.kind is Kind.WRITE and (body.slot.parent, body.slot.key[:16]) in addresses
    }
    return gone | behind
