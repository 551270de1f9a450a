"""Reads that may lag go to a replica, and nothing that was just written is looked for there."""

import base64
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Self

import pytest
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._database import databases, row_level_security
from langmem_isolated._database import replica as replicas
from langmem_isolated._database.database import Database
from langmem_isolated.cli import checks
from langmem_isolated.errors import DatabaseError, IsolationViolation
from tests.conftest import ROOT_KEY
from tests.embeddings import NGramEmbeddings
from tests.postgres import PostgresServer
from tests.processes import in_child
from tests.replication import Cluster, ReplicaServer, ask, replicated
from tests.threads import at, put

OURS = re.compile(r"langmem_isolated\.(records|sessions)\b")
_numbers = count()
ALICE, BOB = {"user_id": "alice", "module_id": "tutor"}, {"user_id": "bob", "module_id": "tutor"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A primary that waits for its one replica to have what it commits, not to show it."""
    with replicated("r1", is_logged=True) as cluster:
        log_statements(cluster)
        yield cluster


def log_statements(cluster: Cluster) -> None:
    for server in cluster.servers:
        ask(server, "ALTER SYSTEM SET log_statement = 'all'")
        ask(server, "ALTER SYSTEM SET log_line_prefix = '%d|'")
        ask(server, "SELECT pg_reload_conf()")


@pytest.fixture
def replica(cluster: Cluster) -> Iterator[ReplicaServer]:
    (replica,) = cluster.replicas
    yield replica
    if replica.process.poll() is None:
        ask(replica, "SELECT pg_wal_replay_resume()")


@pytest.fixture
def name(cluster: Cluster, replica: ReplicaServer) -> str:
    """A database of both, by its name."""
    name = f"memory_{next(_numbers)}"
    ask(cluster.primary, f"CREATE DATABASE {name} STRATEGY file_copy")
    with opened(cluster, name):
        pass
    caught_up(cluster)
    return name


def opened(cluster: Cluster, name: str, **options: Any) -> IsolatedMemory:
    """A memory that reads the primary alone."""
    key = LocalRootKey(ROOT_KEY)
    return IsolatedMemory(cluster.primary.url(name), root_key=key, timeout=10, **options)


def with_replica(cluster: Cluster, name: str, **options: Any) -> IsolatedMemory:
    return opened(cluster, name, read_replica=cluster.replicas[0].url(name), **options)


def position(server: PostgresServer, of: str) -> int:
    return int(ask(server, f"SELECT ({of} - '0/0'::pg_lsn)::bigint")[0][0])


def caught_up(cluster: Cluster) -> None:
    """Wait until the replica shows all that was committed."""
    at = position(cluster.primary, "pg_current_wal_lsn()")
    until(lambda: position(cluster.replicas[0], "pg_last_wal_replay_lsn()") >= at)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "not within 60 s"
        time.sleep(0.01)


def pause(replica: ReplicaServer) -> None:
    ask(replica, "SELECT pg_wal_replay_pause()")
    until(lambda: ask(replica, "SELECT pg_get_wal_replay_pause_state()") == [("paused",)])


def statements(server: PostgresServer, name: str) -> list[str]:
    """What a server was asked about records and sessions in a database, by its own log.

    Whether a level of sharing has stored anything is no such question.
    """
    entries = re.split(r"^(?=\w+\|)", server.log.read_text(), flags=re.MULTILINE)
    asked = re.compile(rf"{name}\|LOG:  execute [^:]+: (?!SELECT \$1 AS anon_1)")
    return [one for one in entries if asked.match(one) and OURS.search(one)]


class Asked:
    """How many statements about records both servers are sent within the context."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._servers, self._name = (cluster.primary, cluster.replicas[0]), name

    def _now(self) -> list[int]:
        return [len(statements(server, self._name)) for server in self._servers]

    def __enter__(self) -> Self:
        self._before = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        found = zip(self._now(), self._before, strict=True)
        self.primary, self.replica = (now - before for now, before in found)


def filled(memory: IsolatedMemory) -> None:
    """Have some of everything stored for two users."""
    for who in (ALICE, BOB):
        scoped = memory.scope(**who)
        scoped.chat_history("monday").add_messages([HumanMessage(f"said by {who['user_id']}")])
        scoped.store().put(("notes",), "one", {"text": who["user_id"]})
        scoped.vector_store(NGramEmbeddings()).add_texts([who["user_id"]], ids=["one"])
        put(scoped.checkpointer(), at("monday"), {"log": [who["user_id"]]})


def lagging(memory: IsolatedMemory) -> dict[str, Callable[[], Any]]:
    """A read of every kind that may be answered by a replica."""
    scoped = memory.scope(**ALICE)
    store, documents = scoped.store(), scoped.vector_store(NGramEmbeddings())
    return {
        "messages": lambda: [one.content for one in scoped.chat_history("monday").messages],
        "last": lambda: [one.content for one in scoped.chat_history("monday").last(1)],
        "count": lambda: scoped.chat_history("monday").count(),
        "sessions": lambda: [one.id for one in scoped.sessions()],
        "count of sessions": scoped.sessions.count,
        "recent": lambda: [one.content for one in scoped.recent({"monday": 3})],
        "threads": lambda: [one.id for one in scoped.checkpointer().threads()],
        "get": lambda: store.get(("notes",), "one").value,  # type: ignore[union-attr]
        "search": lambda: [one.value for one in store.search(("notes",))],
        "list_namespaces": store.list_namespaces,
        "similarity_search": lambda: [
            one.page_content for one in documents.similarity_search("alice")
        ],
        "get_by_ids": lambda: [one.page_content for one in documents.get_by_ids(["one"])],
        "recall": lambda: [one.text for one in scoped.recall("said")],
        "stats": lambda: memory.stats().total,
    }


def building(memory: IsolatedMemory, folder: Path) -> dict[str, Callable[[], Any]]:
    """A read of every kind that only the primary answers: a run or a decision is built on it."""
    scoped = memory.scope(**ALICE)
    saver = scoped.checkpointer()
    return {
        "get_tuple": lambda: saver.get_tuple(at("monday")),
        "list": lambda: [*saver.list(at("monday"))],
        "find session": lambda: scoped.sessions.get("monday"),
        "find thread": lambda: saver.thread("monday"),
        "verify": scoped.verify,
        "export": lambda: memory.export_user("alice", folder / "export.zip"),
    }


def test_what_may_lag_is_read_on_the_replica_alone(cluster: Cluster, name: str):
    with opened(cluster, name) as memory:
        filled(memory)
        expected = {what: read() for what, read in lagging(memory).items()}
    caught_up(cluster)
    with with_replica(cluster, name) as memory:
        for what, read in lagging(memory).items():
            read()  # finds keys, and asks how far both are
            with Asked(cluster, name) as asked:
                assert read() == expected[what], what
            assert (asked.primary, asked.replica > 0) == (0, True), what


def test_what_a_run_or_a_decision_is_built_on_is_read_on_the_primary(
    cluster: Cluster, name: str, tmp_path: Path
):
    with opened(cluster, name) as memory:
        filled(memory)
    caught_up(cluster)
    with with_replica(cluster, name) as memory:
        for what, read in building(memory, tmp_path).items():
            with Asked(cluster, name) as asked:
                read()
            assert (asked.primary > 0, asked.replica) == (True, 0), what


# Read your own writes


def said(memory: IsolatedMemory, who: dict[str, str] = ALICE) -> list[str]:
    return [str(one.content) for one in memory.scope(**who).chat_history("monday").messages]


def say(memory: IsolatedMemory, text: str, who: dict[str, str] = ALICE) -> None:
    memory.scope(**who).chat_history("monday").add_messages([HumanMessage(text)])


def test_whoever_wrote_reads_it_while_the_replica_stands_still(
    cluster: Cluster, replica: ReplicaServer, name: str
):
    with with_replica(cluster, name, read_replica_lag=60) as memory:
        say(memory, "before")
        say(memory, "before", BOB)
        caught_up(cluster)
        until(lambda: _is_from_replica(cluster, name, memory, BOB))
        pause(replica)
        say(memory, "after")

        for _ in range(5):
            assert said(memory) == ["before", "after"]
        # Who wrote nothing is read there all the same.
        with Asked(cluster, name) as asked:
            assert said(memory, BOB) == ["before"]
        assert (asked.primary, asked.replica) == (0, 1)


def _is_from_replica(
    cluster: Cluster, name: str, memory: IsolatedMemory, who: dict[str, str] = ALICE
) -> bool:
    with Asked(cluster, name) as asked:
        said(memory, who)
    return not asked.primary


def test_under_load_nobody_misses_a_write_of_their_own(cluster: Cluster, name: str):
    def work(memory: IsolatedMemory, user: str) -> None:
        scoped = memory.scope(user_id=user, module_id="tutor")
        history, store = scoped.chat_history("monday"), scoped.store()
        for turn in range(25):
            history.add_messages([HumanMessage(f"{user}-{turn}")])
            assert history.last(1)[0].content == f"{user}-{turn}"
            assert history.count() == turn + 1
            store.put(("notes",), "one", {"turn": turn})
            assert store.get(("notes",), "one").value == {"turn": turn}  # type: ignore[union-attr]

    with with_replica(cluster, name) as memory, ThreadPoolExecutor(6) as threads:
        for one in [threads.submit(work, memory, f"user{n}") for n in range(6)]:
            one.result(60)


def test_a_statistic_has_what_anybody_wrote_in_this_process(
    cluster: Cluster, replica: ReplicaServer, name: str
):
    with with_replica(cluster, name, read_replica_lag=60) as memory:
        pause(replica)
        say(memory, "one")
        assert memory.stats().total.messages == 1


# What others wrote


def test_what_others_wrote_is_missed_for_no_longer_than_was_allowed(
    cluster: Cluster, replica: ReplicaServer, name: str
):
    with opened(cluster, name) as other, with_replica(cluster, name, read_replica_lag=1) as memory:
        say(other, "before")
        caught_up(cluster)
        until(lambda: said(memory) == ["before"])
        pause(replica)
        say(other, "after")
        written = time.monotonic()
        while said(memory) == ["before"]:
            assert time.monotonic() < written + 60
            time.sleep(0.01)
        assert said(memory) == ["before", "after"]


def test_a_read_that_begins_after_the_time_allowed_never_misses_what_was_written(
    cluster: Cluster, replica: ReplicaServer, name: str
):
    with (
        opened(cluster, name) as other,
        with_replica(cluster, name, read_replica_lag=0.2) as memory,
    ):
        say(other, "0")
        caught_up(cluster)
        said(memory)
        pause(replica)
        for number in range(1, 4):
            say(other, str(number))
            time.sleep(0.2)
            assert said(memory)[-1] == str(number)


def test_who_was_erased_elsewhere_is_read_for_no_longer_than_the_replica_may_lag(
    cluster: Cluster, replica: ReplicaServer, name: str
):
    with (
        opened(cluster, name) as other,
        with_replica(cluster, name, read_replica_lag=0.5) as memory,
    ):
        say(other, "secret")
        caught_up(cluster)
        until(lambda: said(memory) == ["secret"])
        pause(replica)
        other.erase_user("alice")
        time.sleep(0.5)
        # Its keys are in this process's memory, and its rows on the replica.
        assert said(memory) == []


def test_who_was_erased_here_is_read_no_more(cluster: Cluster, replica: ReplicaServer, name: str):
    with with_replica(cluster, name, read_replica_lag=60) as memory:
        say(memory, "secret")
        caught_up(cluster)
        until(lambda: _is_from_replica(cluster, name, memory))
        pause(replica)
        memory.erase_user("alice")

        assert said(memory) == []
        say(memory, "anew")
        assert said(memory) == ["anew"]


def test_what_a_sweep_removed_here_is_read_no_more(
    cluster: Cluster, replica: ReplicaServer, name: str
):
    # A sweep, and a clearing, works as a caller of its own: it is not told whose records these are.
    with with_replica(cluster, name, read_replica_lag=60) as memory:
        say(memory, "secret")
        say(memory, "other", BOB)
        memory.scope(**BOB).clear()  # the first one makes the project's keys, for nobody
        caught_up(cluster)
        until(lambda: _is_from_replica(cluster, name, memory))
        pause(replica)
        memory.scope(**ALICE).clear()

        assert said(memory) == []


def test_a_life_that_began_elsewhere_is_not_taken_for_tampering(
    cluster: Cluster, replica: ReplicaServer, name: str
):
    with opened(cluster, name) as other, with_replica(cluster, name, read_replica_lag=60) as memory:
        say(other, "secret")
        caught_up(cluster)
        until(lambda: said(memory) == ["secret"])
        pause(replica)
        other.erase_user("alice")
        say(other, "anew")
        # A memory that knows neither life has the keys of the new one, and meets rows of the old.
        with with_replica(cluster, name, read_replica_lag=60) as fresh:
            assert said(fresh) == ["anew"]


def test_a_grant_that_was_revoked_elsewhere_is_in_force_no_more(
    cluster: Cluster, replica: ReplicaServer, name: str
):
    other_module = {"user_id": "alice", "module_id": "coach"}
    with opened(cluster, name) as other, with_replica(cluster, name, read_replica_lag=60) as memory:
        say(other, "secret")
        say(other, "mine", other_module)
        between = {"user_id": "alice", "from_module": "tutor", "to_module": "coach"}
        other.grants.allow(**between, kinds={"message"})
        caught_up(cluster)
        shared = memory.scope(**other_module).shared_from("tutor")
        assert [one.content for one in shared.messages("monday")] == ["secret"]
        pause(replica)
        other.grants.revoke(**between)

        with pytest.raises(IsolationViolation):
            shared.messages("monday")


def test_a_replica_serves_a_role_that_row_level_security_binds(
    cluster: Cluster, replica: ReplicaServer, name: str
):
    ask(cluster.primary, "DROP ROLE IF EXISTS app")
    ask(cluster.primary, "CREATE ROLE app LOGIN")
    rights = (
        "GRANT USAGE ON SCHEMA langmem_isolated TO app",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA langmem_isolated TO app",
    )
    for right in rights:
        ask(cluster.primary, right, name)
    with closing(Database(cluster.primary.url(name))) as owner:
        row_level_security.enable(owner)
    caught_up(cluster)
    memory = IsolatedMemory(
        cluster.primary.url(name, "app"),
        root_key=LocalRootKey(ROOT_KEY),
        read_replica=replica.url(name, "app"),
        row_level_security="required",
        auto_upgrade=False,
    )
    with memory:
        say(memory, "one")
        say(memory, "two", BOB)
        caught_up(cluster)
        until(lambda: _is_from_replica(cluster, name, memory))
        assert (said(memory), said(memory, BOB)) == (["one"], ["two"])
    ask(cluster.primary, "DROP OWNED BY app", name)


# Replicas that fail


def test_a_replica_that_dies_is_missed_by_nobody_and_used_again_when_it_is_back(
    cluster: Cluster,
    replica: ReplicaServer,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr(replicas, "_PAUSE_SECONDS", 0.3)
    with opened(cluster, name) as other:
        say(other, "before")
    caught_up(cluster)
    with with_replica(cluster, name) as memory:
        until(lambda: _is_from_replica(cluster, name, memory))
        ask(cluster.primary, "ALTER SYSTEM SET synchronous_standby_names = ''")
        ask(cluster.primary, "SELECT pg_reload_conf()")
        replica.kill()
        with caplog.at_level(logging.WARNING):
            for _ in range(20):
                assert said(memory) == ["before"]
        told = [one for one in caplog.records if "read replica" in one.getMessage()]
        assert len(told) == 1
        assert "before" not in caplog.text
        replica.start()
        until(lambda: _is_from_replica(cluster, name, memory))
        assert said(memory) == ["before"]


def test_a_replica_that_hangs_while_its_machine_answers_is_given_up(
    cluster: Cluster, replica: ReplicaServer, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(databases, "_REPLICA_TIMEOUT", 0.2)
    with opened(cluster, name) as other:
        say(other, "before")
    caught_up(cluster)
    with with_replica(cluster, name) as memory, ThreadPoolExecutor(2) as threads:
        until(lambda: _is_from_replica(cluster, name, memory))
        with stopped(replica):
            # A connection is taken as ever, and so are statements: nothing answers.
            reads = partial(said, memory), partial(memory.scope(**ALICE).recall, "before")
            single, several = [one.result(60) for one in map(threads.submit, reads)]
            assert (single, [one.text for one in several]) == (["before"], ["before"])
        assert said(memory) == ["before"]


@contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    """The processes of a server stand still, and hold their connections, within the context."""
    of_server = ask(server, "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    processes = [server.process.pid, *(pid for (pid,) in of_server)]
    for one in processes:
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in processes:
            os.kill(one, signal.SIGCONT)


def test_a_memory_opens_without_its_replica(cluster: Cluster, name: str):
    with opened(cluster, name, read_replica="postgresql://postgres@127.0.0.1:1/x") as memory:
        say(memory, "one")
        assert said(memory) == ["one"]


def test_a_server_that_became_a_primary_is_not_read(cluster: Cluster, name: str):
    # Its position stands still: whatever is written is ahead of it.
    url = cluster.primary.url(name) + "?application_name=same"
    with opened(cluster, name, read_replica=url) as memory:
        say(memory, "one")
        for _ in range(3):
            assert said(memory) == ["one"]


def test_a_forked_child_reads_on_the_replica_too(cluster: Cluster, name: str):
    with opened(cluster, name) as other:
        say(other, "one")
    caught_up(cluster)
    with with_replica(cluster, name) as memory:
        assert said(memory) == ["one"]

        def is_read_there() -> bool:
            with Asked(cluster, name) as asked:
                assert in_child(said, memory) == ["one"]
            return asked.replica > 0

        until(is_read_there)  # a busy replica may be a moment behind
        assert said(memory) == ["one"]


def examined(cluster: Cluster, name: str, url: str) -> tuple[str, str]:
    found = checks.examine(cluster.primary.url(name), None, url)
    return next((one.state, one.finding) for one in found if one.check == "read replica")


def test_the_doctor_says_how_far_a_replica_is_behind(
    cluster: Cluster, replica: ReplicaServer, name: str
):
    url = replica.url(name)
    # Who reads sets bits that are logged, too: it may take a moment.
    until(lambda: examined(cluster, name, url)[0] == "ok")
    pause(replica)
    with opened(cluster, name) as memory:
        say(memory, "one")
    state, told = examined(cluster, name, url)
    assert state == "warn"
    assert re.fullmatch(r"its last transaction is \d+\.\d s old, and .*", told)
    for other, expected in (
        (replica.url("postgres"), "leads to another database"),
        (cluster.primary.url(name) + "?application_name=same", "is no replica"),
        ("postgresql://postgres@127.0.0.1:1/x", "Check the URL"),
        ("sqlite://", "which has no replicas"),
    ):
        state, told = examined(cluster, name, other)
        assert (state, expected in told) == ("fail", True), told


# After a failover


def test_a_replica_that_is_ahead_of_the_new_primary_in_a_history_that_ended_is_not_read():
    with replicated("r1", "r2") as cluster:
        ask(cluster.primary, "ALTER SYSTEM SET synchronous_standby_names = ''")
        ask(cluster.primary, "SELECT pg_reload_conf()")
        with opened(cluster, "postgres") as memory:
            say(memory, "before")
        behind, ahead = cluster.replicas
        for one in cluster.replicas:
            until(partial(_has, cluster.primary, one))
        ask(behind, "ALTER SYSTEM SET primary_conninfo = ''")
        ask(behind, "SELECT pg_reload_conf()")
        until(lambda: not ask(behind, "SELECT FROM pg_stat_wal_receiver"))
        with opened(cluster, "postgres") as memory:
            for number in range(20):
                # More than the new primary logs by itself, whole pages included.
                say(memory, f"lost {number} {os.urandom(40_000).hex()}")
        until(partial(_has, cluster.primary, ahead))
        cluster.primary.kill()
        ask(behind, "SELECT pg_promote()")
        ask(behind, "ALTER SYSTEM RESET synchronous_standby_names")
        ask(behind, "SELECT pg_reload_conf()")

        cluster.primary, cluster.replicas = behind, [ahead]
        with opened(cluster, "postgres") as other:
            say(other, "after")
            with with_replica(cluster, "postgres", read_replica_lag=60) as memory:
                for _ in range(3):
                    assert said(memory) == ["before", "after"]
        # As far as positions go, it has it all: nothing else tells that it does not.
        assert _has(behind, ahead)


def _has(primary: PostgresServer, replica: PostgresServer) -> bool:
    """Whether a replica shows all that its primary has written."""
    return position(replica, "pg_last_wal_replay_lsn()") >= position(
        primary, "pg_current_wal_lsn()"
    )


def test_a_replica_that_follows_the_new_primary_is_read_again():
    with replicated("r1", "r2", is_logged=True) as cluster:
        log_statements(cluster)
        with opened(cluster, "postgres") as memory:
            say(memory, "before")
        cluster.primary.kill()
        new = cluster.promote()
        with opened(cluster, "postgres") as memory:
            say(memory, "after")
        caught_up(cluster)
        (follower,) = cluster.replicas
        state, told = examined(cluster, "postgres", follower.url())
        assert (state, "restart point" in told) == ("warn", True), told
        state, told = examined(cluster, "postgres", new.url() + "?application_name=same")
        assert (state, "is no replica" in told) == ("fail", True), told
        ask(new, "CHECKPOINT")
        caught_up(cluster)
        ask(follower, "CHECKPOINT")  # a restart point
        with with_replica(cluster, "postgres") as memory:
            assert said(memory) == ["before", "after"]
            found = memory._database.replica
            assert found is not None
            until(lambda: found.seconds_behind() == 0)
            until(lambda: _is_from_replica(cluster, "postgres", memory))
            assert said(memory) == ["before", "after"]


# What is refused


def test_a_replica_of_another_database_is_refused(cluster: Cluster, name: str, postgres_url: str):
    with opened(cluster, "postgres"):
        caught_up(cluster)
    for url in (postgres_url, cluster.replicas[0].url("postgres")):
        memory = opened(cluster, name, read_replica=url)
        with pytest.raises(DatabaseError, match="read_replica= leads to another"), memory:
            pass


@pytest.mark.parametrize(
    ("url", "replica_url"),
    [
        ("sqlite:///a.db", "sqlite:///b.db"),
        ("sqlite:///a.db", "postgresql://u@h/d"),
        ("postgresql://u@h/d", "sqlite:///b.db"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
    ],
)
def test_what_has_no_replica_is_refused_before_anything_is_opened(url: str, replica_url: str):
    with pytest.raises(DatabaseError, match=r"read_replica=.*Nothing was opened"):
        IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), read_replica=replica_url)


@pytest.mark.parametrize(("lag", "kind"), [(0, ValueError), ("5", TypeError), (-1.0, ValueError)])
def test_a_lag_that_is_none_is_refused(lag: Any, kind: type[Exception]):
    with pytest.raises(kind, match="read_replica_lag must be"):
        IsolatedMemory("sqlite://", root_key=LocalRootKey(ROOT_KEY), read_replica_lag=lag)


def test_a_memory_from_the_environment_has_the_replica_that_is_named_there(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("LANGMEM_ISOLATED_ROOT_KEY", base64.b64encode(ROOT_KEY).decode())
    monkeypatch.setenv("LANGMEM_ISOLATED_DATABASE", "sqlite://")
    monkeypatch.setenv("LANGMEM_ISOLATED_READ_REPLICA", "postgresql://u@h/d")
    with pytest.raises(DatabaseError, match="read_replica="):
        IsolatedMemory.from_environment()
