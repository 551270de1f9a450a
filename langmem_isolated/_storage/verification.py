"""Integrity check: opens every record of a scope, and compares all with the rows they stand below.

The multiset hash of a session, thread or collection tells of every record that was removed,
exchanged or put back, and that of a store's items where they are counted. Other items, entries and
their like have no such row: what is there is opened.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from langmem_isolated._codecs.checkpoints.chunks import decode_chunk
from langmem_isolated._codecs.checkpoints.stored_bodies import Body
from langmem_isolated._codecs.messages import decode_partially
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage import entries, equalities, inbox
from langmem_isolated._storage.container_state import (
    ContainerState,
    KeyOutdated,
    member_part,
    open_header,
)
from langmem_isolated._storage.container_tally import ContainerTally
from langmem_isolated._storage.containers import LISTED, SCOPE_ID
from langmem_isolated._storage.documents.blocks import NUMBER_BYTES, Block, number_of
from langmem_isolated._storage.documents.collection import with_time
from langmem_isolated._storage.items import counting
from langmem_isolated._storage.items.addresses import RecordAddresses
from langmem_isolated._storage.items.rows import items_in
from langmem_isolated._storage.sessions.messages import alias_of, channel_tag, message_part
from langmem_isolated._storage.stored_record import BEFORE_ALL, StoredRecord
from langmem_isolated._storage.threads.addresses import Slot, mac_of
from langmem_isolated._storage.threads.reading import body_part, element_part
from langmem_isolated.errors import RecordDoesNotOpen, RecordError

_PAGE = 500
_records, _sessions, _usage = schema.records.c, schema.sessions.c, schema.usage.c
_ADDRESS = (_records.kind, _records.parent, _records.key)
_BEHIND = tuple(bindparam(f"behind_{c.name}", type_=c.type) for c in _ADDRESS)


_CONTAINERS = select(_sessions.kind, *LISTED).where(_sessions.scope_id == SCOPE_ID)
_RECORDS = (
    select(*(_records[name] for name in StoredRecord._fields))
    .where(_records.scope_id == SCOPE_ID, sa.tuple_(*_ADDRESS) > sa.tuple_(*_BEHIND))
    .order_by(*_ADDRESS)
    .limit(sa.literal_column(str(_PAGE)))
    .offset(sa.literal_column("0"))
)
_MODELS = select(_usage.model, _usage.sealed).where(
    _usage.scope_id == SCOPE_ID, _usage.sealed.is_not(None)
)
_CONTAINING = (Kind.SESSION, Kind.THREAD, Kind.COLLECTION, Kind.ITEM, Kind.INBOX)
# By the kind of a record, those of the rows that it may be below.
_ABOVE: dict[int, tuple[Kind, ...]] = {
    Kind.MESSAGE: (Kind.SESSION,),
    Kind.CHECKPOINT: (Kind.THREAD,),
    Kind.WRITE: (Kind.THREAD,),
    Kind.ELEMENT: (Kind.THREAD,),
    Kind.DOCUMENT: (Kind.COLLECTION,),
    Kind.EMBEDDING: (Kind.COLLECTION, Kind.SESSION, Kind.THREAD),
    Kind.INBOX: (Kind.INBOX,),
}
# What these count of them.
_NUMBERED = (Kind.MESSAGE, Kind.CHECKPOINT, Kind.DOCUMENT, Kind.ITEM)


class Flaw(NamedTuple):
    """What is not as it was stored."""

    aspect: str
    """``"rows"``, ``"records"``, ``"counts"`` or ``"references"``."""
    kind: str
    reason: str
    place: str
    """By which the table knows it, in hex."""
    key_id: bytes | None = None
    """Of the key that it says it is sealed with, where that is why it does not open."""


Told = Callable[[RecordError, str, str], None]
"""Told of an error, of the aspect that it speaks of, and of the place."""


def _refuse(error: RecordError, _: str, __: str) -> NoReturn:
    raise error


class _Verification:
    """One walk over a scope's records."""

    def __init__(self, transaction: Transaction, keys: ScopeKeys, told: Told) -> None:
        self._transaction = transaction
        self._keys = keys
        self._told = told
        self._without_row: set[bytes] = set()
        self._containers: dict[tuple[int, bytes], ContainerTally] = {}
        self._items = RecordAddresses(keys)
        self.counts: Counter[Kind] = Counter()
        self._checks: dict[int, Callable[[StoredRecord], None]] = {
            Kind.MESSAGE: self._message,
            Kind.CHECKPOINT: self._body,
            Kind.WRITE: self._body,
            Kind.ELEMENT: self._element,
            Kind.DOCUMENT: self._document,
            Kind.EMBEDDING: self._embedding,
            Kind.ITEM: self._item,
            Kind.VECTOR: self._vector,
            Kind.INBOX: self._waiting,
            **dict.fromkeys(entries.ENTRY_KINDS, self._entry),
        }
        if keys.is_locked and told is not _refuse:
            content = [kind for kind in self._checks if not Kind(kind).is_server_held]
            self._checks |= dict.fromkeys(content, self._sealed)

    def run(self) -> Counter[Kind]:
        """How many there are of each kind."""
        for kind, *row in self._transaction.rows(_CONTAINERS, scope_id=self._keys.scope_id):
            try:
                self._add_container(kind, tuple(row))
            except RecordError as error:
                self._without_row.add(row[-2])
                self._told(error, "rows", _hex(row[-2]))
        # What no kind is: one below all is found, too, that somebody has put there.
        least = -(2**15) if self._transaction.is_postgres else -(2**63)
        last = BEFORE_ALL._replace(kind=least)
        while page := self._page_behind(last):
            for record in page:
                self._look_at(record)
            last = page[-1]
        for container in self._containers.values():
            if not container.is_damaged:
                self._compare(container)
        for model, sealed in self._transaction.rows(_MODELS, scope_id=self._keys.scope_id):
            self._name_of_model(model, sealed)
        return self.counts

    def _name_of_model(self, model: bytes, sealed: bytes) -> None:
        self.counts[Kind.USAGE] += 1
        try:
            place = self._keys.aad_prefix(Kind.USAGE, b"")
            self._keys.open(place, model, sealed, Kind.USAGE)
        except RecordError as error:
            self._told(error, "records", _hex(model))

    def _look_at(self, record: StoredRecord) -> None:
        try:
            self._check(record)
        except RecordError as error:
            for container in self._containers_of(record):
                container.is_damaged = True
            self._told(error, "records", f"{_hex(record.parent)} {_hex(record.key)}")

    def _containers_of(self, record: StoredRecord) -> list[ContainerTally]:
        """What may have the record below it; a parent of another type is in none."""
        if record.kind == Kind.ITEM:
            found = [self._containers.get((Kind.ITEM, counting.digest_of(self._keys)))]
        else:
            above = record.parent[:DIGEST_BYTES] if type(record.parent) is bytes else b""
            found = [self._containers.get((kind, above)) for kind in _ABOVE.get(record.kind, ())]
        return [one for one in found if one]

    def _compare(self, container: ContainerTally) -> None:
        try:
            container.check(self._keys)
        except RecordError as error:
            self._told(error, "counts", _hex(container.digest))
            return
        try:
            container.check_references()
        except RecordError as error:
            self._told(error, "references", _hex(container.digest))

    def _add_container(self, number: int, row: Row) -> None:
        *_, digest, sealed = row
        if number not in _CONTAINING or type(digest) is not bytes:
            raise RecordDoesNotOpen(Kind.SESSION.label, "its row is of no kind there is")
        kind = Kind(number)
        state = ContainerState.checked(kind, self._keys, digest, row)
        if kind.is_server_held or not self._keys.is_locked or self._told is _refuse:
            open_header(kind, self._keys, digest, state, sealed)
        self._containers[kind, digest] = ContainerTally(kind, digest, state)
        self.counts[kind] += kind not in (Kind.ITEM, Kind.INBOX)

    def _page_behind(self, last: StoredRecord) -> list[StoredRecord]:
        behind = {f"behind_{name}": getattr(last, name) for name in ("kind", "parent", "key")}
        rows = self._transaction.rows(_RECORDS, scope_id=self._keys.scope_id, **behind)
        return [StoredRecord._make(row) for row in rows]

    def _check(self, record: StoredRecord) -> None:
        check = self._checks.get(record.kind)
        if type(record.parent) is bytes and record.parent[:DIGEST_BYTES] in self._without_row:
            # Its row was told of: without it nothing below can be opened.
            return
        if check is None:
            raise RecordDoesNotOpen(Kind.SCOPE.label, "it has a record of no kind there is")
        if {type(part) for part in (record.parent, record.key, record.sealed)} != {bytes}:
            raise RecordDoesNotOpen(Kind(record.kind).label, "a column holds another type")
        if record.size != len(record.sealed):
            raise RecordDoesNotOpen(Kind(record.kind).label, "its size is another")
        if not record.has_only_its_columns():
            raise RecordDoesNotOpen(
                Kind(record.kind).label, "it has a column that its kind has not"
            )
        check(record)
        self.counts[Kind(record.kind)] += 1

    def _above(self, record: StoredRecord, *kinds: Kind) -> ContainerTally:
        found = (self._containers.get((kind, record.parent[:DIGEST_BYTES])) for kind in kinds)
        container = next((one for one in found if one), None)
        if container is None:
            raise RecordDoesNotOpen(kinds[0].label, "its row is missing")
        return container

    def _opened(self, record: StoredRecord, birth: bytes = b"") -> bytes:
        kind = Kind(record.kind)
        prefix = self._keys.aad_prefix(kind, record.parent, birth)
        return self._keys.open(prefix, record.key, record.sealed, kind)

    def _message(self, record: StoredRecord) -> None:
        session = self._above(record, Kind.SESSION)
        plaintext = self._opened(record, session.state.birth)
        stored_at = record.updated_at
        session.total += message_part(self._keys, session.digest, record.key, stored_at, plaintext)
        session.counted += 1
        said = decode_partially(plaintext)
        if said.message_id:
            (session.aliased if record.alias else session.unaliased).add(said.message_id)
        expected = alias_of(self._keys, session.digest, said.message_id or "")
        if record.alias is not None and (not said.message_id or record.alias != expected):
            raise RecordDoesNotOpen(Kind.MESSAGE.label, "its alias is another's")
        if record.tag != channel_tag(self._keys, said.channel, said.written):
            raise RecordDoesNotOpen(Kind.MESSAGE.label, "it was put into another channel or time")

    def _waiting(self, record: StoredRecord) -> None:
        # Sealed to the user: that it is what was put there is told by the row's multiset hash.
        above = self._above(record, Kind.INBOX)
        stored_at = record.updated_at
        above.total += inbox.part(self._keys, above.digest, record.key, stored_at, record.sealed)
        above.counted += 1

    def _sealed(self, record: StoredRecord) -> None:
        """Content that the user alone has the keys of: it is there, and counted."""
        found = self._containers_of(record)
        if record.kind in _ABOVE and not found:
            raise RecordDoesNotOpen(Kind(record.kind).label, "its row is missing")
        for above in found:
            above.counted += record.kind in _NUMBERED

    def _body(self, record: StoredRecord) -> None:
        thread = self._above(record, Kind.THREAD)
        plaintext = self._opened(record, thread.state.birth)
        slot = Slot(Kind(record.kind), record.parent, record.key)
        thread.total += body_part(self._keys, slot, record.updated_at, record.tag, plaintext)
        thread.counted += record.kind == Kind.CHECKPOINT
        body = Body.of(plaintext)
        thread.wanted.update(body.numbers, body.chunks)
        thread.chunks.update(body.chunks)

    def _element(self, record: StoredRecord) -> None:
        thread = self._above(record, Kind.THREAD)
        plaintext, number = self._opened(record, thread.state.birth), int.from_bytes(record.key)
        mac = mac_of(self._keys, record.parent, plaintext)
        if record.alias != mac:
            raise RecordDoesNotOpen(Kind.ELEMENT.label, "its alias is another's")
        stored_at = record.updated_at
        thread.total += element_part(self._keys, record.parent, record.key, stored_at, mac)
        thread.elements.add(number)
        # Behind checkpoints and writes, in the order of kinds: which are chunks is known.
        if number in thread.chunks:
            thread.wanted.update(decode_chunk(plaintext))

    def _document(self, record: StoredRecord) -> None:
        collection = self._above(record, Kind.COLLECTION)
        plaintext = self._opened(record, collection.state.birth)
        collection.total += self._part(record, plaintext)
        collection.counted += 1
        collection.placed[record.key] = int.from_bytes(plaintext[:NUMBER_BYTES])
        self._check_digests(record, with_time(record.updated_at, plaintext[NUMBER_BYTES:]))

    def _check_digests(self, record: StoredRecord, body: bytes) -> None:
        place, column = (record.parent, record.key), record.equalities
        equalities.check(self._keys, Kind(record.kind), place, column, body)

    def _embedding(self, record: StoredRecord) -> None:
        above = self._above(record, Kind.COLLECTION, Kind.SESSION, Kind.THREAD)
        plaintext = self._opened(record, above.state.birth)
        if above.kind is Kind.COLLECTION:
            if record.created_at != record.updated_at:
                raise RecordDoesNotOpen(Kind.EMBEDDING.label, "it has two times")
            block, number = Block.unpacked(plaintext), number_of(record.key)
            above.total += self._part(record, block.version)
            for digest in block.digests:
                # Behind the documents, in the order of kinds.
                if above.placed.get(digest) == number:
                    del above.placed[digest]

    def _part(self, record: StoredRecord, content: bytes) -> int:
        address = record.parent, record.key
        return member_part(self._keys, Kind(record.kind), address, record.updated_at, content)

    def _item(self, record: StoredRecord) -> None:
        address = (record.parent, record.key, record.sealed)
        times = (record.created_at, record.updated_at, record.expires_at, record.expiry_mac)
        items_in(self._items, [address + times])
        plaintext = self._items.items[record.parent](record.key, record.sealed)
        self._check_digests(record, plaintext)
        if above := self._containers.get((Kind.ITEM, counting.digest_of(self._keys))):
            place = record.parent, record.key
            above.total += counting.item_part(self._keys, place, *times[:2], plaintext)
            above.counted += 1

    def _vector(self, record: StoredRecord) -> None:
        # It begins with when its item was put.
        if int.from_bytes(self._opened(record)[:8]) != record.updated_at:
            raise RecordDoesNotOpen(Kind.VECTOR.label, "its time is not the one it was put at")

    def _entry(self, record: StoredRecord) -> None:
        times = (record.tag, record.updated_at, record.expires_at)
        row = (record.key, record.sealed, *times)
        entries.check(self._keys, Kind(record.kind), record.parent, row, record.expiry_mac)


