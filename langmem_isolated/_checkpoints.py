"""Stores and reads the checkpoints, writes and threads of one scope."""

import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, cast

import ormsgpack
from langgraph.checkpoint.base import DeltaChannelHistory, PendingWrite, writes_sort_key

from langmem_isolated import _threads
from langmem_isolated._database import Conflict, Transaction
from langmem_isolated._encoding import Header, decode_header, encode_header
from langmem_isolated._records import ScopedRecords, now
from langmem_isolated._schema import Kind
from langmem_isolated._sealing import DIGEST_BYTES
from langmem_isolated._threads import (
    Bounds,
    Found,
    ListedThread,
    NewBody,
    NewElement,
    OpenBody,
    Slot,
    Stored,
)
from langmem_isolated._values import (
    Decoder,
    Element,
    Encoder,
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
# A sweep may come between two steps of ours, but not every time.
ATTEMPTS = 5
PAGE = 100

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
        for _ in range(ATTEMPTS):
            found = self.records.read(_threads.get, None, thread, parent, wanted or None, now())
            if found is None:
                return None
            bodies = [_Body.of(found.checkpoint), *map(_Body.of, found.writes)]
            elements = self.records.read(_elements_of, {}, thread, bodies)
            if elements is not None:
                known = self._known.of(thread, found.generation)
                decoder = Decoder(elements, known, self._serde)
                return _snapshot(address.thread_id, found.slot, decoder, bodies)
        raise RecordDoesNotOpen(Kind.CHECKPOINT.label, "elements it refers to are missing")

    def page(self, listing: "Listing") -> list[Snapshot]:
        """The next checkpoints of a listing; none when it is at its end."""
        return self.records.snapshot(self._page, [], listing)

    def _page(
        self, transaction: Transaction, keys: ScopeKeys, listing: "Listing"
    ) -> list[Snapshot]:
        bounds = listing.bounds(keys)
        matching: list[tuple[Slot, bytes]] = []
        while not matching and not listing.is_done:
            stored = _threads.checkpoints(
                transaction, keys, bounds, listing.before, listing.page_size
            )
            listing.advance(stored)
            matching = [row for row in stored if listing.wants(row[0], _Outline.of(row[1]))]
        matching = listing.take(matching)
        writes = _threads.writes_behind(transaction, keys, [slot for slot, _ in matching])
        bodies = {
            slot: [_Body.of(body), *map(_Body.of, writes[slot.parent, slot.key])]
            for slot, body in matching
        }
        decoders = self._decoders(transaction, keys, bodies)
        names = self._names(transaction, keys, listing, decoders)
        return [
            _snapshot(names[thread], slot, decoders[thread], bodies[slot])
            for slot, thread in ((slot, slot.parent[:DIGEST_BYTES]) for slot in bodies)
            if thread in names
        ]

    def _decoders(
        self, transaction: Transaction, keys: ScopeKeys, bodies: Mapping[Slot, list[_Body]]
    ) -> dict[bytes, Decoder]:
        by_thread: dict[bytes, list[_Body]] = {}
        for slot, its_bodies in bodies.items():
            by_thread.setdefault(slot.parent[:DIGEST_BYTES], []).extend(its_bodies)
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

    def _names(
        self,
        transaction: Transaction,
        keys: ScopeKeys,
        listing: "Listing",
        threads: Iterable[bytes],
    ) -> dict[bytes, str]:
        """Ids of the threads that are there and not expired."""
        headers = {
            thread: _threads.header_of(transaction, keys, thread, now()) for thread in threads
        }
        return {
            thread: listing.thread_id or decode_header(header).session_id
            for thread, header in headers.items()
            if header is not None
        }

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
        left = dict(histories)
        while cursor is not None and left and (stored := chain.at(cursor)) is not None:
            slot, plaintexts = stored
            bodies = [_Body.of(plaintext) for plaintext in plaintexts]
            elements = self._elements(transaction, keys, thread, bodies)
            decoder = Decoder(elements, None, self._serde)
            ancestor = _snapshot(address.thread_id, slot, decoder, bodies)
            for write in reversed(ancestor.writes):
                if write[1] in left:
                    left[write[1]].writes.append(write)
            values = ancestor.checkpoint["channel_values"]
            for channel in left.keys() & values.keys():
                left.pop(channel).seed.append(values[channel])
            cursor = id_bytes(ancestor.parent_id) if ancestor.parent_id else None

    def list_threads(self) -> list[ListedThread]:
        """The scope's threads by last activity, newest first."""
        return self.records.read(_threads.threads, [], now())

    def size(self, thread_id: str) -> int:
        """Bytes of a thread's sealed records."""
        keys = self.records.find_keys()
        listed = [] if keys is None else self.list_threads()
        return sum(one.size for one in listed if keys and one.thread == _thread(keys, thread_id))

    def verify(self, thread_id: str) -> int:
        """Open everything of a thread and resolve every reference; the number of bodies."""
        return self.records.snapshot(self._verify, 0, thread_id)

    def _verify(self, transaction: Transaction, keys: ScopeKeys, thread_id: str) -> int:
        thread = _thread(keys, thread_id)
        bodies = _threads.bodies(transaction, keys, thread)
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
                channel: encoder.shrink(value)
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
            self._store(address.thread_id, slot, encode, tag, replaces=_threads.ANYTHING)

    def put_writes(
        self,
        address: Address,
        writes: IndexedWrites,
        task: tuple[str, str],
        *,
        replaces: bool,
    ) -> None:
        """Store what a task (its id and path) wrote behind the checkpoint at ``address``."""

        def encoding(merged: IndexedWrites) -> Encode:
            def encode(encoder: Encoder) -> bytes:
                rows = [[i, channel, encoder.shrink(v)] for i, (channel, v) in merged.items()]
                return encoder.encode([*task, rows])

            return encode

        keys = self.records.keys()
        checkpoint = id_bytes(cast(str, address.checkpoint_id))
        key = checkpoint + keys.name(Kind.WRITE, checkpoint, task[0].encode())
        slot = Slot(Kind.WRITE, _parent(keys, address), key)
        try:
            self._store(address.thread_id, slot, encoding(writes), None)
        except Conflict:
            self._merge_writes(address, slot, writes, encoding, replaces=replaces)

    def _merge_writes(
        self,
        address: Address,
        slot: Slot,
        writes: IndexedWrites,
        encoding: Callable[[IndexedWrites], Encode],
        *,
        replaces: bool,
    ) -> None:
        thread = _thread(self.records.keys(), address.thread_id)
        for _ in range(ATTEMPTS):
            plaintext = self.records.read(_threads.body_at, None, slot)
            if plaintext is None:
                return self._store(address.thread_id, slot, encoding(writes), None)
            body = _Body.of(plaintext)
            elements = self.records.read(_elements_of, {}, thread, [body])
            if elements is None:
                continue
            _, _, rows = Decoder(elements, None, self._serde).decode([body])[0]
            stored = {index: (channel, value) for index, channel, value in rows}
            merged = {**stored, **writes} if replaces else {**writes, **stored}
            if self._stored(address.thread_id, slot, encoding(merged), None, plaintext):
                return None
        raise _busy()

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
        stored = self.records.write(
            _threads.put,
            thread,
            encode_header(Header(thread_id)),
            body,
            (found_in, os.urandom(GENERATION_BYTES)),
            moment,
            None if self._ttl is None else moment + int(self._ttl.total_seconds() * 1000),
        )
        if stored is None:
            self._known.forget(thread)
            return False
        self._remember(thread, stored, encoder)
        return True

    def _remember(self, thread: bytes, stored: Stored, encoder: Encoder) -> None:
        known = self._known.of(thread, stored.generation)
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
            gone: dict[bytes, set[Slot]] = {}
            for slot in self.records.read(_threads.of_run, [], _run_tag(keys, run_id)):
                gone.setdefault(slot.parent[:DIGEST_BYTES], set()).add(slot)
            for thread, slots in gone.items():
                self._sweep(thread, partial(_with_writes, gone=slots))

    def _sweep(self, thread: bytes, choose: Callable[[list[OpenBody]], set[Slot]]) -> None:
        self.records.change(
            _threads.sweep,
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
        wants_all = not self.filter and self.only is None
        return min(PAGE, self.left) if wants_all and self.left is not None else PAGE

    def advance(self, stored: Sequence[tuple[Slot, bytes]]) -> None:
        """Go on behind what was read."""
        if len(stored) < self.page_size:
            self.is_done = True
        if stored:
            self.before = (stored[-1][0].key, stored[-1][0].parent)

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
        taken = matching[: self.left]
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
        found: Found | None = _threads.get(
            self._transaction, self._keys, self._thread, self._parent, wanted or None, now()
        )
        return None if found is None else _Outline.of(found.checkpoint).parent

    def at(self, key: bytes) -> tuple[Slot, list[bytes]] | None:
        """The checkpoint with this id and the writes behind it, in plaintext."""
        if key not in self._read:
            # Parents are older nearly always: the page ends with the one asked for.
            stored = _threads.checkpoints(
                self._transaction,
                self._keys,
                Bounds.namespace(self._parent),
                (key + b"\x00", b""),
                PAGE,
            )
            slots = [slot for slot, _ in stored]
            writes = _threads.writes_behind(self._transaction, self._keys, slots)
            for slot, body in stored:
                self._read[slot.key] = slot, [body, *writes[slot.parent, slot.key]]
        return self._read.get(key)


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


def _elements_of(
    transaction: Transaction, keys: ScopeKeys, thread: bytes, bodies: Iterable[_Body]
) -> dict[int, bytes] | None:
    """The elements that bodies refer to; ``None`` when one is missing."""
    wanted = {number for body in bodies for number in body.numbers}
    elements = _threads.elements(transaction, keys, thread, wanted)
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
    _threads.delete_thread(transaction, keys, _thread(keys, thread_id))


def _copy_thread(transaction: Transaction, keys: ScopeKeys, source_id: str, target_id: str) -> bool:
    target = _thread(keys, target_id)
    return _threads.copy(
        transaction,
        keys,
        (_thread(keys, source_id), target),
        encode_header(Header(target_id)),
        lambda plaintext: _mac(keys, target, plaintext),
        os.urandom(GENERATION_BYTES),
        now(),
    )


def _older(bodies: list[OpenBody], keep_last: int) -> set[Slot]:
    """The checkpoints behind the newest of each namespace, with their writes.

    A delta channel is rebuilt from its ancestors' writes, back to the nearest that holds its value:
    those ancestors stay.
    """
    by_parent: dict[bytes, dict[bytes, OpenBody]] = {}
    for body in bodies:
        if body.slot.kind is Kind.CHECKPOINT:
            by_parent.setdefault(body.slot.parent, {})[body.slot.key] = body
    gone: set[Slot] = set()
    for checkpoints in by_parent.values():
        outlines = {key: _Outline.of(body.plaintext) for key, body in checkpoints.items()}
        newest = sorted(checkpoints, reverse=True)[:keep_last]
        kept = {key for head in newest for key in _foundations(head, outlines)}
        gone |= {checkpoints[key].slot for key in checkpoints.keys() - kept}
    return _with_writes(bodies, gone)


def _foundations(head: bytes, outlines: Mapping[bytes, _Outline]) -> set[bytes]:
    """A checkpoint and the ancestors that its delta channels are rebuilt from."""
    deltas = set(outlines[head].metadata.get("counters_since_delta_snapshot") or ())
    missing = deltas - outlines[head].values.keys()
    kept, cursor = {head}, outlines[head].parent
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
