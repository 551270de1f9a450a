"""Third-party vector stores hold nothing of an erased user, and everybody else has all."""

import asyncio
import gc
import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._adapters.document_tags import OWNER
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage import wrapped_stores
from langmem_isolated._storage.erased import Erased
from langmem_isolated._storage.erasure_jobs import ErasureJobs
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.wrapped_stores import StoreNote
from langmem_isolated.errors import (
    AnonymousNotFound,
    DatabaseLocked,
    IsolationViolation,
    KeyDestroyed,
    ScopeError,
    WrappedStoreKeeps,
    WrappedStoreMissing,
)
from langmem_isolated.lifecycle import ErasureReceipt
from langmem_isolated.lifecycle.erasure.run import ErasureRunner
from langmem_isolated.lifecycle.erasure.wrapped_stores import (
    clear_by_tags,
    clear_wrapped,
    owner_tags,
)
from langmem_isolated.wrapping import WrappedVectorStore
from langmem_isolated.wrapping.in_memory import InMemoryAdapter
from tests.command_line import error_line, run
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.processes import Child
from tests.test_wrapping import Unknown
from tests.vector_stores import MakeStore, faiss, in_memory, make_pgvector, make_store

__all__ = ["make_pgvector", "make_store"]

TEXT = "the lantern over the harbour is red"


def scope_of(memory: IsolatedMemory, user: str, module: str = "tutor") -> ScopedMemory:
    return memory.scope(user_id=user, module_id=module)


def wrapped(memory: IsolatedMemory, store: VectorStore, user: str = "alice", **options: Any) -> Any:
    return scope_of(memory, user).vector_store(wrapping=store, **options)


def everything_in(store: Any) -> list[tuple[str, str, str]]:
    """Ids, texts and metadata of all that a store has, asked by its own interface."""
    kind = type(store).__name__
    if kind == "InMemoryVectorStore":
        rows = [(one["id"], one["text"], one["metadata"]) for one in store.store.values()]
    elif kind == "FAISS":
        assert store.index.ntotal == len(store.index_to_docstore_id) == len(store.docstore._dict)
        rows = [(i, one.page_content, one.metadata) for i, one in store.docstore._dict.items()]
    elif kind == "QdrantVectorStore":
        points, _ = store.client.scroll(store.collection_name, limit=9_999, with_payload=True)
        rows = [(one.id, one.payload["page_content"], one.payload["metadata"]) for one in points]
    else:
        found = store.get()
        rows = [*zip(found["ids"], found["documents"], found["metadatas"], strict=True)]
    return sorted((str(id_), text, repr(sorted(data.items()))) for id_, text, data in rows)


@pytest.mark.parametrize("seal", [False, True], ids=["clear", "sealed"])
def test_each_store_holds_nothing_of_an_erased_user_and_everything_of_others(
    sqlite_url: str, root_key: LocalRootKey, make_store: MakeStore, seal: bool
):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        store = make_store(NGramEmbeddings())
        shared = memory.publisher(module_id="tutor").vector_store(wrapping=store, seal=seal)
        shared.add_texts(["of all who learn"])
        wrapped(memory, store, "bob", seal=seal).add_texts([TEXT] * 3, [{"year": 2020}] * 3)
        before = everything_in(store)
        for module in ("tutor", "planner"):
            alice = scope_of(memory, "alice", module)
            alice.vector_store(wrapping=store, seal=seal).add_texts([TEXT] * 1_030)
        assert len(everything_in(store)) == 4 + 2_060

        memory.erase_user("alice")

        assert everything_in(store) == before
        assert len(wrapped(memory, store, "bob", seal=seal).similarity_search(TEXT, 9)) == 4


async def test_what_was_cleared_is_counted_by_store(memory: IsolatedMemory):
    notes, drafts = (in_memory(NGramEmbeddings()) for _ in range(2))
    owners = memory._keyring.owners
    wrapped(memory, notes).add_texts([TEXT] * 2)
    wrapped(memory, drafts, name="drafts").add_texts([TEXT] * 3)
    wrapped(memory, drafts, seal=True).add_texts([TEXT])
    of_alice = owners(scope_of(memory, "alice")._records.owner)

    cleared = clear_wrapped(memory._context, of_alice)

    assert (cleared.pop("drafts") + cleared.pop("InMemoryVectorStore"), cleared) == (6, {})
    assert everything_in(notes) == everything_in(drafts) == []


