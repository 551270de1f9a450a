"""Stages sessions and threads at their new owner, where nobody sees them, and publishes them."""

import os
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import select

from langmem_isolated._codecs.headers import encode_header
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.container_state import GENERATION_BYTES, ContainerState
from langmem_isolated._storage.containers import DIGEST, SCOPE_ID
from langmem_isolated._storage.copying.containers import (
    ROWS,
    Addressed,
    OpenContainer,
    addressed,
    digest_of,
    moved_on,
)
from langmem_isolated._storage.copying.options import Conflicts, Copied, Mark, names_for
from langmem_isolated._storage.threads.addresses import END
from langmem_isolated._storage.threads.statements import INSERT

# When a row expires that nobody is to see yet: long ago.
_UNSEEN = 1

_records = schema.records.c
_BELOW: list[sa.ColumnElement[int]] = [
    sa.literal_column(str(int(kind)))
    for kind in (Kind.MESSAGE, Kind.CHECKPOINT, Kind.WRITE, Kind.ELEMENT)
]
_ADDRESSES_BELOW = select(_records.kind, _records.parent, _records.key).where(
    _records.scope_id == SCOPE_ID,
    _records.kind.in_(_BELOW),
    _records.parent >= DIGEST,
    _records.parent < sa.bindparam("end", type_=sa.LargeBinary),
)


class Place(NamedTuple):
    """Where a session or thread is copied to."""

    kind: Kind
    name: str
    digest: bytes
    birth: bytes
    is_late: bool = False
    """Whether what stands there gives way only when all is published."""


class Step(NamedTuple):
    """How far the copy of one session or thread has come."""

    place: Place
    left: ContainerState | None
    missing: list[Addressed]


def birth_of(keys: ScopeKeys, token: bytes, container: OpenContainer) -> bytes:
    """The birth that a copy gives: the same however often it is begun, and in no other copy."""
    return keys.row_mac(b"copy", token, container.kind.framed_bytes, container.state.birth)


def begin(
    transaction: Transaction,
    keys: ScopeKeys,
    container: OpenContainer,
    token: bytes,
    mark: Mark,
    conflicts: Conflicts,
    copied: Copied,
    now: int,
    is_anothers: Callable[[bytes], bool] = lambda _: False,
) -> Step | None:
    """Find a session's or thread's place and make its row, or find what was made there before.

    ``None`` if it is left out.

    Args:
        is_anothers: Whether this copy has staged another at a digest, whose name is taken then.

    Raises:
        AddressTaken: Its name is taken, and that is refused.
    """
    rows, birth = ROWS[container.kind], birth_of(keys, token, container)
    for name in names_for(container.header.session_id):
        digest = digest_of(keys, container.kind, name)
        place = Place(container.kind, name, digest, birth)
        state = rows.locked(transaction, keys, digest)
        if state is not None and state.birth == birth and state.expires_at != _UNSEEN:
            # Published before: what was said there since is its owner's.
            return None
        if state is not None and state.birth == birth:
            step = _continued(transaction, keys, place, container, state)
            if step is not None:
                return step
        if (state is None or state.is_expired(now)) and not is_anothers(digest):
            rows.remove(transaction, keys, digest)
            made = _create(transaction, keys, place, container, mark, now)
            return Step(place, made.but_keys, [*addressed(keys, digest, container.lines)])
        if conflicts != "rename":
            break
    if copied.resolve(conflicts, container.kind) == "skip":
        return None
    return Step(place._replace(is_late=True), None, [])


def _continued(
    transaction: Transaction,
    keys: ScopeKeys,
    place: Place,
    container: OpenContainer,
    state: ContainerState,
) -> Step | None:
    """What is missing yet; ``None`` if the source has less now than was copied."""
    end = place.digest + END
    found = set(
        transaction.rows(_ADDRESSES_BELOW, scope_id=keys.scope_id, digest=place.digest, end=end)
    )
    lines = {
        (int(one.kind), one.parent, one.key): one
        for one in addressed(keys, place.digest, container.lines)
    }
    if not found <= lines.keys():
        return None
    missing = [one for address, one in lines.items() if address not in found]
    return Step(place, state.but_keys, missing)


