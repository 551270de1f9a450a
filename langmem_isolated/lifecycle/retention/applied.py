"""Retention that applies: how long what one scope has is kept, for the user to see."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.session_rules import SessionRules
from langmem_isolated.errors import LegalHold
from langmem_isolated.lifecycle.retention import holds
from langmem_isolated.lifecycle.retention.plans import policies_of
from langmem_isolated.lifecycle.retention.policies import KINDS, Policy, narrowest

if TYPE_CHECKING:
    from langmem_isolated._adapters.context import MemoryContext


@dataclass(frozen=True, slots=True)
class RetentionApplied:
    """How long what one scope has is kept; ids are left out of the ``repr``."""

    policies: tuple[Policy, ...]
    """Of each kind the one that counts, and those of single channels that count there. What has
    none is kept for ever."""
    session_rules: SessionRules
    """What holds for chat sessions that are begun now."""
    has_legal_hold: bool
    """Whether nothing is removed now but what the user removes, one by one."""


def applied_to(context: MemoryContext, owner: Owner) -> RetentionApplied:
    """What applies to what an owner has.

    Raises:
        RecordDoesNotOpen: A policy or hold was tampered with.
    """
    found = policies_of(context, Owner(Level.PROJECT, owner.project))
    is_held = False
    if owner.user is not None:
        found += policies_of(context, Owner(Level.USER, owner.project, owner.user))
        is_held = _is_held(context, owner.user, owner.project)
    counting = tuple(_counting(found, owner))
    return RetentionApplied(counting, context.session_rules, is_held)


def _counting(policies: list[Policy], owner: Owner) -> Iterable[Policy]:
    channels = sorted({one.channel for one in policies if one.channel is not None})
    asked = [*((kind, None) for kind in KINDS), *(("message", channel) for channel in channels)]
    counting = (narrowest(policies, kind, owner, channel) for kind, channel in asked)
    return dict.fromkeys(policy for policy in counting if policy is not None)


def _is_held(context: MemoryContext, user_id: str, project_id: str) -> bool:
    with suppress(LegalHold):
        holds.check(context, user_id, project_id)
        return False
    return True
