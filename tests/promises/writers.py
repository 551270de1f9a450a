"""Processes that write into one session, forked from a warmed parent so that they start quickly."""

import itertools
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Self

from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedChatMessageHistory, IsolatedMemory, LocalRootKey
from langmem_isolated.errors import LangmemIsolatedError

ROOT_KEY = bytes(range(32))
BATCH = 3

# The parent has imported everything and holds neither threads nor connections: forking the test
# process itself, which has both, would be another program than any application is.
_context: ForkServerContext = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.promises.writers", "tests.promises.turns"])


def the_session(memory: IsolatedMemory) -> IsolatedChatMessageHistory:
    return memory.scope(user_id="alice", module_id="tutor").chat_history("shared")


def batch(writer: str, number: int) -> list[HumanMessage]:
    """A writer's call of that number: as many messages as a call has, told apart by their text."""
    return [HumanMessage(f"{writer} {number} {part}") for part in range(BATCH)]


class Read(NamedTuple):
    """A message as it was read back."""

    writer: str
    number: int
    part: int


def calls_stored(history: IsolatedChatMessageHistory) -> dict[str, list[int]]:
    """The calls of each writer in the order stored; each must be whole, and in one piece."""
    words = [str(message.content).split() for message in history.messages]
    read = [Read(writer, int(number), int(part)) for writer, number, part in words]
    groups = [read[start : start + BATCH] for start in range(0, len(read), BATCH)]
    by_writer: dict[str, list[int]] = {}
    for group in groups:
        writer, number, _ = group[0]
        assert group == [Read(writer, number, part) for part in range(BATCH)]
        by_writer.setdefault(writer, []).append(number)
    return by_writer


def _write(
    acknowledged: Connection, url: str, writer: str, limit: int | None, options: dict[str, Any]
) -> None:
    memory = IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), **options)
    numbers = itertools.count() if limit is None else range(limit)
    for number in numbers:
        try:
            the_session(memory).add_messages(batch(writer, number))
        except LangmemIsolatedError as error:
            acknowledged.send_bytes(f"failed {type(error).__name__}".encode())
            continue
        acknowledged.send_bytes(str(number).encode())
    memory.close()


def _at_work(work: Callable[..., None], *args: Any) -> None:
    work(*args)
    # Nothing of the parent's is to be cleaned up here.
    os._exit(0)


class Writer:
    """A process that writes one thing after another, and tells each that was acknowledged.

    By default it appends batches to the session.
    """

    def __init__(
        self,
        url: str,
        name: str,
        limit: int | None = None,
        work: Callable[..., None] = _write,
        **options: Any,
    ) -> None:
        self.name = name
        self._acknowledged, theirs = _context.Pipe(duplex=False)
        self._process: BaseProcess = _context.Process(
            target=_at_work, args=(work, theirs, url, name, limit, options), daemon=True
        )
        self._process.start()
        theirs.close()
        self.told: list[str] = []

    def wait_for_first(self, seconds: float = 60) -> None:
        """Until it is under way."""
        assert self._acknowledged.poll(seconds), "the writer said nothing"

    def kill(self) -> Self:
        """End it as `kill -9` does."""
        self._process.kill()
        return self.finish()

    def finish(self) -> Self:
        """Wait for its end, and take what it told; a writer that is killed tells no more."""
        try:
            while True:
                self.told.append(self._acknowledged.recv_bytes().decode())
        except EOFError:
            self._acknowledged.close()
        self._process.join(60)
        self._process.close()
        return self

    @property
    def acknowledged(self) -> list[int]:
        return [int(told) for told in self.told if not told.startswith("failed")]

    @property
    def failures(self) -> list[str]:
        return [told for told in self.told if told.startswith("failed")]
