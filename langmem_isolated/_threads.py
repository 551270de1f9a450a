"""Keeps LangGraph threads: their elements, checkpoints and writes, and one row for each thread.

A checkpoint stands at parent ``thread digest + namespace digest`` and its own id, the writes of a
task behind it at ``checkpoint id + task digest``; elements stand at the thread digest and a number.
Each transaction that stores references locks the thread's row and compares its generation, which a
sweep changes, so no reference is stored to an element that was swept away. The row's ``head``
authenticates its counters, so no number is given out twice. Numbers begin at a random one: a
thread that was deleted and begun again has no element where its former life had one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select, update

from langmem_isolated import _schema
from langmem_isolated._database import Row, Transaction
from langmem_isolated._dialects import Conflict
from langmem_isolated._records import ScopeGone
from langmem_isolated._schema import Kind
from langmem_isolated._sealing import DIGEST_BYTES, equal
from langmem_isolated._states import creation
from langmem_isolated.errors import RecordDoesNotOpen
from langmem_isolated.keyring import ScopeKeys

_r, _s = _schema.records.c, _schema.sessions.c
_SCOPE_ID = bindparam("scope_id", type_=sa.LargeBinary)
_THREAD = bindparam("thread", type_=sa.LargeBinary)
_PARENT = bindparam("parent", type_=sa.LargeBinary)
_KEY = bindparam("key", type_=sa.LargeBinary)


def _is(kind: Kind) -> sa.ColumnElement[bool]:
    return sa.and_(_r.scope_id == _SCOPE_ID, _r.kind == sa.literal_column(str(int(kind))))


_THIS_THREAD = sa.and_(
    _s.scope_id == _SCOPE_ID,
    _s.kind == sa.literal_column(str(int(Kind.THREAD))),
    _s.digest == _THREAD,
)
_STATE = (_s.head, _s.next_sequence, _s.count, _s.expires_at, _s.generation)
_LOCK = select(*_STATE).where(_THIS_THREAD).with_for_update()
_HEADER = select(*_STATE, _s.sealed).where(_THIS_THREAD)
_CREATE = creation(Kind.THREAD)
_ADVANCE = (
    update(_schema.sessions)
    .where(_THIS_THREAD)
    .values(
        head=bindparam("new_head"),
        next_sequence=bindparam("new_next"),
        count=bindparam("new_count"),
        size=_s.size + bindparam("added_size"),
        updated_at=bindparam("now"),
        expires_at=bindparam("new_expires_at"),
    )
)
_SWEPT = (
    update(_schema.sessions)
    .where(_THIS_THREAD)
    .values(
        head=bindparam("new_head"),
        generation=bindparam("new_generation"),
        count=bindparam("new_count"),
        size=bindparam("new_size"),
    )
)
_INSERT = (
    sa.insert(_schema.records)
    .values(
        scope_id=_SCOPE_ID,
        created_at=bindparam("now"),
        updated_at=bindparam("now"),
        **{
            name: bindparam(f"new_{name}")
            for name in ("kind", "parent", "key", "alias", "tag", "sealed", "size")
        },
    )
    .inline()
)
# Moves the row on only from the state that the caller knows, so it needs no lock taken before.
_MOVE = (
    _ADVANCE.where(
        _s.head == bindparam("old_head"),
        _s.next_sequence == bindparam("old_next"),
        _s.count == bindparam("old_count"),
        _s.generation == bindparam("old_generation"),
        _s.expires_at.is_not_distinct_from(bindparam("old_expiry", type_=sa.BigInteger)),
    )
    .values(updated_at=bindparam("now"))
    .returning(_s.scope_id)
)
_COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "kind": sa.SmallInteger(),
    "parent": sa.LargeBinary(),
    "key": sa.LargeBinary(),
    "alias": sa.LargeBinary(),
    "tag": sa.LargeBinary(),
    "sealed": sa.LargeBinary(),
    "size": sa.Integer(),
}


@cache
def _move_and_insert(rows: int) -> sa.Insert:
    """One statement for the thread's row, a body and its elements, for PostgreSQL.

    Instead of two round trips and the five statements of a transaction. Not `unnest`: to make its
    seven arrays took psycopg 80 µs.
    """
    moved = _MOVE.cte("moved")
    now = sa.cast(bindparam("now"), sa.BigInteger)
    selects = [
        select(
            moved.c.scope_id,
            now,
            now,
            *(
                sa.cast(bindparam(f"{name}_{number}", type_=type_), type_)
                for name, type_ in _COLUMNS.items()
            ),
        )
        for number in range(rows)
    ]
    columns = ["scope_id", "created_at", "updated_at", *_COLUMNS]
    source = selects[0] if rows == 1 else sa.union_all(*selects)
    return sa.insert(_schema.records).from_select(columns, source).returning(_r.key)


_BY_ALIAS = select(_r.key, _r.sealed).where(
    _is(Kind.ELEMENT), _r.parent == _THREAD, _r.alias == bindparam("alias")
)
_ELEMENTS = select(_r.key, _r.sealed).where(
    _is(Kind.ELEMENT),
    _r.parent == _THREAD,
    _r.key >= bindparam("first"),
    _r.key <= bindparam("last"),
)
_ELEMENT_KEYS = select(_r.key, _r.size).where(_is(Kind.ELEMENT), _r.parent == _THREAD)
_LATEST_KEY = (
    select(_r.key)
    .where(_is(Kind.CHECKPOINT), _r.parent == _PARENT)
    .order_by(_r.key.desc())
    .limit(sa.literal_column("1"))
    .offset(sa.literal_column("0"))
    .scalar_subquery()
)


def _get(key: sa.ColumnElement[bytes]) -> sa.CompoundSelect[tuple[object, ...]]:
    """The thread's row, a checkpoint and what stands behind it, in one statement and state."""
    no_numbers = [sa.cast(sa.null(), sa.BigInteger)] * 3
    return sa.union_all(
        select(
            sa.literal_column(str(int(Kind.THREAD))),
            *(_s.generation, _s.head, _s.next_sequence, _s.count, _s.expires_at),
        ).where(_THIS_THREAD),
        select(sa.literal_column(str(int(Kind.CHECKPOINT))), _r.key, _r.sealed, *no_numbers).where(
            _is(Kind.CHECKPOINT), _r.parent == _PARENT, _r.key == key
        ),
        select(sa.literal_column(str(int(Kind.WRITE))), _r.key, _r.sealed, *no_numbers).where(
            _is(Kind.WRITE), _r.parent == _PARENT, _r.key > key, _r.key < bindparam("end")
        ),
    )


