"""Erasure jobs: killed anywhere they go on, count each row once, and ask who is outside again."""

import asyncio
import hashlib
import json
import multiprocessing
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.store.base import PutOp

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage import scope_rows
from langmem_isolated._storage.erased import Asked, Erased
from langmem_isolated._storage.erasure_jobs import ErasureJob, ErasureJobs, sealed_job
from langmem_isolated._storage.key_sets import KeySets
from langmem_isolated.errors import (
    AnonymousNotFound,
    DatabaseLocked,
    KeyDestroyed,
    LegalHold,
    RecordDoesNotOpen,
    ScopeError,
)
from langmem_isolated.lifecycle import ErasureReceipt, ErasureSubject
from langmem_isolated.lifecycle.erasure.run import ErasureRunner
from tests.command_line import run
from tests.conftest import Attacker, Door
from tests.test_erasure import principal_of, said, write_until_refused
from tests.test_inventory import embeddings, fill, operate

VECTORS = Path(__file__).parent / "vectors"


class Killed(BaseException):
    """The process ends here."""


class Outside:
    """A system of the application's that keeps something of users."""

    def __init__(self, *users: str, fails: int = 0) -> None:
        self.users, self.fails, self.asked = {*users}, fails, list[ErasureSubject]()

    def erase(self, subject: ErasureSubject) -> None:
        self.asked.append(subject)
        if self.fails:
            self.fails -= 1
            raise ConnectionError("alice is not reached")
        self.users.discard(subject.user_id or "")

    def is_empty(self, subject: ErasureSubject) -> bool:
        return subject.user_id not in self.users


def say(memory: IsolatedMemory, user: str = "alice", module: str = "tutor", **more: str) -> None:
    scope = memory.scope(user_id=user, module_id=module, **more)
    scope.chat_history("s").add_user_message("a secret")


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The process ends before or behind a statement, commit or change of keys, by its number."""
    steps = [0]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            steps[0] += 1
            if steps[0] == step:
                raise Killed
            done = real(*args, **kwargs)
            steps[0] += 1
            if steps[0] == step:
                raise Killed
            return done

        return called

    with monkeypatch.context() as patched:
        patched.setattr(Transaction, "_query", counted(Transaction._query))
        patched.setattr(KeySets, "swap", counted(KeySets.swap))
        yield steps


def raw_count(attacker: Attacker, principal: bytes) -> Counter[str]:
    """What the tables have of a principal, by the words for kinds; ``scope`` and ``key`` too."""
    found = Counter[str]()
    of_them = "WHERE scope_id IN (SELECT scope_id FROM scopes WHERE principal = ?) GROUP BY kind"
    for table in ("records", "sessions"):
        rows = attacker(f"SELECT kind, count(*) FROM {table} {of_them}", principal)
        found.update({Kind(kind).label: count for kind, count in rows})
    for name, query in (
        ("scope", "SELECT count(*) FROM scopes WHERE principal = ?"),
        ("key", "SELECT count(*) FROM keys WHERE principal = ? AND wrapped IS NOT NULL"),
    ):
        found[name] = attacker(query, principal)[0][0]
    return +found


def told_by(receipt: ErasureReceipt) -> Counter[str]:
    """The same, as a receipt says it."""
    return +Counter({**receipt.counts, "scope": receipt.scopes, "key": receipt.keys_destroyed})


# --- crashes


@pytest.mark.parametrize("part", range(4))
def test_killed_anywhere_and_called_again_the_receipt_is_a_count_taken_before(
    part: int, memory: IsolatedMemory, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
):
    """25 runs each, on both databases; the next one is killed anywhere in the former's rest."""
    seeded, killed, known = random.Random(part), 0, 0
    crm = Outside()
    memory.erasure.register("crm", crm.erase, crm.is_empty)
    for _ in range(25):
        small(memory)
        crm.users.add("alice")
        principal = principal_of(memory, "alice")
        before = raw_count(attacker, principal)
        for step in (seeded.randint(1, 150), seeded.randint(1, 100)):
            try:
                with killed_at(step, monkeypatch):
                    memory.erase_user("alice")
            except Killed:
                killed += 1
        if not memory.erasure.resume() and raw_count(attacker, principal):
            memory.erase_user("alice")

        # Behind the end of the first, the second had nothing to do but to ask again.
        receipts, known = memory.erasure.receipts()[known:], len(memory.erasure.receipts())
        assert sum(map(told_by, receipts), Counter()) == before
        assert len([receipt for receipt in receipts if receipt.scopes]) == 1
        assert raw_count(attacker, principal) == Counter()
        assert all(receipt.participants == {"crm": "confirmed"} for receipt in receipts)
        assert crm.users == set()
        assert memory.erasure.pending() == []
    assert killed >= 25


