"""A room: who is in it, and what each of them remembers of it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langmem_isolated import IsolatedChatMessageHistory, IsolatedMemory
from langmem_isolated.errors import LangmemIsolatedError

MODULE = "chat-room"
MODEL_CHANNEL = "ai"
_WAITING = 1_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Person:
    """Who is in a room: the id is the server's alone, the name is what others see."""

    user_id: str
    name: str


@dataclass(eq=False)
class Connection:
    """One window of a person, and what is still to be sent there."""

    person: Person
    is_in: Callable[[], bool] = lambda: True
    """Whether it still is this person's: logins end, and accounts go, while a window is open."""
    events: asyncio.Queue[dict[str, Any] | None] = field(
        default_factory=lambda: asyncio.Queue(_WAITING)
    )
    """What is sent, until ``None``."""

    def send(self, **event: Any) -> None:
        """Have an event sent; who reads too slowly misses it, and finds it in memory."""
        with suppress(asyncio.QueueFull):
            self.events.put_nowait(event)

    def end(self) -> None:
        """Have nothing sent any more, of what waits neither."""
        while not self.events.empty():
            self.events.get_nowait()
        self.events.put_nowait(None)


class Room:
    """Words go to all who are in the room, and into the memory of each of them.

    There is no memory of the room itself: what a person remembers is in that person's scope, sealed
    with that person's key, and whoever is not in the room remembers nothing of what is said.
    """

    def __init__(self, name: str, memory: IsolatedMemory) -> None:
        self._name, self._memory = name, memory
        self._connections: list[Connection] = []
        # One utterance at a time: all remember the same order.
        self._lock = asyncio.Lock()
        self.visits = 0

    def remembered_by(self, person: Person) -> IsolatedChatMessageHistory:
        """A person's own memory of this room."""
        return self._memory.scope(user_id=person.user_id, module_id=MODULE).chat_history(self._name)

    async def enter(self, entered: Connection) -> None:
        """Let a person in: they are told what they remember, and the others that they came."""
        person = entered.person
        async with self._turn():
            for message in await self.remembered_by(person).alast(50):
                entered.send(kind="remembered", text=message.text)
            self._connections.append(entered)
            self._tell(kind="joined", name=person.name)

    async def leave(self, left: Connection) -> None:
        """Let a window be closed; a person with another one stays."""
        async with self._turn():
            if left in self._connections:
                self._connections.remove(left)
            if left.person not in self._people():
                self._tell(kind="left", name=left.person.name)

    async def say(self, speaker: Person, channel: str, text: str) -> None:
        """Have all who are here remember what a person says, and then hear it."""
        own = HumanMessage(text)
        # A name alone would be left out by models' services: others' words begin with it, too.
        others = HumanMessage(f"{speaker.name}: {text}", name=speaker.name)
        async with self._turn():
            people = self._people()
            await self._remember(
                {one: own if one == speaker else others for one in people}, channel
            )
            self._tell(kind="said", channel=channel, name=speaker.name, text=text)

    async def answer(self, text: str) -> None:
        """Have all who are here remember and hear what the model says."""
        async with self._turn():
            await self._remember(dict.fromkeys(self._people(), AIMessage(text)), MODEL_CHANNEL)
            self._tell(kind="said", channel=MODEL_CHANNEL, name="bot", text=text)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """What is done by itself, with those alone who still are who they were."""
        async with self._lock:
            here = [*self._connections]
            known = await asyncio.to_thread(lambda: [one.is_in() for one in here])
            for one, is_in in zip(here, known, strict=True):
                if not is_in:
                    self._connections.remove(one)
                    one.end()
            yield

    def _people(self) -> set[Person]:
        return {connection.person for connection in self._connections}

    def _tell(self, **event: Any) -> None:
        for connection in self._connections:
            connection.send(**event)

    async def _remember(self, words: dict[Person, BaseMessage], channel: str) -> None:
        adding = (
            self.remembered_by(person).aadd_messages([message], channel=channel)
            for person, message in words.items()
        )
        # One whose memory takes no more, for a quota or a lock, does not silence the room.
        endings = await asyncio.gather(*adding, return_exceptions=True)
        for person, ended in zip(words, endings, strict=True):
            if isinstance(ended, LangmemIsolatedError):
                _log.warning("A person in a room does not remember: %s.", type(ended).__name__)
                for connection in self._connections:
                    if connection.person == person:
                        connection.send(kind="not_remembered")
            elif isinstance(ended, BaseException):
                raise ended


class Rooms:
    """The rooms in which somebody is."""

    def __init__(self, memory: IsolatedMemory) -> None:
        self._memory = memory
        self._rooms: dict[str, Room] = {}

    @asynccontextmanager
    async def visit(
        self, name: str, person: Person, is_in: Callable[[], bool] = lambda: True
    ) -> AsyncIterator[tuple[Room, Connection]]:
        """A room with the person in it, for as long as the block lasts, or ``is_in`` says so."""
        connection = Connection(person, is_in)
        room = self._rooms.setdefault(name, Room(name, self._memory))
        room.visits += 1
        try:
            await room.enter(connection)
            try:
                yield room, connection
            finally:
                await room.leave(connection)
        finally:
            room.visits -= 1
            if not room.visits:
                del self._rooms[name]
