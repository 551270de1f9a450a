"""PostgresSaver: threads of langgraph-checkpoint-postgres, whose values stand in a table beside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

from langmem_isolated._codecs.stock_serializer import Undecodable, Unknown
from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.langgraph.forms import (
    TASKS,
    add_sends,
    by_path,
    checked_checkpoint,
    checked_write,
    json_object,
    lacks_sends,
)
from langmem_isolated.importers.langgraph.history import Loaded, Reference, reference
from langmem_isolated.importers.langgraph.options import (
    class_name,
    refuse_without_key,
    stock_serializer,
)
from langmem_isolated.importers.langgraph.postgres_blobs import Blobs
from langmem_isolated.importers.langgraph.postgres_database import PostgresDatabase
from langmem_isolated.importers.langgraph.saver_source import SaverSource, foreign
from langmem_isolated.lifecycle import ForeignWrite, Rejected

_TABLES = {
    "checkpoints": ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint", "metadata"),
    "checkpoint_blobs": ("thread_id", "checkpoint_ns", "channel", "version", "type", "blob"),
    "checkpoint_writes": ("thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx", "blob"),
}
# Rows of checkpoints at a time; they are small, since what is large stands beside.
_PAGE = 100
_WRITES_BYTES = 2_000_000


class _Row(NamedTuple):
    """A checkpoint without the values that stand beside; or why there is none."""

    reference: Reference
    checkpoint: dict[str, Any]
    metadata: dict[str, Any]
    refusal: Undecodable | None = None


class _Writes(NamedTuple):
    found: list[ForeignWrite]
    rejected: list[Rejected]


class PostgresSaverSource(SaverSource):
    """The threads in the tables of ``PostgresSaver`` or ``AsyncPostgresSaver``.

    Args:
        location: URL of the database.
        schema: Where the tables are; by default where the connection looks.
        history: ``"full"``, or ``"latest"`` for what a thread needs to go on.
        allow: Models, dataclasses, enums and named tuples of the application that may be rebuilt.
        unknown: ``"reject"`` reports checkpoints with objects of other classes, ``"data"`` keeps
            the plain fields of these.
        key_env: Name of the variable with the key of ``EncryptedSerializer``.
        key_file: File with that key.

    Raises:
        SourceRefused: There are no such tables, the server cannot be reached, the rows are
            encrypted and no key is given, or an option is malformed.
    """

    kind = "postgres-saver"

    def __init__(
        self,
        location: str,
        *,
        schema: str | None = None,
        history: str = "full",
        allow: Iterable[str | type] = (),
        unknown: Unknown = "reject",
        key_env: str | None = None,
        key_file: Path | str | None = None,
    ) -> None:
        allow = [*allow]
        super().__init__(history, allow=sorted(map(class_name, allow)), unknown=unknown)
        self._serializer = stock_serializer(allow, unknown, key_env, key_file)
        self._database = PostgresDatabase(location, schema, _TABLES)
        # Tables of before 2.0.15 lack it; LangGraph adds it, empty.
        has_path = "task_path" in self._database.columns("checkpoint_writes")
        self._database.names["task_path"] = "task_path" if has_path else "''"
        first = self._database.rows("SELECT type FROM {checkpoint_blobs} LIMIT 1")
        try:
            refuse_without_key(self._serializer, first)
        except SourceRefused:
            self.close()
            raise

    @property
    def identity(self) -> str:
        """Host, port, database and schema."""
        return self._database.identity

    def total(self) -> int | None:
        """How many checkpoints there are; unknown where the newest are chosen."""
        return self._database.count("checkpoints") if self.history == "full" else None

    def size(self) -> int | None:
        """How many bytes the tables have."""
        return self._database.size(*_TABLES)

    def close(self) -> None:
        """Let go of the connection."""
        self._database.close()

    def _end_thread(self) -> None:
        self._serializer.forget()

    def _threads(self) -> Iterator[tuple[object, str]]:
        rows = self._database.stream(
            'SELECT DISTINCT thread_id COLLATE "C" FROM {checkpoints} ORDER BY 1'
        )
        return ((id_, f"checkpoints, thread {number}") for number, (id_,) in enumerate(rows, 1))

    def _references(self, thread_id: str) -> Iterator[Reference | Rejected]:
        rows = self._database.rows(
            "SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, ctid::text "
            "FROM {checkpoints} WHERE thread_id = %s",
            thread_id,
        )
        return (reference(ns, id_, parent, _place(row)) for ns, id_, parent, row in rows)

    def _metadata(self, thread_id: str, reference: Reference) -> Mapping[str, Any]:
        return self._rows(thread_id, [reference])[0].metadata

    def _load(self, thread_id: str, references: Sequence[Reference]) -> Iterator[Loaded]:
        for namespace, group in groupby(references, key=lambda one: one.namespace):
            blobs = Blobs(self._database, self._serializer, thread_id, namespace)
            while page := [*islice(group, _PAGE)]:
                rows = self._rows(thread_id, page)
                blobs.plan(row.checkpoint for row in rows if row.refusal is None)
                yield from self._loaded(thread_id, rows, blobs)

    def _loaded(self, thread_id: str, rows: Sequence[_Row], blobs: Blobs) -> Iterator[Loaded]:
        for part in self._parts(thread_id, rows):
            writes = self._writes(thread_id, [row.reference for row in part])
            for row in part:
                one, behind = row.reference, writes[row.reference.id]
                try:
                    yield self._whole(thread_id, row, blobs, behind)
                except Undecodable as error:
                    yield Rejected(one.place, str(error))
                yield from behind.rejected

    def _whole(self, thread_id: str, row: _Row, blobs: Blobs, behind: _Writes) -> Loaded:
        if row.refusal is not None:
            raise row.refusal
        one, checkpoint, metadata, _ = row
        checkpoint["channel_values"].update(blobs.values(checkpoint, metadata))
        if one.parent_id and lacks_sends(checkpoint):
            parent = Reference(one.namespace, one.parent_id, None, "")
            of_parent = self._writes(thread_id, [parent])[one.parent_id].found
            add_sends(checkpoint, [write.value for write in of_parent if write.channel == TASKS])
        return foreign(one, checkpoint, metadata, behind.found)

    def _rows(self, thread_id: str, page: Sequence[Reference]) -> list[_Row]:
        """The rows of checkpoints of one namespace, in their order."""
        found = {
            id_: texts
            for id_, *texts in self._database.rows(
                "SELECT checkpoint_id, checkpoint::text, metadata::text "
                "FROM {checkpoints} WHERE thread_id = %s AND checkpoint_ns = %s "
                "AND checkpoint_id = ANY(%s)",
                *(thread_id, page[0].namespace, [one.id for one in page]),
            )
        }
        return [_parsed(one, *found[one.id]) for one in page]

    def _parts(self, thread_id: str, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Rows so many at a time that what was written behind them can be held at once."""
        sizes = dict(
            self._database.rows(
                "SELECT checkpoint_id, sum(octet_length(blob)) "
                "FROM {checkpoint_writes} WHERE thread_id = %s AND checkpoint_ns = %s "
                "AND checkpoint_id = ANY(%s) GROUP BY checkpoint_id",
                *(thread_id, rows[0].reference.namespace, [row.reference.id for row in rows]),
            )
        )
        part: list[_Row] = []
        size = 0
        for row in rows:
            size += sizes.get(row.reference.id, 0)
            if part and size > _WRITES_BYTES:
                yield part
                part, size = [], sizes.get(row.reference.id, 0)
            part.append(row)
        yield part

    def _writes(self, thread_id: str, references: Sequence[Reference]) -> Mapping[str, _Writes]:
        found: dict[str, _Writes] = defaultdict(lambda: _Writes([], []))
        for id_, task, path, index, channel, kind, blob, row in self._database.rows(
            "SELECT checkpoint_id, task_id, {task_path}, idx, channel, type, blob, "
            "ctid::text FROM {checkpoint_writes} "
            "WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = ANY(%s)",
            *(thread_id, references[0].namespace, [one.id for one in references]),
        ):
            try:
                value = self._serializer.loads(kind, blob)
                found[id_].found.append(checked_write(task, path, index, channel, value))
            except Undecodable as error:
                place = f"checkpoint_writes, ctid {row}"
                found[id_].rejected.append(Rejected(place, str(error)))
        for writes in found.values():
            writes.found.sort(key=by_path)
        return found


def _parsed(one: Reference, checkpoint: str, metadata: str) -> _Row:
    try:
        facts = json_object(metadata, "the metadata")
        found = json_object(checkpoint, "the checkpoint")
        # A checkpoint of which all values stand beside has none in its row.
        found["channel_values"] = found.get("channel_values") or {}
        return _Row(one, checked_checkpoint(found, one.id), facts)
    except Undecodable as error:
        return _Row(one, {}, {}, error)


def _place(row: str) -> str:
    return f"checkpoints, ctid {row}"
