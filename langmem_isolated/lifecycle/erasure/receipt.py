"""Receipt of an erasure: what was done, and what that does not prove."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

Heap = Literal["scrubbed", "pending"]
"""Whether bytes of what was removed may be left in the database's own files."""

_SQLITE_PENDING = (
    "The database's log still holds bytes of it, sealed with keys that are destroyed: somebody was "
    "reading. To complete it: memory.finish_erasure()."
)
_POSTGRES_PENDING = (
    "PostgreSQL keeps removed rows and wrapped keys in dead tuples, its log and its replicas until "
    "it writes over them."
)
_NOT_PROVED = (
    "Backups, replicas and snapshots made before hold the wrapped keys: the root key opens them.",
    "Third-party vector stores that without_stores named were not asked.",
    "What a third-party store, its log or its backups keep of removed documents is not known here.",
    "What the application, its logs or a model's provider kept is not known here.",
)


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """What an erasure did, and what that does not prove; it names nobody."""

    principal: str
    """By which the tables knew the user: a keyed digest, in hex."""
    erased_at: datetime
    keys_destroyed: int
    """By this call; 0 where another one did it, or there were none."""
    root_key_ids: tuple[str, ...]
    """Of what had wrapped them: copies made before open with these root keys."""
    scopes: int
    """How many modules and shared spaces were removed."""
    counts: dict[str, int]
    """How many records, sessions, threads and collections this call removed, by kind."""
    heap: Heap
    is_postgres: bool

    @property
    def does_not_prove(self) -> tuple[str, ...]:
        """What it does not prove, in sentences."""
        if self.heap == "scrubbed":
            return _NOT_PROVED
        return (_POSTGRES_PENDING if self.is_postgres else _SQLITE_PENDING, *_NOT_PROVED)

    def to_dict(self) -> dict[str, object]:
        """All of it, with what it does not prove."""
        return asdict(self) | {"does_not_prove": self.does_not_prove}

    def to_json(self) -> str:
        """All of it, as a JSON object on one line."""
        return json.dumps(self.to_dict(), default=datetime.isoformat)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"Erased at {self.erased_at:%Y-%m-%d %H:%M:%S} UTC: principal {self.principal}"
        yield f"Keys destroyed: {self.keys_destroyed}"
        yield f"Scopes removed: {self.scopes}"
        yield from (f"  {kind}: {count}" for kind, count in sorted(self.counts.items()))
        yield f"Bytes in the database's files: {self.heap}"
        yield "It does not prove:"
        yield from (f"- {sentence}" for sentence in self.does_not_prove)
