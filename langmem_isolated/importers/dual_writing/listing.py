"""Comparison of checkpoints that are listed, with the lock of who lists them in mind."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple

from langmem_isolated.importers.dual_writing.calls import Body, Call
from langmem_isolated.importers.dual_writing.comparing import tuple_difference
from langmem_isolated.importers.dual_writing.state import FAILED, DualWrite

Differing = list[tuple[RunnableConfig, str]]
"""Checkpoints that were listed, and in what each differs."""


class DualListing(DualWrite):
    """What a pair of checkpointers does with a list of checkpoints."""

    def _look(
        self, unit: Any, second: Any, one: CheckpointTuple, differing: Differing
    ) -> Body[None]:
        """Compare a checkpoint that was listed with the other side's."""
        if second is None or not self._state.compares:
            return
        read = Call(second, "get_tuple", (one.config,))
        kind = yield from self._kind(one, read, second, unit, tuple_difference)
        if kind is None:
            self._compared("list", unit, None)
        elif kind is not FAILED:
            differing.append((one.config, kind))

    def _look_again(self, ours: Any, unit: Any, differing: Differing) -> Body[None]:
        """Compare those that differed; somebody may have written while they were listed.

        Not before the list is over: a saver that lists may hold the lock that reading takes.
        """
        while differing:
            config, _ = differing.pop()
            read = Call(None, "get_tuple", (config,))
            yield from self._answered(ours, unit, read, tuple_difference)

    def _count_all(self, unit: Any, differing: Differing) -> None:
        """Count those that nobody looked at again, as of a list that was left half-way."""
        for _, kind in differing:
            self._compared("list", unit, kind)
