"""State of a dual write: which side is read, what was counted, which units both sides have."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Generator, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.lru import LRUCache
from langmem_isolated.errors import (
    IsolationViolation,
    KeyDestroyed,
    ScopeError,
    UserWasErased,
)
from langmem_isolated.importers.dual_writing.calls import Body, Call, Wait
from langmem_isolated.scope import Scope

Side = Literal["theirs", "ours"]
Owns = Callable[[Scope, str], bool]
# A call that names nobody, or somebody else, or who is no more, is no failure that is counted.
REFUSALS = (ScopeError, IsolationViolation, UserWasErased, KeyDestroyed)
FAILED = object()
"""In place of an answer."""
# Threads, sessions and items of which this process knows that ours has them.
_MOST_READY = 100_000

_log = logging.getLogger("langmem_isolated.dual_write")


@dataclass(frozen=True, slots=True)
class Difference:
    """That ours would have answered otherwise than theirs did; without ids and content."""

    operation: str
    """What was read: ``"get_tuple"``, ``"messages"``, ``"search"``."""
    kind: str
    """What differs: ``"missing"``, ``"values"``, ``"length"``."""


@dataclass(frozen=True, slots=True)
class DualWriteReport:
    """What a dual write has done since it was made, in this process; numbers alone."""

    writes: int
    """Calls that write, of the application."""
    copied: int
    """Threads, sessions and items that were copied from theirs to ours at their first use."""
    reads: int
    """Answers that were compared."""
    differences: dict[str, int]
    """How many of those differed, by operation and kind: ``"get_tuple: values"``."""
    failures: dict[str, int]
    """Failures that the application was not told of: ``"ours put: DatabaseLocked"``."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing failed and nothing differed."""
        return not self.differences and not self.failures


class State:
    """What a dual write and its copies share.

    Args:
        owns: Whether what theirs has under an id belongs to a scope; ``None`` copies nothing.
        compare: Whether reads are compared.
        on_difference: Told of each difference.
    """

    def __init__(
        self,
        owns: Owns | None,
        compare: bool,
        on_difference: Callable[[Difference], object] | None,
    ) -> None:
        self.owns, self.compares, self._tell = owns, compare, on_difference
        self.read_from: Side = "theirs"
        self.writes_theirs = True
        self._lock = threading.Lock()
        self._numbers: Counter[str] = Counter()
        self._differences: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._ready = LRUCache[Hashable, Future[None]](entries=_MOST_READY)
        self._missed = LRUCache[Hashable, bool](entries=_MOST_READY)
        self.owed: dict[Hashable, Call] = {}
        """Removals that one side has made and the other has yet to make, by unit."""

    def report(self) -> DualWriteReport:
        """What was counted so far."""
        with self._lock:
            return DualWriteReport(
                self._numbers["writes"],
                self._numbers["copied"],
                self._numbers["reads"],
                dict(self._differences),
                dict(self._failures),
            )

    def count(self, what: Literal["writes", "copied", "reads"]) -> None:
        """One more of them."""
        with self._lock:
            self._numbers[what] += 1

    def failed(self, side: Side, operation: str, error: Exception) -> None:
        """A failure that the application does not meet; the log has its type."""
        kind = f"{side} {operation}: {type(error).__name__}"
        with self._lock:
            self._failures[kind] += 1
        _log.warning("A dual write went on without %s.", kind)

    def differs(self, operation: str, kind: str) -> None:
        """An answer of ours that is another one."""
        with self._lock:
            self._differences[f"{operation}: {kind}"] += 1
        _log.warning("Ours would have answered a %s otherwise: %s.", operation, kind)
        if self._tell is not None:
            try:
                self._tell(Difference(operation, kind))
            except Exception as error:  # noqa: BLE001 - what reports must not break what works
                _log.warning("on_difference raised %s.", type(error).__name__)

    def once(self, unit: Hashable, body: Callable[[], Body[None]]) -> Body[None]:
        """Run a body for a unit, in one caller; others wait, and run it if that one failed."""
        while True:
            mine: Future[None] = Future()
            found = self._ready.update(unit, lambda known, new=mine: known or new)  # type: ignore[misc]
            if found is mine:
                yield from self._first(unit, mine, body)
                return
            if not found.done() and not (yield Wait(found)):
                # Copied by two at once it is the same.
                yield from body()
                return
            if self._ready.get(unit) is found:
                return

    def _first(
        self, unit: Hashable, mine: Future[None], body: Callable[[], Body[None]]
    ) -> Body[None]:
        try:
            yield from body()
        except BaseException:
            self._ready.drop(unit)
            raise
        finally:
            mine.set_result(None)

    def doubt(self, unit: Hashable) -> None:
        """Look at a unit again when it is used next."""
        self._ready.drop(unit)

    def miss(self, unit: Hashable) -> None:
        """Look at all of a unit when it is used next: ours lacks some of it, its newest or not."""
        self._missed.put(unit, True)
        self.doubt(unit)

    def has_missed(self, unit: Hashable) -> bool:
        """Whether ours lacks some of a unit, as far as this process knows."""
        return self._missed.get(unit) is not None

    def made_good(self, unit: Hashable) -> None:
        """Know that ours has all of a unit again."""
        self._missed.drop(unit)

    def permit(self, scope: Scope, unit_id: str, records: Any) -> None:
        """Expect that what is about to be copied belongs to the scope, and that its user may come.

        Raises:
            IsolationViolation: It belongs to somebody else.
            UserWasErased: The user was erased here; what an older store has of them stays out.
        """
        self.expect_owner(scope, unit_id)
        if records._keyring.tombstones.has(records.owner):  # noqa: SLF001 - whose memory it is
            raise UserWasErased

    def expect_owner(self, scope: Scope, unit_id: str) -> None:
        """Expect that what theirs has under an id belongs to the scope.

        Raises:
            IsolationViolation: It belongs to somebody else.
        """
        if self.owns is None or self.owns(scope, unit_id) is not True:
            raise IsolationViolation(
                "What the other store has under this id does not belong to the scope of the call, "
                "by the function given as backfill=. Nothing was handed out, copied or changed. It "
                "must return True for the scope that owns an id; an id of another user is not to "
                "be asked for."
            )


