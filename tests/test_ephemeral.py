"""Ephemeral scopes: all works, nothing reaches a disk, and what is kept is all there."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory, SessionRules
from langmem_isolated._storage.copying.copy import Copy
from langmem_isolated.errors import (
    AddressTaken,
    DatabaseError,
    DatabaseUnreachable,
    IsolationViolation,
    ScopeError,
)
from tests.conftest import Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.test_copying import config, furnish, graph, names, texts

CANARY = "canary-in-the-coal-mine"


@pytest.fixture
def alice(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


def test_every_adapter_works(alice: ScopedMemory):
    with alice.ephemeral() as off:
        furnish(off)

        assert off.verify().messages == 10
        assert off.recall("question 3", limit=1)[0].text == "question 3"
        found = off.retriever(NGramEmbeddings(), k=1).invoke("page 2")
        assert [document.page_content for document in found] == ["page 2"]
        assert "question 3" in off.recall_tool().invoke({"query": "question 3"})
        assert off.bm25_retriever(k=1).invoke("page 1")
        off.llm_cache().update("prompt", "model", [])
        off.record_manager().create_schema()


async def test_asynchronous_calls_work_too(alice: ScopedMemory):
    async with alice.ephemeral() as off:
        await off.chat_history("main").aadd_messages([HumanMessage("Hi")])
        await off.bind(graph()).ainvoke({"messages": [HumanMessage("6 times 7?")]}, config("t"))

        assert [one.text for one in await off.arecall("Hi", limit=1)] == ["Hi"]


def test_a_config_of_another_user_is_refused(alice: ScopedMemory):
    named = {"configurable": {"thread_id": "t", "user_id": "bob", "module_id": "tutor"}}

    with alice.ephemeral() as off, pytest.raises(IsolationViolation):
        off.bind(graph()).invoke({"messages": []}, named)


def test_nothing_is_written_to_the_database(
    memory: IsolatedMemory, alice: ScopedMemory, attacker: Attacker
):
    alice.chat_history("main").add_user_message("stays")
    tables = ("records", "sessions", "scopes", "keys", "key_sets", "key_uses", "usage")
    before = [attacker(f"SELECT * FROM {table}") for table in tables]

    with alice.ephemeral(read_long_term=True) as off:
        furnish(off)
        off.recall("stays", embeddings=NGramEmbeddings())
        off.vector_store(NGramEmbeddings()).similarity_search("page")

    assert [attacker(f"SELECT * FROM {table}") for table in tables] == before


_TALK = """
import os, sys
from langmem_isolated import IsolatedMemory, LocalRootKey
from langchain_core.messages import HumanMessage
from langmem_isolated._storage.entries import Entry
canary = sys.argv[2]
with IsolatedMemory(sys.argv[1], root_key=LocalRootKey(bytes(32))) as memory:
    alice = memory.scope(user_id="alice", module_id="tutor")
    alice.chat_history("main").add_user_message("stays")
    off = alice.ephemeral()
    off.chat_history(canary).add_messages(
        [HumanMessage(f"{canary} {n} " + "x" * 10_000) for n in range(1000)]
    )
    off.store().put((canary,), canary, {"text": canary})
    off._records.write(lambda transaction, keys: transaction.attempt(lambda t: [
        t.connection.execute("CREATE TABLE plain (text TEXT)"),
        t.connection.executemany(
            "INSERT INTO plain VALUES (?)", [(f"{canary} {n} " + "y" * 9_000,) for n in range(2000)]
        ),
        t.connection.execute("UPDATE plain SET text = text || 'z'"),
    ]) and None)
    # Goes on while it is looked at, and is too large for SQLite's cache.
    sorting = off._records.read(lambda transaction, keys: transaction.connection.execute(
        "SELECT text FROM plain ORDER BY text DESC"
    ), None)
    sorting.fetchone()
    os.write(1, b"ready")
    sys.stdin.read()
