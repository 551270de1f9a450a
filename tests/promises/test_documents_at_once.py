"""Promise 5 for documents: many at once lose nothing; what is kept opened is never out of date."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from langchain_core.documents import Document

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import KeyDestroyed
from langmem_isolated.vector_store import IsolatedVectorStore
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.processes import all_at_once, in_child

# So long that four make up a block.
EMBEDDINGS = NGramEmbeddings(2048)


def store_of(memory: IsolatedMemory, user: str = "alice") -> IsolatedVectorStore:
    return memory.scope(user_id=user, module_id="tutor").vector_store(EMBEDDINGS)


def opened(url: str, **options: float) -> IsolatedMemory:
    return IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), **options)  # type: ignore[arg-type]


def ids_of(documents: list[Document]) -> list[str]:
    return sorted(document.id or "" for document in documents)


def assert_whole(store: IsolatedVectorStore, expected: list[str]) -> None:
    """Search, ids and list agree on which documents are there."""
    assert ids_of(store.documents()) == sorted(expected)
    assert ids_of(store.similarity_search("text", k=len(expected) + 1)) == sorted(expected)
    assert ids_of(store.get_by_ids(expected)) == sorted(expected)


# --- many at once ---------------------------------------------------------------------------------


def add_one_by_one(store: IsolatedVectorStore, writer: str, number: int = 15) -> list[str]:
    """Some of its own, and again and again the one that all of them add."""
    ids = [f"{writer}-{place}" for place in range(number)]
    for id_ in ids:
        store.add_texts([f"text {id_}", f"text of {writer}"], ids=[id_, "all"])
    return ids


def test_documents_added_by_threads_are_all_there(memory: IsolatedMemory):
    """With one store for all of them, and with one of their own."""
    shared = store_of(memory)

    def add(writer: int) -> list[str]:
        return add_one_by_one(shared if writer % 2 else store_of(memory), f"w{writer}")

    with ThreadPoolExecutor(6) as threads:
        added = [id_ for ids in threads.map(add, range(6)) for id_ in ids]

    assert_whole(store_of(memory), [*added, "all"])


async def test_documents_added_by_tasks_are_all_there(memory: IsolatedMemory):
    ids = [str(number) for number in range(60)]

    await asyncio.gather(*(store_of(memory).aadd_texts([f"text {id_}"], ids=[id_]) for id_ in ids))

    assert_whole(store_of(memory), ids)


def write_from_elsewhere(url: str, writer: str) -> list[str]:
    with opened(url) as memory:
        return add_one_by_one(store_of(memory), writer)


def test_documents_added_by_processes_are_all_there(memory: IsolatedMemory, database_url: str):
    """The first of them make keys, scope and collection at the same moment."""
    writers = [partial(write_from_elsewhere, database_url, name) for name in "abc"]

    added = [id_ for ids in all_at_once(writers) for id_ in ids]

    assert_whole(store_of(memory), [*added, "all"])


def test_first_documents_of_many_users_at_once_are_all_there(memory: IsolatedMemory):
    users = [f"user-{number % 8}" for number in range(32)]

    with ThreadPoolExecutor(16) as threads:
        added = threads.map(
            lambda n: store_of(memory, users[n]).add_texts([f"text {n}"], ids=[str(n)]), range(32)
        )
        assert len([*added]) == 32

    for user in set(users):
        assert_whole(store_of(memory, user), [str(n) for n in range(32) if users[n] == user])


def test_additions_beside_deletions_and_clearing_leave_a_whole_store(memory: IsolatedMemory):
    """Whatever came last, nothing is left half: not even when a collection begins meanwhile."""
    done = threading.Event()

    def change(writer: int) -> int:
        for turn in range(25):
            ids = [f"{writer}-{turn % 5}", f"all-{turn % 3}"]
            store_of(memory).add_texts(["text one", "text two"], ids=ids)
            store_of(memory).delete(ids[writer % 2 :])
        return writer

    def clear() -> int:
        turns = 0
        while not done.is_set():
            store_of(memory).clear()
            turns += 1
            time.sleep(0.002)
        return turns

    with ThreadPoolExecutor(5) as threads:
        clearing = threads.submit(clear)
        assert [*threads.map(change, range(3))] == [0, 1, 2]
        done.set()
        assert clearing.result() > 3

    store = store_of(memory)
    assert_whole(store, ids_of(store.documents()))
    store.add_texts(["text"], ids=["last"])
    assert "last" in ids_of(store.similarity_search("text", k=99))


@pytest.mark.parametrize("seconds", [0, 60])
def test_readers_beside_writers_see_every_call_whole(database_url: str, seconds: int):
    """Each call replaces all documents: a reader that finds two versions saw half of one."""
    done = threading.Event()
    ids = [str(number) for number in range(8)]
    with opened(database_url, plaintext_cache_seconds=seconds) as memory:

        def put(version: int) -> None:
            texts, metadatas = [f"text {version}"] * 8, [{"version": version}] * 8
            store_of(memory).add_texts(texts, metadatas, ids=ids)

        def read() -> int:
            seen = 0
            while not done.is_set():
                for found in (
                    store_of(memory).similarity_search("text", k=9),
                    store_of(memory).get_by_ids(ids),
                    store_of(memory).documents(),
                ):
                    (version,) = {document.metadata["version"] for document in found}
                    assert ids_of(found) == ids
                    assert version >= seen
                    seen = version
            return seen

        put(0)
        with ThreadPoolExecutor(2) as threads:
            readers = [threads.submit(read) for _ in range(2)]
            for version in range(1, 40):
                put(version)
            done.set()
            assert all(reader.result() > 0 for reader in readers)


# --- erased scopes --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["gone", "came back", "gone, its documents left"])
@pytest.mark.parametrize("id_", ["1", "new"])
async def test_nothing_is_added_to_an_erased_scope(
    memory: IsolatedMemory, door: Door, attacker: Attacker, how: str, id_: str
):
    """Another process has erased the user; this one still has the keys in its cache."""
    store = store_of(memory)
    await door(store, "add_texts", ["one", "two"], ids=["1", "2"])
    if not attacker.is_postgres:
        attacker("PRAGMA foreign_keys = OFF")
    if how != "gone, its documents left":
        attacker("DELETE FROM records")
        attacker("DELETE FROM sessions")
    left = attacker("SELECT COUNT(*) FROM records")
    if how == "came back":
        attacker("UPDATE scopes SET birth = ?", bytes(16))
    else:
        attacker("DELETE FROM scopes")

    with pytest.raises(KeyDestroyed):
        await door(store, "add_texts", ["text"], ids=[id_])

    assert attacker("SELECT COUNT(*) FROM records") == left
    if how != "gone, its documents left":
        assert attacker("SELECT COUNT(*) FROM sessions") == [(0,)]


# --- with opened vectors kept ---------------------------------------------------------------------

CHANGES: dict[str, Callable[[IsolatedVectorStore], object]] = {
    "add": lambda store: store.add_texts(["text new"], ids=["new"]),
    "replace": lambda store: store.add_texts(["text changed"], ids=["0"]),
    "delete": lambda store: store.delete(["0", "5"]),
    "delete a block": lambda store: store.delete(["0", "1", "2", "3"]),
    "clear": lambda store: store.clear(),
    "fill again": lambda store: (store.clear(), fill(store)),
}


def fill(store: IsolatedVectorStore) -> None:
    store.add_texts([f"text {n}" for n in range(9)], ids=[str(n) for n in range(9)])


def change_elsewhere(url: str, change: str) -> None:
    with opened(url) as memory:
        CHANGES[change](store_of(memory))


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_by_another_memory_or_process_is_seen_at_once(
    database_url: str, change: str
):
    with (
        opened(database_url, plaintext_cache_seconds=600) as reading,
        opened(database_url) as other,
    ):
        store = store_of(reading)
        for elsewhere in (
            lambda: CHANGES[change](store_of(reading)),
            lambda: CHANGES[change](store_of(other)),
            lambda: in_child(change_elsewhere, database_url, change),
        ):
            fill(store)
            for _ in range(2):
                store.similarity_search("text", k=20)

            elsewhere()

            fresh = store_of(other).similarity_search_with_score("text", k=20)
            assert store.similarity_search_with_score("text", k=20) == fresh
            found = await store.asimilarity_search_with_score("text", k=20)
            assert found == fresh
            assert ids_of([document for document, _ in found]) == ids_of(store.documents())


def test_what_is_kept_is_its_owners_alone(sqlite_url: str):
    with opened(sqlite_url, plaintext_cache_seconds=600) as memory:
        stores = [
            *(store_of(memory, user) for user in ("alice", "bob")),
            memory.scope(user_id="alice", module_id="m").vector_store(EMBEDDINGS),
            memory.scope(user_id="alice", module_id="m").vector_store(EMBEDDINGS, collection="c"),
            memory.publisher(user_id="eve").vector_store(EMBEDDINGS),
        ]
        for number, store in enumerate(stores):
            store.add_texts([f"text of {number}"], ids=["same"])

        for _ in range(2):
            for number, store in enumerate(stores):
                (found,) = store.similarity_search("text", k=9)
                assert found.page_content == f"text of {number}"


def kept(memory: IsolatedMemory) -> int:
    assert memory._context.plaintext_cache is not None
    return len(memory._context.plaintext_cache._entries)


def test_what_is_kept_is_gone_when_its_time_is_up(sqlite_url: str):
    with opened(sqlite_url, plaintext_cache_seconds=0.05) as memory:
        fill(store_of(memory))
        fill(store_of(memory, "bob"))
        store_of(memory).similarity_search("text")
        assert kept(memory) == 1

        time.sleep(0.06)

        store_of(memory, "bob").similarity_search("text")
        assert kept(memory) == 1
        time.sleep(0.06)
        assert len(store_of(memory).similarity_search("text", k=20)) == 9
        assert kept(memory) == 1


def test_closing_lets_go_of_what_was_kept(database_url: str):
    memory = opened(database_url, plaintext_cache_seconds=600)
    fill(store_of(memory))
    store_of(memory).similarity_search("text")
    assert kept(memory) == 1

    memory.close()

    assert kept(memory) == 0


def test_by_default_and_beyond_the_bound_nothing_is_kept(sqlite_url: str):
    with opened(sqlite_url) as memory:
        fill(store_of(memory))
        store_of(memory).similarity_search("text")
        assert memory._context.plaintext_cache is None
    with opened(sqlite_url, plaintext_cache_seconds=600, plaintext_cache_bytes=10_000) as memory:
        assert len(store_of(memory).similarity_search("text", k=20)) == 9
        assert kept(memory) == 0


def test_an_erased_scope_finds_nothing_of_what_was_kept(database_url: str):
    with opened(database_url, plaintext_cache_seconds=600) as memory:
        store = store_of(memory)
        fill(store)
        assert len(store.similarity_search("text", k=20)) == 9
        attacker = Attacker(database_url)
        for table in ("records", "sessions", "scopes"):
            attacker(f"DELETE FROM {table}")
        attacker.close()

        assert store.similarity_search("text", k=20) == []
