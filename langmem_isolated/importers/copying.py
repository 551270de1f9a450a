"""Copying: puts mapped units into the target, and counts what became of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from langmem_isolated.errors import (
    AddressTaken,
    LimitExceeded,
    MemoryLocked,
    ScopeError,
    UserWasErased,
    ValueNotStorable,
)
from langmem_isolated.importers.mapping import Target
from langmem_isolated.importers.plan import Tally
from langmem_isolated.importers.rejects import Rejects, RejectState
from langmem_isolated.lifecycle import (
    ForeignItem,
    ForeignUnit,
    Rejected,
)
from langmem_isolated.scope import Scope

if TYPE_CHECKING:
    from langmem_isolated.lifecycle import BulkImport, PutOutcome

# What is wrong with one unit, or with its user: the rest goes on.
_OF_ONE: dict[type[Exception], tuple[RejectState, str]] = {
    UserWasErased: ("erased", "its user was erased here; readmit=, --readmit, lets them come back"),
    MemoryLocked: ("locked", "its user alone has the keys; it can be put in while they unlock it"),
    AddressTaken: ("taken", "the target has something else under its name"),
}
_REFUSALS: tuple[type[Exception], ...] = (*_OF_ONE, ValueNotStorable, LimitExceeded, ScopeError)


class Put(NamedTuple):
    """What became of a unit."""

    place: str
    state: str
    records: int


class Copying:
    """One run of an import.

    Args:
        rejects: Told of what cannot be put in.
        unmapped: ``"skip"``, if units without an owner are counted alone.
    """

    def __init__(self, rejects: Rejects, unmapped: str) -> None:
        self._rejects, self._unmapped = rejects, unmapped
        self._units: Counter[str] = Counter()
        self.tally = Tally()

    def reject(self, rejected: Rejected) -> None:
        """Keep that the source has something that is broken."""
        self._rejects.add("rejected", rejected)

    def leave_out(self, rejected: Rejected) -> None:
        """Keep that a unit has no owner."""
        self._units["unmapped"] += 1
        if self._unmapped != "skip":
            self._rejects.add("unmapped", rejected)

    def told(self) -> dict[str, Any]:
        """What the receipt says of it."""
        return {
            "units": dict(self._units),
            "modules": self.tally.modules(),
            "rejects": dict(self._rejects.counts),
            "rejects_file": self._rejects.file,
        }

    def put_all(
        self, bulk: BulkImport, mapped: Iterable[tuple[ForeignUnit, Target]]
    ) -> Iterator[Put]:
        """Put units in, one behind the other."""
        for unit, target in mapped:
            yield self._put(bulk, target.scope, _placed(unit, target), target.name)

    def _put(self, bulk: BulkImport, scope: Scope, unit: ForeignUnit, name: str | None) -> Put:
        try:
            outcome = bulk.put(scope, unit, name=name, on_reject=self.reject)
        except _REFUSALS as error:
            return self._refused(unit, error)
        return self._counted(scope, unit, outcome)

    def _counted(self, scope: Scope, unit: ForeignUnit, outcome: PutOutcome) -> Put:
        self._units[outcome.state] += 1
        if outcome.state != "rejected":
            self.tally.add(scope, unit, outcome.records)
        return Put(unit.place, outcome.state, outcome.records)

    def _refused(self, unit: ForeignUnit, error: Exception) -> Put:
        # Errors of ours tell types and lengths, never content.
        state, reason = next(
            (told for kind, told in _OF_ONE.items() if isinstance(error, kind)),
            ("rejected", str(error)),
        )
        self._units["rejected"] += 1
        self._rejects.add(state, Rejected(unit.place, reason))
        return Put(unit.place, state, 0)


def _placed(unit: ForeignUnit, target: Target) -> ForeignUnit:
    if isinstance(unit, ForeignItem) and target.namespace is not None:
        return replace(unit, namespace=target.namespace)
    return unit
