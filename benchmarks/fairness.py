"""One user at the limits: how much longer another user's calls take than in quiet.

``python -m benchmarks.fairness [URL …]``: on a SQLite file, and on the PostgreSQL databases given.
One user calls without end from 16 threads, then from 100 tasks: messages of 0.9 MB, values of 4 MB,
2,000 documents a call, reading all of it. Meanwhile another appends a message and reads 20. The
target is that the other's median and 95th percentile are at most 3 times those in quiet.
"""

import asyncio
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.messages import HumanMessage
from rich.console import Console
from rich.table import Table

from langmem_isolated import IsolatedMemory, LangmemIsolatedError, LocalRootKey
from langmem_isolated.memory import ScopedMemory

TARGET = 3.0
SECONDS = 4.0
PAUSE = 0.002
Call = Callable[[int], object]


class Lengths(Embeddings):
    """Two numbers a text: nothing here waits for a model."""

    def embed_query(self, text: str) -> list[float]:
        return [1.0, float(len(text))]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


def text(characters: int) -> str:
    """Letters in no order: they take the longest to deflate."""
    return "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz  ", k=characters))


def at_the_limits(scope: ScopedMemory) -> dict[str, Call]:
    """What one user does without end."""
    message, value = HumanMessage(text(900_000)), {"v": text(4_000_000)}
    texts = [f"text {number}" for number in range(2_000)]
    store, notes = scope.store(), scope.vector_store(Lengths())

    def read(number: int) -> object:
        return scope.chat_history(f"s{number % 20}").messages, notes.similarity_search("text")

    return {
        "messages": lambda n: scope.chat_history(f"s{n % 20}").add_messages([message]),
        "values": lambda n: store.put(("a",), str(n % 10), value),
        "documents": lambda _: notes.add_texts(texts, ids=texts),
        "reads": read,
    }


def of_the_other(scope: ScopedMemory) -> dict[str, Call]:
    """The calls of which the time is taken."""
    history = scope.chat_history("s")
    history.add_messages([HumanMessage(f"hello {number}") for number in range(100)])
    hello = HumanMessage("hello")
    return {"append": lambda _: history.add_messages([hello]), "read": lambda _: history.last(20)}


def timed(call: Call) -> list[float]:
    """Seconds of a call, again and again for some time."""
    taken, end = [], time.monotonic() + SECONDS
    while time.monotonic() < end:
        begin = time.perf_counter()
        call(0)
        taken.append(time.perf_counter() - begin)
        time.sleep(PAUSE)
    return taken


@contextmanager
def from_threads(_: ScopedMemory, call: Call) -> Iterator[None]:
    """Sixteen threads that call without end; what one of them is refused is its own affair."""
    stop = threading.Event()

    def work(number: int) -> None:
        while not stop.is_set():
            try:
                call(number)
            except LangmemIsolatedError:
                time.sleep(PAUSE)
            number += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join()


@contextmanager
def from_tasks(scope: ScopedMemory, call: Call) -> Iterator[None]:
    """A hundred tasks of an event loop that call without end."""
    loop = asyncio.new_event_loop()

    async def work(number: int) -> None:
        while True:
            try:
                await scope.recall._records.arun(call, number)
            except LangmemIsolatedError:
                await asyncio.sleep(PAUSE)
            number += 1

    async def everyone() -> None:
        await asyncio.gather(*(work(number) for number in range(100)))

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = asyncio.run_coroutine_threadsafe(everyone(), loop)
    yield
    running.cancel()
    time.sleep(0.5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def percentile(taken: list[float], part: float) -> float:
    """Of times, that below which so great a part of them is."""
    return sorted(taken)[min(len(taken) - 1, int(len(taken) * part))]


def measure(url: str, table: Table) -> bool:
    """Add the rows of one database; whether each is within the target."""
    is_met = True
    with IsolatedMemory(url, root_key=LocalRootKey(bytes(range(32)))) as memory:
        mallory = memory.scope(user_id=f"mallory {time.time()}", module_id="m")
        bob = memory.scope(user_id=f"bob {time.time()}", module_id="m")
        calls, hostile = of_the_other(bob), at_the_limits(mallory)
        for doing, without_end in hostile.items():
            for source in (from_threads, from_tasks):
                quiet = {name: timed(call) for name, call in calls.items()}
                with source(mallory, without_end):
                    time.sleep(1)
                    loud = {name: timed(call) for name, call in calls.items()}
                for name in calls:
                    row = [_row(quiet[name], loud[name], part) for part in (0.5, 0.95)]
                    is_met &= all(ratio <= TARGET for _, ratio in row)
                    what = f"{url.partition(':')[0]}, {doing}, {source.__name__}"
                    table.add_row(what, name, *(shown for shown, _ in row))
    return is_met


def _row(quiet: list[float], loud: list[float], part: float) -> tuple[str, float]:
    before, then = percentile(quiet, part), percentile(loud, part)
    return f"{before * 1e3:.2f} to {then * 1e3:.2f} ms: {then / before:.1f}", then / before


def main(urls: list[str]) -> Any:
    """Print what was measured; 1 where a target was missed."""
    table = Table("one user", "the other", "median", "95th percentile")
    with tempfile.TemporaryDirectory() as folder:
        met = [measure(url, table) for url in (f"sqlite:///{folder}/memory.db", *urls)]
    Console(width=140).print(table)
    return not all(met)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
