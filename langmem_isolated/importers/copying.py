"""Copying: puts mapped units into the target, and counts what became of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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
    ForeignSession,
    ForeignThread,
    ForeignUnit,
    Rejected,
)
from langmem_isolated.scope import Scope

if TYPE_CHECKING:
    from langmem_isolated.lifecycle import BulkImport, PutOutcome

# As many as a bulk import puts in by one transaction.
_BATCH = 500

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
        """Put units in, small ones of one scope and kind that follow one another together."""
        for scope, batch in _batches(mapped):
            if isinstance(batch[0][0], ForeignSession | ForeignThread):
                yield self._put(bulk, scope, *batch[0])
            else:
                yield from self._put_many(bulk, scope, [unit for unit, _ in batch])

    def _put(self, bulk: BulkImport, scope: Scope, unit: ForeignUnit, name: str | None) -> Put:
        try:
            outcome = bulk.put(scope, unit, name=name, on_reject=self.reject)
        except _REFUSALS as error:
            return self._refused(unit, error)
        return self._counted(scope, unit, outcome)

    def _put_many(
        self, bulk: BulkImport, scope: Scope, units: Sequence[ForeignUnit]
    ) -> Iterator[Put]:
        try:
            outcomes = bulk.put_many(scope, units, on_reject=self.reject)
        except _REFUSALS as error:
            # Of the user or scope: what is wrong with one of them is among the outcomes.
            yield from [self._refused(unit, error) for unit in units]
            return
        for unit, outcome in zip(units, outcomes, strict=True):
            yield self._counted(scope, unit, outcome)

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


def _batches(
    mapped: Iterable[tuple[ForeignUnit, Target]],
) -> Iterator[tuple[Scope, list[tuple[ForeignUnit, str | None]]]]:
    """Units that are put in together: sessions and threads, which are streams, each by itself."""
    batch: list[tuple[ForeignUnit, str | None]] = []
    scope: Scope | None = None
    for unit, target in mapped:
        goes_on = batch and scope == target.scope and type(batch[0][0]) is type(unit)
        if scope is not None and batch and (not goes_on or len(batch) == _BATCH):
            yield scope, batch
            batch = []
        scope = target.scope
        batch.append((_placed(unit, target), target.name))
        if isinstance(unit, ForeignSession | ForeignThread):
            yield scope, batch
            batch = []
    if scope is not None and batch:
        yield scope, batch


def _placed(unit: ForeignUnit, target: Target) -> ForeignUnit:
    if isinstance(unit, ForeignItem) and target.namespace is not None:
        return replace(unit, namespace=target.namespace)
    return unit