def verify(transaction: Transaction, keys: ScopeKeys, told: Told = _refuse) -> Counter[Kind]:
    """How many records a scope has of each kind, when all of them are as they were stored.

    Args:
        told: Told of what is not, and the walk goes on. By default it ends there, by raising.

    Raises:
        RecordDoesNotOpen: Something was changed, moved, exchanged, restored or removed.
        RecordError: A later version of this package wrote something.
    """
    return _Verification(transaction, keys, told).run()


def flaws(
    transaction: Transaction, keys: ScopeKeys, most: int
) -> tuple[Counter[Kind], Counter[str], list[Flaw]]:
    """How many records there are, how many flaws of each aspect, and the first ``most`` of these.

    Of a locked user content is counted, and not opened. Whether a flaw is one, or another process
    has rotated keys or erased the scope meanwhile, is for the caller to find out.
    """
    found: list[Flaw] = []
    numbers: Counter[str] = Counter()

    def told(error: RecordError, aspect: str, place: str) -> None:
        if isinstance(error, KeyOutdated):
            # Not of this row alone: it is gone through again with the keys as they are now.
            raise error
        numbers[aspect] += 1
        if len(found) < most:
            kind, reason = getattr(error, "kind", "record"), getattr(error, "reason", "its form")
            key_id = getattr(error, "key_id", None)
            found.append(Flaw(aspect, kind, reason, place, key_id))

    return verify(transaction, keys, told), numbers, found


def _hex(part: object) -> str:
    """A part of an address; SQLite keeps any type in any column."""
    return part.hex() if type(part) is bytes else f"({type(part).__name__})"
