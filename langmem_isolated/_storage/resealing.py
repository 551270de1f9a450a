"""Resealing: brings everything of one scope under the key that seals now, while others write.

A record is sealed again where it stands. Its plaintext, address, times, alias, MACs and size stay:
digests and MACs are by keys that never rotate, and what is deflated is not deflated anew. So
nothing that counts the record is touched.

An older key ends in three steps. The scope's ``oldest_key`` is raised first: who puts items and
entries with an older key is refused. Then that of every session, thread and collection, with its
header, under the row's lock: who appends below it is refused, or has lost a swap. Then the records,
which are found by the ids of their keys. A look at all of them that finds none is the proof that
none is left, and none can come any more.

Nobody waits here for one lock and holds another: in a batch, rows that somebody has locked are left
out, and are waited for later, one in a transaction. So no writer meets a deadlock.
"""

from collections.abc import Callable, Iterator
from itertools import chain, cycle, islice
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam, select, update

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database import schema
from langmem_isolated._database.admission import Admission
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.container_state import STATE, ContainerState, header_key
from langmem_isolated._storage.key_uses import forget_below
from langmem_isolated.errors import RecordDoesNotOpen

T = TypeVar("T")

PAGE = 500
"""Rows of a batch; each batch is one transaction."""
# Of what is read at once: documents have up to 4 MiB.
_PAGE_BYTES = 2**24
# Former keys that one statement looks for.
_FORMER_KEYS = 8

_SCOPE_ID = bindparam("scope_id", type_=sa.LargeBinary)
_records, _sessions = schema.records.c, schema.sessions.c
_ONE: sa.ColumnElement[int] = sa.literal_column("1")
# SQLite would be asked for parameters.
_LIMIT: sa.ColumnElement[int] = sa.literal_column(str(PAGE))
_FROM_THE_FIRST: sa.ColumnElement[int] = sa.literal_column("0")
# A key's id follows the format's byte.
_KEY_ID: list[sa.ColumnElement[int]] = [sa.literal_column("2"), sa.literal_column("16")]

_NAMES = ("kind", "parent", "key")
_ADDRESS = tuple(_records[name] for name in _NAMES)


def _given(prefix: str) -> list[sa.BindParameter[Any]]:
    return [bindparam(f"{prefix}_{column.name}", type_=column.type) for column in _ADDRESS]


_FORMER = [bindparam(f"former_{number}", type_=sa.LargeBinary) for number in range(_FORMER_KEYS)]
_IS_FORMER, _IS_FORMER_HEADER = (
    sa.func.substr(table.sealed, *_KEY_ID, type_=sa.LargeBinary).in_(_FORMER)
    for table in (_records, _sessions)
)
_OF_SCOPE = _records.scope_id == _SCOPE_ID
_IS_BEHIND = sa.tuple_(*_ADDRESS) > sa.tuple_(*_given("behind"))
_ADDRESSES = (
    select(*_ADDRESS, _records.size)
    .where(_OF_SCOPE, _IS_BEHIND, _IS_FORMER)
    .order_by(*_ADDRESS)
    .limit(_LIMIT)
    .offset(_FROM_THE_FIRST)
)
_ANY = select(_ONE).where(_OF_SCOPE, _IS_FORMER).limit(_ONE).offset(_FROM_THE_FIRST)
_above = schema.sessions.alias("above")
_IS_ABOVE = sa.and_(
    _above.c.scope_id == _records.scope_id,
    _above.c.kind.in_(
        [sa.literal_column(str(int(k))) for k in (Kind.SESSION, Kind.THREAD, Kind.COLLECTION)]
    ),
    _above.c.digest == sa.func.substr(_records.parent, _ONE, sa.literal_column(str(DIGEST_BYTES))),
)
# With the birth of the row above, of the same state: another life of it has another.
_SEALED = (
    select(*_ADDRESS, _records.sealed, _above.c.birth)
    .select_from(schema.records.outerjoin(_above, _IS_ABOVE))
    .where(_OF_SCOPE, _IS_BEHIND, sa.tuple_(*_ADDRESS) <= sa.tuple_(*_given("last")), _IS_FORMER)
)
_HERE = sa.and_(
    _OF_SCOPE,
    *(column == given for column, given in zip(_ADDRESS, _given("at"), strict=True)),
    # What was put anew meanwhile, or is gone, stays as it is.
    _records.sealed == bindparam("old_sealed", type_=sa.LargeBinary),
)


_PUT = (
    update(schema.records).where(_HERE).values(sealed=bindparam("new_sealed", type_=sa.LargeBinary))
)
# PostgreSQL: of rows that nobody has locked.
_free = select(_ONE.label("one")).select_from(schema.records).where(_HERE)
_locked = _free.with_for_update(key_share=True, skip_locked=True).cte("locked")
_PUT_FREE = _PUT.where(sa.exists().where(_locked.c.one == _ONE)).returning(_ONE)

