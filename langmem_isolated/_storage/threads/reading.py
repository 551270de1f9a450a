"""Reads checkpoints, the writes behind them, and the elements they refer to."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.container_state import ContainerState, is_member_sum, member_part
from langmem_isolated._storage.threads import statements as sql
from langmem_isolated._storage.threads.addresses import END, Bounds, Life, Slot, mac_of
from langmem_isolated._storage.threads.listing import ROWS, ThreadRows
from langmem_isolated.errors import RecordDoesNotOpen

FETCH_GAP = 32


class Found(NamedTuple):
    """A checkpoint and the writes behind it, in plaintext."""

    state: ContainerState
    slot: Slot
    checkpoint: bytes
    writes: list[bytes]
    elements: dict[int, bytes]
    """Of the thread's elements those that were guessed, still sealed, by number."""


class OpenBody(NamedTuple):
    """A stored body in plaintext."""

    slot: Slot
    plaintext: bytes
    size: int
    tag: bytes | None
    stored_at: int


def open_at(keys: ScopeKeys, slot: Slot, birth: bytes, sealed: bytes) -> bytes:
    """What is sealed at ``slot`` of a thread in the life that ``birth`` names, in plaintext."""
    parent, key = checked_bytes(slot.kind, slot.parent), checked_bytes(slot.kind, slot.key)
    return keys.open(keys.aad_prefix(slot.kind, parent, birth), key, sealed, slot.kind)


def checked_bytes(kind: Kind, part: bytes) -> bytes:
    """A part of an address as the database gave it."""
    # SQLite keeps any type in any column, and whoever tampers with rows knows it.
    if type(part) is not bytes:
        raise RecordDoesNotOpen(kind.label, "its address is not bytes")
    return part


def body_at(transaction: Transaction, keys: ScopeKeys, slot: Slot, birth: bytes) -> bytes | None:
    """One body in plaintext, or ``None``."""
    row = transaction.row(
        sql.ROW_AT, scope_id=keys.scope_id, kind=int(slot.kind), parent=slot.parent, key=slot.key
    )
    return None if row is None else open_at(keys, slot, birth, row[0])


