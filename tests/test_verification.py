"""Verification of all that an installation holds: what it finds, and what it does not take for a
finding."""

import logging
import os
import select
import signal
import threading
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.vectorstores import InMemoryVectorStore

from langmem_isolated import AuditOptions, IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database import schema
from langmem_isolated._storage.container_state import ContainerState
from langmem_isolated._storage.container_tally import ContainerTally
from langmem_isolated.errors import KeyringError, RecordDoesNotOpen, ScopeError
from langmem_isolated.lifecycle import VerificationReport
from langmem_isolated.lifecycle.verification import canaries, canary_adapters, canary_places
from langmem_isolated.lifecycle.verification.canaries import Canaries
from langmem_isolated.lifecycle.verification.canary_adapters import ADAPTERS, LEFT_OUT
from langmem_isolated.lifecycle.verification.checks import CHECKS
from langmem_isolated.lifecycle.verification.confidence import Coverage
from langmem_isolated.lifecycle.verification.report import MOST_FINDINGS, Tally
from tests.conftest import Attacker, Door
from tests.postgres import PostgresServer
from tests.processes import Child
from tests.served import ROLES, make_bound
from tests.test_inventory import ADAPTERS as WRITING_ADAPTERS
from tests.test_inventory import fill, operate

Attack = Callable[[Attacker], object]


def tutor_of(memory: IsolatedMemory, user: str) -> ScopedMemory:
    return memory.scope(user_id=user, module_id="tutor")


def fill_two(memory: IsolatedMemory) -> None:
    for user in ("alice", "bob"):
        fill(memory, tutor_of(memory, user), None)


def found(report: VerificationReport) -> dict[str, int]:
    return {check.name: check.found for check in report.checks if check.found}


async def test_an_installation_with_everything_in_it_is_clean(memory: IsolatedMemory, door: Door):
    fill_two(memory)
    operate(memory, None)
    tutor_of(memory, "carol").chat_history("s").add_user_message("Forget me")
    memory.erase_user("carol")

    report = await door(memory, "verify")

    assert (found(report), report.is_clean) == ({}, True)
    assert report.verified == report.scopes > 4
    assert report.counts["message"] >= 4
    assert report.cross_opening_attempts > 400
    examined = {check.name: check.examined for check in report.checks}
    not_there = {"audit log"} if memory._database.is_bound else {"audit log", "row-level security"}
    assert {name for name, number in examined.items() if not number} == not_there


def test_an_empty_database_is_clean_and_stays_empty_when_nothing_is_to_be_written(
    memory: IsolatedMemory, attacker: Attacker
):
    report = memory.verify(read_only=True)

    assert (report.is_clean, report.scopes) == (True, 0)
    assert report.check("canaries").state == "not checked"
    assert attacker("SELECT count(*) FROM keys") == [(0,)]


def test_canaries_are_gone_afterwards_with_their_keys(memory: IsolatedMemory, attacker: Attacker):
    fill_two(memory)
    tables = ("scopes", "keys", "key_sets", "sessions", "records", "tombstones", "erasures")
    before = [attacker(f"SELECT count(*) FROM {table}") for table in tables]

    assert memory.verify().check("canaries").examined > 80

    assert [attacker(f"SELECT count(*) FROM {table}") for table in tables] == before


def test_refusals_that_the_canaries_provoke_warn_nobody(
    memory: IsolatedMemory, caplog: pytest.LogCaptureFixture
):
    fill_two(memory)

    assert memory.verify().is_clean

    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []
    with pytest.raises(ScopeError):
        memory.checkpointer().get_tuple({"configurable": {"thread_id": "t"}})
    assert "A call was refused (ScopeError)" in caplog.text


def test_canaries_leave_no_entry_in_the_audit_log(database_url: str, root_key: LocalRootKey):
    with IsolatedMemory(database_url, root_key=root_key, audit=AuditOptions(reads=True)) as memory:
        memory.verify()

        entries = memory.audit.entries()

    assert [(one.operation, one.outcome) for one in entries] == [
        ("verify", "done"),
        ("verify", "begun"),
        ("audit_on", "done"),
    ]


