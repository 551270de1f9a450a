"""Transcripts: every message of a scope's sessions and threads, and their embeddings.

Each session and thread is read under its row MAC: one whose row MAC the caller knows already is not
read again. All come from one state of the database. An embedding has the key of the message it
was made of, and goes with it.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.container_state import STATE, ContainerState, open_header
from langmem_isolated._storage.containers import DIGEST, LISTED, SCOPE_ID, row_of
from langmem_isolated._storage.sessions.reading import opened
from langmem_isolated._storage.upserts import upserts
from langmem_isolated.errors import RecordDoesNotOpen

# What is read below a row of each kind.
_BELOW = {Kind.SESSION: Kind.MESSAGE, Kind.THREAD: Kind.ELEMENT}
_ROWS_OF = {below: kind for kind, below in _BELOW.items()}
# One by one, each session takes a question of its own; from here on all are read at once.
_ONE_BY_ONE = 16

_records, _sessions = schema.records.c, schema.sessions.c


def _numbers(kinds: Iterable[Kind]) -> list[sa.ColumnElement[int]]:
    return [sa.literal_column(str(int(kind))) for kind in kinds]


_STATES = select(_sessions.kind, *LISTED).where(
    _sessions.scope_id == SCOPE_ID, _sessions.kind.in_(_numbers(_BELOW))
)
_ALL = select(
    _records.kind, _records.parent, _records.key, _records.sealed, _records.created_at
).where(_records.scope_id == SCOPE_ID, _records.kind.in_(_numbers(_ROWS_OF)))
_OF_ONE = _ALL.where(_records.parent == DIGEST)
_KEYS = select(_records.key).where(
    _records.scope_id == SCOPE_ID,
    _records.kind.in_(_numbers([Kind.MESSAGE])),
    _records.parent == DIGEST,
)
_LOCKS = {kind: select(*STATE).where(row_of(kind)).with_for_update() for kind in _BELOW}
_EMBEDDINGS = (
    select(_sessions.kind, _records.parent, _records.key, _records.sealed, _sessions.birth)
    .select_from(
        sa.join(
            schema.sessions,
            schema.records,
            sa.and_(_records.scope_id == _sessions.scope_id, _records.parent == _sessions.digest),
        )
    )
    .where(
        _sessions.scope_id == SCOPE_ID,
        _sessions.kind.in_(_numbers(_BELOW)),
        _records.kind.in_(_numbers([Kind.EMBEDDING])),
    )
)
# By whether it is PostgreSQL.
_PUT_EMBEDDING = upserts(
    {
        "scope_id": SCOPE_ID,
        "kind": _numbers([Kind.EMBEDDING])[0],
        "parent": DIGEST,
        "created_at": bindparam("now"),
        "updated_at": bindparam("now"),
        **{name: bindparam(f"new_{name}") for name in ("key", "sealed", "size")},
    },
    ("sealed", "size", "updated_at"),
)
_key = itemgetter(0)


class Source(NamedTuple):
    """A session or a thread, by its kind and digest."""

    kind: Kind
    digest: bytes


Line = tuple[bytes, bytes, int]
"""Key and plaintext of one record below a source, and when it was stored (µs since 1970, UTC)."""


class Transcript(NamedTuple):
    """A session or thread: its row, and its lines in the order they were stored."""

    source: Source
    row_mac: bytes
    header: bytes
    birth: bytes
    lines: list[Line] | None
    """``None`` where the caller knew the row MAC."""


def read(
    transaction: Transaction,
    keys: ScopeKeys,
    wanted: Collection[Source] | None,
    is_known: Callable[[Source, bytes], bool],
    now: int,
) -> list[Transcript]:
    """Every session and thread of the scope that is not expired, or those ``wanted`` of them.

    Args:
        wanted: Which; all when ``None``.
        is_known: Whether the caller has read a source under this row MAC before.
        now: Microseconds since 1970, UTC.

    Raises:
        RecordDoesNotOpen: Something was changed, moved or exchanged, or messages are missing.
    """
    states = _states(transaction, keys)
    chosen = [source for source in states if wanted is None or source in wanted]
    stale = {source for source in chosen if not is_known(source, states[source][0])}
    missing = [source for source in wanted or () if source not in states]
    records = _records_below(transaction, keys, [*stale, *missing], len(states))
    if records.keys() - states.keys():
        raise RecordDoesNotOpen(Kind.SESSION.label, "its row is missing")
    transcripts = []
    for source in chosen:
        row = states[source]
        state = ContainerState.checked(source.kind, keys, source.digest, row)
        header = open_header(source.kind, keys, source.digest, state, row[-1])
        if not state.is_expired(now):
            lines = None
            if source in stale:
                lines = _lines(keys, source, state, records.get(source, []), now)
            transcripts.append(Transcript(source, state.row_mac, header, state.birth, lines))
    return transcripts


def _states(transaction: Transaction, keys: ScopeKeys) -> dict[Source, Row]:
    rows = transaction.rows(_STATES, scope_id=keys.scope_id)
    return {Source(Kind(row[0]), row[-2]): row[1:] for row in rows}


def _records_below(
    transaction: Transaction, keys: ScopeKeys, sources: Sequence[Source], there: int
) -> dict[Source, list[Row]]:
    """Records by the source they stand below: those of ``sources``, or all there are."""
    if len(sources) < min(there, _ONE_BY_ONE):
        rows = [
            row
            for source in sources
            for row in transaction.rows(_OF_ONE, scope_id=keys.scope_id, digest=source.digest)
        ]
    else:
        rows = transaction.rows(_ALL, scope_id=keys.scope_id)
    found: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        found[_ROWS_OF[row[0]], row[1]].append(row[2:])
    return found


def _lines(
    keys: ScopeKeys, source: Source, state: ContainerState, records: list[Row], now: int
) -> list[Line]:
    if source.kind is Kind.SESSION:
        # A message has one time, at which it was stored.
        found = opened(keys, source.digest, state, records, now, is_dated=True)
        messages = [] if found is None else found.messages
        records.sort(key=_key)
    else:
        place = keys.aad_prefix(Kind.ELEMENT, source.digest, state.birth)
        messages = keys.open_all(place, Kind.ELEMENT, records)
    if [stored for *_, stored in records if type(stored) is not int]:
        # SQLite keeps any type in any column.
        raise RecordDoesNotOpen(_BELOW[source.kind].label, "it was stored at no time")
    lines = zip(map(_key, records), messages, (row[2] for row in records), strict=True)
    return sorted(lines, key=_key)


class Embedded(NamedTuple):
    """An embedding on its way in or out: of which record, below which source in which life."""

    source: Source
    birth: bytes
    key: bytes
    plaintext: bytes


def embeddings(
    transaction: Transaction, keys: ScopeKeys, births: Mapping[Source, bytes]
) -> dict[tuple[Source, bytes], bytes]:
    """The embeddings below these sources, in plaintext, by source and key.

    None of a source that has begun another life since its birth was read.

    Raises:
        RecordDoesNotOpen: One was changed, moved or exchanged.
    """
    openers = {
        source: keys.opener(keys.aad_prefix(Kind.EMBEDDING, source.digest, birth), Kind.EMBEDDING)
        for source, birth in births.items()
    }
    rows = transaction.rows(_EMBEDDINGS, scope_id=keys.scope_id)
    sources = {source: source for source in openers}
    return {
        (source, key): openers[source](key, sealed)
        for kind, parent, key, sealed, birth in rows
        if (source := sources.get((kind, parent))) and births[source] == birth  # type: ignore[call-overload]
    }


def put_embeddings(
    transaction: Transaction, keys: ScopeKeys, embedded: Iterable[Embedded], now: int
) -> None:
    """Store embeddings, in place of older ones, below those sources that are still what they were.

    A session or thread that was removed or cleared meanwhile gets none, and neither does a message
    that dropped out.
    """
    groups: dict[tuple[Source, bytes], list[Embedded]] = defaultdict(list)
    for one in embedded:
        groups[one.source, one.birth].append(one)
    # In one order everywhere: two who embed the same messages wait for each other.
    for (source, birth), members in sorted(groups.items()):
        shared = {"scope_id": keys.scope_id, "digest": source.digest}
        row = transaction.row(_LOCKS[source.kind], **shared)
        if row is None:
            continue
        state = ContainerState.checked(source.kind, keys, source.digest, row)
        if state.birth == birth:
            there = _still_there(transaction, keys, source, state, members)
            place = keys.aad_prefix(Kind.EMBEDDING, source.digest, birth)
            sealed = (
                (one.key, keys.seal(place, one.key, one.plaintext, compress=False)) for one in there
            )
            transaction.execute_many(
                _PUT_EMBEDDING[transaction.is_postgres],
                [
                    {
                        **shared,
                        "now": now,
                        "new_key": key,
                        "new_sealed": body,
                        "new_size": len(body),
                    }
                    for key, body in sealed
                ],
            )


def _still_there(
    transaction: Transaction,
    keys: ScopeKeys,
    source: Source,
    state: ContainerState,
    members: list[Embedded],
) -> list[Embedded]:
    """Those whose message did not drop out of its channel while it was embedded."""
    if state.channels is None:
        return members
    found = transaction.rows(_KEYS, scope_id=keys.scope_id, digest=source.digest)
    there = {key for (key,) in found}
    return [one for one in members if one.key in there]
