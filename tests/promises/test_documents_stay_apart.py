"""Promises 1 to 3 for documents: apart, none without a scope, and readable nowhere."""

import asyncio
import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import RecordError, ScopeError
from langmem_isolated.publisher import Publisher
from langmem_isolated.vector_store import IsolatedVectorStore
from tests.conftest import Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.postgres import PostgresServer
from tests.promises.test_no_scope_no_memory import NOT_IDS
from tests.promises.test_no_scope_no_memory import untouched as an_untouched_memory
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

assert talkative_log  # a fixture
assert an_untouched_memory  # another


@pytest.fixture(name="untouched")
def _untouched(an_untouched_memory: IsolatedMemory) -> IsolatedMemory:
    return an_untouched_memory


EMBEDDINGS = NGramEmbeddings()


def texts(documents: list[Document]) -> set[str]:
    found = [document.page_content for document in documents]
    assert len(set(found)) == len(found)
    return set(found)


def finds(store: IsolatedVectorStore) -> dict[str, set[str]]:
    """Everything a store gives out, by every way there is."""
    vector = EMBEDDINGS.embed_query("a text")
    scored = store.similarity_search_with_score("a text", k=99)
    return {
        "documents": texts(store.documents()),
        "search": texts(store.similarity_search("a text", k=99)),
        "filtered": texts(store.similarity_search("a text", k=99, filter={"x": {"$ne": 1}})),
        "by vector": texts(store.similarity_search_by_vector(vector, k=99)),
        "with scores": texts([document for document, _ in scored]),
        "diverse": texts(store.max_marginal_relevance_search("a text", k=99, fetch_k=99)),
        "retriever": texts(store.as_retriever(search_kwargs={"k": 99}).invoke("a text")),
    }


def assert_finds(store: IsolatedVectorStore, expected: set[str]) -> None:
    for way, found in finds(store).items():
        assert found == expected, way


# --- users, modules, projects ---------------------------------------------------------------------


def assert_apart(stores: dict[Any, IsolatedVectorStore]) -> None:
    """They share every id and every word; each finds its own text, and deletes no other's."""
    for who, store in stores.items():
        store.add_texts([f"a text of {who!r}", "a text"], ids=["same", repr(who)])
        store.delete([repr(who)])
    for who, store in stores.items():
        assert_finds(store, {f"a text of {who!r}"})
        assert texts(store.get_by_ids(["same", *map(repr, stores)])) == {f"a text of {who!r}"}

    first, *others = stores
    stores[first].delete(["same"])
    stores[others.pop()].clear()
    for who in others:
        assert_finds(stores[who], {f"a text of {who!r}"})
    assert_finds(stores[first], set())


def test_users_with_names_that_look_alike_find_their_own_documents(memory: IsolatedMemory):
    assert_apart(
        {
            name: memory.scope(user_id=name, module_id="m").vector_store(EMBEDDINGS)
            for name in HOSTILE_IDS
        }
    )


def test_modules_projects_and_collections_of_one_user_are_apart(memory: IsolatedMemory):
    names = ["a", "b", "a:b", "ab", "%"]
    assert_apart(
        {
            (user, module, project, collection): memory.scope(
                user_id=user, module_id=module, project_id=project
            ).vector_store(EMBEDDINGS, collection=collection)
            for user, module, project, collection in itertools.product(
                names[:2], names[:3], names[:2], names[:3]
            )
        }
    )


def test_the_same_ids_have_other_digests_in_another_scope_or_collection(
    memory: IsolatedMemory, attacker: Attacker
):
    for user, module in (("alice", "tutor"), ("alice", "planner"), ("bob", "tutor")):
        for collection in ("one", "two"):
            scoped = memory.scope(user_id=user, module_id=module)
            scoped.vector_store(EMBEDDINGS, collection=collection).add_texts(["x"], ids=["same"])

    documents = "SELECT COUNT(DISTINCT parent), COUNT(DISTINCT key) FROM records WHERE kind = 9"
    assert attacker(documents) == [(6, 6)]


