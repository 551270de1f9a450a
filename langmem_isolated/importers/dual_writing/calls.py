"""Calls to savers, stores and histories, which one body makes through either door.

What takes two sides is written once, as a generator that gives each call and is given its answer.
:func:`run` makes the calls by their names, :func:`arun` by their asynchronous twins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, repr=False)
class Call:
    """A method of one side and what it is given."""

    on: Any
    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def made(self) -> Any:
        """Call it; a property is read."""
        member = getattr(self.on, self.name)
        return member(*self.args, **self.kwargs) if callable(member) else member

    async def amade(self) -> Any:
        """Call its asynchronous twin."""
        name = "aget_messages" if self.name == "messages" else f"a{self.name}"
        return await getattr(self.on, name)(*self.args, **self.kwargs)


@dataclass(frozen=True, slots=True, repr=False)
class Walk(Call):
    """A method that yields; of each thing only what ``pick`` takes of it is kept."""

    pick: Callable[[Any], Any] = lambda found: found

    def made(self) -> Any:
        """Go through all of it."""
        return [self.pick(one) for one in getattr(self.on, self.name)(*self.args, **self.kwargs)]

    async def amade(self) -> Any:
        """Go through all that its asynchronous twin yields."""
        walked = getattr(self.on, f"a{self.name}")(*self.args, **self.kwargs)
        return [self.pick(one) async for one in walked]


@dataclass(frozen=True, slots=True, repr=False)
class Wait(Call):
    """Wait until somebody else has done something, whatever came of it; ``False`` if not waited.

    A thread that runs an event loop does not: who does it may be a task of that loop.
    """

    on: Future[None]
    name: str = "wait"

    def made(self) -> bool:
        """Block this thread meanwhile."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.on.exception()
            return True
        return False

    async def amade(self) -> bool:
        """Let the event loop go on meanwhile."""
        await asyncio.wait([asyncio.wrap_future(self.on)])
        return True


Body = Generator[Call, Any, T]


def run(body: Body[T]) -> T:
    """Make every call of a body where it is asked for; what it returns."""
    try:
        call = next(body)
        while True:
            try:
                answer = call.made()
            except BaseException as error:  # noqa: BLE001 - the body decides what it means
                call = body.throw(error)
            else:
                call = body.send(answer)
    except StopIteration as end:
        done: T = end.value
        return done


async def arun(body: Body[T]) -> T:
    """As :func:`run`, by the asynchronous twins."""
    try:
        call = next(body)
        while True:
            try:
                answer = await call.amade()
            except BaseException as error:  # noqa: BLE001 - the body decides what it means
                call = body.throw(error)
            else:
                call = body.send(answer)
    except StopIteration as end:
        done: T = end.value
        return done
