"""mem0: its memories in Qdrant, and the database of their history and of last messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

from langmem_isolated.importers.application.forms import Unreadable, id_of, moment_of
from langmem_isolated.importers.application.mem0_history import Mem0History
from langmem_isolated.importers.application.qdrant import LocalPoints, Points, ServedPoints
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignItem, ForeignUnit, Rejected

NAMESPACE = ("memories",)
_OWNERS = {"user_id": "user", "agent_id": "module", "run_id": "session"}
# A lemmatised copy of the text, for mem0's own ranking.
_DERIVED = ("text_lemmatized",)


class Mem0Source(Source):
    """Memories of mem0 2.x in Qdrant, each an item of the namespace ``("memories",)``.

    Its user, agent and run are the fields ``user``, ``module`` and ``session``. Entities, which
    mem0 derives from memories, are counted and left out, as embeddings are.

    Args:
        location: The folder of a local Qdrant, as mem0's setting ``path`` names it, or the URL of
            a Qdrant server. A folder is read without Qdrant, whose client would run its pickles.
        collection: mem0's setting ``collection_name``.
        history: mem0's ``history.db``, for earlier texts and each scope's last ten messages.
        api_key_env: The environment variable that has the server's key.
    """

    kind: ClassVar[str] = "mem0"
    owners: ClassVar[Sequence[str]] = ("user",)

    def __init__(
        self,
        location: str,
        *,
        collection: str = "mem0",
        history: Path | str | None = None,
        api_key_env: str | None = None,
    ) -> None:
        is_served = location.startswith(("http://", "https://"))
        self._points: Points = (
            ServedPoints(location, api_key_env) if is_served else LocalPoints(Path(location))
        )
        self._collection = collection
        self._history = Mem0History(Path(history)) if history is not None else None

    @property
    def identity(self) -> str:
        """The folder or URL, and the collection."""
        return f"{self._points.identity} {self._collection}"

    def units(self) -> Iterator[ForeignUnit | Rejected]:
        """Memories, then their history, then sessions of last messages."""
        for place, point in self._points.all(self._collection):
            yield point if isinstance(point, Rejected) else _memory(*point, place)
        if self._history is not None:
            yield from self._history.units(self._owner_of)
        yield from self._entities()

    def total(self) -> int | None:
        """How many memories there are."""
        return self._points.count(self._collection)

    def files(self) -> Sequence[Path]:
        """The files of a local Qdrant, and of the history."""
        history = self._history.files() if self._history is not None else ()
        return (*self._points.files(self._collection), *history)

    def close(self) -> None:
        """End the connections."""
        self._points.close()
        if self._history is not None:
            self._history.close()

    def _owner_of(self, memory_id: str) -> Mapping[str, Any] | None:
        """Whose a memory is, if it is still there: a history does not say."""
        payload = self._points.payload(self._collection, memory_id)
        return None if payload is None else owner_fields(payload)

    def _entities(self) -> Iterator[Rejected]:
        name = f"{self._collection}_entities"
        if count := self._points.count(name):
            yield Rejected(
                f"collection {name}",
                f"{count:,} entities are left out: mem0 derives them from memories",
            )


def owner_fields(payload: Mapping[str, Any]) -> dict[str, Any]:
    """User, agent and run of a payload by the names that rules of a mapping read."""
    return {ours: id_of(payload.get(theirs)) for theirs, ours in _OWNERS.items()}


def _memory(id_: str, payload: Mapping[str, Any], place: str) -> ForeignItem | Rejected:
    try:
        return _item(id_, payload, place)
    except Unreadable as error:
        return Rejected(place, str(error))


def _item(id_: str, payload: Mapping[str, Any], place: str) -> ForeignItem:
    if not isinstance(payload.get("data"), str):
        raise Unreadable("a memory without text")
    left_out = (*_OWNERS, *_DERIVED)
    value = {name: value for name, value in payload.items() if name not in left_out}
    return ForeignItem(
        NAMESPACE,
        id_,
        _checked(value),
        place,
        created_at=moment_of(payload.get("created_at")),
        updated_at=moment_of(payload.get("updated_at")),
        expires_at=_end_of(payload.get("expiration_date")),
        fields=owner_fields(payload),
    )


def _checked(value: dict[str, Any]) -> dict[str, Any]:
    """A payload, which is JSON in a server, and may be anything in a folder."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise Unreadable("a memory whose payload is no JSON") from None
    return value


def _end_of(day: object) -> datetime | None:
    """A memory is seen until the end of its last day, in UTC."""
    last = moment_of(day)
    return None if last is None else last + timedelta(days=1)