def begin_erasure(memory: IsolatedMemory, records: ScopedDatabase) -> None:
    """What an erasure writes before anything else: from then on the life is over."""
    directory, keys, owner = memory._keyring.lives().directory, records.keys(), records.owner
    user = Owner(Level.USER, owner.project, owner.user) if owner.user else owner
    erased = Erased(what="user", until=0, hash_before="", owner=user)
    jobs = ErasureJobs(memory._database, directory)
    jobs.begin(directory.principal_of(owner), keys.incarnation, erased)


def in_another_process(url: str, is_over: Any, ready: Any) -> dict[str, object]:
    """What a process with the keys in memory, and everything open, meets after an erasure."""
    store = in_memory(NGramEmbeddings())
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        alice = scope_of(memory, "alice")
        notes = alice.vector_store(wrapping=store)
        notes.add_texts([TEXT], ids=["a"])
        retriever, checked = alice.retriever(notes), alice.retriever(store.as_retriever())
        assert len(retriever.invoke(TEXT)) == len(checked.invoke(TEXT)) == 1
        alice.stamped([Document(TEXT)])
        ready.set()
        assert is_over.wait(60)
        met = {
            "search": tried(notes.similarity_search, TEXT),
            "diverse": tried(notes.max_marginal_relevance_search, TEXT),
            "ids": tried(notes.get_by_ids, ["a"]),
            "asearch": tried(asyncio.run, notes.asimilarity_search(TEXT)),
            "retriever": tried(retriever.invoke, TEXT),
            "aretriever": tried(asyncio.run, retriever.ainvoke(TEXT)),
            "checked": tried(checked.invoke, TEXT),
            "achecked": tried(asyncio.run, checked.ainvoke(TEXT)),
            "add": tried(notes.add_texts, [TEXT]),
            "aadd": tried(asyncio.run, notes.aadd_texts([TEXT])),
            "delete": tried(notes.delete, ["a"]),
            "clear": tried(notes.clear),
            "stamped": tried(alice.stamped, [Document(TEXT)]),
            "another object": tried(wrapped(memory, store).add_texts, [TEXT]),
        }
        return met | {"left": len(everything_in(store))}


def tried(call: Callable[..., Any], *args: Any) -> object:
    try:
        return call(*args)
    except Exception as error:  # noqa: BLE001 - looked at by the parent
        return type(error)


@pytest.mark.parametrize("has_ended", [True, False], ids=["ended", "begun"])
def test_another_process_with_cached_keys_stops_at_once(
    memory: IsolatedMemory, database_url: str, attacker: Attacker, has_ended: bool
):
    forked = multiprocessing.get_context("fork")
    is_over, ready = forked.Event(), forked.Event()
    other = Child(in_another_process, database_url, is_over, ready)
    assert ready.wait(60)

    if has_ended:
        memory.erase_user("alice", without_stores=["InMemoryVectorStore"])
    else:
        begin_erasure(memory, scope_of(memory, "alice")._records)
    is_over.set()
    met = other.result(60)

    reads = ("search", "diverse", "ids", "asearch", "retriever", "aretriever")
    assert [met.pop(name) for name in reads] == [[]] * len(reads)
    # Its store is its own, and nobody else could have removed what is there. Whoever comes back
    # under the id is new, once the erasure is over.
    came_back, left = met.pop("another object"), met.pop("left")
    assert (isinstance(came_back, list), left) == ((True, 2) if has_ended else (False, 1))
    assert {*met.values()} == {KeyDestroyed}


class Waiting(InMemoryAdapter):
    """Waits where a write is in flight: before the documents are there, or behind."""

    def __init__(self, store: VectorStore, waits_before: bool) -> None:
        super().__init__(store)
        self.waits_before = waits_before
        self.is_there, self.goes_on = threading.Event(), threading.Event()
        self.fails = False

    def put(self, documents: Any, vectors: Any) -> None:
        if not self.waits_before:
            super().put(documents, vectors)
        self.is_there.set()
        assert self.goes_on.wait(60)
        if self.waits_before:
            super().put(documents, vectors)
        if self.fails:
            raise ConnectionError("the answer was lost")