_GET_LATEST = _get(_LATEST_KEY)
_GET_ONE = _get(_KEY)
_ROW = (_r.parent, _r.key, _r.sealed)
_LIMIT = bindparam("limit", type_=sa.Integer)
_LIST_NAMESPACE = (
    select(*_ROW)
    .where(_is(Kind.CHECKPOINT), _r.parent == _PARENT, _r.key < bindparam("before"))
    .order_by(_r.key.desc())
    .limit(_LIMIT)
    .offset(sa.literal_column("0"))
)
_IN_RANGE = sa.and_(_r.parent >= bindparam("low"), _r.parent < bindparam("high"))
_LIST_RANGE = (
    select(*_ROW)
    .where(
        _is(Kind.CHECKPOINT),
        _IN_RANGE,
        sa.tuple_(_r.key, _r.parent) < sa.tuple_(bindparam("before"), bindparam("before_parent")),
    )
    .order_by(_r.key.desc(), _r.parent.desc())
    .limit(_LIMIT)
    .offset(sa.literal_column("0"))
)
_WRITES = select(*_ROW).where(
    _is(Kind.WRITE), _IN_RANGE, _r.key >= bindparam("first"), _r.key < bindparam("end")
)
_BODIES = select(_r.kind, _r.parent, _r.key, _r.sealed, _r.tag).where(
    _r.scope_id == _SCOPE_ID,
    _r.kind.in_([sa.literal_column(str(int(kind))) for kind in (Kind.CHECKPOINT, Kind.WRITE)]),
    _IN_RANGE,
)
_ROW_AT = select(_r.sealed).where(
    _r.scope_id == _SCOPE_ID, _r.kind == bindparam("kind"), _r.parent == _PARENT, _r.key == _KEY
)
_DELETE_ONE = delete(_schema.records).where(
    _r.scope_id == _SCOPE_ID, _r.kind == bindparam("kind"), _r.parent == _PARENT, _r.key == _KEY
)
_TAKE_OUT = _DELETE_ONE.returning(_r.size)
_DELETE_BODIES = delete(_schema.records).where(
    _r.scope_id == _SCOPE_ID,
    _r.kind.in_([sa.literal_column(str(int(kind))) for kind in (Kind.CHECKPOINT, Kind.WRITE)]),
    _IN_RANGE,
)
_DELETE_ELEMENTS = delete(_schema.records).where(_is(Kind.ELEMENT), _r.parent == _THREAD)
_DELETE_THREAD = delete(_schema.sessions).where(_THIS_THREAD)
_OF_RUN = select(_r.parent, _r.key).where(_is(Kind.CHECKPOINT), _r.tag == bindparam("tag"))
_LIST_THREADS = (
    select(*_STATE, _s.digest, _s.sealed, _s.size, _s.created_at, _s.updated_at)
    .where(
        _s.scope_id == _SCOPE_ID,
        _s.kind == sa.literal_column(str(int(Kind.THREAD))),
        sa.or_(_s.expires_at.is_(None), _s.expires_at > bindparam("now")),
    )
    .order_by(_s.updated_at.desc(), _s.digest)
)

