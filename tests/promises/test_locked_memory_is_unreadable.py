"""A locked user's memory: the server, with all that it has, reads nothing of it."""

import logging
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import Generation
from langchain_core.vectorstores import InMemoryVectorStore

from langmem_isolated import IsolatedMemory, ScopedMemory
from langmem_isolated._crypto.kinds import SERVER_HELD, Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import KEY_ID_BYTES
from langmem_isolated._storage.key_sets import KeySets
from langmem_isolated.errors import LangmemIsolatedError, MemoryLocked, RecordDoesNotOpen
from tests.conftest import Attacker
from tests.embeddings import NGramEmbeddings
from tests.locks import lock, unlock
from tests.promises.test_nothing_readable_on_disk import MARK, forms_of
from tests.threads import at, put

_numbers = count()
OWNER = Owner(Level.PRIVATE, "default", "alice", "tutor")


def canary() -> str:
    return f"{MARK}{next(_numbers)}"


def fill(scope: ScopedMemory, elsewhere: InMemoryVectorStore) -> None:
    """A canary in every kind of content."""
    scope.sessions.create("s", title=canary(), channel=canary())
    scope.chat_history("s").add_messages([HumanMessage(canary()), AIMessage(canary())])
    scope.recall("chess", embeddings=NGramEmbeddings())
    saver = scope.checkpointer()
    config = put(saver, at("t"), {"messages": [HumanMessage(canary() * 40, id="1")]})
    saver.put_writes(config, [("a", canary())], "task")
    store = scope.store(index={"embed": NGramEmbeddings(), "dims": 64})
    store.put(("facts",), "one", {"text": canary()})
    scope.vector_store(NGramEmbeddings()).add_texts([canary()], metadatas=[{"a": canary()}])
    scope.vector_store(wrapping=elsewhere).add_texts([canary()])
    scope.llm_cache().update("prompt", "model", [Generation(text=canary())])
    scope.byte_store().mset([("k", canary().encode())])
    scope.profile().add_fact(canary())


def attempts(memory: IsolatedMemory, folder: Path, elsewhere: Any) -> Iterator[Callable[[], Any]]:
    """Every way to read that the library has."""
    scope = memory.scope(user_id="alice", module_id="tutor")
    history, saver = scope.chat_history("s"), scope.checkpointer()
    store = scope.store(index={"embed": NGramEmbeddings(), "dims": 64})
    vectors, wrapped = scope.vector_store(NGramEmbeddings()), scope.vector_store(wrapping=elsewhere)
    yield from (
        lambda: history.messages,
        lambda: history.last(1),
        lambda: history.page(limit=1),
        history.timed,
        lambda: history.window(max_tokens=100),
        lambda: str(history),
        lambda: scope.chat_history("another").messages,
        lambda: [*scope.sessions()],
        lambda: scope.sessions.get("s"),
        lambda: scope.sessions(search=MARK),
        lambda: scope.recall(MARK),
        lambda: scope.recall(MARK, embeddings=NGramEmbeddings()),
        lambda: scope.recall_tool().invoke({"query": MARK}),
        lambda: saver.get_tuple(at("t")),
        lambda: [*saver.list(at("t"))],
        saver.threads,
        lambda: store.get(("facts",), "one"),
        lambda: store.search(("facts",)),
        lambda: store.search(("facts",), query=MARK),
        store.list_namespaces,
        lambda: vectors.similarity_search(MARK),
        lambda: vectors.as_retriever().invoke(MARK),
        lambda: scope.bm25_retriever().invoke(MARK),
        lambda: wrapped.similarity_search(MARK),
        lambda: scope.llm_cache().lookup("prompt", "model"),
        lambda: scope.byte_store().mget(["k"]),
        lambda: [*scope.byte_store().yield_keys()],
        lambda: scope.profile().contents(),
        lambda: scope.profile().facts(),
        scope.verify,
        lambda: memory.export_user("alice", folder / f"{next(_numbers)}.zip"),
        lambda: memory.compare_modules(user_id="alice"),
        lambda: memory.merge_modules(user_id="alice", from_module="tutor", into_module="b"),
    )


def forms(text: bytes) -> bool:
    return forms_of(MARK).search(text) is not None


@pytest.fixture
def elsewhere(memory: IsolatedMemory) -> InMemoryVectorStore:
    """A third-party store whose contents are sealed."""
    return InMemoryVectorStore(NGramEmbeddings())


@pytest.fixture
def locked(memory: IsolatedMemory, elsewhere: InMemoryVectorStore) -> IsolatedMemory:
    fill(memory.scope(user_id="alice", module_id="tutor"), elsewhere)
    lock(memory)
    memory.scope(user_id="alice", module_id="tutor").chat_history("s").add_user_message(canary())
    return memory


