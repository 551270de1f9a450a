"""Checks of an audit log: that its chains are whole, and are those that were anchored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from langmem_isolated._runtime.arguments import kind_of, refuse_single
from langmem_isolated._storage.audit import SHARDS
from langmem_isolated._storage.audit_notes import opened_note
from langmem_isolated.errors import AnchorRefused, AuditIsOff, AuditLogBroken
from langmem_isolated.lifecycle.audit.anchors import Anchor, Head
from langmem_isolated.lifecycle.audit.values import AnchorsChecked, AuditVerified

if TYPE_CHECKING:
    from langmem_isolated._adapters.context import MemoryContext
    from langmem_isolated._storage.audit import AuditChains
    from langmem_isolated._storage.audit_rows import AuditRow, ChainEnds
    from langmem_isolated.lifecycle.audit.time_stamps import TimeStamps


def verified(
    context: MemoryContext, progress: Callable[[int], object] | None = None
) -> AuditVerified:
    """Go through all chains from beginning to end; see :meth:`AuditLog.verify`."""
    context.audit.flush()
    chains = context.audit.required()
    removed = sum(ends.first_sequence - 1 for ends in chains.heads())
    seen = opened = 0
    for shard in range(SHARDS):
        for page in chains.walk(shard):
            seen, opened = seen + len(page), opened + _opened(chains, page)
            if progress is not None:
                progress(seen)
    return AuditVerified(seen, opened, removed)


def _opened(chains: AuditChains, page: list[AuditRow]) -> int:
    """How many entries of a page the directory key opens, each sealed for its place."""
    return sum(opened_note(row, chains.directory.audit) is not None for row in page)


def checked_anchors(
    context: MemoryContext, anchors: Iterable[Anchor], stamps: TimeStamps | None
) -> AnchorsChecked:
    """Compare the ends of chains with anchors; see :meth:`AuditLog.check_anchors`."""
    refuse_single("anchors", anchors, (Anchor,), example='AnchorFile("anchors.jsonl").read()')
    given = [_checked(one) for one in anchors]
    chains = context.audit.chains()
    ends = chains.heads() if chains else []
    if chains is None or not ends:
        if given:
            raise AuditLogBroken(None, "it is gone, and anchors say that there was one")
        raise AuditIsOff
    heads = over = stamped = 0
    for anchor in given:
        if not anchor.is_authentic(chains.directory):
            raise AnchorRefused("It is not one that this installation made.")
        pairs = zip(ends, anchor.heads, strict=True)
        found = [_compared_with_sweeps(chains, *pair) for pair in pairs]
        heads, over = heads + sum(found), over + found.count(False)
        if stamps is not None:
            stamps.verify(anchor)
            stamped += 1
    newest = max((anchor.time for anchor in given), default=None)
    return AnchorsChecked(len(given), heads, over, stamped, newest)


def _checked(anchor: object) -> Anchor:
    if not isinstance(anchor, Anchor):
        raise TypeError(
            f"anchors must be a list of Anchor, got {kind_of(anchor)} in it. Write "
            'AnchorFile("anchors.jsonl").read().'
        )
    return anchor


def _compared_with_sweeps(chains: AuditChains, ends: ChainEnds, head: Head) -> bool:
    """The same as `_compared`, with the ends read anew where a sweep removed entries meanwhile."""
    try:
        return _compared(chains, ends, head)
    except AuditLogBroken:
        found = chains.heads()[ends.shard]
        if found.first_sequence <= ends.first_sequence:
            raise
        return _compared_with_sweeps(chains, found, head)


def _compared(chains: AuditChains, ends: ChainEnds, head: Head) -> bool:
    """Whether the end of a chain that was anchored is in it; ``False`` if its entries are over.

    Raises:
        AuditLogBroken: It is not, and should be.
    """
    last, shard = head.next_sequence - 1, ends.shard
    if head.next_sequence > ends.next_sequence:
        raise AuditLogBroken(shard, "it ends before an entry that was anchored")
    if head.first_sequence > ends.first_sequence:
        raise AuditLogBroken(shard, "it begins with entries that had been removed")
    if last < ends.first_sequence - 1:
        return False
    is_end = last == ends.next_sequence - 1
    kept = ends.hash if is_end else chains.hash_at(shard, last)
    found = ends.cut_hash if last == ends.first_sequence - 1 else kept
    if found != head.hash:
        raise AuditLogBroken(shard, "what was anchored is another, or is not there")
    return True
