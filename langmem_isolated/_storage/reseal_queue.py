"""Reseal queue: scopes in which a read met a former key, sealed anew behind the read.

A rotation that was begun and not ended goes on where memory is used. Nothing is done inside of a
read but to note the scope; a worker thread seals batches anew, each in a transaction, for a moment.
To look at all and to destroy former keys is left to the rotation.
"""

import logging
import threading
import time
from collections import deque
from contextlib import suppress
from weakref import WeakKeyDictionary

from langmem_isolated._crypto.owners import Owner
from langmem_isolated._database.database import Database
from langmem_isolated._runtime.callers import Job, OnBehalfOf
from langmem_isolated._runtime.forking import renew_in_children
from langmem_isolated._storage.keyring import Keyring
from langmem_isolated._storage.resealing import Resealing
from langmem_isolated._storage.scope_rows import ScopeRows
from langmem_isolated._storage.write_barrier import raise_barrier
from langmem_isolated.errors import LangmemIsolatedError

_log = logging.getLogger("langmem_isolated.scopes")

# Whose budget of writes it takes: while others write, it rests for two thirds of the time.
_CALLER = Job("rotation")
# Of work for one scope; the next read that meets a former key asks for more.
_SECONDS = 0.25


class ResealQueue:
    """The scopes of one memory that wait.

    Args:
        database: Holds them.
        keyring: Has their keys.
    """

    MOST = 256
    """Scopes that wait at once; of more, reads ask again later."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring
        self.is_on = True
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Begin empty in a forked child: the thread that works is its parent's."""
        self._lock = threading.Lock()
        self._waiting: deque[Owner] = deque()
        self._works = False

    def tell(self, owner: Owner) -> None:
        """Have an owner's scope sealed anew, soon; never waits for it, and never raises."""
        with self._lock:
            is_known = owner in self._waiting or len(self._waiting) >= self.MOST
            if not self.is_on or is_known:
                return
            self._waiting.append(owner)
            if self._works:
                return
            self._works = True
        try:
            with OnBehalfOf(_CALLER):
                self._database.submit(self._work)
        except (LangmemIsolatedError, RuntimeError):
            # It is being closed.
            self.renew_after_fork()

    def _next(self) -> Owner | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._works = False
            return None

    def _work(self) -> None:
        while owner := self._next():
            try:
                self._reseal(owner)
            except LangmemIsolatedError as error:
                # Whoever reads or rotates meets it, too.
                _log.warning("A scope was not sealed anew (%s).", type(error).__name__)

    def _reseal(self, owner: Owner) -> None:
        ends = time.monotonic() + _SECONDS
        self._keyring.forget(owner)
        keys, directory = self._keyring.find(owner), self._keyring.directory()
        if keys is None or directory is None or keys.is_locked:
            return
        row = ScopeRows(self._database).by_id(directory, keys.scope_id)
        if row is None or row.birth != keys.birth:
            return
        version = keys.sealing_version
        if row.oldest_key < version and not raise_barrier(self._database, directory, row, version):
            return
        for _ in Resealing(self._database, keys).steps():
            if time.monotonic() >= ends:
                break


_queues: WeakKeyDictionary[Keyring, ResealQueue] = WeakKeyDictionary()


def queue_of(database: Database, keyring: Keyring) -> ResealQueue:
    """The queue of a memory."""
    with suppress(KeyError):
        return _queues[keyring]
    return _queues.setdefault(keyring, ResealQueue(database, keyring))
