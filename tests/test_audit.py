"""Audit log: who did and read what, sealed and chained; what was done to it is noticed."""

import asyncio
import hashlib
import json
import logging
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langmem_isolated import AnchorFile, AuditOptions, IsolatedMemory, LocalRootKey
from langmem_isolated._adapters import audit_batch, auditing
from langmem_isolated._crypto.audit_chain import entry_hash, first_hash, place_of
from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.sealing import SealingKey, derive
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._runtime.audit_options import AuditSettings
from langmem_isolated._storage import audit as stored
from langmem_isolated._storage.audit_notes import AuditNote
from langmem_isolated._storage.audit_rows import ChainEnds, Draft, sealed_entry
from langmem_isolated.errors import (
    AnchorRefused,
    AuditIsOff,
    AuditLogBroken,
    DatabaseError,
    IsolationViolation,
    NotShared,
    ReasonRequired,
    RecordDoesNotOpen,
)
from langmem_isolated.lifecycle import Anchor
from langmem_isolated.lifecycle.audit import break_glass
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.processes import Child
from tests.test_reapply_erasures import OldCopy

VECTORS = Path(__file__).parent / "vectors" / "audit_v1.json"
BETWEEN = {"from_module": "tutor", "to_module": "planner"}
CANARY = "zq9-canary"


