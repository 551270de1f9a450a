"""Roll back: takes out exactly what an import put in and nobody changed since."""

import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated._database import schema
from langmem_isolated._storage.copying.import_marks import ImportMark
from langmem_isolated.errors import KeyDestroyed, RecordDoesNotOpen
from langmem_isolated.lifecycle import (
    ForeignDocument,
    ForeignFact,
    ForeignItem,
    ForeignMessage,
    ForeignProfile,
    ForeignSession,
)
from tests.conftest import Attacker
from tests.foreign_threads import foreign_thread
from tests.locks import lock, unlock
from tests.processes import Child
from tests.test_bulk_import import BEGAN, CONFIG, TOKEN, delta_graph

Dump = dict[str, list[str]]
# What opens every installation, and what says how often a key was used: neither is a scope's own.
NOT_COMPARED = {"key_uses"}
MARK = ImportMark("sqlite-saver", 1714564800000000, True, [b"notes"])
FROZEN = "9501ac73716c6974652d7361766572cf0006176339d93000c391c4056e6f746573"
# Messages that take more than one transaction.
MANY = 1_100


def dumped(attacker: Attacker) -> Dump:
    """Every row of every table, in order."""
    return {
        table: sorted(map(repr, attacker(f"SELECT * FROM {table}")))
        for table in schema.metadata.tables
        if table not in NOT_COMPARED
    }


@cache
def units(long: int) -> list[Any]:
    """One of each kind, and a session of so many messages."""
    theirs = InMemorySaver()
    graph = delta_graph().compile(checkpointer=theirs)
    for number in range(3):
        graph.invoke({"messages": [("human", f"turn {number}")]}, CONFIG)
    messages = [
        ForeignMessage(HumanMessage(f"message {n}", id=str(n)), f"row {n}", BEGAN, "general")
        for n in range(long)
    ]
    return [
        ForeignSession("short", "rows", messages[:3], title="Short"),
        ForeignSession("long", "rows", messages),
        foreign_thread(theirs, "chat-1"),
        *(ForeignItem(("a",), f"key {n}", {"n": n}, "row", BEGAN) for n in range(20)),
        *(ForeignDocument("notes", f"id {n}", f"text {n}", {}, "row", [1.0, n + 1.0])
          for n in range(20)),
        ForeignProfile("p", "file", [ForeignFact("Likes tea.")], ["chess"], {"level": 3}, "Short."),
    ]  # fmt: skip


def put_in(
    memory: IsolatedMemory, users: tuple[str, ...] = ("alice", "carol"), long: int = 10
) -> list[str]:
    states: list[str] = []
    with memory.bulk_import(TOKEN, source="test") as bulk:
        for user in users:
            outcomes = bulk.put_many(Scope(user, "tutor"), units(long), on_reject=print)
            states += [one.state for one in outcomes]
    return states


def went_on(memory: IsolatedMemory, user: str) -> dict[str, Any]:
    """All that a user has of what is put in, as adapters read it."""
    scope = memory.scope(user_id=user, module_id="tutor")
    profile = scope.profile().contents()
    items = scope.store().search(("a",), limit=99)
    store = scope.vector_store(DeterministicFakeEmbedding(size=2), collection="notes")
    return {
        "short": scope.chat_history("short").timed(),
        "long": scope.chat_history("long").timed(),
        "thread": [*scope.checkpointer().list(CONFIG)],
        "items": sorted((i.key, i.value["n"], i.created_at) for i in items),
        "documents": store.get_by_ids([f"id {n}" for n in range(20)]),
        "profile": ([f.text for f in profile.facts], [i.name for i in profile.interests],
                    dict(profile.attributes), profile.summary),
    }  # fmt: skip


def test_every_table_is_as_it_was_scopes_and_keys_included(
    memory: IsolatedMemory, attacker: Attacker
):
    memory.scope(user_id="alice", module_id="planner").chat_history("own").add_user_message("Mine.")
    memory.scope(user_id="bob", module_id="tutor").chat_history("own").add_user_message("His.")
    before = dumped(attacker)

    first = put_in(memory, long=MANY)
    again = put_in(memory, long=MANY)
    memory.verify()
    told: list[int] = []
    result = memory.roll_back(TOKEN, progress=told.append)

    assert dumped(attacker) == before
    assert {*first} == {"copied"}
    assert {*again} == {"present"}
    counts = {"session": 2, "thread": 1, "item": 20, "document": 20, "profile": 4}
    assert result.counts == {kind: 2 * count for kind, count in sorted(counts.items())}
    assert (result.left, result.scopes, result.is_done) == ((), 2, True)
    assert told[-1] == sum(result.counts.values())
    assert memory.roll_back(TOKEN).scopes == 0
    memory.verify()


