"""Streams what an owner has, page by page, and proves each container at its end.

What came of a container that does not hold is known only then: whoever writes it down publishes it
after the last page.
"""

from collections.abc import Iterator
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._codecs.checkpoints.stored_bodies import Outline
from langmem_isolated._codecs.documents import document_id
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage import entries
from langmem_isolated._storage.container_state import ContainerState, is_member_sum, open_header
from langmem_isolated._storage.containers import DIGEST, LISTED, SCOPE_ID
from langmem_isolated._storage.copying.entries import entry_rows
from langmem_isolated._storage.copying.paging import PAGE, PAGE_BYTES, fitting, in_pages
from langmem_isolated._storage.documents import statements as documents
from langmem_isolated._storage.documents.blocks import Block, refused
from langmem_isolated._storage.documents.collection import Collection
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.sessions.messages import message_aad_prefix, message_part
from langmem_isolated._storage.threads.addresses import END, Slot, mac_of
from langmem_isolated._storage.threads.reading import body_part, element_part, open_at
from langmem_isolated.errors import RecordDoesNotOpen

# Documents of a block that are asked for, and held, at once.
_DOCUMENTS = 8
_records, _sessions = schema.records.c, schema.sessions.c
_FIRST: sa.ColumnElement[int] = sa.literal_column("0")
_KIND = bindparam("kind", type_=sa.SmallInteger)
_IN_SCOPE = sa.and_(_sessions.scope_id == SCOPE_ID, _sessions.kind == _KIND)
_DIGESTS = select(_sessions.digest).where(_IN_SCOPE).order_by(_sessions.digest)
_CONTAINER = select(*LISTED).where(_IN_SCOPE, _sessions.digest == DIGEST)
_BELOW = (
    select(
        *(_records.parent, _records.key, _records.sealed),
        *(_records.alias, _records.tag, _records.updated_at),
    )
    .where(
        _records.scope_id == SCOPE_ID,
        _records.kind == _KIND,
        _records.parent < bindparam("high", type_=sa.LargeBinary),
        sa.tuple_(_records.parent, _records.key)
        > sa.tuple_(
            bindparam("parent", type_=sa.LargeBinary), bindparam("key", type_=sa.LargeBinary)
        ),
    )
    .order_by(_records.parent, _records.key)
    .limit(bindparam("limit", type_=sa.Integer))
    .offset(_FIRST)
)


class Found(NamedTuple):
    """A session, thread or collection by its row, which is as it was stored."""

    kind: Kind
    digest: bytes
    state: ContainerState
    header: bytes
    """In plaintext."""
    sealed_header: bytes


class Streamed(NamedTuple):
    """A record below a container, in plaintext."""

    kind: Kind
    parent: bytes
    key: bytes
    plaintext: bytes
    stored_at: int
    has_alias: bool = False


class StreamedDocument(NamedTuple):
    """A document and its embedding."""

    id: str
    body: bytes
    embedding: bytes
    stored_at: int


class StreamedEntry(NamedTuple):
    """An entry, the names of its space, and its times in µs."""

    names: list[bytes]
    entry: Entry
    created_at: int
    updated_at: int
    expires_at: int | None


def digests(transaction: Transaction, keys: ScopeKeys, kind: Kind) -> list[bytes]:
    """The digest of each container of a kind, those that have expired among them."""
    rows = transaction.rows(_DIGESTS, scope_id=keys.scope_id, kind=int(kind))
    return [digest for (digest,) in rows]


def container(
    transaction: Transaction, keys: ScopeKeys, kind: Kind, digest: bytes, now: int
) -> Found | None:
    """A container; ``None`` for one that is not there any more, or whose time is up.

    Raises:
        RecordDoesNotOpen: Its row was changed, moved or exchanged.
    """
    row = transaction.row(_CONTAINER, scope_id=keys.scope_id, kind=int(kind), digest=digest)
    if row is None:
        return None
    state = ContainerState.checked(kind, keys, digest, row)
    if state.is_expired(now):
        return None
    header = open_header(kind, keys, digest, state, row[-1])
    return Found(kind, digest, state, header, row[-1])


def _rows(
    transaction: Transaction, keys: ScopeKeys, kind: Kind, of: Found, high: bytes
) -> Iterator[Row]:
    """The rows of a kind whose parent is the container's, or begins with it, below ``high``."""
    asked = {"scope_id": keys.scope_id, "kind": int(kind), "high": high}
    behind, limit, is_small = (of.digest, b""), PAGE, of.state.size <= PAGE_BYTES
    while True:
        if not is_small:
            limit = fitting(transaction, keys, kind, behind, high=high)
        parent, key = behind
        rows = transaction.rows(_BELOW, **asked, parent=parent, key=key, limit=limit)
        if not rows:
            return
        yield from rows
        behind = rows[-1][:2]


def _refuse(of: Found) -> RecordDoesNotOpen:
    return RecordDoesNotOpen(of.kind.label, "it has not the records that it stands for")