@pytest.fixture
def audited(database_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    """An open memory whose audit log is on, of either kind; alice has said something."""
    with IsolatedMemory(database_url, root_key=root_key, audit=AuditOptions()) as memory:
        tutor(memory).chat_history("s").add_user_message("a secret")
        yield memory


@pytest.fixture
def tampering(audited: IsolatedMemory, database_url: str) -> Iterator[Attacker]:
    """Who tampers with the database of `audited`."""
    with closing(Attacker(database_url)) as attacker:
        yield attacker


def tutor(memory: IsolatedMemory, user: str = "alice") -> Any:
    return memory.scope(user_id=user, module_id="tutor")


def grant(memory: IsolatedMemory, user: str = "alice") -> None:
    memory.grants.allow(user_id=user, **BETWEEN, kinds=["item"])


def operations(memory: IsolatedMemory, user: str | None = "alice") -> list[str | None]:
    """What was noted, the oldest first."""
    return [entry.operation for entry in reversed(memory.audit.entries(user_id=user))]


def outcomes(memory: IsolatedMemory, operation: str, user: str | None = "alice") -> list[Any]:
    found = reversed(memory.audit.entries(user_id=user))
    return [(one.outcome, one.count) for one in found if one.operation == operation]


def one_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every entry in the first chain."""
    monkeypatch.setattr(stored, "own_shard", lambda: 0)


# --- what is noted


def test_an_operators_grant_says_who_did_it_whose_it_is_and_why(audited: IsolatedMemory):
    with audited.audit.acting_as("bob", reason="Ticket 12"):
        grant(audited)

    (entry,) = audited.audit.entries(user_id="alice")
    assert (entry.operation, entry.outcome, entry.actor) == ("grant", "done", "bob")
    assert (entry.reason, entry.module_id) == ("Ticket 12", "tutor")
    assert entry.scope == tutor(audited).digest()
    assert "bob" not in repr(entry)
    assert "Ticket" not in repr(entry)


async def test_every_door_notes_the_same(audited: IsolatedMemory, door: Door):
    with audited.audit.acting_as("bob"):
        await door(audited.grants, "allow", user_id="alice", **BETWEEN, kinds=["item"])
    await door(audited, "clear_user", "alice")

    found = await door(audited.audit, "entries", user_id="alice")
    assert [(one.operation, one.actor) for one in reversed(found)] == [
        ("grant", "bob"), ("clear", None), ("clear", None)
    ]  # fmt: skip
    assert (await door(audited.audit, "verify")).entries == 4
    assert [one.operation for one in await door(tutor(audited), "audit_log")] == [
        "clear", "clear", "grant"
    ]  # fmt: skip


def test_what_takes_several_transactions_has_a_begin_and_an_end(
    audited: IsolatedMemory, tmp_path: Path
):
    with audited.audit.acting_as("bob", reason="asked for"):
        exported = audited.export_user("alice", tmp_path / "alice.zip")

    done, begun = audited.audit.entries(user_id="alice")
    assert (begun.outcome, begun.count) == ("begun", None)
    assert (done.outcome, done.count) == ("done", sum(exported.counts.values()))
    assert (done.call, done.reason) == (begun.call, "asked for")


def test_what_fails_is_noted_as_failed(audited: IsolatedMemory, tmp_path: Path):
    (tmp_path / "taken").touch()

    with pytest.raises(Exception, match="stands"):
        audited.export_user("alice", tmp_path / "taken")

    assert outcomes(audited, "export") == [("begun", None), ("failed", None)]


def test_what_operators_and_users_do_is_noted(audited: IsolatedMemory, tmp_path: Path):
    user = {"user_id": "alice"}
    audited.retention.keep("message", **user, days=365)
    audited.retention.remove("message", **user)
    audited.retention.hold("alice", reason="case 7", by="counsel")
    audited.retention.release("alice")
    quota = audited.quotas.set(per="day", tokens=10, **user)
    audited.quotas.remove(quota)
    grant(audited)
    audited.grants.revoke(**user, **BETWEEN)
    merged = audited.merge_modules(
        **user, from_module="tutor", into_module="planner", dry_run=False
    )
    audited.undo(merged)
    fact = tutor(audited).profile().add_fact("Likes chess.")
    audited.copy_facts(**user, from_module="tutor", to_module="planner", facts=[fact])
    audited.compare_modules("alice")
    audited.verify_module_isolation("alice")
    guest = audited.anonymous(module_id="tutor")
    guest.chat_history("g").add_user_message("hi")
    audited.claim(guest.id, tutor(audited), confirmed=True)
    archive = tmp_path / "alice.zip"
    audited.export_user("alice", archive)
    audited.import_user(archive, user_id="anna")
    audited.clear_user("alice")

    assert list(dict.fromkeys(operations(audited))) == [
        "policy", "policy_removed", "hold", "hold_released", "quota", "quota_removed", "grant",
        "revoke", "merge", "copy_facts", "compare_modules", "verify_module_isolation", "claim",
        "export", "clear",
    ]  # fmt: skip
    assert "import" in operations(audited, "anna")
    assert {"audit_on", "undo"} <= {*operations(audited, None)}


def test_sweeps_backups_and_new_root_keys_are_about_nobody(
    sqlite_url: str, root_key: LocalRootKey, tmp_path: Path
):
    with IsolatedMemory(sqlite_url, root_key=root_key, audit=AuditOptions()) as memory:
        tutor(memory).store().put(("a",), "b", {"text": "c"}, ttl=1e-6)
        memory.sweep()
        memory.backup(tmp_path / "copy.db")
        memory.rotate_root_key(LocalRootKey(bytes(32)))

        found = memory.audit.entries()
    assert [(one.operation, one.outcome) for one in reversed(found)] == [
        ("audit_on", "done"), ("sweep", "done"), ("backup", "begun"), ("backup", "done"),
        ("rotate_root_key", "done"),
    ]  # fmt: skip
    assert {one.subject for one in found} == {None}


def test_what_is_undone_has_no_entry(audited: IsolatedMemory):
    with pytest.raises(NotShared):
        audited.grants.revoke(user_id="alice", **BETWEEN)
    with pytest.raises(ValueError, match="later"):
        audited.grants.allow(
            user_id="alice", **BETWEEN, kinds=["item"], until=timedelta(seconds=-1)
        )

    assert operations(audited) == []


def test_an_entry_that_cannot_be_stored_stops_what_it_is_about(
    audited: IsolatedMemory, tampering: Attacker
):
    tampering("UPDATE audit_chains SET next_sequence = next_sequence + 1")

    with pytest.raises(AuditLogBroken):
        grant(audited)

    tampering("UPDATE audit_chains SET next_sequence = next_sequence - 1")
    assert audited.grants.list(user_id="alice") == []
    assert operations(audited) == []


def test_refused_calls_are_noted(audited: IsolatedMemory):
    alice = tutor(audited)
    config = {"configurable": {"thread_id": "t", "user_id": "bob", "module_id": "tutor"}}

    with pytest.raises(IsolationViolation):
        alice.checkpointer().get_tuple(config)
    with pytest.raises(IsolationViolation), audited.using(alice.scope):
        audited.checkpointer().get_tuple(config)

    assert outcomes(audited, "IsolationViolation") == [("refused", None)] * 2


def test_what_is_asked_of_another_module_without_a_grant_is_noted(audited: IsolatedMemory):
    planner = audited.scope(user_id="alice", module_id="planner")

    with pytest.raises(NotShared):
        planner.shared_from("tutor").messages("s")
    grant(audited)
    with pytest.raises(NotShared):
        planner.shared_from("tutor").messages("s")

    deadline = time.monotonic() + 60
    while len(outcomes(audited, "NotShared")) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert outcomes(audited, "NotShared") == [("refused", None)] * 2


async def test_a_call_that_is_refused_on_an_event_loop_is_noted_beside_it(audited: IsolatedMemory):
    alice = tutor(audited)
    config = {"configurable": {"thread_id": "t", "user_id": "bob", "module_id": "tutor"}}

    with pytest.raises(IsolationViolation):
        await alice.checkpointer().aget_tuple(config)

    deadline = time.monotonic() + 60
    while not (found := await audited.audit.aentries(user_id="alice")):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert [one.outcome for one in found] == ["refused"]


@pytest.fixture
def long_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was counted is stored before somebody looks, however slow the machine is."""
    monkeypatch.setattr(audit_batch, "_SECONDS", 60.0)


@pytest.mark.usefixtures("long_second")
def test_recalls_into_prompts_are_noted_once_a_second_with_their_count(audited: IsolatedMemory):
    history = tutor(audited).chat_history("monday")
    history.add_messages([HumanMessage("My dog is called Rex."), HumanMessage("He likes walks.")])
    tool = tutor(audited).recall_tool()

    for _ in range(3):
        assert "Rex" in tool.invoke({"query": "dog called"})

    ((_, count),) = outcomes(audited, "recall")
    assert count is not None
    assert count >= 3


def test_what_was_recalled_is_stored_by_itself_within_a_second(
    audited: IsolatedMemory, tampering: Attacker
):
    tutor(audited).recall_tool().invoke({"query": "secret"})

    deadline = time.monotonic() + 60
    while tampering("SELECT count(*) FROM audit")[0][0] < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert tampering("SELECT count(*) FROM audit") == [(2,)]


def test_what_could_not_be_stored_is_stored_later_by_itself(
    audited: IsolatedMemory, tampering: Attacker, monkeypatch: pytest.MonkeyPatch
):
    batch, failures = audited._context.audit._batch, iter([DatabaseError("away")])
    store = batch._store

    def failing_once(counts: Any) -> None:
        for failure in failures:
            raise failure
        store(counts)

    monkeypatch.setattr(audit_batch, "_SECONDS", 0.05)
    monkeypatch.setattr(audit_batch, "_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(batch, "_store", failing_once)
    audited._context.audit.recalled(tutor(audited)._records.owner, 1)

    deadline = time.monotonic() + 60
    while tampering("SELECT count(*) FROM audit")[0][0] < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert tampering("SELECT count(*) FROM audit") == [(2,)]


def test_what_is_being_stored_is_waited_for_by_who_looks_and_who_closes(
    database_url: str, root_key: LocalRootKey, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(audit_batch, "_SECONDS", 0.01)
    with IsolatedMemory(database_url, root_key=root_key, audit=AuditOptions()) as memory:
        tutor(memory).chat_history("s").add_user_message("a secret")
        batch, begun = memory._context.audit._batch, threading.Event()
        store = batch._store

        def slow(counts: Any) -> None:
            begun.set()
            time.sleep(0.3)
            store(counts)

        monkeypatch.setattr(batch, "_store", slow)
        for seen in ([("done", 1)], None):
            begun.clear()
            memory._context.audit.recalled(tutor(memory)._records.owner, 1)
            assert begun.wait(60)
            assert seen is None or outcomes(memory, "recall") == seen

    with IsolatedMemory(database_url, root_key=root_key) as memory:
        assert outcomes(memory, "recall") == [("done", 1)] * 2


def test_one_users_keys_that_were_tampered_with_keep_no_others_entries_from_being_stored(
    audited: IsolatedMemory, tampering: Attacker
):
    tutor(audited, "bob").chat_history("s").add_user_message("Hi")
    for user in ("alice", "bob"):
        audited._context.audit.recalled(tutor(audited, user)._records.owner, 1)
    alice = audited._context.keyring.directory().principal_of(tutor(audited)._records.owner)
    tampering("UPDATE key_sets SET mac = ? WHERE principal = ?", bytes(32), alice)

    assert outcomes(audited, "recall", "bob") == [("done", 1)]


def test_recalls_are_noted_when_a_memory_is_closed_and_not_if_they_are_switched_off(
    database_url: str, root_key: LocalRootKey
):
    for options in (AuditOptions(), AuditOptions(recalls=False)):
        with IsolatedMemory(database_url, root_key=root_key, audit=options) as memory:
            tutor(memory).chat_history("s").add_user_message("a secret")
            tutor(memory).recall_tool().invoke({"query": "secret"})

    with IsolatedMemory(database_url, root_key=root_key) as memory:
        assert [outcome for outcome, _ in outcomes(memory, "recall")] == ["done"]


def test_reads_are_noted_if_that_is_wanted(database_url: str, root_key: LocalRootKey):
    options = AuditOptions(reads=True)
    with IsolatedMemory(database_url, root_key=root_key, audit=options) as memory:
        tutor(memory).chat_history("s").add_user_message("a secret")
        with memory.audit.acting_as("support"):
            assert tutor(memory).chat_history("s").messages

        entries = memory.audit.entries(user_id="alice")

    assert {(one.operation, one.actor) for one in entries} >= {("read", "support")}


def test_nothing_is_asked_or_written_while_it_is_off(
    memory: IsolatedMemory, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
):
    history = tutor(memory).chat_history("s")
    history.add_user_message("a secret")
    monkeypatch.setattr(type(memory._context.audit), "settings", property(lambda _: 1 / 0))

    history.add_user_message("another")
    assert len(history.messages) == 2
    assert tutor(memory).recall("secret")
    tutor(memory).store().put(("a",), "b", {"c": "d"})

    assert attacker("SELECT count(*) FROM audit") == [(0,)]
    assert attacker("SELECT count(*) FROM audit_chains") == [(0,)]


# --- on and off


def test_a_process_learns_within_a_minute_that_another_has_switched_it_on(
    database_url: str, root_key: LocalRootKey, monkeypatch: pytest.MonkeyPatch
):
    with (
        IsolatedMemory(database_url, root_key=root_key) as one,
        IsolatedMemory(database_url, root_key=root_key) as other,
    ):
        tutor(one).chat_history("s").add_user_message("a secret")
        other.audit.switch_on()
        tutor(one).recall_tool().invoke({"query": "secret"})
        monkeypatch.setattr(auditing, "_KNOWN_SECONDS", 0.0)

        deadline = time.monotonic() + 60
        while "recall" not in operations(other) and time.monotonic() < deadline:
            tutor(one).recall_tool().invoke({"query": "secret"})
            one._context.audit.flush()
        assert set(operations(other)) == {"recall"}


def test_it_is_on_for_whoever_opens_the_database_whatever_is_left_out(
    database_url: str, root_key: LocalRootKey
):
    with IsolatedMemory(database_url, root_key=root_key, audit=AuditOptions(audit_days=400)):
        pass
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        assert memory.audit.status().is_on
        assert memory.audit.status().audit_days == 400
        grant(memory)
        assert operations(memory) == ["grant"]

        memory.audit.switch_off(reason="moved")
        memory.grants.revoke(user_id="alice", **BETWEEN)

        assert operations(memory, None) == ["audit_on", "grant", "audit_off"]
        assert memory.audit.entries()[0].reason == "moved"
        with pytest.raises(AuditIsOff):
            memory.audit.switch_off(reason="again")
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        assert not memory.audit.status().is_on


def test_it_is_on_from_the_first_write_or_read_of_a_memory_that_was_not_opened_before(
    database_url: str, root_key: LocalRootKey
):
    with closing(IsolatedMemory(database_url, root_key=root_key, audit=AuditOptions())) as memory:
        tutor(memory).chat_history("s").add_user_message("a secret")

        with IsolatedMemory(database_url, root_key=root_key) as other:
            assert other.audit.status().is_on


def test_the_first_call_of_a_process_that_is_refused_is_noted_too(
    audited: IsolatedMemory, database_url: str, root_key: LocalRootKey
):
    with closing(IsolatedMemory(database_url, root_key=root_key)) as other:
        of_bob = {"configurable": {"user_id": "bob", "module_id": "tutor", "thread_id": "1"}}
        with pytest.raises(IsolationViolation):
            tutor(other).checkpointer().get_tuple(of_bob)

    assert operations(audited) == ["IsolationViolation"]


def test_to_open_it_again_with_the_same_options_is_no_entry(
    database_url: str, root_key: LocalRootKey
):
    for _ in range(3):
        with IsolatedMemory(database_url, root_key=root_key, audit=AuditOptions()) as memory:
            assert operations(memory, None) == ["audit_on"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_chains SET settings = NULL",
        "DELETE FROM audit_chains",
        "DELETE FROM audit_chains WHERE shard = 0",
        "UPDATE audit_chains SET settings = (SELECT sealed FROM audit WHERE shard = 0)",
    ],
)
def test_who_writes_to_the_database_cannot_switch_it_off(
    audited: IsolatedMemory, tampering: Attacker, statement: str
):
    tampering(statement)

    with pytest.raises(AuditLogBroken):
        grant(audited)
    with pytest.raises(AuditLogBroken):
        audited.audit.status()


def test_a_process_that_has_seen_the_log_notices_that_all_of_it_was_removed(
    audited: IsolatedMemory, tampering: Attacker
):
    grant(audited)
    tampering("DELETE FROM audit")
    tampering("DELETE FROM audit_chains")

    with pytest.raises(AuditLogBroken, match="all of it was removed"):
        grant(audited)
    assert audited.verify(read_only=True).check("audit log").found == 1


def test_users_are_served_from_a_database_whose_audit_log_was_tampered_with(
    audited: IsolatedMemory, tampering: Attacker, database_url: str, root_key: LocalRootKey
):
    tampering("UPDATE audit_chains SET settings = NULL")

    for options in (None, AuditOptions()):
        with IsolatedMemory(database_url, root_key=root_key, audit=options) as memory:
            assert len(tutor(memory).chat_history("s").messages) == 1
            with pytest.raises(AuditLogBroken):
                grant(memory)


def test_there_is_nothing_to_read_verify_or_anchor_where_it_never_was_on(memory: IsolatedMemory):
    tutor(memory).chat_history("s").add_user_message("a secret")

    for call in (memory.audit.entries, memory.audit.verify, memory.audit.anchor):
        with pytest.raises(AuditIsOff):
            call()
    assert tutor(memory).audit_log() == []
    assert not memory.audit.status().is_on
    with pytest.raises(AuditIsOff), memory.audit.acting_as("bob"):
        memory.audit.break_glass("alice", reason="look")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"recalls": 1}, TypeError),
        ({"audit_days": 0}, ValueError),
        ({"audit_days": 1.5}, TypeError),
        ({"anchor_to": print}, TypeError),
        ({"anchor_to": ["anchors.jsonl"]}, TypeError),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], error: type[Exception]):
    with pytest.raises(error):
        AuditOptions(**options)


