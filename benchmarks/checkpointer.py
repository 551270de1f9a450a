"""Checkpointers: turns of a growing thread, its latest checkpoint, its list, its bytes on disk.

    python -m benchmarks.checkpointer --json checkpointer.json

Ours is encrypted and keeps LangGraph's ordinary `MessagesState`; each peer is shown plain, with
`EncryptedSerializer`, and the SQL ones with `DeltaChannel`. What a database says of its durability
stands beside its name; LangGraph's own is its default. Time on the processor of this process stands
beside the time that passed: it knows neither a disk that waits nor a server's work.
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Annotated, Any, TypedDict

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.pregel._messages import _messages_delta_reducer
from langgraph.types import Command

from benchmarks.chat_history import POSTGRES, SQLITE, Places
from benchmarks.harness import Report, Seconds, Target, in_turn, machine, percentile, ratio
from benchmarks.savers import LOOP, OURS, PEERS, Driver, Open, Site, contenders
from tests.postgres import PostgresServer

TEXTS = 4_000
_SHORT_THREADS = 30
# At most so many times the plain peer's time for a turn, by number of turns.
TURN_TARGETS = {
    SQLITE: {10: 1.05, 100: 0.8, 400: 0.6, 1_000: 0.45},
    POSTGRES: {10: 1.0, 100: 0.6, 400: 0.45, 1_000: 0.35},
}
# The same where what was opened is kept.
WARM_TURN_TARGETS = {
    SQLITE: {10: 1.0, 100: 0.6, 400: 0.35, 1_000: 0.25},
    POSTGRES: {10: 0.95, 100: 0.5, 400: 0.3, 1_000: 0.2},
}
# Messages of a thread that is long from its beginning.
LONG = (1_000, 10_000)
LONG_TARGET, LONG_GROWTH_TARGET = 0.3, 2.0
SIZE_TARGETS = {SQLITE: 1 / 100, POSTGRES: 1 / 40}
SHORT_SIZE_TARGETS = {SQLITE: 1 / 25, POSTGRES: 1 / 10}
SETTINGS = {
    "LangGraph's durability": "async, its default",
    "connections": "one for each peer, two for ours; 20 for a crowd, one for SqliteSaver's",
}
# Of which it is measured how many connections they want.
POOLED = ("postgresql", "ours-postgresql", "async-postgresql", "async-ours-postgresql")
CROWD_TARGETS = {SQLITE: 1.0, POSTGRES: 1.3}


@cache
def texts(characters: int) -> list[str]:
    """What is said, message by message: Python's own prose, which shrinks as prose does."""
    prose = " ".join(" ".join(topics.values()).split())
    starts = itertools.cycle(range(0, len(prose) - characters, characters))
    said = zip(range(TEXTS), starts, strict=False)
    return [
        f"{number:06} {prose[start : start + characters]}"[:characters] for number, start in said
    ]


class DeltaState(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(_messages_delta_reducer)]


class Scripted(BaseChatModel):
    """A model that says the next text at once."""

    characters: int

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        answer = AIMessage(texts(self.characters)[len(messages) % TEXTS])
        return ChatResult(generations=[ChatGeneration(message=answer)])

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return self._generate(messages)


def chat(driver: Driver, characters: int) -> StateGraph[Any, Any, Any, Any]:
    """One node that answers."""
    said = texts(characters)

    def answer(state: Any) -> Any:
        return {"messages": [AIMessage(said[len(state["messages"]) % TEXTS])]}

    async def answer_async(state: Any) -> Any:
        return answer(state)

    graph: StateGraph[Any, Any, Any, Any] = StateGraph(_state(driver))
    node: Any = answer_async if driver.is_async else answer
    graph.add_node("chat", node)
    graph.add_edge(START, "chat")
    graph.add_edge("chat", END)
    return graph


def supervised(driver: Driver, characters: int) -> StateGraph[Any, Any, Any, Any]:
    """A supervisor that hands each question to an agent, a graph of its own."""

    def supervise(_: Any) -> Any:
        return Command(goto="agent")

    async def supervise_async(state: Any) -> Any:
        return supervise(state)

    graph: StateGraph[Any, Any, Any, Any] = StateGraph(_state(driver))
    node: Any = supervise_async if driver.is_async else supervise
    graph.add_node("supervisor", node, destinations=("agent",))
    graph.add_node("agent", create_agent(Scripted(characters=characters), [], name="agent"))
    graph.add_edge(START, "supervisor")
    graph.add_edge("agent", END)
    return graph


