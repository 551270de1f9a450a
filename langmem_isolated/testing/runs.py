"""Runs of an application: one after the other, at once, cancelled, failed and made again."""

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from langmem_isolated.testing.applications import Application, AsyncCall, Way
from langmem_isolated.testing.canaries import Canary
from langmem_isolated.testing.echo_model import FAILURE
from langmem_isolated.testing.sightings import CURRENT, Eye, Turn, Watch

QUESTION = "What have I told you?"
"""Asked by everybody in the same words: a cache that does not know the user has one answer."""
_MOMENT = 0.002
"""Seconds after which a run is cancelled: an `EchoChatModel` is in its pause, or has streamed."""


_ENOUGH = 500
"""Sightings, behind which nothing more is begun."""
_STEPS = 8
"""Of the event loop, for the first user who is cancelled alone; one more time as many for each."""


class Worker:
    """A thread that is kept, as servers keep theirs: what a run leaves in it meets the next."""

    def __init__(self, number: int) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[None], Callable[[], None]] | None] = (
            queue.SimpleQueue()
        )
        # A daemon: an application that hangs must not keep the test process.
        threading.Thread(target=self._work, name=f"user {number}", daemon=True).start()

    def submit(self, job: Callable[[], None]) -> "Future[None]":
        """Have it do this when it is done with what it has."""
        future: Future[None] = Future()
        self._jobs.put((future, job))
        return future

    def close(self) -> None:
        """End it when it is done."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            future, job = item
            try:
                job()
            except BaseException as error:  # noqa: BLE001 - passed on to who waits
                future.set_exception(error)
            else:
                future.set_result(None)


@dataclass
class Tally:
    """How runs ended."""

    runs: int = 0
    cancelled: int = 0
    succeeded: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    first_error: BaseException | None = None

    def add(self, way: str, error: BaseException | None) -> None:
        """Count one run."""
        self.runs += 1
        if error is None:
            self.succeeded[way] += 1
            return
        self.errors[type(error).__name__] += 1
        self.first_error = self.first_error or error


class Runs:
    """Users who talk to one application, and a watch on what each of them sees."""

    def __init__(
        self,
        application: Application,
        watch: Watch,
        users: Sequence[str],
        sessions: Sequence[str],
        seconds: float,
    ) -> None:
        self._application, self._watch, self._seconds = application, watch, seconds
        self.users, self.sessions = users, sessions
        self.tally = Tally()
        self._numbers, self._shifts = count(1), count()
        self._said: Counter[str] = Counter()
        self._workers: list[Worker] = []
        self._session = sessions[0]

    @asynccontextmanager
    async def begun(self) -> AsyncIterator["Runs"]:
        """The application started, and threads to call it in."""
        self._workers = [Worker(number) for number, _ in enumerate(self.users)]
        try:
            await self._application.start()
            yield self
        finally:
            await self._application.stop()
            for worker in self._workers:
                worker.close()

    @property
    def have_shown_enough(self) -> bool:
        """Whether more sightings would say nothing new."""
        return len(self._watch.sightings) >= _ENOUGH

    def told(self, user: str) -> str:
        """Something new that a user says."""
        self._said[user] += 1
        canary = Canary.of(f"{user}, message {self._said[user]}")
        return f"Remember {self._watch.hand_out(canary, user)}"

    def turn(self, user: str, text: str, way: Way, phase: str) -> Turn:
        """The next run."""
        return Turn(next(self._numbers), user, self._session, text, way.name, phase)

    def go_on_in(self, number: int) -> None:
        """Have the next runs in another session, the same for all; histories stay short."""
        self._session = self.sessions[number % len(self.sessions)]

    async def run(self, turn: Turn, way: Way, worker: int = 0) -> None:
        """One run to its end; its error is shown to its user, and counted.

        Raises:
            TimeoutError: It takes longer than ``seconds``.
        """
        error: BaseException | None = None
        with Eye(self._watch, turn) as eye:
            try:
                async with asyncio.timeout(self._seconds):
                    await self._called(turn, way, eye, worker)
            except TimeoutError as late:
                raise TimeoutError(
                    f"The application did not answer in {self._seconds} seconds; {turn}. Give "
                    "assert_isolated more seconds=, or look for a lock that this run waits for."
                ) from late
            except asyncio.CancelledError:
                self.tally.runs += 1
                self.tally.cancelled += 1
                raise
            except Exception as raised:  # noqa: BLE001 - whatever it is, its user sees it
                error = raised
                eye.sees("error", raised)
        self.tally.add(way.name, error)

    async def _called(self, turn: Turn, way: Way, eye: Eye, worker: int) -> None:
        if way.in_task:
            # A task, and so a context, for each: that is what servers do.
            await asyncio.create_task(self._awaited(way.in_task, turn, eye))
            return
        call = way.in_thread
        assert call

        def job() -> None:
            token = CURRENT.set(turn)
            try:
                call(turn, eye)
            finally:
                CURRENT.reset(token)

        await asyncio.wrap_future(self._workers[worker].submit(job))

    async def _awaited(self, call: AsyncCall, turn: Turn, eye: Eye) -> None:
        CURRENT.set(turn)
        await call(turn, eye)

    async def one_after_the_other(self, way: Way) -> None:
        """Each tells something, then each asks the same, all in one thread or task."""
        for user in self.users:
            await self.run(self.turn(user, self.told(user), way, "one after the other"), way)
        for user in self.users:
            await self.run(self.turn(user, QUESTION, way, "asking the same"), way)

    async def at_once(self, way: Way, phase: str, texts: Callable[[str], str]) -> None:
        """All in threads or tasks of their own, each time in another's."""
        number, shift = len(self.users), next(self._shifts)
        turns = [self.turn(user, texts(user), way, phase) for user in self.users]
        await _all_ended(
            [
                asyncio.create_task(self.run(turn, way, (place + shift) % number))
                for place, turn in enumerate(turns)
            ]
        )

    async def cancelled(self, way: Way) -> None:
        """Cancelled alone, each at a later step, and at once, each second one; then made again."""
        for place, user in enumerate(self.users):
            task = asyncio.create_task(
                self.run(self.turn(user, self.told(user), way, "cancelled"), way)
            )
            for _ in range(_STEPS * (place + 1)):
                await asyncio.sleep(0)
            task.cancel()
            await _all_ended([task])
            other = self._next_to(user)
            await self.run(self.turn(other, QUESTION, way, "after another's cancelled run"), way)
        told = {user: self.told(user) for user in self.users}
        turns = [self.turn(user, text, way, "cancelled") for user, text in told.items()]
        tasks = [asyncio.create_task(self.run(turn, way, n)) for n, turn in enumerate(turns)]
        await asyncio.sleep(_MOMENT)
        for task in tasks[::2]:
            task.cancel()
        await _all_ended(tasks)
        for user in self.users[::2]:
            await self.run(self.turn(user, told[user], way, "made again"), way)

    def _next_to(self, user: str) -> str:
        return self.users[(self.users.index(user) + 1) % len(self.users)]

    async def failed(self, way: Way) -> None:
        """Each is failed by the model, and then goes on."""
        for user in self.users:
            text = f"{self.told(user)} {FAILURE}"
            await self.run(self.turn(user, text, way, "failed by the model"), way)
            other = self._next_to(user)
            await self.run(self.turn(other, QUESTION, way, "after another's failure"), way)

    async def sent_twice(self, way: Way) -> None:
        """Each sends the same twice at once, as impatient clients do."""
        told = {user: self.told(user) for user in self.users}
        await _all_ended(
            [
                asyncio.create_task(self.at_once(way, phase, told.__getitem__))
                for phase in ("sent twice", "sent twice, the second")
            ]
        )

    async def looked_at(self) -> None:
        """Each looks at the state of each session."""
        if not self._application.has_state:
            return
        way = Way("state", in_task=self._application.look_at_state)
        for number, _ in enumerate(self.sessions):
            self.go_on_in(number)
            await self.at_once(way, "at the end", lambda _: "")


