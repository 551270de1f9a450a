"""Promises 1, 3 and 4 for caches and record managers: apart, unreadable, and in their places.

Each leak is first shown on LangChain's own, shared as it is shared where nobody thinks of scopes.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_classic.retrievers import ParentDocumentRetriever
from langchain_classic.storage import create_kv_docstore
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.documents import Document
from langchain_core.globals import set_llm_cache
from langchain_core.indexing import InMemoryRecordManager, RecordManager, aindex, index
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import RunnableLambda
from langchain_core.stores import BaseStore, InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_text_splitters import CharacterTextSplitter

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._storage import entries
from langmem_isolated._storage.entries import Entry
from langmem_isolated.errors import RecordDoesNotOpen, RecordError, ValueNotStorable
from tests.conftest import Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.lasting import lasting, lasting_url
from tests.postgres import PostgresServer
from tests.promises.test_nothing_readable_on_disk import (
    Disk,
    Talkative,
    canary,
    files_in,
    readable_in,
    told_by,
)
from tests.promises.test_nothing_readable_on_disk import log as talkative_log
from tests.promises.test_users_cannot_see_each_other import HOSTILE_IDS

FIXTURES = (talkative_log, lasting, lasting_url)
MODEL = "[('model', 'm')]"
_numbers = itertools.count()

People = tuple[ScopedMemory, ScopedMemory]


@pytest.fixture
def people(lasting: IsolatedMemory) -> People:
    """Alice and Bob, in the same module."""
    number = next(_numbers)
    alice, bob = (
        lasting.scope(user_id=f"{name} {number}", module_id="tutor") for name in ("alice", "bob")
    )
    return alice, bob


# --- apart: answers -------------------------------------------------------------------------------


@pytest.fixture
def _no_cache_is_left() -> Iterator[None]:
    yield
    set_llm_cache(None)


async def asked_by_both(cache: BaseCache, people: People, door: Door) -> list[str]:
    """What Alice, then Bob, are told by a model that numbers its answers."""
    set_llm_cache(cache)
    chain = RunnableLambda(lambda text: text) | FakeListChatModel(responses=["first", "second"])
    return [
        (
            await door(
                chain,
                "invoke",
                "What do you know about me?",
                {"configurable": {"user_id": one.scope.user_id, "module_id": "tutor"}},
            )
        ).content
        for one in people
    ]


@pytest.mark.usefixtures("_no_cache_is_left")
async def test_langchains_cache_gives_bob_the_answer_to_alice_and_ours_does_not(
    lasting: IsolatedMemory, people: People, door: Door
):
    assert await asked_by_both(InMemoryCache(), people, door) == ["first", "first"]

    assert await asked_by_both(lasting.llm_cache(), people, door) == ["first", "second"]


@pytest.mark.usefixtures("_no_cache_is_left")
async def test_clearing_langchains_cache_clears_everybodys_and_ours_does_not(
    people: People, door: Door
):
    shared = InMemoryCache()
    left = []
    for hers, his in ((shared, shared), tuple(one.llm_cache() for one in people)):
        await door(hers, "update", "q", MODEL, [Generation(text="x")])
        await door(his, "clear")
        left.append(await door(hers, "lookup", "q", MODEL))

    assert left == [None, [Generation(text="x")]]


# --- apart: embeddings ----------------------------------------------------------------------------


class Asked(NGramEmbeddings):
    """Remembers what it was asked for, as somebody does who looks at the time."""

    def __init__(self) -> None:
        super().__init__(4)
        self.texts: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.texts += texts
        return super().embed_documents(texts)


async def embedded_after_bob_was_curious(
    hers: BaseStore[str, bytes], his: BaseStore[str, bytes], door: Door
) -> tuple[list[str], list[float]]:
    """What the model is asked for Bob, who guesses what Alice wrote, and Alice's vector then."""

    def cached(model: Asked, store: BaseStore[str, bytes]) -> CacheBackedEmbeddings:
        return CacheBackedEmbeddings.from_bytes_store(model, store, key_encoder="blake2b")

    model = Asked()
    secret = ["My salary is 5,000"]
    await door(cached(Asked(), hers), "embed_documents", secret)
    await door(cached(model, his), "embed_documents", secret)
    for key in list(his.yield_keys()):
        his.mset([(key, b"[0.0, 0.0, 0.0, 1.0]")])
    (vector,) = await door(cached(Asked(), hers), "embed_documents", secret)
    return model.texts, vector


