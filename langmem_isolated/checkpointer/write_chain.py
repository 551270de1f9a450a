"""Write chain: the writes of one thread by this process, each going on from where one left it.

Those that wait for their turn are stored with the one whose turn it is: in one statement for the
thread's row and one for theirs, in one commit, on PostgreSQL in one round trip.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter

from langmem_isolated._codecs.checkpoints.element_cache import ElementCache
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.driver_errors import Conflict
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.container_state import ContainerState
from langmem_isolated._storage.threads import writing
from langmem_isolated._storage.threads.writing import NewBody, NewThread, Stored

# LangGraph stores the next checkpoint 0.1 to 0.6 ms behind a task's writes: together they are one
# commit, and a turn of one node takes three of them instead of five.
_COMPANY_SECONDS = 0.002
# With so many delays in a row that brought no company, no more are tried but one in so many.
_IN_VAIN, _TRY_AGAIN = 2, 16
# A statement is made for each number of rows: 100 take 160 ms to compile, and above 9,362 they have
# more parameters than PostgreSQL takes.
MOST_ROWS = 17


class CommitDelay:
    """How long a write waits for others to commit it with theirs, while that pays.

    PostgreSQL's ``commit_delay``, for writes that are known to be followed by others soon. It
    adapts: where nobody comes there is no more waiting.

    Args:
        seconds: How long at most.
    """

    __slots__ = ("_asked", "_in_vain", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._in_vain = 0
        self._asked = 0

    def next(self) -> float:
        """How many seconds the next write may wait; 0 where it need not try."""
        self._asked += 1
        is_tried = self._in_vain < _IN_VAIN or self._asked % _TRY_AGAIN == 0
        return self._seconds if is_tried else 0

    def learn(self, *, was_joined: bool) -> None:
        """Take note of how a delay ended."""
        self._in_vain = 0 if was_joined else self._in_vain + 1


class WaitingWrite:
    """A body that waits until it is stored, or until its own thread has to see to it."""

    __slots__ = ("_ready", "body", "expires_at", "is_settled", "keys", "now", "stored")

    def __init__(self, keys: ScopeKeys, body: NewBody, now: int, expires_at: int | None) -> None:
        self.keys = keys
        self.body = body
        self.now = now
        self.expires_at = expires_at
        self.stored: Stored | None = None
        self.is_settled = False
        # A checkpoint waits for its turn alone.
        self._ready = threading.Lock() if body.slot.kind is Kind.WRITE else None
        if self._ready is not None:
            self._ready.acquire()

    @property
    def rows(self) -> int:
        """How many rows it makes at most."""
        return 1 + len(self.body.elements)

    def settle(self, stored: Stored | None) -> None:
        """Say what became of it to the thread that waits."""
        self.stored, self.is_settled = stored, True
        if self._ready is not None:
            self.wake()

    def wake(self) -> None:
        """Have the thread that waits look what there is for it to do."""
        if self._ready is not None:
            with suppress(RuntimeError):
                self._ready.release()

    def wait(self, seconds: float) -> None:
        """Wait until it is woken, so long at most: only a task's writes."""
        assert self._ready is not None
        self._ready.acquire(timeout=seconds)