_CONTAINER = (_sessions.kind, _sessions.digest)
_OUTDATED = select(*_CONTAINER, *STATE, _sessions.sealed).where(
    _sessions.scope_id == _SCOPE_ID, _sessions.oldest_key < bindparam("version", type_=sa.Integer)
)
_OUTDATED_PAGE = (
    _OUTDATED.where(
        sa.tuple_(*_CONTAINER)
        > sa.tuple_(
            bindparam("behind_kind", type_=sa.SmallInteger),
            bindparam("behind_digest", type_=sa.LargeBinary),
        )
    )
    .order_by(*_CONTAINER)
    .limit(_LIMIT)
    .offset(_FROM_THE_FIRST)
)
_FORMER_HEADERS = select(*_CONTAINER).where(_sessions.scope_id == _SCOPE_ID, _IS_FORMER_HEADER)
_FREE_PAGE = _OUTDATED_PAGE.with_for_update(skip_locked=True)
_IS_CONTAINER = sa.and_(
    _sessions.kind == bindparam("at_kind", type_=sa.SmallInteger),
    _sessions.digest == bindparam("at_digest", type_=sa.LargeBinary),
)
_OUTDATED_ONE = _OUTDATED.where(_IS_CONTAINER).with_for_update()
_RAISE = (
    update(schema.sessions)
    .where(_sessions.scope_id == _SCOPE_ID, _IS_CONTAINER)
    .values({name: bindparam(f"new_{name}") for name in ("oldest_key", "row_mac", "sealed")})
)

_Address = tuple[int, bytes, bytes]
_BEFORE_ALL: _Address = (-1, b"", b"")


class _Sealed(NamedTuple):
    """A record under a former key."""

    kind: int
    parent: bytes
    key: bytes
    sealed: bytes
    birth: bytes | None

    @property
    def address(self) -> _Address:
        return self.kind, self.parent, self.key

    def under(self, keys: ScopeKeys) -> dict[str, object]:
        """What puts it under the key that seals now, in place of what it is.

        Raises:
            RecordDoesNotOpen: It was changed, moved or exchanged.
        """
        try:
            kind = Kind(self.kind)
            prefix = keys.aad_prefix(kind, self.parent, self.birth or b"")
            new = keys.resealed(prefix, self.key, self.sealed, kind)
        except (TypeError, ValueError):
            # SQLite keeps any type in any column, and whoever tampers with rows knows it.
            raise RecordDoesNotOpen(Kind.SCOPE.label, "a column holds another type") from None
        return {
            "scope_id": keys.scope_id,
            **dict(zip(("at_kind", "at_parent", "at_key"), self.address, strict=True)),
            "old_sealed": self.sealed,
            "new_sealed": new,
        }


