"""Legal hold: a user whose memory nothing may remove, by whom and why.

A hold is an entry of kind *policy* under the project's owner, so that it counts for modules that
the user begins later, too. Whoever removes a user's memory asks in the transaction that does it,
with the row of the project's scope locked for share; to place a hold locks it for update. So from
the moment in which a hold is placed, nothing of the user is removed any more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.clock import EPOCH, MICROSECOND, as_moment, now
from langmem_isolated._storage import entries
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.expiry import WHENEVER
from langmem_isolated._storage.scope_rows import lock_for_share, lock_for_update
from langmem_isolated._storage.working_locked import works_locked
from langmem_isolated.errors import KeyDestroyed, LegalHold, PolicyNotFound, RecordDoesNotOpen
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langmem_isolated._adapters.context import MemoryContext
    from langmem_isolated._crypto.scope_keys import ScopeKeys
    from langmem_isolated._database.transactions import Transaction
    from langmem_isolated._storage.removal import Counted
    from langmem_isolated._storage.scoped_database import ScopedDatabase

_SPACE = (b"hold",)
_KIND = Kind.POLICY
_LONGEST_TEXT = 10_000
_LONGEST = timedelta(days=365_000)


@dataclass(frozen=True, slots=True)
class Hold:
    """A user's legal hold; ids and texts are left out of the ``repr``."""

    user_id: str
    project_id: str
    reason: str
    by: str
    since: datetime
    until: datetime | None

    def __repr__(self) -> str:
        return f"Hold(since={self.since:%Y-%m-%d}, until={self.until and f'{self.until:%Y-%m-%d}'})"

    def encoded(self) -> bytes:
        """What is sealed of it."""
        told = [self.reason, self.by, _microseconds(self.since)]
        return json.dumps([*told, self.until and _microseconds(self.until)]).encode()

    @classmethod
    def decoded(cls, project_id: str, entry: Entry) -> Hold:
        """What :meth:`encoded` was given."""
        reason, by, since, until, *_ = json.loads(entry.value)
        ends = None if until is None else as_moment(until)
        return cls(entry.key.decode(), project_id, reason, by, as_moment(since) or EPOCH, ends)

    @property
    def stands(self) -> bool:
        """Whether it has not ended; what its row says of that is not asked."""
        return self.until is None or _microseconds(self.until) > now()


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def _project_of(project_id: str) -> Owner:
    return Owner(Level.PROJECT, project_id)


def place(
    context: MemoryContext,
    user_id: object,
    project_id: object,
    reason: object,
    by: object,
    until: object,
) -> Hold:
    """Place a hold, in place of one that the user has; it is kept when this returns.

    Raises:
        ScopeError: An id is malformed.
        TypeError: ``reason`` or ``by`` is no text, or ``until`` neither a moment nor a span.
        ValueError: One is empty, or too long, or the time is over or without a time zone.
    """
    user, project = checked_id("user_id", user_id), checked_id("project_id", project_id)
    moment = now()
    ends = _checked_end(until, moment)
    since = as_moment(moment) or EPOCH
    hold = Hold(user, project, _text("reason", reason), _text("by", by), since, ends)
    lifetime = None if ends is None else _microseconds(ends) - moment

    def put(transaction: Transaction, keys: ScopeKeys) -> None:
        lock_for_update(transaction, keys.scope_id)
        entry = Entry(user.encode(), hold.encoded())
        entries.put(transaction, keys, _SPACE, [entry], moment, lifetime, kind=_KIND)

    records = records_with(context, project)
    context.audit.write("hold", Owner(Level.USER, project, user), records, "write", put)
    return hold


