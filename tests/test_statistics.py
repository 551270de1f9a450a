"""Statistics: what there is, by module and day, counted when it is written."""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date, timedelta
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint

from benchmarks import lifecycle
from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage import statistics
from langmem_isolated.errors import ScopeError, ValueNotStorable
from langmem_isolated.lifecycle import COUNTED, NOT_COUNTED, Stats, Tokens, Totals
from tests.conftest import Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.processes import Child
from tests.query_plans import query_plan

SetDay = Callable[[int], None]

pytestmark = pytest.mark.usefixtures("noon")


@pytest.fixture
def day(noon: None, monkeypatch: pytest.MonkeyPatch) -> SetDay:
    """Lets the clock show a time so many days from now."""
    real = time.time_ns

    def shift(days: int) -> None:
        monkeypatch.setattr(time, "time_ns", lambda: real() + days * 86_400 * 10**9)

    return shift


def tutor_of(memory: IsolatedMemory, user: str, project: str = "default") -> ScopedMemory:
    return memory.scope(user_id=user, module_id="tutor", project_id=project)


def asked(tokens: int = 10, model: str = "small", id_: str | None = None) -> AIMessage:
    return AIMessage(
        "yes",
        id=id_,
        usage_metadata={
            "input_tokens": tokens,
            "output_tokens": 2 * tokens,
            "total_tokens": 3 * tokens,
        },
        response_metadata={"model_name": model},
    )


def used(stats: Stats) -> list[tuple[str, int, int, int]]:
    return [(one.model, one.answers, one.input_tokens, one.output_tokens) for one in stats.tokens]


def active(stats: Stats) -> list[int]:
    return [day.active_users for day in stats.days]


def nothing(*_: object) -> None:
    """Writes nothing, in a transaction."""


def store_everything(scoped: ScopedMemory) -> None:
    scoped.chat_history("monday").add_messages([HumanMessage("one"), AIMessage("two")])
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    scoped.checkpointer().put(config, empty_checkpoint(), {}, {})
    scoped.store().put(("facts",), "k", {"v": 1})
    scoped.vector_store(NGramEmbeddings()).add_texts(["one", "two", "three"])
    scoped.byte_store().mset([("k", b"v")])


async def test_an_empty_memory_has_nothing_and_makes_nothing(
    memory: IsolatedMemory, door: Door, attacker: Attacker
):
    found = await door(memory, "stats", days=2)
    own = await door(tutor_of(memory, "alice"), "stats", days=2)

    assert found.total == own.total == Totals()
    assert (found.projects, found.modules, found.tokens, active(found)) == ({}, [], [], [0, 0])
    assert attacker("SELECT COUNT(*) FROM scopes") == [(0,)]


async def test_everything_is_counted_by_project_and_module_and_nobody_is_named(
    memory: IsolatedMemory, door: Door
):
    store_everything(tutor_of(memory, "alice"))
    store_everything(tutor_of(memory, "bob"))
    store_everything(memory.scope(user_id="alice", module_id="notes"))
    store_everything(tutor_of(memory, "alice", project="other"))

    found = await door(memory, "stats", days=1, largest=3)

    total = found.total
    assert (total.scopes, total.users, total.sessions, total.messages) == (4, 3, 4, 8)
    assert (total.threads, total.checkpoints, total.collections, total.documents) == (4, 4, 4, 12)
    assert (total.items, total.entries) == (4, 4)
    assert {name: totals.users for name, totals in found.projects.items()} == {
        "default": 2,
        "other": 1,
    }
    assert [(one.project, one.module, one.totals.users) for one in found.modules] == [
        ("default", "notes", 1),
        ("default", "tutor", 2),
        ("other", "tutor", 1),
    ]
    assert len({scope.digest for scope in found.largest}) == 3
    assert "alice" not in str(found.as_dict())