LAST_ID = b"\xff" * 16
END = b"\xff" * (2 * DIGEST_BYTES + 1)
FETCH_GAP = 32
ANYTHING = b""
# Between looking for a thread's row and making it, others may make and remove it.
_ATTEMPTS = 5


_NewRow = dict[str, Any]


class Slot(NamedTuple):
    """Where a checkpoint or a task's writes stand."""

    kind: Kind
    parent: bytes
    key: bytes

    @property
    def thread(self) -> bytes:
        """The digest of the thread it belongs to."""
        return self.parent[:DIGEST_BYTES]


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


@dataclass(frozen=True, slots=True)
class State:
    """What a thread's row says of it, once its head has been found to fit."""

    next_number: int
    count: int
    expires_at: int | None
    generation: bytes

    @classmethod
    def checked(cls, keys: ScopeKeys, thread: bytes, row: Row) -> "State":
        head, *counters = row[:5]
        try:
            state = cls(*counters)
            fits = equal(head, state.head(keys, thread))
        except (AttributeError, OverflowError, TypeError):
            # SQLite keeps any type in any column, and whoever tampers with rows knows it.
            fits = False
        if not fits:
            raise RecordDoesNotOpen(Kind.THREAD.label, "its head does not fit its counters")
        return state

    def head(self, keys: ScopeKeys, thread: bytes) -> bytes:
        return keys.head(
            thread,
            self.next_number.to_bytes(8),
            self.count.to_bytes(8),
            None if self.expires_at is None else self.expires_at.to_bytes(8),
            self.generation,
        )

    def is_expired(self, now: int) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    @property
    def first_free(self) -> int:
        """The number that the next element gets."""
        return self.next_number or int.from_bytes(self.generation[:6]) + 1


class Stored(NamedTuple):
    """What a body was stored with, and the state that it left the thread in."""

    state: State
    numbers: dict[bytes, int]


class Found(NamedTuple):
    """A checkpoint and the writes behind it, in plaintext."""

    state: State
    slot: Slot
    checkpoint: bytes
    writes: list[bytes]


@dataclass(frozen=True, slots=True)
class ListedThread:
    """A thread's row as stored; ``header`` is ``None`` when it does not open."""

    thread: bytes
    header: bytes | None
    count: int
    size: int
    created_at: int
    updated_at: int


