"""Writes checkpoints, writes and new elements, and garbage-collects what nothing refers to."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Insert, Update

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database.driver_errors import Conflict
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.container_state import ContainerState
from langmem_isolated._storage.containers import Beginning
from langmem_isolated._storage.threads import statements as sql
from langmem_isolated._storage.threads.addresses import Life, Slot, mac_of
from langmem_isolated._storage.threads.listing import ROWS
from langmem_isolated._storage.threads.reading import (
    OpenBody,
    bodies,
    body_at,
    body_part,
    count,
    element_part,
    elements,
    open_at,
    part_of_body,
    stored_elements,
    verified,
)
from langmem_isolated.errors import RecordDoesNotOpen

ANYTHING = b""
_NewRow = dict[str, Any]


class NewElement(NamedTuple):
    """An element on its way in."""

    mac: bytes
    plaintext: bytes


class NewBody(NamedTuple):
    """A checkpoint or a task's writes on its way in."""

    slot: Slot
    tag: bytes | None
    elements: Sequence[NewElement]
    plaintext: Callable[[dict[bytes, int]], bytes]
    """Completes the body, once the elements have their numbers."""
    replaces: bytes | None
    """The plaintext that must stand there now, or ``ANYTHING``; ``None`` for an empty slot."""


class NewThread(NamedTuple):
    """What a thread is begun with, where there is none."""

    header: bytes
    """The sealed part of its row, in plaintext."""
    birth: bytes
    """16 random bytes."""
    beginning: Beginning


class Stored(NamedTuple):
    """What a body was stored with, and the state that it left the thread in."""

    state: ContainerState
    numbers: dict[bytes, int]


def put(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    new: NewThread,
    body: NewBody,
    found_in: bytes,
    now: int,
    expires_at: int | None,
) -> Stored | None:
    """Store a body and its new elements.

    Nothing is stored if the thread was swept meanwhile, or the body to replace is another by now.

    Args:
        new: What the thread is begun with, if there is none.
        found_in: The generation in which the body's references were found; empty when it has none
            that could be stale.
        expires_at: When the thread is absent, unless its row has an earlier end.

    Returns:
        What it was stored with, or ``None``.

    Raises:
        ScopeGone: The scope was erased meanwhile.
        Conflict: A body stands there already, and none was to be replaced; nothing was written.
    """
    state = ROWS.get_or_create(transaction, keys, digest, new.header, new.birth, now, new.beginning)
    if found_in not in (b"", state.generation):
        return None
    slot = body.slot
    if body.replaces and body_at(transaction, keys, slot, state.birth) != body.replaces:
        return None
    numbers = _stored_numbers(transaction, keys, Life(digest, state.birth), body.elements)
    if body.replaces is not None:
        state = _without_body(transaction, keys, slot, state)
    rows, stored = _build_rows(keys, digest, [body], state, numbers, now, expires_at)
    _insert(transaction, keys, rows, now)
    return stored._replace(state=ROWS.update(transaction, keys, digest, stored.state))


def put_if_unchanged(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    bodies: Sequence[NewBody],
    state: ContainerState,
    numbers: Mapping[bytes, int],
    now: int,
    expires_at: int | None,
) -> Stored | None:
    """Store bodies for empty slots in a thread that is in ``state``; ``None`` if it is not.

    On PostgreSQL a single statement; on SQLite, and where the tables are distributed, part of a
    write transaction.

    Args:
        numbers: Of the elements that the thread is known to have.

    Raises:
        Conflict: A body or an element stands there already; nothing was written.
    """
    if state.is_expired(now):
        return None
    rows, stored = _build_rows(keys, digest, bodies, state, numbers, now, expires_at)
    new = stored.state.authenticated(Kind.THREAD, keys, digest)
    values = {"scope_id": keys.scope_id, "digest": digest, **state.old(), **new.new()}
    is_swapped = _insert_behind(transaction, keys, sql.COMPARE_AND_SWAP, values, rows, now)
    return Stored(new, stored.numbers) if is_swapped else None


def begin(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    new: NewThread,
    bodies: Sequence[NewBody],
    now: int,
    expires_at: int | None,
) -> Stored | None:
    """Store the first bodies of a thread, and its row; as :func:`put_if_unchanged`.

    Returns:
        ``None`` if there is such a thread, or the scope was erased, or a later key seals in it.
    """
    state = ROWS.new(keys, new.birth, now, new.beginning)
    rows, stored = _build_rows(keys, digest, bodies, state, {}, now, expires_at)
    state, values = ROWS.creation_of(keys, digest, stored.state, new.header)
    create = ROWS.create[transaction.is_postgres]
    is_created = _insert_behind(transaction, keys, create, values, rows, now)
    return Stored(state, stored.numbers) if is_created else None


