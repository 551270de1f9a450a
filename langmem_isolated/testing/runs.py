"""Runs of an application: one after the other, at once, cancelled, failed and made again."""

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
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


@dataclass(frozen=True)
class Seat:
    """In which thread a run is, where it is in one, and with whom it begins."""

    worker: int
    start: threading.Barrier | None = None

    def wait_for_others(self) -> None:
        """Begin when all are there: who was quick would else be gone before the next one comes."""
        if self.start:
            with suppress(threading.BrokenBarrierError):
                self.start.wait(timeout=1)


FIRST_SEAT = Seat(0)


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

    def add_cancelled(self) -> None:
        """Count one that was cut off."""
        self.runs += 1
        self.cancelled += 1


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

    async def run(self, turn: Turn, way: Way, seat: Seat = FIRST_SEAT) -> None:
        """One run to its end; its error is shown to its user, and counted.

        Raises:
            TimeoutError: It takes longer than ``seconds``.
        """
        with Eye(self._watch, turn) as eye:
            error = await self._error_of(turn, way, eye, seat)
            eye.sees("error", error)
        self.tally.add(way.name, error)

    async def _error_of(
        self, turn: Turn, way: Way, eye: Eye, seat: Seat
    ) -> Exception | asyncio.CancelledError | None:
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                await self._called(turn, way, eye, seat)
        except asyncio.CancelledError as cancelled:
            if not _is_being_cancelled():
                return cancelled
            self.tally.add_cancelled()
            raise
        except Exception as error:
            if not limit.expired():
                return error
            raise TimeoutError(
                f"The application did not answer in {self._seconds} seconds; {turn}. Give "
                "assert_isolated more seconds_each=, or look for a lock that this run waits for."
            ) from error
        return None

    async def _called(self, turn: Turn, way: Way, eye: Eye, seat: Seat) -> None:
        if way.in_task:
            # A task, and so a context, for each: that is what servers do.
            await asyncio.create_task(self._awaited(way.in_task, turn, eye))
            return
        call = way.in_thread
        assert call

        def job() -> None:
            seat.wait_for_others()
            token = CURRENT.set(turn)
            try:
                call(turn, eye)
            finally:
                CURRENT.reset(token)

        await asyncio.wrap_future(self._workers[seat.worker].submit(job))

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
        start = threading.Barrier(number)
        await _all_ended(
            [
                asyncio.create_task(self.run(turn, way, Seat((place + shift) % number, start)))
                for place, turn in enumerate(turns)
            ]
        )

    async def cancelled_alone(self, way: Way) -> None:
        """Each is cancelled in the midst, and then another goes on."""
        for place, user in enumerate(self.users):
            for steps in (_STEPS * (place + 1), _STEPS, _STEPS // 2):
                if await self._is_cancelled_after(steps, self.told(user), user, way):
                    break
            other = self._next_to(user)
            await self.run(self.turn(other, QUESTION, way, "after another's cancelled run"), way)

    async def _is_cancelled_after(self, steps: int, text: str, user: str, way: Way) -> bool:
        """Whether it was; a machine that is busy may have ended it before."""
        task = asyncio.create_task(self.run(self.turn(user, text, way, "cancelled"), way))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await _all_ended([task])
        return task.cancelled()

    async def cancelled_at_once(self, way: Way) -> None:
        """All at once, each second one cancelled in the midst of it and then made again."""
        told = {user: self.told(user) for user in self.users}
        turns = [self.turn(user, text, way, "cancelled") for user, text in told.items()]
        tasks = [asyncio.create_task(self.run(turn, way)) for turn in turns]
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


def _is_being_cancelled() -> bool:
    """Whether by who drives it; an application may be left by a cancelled task of its own."""
    task = asyncio.current_task()
    return bool(task and task.cancelling())


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
            yield number, partial(runs.cancelled_alone, way)
            yield number, partial(runs.cancelled_at_once, way)
        for number, way in enumerate(_one_of_each_kind(ways, round_), round_):
            yield number, partial(runs.failed, way)
            yield number, partial(runs.sent_twice, way)


def _one_of_each_kind(ways: Sequence[Way], round_: int) -> list[Way]:
    """A way in threads and one in tasks, others in each round."""
    kinds = [way for way in ways if way.in_task], [way for way in ways if way.in_thread]
    return [kind[round_ % len(kind)] for kind in kinds if kind]
