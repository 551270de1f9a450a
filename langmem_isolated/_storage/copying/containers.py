"""Opens sessions and threads whole, and gives what is below them its address at another owner."""

from collections.abc import Iterator
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import select

from langmem_isolated._codecs.checkpoints.stored_bodies import Outline, task_of
from langmem_isolated._codecs.headers import Header, decode_header
from langmem_isolated._codecs.messages import decode_partially
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.container_state import ContainerState, is_member_sum
from langmem_isolated._storage.containers import DIGEST, SCOPE_ID, ContainerRows
from langmem_isolated._storage.sessions import listing as sessions
from langmem_isolated._storage.sessions.channel_limits import CUSTOMARY, NamedLimits
from langmem_isolated._storage.sessions.messages import (
    alias_of,
    channel_tag,
    message_aad_prefix,
    message_part,
    newest_of,
)
from langmem_isolated._storage.threads import listing as threads
from langmem_isolated._storage.threads.addresses import (
    Slot,
    mac_of,
    namespace_parent,
    run_tag,
    thread_digest,
    write_key,
)
from langmem_isolated._storage.threads.reading import body_part, element_part, whole
from langmem_isolated.errors import RecordDoesNotOpen

_records, _sessions = schema.records.c, schema.sessions.c
ROWS: dict[Kind, ContainerRows] = {Kind.SESSION: sessions.ROWS, Kind.THREAD: threads.ROWS}
_COPIED: list[sa.ColumnElement[int]] = [sa.literal_column(str(int(kind))) for kind in ROWS]
_ALIVE = sa.or_(_sessions.expires_at.is_(None), _sessions.expires_at > sa.bindparam("now"))
_ALL = (
    select(_sessions.kind, _sessions.digest, _sessions.row_mac)
    .where(_sessions.scope_id == SCOPE_ID, _sessions.kind.in_(_COPIED), _ALIVE)
    .order_by(_sessions.kind, _sessions.digest)
)
# Locked where rows can be: what is copied must not change before that is known to be all.
_ALL_LOCKED = _ALL.with_for_update()
_MESSAGES = select(_records.key, _records.sealed, _records.alias, _records.updated_at).where(
    _records.scope_id == SCOPE_ID,
    _records.kind == sa.literal_column(str(int(Kind.MESSAGE))),
    _records.parent == DIGEST,
)


class Source(NamedTuple):
    """A session or thread of the owner that is copied from, as its row says at a time."""

    kind: Kind
    digest: bytes
    row_mac: bytes


class Line(NamedTuple):
    """A record below a session or thread, in plaintext."""

    kind: Kind
    key: bytes
    plaintext: bytes
    stored_at: int
    has_alias: bool = False
    namespace: str = ""
    """Of a thread."""


class OpenContainer(NamedTuple):
    """A session or thread with all that is below it, all of it as it was stored."""

    kind: Kind
    state: ContainerState
    header: Header
    lines: list[Line]
    limits: NamedLimits | None = None
    """Of a session's channels."""


class Addressed(NamedTuple):
    """A record on its way in: its row without what is sealed, and what it adds to ``members``."""

    kind: Kind
    parent: bytes
    key: bytes
    alias: bytes | None
    tag: bytes | None
    part: int
    line: Line


def sources(
    transaction: Transaction, keys: ScopeKeys, now: int, *, locked: bool = False
) -> list[Source]:
    """The sessions and threads of an owner that have not expired."""
    statement = _ALL_LOCKED if locked else _ALL
    rows = transaction.rows(statement, scope_id=keys.scope_id, now=now)
    return [Source(Kind(kind), digest, mac) for kind, digest, mac in rows]


def open_container(
    transaction: Transaction, keys: ScopeKeys, source: Source, now: int
) -> OpenContainer | None:
    """A session or thread with all it has; ``None`` if it is not there any more.

    Raises:
        RecordDoesNotOpen: Something was changed, moved, exchanged, restored or removed.
    """
    found = ROWS[source.kind].header(transaction, keys, source.digest)
    if found is None or found[0].is_expired(now):
        return None
    state, sealed_header = found
    header = decode_header(sealed_header)
    if source.kind is Kind.SESSION:
        return _session(transaction, keys, source.digest, state, header)
    lines = _bodies_and_elements(transaction, keys, source.digest, state)
    return OpenContainer(source.kind, state, header, lines)


def _session(
    transaction: Transaction, keys: ScopeKeys, digest: bytes, state: ContainerState, header: Header
) -> OpenContainer:
    """A session, its messages numbered without gaps where some have dropped out between them."""
    rows = sorted(transaction.rows(_MESSAGES, scope_id=keys.scope_id, digest=digest))
    lines = _messages(keys, digest, state, rows)
    start = state.next_sequence - len(lines)
    if header.summarized is not None:
        before = sum(row[0] < header.summarized.to_bytes(8) for row in rows)
        header = header._replace(summarized=start + before)
    numbered = [line._replace(key=number.to_bytes(8)) for number, line in enumerate(lines, start)]
    channels = {decode_partially(line.plaintext).channel for line in lines}
    # A limit stands under a digest, which names that are tried find; one of a channel of its own
    # name in which nothing was said yet is found by none.
    known = filter(None, {*channels, header.channel, *CUSTOMARY})
    limits = NamedLimits.of(keys, state, known)
    return OpenContainer(Kind.SESSION, state, header, numbered, limits)