# --- levels ---------------------------------------------------------------------------------------

USERS, MODULES, PROJECTS = ["ann", "ben"], ["tutor", "coach"], ["p", "q"]


class Place(NamedTuple):
    user: str
    module: str
    project: str

    def readable(self, *levels: str) -> set[str]:
        """The texts that a scope there should find at these levels."""
        of = {
            "private": f"a text of {self.user} in {self.module}, {self.project}",
            "user": f"a text for {self.user}, {self.project}",
            "module": f"a text for {self.module}, {self.project}",
            "project": f"a text for all of {self.project}",
        }
        return {of[level] for level in levels}


PLACES = [Place(*names) for names in itertools.product(USERS, MODULES, PROJECTS)]


@pytest.fixture
def published(memory: IsolatedMemory) -> dict[str, IsolatedVectorStore]:
    """One document at every level for everyone, all of them with the same id; by their texts."""
    stores: dict[str, IsolatedVectorStore] = {}
    for project in PROJECTS:
        publishers = {
            f"a text for all of {project}": memory.publisher(project_id=project),
            **{
                f"a text for {user}, {project}": memory.publisher(user_id=user, project_id=project)
                for user in USERS
            },
            **{
                f"a text for {module}, {project}": memory.publisher(
                    module_id=module, project_id=project
                )
                for module in MODULES
            },
        }
        stores |= {text: one.vector_store(EMBEDDINGS) for text, one in publishers.items()}
    for text, store in stores.items():
        store.add_texts([text], ids=["same"])
    return stores


def store_at(memory: IsolatedMemory, place: Place, **options: Any) -> IsolatedVectorStore:
    scoped = memory.scope(user_id=place.user, module_id=place.module, project_id=place.project)
    return scoped.vector_store(EMBEDDINGS, **options)


def test_what_was_published_is_read_by_whom_it_is_for_and_by_nobody_else(
    memory: IsolatedMemory, published: dict[str, IsolatedVectorStore]
):
    for place in PLACES:
        store_at(memory, place).add_texts([*place.readable("private")], ids=["same"])

    others = ("user", "module", "project")
    choices = [c for n in range(4) for c in itertools.combinations(others, n)]
    for place in PLACES:
        for chosen in choices:
            levels = ["private", *chosen]
            store = store_at(memory, place, levels=levels)
            assert_finds(store, place.readable(*levels))
        assert_finds(store_at(memory, place), place.readable("private", *others))
        assert_finds(store_at(memory, place, collection="another"), set())
    for text, store in published.items():
        assert_finds(store, {text})


def test_an_id_names_the_nearest_document_that_has_it(
    memory: IsolatedMemory, published: dict[str, IsolatedVectorStore]
):
    place = PLACES[0]
    store = store_at(memory, place)
    store.add_texts([*place.readable("private")], ids=["same"])

    for level in ("private", "user", "module", "project"):
        assert texts(store.get_by_ids(["same"])) == place.readable(level)
        (text,) = place.readable(level)
        published.get(text, store).delete(["same"])
    assert store.get_by_ids(["same"]) == []


async def test_a_scope_changes_and_deletes_only_its_own(
    memory: IsolatedMemory, published: dict[str, IsolatedVectorStore], door: Door
):
    shared = ("user", "module", "project")
    for place in PLACES[::3]:
        store = store_at(memory, place)
        await door(store, "add_texts", ["mine now"], ids=["same"])
        assert_finds(store, {"mine now", *place.readable(*shared)})
        await door(store, "delete", ["same"])
        await door(store, "delete", ["same"])
        await door(store, "clear")
        assert_finds(store, place.readable(*shared))
    for text, store in published.items():
        assert_finds(store, {text})


async def test_a_publisher_changes_and_deletes_only_what_its_level_has(
    memory: IsolatedMemory, published: dict[str, IsolatedVectorStore], door: Door
):
    for place in PLACES:
        store_at(memory, place).add_texts([*place.readable("private")], ids=["same"])
    gone = {"a text for ann, p", "a text for tutor, q", "a text for all of p"}
    for text in gone:
        await door(published[text], "delete", ["same"])
        await door(published[text], "clear")

    for place in PLACES:
        expected = place.readable("private", "user", "module", "project") - gone
        assert_finds(store_at(memory, place), expected)


