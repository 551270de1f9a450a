"""Appends messages to sessions, optimistically or under a lock, and clears them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import tag_of
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.containers import ContainerState
from langmem_isolated._storage.sessions import statements as sql
from langmem_isolated._storage.sessions.listing import ROWS, rewrite, session_digest
from langmem_isolated._storage.sessions.reading import channel_of, message_aad_prefix
from langmem_isolated.errors import RecordDoesNotOpen

_NewRow = tuple[bytes, bytes | None, bytes]


class Message(NamedTuple):
    """A message on its way in: its stored form in plaintext, and its id if it has one."""

    plaintext: bytes
    message_id: str | None


def append(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: str,
    header: bytes,
    messages: Sequence[Message],
    generation: bytes,
    now: int,
    *,
    skip_stored: bool,
    look_first: bool,
    channel: bytes | None = None,
) -> ContainerState:
    """Add ``messages`` behind the session's newest, all or none, and make the session if absent.

    Args:
        header: The sealed part of a new session's row, in plaintext.
        generation: 8 random bytes for a new session's row.
        skip_stored: Leave out messages whose id the session has already. Otherwise they are added
            again; the id then finds the first.
        look_first: Look up which ids are stored. Ids are new nearly always, so the first attempt
            goes without, and the constraint on aliases tells when one is not.
        channel: Under which :func:`recent` finds the messages; it must be sealed in them, and
            ``now``, too.

    Returns:
        The session's state after it, from which :func:`append_optimistically` goes on.

    Raises:
        ScopeGone: The scope was erased meanwhile.
        RecordDoesNotOpen: The session's row was tampered with.
        Conflict: An id is stored already and ``look_first`` was off; nothing was written.
    """
    digest = session_digest(keys, session_id)
    state = ROWS.get_or_create(transaction, keys, digest, header, generation, now)

    def is_stored(alias: bytes) -> bool:
        found = transaction.row(sql.KNOWN_ALIAS, scope_id=keys.scope_id, digest=digest, alias=alias)
        return found is not None

    is_taken = is_stored if look_first else lambda _: False
    added = _with_aliases(keys, digest, messages, skip_stored, is_taken)
    if not added:
        return state
    moved = _put(transaction, keys, digest, state, added, now, channel)
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

    On PostgreSQL a single statement, on SQLite part of a write transaction.

    Raises:
        Conflict: An id is stored already; nothing was written.
    """
    if state.is_expired(now):
        return None
    digest = session_digest(keys, session_id)
    added = _with_aliases(keys, digest, messages, skip_stored=False, is_taken=lambda _: False)
    return _put(transaction, keys, digest, state, added, now, channel)


def _put(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    old: ContainerState,
    added: Sequence[tuple[bytes, bytes | None]],
    now: int,
    channel: bytes | None,
) -> ContainerState | None:
    place = message_aad_prefix(keys, digest, old)
    first = old.next_sequence
    numbered = [number.to_bytes(8) for number in range(first, first + len(added))]
    rows = [
        (key, alias, keys.seal(place, key, plaintext))
        for key, (plaintext, alias) in zip(numbered, added, strict=True)
    ]
    new = replace(
        old,
        newest_tag=tag_of(rows[-1][2]),
        next_sequence=old.next_sequence + len(rows),
        count=old.count + len(rows),
    )
    values = {
        "scope_id": keys.scope_id,
        "digest": digest,
        "now": now,
        "new_tag": None if channel is None else channel_of(keys, channel) + now.to_bytes(8),
        **old.as_old(keys, digest),
        **new.as_new(keys, digest, sum(len(sealed) for _, _, sealed in rows)),
    }
    if transaction.is_postgres:
        is_swapped = transaction.row(sql.SWAP_AND_INSERT, **values, **_as_arrays(rows)) is not None
    elif is_swapped := transaction.changes(sql.COMPARE_AND_SWAP, **values):
        transaction.execute_many(sql.INSERT_ONE, [{**values, **_as_values(row)} for row in rows])
    return new if is_swapped else None


def _as_values(row: _NewRow) -> dict[str, object]:
    key, alias, sealed = row
    return {"new_key": key, "new_alias": alias, "new_sealed": sealed, "new_size": len(sealed)}


def _as_arrays(rows: Sequence[_NewRow]) -> dict[str, object]:
    keys, aliases, sealed = (list(column) for column in zip(*rows, strict=True))
    sizes = [len(one) for one in sealed]
    return {"new_key": keys, "new_alias": aliases, "new_sealed": sealed, "new_size": sizes}


def _with_aliases(
    keys: ScopeKeys,
    digest: bytes,
    messages: Sequence[Message],
    skip_stored: bool,
    is_taken: Callable[[bytes], bool],
) -> list[tuple[bytes, bytes | None]]:
    """The plaintext and alias of each message to add; an alias stands once in a session."""
    added: list[tuple[bytes, bytes | None]] = []
    seen: set[bytes] = set()
    for plaintext, message_id in messages:
        alias = (
            keys.pseudonym(Kind.MESSAGE, digest, message_id.encode(errors="surrogatepass"))
            if message_id
            else None
        )
        if alias is None or not (alias in seen or is_taken(alias)):
            added.append((plaintext, alias))
        elif not skip_stored:
            added.append((plaintext, None))
        if alias:
            seen.add(alias)
    return added


def clear(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: str,
    change: Callable[[bytes, ContainerState], bytes],
    generation: bytes,
    now: int,
) -> None:
    """Remove every message of the session; none of them opens under the new ``generation``.

    Its header becomes what ``change`` makes of it: what it says of the messages goes with them.
    """
    digest = session_digest(keys, session_id)
    state = ROWS.current(transaction, keys, digest, now)
    ROWS.delete_children(transaction, keys, digest, has_row=state is not None)
    if state is not None:
        empty = ROWS.empty(generation, state.expires_at)
        transaction.execute(
            sql.EMPTY,
            scope_id=keys.scope_id,
            digest=digest,
            new_head=empty.row_mac(keys, digest),
            new_generation=generation,
            now=now,
        )
        rewrite(transaction, keys, session_id, change, now)
