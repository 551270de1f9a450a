"""Writes checkpoints, writes and new elements, and garbage-collects what nothing refers to."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database.dialects import Conflict
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.containers import ContainerState
from langmem_isolated._storage.threads import statements as sql
from langmem_isolated._storage.threads.addresses import Slot
from langmem_isolated._storage.threads.listing import ROWS
from langmem_isolated._storage.threads.reading import (
    OpenBody,
    bodies,
    body_at,
    count,
    elements,
    open_at,
    stored_elements,
)
from langmem_isolated.errors import RecordDoesNotOpen

ANYTHING = b""
_NewRow = dict[str, Any]


class NewElement(NamedTuple):
    """An element on its way in."""

    mac: bytes
    plaintext: bytes


@dataclass(frozen=True, slots=True)
class NewBody:
    """A checkpoint or a task's writes on its way in."""

    slot: Slot
    tag: bytes | None
    elements: Sequence[NewElement]
    plaintext: Callable[[dict[bytes, int]], bytes]
    """Completes the body, once the elements have their numbers."""
    replaces: bytes | None
    """The plaintext that must stand there now, or ``ANYTHING``; ``None`` for an empty slot."""


class Stored(NamedTuple):
    """What a body was stored with, and the state that it left the thread in."""

    state: ContainerState
    numbers: dict[bytes, int]


def put(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    header: bytes,
    body: NewBody,
    found_in: bytes,
    generation: bytes,
    now: int,
    expires_at: int | None,
) -> Stored | None:
    """Store a body and its new elements.

    Nothing is stored if the thread was swept meanwhile, or the body to replace is another by now.

    Args:
        header: The sealed part of a new thread's row, in plaintext.
        found_in: The generation in which the body's references were found; empty when it has none
            that could be stale.
        generation: 8 random bytes for a new thread's row.

    Returns:
        What it was stored with, or ``None``.

    Raises:
        ScopeGone: The scope was erased meanwhile.
        Conflict: A body stands there already, and none was to be replaced; nothing was written.
    """
    state = ROWS.get_or_create(transaction, keys, digest, header, generation, now)
    if found_in not in (b"", state.generation):
        return None
    slot = body.slot
    if body.replaces and body_at(transaction, keys, slot) != body.replaces:
        return None
    numbers = _stored_numbers(transaction, keys, digest, body.elements)
    replaced = None if body.replaces is None else _delete_body(transaction, keys, slot)
    rows, stored = _build_rows(keys, digest, body, state, numbers, expires_at)
    if replaced is not None:
        stored = stored._replace(state=replace(stored.state, count=state.count))
    _insert(transaction, keys, rows, now)
    _update_row(transaction, keys, digest, stored.state, _size(rows) - (replaced or 0), now)
    return stored


def put_if_unchanged(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    body: NewBody,
    state: ContainerState,
    numbers: Mapping[bytes, int],
    now: int,
    expires_at: int | None,
) -> Stored | None:
    """Store a body for an empty slot in a thread that is in ``state``; ``None`` if it is not.

    On PostgreSQL a single statement, on SQLite part of a write transaction.

    Args:
        numbers: Of those of its elements that the thread is known to have.

    Raises:
        Conflict: A body or an element stands there already; nothing was written.
    """
    if state.is_expired(now):
        return None
    rows, stored = _build_rows(keys, digest, body, state, numbers, expires_at)
    values = {
        "scope_id": keys.scope_id,
        "digest": digest,
        "now": now,
        **state.as_old(keys, digest),
        **stored.state.as_new(keys, digest, _size(rows)),
    }
    if transaction.is_postgres:
        for number, row in enumerate(rows):
            values.update({f"{name}_{number}": row[f"new_{name}"] for name in sql.COLUMNS})
        is_swapped = transaction.row(sql.swap_and_insert(len(rows)), **values) is not None
    elif is_swapped := transaction.changes(sql.COMPARE_AND_SWAP, **values):
        _insert(transaction, keys, rows, now)
    return stored if is_swapped else None


def _build_rows(
    keys: ScopeKeys,
    digest: bytes,
    body: NewBody,
    state: ContainerState,
    known: Mapping[bytes, int],
    expires_at: int | None,
) -> tuple[list[_NewRow], Stored]:
    """A body's rows and those of the elements that are not ``known``, and what they lead to."""
    # A copy: what fails among other writes in a transaction is done again from the beginning.
    numbers = dict(known)
    # A thread that was deleted and begun again has no element where its former life had one.
    next_number = state.next_sequence or int.from_bytes(state.generation[:6]) + 1
    rows: list[_NewRow] = []
    for mac, plaintext in body.elements:
        if mac not in numbers:
            numbers[mac] = next_number
            rows.append(_element_row(keys, digest, next_number, mac, plaintext))
            next_number += 1
    slot = body.slot
    sealed = keys.seal(keys.aad_prefix(slot.kind, slot.parent), slot.key, body.plaintext(numbers))
    rows.append(_as_row(slot, None, body.tag, sealed))
    stored = state.count + (slot.kind is Kind.CHECKPOINT)
    new = ContainerState(state.newest_tag, next_number, stored, expires_at, state.generation)
    return rows, Stored(new, numbers)


def _insert(transaction: Transaction, keys: ScopeKeys, rows: list[_NewRow], now: int) -> None:
    shared = {"scope_id": keys.scope_id, "now": now}
    transaction.execute_many(sql.INSERT, [{**shared, **row} for row in rows])


def _size(rows: list[_NewRow]) -> int:
    return sum(row["new_size"] for row in rows)