async def test_a_project_and_a_module_are_counted_by_themselves(memory: IsolatedMemory, door: Door):
    store_everything(tutor_of(memory, "alice"))
    store_everything(memory.scope(user_id="alice", module_id="notes"))
    store_everything(tutor_of(memory, "alice", project="other"))

    in_module = await door(memory, "stats", module_id="tutor", days=1)
    in_project = await door(memory, "stats", project_id="default", days=1)
    nowhere = await door(memory, "stats", project_id="nowhere", days=1)

    assert [(one.total.sessions, one.days[0].sessions) for one in (in_module, in_project)] == [
        (1, 1),
        (2, 2),
    ]
    assert [one.total.users for one in (in_module, in_project, nowhere)] == [1, 1, 0]


async def test_a_scope_counts_what_is_its_own(memory: IsolatedMemory, door: Door):
    alice = tutor_of(memory, "alice")
    store_everything(alice)
    store_everything(tutor_of(memory, "bob"))

    found = await door(alice, "stats", days=1)

    assert (found.total.sessions, found.total.messages, found.total.items) == (1, 2, 1)
    assert found.days[0].active_users == 1
    assert found.total.last_activity is not None


def test_the_bytes_are_those_of_the_records(memory: IsolatedMemory, attacker: Attacker):
    store_everything(tutor_of(memory, "alice"))

    assert attacker("SELECT SUM(size) FROM records") == [(memory.stats().total.bytes,)]


def test_what_has_expired_is_absent(memory: IsolatedMemory, day: SetDay):
    scoped = tutor_of(memory, "alice")
    scoped.store().put(("facts",), "short", {"v": 1}, ttl=1)
    scoped.store().put(("facts",), "long", {"v": 1})
    before = memory.stats().total.items

    day(1)

    assert (before, memory.stats().total.items) == (2, 1)


# PostgreSQL scans a small table, whatever its indexes are.
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_counting_looks_at_no_record(memory: IsolatedMemory):
    store_everything(tutor_of(memory, "alice"))
    seen = query_plan(memory, statistics._statements(()).singly)

    assert "SCAN records USING COVERING INDEX records_items" in seen
    assert "SCAN records USING COVERING INDEX records_uncounted" in seen
    assert len([step for step in seen if " records " in step]) == 2
    others = statistics._statements(())._asdict()
    assert [name for name, one in others.items() if "FROM records" in str(one)] == ["singly"]
    of_one_scope = query_plan(memory, statistics.held_by_scope())
    assert "SEARCH records USING COVERING INDEX records_items" in of_one_scope
    assert "SEARCH records USING COVERING INDEX records_uncounted" in of_one_scope


def test_every_kind_is_counted_or_left_out_for_a_reason():
    assert {*COUNTED} | {*NOT_COUNTED} == {*Kind}
    assert not {*COUNTED} & {*NOT_COUNTED}
    assert {*COUNTED.values()} <= {*Totals.__dataclass_fields__}


def test_who_wrote_on_a_day_is_active_once_and_who_only_read_is_not(
    memory: IsolatedMemory, day: SetDay
):
    store_everything(tutor_of(memory, "alice"))
    store_everything(memory.scope(user_id="alice", module_id="notes"))
    store_everything(tutor_of(memory, "bob"))
    day(1)
    store_everything(tutor_of(memory, "bob"))
    assert tutor_of(memory, "alice").chat_history("monday").messages

    assert active(memory.stats(days=3)) == [0, 2, 1]


def test_who_came_back_to_an_old_session_was_active_on_both_days(
    memory: IsolatedMemory, day: SetDay
):
    history = tutor_of(memory, "alice").chat_history("monday")
    history.add_user_message("one")
    day(1)
    history.add_user_message("two")

    assert active(memory.stats(days=2)) == [1, 1]


