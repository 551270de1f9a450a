"""Read replica: what may be read on a server that follows the primary, and when it is near enough.

A replica says how far in the primary's log it has come. Two things are asked of it, and both are
one comparison with what the primary said of itself before:

- *Read your own writes.* What this process wrote for an owner is behind whatever the primary says
  afterwards. Until it was asked again, and the replica has come as far, that owner is read on the
  primary. A writer pays nothing: no statement is sent beside its own.
- *Bounded staleness.* A replica that has come as far as the primary was no more than `lag` seconds
  ago lacks nothing that is older. The times of the server's own rows would not tell: on a primary
  that is idle they stand still, and clocks differ.

Positions are known by connection: behind one name there may be several replicas.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.callers import Job, current_owner
from langmem_isolated._runtime.forking import renew_in_children
from langmem_isolated.errors import DatabaseError, DatabaseLocked, DatabaseUnreachable, SchemaTooOld

if TYPE_CHECKING:
    from langmem_isolated._runtime.budgets import Owner

P = ParamSpec("P")
T = TypeVar("T")

# The primary is asked at most so often, by reads that need to know: 0.1 ms each.
_PRIMARY_SECONDS = 0.25
# A replica that was behind is asked again after this, on each connection: it follows in 1 to 5 ms.
_REPLICA_SECONDS = 0.01
# How long one that failed is left alone, but for the one read that tries it then.
_PAUSE_SECONDS = 5.0
# Of whom it is known when this process wrote for them last; of all others it is assumed that it
# was when the last one beyond these was forgotten.
_OWNERS = 10_000

_ASKED = (
    "SELECT system_identifier, (SELECT oid FROM pg_database WHERE datname = current_database()),"
    " {timeline} AS timeline, ({position} - '0/0'::pg_lsn)::bigint FROM pg_control_system()"
)
# Positions compare within one history: a replica of a primary that died may be ahead of the new one
# and lack what that wrote. The new history's number is in the name of the log that is written.
_OF_PRIMARY = sa.text(
    _ASKED.format(
        timeline="('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int",
        position="pg_current_wal_insert_lsn()",
    )
)
# NULL where nothing is replayed: a server that is no replica, or was promoted, and goes on to tell
# how far it had come. A replica knows a new history for certain once it has made a restart point in
# it, as it does every `checkpoint_timeout`.
_OF_REPLICA = sa.text(
    _ASKED.format(
        timeline="(SELECT greatest(timeline_id, min_recovery_end_timeline)"
        " FROM pg_control_checkpoint(), pg_control_recovery())",
        position="CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END",
    )
)
_BEHIND = sa.text(
    "SELECT CASE WHEN pg_is_in_recovery()"
    " THEN extract(epoch FROM now() - pg_last_xact_replay_timestamp()) END"
)

_logger = logging.getLogger(__name__)


class Server(Protocol):
    """A database, as far as it is asked where it stands; `Database` is one."""

    def open(self) -> None:
        """Check what is to be known before the first use."""

    def close(self) -> None:
        """Close every connection."""

    def give_up_silent(self) -> None:
        """Take a server that says nothing for one that is gone."""

    def inspect(self, work: Callable[[sa.Connection], T]) -> T:
        """Run ``work`` outside of a transaction, opened or not."""

    def read(
        self, operation: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation``, a single query."""

    def snapshot(
        self, operation: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``operation``, several queries of one state."""


class _Behind(Exception):
    """A replica has not come as far as it has to, or was only now asked how far.

    Args:
        is_near: Whether it answered that it has.
    """

    def __init__(self, *, is_near: bool) -> None:
        super().__init__()
        self.is_near = is_near


class _Seen(NamedTuple):
    """How far in its log a primary was, at some time or later."""

    time: float
    position: int


class _Replayed(NamedTuple):
    """How far a replica had come, when it was asked."""

    time: float
    position: int


class Replica:
    """A replica of a database, asked first by the reads that may lag.

    Whatever goes wrong there, the primary is asked: no read fails for want of a replica.

    Args:
        primary: What it follows.
        database: The replica. It is closed with this.
        lag: How many seconds old, at most, what is read may be.
    """

    def __init__(self, primary: Server, database: Server, lag: float) -> None:
        self._primary, self._database, self._lag = primary, database, lag
        self._every = min(_PRIMARY_SECONDS, lag / 4)
        self._seen: deque[_Seen] = deque()
        self._identity: tuple[int, int] | None = None
        self._timeline = 0
        self._written: OrderedDict[Owner, float] = OrderedDict()
        self._written_by_others = self._last_written = float("-inf")
        self._replayed: WeakKeyDictionary[Any, _Replayed] = WeakKeyDictionary()
        self._paused_until = float("-inf")
        database.give_up_silent()
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Let a forked child begin with locks of its own."""
        self._lock, self._asking = threading.Lock(), threading.Lock()

    def open(self) -> None:
        """Look whether it is a replica of the same database, if it can be reached.

        Raises:
            DatabaseError: It is of another database.
        """
        self._take(*self._primary.inspect(lambda it: it.execute(_OF_PRIMARY).one()))
        try:
            self._database.open()
            found = self._database.inspect(lambda it: it.execute(_OF_REPLICA).one())
        except (DatabaseUnreachable, SchemaTooOld) as error:
            # It may come, and follow the upgrade that was made a moment ago.
            self._pause(error)
        else:
            self._checked(*found)

    @contextmanager
    def noting_write(self) -> Iterator[None]:
        """A context that writes; for whom this thread works, is known to have written behind it."""
        try:
            yield
        finally:
            self._note_write(current_owner(), time.monotonic())

    def _note_write(self, owner: "Owner", now: float) -> None:
        with self._lock:
            self._last_written = now
            if _is_nobody(owner):
                self._written_by_others = now
                return
            self._written[owner] = now
            self._written.move_to_end(owner)
            if len(self._written) > _OWNERS:
                _, forgotten = self._written.popitem(last=False)
                self._written_by_others = max(self._written_by_others, forgotten)

    def run(
        self,
        here: Callable[..., T],
        there: Callable[..., T],
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run ``operation`` on the replica, or on the primary where it is not near enough.

        Args:
            here: The primary's door.
            there: The replica's.
            operation: What is run. It may be run on both.
        """
        needed = self._needed() if self._may_try() else None
        if needed is not None:
            # One that has to ask how far the replica is cannot see in its own snapshot what came
            # in between: it comes again.
            for _ in range(2):
                try:
                    result = there(self._near, needed, operation, *args, **kwargs)
                except _Behind as behind:
                    if not behind.is_near:
                        break
                except DatabaseLocked:
                    break  # it has to go on, or all its connections are taken
                except DatabaseError as error:
                    self._pause(error)
                    break
                except Exception:  # noqa: BLE001 - what is wrong there need not be so here
                    break
                else:
                    self._paused_until = float("-inf")
                    return result
        return here(operation, *args, **kwargs)

    @property
    def doors(self) -> Server:
        """Whose doors lead to the replica."""
        return self._database

    def seconds_behind(self) -> float | None:
        """How old the last transaction is that the replica has; ``None`` if it had none yet.

        Of a primary that is idle it says nothing: what is not written cannot be behind.

        Raises:
            DatabaseError: The replica cannot be reached, or is of another database.
        """
        at = self._take(*self._primary.inspect(lambda it: it.execute(_OF_PRIMARY).one()))
        found = self._database.inspect(lambda it: it.execute(_OF_REPLICA).one())
        if self._checked(*found) >= at:
            return 0.0
        seconds = self._database.inspect(lambda it: it.execute(_BEHIND).scalar_one())
        return None if seconds is None else float(seconds)

    def shares_history(self) -> bool:
        """Whether it is known to be in the history of the primary, as that was last asked.

        Raises:
            DatabaseError: The replica cannot be reached.
        """
        found = self._database.inspect(lambda it: it.execute(_OF_REPLICA).one())
        return bool(found.timeline == self._timeline)

    def close(self) -> None:
        """Close the replica's connections."""
        self._database.close()

    def _may_try(self) -> bool:
        """Whether it is not left alone; of those who come when the time is over, one tries."""
        if self._paused_until == float("-inf"):
            return True
        with self._lock:
            if time.monotonic() < self._paused_until:
                return False
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
        return True

    def _pause(self, error: DatabaseError) -> None:
        if self._paused_until == float("-inf"):
            _logger.warning("The read replica is left alone for a while: %s", type(error).__name__)
        self._paused_until = time.monotonic() + _PAUSE_SECONDS

    def _needed(self) -> int | None:
        """How far a replica has to be, for whom this thread works; ``None`` if it is not known."""
        owner = current_owner()
        with self._lock:
            by_owner = self._written.get(owner, self._written_by_others)
            # What is read for nobody is about everybody.
            written = (
                self._last_written if _is_nobody(owner) else max(by_owner, self._written_by_others)
            )
        if (found := self._seen_after(written)) is None or self._is_due():
            self._ask_primary()
            found = self._seen_after(written)
        return found

    def _seen_after(self, written: float) -> int | None:
        since = max(written, time.monotonic() - self._lag)
        with self._lock:
            # The first that is late enough: the one that asks least.
            return next((seen.position for seen in self._seen if seen.time > since), None)

    def _is_due(self) -> bool:
        with self._lock:
            return not self._seen or time.monotonic() - self._seen[-1].time > self._every

    def _ask_primary(self) -> None:
        """Learn how far the primary is, unless it is being asked, or was a moment ago."""
        if not self._is_due() or not self._asking.acquire(blocking=False):
            return
        try:
            asked = time.monotonic()
            with suppress(DatabaseError):
                position = self._take(*self._primary.read(Transaction.row, _OF_PRIMARY) or ())
                with self._lock:
                    self._seen.append(_Seen(asked, position))
                    while self._seen[0].time < asked - self._lag:
                        self._seen.popleft()
        finally:
            self._asking.release()

    def _near(
        self,
        transaction: Transaction,
        needed: int,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run ``operation`` where this connection's server is known to have come as far."""
        known = self._replayed.get(transaction.connection)
        if known is None or known.position < needed:
            now = time.monotonic()
            if known is not None and now - known.time < _REPLICA_SECONDS:
                raise _Behind(is_near=False)
            position = self._checked(*transaction.row(_OF_REPLICA) or ())
            self._replayed[transaction.connection] = _Replayed(now, position)
            raise _Behind(is_near=position >= needed)
        return operation(transaction, *args, **kwargs)

    def _take(self, system: int, database: int, timeline: int, position: int) -> int:
        """Learn what the primary is; how far it is."""
        if timeline != self._timeline:
            # What was replayed of the former history says nothing of this one.
            self._replayed.clear()
        self._identity, self._timeline = (system, database), timeline
        return position

    def _checked(self, system: int, database: int, timeline: int, position: int | None) -> int:
        """How far the replica is in the primary's history; before all of it, if in another."""
        if (system, database) != self._identity:
            raise DatabaseError(
                "read_replica= leads to another database. Expected a physical replica of the one "
                "that url= leads to (its system identifier and database are compared); give the "
                "URL of a server that streams from it. Nothing was read there."
            )
        return -1 if position is None or timeline != self._timeline else position


def _is_nobody(owner: "Owner") -> bool:
    """Whether what is done for ``owner`` may be about everybody."""
    return owner is None or isinstance(owner, Job)
