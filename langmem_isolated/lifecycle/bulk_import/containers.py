"""Sessions and threads of an import: staged unseen, published whole with their journal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from langmem_isolated._codecs.headers import Header, decode_header
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.copying import imported
from langmem_isolated._storage.copying.containers import ROWS, Line, digest_of
from langmem_isolated._storage.copying.imported import Arrived, Channels
from langmem_isolated._storage.copying.options import BATCH, Added
from langmem_isolated.lifecycle.bulk_import.target import Target

_MOST_TITLE_BYTES = 16_000

Batch = tuple[Arrived, Sequence[Line]]


def titled(title: str | None) -> str | None:
    """A title as a header can have it: of what others call a title, its first 16 KB."""
    if not title:
        return None
    return title.encode(errors="replace")[:_MOST_TITLE_BYTES].decode(errors="ignore")


def added(kind: Kind, name: str) -> Added:
    """What a journal calls a session or thread."""
    return Added(kind, (name.encode(),))


def is_there(target: Target, kind: Kind, name: str) -> bool:
    """Whether the scope has a session or thread of that name."""
    return target.records.read(imported.is_taken, False, kind, name, now())


def copied(target: Target, batches: Iterator[Batch], moment: int) -> Arrived:
    """Put in a session or thread, which is seen when it is whole; as its row says in the end.

    Args:
        target: Where.
        batches: At most 500 lines each, the last fewer, with what its row says by then.
        moment: When it was begun, in µs.

    Raises:
        AddressTaken: There is one of its name by now.
        Overtaken: Another process puts in the same.
    """
    arrived, lines = next(batches)
    names = [added(arrived.kind, arrived.name)]
    if len(lines) < BATCH:
        target.write_noted(names, put_whole, arrived, lines, moment)
        return arrived
    # Kept in the journal from the first row on: killed from here on, a roll back finds it.
    step = target.write_noted(names, imported.stage, arrived.as_source(), moment)
    step = target.write(imported.put_lines, step, lines)
    for said, lines in batches:
        arrived = said
        if lines:
            step = target.write(imported.put_lines, step, lines)
    publish = partial(imported.publish, arrived=arrived, step=step, channels=Channels())
    target.write_noted(names, publish)
    return arrived


def put_whole(
    transaction: Transaction,
    keys: ScopeKeys,
    arrived: Arrived,
    lines: Sequence[Line],
    moment: int,
) -> None:
    """Put in a session or thread in one transaction.

    Raises:
        AddressTaken: There is one of its name.
    """
    step = imported.stage(transaction, keys, arrived.as_source(), moment)
    for start in range(0, len(lines), BATCH):
        step = imported.put_lines(transaction, keys, step, lines[start : start + BATCH])
    imported.publish(transaction, keys, arrived, step, Channels())


class About(NamedTuple):
    """What a session's or thread's row says for itself."""

    header: Header
    created_at: int
    updated_at: int
    is_archived: bool
    is_pinned: bool

    @classmethod
    def of(cls, arrived: Arrived) -> About:
        """As it was put in."""
        times = arrived.created_at, arrived.updated_at
        return cls(arrived.header, *times, arrived.is_archived, arrived.is_pinned)


def about(transaction: Transaction, keys: ScopeKeys, kind: Kind, name: str) -> About | None:
    """What the row of a session or thread says, as its owner reads it."""
    found = ROWS[kind].header(transaction, keys, digest_of(keys, kind, name))
    if found is None:
        return None
    state, header = found
    times = state.created_at, state.updated_at
    return About(decode_header(header), *times, state.is_archived, bool(state.is_pinned))


def named(kind: Kind, name: str, title: str | None, created: int) -> Arrived:
    """A session or thread with nothing below it yet, that lives for ever."""
    return Arrived(
        kind, name, Header(name, title), is_closed=False, is_archived=False, is_pinned=False,
        idle_lifetime=None, absolute_lifetime=None, created_at=created, updated_at=created,
        expires_at=None, next_sequence=0, count=0,
    )  # fmt: skip