def _insert_behind(
    transaction: Transaction,
    keys: ScopeKeys,
    change: Insert | Update,
    values: dict[str, object],
    rows: list[_NewRow],
    now: int,
) -> bool:
    """Make or change a thread's row, and insert what is new below it; whether that was done."""
    if not transaction.has_modifying_ctes:
        is_changed = transaction.changes(change, **values)
        if is_changed:
            _insert(transaction, keys, rows, now)
        return is_changed
    for number, row in enumerate(rows):
        values.update({f"{name}_{number}": row[f"record_{name}"] for name in sql.COLUMNS})
    values["now"] = now
    return transaction.row(sql.insert_behind(change, len(rows)), **values) is not None


def _build_rows(
    keys: ScopeKeys,
    digest: bytes,
    bodies: Sequence[NewBody],
    state: ContainerState,
    known: Mapping[bytes, int],
    now: int,
    expires_at: int | None,
) -> tuple[list[_NewRow], Stored]:
    """The rows of bodies and of their elements that are not ``known``, and what they lead to.

    The row MAC of the state that they lead to is still to be made.
    """
    numbers: dict[bytes, int] = {}
    next_number, count, difference = state.next_sequence, state.count, 0
    life = Life(digest, state.birth)
    rows: list[_NewRow] = []
    for body in bodies:
        for mac, plaintext in body.elements:
            number = numbers.get(mac, known.get(mac))
            numbers[mac] = next_number if number is None else number
            if number is not None:
                continue
            rows.append(_element_row(keys, life, next_number, mac, plaintext))
            difference += element_part(keys, digest, next_number.to_bytes(8), now, mac)
            next_number += 1
        plaintext = body.plaintext(numbers)
        rows.append(_body_row(keys, body.slot, state.birth, body.tag, plaintext))
        difference += body_part(keys, body.slot, now, body.tag, plaintext)
        count += body.slot.kind is Kind.CHECKPOINT
    new = state._replace(
        members=state.members_and(keys, difference),
        next_sequence=next_number,
        count=count,
        size=state.size + sum([row["record_size"] for row in rows]),
        updated_at=now,
        expires_at=state.expiry_after(now, otherwise=expires_at),
    )
    return rows, Stored(new, numbers)


def _insert(transaction: Transaction, keys: ScopeKeys, rows: list[_NewRow], now: int) -> None:
    for row in rows:
        row["scope_id"], row["now"] = keys.scope_id, now
    transaction.execute_many(sql.INSERT, rows)


def _stored_numbers(
    transaction: Transaction, keys: ScopeKeys, life: Life, elements: Sequence[NewElement]
) -> dict[bytes, int]:
    """The numbers of those elements that the thread has already."""
    shared = {"scope_id": keys.scope_id, "digest": life.digest}
    found = transaction.rows_of_each(sql.BY_ALIAS, ({**shared, "alias": e.mac} for e in elements))
    numbers = {}
    for (mac, plaintext), rows in zip(elements, found, strict=True):
        for key, sealed in rows:
            # Nothing but the element itself proves that it is where its alias says.
            slot = Slot(Kind.ELEMENT, life.digest, key)
            if open_at(keys, slot, life.birth, sealed) != plaintext:
                raise RecordDoesNotOpen(Kind.ELEMENT.label, "its alias is another's")
            numbers[mac] = int.from_bytes(key)
    return numbers


def _element_row(keys: ScopeKeys, life: Life, number: int, mac: bytes, plaintext: bytes) -> _NewRow:
    key = number.to_bytes(8)
    sealed = keys.seal(keys.aad_prefix(Kind.ELEMENT, *life), key, plaintext)
    return _as_row(Slot(Kind.ELEMENT, life.digest, key), mac, None, sealed)


def _body_row(
    keys: ScopeKeys, slot: Slot, birth: bytes, tag: bytes | None, plaintext: bytes
) -> _NewRow:
    sealed = keys.seal(keys.aad_prefix(slot.kind, slot.parent, birth), slot.key, plaintext)
    return _as_row(slot, None, tag, sealed)


def _as_row(slot: Slot, alias: bytes | None, tag: bytes | None, sealed: bytes) -> _NewRow:
    return {
        "record_kind": int(slot.kind),
        "record_parent": slot.parent,
        "record_key": slot.key,
        "record_alias": alias,
        "record_tag": tag,
        "record_sealed": sealed,
        "record_size": len(sealed),
    }