def test_what_was_changed_since_stays_and_is_told_and_the_rest_goes(memory: IsolatedMemory):
    put_in(memory, ("alice",))
    scope = memory.scope(user_id="alice", module_id="tutor")
    scope.chat_history("short").add_user_message("And then?")
    scope.store().put(("a",), "key 3", {"mine": True})
    scope.store().put(("a",), "new", {"mine": True})
    scope.profile().set_attribute("level", 4)

    result = memory.roll_back(TOKEN)

    left = {(one.what.kind, one.what.names[0]) for one in result.left}
    assert left == {("session", "short"), ("item", "key 3"), ("profile", "level")}
    assert [session.id for session in scope.sessions()] == ["short"]
    assert scope.chat_history("short").count() == 4
    assert {item.key for item in scope.store().search(("a",))} == {"key 3", "new"}
    assert not [*scope.checkpointer().list(CONFIG)]
    assert "short" not in repr(result) + repr(result.left)
    memory.verify()


def test_what_an_import_had_begun_when_its_source_broke_goes_as_well(
    memory: IsolatedMemory, attacker: Attacker
):
    """Unseen as it is: below a row that no list shows 500 messages stand already."""
    memory.scope(user_id="bob", module_id="tutor").chat_history("own").add_user_message("His.")
    before = dumped(attacker)

    def breaking() -> Iterator[ForeignMessage]:
        for number in range(700):
            yield ForeignMessage(HumanMessage(f"message {number}"), f"row {number}")
        raise OSError("the disk is gone")

    with (
        memory.bulk_import(TOKEN, source="test") as bulk,
        pytest.raises(OSError, match="disk"),
    ):
        bulk.put(Scope("alice", "tutor"), ForeignSession("s", "rows", breaking()), on_reject=print)
    assert [*memory.scope(user_id="alice", module_id="tutor").sessions()] == []

    assert memory.roll_back(TOKEN).scopes == 1
    assert dumped(attacker) == before


def test_the_imports_of_two_tokens_are_taken_out_apart(memory: IsolatedMemory, attacker: Attacker):
    put_in(memory, ("alice",))
    between = dumped(attacker)
    other = b"another, sixteen"
    with memory.bulk_import(other, source="test") as bulk:
        more = ForeignSession("more", "rows", [ForeignMessage(AIMessage("x"), "row 1")])
        bulk.put(Scope("alice", "tutor"), more, on_reject=print)

    assert memory.roll_back(other).counts == {"session": 1}
    assert dumped(attacker) == between
    assert memory.roll_back(TOKEN).scopes == 1


def test_who_had_been_erased_is_erased_again(memory: IsolatedMemory):
    memory.scope(user_id="alice", module_id="tutor").chat_history("old").add_user_message("x")
    memory.erase_user("alice")
    with memory.bulk_import(TOKEN, source="test", readmit=["alice"]) as bulk:
        found = ForeignSession("monday", "rows", [ForeignMessage(AIMessage("x"), "row 1")])
        bulk.put(Scope("alice", "tutor"), found, on_reject=print)

    assert memory.roll_back(TOKEN).counts == {"session": 1}
    assert memory.scope(user_id="alice", module_id="tutor").chat_history("monday").messages == []
    assert memory.stats().total.users == 0
    memory.verify()


def test_an_object_of_a_scope_that_is_gone_says_so_and_a_new_one_begins_again(
    memory: IsolatedMemory,
):
    put_in(memory, ("alice",))
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("short")
    assert history.count() == 3
    memory.roll_back(TOKEN)

    with pytest.raises(KeyDestroyed):
        history.add_user_message("Still here?")
    fresh = memory.scope(user_id="alice", module_id="tutor").chat_history("short")
    fresh.add_user_message("Anew.")
    assert fresh.count() == 1
    memory.verify()


def test_a_user_on_hold_or_locked_keeps_all_until_that_ends(memory: IsolatedMemory):
    put_in(memory, ("alice", "bob", "carol"))
    memory.retention.hold("alice", reason="case 7", by="counsel")
    lock(memory, "bob")
    memory.lock("bob")

    first = memory.roll_back(TOKEN)
    memory.retention.release("alice")
    unlock(memory, "bob")
    second = memory.roll_back(TOKEN)

    assert (first.scopes, first.held, first.locked, first.is_done) == (1, 1, 1, False)
    assert (second.scopes, second.is_done) == (2, True)
    assert second.counts == {kind: 2 * count for kind, count in first.counts.items()}