def put(
    transaction: Transaction,
    keys: ScopeKeys,
    thread: bytes,
    header: bytes,
    body: NewBody,
    generations: tuple[bytes, bytes],
    now: int,
    expires_at: int | None,
) -> Stored | None:
    """Store a body and its new elements.

    Nothing is stored if the thread was swept meanwhile, or the body to replace is another by now.

    Args:
        header: The sealed part of a new thread's row, in plaintext.
        generations: The one in which the body's references were found, empty when it has none that
            could be stale; and a random one for a new thread's row.

    Returns:
        What it was stored with, or ``None``.

    Raises:
        ScopeGone: The scope was erased meanwhile.
        Conflict: A body stands there already, and none was to be replaced; nothing was written.
    """
    known, fresh = generations
    state = _begun(transaction, keys, thread, header, fresh, now)
    if known not in (b"", state.generation):
        return None
    slot = body.slot
    if body.replaces and body_at(transaction, keys, slot) != body.replaces:
        return None
    numbers = _stored_numbers(transaction, keys, thread, body.elements)
    replaced = None if body.replaces is None else _take_out(transaction, keys, slot)
    rows, new = _laid_out(keys, thread, body, state, numbers)
    if replaced is not None:
        new = replace(new, count=state.count)
    new = replace(new, expires_at=expires_at)
    _insert(transaction, keys, rows, now)
    _advance(transaction, keys, thread, new, _size(rows) - (replaced or 0), now)
    return Stored(new, numbers)


def put_onto(
    transaction: Transaction,
    keys: ScopeKeys,
    thread: bytes,
    body: NewBody,
    state: State,
    numbers: dict[bytes, int],
    now: int,
    expires_at: int | None,
) -> Stored | None:
    """Store a body for an empty slot in a thread that is in ``state``; ``None`` if it is not.

    A single statement of PostgreSQL.

    Args:
        numbers: Of those of its elements that the thread is known to have.

    Raises:
        Conflict: A body or an element stands there already; nothing was written.
    """
    if state.is_expired(now):
        return None
    rows, new = _laid_out(keys, thread, body, state, numbers)
    new = replace(new, expires_at=expires_at)
    values = {
        "scope_id": keys.scope_id,
        "thread": thread,
        "now": now,
        "old_head": state.head(keys, thread),
        "old_next": state.next_number,
        "old_count": state.count,
        "old_generation": state.generation,
        "old_expiry": state.expires_at,
        **_moved_to(keys, thread, new, _size(rows)),
    }
    for number, row in enumerate(rows):
        values.update({f"{name}_{number}": row[f"new_{name}"] for name in _COLUMNS})
    moved = transaction.row(_move_and_insert(len(rows)), **values)
    return None if moved is None else Stored(new, numbers)


def _laid_out(
    keys: ScopeKeys, thread: bytes, body: NewBody, state: State, numbers: dict[bytes, int]
) -> tuple[list[_NewRow], State]:
    """A body's rows and those of its new elements, and the state they lead to.

    Elements that are not in ``numbers`` are new, and added to it.
    """
    next_number = state.first_free
    rows: list[_NewRow] = []
    for mac, plaintext in body.elements:
        if mac not in numbers:
            numbers[mac] = next_number
            rows.append(_element_row(keys, thread, next_number, mac, plaintext))
            next_number += 1
    slot = body.slot
    sealed = keys.seal(keys.place(slot.kind, slot.parent), slot.key, body.plaintext(numbers))
    rows.append(_as_row(slot, None, body.tag, sealed))
    count = state.count + (slot.kind is Kind.CHECKPOINT)
    return rows, replace(state, next_number=next_number, count=count)


def _current(transaction: Transaction, keys: ScopeKeys, thread: bytes, now: int) -> State | None:
    """The state of the thread's row, locked; an expired thread is removed first."""
    row = transaction.row(_LOCK, scope_id=keys.scope_id, thread=thread)
    if row is None:
        return None
    state = State.checked(keys, thread, row)
    if state.is_expired(now):
        delete_thread(transaction, keys, thread)
        return None
    return state


