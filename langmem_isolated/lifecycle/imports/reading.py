"""Reads an archive's lines in their order, and gives a sink what they stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn, Protocol, TypeVar

from langmem_isolated._codecs.checkpoints.stored_bodies import task_of
from langmem_isolated._codecs.foreign_elements import Elements
from langmem_isolated._codecs.refusals import NotStorable
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._storage.copying.containers import Line
from langmem_isolated._storage.copying.imported import (
    Arrived,
    ArrivedCollection,
    ArrivedEntry,
    ArrivedItem,
    Channels,
)
from langmem_isolated._storage.documents.unit_of_work import NewDocument
from langmem_isolated.errors import ImportRefused
from langmem_isolated.lifecycle.export.export import AUDIT_FILE, ENTRY_FILES, FILES
from langmem_isolated.lifecycle.imports.archive import ExportArchive
from langmem_isolated.lifecycle.imports.entries import Entries
from langmem_isolated.lifecycle.imports.fields import Fields
from langmem_isolated.lifecycle.imports.records import REFUSALS, Records

T = TypeVar("T")
# Behind it in a line stands what a thread's state was rendered as, which nothing is made of; as
# quotation marks in texts have escapes, it stands nowhere else.
_STATE = b', "state": '
# A line that is read again rather than kept as what was made of it.
_LARGE = 1 << 16
# Rows of a transaction, beside that of the container and that of the position.
BATCH = 498
# Of documents: at worst each begins a block of its own.
_DOCUMENTS = BATCH // 2


class At(NamedTuple):
    """Where a record stands: the step of the import, the how manieth line of that, and the file."""

    step: int
    lines: int
    file: str
    number: int


class Sink(Protocol):
    """What is done with records."""

    def owner(self, owner: Owner) -> None:
        """What follows is this owner's."""

    def container(
        self, at: At, arrived: Arrived, channels: Channels, batches: Iterator[list[Line]]
    ) -> None:
        """Take a session or thread; ``channels`` are whole when all ``batches`` were taken."""

    def collection(
        self, at: At, arrived: ArrivedCollection, batches: Iterator[list[NewDocument]]
    ) -> None:
        """Take a collection."""

    def items(self, items: list[tuple[At, ArrivedItem]]) -> None:
        """Take items."""

    def entries(self, entries: list[tuple[At, ArrivedEntry]]) -> None:
        """Take entries of one kind."""


class _File:
    """A file of lines, one line ahead."""

    def __init__(self, archive: ExportArchive, kind: str) -> None:
        self.name = f"data/{kind}.jsonl"
        self.kind, self.number, self.count = kind, 0, 0
        # All messages of a thread may be longer than any line that is made into records.
        self._lines = archive.lines(kind, _STATE if kind == "threads" else None)
        self._line: bytes | None = None
        self._fields: Fields | None = None
        self._read()

    def _read(self) -> None:
        number, self._line = next(self._lines, (0, None))
        self.number = number or self.number
        self._fields = None

    @property
    def is_over(self) -> bool:
        """Whether there is no line ahead."""
        return self._line is None

    def _ahead(self) -> Fields:
        """The line ahead, of which there is one."""
        if self._fields is None:
            assert self._line is not None
            line = self._line
            if self.kind == "threads":
                kept, is_cut, _ = line.partition(_STATE)
                line = kept + b"}" if is_cut else line
            with self.telling():
                self._fields = Fields(line)
        return self._fields

    def take(self) -> Fields:
        """The line ahead."""
        found = self._ahead()
        self.count += 1
        self._read()
        return found

    def telling(self, number: int | None = None) -> _Telling:
        """Say of a refusal in which line it was."""
        return _Telling(self, number)

    def refuse(self, why: str, number: int | None = None) -> NoReturn:
        """Refuse a line."""
        raise ImportRefused(why.rstrip("."), self.name, number or self.number) from None

    def is_of(self, module: str | None, name: str | None = None, value: str | None = None) -> bool:
        """Whether the line ahead is of a module's, and of what ``name`` says in it."""
        if self._line is None:
            return False
        ahead = self._ahead()
        with self.telling():
            is_so = bool(ahead.any("module") == module)
            is_so = is_so and (name is None or bool(ahead.any(name) == value))
        if not is_so and len(self._line) > _LARGE:
            # Made into lists and dicts it takes many times as much, and each file has a line ahead.
            self._fields = None
        return is_so


