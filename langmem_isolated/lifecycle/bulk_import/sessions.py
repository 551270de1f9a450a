"""Sessions of an import: staged unseen, published whole, read back and compared."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from langmem_isolated._codecs.headers import Header, decode_header
from langmem_isolated._codecs.messages import decode_partially
from langmem_isolated._codecs.values import is_utf8
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.copying import imported
from langmem_isolated._storage.copying.containers import ROWS, Line, digest_of
from langmem_isolated._storage.copying.imported import Arrived, Channels
from langmem_isolated._storage.copying.options import BATCH, Added
from langmem_isolated._storage.sessions import reading
from langmem_isolated._storage.sessions.reading import LATEST, NOTHING
from langmem_isolated.errors import AddressTaken, ImportNotVerified
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

_MOST_TITLE_BYTES = 16_000


class _About(NamedTuple):
    """A session without its messages, checked; a time is ``None`` where its source has none."""

    name: str
    title: str | None
    created: int | None
    updated: int | None

    @classmethod
    def of(cls, unit: ForeignSession, name: str) -> _About:
        """As the source has it.

        Raises:
            ScopeError: Its name is none that a session can have.
            NotStorable: A time is none.
        """
        title = unit.title
        if title is not None and not is_utf8(title):
            title = title.encode(errors="replace").decode()
        return cls(
            checked_id("session_id", name),
            title and title.encode()[:_MOST_TITLE_BYTES].decode(errors="ignore"),
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
            about = _About.of(unit, name)
        except REFUSALS as refusal:
            on_reject(Rejected(unit.place, str(refusal)))
            return REJECTED
        otherwise = self._moment if about.created is None else about.created
        messages = NewMessages(unit.messages, target.limits, otherwise, on_reject)
        session = _Session(target, unit, about, messages, self._moment)
        return session.compare() if session.is_there() else session.copy()


class _Session:
    """One session on its way in."""

    def __init__(
        self,
        target: Target,
        unit: ForeignSession,
        about: _About,
        messages: NewMessages,
        moment: int,
    ) -> None:
        self._target, self._unit, self._about = target, unit, about
        self._messages, self._moment = messages, moment
        self._added = Added(Kind.SESSION, (about.name.encode(),))
        self._marks, self._ids = Marks(), set[str]()
        self._channels = Channels()

    def is_there(self) -> bool:
        """Whether the scope has a session of its name."""
        given = Kind.SESSION, self._about.name, now()
        return self._target.records.read(imported.is_taken, False, *given)

    # --- copied

    def copy(self) -> PutOutcome:
        """Put all of it in, and compare."""
        batch = self._messages.batch(BATCH)
        arrived, lines = self._arrived(batch), self._lines(batch)
        if len(batch) < BATCH:
            self._target.write_noted([self._added], self._put_whole, arrived, lines)
        else:
            arrived = self._copy_in_batches(arrived, lines)
        self._verify(arrived)
        return PutOutcome("copied", len(self._marks), self._messages.size)

    def _copy_in_batches(self, arrived: Arrived, lines: list[Line]) -> Arrived:
        write = self._target.write
        step = write(imported.stage, arrived.as_source(), self._moment)
        while lines:
            step = write(imported.put_lines, step, lines)
            batch = self._messages.batch(BATCH)
            arrived, lines = self._later(arrived, batch), self._lines(batch)
        publish = partial(imported.publish, arrived=arrived, step=step, channels=self._channels)
        self._target.write_noted([self._added], publish)
        return arrived

    def _put_whole(
        self, transaction: Transaction, keys: ScopeKeys, arrived: Arrived, lines: list[Line]
    ) -> None:
        step = imported.stage(transaction, keys, arrived.as_source(), self._moment)
        if lines:
            step = imported.put_lines(transaction, keys, step, lines)
        imported.publish(transaction, keys, arrived, step, self._channels)

    def _arrived(self, batch: Sequence[NewMessage]) -> Arrived:
        about, first = self._about, batch[0].written if batch else self._moment
        created = first if about.created is None else about.created
        return self._later(
            Arrived(
                Kind.SESSION, about.name, Header(about.name, about.title),
                is_closed=False, is_archived=self._unit.is_archived,
                is_pinned=self._unit.is_pinned, idle_lifetime=None, absolute_lifetime=None,
                created_at=created, updated_at=created, expires_at=None,
                next_sequence=0, count=0,
            ),
            batch,
        )  # fmt: skip

    def _later(self, arrived: Arrived, batch: Sequence[NewMessage]) -> Arrived:
        """The same with more messages."""
        updated = max([arrived.updated_at, *(one.written for one in batch)])
        own = self._about.updated
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
                return self._append(batch[max(0, there - start) :])
        return PutOutcome("present", len(self._marks))

    def _refuse_others(self, stored: Marks, numbers: range) -> None:
        if not all(self._marks.is_at(number, stored, number) for number in numbers):
            raise AddressTaken(Kind.SESSION.label)

    def _append(self, batch: Sequence[NewMessage]) -> PutOutcome:
        """Add messages behind those that this import put in; each batch is seen with its journal.

        What the session's owner began stays as it is: what was added to it could not be taken out
        again without what was said since.
        """
        if not self._target.is_as_put(self._added):
            raise AddressTaken(Kind.SESSION.label)
        name, count = self._about.name, len(self._marks) - len(batch)
        added = size = 0
        while batch:
            lines = [one.line(number, self._ids) for number, one in enumerate(batch, count + added)]
            latest = max(one.written for one in batch)
            self._target.write_noted([self._added], _append, name, count + added, lines, latest)
            added += len(batch)
            size += sum(len(one.plaintext) for one in batch)
            batch = self._messages.batch(BATCH)
            add_all(self._marks, batch)
        self._verify(None)
        return PutOutcome("continued", added, size)

    # --- read back

    def _verify(self, arrived: Arrived | None) -> None:
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
        if arrived is not None and self._target.records.read(_about, None, arrived.name) != (
            arrived.header, arrived.created_at, arrived.updated_at,
            arrived.is_archived, arrived.is_pinned,
        ):  # fmt: skip
            raise ImportNotVerified(self._unit.place, "its title, times or marks")

    def _stored(self, ids: set[str]) -> Marks:
        """What the session has, in the order of the source; its messages' ids are added."""
        marks, before, name = Marks(), LATEST, self._about.name
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


def _about(
    transaction: Transaction, keys: ScopeKeys, name: str
) -> tuple[Header, int, int, bool, bool] | None:
    found = ROWS[Kind.SESSION].header(transaction, keys, digest_of(keys, Kind.SESSION, name))
    if found is None:
        return None
    state, header = found
    times = state.created_at, state.updated_at
    return decode_header(header), *times, state.is_archived, bool(state.is_pinned)
