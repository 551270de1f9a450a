"""Audit values: what entries and checks of an audit log say."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from langmem_isolated._runtime.clock import EPOCH, as_moment

if TYPE_CHECKING:
    from langmem_isolated._storage.audit_notes import AuditNote
    from langmem_isolated._storage.audit_rows import AuditRow


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What was done or read, by whom and why; who and why are not in the ``repr``."""

    time: datetime
    """By the clock of who noted it, UTC."""
    operation: str | None
    """Such as ``"export"``; ``None`` where the subject was erased: nothing opens the entry."""
    outcome: str | None
    """``"begun"``, ``"done"``, ``"failed"`` or ``"refused"``."""
    actor: str | None
    """Who; ``None`` for the application itself."""
    reason: str | None
    count: int | None
    """How many records, or what the operation counts."""
    module_id: str | None
    """Of which module; ``None`` for the whole of a user's memory, or everybody's."""
    scope: str | None
    """The digest of the scope, as :meth:`ScopedMemory.digest` gives it."""
    subject: str | None
    """The digest of whom it is about; ``None`` for nobody alone."""
    until: datetime | None
    """When a permission ends."""
    call: str | None
    """The same for the begin and the end of one call."""
    shard: int
    sequence: int
    """Where it stands in the log."""

    def __repr__(self) -> str:
        told = f"{self.operation!r}, {self.outcome!r}, count={self.count!r}, time={self.time!r}"
        return f"AuditEntry({told})"

    @classmethod
    def of(cls, row: AuditRow, note: AuditNote | None) -> AuditEntry:
        """A row and what it says."""
        told: dict[str, Any] = {} if note is None else asdict(note)
        until = told.pop("until", None)
        return cls(
            time=as_moment(row.created_at) or EPOCH,
            module_id=told.pop("module", None),
            subject=None if row.scope_id is None else row.scope_id.hex(),
            until=None if until is None else as_moment(until),
            shard=row.shard,
            sequence=row.sequence,
            **(_UNREADABLE | told),
        )


_UNREADABLE: dict[str, Any] = dict.fromkeys(
    ("operation", "outcome", "actor", "reason", "count", "scope", "call")
)


@dataclass(frozen=True, slots=True)
class AuditVerified:
    """That the audit log is whole, from what it keeps of its beginning to its end."""

    entries: int
    opened: int
    """How many are about no subject; those about one open with its key alone, in `entries`."""
    removed: int
    """How many were removed because their time was over, by the numbers of the chains."""


@dataclass(frozen=True, slots=True)
class AnchorsChecked:
    """That the log is one with every anchor that was compared."""

    anchors: int
    heads: int
    """How many ends of chains were found where they were anchored."""
    over: int
    """How many are of entries that were removed since: they are compared no more."""
    stamped: int
    """How many anchors have a time stamp of somebody else's that fits."""
    newest: datetime | None
    """When the newest of them was taken: nobody has set the log back to before that."""


@dataclass(frozen=True, slots=True)
class BreakGlass:
    """That an operator may read a user's memory for a while; why is not in the ``repr``."""

    actor: str
    reason: str
    """Empty where it is asked for and the user has no keys: nothing is kept of why then."""
    until: datetime
    """By the database's clock."""

    def __repr__(self) -> str:
        return f"BreakGlass(until={self.until!r})"


@dataclass(frozen=True, slots=True)
class AuditStatus:
    """Whether there is an audit log, and what goes into it."""

    is_on: bool
    recalls: bool
    reads: bool
    audit_days: int | None
    entries: int
    """How many there are now."""
    removed: int
    """How many were removed because their time was over."""