def _messages(keys: ScopeKeys, digest: bytes, state: ContainerState, rows: list[Row]) -> list[Line]:
    """The messages of a session: that these are all, and as they were, their multiset hash tells.

    Raises:
        RecordDoesNotOpen: One was changed, moved, exchanged, added, removed or restored.
    """
    opener = keys.opener(message_aad_prefix(keys, digest, state), Kind.MESSAGE)
    lines = [
        Line(Kind.MESSAGE, key, opener(key, sealed), stored_at, has_alias=alias is not None)
        for key, sealed, alias, stored_at in rows
    ]
    parts = (message_part(keys, digest, one.key, one.stored_at, one.plaintext) for one in lines)
    if len(lines) != state.count or not is_member_sum(keys, state, sum(parts)):
        raise RecordDoesNotOpen(Kind.SESSION.label, "it has not the messages that it stands for")
    return [*_each_id_found(lines)]


def _each_id_found(lines: list[Line]) -> Iterator[Line]:
    """Messages of which each id finds one, though the one that it found has dropped out."""
    ids = [decode_partially(line.plaintext).message_id for line in lines]
    found = {id_ for id_, line in zip(ids, lines, strict=True) if line.has_alias}
    for id_, line in zip(ids, lines, strict=True):
        if not id_ or id_ in found:
            yield line
        else:
            found.add(id_)
            yield line._replace(has_alias=True)


def _bodies_and_elements(
    transaction: Transaction, keys: ScopeKeys, digest: bytes, state: ContainerState
) -> list[Line]:
    bodies, elements = whole(transaction, keys, digest, state)
    lines = [Line(Kind.ELEMENT, one.key, plaintext, one.stored_at) for one, plaintext in elements]
    outlines = {
        body.slot: Outline.of(body.plaintext)
        for body in bodies
        if body.slot.kind is Kind.CHECKPOINT
    }
    names = {slot.parent: outline.namespace for slot, outline in outlines.items()}
    # Nothing reads what stands behind no checkpoint, and nothing tells its namespace.
    readable = [body for body in bodies if body.slot.parent in names]
    lines += [
        Line(
            body.slot.kind, body.slot.key, body.plaintext, body.stored_at,
            namespace=names[body.slot.parent],
        )
        for body in readable
    ]  # fmt: skip
    return lines


def digest_of(keys: ScopeKeys, kind: Kind, name: str) -> bytes:
    """By which tables know a session or thread of that name."""
    if kind is Kind.SESSION:
        return sessions.session_digest(keys, name)
    return thread_digest(keys, name)


def addressed(keys: ScopeKeys, digest: bytes, lines: list[Line]) -> Iterator[Addressed]:
    """Where lines stand below the session or thread of ``digest`` of another owner."""
    for line in lines:
        if line.kind is Kind.MESSAGE:
            yield _message(keys, digest, line)
        elif line.kind is Kind.ELEMENT:
            mac = mac_of(keys, digest, line.plaintext)
            part = element_part(keys, digest, line.key, line.stored_at, mac)
            yield Addressed(line.kind, digest, line.key, mac, None, part, line)
        else:
            yield _body(keys, digest, line)


def _message(keys: ScopeKeys, digest: bytes, line: Line) -> Addressed:
    said = decode_partially(line.plaintext)
    alias = alias_of(keys, digest, said.message_id or "") if line.has_alias else None
    tag = channel_tag(keys, said.channel, said.written)
    part = message_part(keys, digest, line.key, line.stored_at, line.plaintext)
    return Addressed(line.kind, digest, line.key, alias, tag, part, line)


def _body(keys: ScopeKeys, digest: bytes, line: Line) -> Addressed:
    parent, key, tag = namespace_parent(keys, digest, line.namespace), line.key, None
    if line.kind is Kind.WRITE:
        key = write_key(keys, key[:DIGEST_BYTES], task_of(line.plaintext))
    elif run_id := Outline.of(line.plaintext).run_id:
        tag = run_tag(keys, run_id)
    part = body_part(keys, Slot(line.kind, parent, key), line.stored_at, tag, line.plaintext)
    return Addressed(line.kind, parent, key, None, tag, part, line)


def moved_on(
    keys: ScopeKeys,
    digest: bytes,
    state: ContainerState,
    stored: list[Addressed],
    size: int,
) -> ContainerState:
    """The state of a row below which these records are now, too; ``size`` is theirs, sealed."""
    counted = sum(one.kind in (Kind.MESSAGE, Kind.CHECKPOINT) for one in stored)
    new = state.with_members(keys, sum(one.part for one in stored))._replace(
        count=state.count + counted, size=state.size + size
    )
    last = stored[-1]
    if last.kind is not Kind.MESSAGE:
        return new
    return new._replace(
        next_sequence=int.from_bytes(last.key) + 1,
        newest=newest_of(keys, digest, last.key, last.line.plaintext),
    )
