"""Clearing removes what people want gone, all of it and nothing else, and leaves the account."""

import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.outputs import Generation
from langgraph.store.base import PutOp

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._database.schema import POSTGRES_SCHEMA
from langmem_isolated._storage import entries
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.sessions.listing import session_digest
from langmem_isolated.errors import DatabaseLocked, LegalHold, SessionNotFound
from langmem_isolated.lifecycle.retention import clearing
from langmem_isolated.lifecycle.retention.clearing import Clearing
from tests import served
from tests.conftest import Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.threads import at, put


def tutor(memory: IsolatedMemory, user: str = "alice", module: str = "tutor") -> ScopedMemory:
    return memory.scope(user_id=user, module_id=module)


def fill(scoped: ScopedMemory) -> None:
    """Something of each kind that an application stores."""
    for session in ("monday", "tuesday"):
        scoped.chat_history(session).add_messages([HumanMessage("one"), HumanMessage("two")])
    put(scoped.checkpointer(), at("1"), {"messages": [HumanMessage("x" * 100)]})
    scoped.store().batch([PutOp(("notes",), f"{n}", {"n": n}) for n in range(3)])
    scoped.vector_store(NGramEmbeddings()).add_documents([Document("one"), Document("two")])
    scoped.llm_cache().update("prompt", "model", [Generation(text="a")])


FILLED = {
    "session": 2,
    "message": 4,
    "thread": 1,
    "checkpoint": 1,
    "item": 3,
    "document": 2,
    "collection": 1,
    "entry": 1,
}


def rows_of(attacker: Attacker) -> int:
    return sum(attacker(f"SELECT count(*) FROM {table}")[0][0] for table in ("records", "sessions"))


async def test_a_module_of_a_user_is_cleared_and_no_other(
    memory: IsolatedMemory, attacker: Attacker, door: Door
):
    others = tutor(memory, "bob"), tutor(memory, "alice", "chat")
    for scoped in others:
        fill(scoped)
    before = rows_of(attacker)
    fill(tutor(memory))

    counts = await door(tutor(memory), "clear")

    assert counts == FILLED
    assert rows_of(attacker) == before
    for scoped in others:
        assert scoped.verify().messages == 4
    assert tutor(memory).clear() == {}


async def test_all_that_a_user_has_goes_and_the_account_stays(
    memory: IsolatedMemory, attacker: Attacker, door: Door
):
    for module in ("tutor", "chat"):
        fill(tutor(memory, "alice", module))
    fill(tutor(memory, "bob"))
    memory.retention.keep("message", user_id="alice", days=7)
    keys = attacker("SELECT principal, wrapped FROM keys")

    counts = await door(memory, "clear_user", "alice")

    assert counts == {kind: 2 * count for kind, count in FILLED.items()}
    assert set(keys) <= set(attacker("SELECT principal, wrapped FROM keys"))
    assert [policy.user_id for policy in memory.retention.list()] == ["alice"]
    assert memory.modules(user_id="alice") == ["chat", "tutor"]
    assert tutor(memory, "bob").verify().messages == 4


async def test_one_session_is_cleared_with_its_messages(memory: IsolatedMemory, door: Door):
    scoped = tutor(memory)
    fill(scoped)

    assert await door(scoped, "clear_session", "monday") == {"session": 1, "message": 2}

    assert [session.id for session in scoped.sessions()] == ["tuesday"]
    scoped.verify()
    with pytest.raises(SessionNotFound):
        await door(scoped, "clear_session", "monday")


async def test_whoever_clears_a_session_waits_for_nothing_that_is_not_there(
    memory: IsolatedMemory, door: Door, monkeypatch: pytest.MonkeyPatch
):
    scoped, waits = tutor(memory), list[float]()
    fill(scoped)
    monkeypatch.setattr(clearing, "time", SimpleNamespace(sleep=waits.append))

    await door(scoped, "clear_session", "monday")
    with pytest.raises(SessionNotFound):
        await door(scoped, "clear_session", "monday")

    assert not any(waits)


