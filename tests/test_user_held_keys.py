"""Users who hold their own keys: locking, lending, taking back, and what comes meanwhile."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint

from langmem_isolated import IsolatedMemory, LocalRootKey, SessionRules
from langmem_isolated._crypto import lock_secrets
from langmem_isolated._crypto.hpke import KeyPair, open_from, seal_to
from langmem_isolated._crypto.lock_secrets import (
    LockSecret,
    PassphraseCost,
    SecretKind,
    new_parameters,
)
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._storage.lent_locks import LentLocks, LockKey
from langmem_isolated.errors import (
    LockRefused,
    MemoryLocked,
    RecordDoesNotOpen,
    SessionClosed,
    WrongSecret,
)
from tests.conftest import ROOT_KEY, Attacker, Door, Wait
from tests.locks import CHEAP, PASSPHRASE, lock, unlock
from tests.processes import Child

VECTORS = Path(__file__).parent / "vectors" / "locks_v1.json"


def history_of(memory: IsolatedMemory, session: str = "monday", user: str = "alice", **options):
    return memory.scope(user_id=user, module_id="tutor").chat_history(session, **options)


def texts(memory: IsolatedMemory, session: str = "monday") -> list[str]:
    return [str(message.content) for message in history_of(memory, session).messages]


@pytest.fixture
def locked(memory: IsolatedMemory) -> IsolatedMemory:
    """A memory in which Alice has said something, and locked it."""
    history_of(memory).add_user_message("before")
    lock(memory)
    return memory


# Opening


async def test_what_was_said_is_read_again_with_the_passphrase_alone(
    memory: IsolatedMemory, door: Door
):
    history_of(memory).add_user_message("before")
    made = await door(memory, "lock_with", "alice", passphrase=PASSPHRASE, cost=CHEAP)

    with pytest.raises(MemoryLocked):
        texts(memory)
    await door(memory, "unlock", "alice", passphrase=PASSPHRASE, seconds=600)
    assert texts(memory) == ["before"]
    await door(memory, "lock", "alice")
    with pytest.raises(MemoryLocked):
        texts(memory)
    await door(memory, "unlock", "alice", recovery=made.recovery_code, seconds=600)
    assert texts(memory) == ["before"]


def test_the_records_are_sealed_anew_and_the_keys_from_before_are_destroyed(
    memory: IsolatedMemory, attacker: Attacker
):
    history_of(memory).add_messages([HumanMessage(f"{n}") for n in range(10)])
    before = attacker("SELECT version, wrapped FROM keys WHERE purpose = 3")
    sealed_before = {row[0] for row in attacker("SELECT sealed FROM records")}

    assert lock(memory).records >= 10

    rows = attacker("SELECT version, state, wrapping, wrapped FROM keys WHERE purpose = 3")
    assert [(v, state) for v, state, *_ in sorted(rows)] == [(before[0][0], 3), (2, 1)]
    assert all(wrapping == 3 for _, state, wrapping, _ in rows if state != 3)
    assert not sealed_before & {row[0] for row in attacker("SELECT sealed FROM records")}


def test_a_wrong_passphrase_opens_nothing(locked: IsolatedMemory):
    for wrong in ("wrong horse battery", PASSPHRASE + " ", PASSPHRASE.upper()):
        with pytest.raises(WrongSecret):
            locked.unlock("alice", passphrase=wrong, seconds=600)
    with pytest.raises(LockRefused, match="something else"):
        locked.unlock("alice", secret=bytes(32), seconds=600)
    with pytest.raises(MemoryLocked):
        texts(locked)


def test_32_bytes_of_a_passkey_open_it(memory: IsolatedMemory):
    history_of(memory).add_user_message("before")
    secret = os.urandom(32)
    memory.lock_with("alice", secret=secret)

    with pytest.raises(WrongSecret):
        memory.unlock("alice", secret=os.urandom(32), seconds=9)
    memory.unlock("alice", secret=secret, seconds=600)
    assert texts(memory) == ["before"]


def test_a_passphrase_opens_however_its_letters_were_composed(memory: IsolatedMemory):
    memory.lock_with("alice", passphrase="Zürich im Frühling", cost=CHEAP)

    memory.unlock("alice", passphrase="Zu\u0308rich im Fru\u0308hling", seconds=9)


def test_a_lock_is_made_before_anything_was_stored(memory: IsolatedMemory):
    lock(memory, "newcomer")

    history_of(memory, user="newcomer").add_user_message("hello")
    with unlock(memory, "newcomer"):
        assert [m.content for m in history_of(memory, user="newcomer").messages] == ["hello"]


def test_the_lock_of_one_user_is_nobody_elses(locked: IsolatedMemory):
    history_of(locked, user="bob").add_user_message("bob's")

    assert [m.content for m in history_of(locked, user="bob").messages] == ["bob's"]
    with pytest.raises(LockRefused, match="no lock"):
        unlock(locked, "bob")
    lock(locked, "bob")
    with pytest.raises(MemoryLocked):
        history_of(locked, user="bob").messages  # noqa: B018
    unlock(locked, "alice")
    with pytest.raises(MemoryLocked):
        history_of(locked, user="bob").messages  # noqa: B018


def test_a_second_lock_is_refused_and_the_first_stays(locked: IsolatedMemory):
    with pytest.raises(LockRefused, match="has a lock"):
        locked.lock_with("alice", passphrase="another one here", cost=CHEAP)
    unlock(locked)


# Time


def test_keys_are_lent_for_so_many_seconds_and_no_longer(locked: IsolatedMemory):
    unlock(locked, seconds=60)
    assert texts(locked) == ["before"]
    unlock(locked, seconds=0.3)
    time.sleep(0.3)

    # Nobody has to ask: a thread of its own looks at the time.
    deadline = time.monotonic() + 60
    while locked._keyring.lent.held:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not any(owner.user == "alice" for owner in locked._keyring._cache)
    with pytest.raises(MemoryLocked):
        texts(locked)


def test_they_leave_memory_when_their_time_is_over_by_the_clock():
    now, ended = [0.0], []
    lent = LentLocks(lambda: now[0])
    lent.ended = ended.append
    lent.lend(b"alice", LockKey(SecretBytes.random()), 60)

    now[0] = 59.9
    lent.end_over_time()
    assert lent.of(b"alice") is not None
    now[0] = 60.0
    assert lent.of(b"alice") is None
    lent.end_over_time()
    assert (lent.held, ended) == ({}, [b"alice"])


def test_a_with_statement_locks_at_its_end_whatever_happens(locked: IsolatedMemory):
    with suppress(ZeroDivisionError), unlock(locked):
        assert texts(locked) == ["before"]
        raise ZeroDivisionError
    with pytest.raises(MemoryLocked):
        texts(locked)


def test_an_unlock_that_fails_behind_its_secret_leaves_nothing_lent(locked: IsolatedMemory):
    history_of(locked).add_user_message("waits")

    def stop(_: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        locked.unlock("alice", passphrase=PASSPHRASE, seconds=600, progress=stop)
    with pytest.raises(MemoryLocked):
        texts(locked)
    with unlock(locked):
        assert texts(locked) == ["before", "waits"]


def test_a_forked_process_has_nothing_that_was_lent(locked: IsolatedMemory):
    unlock(locked)

    def held() -> int:
        return len(locked._keyring.lent.held) + len(locked._keyring._cache)

    assert held()
    assert Child(held).result() == 0


def test_opened_messages_leave_the_plaintext_cache_when_the_user_locks(
    database_url: str, root_key: LocalRootKey
):
    options = {"root_key": root_key, "plaintext_cache_seconds": 600.0}
    with IsolatedMemory(database_url, **options) as memory:
        scope = memory.scope(user_id="alice", module_id="tutor")
        scope.chat_history("monday").add_user_message("Grandma likes chess")
        lock(memory)
        with unlock(memory):
            assert scope.recall("chess")
            assert len(memory._context.plaintext_cache._entries)
        assert not len(memory._context.plaintext_cache._entries)
        with pytest.raises(MemoryLocked):
            scope.recall("chess")


# Secrets


async def test_a_secret_is_changed_and_no_record_is_sealed_again(
    locked: IsolatedMemory, attacker: Attacker, door: Door
):
    sealed = attacker("SELECT sealed FROM records ORDER BY parent, key")

    code = await door(
        locked, "change_secret", "alice", passphrase=PASSPHRASE,
        new_passphrase="a better one", new_recovery=True, cost=CHEAP,
    )  # fmt: skip

    assert attacker("SELECT sealed FROM records ORDER BY parent, key") == sealed
    with pytest.raises(WrongSecret):
        unlock(locked)
    for secret in ({"passphrase": "a better one"}, {"recovery": code}):
        with locked.unlock("alice", **secret, seconds=60):
            assert texts(locked) == ["before"]


def test_who_lost_the_passphrase_makes_another_with_the_recovery_code(memory: IsolatedMemory):
    code = lock(memory).recovery_code

    memory.change_secret("alice", recovery=code, new_secret=bytes(range(32)))

    with pytest.raises(LockRefused):
        unlock(memory)
    memory.unlock("alice", secret=bytes(range(32)), seconds=1)
    memory.unlock("alice", recovery=code.lower().replace("-", " "), seconds=1)


def test_an_ended_secret_is_gone_from_the_key_set(locked: IsolatedMemory, attacker: Attacker):
    [old] = attacker("SELECT wrapped FROM keys WHERE purpose = 6 AND version = 1")

    locked.change_secret("alice", passphrase=PASSPHRASE, new_passphrase="a better one", cost=CHEAP)

    rows = attacker("SELECT state, wrapped, second_parameters FROM keys WHERE purpose = 6")
    assert (3, None, None) in rows
    assert old[0] not in [row[1] for row in rows]


async def test_a_lock_is_removed_with_the_secret_and_not_without(
    locked: IsolatedMemory, door: Door
):
    history_of(locked).add_user_message("while locked")
    with pytest.raises(WrongSecret):
        await door(locked, "remove_lock", "alice", passphrase="wrong horse battery")

    await door(locked, "remove_lock", "alice", passphrase=PASSPHRASE)

    assert texts(locked) == ["before", "while locked"]
    assert not locked.lock_state("alice").has_lock
    with pytest.raises(LockRefused, match="no lock"):
        unlock(locked)
    lock(locked)
    with pytest.raises(MemoryLocked):
        texts(locked)
    with unlock(locked):
        assert texts(locked) == ["before", "while locked"]


def test_a_mistyped_recovery_code_is_told_from_a_wrong_one(locked: IsolatedMemory):
    _, code = LockSecret.new_recovery()

    with pytest.raises(WrongSecret):
        locked.unlock("alice", recovery=code, seconds=1)
    for wrong in (
        code[:-1],
        code + "A",
        code[1:],
        "",
        "AAAA-" * 8,
        ("B" if code[0] != "B" else "C") + code[1:],
    ):
        with pytest.raises(ValueError, match="mistyped"):
            locked.unlock("alice", recovery=wrong, seconds=1)


def test_letters_that_are_misread_in_a_recovery_code_are_taken_for_what_they_are():
    code = LockSecret.new_recovery(bytes(range(16)))[1]

    misread = code.replace("O", "0").replace("I", "1").replace("B", "8")
    assert LockSecret.of_recovery(misread) == LockSecret.of_recovery(code)


@pytest.mark.parametrize(
    ("named", "error", "match"),
    [
        ({}, TypeError, "exactly one of passphrase, secret"),
        ({"passphrase": PASSPHRASE, "secret": bytes(32)}, TypeError, "exactly one"),
        ({"passphrase": "short"}, ValueError, "8 characters or more, got 5"),
        ({"passphrase": b"bytes are none"}, TypeError, "must be a str, got bytes"),
        ({"secret": bytes(31)}, ValueError, "32 bytes, got 31"),
        ({"secret": "x" * 32}, TypeError, "must be bytes, got str"),
        ({"passphrase": PASSPHRASE, "cost": PassphraseCost(memory=7)}, ValueError, "KiB a lane"),
        (
            {"passphrase": PASSPHRASE, "cost": PassphraseCost(memory=2**21)},
            ValueError,
            "got 4 lanes, 3 iterations, 2097152 KiB",
        ),
    ],
)
def test_what_is_no_secret_is_refused_and_nothing_is_locked(
    memory: IsolatedMemory, named: dict, error: type, match: str
):
    history_of(memory).add_user_message("before")

    with pytest.raises(error, match=match) as raised:
        memory.lock_with("alice", **named)

    assert "short" not in str(raised.value)
    assert texts(memory) == ["before"]
    assert not memory.lock_state("alice").has_lock


def test_no_secret_shows_in_what_is_handed_out(memory: IsolatedMemory):
    made = lock(memory)

    assert made.recovery_code not in repr(made)
    assert PASSPHRASE not in repr(unlock(memory))
    assert PASSPHRASE not in repr(LockSecret.of_passphrase(PASSPHRASE))


# Rows that were tampered with


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE keys SET second_parameters = NULL WHERE purpose = 6 AND version = 1",
        "UPDATE keys SET wrapping = 2 WHERE purpose = 3 AND version = 2",
        "UPDATE keys SET wrapping = 2 WHERE purpose = 5",
        "DELETE FROM keys WHERE purpose = 6 AND version = 1",
        "DELETE FROM keys WHERE purpose = 5",
        "UPDATE keys SET state = 3 WHERE purpose = 6",
    ],
)
def test_a_key_set_whose_lock_was_changed_is_refused(
    locked: IsolatedMemory, attacker: Attacker, change: str
):
    attacker(change)

    for secret in ({"passphrase": PASSPHRASE}, {"secret": bytes(32)}):
        with pytest.raises(RecordDoesNotOpen):
            locked.unlock("alice", **secret, seconds=600)


@pytest.mark.parametrize(
    "cost", [PassphraseCost(65, 1, 1), PassphraseCost(2**20, 4, 64), (1, 1, 1)]
)
def test_parameters_that_were_raised_or_lowered_in_the_row_are_refused_before_they_are_used(
    locked: IsolatedMemory, attacker: Attacker, monkeypatch: pytest.MonkeyPatch, cost: tuple
):
    [(stored,)] = attacker("SELECT second_parameters FROM keys WHERE purpose = 6 AND version = 1")
    changed = stored[:17] + b"".join(number.to_bytes(4) for number in cost)
    attacker("UPDATE keys SET second_parameters = ? WHERE purpose = 6 AND version = 1", changed)

    used: list[object] = []
    monkeypatch.setattr(lock_secrets, "_argon2id", lambda *given: used.append(given))
    with pytest.raises(RecordDoesNotOpen, match="not the set that was stored"):
        unlock(locked)
    assert used == []


@pytest.mark.parametrize(
    ("memory_kib", "iterations", "lanes"),
    [(2**20 + 1, 1, 1), (2**20, 5, 1), (64, 1, 65), (64, 0, 1), (64, 1, 0), (7, 1, 1)],
)
def test_parameters_that_would_stop_the_process_are_refused(
    memory_kib: int, iterations: int, lanes: int
):
    numbers = b"".join(n.to_bytes(4) for n in (memory_kib, iterations, lanes))

    with pytest.raises(RecordDoesNotOpen, match="out of range"):
        LockSecret.of_passphrase(PASSPHRASE).stretched(b"\1" + bytes(16) + numbers)


def test_the_public_key_of_the_inbox_cannot_be_exchanged(
    locked: IsolatedMemory, attacker: Attacker
):
    """Who could, would read what is said to a locked user."""
    attacker(
        "UPDATE keys SET second_parameters = ? WHERE purpose = 5", b"\1" + KeyPair.random().public
    )

    with pytest.raises(RecordDoesNotOpen):
        history_of(locked).add_user_message("to whom?")


# The inbox


async def test_what_is_said_to_a_locked_user_is_there_after_the_unlock(
    locked: IsolatedMemory, door: Door
):
    history = history_of(locked)
    await door(history, "add_messages", [HumanMessage("one"), AIMessage("two", id="a")])
    await door(history_of(locked, "new", channel="mail"), "add_messages", [HumanMessage("hi")])

    assert locked.lock_state("alice").waiting == 3
    assert locked.locked_sessions("alice", module_id="tutor")[0].waiting == 2
    assert history.count() == 1
    lent = unlock(locked)

    assert (lent.collected.messages, lent.collected.damaged) == (3, 0)
    assert texts(locked) == ["before", "one", "two"]
    assert texts(locked, "new") == ["hi"]
    assert locked.lock_state("alice").waiting == 0
    said = history.timed()
    assert all(one.said_at < two.said_at for one, two in pairwise(said[:2]))
    assert history_of(locked, "new").timed()[0].channel == "mail"
    locked.scope(user_id="alice", module_id="tutor").verify()


def test_fifty_appends_of_four_threads_are_all_there_each_threads_in_order(
    locked: IsolatedMemory,
):
    def say(thread: int) -> None:
        history = history_of(locked)
        for number in range(13 if thread < 2 else 12):
            history.add_user_message(f"{thread} {number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(say, range(4)))
    unlock(locked)

    found = texts(locked)[1:]
    assert len(found) == 50
    for thread in range(4):
        mine = [text for text in found if text.startswith(f"{thread} ")]
        assert mine == [f"{thread} {n}" for n in range(13 if thread < 2 else 12)]
    locked.scope(user_id="alice", module_id="tutor").verify()


def test_messages_that_come_again_are_left_out_at_the_unlock_as_they_would_have_been(
    memory: IsolatedMemory,
):
    history_of(memory).add_messages([HumanMessage("known", id="1")])
    lock(memory)
    history = history_of(memory, idempotent=True)
    history.add_messages([HumanMessage("known", id="1"), HumanMessage("new", id="2")])
    history.add_messages([HumanMessage("new", id="2")])
    unlock(memory)

    assert texts(memory) == ["known", "new"]


def test_more_than_one_batch_comes_in_in_its_order(locked: IsolatedMemory):
    history_of(locked).add_messages([HumanMessage(f"{n}") for n in range(250)])
    told: list[int] = []
    locked.unlock("alice", passphrase=PASSPHRASE, seconds=600, progress=told.append)

    assert texts(locked)[1:] == [f"{n}" for n in range(250)]
    assert told == [100, 200, 250]


def test_a_closed_session_takes_nothing_while_locked(memory: IsolatedMemory):
    history_of(memory).add_user_message("before")
    memory.scope(user_id="alice", module_id="tutor").sessions.close("monday")
    lock(memory)

    with pytest.raises(SessionClosed):
        history_of(memory).add_user_message("too late")


def test_what_waits_goes_with_its_session(locked: IsolatedMemory):
    history_of(locked).add_user_message("to be removed")
    locked.scope(user_id="alice", module_id="tutor").sessions.delete("monday")
    unlock(locked)

    assert texts(locked) == []


_FIRST = "SELECT MIN(key) FROM records WHERE kind = 16"


@pytest.mark.parametrize(
    "change",
    [
        f"DELETE FROM records WHERE kind = 16 AND key = ({_FIRST})",
        f"DELETE FROM records WHERE kind = 16 AND key > ({_FIRST})",
        "UPDATE records SET updated_at = updated_at + 1 WHERE kind = 16",
        "UPDATE sessions SET count = count - 1 WHERE kind = 16",
        "DELETE FROM records WHERE kind = 16",
    ],
)
def test_an_inbox_that_was_tampered_with_is_told_and_keeps_nobody_out(
    locked: IsolatedMemory, attacker: Attacker, change: str
):
    history_of(locked).add_messages([HumanMessage("one"), HumanMessage("two")])
    history_of(locked, "other").add_user_message("sound")
    attacker(change)
    lent = unlock(locked)

    assert lent.collected.damaged >= 1
    assert texts(locked) == ["before"]
    with pytest.raises(RecordDoesNotOpen):
        locked.scope(user_id="alice", module_id="tutor").verify()


def test_what_was_taken_out_of_an_inbox_cannot_be_put_back(
    locked: IsolatedMemory, attacker: Attacker
):
    history_of(locked).add_user_message("once")
    columns = "scope_id, kind, parent, key, sealed, size, created_at, updated_at"
    [row] = attacker(f"SELECT {columns} FROM records WHERE kind = 16")
    unlock(locked).lock()
    history_of(locked).add_user_message("twice")
    attacker("DELETE FROM records WHERE kind = 16")
    attacker(f"INSERT INTO records ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *row)

    assert unlock(locked).collected.damaged == 1
    assert texts(locked) == ["before", "once"]


def test_an_export_has_what_waited(
    locked: IsolatedMemory, database_url: str, root_key: LocalRootKey, tmp_path: Path
):
    unlock(locked)
    with IsolatedMemory(database_url, root_key=root_key) as other:
        history_of(other).add_user_message("from another process")

    assert locked.export_user("alice", tmp_path / "alice").counts["messages"] == 2
    locked.lock("alice")
    with pytest.raises(MemoryLocked):
        locked.export_user("alice", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_session_that_begins_in_the_inbox_is_under_the_rules_of_the_memory(
    database_url: str, root_key: LocalRootKey
):
    rules = {"session_rules": SessionRules(idle=timedelta(days=3))}
    with IsolatedMemory(database_url, root_key=root_key, **rules) as memory:
        lock(memory)
        history_of(memory).add_user_message("first")
        unlock(memory)
        [session] = memory.scope(user_id="alice", module_id="tutor").sessions()
        assert session.expires is not None


# Duties that go on


def test_a_locked_user_is_erased_and_what_waits_goes_too(
    locked: IsolatedMemory, attacker: Attacker
):
    history_of(locked).add_user_message("while locked")

    receipt = locked.erase_user("alice")

    assert receipt.is_finished
    assert attacker("SELECT COUNT(*) FROM records") == [(0,)]
    assert attacker("SELECT COUNT(*) FROM keys WHERE purpose > 2 AND purpose <> 4"
                    " AND wrapped IS NOT NULL") == [(0,)]  # fmt: skip
    # Who comes back is new: nothing of the lock is left.
    assert texts(locked) == []
    assert not locked.lock_state("alice").has_lock


def test_what_expires_is_swept_while_its_user_is_locked(memory: IsolatedMemory, wait_for: Wait):
    scope = memory.scope(user_id="alice", module_id="tutor")
    scope.sessions.create("short", idle=timedelta(seconds=60))
    scope.chat_history("short").add_user_message("soon gone")
    scope.chat_history("long").add_user_message("stays")
    scope.store().put(("a",), "b", {"c": 1}, ttl=1)
    lock(memory)
    wait_for(60.1)

    swept = memory.sweep()

    assert (swept.counts["session"], swept.counts["item"], swept.damaged) == (1, 1, 0)
    assert [one.messages for one in memory.locked_sessions("alice", module_id="tutor")] == [1]


def test_statistics_quotas_grants_and_policies_work_for_a_locked_user(locked: IsolatedMemory):
    locked.quotas.set(messages=5, per="day", user_id="alice")
    locked.retention.keep("message", user_id="alice", days=365)
    assert locked.retention.list()
    assert locked.stats().total.messages == 1
    history_of(locked).add_user_message("counted at the unlock")
    locked.grants.allow(
        user_id="alice", from_module="tutor", to_module="planner", kinds=["message"]
    )
    assert locked.grants.list(user_id="alice")
    planner = locked.scope(user_id="alice", module_id="planner")
    with pytest.raises(MemoryLocked):
        planner.shared_from("tutor").messages("monday")
    locked.grants.revoke(user_id="alice", from_module="tutor", to_module="planner")


def test_a_guest_is_not_claimed_by_who_is_locked_and_keeps_everything(locked: IsolatedMemory):
    guest = locked.anonymous(module_id="tutor")
    guest.chat_history("first").add_user_message("Hi")
    alice = locked.scope(user_id="alice", module_id="tutor")

    with pytest.raises(MemoryLocked):
        locked.claim(guest.id, alice, confirmed=True)
    assert len(guest.chat_history("first").messages) == 1
    with unlock(locked):
        locked.claim(guest.id, alice, confirmed=True)
        assert texts(locked, "first") == ["Hi"]


def test_keys_of_a_locked_user_are_rotated_with_the_users_lock_alone(locked: IsolatedMemory):
    with pytest.raises(MemoryLocked):
        locked.rotate_keys("alice")
    assert locked.rotate_keys(all=True).locked == 1
    with unlock(locked):
        assert locked.rotate_keys("alice").keys_made == 1
        assert texts(locked) == ["before"]
    with pytest.raises(MemoryLocked):
        texts(locked)
    with unlock(locked):
        assert texts(locked) == ["before"]


def test_another_root_key_wraps_what_a_locked_user_holds(locked: IsolatedMemory, database_url: str):
    locked.rotate_root_key(LocalRootKey(bytes(32)))

    with IsolatedMemory(database_url, root_key=LocalRootKey(bytes(32))) as again:
        with pytest.raises(MemoryLocked):
            texts(again)
        unlock(again)
        assert texts(again) == ["before"]


# Processes


def test_another_process_that_has_the_keys_reads_and_writes_no_more(
    memory: IsolatedMemory, database_url: str, root_key: LocalRootKey
):
    history_of(memory).add_user_message("before")
    with IsolatedMemory(database_url, root_key=root_key, key_cache_seconds=3600) as other:
        assert texts(other) == ["before"]
        lock(memory)
        with pytest.raises(MemoryLocked):
            texts(other)
        history_of(other).add_user_message("from the other")
        assert memory.lock_state("alice").waiting == 1
        unlock(memory)
        assert texts(memory) == ["before", "from the other"]
        with pytest.raises(MemoryLocked):
            texts(other)
        # What it appends while it is locked waits until it is asked for.
        history_of(other).add_user_message("later")
        assert memory.collect_inbox("alice").messages == 1
        assert texts(memory) == ["before", "from the other", "later"]
        memory.remove_lock("alice", passphrase=PASSPHRASE)
        assert texts(other) == ["before", "from the other", "later"]


@pytest.mark.parametrize("points", [6])
def test_killed_while_the_inbox_is_emptied_every_message_is_there_once(
    database_url: str, root_key: LocalRootKey, points: int
):
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        history_of(memory).add_user_message("before")
        lock(memory)
        for part in range(4):
            history_of(memory).add_messages([HumanMessage(f"{part * 100 + n}") for n in range(100)])

    def empty() -> None:
        with IsolatedMemory(database_url, root_key=LocalRootKey(ROOT_KEY)) as own:
            unlock(own)

    for point in range(points):
        child = Child(empty)
        time.sleep(0.05 * (point + 1))
        with suppress(ProcessLookupError):
            child.kill()

    with IsolatedMemory(database_url, root_key=root_key) as memory:
        unlock(memory)
        assert texts(memory) == ["before", *(f"{n}" for n in range(400))]
        memory.scope(user_id="alice", module_id="tutor").verify()


def test_two_who_empty_the_inbox_at_once_bring_each_message_once(
    locked: IsolatedMemory, database_url: str, root_key: LocalRootKey
):
    history_of(locked).add_messages([HumanMessage(f"{n}") for n in range(250)])
    barrier = threading.Barrier(2)

    def empty(memory: IsolatedMemory) -> int:
        barrier.wait()
        return unlock(memory).collected.messages

    with IsolatedMemory(database_url, root_key=root_key) as other, ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(empty, [locked, other])) == 250

    assert texts(locked)[1:] == [f"{n}" for n in range(250)]


# Formats


def test_locks_and_inboxes_that_were_frozen_open_for_ever():
    vector = json.loads(VECTORS.read_text())
    words = {name: vector.pop(name) for name in ("passphrase", "recovery_code")}
    frozen = {name: bytes.fromhex(value) for name, value in vector.items()}
    secrets = {
        "passphrase": LockSecret.of_passphrase(words["passphrase"]),
        "secret": LockSecret.of_secret(frozen["secret"]),
        "recovery": LockSecret.of_recovery(words["recovery_code"]),
    }

    for name, secret in secrets.items():
        key = secret.stretched(frozen[f"{name}_parameters"])
        assert key.reveal() == frozen[f"{name}_key"]
    lock_key = LockKey(SecretBytes(frozen["passphrase_key"]))
    opened = lock_key.unwrap(SecretBytes(frozen["wrapped"]), b"place")
    assert opened.reveal() == frozen["key"]
    private = SecretBytes(frozen["inbox_private"])
    assert KeyPair.of(private).public == frozen["inbox_public"]
    assert open_from(private, b"place", frozen["inbox_sealed"]) == b"Good morning"
    assert LockSecret.new_recovery(frozen["recovery"])[1] == words["recovery_code"]
    salt = frozen["passphrase_parameters"][1:17]
    made = new_parameters(SecretKind.PASSPHRASE, PassphraseCost(64, 1, 1), salt)
    assert made == frozen["passphrase_parameters"]


def test_argon2id_is_that_of_the_rfc():
    """RFC 9106, section 5.3, but for the associated data and secret that are not used here."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    argon2 = Argon2id(salt=b"\2" * 16, length=32, iterations=3, lanes=4, memory_cost=32,
                      ad=b"\4" * 12, secret=b"\3" * 8)  # fmt: skip
    tag = "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"
    assert argon2.derive(b"\1" * 32).hex() == tag


def test_what_is_sealed_to_an_inbox_opens_at_its_place_alone():
    pair, other = KeyPair.random(), KeyPair.random()
    sealed = seal_to(pair.public, b"place", b"text")

    assert open_from(pair.private, b"place", sealed) == b"text"
    for private, place, stored in (
        (other.private, b"place", sealed),
        (pair.private, b"elsewhere", sealed),
        (pair.private, b"place", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (pair.private, b"place", bytes([sealed[0] ^ 1]) + sealed[1:]),
        (pair.private, b"place", sealed[:40]),
        (pair.private, b"place", b""),
    ):
        with pytest.raises(RecordDoesNotOpen):
            open_from(private, place, stored)


def test_a_checkpoint_is_refused_while_locked(locked: IsolatedMemory):
    saver = locked.scope(user_id="alice", module_id="tutor").checkpointer()
    config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}

    with pytest.raises(MemoryLocked):
        saver.put(config, empty_checkpoint(), {}, {})
    with pytest.raises(MemoryLocked):
        saver.get_tuple(config)
    saver.delete_thread("t")