@pytest.mark.parametrize("fails", [False, True], ids=["answers", "fails"])
@pytest.mark.parametrize("waits_before", [True, False], ids=["before", "behind"])
async def test_a_write_in_flight_during_an_erasure_leaves_nothing(
    memory: IsolatedMemory,
    database_url: str,
    root_key: LocalRootKey,
    door: Door,
    waits_before: bool,
    fails: bool,
):
    store = in_memory(NGramEmbeddings())
    adapter = Waiting(store, waits_before)
    adapter.fails = fails
    wrapped(memory, store, "bob").add_texts(["of bob"])
    before = everything_in(store)
    memory._context.known_stores.include(store)
    with IsolatedMemory(database_url, root_key=root_key) as other:
        notes = wrapped(other, store, adapter=adapter, probe=False)

        def write() -> object:
            return tried(asyncio.run, door(notes, "add_texts", [TEXT] * 3))

        with ThreadPoolExecutor() as pool:
            writing = pool.submit(write)
            assert await asyncio.to_thread(adapter.is_there.wait, 60)
            memory.erase_user("alice")
            assert everything_in(store) == before
            adapter.goes_on.set()
            assert await asyncio.wrap_future(writing) is KeyDestroyed

    assert everything_in(store) == before


def test_nothing_is_left_while_threads_write_and_search(
    memory: IsolatedMemory, database_url: str, root_key: LocalRootKey
):
    store = faiss(NGramEmbeddings())
    wrapped(memory, store, "bob").add_texts(["of bob"])
    before, has_begun = everything_in(store), threading.Barrier(9)

    def work(notes: WrappedVectorStore) -> object:
        notes.add_texts([TEXT])
        has_begun.wait(60)
        while True:
            try:
                notes.add_texts([TEXT] * 3)
                notes.similarity_search(TEXT)
            except DatabaseLocked:
                continue
            except Exception as error:  # noqa: BLE001 - looked at below
                return type(error)

    with IsolatedMemory(database_url, root_key=root_key) as other, ThreadPoolExecutor(8) as pool:
        working = [pool.submit(work, wrapped(other, store)) for _ in range(8)]
        has_begun.wait(60)
        memory.erase_user("alice")
        assert {one.result(60) for one in working} == {KeyDestroyed}

    assert everything_in(store) == before


def test_what_a_process_that_died_left_behind_is_cleared_by_the_tags_once_more(
    memory: IsolatedMemory, make_store: MakeStore
):
    store = make_store(NGramEmbeddings())
    alice = wrapped(memory, store)
    alice.add_texts([TEXT])
    kept = store.similarity_search(TEXT, 1)
    tags = owner_tags(memory._context, [scope_of(memory, "alice")._records.owner])
    memory.erase_user("alice")
    assert everything_in(store) == []

    store.add_documents(kept, ids=[str(uuid4()) for _ in kept])

    assert json.loads(json.dumps(tags)) == tags == {alice.store_name: [kept[0].metadata[OWNER]]}
    assert clear_by_tags(memory._context, tags) == {alice.store_name: 1}
    assert everything_in(store) == []


def test_a_process_without_the_store_is_told_and_removes_nothing(
    memory: IsolatedMemory, database_url: str, root_key: LocalRootKey
):
    notes, drafts = (in_memory(NGramEmbeddings()) for _ in range(2))
    wrapped(memory, notes, name="notes").add_texts([TEXT])
    wrapped(memory, drafts, name="drafts").add_texts([TEXT])
    scope_of(memory, "alice").chat_history("s").add_user_message("kept")

    with IsolatedMemory(database_url, root_key=root_key) as other:
        other._context.known_stores.include(notes, "notes")
        with pytest.raises(
            WrappedStoreMissing, match=r"have: drafts\. .*include\(store\)"
        ) as caught:
            other.erase_user("alice")
        assert caught.value.names == ("drafts",)
        assert len(everything_in(notes)) == len(everything_in(drafts)) == 1
        assert scope_of(other, "alice").chat_history("s").count() == 1

        other.erase_user("alice", without_stores=["drafts"])

    assert (everything_in(notes), len(everything_in(drafts))) == ([], 1)