def test_no_adapter_reads_anything_in_a_hundred_attempts(
    locked: IsolatedMemory, elsewhere: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    told, tried = [], 0
    while tried < 100:
        for attempt in attempts(locked, tmp_path, elsewhere):
            tried += 1
            with pytest.raises(MemoryLocked) as raised:
                told.append(repr(attempt()))
            error = raised.value
            told.append(f"{error} {error.__cause__} {error.__context__}")

    assert not forms(" ".join(told).encode())
    assert not forms(caplog.text.encode())
    assert not [path for path in tmp_path.glob("*.zip") if forms(path.read_bytes())]
    unlock(locked)
    assert len(locked.scope(user_id="alice", module_id="tutor").chat_history("s").messages) == 3


def test_no_write_but_to_the_inbox_is_taken_and_nothing_is_changed(
    locked: IsolatedMemory, attacker: Attacker
):
    scope = locked.scope(user_id="alice", module_id="tutor")
    rows = "SELECT kind, parent, key, sealed FROM records ORDER BY kind, parent, key"
    before = attacker(rows)
    for write in (
        lambda: scope.sessions.create("x"),
        lambda: scope.sessions.rename("s", "x"),
        lambda: scope.chat_history("s").clear(),
        lambda: put(scope.checkpointer(), at("u"), {"messages": [HumanMessage("x", id="1")]}),
        lambda: scope.store().put(("a",), "b", {"c": 1}),
        lambda: scope.vector_store(NGramEmbeddings()).add_texts(["x"]),
        lambda: scope.llm_cache().update("p", "m", [Generation(text="x")]),
        lambda: scope.byte_store().mset([("a", b"b")]),
        lambda: scope.profile().add_fact("x"),
    ):
        with pytest.raises(MemoryLocked):
            write()

    assert attacker(rows) == before


def test_rows_and_dumps_hold_nothing_that_can_be_read(locked: IsolatedMemory, attacker: Attacker):
    for table in ("records", "sessions", "keys", "key_sets", "scopes", "usage", "installation"):
        for row in attacker(f"SELECT * FROM {table}"):
            assert not forms(b"|".join(str(v).encode() + bytes(v if type(v) is bytes else b"")
                                       for v in row))  # fmt: skip


def test_every_key_that_the_server_can_unwrap_opens_no_content(
    locked: IsolatedMemory, attacker: Attacker
):
    """With the root key, and all rows: as an operator who wants to know."""
    keyring = locked._keyring
    opened = keyring.installation.open(create=False)
    assert opened is not None
    directory, wrapped = opened
    principal = directory.principal_of(OWNER)
    found = KeySets(keyring.key_store).read(principal, directory)
    unwrapped = [
        wrapped._unwrapped_once(principal, key) for key in found.keys if key.wrapped is not None
    ]
    own = keyring.find(OWNER)
    assert own is not None
    naming = wrapped.unwrapped(found).naming
    tried = [key for key in unwrapped if len(key) == 32]
    assert tried == [naming]
    guesses = [
        ScopeKeys(OWNER, own.scope_id, own.incarnation, own.birth, naming, [key]) for key in tried
    ]
    births = dict(attacker("SELECT digest, birth FROM sessions WHERE kind <> 16"))
    content = 0
    for kind, parent, key, sealed in attacker("SELECT kind, parent, key, sealed FROM records"):
        if Kind(kind) in SERVER_HELD:
            continue
        content += 1
        for guess in guesses:
            assert sealed[1 : 1 + KEY_ID_BYTES] not in guess.ids
            for birth in {births.get(parent[:16], b""), b""}:
                with pytest.raises(RecordDoesNotOpen):
                    guess.open(guess.aad_prefix(Kind(kind), parent, birth), key, sealed, Kind(kind))
    assert content > 10


def test_what_fails_while_it_is_locked_says_nothing_of_it(
    locked: IsolatedMemory, attacker: Attacker, caplog: pytest.LogCaptureFixture
):
    """Rows that were tampered with, found by a sweep, a verification and an unlock."""
    attacker("UPDATE records SET size = size + 1")
    attacker("UPDATE sessions SET count = count + 1 WHERE kind = 2")
    told = []
    for attempt in (
        locked.sweep,
        locked.stats,
        lambda: locked.scope(user_id="alice", module_id="tutor").chat_history("s").messages,
        lambda: locked.locked_sessions("alice", module_id="tutor"),
        lambda: unlock(locked),
        lambda: locked.scope(user_id="alice", module_id="tutor").chat_history("s").messages,
    ):
        try:
            told.append(repr(attempt()))
        except LangmemIsolatedError as error:
            told.append(f"{error} {error.__cause__} {error.__context__}")

    assert not forms(" ".join(told).encode() + caplog.text.encode())