def test_messages_and_bytes_are_told_by_the_day_that_added_them(
    memory: IsolatedMemory, day: SetDay
):
    history = tutor_of(memory, "alice").chat_history("monday")
    history.add_messages([HumanMessage("one"), AIMessage("two")])
    day(2)
    history.add_messages([HumanMessage("three"), AIMessage("four"), HumanMessage("five")])
    tutor_of(memory, "bob").chat_history("s").add_user_message("six")

    days = memory.stats(days=3).days

    assert [one.messages for one in days] == [2, 0, 4]
    assert [one.sessions for one in days] == [1, 0, 1]
    assert sum(one.bytes for one in days) == memory.stats().total.bytes
    assert [one.day for one in days] == [days[2].day - timedelta(days=n) for n in (2, 1, 0)]


def test_what_an_operator_does_makes_nobody_active(memory: IsolatedMemory, day: SetDay):
    store_everything(tutor_of(memory, "alice"))
    day(1)
    for records in memory._context.walk():
        records.write(nothing)

    assert active(memory.stats(days=2)) == [1, 0]


def test_only_the_first_write_of_a_day_notes_it(
    memory: IsolatedMemory, day: SetDay, monkeypatch: pytest.MonkeyPatch
):
    history = tutor_of(memory, "alice").chat_history("monday")
    history.add_user_message("one")
    asked: list[str] = []
    query = Transaction._query

    def note(self: Transaction, statement: Any, values: Any) -> Any:
        asked.append(str(statement)[:30])
        return query(self, statement, values)

    monkeypatch.setattr(Transaction, "_query", note)
    history.add_user_message("two")
    later = [sql for sql in asked if "usage" in sql]
    day(1)
    history.add_user_message("three")

    assert later == []
    assert [sql.split()[:3] for sql in asked if "usage" in sql] == [["INSERT", "INTO", "usage"]]


def test_a_write_that_fails_makes_nobody_active(memory: IsolatedMemory):
    scoped = tutor_of(memory, "alice")

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    for _ in range(2):
        with suppress(ZeroDivisionError):
            scoped._records.write(fails)

    assert active(memory.stats(days=1)) == [0]


def test_two_processes_count_a_day_once_and_every_token(database_url: str, root_key: LocalRootKey):
    def write() -> None:
        with IsolatedMemory(database_url, root_key=root_key) as memory:
            history = tutor_of(memory, "alice").chat_history("shared")
            for _ in range(20):
                history.add_message(asked())

    for child in [Child(write), Child(write)]:
        child.result()

    with IsolatedMemory(database_url, root_key=root_key) as memory:
        found = memory.stats(days=1)
    assert active(found) == [1]
    assert used(found) == [("small", 40, 400, 800)]
    assert found.days[0].messages == 40


async def test_tokens_are_counted_by_day_module_and_model(
    memory: IsolatedMemory, door: Door, day: SetDay
):
    history = tutor_of(memory, "alice").chat_history("monday")
    await door(history, "add_messages", [HumanMessage("?"), asked(1), asked(2, "large")])
    await door(tutor_of(memory, "bob").chat_history("s"), "add_messages", [asked(3)])
    day(1)
    notes = memory.scope(user_id="alice", module_id="notes").chat_history("n")
    await door(notes, "add_messages", [asked(4, "")])

    found = (await door(memory, "stats", days=2)).tokens

    first = found[0].day
    assert found == [
        Tokens(first, "default", "tutor", "large", 1, 2, 4),
        Tokens(first, "default", "tutor", "small", 2, 4, 8),
        Tokens(first + timedelta(days=1), "default", "notes", "", 1, 4, 8),
    ]
    assert isinstance(first, date)


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_message_that_comes_again_is_not_counted_again(memory: IsolatedMemory, idempotent: bool):
    scoped = tutor_of(memory, "alice")
    history = scoped.chat_history("monday", idempotent=idempotent)
    for _ in range(3):
        history.add_messages([asked(id_="one")])
    history.add_messages([asked(id_="two"), asked(id_="two")])

    assert used(memory.stats()) == [("small", 2, 20, 40)]


