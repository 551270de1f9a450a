"""Applications as the kit calls them: each way of calling one, and what its user sees of it."""

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.testing.sightings import Eye, Turn

SyncCall = Callable[[Turn, Eye], None]
AsyncCall = Callable[[Turn, Eye], Awaitable[None]]


@dataclass(frozen=True)
class Way:
    """One way of calling an application: in a thread, or in a task.

    Args:
        name: As a failure calls it.
        in_thread: Calls it and shows what comes back, or
        in_task: the same, awaited.
    """

    name: str
    in_thread: SyncCall | None = None
    in_task: AsyncCall | None = None


class Application(ABC):
    """An application under test."""

    @property
    @abstractmethod
    def ways(self) -> tuple[Way, ...]:
        """Each way in which it is called."""

    @property
    @abstractmethod
    def has_state(self) -> bool:
        """Whether a session can be looked at, beside what it answers."""

    @abstractmethod
    async def look_at_state(self, turn: Turn, eye: Eye) -> None:
        """Show what the application keeps of a session to its user."""

    async def start(self) -> None:  # noqa: B027 - few have anything to begin
        """Begin, before the first run."""

    async def stop(self) -> None:  # noqa: B027 - nor to end
        """End, behind the last run."""


class CallableApplication(Application):
    """``app(user, session, text)``: a function, a coroutine function, or a generator of either."""

    def __init__(self, app: Callable[..., Any], state: Callable[..., Any] | None) -> None:
        self._app, self._state = app, state

    @property
    def ways(self) -> tuple[Way, ...]:
        """In a thread and from a task, or awaited."""
        if _is_async(self._app):
            return (Way("await", in_task=self._await),)
        return (
            Way("call", in_thread=self._call),
            # A context of its own for each call, as servers give it to what runs in their threads.
            Way("asyncio.to_thread", in_task=self._to_thread),
        )

    @property
    def has_state(self) -> bool:
        """Whether the test said how to look."""
        return self._state is not None

    async def start(self) -> None:
        """Know the loop: a function may give a coroutine, without being declared as one."""
        self._loop = asyncio.get_running_loop()

    def _call(self, turn: Turn, eye: Eye) -> None:
        answer = self._app(turn.user, turn.session, turn.text)
        if _is_awaited(answer):
            asyncio.run_coroutine_threadsafe(ashow(answer, eye), self._loop).result()
        else:
            _show(answer, eye)

    async def _to_thread(self, turn: Turn, eye: Eye) -> None:
        answer = await asyncio.to_thread(self._app, turn.user, turn.session, turn.text)
        if _is_awaited(answer):
            await ashow(answer, eye)
        else:
            await asyncio.to_thread(_show, answer, eye)

    async def _await(self, turn: Turn, eye: Eye) -> None:
        await ashow(self._app(turn.user, turn.session, turn.text), eye)

    async def look_at_state(self, turn: Turn, eye: Eye) -> None:
        """Show what the test's function gives."""
        await look(self._state, turn, eye)


async def look(state: Callable[..., Any] | None, turn: Turn, eye: Eye) -> None:
    """Show what ``state(user, session)`` gives."""
    if state is None:
        return
    found = await asyncio.to_thread(state, turn.user, turn.session)
    eye.sees("state", await found if inspect.isawaitable(found) else found)


def _is_async(app: Callable[..., Any]) -> bool:
    called = app if inspect.isroutine(app) else getattr(app, "__call__", app)  # noqa: B004
    return any(
        test(one)
        for one in (app, called, getattr(app, "func", app))
        for test in (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    )


def _is_awaited(answer: object) -> bool:
    return inspect.isawaitable(answer) or isinstance(answer, AsyncIterator)


def _show(answer: object, eye: Eye) -> None:
    if isinstance(answer, Iterator):
        for part in answer:
            eye.streams("streamed chunk", part)
    else:
        eye.sees("reply", answer)


async def ashow(answer: object, eye: Eye) -> None:
    """Show an answer that is awaited, or the parts that one streams."""
    if inspect.isawaitable(answer):
        answer = await answer
    if isinstance(answer, AsyncIterator):
        async for part in answer:
            eye.streams("streamed chunk", part)
    else:
        _show(answer, eye)


class ApplicationOfEach(Application):
    """``app(user)``, which gives each user an application of their own, as ``scope.bind`` does."""

    def __init__(self, made: Mapping[str, Application]) -> None:
        self._made = made

    @property
    def ways(self) -> tuple[Way, ...]:
        """Those of each."""
        one = next(iter(self._made.values()))
        return tuple(self._of_each(number, way) for number, way in enumerate(one.ways))

    def _of_each(self, number: int, way: Way) -> Way:
        def in_thread(turn: Turn, eye: Eye) -> None:
            call = self._made[turn.user].ways[number].in_thread
            assert call
            call(turn, eye)

        async def in_task(turn: Turn, eye: Eye) -> None:
            call = self._made[turn.user].ways[number].in_task
            assert call
            await call(turn, eye)

        return Way(way.name, in_thread if way.in_thread else None, in_task if way.in_task else None)

    async def start(self) -> None:
        """Begin each."""
        for one in self._made.values():
            await one.start()

    async def stop(self) -> None:
        """End each."""
        for one in self._made.values():
            await one.stop()

    @property
    def has_state(self) -> bool:
        """Whether each has one."""
        return next(iter(self._made.values())).has_state

    async def look_at_state(self, turn: Turn, eye: Eye) -> None:
        """Show the user's own."""
        await self._made[turn.user].look_at_state(turn, eye)


def parameters_of(app: object) -> list[str]:
    """Which arguments a callable must be given by position, by their names.

    Raises:
        TypeError: It is none that the kit can call.
    """
    if not callable(app):
        raise TypeError(
            f"assert_isolated takes a function (user, session, text), a function (user) that gives "
            f"one, a graph or another Runnable, or an ASGI application with request=, got "
            f"{kind_of(app)}. Nothing was run."
        )
    try:
        parameters = inspect.signature(app).parameters.values()
    except ValueError:
        return ["user", "session", "text"]
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind in by_position]
