"""Dual write of items: two LangGraph stores as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from langgraph.store.base import BaseStore, GetOp, Op, PutOp, Result, TTLConfig

from langmem_isolated import IsolatedStore, Scope
from langmem_isolated.importers.dual_writing.calls import Body, Call, arun, run
from langmem_isolated.importers.dual_writing.comparing import is_comparable, result_difference
from langmem_isolated.importers.dual_writing.history import scope_of
from langmem_isolated.importers.dual_writing.state import FAILED, DualWrite, State

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
        for op in ops:
            if isinstance(op, GetOp):
                unit = records.owner, op.namespace, op.key
                yield from self._backfilled(unit, lambda op=op: self._copied(records, op))  # type: ignore[misc]
        first, second = self._sides(ours)
        writes = any(isinstance(op, PutOp) for op in ops)
        if writes:
            self._state.count("writes")
        results: list[Result] = yield Call(first, "batch", (ops,))
        if second is not None and (writes or self._state.compares):
            others = yield from self._tried(Call(second, "batch", (ops,)), None)
            if others is not FAILED and self._state.compares:
                self._compare(ops, results, others, is_ours_second=second is ours)
        return results

    def _compare(
        self, ops: list[Op], results: list[Result], others: list[Result], *, is_ours_second: bool
    ) -> None:
        for op, answer, other in zip(ops, results, others, strict=True):
            if isinstance(op, PutOp) or not is_comparable(op, answer):
                continue
            theirs, ours = (answer, other) if is_ours_second else (other, answer)
            name = _NAMES.get(type(op).__name__, "list_namespaces")
            self._compared(name, None, result_difference(op, theirs, ours))

    def _copied(self, records: Any, op: GetOp) -> Body[None]:
        here = (yield Call(self.ours, "batch", ([op],)))[0]
        if here is not None:
            return
        there = (yield Call(self.theirs, "batch", ([op],)))[0]
        while there is not None:
            self._state.permit(scope_of(records), ".".join(op.namespace), records)
            put = PutOp(op.namespace, op.key, dict(there.value))
            yield Call(self.ours, "batch", ([put],))
            again = (yield Call(self.theirs, "batch", ([op],)))[0]
            if again is not None and again.value == there.value:
                self._state.count("copied")
                return
            # Somebody wrote meanwhile: what was put may be older than what they put.
            there = again
            if there is None:
                yield Call(self.ours, "batch", ([PutOp(op.namespace, op.key, None)],))
