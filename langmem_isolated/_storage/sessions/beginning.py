"""Begins sessions: under the rules of all or their own, and as many as a scope keeps."""

from collections.abc import Mapping
from typing import NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import lifetime
from langmem_isolated._runtime.session_rules import NO_RULES, SessionRules
from langmem_isolated._storage.container_state import ContainerState
from langmem_isolated._storage.containers import Beginning
from langmem_isolated._storage.scope_rows import lock_for_update
from langmem_isolated._storage.sessions import statements as sql
from langmem_isolated._storage.sessions.channel_limits import beginning
from langmem_isolated._storage.sessions.listing import ROWS, session_digest
from langmem_isolated.errors import RecordDoesNotOpen

# Where the rule is new for a scope that has more, each new session takes out so many: no writer
# waits for thousands.
_MOST_AT_ONCE = 100


class NewSession(NamedTuple):
    """What a session is made of, if it is not there."""

    header: bytes
    birth: bytes
    rules: SessionRules
    channel_limits: Mapping[str, int] | None = None
    """Its own; ``None`` for those of ``rules``."""


def create(
    transaction: Transaction, keys: ScopeKeys, session_id: str, new: NewSession, now: int
) -> bool:
    """Insert the session's row if it is absent, which is told.

    Raises:
        ScopeGone: The scope was erased meanwhile; nothing was written.
    """
    digest = session_digest(keys, session_id)
    return get_or_begin(transaction, keys, digest, new, now).birth == new.birth


def get_or_begin(
    transaction: Transaction, keys: ScopeKeys, digest: bytes, new: NewSession, now: int
) -> ContainerState:
    """The session's state, its row locked, and made before if it is absent.

    Raises:
        ScopeGone: The scope was erased meanwhile; nothing was written.
    """
    rules = new.rules
    if rules is NO_RULES and new.channel_limits is None:
        return ROWS.get_or_create(transaction, keys, digest, new.header, new.birth, now)
    channels = beginning(keys, new.channel_limits, rules)
    begun = Beginning(lifetime(rules.idle), lifetime(rules.absolute), channels)
    state = ROWS.get_or_create(transaction, keys, digest, new.header, new.birth, now, begun)
    if rules.max_sessions is not None and state.birth == new.birth:
        _drop_excess(transaction, keys, digest, rules.max_sessions, now)
    return state


def _drop_excess(
    transaction: Transaction, keys: ScopeKeys, newest: bytes, most: int, now: int
) -> None:
    """Remove the sessions that are too many, those first in which nothing was said for longest.

    Those that are pinned stay, and so do those that someone is writing to or has tampered with.
    """
    here = {"scope_id": keys.scope_id}
    # Who makes another one meanwhile waits, and counts this one.
    lock_for_update(transaction, keys.scope_id)
    row = transaction.row(sql.COUNT_SESSIONS, **here, now=now)
    excess = (row[0] if row else 0) - most
    if excess <= 0:
        return
    limit = min(excess, _MOST_AT_ONCE)
    for columns in transaction.rows(sql.LEAST_RECENT, **here, digest=newest, limit=limit, now=now):
        digest = columns[-1]
        try:
            ContainerState.checked(Kind.SESSION, keys, digest, columns)
        except RecordDoesNotOpen:
            continue
        ROWS.remove(transaction, keys, digest)