def _checked_end(until: object, moment: int) -> datetime | None:
    if until is None:
        return None
    if isinstance(until, timedelta):
        until = (as_moment(moment) or EPOCH) + max(min(until, _LONGEST), timedelta())
    if not isinstance(until, datetime):
        raise TypeError(
            f"until must be a datetime with a time zone, a timedelta or None for no end, got "
            f"{kind_of(until)}. Write datetime(2030, 1, 1, tzinfo=UTC) or timedelta(days=90). "
            "Nothing was changed."
        )
    if until.tzinfo is None:
        raise ValueError(
            "until must have a time zone, as datetime.now(UTC) has, got a datetime without. Write "
            "until.astimezone() if it is local time. Nothing was changed."
        )
    if _microseconds(until) <= moment:
        raise ValueError(
            "until must lie in the future. Nothing was changed; to end a hold, release it."
        )
    return until.astimezone(UTC)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {kind_of(value)}. Nothing was changed.")
    if not 0 < len(value) <= _LONGEST_TEXT:
        raise ValueError(
            f"{name} must have 1 to {_LONGEST_TEXT:,} characters, got {len(value):,}. Say "
            "who is to be asked, and what for. Nothing was changed."
        )
    return value


def release(context: MemoryContext, user_id: object, project_id: object) -> None:
    """End a hold.

    Raises:
        PolicyNotFound: The user has none.
    """
    user, project = checked_id("user_id", user_id), checked_id("project_id", project_id)

    def remove(transaction: Transaction, keys: ScopeKeys) -> bool:
        lock_for_update(transaction, keys.scope_id)
        found = _standing(transaction, keys, [user])
        entries.remove(transaction, keys, _SPACE, [user.encode()], kind=_KIND)
        return bool(found)

    records, about = records_with(context, project), Owner(Level.USER, project, user)
    if not context.audit.write("hold_released", about, records, "write_if_exists", remove, False):
        raise PolicyNotFound("legal hold of this user")


def holds_of(context: MemoryContext, project_id: str) -> list[Hold]:
    """The holds of a project, by when they were placed."""
    records = records_with(context, project_id)
    found: list[Entry] = records.read(entries.all_of, [], _SPACE, WHENEVER, kind=_KIND)
    return [hold for entry in found if (hold := Hold.decoded(project_id, entry)).stands]


@works_locked
def _standing(transaction: Transaction, keys: ScopeKeys, users: Sequence[str]) -> set[str]:
    """Those of some users who are on hold.

    Raises:
        RecordDoesNotOpen: A hold was tampered with.
    """
    names = [user.encode() for user in users]
    found = entries.get(transaction, keys, _SPACE, names, WHENEVER, kind=_KIND)
    return {
        user
        for user, name, value in zip(users, names, found, strict=True)
        if value is not None and Hold.decoded("", Entry(name, value)).stands
    }


def held_among(
    transaction: Transaction,
    keys: ScopeKeys | None,
    users: Collection[str],
    *,
    is_dry: bool = False,
) -> set[str]:
    """Those of a project's users who are on hold, until the transaction ends.

    A hold that was tampered with holds: nobody can tell that it has ended.

    Args:
        transaction: One that writes, before it removes anything.
        keys: Those of the project's owner; ``None`` where it has none.
        users: Whose memory is to be removed.
        is_dry: Nothing is removed, and so nobody is kept from placing a hold.
    """
    if keys is None or not users:
        return set()
    if not is_dry:
        lock_for_share(transaction, keys.scope_id)
    names = sorted(users)
    try:
        return _standing(transaction, keys, names)
    except RecordDoesNotOpen:
        if len(names) == 1:
            return {*names}
    each = (held_among(transaction, keys, [name], is_dry=True) for name in names)
    return set[str]().union(*each)


def refuse_held(transaction: Transaction, keys: ScopeKeys | None, user: str | None) -> None:
    """Refuse to remove anything of a user who is on hold; in the transaction that removes it.

    Args:
        transaction: One that writes.
        keys: :func:`project_keys` of the user's project, asked for before the transaction.
        user: Whose memory it is; ``None`` for what is no user's, which no hold is about.

    Raises:
        LegalHold: The user is on hold.
    """
    if user is not None and held_among(transaction, keys, [user]):
        raise LegalHold