async def test_a_shared_store_of_embeddings_tells_bob_what_alice_wrote_and_lets_him_change_it(
    people: People, door: Door
):
    shared = InMemoryByteStore()
    asked, vector = await embedded_after_bob_was_curious(shared, shared, door)
    assert (asked, vector) == ([], [0.0, 0.0, 0.0, 1.0])

    asked, vector = await embedded_after_bob_was_curious(
        *(one.byte_store("embeddings") for one in people), door
    )
    assert asked == ["My salary is 5,000"]
    assert vector == NGramEmbeddings(4).embed_query("My salary is 5,000")


# --- apart: parents of documents ------------------------------------------------------------------


async def parents_that_alice_finds(
    stores: list[BaseStore[str, bytes]], chunks: list[VectorStore], ids: list[str], door: Door
) -> list[str]:
    """Both store a report under an id of theirs; Alice then asks for hers, with her filter on."""
    retrievers = [
        ParentDocumentRetriever(
            vectorstore=found,
            docstore=create_kv_docstore(store),
            child_splitter=CharacterTextSplitter(separator=" ", chunk_size=10, chunk_overlap=0),
            search_kwargs={
                "k": 10,
                "filter": (lambda chunk, owner=owner: chunk.metadata["owner"] == owner)
                if isinstance(found, InMemoryVectorStore)
                else {"owner": owner},
            },
        )
        for owner, store, found in zip(("alice", "bob"), stores, chunks, strict=True)
    ]
    for owner, retriever, id_ in zip(("alice", "bob"), retrievers, ids, strict=True):
        report = Document(f"The salary of {owner}", metadata={"owner": owner})
        await door(retriever, "add_documents", [report], ids=[id_])
    found = await door(retrievers[0], "invoke", "salary")
    return [document.page_content for document in found]


async def test_shared_parents_give_alice_the_report_of_bob_who_chose_the_same_id_and_ours_do_not(
    people: People, door: Door
):
    ids = ["report.pdf", "report.pdf"]
    store, chunks = InMemoryByteStore(), InMemoryVectorStore(NGramEmbeddings())
    found = await parents_that_alice_finds([store, store], [chunks, chunks], ids, door)
    assert found == ["The salary of bob"]

    stores = [one.byte_store("parents") for one in people]
    hers = await parents_that_alice_finds(
        stores, [one.vector_store(NGramEmbeddings()) for one in people], ids, door
    )
    assert hers == ["The salary of alice"]


async def test_a_chunk_that_names_anothers_parent_leads_there_in_a_shared_store_and_not_in_ours(
    people: People, door: Door
):
    """Even over a vector store that all share."""
    shared = InMemoryByteStore()
    found = []
    for stores in ([shared, shared], [one.byte_store("parents") for one in people]):
        chunks = InMemoryVectorStore(NGramEmbeddings())
        await parents_that_alice_finds(list(stores), [chunks] * 2, ["hers", "his"], door)
        forged = Document("salary", metadata={"owner": "alice", "doc_id": "his"})
        chunks.add_documents([forged])
        retriever = ParentDocumentRetriever(
            vectorstore=chunks,
            docstore=create_kv_docstore(stores[0]),
            child_splitter=CharacterTextSplitter(),
            search_kwargs={"k": 1, "filter": lambda chunk: chunk.metadata["owner"] == "alice"},
        )
        found.append([one.page_content for one in await door(retriever, "invoke", "salary")])

    assert found == [["The salary of bob"], []]


# --- apart: what was indexed ----------------------------------------------------------------------


class Shelf:
    """Somebody's documents, indexed through either door."""

    def __init__(self, manager: RecordManager, store: VectorStore) -> None:
        self.manager, self.store = manager, store

    def index(self, texts: list[str], cleanup: Any) -> Any:
        return index(_documents(texts), self.manager, self.store, **_options(cleanup))

    async def aindex(self, texts: list[str], cleanup: Any) -> Any:
        return await aindex(_documents(texts), self.manager, self.store, **_options(cleanup))

    def texts(self) -> list[str]:
        return sorted(one.page_content for one in self.store.similarity_search("", k=100))


def _documents(texts: list[str]) -> list[Document]:
    return [Document(text, metadata={"source": "notes.txt"}) for text in texts]


