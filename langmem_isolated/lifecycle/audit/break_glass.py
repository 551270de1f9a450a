"""Break-glass: an operator reads a user's memory with a reason, for a while, and the user sees it.

A permission is an entry of the audit log and nothing else: so it cannot be had without leaving one.
It is of one actor, for one user, and ends by the database's clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from langmem_isolated._adapters.audit_actor import acting_as, checked_text, current_actor
from langmem_isolated._database.database_clock import database_now
from langmem_isolated._runtime.arguments import whole_number
from langmem_isolated._runtime.clock import SECOND, as_moment
from langmem_isolated._storage.audit_keys import subject_key, subject_of
from langmem_isolated._storage.audit_notes import AuditNote, opened_note
from langmem_isolated.errors import AuditIsOff, ReasonRequired
from langmem_isolated.lifecycle.audit.values import BreakGlass

if TYPE_CHECKING:
    from langmem_isolated._adapters.context import MemoryContext
    from langmem_isolated._crypto.owners import Owner
    from langmem_isolated._database.transactions import Transaction
    from langmem_isolated._storage.audit import AuditChains

OPENED, ENDED = "break_glass", "break_glass_ended"
MINUTES = 15
MOST_MINUTES = 24 * 60
# Clocks of processes, which say when an entry was made, may differ from the database's so much.
_SLACK = 3600 * SECOND
_PAGE = 500


def opened(context: MemoryContext, owner: Owner, reason: str, minutes: int) -> BreakGlass:
    """Permit whoever acts to read a user's memory from now on.

    Raises:
        AuditIsOff: There is no audit log that would have it.
    """
    checked_text("reason", reason)
    _checked_minutes(minutes)
    actor = _required_actor()
    if not context.audit.settings.is_on:
        raise AuditIsOff
    span = minutes * 60 * SECOND
    with acting_as(actor, reason):
        note = context.audit.note_by_database(
            owner, lambda moment: AuditNote(OPENED, until=moment + span)
        )
    until = as_moment(note.until or 0)
    assert until is not None
    return BreakGlass(actor, reason, until)


def ended(context: MemoryContext, owner: Owner) -> None:
    """End what permits whoever acts to read a user's memory.

    Raises:
        ReasonRequired: Nothing does.
    """
    if context.audit.settings.is_on:
        found = _in_force(context, owner, _required_actor())
        if not found:
            raise ReasonRequired
        for one in found:
            context.audit.note(owner, AuditNote(ENDED, until=one.until))


def in_force(context: MemoryContext, owner: Owner) -> BreakGlass | None:
    """What permits whoever acts to read a user's memory now; nothing is noted."""
    actor = current_actor().name
    if actor is None or not context.audit.settings.is_on:
        return None
    notes = _in_force(context, owner, actor)
    return _permission(notes[0]) if notes else None


@contextmanager
def permitted(
    context: MemoryContext, owner: Owner, operation: str | None
) -> Iterator[BreakGlass | None]:
    """Let whoever acts read a user's memory, if auditing is off or it is permitted; note it.

    Raises:
        ReasonRequired: Auditing is on, and it is not.
    """
    if not context.audit.settings.is_on:
        yield None
        return
    actor = current_actor().name
    notes = _in_force(context, owner, actor) if actor else []
    found = _permission(notes[0]) if notes else None
    if found is None:
        context.audit.note(owner, AuditNote(operation or "read", "refused"))
        raise ReasonRequired
    with acting_as(found.actor, found.reason or None), ExitStack() as stack:
        if operation is not None:
            stack.enter_context(context.audit.job(operation, owner))
        yield found


def _in_force(context: MemoryContext, owner: Owner, actor: str) -> list[AuditNote]:
    """What permits an actor to read a user's memory now.

    By the database's clock alone: by those of processes one may end before it was made.
    """
    chains = context.audit.required()
    moment = context.database.read(_now)
    made, over = [], set()
    for note in _notes(context, chains, owner, moment):
        if note.actor != actor or note.until is None or note.until <= moment:
            continue
        if note.operation == OPENED:
            made.append(note)
        elif note.operation == ENDED:
            over.add(note.until)
    return [note for note in made if note.until not in over]


def _permission(note: AuditNote) -> BreakGlass | None:
    end = as_moment(note.until or 0)
    return None if end is None else BreakGlass(note.actor or "", note.reason or "", end)


def _notes(
    context: MemoryContext, chains: AuditChains, owner: Owner, moment: int
) -> Iterator[AuditNote]:
    """What was noted about a user as long as a permission may last, the newest first."""
    scope_id = chains.directory.scope_id_of(subject_of(owner))
    # Of who has keys only what these sealed: the user sees it, and it is of this life.
    key = subject_key(context.keyring, owner) or chains.directory.audit
    before = (moment + _SLACK, -1, -1)
    since = moment - MOST_MINUTES * 60 * SECOND - _SLACK
    while rows := chains.newest(scope_id, before, since=since, most=_PAGE):
        yield from (note for row in rows if (note := opened_note(row, key)) is not None)
        before = rows[-1].position


def _now(transaction: Transaction) -> int:
    return database_now(transaction)


def _required_actor() -> str:
    actor = current_actor().name
    if actor is None:
        raise ValueError(
            "Nobody acts here: what permits somebody to read says who. Write `with "
            'memory.audit.acting_as("name"):` around it. Nothing was permitted.'
        )
    return actor


def _checked_minutes(minutes: object) -> None:
    advice = f"Give 1 to {MOST_MINUTES:,} minutes."
    number = whole_number("minutes", minutes, least=1, advice=advice)
    if number > MOST_MINUTES:
        raise ValueError(f"minutes must be {MOST_MINUTES:,} or less, got {number}. {advice}")
