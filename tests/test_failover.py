"""A primary dies under load: what was acknowledged stays, and clients go on by themselves."""

import asyncio
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import product
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._database.urls import checked_url, fails_over
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from langmem_isolated.errors import DatabaseError, DatabaseUnreachable
from tests.conftest import ROOT_KEY
from tests.postgres import PostgresServer
from tests.replication import Cluster, ask, replicated
from tests.threads import at, put, values_at

USERS = 4
SPACE = ("notes",)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with replicated("r1", "r2") as cluster:
        yield cluster


def opened(cluster: Cluster, **options: Any) -> IsolatedMemory:
    memory = IsolatedMemory(cluster.url(), root_key=LocalRootKey(ROOT_KEY), **options)
    return memory.open()


class Load:
    """One user who writes numbered texts, one after the other, and notes which were acknowledged.

    A write whose outcome is unknown is not repeated: the next number follows.
    """

    def __init__(self, memory: IsolatedMemory, user: str, stop: threading.Event) -> None:
        self.user, self._stop = user, stop
        scoped = memory.scope(user_id=user, module_id="tutor")
        self._history = scoped.chat_history("monday")
        self._saver, self._store = scoped.checkpointer(), scoped.store()
        self.acknowledged: dict[str, list[str]] = {"history": [], "thread": [], "store": []}
        self.unknown: list[str] = []
        self.ticks: list[float] = []

    def write(self, what: str, text: str) -> None:
        if what == "history":
            self._history.add_messages([HumanMessage(text)])
        elif what == "thread":
            put(self._saver, at("monday"), {"log": [text]})
        else:
            self._store.put(SPACE, text, {"text": text})

    async def awrite(self, what: str, text: str) -> None:
        if what == "history":
            await self._history.aadd_messages([HumanMessage(text)])
        elif what == "thread":
            await asyncio.to_thread(put, self._saver, at("monday"), {"log": [text]})
        else:
            await self._store.aput(SPACE, text, {"text": text})

    def _steps(self) -> Iterator[tuple[str, str]]:
        number = 0
        while not self._stop.is_set():
            number += 1
            for what in self.acknowledged:
                yield what, f"{self.user}:{number}"

    def _note(self, what: str, text: str) -> None:
        self.acknowledged[what].append(text)
        self.ticks.append(time.monotonic())

    def run(self) -> None:
        for what, text in self._steps():
            try:
                self.write(what, text)
            except DatabaseUnreachable:
                self.unknown.append(text)
            else:
                self._note(what, text)

    async def arun(self) -> None:
        for what, text in self._steps():
            try:
                await self.awrite(what, text)
            except DatabaseUnreachable:
                self.unknown.append(text)
            else:
                self._note(what, text)

    @property
    def outage(self) -> float:
        """The longest time between two acknowledged writes."""
        return max(b - a for a, b in zip(self.ticks, self.ticks[1:], strict=False))

    def check(self, memory: IsolatedMemory) -> None:
        """All that was acknowledged is there, once, in order, and nothing that was not written."""
        scoped = memory.scope(user_id=self.user, module_id="tutor")
        said = [str(one.content) for one in scoped.chat_history("monday").messages]
        threads = [
            one.checkpoint["channel_values"]["log"][0]
            for one in scoped.checkpointer().list(at("monday"))
        ]
        items = [str(one.value["text"]) for one in scoped.store().search(SPACE, limit=100_000)]
        there = {"history": said, "thread": threads[::-1], "store": items}
        for what, acknowledged in self.acknowledged.items():
            found = there[what]
            assert not set(acknowledged) - set(found), what
            assert set(found) <= {*acknowledged, *self.unknown}, what
            assert max(Counter(found).values()) == 1, what
        for found in (said, threads[::-1]):
            numbers = [int(re.fullmatch(rf"{self.user}:(\d+)", text)[1]) for text in found]  # type: ignore[index]
            assert numbers == sorted(numbers)


def run_tasks(loads: list[Load]) -> None:
    async def together() -> None:
        await asyncio.gather(*(load.arun() for load in loads))

    asyncio.run(together())