def _state(driver: Driver) -> type[Any]:
    return DeltaState if driver.has_delta else MessagesState


GRAPHS = {"chat": chat, "supervisor and agent": supervised}


class Conversation:
    """A thread of one driver that grows turn by turn."""

    def __init__(
        self, driver: Driver, site: Site, graph: str, characters: int, thread: str = "thread"
    ) -> None:
        self.driver = driver
        self.cpu: Seconds = []
        self.wall: Seconds = []
        self._site = site
        self._texts = texts(characters)
        self._graph = GRAPHS[graph](driver, characters).compile(checkpointer=driver.saver)
        self._config = config_of("alice", thread)

    def turn(self, _: int) -> None:
        question = {"messages": [HumanMessage(self._texts[2 * len(self.cpu) % TEXTS])]}
        begin = time.process_time()
        if self.driver.is_async:
            self._site.run(lambda: self._graph.ainvoke(question, self._config))
        else:
            self._graph.invoke(question, self._config)
        self.cpu.append(time.process_time() - begin)

    def seed(self, count: int) -> None:
        """Begin with so many messages, a few hundred at a time."""
        kinds = itertools.cycle((HumanMessage, AIMessage))
        said = [kind(self._texts[n % TEXTS]) for n, kind in zip(range(count), kinds, strict=False)]
        for start in range(0, count, 500):
            values = {"messages": said[start : start + 500]}
            if self.driver.is_async:
                self._site.run(partial(self._graph.aupdate_state, self._config, values, "chat"))
            else:
                self._graph.update_state(self._config, values, "chat")

    def get(self, _: int) -> None:
        saver = self.driver.saver
        if self.driver.is_async:
            assert self._site.run(lambda: saver.aget_tuple(self._config))
        else:
            assert saver.get_tuple(self._config)

    def list(self, _: int) -> None:
        saver = self.driver.saver
        if self.driver.is_async:
            self._site.run(lambda: _drained(saver.alist(self._config, limit=100)))
        else:
            list(saver.list(self._config, limit=100))

    def check(self) -> None:
        """Every message is there, as it was said."""
        state = (
            self._site.run(lambda: self._graph.aget_state(self._config))
            if self.driver.is_async
            else self._graph.get_state(self._config)
        )
        said = [message.content for message in state.values["messages"]]
        expected = [self._texts[n % TEXTS] for n in range(2 * len(self.cpu))]
        assert said == expected, self.driver.label


def config_of(user: str, thread: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, "user_id": user, "module_id": "tutor"}}


async def _drained(tuples: AsyncIterator[Any]) -> None:
    async for _ in tuples:
        continue


@dataclass
class Growth:
    """What a driver's thread took, by its number of turns."""

    driver: Driver
    first: dict[int, Seconds] = field(default_factory=dict)
    last: dict[int, Seconds] = field(default_factory=dict)
    cpu: dict[int, Seconds] = field(default_factory=dict)
    get: dict[int, Seconds] = field(default_factory=dict)
    list: dict[int, Seconds] = field(default_factory=dict)
    size: dict[int, int] = field(default_factory=dict)


def grow(
    opened: Sequence[Driver],
    site: Site,
    graph: str,
    lengths: Sequence[int],
    characters: int = 250,
    *,
    reads: bool = True,
) -> list[Growth]:
    """Let one thread of each driver grow, in turn, and look at it at each of ``lengths``."""
    talks = {d.label: Conversation(d, site, graph, characters) for d in opened}
    grown = {label: Growth(talk.driver) for label, talk in talks.items()}
    doublings = {25 * 2**n for n in range(8)}
    stops = sorted({*lengths, *(n for n in doublings if n < max(lengths))})
    for begin, end in itertools.pairwise([0, *stops]):
        taken = in_turn({k: [talk.turn] for k, talk in talks.items()}, end - begin, warm_up=0)
        for label, (seconds,) in taken.items():
            talks[label].wall += seconds
            grown[label].size[end] = talks[label].driver.size()
        if end in lengths:
            for label, talk in talks.items():
                talk.check()
                _tenths(grown[label], talk, end)
            if reads:
                _read(talks, grown, end)
    return list(grown.values())