def _options(cleanup: Any) -> dict[str, Any]:
    return {"cleanup": cleanup, "source_id_key": "source", "key_encoder": "blake2b"}


@pytest.mark.parametrize("cleanup", ["full", "incremental", "scoped_full"])
async def test_indexing_with_a_shared_manager_deletes_alices_documents_and_with_ours_bobs_alone(
    people: People, door: Door, cleanup: str
):
    common = Shelf(InMemoryRecordManager("docs"), InMemoryVectorStore(NGramEmbeddings()))
    left = []
    for hers, his in (
        (common, common),
        tuple(Shelf(one.record_manager(), one.vector_store(NGramEmbeddings())) for one in people),
    ):
        await door(hers, "index", ["alice 1", "alice 2", "both"], cleanup)
        await door(his, "index", ["bob 1", "both"], cleanup)
        await door(his, "index", ["bob 2"], cleanup)
        left.append((hers.texts(), his.texts()))

    assert left == [(["bob 2"], ["bob 2"]), (["alice 1", "alice 2", "both"], ["bob 2"])]


# --- apart: whatever they are called --------------------------------------------------------------


def assert_each_sees_its_own(scopes: dict[Any, ScopedMemory]) -> None:
    for who, scoped in scopes.items():
        (answer,) = scoped.llm_cache().lookup("q", MODEL) or []
        assert answer.text == repr(who)
        store, manager = scoped.byte_store("s"), scoped.record_manager("s")
        assert store.mget(["k", repr(who)]) == [repr(who).encode()] * 2
        assert sorted(store.yield_keys()) == sorted(["k", repr(who)])
        assert sorted(manager.list_keys(group_ids=["source"])) == sorted(["k", repr(who)])
        assert manager.exists(["k", repr(who), "other"]) == [True, True, False]


def filled(scopes: dict[Any, ScopedMemory]) -> None:
    for who, scoped in scopes.items():
        scoped.llm_cache().update("q", MODEL, [Generation(text=repr(who))])
        scoped.byte_store("s").mset([(key, repr(who).encode()) for key in ("k", repr(who))])
        scoped.record_manager("s").update(["k", repr(who)], group_ids=["source"] * 2)


def test_users_with_names_that_look_alike_have_their_own(memory: IsolatedMemory):
    scopes = {name: memory.scope(user_id=name, module_id="tutor") for name in HOSTILE_IDS}
    filled(scopes)
    assert_each_sees_its_own(scopes)

    leaver = scopes.pop("a")
    leaver.llm_cache().clear()
    leaver.byte_store("s").mdelete(["k", "'a'"])
    leaver.record_manager("s").delete_keys(leaver.record_manager("s").list_keys())
    assert list(leaver.byte_store("s").yield_keys()) == []
    assert_each_sees_its_own(scopes)


def test_modules_and_projects_of_one_user_are_apart(memory: IsolatedMemory):
    names = ["a", "b", "a:b", "ab", "a,b", "%"]
    scopes = {
        (user, module, project): memory.scope(user_id=user, module_id=module, project_id=project)
        for user, module, project in itertools.product(names[:3], names[:3], names[:2])
    }

    filled(scopes)

    assert_each_sees_its_own(scopes)


def test_the_same_names_have_other_digests_in_another_scope_and_another_space(
    memory: IsolatedMemory, attacker: Attacker
):
    for user, module in (("alice", "tutor"), ("alice", "planner"), ("bob", "tutor")):
        scoped = memory.scope(user_id=user, module_id=module)
        for name in ("one", "other"):
            scoped.byte_store(name).mset([("k", b"")])
            scoped.record_manager(name).update(["k"], group_ids=["source"])

    for column, count in (("parent", 12), ("key", 12), ("tag", 6)):
        assert attacker(f"SELECT COUNT(DISTINCT {column}) FROM records") == [(count,)]


# --- unreadable -----------------------------------------------------------------------------------


def answer() -> list[Generation]:
    return [
        Generation(text=canary("text"), generation_info={canary("key"): [canary("value")]}),
        ChatGeneration(
            message=AIMessage(canary("content"), id=canary("id"), name=canary("name")),
            generation_info={canary("key"): b"%b" % canary("bytes").encode()},
        ),
        Generation(text=f"{canary('long')} " * 500),
    ]


