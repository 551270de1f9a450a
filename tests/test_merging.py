"""Merge of two modules and copy of facts: nothing lost, nothing twice, and undone exactly."""

import signal
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langmem_isolated import IsolatedMemory, ScopedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._storage.copying import copy, journal
from langmem_isolated.errors import (
    AddressTaken,
    ProfileEntryNotFound,
    ReceiptNotFound,
    RecordDoesNotOpen,
    ScopeError,
)
from langmem_isolated.lifecycle.sharing.merge_values import Named, NewName
from langmem_isolated.testing import FakeClock
from tests.conftest import Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.threads import at, put

EMBEDDINGS = NGramEmbeddings()
BETWEEN = {"user_id": "alice", "from_module": "tutor", "into_module": "planner"}
FACTS = {"user_id": "alice", "from_module": "tutor", "to_module": "planner"}


@pytest.fixture
def planner(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="planner")


@pytest.fixture
def tutor(memory: IsolatedMemory) -> ScopedMemory:
    """A module that has something of each kind."""
    tutor = memory.scope(user_id="alice", module_id="tutor")
    furnish(tutor)
    return tutor


def furnish(scope: ScopedMemory, count: int = 6) -> None:
    for number in range(3):
        scope.chat_history(f"s{number}").add_messages(
            [HumanMessage(f"question {number}"), AIMessage("answer")]
        )
    for number in range(count):
        scope.store().put(("facts", "school"), f"k{number}", {"level": number})
    scope.vector_store(EMBEDDINGS).add_texts(
        [f"text {number}" for number in range(count)], ids=[f"d{n}" for n in range(count)]
    )
    scope.byte_store().mset([(f"b{number}", b"bytes") for number in range(count)])
    scope.profile().add_facts([f"fact {number}" for number in range(count)])
    scope.profile().set_attribute("level", 3)


def contents(scope: ScopedMemory) -> dict[str, Any]:
    """Everything that a scope shows."""
    return {
        "sessions": {
            one.id: [message.text for message in scope.chat_history(one.id or "").messages]
            for one in scope.sessions()
        },
        "items": {
            (item.namespace, item.key): item.value for item in scope.store().search((), limit=100)
        },
        "documents": {d.id: d.page_content for d in scope.vector_store(EMBEDDINGS).documents()},
        "bytes": sorted(scope.byte_store().yield_keys()),
        "facts": sorted(fact.text for fact in scope.profile().facts()),
        "attributes": scope.profile().attributes(),
    }


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy, "BATCH", 4)


# --- dry run --------------------------------------------------------------------------------------


async def test_a_dry_run_counts_and_writes_nothing(
    memory: IsolatedMemory, tutor: ScopedMemory, attacker: Attacker, door: Door
):
    before = attacker("SELECT count(*) FROM scopes"), attacker("SELECT count(*) FROM records")

    plan = await door(memory, "merge_modules", **BETWEEN)

    assert plan.counts == {
        "session": 3, "message": 6, "item": 6, "document": 6, "entry": 6, "profile": 7,
    }  # fmt: skip
    assert plan.conflicts == ()
    assert before == (
        attacker("SELECT count(*) FROM scopes"),
        attacker("SELECT count(*) FROM records"),
    )
    assert memory.receipts(user_id="alice") == []


def test_a_dry_run_lists_what_is_taken_and_leaves_out_what_is_the_same(
    memory: IsolatedMemory, tutor: ScopedMemory, planner: ScopedMemory
):
    planner.sessions.create("s1")
    planner.store().put(("facts", "school"), "k1", {"level": 100})
    planner.store().put(("facts", "school"), "k2", {"level": 2})
    planner.vector_store(EMBEDDINGS).add_texts(["other", "text 2"], ids=["d1", "d2"])
    planner.profile().set_attribute("level", 4)

    plan = memory.merge_modules(**BETWEEN)

    assert plan.conflicts == (
        Named("session", ("s1",)),
        Named("item", ("k1", "facts", "school")),
        Named("document", ("default", "d1")),
        Named("profile", ("level", "attributes")),
    )
    assert plan.counts["item"] == 5
    assert plan.counts["document"] == 5
    assert "k1" not in repr(plan)


# --- merge ----------------------------------------------------------------------------------------