def small(memory: IsolatedMemory) -> None:
    """Two modules, one with several kinds."""
    say(memory, module="planner")
    tutor = memory.scope(user_id="alice", module_id="tutor")
    tutor.chat_history("s").add_messages([HumanMessage("one"), HumanMessage("two")])
    tutor.store().put(("facts",), "one", {"text": "a secret"})
    tutor.profile().add_fact("a secret")


def test_the_receipt_of_every_kind_is_a_count_of_the_tables(
    memory: IsolatedMemory, attacker: Attacker
):
    fill(memory, memory.scope(user_id="alice", module_id="tutor"), None)
    operate(memory, None)
    before = raw_count(attacker, principal_of(memory, "alice"))

    assert told_by(memory.erase_user("alice")) == before


def test_a_batch_is_counted_in_the_transaction_that_removes_it(
    memory: IsolatedMemory, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
):
    """Undone together: a counter in memory would say 1,200 more."""
    alice = memory.scope(user_id="alice", module_id="tutor")
    alice.chat_history("s").add_messages([HumanMessage("m")] * 1_200)
    principal = principal_of(memory, "alice")
    store = ErasureJobs._store

    def full_once(jobs: ErasureJobs, transaction: Transaction, job: ErasureJob) -> None:
        store(jobs, transaction, job)
        if job.erased.counts.get(Kind.MESSAGE) == 1_000:
            monkeypatch.setattr(ErasureJobs, "_store", store)
            raise Killed

    monkeypatch.setattr(ErasureJobs, "_store", full_once)
    with pytest.raises(Killed):
        memory.erase_user("alice")
    assert memory.erasure.pending()[0].counts == {"message": 500}
    assert raw_count(attacker, principal)["message"] == 700

    (receipt,) = memory.erasure.resume()
    assert receipt.counts == {"session": 1, "message": 1_200}


# --- at once