def test_what_cannot_be_meant_is_refused(audited: IsolatedMemory, root_key: LocalRootKey):
    with pytest.raises(TypeError, match="AuditOptions"):
        IsolatedMemory("sqlite://", root_key=root_key, audit=True)  # type: ignore[arg-type]
    for actor, error in (
        (1, TypeError),
        ("", ValueError),
        (" ", ValueError),
        ("a" * 1001, ValueError),
    ):
        with pytest.raises(error):
            audited.audit.acting_as(actor).__enter__()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="time zone"):
        audited.audit.entries(before=datetime(2026, 1, 1))  # noqa: DTZ001


def test_entries_come_by_pages_and_times(audited: IsolatedMemory):
    for _ in range(5):
        grant(audited)

    first = audited.audit.entries(user_id="alice", limit=2)
    rest = audited.audit.entries(user_id="alice", before=first[-1].time)

    assert (len(first), len(rest)) == (2, 3)
    assert audited.audit.entries(user_id="alice", since=first[-1].time) == first
    assert len(audited.audit.entries(limit=3)) == 3
    seen = tutor(audited).audit_log(limit=2)
    assert seen == first
    assert tutor(audited).audit_log(before=seen[-1].time) == rest


# --- break-glass


def test_a_user_sees_who_looked_and_why(audited: IsolatedMemory):
    with audited.audit.acting_as("bob"):
        permitted = audited.audit.break_glass("alice", reason="Ticket 12", minutes=5)
        with audited.audit.reading("alice", "show", module_id="tutor"):
            assert tutor(audited).chat_history("s").messages

    found = tutor(audited).audit_log()
    assert [(one.operation, one.outcome) for one in reversed(found)] == [
        ("break_glass", "done"), ("show", "begun"), ("show", "done")
    ]  # fmt: skip
    assert {(one.actor, one.reason) for one in found} == {("bob", "Ticket 12")}
    assert found[-1].until == permitted.until
    assert "Ticket" not in repr(permitted)