def test_levels_that_are_as_near_come_in_their_order(memory: IsolatedMemory):
    for publisher in (
        memory.publisher(project_id="default"),
        memory.publisher(module_id="tutor"),
        memory.publisher(user_id="ann"),
    ):
        publisher.vector_store(EMBEDDINGS).add_texts(["the same"], [{"at": repr(publisher)}])
    store = memory.scope(user_id="ann", module_id="tutor").vector_store(EMBEDDINGS)
    store.add_texts(["the same"], [{"at": "private"}])

    found = store.similarity_search("the same", k=3)

    assert [document.metadata["at"] for document in found] == [
        "private", "Publisher(level='user')", "Publisher(level='module')",
    ]  # fmt: skip


def test_from_a_scope_no_publisher_can_be_had(memory: IsolatedMemory):
    """Nothing public that a scope hands out leads to one, or to the memory that makes them."""
    scoped = memory.scope(user_id="ann", module_id="tutor")
    store = scoped.vector_store(EMBEDDINGS)
    retriever = scoped.retriever(store)

    for one in (scoped, store, retriever, store.as_retriever(), scoped.module("coach")):
        for name in [*dir(type(one)), *getattr(one, "__dict__", {})]:
            if name.startswith("_") or name in ("model_fields", "model_computed_fields"):
                continue
            assert "publish" not in name
            assert not isinstance(getattr(one, name, None), IsolatedMemory | Publisher), name
    for levels in (["user"], ["module"], ["project"], ["project", "private"], []):
        with pytest.raises(ScopeError):
            scoped.vector_store(EMBEDDINGS, levels=levels)  # type: ignore[arg-type]


# --- no scope, no memory --------------------------------------------------------------------------

UNSCOPED: dict[str, Callable[[IsolatedMemory, Any], object]] = {
    "publisher(user_id)": lambda memory, value: memory.publisher(user_id=value),
    "publisher(module_id)": lambda memory, value: memory.publisher(module_id=value),
    "publisher(project_id)": lambda memory, value: memory.publisher(project_id=value),
    "publisher(user_id, project_id)": lambda memory, value: memory.publisher(
        user_id="u", project_id=value
    ),
    "collection": lambda memory, value: memory.scope(user_id="u", module_id="m").vector_store(
        EMBEDDINGS, collection=value
    ),
    "collection of a publisher": lambda memory, value: memory.publisher(module_id="m").vector_store(
        EMBEDDINGS, collection=value
    ),
    "levels": lambda memory, value: memory.scope(user_id="u", module_id="m").vector_store(
        EMBEDDINGS, levels=value
    ),
}


@pytest.mark.parametrize("entry", UNSCOPED)
def test_no_entry_takes_what_is_not_an_id(untouched: IsolatedMemory, entry: str):
    for value in NOT_IDS:
        if value is None and entry.endswith("project_id)") and "," in entry:
            continue  # the default project
        with pytest.raises(ScopeError) as refusal:
            UNSCOPED[entry](untouched, value)
        assert "alice" not in str(refusal.value)
        assert len(str(refusal.value)) < 300


def test_a_publisher_is_for_a_user_or_a_module_or_a_project(untouched: IsolatedMemory):
    with pytest.raises(ScopeError, match="needs user_id=, module_id= or project_id="):
        untouched.publisher()
    with pytest.raises(ScopeError, match="takes user_id= or module_id="):
        untouched.publisher(user_id="u", module_id="m")


