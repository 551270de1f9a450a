"""Sealing keys are exchanged while everybody goes on, and the former ones are destroyed."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.outputs import Generation
from langchain_core.vectorstores import InMemoryVectorStore

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._crypto.kinds import SERVER_HELD, Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage import entries
from langmem_isolated._storage.copying import imported
from langmem_isolated._storage.copying.copy import Copy
from langmem_isolated._storage.key_rotation import _OnePrincipal
from langmem_isolated._storage.resealing import _FORMER_KEYS
from langmem_isolated.errors import (
    KeyDestroyed,
    KeyNotFound,
    MemoryLocked,
    RecordDoesNotOpen,
    ScopeError,
)
from langmem_isolated.lifecycle import KeysRotated
from langmem_isolated.lifecycle.imports.putting import Put
from langmem_isolated.wrapping import PostFilterAdapter
from langmem_isolated.wrapping.in_memory import InMemoryAdapter
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.processes import all_at_once
from tests.test_inventory import RESERVED, ROWS, embeddings, fill, operate
from tests.threads import at, put, values_at

USER = {"user_id": "alice"}
SEALED_IN = ("records", "sessions", "usage", "scopes")


def opened_anew(url: str, **options: Any) -> IsolatedMemory:
    return IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), pool_size=2, **options)


def alice(memory: IsolatedMemory, module: str = "tutor") -> ScopedMemory:
    return memory.scope(**USER, module_id=module)


def key_id(scope: ScopedMemory) -> bytes:
    return scope._records.keys().sealing.id


def rows_under(attacker: Attacker, key: bytes) -> int:
    """How many sealed columns of any table have the id of a key in them."""
    rows = [row for table in SEALED_IN for row in attacker(f"SELECT sealed FROM {table}")]
    return sum(key in bytes(sealed) for (sealed,) in rows if sealed)


def keys_in(attacker: Attacker, purpose: int = 3) -> list[tuple[int, int, bool]]:
    """Version and state of each sealing key, and whether something of it is there."""
    asked = "SELECT version, state, wrapped FROM keys WHERE purpose = ? ORDER BY principal, version"
    return [(version, state, wrapped is not None) for version, state, wrapped in
            attacker(asked, purpose)]  # fmt: skip


def unsealed(attacker: Attacker) -> list[Any]:
    """Every column of records and rows above them but what a rotation is to change."""
    records = "kind, parent, key, alias, tag, size, created_at, updated_at, expires_at, expiry_mac"
    rows = "kind, digest, birth, generation, next_sequence, count, size, members, newest, channels"
    more = "state, created_at, updated_at, expires_at, revision"
    return [
        attacker(f"SELECT scope_id, {records} FROM records ORDER BY 1, 2, 3, 4"),
        attacker(f"SELECT scope_id, {rows}, {more} FROM sessions ORDER BY 1, 2, 3"),
    ]


async def test_everything_of_a_user_is_sealed_anew_and_the_former_key_is_destroyed(
    memory: IsolatedMemory, attacker: Attacker, door: Door
):
    scope = alice(memory)
    fill(memory, scope, None)
    operate(memory, None)
    former = {key_id(alice(memory, module)) for module in ("tutor", "planner")}
    said, was = scope.chat_history("s").messages, unsealed(attacker)
    sealed = {kind for (kind, one) in attacker("SELECT kind, sealed FROM records")
              if any(key in bytes(one) for key in former)}  # fmt: skip
    assert sealed == {*Kind} - SERVER_HELD - RESERVED - {*ROWS} - {
        *(Kind.SESSION, Kind.THREAD, Kind.COLLECTION)
    }

    rotated = await door(memory, "rotate_keys", "alice")

    assert not sum(rows_under(attacker, key) for key in former)
    assert (rotated.owners, rotated.keys_made, rotated.keys_destroyed) == (1, 1, 1)
    assert (rotated.damaged, rotated.is_done) == (0, True)
    assert rotated.records > 20
    assert unsealed(attacker) == was
    assert scope.chat_history("s").messages == said
    for module in ("tutor", "planner"):
        alice(memory, module).verify()
    assert keys_in(attacker).count((1, 3, False)) == 1
    assert keys_in(attacker).count((2, 1, True)) == 1


def test_who_has_nothing_has_no_key_to_rotate(memory: IsolatedMemory, attacker: Attacker):
    assert memory.rotate_keys("nobody") == KeysRotated(0, 0, 0, 0, 0, is_done=True)
    alice(memory).store().put(("a",), "b", {})
    assert memory.rotate_keys("nobody").keys_made == 0
    memory.erase_user("alice")
    assert memory.rotate_keys("alice").keys_made == 0


def test_each_rotation_makes_another_key(memory: IsolatedMemory, attacker: Attacker):
    scope = alice(memory)
    for number in range(3):
        scope.store().put(("a",), str(number), {"n": number})
        assert memory.rotate_keys("alice").keys_destroyed == 1

    assert keys_in(attacker) == [(1, 3, False), (2, 3, False), (3, 3, False), (4, 1, True)]
    assert scope.store().get(("a",), "0").value == {"n": 0}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, TypeError),
        ({"user_id": "alice", "all": True}, TypeError),
        ({"all": 1}, TypeError),
        ({"user_id": ""}, ScopeError),
        ({"user_id": "alice", "project_id": 3}, ScopeError),
        ({"user_id": "alice", "max_seconds": -1}, ValueError),
        ({"user_id": "alice", "max_seconds": "1"}, TypeError),
        ({"user_id": "alice", "progress": 3}, TypeError),
    ],
)
def test_what_cannot_be_meant_is_refused(
    memory: IsolatedMemory, arguments: dict[str, Any], error: type[Exception]
):
    alice(memory).store().put(("a",), "b", {})
    with pytest.raises(error):
        memory.rotate_keys(**arguments)


# Others have the former key in memory

WRITES: dict[str, Callable[[ScopedMemory], object]] = {
    "append": lambda s: s.chat_history("s").add_messages([HumanMessage("more")]),
    "first message": lambda s: s.chat_history("another").add_messages([HumanMessage("first")]),
    "rename": lambda s: s.sessions.rename("s", "another title"),
    "create": lambda s: s.sessions.create("third"),
    "clear": lambda s: s.chat_history("s").clear(),
    "checkpoint": lambda s: put(s.checkpointer(), at("t"), {"messages": [HumanMessage("x")]}),
    "first checkpoint": lambda s: put(s.checkpointer(), at("u"), {"messages": []}),
    "copy": lambda s: s.checkpointer().copy_thread("t", "copied"),
    "item": lambda s: s.store().put(("facts",), "two", {"text": "x"}),
    "items": lambda s: [s.store().put(("facts",), name, {"n": 1}) for name in ("one", "three")],
    "indexed item": lambda s: s.store(index={"embed": embeddings(), "dims": 64}).put(
        ("facts",), "four", {"text": "a secret"}
    ),
    "counted item": lambda s: s.store(integrity="counted").put(("facts",), "five", {"n": 1}),
    "document": lambda s: s.vector_store(embeddings()).add_texts(["more"]),
    "first document": lambda s: s.vector_store(embeddings(), collection="b").add_texts(["more"]),
    "cache": lambda s: s.llm_cache().update("another", "model", [Generation(text="answer")]),
    "fact": lambda s: s.profile().add_fact("another secret"),
    "recall": lambda s: s.recall("more", embeddings=embeddings()),
}


@pytest.fixture
def stale(memory: IsolatedMemory, database_url: str) -> ScopedMemory:
    """A scope whose process has every former key in memory, and has seen every row."""
    scope = alice(memory)
    fill(memory, scope, None)
    scope.chat_history("s").add_messages([HumanMessage("seen")])
    put(scope.checkpointer(), at("t"), {"messages": [HumanMessage("seen")]})
    with opened_anew(database_url) as other:
        assert other.rotate_keys("alice").keys_destroyed == 1
    return scope


@pytest.mark.parametrize("write", WRITES)
def test_nothing_is_written_under_a_destroyed_key_whatever_is_written_first(
    stale: ScopedMemory, attacker: Attacker, database_url: str, write: str
):
    former = key_id(stale)
    assert not rows_under(attacker, former)

    WRITES[write](stale)

    assert not rows_under(attacker, former)
    assert key_id(stale) != former
    with opened_anew(database_url) as other:
        alice(other).verify()


def test_sessions_that_are_empty_do_not_let_a_former_key_in(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    """Nothing in them says by which key it was sealed."""
    history = alice(memory).chat_history("s")
    history.add_messages([HumanMessage("gone")])
    history.clear()
    former = key_id(alice(memory))
    with opened_anew(database_url) as other:
        other.rotate_keys("alice")
    assert history.messages == []

    history.add_messages([HumanMessage("new")])

    assert not rows_under(attacker, former)
    assert [message.content for message in history.messages] == ["new"]


def test_a_key_that_has_been_taken_from_seals_until_its_place_is_sealed_anew(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    scope = alice(memory)
    scope.chat_history("s").add_messages([HumanMessage("one")])
    former = key_id(scope)
    with opened_anew(database_url) as other:
        # It is over before anything is sealed anew.
        assert not other.rotate_keys("alice", max_seconds=0).is_done
        scope.chat_history("s").add_messages([HumanMessage("two")])
        assert rows_under(attacker, former) == 3
        assert other.rotate_keys("alice").keys_destroyed == 1
    assert not rows_under(attacker, former)
    assert [m.content for m in scope.chat_history("s").messages] == ["one", "two"]


@pytest.mark.parametrize("seconds", [None, 0])
@pytest.mark.parametrize(
    "listed",
    [
        lambda scope: [scope.sessions.get("monday")],
        lambda scope: scope.sessions(),
        lambda scope: scope.checkpointer().threads(),
    ],
    ids=["session", "sessions", "threads"],
)
def test_what_is_listed_is_whole_while_and_after_another_process_rotates_keys(
    memory: IsolatedMemory,
    database_url: str,
    listed: Callable[[ScopedMemory], list[Any]],
    seconds: int | None,
):
    scope = alice(memory)
    scope.sessions.create("monday", title="one")
    put(scope.checkpointer(), at("tuesday"), {"a": 1})
    with opened_anew(database_url) as other:
        assert other.rotate_keys("alice", max_seconds=seconds).is_done is (seconds is None)
        alice(other).sessions.rename("monday", "two")
        alice(other).checkpointer().rename_thread("tuesday", "two")

    assert [(one.title, one.damaged) for one in listed(scope)] == [("two", False)]


# Ended anywhere


def steps_of(memory: IsolatedMemory) -> list[KeysRotated]:
    """Calls of a rotation each of which makes one step."""
    told = [memory.rotate_keys("alice", max_seconds=0)]
    while not told[-1].is_done:
        told.append(memory.rotate_keys("alice", max_seconds=0))
    return told


def test_a_rotation_that_ends_at_any_step_is_gone_on_with(
    memory: IsolatedMemory, attacker: Attacker
):
    scope = alice(memory)
    fill(memory, scope, None)
    former, said = key_id(scope), scope.chat_history("s").messages

    told = steps_of(memory)

    assert len(told) > 3
    assert sum(one.keys_made for one in told) == sum(one.keys_destroyed for one in told) == 1
    assert not rows_under(attacker, former)
    assert scope.chat_history("s").messages == said
    scope.verify()


def test_a_rotation_that_another_begins_behind_destroys_no_key_in_use(
    memory: IsolatedMemory, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    """Between the end of what it looked at and its look whether a former key is left."""
    scope = alice(memory)
    fill(memory, scope, None)
    said, destroy = scope.chat_history("s").messages, _OnePrincipal._destroy_below
    begun: list[KeysRotated] = []

    def overtaken(rotation: _OnePrincipal, version: int) -> None:
        destroy(rotation, version)
        if not begun:
            with opened_anew(database_url) as other:
                begun.append(other.rotate_keys("alice", max_seconds=0))

    monkeypatch.setattr(_OnePrincipal, "_destroy_below", overtaken)
    steps_of(memory)

    assert begun[0].keys_made == 1
    # This process might still have a key in memory that is destroyed.
    with opened_anew(database_url) as other:
        assert alice(other).chat_history("s").messages == said
        alice(other).verify()


def test_several_processes_rotate_at_once(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    scope = alice(memory)
    scope.chat_history("s").add_messages([HumanMessage(f"{n} {'x' * 100}") for n in range(1200)])
    former, said = key_id(scope), scope.chat_history("s").messages
    memory.rotate_keys("alice", max_seconds=0)

    def rotate() -> KeysRotated:
        with opened_anew(database_url) as other:
            return other.rotate_keys("alice")

    told = all_at_once([rotate] * 3)

    assert all(one.is_done for one in told)
    assert sum(one.keys_destroyed for one in told) >= 1
    assert not rows_under(attacker, former)
    assert scope.chat_history("s").messages == said
    scope.verify()


# Of all


def test_all_keys_are_rotated_once_however_often_the_job_is_interrupted(
    memory: IsolatedMemory, attacker: Attacker, database_url: str
):
    for user in ("alice", "bob", "carol"):
        for module in ("tutor", "planner"):
            memory.scope(user_id=user, module_id=module).store().put(("a",), "b", {"n": user})
    memory.anonymous(module_id="tutor").chat_history("s").add_user_message("hello")
    memory.publisher(module_id="tutor").vector_store(embeddings()).add_texts(["for all"])
    count = len(keys_in(attacker))

    told = [memory.rotate_keys(all=True, max_seconds=0)]
    while not told[-1].is_done:
        with opened_anew(database_url) as other:
            told.append(other.rotate_keys(all=True, max_seconds=0))

    assert sum(one.keys_made for one in told) == count >= 5
    assert [(version, state) for version, state, _ in keys_in(attacker)] == [(1, 3), (2, 1)] * count
    assert memory.scope(user_id="bob", module_id="tutor").store().get(("a",), "b").value == {
        "n": "bob"
    }
    assert memory.rotate_keys(all=True).keys_made == count


def test_what_is_read_under_a_key_that_the_next_rotation_has_destroyed_is_read_again(
    memory: IsolatedMemory, database_url: str
):
    scope, seen = alice(memory), []
    scope.store().put(("a",), "b", {"n": 1})

    def read(_: Transaction, keys: ScopeKeys) -> bytes:
        seen.append(keys.sealing.id)
        if len(seen) == 1:
            with opened_anew(database_url) as other:
                other.rotate_keys("alice")
                between = key_id(alice(other))
                assert other.rotate_keys("alice").keys_destroyed == 1
            # As a row says that was read between the two.
            raise RecordDoesNotOpen("item", "its key is another", key_id=between)
        return keys.sealing.id

    assert scope._records.read(read, b"") != seen[0]


# What was tampered with


def test_what_was_tampered_with_keeps_its_key_until_it_is_mended(
    memory: IsolatedMemory, attacker: Attacker
):
    scope = alice(memory)
    for number in range(3):
        scope.store().put(("a",), str(number), {"n": number})
    ((address, sealed),) = attacker("SELECT key, sealed FROM records ORDER BY key LIMIT 1")
    broken = bytes(sealed)[:-1] + bytes([bytes(sealed)[-1] ^ 1])
    attacker("UPDATE records SET sealed = ? WHERE key = ?", broken, address)

    rotated = memory.rotate_keys("alice")
    assert (rotated.records, rotated.damaged, rotated.keys_destroyed) == (2, 1, 0)
    assert rotated.is_done
    # Another one, and what does not open stays where it is.
    again = memory.rotate_keys("alice")
    assert (again.keys_made, again.records, again.damaged) == (1, 2, 1)

    attacker("UPDATE records SET sealed = ? WHERE key = ?", bytes(sealed), address)
    assert memory.rotate_keys("alice").keys_destroyed == 2
    assert [scope.store().get(("a",), str(n)).value for n in range(3)] == [
        {"n": 0}, {"n": 1}, {"n": 2}
    ]  # fmt: skip


def test_a_session_whose_row_says_that_it_was_sealed_anew_keeps_the_key_of_its_header(
    memory: IsolatedMemory, attacker: Attacker
):
    scope = alice(memory)
    scope.chat_history("s").add_user_message("one")
    attacker("UPDATE sessions SET oldest_key = 2")

    rotated = memory.rotate_keys("alice")
    assert (rotated.damaged, rotated.keys_destroyed, rotated.is_done) == (1, 0, True)

    attacker("UPDATE sessions SET oldest_key = 1")
    assert memory.rotate_keys("alice").keys_destroyed == 1
    assert [session.id for session in scope.sessions()] == ["s"]
    scope.verify()


def test_whose_scope_does_not_open_stops_nobody_elses_rotation(
    memory: IsolatedMemory, attacker: Attacker
):
    users = [f"user {number}" for number in range(4)]
    for user in users:
        memory.scope(user_id=user, module_id="tutor").store().put(("a",), "b", {})
    ((principal, mac), *_) = attacker("SELECT principal, mac FROM scopes ORDER BY principal")
    attacker("UPDATE scopes SET mac = ? WHERE principal = ?", bytes(16), principal)

    for _ in range(2):
        with pytest.raises(RecordDoesNotOpen):
            memory.rotate_keys(all=True)
    assert sorted(version for version, state, _ in keys_in(attacker) if state == 1) == [1, 2, 2, 2]

    attacker("UPDATE scopes SET mac = ? WHERE principal = ?", bytes(mac), principal)
    rotated = memory.rotate_keys(all=True)
    assert (rotated.owners, rotated.is_done) == (1, True)


def test_of_however_many_former_keys_none_is_destroyed_that_something_is_under(
    memory: IsolatedMemory, attacker: Attacker
):
    """More than one statement asks for."""
    scope, rotations = alice(memory), _FORMER_KEYS + 2
    scope.store().put(("a",), "b", {"n": 1})
    ((sealed,),) = attacker("SELECT sealed FROM records")
    attacker("UPDATE records SET sealed = ?", bytes(sealed)[:-1] + bytes([bytes(sealed)[-1] ^ 1]))
    for _ in range(rotations):
        assert memory.rotate_keys("alice").keys_destroyed == 0

    attacker("UPDATE records SET sealed = ?", bytes(sealed))
    rotated = memory.rotate_keys("alice")

    assert (rotated.records, rotated.keys_destroyed) == (1, rotations)
    assert scope.store().get(("a",), "b").value == {"n": 1}


@pytest.mark.parametrize("put_back", ["the keys", "the keys and their set"])
def test_former_keys_that_are_put_back_are_refused(
    memory: IsolatedMemory, attacker: Attacker, database_url: str, put_back: str
):
    alice(memory).store().put(("a",), "b", {"n": 1})
    names = "principal, purpose, version, state, is_primary, wrapping, kek, wrapped, root_key_id, created_at"  # noqa: E501
    keys = attacker(f"SELECT {names} FROM keys")
    sets = attacker("SELECT principal, revision, mac FROM key_sets")
    memory.rotate_keys("alice")

    attacker("DELETE FROM keys")
    for row in keys:
        attacker(f"INSERT INTO keys ({names}) VALUES ({', '.join('?' * len(row))})", *row)
    if put_back == "the keys and their set":
        attacker("DELETE FROM key_sets")
        for row in sets:
            attacker("INSERT INTO key_sets (principal, revision, mac) VALUES (?, ?, ?)", *row)

    refusal = RecordDoesNotOpen if put_back == "the keys" else KeyNotFound
    with opened_anew(database_url) as other, pytest.raises(refusal):
        alice(other).store().put(("a",), "b", {"n": 2})


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM keys WHERE purpose = 3 AND version = 2",
        "DELETE FROM keys WHERE purpose = 3 AND version = 1",
        "UPDATE keys SET is_primary = 1 - is_primary WHERE purpose = 3",
        "UPDATE keys SET state = 3 - state WHERE purpose = 3",
        "UPDATE keys SET version = version + 1 WHERE purpose = 3 AND version = 2",
    ],
)
def test_keys_that_are_removed_or_take_each_others_place_are_refused(
    memory: IsolatedMemory, attacker: Attacker, database_url: str, change: str
):
    alice(memory).store().put(("a",), "b", {"n": 1})
    memory.rotate_keys("alice", max_seconds=0)

    attacker(change)

    with opened_anew(database_url) as other:
        with pytest.raises(RecordDoesNotOpen):
            alice(other).store().get(("a",), "b")
        with pytest.raises(RecordDoesNotOpen):
            other.rotate_keys("alice")


# What is pending


async def test_status_tells_what_is_pending_and_what_each_version_has_sealed(
    memory: IsolatedMemory, door: Door
):
    scope = alice(memory)
    scope.chat_history("s").add_messages([HumanMessage("one")])
    memory.scope(user_id="bob", module_id="tutor").store().put(("a",), "b", {})
    memory.rotate_keys("alice", max_seconds=0)
    memory._keyring.forget(scope._records.owner)
    scope.store().put(("a",), "b", {})

    found = await door(memory, "key_status")
    assert (found.owners, found.pending, found.former_keys) == (2, 1, 1)
    assert found.oldest_former is not None
    assert found.rotating_since is None
    of_alice = await door(memory, "key_status_of", "alice")
    assert [(key.version, key.state) for key in of_alice.keys] == [(1, "retired"), (2, "active")]
    assert of_alice.is_pending
    (use,) = of_alice.scopes
    assert (use.module, use.oldest_key, use.records) == ("tutor", 1, {1: 2, 2: 1})

    memory.rotate_keys("alice")
    assert (await door(memory, "key_status")).pending == 0
    of_alice = await door(memory, "key_status_of", "alice")
    assert [(key.version, key.state) for key in of_alice.keys] == [(1, "destroyed"), (2, "active")]
    assert not of_alice.is_pending
    assert (of_alice.scopes[0].oldest_key, of_alice.scopes[0].records) == (2, {2: 3})
    assert (await door(memory, "key_status_of", "nobody")).keys == []


# While something is copied


@pytest.mark.parametrize("rotated", ["alice", "bob", "both"])
def test_a_copy_whose_keys_are_rotated_half_way_is_whole(
    memory: IsolatedMemory,
    database_url: str,
    attacker: Attacker,
    monkeypatch: pytest.MonkeyPatch,
    rotated: str,
):
    source, target = alice(memory), memory.scope(user_id="bob", module_id="tutor")
    fill(memory, source, None)
    target.store().put(("mine",), "b", {})
    former = {"alice": key_id(source), "bob": key_id(target)}
    publish = Copy._publish
    times = iter(range(100))

    def publish_later(self: Copy, *args: Any) -> None:
        if next(times) == 0:
            with opened_anew(database_url) as other:
                for user in former if rotated == "both" else (rotated,):
                    assert other.rotate_keys(user).keys_destroyed == 1
        publish(self, *args)

    monkeypatch.setattr(Copy, "_publish", publish_later)
    Copy(source._records, target._records, bytes(16)).run()

    assert target.chat_history("s").messages == source.chat_history("s").messages
    assert values_at(target.checkpointer(), at("t")) == values_at(source.checkpointer(), at("t"))
    assert target.store().get(("facts",), "one").value == {"text": "a secret"}
    for user in former if rotated == "both" else (rotated,):
        assert not rows_under(attacker, former[user])
    source.verify()
    target.verify()


def test_a_merge_is_undone_as_if_no_key_had_been_rotated_since(memory: IsolatedMemory):
    scope = alice(memory)
    fill(memory, scope, None)
    modules = {"from_module": "tutor", "into_module": "planner"}
    receipt = memory.merge_modules(**USER, **modules, dry_run=False)
    assert memory.rotate_keys("alice").keys_destroyed == 1

    undone = memory.undo(receipt)

    assert undone.left == ()
    assert undone.removed == receipt.counts


def test_an_import_during_which_keys_are_rotated_goes_on(
    memory: IsolatedMemory,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    attacker: Attacker,
):
    fill(memory, alice(memory), None)
    archive = tmp_path / "alice.zip"
    memory.export_user("alice", archive)
    memory.scope(user_id="bob", module_id="tutor").store().put(("mine",), "b", {})
    former = key_id(memory.scope(user_id="bob", module_id="tutor"))
    write, done = Put._write, []

    def rotate_behind_lines(self: Put, operation: Any, *args: Any) -> Any:
        told = write(self, operation, *args)
        if operation is imported.put_lines and not done:
            with opened_anew(database_url) as other:
                done.append(other.rotate_keys("bob"))
        return told

    monkeypatch.setattr(Put, "_write", rotate_behind_lines)
    memory.import_user(archive, user_id="bob")

    assert done[0].keys_destroyed == 1
    assert not rows_under(attacker, former)
    bob = memory.scope(user_id="bob", module_id="tutor")
    assert bob.chat_history("s").messages == alice(memory).chat_history("s").messages
    bob.verify()


# Of users who hold their keys


def test_a_locked_user_is_left_out_until_the_memory_is_unlocked(
    memory: IsolatedMemory, attacker: Attacker
):
    scope = alice(memory)
    scope.chat_history("s").add_messages([HumanMessage("before")])
    memory.scope(user_id="bob", module_id="tutor").store().put(("a",), "b", {})
    memory.lock_with("alice", passphrase="correct horse battery")
    scope.chat_history("s").add_messages([HumanMessage("after")])
    memory.lock("alice")

    with pytest.raises(MemoryLocked):
        memory.rotate_keys("alice")
    of_all = memory.rotate_keys(all=True)
    assert (of_all.owners, of_all.locked, of_all.is_done) == (1, 1, True)
    scope.chat_history("s").add_messages([HumanMessage("meanwhile")])

    memory.unlock("alice", passphrase="correct horse battery", seconds=600)
    rotated = memory.rotate_keys("alice")
    assert (rotated.keys_made, rotated.keys_destroyed) == (1, 1)
    said = [message.content for message in scope.chat_history("s").messages]
    assert said == ["before", "after", "meanwhile"]
    memory.lock("alice")
    with pytest.raises(MemoryLocked):
        scope.chat_history("s").messages  # noqa: B018
    assert scope.chat_history("s").count() == 3


# Documents that are sealed in third-party stores


def sealed_in(scope: ScopedMemory, shared: InMemoryVectorStore) -> Any:
    return scope.vector_store(wrapping=shared, seal=True)


def test_documents_that_are_sealed_elsewhere_keep_their_key_until_they_are_sealed_anew(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    shared, scope = InMemoryVectorStore(embeddings()), alice(memory)
    texts = [f"a secret {number}" for number in range(120)]
    sealed_in(scope, shared).add_texts(texts, ids=[str(number) for number in range(120)])
    scope.vector_store(wrapping=shared).add_texts(["in clear"], ids=["clear"])
    vectors = {key: list(one["vector"]) for key, one in shared.store.items()}

    # In a process that has not the store, and in one that is not asked to.
    with opened_anew(database_url) as other:
        left = other.rotate_keys("alice", with_stores=True)
    assert (left.keys_destroyed, left.stores_left) == (0, ("InMemoryVectorStore",))
    assert memory.rotate_keys("alice").stores_left == ("InMemoryVectorStore",)
    assert len(sealed_in(scope, shared).get_by_ids(["0", "119"])) == 2

    rotated = memory.rotate_keys("alice", with_stores=True)

    assert (rotated.documents, rotated.stores_left, rotated.keys_destroyed) == (120, (), 2)
    found = sealed_in(scope, shared).get_by_ids([str(number) for number in range(120)])
    assert sorted(document.page_content for document in found) == sorted(texts)
    assert {key: list(one["vector"]) for key, one in shared.store.items()} == vectors
    clear = scope.vector_store(wrapping=shared).get_by_ids(["clear"])
    assert [document.page_content for document in clear] == ["in clear"]


def test_a_document_that_is_sealed_elsewhere_while_keys_are_rotated_opens(
    memory: IsolatedMemory, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    shared, scope = InMemoryVectorStore(embeddings()), alice(memory)
    wrapped = sealed_in(scope, shared)
    wrapped.add_texts(["before"], ids=["before"])
    put, rotated, begun = InMemoryAdapter.put, [], []

    def put_late(self: InMemoryAdapter, *args: Any) -> None:
        if not begun:
            begun.append(True)
            # Its keys are at hand, and it has not put yet, when all there is was sealed anew.
            with opened_anew(database_url) as other:
                other._context.known_stores.include(shared)
                rotated.append(other.rotate_keys("alice", with_stores=True))
        put(self, *args)

    monkeypatch.setattr(InMemoryAdapter, "put", put_late)
    wrapped.add_texts(["late"], ids=["late"])

    assert rotated[0].keys_destroyed == 1
    with opened_anew(database_url) as other:
        found = sealed_in(alice(other), shared).get_by_ids(["before", "late"])
        assert sorted(document.page_content for document in found) == ["before", "late"]


class SealingPostFilter(PostFilterAdapter):
    """Of a store that hands out what is nearest, whoever wrote it."""

    seals = True
    put_vectors = InMemoryAdapter.put_vectors
    vectors = InMemoryAdapter.vectors


def test_no_key_is_destroyed_under_a_document_that_stands_behind_those_of_others(
    memory: IsolatedMemory,
):
    """A search for the nearest of everybody finds a part of them, and no more of anybody."""
    shared = InMemoryVectorStore(embeddings())
    of_alice, of_bob = (
        memory.scope(user_id=user, module_id="tutor").vector_store(
            wrapping=shared, adapter=SealingPostFilter(shared), seal=True
        )
        for user in ("alice", "bob")
    )
    of_bob.add_texts([f"of bob {number}" for number in range(800)])
    names = [str(number) for number in range(400)]
    of_alice.add_texts([f"of alice {name}" for name in names], ids=names)

    rotated = memory.rotate_keys("alice", with_stores=True)

    assert (rotated.documents, rotated.keys_destroyed) == (400, 1)
    assert len(of_alice.get_by_ids(names)) == 400


def test_a_document_that_the_store_lists_and_does_not_give_keeps_its_key(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    shared, scope = InMemoryVectorStore(embeddings()), alice(memory)
    sealed_in(scope, shared).add_texts(["a", "b"], ids=["a", "b"])
    with monkeypatch.context() as patched:
        patched.setattr(InMemoryAdapter, "get", lambda store, ids: store.store.get_by_ids(ids[:1]))
        rotated = memory.rotate_keys("alice", with_stores=True)

    assert (rotated.documents, rotated.keys_destroyed) == (1, 0)
    assert rotated.stores_left == ("InMemoryVectorStore",)
    assert len(sealed_in(scope, shared).get_by_ids(["a", "b"])) == 2


def test_a_document_that_is_removed_elsewhere_while_keys_are_rotated_ends_no_rotation(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    shared, scope = InMemoryVectorStore(embeddings()), alice(memory)
    wrapped = sealed_in(scope, shared)
    wrapped.add_texts(["one", "two"], ids=["1", "2"])
    vectors = InMemoryAdapter.vectors

    def beside_a_deletion(self: InMemoryAdapter, ids: list[str]) -> Any:
        wrapped.delete(["2"])
        return vectors(self, ids)

    monkeypatch.setattr(InMemoryAdapter, "vectors", beside_a_deletion)
    rotated = memory.rotate_keys("alice", with_stores=True)

    assert (rotated.keys_destroyed, rotated.stores_left) == (0, ("InMemoryVectorStore",))
    again = memory.rotate_keys("alice", with_stores=True)
    assert (again.documents, again.stores_left) == (1, ())
    assert [one.id for one in wrapped.get_by_ids(["1", "2"])] == ["1"]


# Reads that meet a former key


def wait_until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends, "it did not come to be so"
        time.sleep(0.02)


def test_a_read_that_meets_a_former_key_has_its_scope_sealed_anew_behind_it(
    memory: IsolatedMemory, attacker: Attacker
):
    scope = alice(memory)
    scope.chat_history("s").add_messages([HumanMessage(str(number)) for number in range(700)])
    former = key_id(scope)
    memory._keyring.rotate(scope._records.owner)

    # On a machine that is busy a quarter of a second is not enough: each read asks for more.
    wait_until(
        lambda: len(scope.chat_history("s").messages) == 700 and not rows_under(attacker, former)
    )
    assert keys_in(attacker) == [(1, 2, True), (2, 1, True)]
    assert len(scope.chat_history("s").messages) == 700
    done = memory.rotate_keys("alice")
    assert (done.keys_made, done.keys_destroyed) == (0, 1)


def test_reads_leave_records_as_they_are_where_that_is_wanted(
    memory: IsolatedMemory, attacker: Attacker
):
    scope = alice(memory)
    scope.chat_history("s").add_messages([HumanMessage("one")])
    former = key_id(scope)
    memory.reseals_on_read = False
    memory._keyring.rotate(scope._records.owner)

    for _ in range(3):
        assert len(scope.chat_history("s").messages) == 1

    time.sleep(0.1)
    assert rows_under(attacker, former) == 2
    with pytest.raises(TypeError):
        memory.reseals_on_read = "no"  # type: ignore[assignment]


# A write that is under way when the barrier is raised


def test_a_write_that_is_under_way_is_waited_for(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    scope = alice(memory)
    scope.store().put(("a",), "b", {})
    former, proved, go = key_id(scope), threading.Event(), threading.Event()

    def put_slowly(transaction: Transaction, keys: ScopeKeys) -> None:
        entries.put(transaction, keys, (b"space",), [entries.Entry(b"key", b"value")], now())
        proved.set()
        go.wait(60)

    def rotate() -> int:
        with opened_anew(database_url) as other:
            return other.rotate_keys("alice").keys_destroyed

    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(scope._records.write, put_slowly)
        assert proved.wait(60)
        rotating = pool.submit(rotate)
        time.sleep(0.5)
        assert not rotating.done()
        go.set()
        writing.result(60)
        assert rotating.result(60) == 1

    assert not rows_under(attacker, former)
    found = scope._records.read(entries.get, [None], (b"space",), [b"key"], now())
    assert found == [b"value"]


@pytest.mark.parametrize(
    "put", [WRITES["item"], WRITES["items"], WRITES["cache"], WRITES["create"], WRITES["fact"]]
)
def test_a_write_that_saw_the_row_before_the_barrier_was_raised_looks_again(
    postgres_url: str, put: Callable[[ScopedMemory], object]
):
    """PostgreSQL gives a statement what was there when it began, and a locked row as it is then."""
    with opened_anew(postgres_url) as memory, closing(Attacker(postgres_url)) as attacker:
        scope = alice(memory)
        fill(memory, scope, None)
        before = attacker("SELECT count(*) FROM records")
        attacker("BEGIN")
        attacker("SELECT 1 FROM scopes FOR UPDATE")
        with ThreadPoolExecutor(1) as pool:
            putting = pool.submit(put, scope)
            time.sleep(0.4)
            assert not putting.done()
            attacker("UPDATE scopes SET oldest_key = 2")
            attacker("COMMIT")
            with pytest.raises((KeyDestroyed, RecordDoesNotOpen)):
                putting.result(60)
        assert attacker("SELECT count(*) FROM records") == before
