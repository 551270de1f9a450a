"""One SQLite file under the workers of a server: turns a second, the slowest, and who waits.

    python -m benchmarks.processes --json processes.json

Gunicorn's workers serve users at once: a chat history of which 20 messages are read and to which
two are added, a graph's turn, an item put and ten listed. The peers are those that an application
without this package has there, unencrypted, as their documentation opens them, a connection each
in every worker: ``SQLChatMessageHistory``, ``AsyncSqliteSaver`` and ``AsyncSqliteStore``. Both sync
every commit to the disk. Rounds take turns; what users see is HTTP and all.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import aiosqlite
import sqlalchemy as sa
from langchain_community.chat_message_histories import SQLChatMessageHistory
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.store.sqlite.aio import AsyncSqliteStore
from starlette.applications import Starlette

from benchmarks.harness import Report, Target, machine, percentile
from tests.servers import chat
from tests.servers.crowd import Crowd, crowd, workers

OURS, PEERS = "ours", "unencrypted peers"
APPLICATIONS = {
    OURS: "tests.servers.chat:application()",
    PEERS: "benchmarks.processes:peers()",
}
WORKS = {"all three": ["history", "thread", "items"], "histories alone": ["history"]}
# Perfect is 1; of four processes of which one gets nothing, 0.75.
LEAST_JAIN = 0.9


class Stock(chat.Turns):
    """The turns of an application with what LangChain and LangGraph bring."""

    def __init__(self, engine: sa.Engine, saver: AsyncSqliteSaver, store: AsyncSqliteStore) -> None:
        self._engine, self._store = engine, store
        self._graph = chat.graph(checkpointer=saver)

    async def history(self, user: str, text: str) -> object:
        history = SQLChatMessageHistory(user, connection=self._engine)
        (await asyncio.to_thread(lambda: history.messages))[-20:]
        added = [HumanMessage(text), AIMessage(text)]
        return await asyncio.to_thread(history.add_messages, added)

    async def thread(self, user: str, text: str) -> object:
        named = {"configurable": {"thread_id": user}}
        return await self._graph.ainvoke({"messages": [("human", text)]}, named)

    async def items(self, user: str, text: str) -> object:
        namespace = (user, *chat.NAMESPACE)
        await self._store.aput(namespace, text, {"text": text})
        return await self._store.asearch(namespace, limit=10)


@asynccontextmanager
async def stock() -> AsyncIterator[chat.Turns]:
    url = os.environ[chat.DATABASE]
    path = url.removeprefix("sqlite:///")
    engine = sa.create_engine(url)
    async with (
        aiosqlite.connect(path) as connection,
        AsyncSqliteStore.from_conn_string(path) as store,
    ):
        saver = AsyncSqliteSaver(connection)
        yield Stock(engine, saver, store)
    engine.dispose()


def prepare(folder: Path) -> None:
    """Make the peers' tables, which their workers would otherwise make over each other."""

    async def make(path: str) -> None:
        async with AsyncSqliteSaver.from_conn_string(path) as saver:
            await saver.setup()
        async with AsyncSqliteStore.from_conn_string(path) as store:
            await store.setup()

    path = f"{folder}/memory.db"
    asyncio.run(make(path))
    engine = sa.create_engine(f"sqlite:///{path}")
    SQLChatMessageHistory("", connection=engine)
    engine.dispose()


def peers() -> Starlette:
    """What gunicorn serves."""
    return chat.application(stock)


def one_round(name: str, users: int, processes: int, doing: list[str], seconds: float) -> Crowd:
    """One server with one file, all users at once for so long."""
    with tempfile.TemporaryDirectory() as folder:
        if name == PEERS:
            prepare(Path(folder))
        with workers(Path(folder), processes, APPLICATIONS[name]) as server:
            # Keys and tables are made, and connections opened, before it counts.
            first = asyncio.run(crowd(server, users, processes, doing, _turns_each(users, 1)))
            assert first.turns
            end = monotonic() + seconds
            return asyncio.run(crowd(server, users, processes, doing, lambda _: monotonic() < end))


def _turns_each(users: int, each: int) -> Callable[[Crowd], bool]:
    return lambda seen: len(seen.turns) < users * each


def jain(shares: Iterable[float]) -> float:
    """Jain's index: 1 where all have the same, 1/n where one of n has all."""
    found = list(shares)
    return sum(found) ** 2 / (len(found) * sum(share**2 for share in found) or 1)


def judge(report: Report, work: str, seen: dict[str, list[Crowd]]) -> None:
    """Print what was seen of one work, and hold ours against the peers'."""
    rows = [_row(report, work, name, crowds) for name, crowds in seen.items()]
    header = ["", "turns/s", "p50 ms", "p99", "max", "Jain, processes", "users", "errors"]
    report.table(f"{work}: all users", header, rows)
    each = [row for name, crowds in seen.items() for row in _of_processes(name, crowds)]
    report.table(f"{work}: each process", ["", "turns/s", "p50 ms", "p99", "max"], each)
    mine = seen[OURS]
    fairness = min(jain(one.counts(lambda turn: turn.worker).values()) for one in mine)
    report.targets += [
        Target(f"{work}: errors", sum(one.errors.total() for one in mine), 0, unit="errors"),
        Target(f"{work}: Jain's index of processes", fairness, LEAST_JAIN, True, "of 1"),
    ]


def _row(report: Report, work: str, name: str, crowds: Sequence[Crowd]) -> Sequence[object]:
    rate = statistics.median(len(one.stored) / one.elapsed for one in crowds)
    waits = [turn.seconds * 1e3 for one in crowds for turn in one.stored]
    errors: Counter[str] = sum((one.errors for one in crowds), Counter())
    processes = statistics.median(jain(one.counts(lambda t: t.worker).values()) for one in crowds)
    users = statistics.median(jain(one.counts(lambda t: t.user).values()) for one in crowds)
    p50, p99 = percentile(waits, 50), percentile(waits, 99)
    report.measured(
        work, name, turns_per_second=rate, p50_ms=p50, p99_ms=p99, max_ms=max(waits),
        jain_processes=processes, jain_users=users, errors=dict(errors),
    )  # fmt: skip
    told = "; ".join(f"{count} {error[:60]}" for error, count in errors.most_common(2)) or "none"
    return name, rate, p50, p99, max(waits), processes, users, told


def _of_processes(name: str, crowds: Sequence[Crowd]) -> list[Sequence[object]]:
    """Of the last round: each round has processes of its own."""
    last = crowds[-1]
    waits: dict[int, list[float]] = defaultdict(list)
    for turn in last.stored:
        waits[turn.worker].append(turn.seconds * 1e3)
    return [
        (f"{name}, {at}", len(w) / last.elapsed, percentile(w, 50), percentile(w, 99), max(w))
        for at, w in enumerate(waits.values(), 1)
    ]


def main() -> int:
    """Print what was measured; 1 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    packages = ("langmem-isolated", "gunicorn", "langgraph-checkpoint-sqlite")
    report = Report(
        f"{given.users} users of {given.processes} processes on one SQLite file",
        machine(*packages),
        {"a round": f"{given.seconds:g} s, {given.rounds} rounds"},
    )
    for work, doing in WORKS.items():
        seen: dict[str, list[Crowd]] = {name: [] for name in APPLICATIONS}
        for _ in range(given.rounds):
            for name, crowds in seen.items():
                crowds.append(one_round(name, given.users, given.processes, doing, given.seconds))
        judge(report, work, seen)
    report.finish(given.json)
    return not all(target.met for target in report.targets)


if __name__ == "__main__":
    sys.exit(main())