def killed_under_load(memory: IsolatedMemory, replace: Callable[[], None]) -> list[Load]:
    """Write from threads and tasks while ``replace`` replaces the primary; check all that is there.

    Returns:
        The loads, each of which went on at the new primary.
    """
    stop = threading.Event()
    loads = [Load(memory, f"user{number}", stop) for number in range(2 * USERS)]
    with ThreadPoolExecutor(USERS + 1) as threads:
        running = [threads.submit(load.run) for load in loads[:USERS]]
        running.append(threads.submit(run_tasks, loads[USERS:]))
        try:
            time.sleep(1)
            replace()
            replaced = time.monotonic()
            while not all(load.ticks and load.ticks[-1] > replaced for load in loads):
                assert time.monotonic() < replaced + 120
                time.sleep(0.02)
            time.sleep(0.5)
        finally:
            stop.set()
        for one in running:
            one.result(60)
    for load in loads:
        load.check(memory)
    # What was on its way when the primary died is unknown, and no more.
    assert all(len(load.unknown) <= 2 for load in loads)
    return loads


def test_a_primary_that_is_killed_takes_nothing_that_was_acknowledged():
    with replicated("r1", "r2", fsync=True) as cluster, opened(cluster) as memory:

        def replace() -> None:
            cluster.primary.kill()
            cluster.promote()

        killed_under_load(memory, replace)


def test_who_meets_a_primary_that_lost_its_role_goes_on_at_the_new_one_without_an_error(
    cluster: Cluster,
):
    with opened(cluster) as memory:
        history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
        history.add_messages([HumanMessage("before")])
        ask(cluster.primary, "ALTER SYSTEM SET default_transaction_read_only = on")
        ask(cluster.primary, "SELECT pg_reload_conf()")
        former = cluster.primary
        cluster.promote()
        history.add_messages([HumanMessage("after")])

        assert [one.content for one in history.messages] == ["before", "after"]
        assert memory.scope(user_id="bob", module_id="tutor").sessions() == []
    rows = "SELECT count(*) FROM langmem_isolated.records"
    assert ask(cluster.primary, rows)[0][0] == ask(former, rows)[0][0] + 1


def test_a_process_that_starts_while_nobody_writes_waits_for_who_is_promoted(cluster: Cluster):
    opened(cluster).close()
    cluster.primary.kill()
    with ThreadPoolExecutor(1) as threads:
        opening = threads.submit(opened, cluster)
        time.sleep(0.5)
        assert not opening.done()
        cluster.promote()
        opening.result(60).close()


def messages_of(saver: IsolatedCheckpointSaver, thread: str) -> list[str]:
    return [one.content for one in values_at(saver, at(thread))["messages"]]


def saver_of(memory: IsolatedMemory) -> IsolatedCheckpointSaver:
    return memory.scope(user_id="alice", module_id="tutor").checkpointer()


def lose_what_follows(cluster: Cluster) -> None:
    """Have the only replica receive nothing more, and nobody wait for it."""
    [replica] = cluster.replicas
    for server, setting in (
        (cluster.primary, "synchronous_standby_names"),
        (replica, "synchronous_standby_names"),
        (replica, "primary_conninfo"),
    ):
        ask(server, f"ALTER SYSTEM SET {setting} = ''")
        ask(server, "SELECT pg_reload_conf()")
    deadline = time.monotonic() + 60
    while ask(replica, "SELECT count(*) FROM pg_stat_wal_receiver")[0][0]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_an_asynchronous_replica_never_had_is_taken_for_nothing_that_it_stores():
    """Elements that were lost have given their numbers to others."""
    cases = [*product((False, True), repeat=3)]
    said = [HumanMessage(f"{number} " + "x" * 200, id=str(number)) for number in range(5)]
    texts = [str(one.content) for one in said]
    with (
        replicated("r1") as cluster,
        opened(cluster) as cold,
        opened(cluster, plaintext_cache_seconds=600) as warm,
        opened(cluster) as other,
    ):
        first = {case: put(saver_of(cold), at(str(case)), {"messages": said[:1]}) for case in cases}
        lose_what_follows(cluster)
        for case, config in first.items():
            mine = saver_of(warm if case[0] else cold)
            put(mine, config, {"messages": said[:2]})
            assert messages_of(mine, str(case)) == texts[:2]
        cluster.primary.kill()
        cluster.promote()

        for case, config in first.items():
            is_warm, reads_first, goes_on_elsewhere = case
            mine, there = saver_of(warm if is_warm else cold), [0]
            if goes_on_elsewhere:
                there = [0, 4]
                put(saver_of(other), config, {"messages": [said[0], said[4]]})
            if reads_first:
                assert messages_of(mine, str(case)) == [texts[number] for number in there]
            put(mine, config, {"messages": said[:3]})

            for saver in (mine, saver_of(other)):
                assert messages_of(saver, str(case)) == texts[:3]
            assert mine.verify_thread(str(case)) == 2 + goes_on_elsewhere