def test_a_store_that_is_left_out_by_name_is_left_alone_though_it_is_here(memory: IsolatedMemory):
    store = in_memory(NGramEmbeddings())
    wrapped(memory, store, name="notes").add_texts([TEXT])

    memory.erase_user("alice", without_stores=["notes"])

    assert len(everything_in(store)) == 1


def test_stores_that_are_left_out_are_a_list_of_names(memory: IsolatedMemory):
    wrapped(memory, store := in_memory(NGramEmbeddings())).add_texts([TEXT])

    with pytest.raises(TypeError, match="without_stores"):
        memory.erase_user("alice", without_stores="InMemoryVectorStore")
    assert len(everything_in(store)) == 1


def test_a_store_that_nobody_uses_any_more_is_missed(memory: IsolatedMemory):
    store = in_memory(NGramEmbeddings())
    wrapped(memory, store).add_texts([TEXT])
    del store
    gc.collect()

    with pytest.raises(WrappedStoreMissing):
        memory.erase_user("alice")


async def test_a_clear_of_memory_keeps_the_note(
    memory: IsolatedMemory, database_url: str, root_key: LocalRootKey, attacker: Attacker
):
    wrapped(memory, store := in_memory(NGramEmbeddings())).add_texts([TEXT])

    memory.clear_user("alice")

    assert len(everything_in(store)) == 1
    assert attacker("SELECT kind FROM records") == [(int(Kind.STORE_NOTE),)]
    with (
        IsolatedMemory(database_url, root_key=root_key) as other,
        pytest.raises(WrappedStoreMissing, match="InMemoryVectorStore"),
    ):
        other.erase_user("alice")