async def _all_ended(tasks: Sequence["asyncio.Task[None]"]) -> None:
    """Wait for all, so that none is left behind, and then raise what any raised."""
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def all_phases(runs: Runs, ways: Sequence[Way], rounds: int) -> None:
    """Every way of calling one after the other and at once, and the rest with one way of each kind.

    Where an application shares something, it does so with every way: what differs is how runs meet.
    Nothing more is begun where enough was seen to be told.
    """
    for number, phase in _phases(runs, ways, rounds):
        if runs.have_shown_enough:
            return
        runs.go_on_in(number)
        await phase()
    await runs.looked_at()


def _phases(
    runs: Runs, ways: Sequence[Way], rounds: int
) -> Iterator[tuple[int, Callable[[], Awaitable[None]]]]:
    """Each with the number of its session."""
    for round_ in range(rounds):
        for number, way in enumerate(ways, round_):
            yield number, partial(runs.one_after_the_other, way)
            yield number, partial(runs.at_once, way, "at once", runs.told)
            yield number, partial(runs.at_once, way, "asking the same at once", lambda _: QUESTION)
        for number, way in enumerate([way for way in ways if way.in_task], round_):
            yield number, partial(runs.cancelled, way)
        for number, way in enumerate(_one_of_each_kind(ways, round_), round_):
            yield number, partial(runs.failed, way)
            yield number, partial(runs.sent_twice, way)


def _one_of_each_kind(ways: Sequence[Way], round_: int) -> list[Way]:
    """A way in threads and one in tasks, others in each round."""
    kinds = [way for way in ways if way.in_task], [way for way in ways if way.in_thread]
    return [kind[round_ % len(kind)] for kind in kinds if kind]