def _begun(
    transaction: Transaction,
    keys: ScopeKeys,
    thread: bytes,
    header: bytes,
    generation: bytes,
    now: int,
) -> State:
    """The state of the thread's row, locked, and inserted before if it is absent."""
    new = State(0, 0, None, generation)
    for _ in range(_ATTEMPTS):
        if state := _current(transaction, keys, thread, now):
            return state
        transaction.execute(
            _CREATE[transaction.is_postgres],
            scope_id=keys.scope_id,
            digest=thread,
            incarnation=keys.incarnation,
            generation=generation,
            head=new.head(keys, thread),
            sealed=keys.seal(keys.place(Kind.THREAD, b""), thread, header),
            now=now,
        )
    raise ScopeGone


def _insert(transaction: Transaction, keys: ScopeKeys, rows: list[_NewRow], now: int) -> None:
    shared = {"scope_id": keys.scope_id, "now": now}
    transaction.execute_many(_INSERT, [{**shared, **row} for row in rows])


def _size(rows: list[_NewRow]) -> int:
    return sum(row["new_size"] for row in rows)


def _advance(
    transaction: Transaction, keys: ScopeKeys, thread: bytes, state: State, added: int, now: int
) -> None:
    moved_to = _moved_to(keys, thread, state, added)
    transaction.execute(_ADVANCE, scope_id=keys.scope_id, thread=thread, now=now, **moved_to)


def _moved_to(keys: ScopeKeys, thread: bytes, state: State, added: int) -> dict[str, object]:
    return {
        "new_head": state.head(keys, thread),
        "new_next": state.next_number,
        "new_count": state.count,
        "added_size": added,
        "new_expires_at": state.expires_at,
    }


def _stored_numbers(
    transaction: Transaction, keys: ScopeKeys, thread: bytes, elements: Sequence[NewElement]
) -> dict[bytes, int]:
    """The numbers of those elements that the thread has already."""
    asked = [
        (mac, transaction.ask(_BY_ALIAS, scope_id=keys.scope_id, thread=thread, alias=mac))
        for mac, _ in elements
    ]
    plaintexts = dict(elements)
    numbers = {}
    for mac, answer in asked:
        if row := answer.fetchone():
            key, sealed = row
            # Nothing but the element itself proves that it is where its alias says.
            if _open(keys, Slot(Kind.ELEMENT, thread, key), sealed) != plaintexts[mac]:
                raise RecordDoesNotOpen(Kind.ELEMENT.label, "its alias is another's")
            numbers[mac] = int.from_bytes(key)
    return numbers


def _element_row(
    keys: ScopeKeys, thread: bytes, number: int, mac: bytes, plaintext: bytes
) -> _NewRow:
    key = number.to_bytes(8)
    sealed = keys.seal(keys.place(Kind.ELEMENT, thread), key, plaintext)
    return _as_row(Slot(Kind.ELEMENT, thread, key), mac, None, sealed)


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


def _open(keys: ScopeKeys, slot: Slot, sealed: bytes) -> bytes:
    parent, key = _in_bytes(slot.kind, slot.parent), _in_bytes(slot.kind, slot.key)
    return keys.open(keys.place(slot.kind, parent), key, sealed, slot.kind)


def _in_bytes(kind: Kind, part: bytes) -> bytes:
    # SQLite keeps any type in any column, and whoever tampers with rows knows it.
    if type(part) is not bytes:
        raise RecordDoesNotOpen(kind.label, "its address is not bytes")
    return part


def body_at(transaction: Transaction, keys: ScopeKeys, slot: Slot) -> bytes | None:
    """One body in plaintext, or ``None``."""
    row = transaction.row(
        _ROW_AT, scope_id=keys.scope_id, kind=int(slot.kind), parent=slot.parent, key=slot.key
    )
    return None if row is None else _open(keys, slot, row[0])


