"""What PostgreSQL undid because it met others is done again, once; what may be stored is not."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from time import monotonic
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.store.base import GetOp, PutOp

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._adapters.recorder import Recorder
from langmem_isolated._database import backoff
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.items import writing
from langmem_isolated._storage.sessions import reading
from langmem_isolated.checkpointer import repository
from langmem_isolated.errors import DatabaseError, DatabaseLocked, DatabaseUnreachable
from langmem_isolated.lifecycle.sharing import merging
from tests.conftest import ROOT_KEY, Attacker
from tests.threads import at, put

NOTES = sa.Table(
    "notes", sa.MetaData(), sa.Column("name", sa.Text), sa.Column("number", sa.Integer)
)
SERIALIZABLE = "?options=-c%20default_transaction_isolation%3Dserializable"
REPEATABLE_READ = "?options=-c%20default_transaction_isolation%3Drepeatable%5C%20read"
_NAMED = NOTES.c.name == sa.bindparam("which")
ADD = sa.update(NOTES).where(_NAMED).values(number=NOTES.c.number + sa.literal_column("1"))
SET = sa.update(NOTES).where(_NAMED).values(number=sa.bindparam("to"))
GET = sa.select(NOTES.c.number).where(_NAMED)
SUM = sa.select(sa.func.sum(NOTES.c.number))
WORKERS = 8


@pytest.fixture
def attacker(postgres_url: str) -> Iterator[Attacker]:
    """The same database, with two numbers in it."""
    with closing(Attacker(postgres_url)) as attacker:
        attacker("CREATE TABLE notes (name TEXT, number INTEGER)")
        attacker("INSERT INTO notes VALUES ('a', 0), ('b', 0)")
        yield attacker


def opened(url: str, **options: Any) -> Database:
    database = Database(url, pool_size=WORKERS, **{"timeout": 20, **options})
    database.open()
    return database


def numbers(attacker: Attacker) -> list[int]:
    return [number for (number,) in attacker("SELECT number FROM notes ORDER BY name")]


def at_once(*uses: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(uses)) as threads:
        return [one.result(60) for one in [threads.submit(use) for use in uses]]


def test_two_that_block_each_other_are_both_stored_once(attacker: Attacker, postgres_url: str):
    both, runs = threading.Barrier(2), count()

    def crossed(transaction: Transaction, first: str, second: str) -> None:
        transaction.execute(ADD, which=first)
        transaction.row(GET, which=first)  # what was sent before is done
        if next(runs) < 2:
            both.wait(60)
        transaction.changes(ADD, which=second)

    with closing(opened(postgres_url)) as database:
        at_once(
            lambda: database.write(crossed, "a", "b"), lambda: database.write(crossed, "b", "a")
        )

    assert next(runs) >= 3  # one of the two was the victim, and may be so again
    assert numbers(attacker) == [2, 2]


def test_what_fails_to_serialize_at_its_commit_is_done_again_and_was_not_stored_before(
    attacker: Attacker, postgres_url: str
):
    both, tried = threading.Barrier(2), []

    def skewed(transaction: Transaction, read: str, written: str) -> None:
        tried.append(transaction)
        transaction.execute(sa.text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
        (number,) = transaction.row(GET, which=read) or (None,)
        if len(tried) <= 2:
            both.wait(60)
        transaction.execute(SET, which=written, to=number + 1)

    with closing(opened(postgres_url)) as database:
        at_once(lambda: database.write(skewed, "a", "b"), lambda: database.write(skewed, "b", "a"))

    # One after the other, in whichever order: never each as if it were alone, which is 1 and 1.
    assert sorted(numbers(attacker)) == [1, 2]
    failed = [one.is_stored for one in tried].count(False)
    assert failed >= 1
    assert len(tried) == 2 + failed


@pytest.mark.parametrize("door", ["write", "write_once"])
def test_no_increment_of_many_at_once_is_lost(attacker: Attacker, postgres_url: str, door: str):
    def work(database: Database) -> None:
        for _ in range(20):
            getattr(database, door)(Transaction.changes, ADD, which="a")

    with closing(opened(postgres_url + SERIALIZABLE)) as database:
        at_once(*[lambda: work(database)] * WORKERS)

    assert numbers(attacker) == [20 * WORKERS, 0]


def test_adapters_under_serializable_lose_nothing_and_keep_the_order(postgres_url: str):
    key, turns = LocalRootKey(ROOT_KEY), 6

    def work(memory: IsolatedMemory, name: str) -> None:
        # Two workers of each user: what one does meets what the other does.
        scoped = memory.scope(user_id=f"user-{int(name) // 2}", module_id="tutor")
        shared, own = scoped.chat_history("shared"), scoped.checkpointer()
        store = scoped.store()
        for turn in range(turns):
            shared.add_messages([HumanMessage(f"{name}-{turn}")])
            put(own, at(name), {"log": [f"{name}-{turn}"]})
            store.put(("notes",), f"{name}-{turn}", {"turn": turn})
            store.put(("notes",), "shared", {"by": name})

    with IsolatedMemory(postgres_url + SERIALIZABLE, root_key=key, pool_size=WORKERS) as memory:
        at_once(*[lambda name=str(n): work(memory, name) for n in range(WORKERS)])

    with IsolatedMemory(postgres_url, root_key=key) as memory:
        for user in range(WORKERS // 2):
            scoped = memory.scope(user_id=f"user-{user}", module_id="tutor")
            said = [str(one.content) for one in scoped.chat_history("shared").messages]
            names = [str(2 * user), str(2 * user + 1)]
            for name in names:
                mine = [text for text in said if text.startswith(f"{name}-")]
                assert mine == [f"{name}-{turn}" for turn in range(turns)]
                assert len([*scoped.checkpointer().list(at(name))]) == turns
            assert len(said) == 2 * turns
            found = scoped.store().search(("notes",), limit=100)
            assert len(found) == 2 * turns + 1


@pytest.mark.parametrize("level", ["", REPEATABLE_READ, SERIALIZABLE])
def test_an_item_that_is_put_while_others_begin_to_count_is_counted(
    postgres_url: str, level: str, monkeypatch: pytest.MonkeyPatch
):
    is_written, may_commit = threading.Event(), threading.Event()
    change = writing.change

    def changed_and_held(transaction: Transaction, *args: Any, **kwargs: Any) -> None:
        change(transaction, *args, **kwargs)
        transaction.row(sa.text("SELECT 1"))  # what was sent before is done
        is_written.set()
        assert may_commit.wait(10)

    key = LocalRootKey(ROOT_KEY)
    with (
        IsolatedMemory(postgres_url + level, root_key=key) as memory,
        ThreadPoolExecutor(2) as threads,
    ):
        alice = memory.scope(user_id="alice", module_id="tutor")
        alice.store().put(("notes",), "first", {"n": 1})
        with monkeypatch.context() as patch:
            patch.setattr(writing, "change", changed_and_held)
            two = [GetOp(("notes",), "second"), PutOp(("notes",), "second", {"n": 2})]
            put_second = threads.submit(alice.store().batch, two)
            assert is_written.wait(10)
            patch.undo()
            counted = alice.store(integrity="counted")
            put_third = threads.submit(counted.put, ("notes",), "third", {"n": 3})
            # Not to be seen from outside: it waits for the one that writes.
            time.sleep(0.3)
            may_commit.set()
            put_second.result(20)
            put_third.result(20)

        assert alice.verify().items == 3


def test_a_history_of_which_the_last_answer_was_lost_has_every_write_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
):
    runs, walk = count(), repository.walk

    def broken_once(transaction: Transaction, *args: Any) -> Any:
        found = walk(transaction, *args)
        if next(runs) == 0:
            transaction.connection.close()
        return found

    with IsolatedMemory(postgres_url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        saver, config = memory.scope(user_id="alice", module_id="tutor").checkpointer(), at("t")
        for number in range(3):
            config = put(saver, config, {"other": number})
            saver.put_writes(config, [("delta", number)], "task")
        monkeypatch.setattr(repository, "walk", broken_once)

        found = saver.get_delta_channel_history(config=at("t"), channels=["delta"])

    assert next(runs) == 2
    assert [value for *_, value in found["delta"]["writes"]] == [0, 1]


def test_a_message_between_older_ones_is_recorded_where_the_look_at_those_was_lost(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
):
    looks, find_by_id = count(1), reading.find_by_id

    def broken_once(transaction: Transaction, *args: Any) -> Any:
        if next(looks) == 4:
            transaction.connection.close()
        return find_by_id(transaction, *args)

    question, call = HumanMessage("1+2", id="a"), AIMessage("", id="b")
    answer = ToolMessage("cancelled", tool_call_id="add", id="c")
    later = HumanMessage("never mind", id="d")
    with IsolatedMemory(postgres_url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        alice = memory.scope(user_id="alice", module_id="tutor")
        recorder = Recorder(alice._records, "monday", "chat")
        recorder.add([question, call, later])
        monkeypatch.setattr(reading, "find_by_id", broken_once)

        recorder.catch_up([question, call, answer, later])

        texts = [message.content for message in alice.chat_history("monday").messages]
    assert texts == ["1+2", "", "never mind", "cancelled"]


def test_a_plan_of_facts_that_was_read_again_counts_each_fact_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
):
    looks, is_known = count(1), merging._is_known

    def broken_once(found: Any, fact: Any) -> bool:
        if next(looks) == 2:
            found.transaction.connection.close()
        return is_known(found, fact)

    with IsolatedMemory(postgres_url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        tutor = memory.scope(user_id="alice", module_id="tutor").profile()
        for text in ("one", "two", "three"):
            tutor.add_fact(text)
        memory.scope(user_id="alice", module_id="planner").profile().add_fact("another")
        monkeypatch.setattr(merging, "_is_known", broken_once)
        modules = {"user_id": "alice", "from_module": "tutor", "to_module": "planner"}

        plan = memory.copy_facts(**modules, facts=tutor.facts(), dry_run=True)

    assert plan.counts == {"profile": 3}


def refuse_with(attacker: Attacker, state: str, *, at_commit: bool = False) -> None:
    """Have the server refuse every change of a number, or the commit of a transaction with one."""
    attacker(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" RAISE EXCEPTION 'refused' USING ERRCODE = '{state}'; END $$"
    )
    at_change = "TRIGGER refuses BEFORE UPDATE ON notes"
    deferred = "CONSTRAINT TRIGGER refuses AFTER UPDATE ON notes DEFERRABLE INITIALLY DEFERRED"
    attacker(
        f"CREATE {deferred if at_commit else at_change} FOR EACH ROW"
        " EXECUTE FUNCTION langmem_isolated.refuse()"
    )


@pytest.mark.parametrize("door", ["write", "write_once"])
def test_attempts_have_an_end(
    attacker: Attacker, postgres_url: str, door: str, monkeypatch: pytest.MonkeyPatch
):
    refuse_with(attacker, "40001")
    runs, passed = count(), [0.0]
    clock = SimpleNamespace(monotonic=lambda: sum(passed), sleep=passed.append)
    monkeypatch.setattr(backoff, "time", clock)

    def add(transaction: Transaction) -> None:
        next(runs)
        transaction.changes(ADD, which="a")

    with (
        closing(opened(postgres_url, timeout=0.3)) as database,
        pytest.raises(DatabaseLocked, match="40001"),
    ):
        getattr(database, door)(add)

    assert 2 < next(runs) < 12
    assert numbers(attacker) == [0, 0]


@pytest.mark.parametrize("pooler", ["", "?pooler=transaction"])
@pytest.mark.parametrize("door", ["write", "write_once"])
def test_what_is_refused_at_its_commit_is_not_taken_for_stored(
    attacker: Attacker, postgres_url: str, door: str, pooler: str
):
    """At any of its first uses: the one that prepares a statement sends it in another way."""
    refuse_with(attacker, "23514", at_commit=True)

    with closing(opened(postgres_url + pooler)) as database:
        for _ in range(6):
            with pytest.raises(DatabaseError):
                getattr(database, door)(Transaction.changes, ADD, which="a")
        attacker("DROP TRIGGER refuses ON notes")
        getattr(database, door)(Transaction.changes, ADD, which="a")

    assert numbers(attacker) == [1, 0]


def test_a_completion_that_the_server_does_not_know_is_not_tried_again(
    attacker: Attacker, postgres_url: str
):
    refuse_with(attacker, "40003")
    runs = count()

    def add(transaction: Transaction) -> None:
        next(runs)
        transaction.changes(ADD, which="a")

    with (
        closing(opened(postgres_url)) as database,
        pytest.raises(DatabaseUnreachable, match="may have been stored"),
    ):
        database.write(add)

    assert next(runs) == 1


def test_a_single_statement_whose_connection_broke_is_not_sent_again(
    attacker: Attacker, postgres_url: str
):
    runs, sent = count(), threading.Event()

    def add(transaction: Transaction) -> None:
        next(runs)
        sent.set()
        transaction.changes(ADD, which="a")

    def end_who_waits() -> None:
        assert sent.wait(60)
        waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            ended, deadline = f"SELECT pg_terminate_backend(pid) {waiting}", monotonic() + 60
            while connection.execute(ended).fetchone() is None:
                assert monotonic() < deadline

    def write(database: Database) -> None:
        with pytest.raises(DatabaseUnreachable, match="may have been stored"):
            database.write_once(add)

    with closing(opened(postgres_url)) as database, psycopg.connect(postgres_url) as holder:
        holder.execute("UPDATE langmem_isolated.notes SET number = 0")
        at_once(lambda: write(database), end_who_waits)

    assert next(runs) == 1
    assert numbers(attacker) == [0, 0]


@pytest.mark.parametrize("door", ["write", "write_once", "read", "snapshot"])
def test_who_is_interrupted_twice_is_interrupted_and_not_tried_again(postgres_url: str, door: str):
    """The second time psycopg was waiting for its cancellation, and closed the connection."""
    runs = count(1)

    def interrupted(transaction: Transaction) -> None:
        next(runs)
        transaction.connection.close()
        raise KeyboardInterrupt

    with closing(opened(postgres_url)) as database:
        with pytest.raises(KeyboardInterrupt):
            getattr(database, door)(interrupted)

        assert next(runs) == 2
        assert database.read(lambda it: it.rows(sa.text("SELECT 1"))) == [(1,)]


@pytest.mark.parametrize("door", ["write_once", "read"])
def test_a_connection_on_which_a_pipeline_was_begun_and_not_ended_is_not_given_to_others(
    postgres_url: str, door: str
):
    """Who was interrupted there left it: a statement of the next one would have no answer."""
    used: list[Any] = []

    def interrupted(transaction: Transaction) -> None:
        used.append(transaction.connection)
        transaction.connection.pgconn.enter_pipeline_mode()
        raise KeyboardInterrupt

    with closing(opened(postgres_url)) as database:
        with pytest.raises(KeyboardInterrupt):
            getattr(database, door)(interrupted)
        (connection,) = used
        assert connection.closed or not connection.pgconn.pipeline_status
