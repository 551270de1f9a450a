"""Plan of an import: what it would put where, counted by reading the source once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from langmem_isolated.importers.mapping import Target
from langmem_isolated.importers.receipts import ModuleCount
from langmem_isolated.lifecycle import (
    ForeignCheckpoint,
    ForeignDocument,
    ForeignItem,
    ForeignMessage,
    ForeignProfile,
    ForeignSession,
    ForeignThread,
    ForeignUnit,
    Rejected,
)
from langmem_isolated.scope import Scope

KIND_OF: Mapping[type, str] = {
    ForeignSession: "session",
    ForeignThread: "thread",
    ForeignItem: "item",
    ForeignDocument: "document",
    ForeignProfile: "profile",
}
RECORDS_OF = {
    "session": "messages",
    "thread": "checkpoints",
    "item": "items",
    "document": "documents",
    "profile": "entries of profiles",
}
SHOWN = 20
"""How many places of what is broken or unmapped a plan tells."""

# Records a second, verification included, of one process on 2 cores at 2.8 GHz; see
# benchmarks/importing.py.
RATES = {"session": 3500, "thread": 900, "item": 1500, "document": 800, "profile": 200}

# Bytes of the target for each of the source, measured by the same on SQLite; of what is not here
# nothing was measured.
SHARES = {"session": 1.2, "thread": 0.07}


class Tally:
    """Counts by project, module and kind, and of how many users each.

    Users are kept as 8 bytes each, some 60 in memory: a million of them takes 60 MB.
    """

    def __init__(self) -> None:
        self._units: Counter[tuple[str, str, str]] = Counter()
        self._records: Counter[tuple[str, str, str]] = Counter()
        self._users: dict[tuple[str, str, str], set[int]] = {}

    def add(self, scope: Scope, unit: ForeignUnit, records: int) -> None:
        """Count a unit."""
        key = (scope.project_id, scope.module_id, KIND_OF[type(unit)])
        self._units[key] += 1
        self._records[key] += records
        self._users.setdefault(key, set()).add(_short(scope.user_id))

    @property
    def records(self) -> int:
        """How many records there are by now."""
        return self._records.total()

    def modules(self) -> tuple[ModuleCount, ...]:
        """The counts, sorted."""
        return tuple(
            ModuleCount(*key, len(self._users[key]), self._units[key], self._records[key])
            for key in sorted(self._units)
        )


def _short(name: str) -> int:
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest)


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What an import would do; nothing was written, and the target was not asked."""

    source: str
    source_bytes: int | None
    modules: tuple[ModuleCount, ...]
    unmapped: int
    """How many sessions, threads, items, documents and profiles have no owner."""
    unmapped_first: tuple[Rejected, ...]
    rejected: int
    """How many records are broken, or may not be stored."""
    rejected_first: tuple[Rejected, ...]
    seconds: float
    """How long it may take, by rates that were measured on a small machine: 2 cores, one disk."""
    by_scope: Mapping[Scope, int] = field(default_factory=dict, repr=False)
    """Records by scope, where they were asked for."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """What the source tells of what it leaves out or makes into text: how often, by what it is."""

    @property
    def records(self) -> int:
        """How many messages, checkpoints, items, documents and entries of profiles."""
        return sum(one.records for one in self.modules)

    @property
    def target_bytes(self) -> int | None:
        """How many bytes the target may grow by, where all is of one kind that was measured."""
        kinds = {one.kind for one in self.modules}
        share = SHARES.get(kinds.pop()) if len(kinds) == 1 else None
        if share is None or self.source_bytes is None:
            return None
        return round(self.source_bytes * share)

    @property
    def is_whole(self) -> bool:
        """Whether all of the source has an owner and is fit to be stored."""
        return not self.unmapped and not self.rejected

    def as_dict(self) -> dict[str, Any]:
        """JSON of it."""
        told = asdict(replace(self, by_scope={})) | {"target_bytes": self.target_bytes}
        told["by_scope"] = [
            {"project": s.project_id, "user": s.user_id, "module": s.module_id, "records": count}
            for s, count in self.by_scope.items()
        ]
        return told


class Planner:
    """Reads units and counts; what it keeps grows with the number of users alone."""

    def __init__(self, *, by_scope: bool) -> None:
        self.tally = Tally()
        self._by_scope: Counter[Scope] | None = Counter() if by_scope else None
        self._unmapped, self._rejected = _First(), _First()

    def add(self, unit: ForeignUnit, target: Target) -> int:
        """Count a unit and all of its records; returns how many there are."""
        records = count_records(unit, self._rejected.add)
        self.tally.add(target.scope, unit, records)
        if self._by_scope is not None:
            self._by_scope[target.scope] += records
        return records

    def reject(self, rejected: Rejected) -> None:
        """Count what is broken."""
        self._rejected.add(rejected)

    def leave_out(self, rejected: Rejected) -> None:
        """Count what has no owner."""
        self._unmapped.add(rejected)

    def plan(self, source: str, size: int | None) -> ImportPlan:
        """All of it."""
        modules = self.tally.modules()
        return ImportPlan(
            source,
            size,
            modules,
            self._unmapped.count,
            tuple(self._unmapped.first),
            self._rejected.count,
            tuple(self._rejected.first),
            sum(one.records / RATES[one.kind] for one in modules),
            self._by_scope or {},
        )


class _First:
    """How many there are, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[Rejected] = []

    def add(self, rejected: Rejected) -> None:
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(rejected)


def count_records(unit: ForeignUnit, on_reject: Callable[[Rejected], object]) -> int:
    """How many records a unit has; a session or thread is read to its end."""
    if isinstance(unit, ForeignSession | ForeignThread):
        parts = unit.messages if isinstance(unit, ForeignSession) else unit.checkpoints
        return sum(_is_record(part, on_reject) for part in parts)
    if isinstance(unit, ForeignProfile):
        told = len(unit.facts) + len(unit.interests) + len(unit.attributes)
        return told + (unit.summary is not None)
    return 1


def _is_record(
    part: ForeignMessage | ForeignCheckpoint | Rejected, on_reject: Callable[[Rejected], object]
) -> bool:
    if isinstance(part, Rejected):
        on_reject(part)
        return False
    return True