async def test_a_channel_is_cleared_in_every_session(memory: IsolatedMemory, door: Door):
    scoped = tutor(memory)
    for session, channel in (("both", "ai"), ("both", "general"), ("one", "ai"), ("two", None)):
        scoped.chat_history(session, channel=channel).add_user_message(f"{channel}")
    tutor(memory, "bob").chat_history("one", channel="ai").add_user_message("ai")

    assert await door(scoped, "clear", channel="ai") == {"session": 1, "message": 2}

    assert {session.id for session in scoped.sessions()} == {"both", "two"}
    assert [message.content for message in scoped.chat_history("both").messages] == ["general"]
    assert scoped.verify().messages == 2
    assert tutor(memory, "bob").verify().messages == 1
    assert await door(scoped, "clear", channel="ai") == {}


def test_who_has_nothing_clears_nothing_and_is_not_made(memory: IsolatedMemory, attacker: Attacker):
    assert tutor(memory).clear() == {}
    assert memory.clear_user("alice") == {}
    with pytest.raises(SessionNotFound):
        tutor(memory).clear_session("monday")
    assert attacker("SELECT count(*) FROM scopes") == [(0,)]


def test_a_guest_is_cleared_and_its_claim_stays(memory: IsolatedMemory, attacker: Attacker):
    guest = Owner.anonymous("guest-1", project="default")
    records = memory._context.records(guest)
    for kind in (Kind.CLAIM, Kind.ENTRY):
        records.write(entries.put, (b"x",), [Entry(b"k", b"v")], 1, kind=kind)

    assert Clearing(memory._context).owners([guest]) == {"entry": 1}

    assert attacker("SELECT kind FROM records") == [(int(Kind.CLAIM),)]


def test_a_reader_meets_what_there_was_or_nothing_and_a_writer_begins_anew(
    memory: IsolatedMemory,
):
    scoped = tutor(memory)
    said = [HumanMessage(f"{n}") for n in range(1200)]
    scoped.chat_history("monday").add_messages(said)
    for _ in range(3):
        scoped.vector_store(NGramEmbeddings()).add_documents([Document("one")] * 400)
    seen: list[tuple[Any, ...]] = []

    def look(_: int) -> None:
        found = scoped.vector_store(NGramEmbeddings()).similarity_search("one", k=3)
        seen.append((len(scoped.chat_history("monday").messages), len(found)))
        scoped.verify()
        if len(seen) == 4:
            scoped.chat_history("monday").add_user_message("new")
            scoped.vector_store(NGramEmbeddings()).add_documents([Document("new")])

    scoped.clear(progress=look)

    assert len(seen) > 4
    assert {messages for messages, _ in seen} <= {1200, 0, 1}
    assert {documents for _, documents in seen} <= {3, 0, 1}
    assert [message.content for message in scoped.chat_history("monday").messages] == ["new"]
    found = scoped.verify()
    assert (found.messages, found.documents) == (1, 1)


def test_readers_in_other_threads_never_meet_a_part(memory: IsolatedMemory):
    scoped = tutor(memory)
    counts, failures, is_over = set[int](), list[BaseException](), threading.Event()

    def read() -> None:
        while not is_over.is_set():
            try:
                counts.add(len(scoped.chat_history("monday").messages))
            except BaseException as error:  # noqa: BLE001 - any is one too many
                failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    scoped.chat_history("monday").add_messages([HumanMessage(f"{n}") for n in range(1200)])
    for reader in readers:
        reader.start()
    scoped.clear()
    is_over.set()
    for reader in readers:
        reader.join()

    assert failures == []
    assert counts <= {1200, 0}


def test_what_was_tampered_with_goes_too(memory: IsolatedMemory, attacker: Attacker):
    scoped = tutor(memory)
    fill(scoped)
    attacker("UPDATE sessions SET count = count + 1")
    attacker("UPDATE records SET sealed = ? WHERE kind = 3", b"nothing")

    assert scoped.clear() == FILLED

    assert rows_of(attacker) == 0


