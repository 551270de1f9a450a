"""Outcomes of a bulk import: what became of one session, thread, item, document or profile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from langmem_isolated.lifecycle.bulk_import.records import ForeignUnit, Rejected

PutState = Literal["copied", "present", "continued", "rejected"]
"""``"copied"``: it was put in; ``"present"``: it was there, with all that the source has;
``"continued"``: what the source has had since was added; ``"rejected"``: it cannot be put in."""

OnReject = Callable[[Rejected], object]


class PutOutcome(NamedTuple):
    """What became of a record of a source, and how much it brought."""

    state: PutState
    records: int
    """Messages, checkpoints, items, documents or parts of a profile: all that the source has of it
    if it was copied or present, what was added if it was continued."""
    size: int = 0
    """Bytes of what was put in, before they are sealed."""


OnTaken = Callable[[ForeignUnit, str], PutOutcome]
"""What becomes of a record of a kind whose address has something else."""
REJECTED = PutOutcome("rejected", 0)