def exchanged(kind: Kind, column: str = "sealed") -> str:
    """Two users' records of a kind, one in the other's place."""
    other = f"SELECT min(o.{column}) FROM records o WHERE o.kind = {int(kind)}"
    return (
        f"UPDATE records SET {column} = ({other} AND o.scope_id <> records.scope_id) "
        f"WHERE kind = {int(kind)}"
    )


ATTACKS: dict[str, tuple[str, str]] = {
    "a message of another user": (exchanged(Kind.MESSAGE), "records"),
    "a checkpoint of another user": (exchanged(Kind.CHECKPOINT), "records"),
    "an item of another user": (exchanged(Kind.ITEM), "records"),
    "a document of another user": (exchanged(Kind.DOCUMENT), "records"),
    "an entry of another user": (exchanged(Kind.ENTRY), "records"),
    "a message that is cut off": (f"DELETE FROM records WHERE kind = {Kind.MESSAGE}", "counts"),
    "an element that is cut off": (f"DELETE FROM records WHERE kind = {Kind.ELEMENT}", "counts"),
    "a document that is cut off": (f"DELETE FROM records WHERE kind = {Kind.DOCUMENT}", "counts"),
    "another count": ("UPDATE sessions SET count = count + 1", "records"),
    "another size": ("UPDATE records SET size = size + 1", "records"),
    "an unknown kind": (f"UPDATE records SET kind = 99 WHERE kind = {Kind.ITEM}", "records"),
    "a kind below all": (f"UPDATE records SET kind = -7 WHERE kind = {Kind.ITEM}", "records"),
    "a column of another kind": ("UPDATE records SET tag = sealed WHERE kind = 8", "records"),
    "a session's row removed": ("DELETE FROM sessions WHERE kind = 2", "records"),
    "another level": ("UPDATE scopes SET level = 2", "scopes"),
    "another's scope row": (
        "UPDATE scopes SET sealed = (SELECT o.sealed FROM scopes o WHERE o.mac <> scopes.mac)",
        "scopes",
    ),
    "a key that is retired": ("UPDATE keys SET state = 2 WHERE purpose = 3", "key sets"),
    "a key set removed": (
        "DELETE FROM key_sets WHERE principal NOT IN (SELECT installation_id FROM installation)",
        "key sets",
    ),
    "keys removed with their sets": ("DELETE FROM keys WHERE purpose > 1", "key sets"),
    "a scope removed, its rows left": ("DELETE FROM scopes", "orphans"),
    "a column more": ("ALTER TABLE records ADD COLUMN plain TEXT", "tables"),
}


@pytest.mark.parametrize(("attack", "check"), ATTACKS.values(), ids=[*ATTACKS])
def test_what_was_done_to_rows_is_found(
    memory: IsolatedMemory, attacker: Attacker, attack: str, check: str
):
    fill_two(memory)
    if not attacker.is_postgres:
        attacker("PRAGMA foreign_keys = OFF")
    attacker(attack)
    memory._keyring._cache.clear()

    report = memory.verify(read_only=True)

    assert check in found(report), found(report)
    assert not report.is_clean
    told = report.check(check).findings[0]
    assert "alice" not in str(report.as_dict())
    assert told.problem


