"""Upkeep of an audit log: what a sweep notes in it, removes from it, and anchors of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from langmem_isolated._runtime.clock import SECOND, now
from langmem_isolated._storage.audit import SHARDS
from langmem_isolated._storage.audit_notes import AuditNote
from langmem_isolated.errors import AuditLogBroken, RecordDoesNotOpen
from langmem_isolated.lifecycle.audit.anchors import Anchor

if TYPE_CHECKING:
    from langmem_isolated._adapters.context import MemoryContext
    from langmem_isolated._storage.audit import AuditChains

_log = logging.getLogger("langmem_isolated.audit")
_DAY = 86_400 * SECOND


class Kept(NamedTuple):
    """What a sweep has done with the log."""

    removed: int = 0
    """How many entries whose time is over it removed, or would."""
    damaged: int = 0
    """1, where the log is not what was written: what is there stays, as evidence."""


def swept(context: MemoryContext, count: int, *, is_dry: bool, is_over: Callable[[], bool]) -> Kept:
    """Note a sweep, remove the entries whose time is over, and leave an anchor where it is wanted.

    Args:
        context: Whose log.
        count: How much the sweep has removed.
        is_dry: Whether to do nothing, and count.
        is_over: Asked between batches of at most 500 entries.
    """
    try:
        return Kept(_swept(context, count, is_dry=is_dry, is_over=is_over))
    except (AuditLogBroken, RecordDoesNotOpen) as error:
        _log.error("The audit log is not what was written: %s", error)
        return Kept(damaged=1)


def _swept(context: MemoryContext, count: int, *, is_dry: bool, is_over: Callable[[], bool]) -> int:
    settings, chains = context.audit.settings, context.audit.chains()
    if chains is None or not settings.is_on:
        return 0
    before = 0 if settings.audit_days is None else now() - settings.audit_days * _DAY
    if is_dry:
        return sum(chains.older(shard, before) for shard in range(SHARDS))
    if count:
        context.audit.note(None, AuditNote("sweep", count=count))
    removed = _removed(chains, before, is_over) if before else 0
    if removed:
        context.audit.note(None, AuditNote("audit_removed", count=removed))
    _leave_anchor(context, chains)
    return removed


def _removed(chains: AuditChains, before: int, is_over: Callable[[], bool]) -> int:
    removed = 0
    for shard in range(SHARDS):
        while not is_over() and (number := chains.cut(shard, before)):
            removed += number
    return removed


def _leave_anchor(context: MemoryContext, chains: AuditChains) -> None:
    options = context.audit.options
    if options is not None and options.anchor_to:
        anchor = Anchor.of(chains.directory, chains.heads(), now())
        for keep in options.anchor_to:
            keep(anchor)
