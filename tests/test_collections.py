"""A scope's documents are listed without a model, and what is kept how long is told to its user."""

from datetime import timedelta

import pytest

from langmem_isolated import IsolatedMemory, ScopedMemory, SessionRules
from langmem_isolated.errors import MemoryLocked, RecordDoesNotOpen, ScopeError
from tests.conftest import Attacker, Door
from tests.embeddings import NGramEmbeddings


@pytest.fixture
def tutor(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


def add(scope: ScopedMemory, collection: str, *texts: str) -> None:
    store = scope.vector_store(NGramEmbeddings(8), collection=collection)
    store.add_texts([*texts], ids=[*texts])


async def test_documents_are_listed_and_removed_without_a_model(tutor: ScopedMemory, door: Door):
    add(tutor, "notes", "b", "a")
    add(tutor, "books", "c")
    collections = tutor.collections

    listed = await door(collections, "__call__")
    assert [(one.name, one.documents) for one in listed] == [("books", 1), ("notes", 2)]
    assert "notes" not in repr(listed)
    await door(collections, "delete", "notes", ["a", "none of it"])
    found = await door(collections, "documents", "notes")
    assert [(one.id, one.page_content) for one in found] == [("b", "b")]
    await door(collections, "delete", "notes", ["b"])
    assert [one.name for one in collections()] == ["books"]
    # What a search finds is what is left.
    assert tutor.vector_store(NGramEmbeddings(8), collection="notes").similarity_search("b") == []


async def test_nobody_elses_documents_are_listed_or_removed(memory: IsolatedMemory, door: Door):
    alice = memory.scope(user_id="alice", module_id="tutor")
    add(alice, "notes", "a")
    for user, module in (("alice", "planner"), ("bob", "tutor")):
        collections = memory.scope(user_id=user, module_id=module).collections
        assert await door(collections, "__call__") == []
        assert await door(collections, "documents", "notes") == []
        await door(collections, "delete", "notes", ["a"])

    assert len(alice.collections.documents("notes")) == 1


def test_calls_of_the_wrong_shape_are_refused(tutor: ScopedMemory):
    with pytest.raises(ScopeError):
        tutor.collections.documents("")
    with pytest.raises(TypeError, match="ids"):
        tutor.collections.delete("notes", "abc")


def test_a_collection_that_was_tampered_with_is_not_listed(tutor: ScopedMemory, attacker: Attacker):
    add(tutor, "notes", "a", "b")
    attacker("UPDATE sessions SET count = 1")

    with pytest.raises(RecordDoesNotOpen):
        tutor.collections()


def test_documents_of_a_locked_user_are_not_listed(memory: IsolatedMemory, tutor: ScopedMemory):
    add(tutor, "notes", "a")
    memory.lock_with("alice", secret=bytes(32))

    with pytest.raises(MemoryLocked):
        tutor.collections()


async def test_a_user_is_told_what_is_kept_how_long(
    memory: IsolatedMemory, tutor: ScopedMemory, door: Door
):
    keep = memory.retention.keep
    for_all = keep("session", days=90)
    keep("message", days=30)
    for_alice = keep("message", user_id="alice", days=3)
    of_channel = keep("message", user_id="alice", channel="web", days=1)
    keep("message", user_id="bob", days=2)
    keep("item", module_id="planner", days=2)

    told = await door(tutor, "retention")

    assert told.policies == (for_alice, for_all, of_channel)
    assert told.session_rules == SessionRules()
    assert not told.has_legal_hold


async def test_a_legal_hold_is_told_to_whom_it_is_about_and_to_a_locked_user_too(
    memory: IsolatedMemory, tutor: ScopedMemory, door: Door
):
    tutor.chat_history("monday").add_user_message("Hi")
    memory.retention.hold("alice", reason="Court", by="Legal", until=timedelta(days=1))
    memory.lock_with("alice", secret=bytes(32))

    assert (await door(tutor, "retention")).has_legal_hold
    bob = memory.scope(user_id="bob", module_id="tutor")
    assert not (await door(bob, "retention")).has_legal_hold
