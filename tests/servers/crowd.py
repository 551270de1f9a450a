"""Users of a server with several workers, all at once, each on a connection that stays open."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from langmem_isolated import LocalRootKey
from tests.servers.chat import DATABASE
from tests.servers.program import PROJECT, Program

KEY = LocalRootKey.generate_text()
# Of connections, until each worker has its part.
_MOST_TRIES = 20


class Turn(NamedTuple):
    """One that was answered."""

    user: str
    what: str
    worker: int
    seconds: float
    """As the user saw it."""
    error: str | None


@dataclass
class Crowd:
    """What all of them saw."""

    turns: list[Turn] = field(default_factory=list)
    elapsed: float = 0.0

    @property
    def stored(self) -> list[Turn]:
        """Those that were acknowledged."""
        return [turn for turn in self.turns if turn.error is None]

    @property
    def errors(self) -> Counter[str]:
        return Counter(turn.error for turn in self.turns if turn.error)

    def counts(self, of: Callable[[Turn], Any]) -> Counter[Any]:
        """How many were acknowledged to each user, or by each worker."""
        return Counter(map(of, self.stored))


@contextmanager
def workers(
    folder: Path, count: int, application: str = "tests.servers.chat:application()"
) -> Iterator[Program]:
    """A server of so many processes with one SQLite file, forked once modules are imported."""
    environment = {
        DATABASE: f"sqlite:///{folder}/memory.db",
        "LANGMEM_ISOLATED_ROOT_KEY": KEY,
        "PYTHONPATH": str(PROJECT),
    }
    command = ["gunicorn", "--preload", "--workers", str(count), "--bind", "127.0.0.1:{port}"]
    # Two seconds by default: a connection would be closed while others are made.
    command += ["--keep-alive", "600"]
    command += ["--worker-class", "uvicorn_worker.UvicornWorker", application]
    with Program(command, folder, "/", environment) as program:
        yield program


class Connection:
    """HTTP/1.1 on one connection, as little of it as there must be: clients share the machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, method: str, path: str, body: dict[str, str]) -> dict[str, Any]:
        sent = json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sent)}\r\n\r\n"
        self._writer.write(head.encode() + sent)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        assert lines[0].split()[1] == "200", lines[0]
        fields = dict(line.split(": ", 1) for line in lines[1:] if line)
        answer: dict[str, Any] = json.loads(
            await self._reader.readexactly(int(fields["content-length"]))
        )
        return answer

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def connected(port: int, count: int, each: int) -> list[Connection]:
    """So many connections, of which no worker has more than ``each``, as far as tries go."""
    taken: Counter[int] = Counter()
    kept: list[Connection] = []
    tries = 0
    while len(kept) < count:
        connection = await Connection.open(port)
        worker = (await connection.ask("GET", "/", {}))["worker"]
        tries += 1
        if taken[worker] < each or tries > _MOST_TRIES * count:
            taken[worker] += 1
            kept.append(connection)
        else:
            await connection.close()
    return kept


async def crowd(
    program: Program, users: int, workers: int, doing: list[str], go_on: Callable[[Crowd], bool]
) -> Crowd:
    """Let users take turns, each the next when the last was answered, until ``go_on`` says no.

    Args:
        program: The server.
        users: How many.
        workers: How many processes the server has.
        doing: What a user does, in turn.
        go_on: Asked before each turn.
    """
    seen = Crowd()
    port = int(program.url.rpartition(":")[2])
    connections = await connected(port, users, -(-users // workers))

    async def user(number: int, connection: Connection) -> None:
        name, round_ = f"user-{number}", 0
        while go_on(seen):
            what, begin = doing[(number + round_) % len(doing)], time.perf_counter()
            told = await connection.ask(
                "POST", f"/{what}", {"user": name, "text": f"turn {round_}"}
            )
            taken = time.perf_counter() - begin
            seen.turns.append(Turn(name, what, told["worker"], taken, told["error"]))
            round_ += 1
        await connection.close()

    begin = time.perf_counter()
    await asyncio.gather(*(user(number, one) for number, one in enumerate(connections)))
    seen.elapsed = time.perf_counter() - begin
    return seen