"""


def test_no_byte_reaches_a_disk(tmp_path: Path):
    """In a process of its own, which is looked at while it has everything open."""
    temp = tmp_path / "temp"
    temp.mkdir()
    environment = {
        **os.environ, "TMPDIR": str(temp), "SQLITE_TMPDIR": str(temp), "LANGSMITH_TRACING": "false",
    }  # fmt: skip
    with subprocess.Popen(
        ["python", "-c", _TALK, f"sqlite:///{tmp_path}/memory.db", CANARY],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    ) as talk:  # fmt: skip
        assert talk.stdout is not None
        assert talk.stdout.read(5) == b"ready"

        opened = {str(link.readlink()) for link in Path(f"/proc/{talk.pid}/fd").iterdir()}
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {path.name for path in files} == {"memory.db", "memory.db-wal", "memory.db-shm"}
        assert not [path for path in files if CANARY.encode() in path.read_bytes()]
        # A file that was removed while it is open is on the disk as well.
        assert not [name for name in opened if name.endswith("(deleted)")]
        talk.communicate(timeout=120)


def test_closed_it_is_forgotten(alice: ScopedMemory):
    off = alice.ephemeral()
    off.chat_history("main").add_user_message("Hi")
    off.close()
    off.close()

    with pytest.raises(DatabaseError):
        texts(off)
    assert texts(alice) == []


def test_two_are_apart(alice: ScopedMemory):
    with alice.ephemeral() as one, alice.ephemeral() as other:
        one.chat_history("main").add_user_message("Hi")

        assert texts(other) == []


async def test_what_is_kept_is_all_there(alice: ScopedMemory, door: Door):
    off = alice.ephemeral()
    furnish(off)
    verified = off.verify()

    kept = await door(off, "keep")

    assert alice.verify() == verified
    assert kept.counts["message"] == 10
    assert alice.recall("question 3", limit=1)[0].text == "question 3"
    assert alice.sessions.get("main").origin is None
    with pytest.raises(DatabaseError):
        texts(off)


def test_names_that_the_scope_has_are_not_overwritten(alice: ScopedMemory):
    alice.chat_history("main").add_user_message("mine")
    off = alice.ephemeral()
    off.chat_history("main").add_user_message("off the record")

    with pytest.raises(AddressTaken):
        off.keep(conflicts="refuse")
    with pytest.raises(ValueError, match="conflicts"):
        off.keep(conflicts="merge")  # type: ignore[arg-type]
    assert texts(off) == ["off the record"]
    off.keep()

    assert names(alice) == {"main", "main-2"}
    assert texts(alice) == ["mine"]


def test_what_is_kept_again_because_nobody_was_told_is_there_once(
    alice: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    off = alice.ephemeral()
    furnish(off)
    run = Copy.run

    def unheard(self: Copy, **options: Any) -> None:
        run(self, **options)
        raise DatabaseUnreachable("The answer was lost.")

    monkeypatch.setattr(Copy, "run", unheard)
    with pytest.raises(DatabaseUnreachable):
        off.keep()
    monkeypatch.setattr(Copy, "run", run)
    off.keep()

    assert names(alice) == {"main"}
    assert len(texts(alice)) == 10
    assert len(alice.store().search((), limit=100)) == 2


def test_rules_for_sessions_hold_off_the_record(database_url: str, root_key: LocalRootKey):
    rules = SessionRules(channel_limits={"general": 2})
    with IsolatedMemory(database_url, root_key=root_key, session_rules=rules) as memory:
        alice = memory.scope(user_id="alice", module_id="tutor")
        off = alice.ephemeral()
        history = off.chat_history("main", channel="general")
        history.add_messages([HumanMessage(str(number)) for number in range(3)])

        assert texts(off) == ["1", "2"]
        off.keep()
        assert texts(alice) == ["1", "2"]


def test_long_term_memory_is_read_where_it_is_asked_for(
    memory: IsolatedMemory, alice: ScopedMemory
):
    alice.chat_history("old").add_user_message("My dog is called Rex")
    alice.vector_store(NGramEmbeddings()).add_documents([Document("the dog's passport")])
    memory.publisher(module_id="tutor").vector_store(NGramEmbeddings()).add_documents(
        [Document("dogs of the world")]
    )

    with alice.ephemeral() as off:
        assert off.recall("dog") == []
        assert off.vector_store(NGramEmbeddings()).similarity_search("dog", k=9) == []
    with alice.ephemeral(read_long_term=True) as off:
        off.chat_history("new").add_user_message("Another dog is called Ben")
        off.vector_store(NGramEmbeddings()).add_documents([Document("a dog's secret")])
        found = {one.text for one in off.recall("dog")}
        documents = off.vector_store(NGramEmbeddings()).similarity_search("dog", k=9)

    assert found == {"My dog is called Rex", "Another dog is called Ben"}
    assert {one.page_content for one in documents} == {
        "the dog's passport", "dogs of the world", "a dog's secret",
    }  # fmt: skip
    assert len(alice.vector_store(NGramEmbeddings()).similarity_search("dog", k=9)) == 2


def test_what_a_third_party_store_would_keep_is_refused(alice: ScopedMemory):
    store: Any = object()

    with alice.ephemeral() as off, pytest.raises(ValueError, match="wraps no vector store"):
        off.vector_store(wrapping=store)


def test_a_guest_may_talk_off_the_record(memory: IsolatedMemory):
    guest = memory.anonymous(module_id="tutor")

    with guest.ephemeral() as off:
        off.chat_history("main").add_user_message("Hi")
        off.keep()

    assert texts(guest) == ["Hi"]


def test_nothing_is_written_off_the_record_where_keep_would_not_find_it(alice: ScopedMemory):
    with alice.ephemeral() as off:
        for lost in (lambda: off.module("planner"), lambda: off.shared_from("planner")):
            with pytest.raises(ScopeError, match="has one module, got str"):
                lost()
        with pytest.raises(ScopeError, match=r"which goes where it goes: keep\(\) stores it"):
            off.cross_module()