def get(
    transaction: Transaction,
    keys: ScopeKeys,
    thread: bytes,
    parent: bytes,
    checkpoint_id: bytes | None,
    now: int,
) -> Found | None:
    """A checkpoint of one namespace, the latest when ``checkpoint_id`` is ``None``."""
    values = {"scope_id": keys.scope_id, "thread": thread, "parent": parent}
    if checkpoint_id is None:
        rows = transaction.rows(_GET_LATEST, **values, end=END)
    else:
        rows = transaction.rows(_GET_ONE, **values, key=checkpoint_id, end=_behind(checkpoint_id))
    found = [row for row in rows if row[0] == Kind.CHECKPOINT]
    if not found:
        return None
    states = [(head, *numbers, gen) for kind, gen, head, *numbers in rows if kind == Kind.THREAD]
    if not states:
        raise RecordDoesNotOpen(Kind.THREAD.label, "its row is missing")
    state = State.checked(keys, thread, states[0])
    if state.is_expired(now):
        return None
    key = found[0][1]
    slot = Slot(Kind.CHECKPOINT, parent, key)
    checkpoint = _open(keys, slot, found[0][2])
    writes = [
        _open(keys, Slot(Kind.WRITE, parent, row[1]), row[2])
        for row in rows
        if row[0] == Kind.WRITE and row[1].startswith(key)
    ]
    return Found(state, slot, checkpoint, writes)


def _behind(checkpoint_id: bytes) -> bytes:
    return checkpoint_id + b"\xff" * (DIGEST_BYTES + 1)


def elements(
    transaction: Transaction, keys: ScopeKeys, thread: bytes, numbers: Iterable[int]
) -> dict[int, bytes]:
    """Elements in plaintext by their numbers; those that are not there are left out."""
    wanted = set(numbers)
    opened = keys.opener(keys.place(Kind.ELEMENT, thread), Kind.ELEMENT)
    found: dict[int, bytes] = {}
    for first, last in _stretches(sorted(wanted)):
        rows = transaction.rows(
            _ELEMENTS,
            scope_id=keys.scope_id,
            thread=thread,
            first=first.to_bytes(8),
            last=last.to_bytes(8),
        )
        for key, body in rows:
            if (number := int.from_bytes(key)) in wanted:
                found[number] = opened(key, body)
    return found