def test_the_first_hold_of_a_project_counts_amid_a_roll_back(memory: IsolatedMemory):
    put_in(memory, ("alice",))

    def place(_: int) -> None:
        if not memory.retention.holds():
            memory.retention.hold("alice", reason="case 7", by="counsel")

    first = memory.roll_back(TOKEN, progress=place)
    left = memory.scope(user_id="alice", module_id="tutor").stats().total

    assert (first.held, first.is_done) == (1, False)
    assert left.messages or left.items or left.documents
    memory.retention.release("alice")
    assert memory.roll_back(TOKEN).is_done


def test_a_journal_that_was_tampered_with_takes_nothing_out(
    memory: IsolatedMemory, attacker: Attacker
):
    put_in(memory, ("alice",))
    attacker("UPDATE records SET sealed = (SELECT sealed FROM records r WHERE r.kind = 21 "
             "AND r.key <> records.key LIMIT 1) WHERE kind = 21")  # fmt: skip

    with pytest.raises(RecordDoesNotOpen):
        memory.roll_back(TOKEN)
    assert memory.scope(user_id="alice", module_id="tutor").chat_history("short").count() == 3


def test_another_token_or_none_finds_nothing(memory: IsolatedMemory):
    put_in(memory, ("alice",))

    assert memory.roll_back(bytes(16)).as_dict() == {
        "counts": {}, "left": 0, "scopes": 0, "held": 0, "locked": 0,
    }  # fmt: skip
    with pytest.raises(ValueError, match="16 bytes, got 3"):
        memory.roll_back(b"abc")
    with pytest.raises(TypeError, match="16 bytes, got str"):
        memory.bulk_import("0123456789abcdef", source="test")  # type: ignore[arg-type]


async def test_the_async_twin_does_the_same(memory: IsolatedMemory):
    put_in(memory, ("alice",))

    assert (await memory.aroll_back(TOKEN)).scopes == 1


def test_keys_of_another_store_go_as_well_and_rotated_ones_prove_the_same(
    sqlite_url: str, root_key: LocalRootKey, tmp_path: Path
):
    key_store = f"sqlite:///{tmp_path}/keys.db"
    attackers = [Attacker(sqlite_url), Attacker(key_store)]
    with IsolatedMemory(sqlite_url, root_key=root_key, key_store=key_store) as memory:
        memory.scope(user_id="bob", module_id="tutor").chat_history("own").add_user_message("His.")
        before = [*map(dumped, attackers)]
        put_in(memory)
        memory.rotate_keys("alice")

        result = memory.roll_back(TOKEN)

        assert [*map(dumped, attackers)] == before
        assert (result.left, result.scopes) == ((), 2)
    for attacker in attackers:
        attacker.close()


def test_the_mark_of_an_import_is_frozen():
    """What stands in a scope must be found by every later version, or nothing is taken out."""
    stored = bytes.fromhex(FROZEN)

    assert ImportMark(*decode_value(stored)[1:]) == MARK
    assert encode_value([1, *MARK], "a receipt") == stored


# --- killed ---------------------------------------------------------------------------------------


def _import(url: str, key: LocalRootKey) -> None:
    with IsolatedMemory(url, root_key=key) as memory:
        put_in(memory, long=MANY)


def _roll_back(url: str, key: LocalRootKey) -> None:
    with IsolatedMemory(url, root_key=key) as memory:
        memory.roll_back(TOKEN)


@pytest.mark.slow
def test_killed_at_any_point_an_import_and_a_roll_back_go_on(
    sqlite_url: str, root_key: LocalRootKey
):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        memory.scope(user_id="bob", module_id="tutor").chat_history("own").add_user_message("His.")
    attacker = Attacker(sqlite_url)
    before = dumped(attacker)
    for number in range(4):
        for function in (_import, _roll_back) if number % 2 else (_import,):
            child = Child(function, sqlite_url, root_key)
            time.sleep(0.15 + 0.3 * number)
            child.kill()
        with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
            put_in(memory, long=MANY)
            memory.verify()
            whole = [went_on(memory, user) for user in ("alice", "carol")]
            assert [len(one["long"]) for one in whole] == [MANY, MANY]
            assert whole[0]["short"] == whole[1]["short"]
            assert len(whole[0]["items"]) == len(whole[0]["documents"]) == 20
        child = Child(_roll_back, sqlite_url, root_key)
        time.sleep(0.1 + 0.1 * number)
        child.kill()
        with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
            memory.roll_back(TOKEN)
            memory.verify()
        assert dumped(attacker) == before
    attacker.close()