def test_a_user_sees_nothing_of_another_user_or_of_another_module(audited: IsolatedMemory):
    tutor(audited, "bob").chat_history("s").add_user_message("another secret")
    audited.scope(user_id="alice", module_id="planner").store().put(("a",), "b", {"c": 1})
    with audited.audit.acting_as("carol"):
        for user in ("alice", "bob"):
            audited.audit.break_glass(user, reason=f"look at {user}")
        with audited.audit.reading("alice", "show", module_id="planner"):
            pass

    assert [one.reason for one in tutor(audited, "bob").audit_log()] == ["look at bob"]
    assert [one.operation for one in tutor(audited).audit_log()] == ["break_glass"]
    planner = audited.scope(user_id="alice", module_id="planner")
    assert [one.operation for one in planner.audit_log()] == ["show", "show", "break_glass"]


def test_nobody_reads_without_a_reason_and_the_attempt_is_noted(audited: IsolatedMemory):
    with audited.audit.acting_as("bob"), pytest.raises(ReasonRequired):
        audited.audit.reading("alice", "show").__enter__()
    with pytest.raises(ReasonRequired):
        audited.audit.reading("alice", "show").__enter__()

    assert [(one.operation, one.outcome, one.actor) for one in tutor(audited).audit_log()] == [
        ("show", "refused", None), ("show", "refused", "bob")
    ]  # fmt: skip


async def test_whether_somebody_may_read_is_told_and_not_noted(audited: IsolatedMemory, door: Door):
    assert await door(audited.audit, "permission", "alice") is None
    with audited.audit.acting_as("carol"):
        assert await door(audited.audit, "permission", "alice") is None
        made = audited.audit.break_glass("alice", reason="look")
        noted = len(audited.audit.entries())
        assert await door(audited.audit, "permission", "alice") == made
        assert await door(audited.audit, "permission", "bob") is None
        assert len(audited.audit.entries()) == noted
        audited.audit.end_break_glass("alice")
        assert await door(audited.audit, "permission", "alice") is None
    with audited.audit.acting_as("dave"):
        assert await door(audited.audit, "permission", "alice") is None


def test_a_permission_is_of_one_actor_for_one_user(audited: IsolatedMemory):
    tutor(audited, "bob").chat_history("s").add_user_message("another secret")
    with audited.audit.acting_as("carol"):
        audited.audit.break_glass("alice", reason="look")
        with pytest.raises(ReasonRequired):
            audited.audit.reading("bob", "show").__enter__()
    with audited.audit.acting_as("dave"), pytest.raises(ReasonRequired):
        audited.audit.reading("alice", "show").__enter__()