def test_tokens_of_a_session_that_was_removed_stay_counted(memory: IsolatedMemory):
    scoped = tutor_of(memory, "alice")
    scoped.chat_history("monday").add_messages([asked()])
    scoped.sessions.delete("monday")

    found = memory.stats(days=1)

    assert used(found) == [("small", 1, 10, 20)]
    assert (found.total.messages, found.days[0].messages) == (0, 0)


def test_what_is_not_stored_counts_nothing(memory: IsolatedMemory):
    history = tutor_of(memory, "alice").chat_history("monday")
    history.add_user_message("hi")
    bad = AIMessage("no", additional_kwargs={"f": object()})

    with pytest.raises(ValueNotStorable):
        history.add_messages([asked(), bad])

    assert used(memory.stats()) == []


@pytest.mark.parametrize("tokens", [-1, 2**70, "many", True])
def test_numbers_that_no_server_means_count_as_none(memory: IsolatedMemory, tokens: Any):
    message = asked()
    assert message.usage_metadata
    message.usage_metadata["input_tokens"] = tokens
    tutor_of(memory, "alice").chat_history("monday").add_messages([message])

    assert used(memory.stats()) == [("small", 1, 0, 20)]


def test_the_tables_name_no_model_and_a_name_that_was_moved_is_not_told(
    memory: IsolatedMemory, attacker: Attacker
):
    tutor_of(memory, "alice").chat_history("s").add_messages([asked(1, "very-secret-model")])
    tutor_of(memory, "alice").chat_history("s").add_messages([asked(1, "another")])
    rows = attacker("SELECT model, sealed FROM usage WHERE sealed IS NOT NULL")
    (_, sealed), (other, _) = rows

    assert not any(b"secret" in column for row in rows for column in row)
    attacker("UPDATE usage SET sealed = ? WHERE model = ?", sealed, other)
    assert other.hex() in {tokens.model for tokens in memory.stats().tokens}


def test_what_a_scope_used_goes_with_it(memory: IsolatedMemory, attacker: Attacker):
    scoped = tutor_of(memory, "alice")
    scoped._records.write(nothing)
    keyring = memory._context.keyring
    (row,) = [row for row, _ in keyring.walk()]

    keyring._scopes.delete(row)

    assert attacker("SELECT COUNT(*) FROM usage") == [(0,)]
    assert attacker("SELECT COUNT(*) FROM scopes") == [(0,)]


def test_guests_are_counted_apart_from_users(memory: IsolatedMemory):
    guest = Owner.anonymous("a" * 22, module="tutor", project="default")
    memory._context.records(guest).write(nothing)
    store_everything(tutor_of(memory, "alice"))
    memory._context.records(Owner(Level.PROJECT, "default")).write(nothing)

    found = memory.stats(days=1)

    assert (found.total.users, found.total.guests, found.total.scopes) == (1, 1, 3)
    assert active(found) == [1]
    assert [one.module for one in found.modules] == [None, "tutor"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"days": 0}, ValueError),
        ({"days": 40_000}, ValueError),
        ({"days": "30"}, TypeError),
        ({"largest": -1}, ValueError),
        ({"project_id": ""}, ScopeError),
        ({"module_id": 7}, ScopeError),
    ],
)
def test_what_cannot_be_counted_is_refused(
    memory: IsolatedMemory, arguments: dict[str, Any], error: type[Exception]
):
    with pytest.raises(error):
        memory.stats(**arguments)


def test_the_benchmark_makes_as_much_as_it_says(sqlite_url: str, root_key: LocalRootKey):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        lifecycle.make_user(memory, lifecycle.SOMEONE)

        total = memory.stats().total
        assert (total.users, total.sessions) == (1, lifecycle.SESSIONS)
        assert total.messages == lifecycle.SESSIONS * lifecycle.MESSAGES
        assert total.entries == lifecycle.LIVING
