"""Write chain: the writes of one thread by this process, each going on from where one left it."""

import threading
from collections.abc import Mapping
from typing import NamedTuple

from langmem_isolated._codecs.checkpoints.element_cache import ElementCache
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._database.write_queue import CommitDelay
from langmem_isolated._storage.container_state import ContainerState
from langmem_isolated._storage.threads import writing
from langmem_isolated._storage.threads.writing import NewBody, Stored

# LangGraph stores the next checkpoint 0.1 to 0.6 ms behind a task's writes: together they are one
# commit, and a turn of one node takes three of them instead of five.
_COMPANY_SECONDS = 0.002


class _Latest(NamedTuple):
    """What a write left behind, which is so if its transaction was committed."""

    transaction: Transaction
    state: ContainerState
    numbers: Mapping[bytes, int]


class WriteChain:
    """The state in which a thread was left, for compare-and-swap without reading it again.

    Writes of one thread that share a transaction follow each other in it, before it is committed.

    Args:
        known: What this process knows of the thread's elements, in one generation.
    """

    __slots__ = ("_known", "_latest", "_state", "delay", "turn")

    def __init__(self, known: ElementCache) -> None:
        self._known = known
        self._state: ContainerState | None = None
        self._latest: _Latest | None = None
        self.delay = CommitDelay(_COMPANY_SECONDS)
        # On PostgreSQL each has a transaction of its own: in turn, each finds what one left.
        self.turn = threading.Lock()

    @classmethod
    def of(cls, known: ElementCache) -> "WriteChain":
        """The one that belongs to what is known of a thread."""
        chain: WriteChain = known.chain or vars(known).setdefault("chain", cls(known))
        return chain

    @property
    def is_begun(self) -> bool:
        """Whether any state is known."""
        return self._state is not None or self._latest is not None

    def begin(self, state: ContainerState) -> None:
        """Go on from a state that was read, or stored in another way."""
        self._state, self._latest = state, None

    def end(self) -> None:
        """Go on from nothing: the thread is not as it was left."""
        self._state = self._latest = None

    def put(
        self,
        transaction: Transaction,
        keys: ScopeKeys,
        digest: bytes,
        body: NewBody,
        now: int,
        expires_at: int | None,
    ) -> Stored | None:
        """Store a body onto the last state; ``None`` if the thread is in another.

        Raises:
            Conflict: A body or an element stands there already; nothing was written.
        """
        state, pending = self._seen_from(transaction)
        if state is None:
            return None
        numbers = {}
        for mac, _ in body.elements:
            number = pending.get(mac, self._known.numbers.get(mac))
            if number is not None:
                numbers[mac] = number
        stored = writing.put_if_unchanged(
            transaction, keys, digest, body, state, numbers, now, expires_at
        )
        if stored is not None:
            self._latest = _Latest(transaction, stored.state, {**pending, **stored.numbers})
        return stored

    def _seen_from(
        self, transaction: Transaction
    ) -> tuple[ContainerState | None, Mapping[bytes, int]]:
        latest = self._latest
        if latest is not None:
            if latest.transaction is transaction:
                return latest.state, latest.numbers
            if latest.transaction.is_stored:
                self._settle(latest)
        return self._state, {}

    def _settle(self, latest: _Latest) -> None:
        for mac, number in latest.numbers.items():
            self._known.put_mac(mac, number)
        self._state, self._latest = latest.state, None

    def settle(self, stored: Stored) -> None:
        """Take note that what :meth:`put` returned is committed."""
        latest = self._latest
        if latest is not None and (latest.state is stored.state or latest.transaction.is_stored):
            self._settle(latest)