async def use_everything(memory: IsolatedMemory, door: Door) -> ScopedMemory:
    """Put a canary into everything that a caller supplies, and run every operation over it."""
    scoped = memory.scope(user_id=canary("user"), module_id=canary("module"))
    prompt, key, long = canary("prompt"), canary("key"), canary("long") * 200
    for cache in (scoped.llm_cache(), scoped.llm_cache(ttl=timedelta(milliseconds=1))):
        for asked in (prompt, long, canary("prompt")):
            await door(cache, "update", asked, canary("model"), answer())
            await door(cache, "lookup", asked, canary("model"))
    await asyncio.sleep(0.003)
    await door(cache, "sweep")
    store = scoped.byte_store(canary("store"))
    for value in (canary("value"), long, "x" * 5_000 + canary("end")):
        pairs = [(key, value.encode()), (canary("key"), value.encode()), (long, b"")]
        await door(store, "mset", pairs)
        await door(store, "mget", [key, canary("key")])
        assert list(store.yield_keys(prefix=canary("prefix"))) == []
    await door(store, "mdelete", [key, canary("key")])
    manager = scoped.record_manager(canary("manager"))
    await door(manager, "update", [key, canary("key")], group_ids=[canary("group"), long])
    await door(manager, "list_keys", group_ids=[canary("group"), long])
    await door(manager, "exists", [key, canary("key")])
    await door(manager, "delete_keys", [key, canary("key")])
    return scoped


async def test_no_part_of_them_is_readable_in_the_files_or_the_dump(
    memory: IsolatedMemory,
    door: Door,
    database_url: str,
    tmp_path: Path,
    postgres: PostgresServer,
):
    disk = Disk(database_url, tmp_path, postgres)

    await use_everything(memory, door)

    # Both while it is open, when the newest is in the WAL alone, and when it is closed.
    for close in (memory.close, memory.close):
        assert disk.readable() == {}
        assert len(b"".join(disk.contents().values())) > 5_000
        close()


async def test_no_part_of_them_is_readable_in_the_files_of_the_server(
    postgres: PostgresServer, postgres_url: str, root_key: LocalRootKey, door: Door
):
    with IsolatedMemory(postgres_url, root_key=root_key) as memory:
        await use_everything(memory, door)
        memory._database.inspect(lambda connection: connection.exec_driver_sql("CHECKPOINT"))

    content = files_in(postgres.data)
    assert [name for name, file in content.items() if readable_in(file)] == []


async def test_no_part_of_them_is_readable_in_a_log(
    request: pytest.FixtureRequest, database_url: str, root_key: LocalRootKey, door: Door
):
    log = request.getfixturevalue("talkative_log")
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        await use_everything(memory, door)

    assert [text for text in log.texts if readable_in(text.encode())] == []
    assert log.texts


def provoked(scoped: ScopedMemory, attacker: Attacker) -> list[Callable[[], object]]:
    """Calls given canaries, each of which raises; the last find the rows broken."""
    cache, store = scoped.llm_cache(), scoped.byte_store(canary("store"))
    manager, key, prompt = scoped.record_manager(), canary("key"), canary("prompt")
    cache.update(prompt, MODEL, answer())
    store.mset([(key, canary("value").encode())])
    manager.update([key], group_ids=[canary("group")])

    def tampered() -> object:
        # No mark: it would stay in the server's WAL.
        attacker("UPDATE records SET sealed = ?", b"changed")
        return cache.lookup(prompt, MODEL)

    lone = f"{canary('lone')}\ud800"
    return [
        lambda: scoped.byte_store(f"{canary('store')}\x00"),
        lambda: scoped.record_manager(f"{canary('store')}\x00"),
        lambda: cache.clear(**{canary("keyword"): canary("value")}),
        lambda: store.mset([(lone, canary("value"))]),  # type: ignore[list-item]
        lambda: store.mget([key.encode()]),  # type: ignore[list-item]
        lambda: store.mdelete([key, Talkative()]),  # type: ignore[list-item]
        lambda: manager.update([key, lone, Talkative()]),
        lambda: manager.update([key, key], group_ids=[lone]),
        lambda: manager.update([key], group_ids=[canary("group"), canary("group")]),
        tampered,
        lambda: store.mget([key]),
        lambda: list(store.yield_keys(prefix=canary("prefix"))),
        lambda: manager.exists([key]),
        manager.list_keys,
        manager.get_time,
    ]