def test_two_who_erase_at_once_count_nothing_twice(memory: IsolatedMemory, attacker: Attacker):
    alice = memory.scope(user_id="alice", module_id="tutor")
    alice.chat_history("s").add_messages([HumanMessage("m")] * 3_000)
    before = raw_count(attacker, principal_of(memory, "alice"))
    start, receipts = threading.Barrier(3), list[ErasureReceipt]()

    def erase() -> None:
        start.wait()
        receipts.append(memory.erase_user("alice"))

    threads = [threading.Thread(target=erase) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(receipts) == 3
    (stored,) = [one for one in memory.erasure.receipts() if one.scopes]
    assert told_by(stored) == before
    assert all(told_by(one) in (before, Counter()) for one in receipts)


def test_one_that_somebody_else_finishes_meanwhile_gives_the_receipt_of_it(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    """At each step at which this one looks at the job."""
    begin, counting = ErasureJobs.begin, ErasureJobs.counting

    def overtaken(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            done = real(*args, **kwargs)
            monkeypatch.setattr(ErasureJobs, "begin", begin)
            monkeypatch.setattr(ErasureJobs, "counting", counting)
            assert memory.erase_user("alice").is_finished
            return done

        return called

    for name, real in (("begin", begin), ("counting", counting)):
        say(memory)
        monkeypatch.setattr(ErasureJobs, name, overtaken(real))
        receipt = memory.erase_user("alice")

        assert receipt.is_finished
        assert receipt.counts == {"session": 1, "message": 1}
    assert len(memory.erasure.receipts()) == 2


def test_writers_readers_and_searchers_here_and_in_other_processes_leave_nothing(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    spawned = multiprocessing.get_context("spawn")
    begun = [spawned.Event() for _ in range(2)]
    processes = [
        spawned.Process(target=target, args=(database_url, bytes(range(32)), event))
        for target, event in zip((write_until_refused, search_until_gone), begun, strict=True)
    ]
    alice = memory.scope(user_id="alice", module_id="tutor")
    alice.chat_history("s").add_messages([HumanMessage("a secret")] * 600)
    for process in processes:
        process.start()
    is_over, refused = threading.Event(), list[type[Exception]]()

    def work(number: int) -> None:
        scope = alice if number % 2 else alice.module(f"m{number}")
        while not is_over.is_set():
            try:
                scope.chat_history("s").add_user_message("more")
                scope.recall("more")
                len(scope.chat_history("s").messages)
            except DatabaseLocked:
                continue
            except Exception as error:  # noqa: BLE001 - looked at below
                refused.append(type(error))
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    assert all(event.wait(60) for event in begun)
    principal = principal_of(memory, "alice")

    receipt = memory.erase_user("alice")
    for worker in (*threads, *processes):
        worker.join(60)
    is_over.set()

    assert {*refused} == {KeyDestroyed}
    assert [process.exitcode for process in processes] == [0, 0]
    assert raw_count(attacker, principal) == Counter()
    assert receipt.counts["message"] > 600
    assert memory.erasure.pending() == []


def search_until_gone(url: str, key: bytes, is_begun: "multiprocessing.synchronize.Event") -> None:
    with IsolatedMemory(url, root_key=LocalRootKey(key)) as memory:
        alice = memory.scope(user_id="alice", module_id="tutor")
        with suppress(KeyDestroyed):
            while alice.recall("secret"):
                is_begun.set()


# --- participants


async def test_a_participant_that_fails_twice_and_then_works_is_asked_until_it_confirms(
    memory: IsolatedMemory, door: Door, attacker: Attacker
):
    say(memory)
    crm = Outside("alice", fails=2)
    memory.erasure.register("crm", crm.erase, crm.is_empty)
    principal = principal_of(memory, "alice")

    first = await door(memory, "erase_user", "alice")
    assert (first.is_finished, first.participants) == (False, {"crm": "requested"})
    assert first.participant_errors == {"crm": "ConnectionError"}
    assert raw_count(attacker, principal) == Counter()
    assert "crm" in " ".join(first.does_not_prove)
    assert memory.erasure.receipts() == []

    (second,) = await door(memory.erasure, "resume")
    assert not second.is_finished
    (pending,) = await door(memory.erasure, "pending")
    assert (pending.what, pending.subject.user_id) == ("user", "alice")
    assert "alice" not in repr(pending)

    (third,) = await door(memory.erasure, "resume")
    assert (third.is_finished, third.participants) == (True, {"crm": "confirmed"})
    assert third.counts == {"session": 1, "message": 1}
    assert [subject.user_id for subject in crm.asked] == ["alice"] * 3
    assert (await door(memory.erasure, "receipts"))[0].participants == {"crm": "confirmed"}


def test_that_a_participant_is_asked_is_stored_before_it_is(memory: IsolatedMemory):
    say(memory)

    def ends(_: ErasureSubject) -> None:
        raise Killed

    memory.erasure.register("crm", ends, lambda _: True)
    with pytest.raises(Killed):
        memory.erase_user("alice")

    (pending,) = memory.erasure.pending()
    assert pending.participants == {"crm": "requested"}
    assert said(memory.scope(user_id="alice", module_id="tutor")) == ["a secret"]


def test_one_that_this_process_does_not_know_stays_unconfirmed_and_is_named(
    memory: IsolatedMemory, database_url: str, root_key: LocalRootKey
):
    say(memory)
    crm = Outside("alice", fails=9)
    memory.erasure.register("crm", crm.erase, crm.is_empty)
    memory.erase_user("alice")

    with IsolatedMemory(database_url, root_key=root_key) as other:
        (receipt,) = other.erasure.resume()
        assert (receipt.is_finished, receipt.participants) == (False, {"crm": "requested"})
        other.erasure.register("crm", lambda _: None, lambda _: True)
        (receipt,) = other.erasure.resume()

    assert (receipt.is_finished, receipt.counts) == (True, {"session": 1, "message": 1})


def test_what_comes_to_a_participant_meanwhile_is_no_confirmation(memory: IsolatedMemory):
    """It is asked again at the end: a worker may have brought something from a queue."""
    say(memory)
    answers = iter([True, False, True, True])
    memory.erasure.register("crm", lambda _: None, lambda _: next(answers))

    assert memory.erase_user("alice").participants == {"crm": "requested"}
    assert memory.erasure.resume()[0].participants == {"crm": "confirmed"}


@pytest.mark.parametrize("answer", [None, 1, "yes", False])
def test_only_true_is_a_confirmation(memory: IsolatedMemory, answer: object):
    memory.erasure.register("crm", lambda _: None, lambda _: answer)  # type: ignore[arg-type,return-value]

    assert memory.erase_user("alice").participants == {"crm": "requested"}


def test_a_participant_is_asked_for_one_of_whom_nothing_is_here(memory: IsolatedMemory):
    crm = Outside("alice")
    memory.erasure.register("crm", crm.erase, crm.is_empty)

    receipt = memory.erase_user("alice")

    assert (receipt.participants, receipt.keys_destroyed) == ({"crm": "confirmed"}, 0)
    assert crm.users == set()


async def erase_later(subject: ErasureSubject) -> None:
    """Of which nobody would await the answer."""


class ErasesLater:
    async def __call__(self, subject: ErasureSubject) -> None:
        pass


@pytest.mark.parametrize("function", [erase_later, ErasesLater(), None, "crm"])
def test_what_would_have_to_be_awaited_is_refused(memory: IsolatedMemory, function: Any):
    with pytest.raises(TypeError, match="must be a function, called without await"):
        memory.erasure.register("crm", function, lambda _: True)
    with pytest.raises(TypeError, match="must be a function, called without await"):
        memory.erasure.register("crm", lambda _: None, function)


@pytest.mark.filterwarnings("error")
def test_a_coroutine_that_comes_back_is_no_confirmation(memory: IsolatedMemory):
    memory.erasure.register("crm", lambda one: [erase_later(one)][0], lambda _: True)

    receipt = memory.erase_user("alice")

    assert receipt.participants == {"crm": "requested"}


@pytest.mark.parametrize(("name", "error"), [("", ValueError), ("a\n", ValueError), (7, TypeError)])
def test_a_participant_has_a_name(memory: IsolatedMemory, name: Any, error: type[Exception]):
    with pytest.raises(error, match="name must"):
        memory.erasure.register(name, lambda _: None, lambda _: True)


def test_what_a_participant_raises_is_told_by_its_class_alone(memory: IsolatedMemory):
    say(memory)
    crm = Outside("alice", fails=1)
    memory.erasure.register("crm", crm.erase, crm.is_empty)
    memory.erasure.register("mail", lambda _: None, lambda _: bool(1 / 0))

    receipt = memory.erase_user("alice")

    assert receipt.participant_errors == {"crm": "ConnectionError", "mail": "ZeroDivisionError"}
    for text in (receipt.to_json(), str(receipt)):
        assert "alice" not in text


# --- what is stored


def test_a_finished_job_says_nothing_of_whose_it_was(memory: IsolatedMemory):
    say(memory)
    crm = Outside("alice", fails=1)
    memory.erasure.register("crm", crm.erase, crm.is_empty)
    memory.erase_user("alice")
    jobs = ErasureJobs(memory._database, memory._keyring.lives().directory)

    (begun,) = jobs.unfinished()
    assert b"alice" in begun.erased.encoded()
    memory.erasure.resume()
    (finished,) = jobs.finished()
    assert b"alice" not in finished.erased.encoded()


def test_a_job_that_was_changed_or_moved_is_refused(memory: IsolatedMemory, attacker: Attacker):
    crm = Outside("alice", "bob", fails=99)
    memory.erasure.register("crm", crm.erase, crm.is_empty)
    for user in ("alice", "bob"):
        say(memory, user)
        memory.erase_user(user)
    (of_alice,), (of_bob,) = attacker("SELECT sealed FROM erasures ORDER BY began_at")
    at_alice = "WHERE began_at = (SELECT min(began_at) FROM erasures)"

    for tampering, undone in (
        ("incarnation = incarnation + 1", "incarnation = incarnation - 1"),
        ("finished_at = 7", "finished_at = NULL"),
        ("began_at = began_at - 1", "began_at = began_at + 1"),
    ):
        attacker(f"UPDATE erasures SET {tampering} {at_alice}")
        with pytest.raises(RecordDoesNotOpen):
            read_all(memory)
        attacker(f"UPDATE erasures SET {undone} {at_alice}")
    attacker(f"UPDATE erasures SET sealed = ? {at_alice}", of_bob)
    with pytest.raises(RecordDoesNotOpen):
        memory.erase_user("alice")
    attacker(f"UPDATE erasures SET sealed = ? {at_alice}", of_alice)
    assert len(memory.erasure.resume()) == 2


def test_a_job_that_does_not_open_stops_no_other(memory: IsolatedMemory, attacker: Attacker):
    crm = Outside("alice", "bob", fails=2)
    memory.erasure.register("crm", crm.erase, crm.is_empty)
    for user in ("alice", "bob"):
        say(memory, user)
        memory.erase_user(user)
    attacker(
        "UPDATE erasures SET sealed = ? WHERE began_at = (SELECT min(began_at) FROM erasures)",
        b"of nobody",
    )

    with pytest.raises(RecordDoesNotOpen):
        memory.erasure.resume()

    assert [one.participants for one in memory.erasure.receipts()] == [{"crm": "confirmed"}]
    assert crm.users == {"alice"}


def read_all(memory: IsolatedMemory) -> None:
    memory.erasure.receipts()
    memory.erasure.resume()


def test_a_frozen_job_opens():
    vector = json.loads((VECTORS / "erasure_v1.json").read_text())
    directory = DirectoryKey(SecretBytes(bytes.fromhex(vector["directory_key"])))
    job = frozen_job()

    sealed = sealed_job(directory, job, nonce=bytes.fromhex(vector["nonce"]))
    assert job.erased.encoded().hex() == vector["plaintext"]
    assert sealed.hex() == vector["sealed"]
    assert Erased.decoded(bytes.fromhex(vector["plaintext"])) == job.erased


def frozen_job() -> ErasureJob:
    return ErasureJob(
        bytes(range(16)), 3, 1_700_000_000_000_000, None,
        Erased(
            what="user", until=1_700_000_000_000_000, hash_before="ab" * 32,
            owner=Owner(Level.USER, "default", "alice"),
            keys=2, root_key_ids=frozenset({"local:1"}),
            scopes=1, counts={Kind.SESSION: 1, Kind.MESSAGE: 2},
            participants={"crm": Asked(1_700_000_000_000_001, None, "ConnectionError")},
            stores={"docs": 4}, tags={"docs": ["tag"]}, without=("more",),
        ),
    )  # fmt: skip


@pytest.mark.parametrize("plaintext", [b"\x02{}", b"", b"\x01{}"])
def test_a_form_that_is_not_known_is_refused(plaintext: bytes):
    with pytest.raises(RecordDoesNotOpen, match="form is unknown"):
        Erased.decoded(plaintext)


# --- lives


def test_whoever_came_back_keeps_what_is_new_when_the_former_erasure_goes_on(
    memory: IsolatedMemory,
):
    crm = Outside("alice", fails=1)
    memory.erasure.register("crm", crm.erase, lambda _: not crm.fails)
    say(memory)
    crm.fails = 2
    memory.erase_user("alice")
    say(memory)

    receipts = memory.erasure.resume()

    assert [one.counts for one in receipts] == [{"session": 1, "message": 1}]
    assert said(memory.scope(user_id="alice", module_id="tutor")) == ["a secret"]
    assert memory.erase_user("alice").counts == {"session": 1, "message": 1}


def test_a_hold_that_was_placed_before_anything_was_destroyed_keeps_it(memory: IsolatedMemory):
    say(memory)

    def ends(_: ErasureSubject) -> None:
        raise Killed

    memory.erasure.register("crm", ends, lambda _: True)
    with pytest.raises(Killed):
        memory.erase_user("alice")
    memory.retention.hold("alice", reason="case 7", by="counsel")
    memory.erasure.register("crm", lambda _: None, lambda _: True)

    with pytest.raises(LegalHold):
        memory.erasure.resume()
    assert said(memory.scope(user_id="alice", module_id="tutor")) == ["a secret"]
    memory.retention.release("alice")
    assert memory.erasure.resume()[0].is_finished


def test_a_hold_that_is_placed_while_others_are_asked_keeps_the_memory(memory: IsolatedMemory):
    say(memory)
    place = partial(memory.retention.hold, "alice", reason="case 7", by="counsel")
    memory.erasure.register("crm", lambda _: place(), lambda _: True)

    with pytest.raises(LegalHold):
        memory.erase_user("alice")

    assert said(memory.scope(user_id="alice", module_id="tutor")) == ["a secret"]
    assert [hold.user_id for hold in memory.retention.holds()] == ["alice"]


def test_a_hold_that_is_placed_when_keys_are_destroyed_is_kept_for_who_comes_back(
    memory: IsolatedMemory,
):
    say(memory)
    place = partial(memory.retention.hold, "alice", reason="case 7", by="counsel")

    memory.erase_user("alice", progress=lambda _: place())

    assert [hold.user_id for hold in memory.retention.holds()] == ["alice"]
    say(memory)
    with pytest.raises(LegalHold):
        memory.erase_user("alice")


# --- guests, modules, projects


def count_of(attacker: Attacker, table: str) -> int:
    count: int = attacker(f"SELECT count(*) FROM {table}")[0][0]
    return count


async def test_a_guest_is_erased_with_all_that_names_it(
    memory: IsolatedMemory, attacker: Attacker, door: Door
):
    guest = memory.anonymous(module_id="tutor")
    guest.chat_history("s").add_user_message("a secret")
    other = memory.anonymous(module_id="tutor")
    keys = count_of(attacker, "keys")

    receipt = await door(memory, "erase_guest", guest.id)

    assert (receipt.what, receipt.keys_destroyed, receipt.scopes) == ("guest", 2, 1)
    assert receipt.counts == {"session": 1, "message": 1, "claim": 1}
    assert count_of(attacker, "keys") == keys - 2
    assert memory.recover(other.id)
    assert memory.erase_guest(guest.id).counts == {}


async def test_a_module_is_erased_for_everybody_and_other_modules_stay(
    memory: IsolatedMemory, attacker: Attacker, door: Door
):
    for user in ("alice", "bob"):
        say(memory, user)
        say(memory, user, "planner")
    say(memory, "alice", project_id="other")
    guest = memory.anonymous(module_id="tutor")
    there = memory.anonymous(module_id="planner")
    publisher = memory.publisher(module_id="tutor")
    publisher.vector_store(embeddings()).add_texts(["a rule"])
    former = memory.scope(user_id="bob", module_id="tutor")
    assert said(former) == ["a secret"]

    receipt = await door(memory, "erase_module", "tutor")

    assert (receipt.what, receipt.scopes, receipt.horizon) == ("module", 4, "open")
    assert receipt.counts["message"] == 2
    assert receipt.counts["document"] == 1
    # The module's own, and the guest's.
    assert receipt.keys_destroyed == 4
    assert "Keys of users live on" in str(receipt)
    assert memory.modules("alice") == memory.modules("bob") == ["planner"]
    with pytest.raises(KeyDestroyed):
        former.chat_history("s").add_user_message("of the former life")
    for user in ("alice", "bob"):
        assert said(memory.scope(user_id=user, module_id="planner")) == ["a secret"]
        assert said(memory.scope(user_id=user, module_id="tutor")) == []
    elsewhere = memory.scope(user_id="alice", module_id="tutor", project_id="other")
    assert said(elsewhere) == ["a secret"]
    assert memory.recover(there.id)
    assert not guest_is_there(memory, guest.id)
    say(memory)
    assert said(memory.scope(user_id="alice", module_id="tutor")) == ["a secret"]


def guest_is_there(memory: IsolatedMemory, anonymous_id: str) -> bool:
    with suppress(AnonymousNotFound):
        memory.recover(anonymous_id)
        return True
    return False


async def test_a_project_is_erased_with_all_principals_and_others_stay(
    memory: IsolatedMemory, attacker: Attacker, door: Door
):
    for project in ("default", "other"):
        for user in ("alice", "bob"):
            say(memory, user, project_id=project)
            say(memory, user, "planner", project_id=project)
        memory.anonymous(module_id="tutor", project_id=project)
        memory.retention.keep("message", days=9, project_id=project)
        publisher = memory.publisher(module_id="tutor", project_id=project)
        publisher.vector_store(embeddings()).add_texts(["a rule"])
    scopes, records = count_of(attacker, "scopes"), count_of(attacker, "records")
    living = "keys WHERE wrapped IS NOT NULL AND purpose IN (2, 3)"
    keys = count_of(attacker, living)

    receipt = await door(memory, "erase_project", "other")

    assert (receipt.what, receipt.scopes) == ("project", scopes / 2)
    assert count_of(attacker, "scopes") == scopes / 2
    assert count_of(attacker, "records") == records / 2
    assert (receipt.keys_destroyed, count_of(attacker, living)) == (keys / 2, keys / 2)
    assert said(memory.scope(user_id="alice", module_id="tutor")) == ["a secret"]
    again = memory.erase_project("other")
    assert (again.counts, again.scopes, again.keys_destroyed) == ({}, 0, 0)


@pytest.mark.parametrize("what", ["module", "project"])
def test_whoever_is_on_hold_keeps_a_module_and_a_project(memory: IsolatedMemory, what: str):
    for user in ("alice", "bob"):
        say(memory, user)
    say(memory, "carol", "planner")
    erase = getattr(memory, f"erase_{what}")
    name = "tutor" if what == "module" else "default"
    memory.retention.hold("bob", reason="case 7", by="counsel")

    with pytest.raises(LegalHold):
        erase(name)
    assert said(memory.scope(user_id="alice", module_id="tutor")) == ["a secret"]

    memory.retention.release("bob")
    memory.retention.hold("carol", reason="case 8", by="counsel")
    if what == "module":
        assert erase(name).counts["message"] == 2
        return
    with pytest.raises(LegalHold):
        erase(name)


def test_a_hold_that_is_placed_amid_the_erasure_of_a_module_keeps_what_is_left_of_the_user(
    memory: IsolatedMemory,
):
    users = ("alice", "bob")
    stores = [memory.scope(user_id=user, module_id="tutor").store() for user in users]
    for store in stores:
        store.batch([PutOp(("notes",), str(number), {"n": number}) for number in range(700)])
    memory.retention.hold("carol", reason="case 6", by="counsel")

    def place(_: int) -> None:
        for user in users:
            memory.retention.hold(user, reason="case 7", by="counsel")

    with pytest.raises(LegalHold):
        memory.erase_module("tutor", progress=place)
    left = sorted(len(store.search(("notes",), limit=1_000)) for store in stores)
    assert left == [200, 700]
    with pytest.raises(LegalHold):
        memory.erasure.resume()

    for user in users:
        memory.retention.release(user)
    (receipt,) = memory.erasure.resume()
    assert (receipt.is_finished, receipt.counts) == (True, {"item": 1_400})


@pytest.mark.parametrize("what", ["module", "project"])
def test_a_place_killed_anywhere_is_gone_on_with_and_counts_each_row_once(
    what: str, memory: IsolatedMemory, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
):
    seeded, killed = random.Random(what), 0
    erase = getattr(memory, f"erase_{what}")
    name = "tutor" if what == "module" else "default"
    for _ in range(8):
        for user in ("alice", "bob"):
            say(memory, user)
        memory.anonymous(module_id="tutor")
        memory.publisher(module_id="tutor").vector_store(embeddings()).add_texts(["a rule"])
        before = {table: count_of(attacker, table) for table in ("records", "sessions", "scopes")}
        living = count_of(attacker, "keys WHERE wrapped IS NOT NULL AND purpose IN (2, 3)")
        for step in (seeded.randint(10, 180), seeded.randint(10, 180)):
            try:
                with killed_at(step, monkeypatch):
                    erase(name)
            except Killed:
                killed += 1
        if not memory.erasure.resume():
            erase(name)

        (receipt,) = [one for one in memory.erasure.receipts() if one.scopes][-1:]
        assert sum(receipt.counts.values()) == before["records"] + before["sessions"]
        assert receipt.scopes == before["scopes"]
        assert receipt.keys_destroyed == (living if what == "project" else 4)
        assert count_of(attacker, "scopes") == 0
    assert killed >= 8


def test_a_module_killed_on_its_way_does_not_take_what_began_since_in_a_project_with_it(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    """What a user begins anew, while the rest is resumed, is the user's."""
    for user in ("alice", "bob"):
        say(memory, user)

    def ends(_: ErasureSubject) -> None:
        raise Killed

    memory.erasure.register("crm", ends, lambda _: True)
    with pytest.raises(Killed):
        memory.erase_module("tutor")
    say(memory, "carol")
    memory.erasure.register("crm", lambda _: None, lambda _: True)

    (receipt,) = memory.erasure.resume()

    assert receipt.counts == {"session": 2, "message": 2}
    assert said(memory.scope(user_id="carol", module_id="tutor")) == ["a secret"]


@pytest.mark.parametrize("what", ["module", "project"])
def test_keys_of_one_whose_first_use_waited_since_before_the_erasure_are_destroyed_too(
    memory: IsolatedMemory, attacker: Attacker, monkeypatch: pytest.MonkeyPatch, what: str
):
    """A guest, or a user of a project, who is stored when keys have been destroyed."""
    say(memory)
    before, late, real = now(), list[bytes](), ErasureRunner._end_lives

    def first_use() -> None:
        monkeypatch.setattr(scope_rows, "now", lambda: before)
        if what == "module":
            memory.anonymous(module_id="tutor")
        else:
            say(memory, "late")
        query = "SELECT principal FROM scopes ORDER BY created_at DESC LIMIT 1"
        late.append(attacker(query)[0][0])
        monkeypatch.undo()

    def ended(run: ErasureRunner, job: ErasureJob, owner: Owner) -> None:
        real(run, job, owner)
        first_use()

    monkeypatch.setattr(ErasureRunner, "_end_lives", ended)
    receipt = memory.erase_module("tutor") if what == "module" else memory.erase_project("default")

    assert receipt.is_finished
    assert receipt.scopes == 2
    assert receipt.keys_destroyed == (2 if what == "module" else 4)
    assert raw_count(attacker, late[0]) == Counter()
    assert attacker("SELECT count(*) FROM tombstones WHERE principal = ?", late[0]) == [(1,)]


@pytest.mark.parametrize("call", ["erase_guest", "erase_module", "erase_project"])
@pytest.mark.parametrize("name", ["", None, 7, "a\x00b"])
def test_a_malformed_id_erases_nothing(memory: IsolatedMemory, call: str, name: Any):
    with pytest.raises(ScopeError):
        getattr(memory, call)(name)


def test_holds_that_have_ended_go_with_the_user_and_are_counted(
    memory: IsolatedMemory, attacker: Attacker
):
    for user in ("alice", "bob"):
        say(memory, user)
        memory.retention.hold(
            user, reason="case 7", by="counsel", until=timedelta(milliseconds=200)
        )
    time.sleep(0.25)

    assert memory.erase_user("alice").counts == {"session": 1, "message": 1, "policy": 1}
    assert count_of(attacker, "records WHERE kind = 19") == 1


# --- receipts


def test_the_horizon_passes_when_the_root_key_is_exchanged(memory: IsolatedMemory):
    for user in ("alice", "bob"):
        say(memory, user)
    receipt = memory.erase_user("alice")
    assert receipt.horizon == "open"
    assert "rotate_root_key" in str(receipt)

    memory.rotate_root_key(LocalRootKey(b"n" * 32))

    (later,) = memory.erasure.receipts()
    assert later.horizon == "passed"
    assert replace(later, horizon="open") == replace(receipt, erased_at=later.erased_at)
    assert "open with root keys that nothing needs any more" in str(later)


def test_anybody_with_the_tables_makes_the_hashes_of_the_store_again(
    memory: IsolatedMemory, attacker: Attacker
):
    def by_hand() -> str:
        scopes, sets = hashlib.sha256(), hashlib.sha256()
        for row in attacker("SELECT scope_id, birth, mac FROM scopes ORDER BY scope_id"):
            scopes.update(b"".join(row))
        query = "SELECT principal, revision, mac FROM key_sets ORDER BY principal"
        for principal, revision, mac in attacker(query):
            sets.update(principal + revision.to_bytes(8, "big") + mac)
        return hashlib.sha256(scopes.digest() + sets.digest()).hexdigest()

    for user in ("alice", "bob"):
        say(memory, user)
    before = by_hand()

    receipt = memory.erase_user("alice")

    assert (receipt.store_hash_before, receipt.store_hash_after) == (before, by_hand())
    assert receipt.store_hash_before != receipt.store_hash_after


def test_a_receipt_that_said_pending_is_told_anew_when_it_is_finished(
    sqlite_url: str, root_key: LocalRootKey
):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        say(memory)
        reader = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM records").fetchall()
        assert memory.erase_user("alice").heap == "pending"
        reader.execute("COMMIT")
        reader.close()

        assert memory.finish_erasure() == "scrubbed"
        assert [one.heap for one in memory.erasure.receipts()] == ["scrubbed"]


def test_keys_apart_are_destroyed_and_counted(tmp_path: Path, root_key: LocalRootKey):
    urls = [f"sqlite:///{tmp_path / name}" for name in ("memory.db", "keys.db")]
    with IsolatedMemory(urls[0], root_key=root_key, key_store=urls[1]) as memory:
        say(memory)
        receipt = memory.erase_user("alice")

        assert (receipt.keys_destroyed, receipt.heap) == (2, "scrubbed")
        assert memory.erasure.receipts()[0].keys_destroyed == 2


# --- the command


def on(database_url: str, *more: str) -> list[str]:
    return ["erase", *more, "--database", database_url]


def test_the_command_resumes_and_lists_receipts(memory: IsolatedMemory, database_url: str):
    say(memory)
    crm = Outside("alice", fails=1)
    memory.erasure.register("crm", crm.erase, crm.is_empty)
    memory.erase_user("alice")

    resumed = run(*on(database_url, "--resume"))
    assert resumed.exit_code == 1
    assert "crm: requested" in resumed.stdout
    assert run(*on(database_url, "--receipts", "--json")).stdout == "[]\n"

    memory.erasure.resume()
    told = run(*on(database_url, "--receipts", "--json"))
    assert told.exit_code == 0
    assert [one["participants"] for one in json.loads(told.stdout)] == [{"crm": "confirmed"}]
    assert "user" in run(*on(database_url, "--receipts")).stdout
    assert run(*on(database_url, "--resume", "--json")).stdout == "[]\n"


@pytest.mark.parametrize("what", ["module", "guest", "project"])
def test_the_command_erases_what_is_named_again(
    memory: IsolatedMemory, database_url: str, what: str
):
    say(memory)
    guest = memory.anonymous(module_id="tutor")
    name = {"module": "tutor", "guest": guest.id, "project": "default"}[what]
    options = ["--whole-project"] if what == "project" else []
    command = on(database_url, f"--{what}", name, *options)

    assert run(*command, stdin="another\n").exit_code == 2
    assert said(memory.scope(user_id="alice", module_id="tutor")) == ["a secret"]
    assert memory.recover(guest.id)

    done = run(*command, stdin=f"{name}\n")
    assert done.exit_code == 0
    assert f"What: {what}" in done.stdout
    assert json.loads(run(*command, "--json", "--yes").stdout)["what"] == what


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--user", "alice", "--module", "tutor"],
        ["--whole-project"],
        ["--user", "alice", "--whole-project"],
        ["--resume", "--receipts"],
        ["--finish", "--guest", "x"],
    ],
)
def test_the_command_wants_one_thing_to_erase(
    memory: IsolatedMemory, database_url: str, options: list[str]
):
    say(memory)

    assert run(*on(database_url, *options, "--yes")).exit_code == 2
    assert said(memory.scope(user_id="alice", module_id="tutor")) == ["a secret"]


def test_a_participant_whose_own_loop_was_cancelled_has_not_confirmed_and_stops_nothing(
    memory: IsolatedMemory,
):
    def cancelled(_: object) -> None:
        raise asyncio.CancelledError

    say(memory)
    memory.erasure.register("crm", cancelled, lambda _: True)

    receipt = memory.erase_user("alice")

    assert receipt.participant_errors == {"crm": "CancelledError"}
    assert (receipt.keys_destroyed, receipt.is_finished) == (2, False)