def test_a_store_is_noted_once_before_anything_is_written_to_it(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    store, noted = in_memory(NGramEmbeddings()), []
    real = wrapped_stores.note

    def counted(*args: Any) -> None:
        noted.append(len(everything_in(store)))
        real(*args)

    monkeypatch.setattr(wrapped_stores, "note", counted)
    for _ in range(3):
        wrapped(memory, store).add_texts([TEXT])
    assert noted == [0]

    wrapped(memory, store, name="another").add_texts([TEXT])
    assert noted == [0, 3]


def test_a_note_that_cannot_be_kept_lets_nothing_be_written(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: Any) -> None:
        raise OSError

    monkeypatch.setattr(wrapped_stores, "note", broken)
    store = in_memory(NGramEmbeddings())
    with pytest.raises(OSError):
        wrapped(memory, store).add_texts([TEXT])
    assert everything_in(store) == []


def test_no_note_is_kept_once_an_erasure_has_begun(memory: IsolatedMemory, attacker: Attacker):
    records, new = scope_of(memory, "alice")._records, StoreNote("notes", "tag")
    begin_erasure(memory, records)

    with pytest.raises(KeyDestroyed):
        records.write(wrapped_stores.note, new, now())
    assert attacker("SELECT count(*) FROM records") == [(0,)]


def test_an_erasure_of_a_former_life_is_none_of_whoever_came_back(
    memory: IsolatedMemory, attacker: Attacker
):
    store = in_memory(NGramEmbeddings())
    former = wrapped(memory, store)
    former.add_texts(["before"])
    begin_erasure(memory, scope_of(memory, "alice")._records)
    memory.erase_user("alice")

    wrapped(memory, store).add_texts([TEXT])

    assert [one.page_content for one in wrapped(memory, store).similarity_search(TEXT)] == [TEXT]
    for call in (former.add_texts, former.similarity_search, former.delete):
        with pytest.raises(KeyDestroyed):
            call("again" if call == former.similarity_search else ["again"])


def test_documents_of_a_claimed_guest_are_erased_with_the_user(
    memory: IsolatedMemory,
):
    store = in_memory(NGramEmbeddings())
    guest = memory.anonymous(module_id="tutor")
    guest.vector_store(wrapping=store).add_texts([TEXT])
    alice = scope_of(memory, "alice")
    memory.claim(guest.id, alice, confirmed=True)
    assert alice.vector_store(wrapping=store).similarity_search(TEXT) == []
    assert guest.vector_store(wrapping=store).similarity_search(TEXT) == []
    assert len(everything_in(store)) == 1

    memory.erase_user("alice")

    assert everything_in(store) == []


def test_a_guest_who_is_claimed_during_a_write_leaves_nothing_of_it(memory: IsolatedMemory):
    store = in_memory(NGramEmbeddings())
    adapter = Waiting(store, waits_before=True)
    guest = memory.anonymous(module_id="tutor")
    notes = guest.vector_store(wrapping=store, adapter=adapter, probe=False)
    with ThreadPoolExecutor() as pool:
        writing = pool.submit(tried, notes.add_texts, [TEXT])
        assert adapter.is_there.wait(60)
        memory.claim(guest.id, scope_of(memory, "alice"), confirmed=True)
        adapter.goes_on.set()

        assert writing.result(60) is AnonymousNotFound
    assert everything_in(store) == []


class NeverDeleting(InMemoryVectorStore):
    is_broken = True

    def delete(self, ids: Any = None, **options: Any) -> None:
        if not self.is_broken:
            super().delete(ids, **options)


def test_a_store_that_keeps_what_it_shall_remove_stops_the_erasure_until_it_does(
    memory: IsolatedMemory, attacker: Attacker
):
    store = NeverDeleting(NGramEmbeddings())
    alice = wrapped(memory, store, probe=False)
    alice.add_texts([TEXT])

    with pytest.raises(WrappedStoreKeeps):
        alice.clear()
    assert len(alice.similarity_search(TEXT)) == 1
    with pytest.raises(WrappedStoreKeeps, match="InMemoryVectorStore still has"):
        memory.erase_user("alice")
    # It has begun, and nothing is destroyed.
    assert [one.stores for one in memory.erasure.pending()] == [("InMemoryVectorStore",)]
    assert attacker("SELECT count(*) FROM keys WHERE wrapped IS NULL") == [(0,)]
    with pytest.raises(KeyDestroyed):
        alice.add_texts([TEXT])

    store.is_broken = False
    (receipt,) = memory.erasure.resume()
    assert (receipt.stores, store.store) == ({"InMemoryVectorStore": 1}, {})


def test_a_process_without_the_store_does_not_begin_and_one_with_it_goes_on(
    memory: IsolatedMemory, database_url: str
):
    store = in_memory(NGramEmbeddings())
    wrapped(memory, store).add_texts([TEXT])
    with IsolatedMemory(database_url, root_key=LocalRootKey(ROOT_KEY)) as other:
        with pytest.raises(WrappedStoreMissing):
            other.erase_user("alice")
        assert other.erasure.pending() == []
        other.erasure.include(store)
        assert other.erase_user("alice").stores == {"InMemoryVectorStore": 1}
    assert everything_in(store) == []


def test_stores_that_were_left_alone_stand_in_the_receipt(memory: IsolatedMemory):
    wrapped(memory, in_memory(NGramEmbeddings())).add_texts([TEXT])

    receipt = memory.erase_user("alice", without_stores=["InMemoryVectorStore"])

    assert (receipt.without_stores, receipt.stores) == (("InMemoryVectorStore",), {})
    assert "left alone" in str(receipt)
    assert memory.erasure.receipts()[0].without_stores == ("InMemoryVectorStore",)


@pytest.mark.parametrize("what", ["module", "project"])
def test_a_place_is_erased_in_third_party_stores_too(memory: IsolatedMemory, what: str):
    store = in_memory(NGramEmbeddings())
    for user in ("alice", "bob"):
        wrapped(memory, store, user).add_texts([TEXT])
    memory.publisher(module_id="tutor").vector_store(wrapping=store).add_texts([TEXT])
    guest = memory.anonymous(module_id="tutor")
    guest.vector_store(wrapping=store).add_texts([TEXT])
    elsewhere = memory.scope(user_id="alice", module_id="tutor", project_id="other")
    elsewhere.vector_store(wrapping=store).add_texts(["of another project"])

    name = "tutor" if what == "module" else "default"
    receipt = getattr(memory, f"erase_{what}")(name)

    assert receipt.stores == {"InMemoryVectorStore": 4}
    assert len(everything_in(store)) == 1


def test_a_store_that_no_adapter_is_known_for_is_cleared_by_its_own_or_any(memory: IsolatedMemory):
    class Mine(InMemoryAdapter):
        name = "mine"

    first, second = Unknown(), Unknown()
    adapter = Mine(first.inner)
    wrapped(memory, first, adapter=adapter).add_texts([TEXT] * 3)
    wrapped(memory, second, post_filter=True).add_texts([TEXT] * 3)
    wrapped(memory, second, "bob", post_filter=True).add_texts(["of bob"] * 400)

    memory.erase_user("alice")

    assert everything_in(first.inner) == []
    assert len(everything_in(second.inner)) == 400


def test_each_store_has_the_name_of_its_kind_and_collection(
    memory: IsolatedMemory, make_store: MakeStore
):
    store: Any = make_store(NGramEmbeddings())
    names = {
        "InMemoryVectorStore": lambda: "InMemoryVectorStore",
        "FAISS": lambda: "FAISS",
        "Chroma": lambda: f"Chroma {store._collection.name}",
        "QdrantVectorStore": lambda: f"QdrantVectorStore {store.collection_name}",
        "PGVectorStore": lambda: f"PGVectorStore {store.get_table_name()}",
    }

    assert wrapped(memory, store, probe=False).store_name == names[type(store).__name__]()


@pytest.mark.parametrize("name", ["", 7, "a\x00b", "x" * 256])
def test_a_malformed_name_is_refused(memory: IsolatedMemory, name: Any):
    store = in_memory(NGramEmbeddings())
    with pytest.raises(ScopeError, match="name"):
        wrapped(memory, store, name=name)
    with pytest.raises(ScopeError, match="name"):
        memory._context.known_stores.include(store, name)


def test_only_another_packages_vector_store_is_included(memory: IsolatedMemory):
    ours = scope_of(memory, "alice").vector_store(NGramEmbeddings())
    for wrong in (None, "notes", ours, InMemoryVectorStore):
        with pytest.raises(TypeError, match=r"include\(\) takes a LangChain VectorStore"):
            memory._context.known_stores.include(wrong)


def test_an_erased_module_does_not_end_what_its_users_find(
    memory: IsolatedMemory, attacker: Attacker
):
    store = in_memory(NGramEmbeddings())
    publisher = memory.publisher(module_id="tutor")
    publisher.vector_store(wrapping=store).add_texts(["of the module"])
    alice = wrapped(memory, store)
    alice.add_texts([TEXT])
    assert len(alice.similarity_search(TEXT)) == 2

    begin_erasure(memory, memory._context.records(Owner(Level.MODULE, "default", None, "tutor")))

    assert [one.page_content for one in alice.similarity_search(TEXT)] == [TEXT]


def test_documents_of_nobody_are_still_a_violation(memory: IsolatedMemory):
    store = in_memory(NGramEmbeddings())
    store.add_texts(["planted"])
    alice = scope_of(memory, "alice")

    for _ in range(2):
        with pytest.raises(IsolationViolation):
            alice.retriever(store.as_retriever()).invoke(TEXT)
        alice.stamped([Document(TEXT)])


def test_a_document_written_in_parts_is_stopped_between_them(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    store = in_memory(NGramEmbeddings())
    memory._context.known_stores.include(store)
    put, puts = InMemoryAdapter.put, []

    def erasing(adapter: InMemoryAdapter, documents: Any, vectors: Any) -> None:
        puts.append(len(documents))
        put(adapter, documents, vectors)
        if len(puts) == 1:
            memory.erase_user("alice")

    alice = wrapped(memory, store)
    monkeypatch.setattr(InMemoryAdapter, "put", erasing)

    with pytest.raises(KeyDestroyed):
        alice.add_texts([TEXT] * 1_001)
    assert (puts, everything_in(store)) == ([1_000], [])


def test_the_command_line_is_told_of_stores_and_takes_those_that_are_left_out(
    database_url: str, root_key: LocalRootKey
):
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        wrapped(memory, in_memory(NGramEmbeddings()), name="notes").add_texts([TEXT])
    asked = ("erase", "--user", "alice", "--yes", "--database", database_url)

    assert "does not have: notes" in error_line(run(*asked))
    done = run(*asked, "--without-store", "notes")
    assert "store_note: 1" in done.stdout


def test_a_store_may_be_included_again_and_again(memory: IsolatedMemory):
    store, known = in_memory(NGramEmbeddings()), memory._context.known_stores
    for name in (None, None, "notes", "notes"):
        known.include(store, name)

    assert [len(known.of_name(name)) for name in ("InMemoryVectorStore", "notes", "x")] == [1, 1, 0]


# --- modules and projects that are written to meanwhile


def erase_place(memory: IsolatedMemory, what: str) -> ErasureReceipt:
    return memory.erase_module("tutor") if what == "module" else memory.erase_project("default")


def before_the(
    step: str, monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]
) -> list[object]:
    """What a call comes to that somebody makes when an erasure is about to take a step."""
    real, came = getattr(ErasureRunner, step), list[object]()

    def stepped(*args: Any) -> object:
        came.append(tried(call))
        return real(*args)

    monkeypatch.setattr(ErasureRunner, step, stepped)
    return came


@pytest.mark.parametrize("is_noted", [True, False], ids=["known", "new"])
@pytest.mark.parametrize("step", ["_end_lives", "_remove_all"])
@pytest.mark.parametrize("what", ["module", "project"])
def test_users_of_a_place_write_to_no_store_any_more_once_its_erasure_has_begun(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch, what: str, step: str, is_noted: bool
):
    store = in_memory(NGramEmbeddings())
    alice = wrapped(memory, store)
    if is_noted:
        alice.add_texts([TEXT])
    scope_of(memory, "alice").chat_history("s").add_user_message("hi")
    came = before_the(step, monkeypatch, lambda: alice.add_texts([TEXT]))

    assert erase_place(memory, what).is_finished

    assert came == [KeyDestroyed]
    assert everything_in(store) == []
    alice = wrapped(memory, store)
    alice.add_texts(["anew"])
    assert [one.page_content for one in alice.similarity_search(TEXT)] == ["anew"]


def test_who_begins_in_another_module_of_a_project_that_is_erased_leaves_no_document(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    store = in_memory(NGramEmbeddings())
    scope_of(memory, "alice").chat_history("s").add_user_message("hi")
    notes = scope_of(memory, "alice", "another").vector_store(wrapping=store, probe=False)
    came = before_the("_end_lives", monkeypatch, lambda: notes.add_texts([TEXT]))

    assert memory.erase_project("default").is_finished

    assert came == [KeyDestroyed]
    assert everything_in(store) == []


@pytest.mark.parametrize("what", ["module", "project"])
def test_documents_of_whoever_begins_in_a_place_while_it_is_erased_stay(
    memory: IsolatedMemory, what: str
):
    store = in_memory(NGramEmbeddings())
    wrapped(memory, store).add_texts(["of alice"])

    def come(_: object) -> None:
        time.sleep(0.002)
        wrapped(memory, store, "bob").add_texts([TEXT])

    memory.erasure.register("newcomer", come, lambda _: True)
    assert erase_place(memory, what).is_finished

    assert [text for _, text, _ in everything_in(store)] == [TEXT]
    assert [one.page_content for one in wrapped(memory, store, "bob").similarity_search(TEXT)]


@pytest.mark.parametrize("what", ["module", "project"])
def test_nothing_is_left_while_threads_write_to_a_place_that_is_erased(
    memory: IsolatedMemory, database_url: str, root_key: LocalRootKey, what: str
):
    store, has_begun = in_memory(NGramEmbeddings()), threading.Barrier(5)
    memory._context.known_stores.include(store)

    def work(notes: WrappedVectorStore) -> object:
        notes.add_texts([TEXT])
        has_begun.wait(60)
        while True:
            try:
                notes.add_texts([TEXT])
            except DatabaseLocked:
                continue
            except Exception as error:  # noqa: BLE001 - looked at below
                return type(error)

    with IsolatedMemory(database_url, root_key=root_key) as other, ThreadPoolExecutor(4) as pool:
        users = ("alice", "bob", "carol", "dan")
        working = [pool.submit(work, wrapped(other, store, user)) for user in users]
        has_begun.wait(60)
        assert erase_place(memory, what).is_finished
        assert {one.result(60) for one in working} == {KeyDestroyed}

    assert everything_in(store) == []