def test_errors_quote_nothing_of_them(memory: IsolatedMemory, attacker: Attacker):
    scoped = memory.scope(user_id=canary("user"), module_id="m")

    for provoke in provoked(scoped, attacker):
        with pytest.raises((ValueError, TypeError, RecordError)) as raised:
            provoke()
        # The lines of this file are in the traceback, but canaries are made when they run.
        assert [text for text in told_by(raised.value) if readable_in(text.encode())] == []


# --- in their places ------------------------------------------------------------------------------

Place = tuple[bytes, bytes, bytes]
STORE, INDEX = (b"byte store", b"s"), (b"indexed documents", b"s")


class Scene:
    """Alice's entries, others that their rows could come from, and who moves them."""

    def __init__(self, memory: IsolatedMemory, attacker: Attacker) -> None:
        self.memory, self.attacker = memory, attacker
        self.alice = self.scope_of("alice", "tutor")
        self.store, self.manager = self.alice.byte_store("s"), self.alice.record_manager("s")
        self.store.mset([("k", b"Alice's")])
        self.manager.update(["k"], group_ids=["source"])
        self.place = self.place_of("alice", "tutor")

    def scope_of(self, user: str, module: str) -> ScopedMemory:
        return self.memory.scope(user_id=user, module_id=module)

    def place_of(
        self, user: str, module: str, names: tuple[bytes, ...] = STORE, key: bytes = b"\xa1k"
    ) -> Place:
        keys = self.scope_of(user, module)._records.keys()
        space = entries._Namespace(keys, names)
        return keys.scope_id, space.parent, space.key(key)

    def sealed_at(self, place: Place) -> bytes:
        ((sealed,),) = self.attacker(
            "SELECT sealed FROM records WHERE scope_id = ? AND parent = ? AND key = ?", *place
        )
        return bytes(sealed)

    def set(self, what: str, *values: object, place: Place | None = None) -> None:
        """Change the row of an entry, Alice's in the store: ``what`` is the SQL behind SET."""
        self.attacker(
            f"UPDATE records SET {what} WHERE scope_id = ? AND parent = ? AND key = ?",
            *values, *(place or self.place),
        )  # fmt: skip


@pytest.fixture
def scene(memory: IsolatedMemory, attacker: Attacker) -> Scene:
    return Scene(memory, attacker)


async def assert_no_read_opens_it(scene: Scene, door: Door) -> None:
    for keys in (["k"], ["absent", "k"]):
        with pytest.raises(RecordDoesNotOpen):
            await door(scene.store, "mget", keys)
    with pytest.raises(RecordDoesNotOpen):
        list(scene.store.yield_keys(prefix="other"))
    with pytest.raises(RecordDoesNotOpen):
        assert [key async for key in scene.store.ayield_keys()]


@pytest.mark.parametrize(
    "origin", ["another key", "another store", "an index", "another user", "another module"]
)
async def test_an_entry_moved_into_another_entrys_row_does_not_open(
    scene: Scene, door: Door, origin: str
):
    names, key = STORE, b"\xa1k"
    user, module = "alice", "tutor"
    if origin == "another key":
        key = b"\xa1l"
        scene.store.mset([("l", b"other")])
    elif origin == "another store":
        names = (b"byte store", b"other")
        scene.alice.byte_store("other").mset([("k", b"other")])
    elif origin == "an index":
        names = INDEX
    else:
        user, module = ("bob", "tutor") if origin == "another user" else ("alice", "planner")
        scene.scope_of(user, module).byte_store("s").mset([("k", b"other")])

    scene.set("sealed = ?", scene.sealed_at(scene.place_of(user, module, names, key)))

    await assert_no_read_opens_it(scene, door)


@pytest.mark.parametrize("part", ["scope", "space", "key"])
async def test_a_whole_row_moved_to_another_place_does_not_open(
    scene: Scene, door: Door, part: str
):
    bob = scene.scope_of("bob", "tutor").byte_store("s")
    bob.mset([("else", b"")])
    reader, key = scene.store, "k"
    if part == "scope":
        reader = bob
        scene.set("scope_id = ?, parent = ?, key = ?", *scene.place_of("bob", "tutor"))
    elif part == "space":
        reader = scene.alice.byte_store("other")
        to = scene.place_of("alice", "tutor", (b"byte store", b"other"))
        scene.set("parent = ?, key = ?", *to[1:])
    else:
        key = "l"
        scene.set("key = ?", scene.place_of("alice", "tutor", key=b"\xa1l")[2])

    with pytest.raises(RecordDoesNotOpen):
        await door(reader, "mget", [key])
    with pytest.raises(RecordDoesNotOpen):
        list(reader.yield_keys())