def test_a_permission_ends_with_its_time_by_the_databases_clock(
    audited: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    from langmem_isolated.lifecycle.audit import break_glass

    with audited.audit.acting_as("bob"):
        audited.audit.break_glass("alice", reason="look", minutes=1)
        with audited.audit.reading("alice", "show"):
            pass
        later = break_glass.database_now
        monkeypatch.setattr(break_glass, "database_now", lambda t: later(t) + 60_000_000)
        with pytest.raises(ReasonRequired):
            audited.audit.reading("alice", "show").__enter__()


def test_a_permission_can_be_given_back(audited: IsolatedMemory):
    with audited.audit.acting_as("bob"):
        audited.audit.break_glass("alice", reason="look")
        audited.audit.end_break_glass("alice")
        with pytest.raises(ReasonRequired):
            audited.audit.reading("alice", "show").__enter__()
        with pytest.raises(ReasonRequired):
            audited.audit.end_break_glass("alice")


def test_what_was_given_back_permits_nothing_whatever_the_clocks_of_processes_show(
    audited: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    with audited.audit.acting_as("bob"):
        with monkeypatch.context() as other_process:
            other_process.setattr(stored, "now", lambda: time.time_ns() // 1000 + 600_000_000)
            audited.audit.break_glass("alice", reason="Ticket 12", minutes=60)
        audited.audit.end_break_glass("alice")

        with pytest.raises(ReasonRequired), audited.audit.reading("alice", "page"):
            pass


def test_a_permission_for_longer_holds_beside_a_later_one_for_less(
    audited: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    with audited.audit.acting_as("bob"):
        until = audited.audit.break_glass("alice", reason="Ticket 12", minutes=60).until
        audited.audit.break_glass("alice", reason="Ticket 13", minutes=1)
        monkeypatch.setattr(
            break_glass, "_now", lambda _: int((until.timestamp() - 60) * 1_000_000)
        )

        with audited.audit.reading("alice", "page") as permitted:
            assert (permitted.reason, permitted.until) == ("Ticket 12", until)
        audited.audit.end_break_glass("alice")
        with pytest.raises(ReasonRequired), audited.audit.reading("alice", "page"):
            pass


def test_a_permission_that_cannot_be_meant_is_refused(audited: IsolatedMemory):
    with audited.audit.acting_as("bob"):
        out_of_range: list[dict[str, Any]] = [
            {"reason": ""},
            *({"reason": "look", "minutes": minutes} for minutes in (0, 1441)),
        ]
        for asked in out_of_range:
            with pytest.raises(ValueError, match="1"):
                audited.audit.break_glass("alice", **asked)
        wrong_types: list[dict[str, Any]] = [{"reason": 1}, {"reason": "look", "minutes": 0.5}]
        for wrong in wrong_types:
            with pytest.raises(TypeError):
                audited.audit.break_glass("alice", **wrong)
    with pytest.raises(ValueError, match="Nobody acts"):
        audited.audit.break_glass("alice", reason="look")
    assert operations(audited) == []


# --- what is noticed

CHANGES = {
    "shard": "UPDATE audit SET shard = 5 WHERE shard = 0 AND sequence = 3",
    "sequence": "UPDATE audit SET sequence = 99 WHERE sequence = 3",
    "scope_id": "UPDATE audit SET scope_id = ? WHERE sequence = 3",
    "created_at": "UPDATE audit SET created_at = created_at + 1 WHERE sequence = 3",
    "sealed": "UPDATE audit SET sealed = (SELECT sealed FROM audit WHERE sequence = 2) "
    "WHERE sequence = 3",
    "hash": "UPDATE audit SET hash = (SELECT hash FROM audit WHERE sequence = 2) "
    "WHERE sequence = 3",
    "removed": "DELETE FROM audit WHERE sequence = 3",
    "removed from the beginning": "DELETE FROM audit WHERE sequence = 1",
    "cut off": "DELETE FROM audit WHERE sequence > 3",
    "removed altogether": "DELETE FROM audit",
    "added": "INSERT INTO audit SELECT shard, sequence + 1, scope_id, created_at, sealed, hash "
    "FROM audit WHERE sequence = 6",
    "added to a chain that is none": "INSERT INTO audit SELECT 9, sequence, scope_id, created_at, "
    "sealed, hash FROM audit WHERE sequence = 6",
}


def audited_in(request: pytest.FixtureRequest, kind: str) -> tuple[IsolatedMemory, Attacker]:
    """A memory in a database of one kind whose audit log has six entries, and its attacker."""
    url = request.getfixturevalue(f"{kind}_url")
    memory = IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), audit=AuditOptions())
    request.addfinalizer(memory.close)
    for _ in range(5):
        grant(memory)
    attacker = Attacker(url)
    request.addfinalizer(attacker.close)
    return memory, attacker


# What is noticed does not depend on the database; a database of PostgreSQL takes a second to make.
@pytest.mark.parametrize(
    ("change", "kind"), [*((one, "sqlite") for one in CHANGES), ("sealed", "postgres")]
)
def test_whatever_is_changed_is_noticed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, change: str, kind: str
):
    one_chain(monkeypatch)
    audited, tampering = audited_in(request, kind)
    assert audited.audit.verify().entries == 6

    sql = CHANGES[change]
    tampering(sql, *([b"x" * 16] if "?" in sql else []))

    with pytest.raises(AuditLogBroken):
        audited.audit.verify()


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        *(
            (one, "sqlite")
            for one in ("first_sequence", "cut_hash", "next_sequence", "hash", "row_mac")
        ),
        ("hash", "postgres"),
    ],
)
def test_a_row_of_ends_that_is_changed_is_noticed(
    request: pytest.FixtureRequest, column: str, kind: str
):
    audited, tampering = audited_in(request, kind)
    value = "x'00'" if "hash" in column or "mac" in column else f"{column} + 1"
    if tampering.is_postgres:
        value = value.replace("x'00'", "'\\x00'::bytea")
    tampering(f"UPDATE audit_chains SET {column} = {value} WHERE shard = 3")

    with pytest.raises(AuditLogBroken) as broken:
        audited.audit.verify()
    assert broken.value.shard == 3


def test_two_entries_that_were_exchanged_are_noticed_with_their_hashes_made_anew(
    audited: IsolatedMemory, tampering: Attacker, monkeypatch: pytest.MonkeyPatch
):
    one_chain(monkeypatch)
    for _ in range(3):
        grant(audited)
    rows = tampering("SELECT scope_id, created_at, sealed FROM audit ORDER BY sequence")
    rows[1], rows[2] = rows[2], rows[1]
    # Hashes have no key: whoever writes to the database makes them anew.
    last = first_hash(audited._context.keyring.directory().id, 0)
    for sequence, (scope_id, created_at, sealed) in enumerate(rows, start=1):
        last = entry_hash(last, place_of(0, sequence, scope_id, created_at), bytes(sealed))
        tampering(
            "UPDATE audit SET created_at = ?, sealed = ?, hash = ? WHERE sequence = ?",
            created_at, sealed, last, sequence,
        )  # fmt: skip

    with pytest.raises(AuditLogBroken, match="last entry"):
        audited.audit.verify()
    with pytest.raises(RecordDoesNotOpen):
        audited.audit.entries(user_id="alice")


def test_a_chain_is_verified_by_whoever_has_the_table_and_no_key(
    audited: IsolatedMemory, tampering: Attacker, monkeypatch: pytest.MonkeyPatch
):
    one_chain(monkeypatch)
    for _ in range(3):
        grant(audited)
    anchor = audited.audit.anchor()

    ((directory_id,),) = tampering("SELECT directory_id FROM installation")
    framed = framed_by_hand
    start = framed(b"langmem-isolated/v1", b"audit")
    last = hashlib.sha256(
        start + framed(b"begin", bytes(directory_id), (0).to_bytes(2, "big"))
    ).digest()
    rows = tampering(
        "SELECT sequence, scope_id, created_at, sealed, hash FROM audit ORDER BY sequence"
    )
    for sequence, scope_id, created_at, sealed, stored_hash in rows:
        place = framed(
            b"audit", (0).to_bytes(2, "big"), sequence.to_bytes(8, "big"),
            None if scope_id is None else bytes(scope_id), created_at.to_bytes(8, "big"),
        )  # fmt: skip
        last = hashlib.sha256(start + framed(b"entry", last, place, bytes(sealed))).digest()
        assert last == bytes(stored_hash)
    assert anchor.heads[0].hash == last


def framed_by_hand(*parts: bytes | None) -> bytes:
    return b"".join(
        b"\xff" * 4 if part is None else len(part).to_bytes(4, "big") + part for part in parts
    )


# --- anchors


def test_a_database_that_was_set_back_is_noticed_by_an_anchor_alone(
    audited: IsolatedMemory, database_url: str
):
    grant(audited)
    yesterday, first = OldCopy(database_url), audited.audit.anchor()
    audited.grants.revoke(user_id="alice", **BETWEEN)
    today = audited.audit.anchor()

    yesterday.put_back()

    assert audited.audit.verify().entries == 2
    assert audited.audit.check_anchors([first]).heads == stored.SHARDS
    with pytest.raises(AuditLogBroken, match="ends before an entry that was anchored"):
        audited.audit.check_anchors([first, today])


