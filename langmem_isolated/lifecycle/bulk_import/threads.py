"""Threads of an import: encoded in memory, put in whole, read back checkpoint by checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from langgraph.checkpoint.base import writes_sort_key

from langmem_isolated._codecs.refusals import NotStorable
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.copying.containers import (
    ROWS,
    OpenContainer,
    Source,
    digest_of,
    open_container,
)
from langmem_isolated._storage.copying.imported import Arrived
from langmem_isolated._storage.copying.options import BATCH
from langmem_isolated.checkpointer import (
    NewCheckpoint,
    TaskWrites,
    ThreadEncoder,
    stored_checkpoints,
)
from langmem_isolated.errors import AddressTaken, ImportNotVerified
from langmem_isolated.lifecycle.bulk_import.canonical import Canon
from langmem_isolated.lifecycle.bulk_import.containers import (
    About,
    Batch,
    about,
    added,
    copied,
    is_there,
    named,
    put_whole,
    titled,
)
from langmem_isolated.lifecycle.bulk_import.messages import REFUSALS
from langmem_isolated.lifecycle.bulk_import.outcome import REJECTED, OnReject, PutOutcome
from langmem_isolated.lifecycle.bulk_import.records import (
    ForeignCheckpoint,
    ForeignThread,
    ForeignWrite,
    Rejected,
)
from langmem_isolated.lifecycle.bulk_import.target import Target
from langmem_isolated.lifecycle.bulk_import.times import microseconds
from langmem_isolated.scope import checked_thread_id


class _Digests(NamedTuple):
    """Of what a checkpoint says, and of each write behind it, in their order."""

    said: bytes
    writes: tuple[bytes, ...]

    def is_within(self, other: _Digests) -> bool:
        """Whether another is the same, and has these writes and maybe more."""
        return self.said == other.said and set(self.writes) <= set(other.writes)


_ByAddress = dict[tuple[str, str], _Digests]


class ThreadImport:
    """Puts foreign threads into scopes.

    Args:
        moment: When the import began, in µs: where a source has no time.
    """

    def __init__(self, moment: int) -> None:
        self._moment = moment

    def put(
        self, target: Target, unit: ForeignThread, name: str, on_reject: OnReject
    ) -> PutOutcome:
        """Put one in, or find it there; see `BulkImport.put`."""
        try:
            name = checked_thread_id("thread_id", name)
        except REFUSALS as refusal:
            on_reject(Rejected(unit.place, str(refusal)))
            return REJECTED
        thread = _Thread(target, unit, name, on_reject, self._moment)
        if is_there(target, Kind.THREAD, name):
            return thread.compare()
        with target.alone(added(Kind.THREAD, name)):
            return thread.copy()


class _Thread:
    """One thread on its way in."""

    def __init__(
        self, target: Target, unit: ForeignThread, name: str, on_reject: OnReject, moment: int
    ) -> None:
        self._target, self._unit, self._name = target, unit, name
        self._on_reject, self._moment = on_reject, moment
        self._digests: _ByAddress = {}
        self._canon = Canon()
        self._times: list[int] = []

    # --- copied

    def copy(self) -> PutOutcome:
        """Put all of it in, and compare."""
        encoder = ThreadEncoder(self._target.limits)
        for _ in self._encoded(encoder, {}):
            pass
        if not self._digests:
            # Nothing of it can be put in, and an empty thread is none.
            return REJECTED
        arrived = self._arrived(encoder)
        copied(self._target, self._batches(arrived, encoder), self._moment)
        with self._target.comparing(added(Kind.THREAD, self._name)):
            self._verify(arrived)
        size = sum(len(line.plaintext) for line in encoder.lines)
        return PutOutcome("copied", len(self._digests), size)

    def _batches(self, arrived: Arrived, encoder: ThreadEncoder) -> Iterator[Batch]:
        lines = encoder.lines
        for start in range(0, len(lines) + 1, BATCH):
            yield arrived, lines[start : start + BATCH]

    def _arrived(self, encoder: ThreadEncoder) -> Arrived:
        times = self._times or [self._moment]
        made = named(Kind.THREAD, self._name, titled(self._unit.title), min(times))
        return made._replace(updated_at=max(times), next_sequence=encoder.next_number)

    def _encoded(self, encoder: ThreadEncoder, there: _ByAddress) -> Iterator[ForeignCheckpoint]:
        """Encode the checkpoints that are not there; what was encoded or found."""
        for one in self._unit.checkpoints:
            if isinstance(one, Rejected):
                self._on_reject(one)
                continue
            try:
                is_new = self._encode(encoder, one, there)
            except REFUSALS as refusal:
                self._on_reject(Rejected(one.place, str(refusal)))
                continue
            if is_new:
                yield one

    def _encode(self, encoder: ThreadEncoder, one: ForeignCheckpoint, there: _ByAddress) -> bool:
        address = one.namespace, one.id
        new = _as_new(one)
        if address in self._digests:
            raise NotStorable("a checkpoint of its id stands in its namespace before it")
        said = *address, one.parent_id or None, one.checkpoint, one.metadata
        digests = self._digests_of(said, _ordered(one.writes))
        is_new = address not in there or not digests.is_within(there[address])
        if is_new:
            stored_at = _time_of(one.checkpoint)
            if address in there:
                encoder.remove(*address)
            encoder.add(new, self._moment if stored_at is None else stored_at)
            self._times += [] if stored_at is None else [stored_at]
        self._digests[address] = digests
        return is_new

    def _digests_of(self, said: tuple[Any, ...], writes: Iterable[Any]) -> _Digests:
        digest = self._canon.digest
        return _Digests(digest(said), tuple(digest(write) for write in writes))

    # --- there before

    def compare(self) -> PutOutcome:
        """Find all of it there, or add what came since.

        Raises:
            AddressTaken: The thread has something else, or was changed since it was put in.
        """
        stored = self._stored()
        opened = self._target.records.snapshot(_opened, None, self._name)
        if opened is None:
            raise AddressTaken(Kind.THREAD.label)
        encoder = ThreadEncoder(self._target.limits, opened.lines, opened.state.next_sequence)
        count = sum(1 for _ in self._encoded(encoder, stored))
        if not count:
            return PutOutcome("present", len(self._digests))
        if not stored.keys() <= self._digests.keys():
            raise AddressTaken(Kind.THREAD.label)
        return self._continued(opened, encoder, count)

    def _continued(self, opened: OpenContainer, encoder: ThreadEncoder, count: int) -> PutOutcome:
        """Put the thread in again, with what came since, in place of what this import put in."""
        one = added(Kind.THREAD, self._name)
        if not self._target.is_as_put(one):
            raise AddressTaken(Kind.THREAD.label)
        self._times += [opened.state.created_at, opened.state.updated_at]
        arrived = self._arrived(encoder)
        self._target.write_noted([one], _replace, opened, arrived, encoder.lines, self._moment)
        with self._target.comparing(one):
            self._verify(arrived)
        size = sum(len(line.plaintext) for line in encoder.lines[len(opened.lines) :])
        return PutOutcome("continued", count, size)

    # --- read back

    def _verify(self, arrived: Arrived) -> None:
        """Read all of it as a saver does, and compare.

        Raises:
            ImportNotVerified: It is not what the source has.
        """
        stored = self._stored()
        if stored.keys() != self._digests.keys():
            raise ImportNotVerified(self._unit.place, "which checkpoints there are")
        if stored != self._digests:
            raise ImportNotVerified(self._unit.place, "what a checkpoint says")
        if self._target.records.read(about, None, Kind.THREAD, self._name) != About.of(arrived):
            raise ImportNotVerified(self._unit.place, "its title or times")

    def _stored(self) -> _ByAddress:
        found: _ByAddress = {}
        for one in stored_checkpoints(self._target.records, self._name):
            address = one.address.namespace, one.address.checkpoint_id or ""
            said = *address, one.parent_id, one.checkpoint, one.metadata
            found[address] = self._digests_of(said, one.writes)
        return found


def _ordered(writes: Sequence[ForeignWrite]) -> list[tuple[str, str, Any]]:
    """Writes as a saver gives them, for which a task has one path: that of its first."""
    paths = {write.task_id: write.task_path for write in reversed(writes)}
    ordered = sorted(writes, key=lambda w: writes_sort_key(paths[w.task_id], w.task_id, w.index))
    return [(write.task_id, write.channel, write.value) for write in ordered]


def _as_new(one: ForeignCheckpoint) -> NewCheckpoint:
    """A checkpoint for our encoder.

    Raises:
        NotStorable: It has not the parts of one.
    """
    plain = one.checkpoint
    _check("a checkpoint", plain, Mapping)
    _check("its values", plain.get("channel_values"), Mapping)
    _check("its metadata", one.metadata, Mapping)
    if plain.get("id") != one.id:
        raise NotStorable("a checkpoint says another id than it stands under")
    seen = plain.get("versions_seen") or {}
    _check("its versions_seen", seen, Mapping)
    for versions in (plain.get("channel_versions") or {}, *seen.values()):
        _check("its versions", versions, Mapping)
        for version in versions.values():
            _check("a version", version, str | int | float)
    tasks: dict[str, list[ForeignWrite]] = {}
    for write in one.writes:
        tasks.setdefault(write.task_id, []).append(write)
    return NewCheckpoint(
        one.namespace, one.id, one.parent_id, plain, one.metadata, [*map(_task, tasks.values())]
    )


def _task(writes: list[ForeignWrite]) -> TaskWrites:
    first = writes[0]
    _check("the id of a task", first.task_id, str)
    _check("the path of a task", first.task_path, str)
    for write in writes:
        _check("a channel", write.channel, str)
        _check("the number of a write", write.index, int)
    by_index = {write.index: (write.channel, write.value) for write in writes}
    if len(by_index) < len(writes):
        raise NotStorable("a task has two writes of one number")
    return TaskWrites(first.task_id, first.task_path, by_index)


def _check(what: str, value: object, kind: Any) -> None:
    if not isinstance(value, kind):
        raise NotStorable(f"{what} must not be {kind_of(value)}")


def _time_of(checkpoint: Mapping[str, Any]) -> int | None:
    """When a checkpoint was made, as far as it says so."""
    try:
        return microseconds(datetime.fromisoformat(checkpoint["ts"]))
    except (KeyError, TypeError, ValueError, NotStorable):
        return None


def _opened(transaction: Transaction, keys: ScopeKeys, name: str) -> OpenContainer | None:
    source = Source(Kind.THREAD, digest_of(keys, Kind.THREAD, name), b"")
    return open_container(transaction, keys, source, now())


def _replace(
    transaction: Transaction,
    keys: ScopeKeys,
    opened: OpenContainer,
    arrived: Arrived,
    lines: list[Any],
    moment: int,
) -> None:
    rows, digest = ROWS[Kind.THREAD], digest_of(keys, Kind.THREAD, arrived.name)
    state = rows.locked(transaction, keys, digest)
    if state is None or state.but_keys != opened.state.but_keys:
        raise AddressTaken(Kind.THREAD.label)
    rows.remove(transaction, keys, digest)
    put_whole(transaction, keys, arrived, lines, moment)