async def test_what_has_no_meaning_is_refused_before_anything_is_read(
    untouched: IsolatedMemory, door: Door
):
    store = untouched.scope(user_id="u", module_id="m").vector_store(EMBEDDINGS)
    assert repr(store)
    refused: list[tuple[Any, ...]] = [
        ("delete",), ("delete", [7]), ("delete", "id"), ("get_by_ids", [None]),
        ("add_texts", ["x"], None), ("add_texts", [7]),
        ("similarity_search", "x", 0), ("similarity_search", "x", "4"),
    ]  # fmt: skip
    for name, *args in refused:
        kwargs: dict[str, Any] = {"ids": [""]} if name == "add_texts" else {}
        with pytest.raises((ValueError, TypeError)):
            await door(store, name, *args, **kwargs)
    for wanted in ([], "x", {"$where": 1}, {"a": {}}):
        with pytest.raises(ValueError):
            await door(store, "similarity_search", "x", filter=wanted)
        with pytest.raises(ValueError):
            await door(store, "max_marginal_relevance_search", "x", filter=wanted)


# --- unreadable -----------------------------------------------------------------------------------

VECTOR = [0.12345678, 1.7654321, -0.31415927, 2.7182818]
NUMBERS = [struct.pack(form, *VECTOR) for form in ("<4f", ">4f", "<4d", ">4d")]


class Marked(Embeddings):
    """Says of every text that it points where numbers are that a file would show."""

    def embed_query(self, text: str) -> list[float]:  # noqa: ARG002
        return VECTOR

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [VECTOR for _ in texts]


def documents() -> list[Document]:
    return [
        Document(
            canary("text"),
            id=canary("id"),
            metadata={canary("key"): [canary("value"), (canary("bytes").encode(), {"x": None})]},
        ),
        Document(f"{canary('long')} " * 500, metadata={"end": "x" * 5_000 + canary("end")}),
        Document("x" * 5_000 + canary("end")),
    ]


async def use_everything(memory: IsolatedMemory, door: Door) -> IsolatedVectorStore:
    """Put a canary into everything that a caller supplies, and run every operation over it."""
    user, module, project = canary("user"), canary("module"), canary("project")
    scoped = memory.scope(user_id=user, module_id=module, project_id=project)
    collection = canary("collection")
    store = scoped.vector_store(Marked(), collection=collection)
    for writing in (
        store,
        memory.publisher(user_id=user, project_id=project).vector_store(
            Marked(), collection=collection
        ),
        memory.publisher(module_id=module, project_id=project).vector_store(
            Marked(), collection=collection
        ),
        memory.publisher(project_id=project).vector_store(Marked(), collection=collection),
    ):
        ids = await door(writing, "add_documents", documents())
        await door(writing, "add_documents", documents(), ids=ids)
        await door(writing, "delete", ids[1:2])
    other = scoped.vector_store(Marked(), collection=canary("collection"))
    await door(other, "add_documents", documents())
    await door(other, "clear")
    wanted = {"$or": [{canary("key"): canary("value")}, {"end": {"$gt": canary("value")}}]}
    await door(store, "similarity_search_with_score", canary("query"), filter=wanted)
    await door(store, "max_marginal_relevance_search", canary("query"))
    await door(store, "get_by_ids", [canary("id")])
    assert len(await door(store, "documents")) == 8
    return store


async def test_no_part_of_a_document_is_readable_in_the_files_or_the_dump(
    memory: IsolatedMemory,
    door: Door,
    database_url: str,
    tmp_path: Path,
    postgres: PostgresServer,
):
    disk = Disk(database_url, tmp_path, postgres)

    await use_everything(memory, door)

    # Both while it is open, when the newest is in the WAL alone, and when it is closed.
    for _ in range(2):
        assert disk.readable() == {}
        content = b"".join(disk.contents().values())
        assert len(content) > 5_000
        assert not any(form in content or form.hex().encode() in content for form in NUMBERS)
        memory.close()


async def test_no_part_of_a_document_is_readable_in_the_files_of_the_server(
    postgres: PostgresServer, postgres_url: str, root_key: LocalRootKey, door: Door
):
    with IsolatedMemory(postgres_url, root_key=root_key) as memory:
        await use_everything(memory, door)
        memory._database.inspect(lambda connection: connection.exec_driver_sql("CHECKPOINT"))

    content = files_in(postgres.data)
    assert [name for name, file in content.items() if readable_in(file)] == []
    assert [name for name, file in content.items() if any(n in file for n in NUMBERS)] == []


