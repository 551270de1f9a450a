"""History of mem0: what memories said before, and the last messages of each scope."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from langmem_isolated.importers.application.forms import Unreadable, message_of, moment_of
from langmem_isolated.importers.application.queries import ForeignDatabase, Row
from langmem_isolated.lifecycle import (
    ForeignItem,
    ForeignMessage,
    ForeignSession,
    ForeignUnit,
    Rejected,
)

NAMESPACE = ("memories", "history")
_OF_A_SCOPE = {"user_id": "user", "agent_id": "module", "run_id": "session"}
_NO_RUN = "mem0"
_CHANGES = (
    *("memory_id", "old_memory", "new_memory", "event", "created_at", "updated_at"),
    *("is_deleted", "actor_id", "role"),
)

_OF_A_MESSAGE = ("id", "role", "content", "name", "created_at")

Owner = Callable[[str], Mapping[str, Any] | None]


class Mem0History:
    """mem0's ``history.db``, whose rows do not say whose they are.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._database = ForeignDatabase(str(path))

    def units(self, owner_of: Owner) -> Iterator[ForeignUnit | Rejected]:
        """An item for each change of a memory that is there, a session for each scope.

        Args:
            owner_of: The fields of a memory's owner, ``None`` where it was deleted.
        """
        if self._database.has_table("history"):
            yield from self._changes(owner_of)
        if self._database.has_table("messages"):
            yield from self._sessions()

    def files(self) -> Sequence[Path]:
        """The file and its log."""
        return self._database.files()

    def close(self) -> None:
        """End the connection."""
        self._database.close()

    def _changes(self, owner_of: Owner) -> Iterator[ForeignItem | Rejected]:
        for row in self._database.rows("SELECT rowid AS number, * FROM history ORDER BY rowid"):
            place = f"history, row {row['number']}"
            try:
                yield _change(row, owner_of(str(row.get("memory_id"))), place)
            except Unreadable as error:
                yield Rejected(place, str(error))

    def _sessions(self) -> Iterator[ForeignSession]:
        rows = self._database.rows(
            "SELECT rowid AS number, * FROM messages ORDER BY session_scope, created_at, rowid"
        )
        groups = groupby(rows, key=lambda row: row["session_scope"])
        for number, (scope, group) in enumerate(groups, start=1):
            fields = _fields_of(scope)
            yield ForeignSession(
                fields.get("session") or _NO_RUN,
                f"messages, scope {number} by name",
                map(_message, group),
                fields,
            )


def _change(row: Row, owner: Mapping[str, Any] | None, place: str) -> ForeignItem:
    if owner is None:
        raise Unreadable("a change of a memory that is deleted: nothing says any more whose it was")
    created, updated = moment_of(row.get("created_at")), moment_of(row.get("updated_at"))
    value = {name: row.get(name) for name in _CHANGES}
    return ForeignItem(
        NAMESPACE, str(row["id"]), value, place, created_at=created,
        updated_at=updated, fields=owner,
    )  # fmt: skip


def _fields_of(scope: object) -> dict[str, str]:
    """``agent_id=…&run_id=…&user_id=…``, with ``%``, ``&`` and ``=`` in ids escaped."""
    pairs = (part.partition("=") for part in str(scope).split("&"))
    told = {name: unquote(value) for name, _, value in pairs}
    return {ours: told[theirs] for theirs, ours in _OF_A_SCOPE.items() if told.get(theirs)}


def _message(row: Row) -> ForeignMessage | Rejected:
    place = f"messages, row {row['number']}"
    try:
        return message_of({name: row.get(name) for name in _OF_A_MESSAGE}, place)
    except Unreadable as error:
        return Rejected(place, str(error))