def get(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    parent: bytes,
    checkpoint_id: bytes | None,
    now: int,
    guess: range = range(0),
) -> Found | None:
    """A checkpoint of one namespace, the latest when ``checkpoint_id`` is ``None``.

    Args:
        guess: Numbers of elements that it may need, and that come in the same statement.
    """
    values = {
        "scope_id": keys.scope_id,
        "digest": digest,
        "parent": parent,
        # An empty range begins behind its end.
        "first": (guess.start + (not guess)).to_bytes(8),
        "last": max(guess.stop - 1, 0).to_bytes(8),
    }
    if checkpoint_id is None:
        rows = transaction.rows(sql.GET_LATEST, **values, end=END)
    else:
        rows = transaction.rows(
            sql.GET_ONE, **values, key=checkpoint_id, end=_behind(checkpoint_id)
        )
    by_kind: dict[int, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(row[0], []).append(row)
    found = by_kind.get(Kind.CHECKPOINT)
    if not found:
        return None
    states = [row[1:] for row in by_kind.get(Kind.THREAD, ())]
    if not states:
        raise RecordDoesNotOpen(Kind.THREAD.label, "its row is missing")
    state = ContainerState.checked(Kind.THREAD, keys, digest, states[0])
    if state.is_expired(now):
        return None
    key = found[0][1]
    slot = Slot(Kind.CHECKPOINT, parent, key)
    checkpoint = open_at(keys, slot, state.birth, found[0][2])
    writes = [
        open_at(keys, Slot(Kind.WRITE, parent, row[1]), state.birth, row[2])
        for row in by_kind.get(Kind.WRITE, ())
        if row[1].startswith(key)
    ]
    guessed = {int.from_bytes(row[1]): row[2] for row in by_kind.get(Kind.ELEMENT, ())}
    return Found(state, slot, checkpoint, writes, guessed)


def opened(
    keys: ScopeKeys, life: Life, sealed: Mapping[int, bytes], wanted: Iterable[int]
) -> dict[int, bytes]:
    """Those of ``sealed`` elements that are ``wanted``, in plaintext, by number."""
    open_ = keys.opener(keys.aad_prefix(Kind.ELEMENT, *life), Kind.ELEMENT)
    numbers = sealed.keys() & wanted
    return {number: open_(number.to_bytes(8), sealed[number]) for number in numbers}


def _behind(checkpoint_id: bytes) -> bytes:
    return checkpoint_id + b"\xff" * (DIGEST_BYTES + 1)


def elements(
    transaction: Transaction, keys: ScopeKeys, life: Life, numbers: Iterable[int]
) -> dict[int, bytes]:
    """Elements in plaintext by their numbers; those that are not there are left out."""
    wanted = set(numbers)
    opened = keys.opener(keys.aad_prefix(Kind.ELEMENT, *life), Kind.ELEMENT)
    found: dict[int, bytes] = {}
    for first, last in _covering_ranges(sorted(wanted)):
        rows = transaction.rows(
            sql.ELEMENTS,
            scope_id=keys.scope_id,
            digest=life.digest,
            first=first.to_bytes(8),
            last=last.to_bytes(8),
        )
        for key, body in rows:
            if (number := int.from_bytes(key)) in wanted:
                found[number] = opened(key, body)
    return found


def _covering_ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges that cover ``numbers``; small gaps are read over rather than asked around."""
    if numbers and numbers[-1] - numbers[0] < len(numbers) + FETCH_GAP:
        return [(numbers[0], numbers[-1])]
    stretches: list[tuple[int, int]] = []
    for number in numbers:
        if stretches and number - stretches[-1][1] <= FETCH_GAP:
            stretches[-1] = (stretches[-1][0], number)
        else:
            stretches.append((number, number))
    return stretches


def checkpoints(
    transaction: Transaction,
    keys: ScopeKeys,
    bounds: Bounds,
    before: tuple[bytes, bytes],
    limit: int,
    threads: ThreadRows,
) -> list[tuple[Slot, bytes]]:
    """Checkpoints in plaintext, newest first, from ``before`` (id and parent) on, it left out."""
    if bounds.low == bounds.high:
        rows = transaction.rows(
            sql.LIST_NAMESPACE,
            scope_id=keys.scope_id,
            parent=bounds.low,
            before=before[0],
            limit=limit,
        )
    else:
        rows = transaction.rows(
            sql.LIST_RANGE,
            scope_id=keys.scope_id,
            low=bounds.low,
            high=bounds.high,
            before=before[0],
            before_parent=before[1],
            limit=limit,
        )
    slots = [(Slot(Kind.CHECKPOINT, parent, key), sealed) for parent, key, sealed in rows]
    return [
        (slot, open_at(keys, slot, threads[slot.thread_digest].state.birth, sealed))
        for slot, sealed in slots
    ]


def writes_behind(
    transaction: Transaction, keys: ScopeKeys, slots: Sequence[Slot], threads: ThreadRows
) -> dict[tuple[bytes, bytes], list[bytes]]:
    """The writes behind checkpoints, in plaintext, by the checkpoint's parent and id."""
    found: dict[tuple[bytes, bytes], list[bytes]] = {(slot.parent, slot.key): [] for slot in slots}
    if not slots:
        return found
    rows = transaction.rows(
        sql.WRITES,
        scope_id=keys.scope_id,
        low=min(slot.parent for slot in slots),
        high=max(slot.parent for slot in slots) + b"\x00",
        first=min(slot.key for slot in slots),
        end=_behind(max(slot.key for slot in slots)),
    )
    for parent, key, sealed in rows:
        behind = found.get((parent, key[:16]))
        if behind is not None:
            slot = Slot(Kind.WRITE, parent, key)
            birth = threads[slot.thread_digest].state.birth
            behind.append(open_at(keys, slot, birth, sealed))
    return found


def bodies(transaction: Transaction, keys: ScopeKeys, life: Life) -> list[OpenBody]:
    """Every checkpoint and write of a thread, in plaintext, by parent and key."""
    low, high = Bounds.thread(life.digest)
    rows = transaction.rows(sql.BODIES, scope_id=keys.scope_id, low=low, high=high)
    opened = []
    for kind, parent, key, sealed, *others in rows:
        slot = Slot(Kind(kind), parent, key)
        opened.append(OpenBody(slot, open_at(keys, slot, life.birth, sealed), len(sealed), *others))
    return sorted(opened, key=lambda body: body.slot)


# Of a record: what the column takes on every database.
_MOST_BYTES = 2**31 - 1


class StoredElement(NamedTuple):
    """An element as its row names it, unopened."""

    number: int
    key: bytes
    size: int
    mac: bytes
    stored_at: int


def stored_elements(
    transaction: Transaction, keys: ScopeKeys, digest: bytes
) -> list[StoredElement]:
    """Every element of a thread, unopened."""
    rows = transaction.rows(sql.ELEMENT_KEYS, scope_id=keys.scope_id, digest=digest)
    for key, size, mac, _ in rows:
        checked_bytes(Kind.ELEMENT, key)
        checked_bytes(Kind.ELEMENT, mac)
        if type(size) is not int or not 0 <= size <= _MOST_BYTES:
            raise RecordDoesNotOpen(Kind.ELEMENT.label, "its size is none that a record has")
    return [StoredElement(int.from_bytes(row[0]), *row) for row in rows]


def body_part(
    keys: ScopeKeys, slot: Slot, stored_at: object, tag: bytes | None, plaintext: bytes
) -> int:
    """What a checkpoint or a task's writes add to the thread's ``members``."""
    return member_part(keys, slot.kind, (slot.parent, slot.key), stored_at, tag, plaintext)


def element_part(keys: ScopeKeys, digest: bytes, key: bytes, stored_at: object, mac: bytes) -> int:
    """What an element, by the MAC of its plaintext, adds to the thread's ``members``."""
    return member_part(keys, Kind.ELEMENT, (digest, key), stored_at, mac)


def part_of_body(keys: ScopeKeys, body: OpenBody) -> int:
    """What a body that is there adds to the thread's ``members``."""
    return body_part(keys, body.slot, body.stored_at, body.tag, body.plaintext)


def count(stored: Iterable[OpenBody]) -> int:
    """How many of them are checkpoints."""
    return sum(body.slot.kind is Kind.CHECKPOINT for body in stored)


def verified(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
) -> list[OpenBody]:
    """Every body of a thread, in plaintext, when all that its row stands for is there, unchanged.

    Raises:
        RecordDoesNotOpen: Something was changed, moved, exchanged, restored or removed.
    """
    found = ROWS.header(transaction, keys, digest)
    if found is None:
        expect_nothing_below(transaction, keys, digest)
        return []
    stored, _ = whole(transaction, keys, digest, found[0])
    return stored


def whole(
    transaction: Transaction, keys: ScopeKeys, digest: bytes, state: ContainerState
) -> tuple[list[OpenBody], list[tuple[StoredElement, bytes]]]:
    """Every body and every element of a thread in ``state``, in plaintext.

    Raises:
        RecordDoesNotOpen: Something was changed, moved, exchanged, restored or removed.
    """
    life = Life(digest, state.birth)
    stored = bodies(transaction, keys, life)
    named = {one.number: one for one in stored_elements(transaction, keys, digest)}
    opened = [
        (named[number], plaintext)
        for number, plaintext in elements(transaction, keys, life, named).items()
    ]
    parts = [part_of_body(keys, body) for body in stored]
    for element, plaintext in opened:
        mac = mac_of(keys, digest, plaintext)
        if mac != element.mac:
            raise RecordDoesNotOpen(Kind.ELEMENT.label, "its alias is another's")
        parts.append(element_part(keys, digest, element.key, element.stored_at, mac))
    if state.count != count(stored) or not is_member_sum(keys, state, sum(parts)):
        raise RecordDoesNotOpen(Kind.THREAD.label, "it has not the records that it stands for")
    return stored, opened


def expect_nothing_below(transaction: Transaction, keys: ScopeKeys, digest: bytes) -> None:
    """Refuse what is left of a thread whose row is missing."""
    low, high = Bounds.thread(digest)
    if transaction.rows(sql.BODIES, scope_id=keys.scope_id, low=low, high=high) or (
        stored_elements(transaction, keys, digest)
    ):
        raise RecordDoesNotOpen(Kind.THREAD.label, "its row is missing")


def of_run(transaction: Transaction, keys: ScopeKeys, tag: bytes) -> list[Slot]:
    """The checkpoints that a run stored, in every thread of the scope."""
    rows = transaction.rows(sql.OF_RUN, scope_id=keys.scope_id, tag=tag)
    return [
        Slot(Kind.CHECKPOINT, checked_bytes(Kind.CHECKPOINT, parent), key) for parent, key in rows
    ]
