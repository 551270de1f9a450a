"""Guests: the records of anonymous owners, which are there until they expire or are claimed.

Until when is said by an entry of kind *claim* in the guest's own scope, the *life*. It expires when
the guest does, so whoever sweeps expired records finds it. Its value is, in bytes::

    8 idle | 8 last time | 8 end

Idle is how long nobody may get in, the last time that of the last who did, the end when it is over
in any case: µs, and µs since 1970, UTC; 0 where there is no such limit.
"""

import struct
import sys
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.database import only_reads
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import SECOND, now
from langmem_isolated._storage import entries
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.scoped_database import Operation, P, ScopedDatabase
from langmem_isolated.errors import AnonymousNotFound, KeyDestroyed

T = TypeVar("T")

SPACE = (b"anonymous",)
_LIFE = b"life"
_FORM = struct.Struct(">QQQ")
# Refreshed when so much of the idle time has passed: each time would be a write for each request.
_WORTH_A_WRITE = 10
# How long a reader does not ask again whether the guest is there; each time would be a query more.
_KNOWN_FOR = SECOND


class Life(NamedTuple):
    """How long a guest is there; times as they are stored."""

    idle: int
    last: int
    end: int

    @property
    def until(self) -> int:
        """When it expires."""
        limits = [self.last + self.idle] if self.idle else []
        limits += [self.end] if self.end else []
        return min(limits, default=sys.maxsize)

    def is_to_be_refreshed(self, moment: int) -> bool:
        """Whether getting in at a moment is to be remembered."""
        return bool(self.idle) and moment - self.last > self.idle // _WORTH_A_WRITE


def read_life(transaction: Transaction, keys: ScopeKeys, moment: int) -> Life | None:
    """A guest's life; ``None`` for one that has expired or was claimed."""
    (value,) = entries.get(transaction, keys, SPACE, [_LIFE], moment, kind=Kind.CLAIM)
    return None if value is None else Life(*_FORM.unpack(value))


def put_life(transaction: Transaction, keys: ScopeKeys, life: Life, moment: int) -> None:
    """Store a guest's life.

    Raises:
        ScopeGone: The guest was removed; nothing was written.
    """
    lifetime = None if life.until == sys.maxsize else max(life.until - moment, 0)
    entry = Entry(_LIFE, _FORM.pack(*life))
    entries.put(transaction, keys, SPACE, [entry], moment, lifetime, kind=Kind.CLAIM)


def end_life(transaction: Transaction, keys: ScopeKeys, moment: int) -> None:
    """Let a guest expire now.

    Raises:
        ScopeGone: The guest was removed; nothing was written.
    """
    put_life(transaction, keys, Life(0, moment, moment), moment)


def refresh(transaction: Transaction, keys: ScopeKeys, moment: int) -> Life | None:
    """A guest's life, which begins its idle time anew; ``None`` as in :func:`read_life`.

    Raises:
        ScopeGone: The guest was removed; nothing was written.
    """
    life = read_life(transaction, keys, moment)
    if life is not None and life.is_to_be_refreshed(moment):
        life = life._replace(last=moment)
        put_life(transaction, keys, life, moment)
    return life


def _while_there(operation: Operation[P, T]) -> Operation[P, T]:
    """``operation``, which writes, undone if the guest is gone by its end.

    Asked behind what it wrote: that has waited for a claim that was about to end the guest, and a
    claim waits for it. Asked before, what was acknowledged could be removed with the guest.
    """

    def body(transaction: Transaction, keys: ScopeKeys, /, *args: P.args, **kwargs: P.kwargs) -> T:
        done = operation(transaction, keys, *args, **kwargs)
        if read_life(transaction, keys, now()) is None:
            raise AnonymousNotFound
        return done

    return body


class GuestDatabase(ScopedDatabase):
    """A guest's records, for as long as the guest is there.

    Raises:
        AnonymousNotFound: By each operation, once the guest has expired, was claimed or removed;
            by one that only reads within a second of a claim or removal by another process.
    """

    _until = 0

    def _obtain(self) -> ScopeKeys:
        return self._find()

    def _find(self) -> ScopeKeys:
        keys = super()._find()
        if keys is None:
            raise AnonymousNotFound
        return keys

    def run_with_keys(
        self,
        keys: ScopeKeys,
        door: Callable[..., T],
        operation: Operation[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run ``operation``; see :meth:`ScopedDatabase.run_with_keys`."""
        run = super().run_with_keys
        try:
            self._expect_there(keys)
            if only_reads(door):
                return run(keys, door, operation, *args, **kwargs)
            return run(keys, self.database.write, _while_there(operation), *args, **kwargs)
        except KeyDestroyed:
            raise AnonymousNotFound from None
        except AnonymousNotFound:
            self._until = 0
            raise

    def _expect_there(self, keys: ScopeKeys) -> None:
        moment = now()
        if moment < self._until:
            return
        life = super().run_with_keys(keys, self.database.read, read_life, moment)
        if life is None:
            raise AnonymousNotFound
        self._until = min(life.until, moment + _KNOWN_FOR)