def counted_unless_held(context: MemoryContext, owner: Owner, counted: Counted) -> Counted:
    """``counted``, for batches of an owner's rows: it refuses them once the user is on hold."""
    # Not made: a module that is erased leaves nothing. A project's first hold is met a row later.
    keys, user = records_with(context, owner.project).find_keys(), owner.user

    def unless_held(
        transaction: Transaction, principal: bytes, remove: Callable[[], Counter[Kind]]
    ) -> Counter[Kind]:
        refuse_held(transaction, keys, user)
        return counted(transaction, principal, remove)

    return unless_held


def forget(
    transaction: Transaction, keys: ScopeKeys, user: str, principal: bytes, counted: Counted
) -> None:
    """Remove what is kept of a user's hold, if it has ended: with the user's erasure.

    Args:
        transaction: One that writes.
        keys: Those of the project's owner.
        user: Who is erased.
        principal: By which the tables know the user.
        counted: Counts it.
    """

    def remove() -> Counter[Kind]:
        if held_among(transaction, keys, [user]):
            # Placed since, for who comes back.
            return Counter()
        before = entries.count(transaction, keys, _SPACE, WHENEVER, kind=_KIND)
        entries.remove(transaction, keys, _SPACE, [user.encode()], kind=_KIND)
        left = entries.count(transaction, keys, _SPACE, WHENEVER, kind=_KIND)
        return Counter({_KIND: before - left}) if before > left else Counter()

    counted(transaction, principal, remove)


def project_keys(context: MemoryContext, project_id: str) -> ScopeKeys:
    """The keys that a project's holds are found with, made at first use.

    Made, so that a first hold and a removal that runs at the same moment meet at one row.
    """
    return records_with(context, project_id).keys()


def records_with(context: MemoryContext, project_id: str) -> ScopedDatabase:
    """A project's records, in which its holds are found.

    Keys in memory outlive an erasure of the project in another process, and find no hold that was
    placed since: the database says which life it is in.
    """
    records = context.records(_project_of(project_id))
    try:
        if keys := records.find_keys():
            records.check_life(keys)
    except KeyDestroyed:
        return context.records(_project_of(project_id))
    return records


def check(context: MemoryContext, user_id: str, project_id: str) -> None:
    """Refuse before anything is begun; whoever removes asks again: see :func:`refuse_held`.

    Raises:
        LegalHold: The user is on hold.
        RecordDoesNotOpen: The user's hold was tampered with; place it again, or release it then.
    """
    if records_with(context, project_id).read(_standing, set(), [user_id]):
        raise LegalHold


def check_all(context: MemoryContext, owner: Owner) -> None:
    """Refuse to erase an owner where anybody in it is on legal hold.

    Raises:
        LegalHold: Somebody is.
        RecordDoesNotOpen: A hold was tampered with; place it again, or release it then.
    """
    if owner.user is not None:
        check(context, owner.user, owner.project)
    elif owner.level in (Level.MODULE, Level.PROJECT):
        held = {hold.user_id for hold in holds_of(context, owner.project)}
        if held and owner.level is Level.PROJECT:
            raise LegalHold
        walked = context.keyring.walk(project=owner.project, module=owner.module) if held else ()
        if any(found.user in held for _, found in walked):
            raise LegalHold


def forget_where(context: MemoryContext, project: Owner, is_wanted: Callable[[Hold], bool]) -> int:
    """Remove the holds of a project that are ``is_wanted``, in force or not; how many there were.

    For what an older copy brought back: a user is erased after a hold was released.

    Raises:
        RecordDoesNotOpen: A hold was tampered with; nothing was removed.
    """
    records = context.operators(project)
    found: list[Entry] = records.read(entries.all_of, [], _SPACE, WHENEVER, kind=_KIND)
    wanted = [entry.key for entry in found if is_wanted(Hold.decoded(project.project, entry))]
    if wanted:
        records.write(entries.remove, _SPACE, wanted, kind=_KIND)
    return len(wanted)