async def test_everything_is_in_the_other_module_and_stays_in_the_one(
    memory: IsolatedMemory, tutor: ScopedMemory, planner: ScopedMemory, door: Door
):
    before = contents(tutor)

    receipt = await door(memory, "merge_modules", **BETWEEN, dry_run=False)

    assert contents(planner) == contents(tutor) == before
    assert receipt.counts == {
        "session": 3, "item": 6, "document": 6, "entry": 6, "profile": 7,
    }  # fmt: skip
    assert receipt.finished is not None
    assert await door(memory, "receipts", user_id="alice") == [receipt]
    planner.verify()
    tutor.verify()
    for name in ("alice", "tutor", "planner", receipt.id):
        assert name not in repr(receipt)


def test_documents_are_as_old_in_the_other_module(memory: IsolatedMemory):
    tutor, planner = (memory.scope(user_id="alice", module_id=m) for m in ("tutor", "planner"))
    with FakeClock().installed() as clock:
        tutor.vector_store(EMBEDDINGS).add_texts(["old"], ids=["1"])
        clock.advance(timedelta(days=20))
        memory.merge_modules(**BETWEEN, dry_run=False)
        clock.advance(timedelta(days=20))
        memory.retention.keep("document", module_id="planner", days=30)

        memory.sweep()

        assert planner.vector_store(EMBEDDINGS).documents() == []
        assert len(tutor.vector_store(EMBEDDINGS).documents()) == 1
    planner.verify()


def test_taken_names_are_renamed_and_told(
    memory: IsolatedMemory, tutor: ScopedMemory, planner: ScopedMemory
):
    planner.chat_history("s1").add_user_message("mine")
    planner.store().put(("facts", "school"), "k1", {"level": 100})
    planner.profile().set_attribute("level", 4)

    receipt = memory.merge_modules(**BETWEEN, dry_run=False)

    assert set(receipt.renamed) == {
        NewName("session", "s1", "s1-2"),
        NewName("item", "k1", "k1-2"),
    }
    found = contents(planner)
    assert found["sessions"]["s1"] == ["mine"]
    assert found["sessions"]["s1-2"] == ["question 1", "answer"]
    assert found["items"][("facts", "school"), "k1"] == {"level": 100}
    assert found["items"][("facts", "school"), "k1-2"] == {"level": 1}
    assert found["attributes"] == {"level": 4}


def test_a_new_name_that_another_of_the_same_module_has_takes_nothing_from_that(
    memory: IsolatedMemory,
):
    tutor, planner = (memory.scope(user_id="alice", module_id=m) for m in ("tutor", "planner"))
    taken = [*"abcd"]
    both = [f"{name}{ending}" for name in taken for ending in ("", "-2")]
    for scope, of, names in ((tutor, "tutor", both), (planner, "planner", taken)):
        for name in names:
            scope.chat_history(name).add_user_message(f"{name} of {of}")
            put(scope.checkpointer(), at(name), {"n": 1})
            scope.store().put(("notes",), name, {"said": f"{name} of {of}"})
        scope.vector_store(EMBEDDINGS).add_texts([f"{name} of {of}" for name in names], ids=names)
    said = {*(f"{name} of planner" for name in taken), *(f"{name} of tutor" for name in both)}

    memory.merge_modules(**BETWEEN, dry_run=False)

    sessions = planner.sessions()
    assert {planner.chat_history(one.id or "").messages[0].text for one in sessions} == said
    assert len([*planner.checkpointer().list(None)]) == 12
    items = planner.store().search(("notes",), limit=100)
    assert {item.value["said"] for item in items} == said
    documents = planner.vector_store(EMBEDDINGS).documents()
    assert {document.page_content for document in documents} == said
    planner.verify()


def test_taken_names_are_left_out(
    memory: IsolatedMemory, tutor: ScopedMemory, planner: ScopedMemory
):
    planner.chat_history("s1").add_user_message("mine")

    receipt = memory.merge_modules(**BETWEEN, dry_run=False, conflicts="skip")

    assert receipt.counts["session"] == 2
    assert contents(planner)["sessions"]["s1"] == ["mine"]


