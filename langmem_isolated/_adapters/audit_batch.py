"""Batch: what is noted so often that each by itself would cost too much, counted for a second."""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from langmem_isolated._adapters.audit_actor import Actor, current_actor
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._runtime.forking import renew_in_children

_log = logging.getLogger("langmem_isolated.audit")

_SECONDS = 1.0
# How long it waits after it could not be stored.
_AGAIN_SECONDS = 10.0
# Of users, modules and actors whose counts could not be stored, as when the database is away.
_MOST_KEPT = 10_000


class Noted(NamedTuple):
    """What is counted together."""

    operation: str
    owner: Owner
    actor: Actor


class AuditBatch:
    """Counts, and has what was counted stored within a second, in a thread of its own.

    Args:
        store: Stores counts; what it raises keeps them for the next time.
    """

    def __init__(self, store: Callable[[Counter[Noted]], None]) -> None:
        self._store = store
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Begin with nothing in a forked child: what the parent has counted, it stores itself."""
        self._counts: Counter[Noted] = Counter()
        self._timer: threading.Timer | None = None
        self._is_closed = False
        self._lock = threading.Lock()
        # What is being stored is waited for: who looks or closes then would miss it.
        self._storing = threading.Lock()

    def add(self, operation: str, owner: Owner, count: int) -> None:
        """Count something; no I/O."""
        with self._lock:
            self._counts[Noted(operation, owner, current_actor())] += count
            self._store_in(_SECONDS)

    def _store_in(self, seconds: float) -> None:
        if self._timer is None and not self._is_closed:
            self._timer = threading.Timer(seconds, self._store_aside)
            self._timer.daemon = True
            self._timer.start()

    def _store_aside(self) -> None:
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001 - in a thread of its own, where nobody hears of it
            _log.error("Entries of the audit log wait: %s.", type(error).__name__)

    def flush(self) -> None:
        """Have all that was counted stored now.

        Raises:
            LangmemIsolatedError: It could not be, and is kept for the next time.
        """
        with self._storing:
            with self._lock:
                counts, self._counts, self._timer = self._counts, Counter(), None
            if counts:
                self._store_or_keep(counts)

    def _store_or_keep(self, counts: Counter[Noted]) -> None:
        try:
            self._store(counts)
        except BaseException:
            with self._lock:
                if len(self._counts) < _MOST_KEPT:
                    self._counts.update(counts)
                self._store_in(_AGAIN_SECONDS)
            raise

    def close(self) -> None:
        """Have what was counted stored, if it can be."""
        with self._lock:
            timer, self._is_closed = self._timer, True
        if timer is not None:
            timer.cancel()
        self._store_aside()