def test_a_database_that_was_set_back_and_written_to_since_is_noticed(
    audited: IsolatedMemory, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    one_chain(monkeypatch)
    grant(audited)
    yesterday = OldCopy(database_url)
    grant(audited)
    anchor = audited.audit.anchor()

    yesterday.put_back()
    for _ in range(3):
        grant(audited)

    assert audited.audit.verify()
    with pytest.raises(AuditLogBroken, match="another"):
        audited.audit.check_anchors([anchor])


def test_a_sweep_meanwhile_is_not_taken_for_a_log_that_was_cut(
    audited: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    one_chain(monkeypatch)
    grant(audited)
    anchor = audited.audit.anchor()
    grant(audited)
    chains, hash_at = audited._context.audit.required(), stored.AuditChains.hash_at

    def behind_a_sweep(self: Any, shard: int, sequence: int) -> bytes | None:
        chains.cut(shard, time.time_ns())
        return hash_at(self, shard, sequence)

    monkeypatch.setattr(stored.AuditChains, "hash_at", behind_a_sweep)
    assert audited.audit.check_anchors([anchor]).over == 1


def test_a_log_that_is_gone_is_noticed_by_an_anchor(audited: IsolatedMemory, tampering: Attacker):
    anchor = audited.audit.anchor()
    for table in ("audit", "audit_chains"):
        tampering(f"DELETE FROM {table}")

    with pytest.raises(AuditLogBroken, match="gone"):
        audited.audit.check_anchors([anchor])


def test_anchors_are_appended_to_a_file_of_ones_own(audited: IsolatedMemory, tmp_path: Path):
    keep = AnchorFile(tmp_path / "anchors.jsonl")
    taken = [audited.audit.anchor(keep) for _ in range(3)]

    assert keep.read() == taken
    assert stat.S_IMODE(keep.path.stat().st_mode) == 0o600
    assert audited.audit.check_anchors(keep.read()).anchors == 3
    assert repr(taken[0]).startswith("Anchor(entries=1, time=")


def test_a_last_line_that_was_torn_off_is_passed_over_and_mended(
    audited: IsolatedMemory, tmp_path: Path
):
    keep = AnchorFile(tmp_path / "anchors.jsonl")
    first = audited.audit.anchor(keep)
    content = keep.path.read_bytes()

    keep.path.write_bytes(content + content[:50])
    assert keep.read() == [first]
    second = audited.audit.anchor(keep)
    assert keep.read() == [first, second]

    keep.path.write_bytes(content.rstrip(b"\n"))
    assert keep.read() == [first]
    third = audited.audit.anchor(keep)
    assert keep.read() == [first, third]


def test_a_line_that_was_changed_is_refused(audited: IsolatedMemory, tmp_path: Path):
    keep = AnchorFile(tmp_path / "anchors.jsonl")
    anchor = audited.audit.anchor(keep)
    line = keep.path.read_bytes()

    for at in range(0, len(line) - 1, 7):
        changed = bytearray(line)
        changed[at] ^= 1
        keep.path.write_bytes(bytes(changed))
        with pytest.raises((AnchorRefused, AuditLogBroken)):
            audited.audit.check_anchors(keep.read() or [replace(anchor, mac=b"")])


def test_what_is_no_file_of_anchors_is_left_alone(audited: IsolatedMemory, tmp_path: Path):
    other = tmp_path / "other"
    other.write_text("mine")

    with pytest.raises(AnchorRefused, match="another one"):
        audited.audit.anchor(AnchorFile(other))
    with pytest.raises(AnchorRefused, match="cannot be written"):
        audited.audit.anchor(AnchorFile(tmp_path / "nowhere" / "anchors.jsonl"))

    assert other.read_text() == "mine"
    with pytest.raises(TypeError):
        audited.audit.anchor("anchors.jsonl")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        audited.audit.check_anchors(audited.audit.anchor())  # type: ignore[arg-type]


def test_an_anchor_of_another_installation_is_refused(
    audited: IsolatedMemory, root_key: LocalRootKey
):
    with IsolatedMemory("sqlite://", root_key=root_key, audit=AuditOptions()) as other:
        anchor = other.audit.anchor()

    with pytest.raises(AnchorRefused, match="this installation"):
        audited.audit.check_anchors([anchor])


def test_a_sweep_leaves_an_anchor_where_it_is_wanted(
    database_url: str, root_key: LocalRootKey, tmp_path: Path
):
    kept: list[Anchor] = []
    keep = AnchorFile(tmp_path / "anchors.jsonl")
    options = AuditOptions(anchor_to=(kept.append, keep))
    with IsolatedMemory(database_url, root_key=root_key, audit=options) as memory:
        memory.sweep()
        memory.sweep(dry_run=True)

        assert len(kept) == 1
        assert keep.read() == kept
        assert memory.audit.check_anchors(kept).heads == stored.SHARDS


# --- retention


def old(monkeypatch: pytest.MonkeyPatch, days: int) -> Any:
    """Have entries noted so long ago."""
    before = stored.now
    return monkeypatch.setattr(stored, "now", lambda: before() - days * 86_400_000_000)


def test_what_is_over_is_removed_and_the_rest_still_verifies(
    database_url: str, root_key: LocalRootKey, monkeypatch: pytest.MonkeyPatch
):
    # One behind another in every chain, as they were noted: what is old in a chain comes first.
    monkeypatch.setattr(stored, "own_shard", lambda: stored.CONTROL + 1)
    options = AuditOptions(audit_days=10)
    with IsolatedMemory(database_url, root_key=root_key, audit=options) as memory:
        tutor(memory).chat_history("s").add_user_message("a secret")
        with pytest.MonkeyPatch.context() as patch:
            old(patch, 11)
            for _ in range(4):
                grant(memory)
        anchors = [memory.audit.anchor()]
        memory.grants.revoke(user_id="alice", **BETWEEN)
        anchors.append(memory.audit.anchor())

        assert memory.sweep(dry_run=True).counts == {"audit": 4}
        swept = memory.sweep()

        assert swept.counts == {"audit": 4}
        assert operations(memory) == ["revoke"]
        assert operations(memory, None)[-1] == "audit_removed"
        verified = memory.audit.verify()
        assert (verified.entries, verified.removed) == (3, 4)
        checked = memory.audit.check_anchors(anchors)
        assert checked.heads + checked.over == 2 * stored.SHARDS
        assert memory.sweep().counts == {}


def test_who_removes_more_than_a_sweep_is_noticed(
    database_url: str, root_key: LocalRootKey, monkeypatch: pytest.MonkeyPatch
):
    one_chain(monkeypatch)
    options = AuditOptions(audit_days=10)
    with IsolatedMemory(database_url, root_key=root_key, audit=options) as memory:
        with pytest.MonkeyPatch.context() as patch:
            old(patch, 11)
            grant(memory)
        grant(memory)
        memory.sweep()
        with closing(Attacker(database_url)) as attacker:
            attacker("DELETE FROM audit WHERE sequence = (SELECT min(sequence) FROM audit)")

        with pytest.raises(AuditLogBroken):
            memory.audit.verify()


def test_a_log_that_was_tampered_with_stays_as_evidence_and_stops_no_sweep(
    database_url: str, root_key: LocalRootKey
):
    options = AuditOptions(audit_days=10)
    with IsolatedMemory(database_url, root_key=root_key, audit=options) as memory:
        grant(memory)
        tutor(memory).store().put(("a",), "b", {"text": "c"}, ttl=1e-6)
        with closing(Attacker(database_url)) as attacker:
            attacker("UPDATE audit SET created_at = 1")

            swept = memory.sweep()

            assert (swept.counts, swept.damaged, swept.is_done) == ({"item": 1}, 1, True)
            assert attacker("SELECT count(*) FROM audit") == [(3,)]


def test_entries_that_a_sweep_removed_cannot_be_put_back(
    database_url: str, root_key: LocalRootKey, monkeypatch: pytest.MonkeyPatch
):
    one_chain(monkeypatch)
    options = AuditOptions(audit_days=10)
    with IsolatedMemory(database_url, root_key=root_key, audit=options) as memory:
        with pytest.MonkeyPatch.context() as patch:
            old(patch, 11)
            memory.audit.switch_on(AuditOptions(audit_days=10, reads=True))
        with closing(Attacker(database_url)) as attacker:
            attacker("UPDATE audit SET created_at = created_at WHERE sequence = 1")
        before = OldCopy(database_url)
        with pytest.MonkeyPatch.context() as patch:
            before_now = stored.now
            patch.setattr(
                "langmem_isolated.lifecycle.audit.upkeep.now", lambda: before_now() + 2**50
            )
            assert memory.sweep().counts["audit"] >= 1
        anchor = memory.audit.anchor()
        before.put_back()

        with pytest.raises(AuditLogBroken):
            memory.audit.check_anchors([anchor])


# --- erasure


def test_after_an_erasure_the_chain_is_whole_and_says_nothing_of_the_user(
    audited: IsolatedMemory, tampering: Attacker
):
    with audited.audit.acting_as("bob", reason=f"{CANARY} asked for it"):
        grant(audited)
        audited.audit.break_glass("alice", reason=CANARY)
        anchor = audited.audit.anchor()
        count = sum(audited.erase_user("alice").counts.values())

    found = audited.audit.entries(user_id="alice")
    done, *erased = found
    assert (done.operation, done.outcome, done.count) == ("erase_user", "done", count)
    assert (done.actor, done.reason, done.module_id) == ("bob", None, None)
    assert {(one.operation, one.actor, one.reason) for one in erased} == {(None, None, None)}
    assert len(erased) == 3
    assert audited.audit.verify().entries == 5
    assert audited.audit.check_anchors([anchor]).heads == stored.SHARDS
    assert tampering("SELECT count(*) FROM audit WHERE scope_id IS NOT NULL") == [(4,)]


@pytest.mark.usefixtures("long_second")
def test_no_reason_and_no_module_is_kept_of_who_had_no_keys(audited: IsolatedMemory):
    dora = tutor(audited, "dora")._records.owner
    with audited.audit.acting_as("bob", reason=CANARY):
        audited.audit.break_glass("dora", reason=CANARY)
        tutor(audited, "dora").chat_history("s").add_user_message("Hi")
        audited._context.audit.recalled(dora, 1)
        audited.erase_user("dora")
        audited.clear_user("dora")

    found = audited.audit.entries(user_id="dora")
    assert {entry.operation for entry in found} >= {"break_glass", "recall", "clear", "erase_user"}
    assert {entry.actor for entry in found} == {"bob", None}
    assert {entry.reason for entry in found} == {None}
    assert tutor(audited, "dora").digest() not in {entry.scope for entry in found}


def test_a_permission_from_before_a_user_had_keys_shows_nothing_of_who_came_since(
    audited: IsolatedMemory,
):
    with audited.audit.acting_as("bob"):
        audited.audit.break_glass("dora", reason="Ticket 12")
        with audited.audit.reading("dora", "page"):
            assert audited.modules("dora") == []
        tutor(audited, "dora").chat_history("s").add_user_message("Hi")

        with pytest.raises(ReasonRequired), audited.audit.reading("dora", "page"):
            pass


def test_who_comes_back_sees_nothing_of_the_former_life(audited: IsolatedMemory):
    grant(audited)
    audited.erase_user("alice")
    tutor(audited).chat_history("s").add_user_message("new here")

    assert tutor(audited).audit_log() == []
    grant(audited)
    assert [one.operation for one in tutor(audited).audit_log()] == ["grant"]


def test_an_export_has_the_users_entries(audited: IsolatedMemory, tmp_path: Path):
    with audited.audit.acting_as("bob", reason="Ticket 12"):
        grant(audited)
    archive = tmp_path / "alice"

    exported = audited.export_user("alice", archive)

    lines = [
        json.loads(line) for line in (archive / "data" / "audit.jsonl").read_text().splitlines()
    ]
    assert exported.counts["audit"] == len(lines) == 2
    assert {(one["operation"], one["actor"], one["reason"]) for one in lines} == {
        ("grant", "bob", "Ticket 12"), ("export", None, None)
    }  # fmt: skip
    audited.import_user(archive, user_id="anna")
    assert operations(audited, "anna") == ["import", "import"]


# --- many at once


def test_eight_processes_append_without_a_gap(database_url: str, root_key: LocalRootKey):
    with IsolatedMemory(database_url, root_key=root_key, audit=AuditOptions()) as memory:
        tutor(memory).chat_history("s").add_user_message("a secret")

        def grants(number: int) -> None:
            for _ in range(6):
                with memory.audit.acting_as(f"operator {number}"):
                    grant(memory, f"user {number % 3}")

        children = [Child(grants, number) for number in range(8)]
        for child in children:
            child.result(120)

        assert memory.audit.verify().entries == 1 + 48
        actors = [entry.actor for entry in memory.audit.entries(limit=100)]
        assert sorted(filter(None, actors)) == sorted(
            f"operator {n}" for n in range(8) for _ in range(6)
        )


def test_threads_that_append_to_one_chain_wait_for_each_other(
    audited: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    one_chain(monkeypatch)

    threads = [threading.Thread(target=grant, args=(audited,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert audited.audit.verify().entries == 9


def test_a_process_that_is_killed_leaves_a_chain_that_is_whole_and_entries_of_what_was_done(
    database_url: str, root_key: LocalRootKey
):
    with IsolatedMemory(database_url, root_key=root_key, audit=AuditOptions()) as memory:
        tutor(memory).chat_history("s").add_user_message("a secret")

        def without_end() -> None:
            for number in range(200):
                grant(memory, f"user {number}")
            # Who kills it may come late.
            time.sleep(600)

        for round_ in range(3):
            before = memory.audit.status().entries
            child = Child(without_end)
            deadline = time.monotonic() + 60
            while memory.audit.status().entries < before + 3 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(round_ * 0.05)
            child.kill()

        entries = memory.audit.verify().entries
        granted = sum(len(memory.grants.list(user_id=f"user {n}")) for n in range(200))
        assert entries > 1
        # Each process begins with the same users: an entry for each grant, and one for no other.
        users = {entry.subject for entry in memory.audit.entries(limit=1000) if entry.subject}
        assert len(users) == granted
        grant(memory)
        assert memory.audit.verify().entries == entries + 1


def test_an_operation_that_is_killed_has_begun_and_has_no_end(
    audited: IsolatedMemory, tmp_path: Path
):
    def killed() -> None:
        audited.export_user("alice", tmp_path / "a.zip", progress=lambda _: time.sleep(60))

    child = Child(killed)
    deadline = time.monotonic() + 60
    while not operations(audited) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()

    assert outcomes(audited, "export") == [("begun", None)]
    assert audited.audit.verify().entries == 2


def test_a_forked_child_notes_nothing_that_its_parent_has_counted(audited: IsolatedMemory):
    tutor(audited).recall_tool().invoke({"query": "secret"})
    Child(audited._context.audit.flush).result()
    assert outcomes(audited, "recall") == [("done", 1)]

    def recalls() -> None:
        tutor(audited).recall_tool().invoke({"query": "secret"})
        audited.close()

    Child(recalls).result()
    assert outcomes(audited, "recall") == [("done", 1)] * 2


# --- what nobody reads in it


def test_no_name_reason_or_id_is_readable_in_tables_logs_and_anchors(
    audited: IsolatedMemory, tampering: Attacker, caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    caplog.set_level(logging.DEBUG)
    user, module = f"{CANARY}-user", f"{CANARY}-module"
    scope = audited.scope(user_id=user, module_id=module)
    scope.chat_history(f"{CANARY}-session").add_user_message(f"{CANARY} said")
    keep = AnchorFile(tmp_path / "anchors.jsonl")
    with audited.audit.acting_as(f"{CANARY}-actor", reason=f"{CANARY}-reason"):
        audited.grants.allow(user_id=user, from_module=module, to_module="planner", kinds=["item"])
        audited.audit.break_glass(user, reason=f"{CANARY} look")
        audited.audit.anchor(keep)
        scope.recall_tool().invoke({"query": CANARY})
        with suppress(IsolationViolation):
            scope.checkpointer().get_tuple(
                {"configurable": {"thread_id": CANARY, "user_id": CANARY, "module_id": CANARY}}
            )
    audited.audit.switch_off(reason=f"{CANARY} off")

    told = [str(vars(record)) for record in caplog.records if "audit" in record.name]
    assert len(told) >= 5
    assert not [one for one in told if CANARY in one]
    for table in ("audit", "audit_chains"):
        rows = tampering(f"SELECT * FROM {table}")
        assert rows
        assert CANARY.encode() not in b"".join(
            bytes(v) if isinstance(v, bytes | memoryview) else str(v).encode()
            for row in rows for v in row
        )  # fmt: skip
    assert CANARY not in keep.path.read_text()


def test_log_records_have_fields_for_who_collects_them(
    audited: IsolatedMemory, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "langmem_isolated.audit")
    with audited.audit.acting_as("bob"):
        grant(audited)
        grant(audited)

    one, two = caplog.records
    assert one.getMessage() == "Audit: grant done."
    assert (one.audit_operation, one.audit_outcome) == ("grant", "done")
    assert one.audit_subject == audited.audit.entries(user_id="alice")[0].subject
    assert one.audit_actor == two.audit_actor
    assert len(one.audit_actor) == 32


def test_no_log_records_where_they_are_not_wanted(
    database_url: str, root_key: LocalRootKey, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "langmem_isolated.audit")
    options = AuditOptions(logged=False)
    with IsolatedMemory(database_url, root_key=root_key, audit=options) as memory:
        grant(memory)

    assert caplog.records == []


# --- frozen formats


def remade() -> dict[str, Any]:
    directory = DirectoryKey(SecretBytes(bytes([1]) * 32))
    subject = SealingKey(derive(SecretBytes(bytes([2]) * 32), b"audit"))
    ends = ChainEnds.new(directory, 3)
    note = AuditNote(
        "break_glass", "done", "bob", "Ticket 12", None, "tutor", "00" * 16,
        1_900_000_000_000_000, "0011223344556677",
    )  # fmt: skip
    row = sealed_entry(
        ends, Draft(subject, b"s" * 16, note.encoded()), 1_900_000_000_000_000, nonce=bytes(12)
    )
    moved = ends._replace(
        next_sequence=2, hash=row.hash, settings=AuditSettings(True, True, False, 400).encoded()
    ).authenticated(directory)
    anchor = Anchor.of(directory, [moved], 1_900_000_000_000_001)
    return {
        "directory_key": "01" * 32,
        "naming_key": "02" * 32,
        "first_hash": ends.hash.hex(),
        "payload": note.encoded().decode(),
        "place": row.place.hex(),
        "sealed": row.sealed.hex(),
        "hash": row.hash.hex(),
        "settings": (moved.settings or b"").decode(),
        "row_mac": moved.row_mac.hex(),
        "anchor": anchor.encoded().decode(),
        "stamped": replace(anchor, stamp=b"stamp").encoded().decode(),
        "actor": directory.actor_of("bob").hex(),
    }


def test_stored_forms_are_as_they_were_frozen():
    assert remade() == json.loads(VECTORS.read_text())


def test_frozen_anchors_are_read():
    vectors = json.loads(VECTORS.read_text())

    anchor = Anchor.decoded(vectors["anchor"].encode())
    stamped = Anchor.decoded(vectors["stamped"].encode())

    assert anchor.is_authentic(DirectoryKey(SecretBytes(bytes([1]) * 32)))
    assert stamped.stamp == b"stamp"
    assert stamped.stampable() == anchor.encoded()