# Hosts that are not there


def test_a_host_that_takes_connections_and_never_answers_is_passed_over(
    postgres: PostgresServer, postgres_url: str
):
    name = postgres_url.rpartition("/")[2]
    with closing(_silent()) as silent:
        port = silent.getsockname()[1]
        url = f"postgresql://postgres@127.0.0.1:{port},127.0.0.1:{postgres.port}/{name}"
        with closing(Database(url, timeout=6, pool_size=1)) as database:
            database.open()

            def told(transaction: Transaction) -> dict[str, str]:
                return transaction.connection.info.get_parameters()  # type: ignore[no-any-return]

            connected = database.read(told)
    assert connected["port"] == str(postgres.port)
    # A share of `timeout`, of which 6 s would be all.
    assert connected["connect_timeout"] == "2"


def _silent() -> Any:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening


def test_servers_that_are_all_gone_are_told_within_timeout():
    url = "postgresql://postgres@127.0.0.1:1,127.0.0.1:2/memory"
    begun = time.monotonic()
    with (
        closing(Database(url, timeout=1)) as database,
        pytest.raises(DatabaseUnreachable, match="Check the URL"),
    ):
        database.open()
    # Of 30 s that it would be by default.
    assert 0.4 < time.monotonic() - begun < 25


def test_what_will_not_pass_is_told_at_once(postgres: PostgresServer):
    url = f"postgresql://nobody-here@127.0.0.1:{postgres.port},127.0.0.1:{postgres.port}/postgres"
    begun = time.monotonic()
    with closing(Database(url, timeout=60)) as database, pytest.raises(DatabaseUnreachable):
        database.open()
    assert time.monotonic() - begun < 30


def test_both_ends_notice_that_the_other_vanished(postgres_url: str):
    settings = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
    with closing(Database(postgres_url, timeout=30)) as database:
        database.open()

        def told(transaction: Transaction) -> dict[str, str]:
            return transaction.connection.info.get_parameters()  # type: ignore[no-any-return]

        def shown(transaction: Transaction) -> list[str]:
            raw = transaction.connection
            names = (*settings, "tcp_user_timeout", "lock_timeout")
            return [raw.execute(f"SHOW {name}").fetchone()[0] for name in names]

        client, server = database.read(told), database.read(shown)
    assert [client[name] for name in ("keepalives_idle", "keepalives_interval")] == ["5", "2"]
    assert client["tcp_user_timeout"] == "10000"
    assert server == ["5", "2", "3", "10000", "30s"]


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgresql://u@a:1,b:2/db", "a,b", "1,2"),
        ("postgresql://u:p%40q@a,b:2/db?sslmode=require", "a,b", ",2"),
        ("postgres://[::1]:5,b/db", "::1,b", "5,"),
        ("postgresql://u@/db?host=a,b&port=1,2", "a,b", "1,2"),
    ],
)
def test_urls_with_several_hosts_are_read_as_libpq_reads_them(url: str, host: str, port: str):
    read = checked_url(url)
    assert (read.query["host"], read.query["port"], read.database) == (host, port, "db")
    assert fails_over(read)


@pytest.mark.parametrize("url", ["postgresql://u@a:1,b:x/db", "postgresql://u:secret@a:,b:y:1/db"])
def test_several_hosts_that_cannot_be_read_are_refused_without_being_shown(url: str):
    with pytest.raises(DatabaseError, match="cannot be read") as caught:
        checked_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u@a/db", False),
        ("postgresql://u@/db?host=a", False),
        ("postgresql://u@/db?host=a:1&host=b:2", True),
        ("postgresql://u@a,b/db", True),
        ("postgresql://u@a/db?target_session_attrs=read-write", True),
        ("postgresql://u@a/db?target_session_attrs=any", False),
    ],
)
def test_servers_are_waited_for_where_the_url_says_that_they_change(url: str, expected: bool):
    assert fails_over(checked_url(url)) is expected
