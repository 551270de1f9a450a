"""SqliteSaver: threads of langgraph-checkpoint-sqlite, whose rows have whole states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from langmem_isolated.importers.langgraph.saver_source import SaverSource, foreign
from langmem_isolated.importers.langgraph.sqlite_file import SqliteFile
from langmem_isolated.lifecycle import ForeignWrite, Rejected

_CHECKPOINTS = ("thread_id", "checkpoint_ns", "checkpoint_id", "parent_checkpoint_id", "metadata")
_OF_CHECKPOINT = "WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"


class SqliteSaverSource(SaverSource):
    """The threads in a file of ``SqliteSaver`` or ``AsyncSqliteSaver``.

    Args:
        location: The file.
        history: ``"full"``, or ``"latest"`` for what a thread needs to go on.
        allow: Models, dataclasses, enums and named tuples of the application that may be rebuilt.
        unknown: ``"reject"`` reports checkpoints with objects of other classes, ``"data"`` keeps
            the plain fields of these.
        key_env: Name of the variable with the key of ``EncryptedSerializer``.
        key_file: File with that key.

    Raises:
        SourceRefused: It is no such file, its rows are encrypted and no key is given, or an option
            is malformed.
    """

    kind = "sqlite-saver"

    def __init__(
        self,
        location: str | Path,
        *,
        history: str = "full",
        allow: Iterable[str | type] = (),
        unknown: Unknown = "reject",
        key_env: str | None = None,
        key_file: Path | str | None = None,
    ) -> None:
        allow = [*allow]
        super().__init__(history, allow=sorted(map(class_name, allow)), unknown=unknown)
        self._serializer = stock_serializer(allow, unknown, key_env, key_file)
        self._file = SqliteFile(location, {"checkpoints": _CHECKPOINTS, "writes": ("task_id",)})
        # Files of before 3.1 lack it; LangGraph reads them as if it were empty.
        has_path = "task_path" in self._file.columns("writes")
        self._task_path = "task_path" if has_path else "''"
        first = self._file.rows("SELECT type FROM checkpoints LIMIT 1")
        try:
            refuse_without_key(self._serializer, first)
        except SourceRefused:
            self.close()
            raise

    @property
    def identity(self) -> str:
        """The file's absolute path."""
        return self._file.identity

    def files(self) -> Sequence[Path]:
        """The file and its log."""
        return self._file.files()

    def total(self) -> int | None:
        """How many checkpoints there are; unknown where the newest are chosen."""
        return self._file.count("checkpoints") if self.history == "full" else None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _end_thread(self) -> None:
        self._serializer.forget()

    def _threads(self) -> Iterator[tuple[object, str]]:
        rows = self._file.rows(
            "SELECT thread_id, min(rowid) FROM checkpoints GROUP BY thread_id ORDER BY thread_id"
        )
        return ((thread_id, _place(row)) for thread_id, row in rows)

    def _references(self, thread_id: str) -> Iterator[Reference | Rejected]:
        rows = self._file.rows(
            "SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, rowid FROM checkpoints "
            "WHERE thread_id = ?",
            thread_id,
        )
        return (reference(ns, id_, parent, _place(row)) for ns, id_, parent, row in rows)

    def _metadata(self, thread_id: str, reference: Reference) -> Mapping[str, Any]:
        try:
            return self._row(thread_id, reference)[2]
        except Undecodable:
            return {}

    def _row(self, thread_id: str, reference: Reference) -> tuple[Any, Any, dict[str, Any]]:
        # A table without its primary key may have several.
        row = next(
            self._file.rows(
                f"SELECT type, checkpoint, metadata FROM checkpoints {_OF_CHECKPOINT}",  # noqa: S608 - a constant
                *(thread_id, reference.namespace, reference.id),
            )
        )
        kind, blob, metadata = row
        return kind, blob, {} if metadata is None else json_object(metadata, "the metadata")

    def _load(self, thread_id: str, references: Sequence[Reference]) -> Iterator[Loaded]:
        for one in references:
            rejected: list[Rejected] = []
            try:
                kind, blob, metadata = self._row(thread_id, one)
                checkpoint = checked_checkpoint(self._serializer.loads(kind, blob), one.id)
                writes = self._writes(thread_id, one.namespace, one.id, rejected)
                if one.parent_id and lacks_sends(checkpoint):
                    add_sends(checkpoint, self._sends(thread_id, one, rejected))
            except Undecodable as error:
                yield Rejected(one.place, str(error))
            else:
                yield foreign(one, checkpoint, metadata, writes)
            yield from rejected

    def _sends(self, thread_id: str, one: Reference, rejected: list[Rejected]) -> list[Any]:
        behind = self._writes(thread_id, one.namespace, str(one.parent_id), rejected)
        return [write.value for write in behind if write.channel == TASKS]

    def _writes(
        self, thread_id: str, namespace: str, checkpoint_id: str, rejected: list[Rejected]
    ) -> list[ForeignWrite]:
        found = []
        for row, task, path, index, channel, kind, blob in self._file.rows(
            f"SELECT rowid, task_id, {self._task_path}, idx, channel, type, value "  # noqa: S608 - one of two constants
            f"FROM writes {_OF_CHECKPOINT}",
            *(thread_id, namespace, checkpoint_id),
        ):
            try:
                value = self._serializer.loads(kind, blob)
                found.append(checked_write(task, path, index, channel, value))
            except Undecodable as error:
                rejected.append(Rejected(f"writes, rowid {row}", str(error)))
        return sorted(found, key=by_path)


def _place(row: int) -> str:
    return f"checkpoints, rowid {row}"
