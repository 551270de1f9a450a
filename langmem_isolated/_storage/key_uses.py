"""Key uses: which version of its key a scope has records of, and how often each has sealed.

A row for a version says that records of it may be there, so the key must not be destroyed. Versions
from the scope's ``oldest_key`` on are in use without one. The row of an older one is made when
``oldest_key`` is raised above it, and removed when nothing of it is left. What each process has
sealed it adds to the row's count, now and then.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Integer, LargeBinary, bindparam, delete, func, select

from langmem_isolated._crypto.seal_counter import SealCounter
from langmem_isolated._database import schema
from langmem_isolated._database.admission import Admission, AdmissionToAll
from langmem_isolated._database.database import Database
from langmem_isolated._database.driver_errors import Conflict
from langmem_isolated._database.statements import InsertsByDialect, insert_if_absent
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.forking import renew_in_children
from langmem_isolated.errors import DatabaseError

_log = logging.getLogger("langmem_isolated")

_COLUMNS = ("scope_id", "key_version", "seals")
_uses = schema.key_uses.c


def _add(insert: Any) -> Any:
    # From the scope's row: a scope that is gone has no uses to count, and no foreign key breaks.
    row = select(
        schema.scopes.c.scope_id, bindparam("key_version", type_=_uses.key_version.type),
        bindparam("seals", type_=_uses.seals.type),
    ).where(schema.scopes.c.scope_id == bindparam("scope_id"))  # fmt: skip
    upsert = insert.from_select(_COLUMNS, row).on_conflict_do_update(
        index_elements=["scope_id", "key_version"],
        set_={"seals": _uses.seals + insert.excluded.seals},
    )
    return upsert.returning(_uses.seals)


_ADD = InsertsByDialect(schema.key_uses, _add)
_NOTE = insert_if_absent(schema.key_uses, *_COLUMNS)
_OLDEST = select(func.min(_uses.key_version)).where(
    _uses.scope_id == bindparam("scope_id", type_=LargeBinary)
)
_FORGET = delete(schema.key_uses).where(
    _uses.scope_id == bindparam("scope_id", type_=LargeBinary),
    _uses.key_version < bindparam("version", type_=Integer),
)
_MOST = select(func.max(_uses.seals))


# An open cursor of SQLite takes 100 kB: of 5,000 keys that were 570 MB.
_CURSORS = 100


def most_seals(database: Database) -> int:
    """How many records the key has sealed that was used most, as far as counts are stored."""
    with AdmissionToAll():
        row = database.read(Transaction.row, _MOST)
    return row[0] if row and type(row[0]) is int else 0


def note_in_use(transaction: Transaction, scope_id: bytes, versions: Iterable[int]) -> None:
    """Have the index say that a scope may have records of these versions."""
    rows: list[dict[str, object]] = [
        {"scope_id": scope_id, "key_version": version, "seals": 0} for version in versions
    ]
    transaction.execute_many(_NOTE[transaction.is_postgres], rows)


def forget_below(transaction: Transaction, scope_id: bytes, version: int) -> None:
    """Have the index say that a scope has no record of any version below."""
    transaction.execute(_FORGET, scope_id=scope_id, version=version)


def oldest_in_use(database: Database, scope_id: bytes) -> int | None:
    """The oldest version of its key that the index knows in use in a scope, if it knows any."""
    with Admission(scope_id):
        row = database.read(Transaction.row, _OLDEST, scope_id=scope_id)
    return row[0] if row else None


class _UsedKey:
    """Whose counter it is: told of its batches, and of its end."""

    __slots__ = ("_uses", "key_version", "scope_id")

    def __init__(self, uses: "KeyUses", scope_id: bytes, key_version: int) -> None:
        self._uses = uses
        self.scope_id = scope_id
        self.key_version = key_version

    def batch_ended(self) -> None:
        self._uses.is_due = True

    def half_used(self) -> None:
        self._uses.warn(self)

    def forgotten(self, seals: int) -> None:
        self._uses.forgotten.append((self, seals))


class KeyUses:
    """Counts the seals of every scope's key, and stores the counts now and then.

    What a process has counted and not stored is lost with it when it is killed: at most 65,536
    seals a key. Nothing is stored while anything seals, since that is inside a transaction.

    Args:
        database: Holds the counts.
        counter: What counts.
    """

    # Counts that wait of keys with which nobody here seals any more: 100 bytes each.
    MOST_FORGOTTEN = 4096

    def __init__(self, database: Database, counter: type[SealCounter] = SealCounter) -> None:
        self._database = database
        self._new_counter = counter
        self._counters: WeakKeyDictionary[SealCounter, _UsedKey] = WeakKeyDictionary()
        self.forgotten: deque[tuple[_UsedKey, int]] = deque()
        self._warned: set[tuple[bytes, int]] = set()
        self.is_due = False
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Give a forked child a lock that no thread of its parent holds."""
        self._lock = threading.Lock()

    def counter(self, scope_id: bytes, key_version: int, stored: int) -> SealCounter:
        """A counter of one key's seals, on top of ``stored``."""
        used = _UsedKey(self, scope_id, key_version)
        counter = self._new_counter(stored, used)
        with self._lock:
            self._counters[counter] = used
        return counter

    def store_if_due(self) -> None:
        """Store the counts if a batch has ended; outside of transactions. It never raises."""
        if self.is_due or len(self.forgotten) > self.MOST_FORGOTTEN:
            self.store()

    def store(self) -> None:
        """Store the counts there are; where the database refuses, they wait for the next batch."""
        self.is_due = False
        with self._lock:
            counters = list(self._counters.items())
        collected = [(c, used, seals) for c, used in counters if (seals := c.collect())]
        forgotten = self._drain()
        counts = [(used, seals) for _, used, seals in collected] + forgotten
        try:
            with Admission(*(used.scope_id for used, _ in counts)):
                totals = self._database.write(_store, counts) if counts else []
        except (DatabaseError, Conflict):
            self.forgotten.extend(forgotten)
            for counter, _, seals in collected:
                counter.put_back(seals)
            return
        for (counter, *_), total in zip(collected, totals, strict=False):
            counter.learn(total)

    def _drain(self) -> list[tuple[_UsedKey, int]]:
        drained = []
        with suppress(IndexError):
            while True:
                drained.append(self.forgotten.popleft())
        return drained

    def warn(self, used: _UsedKey) -> None:
        """Log, once a key, that half of its seals are done."""
        key = used.scope_id, used.key_version
        if key not in self._warned:
            self._warned.add(key)
            _log.warning(
                "A sealing key has sealed half of the 2^32 records that one key may seal (NIST SP "
                "800-38D, 8.3); rotate its user's keys. `langmem-isolated doctor` counts them."
            )


def _store(transaction: Transaction, counts: Sequence[tuple[_UsedKey, int]]) -> list[int]:
    totals: list[int] = []
    for start in range(0, len(counts), _CURSORS):
        totals += _store_some(transaction, counts[start : start + _CURSORS])
    return totals


def _store_some(transaction: Transaction, counts: Sequence[tuple[_UsedKey, int]]) -> list[int]:
    add = _ADD[transaction.is_postgres]
    # Rows are fetched later: on PostgreSQL all share a round trip.
    asked = [
        transaction.query(add, scope_id=used.scope_id, key_version=used.key_version, seals=seals)
        for used, seals in counts
    ]
    return [sum(total for (total,) in cursor.fetchall()) for cursor in asked]
