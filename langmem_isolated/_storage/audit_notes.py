"""Audit notes: what an entry says, as it is sealed. Never content."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from langmem_isolated._crypto.sealing import SealingKey, open_sealed
from langmem_isolated._storage.audit_rows import AuditRow
from langmem_isolated.errors import RecordDoesNotOpen

Outcome = Literal["begun", "done", "failed", "refused"]
LABEL = "audit"
_VERSION = 1


@dataclass(frozen=True, slots=True, repr=False)
class AuditNote:
    """What one entry says."""

    operation: str
    outcome: Outcome = "done"
    actor: str | None = None
    reason: str | None = None
    count: int | None = None
    """How many records, or what the operation counts."""
    module: str | None = None
    scope: str | None = None
    """The digest of the scope, in hexadecimal digits."""
    until: int | None = None
    """When a permission ends, or the one that is given back, in µs since 1970 by the database."""
    call: str | None = None
    """The same for the begin and the end of one call: 16 hexadecimal digits."""

    def encoded(self) -> bytes:
        """JSON in ASCII, its names sorted, without spaces and without what is ``None``."""
        told = {name: value for name, value in asdict(self).items() if value is not None}
        told["v"] = _VERSION
        return json.dumps(told, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decoded(cls, payload: bytes) -> AuditNote:
        """What :meth:`encoded` gave, which was authenticated.

        Raises:
            ValueError: A later version of this package wrote it.
        """
        told = json.loads(payload)
        if told.pop("v") != _VERSION:
            raise ValueError("a later version of this package wrote an entry of the audit log")
        return cls(**told)


def opened_note(row: AuditRow, *keys: SealingKey | None) -> AuditNote | None:
    """What an entry says; ``None`` if none of these keys sealed it, as after an erasure.

    Raises:
        RecordDoesNotOpen: One of them did, and it was changed or moved.
    """
    known = {key.id: key for key in keys if key is not None}
    try:
        return AuditNote.decoded(open_sealed(known, row.place, row.sealed, kind=LABEL))
    except RecordDoesNotOpen as error:
        if error.key_id is not None and error.key_id not in known:
            return None
        raise