def _create(
    transaction: Transaction,
    keys: ScopeKeys,
    place: Place,
    container: OpenContainer,
    mark: Mark,
    now: int,
) -> ContainerState:
    """Make the row, unseen and with nothing below it, with what the source's says besides."""
    rows, source = ROWS[place.kind], container.state
    header = encode_header(
        container.header._replace(
            session_id=place.name,
            origin=mark.origin or container.header.origin,
            is_untrusted=mark.is_untrusted or container.header.is_untrusted,
        )
    )
    made = rows.get_or_create(transaction, keys, place.digest, header, place.birth, now)
    first = source.next_sequence - (source.count if place.kind is Kind.SESSION else 0)
    unseen = made._replace(
        # One that was seen and deleted is made again with its birth: of what processes know of the
        # thread's elements by number, nothing is so any more.
        generation=os.urandom(GENERATION_BYTES),
        next_sequence=first,
        channels=container.limits and container.limits.packed(keys),
        state=source.state,
        is_pinned=source.is_pinned,
        idle_lifetime=source.idle_lifetime,
        absolute_lifetime=source.absolute_lifetime,
        created_at=source.created_at,
        # Until it is seen, when it was begun: a sweep leaves a copy alone that may be going on.
        updated_at=now,
        expires_at=_UNSEEN,
    )
    rows.rewrite(transaction, keys, place.digest, unseen, header)
    state = rows.locked(transaction, keys, place.digest)
    assert state is not None
    return state


def put(transaction: Transaction, keys: ScopeKeys, step: Step, most: int) -> Step | None:
    """Store the next records of a session or thread; ``None`` if its row is not as it was left."""
    place, rows = step.place, ROWS[step.place.kind]
    state = rows.locked(transaction, keys, place.digest)
    if state is None or state.but_keys != step.left:
        return None
    batch = [*islice(step.missing, most)]
    if not batch:
        return step
    new = _stored(transaction, keys, place, state, batch)
    return Step(place, new.but_keys, step.missing[most:])


def _stored(
    transaction: Transaction,
    keys: ScopeKeys,
    place: Place,
    state: ContainerState,
    batch: list[Addressed],
) -> ContainerState:
    sealed = [_row(keys, state.birth, one) for one in batch]
    transaction.execute_many(INSERT, sealed)
    new = moved_on(keys, place.digest, state, batch, sum(row["record_size"] for row in sealed))
    return ROWS[place.kind].update(transaction, keys, place.digest, new)


def _row(keys: ScopeKeys, birth: bytes, one: Addressed) -> dict[str, Any]:
    prefix = keys.aad_prefix(one.kind, one.parent, birth)
    sealed = keys.seal(prefix, one.key, one.line.plaintext)
    return {
        "scope_id": keys.scope_id,
        "now": one.line.stored_at,
        "record_kind": int(one.kind),
        "record_parent": one.parent,
        "record_key": one.key,
        "record_alias": one.alias,
        "record_tag": one.tag,
        "record_sealed": sealed,
        "record_size": len(sealed),
    }


def publish(
    transaction: Transaction,
    keys: ScopeKeys,
    container: OpenContainer,
    step: Step,
    mark: Mark,
    now: int,
) -> bool:
    """Let a session or thread be seen; ``False`` if its row is not as it was left."""
    place, rows = step.place, ROWS[step.place.kind]
    if place.is_late:
        rows.remove(transaction, keys, place.digest)
        state = _create(transaction, keys, place, container, mark, now)
        lines = [*addressed(keys, place.digest, container.lines)]
        if lines:
            state = _stored(transaction, keys, place, state, lines)
    else:
        found = rows.locked(transaction, keys, place.digest)
        if found is None or found.but_keys != step.left:
            return False
        state = found
    source = container.state
    seen = state._replace(updated_at=source.updated_at, expires_at=source.expires_at)
    rows.update(transaction, keys, place.digest, seen)
    return True


def discard(transaction: Transaction, keys: ScopeKeys, place: Place) -> None:
    """Remove what was staged and is not to be published."""
    state = ROWS[place.kind].locked(transaction, keys, place.digest)
    if state is not None and (state.birth, state.expires_at) == (place.birth, _UNSEEN):
        ROWS[place.kind].remove(transaction, keys, place.digest)