def _tenths(growth: Growth, talk: Conversation, end: int) -> None:
    tenth = max(5, end // 10)
    growth.first[end] = talk.wall[:tenth]
    growth.last[end] = talk.wall[-tenth:]
    growth.cpu[end] = talk.cpu[-tenth:]


def _read(talks: Mapping[str, Conversation], grown: Mapping[str, Growth], end: int) -> None:
    talks = {label: talk for label, talk in talks.items() if talk.driver.name != LOOP}
    rounds = max(5, min(40, 4_000 // end))
    # The peers' lists of long threads take seconds.
    few = max(1, min(5, 800 // end))
    for label, (seconds,) in in_turn({k: [t.get] for k, t in talks.items()}, rounds).items():
        grown[label].get[end] = seconds
    listed = in_turn({k: [t.list] for k, t in talks.items()}, few, warm_up=int(end <= 400))
    for label, (seconds,) in listed.items():
        grown[label].list[end] = seconds


def growing(
    report: Report, site: Site, openers: Mapping[str, Open], graph: str, lengths: Sequence[int]
) -> None:
    """Turns, reads and bytes of a thread that grows."""
    with ExitStack() as stack:
        drivers = [stack.enter_context(opener(site)) for opener in openers.values()]
        grown = grow(drivers, site, graph, lengths)
    header = ["", f"1 to {max(5, lengths[-1] // 10)}", *(f"{n:,}" for n in lengths)]
    rows = [[g.driver.label, *_medians([g.first[lengths[-1]], *g.last.values()])] for g in grown]
    report.table(
        f"{graph}: a turn, ms, median of the first tenth, and of the last up to", header, rows
    )
    columns = ["", *header[2:]]
    for title, measure in (
        ("of these on this process's processor", "cpu"),
        ("latest get_tuple, ms, at", "get"),
        ("list(limit=100), ms, at", "list"),
    ):
        series = [(g.driver.label, getattr(g, measure).values()) for g in grown]
        rows = [[label, *_medians(taken)] for label, taken in series if taken]
        report.table(f"{graph}: {title}", columns, rows)
    _sizes(report, graph, grown)
    _keep(report, graph, grown)
    for mine, other in _pairs(grown):
        if other.driver.name in PEERS.values() and not other.driver.has_delta:
            _judge(report, graph, mine, other)
    _ratios(report, graph, grown, columns)
    for growth in grown:
        if growth.driver.name == OURS and not growth.driver.is_async:
            _judge_doubling(report, graph, growth)


def _medians(series: Any) -> list[float]:
    return [statistics.median(seconds) * 1e3 for seconds in series]


def _sizes(report: Report, graph: str, grown: Sequence[Growth]) -> None:
    kept = [g for g in grown if any(g.size.values())]
    if kept:
        header = ["", *(f"{n:,}" for n in kept[0].size)]
        rows = [[g.driver.label, *(size / 1e6 for size in g.size.values())] for g in kept]
        report.table(f"{graph}: MB on disk at", header, rows)


def _keep(report: Report, graph: str, grown: Sequence[Growth]) -> None:
    for g in grown:
        for turns in g.last:
            report.measured(
                graph,
                g.driver.label,
                turns=turns,
                first_tenth_ms=statistics.median(g.first[turns]) * 1e3,
                last_tenth_ms=statistics.median(g.last[turns]) * 1e3,
                cpu_ms=statistics.median(g.cpu[turns]) * 1e3,
                get_tuple_ms=statistics.median(g.get[turns]) * 1e3 if g.get else None,
                list_100_ms=statistics.median(g.list[turns]) * 1e3 if g.list else None,
                bytes=g.size[turns],
            )
        report.measured(f"{graph}, bytes", g.driver.label, by_turns=g.size)


def _pairs(grown: Sequence[Growth]) -> list[tuple[Growth, Growth]]:
    return [
        (mine, other)
        for mine in grown
        for other in grown
        if mine.driver.name == OURS != other.driver.name and mine.driver.compares_with(other.driver)
    ]


def _ratios(report: Report, graph: str, grown: Sequence[Growth], columns: Sequence[str]) -> None:
    rows = []
    for mine, other in _pairs(grown):
        for what in ("last", "cpu", "get", "list"):
            mine_of, other_of = getattr(mine, what), getattr(other, what)
            name = {"last": "turn", "cpu": "turn, cpu"}.get(what, what)
            rows.append(
                [
                    f"{name}: {_against(mine, other)}",
                    *(ratio(mine_of[n], other_of[n]) for n in mine_of),
                ]
            )
        sizes = [mine.size[n] / other.size[n] for n in mine.last]
        rows.append([f"bytes: {_against(mine, other)}", *sizes])
    report.table(f"{graph}: ours takes so many times as much as", columns, rows)


def _against(mine: Growth, other: Growth) -> str:
    return f"{other.driver.label}{' (warm)' if mine.driver.is_warm else ''}"


def _judge(report: Report, graph: str, mine: Growth, other: Growth) -> None:
    """Hold a pair against what we promise of it."""
    if mine.driver.is_async or graph != "chat":
        return
    against = f"against {other.driver.label}"
    kind = mine.driver.database
    targets = WARM_TURN_TARGETS if mine.driver.is_warm else TURN_TARGETS
    warm = "warm " if mine.driver.is_warm else ""
    for turns, limit in targets[kind].items():
        if turns in mine.last:
            value = ratio(mine.last[turns], other.last[turns])
            what = f"{warm}turn at {turns:,}, {against}"
            report.targets.append(Target(what, value, limit))
    if 1_000 in mine.last:
        value = mine.size[1_000] / other.size[1_000]
        report.targets.append(Target(f"bytes at 1,000, {against}", value, SIZE_TARGETS[kind]))
    if kind == SQLITE and 400 in mine.get:
        get, all_ = (ratio(getattr(mine, m)[400], getattr(other, m)[400]) for m in ("get", "list"))
        report.targets.append(Target(f"get_tuple at 400, {against}", get, 1.0))
        report.targets.append(Target(f"list(limit=100) at 400, {against}", all_, 1 / 20))


def _judge_doubling(report: Report, graph: str, growth: Growth) -> None:
    for turns, size in growth.size.items():
        if 2 * turns in growth.size:
            what = f"{graph}: bytes from {turns:,} to {2 * turns:,} turns, {growth.driver.label}"
            report.targets.append(Target(what, growth.size[2 * turns] / size, 2.2))


def sizes(report: Report, site: Site, openers: Mapping[str, Open]) -> None:
    """Bytes of 200 turns of 200-byte messages."""
    with ExitStack() as stack:
        drivers = [stack.enter_context(opener(site)) for opener in openers.values()]
        grown = grow(drivers, site, "chat", [200], 200, reads=False)
    title = "chat, 200-byte messages"
    _sizes(report, title, grown)
    _keep(report, title, grown)
    for mine, other in _pairs(grown):
        if other.driver.name in PEERS.values() and not other.driver.has_delta:
            value = mine.size[200] / other.size[200]
            limit = SHORT_SIZE_TARGETS[mine.driver.database]
            what = f"bytes of 200 turns of 200 bytes, against {other.driver.label}"
            report.targets.append(Target(what, value, limit))


def short_threads(report: Report, site: Site, openers: Mapping[str, Open], turns: int) -> None:
    """The first and the last turn of threads that are begun anew again and again."""
    with ExitStack() as stack:
        drivers = [stack.enter_context(opener(site)) for opener in openers.values()]
        cpu: dict[str, list[Seconds]] = {d.label: [] for d in drivers}
        for number in range(_SHORT_THREADS):
            talks = {
                d.label: Conversation(d, site, "chat", 250, f"short-{number}") for d in drivers
            }
            in_turn({label: [talk.turn] for label, talk in talks.items()}, turns, warm_up=0)
            for label, talk in talks.items():
                cpu[label].append(talk.cpu)
    rows = []
    for mine, other in itertools.product(drivers, repeat=2):
        if mine.name == OURS != other.name and mine.compares_with(other):
            each = [
                ratio([t[n] for t in cpu[mine.label]], [t[n] for t in cpu[other.label]])
                for n in (0, turns - 1)
            ]
            rows.append([other.label, *each])
            report.measured("short threads", other.label, first_turn=each[0], last_turn=each[1])
    title = f"short threads, {turns} turns: ours takes so many times as much processor time as"
    report.table(title, ["", "first turn", "last turn"], rows)


def long_threads(
    report: Report, site: Site, openers: Mapping[str, Open], lengths: Sequence[int], rounds: int
) -> None:
    """Turns of threads that are long from their beginning."""
    taken: dict[int, dict[str, Seconds]] = {}
    cpu: dict[int, dict[str, Seconds]] = {}
    with ExitStack() as stack:
        drivers = [stack.enter_context(opener(site)) for opener in openers.values()]
        for length in lengths:
            thread = f"long-{length}"
            talks = {d.label: Conversation(d, site, "chat", 250, thread) for d in drivers}
            for talk in talks.values():
                talk.seed(length)
            turns = in_turn({label: [talk.turn] for label, talk in talks.items()}, rounds)
            taken[length] = {label: seconds for label, (seconds,) in turns.items()}
            cpu[length] = {label: talk.cpu[-rounds:] for label, talk in talks.items()}
    header = ["messages", *(f"{n:,}" for n in lengths)]
    for what, measure in (("ms", taken), ("ms of this process's processor", cpu)):
        rows = [[d.label, *_medians(of[d.label] for of in measure.values())] for d in drivers]
        report.table(f"long threads: a turn, {what}", header, rows)
        for label, *medians in rows:
            figures = dict(zip(map(str, lengths), medians, strict=True))
            report.measured(f"long threads, {what}", str(label), by_messages=figures)
    for driver in drivers:
        _judge_long(report, driver, drivers, taken)
    pairs = itertools.product(drivers, repeat=2)
    rows = [
        [f"{mine.label}: {other.label}", *(ratio(of[mine.label], of[other.label]) for of in each)]
        for mine, other in pairs
        if mine.name == OURS != other.name and mine.compares_with(other)
        for each in (taken.values(), cpu.values())
    ]
    report.table("long threads: times the peer's, time that passed, then processor", header, rows)


def _judge_long(
    report: Report,
    driver: Driver,
    others: Sequence[Driver],
    taken: Mapping[int, Mapping[str, Seconds]],
) -> None:
    least, most = min(taken), max(taken)
    if driver.is_warm or driver.name == LOOP:
        medians = [statistics.median(taken[n][driver.label]) for n in (least, most)]
        what = f"turn from {least:,} to {most:,} messages, {driver.label}"
        report.targets.append(Target(what, medians[1] / medians[0], LONG_GROWTH_TARGET))
    for other in others:
        is_peer = other.name in PEERS.values() and not other.has_delta
        if driver.name == OURS and is_peer and driver.compares_with(other):
            value = ratio(taken[most][driver.label], taken[most][other.label])
            what = f"turn at {most:,} messages, {driver.label}, against {other.label}"
            report.targets.append(Target(what, value, LONG_TARGET))


@dataclass
class Crowd:
    """What many users at once saw of one driver."""

    driver: Driver
    seconds: Seconds
    elapsed: float
    cpu: float
    errors: Counter[str]
    lost: int

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.elapsed


class Users:
    """Users of one driver who talk at once, in threads or in tasks."""

    def __init__(self, driver: Driver, site: Site, users: int, turns: int) -> None:
        self._driver = driver
        self._site = site
        self._turns = turns
        self._graph = chat(driver, 250).compile(checkpointer=driver.saver)
        self._configs = [config_of(f"user-{n}", f"thread-{n}") for n in range(users)]
        self._seconds: Seconds = []
        self._errors: Counter[str] = Counter()

    def crowd(self) -> Crowd:
        meet = self._in_tasks if self._driver.is_async else self._in_threads
        # The first turn connects and makes keys; it is not timed.
        meet(1)
        self._seconds.clear()
        begin, cpu = time.perf_counter(), time.process_time()
        meet(self._turns)
        elapsed, cpu = time.perf_counter() - begin, time.process_time() - cpu
        expected = 2 * (1 + self._turns) * len(self._configs)
        kept = sum(len(self._state(config)["messages"]) for config in self._configs)
        return Crowd(
            self._driver, self._seconds, elapsed, cpu, self._errors, (expected - kept) // 2
        )

    def _in_threads(self, turns: int) -> None:
        def user(config: RunnableConfig) -> None:
            for number in range(turns):
                with self._timed():
                    self._graph.invoke(_question(number), config)

        threads = [threading.Thread(target=user, args=(config,)) for config in self._configs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _in_tasks(self, turns: int) -> None:
        async def user(config: RunnableConfig) -> None:
            for number in range(turns):
                with self._timed():
                    await self._graph.ainvoke(_question(number), config)

        async def together() -> None:
            await asyncio.gather(*(user(config) for config in self._configs))

        self._site.run(together)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever a driver raises is what users see
            self._errors[type(error).__name__] += 1
        else:
            self._seconds.append(time.perf_counter() - begin)

    def _state(self, config: RunnableConfig) -> Any:
        if self._driver.is_async:
            return self._site.run(lambda: self._graph.aget_state(config)).values
        return self._graph.get_state(config).values


def _question(number: int) -> dict[str, Any]:
    return {"messages": [HumanMessage(texts(250)[2 * number])]}


def many_users(
    report: Report, site: Site, openers: Mapping[str, Open], users: int, turns: int, repeats: int
) -> None:
    """Turns of many users at once, each in a thread of its own."""
    seen: dict[str, list[Crowd]] = defaultdict(list)
    for _ in range(repeats):
        for opener in openers.values():
            with opener(site) as driver:
                seen[driver.label].append(Users(driver, site, users, turns).crowd())
    rows = [_crowded(report, label, crowds) for label, crowds in seen.items()]
    header = ["", "turns/s", "p50 ms", "p99 ms", "cpu ms a turn", "errors", "lost"]
    title = f"{users} users, {turns} turns each, at once, {site.connections} connections"
    report.table(f"{title}, {repeats} times", header, rows)
    for mine, other in itertools.product(seen.values(), repeat=2):
        if (
            mine[0].driver.name == OURS
            and other[0].driver.name in PEERS.values()
            and mine[0].driver.compares_with(other[0].driver)
        ):
            _judge_crowds(report, mine, other)


def _crowded(report: Report, label: str, crowds: Sequence[Crowd]) -> tuple[object, ...]:
    milliseconds = [second * 1e3 for crowd in crowds for second in crowd.seconds]
    errors = sum((crowd.errors for crowd in crowds), Counter[str]())
    figures = {
        "turns_per_second": statistics.median(crowd.rate for crowd in crowds),
        "p50_ms": percentile(milliseconds, 50),
        "p99_ms": percentile(milliseconds, 99),
        "cpu_ms": sum(crowd.cpu for crowd in crowds) * 1e3 / len(milliseconds),
        "errors": errors.total(),
        "lost": sum(crowd.lost for crowd in crowds),
    }
    report.measured("many users", label, **figures)
    return label, *figures.values()


def _judge_crowds(report: Report, mine: Sequence[Crowd], other: Sequence[Crowd]) -> None:
    against = f"against {other[0].driver.label}"
    times = statistics.median(a.rate / b.rate for a, b in zip(mine, other, strict=True))
    limit = CROWD_TARGETS[mine[0].driver.database]
    report.targets.append(
        Target(f"turns a second of many users, {against}", times, limit, at_least=True)
    )
    slowest = [[percentile(crowd.seconds, 99) for crowd in crowds] for crowds in (mine, other)]
    report.targets.append(Target(f"p99 of many users, {against}", ratio(*slowest), 1.0))
    failed = sum(crowd.errors.total() + crowd.lost for crowd in mine)
    what = f"turns of many users that failed, {mine[0].driver.label}"
    report.targets.append(Target(what, failed, 0, unit="turns"))


def pools(
    report: Report,
    site: Site,
    openers: Mapping[str, Open],
    crowds: Sequence[int],
    sizes: Sequence[int],
    turns: int,
) -> None:
    """Turns of crowds on PostgreSQL, by how many connections there are for them."""
    seen: dict[tuple[str, int, int], Crowd] = {}
    for users in crowds:
        for size in sizes:
            sized = Site(site.places, site.loop, site.synchronous, connections=size)
            for opener in openers.values():
                with opener(sized) as driver:
                    crowd = Users(driver, sized, users, turns).crowd()
                    seen[driver.label, users, size] = crowd
    header = ["", *(f"{size}" for size in sizes)]
    labels = list(dict.fromkeys(label for label, *_ in seen))
    for users in crowds:
        rows = []
        for label in labels:
            found = [seen[label, users, size] for size in sizes]
            slowest = [percentile(crowd.seconds, 99) * 1e3 for crowd in found]
            rows.append([f"{label}: turns/s", *(crowd.rate for crowd in found)])
            rows.append([f"{label}: p99 ms", *slowest])
            for size, crowd, slow in zip(sizes, found, slowest, strict=True):
                failed = crowd.errors.total() + crowd.lost
                figures = {"turns_per_second": crowd.rate, "p99_ms": slow, "failed": failed}
                report.measured("pools", label, users=users, pool_size=size, **figures)
        report.table(f"{users} users, {turns} turns each, by connections", header, rows)


PARTS = ("short", "chat", "long", "supervisor", "sizes", "users", "pools")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--turns", nargs="+", type=int, default=[10, 100, 400, 1_000])
    parser.add_argument("--supervisor-turns", nargs="+", type=int, default=[10, 50, 100, 200])
    parser.add_argument("--long", nargs="+", type=int, default=LONG, help="messages")
    parser.add_argument("--long-turns", type=int, default=15)
    everyone = contenders((SQLITE, POSTGRES), (False, True))
    parser.add_argument("--only", nargs="+", choices=list(everyone), metavar="DRIVER")
    parser.add_argument("--doors", nargs="+", choices=("sync", "async"), default=("sync", "async"))
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL"), default="FULL")
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--user-turns", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3, help="of the users at once")
    parser.add_argument("--crowds", nargs="+", type=int, default=[8, 32, 128], help="of pools")
    parser.add_argument("--pools", nargs="+", type=int, default=[4, 8, 16, 32], help="connections")
    parser.add_argument("--sqlite-only", action="store_true")
    parser.add_argument("--folder", type=Path, help="where databases are made")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    options = parser.parse_args()
    packages = ("langgraph", "langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres")
    report = Report("Checkpointers", machine(*packages, "psycopg", "cryptography"), SETTINGS)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder))
        server = None if options.sqlite_only else stack.enter_context(PostgresServer(fsync=True))
        places = Places(Path(folder), server)
        site = Site(places, stack.enter_context(asyncio.Runner()).get_loop(), options.synchronous)
        doors = [door == "async" for door in options.doors]
        openers = contenders(places.kinds, doors)
        if options.only:
            openers = {name: opener for name, opener in openers.items() if name in options.only}
        run(report, site, openers, options)
    report.finish(options.json)


def run(
    report: Report, site: Site, openers: Mapping[str, Open], options: argparse.Namespace
) -> None:
    if "short" in options.parts:
        short_threads(report, site, openers, 10)
    if "sizes" in options.parts:
        sync = {name: o for name, o in openers.items() if name[:5] in ("sqlit", "postg", "ours-")}
        sizes(report, site, sync)
    if "chat" in options.parts:
        growing(report, site, openers, "chat", options.turns)
    if "long" in options.parts:
        sync = {n: o for n, o in openers.items() if not n.startswith("async-")}
        long_threads(report, site, sync, options.long, options.long_turns)
    if "supervisor" in options.parts:
        growing(report, site, openers, "supervisor and agent", options.supervisor_turns)
    if "users" in options.parts:
        crowded = {n: o for n, o in openers.items() if "delta" not in n}
        pooled = Site(site.places, site.loop, site.synchronous, connections=20)
        many_users(report, pooled, crowded, options.users, options.user_turns, options.repeats)
    if "pools" in options.parts and POSTGRES in site.places.kinds:
        of_pools = {name: o for name, o in openers.items() if name in POOLED}
        pools(report, site, of_pools, options.crowds, options.pools, options.user_turns)


if __name__ == "__main__":
    main()