def _without_body(
    transaction: Transaction, keys: ScopeKeys, slot: Slot, state: ContainerState
) -> ContainerState:
    """Delete one body, if it is there; the thread's state without it."""
    row = transaction.row(
        sql.TAKE_OUT, scope_id=keys.scope_id, kind=int(slot.kind), parent=slot.parent, key=slot.key
    )
    if row is None:
        return state
    plaintext = open_at(keys, slot, state.birth, row[0])
    return state.with_members(keys, -body_part(keys, slot, row[2], row[1], plaintext))._replace(
        count=state.count - (slot.kind is Kind.CHECKPOINT), size=state.size - len(row[0])
    )


def _delete(transaction: Transaction, keys: ScopeKeys, slots: Iterable[Slot]) -> None:
    rows = ({"kind": int(slot.kind), "parent": slot.parent, "key": slot.key} for slot in slots)
    transaction.execute_many(sql.DELETE_ONE, [{"scope_id": keys.scope_id, **row} for row in rows])


def sweep(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    generation: bytes,
    choose: Callable[[list[OpenBody]], set[Slot]],
    references: Callable[[Life, bytes], Iterable[int]],
) -> None:
    """Remove the bodies that ``choose`` names, and every element that no other body refers to.

    The thread's row is locked and gets the new ``generation``: whoever is about to store a
    reference to an element that goes here finds out and encodes anew. Nothing happens to an
    unknown thread.
    """
    state = ROWS.locked(transaction, keys, digest)
    if state is None:
        return
    life = Life(digest, state.birth)
    stored = bodies(transaction, keys, life)
    gone = choose(stored)
    if not gone:
        return
    kept = [body for body in stored if body.slot not in gone]
    if not kept:
        ROWS.remove(transaction, keys, digest)
        return
    used = {number for body in kept for number in references(life, body.plaintext)}
    removed = [body for body in stored if body.slot in gone]
    unused = [e for e in stored_elements(transaction, keys, digest) if e.number not in used]
    _delete(
        transaction, keys, (*gone, *(Slot(Kind.ELEMENT, digest, element.key) for element in unused))
    )
    transaction.execute(sql.DELETE_LEFT_EMBEDDINGS, scope_id=keys.scope_id, digest=digest)
    parts = [part_of_body(keys, body) for body in removed]
    parts += [element_part(keys, digest, e.key, e.stored_at, e.mac) for e in unused]
    swept = state.with_members(keys, -sum(parts))._replace(
        generation=generation,
        count=count(kept),
        size=state.size - sum(b.size for b in removed) - sum(e.size for e in unused),
    )
    ROWS.update(transaction, keys, digest, swept)


def copy(
    transaction: Transaction,
    keys: ScopeKeys,
    source: bytes,
    target: bytes,
    header: bytes,
    birth: bytes,
    now: int,
) -> bool:
    """Seal everything of a thread again as another's; ``False`` if there is no such thread.

    Args:
        birth: 16 random bytes for the target's row.

    Raises:
        RecordDoesNotOpen: The source has not all that its row stands for; nothing was written.
        Conflict: The target has some of it already; nothing was written.
        ScopeGone: The scope was erased meanwhile.
    """
    state = ROWS.current(transaction, keys, source, now)
    if state is None:
        return False
    new = ROWS.get_or_create(transaction, keys, target, header, birth, now)
    if new.birth != birth:
        raise Conflict(foreign_key=False)
    stored = verified(transaction, keys, source)
    numbers = [element.number for element in stored_elements(transaction, keys, source)]
    rows, difference, life = [], 0, Life(target, birth)
    for number, plaintext in elements(
        transaction, keys, Life(source, state.birth), numbers
    ).items():
        mac = mac_of(keys, target, plaintext)
        rows.append(_element_row(keys, life, number, mac, plaintext))
        difference += element_part(keys, target, number.to_bytes(8), now, mac)
    for body in stored:
        slot = body.slot._replace(parent=target + body.slot.parent[DIGEST_BYTES:])
        rows.append(_body_row(keys, slot, birth, body.tag, body.plaintext))
        difference += body_part(keys, slot, now, body.tag, body.plaintext)
    _insert(transaction, keys, rows, now)
    copied = new.with_members(keys, difference)._replace(
        next_sequence=state.next_sequence,
        count=state.count,
        size=sum(row["record_size"] for row in rows),
        updated_at=now,
        expires_at=state.expires_at,
    )
    ROWS.update(transaction, keys, target, copied)
    return True
