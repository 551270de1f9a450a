"""Sessions of an import: staged unseen, published whole, read back and compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from langmem_isolated._codecs.messages import decode_partially
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.copying import imported
from langmem_isolated._storage.copying.containers import ROWS, Line, digest_of
from langmem_isolated._storage.copying.imported import Arrived
from langmem_isolated._storage.copying.options import BATCH
from langmem_isolated._storage.sessions import reading
from langmem_isolated._storage.sessions.reading import LATEST, NOTHING
from langmem_isolated.errors import AddressTaken, ImportNotVerified
from langmem_isolated.lifecycle.bulk_import.containers import (
    About,
    Batch,
    about,
    added,
    copied,
    is_there,
    named,
    titled,
)
from langmem_isolated.lifecycle.bulk_import.messages import (
    REFUSALS,
    Marks,
    NewMessage,
    NewMessages,
    add_all,
    stored_mark,
)
from langmem_isolated.lifecycle.bulk_import.outcome import REJECTED, OnReject, PutOutcome
from langmem_isolated.lifecycle.bulk_import.records import ForeignSession, Rejected
from langmem_isolated.lifecycle.bulk_import.target import Target
from langmem_isolated.lifecycle.bulk_import.times import microseconds
from langmem_isolated.scope import checked_id


class _Said(NamedTuple):
    """A session without its messages, checked; a time is ``None`` where its source has none."""

    name: str
    title: str | None
    created: int | None
    updated: int | None

    @classmethod
    def of(cls, unit: ForeignSession, name: str) -> _Said:
        """As the source has it.

        Raises:
            ScopeError: Its name is none that a session can have.
            NotStorable: A time is none.
        """
        return cls(
            checked_id("session_id", name),
            titled(unit.title),
            microseconds(unit.created_at),
            microseconds(unit.updated_at),
        )


class SessionImport:
    """Puts foreign sessions into scopes.

    Args:
        moment: When the import began, in µs: where a source has no time.
    """

    def __init__(self, moment: int) -> None:
        self._moment = moment

    def put(
        self, target: Target, unit: ForeignSession, name: str, on_reject: OnReject
    ) -> PutOutcome:
        """Put one in, or find it there; see `BulkImport.put`."""
        try:
            said = _Said.of(unit, name)
        except REFUSALS as refusal:
            on_reject(Rejected(unit.place, str(refusal)))
            return REJECTED
        otherwise = self._moment if said.created is None else said.created
        messages = NewMessages(unit.messages, target.limits, otherwise, on_reject)
        session = _Session(target, unit, said, messages, self._moment)
        if is_there(target, Kind.SESSION, said.name):
            return session.compare()
        with target.alone(added(Kind.SESSION, said.name)):
            return session.copy()


class _Session:
    """One session on its way in."""

    def __init__(
        self,
        target: Target,
        unit: ForeignSession,
        said: _Said,
        messages: NewMessages,
        moment: int,
    ) -> None:
        self._target, self._unit, self._said = target, unit, said
        self._messages, self._moment = messages, moment
        self._marks, self._ids = Marks(), set[str]()

    # --- copied

    def copy(self) -> PutOutcome:
        """Put all of it in, and compare."""
        batches = self._batches()
        first = next(batches)
        if not self._marks and self._messages.rejected:
            # One without messages has a title at least; of this one nothing can be put in.
            return REJECTED
        arrived = copied(self._target, chain([first], batches), self._moment)
        name = self._said.name
        with self._target.comparing(added(Kind.SESSION, name)):
            self._verify()
            if self._target.records.read(about, None, Kind.SESSION, name) != About.of(arrived):
                raise ImportNotVerified(self._unit.place, "its title, times or marks")
        return PutOutcome("copied", len(self._marks), self._messages.size)

    def _batches(self) -> Iterator[Batch]:
        """Its messages, the last of them in a batch that is not full."""
        batch = self._messages.batch(BATCH)
        arrived = self._later(self._arrived(batch), batch)
        yield arrived, self._lines(batch)
        while len(batch) == BATCH:
            batch = self._messages.batch(BATCH)
            arrived = self._later(arrived, batch)
            yield arrived, self._lines(batch)

    def _arrived(self, batch: Sequence[NewMessage]) -> Arrived:
        said, first = self._said, batch[0].written if batch else self._moment
        # Sweeps look for old messages in sessions that are as old.
        created = first if said.created is None else min(said.created, first)
        made = named(Kind.SESSION, said.name, said.title, created)
        unit = self._unit
        return made._replace(is_archived=unit.is_archived, is_pinned=unit.is_pinned)

    def _later(self, arrived: Arrived, batch: Sequence[NewMessage]) -> Arrived:
        """The same with more messages."""
        updated = max([arrived.updated_at, *(one.written for one in batch)])
        own = self._said.updated
        return arrived._replace(
            updated_at=updated if own is None else own,
            next_sequence=arrived.next_sequence + len(batch),
        )

    def _lines(self, batch: Sequence[NewMessage]) -> list[Line]:
        start = len(self._marks)
        add_all(self._marks, batch)
        return [one.line(number, self._ids) for number, one in enumerate(batch, start)]

    # --- there before

    def compare(self) -> PutOutcome:
        """Find all of it there, or add what came since.

        Raises:
            AddressTaken: The session has something else, or was changed since it was put in.
        """
        stored = self._stored(self._ids)
        while batch := self._messages.batch(BATCH):
            start = len(self._marks)
            add_all(self._marks, batch)
            there = min(len(stored), len(self._marks))
            self._refuse_others(stored, range(start, there))
            if len(self._marks) > len(stored):
                return self._continued(batch[max(0, there - start) :])
        return PutOutcome("present", len(self._marks))

    def _refuse_others(self, stored: Marks, numbers: range) -> None:
        if not all(self._marks.is_at(number, stored, number) for number in numbers):
            raise AddressTaken(Kind.SESSION.label)

    def _continued(self, batch: Sequence[NewMessage]) -> PutOutcome:
        """Add messages behind those that this import put in; each batch is seen with its journal.

        What the session's owner began stays as it is: what was added to it could not be taken out
        again without what was said since.
        """
        one = added(Kind.SESSION, self._said.name)
        if not self._target.is_as_put(one):
            raise AddressTaken(Kind.SESSION.label)
        first = count = len(self._marks) - len(batch)
        size = 0
        while batch:
            lines = [new.line(number, self._ids) for number, new in enumerate(batch, count)]
            latest = max(new.written for new in batch)
            self._target.write_noted([one], _append, self._said.name, count, lines, latest)
            count += len(batch)
            size += sum(len(new.plaintext) for new in batch)
            batch = self._messages.batch(BATCH)
            add_all(self._marks, batch)
        with self._target.comparing(one):
            self._verify()
        return PutOutcome("continued", count - first, size)

    # --- read back

    def _verify(self) -> None:
        """Read all of it as its owner does, and compare.

        Raises:
            ImportNotVerified: It is not what the source has.
        """
        stored = self._stored(set())
        if len(stored) != len(self._marks):
            raise ImportNotVerified(self._unit.place, "the number of messages")
        for number in range(len(stored)):
            if not self._marks.is_at(number, stored, number):
                raise ImportNotVerified(self._unit.place, f"message {number + 1:,}")

    def _stored(self, ids: set[str]) -> Marks:
        """What the session has, in the order of the source; its messages' ids are added."""
        marks, before, name = Marks(), LATEST, self._said.name
        while True:
            page = self._target.records.read(reading.page, NOTHING, name, before, BATCH, now())
            for plaintext in reversed(page.messages):
                marks.add(*stored_mark(plaintext))
                if message_id := decode_partially(plaintext).message_id:
                    ids.add(message_id)
            if page.before is None:
                return marks.reversed()
            before = page.before


def _append(
    transaction: Transaction,
    keys: ScopeKeys,
    name: str,
    count: int,
    lines: Sequence[Line],
    latest: int,
) -> None:
    state = ROWS[Kind.SESSION].locked(transaction, keys, digest_of(keys, Kind.SESSION, name))
    if state is None or (state.count, state.next_sequence) != (count, count):
        raise AddressTaken(Kind.SESSION.label)
    imported.append(transaction, keys, name, state.but_keys, lines, latest)