def messages(transaction: Transaction, keys: ScopeKeys, of: Found) -> Iterator[list[Streamed]]:
    """The messages of a session, in their order.

    Raises:
        RecordDoesNotOpen: One was changed, moved, exchanged, added, removed or restored; some at
            the end alone.
    """
    opener = keys.opener(message_aad_prefix(keys, of.digest, of.state), Kind.MESSAGE)
    opened = (
        Streamed(Kind.MESSAGE, parent, key, opener(key, sealed), stored_at, alias is not None)
        for parent, key, sealed, alias, _, stored_at in _rows(
            transaction, keys, Kind.MESSAGE, of, of.digest + b"\x00"
        )
    )
    total = count = 0
    for page in in_pages(opened, _size):
        total += sum(
            message_part(keys, of.digest, one.key, one.stored_at, one.plaintext) for one in page
        )
        count += len(page)
        yield page
    if count != of.state.count or not is_member_sum(keys, of.state, total):
        raise _refuse(of)


def history(transaction: Transaction, keys: ScopeKeys, of: Found) -> Iterator[list[Streamed]]:
    """The elements of a thread, then its checkpoints, then what tasks wrote behind them.

    Raises:
        RecordDoesNotOpen: As :func:`messages`.
    """
    total = count = 0
    for kind in (Kind.ELEMENT, Kind.CHECKPOINT, Kind.WRITE):
        high = of.digest + (b"\x00" if kind is Kind.ELEMENT else END)
        rows = _rows(transaction, keys, kind, of, high)
        opened = (_of_thread(keys, of, kind, row) for row in rows)
        for page in in_pages(opened, lambda pair: _size(pair[0])):
            total += sum(part for _, part in page)
            count += len(page) if kind is Kind.CHECKPOINT else 0
            yield [one for one, _ in page]
    if count != of.state.count or not is_member_sum(keys, of.state, total):
        raise _refuse(of)


def _size(one: Streamed) -> int:
    return len(one.plaintext)


def _of_thread(keys: ScopeKeys, of: Found, kind: Kind, row: Row) -> tuple[Streamed, int]:
    """A record of a thread, and what it adds to the thread's ``members``."""
    parent, key, sealed, alias, tag, stored_at = row
    slot = Slot(kind, parent, key)
    plaintext = open_at(keys, slot, of.state.birth, sealed)
    if kind is not Kind.ELEMENT:
        part = body_part(keys, slot, stored_at, tag, plaintext)
    elif alias != (mac := mac_of(keys, of.digest, plaintext)):
        raise RecordDoesNotOpen(kind.label, "its alias is another's")
    else:
        part = element_part(keys, of.digest, key, stored_at, mac)
    return Streamed(kind, parent, key, plaintext, stored_at), part


def namespace_of(checkpoint: Streamed) -> str:
    """The namespace that a checkpoint belongs to."""
    return Outline.of(checkpoint.plaintext).namespace


def collected(
    transaction: Transaction, keys: ScopeKeys, of: Found
) -> Iterator[list[StreamedDocument]]:
    """The documents of a collection with their embeddings, block by block.

    Raises:
        RecordDoesNotOpen: As :func:`messages`.
    """
    its = Collection(transaction, keys, of.digest, of.state, of.sealed_header)
    total = count = 0
    for _, key, sealed, _, _, stored_at in _rows(
        transaction, keys, Kind.EMBEDDING, of, of.digest + b"\x00"
    ):
        block = Block.unpacked(its.open(Kind.EMBEDDING, key, sealed))
        total += its.part(Kind.EMBEDDING, key, stored_at, block.version)
        for page in in_pages(_documents(its, block), lambda pair: len(pair[0].body)):
            total += sum(part for _, part in page)
            count += len(page)
            yield [document for document, _ in page]
    if count != of.state.count or not is_member_sum(keys, of.state, total):
        raise _refuse(of)


def _documents(its: Collection, block: Block) -> Iterator[tuple[StreamedDocument, int]]:
    """The documents of a block, and what each adds to the collection's ``members``."""
    for begin in range(0, len(block.digests), _DOCUMENTS):
        digests = block.digests[begin : begin + _DOCUMENTS]
        asked = ({**its.shared, "key": digest} for digest in digests)
        answers = its.transaction.rows_of_each(documents.DOCUMENT, asked)
        for at, (digest, rows) in enumerate(zip(digests, answers, strict=True), begin):
            if not rows:
                raise refused("an embedding has no document", Kind.DOCUMENT)
            _, sealed, stored_at = rows[0]
            plaintext = its.open(Kind.DOCUMENT, digest, sealed)
            body = its.stored(plaintext).body
            embedding = block.embeddings[at * block.length : (at + 1) * block.length]
            found = StreamedDocument(document_id(body), body, embedding, stored_at)
            yield found, its.part(Kind.DOCUMENT, digest, stored_at, plaintext)


def kept(
    transaction: Transaction, keys: ScopeKeys, kind: Kind, now: int
) -> Iterator[list[StreamedEntry]]:
    """An owner's entries of a kind.

    Raises:
        RecordDoesNotOpen: An entry was changed, moved or exchanged.
    """
    opened = (
        StreamedEntry(
            *entries.opened_anywhere(keys, kind, parent, tuple(row)), created_at, *row[-2:]
        )
        for parent, *row, created_at in entry_rows(transaction, keys, kind, now)
    )
    yield from in_pages(opened, lambda one: len(one.entry.value))