class DualWrite:
    """What every pair has: a side that is read, a report, and writes to both."""

    _state: State
    theirs: Any
    ours: Any

    @property
    def read_from(self) -> Side:
        """Which side answers and is the truth: ``"theirs"`` at first, then ``"ours"``.

        Set it to switch, in every process and copy of this object; both are written all the same.

        Raises:
            ValueError: It is set to something else, or to ``"theirs"`` after `stop_writing_theirs`.
        """
        return self._state.read_from

    @read_from.setter
    def read_from(self, side: Side) -> None:
        if side not in get_args(Side):
            raise ValueError(f'read_from must be "theirs" or "ours", got another {kind_of(side)}.')
        if side == "theirs" and not self._state.writes_theirs:
            raise ValueError("Theirs was not written any more, and lacks what came since.")
        self._state.read_from = side

    def stop_writing_theirs(self) -> None:
        """Call theirs no more; from then on this object is as good as ours alone.

        Raises:
            ValueError: ``read_from`` is ``"theirs"`` yet.
        """
        if self._state.read_from == "theirs":
            raise ValueError('Theirs answers yet. Set read_from = "ours" first.')
        self._state.writes_theirs = False

    @property
    def report(self) -> DualWriteReport:
        """What was written, copied, compared, and what differed or failed."""
        return self._state.report()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(read_from={self.read_from!r})"

    def _sides(self, ours: Any) -> tuple[Any, Any]:
        """Who answers, and the other one; ``None`` where that is called no more."""
        if self._state.read_from == "theirs":
            return self.theirs, ours
        return ours, self.theirs if self._state.writes_theirs else None

    def _written(
        self, ours: Any, unit: Hashable, name: str, *args: Any, **kwargs: Any
    ) -> Body[Any]:
        """Write to who answers, whose error is the caller's, then to the other one."""
        first, second = self._sides(ours)
        self._state.count("writes")
        try:
            answer = yield Call(first, name, args, kwargs)
            # Behind a removal that is owed there, what is written would be removed with the rest.
            if second is not None and unit not in self._state.owed:
                done = yield from self._tried(Call(second, name, args, kwargs), unit)
                if done is FAILED and second is ours:
                    self._state.miss(unit)
        except BaseException:
            # What was cancelled between the two sides is looked at again, too.
            self._state.miss(unit)
            raise
        return answer

    def _removed(self, ours: Any, unit: Hashable, name: str, *args: Any) -> Body[None]:
        """Remove a unit from who answers, then from the other one, before its next use at least."""
        first, second = self._sides(ours)
        self._state.count("writes")
        try:
            yield Call(first, name, args)
            if second is not None:
                self._state.owed[unit] = Call(second, name, args)
                yield from self._settled(unit)
        finally:
            # Who uses the id next may be somebody else.
            self._state.doubt(unit)

    def _settled(self, unit: Hashable) -> Body[bool]:
        """Make the removal that one side has yet to make of a unit; whether none is left."""
        if unit in self._state.owed:
            removal = "removal", unit
            try:
                # One after the other: what is written behind it must not be removed again.
                yield from self._state.once(removal, lambda: self._settle(unit))
            finally:
                self._state.doubt(removal)
        return unit not in self._state.owed

    def _settle(self, unit: Hashable) -> Body[None]:
        owed = self._state.owed.get(unit)
        if owed is None:
            return
        side: Side = "theirs" if owed.on is self.theirs else "ours"
        if side == self._state.read_from:
            # It answers by now: its error is the caller's.
            yield owed
        elif (side == "ours" or self._state.writes_theirs) and (
            (yield from self._tried(owed, unit)) is FAILED
        ):
            return
        self._state.owed.pop(unit, None)

    def _tried(self, call: Call, unit: Hashable) -> Generator[Call, Any, Any]:
        """Call the side that does not answer: a failure is counted."""
        try:
            return (yield call)
        except REFUSALS:
            raise
        except Exception as error:  # noqa: BLE001 - the application goes on
            side: Side = "theirs" if call.on is self.theirs else "ours"
            self._state.failed(side, call.name, error)
            self._state.doubt(unit)
            return FAILED

    def _backfilled(self, unit: Hashable, body: Callable[[], Body[None]]) -> Body[None]:
        """Have ours get what theirs has of a unit, once.

        While theirs answers, a failure is counted and tried again at the next use; once ours does,
        it is raised: to go on would begin anew what is only not there yet. What is to be removed at
        one of them is not copied.
        """
        if not (yield from self._settled(unit)):
            return
        if self._state.owns is None or not self._state.writes_theirs:
            return
        try:
            yield from self._state.once(unit, body)
        except REFUSALS:
            raise
        except Exception as error:
            if self._state.read_from == "ours":
                raise
            self._state.failed("ours", "backfill", error)

    def _answered(
        self, ours: Any, unit: Hashable, read: Call, differ: Callable[[Any, Any], str | None]
    ) -> Body[Any]:
        """Read from who answers, and compare with the other one.

        Args:
            ours: Our side for this call.
            unit: What is read.
            read: The call; of which side is decided here.
            differ: In what the answer of theirs and that of ours differ.
        """
        first, second = self._sides(ours)
        answer = yield replace(read, on=first)
        if second is None or not self._state.compares:
            return answer
        kind = yield from self._kind(answer, read, second, unit, differ)
        if kind is not None and kind is not FAILED:
            # Somebody may have written between the two.
            again = yield replace(read, on=first)
            kind = yield from self._kind(again, read, second, unit, differ)
        if kind is not FAILED:
            self._compared(read.name, unit, kind)
        return answer

    def _kind(
        self,
        answer: Any,
        read: Call,
        second: Any,
        unit: Hashable,
        differ: Callable[[Any, Any], str | None],
    ) -> Body[Any]:
        other = yield from self._tried(replace(read, on=second), unit)
        if other is FAILED:
            return FAILED
        return differ(other, answer) if second is self.theirs else differ(answer, other)

    def _compared(self, operation: str, unit: Hashable, kind: str | None) -> None:
        self._state.count("reads")
        if kind is not None:
            self._state.differs(operation, kind)
            if kind == "missing":
                self._state.miss(unit)
            self._state.doubt(unit)