def test_a_taken_name_may_refuse_all(
    memory: IsolatedMemory, tutor: ScopedMemory, planner: ScopedMemory
):
    planner.byte_store().mset([("b1", b"mine")])
    before = contents(planner)

    with pytest.raises(AddressTaken):
        memory.merge_modules(**BETWEEN, dry_run=False, conflicts="refuse")

    assert contents(planner) == before
    assert memory.receipts(user_id="alice") == []


def test_grants_and_receipts_are_not_merged(memory: IsolatedMemory, tutor: ScopedMemory):
    memory.grants.allow(user_id="alice", from_module="tutor", to_module="coach", kinds=["message"])
    memory.merge_modules(user_id="alice", from_module="planner", into_module="tutor", dry_run=False)

    memory.merge_modules(**BETWEEN, dry_run=False)

    assert [one.from_module for one in memory.grants.list(user_id="alice")] == ["tutor"]
    assert [one.into_module for one in memory.receipts(user_id="alice")] == ["tutor", "planner"]


def test_a_module_without_memory_is_merged_to_nothing(
    memory: IsolatedMemory, planner: ScopedMemory
):
    assert memory.merge_modules(**BETWEEN).counts == {}
    assert memory.merge_modules(**BETWEEN, dry_run=False).counts == {}


def test_calls_without_a_meaning_are_refused(memory: IsolatedMemory, tutor: ScopedMemory):
    with pytest.raises(ScopeError):
        memory.merge_modules(user_id="alice", from_module="tutor", into_module="tutor")
    with pytest.raises(ValueError, match="conflicts must be one of"):
        memory.merge_modules(**BETWEEN, conflicts="replace")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="takes a MergeReceipt"):
        memory.undo("receipt")  # type: ignore[arg-type]


# --- undo -----------------------------------------------------------------------------------------


async def test_undo_takes_out_exactly_what_was_put_in(
    memory: IsolatedMemory, tutor: ScopedMemory, planner: ScopedMemory, door: Door
):
    planner.chat_history("s1").add_user_message("mine")
    planner.store().put(("facts", "school"), "k1", {"level": 100})
    planner.vector_store(EMBEDDINGS).add_texts(["other"], ids=["d1"])
    planner.byte_store().mset([("b1", b"mine")])
    planner.profile().add_fact("mine")
    before, source = contents(planner), contents(tutor)
    receipt = memory.merge_modules(**BETWEEN, dry_run=False)
    assert contents(planner) != before

    undone = await door(memory, "undo", receipt)

    assert contents(planner) == before
    assert contents(tutor) == source
    assert undone.removed == receipt.counts
    assert undone.left == ()
    assert memory.receipts(user_id="alice") == []
    planner.verify()
    with pytest.raises(ReceiptNotFound):
        memory.undo(receipt)


def test_undo_leaves_what_was_changed_since_and_says_so(
    memory: IsolatedMemory, tutor: ScopedMemory, planner: ScopedMemory
):
    receipt = memory.merge_modules(**BETWEEN, dry_run=False)
    planner.chat_history("s0").add_user_message("goes on here")
    planner.sessions.rename("s1", "Renamed")
    planner.store().put(("facts", "school"), "k0", {"level": 100})
    planner.store().delete(("facts", "school"), "k1")
    planner.vector_store(EMBEDDINGS).add_texts(["other"], ids=["d0"])
    planner.byte_store().mset([("b0", b"mine")])
    fact = next(fact for fact in planner.profile().facts() if fact.text == "fact 0")
    planner.profile().correct(fact, "fact 0, corrected")
    planner.profile().set_attribute("level", 4)

    undone = memory.undo(receipt)

    assert set(undone.left) == {
        Named("session", ("s0",)),
        Named("session", ("s1",)),
        Named("item", ("k0", "facts", "school")),
        Named("document", ("default", "d0")),
        Named("profile", (fact.id, "facts")),
        Named("profile", ("level", "attributes")),
        *(one for one in undone.left if one.kind == "entry"),
    }
    assert [one.names[0][-2:] for one in undone.left if one.kind == "entry"] == ["b0"]
    assert contents(planner) == {
        "sessions": {
            "s0": ["question 0", "answer", "goes on here"],
            "s1": ["question 1", "answer"],
        },
        "items": {(("facts", "school"), "k0"): {"level": 100}},
        "documents": {"d0": "other"},
        "bytes": ["b0"],
        "facts": ["fact 0, corrected"],
        "attributes": {"level": 4},
    }
    planner.verify()