async def test_no_part_of_a_document_is_readable_in_a_log(
    request: pytest.FixtureRequest, database_url: str, root_key: LocalRootKey, door: Door
):
    log = request.getfixturevalue("talkative_log")
    asyncio.get_running_loop().set_debug(True)
    asyncio.get_running_loop().slow_callback_duration = 0
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        await use_everything(memory, door)

    assert [text for text in log.texts if readable_in(text.encode())] == []
    assert log.texts


class MarkedText(str):
    """A `str` that is more than one."""

    __slots__ = ()


def provoked(store: IsolatedVectorStore, attacker: Attacker) -> list[Callable[[], object]]:
    """Calls given canaries, each of which raises; the last ones break the rows."""
    ids: list[Any] = [canary("id") * 100, f"{canary('id')}\ud800", MarkedText(canary("id"))]
    filters: list[Any] = [
        canary("filter"), [canary("filter")], {f"${canary('operator')}": 1},
        {canary("key"): {f"${canary('operator')}": canary("value")}}, {canary("key"): {}},
        {canary("key"): {"$in": canary("value")}}, {"$or": canary("value")},
    ]  # fmt: skip

    def other() -> IsolatedVectorStore:
        return IsolatedVectorStore(store._sources, NGramEmbeddings(), store._collection.decode())

    def tampered(sql: str, *values: object) -> Callable[[], object]:
        def read() -> object:
            attacker(sql, *values)
            return store.similarity_search(canary("query"))

        return read

    return [
        *(lambda id_=id_: store.add_texts([canary("text")], ids=[id_]) for id_ in ids),
        *(lambda id_=id_: store.delete([id_]) for id_ in ids),
        *(lambda id_=id_: store.get_by_ids([id_]) for id_ in ids),
        *(lambda f=f: store.similarity_search(canary("query"), filter=f) for f in filters),
        lambda: store.add_texts([Talkative()]),  # type: ignore[list-item]
        lambda: store.add_texts([canary("text")], [Talkative()]),  # type: ignore[list-item]
        lambda: store.add_texts([canary("text")], [{canary("key"): Talkative()}]),
        lambda: store.add_texts([canary("text")], [{f"{canary('key')}\ud800": Talkative()}]),
        lambda: store.add_texts([canary("text")], ids=canary("id")),  # type: ignore[arg-type]
        lambda: store.delete(canary("id")),  # type: ignore[arg-type]
        lambda: store.similarity_search(canary("query"), k=canary("k")),  # type: ignore[arg-type]
        lambda: store.similarity_search(canary("query"), **{canary("keyword"): 1}),  # type: ignore[arg-type]
        lambda: other().add_texts([canary("text")]),
        lambda: other().similarity_search(canary("query")),
        # No mark: it would stay in the server's WAL.
        tampered("UPDATE records SET sealed = ? WHERE kind = 12", b"changed"),
        lambda: store.add_texts([canary("text")]),
        tampered("UPDATE records SET sealed = ? WHERE kind = 9", b"changed"),
        store.documents,
        tampered("UPDATE sessions SET count = 7"),
        lambda: store.add_texts([canary("text")], ids=[canary("id")]),
    ]


def test_errors_quote_nothing_of_a_document(memory: IsolatedMemory, attacker: Attacker):
    scoped = memory.scope(user_id=canary("user"), module_id=canary("module"))
    store = scoped.vector_store(Marked(), collection=canary("collection"))
    store.add_documents(documents())

    for provoke in provoked(store, attacker):
        with pytest.raises((ValueError, TypeError, RecordError)) as raised:
            provoke()
        told = [text for text in told_by(raised.value) if readable_in(text.encode())]
        # Python itself names a keyword that is not known.
        assert [text for text in told if "unexpected keyword" not in text] == []