def test_an_older_key_set_that_was_put_back_is_found(memory: IsolatedMemory, attacker: Attacker):
    """Behind a rotation: with the former keys, a whole set, nothing opens that was sealed anew."""
    tutor_of(memory, "alice").chat_history("s").add_user_message("Hi")
    tutor_of(memory, "bob").chat_history("s").add_user_message("Hi")
    kept = {table: attacker(f"SELECT * FROM {table}") for table in ("keys", "key_sets")}
    memory.rotate_keys("alice")
    for table, rows in kept.items():
        attacker(f"DELETE FROM {table}")
        for row in rows:
            attacker(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", *row)
    memory._keyring._cache.clear()

    report = memory.verify(read_only=True)

    assert not report.is_clean
    assert report.counts["message"] == 1


def test_a_models_name_of_another_user_is_found(memory: IsolatedMemory, attacker: Attacker):
    for user in ("alice", "bob"):
        answer = AIMessage(
            "yes",
            usage_metadata={"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
            response_metadata={"model_name": "small"},
        )
        tutor_of(memory, user).chat_history("s").add_messages([answer])
    assert memory.verify(read_only=True).counts["usage"] == 2
    attacker(
        "UPDATE usage SET sealed = (SELECT o.sealed FROM usage o WHERE o.sealed IS NOT NULL "
        "AND o.scope_id <> usage.scope_id) WHERE sealed IS NOT NULL"
    )

    assert found(memory.verify(read_only=True)).keys() == {"records"}


@pytest.mark.parametrize("left", ["wanted", "placed"])
def test_what_refers_to_a_record_that_is_not_there_is_found(left: str):
    """No attack gets here, which the multiset hash would not tell of: a writer's mistake would."""
    columns: list[Any] = [0] * len(ContainerState._fields)
    state = ContainerState(*columns)._replace(expires_at=None)
    tally = ContainerTally(Kind.THREAD, bytes(16), state)
    tally.check_references()
    setattr(tally, left, {1} if left == "wanted" else {bytes(16): 1})

    with pytest.raises(RecordDoesNotOpen):
        tally.check_references()


def test_one_scope_that_is_damaged_keeps_no_other_from_being_verified(
    memory: IsolatedMemory, attacker: Attacker
):
    for user in ("alice", "bob", "carol"):
        tutor_of(memory, user).chat_history("s").add_user_message("Hi")
    damaged = bytes.fromhex(tutor_of(memory, "bob").digest() or "")
    attacker("UPDATE records SET size = 1 WHERE scope_id = ?", damaged)

    report = memory.verify(read_only=True)

    assert (report.verified, found(report)) == (3, {"records": 1})
    assert report.check("records").findings[0].scope == damaged.hex()
    assert report.counts["message"] == 2


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_row_that_sqlite_cannot_read_keeps_no_other_scope_from_being_verified(
    memory: IsolatedMemory, attacker: Attacker
):
    for user in ("alice", "bob"):
        tutor_of(memory, user).chat_history("s").add_user_message("Hi")
    damaged = bytes.fromhex(tutor_of(memory, "bob").digest() or "")
    attacker("UPDATE records SET sealed = CAST(sealed AS TEXT) WHERE scope_id = ?", damaged)

    report = memory.verify(read_only=True)

    assert (report.counts["message"], found(report)) == (1, {"records": 1})
    assert report.check("records").findings[0].scope == damaged.hex()


def test_every_flaw_is_counted_and_the_first_are_told(memory: IsolatedMemory, attacker: Attacker):
    store = tutor_of(memory, "alice").store()
    for number in range(MOST_FINDINGS + 20):
        store.put(("facts",), str(number), {"n": number})
    attacker("UPDATE records SET size = 1")

    check = memory.verify(read_only=True).check("records")

    assert (check.found, len(check.findings)) == (MOST_FINDINGS + 20, MOST_FINDINGS)


def test_a_record_that_opens_elsewhere_is_found(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    """Planted: all scopes have one key, and nothing but the text is bound to it."""
    fill_two(memory)
    assert memory.verify(read_only=True).check("cross-opening").found == 0

    monkeypatch.setattr("langmem_isolated._storage.cross_opening.opens", lambda *_: True)

    assert found(memory.verify(read_only=True)).keys() == {"cross-opening"}


def test_who_was_erased_and_put_back_is_found(memory: IsolatedMemory, attacker: Attacker):
    tutor_of(memory, "alice").chat_history("s").add_user_message("Hi")
    tutor_of(memory, "bob").chat_history("s").add_user_message("Hi")
    tables = ("keys", "key_sets", "scopes", "sessions", "records")
    kept = {table: attacker(f"SELECT * FROM {table}") for table in tables}
    memory.erase_user("alice")
    assert memory.verify(read_only=True).is_clean
    for table, rows in kept.items():
        attacker(f"DELETE FROM {table}")
        for row in rows:
            attacker(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", *row)
    memory._keyring._cache.clear()

    report = memory.verify(read_only=True)

    assert found(report) == {"erasures": 1}
    assert report.check("erasures").findings[0].problem.endswith("is there again")


def test_rows_put_back_behind_an_erasure_are_found(memory: IsolatedMemory, attacker: Attacker):
    tutor_of(memory, "alice").chat_history("s").add_user_message("Hi")
    kept = {t: attacker(f"SELECT * FROM {t}") for t in ("scopes", "sessions", "records")}
    memory.erase_user("alice")
    for table, rows in kept.items():
        for row in rows:
            attacker(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", *row)

    assert found(memory.verify(read_only=True)) == {"scopes": 1}


def test_one_users_scopes_are_verified_and_tried_with_others_keys(
    memory: IsolatedMemory, attacker: Attacker
):
    fill_two(memory)
    fill(memory, memory.scope(user_id="alice", module_id="planner"), None)
    bob = bytes.fromhex(tutor_of(memory, "bob").digest() or "")
    attacker("UPDATE records SET size = 1 WHERE scope_id = ?", bob)

    report = memory.verify("alice", read_only=True)

    assert (report.subject, report.scopes, found(report)) == ("user", 2, {})
    assert report.cross_opening_attempts
    assert report.check("orphans").state == "not checked"
    assert not memory.verify("bob", read_only=True).is_clean


def test_a_sample_opens_so_many_scopes_and_says_what_that_proves(memory: IsolatedMemory):
    for number in range(20):
        tutor_of(memory, f"user {number}").store().put(("facts",), "one", {"n": number})

    report = memory.verify(sample=12, read_only=True)
    all_of_them = memory.verify(sample=30, read_only=True)

    assert (report.scopes, report.verified, report.counts["item"]) == (20, 12, 12)
    assert report.coverage == Coverage(12, 20)
    assert (all_of_them.verified, all_of_them.coverage) == (20, None)


def test_what_a_sample_proves_is_what_every_sample_of_that_size_would():
    """Counted out: of all samples of 3 of 8, how many have none of the damaged ones in them."""
    from itertools import combinations

    for damaged in range(6):
        samples = [*combinations(range(8), 3)]
        missed = sum(all(one >= damaged for one in sample) for sample in samples)
        assert Coverage(3, 8).chance_to_miss(damaged) == pytest.approx(missed / len(samples))
    assert Coverage(3, 8).at_most == 4
    assert Coverage(8, 8).at_most == 0
    assert Coverage(0, 8).at_most == 8
    # The rule of three.
    assert Coverage(300, 1_000_000).at_most == pytest.approx(10_000, rel=0.01)


# --- while others work


@pytest.mark.slow
def test_users_who_come_write_and_are_erased_meanwhile_make_no_finding(
    database_url: str, root_key: LocalRootKey, memory: IsolatedMemory
):
    def work() -> None:
        with IsolatedMemory(database_url, root_key=root_key) as other:
            for turn in range(40):
                for user in ("ann", "ben", "cem"):
                    scope = tutor_of(other, user)
                    history = scope.chat_history("s")
                    history.add_messages([HumanMessage(f"{turn}.{n}") for n in range(4)])
                    scope.store().put(("facts",), str(turn), {"n": turn})
                if turn % 5 == 4:
                    other.rotate_keys("cem")
                    other.erase_user("ann")

    fill_two(memory)
    workers = [Child(work)]
    looked = 0
    while not select.select([worker._read for worker in workers], [], [], 0)[0] or not looked:
        report = memory.verify(read_only=looked % 4 != 3)
        assert found(report) == {}, report.as_dict()
        looked += 1
    for worker in workers:
        worker.result()
    assert looked > 2


def test_two_verifications_at_once_find_nothing_of_each_other(memory: IsolatedMemory):
    fill_two(memory)
    reports: list[VerificationReport] = []
    threads = [threading.Thread(target=lambda: reports.append(memory.verify())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [found(report) for report in reports] == [{}, {}]


# --- canaries


def kill_yourself(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_canaries_of_a_run_that_was_killed_are_removed_by_the_next(
    memory: IsolatedMemory,
    attacker: Attacker,
    monkeypatch: pytest.MonkeyPatch,
    database_url: str,
    root_key: LocalRootKey,
):
    def verify() -> None:
        deadly = ADAPTERS[3]._replace(write=kill_yourself)
        canaries.ADAPTERS = (*ADAPTERS[:3], deadly)
        with IsolatedMemory(database_url, root_key=root_key) as other:
            other.verify()

    with pytest.raises(AssertionError, match="without a word"):
        Child(verify).result()
    scopes = attacker("SELECT count(*) FROM scopes")[0][0]
    assert scopes == 4
    young = memory.verify()
    assert attacker("SELECT count(*) FROM scopes")[0][0] == scopes

    monkeypatch.setattr(canary_places, "ABANDONED", -60_000_000)
    old = memory.verify()

    assert (found(young), found(old), young.scopes) == ({}, {}, 0)
    assert attacker("SELECT count(*) FROM scopes") == [(0,)]
    assert attacker("SELECT count(DISTINCT principal) FROM keys") == [(1,)]


def test_a_project_that_is_only_called_like_canaries_is_nobodys_to_remove(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    """Without the root key nobody can give a project such an id: here somebody tries."""
    project = f"langmem_isolated canaries {'0' * 32} {'0' * 32}"
    scope = memory.scope(user_id="alice", module_id="tutor", project_id=project)
    scope.chat_history("s").add_user_message("Hi")
    monkeypatch.setattr(canary_places, "ABANDONED", -60_000_000)

    report = memory.verify()

    assert (report.is_clean, report.scopes) == (True, 1)
    assert scope.chat_history("s").count() == 1


@pytest.mark.parametrize(
    "adapter", [one.name for one in ADAPTERS if one.write.__name__[1:] != "nothing"]
)
def test_a_leak_through_any_adapter_is_seen(
    root_key: LocalRootKey, adapter: str, monkeypatch: pytest.MonkeyPatch
):
    """Planted: what one looks at is another's place, as if the adapter had lost its scope."""
    [of] = [one for one in ADAPTERS if one.name == adapter]
    first: list[Any] = []

    def look(place: Any) -> object:
        first.append(place)
        return of.look(first[0])

    tally = Tally()
    leaking = of._replace(look=look)
    if of.is_readable is canary_adapters.of_nobody:
        leaking = of._replace(write=canary_adapters._say)
    monkeypatch.setattr("langmem_isolated.lifecycle.verification.canaries.ADAPTERS", (leaking,))

    with IsolatedMemory("sqlite://", root_key=root_key) as memory:
        Canaries(memory, memory._context, tally).fly()

    problems = {one.problem for one in tally.as_check("canaries").findings}
    assert "what one scope wrote was seen in another" in problems


def test_every_adapter_has_a_canary_or_is_left_out_for_a_reason():
    assert WRITING_ADAPTERS.keys() == {
        name for name in WRITING_ADAPTERS if name in {one.name for one in ADAPTERS} | {*LEFT_OUT}
    }


TABLES = {
    "installation": "opened first, and refused if it is another's",
    "keys": "key sets",
    "key_sets": "key sets",
    "scopes": "scopes",
    "key_uses": "orphans; its numbers are authenticated by nothing",
    "usage": "orphans, and names of models; its numbers are authenticated by nothing",
    "sessions": "records, counts, references",
    "records": "records, counts, references",
    "tombstones": "erasures",
    "erasures": "erasures",
    "audit": "audit log",
    "audit_chains": "audit log",
}


def test_every_table_is_in_a_check_or_is_left_out_for_a_reason():
    assert TABLES.keys() == schema.metadata.tables.keys()


def test_every_promise_is_spoken_to_or_cannot_be_verified_on_what_is_stored():
    spoken_to = {number for check in CHECKS for number in check.promises}

    # Sync and async agree, and cost follows what is new: of the code, not of a database.
    assert {*range(9)} - spoken_to == {6, 8}


# --- arguments


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"sample": 0}, ValueError),
        ({"sample": "all"}, TypeError),
        ({"read_only": "yes"}, TypeError),
        ({"progress": 3}, TypeError),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_arguments_that_say_nothing_are_refused(
    memory: IsolatedMemory, arguments: dict[str, Any], error: type[Exception]
):
    with pytest.raises(error):
        memory.verify(**arguments)


def test_progress_is_told_of_every_scope_and_may_end_the_walk(memory: IsolatedMemory):
    fill_two(memory)
    done: list[int] = []
    memory.verify(progress=done.append, read_only=True)
    assert done == [1, 2]

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memory.verify(progress=stop, read_only=True)


def test_another_root_key_is_told_and_not_taken_for_damage(
    database_url: str, memory: IsolatedMemory
):
    fill_two(memory)

    other = IsolatedMemory(database_url, root_key=LocalRootKey(bytes(32)))
    with pytest.raises(KeyringError):
        other.verify()
    other.close()


# --- third-party stores


def elsewhere(memory: IsolatedMemory, *, seal: bool) -> InMemoryVectorStore:
    """A shared store with a document of each of two users."""
    shared = InMemoryVectorStore(canary_adapters.Everywhere())
    memory.erasure.include(shared)
    for user in ("alice", "bob"):
        store = tutor_of(memory, user).vector_store(wrapping=shared, seal=seal)
        store.add_texts([f"of {user}"], ids=["note"])
    return shared


@pytest.mark.parametrize("seal", [False, True])
def test_documents_in_a_third_party_store_are_opened_under_their_own_scope(
    memory: IsolatedMemory, seal: bool
):
    elsewhere(memory, seal=seal)

    check = memory.verify(read_only=True).check("wrapped stores")

    assert (check.examined, check.found, check.not_checked) == (2, 0, None)


@pytest.mark.parametrize("seal", [False, True])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_was_done_to_documents_elsewhere_is_found(memory: IsolatedMemory, seal: bool):
    rows = elsewhere(memory, seal=seal).store
    first, second = rows.values()
    first["text"], second["text"] = second["text"], first["text"]
    rows["loose"] = {"id": "loose", "vector": [1.0] * 4, "text": "nobody's", "metadata": {}}

    check = memory.verify(read_only=True).check("wrapped stores")

    assert (check.found, check.examined) == (3, 2)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_however_many_documents_a_scope_has_elsewhere_the_last_is_looked_at(
    memory: IsolatedMemory,
):
    shared, many = elsewhere(memory, seal=False), 10_000
    store = tutor_of(memory, "alice").vector_store(wrapping=shared)
    store.add_texts([f"of alice {number}" for number in range(many)])
    shared.store[[*shared.store][-1]]["text"] = "of somebody else"

    check = memory.verify(read_only=True).check("wrapped stores")

    assert (check.found, check.examined) == (1, many + 2)


@pytest.mark.parametrize("seal", [False, True])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_copy_of_a_document_under_another_id_is_found(memory: IsolatedMemory, seal: bool):
    rows = elsewhere(memory, seal=seal).store
    other = str(uuid.uuid4())
    rows[other] = {**next(iter(rows.values())), "id": other}

    check = memory.verify(read_only=True).check("wrapped stores")

    assert (check.found, check.examined) == (1, 3)


def test_documents_of_who_was_erased_and_that_are_there_again_are_found(memory: IsolatedMemory):
    shared = elsewhere(memory, seal=True)
    kept = {**shared.store}
    memory.erase_user("alice")
    assert memory.verify(read_only=True).is_clean
    shared.store |= kept

    check = memory.verify(read_only=True).check("wrapped stores")

    assert (check.examined, check.found) == (1, 1)
    assert check.findings[0].problem.startswith("documents bear the mark of nobody")


def test_a_store_that_this_process_does_not_have_is_not_checked_and_told(
    memory: IsolatedMemory, database_url: str, root_key: LocalRootKey
):
    elsewhere(memory, seal=False)

    with IsolatedMemory(database_url, root_key=root_key) as other:
        check = other.verify(read_only=True).check("wrapped stores")

    assert check.state == "not checked"
    assert check.not_checked
    assert check.not_checked.startswith("1 stores")


# --- locked users, the audit log, row-level security


def test_a_locked_user_is_counted_and_not_opened(memory: IsolatedMemory, attacker: Attacker):
    fill_two(memory)
    memory.lock_with("alice", secret=bytes(range(32)))
    tutor_of(memory, "alice").chat_history("s").add_user_message("Waits in the inbox")

    report = memory.verify(read_only=True)
    own = memory.verify("alice", read_only=True)

    # The user's own scope has nothing in it that could be opened.
    assert (found(report), report.locked, report.verified) == ({}, 1, 2)
    assert (found(own), own.locked, own.verified) == ({}, 1, 1)
    assert own.counts["message"] == 2
    attacker(f"DELETE FROM records WHERE kind = {Kind.MESSAGE}")
    assert found(memory.verify("alice", read_only=True)) == {"counts": 1}
    attacker(f"UPDATE records SET size = 1 WHERE kind = {Kind.INBOX}")
    assert found(memory.verify("alice", read_only=True)) == {"records": 1, "counts": 1}


def test_a_user_who_has_unlocked_is_opened_as_any_other(memory: IsolatedMemory):
    fill_two(memory)
    memory.lock_with("alice", secret=bytes(range(32)))
    memory.unlock("alice", secret=bytes(range(32)), seconds=600)

    report = memory.verify(read_only=True)

    assert (found(report), report.locked, report.verified) == ({}, 0, 3)


def test_the_audit_log_is_verified_where_there_is_one(
    database_url: str, root_key: LocalRootKey, attacker: Attacker
):
    with IsolatedMemory(database_url, root_key=root_key, audit=AuditOptions()) as memory:
        fill_two(memory)
        report = memory.verify()
        assert (found(report), report.check("audit log").state) == ({}, "ok")
        assert report.check("audit log").examined
        attacker("UPDATE audit SET created_at = created_at + 1")

        assert found(memory.verify(read_only=True)) == {"audit log": 1}


def test_row_level_security_that_was_taken_off_a_table_is_found(
    postgres: PostgresServer, root_key: LocalRootKey
):
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE verified")
    make_bound(postgres, "verified")
    url, jobs_url = (postgres.url("verified", role) for role in (ROLES.application, ROLES.sweeper))
    with IsolatedMemory(url, root_key=root_key, jobs_url=jobs_url) as memory:
        tutor_of(memory, "alice").chat_history("s").add_user_message("Hi")
        report = memory.verify()
        assert (found(report), report.check("row-level security").state) == ({}, "ok")
        with psycopg.connect(postgres.url("verified"), autocommit=True) as connection:
            connection.execute("ALTER TABLE langmem_isolated.records DISABLE ROW LEVEL SECURITY")

        # Also a query without a scope is not refused any more.
        assert found(memory.verify(read_only=True)) == {"row-level security": 2}