def test_what_was_there_the_same_before_is_not_taken_out(
    memory: IsolatedMemory, tutor: ScopedMemory, planner: ScopedMemory
):
    planner.store().put(("facts", "school"), "k1", {"level": 1})
    receipt = memory.merge_modules(**BETWEEN, dry_run=False)

    memory.undo(receipt)

    assert contents(planner)["items"] == {(("facts", "school"), "k1"): {"level": 1}}


def test_two_merges_are_undone_each_for_itself(
    memory: IsolatedMemory, tutor: ScopedMemory, planner: ScopedMemory
):
    first = memory.merge_modules(**BETWEEN, dry_run=False)
    tutor.store().put(("more",), "k", {"level": 7})
    second = memory.merge_modules(**BETWEEN, dry_run=False, conflicts="skip")
    assert second.counts == {"item": 1}

    memory.undo(first)

    assert contents(planner)["items"] == {(("more",), "k"): {"level": 7}}
    memory.undo(second)
    assert contents(planner)["items"] == {}


def test_a_receipt_that_was_changed_undoes_nothing(
    memory: IsolatedMemory, tutor: ScopedMemory, planner: ScopedMemory, attacker: Attacker
):
    receipt = memory.merge_modules(**BETWEEN, dry_run=False)
    after = contents(planner)
    attacker("UPDATE records SET updated_at = updated_at + 1 WHERE kind = ?", int(Kind.RECEIPT))

    with pytest.raises(RecordDoesNotOpen):
        memory.undo(receipt)
    assert contents(planner) == after


def test_a_receipt_of_another_user_finds_nothing(
    memory: IsolatedMemory, tutor: ScopedMemory, planner: ScopedMemory
):
    from dataclasses import replace

    receipt = memory.merge_modules(**BETWEEN, dry_run=False)
    memory.scope(user_id="bob", module_id="planner").sessions.create("s0")

    with pytest.raises(ReceiptNotFound):
        memory.undo(replace(receipt, user_id="bob"))
    assert memory.receipts(user_id="bob") == []


# --- interrupted ----------------------------------------------------------------------------------

MERGES = """
import os, signal, sys
from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._storage.copying import copy, items, entries, documents, options
copy.BATCH = items.BATCH = entries.BATCH = documents.BATCH = 4
left = int(sys.argv[2])
with IsolatedMemory(sys.argv[1], root_key=LocalRootKey(bytes(range(32)))) as memory:
    write = memory._database.write
    def dying(*args, **kwargs):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(*args, **kwargs)
    memory._database.write = dying
    memory.merge_modules(
        user_id="alice", from_module="tutor", into_module="planner", dry_run=False)
"""