class _Telling:
    """As a generator's context manager would, in a quarter of the time: each line takes some."""

    __slots__ = ("_file", "_number")

    def __init__(self, file: _File, number: int | None) -> None:
        self._file, self._number = file, number

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, REFUSALS):
            self._file.refuse(str(error), self._number)


class Reading:
    """One reading of an archive.

    Args:
        archive: What is read.
        records: Makes records of lines.
        entries: Makes entries of lines.
        sink: Takes them.
        now: What has expired by then is left out.
    """

    def __init__(
        self, archive: ExportArchive, records: Records, entries: Entries, sink: Sink, now: int
    ) -> None:
        self._files = {kind: _File(archive, kind) for kind in FILES}
        self._records, self._entries, self._sink, self._now = records, entries, sink, now
        self._step = self._before = 0
        self.imported: Counter[str] = Counter(dict.fromkeys(FILES, 0))
        self.skipped: Counter[str] = Counter()

    @property
    def counts(self) -> Counter[str]:
        """How many lines of each file were read."""
        return Counter({kind: file.count for kind, file in self._files.items()})

    def read(self, owners: list[Owner]) -> None:
        """Read all of it.

        Raises:
            ImportRefused: A line is none of an export, or out of its order.
        """
        for owner in owners:
            self._sink.owner(owner)
            self._containers(Kind.SESSION, owner.module)
            self._containers(Kind.THREAD, owner.module)
            self._collections(owner.module)
            self._items(owner.module)
            for kind in ENTRY_FILES:
                self._entries_of(kind, owner.module)
        self._skip(self._files[AUDIT_FILE])
        for file in self._files.values():
            if not file.is_over:
                file.refuse("it belongs to no module or container, or stands out of order")

    def _skip(self, file: _File) -> None:
        """Pass over what was noted elsewhere: nobody vouches for it here."""
        while not file.is_over:
            file.take()
            self.skipped[file.kind] += 1

    def _begin(self, file: _File) -> None:
        self._step += 1
        self._before = file.count

    def _at(self, file: _File, number: int) -> At:
        return At(self._step, file.count - self._before, file.name, number)

    def _count(self, kind: str, is_in: bool) -> None:
        (self.imported if is_in else self.skipped)[kind] += 1

    # --- sessions and threads

    def _containers(self, kind: Kind, module: str | None) -> None:
        file = self._files["sessions" if kind is Kind.SESSION else "threads"]
        below = self._messages if kind is Kind.SESSION else self._history
        self._begin(file)
        while file.is_of(module):
            number, fields = file.number, file.take()
            with file.telling(number):
                arrived = self._records.container(kind, fields)
            ends_at, channels = arrived.ends_at, Channels()
            is_in = ends_at is None or ends_at > self._now
            batches = below(module, arrived, is_in, channels)
            if is_in:
                self._sink.container(self._at(file, number), arrived, channels, batches)
            for _ in batches:
                pass
            self._count(file.kind, is_in)

    def _below(
        self, kind: str, name: str, module: str | None, container: str
    ) -> Iterator[tuple[_File, int, Fields]]:
        file = self._files[kind]
        while file.is_of(module, name, container):
            number = file.number
            yield file, number, file.take()

    def _messages(
        self, module: str | None, of: Arrived, is_in: bool, channels: Channels
    ) -> Iterator[list[Line]]:
        batch: list[Line] = []
        found: set[str] = set()
        count, following = 0, of.next_sequence - of.count if of.limits is None else None
        sequence = -1
        file = self._files["messages"]
        for file, number, fields in self._below("messages", "session", module, of.name):
            with file.telling(number):
                line, message_id, channel = self._records.message(fields)
                before, sequence = sequence, int.from_bytes(line.key)
                is_next = sequence > before if following is None else sequence == following + count
                if not is_next or sequence >= of.next_sequence:
                    raise NotStorable("sequence is not that of the session's next message")
                if line.has_alias and message_id:
                    if message_id in found:
                        raise NotStorable("two messages of the session are found by one id")
                    found.add(message_id)
            channels.add(sequence, channel)
            count += 1
            self._count("messages", is_in)
            batch.append(line)
            if len(batch) == BATCH:
                yield batch
                batch = []
        self._check_count(file, count, of.count, of.kind)
        if batch:
            yield batch

    def _check_count(self, file: _File, count: int, told: int, kind: Kind) -> None:
        if count != told:
            container = self._files[f"{kind.label}s"]
            # The line ahead is the next one, if there is any.
            container.refuse(
                f"{kind.label} number {container.count} has another count than {file.name} has "
                "lines for it"
            )

    def _history(
        self, module: str | None, of: Arrived, is_in: bool, _: Channels
    ) -> Iterator[list[Line]]:
        batch: list[Line] = []
        elements, found, count = Elements(), set[tuple[object, ...]](), 0
        file = self._files["checkpoints"]
        for file, number, fields in self._below("checkpoints", "thread", module, of.name):
            with file.telling(number):
                line = self._records.history(fields, elements)
                if elements.end > of.next_sequence:
                    raise NotStorable("number is not below that of the thread's next element")
                if line is not None:
                    _take_once(line, found)
            self._count("checkpoints", is_in and line is not None)
            if line is None:
                continue
            count += line.kind is Kind.CHECKPOINT
            batch.append(line)
            if len(batch) == BATCH:
                yield batch
                batch = []
        self._check_count(file, count, of.count, of.kind)
        if batch:
            yield batch

    # --- what else there is

    def _collections(self, module: str | None) -> None:
        file = self._files["collections"]
        self._begin(file)
        while file.is_of(module):
            number, fields = file.number, file.take()
            with file.telling(number):
                arrived = self._records.collection(fields)
            batches = self._documents(module, arrived)
            self._sink.collection(self._at(file, number), arrived, batches)
            for _ in batches:
                pass
            self._count("collections", is_in=True)

    def _documents(self, module: str | None, of: ArrivedCollection) -> Iterator[list[NewDocument]]:
        batch: list[NewDocument] = []
        found: set[bytes] = set()
        length: int | None = None
        file, name = self._files["documents"], of.header.collection
        for file, number, fields in self._below("documents", "collection", module, name):
            with file.telling(number):
                document = self._records.document(fields)
                if fields.any("embedded_by") != of.header.embedding_name:
                    raise NotStorable("embedded_by is not that of its collection")
                if document.name in found or length not in (None, len(document.embedding)):
                    raise NotStorable("its id stands twice, or its embedding has another length")
            found.add(document.name)
            length = len(document.embedding)
            self._count("documents", is_in=True)
            batch.append(document)
            if len(batch) == _DOCUMENTS:
                yield batch
                batch = []
        self._check_count(file, len(found), of.count, Kind.COLLECTION)
        if batch:
            yield batch

    def _items(self, module: str | None) -> None:
        def size(item: ArrivedItem) -> int:
            return 1 + len(item.vectors)

        file = self._files["items"]
        self._many(file, module, self._records.item, self._sink.items, size)

    def _entries_of(self, kind: Kind, module: str | None) -> None:
        def made(fields: Fields) -> ArrivedEntry | None:
            return self._entries.arrived(kind, fields)

        file = self._files[ENTRY_FILES[kind]]
        self._many(file, module, made, self._sink.entries, lambda _: 1)

    def _many(
        self,
        file: _File,
        module: str | None,
        made: Callable[[Fields], T | None],
        take: Callable[[list[tuple[At, T]]], None],
        size: Callable[[T], int],
    ) -> None:
        self._begin(file)
        batch: list[tuple[At, T]] = []
        rows = 0
        while file.is_of(module):
            number, fields = file.number, file.take()
            with file.telling(number):
                one = made(fields)
            ends_at = getattr(one, "expires_at", None)
            is_in = one is not None and (ends_at is None or ends_at > self._now)
            self._count(file.kind, is_in)
            if one is None or not is_in:
                continue
            if batch and rows + size(one) > BATCH:
                take(batch)
                batch, rows = [], 0
            batch.append((self._at(file, number), one))
            rows += size(one)
        if batch:
            take(batch)


def _take_once(line: Line, found: set[tuple[object, ...]]) -> None:
    task = task_of(line.plaintext) if line.kind is Kind.WRITE else None
    address = line.kind, line.namespace, line.key, task
    if address in found:
        raise NotStorable("it stands twice")
    found.add(address)