class WriteChain:
    """The state in which a thread was left, for compare-and-swap without reading it again.

    Args:
        known: What this process knows of the thread's elements, in one generation.
    """

    __slots__ = ("_birth", "_delay", "_known", "_new", "_state", "_taken", "_turn", "_waiting")

    def __init__(self, known: ElementCache) -> None:
        self._known = known
        self._new: NewThread | None = None
        self._state: ContainerState | None = None
        self._birth = b""
        self._delay = CommitDelay(_COMPANY_SECONDS)
        self._turn = threading.Lock()
        self._waiting: deque[WaitingWrite] = deque()
        # Those of the turn that is going on.
        self._taken: list[WaitingWrite] = []

    @classmethod
    def of(cls, known: ElementCache) -> "WriteChain":
        """The one that belongs to what is known of a thread."""
        chain: WriteChain = known.chain or vars(known).setdefault("chain", cls(known))
        return chain

    @classmethod
    def of_new(cls, known: ElementCache, new: NewThread, keys: ScopeKeys) -> "WriteChain":
        """One that begins with the thread itself, which nobody here has seen yet."""
        chain = cls(known)
        chain._new, chain._birth = new, keys.birth
        return chain

    def may_store(self, absolute_lifetime: int | None) -> bool:
        """Whether it knows a state to go on from, or takes the thread to be new.

        Args:
            absolute_lifetime: What the caller begins a thread with: none is begun with another's.
        """
        new = self._new
        is_new = new is not None and new.beginning.absolute_lifetime == absolute_lifetime
        return is_new or self._state is not None

    @property
    def state(self) -> ContainerState | None:
        """The state in which the thread was left, as far as is known."""
        return self._state

    def begin(self, state: ContainerState, keys: ScopeKeys) -> None:
        """Go on from a state that was read, or stored in another way, with these keys."""
        self._state, self._birth, self._new = state, keys.birth, None

    def store(self, mine: WaitingWrite, run: Callable[..., Stored | None]) -> Stored | None:
        """Store a body onto the last state, and those that wait with it.

        Args:
            mine: The body.
            run: Runs an operation in a transaction; once it returns, what was written is stored.

        Returns:
            ``None`` if the thread is in another state, or something of one of them stands there
            already. Nothing was written then, and the thread's own row has to tell.
        """
        self._waiting.append(mine)
        try:
            if mine.body.slot.kind is Kind.WRITE:
                self._wait_for_company(mine)
            if not mine.is_settled:
                with self._turn:
                    if not mine.is_settled:
                        self._lead(mine, run)
        except BaseException:
            self._withdraw(mine)
            raise
        return mine.stored

    def _wait_for_company(self, mine: WaitingWrite) -> None:
        """Behind a task's writes comes a checkpoint, most often: wait for it a little."""
        if seconds := self._delay.next():
            with self._turn:
                # That checkpoint comes when the one before it is stored, and not sooner.
                pass
            mine.wait(seconds)
            self._delay.learn(was_joined=mine not in self._waiting)

    def _withdraw(self, mine: WaitingWrite) -> bool:
        """Whether it was still waiting, and is not any more."""
        try:
            self._waiting.remove(mine)
        except ValueError:
            return False
        return True

    def _lead(self, mine: WaitingWrite, run: Callable[..., Stored | None]) -> None:
        self._withdraw(mine)
        self._taken = [mine]
        stored = None
        try:
            stored = run(self.put, mine.body.slot.thread_digest)
        except Conflict:
            # Of which of them is not told: each finds out by itself.
            pass
        finally:
            self._go_on_from(stored)

    def _go_on_from(self, stored: Stored | None) -> None:
        self._state, self._new = stored and stored.state, None
        if stored:
            for mac, number in stored.numbers.items():
                self._known.put_mac(mac, number)
        for write in self._taken:
            write.settle(stored)

    def put(self, transaction: Transaction, keys: ScopeKeys, digest: bytes) -> Stored | None:
        """Store whatever waits at this moment; what an earlier attempt took, too.

        Raises:
            Conflict: A body or an element stands there already; nothing was written.
        """
        if keys.birth != self._birth:
            return None
        self._take_along()
        latest = max(self._taken, key=attrgetter("now"))
        bodies, now, expires_at = [w.body for w in self._taken], latest.now, latest.expires_at
        # Who reads the thread meanwhile has it go on from what was read.
        if (new := self._new) is not None:
            return writing.begin(transaction, keys, digest, new, bodies, now, expires_at)
        if self._state is None:
            return None
        state, numbers = self._state, self._known.numbers
        return writing.put_if_unchanged(
            transaction, keys, digest, bodies, state, numbers, now, expires_at
        )

    def _take_along(self) -> None:
        """Take those that wait in the same life of the scope, as many as one statement holds."""
        if not self._waiting:
            return
        rows = sum(write.rows for write in self._taken)
        for write in [*self._waiting]:
            rows += write.rows
            if rows > MOST_ROWS:
                # The first of the next turn, for which it need not wait.
                write.wake()
                return
            if write.keys.birth == self._birth and self._withdraw(write):
                self._taken.append(write)