@pytest.mark.parametrize("writes", [2, 4, 8, 12, 15])
def test_a_merge_that_was_killed_goes_on_and_is_undone_as_one(
    memory: IsolatedMemory,
    tutor: ScopedMemory,
    planner: ScopedMemory,
    database_url: str,
    writes: int,
):
    planner.chat_history("s1").add_user_message("mine")
    planner.store().put(("facts", "school"), "k1", {"level": 100})
    before = contents(planner)
    killed = subprocess.run([sys.executable, "-c", MERGES, database_url, str(writes)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (begun,) = memory.receipts(user_id="alice")
    assert begun.finished is None

    receipt = memory.merge_modules(**BETWEEN, dry_run=False)

    assert receipt.id == begun.id
    assert receipt.counts == {
        "session": 3, "item": 6, "document": 6, "entry": 6, "profile": 7,
    }  # fmt: skip
    assert contents(planner)["sessions"]["s1-2"] == ["question 1", "answer"]
    assert len(contents(planner)["sessions"]) == 4
    assert len(contents(planner)["items"]) == 7
    memory.undo(receipt)
    assert contents(planner) == before


@pytest.mark.parametrize("writes", [4, 8, 12])
def test_a_merge_that_refuses_taken_names_goes_on_when_it_was_killed(
    memory: IsolatedMemory,
    tutor: ScopedMemory,
    planner: ScopedMemory,
    database_url: str,
    writes: int,
):
    merges = MERGES.replace("dry_run=False", 'dry_run=False, conflicts="refuse"')
    subprocess.run([sys.executable, "-c", merges, database_url, str(writes)], check=False)
    (begun,) = memory.receipts(user_id="alice")

    receipt = memory.merge_modules(**BETWEEN, dry_run=False, conflicts="refuse")

    assert (receipt.id, begun.finished) == (begun.id, None)
    assert contents(planner) == contents(tutor)


def test_a_merge_that_was_killed_can_be_undone_as_it_is(
    memory: IsolatedMemory, tutor: ScopedMemory, planner: ScopedMemory, database_url: str
):
    before = contents(planner)
    subprocess.run([sys.executable, "-c", MERGES, database_url, "12"], check=False)
    (begun,) = memory.receipts(user_id="alice")

    memory.undo(begun)

    assert contents(planner) == before
    assert memory.receipts(user_id="alice") == []


def test_an_undo_that_was_interrupted_goes_on(
    memory: IsolatedMemory,
    tutor: ScopedMemory,
    planner: ScopedMemory,
    monkeypatch: pytest.MonkeyPatch,
):
    before = contents(planner)
    receipt = memory.merge_modules(**BETWEEN, dry_run=False)
    undo_part, calls = journal.undo_part, iter(range(100))

    def failing(*args: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return undo_part(*args)

    monkeypatch.setattr(journal, "undo_part", failing)
    with pytest.raises(KeyboardInterrupt):
        memory.undo(receipt)

    memory.undo(receipt)

    assert contents(planner) == before


# --- facts ----------------------------------------------------------------------------------------


async def test_facts_are_copied_with_their_sources_and_taken_out_again(
    memory: IsolatedMemory, tutor: ScopedMemory, planner: ScopedMemory, door: Door
):
    planner.profile().add_fact("mine")
    chosen = [fact for fact in tutor.profile().facts() if fact.text in ("fact 1", "fact 3")]

    receipt = await door(memory, "copy_facts", **FACTS, facts=[chosen[0], chosen[1].id])

    assert [fact.text for fact in planner.profile().facts()] == ["mine", "fact 1", "fact 3"]
    assert planner.profile().facts()[1].sources == chosen[0].sources
    assert receipt.counts == {"profile": 2}
    assert await door(memory, "receipts", user_id="alice") == [receipt]
    memory.undo(receipt)
    assert [fact.text for fact in planner.profile().facts()] == ["mine"]
    assert len(tutor.profile().facts()) == 6


def test_a_fact_that_the_other_knows_is_left_out_and_told_before(
    memory: IsolatedMemory, tutor: ScopedMemory, planner: ScopedMemory
):
    planner.profile().add_fact("FACT 1")
    facts = tutor.profile().facts()

    plan = memory.copy_facts(**FACTS, facts=facts, dry_run=True)
    assert plan.counts == {"profile": 5}
    (taken,) = plan.conflicts
    assert taken.names[0] == next(fact.id for fact in facts if fact.text == "fact 1")
    assert len(planner.profile().facts()) == 1

    receipt = memory.copy_facts(**FACTS, facts=facts)
    assert receipt.counts == {"profile": 5}
    memory.undo(receipt)
    assert [fact.text for fact in planner.profile().facts()] == ["FACT 1"]


def test_facts_that_are_not_there_copy_nothing(
    memory: IsolatedMemory, tutor: ScopedMemory, planner: ScopedMemory
):
    known = tutor.profile().facts()[0]
    for facts in ([known.id, "0" * 16], ["nonsense"]):
        with pytest.raises(ProfileEntryNotFound):
            memory.copy_facts(**FACTS, facts=facts)
    with pytest.raises(ValueError, match="one fact or more"):
        memory.copy_facts(**FACTS, facts=[])
    for facts in (known, known.id):
        with pytest.raises(TypeError):
            memory.copy_facts(**FACTS, facts=facts)  # type: ignore[arg-type]
    assert planner.profile().facts() == []


def test_a_dry_run_of_facts_for_a_module_without_memory_makes_none(
    memory: IsolatedMemory, tutor: ScopedMemory
):
    plan = memory.copy_facts(**FACTS, facts=tutor.profile().facts(), dry_run=True)

    assert plan.counts == {"profile": 6}
    assert memory.modules(user_id="alice") == ["tutor"]