class Resealing:
    """Brings one scope under the key that seals now.

    Args:
        database: Holds it.
        keys: The scope's, read anew since that key was made; the scope's ``oldest_key`` has been
            raised to its version.
    """

    def __init__(self, database: Database, keys: ScopeKeys) -> None:
        self._database = database
        self._keys = keys
        self._here = {"scope_id": keys.scope_id}
        self._former = [*_asked_of(keys.former)]
        self.damaged: set[tuple[Any, ...]] = set()
        """Addresses of what was tampered with: it stays as it is, and so does its key."""

    def steps(self) -> Iterator[int]:
        """Seal all anew; gives behind each transaction how many records and headers it sealed.

        To come to an end between two of them loses nothing: those that are done are known by their
        keys.
        """
        yield from self._containers()
        if self._former:
            found = True
            waits = False
            while found:
                found = False
                for count in self._pass(waits=waits):
                    found = True
                    yield count
                waits = True

    @property
    def is_clean(self) -> bool:
        """Whether nothing is left under a former key, as a look at all records and headers says."""
        if self.damaged or not self._former:
            return not self.damaged
        records = (
            self._read(Transaction.row, _ANY, **self._here, **asked) for asked in self._former
        )
        return not any(records) and not any(self._former_headers())

    def forget_former(self) -> None:
        """Have the index of key use say that the scope needs no former key."""
        version = self._keys.sealing_version
        self._write(forget_below, self._keys.scope_id, version)

    def _read(self, ask: Callable[..., T], *args: Any, **values: Any) -> T:
        with Admission(self._keys.scope_id):
            return self._database.read(ask, *args, **values)

    def _write(self, change: Callable[..., T], *args: Any, **values: Any) -> T:
        with Admission(self._keys.scope_id):
            return self._database.write(change, *args, **values)

    # --- sessions, threads, collections

    def _containers(self) -> Iterator[int]:
        behind: tuple[int, bytes] | None = (-1, b"")
        while behind is not None:
            count, behind = self._write(self._raise_page, behind)
            yield count
        for kind, digest in self._outdated():
            yield self._write(self._raise_one, kind, digest)
        # Of rows that were tampered with: they say that a later key alone seals below them.
        self.damaged.update(self._former_headers())

    def _former_headers(self) -> Iterator[tuple[int, bytes]]:
        for asked in self._former:
            rows = self._read(Transaction.rows, _FORMER_HEADERS, **self._here, **asked)
            yield from (row[:2] for row in rows)

    def _raise_page(
        self, transaction: Transaction, behind: tuple[int, bytes]
    ) -> tuple[int, tuple[int, bytes] | None]:
        kind, digest = behind
        where = {"behind_kind": kind, "behind_digest": digest}
        rows = transaction.rows(_FREE_PAGE, **self._here, **where, version=self._version)
        count = self._raise(transaction, rows)
        return count, (rows[-1][:2] if len(rows) == PAGE else None)

    def _raise_one(self, transaction: Transaction, kind: int, digest: bytes) -> int:
        where = {"at_kind": kind, "at_digest": digest}
        rows = transaction.rows(_OUTDATED_ONE, **self._here, **where, version=self._version)
        return self._raise(transaction, rows)

    def _raise(self, transaction: Transaction, rows: list[Row]) -> int:
        raised = []
        for row in rows:
            try:
                raised.append(self._raised(row[0], row[1], row[2:]))
            except RecordDoesNotOpen:
                self.damaged.add(row[:2])
        transaction.execute_many(_RAISE, raised)
        return len(raised)

    def _raised(self, number: int, digest: bytes, row: Row) -> dict[str, object]:
        kind = Kind(number)
        state = ContainerState.checked(kind, self._keys, digest, row)
        new = state._replace(oldest_key=self._version).authenticated(kind, self._keys, digest)
        place = self._keys.aad_prefix(kind, b"", state.birth)
        return {
            **self._here,
            "at_kind": number,
            "at_digest": digest,
            "new_oldest_key": new.oldest_key,
            "new_row_mac": new.row_mac,
            "new_sealed": self._keys.resealed(place, header_key(digest, state), row[-1], kind),
        }

    @property
    def _version(self) -> int:
        return self._keys.sealing_version

    def _outdated(self) -> Iterator[tuple[int, bytes]]:
        """Those that somebody had locked."""
        behind = (-1, b"")
        while True:
            where = {"behind_kind": behind[0], "behind_digest": behind[1]}
            rows = self._read(
                Transaction.rows, _OUTDATED_PAGE, **self._here, **where, version=self._version
            )
            yield from (row[:2] for row in rows if row[:2] not in self.damaged)
            if len(rows) < PAGE:
                return
            behind = rows[-1][:2]

    # --- records

    def _pass(self, *, waits: bool) -> Iterator[int]:
        """Every record under a former key that is there; nothing is given where there is none."""
        for page in chain.from_iterable(map(self._pages, self._former)):
            new, damaged = [], []
            for record in page:
                try:
                    new.append(record.under(self._keys))
                except RecordDoesNotOpen:
                    damaged.append(record.address)
            self.damaged.update(damaged)
            if new:
                yield from self._stored(new, waits=waits)

    def _stored(self, new: list[dict[str, object]], *, waits: bool) -> Iterator[int]:
        if not waits:
            yield self._write(_put_free, new)
            return
        for one in new:
            yield int(self._write(Transaction.changes, _PUT, **one))

    def _pages(self, former: dict[str, bytes]) -> Iterator[list[_Sealed]]:
        behind: _Address = _BEFORE_ALL
        asked = self._here | former
        while rows := self._read(Transaction.rows, _ADDRESSES, **asked, **_named("behind", behind)):
            for last in _cut(rows):
                where = {**_named("behind", behind), **_named("last", last)}
                found = self._read(Transaction.rows, _SEALED, **asked, **where)
                page = [_Sealed._make(row) for row in found]
                yield [one for one in page if one.address not in self.damaged]
                behind = last


def _asked_of(former: list[bytes]) -> Iterator[dict[str, bytes]]:
    """Parameters of statements that together ask for every former key."""
    for start in range(0, len(former), _FORMER_KEYS):
        ids = islice(cycle(former[start : start + _FORMER_KEYS]), _FORMER_KEYS)
        yield {f"former_{number}": key_id for number, key_id in enumerate(ids)}


def _put_free(transaction: Transaction, new: list[dict[str, object]]) -> int:
    """Put records that nobody has locked in place of what they were; how many."""
    if transaction.is_postgres:
        return sum(map(len, transaction.rows_of_each(_PUT_FREE, new)))
    return sum(transaction.changes(_PUT, **one) for one in new)


def _named(prefix: str, address: _Address) -> dict[str, object]:
    return dict(zip((f"{prefix}_{name}" for name in _NAMES), address, strict=True))


def _cut(rows: list[Row]) -> Iterator[_Address]:
    """The last address of each part of a page that has not too many bytes."""
    size = 0
    for number, (*address, bytes_) in enumerate(rows):
        size += bytes_ if type(bytes_) is int else 0
        if size >= _PAGE_BYTES or number == len(rows) - 1:
            yield tuple(address)
            size = 0