async def test_an_entry_changed_in_any_part_cut_off_or_in_plaintext_does_not_open(
    scene: Scene, door: Door
):
    sealed = scene.sealed_at(scene.place)
    flipped = [
        sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        for at in (0, 1, 17, 29, 30, len(sealed) - 17, len(sealed) - 1)
    ]
    for other in (*flipped, b"", sealed[:16], sealed[:45], sealed[:-1], sealed + b"\x00", b"k"):
        scene.set("sealed = ?", other)
        await assert_no_read_opens_it(scene, door)


async def test_an_answer_moved_or_changed_is_not_given(
    memory: IsolatedMemory, attacker: Attacker, door: Door
):
    caches = [memory.scope(user_id=u, module_id="m").llm_cache() for u in ("alice", "bob")]
    for number, cache in enumerate(caches):
        for prompt in ("q", "r"):
            await door(cache, "update", prompt, MODEL, [Generation(text=f"{prompt}{number}")])
    rows = attacker("SELECT sealed, scope_id, parent, key FROM records")

    # Every one of the four rows gets the bytes of the next.
    for (_, *place), (sealed, *_) in zip(rows, rows[1:] + rows[:1], strict=True):
        attacker(
            "UPDATE records SET sealed = ? WHERE scope_id = ? AND parent = ? AND key = ?",
            bytes(sealed), *map(bytes, place),
        )  # fmt: skip

    for cache, prompt in itertools.product(caches, ("q", "r")):
        with pytest.raises(RecordDoesNotOpen):
            await door(cache, "lookup", prompt, MODEL)


@pytest.mark.parametrize("change", ["updated_at = updated_at + 1", "expires_at = 9999999999999999",
                                    "updated_at = 7"])  # fmt: skip
async def test_an_entry_cannot_be_given_other_times(scene: Scene, door: Door, change: str):
    scene.set(change)

    await assert_no_read_opens_it(scene, door)


async def test_an_answers_life_cannot_be_prolonged(
    memory: IsolatedMemory, attacker: Attacker, door: Door
):
    cache = memory.scope(user_id="alice", module_id="m").llm_cache(ttl=timedelta(milliseconds=1))
    await door(cache, "update", "q", MODEL, [Generation(text="old")])
    time.sleep(0.003)  # noqa: ASYNC251 -- until it has expired

    for expiry in ("NULL", "expires_at + 1000000"):
        attacker(f"UPDATE records SET expires_at = {expiry}")
        with pytest.raises(RecordDoesNotOpen, match="its times or its tag"):
            await door(cache, "lookup", "q", MODEL)


async def test_a_record_cannot_be_made_to_look_out_of_date_or_of_another_source(
    scene: Scene, door: Door
):
    """What `index` would delete."""
    start = await door(scene.manager, "get_time")
    await door(scene.manager, "update", ["k"], group_ids=["source"], time_at_least=start)
    place = scene.place_of("alice", "tutor", INDEX)
    ((tag, updated_at),) = scene.attacker(
        "SELECT tag, updated_at FROM records WHERE scope_id = ? AND parent = ? AND key = ?", *place
    )
    await door(scene.manager, "update", ["l"], group_ids=["other"])
    other = scene.place_of("alice", "tutor", INDEX, b"\xa1l")
    ((other_tag,),) = scene.attacker(
        "SELECT tag FROM records WHERE scope_id = ? AND parent = ? AND key = ?", *other
    )

    scene.set("updated_at = 7", place=place)
    with pytest.raises(RecordDoesNotOpen):
        await door(scene.manager, "list_keys", before=start)
    with pytest.raises(RecordDoesNotOpen):
        await door(scene.manager, "list_keys", before=start, group_ids=["source"])
    scene.set("updated_at = ?, tag = ?", updated_at, bytes(other_tag), place=place)
    for sources in (["other"], ["source", "other"], None):
        with pytest.raises(RecordDoesNotOpen):
            await door(scene.manager, "list_keys", group_ids=sources)
    scene.set("tag = NULL", place=place)
    with pytest.raises(RecordDoesNotOpen):
        await door(scene.manager, "exists", ["k"])
    scene.set("tag = ?", bytes(tag), place=place)
    assert await door(scene.manager, "list_keys", before=start) == []