def _update_row(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    state: ContainerState,
    added: int,
    now: int,
) -> None:
    moved_to = state.as_new(keys, digest, added)
    transaction.execute(
        sql.UPDATE_CONTAINER, scope_id=keys.scope_id, digest=digest, now=now, **moved_to
    )


def _stored_numbers(
    transaction: Transaction, keys: ScopeKeys, digest: bytes, elements: Sequence[NewElement]
) -> dict[bytes, int]:
    """The numbers of those elements that the thread has already."""
    asked = [
        (mac, transaction.query(sql.BY_ALIAS, scope_id=keys.scope_id, digest=digest, alias=mac))
        for mac, _ in elements
    ]
    plaintexts = dict(elements)
    numbers = {}
    for mac, answer in asked:
        if row := answer.fetchone():
            key, sealed = row
            # Nothing but the element itself proves that it is where its alias says.
            if open_at(keys, Slot(Kind.ELEMENT, digest, key), sealed) != plaintexts[mac]:
                raise RecordDoesNotOpen(Kind.ELEMENT.label, "its alias is another's")
            numbers[mac] = int.from_bytes(key)
    return numbers


def _element_row(
    keys: ScopeKeys, digest: bytes, number: int, mac: bytes, plaintext: bytes
) -> _NewRow:
    key = number.to_bytes(8)
    sealed = keys.seal(keys.aad_prefix(Kind.ELEMENT, digest), key, plaintext)
    return _as_row(Slot(Kind.ELEMENT, digest, key), mac, None, sealed)


def _as_row(slot: Slot, alias: bytes | None, tag: bytes | None, sealed: bytes) -> _NewRow:
    return {
        "new_kind": int(slot.kind),
        "new_parent": slot.parent,
        "new_key": slot.key,
        "new_alias": alias,
        "new_tag": tag,
        "new_sealed": sealed,
        "new_size": len(sealed),
    }


def _delete_body(transaction: Transaction, keys: ScopeKeys, slot: Slot) -> int | None:
    """Delete one body; its size, or ``None`` if there was none."""
    row = transaction.row(
        sql.TAKE_OUT, scope_id=keys.scope_id, kind=int(slot.kind), parent=slot.parent, key=slot.key
    )
    return None if row is None else row[0]


def _delete_one(transaction: Transaction, keys: ScopeKeys, slot: Slot) -> None:
    transaction.execute(
        sql.DELETE_ONE,
        scope_id=keys.scope_id,
        kind=int(slot.kind),
        parent=slot.parent,
        key=slot.key,
    )


def sweep(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    generation: bytes,
    choose: Callable[[list[OpenBody]], set[Slot]],
    references: Callable[[bytes], Iterable[int]],
) -> None:
    """Remove the bodies that ``choose`` names, and every element that no other body refers to.

    The thread's row is locked and gets the new ``generation``: whoever is about to store a
    reference to an element that goes here finds out and encodes anew. Nothing happens to an
    unknown thread.
    """
    state = ROWS.locked(transaction, keys, digest)
    if state is None:
        return
    stored = bodies(transaction, keys, digest)
    gone = choose(stored)
    if not gone:
        return
    kept = [body for body in stored if body.slot not in gone]
    if not kept:
        ROWS.remove(transaction, keys, digest)
        return
    for slot in gone:
        _delete_one(transaction, keys, slot)
    used = {number for body in kept for number in references(body.plaintext)}
    size = sum(body.size for body in kept)
    for number, key, element_size in stored_elements(transaction, keys, digest):
        if number in used:
            size += element_size
        else:
            _delete_one(transaction, keys, Slot(Kind.ELEMENT, digest, key))
    transaction.execute(sql.DELETE_LEFT_EMBEDDINGS, scope_id=keys.scope_id, digest=digest)
    swept = replace(state, generation=generation, count=count(kept))
    transaction.execute(
        sql.SWEPT,
        scope_id=keys.scope_id,
        digest=digest,
        new_head=swept.row_mac(keys, digest),
        new_generation=generation,
        new_count=swept.count,
        new_size=size,
    )


def copy(
    transaction: Transaction,
    keys: ScopeKeys,
    source: bytes,
    target: bytes,
    header: bytes,
    rename: Callable[[bytes], bytes],
    generation: bytes,
    now: int,
) -> bool:
    """Seal everything of a thread again as another's; ``False`` if there is no such thread.

    Args:
        rename: Gives an element's MAC in the target thread, from its plaintext.

    Raises:
        Conflict: The target has some of it already; nothing was written.
        ScopeGone: The scope was erased meanwhile.
    """
    state = ROWS.current(transaction, keys, source, now)
    if state is None:
        return False
    if (
        ROWS.get_or_create(transaction, keys, target, header, generation, now).generation
        != generation
    ):
        raise Conflict(foreign_key=False)
    numbers = [number for number, _, _ in stored_elements(transaction, keys, source)]
    rows = [
        _element_row(keys, target, number, rename(plaintext), plaintext)
        for number, plaintext in elements(transaction, keys, source, numbers).items()
    ]
    stored = bodies(transaction, keys, source)
    for body in stored:
        slot = body.slot._replace(parent=target + body.slot.parent[DIGEST_BYTES:])
        sealed = keys.seal(keys.aad_prefix(slot.kind, slot.parent), slot.key, body.plaintext)
        rows.append(_as_row(slot, None, body.tag, sealed))
    _insert(transaction, keys, rows, now)
    copied = replace(state, generation=generation)
    _update_row(transaction, keys, target, copied, _size(rows), now)
    return True
