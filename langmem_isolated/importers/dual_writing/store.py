"""Dual write of items: two LangGraph stores as one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from langgraph.store.base import BaseStore, GetOp, Op, PutOp, Result, TTLConfig

from langmem_isolated import IsolatedStore, Scope
from langmem_isolated.importers.dual_writing.calls import Body, Call, arun, run
from langmem_isolated.importers.dual_writing.comparing import is_comparable, result_difference
from langmem_isolated.importers.dual_writing.history import scope_of
from langmem_isolated.importers.dual_writing.state import FAILED, DualWrite, State

_PUT = "put"
_Results = tuple[Any, list[Result]]
"""A side, and what it gave for each operation."""
_NAMES = {"PutOp": "put", "GetOp": "get", "SearchOp": "search"}


class DualStore(DualWrite, BaseStore):
    """Two stores as one, as :func:`dual_write` makes it.

    Args:
        theirs: Any store.
        ours: Of a scope, or one that takes the scope from the run that calls.
        state: What is counted, and which side is read.
    """

    theirs: BaseStore
    ours: IsolatedStore

    def __init__(self, theirs: BaseStore, ours: IsolatedStore, state: State) -> None:
        self.theirs, self.ours, self._state = theirs, ours, state

    @property
    def bound_to(self) -> Scope | None:
        """The scope that every call means, if there is one."""
        return self.ours.bound_to

    @property
    def supports_ttl(self) -> bool:  # type: ignore[override]
        """Whether who answers keeps items for a time."""
        return bool(self._sides(self.ours)[0].supports_ttl)

    @property
    def ttl_config(self) -> TTLConfig | None:  # type: ignore[override]
        """For how long, where a call does not say."""
        found: TTLConfig | None = getattr(self._sides(self.ours)[0], "ttl_config", None)
        return found

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations in both; the results are of who answers. See :func:`dual_write`."""
        return run(self._batch([*ops]))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations in both; see :meth:`batch`."""
        return await arun(self._batch([*ops]))

    def _batch(self, ops: list[Op]) -> Body[list[Result]]:
        # Before theirs, which knows no scopes, is asked.
        records = self.ours._resolve()  # noqa: SLF001 - leads to the scope of a call
        ours = self.ours
        units = [self._unit(records, op) for op in ops]
        for op, unit in zip(ops, units, strict=True):
            if isinstance(op, GetOp):
                yield from self._backfilled(unit, lambda op=op: self._copied(records, op))  # type: ignore[misc]
            elif isinstance(op, PutOp):
                yield from self._settled(unit)
                # Once for an item: what ours has then was the scope's when it came.
                yield from self._backfilled((_PUT, unit), lambda op=op: self._expected(records, op))  # type: ignore[misc]
        first, second = self._sides(ours)
        writes = any(isinstance(op, PutOp) for op in ops)
        if writes:
            self._state.count("writes")
        is_done = False
        try:
            results: list[Result] = yield Call(first, "batch", (ops,))
            if second is not None and (writes or self._state.compares):
                others = yield from self._tried(Call(second, "batch", (ops,)), None)
                is_done = others is not FAILED
                if not is_done:
                    self._owe(second, ops, units)
                else:
                    self._forgive(ops, units)
                    if self._state.compares:
                        yield from self._compare(ops, units, (first, results), (second, others))
        finally:
            for op, unit in zip(ops, units, strict=True):
                if isinstance(op, PutOp) and (not is_done or op.value is None):
                    self._state.doubt(unit)
                    self._state.doubt((_PUT, unit))
        return results

    @staticmethod
    def _unit(records: Any, op: Op) -> Any:
        """The item that an operation means, if it means one."""
        return (records.owner, op.namespace, op.key) if isinstance(op, GetOp | PutOp) else None

    def _owe(self, second: BaseStore, ops: list[Op], units: list[Any]) -> None:
        """Keep what is to be removed at the other side before its items are used again."""
        for op, unit in zip(ops, units, strict=True):
            if isinstance(op, PutOp) and op.value is None:
                self._state.owed[unit] = Call(second, "batch", ([op],))

    def _forgive(self, ops: list[Op], units: list[Any]) -> None:
        """Owe no removal of what the other side was given since: it would be removed with it."""
        for op, unit in zip(ops, units, strict=True):
            if isinstance(op, PutOp):
                self._state.owed.pop(unit, None)

    def _compare(
        self, ops: list[Op], units: list[Any], answered: _Results, compared: _Results
    ) -> Body[None]:
        (first, results), (second, others) = answered, compared
        for op, unit, answer, other in zip(ops, units, results, others, strict=True):
            if isinstance(op, PutOp) or not is_comparable(op, answer):
                continue

            def differ(theirs: list[Result], ours: list[Result], op: Op = op) -> str | None:
                return result_difference(op, theirs[0], ours[0])

            kind = differ([answer], [other]) if second is self.ours else differ([other], [answer])
            if kind is not None:
                # Somebody may have written between the two.
                read = Call(None, "batch", ([op],))
                again = yield replace(read, on=first)
                kind = yield from self._kind(again, read, second, unit, differ)
            if kind is not FAILED:
                name = _NAMES.get(type(op).__name__, "list_namespaces")
                self._compared(name, unit, kind)

    def _expected(self, records: Any, op: PutOp) -> Body[None]:
        """Expect that what is about to be replaced or deleted is not somebody else's."""
        get = GetOp(op.namespace, op.key)
        if (yield from self._here(records, get)) is not None:
            return
        if (yield Call(self.theirs, "batch", ([get],)))[0] is None:
            # Whoever puts it next may be somebody else.
            self._state.doubt((_PUT, self._unit(records, op)))
        else:
            self._state.expect_owner(scope_of(records), ".".join(op.namespace))

    def _copied(self, records: Any, op: GetOp) -> Body[None]:
        unit = self._unit(records, op)
        here = yield from self._here(records, op)
        if here is not None and self._state.read_from == "ours":
            return
        there = (yield Call(self.theirs, "batch", ([op],)))[0]
        if there is None:
            # Whoever puts it may be somebody else.
            self._state.doubt(unit)
        elif result_difference(op, there, here) is None:
            return
        while there is not None:
            self._state.permit(scope_of(records), ".".join(op.namespace), records)
            put = PutOp(op.namespace, op.key, dict(there.value), ttl=self._lifetime())
            yield Call(self.ours, "batch", ([put],))
            again = (yield Call(self.theirs, "batch", ([op],)))[0]
            if again is not None and result_difference(op, there, again) is None:
                self._state.count("copied")
                return
            # Somebody wrote meanwhile: what was put may be older than what they put.
            there = again
            if there is None:
                yield Call(self.ours, "batch", ([PutOp(op.namespace, op.key, None)],))

    def _lifetime(self) -> float | None:
        """For how many minutes theirs keeps an item: of each, the interface does not tell."""
        config: TTLConfig | None = getattr(self.theirs, "ttl_config", None)
        return config.get("default_ttl") if config else None

    def _here(self, records: Any, op: GetOp) -> Body[Any]:
        """The item of ours; where that fails, theirs is asked whose its own is."""
        try:
            return (yield Call(self.ours, "batch", ([op],)))[0]
        except Exception:
            if (yield Call(self.theirs, "batch", ([op],)))[0] is not None:
                self._state.expect_owner(scope_of(records), ".".join(op.namespace))
            raise