async def test_the_clock_of_an_index_cannot_be_put_forward(scene: Scene, door: Door):
    place = scene.place_of("alice", "tutor", INDEX)
    for odd in (2**62, -1, "later") if not scene.attacker.is_postgres else (2**62, -1):
        scene.set("updated_at = ?", odd, place=place)

        with pytest.raises(RecordDoesNotOpen):
            await door(scene.manager, "get_time")
        with pytest.raises(RecordDoesNotOpen):
            await door(scene.manager, "update", ["m"])


@pytest.mark.parametrize("column", ["key", "sealed", "tag", "updated_at", "expires_at"])
@pytest.mark.parametrize("odd", ["text", 7.5, -(2**63)])
def test_odd_types_in_a_sqlite_column_are_refused_as_tampering(
    sqlite_url: str, root_key: LocalRootKey, column: str, odd: Any
):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        attacker = Attacker(sqlite_url)
        scene = Scene(memory, attacker)
        scene.set(f"{column} = ?", odd)
        if column == "key" or (column == "expires_at" and odd != "text"):
            # Before every key that is asked for, or long expired: it might as well be removed.
            assert list(scene.store.yield_keys()) == []
        else:
            with pytest.raises(RecordDoesNotOpen):
                list(scene.store.yield_keys())
        attacker.close()


async def test_a_put_replaces_a_row_that_was_tampered_with(scene: Scene, door: Door):
    scene.set("sealed = ?", b"changed")

    await door(scene.store, "mset", [("k", b"new")])

    assert await door(scene.store, "mget", ["k"]) == [b"new"]


async def test_what_can_be_done_unnoticed_is_to_remove_and_to_restore(scene: Scene, door: Door):
    """Without an anchor outside the database: said in the documentation, and no more than this."""
    before = scene.sealed_at(scene.place)
    ((updated_at,),) = scene.attacker(
        "SELECT updated_at FROM records WHERE scope_id = ? AND parent = ? AND key = ?",
        *scene.place,
    )
    scene.store.mset([("k", b"later")])

    scene.set("sealed = ?, updated_at = ?", before, updated_at)
    assert await door(scene.store, "mget", ["k"]) == [b"Alice's"]
    scene.set("expires_at = 1")
    assert await door(scene.store, "mget", ["k"]) == [None]
    scene.attacker("DELETE FROM records")
    assert await door(scene.store, "mget", ["k"]) == [None]


async def test_an_entry_of_a_later_form_says_so(scene: Scene, door: Door):
    """What a later version of this package may have written, sealed as it should be."""
    keys = scene.alice._records.keys()
    start = keys.aad_prefix(Kind.ENTRY, scene.place[1])
    plaintext = keys.open(start, scene.place[2], scene.sealed_at(scene.place), Kind.ENTRY)

    scene.set("sealed = ?", keys.seal(start, scene.place[2], b"\x02" + plaintext[1:]))

    with pytest.raises(RecordError, match="form 2, this version knows 1"):
        await door(scene.store, "mget", ["k"])


def test_names_of_spaces_that_callers_choose_are_never_ours(memory: IsolatedMemory):
    """Nor do names run together: each has its length with it."""
    records = memory.scope(user_id="alice", module_id="tutor")._records
    spaces = [(b"llm cache",), (b"byte store", b"llm cache"), (b"byte store", b""),
              (b"byte storellm cache",), (b"byte", b"store"), (b"byt", b"estore")]  # fmt: skip
    for number, names in enumerate(spaces):
        records.write(entries.put, names, [Entry(b"k", b"%d" % number)], 1)

    for number, names in enumerate(spaces):
        nothing: list[bytes | None] = []
        found = records.read(entries.get, nothing, names, [b"k"], 1)
        assert found == [b"%d" % number]


def test_refused_values_leave_nothing_behind(memory: IsolatedMemory, attacker: Attacker):
    scoped = memory.scope(user_id="alice", module_id="tutor")
    with pytest.raises(ValueNotStorable):
        scoped.byte_store().mset([("a", b"fine"), ("b", "text")])  # type: ignore[list-item]

    assert attacker("SELECT COUNT(*) FROM records") == [(0,)]