def _stretches(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges that cover ``numbers``; small gaps are read over rather than asked around."""
    stretches: list[tuple[int, int]] = []
    for number in numbers:
        if stretches and number - stretches[-1][1] <= FETCH_GAP:
            stretches[-1] = (stretches[-1][0], number)
        else:
            stretches.append((number, number))
    return stretches


class Bounds(NamedTuple):
    """Which parents a list covers: one namespace, or all of a thread or of the scope."""

    low: bytes
    high: bytes

    @classmethod
    def namespace(cls, parent: bytes) -> "Bounds":
        return cls(parent, parent)

    @classmethod
    def thread(cls, thread: bytes) -> "Bounds":
        return cls(thread, thread + END[: DIGEST_BYTES + 1])

    @classmethod
    def scope(cls) -> "Bounds":
        return cls(b"", END)


def checkpoints(
    transaction: Transaction,
    keys: ScopeKeys,
    bounds: Bounds,
    before: tuple[bytes, bytes],
    limit: int,
) -> list[tuple[Slot, bytes]]:
    """Checkpoints in plaintext, newest first, from ``before`` (id and parent) on, it left out."""
    if bounds.low == bounds.high:
        rows = transaction.rows(
            _LIST_NAMESPACE,
            scope_id=keys.scope_id,
            parent=bounds.low,
            before=before[0],
            limit=limit,
        )
    else:
        rows = transaction.rows(
            _LIST_RANGE,
            scope_id=keys.scope_id,
            low=bounds.low,
            high=bounds.high,
            before=before[0],
            before_parent=before[1],
            limit=limit,
        )
    slots = [(Slot(Kind.CHECKPOINT, parent, key), sealed) for parent, key, sealed in rows]
    return [(slot, _open(keys, slot, sealed)) for slot, sealed in slots]


def writes_behind(
    transaction: Transaction, keys: ScopeKeys, slots: Sequence[Slot]
) -> dict[tuple[bytes, bytes], list[bytes]]:
    """The writes behind checkpoints, in plaintext, by the checkpoint's parent and id."""
    found: dict[tuple[bytes, bytes], list[bytes]] = {(slot.parent, slot.key): [] for slot in slots}
    if not slots:
        return found
    rows = transaction.rows(
        _WRITES,
        scope_id=keys.scope_id,
        low=min(slot.parent for slot in slots),
        high=max(slot.parent for slot in slots) + b"\x00",
        first=min(slot.key for slot in slots),
        end=_behind(max(slot.key for slot in slots)),
    )
    for parent, key, sealed in rows:
        behind = found.get((parent, key[:16]))
        if behind is not None:
            behind.append(_open(keys, Slot(Kind.WRITE, parent, key), sealed))
    return found


def delete_thread(transaction: Transaction, keys: ScopeKeys, thread: bytes) -> None:
    """Remove a thread with all it has."""
    transaction.row(_LOCK, scope_id=keys.scope_id, thread=thread)
    low, high = Bounds.thread(thread)
    transaction.execute(_DELETE_BODIES, scope_id=keys.scope_id, low=low, high=high)
    transaction.execute(_DELETE_ELEMENTS, scope_id=keys.scope_id, thread=thread)
    transaction.execute(_DELETE_THREAD, scope_id=keys.scope_id, thread=thread)


def _take_out(transaction: Transaction, keys: ScopeKeys, slot: Slot) -> int | None:
    """Delete one body; its size, or ``None`` if there was none."""
    row = transaction.row(
        _TAKE_OUT, scope_id=keys.scope_id, kind=int(slot.kind), parent=slot.parent, key=slot.key
    )
    return None if row is None else row[0]


def _delete_one(transaction: Transaction, keys: ScopeKeys, slot: Slot) -> None:
    transaction.execute(
        _DELETE_ONE, scope_id=keys.scope_id, kind=int(slot.kind), parent=slot.parent, key=slot.key
    )


class OpenBody(NamedTuple):
    """A stored body in plaintext."""

    slot: Slot
    plaintext: bytes
    size: int
    tag: bytes | None


def bodies(transaction: Transaction, keys: ScopeKeys, thread: bytes) -> list[OpenBody]:
    """Every checkpoint and write of a thread, in plaintext, by parent and key."""
    low, high = Bounds.thread(thread)
    rows = transaction.rows(_BODIES, scope_id=keys.scope_id, low=low, high=high)
    opened = []
    for kind, parent, key, sealed, tag in rows:
        slot = Slot(Kind(kind), parent, key)
        opened.append(OpenBody(slot, _open(keys, slot, sealed), len(sealed), tag))
    return sorted(opened, key=lambda body: body.slot)


def sweep(
    transaction: Transaction,
    keys: ScopeKeys,
    thread: bytes,
    generation: bytes,
    choose: Callable[[list[OpenBody]], set[Slot]],
    references: Callable[[bytes], Iterable[int]],
) -> None:
    """Remove the bodies that ``choose`` names, and every element that no other body refers to.

    The thread's row is locked and gets the new ``generation``: whoever is about to store a
    reference to an element that goes here finds out and encodes anew. Nothing happens to an
    unknown thread.
    """
    row = transaction.row(_LOCK, scope_id=keys.scope_id, thread=thread)
    if row is None:
        return
    state = State.checked(keys, thread, row)
    stored = bodies(transaction, keys, thread)
    gone = choose(stored)
    if not gone:
        return
    kept = [body for body in stored if body.slot not in gone]
    if not kept:
        delete_thread(transaction, keys, thread)
        return
    for slot in gone:
        _delete_one(transaction, keys, slot)
    used = {number for body in kept for number in references(body.plaintext)}
    size = sum(body.size for body in kept)
    for number, key, element_size in _stored_elements(transaction, keys, thread):
        if number in used:
            size += element_size
        else:
            _delete_one(transaction, keys, Slot(Kind.ELEMENT, thread, key))
    swept = replace(state, generation=generation, count=_count(kept))
    transaction.execute(
        _SWEPT,
        scope_id=keys.scope_id,
        thread=thread,
        new_head=swept.head(keys, thread),
        new_generation=generation,
        new_count=swept.count,
        new_size=size,
    )


def _stored_elements(
    transaction: Transaction, keys: ScopeKeys, thread: bytes
) -> list[tuple[int, bytes, int]]:
    """The number, key and size of each element of a thread."""
    rows = transaction.rows(_ELEMENT_KEYS, scope_id=keys.scope_id, thread=thread)
    return [(int.from_bytes(_in_bytes(Kind.ELEMENT, key)), key, size) for key, size in rows]


def _count(stored: Iterable[OpenBody]) -> int:
    return sum(body.slot.kind is Kind.CHECKPOINT for body in stored)


def verified(transaction: Transaction, keys: ScopeKeys, thread: bytes) -> list[OpenBody]:
    """Every body of a thread, in plaintext, when none is missing that its row counts.

    Raises:
        RecordDoesNotOpen: Something was changed or moved, or a checkpoint is missing.
    """
    stored = bodies(transaction, keys, thread)
    row = transaction.row(_HEADER, scope_id=keys.scope_id, thread=thread)
    if row is None:
        if stored:
            raise RecordDoesNotOpen(Kind.THREAD.label, "its row is missing")
        return []
    keys.open(keys.place(Kind.THREAD, b""), thread, row[5], Kind.THREAD)
    if State.checked(keys, thread, row).count != _count(stored):
        raise RecordDoesNotOpen(Kind.THREAD.label, "it has not the checkpoints that it counts")
    return stored


def copy(
    transaction: Transaction,
    keys: ScopeKeys,
    source_and_target: tuple[bytes, bytes],
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
    source, target = source_and_target
    state = _current(transaction, keys, source, now)
    if state is None:
        return False
    if _begun(transaction, keys, target, header, generation, now).generation != generation:
        raise Conflict(foreign_key=False)
    numbers = [number for number, _, _ in _stored_elements(transaction, keys, source)]
    rows = [
        _element_row(keys, target, number, rename(plaintext), plaintext)
        for number, plaintext in elements(transaction, keys, source, numbers).items()
    ]
    stored = bodies(transaction, keys, source)
    for body in stored:
        slot = body.slot._replace(parent=target + body.slot.parent[DIGEST_BYTES:])
        sealed = keys.seal(keys.place(slot.kind, slot.parent), slot.key, body.plaintext)
        rows.append(_as_row(slot, None, body.tag, sealed))
    _insert(transaction, keys, rows, now)
    copied = replace(state, generation=generation)
    _advance(transaction, keys, target, copied, _size(rows), now)
    return True


def of_run(transaction: Transaction, keys: ScopeKeys, tag: bytes) -> list[Slot]:
    """The checkpoints that a run stored, in every thread of the scope."""
    rows = transaction.rows(_OF_RUN, scope_id=keys.scope_id, tag=tag)
    return [
        Slot(Kind.CHECKPOINT, _in_bytes(Kind.CHECKPOINT, parent), key) for parent, key in rows
    ]


def header_of(transaction: Transaction, keys: ScopeKeys, thread: bytes, now: int) -> bytes | None:
    """A thread's header in plaintext; ``None`` when it is expired.

    Raises:
        RecordDoesNotOpen: Its row was changed or moved, or is missing.
    """
    row = transaction.row(_HEADER, scope_id=keys.scope_id, thread=thread)
    if row is None:
        raise RecordDoesNotOpen(Kind.THREAD.label, "its row is missing")
    if State.checked(keys, thread, row).is_expired(now):
        return None
    return keys.open(keys.place(Kind.THREAD, b""), thread, row[5], Kind.THREAD)


def threads(transaction: Transaction, keys: ScopeKeys, now: int) -> list[ListedThread]:
    """The scope's threads by last activity, newest first."""
    listed = []
    for row in transaction.rows(_LIST_THREADS, scope_id=keys.scope_id, now=now):
        thread, sealed, *times = row[5:]
        try:
            State.checked(keys, thread, row)
            header = keys.open(keys.place(Kind.THREAD, b""), thread, sealed, Kind.THREAD)
        except RecordDoesNotOpen:
            header = None
        listed.append(ListedThread(thread, header, row[2], *times))
    return listed
