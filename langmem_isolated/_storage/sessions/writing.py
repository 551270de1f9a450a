"""Appends messages to sessions, optimistically or under a lock, and clears them."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import nonces
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import SECOND
from langmem_isolated._runtime.session_rules import SessionRules
from langmem_isolated._storage import usage
from langmem_isolated._storage.container_state import ContainerState
from langmem_isolated._storage.sessions import statements as sql
from langmem_isolated._storage.sessions.beginning import NewSession, get_or_begin
from langmem_isolated._storage.sessions.channel_limits import (
    MOST_AT_ONCE,
    ChannelLimits,
    counted,
    digests_of,
    in_force,
    taken_out,
    with_room,
)
from langmem_isolated._storage.sessions.listing import LISTING, ROWS, session_digest
from langmem_isolated._storage.sessions.messages import (
    alias_of,
    channel_of,
    message_aad_prefix,
    message_part,
    newest_of,
)
from langmem_isolated._storage.sessions.reading import Known, find_by_id
from langmem_isolated._storage.usage import Use
from langmem_isolated.errors import RecordDoesNotOpen, SessionClosed

_NewRow = tuple[bytes, bytes | None, bytes]


class Message(NamedTuple):
    """A message on its way in: its stored form in plaintext, and its id if it has one."""

    plaintext: bytes
    message_id: str | None
    use: Use | None = None
    """What it counts for, once it is stored."""


class _Added(NamedTuple):
    """A message that is added, and its alias if it has one."""

    plaintext: bytes
    alias: bytes | None
    use: Use | None


Repeated = Callable[[Message, Known], Message | None]
"""Says what is added for a message whose id the session has already, told what it has under it:
nothing, one of another id (looked up again), or one without, which no id finds."""


def append(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: str,
    new: NewSession,
    messages: Sequence[Message],
    now: int,
    *,
    repeated: Repeated,
    look_first: bool,
    retimed: Callable[[int], Sequence[Message]],
    channel: bytes | None = None,
    even_closed: bool = False,
) -> ContainerState:
    """Add ``messages`` behind the session's newest, all or none, and make the session if absent.

    Args:
        new: What the session is made of, and the rules that hold for it.
        repeated: Asked about each message whose id the session has already.
        look_first: Look up which ids are stored. Ids are new nearly always, so the first attempt
            goes without, and the constraint on aliases tells when one is not.
        retimed: Gives the messages with another time sealed in them, asked where the session has
            one of ``now`` or later: those who wait for its row each took their time before.
        channel: Under which :func:`recent` finds the messages; it must be sealed in them, and
            ``now``, too.
        even_closed: Also to a session that was closed: of what was taken in before.

    Returns:
        The session's state after it, from which :func:`append_optimistically` goes on.

    Raises:
        ScopeGone: The scope was erased meanwhile.
        SessionClosed: It takes no more messages; nothing was written.
        RecordDoesNotOpen: The session's row was tampered with.
        Conflict: An id is stored already and ``look_first`` was off; nothing was written.
    """
    digest = session_digest(keys, session_id)
    state = get_or_begin(transaction, keys, digest, new, now)
    if state.is_closed and not even_closed:
        raise SessionClosed
    # One set back, or ahead, by more is believed, as in the process's own clock.
    if state.next_sequence and 0 <= state.updated_at - now < SECOND:
        now = state.updated_at + 1
        messages = retimed(now)

    def find(message_id: str) -> Known | None:
        return find_by_id(transaction, keys, digest, state, message_id)

    added = _with_aliases(
        keys, digest, state, messages, repeated, find if look_first else _find_nothing
    )
    if not added:
        return state
    limits = in_force(transaction, keys, digest, state, new.rules)
    moved = _put(transaction, keys, digest, state, added, now, channel, limits)
    if moved is None:
        raise RecordDoesNotOpen(Kind.SESSION.label, "its row changed under a lock")
    return moved


def append_optimistically(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: str,
    state: ContainerState,
    messages: Sequence[Message],
    now: int,
    channel: bytes | None = None,
) -> ContainerState | None:
    """Add ``messages`` if the session is still in ``state``; ``None``, and nothing, if it is not.

    ``None`` as well for one that is closed, or in which channels are limited: :func:`append` tells.

    On PostgreSQL a single statement, unless a message counts for something; on SQLite, and where
    the tables are distributed, part of a write transaction.

    Raises:
        Conflict: An id is stored already; nothing was written.
    """
    # What drops out is looked up, under the lock.
    if state.is_expired(now) or state.is_closed or state.channels is not None:
        return None
    digest = session_digest(keys, session_id)
    added = _with_aliases(keys, digest, state, messages, without_alias, _find_nothing)
    return _put(transaction, keys, digest, state, added, now, channel)


def _put(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    old: ContainerState,
    added: Sequence[_Added],
    now: int,
    channel: bytes | None,
    limits: ChannelLimits | None = None,
) -> ContainerState | None:
    place = message_aad_prefix(keys, digest, old)
    state, behind = old, old.next_sequence + len(added)
    if limits is not None:
        room = with_room(transaction, keys, digest, old, limits, channel, len(added))
        state, added = room.state._replace(channels=room.limits.packed()), added[room.skipped :]
    numbered = [number.to_bytes(8) for number in range(behind - len(added), behind)]
    rows = [
        (key, alias, keys.seal(place, key, plaintext, nonce=nonce))
        for key, (plaintext, alias, _), nonce in zip(
            numbered, added, nonces(len(added)), strict=True
        )
    ]
    parts = [
        message_part(keys, digest, key, now, plaintext)
        for key, (plaintext, *_) in zip(numbered, added, strict=True)
    ]
    # All at once: each of its copies takes 2.5 µs.
    new = state._replace(
        members=state.members_and(keys, sum(parts)),
        next_sequence=behind,
        count=state.count + len(rows),
        size=state.size + sum(len(sealed) for _, _, sealed in rows),
        newest=newest_of(keys, digest, numbered[-1], added[-1][0]),
        updated_at=now,
        expires_at=state.expiry_after(now) if state.has_lifetime else state.expires_at,
    ).authenticated(Kind.SESSION, keys, digest)
    shared = {
        "scope_id": keys.scope_id,
        "digest": digest,
        "now": now,
        "record_tag": None if channel is None else channel_of(keys, channel) + now.to_bytes(8),
    }
    states = old.swapped(new) | shared
    if transaction.has_modifying_ctes:
        swap = sql.SWAP_AND_INSERT
        is_swapped = transaction.row(swap, **states, **_as_arrays(rows)) is not None
    elif is_swapped := transaction.changes(sql.COMPARE_AND_SWAP, **states):
        transaction.execute_many(sql.INSERT_ONE, [{**shared, **_as_values(row)} for row in rows])
    if is_swapped and (uses := [one.use for one in added if one.use]):
        usage.add(transaction, keys, uses, now)
    return new if is_swapped else None


def _as_values(row: _NewRow) -> dict[str, object]:
    key, alias, sealed = row
    return {
        "record_key": key,
        "record_alias": alias,
        "record_sealed": sealed,
        "record_size": len(sealed),
    }


def _as_arrays(rows: Sequence[_NewRow]) -> dict[str, object]:
    keys, aliases, sealed = (list(column) for column in zip(*rows, strict=True))
    sizes = [len(one) for one in sealed]
    return {
        "record_key": keys,
        "record_alias": aliases,
        "record_sealed": sealed,
        "record_size": sizes,
    }


def without_alias(message: Message, _: Known) -> Message:
    """The message as it is; its id finds the one that was first, which alone counts."""
    return Message(message.plaintext, None)


def _find_nothing(_: str) -> None:
    """Nothing is stored, as far as one knows who has not looked."""


def _with_aliases(
    keys: ScopeKeys,
    digest: bytes,
    state: ContainerState,
    messages: Sequence[Message],
    repeated: Repeated,
    find: Callable[[str], Known | None],
) -> list[_Added]:
    """The messages to add; an alias stands once in a session."""
    added: list[_Added] = []
    seen: dict[str, Known] = {}
    for message in messages:
        new: Message | None = message
        while new and new.message_id:
            known = seen.get(new.message_id) or find(new.message_id)
            if known is None:
                seen[new.message_id] = Known(state.next_sequence + len(added), new.plaintext)
                break
            new = repeated(new, known)
        if new:
            alias = alias_of(keys, digest, new.message_id) if new.message_id else None
            added.append(_Added(new.plaintext, alias, new.use))
    return added


def clear(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: str,
    change: Callable[[bytes, ContainerState], bytes],
    birth: bytes,
    now: int,
) -> None:
    """Remove every message of the session; none of them opens in the life that begins.

    Its header becomes what ``change`` makes of it: what it says of the messages goes with them.
    """
    digest = session_digest(keys, session_id)
    has_row = ROWS.current(transaction, keys, digest, now) is not None
    ROWS.delete_children(transaction, keys, digest, has_row=has_row)
    if has_row and (found := ROWS.header(transaction, keys, digest)):
        state, header = found
        again, limits = change(header, state), ChannelLimits.of(state)
        channels = None if limits is None else limits.emptied().packed()
        ROWS.begin_again(transaction, keys, digest, state, again, birth, now, channels)


def limit_channels(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: str,
    wanted: Mapping[str, int] | None,
    rules: SessionRules,
    now: int,
) -> bool | None:
    """Give the session limits of its own, or with ``None`` those of ``rules``, and apply them.

    Returns:
        Whether as much is left as is kept: one call takes out so many messages of each channel as
        one transaction should. ``None`` without such a session.

    Raises:
        RecordDoesNotOpen: A message was changed, moved, removed, or put into another channel.
    """
    digest = session_digest(keys, session_id)
    if ROWS.lock(transaction, keys, digest) is None:
        return None
    found = LISTING.header(transaction, keys, session_id, now)
    if found is None:
        return None
    state, header = found
    named = digests_of(keys, rules.channel_limits if wanted is None else wanted)
    limits = counted(transaction, keys, digest, state, named, is_own=wanted is not None)
    for channel, kept in limits.kept.items():
        gone = min(kept.excess, MOST_AT_ONCE)
        state, limits = taken_out(transaction, keys, digest, state, limits, channel, gone)
    ROWS.rewrite(transaction, keys, digest, state._replace(channels=limits.packed()), header)
    return not any(kept.excess for kept in limits.kept.values())