def test_what_begins_amid_a_clear_stays_though_another_process_has_rotated_keys(
    memory: IsolatedMemory, database_url: str, root_key: LocalRootKey
):
    scoped = tutor(memory)
    scoped.chat_history("monday").add_user_message("old")
    scoped.chat_history("tuesday").add_user_message("old")
    begun = Clearing(memory._context)
    with IsolatedMemory(database_url, root_key=root_key) as other:
        other.rotate_keys("alice")
        tutor(other).sessions.delete("monday")
        tutor(other).chat_history("monday").add_user_message("new")

    of = Owner.private(scoped.scope)
    for name in ("monday", "tuesday"):
        begun.session(of, session_digest(scoped._records.keys(), name))

    assert [message.text for message in tutor(memory).chat_history("monday").messages] == ["new"]
    assert [session.id for session in tutor(memory).sessions()] == ["monday"]


def test_counted_items_are_cleared_with_what_counts_them(memory: IsolatedMemory):
    scoped = tutor(memory)
    store = scoped.store(integrity="counted")
    store.put(("notes",), "a", {"n": 1})

    assert scoped.clear() == {"item": 1}
    assert scoped.verify().items == 0
    store.put(("notes",), "b", {"n": 2})
    assert scoped.verify().items == 1


def test_an_interrupted_clear_goes_on_when_it_is_called_again(
    memory: IsolatedMemory, attacker: Attacker
):
    scoped = tutor(memory)
    scoped.chat_history("monday").add_messages([HumanMessage(f"{n}") for n in range(1200)])

    def interrupt(removed: int) -> None:
        if removed:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scoped.clear(progress=interrupt)
    assert scoped.sessions() == []
    scoped.verify()

    assert scoped.clear() == {"session": 1, "message": 700}
    assert rows_of(attacker) == 0


def test_a_hold_that_is_placed_amid_a_clear_ends_it(memory: IsolatedMemory):
    scoped = tutor(memory)
    scoped.store().batch([PutOp(("notes",), f"{n}", {"n": n}) for n in range(1200)])

    def place(removed: int) -> None:
        if removed == 500:
            memory.retention.hold("alice", reason="r", by="b")

    with pytest.raises(LegalHold):
        scoped.clear(progress=place)

    assert scoped.verify().items == 700


@pytest.mark.parametrize("what", ["items", "a channel"])
def test_what_somebody_else_does_not_let_go_of_is_told_of_and_goes_with_the_next_call(
    postgres_url: str, root_key: LocalRootKey, what: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(clearing, "_LOOKS", 3)
    with IsolatedMemory(postgres_url, root_key=root_key) as memory:
        scoped = tutor(memory)
        fill(scoped)
        scoped.chat_history("friday", channel="ai").add_message(HumanMessage("three"))
        table, clear = "records", scoped.clear
        if what == "a channel":
            table, clear = "sessions", partial(scoped.clear, channel="ai")
        with psycopg.connect(served.at_the_server(postgres_url)) as held:
            held.execute(f"SELECT 1 FROM {POSTGRES_SCHEMA}.{table} FOR UPDATE")

            with pytest.raises(DatabaseLocked, match="again"):
                clear()
            assert scoped.stats().total.messages or scoped.stats().total.items

        clear()
        found = scoped.stats().total
    assert (found.items, found.messages) == ((0, 0) if what == "items" else (3, 4))


def test_what_was_opened_before_is_not_found_afterwards(database_url: str, root_key: LocalRootKey):
    options: Any = {"root_key": root_key, "plaintext_cache_seconds": 600}
    with IsolatedMemory(database_url, **options) as memory:
        scoped = tutor(memory)
        scoped.chat_history("monday").add_user_message("fractions")
        assert scoped.recall("fractions")
        scoped.clear()

        assert scoped.recall("fractions") == []
        assert memory._context.plaintext_cache is not None
        assert len(memory._context.plaintext_cache._entries) == 0
