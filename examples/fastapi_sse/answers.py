"""Answers that are written to their end, whoever is left to read them."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Hashable

_log = logging.getLogger(__name__)


class Busy(Exception):
    """An answer is being written there."""


class Answers:
    """Runs of agents as server-sent events, each in a task of its own.

    The task belongs to the server and not to the request: a browser that is closed in the middle
    ends the events, and the run goes on, so that the answer is there when its user comes back.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[None]] = {}

    def begin(self, place: Hashable, parts: AsyncIterator[str]) -> AsyncIterator[str]:
        """Begin a run and return its events: the parts, and then ``done`` or ``failed``.

        Args:
            place: Where there is one answer at a time: two runs in one thread would both begin
                from the same checkpoint, and the thread would go on from the one that ends last.
            parts: Of the answer.

        Raises:
            Busy: A run is under way in this place.
        """
        if place in self._running:
            raise Busy
        events: asyncio.Queue[str | None] = asyncio.Queue()
        task = asyncio.create_task(_write(parts, events))
        self._running[place] = task
        task.add_done_callback(lambda _: self._running.pop(place))
        return _read(events)

    async def finish(self) -> None:
        """Wait for all that was begun."""
        await asyncio.gather(*self._running.values())


async def _write(parts: AsyncIterator[str], events: asyncio.Queue[str | None]) -> None:
    try:
        async for part in parts:
            events.put_nowait(_event("part", part))
        events.put_nowait(_event("done"))
    except Exception as error:  # noqa: BLE001 - whatever a model raises, the reader is told
        # The type alone: what a model's error says may quote its prompt.
        _log.error("An answer failed: %s.", type(error).__name__)
        events.put_nowait(_event("failed"))
    finally:
        events.put_nowait(None)


async def _read(events: asyncio.Queue[str | None]) -> AsyncIterator[str]:
    while (event := await events.get()) is not None:
        yield event


def _event(kind: str, text: str = "") -> str:
    return f"event: {kind}\ndata: {json.dumps(text)}\n\n"
