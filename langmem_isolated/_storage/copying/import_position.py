"""Import position: how far an import has come, kept in the transaction of each step.

It is an entry of kind *claim* with the owner that the import began with, under the SHA-256 of the
archive's manifest: killed at any point an import goes on behind the last step, and nothing is put
in twice.
"""

import struct
from typing import NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import SECOND
from langmem_isolated._storage import entries
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.scope_rows import lock_for_update
from langmem_isolated._storage.working_locked import works_locked

# Of an import that nobody went on with.
_KEPT = 30 * 24 * 3600 * SECOND
_SPACE = (b"imports",)
_POSITION = struct.Struct(">BQQ")
_FORM = 1


class Position(NamedTuple):
    """How far an import has come: the step, and how many lines of it are done."""

    step: int
    lines: int


BEGINNING = Position(0, 0)


class Marker(NamedTuple):
    """Where an import keeps its position: with which keys, under the SHA-256 of its manifest."""

    keys: ScopeKeys
    manifest: bytes


class Overtaken(Exception):
    """Another process went on with the same import; nothing was put in."""


@works_locked
def find(transaction: Transaction, keys: ScopeKeys, manifest: bytes, now: int) -> Position | None:
    """How far an import has come; ``None`` for one that has not begun, or is done.

    Raises:
        RecordDoesNotOpen: It was changed, moved or exchanged.
    """
    (found,) = entries.get(transaction, keys, _SPACE, [manifest], now, kind=Kind.CLAIM)
    return None if found is None else Position(*_POSITION.unpack(found)[1:])


def move(
    transaction: Transaction, marker: Marker, old: Position | None, new: Position, now: int
) -> None:
    """Go on from one position to another, in the transaction of what was put in between them.

    Raises:
        Overtaken: Another process has.
        ScopeGone: The user was erased.
    """
    lock_for_update(transaction, marker.keys.scope_id)
    if find(transaction, marker.keys, marker.manifest, now) != old:
        raise Overtaken
    entry = Entry(marker.manifest, _POSITION.pack(_FORM, *new))
    entries.put(transaction, marker.keys, _SPACE, [entry], now, _KEPT, kind=Kind.CLAIM)


def begin(transaction: Transaction, keys: ScopeKeys, manifest: bytes, now: int) -> None:
    """Begin an import.

    Raises:
        Overtaken: Another process has.
    """
    move(transaction, Marker(keys, manifest), None, BEGINNING, now)


def end(transaction: Transaction, keys: ScopeKeys, manifest: bytes) -> None:
    """Forget an import that is done."""
    entries.remove(transaction, keys, _SPACE, [manifest], kind=Kind.CLAIM)
