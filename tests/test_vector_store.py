"""The built-in vector store: LangChain's contract, filters, exact ranking, and its blocks."""

import datetime as dt
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.messages import HumanMessage
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._storage.documents.blocks import BLOCK_BYTES
from langmem_isolated.errors import LangmemIsolatedError, ScopeError, ValueNotStorable
from langmem_isolated.vector_store import IsolatedVectorStore
from tests.conftest import Attacker, Door
from tests.embeddings import NGramEmbeddings

TEXTS = {
    "cello": "my sister plays the cello",
    "violin": "his brother plays the violin",
    "harbour": "the harbour of Husum at low tide",
    "tax": "invoices and receipts for the tax office",
}
# So long that four make up a block.
LONG = NGramEmbeddings(2048)


class Pointing(Embeddings):
    """Looks up where texts point; a text it does not know points where its numbers say."""

    def embed_query(self, text: str) -> list[float]:
        return [float(number) for number in text.split()]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


@pytest.fixture
def scoped(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


@pytest.fixture
def store(scoped: ScopedMemory) -> IsolatedVectorStore:
    return scoped.vector_store(NGramEmbeddings())


@pytest.fixture
def filled(store: IsolatedVectorStore) -> IsolatedVectorStore:
    store.add_texts([*TEXTS.values()], [{"about": about} for about in TEXTS], ids=[*TEXTS])
    return store


def ids_of(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


def stored(store: IsolatedVectorStore) -> dict[str | None, str]:
    """Everything there is, by id; and nothing twice."""
    documents = store.documents()
    by_id = {document.id: document.page_content for document in documents}
    assert len(by_id) == len(documents)
    return by_id


# --- LangChain's own suite ------------------------------------------------------------------------


class TestContract(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, memory: IsolatedMemory) -> VectorStore:
        scoped = memory.scope(user_id="alice", module_id="tutor")
        return scoped.vector_store(self.get_embeddings())


class TestContractOfPublishers(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, sqlite_url: str, root_key: LocalRootKey) -> Iterator[VectorStore]:
        with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
            yield memory.publisher(module_id="tutor").vector_store(self.get_embeddings())


class TestContractWithCache(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, sqlite_url: str, root_key: LocalRootKey) -> Iterator[VectorStore]:
        with IsolatedMemory(sqlite_url, root_key=root_key, plaintext_cache_seconds=60) as memory:
            scoped = memory.scope(user_id="alice", module_id="tutor")
            yield scoped.vector_store(self.get_embeddings())


# --- ids ------------------------------------------------------------------------------------------


async def test_documents_without_ids_get_new_ones(store: IsolatedVectorStore, door: Door):
    documents = [Document("one"), Document("two", id="given"), Document("one")]

    ids = await door(store, "add_documents", documents)

    assert len(set(ids)) == 3
    assert ids[1] == "given"
    assert ids_of(documents) == [None, "given", None]
    assert stored(store) == {ids[0]: "one", "given": "two", ids[2]: "one"}


async def test_what_is_added_again_is_replaced_in_every_part(
    filled: IsolatedVectorStore, door: Door
):
    await door(filled, "add_texts", ["a lighthouse"], [{"about": "light"}], ids=["cello"])

    (found,) = await door(filled, "get_by_ids", ["cello"])
    assert (found.page_content, found.metadata) == ("a lighthouse", {"about": "light"})
    assert ids_of(await door(filled, "similarity_search", "lighthouse", k=1)) == ["cello"]
    nearest = await door(filled, "similarity_search_with_score", "my sister plays the cello", k=4)
    assert next(score for found, score in nearest if found.id == "cello") < 0.5
    assert len(stored(filled)) == 4


async def test_adding_the_same_again_and_again_changes_nothing(
    filled: IsolatedVectorStore, door: Door
):
    before = stored(filled)
    for _ in range(3):
        await door(filled, "add_texts", [*TEXTS.values()], ids=[*TEXTS])

    assert stored(filled) == before
    assert len(await door(filled, "similarity_search", "cello", k=100)) == 4


async def test_the_last_of_one_id_in_a_call_counts(store: IsolatedVectorStore, door: Door):
    ids = await door(store, "add_texts", ["first", "other", "last"], ids=["same", "b", "same"])

    assert ids == ["same", "b", "same"]
    assert stored(store) == {"same": "last", "b": "other"}
    assert ids_of(await door(store, "similarity_search", "last", k=9)) == ["same", "b"]


class Text(str):
    """A `str` that may say anything of itself."""

    __slots__ = ()


NOT_IDS: list[Any] = [
    None, "", 7, True, b"id", ["id"], ("id",), {"id": 1}, {"$ne": ""}, Text("id"), object(),
    "x" * 1_025, "x" * 2_000, "é" * 600, "\ud800", "id\udfff",
]  # fmt: skip


async def test_what_is_not_an_id_is_refused_and_nothing_changes(
    filled: IsolatedVectorStore, door: Door
):
    before = stored(filled)

    for odd in NOT_IDS:
        for name in ("delete", "get_by_ids"):
            with pytest.raises((TypeError, ValueError), match="A document's id must"):
                await door(filled, name, ["cello", odd])
        if odd is not None:
            with pytest.raises((TypeError, ValueError), match="A document's id must"):
                await door(filled, "add_texts", ["one", "two"], ids=["new", odd])

    assert stored(filled) == before


async def test_where_an_id_is_none_a_new_one_is_made(filled: IsolatedVectorStore, door: Door):
    first, second = await door(filled, "add_texts", ["one", "two"], ids=["1", None])

    assert first == "1"
    assert [found.page_content for found in filled.get_by_ids([second])] == ["two"]


async def test_a_lone_id_is_no_list_of_ids(store: IsolatedVectorStore, door: Door):
    store.add_texts([*"celo"], ids=[*"celo"])

    for odd in ("cello", {"c": 1}):
        for name in ("delete", "get_by_ids"):
            with pytest.raises(TypeError, match="ids must be a list of str"):
                await door(store, name, odd)
        with pytest.raises(TypeError, match="ids must be a list of str"):
            await door(store, "add_texts", ["text"] * len(odd), ids=odd)

    assert stored(store) == {letter: letter for letter in "celo"}


HOSTILE_IDS = [
    "a", "A", " a", "a ", "a\x00", "\x00", "\n", "a%", "%", "_", "*", "' OR '1'='1", '"', "\\",
    "{'$ne': ''}", '{"$ne": ""}', "$ne", "None", "null", "0", "../a", "a/b", "a:b", "ä", "a\u0308",
    "\ufdfa", "\u202ea", "x" * 1_024, "\U0001f600" * 256,
]  # fmt: skip


async def test_ids_with_a_meaning_elsewhere_are_names_here(store: IsolatedVectorStore, door: Door):
    await door(store, "add_texts", HOSTILE_IDS, ids=HOSTILE_IDS)

    assert stored(store) == {id_: id_ for id_ in HOSTILE_IDS}
    for id_ in HOSTILE_IDS:
        assert ids_of(await door(store, "get_by_ids", [id_])) == [id_]
    await door(store, "delete", HOSTILE_IDS[::2])
    assert stored(store) == {id_: id_ for id_ in HOSTILE_IDS[1::2]}


async def test_texts_and_ids_and_metadata_must_be_as_many(store: IsolatedVectorStore, door: Door):
    for ids in ([], ["a"], ["a", "b", "c"]):
        with pytest.raises(ValueError, match=f"There are {len(ids)} ids for 2 documents"):
            await door(store, "add_texts", ["one", "two"], ids=ids)
        with pytest.raises(ValueError, match=f"There are {len(ids)} ids for 2 documents"):
            await door(store, "add_documents", [Document("one"), Document("two")], ids=ids)
    for number in (1, 3):
        with pytest.raises(ValueError, match=f"There are {number} metadatas for 2 texts"):
            await door(store, "add_texts", ["one", "two"], [{}] * number)

    assert stored(store) == {}


async def test_texts_may_come_from_a_generator(store: IsolatedVectorStore, door: Door):
    await door(store, "add_texts", (text for text in ("one", "two")), ids=["1", "2"])

    assert stored(store) == {"1": "one", "2": "two"}


async def test_documents_come_in_the_order_of_the_ids_asked_for(
    filled: IsolatedVectorStore, door: Door
):
    asked = ["tax", "absent", "cello", "tax", "harbour"]

    found = await door(filled, "get_by_ids", asked)

    assert ids_of(found) == ["tax", "cello", "tax", "harbour"]
    assert await door(filled, "get_by_ids", []) == []


# --- deleting -------------------------------------------------------------------------------------


async def test_deleting_without_ids_is_refused(filled: IsolatedVectorStore, door: Door):
    for args in ((), (None,)):
        with pytest.raises(ValueError, match=r"clear\(\) removes every document"):
            await door(filled, "delete", *args)

    assert len(stored(filled)) == 4


async def test_what_was_deleted_is_gone_everywhere(filled: IsolatedVectorStore, door: Door):
    await door(filled, "delete", ["cello", "absent", "cello"])

    assert await door(filled, "get_by_ids", ["cello"]) == []
    assert "cello" not in stored(filled)
    assert "cello" not in ids_of(await door(filled, "similarity_search", TEXTS["cello"], k=9))
    await door(filled, "delete", ["cello"])
    await door(filled, "delete", [])
    assert len(stored(filled)) == 3


async def test_a_cleared_store_is_empty_and_can_be_filled_again(
    filled: IsolatedVectorStore, door: Door, attacker: Attacker
):
    await door(filled, "clear")

    assert stored(filled) == {}
    assert await door(filled, "similarity_search", "cello") == []
    assert await door(filled, "get_by_ids", [*TEXTS]) == []
    assert attacker("SELECT COUNT(*) FROM records") == [(0,)]
    assert attacker("SELECT COUNT(*) FROM sessions") == [(0,)]
    await door(filled, "add_texts", ["again"], ids=["cello"])
    assert stored(filled) == {"cello": "again"}


async def test_a_scope_with_other_memory_finds_no_documents(
    scoped: ScopedMemory, store: IsolatedVectorStore, door: Door
):
    await door(scoped.chat_history("s"), "add_messages", [HumanMessage("hello")])

    await door(store, "clear")
    assert await door(store, "similarity_search", "hello") == []
    assert await door(store, "get_by_ids", ["hello"]) == []
    assert await door(store, "documents") == []
    await door(store, "delete", ["hello"])


async def test_an_empty_store_has_nothing_and_nothing_to_remove(
    store: IsolatedVectorStore, door: Door, attacker: Attacker
):
    assert await door(store, "add_documents", []) == []
    assert await door(store, "add_texts", []) == []
    assert await door(store, "similarity_search", "cello") == []
    assert await door(store, "max_marginal_relevance_search", "cello") == []
    assert await door(store, "get_by_ids", ["cello"]) == []
    assert await door(store, "documents") == []
    await door(store, "delete", ["cello"])
    await door(store, "clear")
    assert attacker("SELECT COUNT(*) FROM scopes") == [(0,)]


async def test_what_was_emptied_by_deleting_takes_new_documents(
    store: IsolatedVectorStore, door: Door, attacker: Attacker
):
    for round_ in range(3):
        await door(store, "add_texts", ["one", "two"], ids=["1", "2"])
        await door(store, "delete", ["1", "2"])
        assert await door(store, "similarity_search", "one") == [], round_
        assert attacker("SELECT count, size FROM sessions") == [(0, 0)]


# --- searching ------------------------------------------------------------------------------------


def ranked(vectors: np.ndarray, query: np.ndarray) -> list[int]:
    """What NumPy finds in double precision, nearest first."""
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return np.argsort(-(vectors @ query) / lengths, kind="stable").tolist()


async def test_the_nearest_are_found_exactly(scoped: ScopedMemory, door: Door):
    """Recall 1.0: there is no index that could miss one."""
    chance = np.random.default_rng(1)
    vectors, queries = chance.standard_normal((500, 24)), chance.standard_normal((20, 24))
    store = scoped.vector_store(Pointing())
    store.add_texts([" ".join(map(repr, map(float, vector))) for vector in vectors],
                    ids=[str(number) for number in range(500)])  # fmt: skip

    for query in queries:
        found = await door(store, "similarity_search_by_vector", query.tolist(), k=10)
        assert [int(document.id) for document in found] == ranked(vectors, query)[:10]


async def test_scores_are_cosines_and_the_best_comes_first(scoped: ScopedMemory, door: Door):
    store = scoped.vector_store(Pointing())
    store.add_texts(["0 3", "2 0", "-1 0", "1 1", "0 0"])

    found = await door(store, "similarity_search_with_score", "7 0", k=9)

    assert [(document.page_content, pytest.approx(score, abs=1e-6)) for document, score in found] \
        == [("2 0", 1), ("1 1", 0.5**0.5), ("0 3", 0), ("0 0", 0), ("-1 0", -1)]  # fmt: skip
    relevant = await door(store, "similarity_search_with_relevance_scores", "7 0", k=9)
    assert [pytest.approx(score, abs=1e-6) for _, score in relevant] == [1, 0.5**0.5, 0, 0, 0]
    enough = await door(
        store, "similarity_search_with_relevance_scores", "7 0", k=9, score_threshold=0.5
    )
    assert [document.page_content for document, _ in enough] == ["2 0", "1 1"]


async def test_documents_as_near_as_each_other_come_in_the_order_they_were_added(
    store: IsolatedVectorStore, door: Door
):
    number = 1_003
    ids = [f"{place:04}" for place in range(number)]
    store.add_texts(["the very same"] * number, ids=ids)

    found = await door(store, "similarity_search_with_score", "something else the same", k=number)

    assert [document.id for document, _ in found] == ids
    assert len({score for _, score in found}) == 1
    store.add_texts(["the very same"], ids=[ids[0]])
    again = await door(store, "similarity_search", "something else the same", k=number)
    assert ids_of(again) == [*ids[1:], ids[0]]


async def test_found_is_what_langchains_own_store_in_memory_finds(
    filled: IsolatedVectorStore, door: Door
):
    theirs = InMemoryVectorStore(NGramEmbeddings())
    theirs.add_texts([*TEXTS.values()], [{"about": about} for about in TEXTS], ids=[*TEXTS])

    for query in ("who plays?", "low tide", "receipts", "my sister plays the cello"):
        vector = filled.embeddings.embed_query(query)
        for k in (1, 2, 4, 9):
            expected = theirs.similarity_search_with_score(query, k=k)
            found = await door(filled, "similarity_search_with_score", query, k=k)
            assert [document for document, _ in found] == [document for document, _ in expected]
            assert [score for _, score in found] == pytest.approx([s for _, s in expected])
            for name, query_or_vector in (
                ("similarity_search", query),
                ("similarity_search_by_vector", vector),
            ):
                assert await door(filled, name, query_or_vector, k=k) == [d for d, _ in expected]
            for lambda_mult in (0.0, 0.3, 1.0):
                options: dict[str, Any] = {"k": k, "fetch_k": max(k, 3), "lambda_mult": lambda_mult}
                expected_mmr = ids_of(theirs.max_marginal_relevance_search(query, **options))
                diverse = await door(filled, "max_marginal_relevance_search", query, **options)
                assert ids_of(diverse) == expected_mmr
                by_vector = "max_marginal_relevance_search_by_vector"
                assert await door(filled, by_vector, vector, **options) == diverse


async def test_a_number_of_documents_that_is_none_is_refused(
    filled: IsolatedVectorStore, door: Door
):
    for k in (0, -1, True, 1.5, "4", None):
        for name in ("similarity_search", "similarity_search_with_score"):
            with pytest.raises(ValueError, match="k must be a whole number above 0"):
                await door(filled, name, "cello", k=k)
        with pytest.raises((ValueError, TypeError)):
            await door(filled, "max_marginal_relevance_search", "cello", k=k)


async def test_more_than_there_are_gives_all(filled: IsolatedVectorStore, door: Door):
    for k in (4, 5, 513, 2**40, 2**80):
        assert len(await door(filled, "similarity_search", "cello", k=k)) == 4
        assert len(await door(filled, "max_marginal_relevance_search", "cello", 4, k)) == 4
        assert await door(filled, "similarity_search", "cello", k=k, filter={"about": "no"}) == []


MISSPELT: dict[str, tuple[Any, ...]] = {
    "similarity_search": ("cello",),
    "similarity_search_with_score": ("cello",),
    "similarity_search_with_relevance_scores": ("cello",),
    "similarity_search_by_vector": ([1.0] * 64,),
    "max_marginal_relevance_search": ("cello",),
    "max_marginal_relevance_search_by_vector": ([1.0] * 64,),
    "add_texts": (["text"],),
    "add_documents": ([Document("text")],),
    "delete": (["cello"],),
    "get_by_ids": (["cello"],),
    "clear": (),
    "documents": (),
}


async def test_a_keyword_that_is_not_known_is_refused(filled: IsolatedVectorStore, door: Door):
    """One misspelt must not widen what is found, or removed."""
    for name, args in MISSPELT.items():
        for keyword in ("filters", "where", "namespace", "user_id", "expr"):
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{keyword}'"):
                await door(filled, name, *args, **{keyword: {"about": "tax"}})
    assert len(stored(filled)) == 4


# --- filters --------------------------------------------------------------------------------------

LIBRARY = {
    "a": {"year": 1990, "genre": "crime", "in": {"town": "Husum", "shelf": 4}, "lent": True},
    "b": {"year": 2005, "genre": "poems", "in": {"town": "Kiel", "shelf": 9}, "lent": False},
    "c": {"year": 2020, "genre": "crime", "tags": ["long", "new"]},
    "d": {"year": 2020.0, "price": 9.5},
    "e": {},
}
FILTERS: list[tuple[Any, str]] = [
    (None, "abcde"),
    ({}, "abcde"),
    ({"genre": "crime"}, "ac"),
    ({"genre": "crime", "year": 1990}, "a"),
    ({"genre": None}, "de"),
    ({"year": "1990"}, ""),
    ({"lent": 1}, ""),
    ({"tags": ["long", "new"]}, "c"),
    ({"in": {"town": "Husum"}}, "a"),
    ({"in": {"shelf": {"$gt": 4}}}, "b"),
    ({"genre": {"$eq": "poems"}}, "b"),
    ({"genre": {"$ne": "crime"}}, "bde"),
    ({"genre": {"$in": ["poems", "prose"]}}, "b"),
    ({"genre": {"$nin": ["crime"]}}, "bde"),
    ({"year": {"$in": [2020]}}, "cd"),
    ({"year": {"$gt": 2005}}, "cd"),
    ({"year": {"$gte": 2005}}, "bcd"),
    ({"year": {"$lt": 2005}}, "a"),
    ({"year": {"$lte": 2005}}, "ab"),
    ({"year": {"$gt": 1990, "$lt": 2020}}, "b"),
    ({"genre": {"$gt": "d"}}, "b"),
    ({"year": {"$not": {"$gte": 2005}}}, "ae"),
    ({"$and": [{"genre": "crime"}, {"year": {"$gt": 2000}}]}, "c"),
    ({"$or": [{"genre": "poems"}, {"price": 9.5}]}, "bd"),
    ({"$not": {"genre": "crime"}}, "bde"),
    ({"$not": {"$or": [{"genre": "crime"}, {"genre": "poems"}]}}, "de"),
    ({"year": {"$gte": 2020}, "$or": [{"price": {"$lt": 10}}, {"lent": True}]}, "d"),
    ({"$or": [{"$and": [{"in": {"shelf": {"$lt": 9}}}, {"lent": True}]}, {"tags": ["x"]}]}, "a"),
]


@pytest.fixture
def library(store: IsolatedVectorStore) -> IsolatedVectorStore:
    store.add_texts([f"book {id_}" for id_ in LIBRARY], [*LIBRARY.values()], ids=[*LIBRARY])
    return store


async def test_filters_let_through_what_they_say(library: IsolatedVectorStore, door: Door):
    vector = library.embeddings.embed_query("book")
    for wanted, expected in FILTERS:
        for name, query in (
            ("similarity_search", "book"),
            ("similarity_search_by_vector", vector),
            ("max_marginal_relevance_search", "book"),
            ("max_marginal_relevance_search_by_vector", vector),
        ):
            found = await door(library, name, query, k=9, filter=wanted)
            assert sorted(document.id for document in found) == [*expected], (name, wanted)
        for name in ("similarity_search_with_score", "similarity_search_with_relevance_scores"):
            found = await door(library, name, "book", k=9, filter=wanted)
            assert sorted(document.id for document, _ in found) == [*expected], (name, wanted)


MEANINGLESS: list[Any] = [
    [], (), "", 0, False, [{"genre": "crime"}], "genre", 7, lambda _: True,
    {"$where": "1"}, {"genre": {"$regex": ".*"}}, {"$or": []}, {"$and": {}}, {"genre": {}},
    {"genre": {"$in": "crime"}}, {7: 1}, {"$not": {}}, {"genre": {"$eq": 1, "x": 2}},
]  # fmt: skip


async def test_a_filter_without_meaning_is_refused_not_passed_over(
    library: IsolatedVectorStore, door: Door
):
    for wanted in MEANINGLESS:
        for name in ("similarity_search", "max_marginal_relevance_search"):
            with pytest.raises(ValueError, match=r"filter|takes? a list"):
                await door(library, name, "book", filter=wanted)
        with pytest.raises(ValueError, match=r"filter|takes? a list"):
            library.as_retriever(search_kwargs={"filter": wanted}).invoke("book")


async def test_k_documents_come_back_among_500_nearer_ones_that_are_filtered_out(
    store: IsolatedVectorStore, door: Door
):
    store.add_texts(["my sister plays the cello"] * 500, [{"of": "school"}] * 500)
    store.add_texts(["quarterly tax return"] * 20, [{"of": "office"}] * 20)

    for k in (1, 4, 20, 200):
        for name in ("similarity_search", "max_marginal_relevance_search"):
            found = await door(store, name, "sister plays the cello", k=k, filter={"of": "office"})
            assert [document.metadata for document in found] == [{"of": "office"}] * min(k, 20)


# --- retrievers -----------------------------------------------------------------------------------


async def asked(retriever: Any, how: str, query: str, **kwargs: Any) -> list[Any]:
    if how == "ainvoke":
        return ids_of(await retriever.ainvoke(query, **kwargs))
    return ids_of(retriever.invoke(query, **kwargs))


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_retrievers_search_in_every_way_and_take_other_options_for_a_call(
    library: IsolatedVectorStore, how: str
):
    crime = {"filter": {"genre": "crime"}}
    plain = library.as_retriever(search_kwargs={"k": 2})
    diverse = library.as_retriever(search_type="mmr", search_kwargs={"k": 3, "fetch_k": 5, **crime})
    near = library.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"k": 9, "score_threshold": 0.99}
    )

    assert len(await asked(plain, how, "book")) == 2
    assert sorted(await asked(plain, how, "book", **crime)) == ["a", "c"]
    assert await asked(plain, how, "book c", k=1) == ["c"]
    assert sorted(await asked(diverse, how, "book")) == ["a", "c"]
    assert await asked(diverse, how, "book", filter={"genre": "poems"}) == ["b"]
    assert await asked(near, how, "book b") == ["b"]
    for kwargs in ({"filters": {"genre": "crime"}}, {"where": {}}):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            await asked(library.as_retriever(search_kwargs=kwargs), how, "book")
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            await asked(plain, how, "book", **kwargs)
    with pytest.raises(ValueError, match="search_type"):
        library.as_retriever(search_type="anything")


# --- making a store -------------------------------------------------------------------------------


async def test_a_store_is_made_from_texts_for_a_scope(scoped: ScopedMemory, door: Door):
    texts = door(IsolatedVectorStore, "from_texts", ["one"], NGramEmbeddings(), [{"n": 1}],
                 ids=["1"], scope=scoped)  # fmt: skip
    made = await texts
    also = await door(
        IsolatedVectorStore, "from_documents", [Document("two", id="2")], NGramEmbeddings(),
        scope=scoped,
    )  # fmt: skip

    assert type(made) is IsolatedVectorStore
    assert stored(made) == stored(also) == {"1": "one", "2": "two"}
    assert made.get_by_ids(["1"])[0].metadata == {"n": 1}


async def test_without_a_scope_no_store_is_made(door: Door):
    with pytest.raises(ScopeError, match="There is no default"):
        await door(IsolatedVectorStore, "from_texts", ["one"], NGramEmbeddings())
    with pytest.raises(ScopeError, match="There is no default"):
        await door(IsolatedVectorStore, "from_documents", [Document("one")], NGramEmbeddings())


async def test_collections_of_one_scope_are_apart(scoped: ScopedMemory, door: Door):
    names = ["default", "Default", "a", "b", "a:b", "%", "' OR '1'='1", "é" * 127]
    stores = {name: scoped.vector_store(NGramEmbeddings(), collection=name) for name in names}
    for name, store in stores.items():
        await door(store, "add_texts", [f"in {name}"], ids=["same"])

    await door(stores["a"], "delete", ["same"])
    await door(stores["b"], "clear")

    for name, store in stores.items():
        expected = {} if name in ("a", "b") else {"same": f"in {name}"}
        assert stored(store) == expected
        assert [d.page_content for d in await door(store, "similarity_search", "in", k=9)] == [
            *expected.values()
        ]
    assert stored(scoped.vector_store(NGramEmbeddings())) == {"same": "in default"}


def test_a_collection_needs_a_name(scoped: ScopedMemory):
    odd: list[Any] = [None, "", 7, b"a", ["a"], "a\x00", "x" * 256, "\ud800"]
    for name in odd:
        with pytest.raises(ScopeError, match="collection"):
            scoped.vector_store(NGramEmbeddings(), collection=name)


def test_a_store_shows_nothing_of_itself(scoped: ScopedMemory):
    store = scoped.vector_store(NGramEmbeddings(), collection="Quokka")

    assert repr(store) == "IsolatedVectorStore(collection=…)"


def test_without_numpy_no_store_is_made_and_the_error_names_the_extra(
    scoped: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "numpy", None)

    with pytest.raises(ImportError, match=r"langmem-isolated\[vector\]"):
        scoped.vector_store(NGramEmbeddings())


# --- what is stored -------------------------------------------------------------------------------

METADATA: dict[str, Any] = {
    "none": None, "yes": True, "small": -1, "large": 2**60, "half": 0.5, "text": "tê\x00xt",
    "list": [1, [2, {"x": ()}]], "tuple": (1, "a"), "bytes": b"\x00\xff", "empty": {},
    "day": dt.date(2020, 2, 29), "at": dt.datetime(2020, 1, 1, 12, tzinfo=dt.UTC),
}  # fmt: skip


async def test_text_and_metadata_come_back_exactly(store: IsolatedVectorStore, door: Door):
    documents = [
        Document("", id="empty"),
        Document("x" * 200_000, id="long"),
        Document("l\u0308ink \U0001f600 \x00", id="odd", metadata=METADATA),
    ]
    await door(store, "add_documents", documents)

    assert await door(store, "get_by_ids", ["empty", "long", "odd"]) == documents
    found = await door(store, "similarity_search", "ink", k=3)
    (odd,) = [document for document in found if document.id == "odd"]
    assert odd.metadata == METADATA
    assert type(odd.metadata["tuple"]) is tuple


async def test_a_call_with_one_document_that_cannot_be_stored_stores_nothing(
    filled: IsolatedVectorStore, door: Door
):
    before = stored(filled)
    for place in range(3):
        for bad in (Document("bad", metadata={"it": object()}), Document("bad \ud800")):
            documents = [Document("one", id="cello"), Document("two")]
            documents.insert(place, bad)
            with pytest.raises((ValueNotStorable, ValueError)):
                await door(filled, "add_documents", documents)

    assert stored(filled) == before


async def test_what_is_no_text_or_no_metadata_is_refused(store: IsolatedVectorStore, door: Door):
    for text, metadata in ((7, {}), (b"text", {}), (None, {}), ("text", None), ("text", [])):
        with pytest.raises(TypeError, match="A text must be a str, and its metadata a dict"):
            await door(store, "add_texts", ["one", text], [{}, metadata])


# --- embeddings -----------------------------------------------------------------------------------


class Fitful(NGramEmbeddings):
    """Gives what it is told to give for several texts."""

    def __init__(self, *given: list[float]) -> None:
        super().__init__()
        self.given = list(given)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:  # noqa: ARG002
        return self.given


async def test_embeddings_of_another_length_are_refused_and_nothing_is_lost(
    scoped: ScopedMemory, filled: IsolatedVectorStore, door: Door
):
    before, other = stored(filled), scoped.vector_store(NGramEmbeddings(32))

    with pytest.raises(ValueError, match=r"of 32 numbers do not fit.* its own have 64"):
        await door(other, "add_texts", ["new"], ids=["cello"])
    for name in ("similarity_search", "max_marginal_relevance_search"):
        with pytest.raises(ValueError, match="has 32 numbers, those of this collection 64"):
            await door(other, name, "cello")

    assert stored(filled) == before
    assert len(await door(filled, "similarity_search", "cello", k=9)) == 4
    await door(other, "delete", ["cello"])
    assert stored(other) == stored(filled)


async def test_another_model_may_take_over_an_emptied_store_or_replace_every_document(
    scoped: ScopedMemory, filled: IsolatedVectorStore, door: Door
):
    other = scoped.vector_store(NGramEmbeddings(32))

    await door(other, "add_texts", [*TEXTS.values()], ids=[*TEXTS])
    assert ids_of(await door(other, "similarity_search", TEXTS["tax"], k=1)) == ["tax"]
    await door(other, "delete", [*TEXTS])
    await door(filled, "add_texts", ["one"], ids=["1"])
    await door(filled, "clear")
    await door(other, "add_texts", ["one"], ids=["1"])
    assert ids_of(await door(other, "similarity_search", "one")) == ["1"]


async def test_the_length_counts_when_the_newest_block_was_emptied(
    scoped: ScopedMemory, door: Door
):
    store = scoped.vector_store(LONG)
    store.add_texts(list("abcdef"), ids=list("abcdef"))
    await door(store, "delete", ["e", "f"])

    with pytest.raises(ValueError, match=r"of 64 numbers do not fit.* its own have 2048"):
        await door(scoped.vector_store(NGramEmbeddings()), "add_texts", ["new"])

    await door(store, "add_texts", ["g"], ids=["g"])
    assert sorted(ids_of(await door(store, "similarity_search", "a", k=9))) == list("abcdg")  # type: ignore[type-var]


async def test_a_cached_store_says_as_clearly_that_an_embedding_has_another_length(
    sqlite_url: str, root_key: LocalRootKey, door: Door
):
    with IsolatedMemory(sqlite_url, root_key=root_key, plaintext_cache_seconds=60) as memory:
        scoped = memory.scope(user_id="alice", module_id="tutor")
        store = scoped.vector_store(NGramEmbeddings())
        store.add_texts(["one"])
        for _ in range(2):
            assert len(store.similarity_search("one")) == 1
            with pytest.raises(ValueError, match="has 32 numbers, those of this collection 64"):
                await door(scoped.vector_store(NGramEmbeddings(32)), "similarity_search", "one")


IMPROPER = [
    [[1.0, 0.0], [1.0]],
    [[1.0]],
    [[1.0], [1.0], [1.0]],
    [[1.0, float("nan")], [1.0, 0.0]],
    [[float("inf"), 1.0], [1.0, 0.0]],
    [[1e30, 1.0], [1.0, 0.0]],
    [[], []],
]


async def test_a_model_that_gives_no_proper_embeddings_stores_nothing(
    scoped: ScopedMemory, door: Door
):
    for improper in IMPROPER:
        store = scoped.vector_store(Fitful(*improper))

        with pytest.raises(ValueError):
            await door(store, "add_texts", ["one", "two"])

        assert stored(store) == {}


async def test_the_model_is_not_asked_to_embed_nothing(scoped: ScopedMemory, door: Door):
    class Refusing(NGramEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            assert texts, "as many a provider says"
            return super().embed_documents(texts)

    assert await door(scoped.vector_store(Refusing()), "add_texts", []) == []
    made = await door(IsolatedVectorStore, "from_texts", [], Refusing(), scope=scoped)
    assert stored(made) == {}


# --- blocks ---------------------------------------------------------------------------------------


class Model:
    """The same documents in a plain dictionary, searched the plain way."""

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings
        self.texts: dict[str, str] = {}

    def add(self, texts: dict[str, str]) -> None:
        self.texts |= texts

    def scores(self, query: str) -> dict[str | None, float]:
        vector = np.array(self.embeddings.embed_query(query))
        return {
            id_: float(np.array(self.embeddings.embed_query(text)) @ vector)
            for id_, text in self.texts.items()
        }


def assert_agree(store: IsolatedVectorStore, model: Model, query: str = "t 7") -> None:
    assert stored(store) == model.texts
    found = store.similarity_search_with_score(query, k=len(model.texts) + 1)
    expected = model.scores(query)
    assert {document.id: score for document, score in found} == pytest.approx(expected, abs=1e-5)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    assert [store.get_by_ids([id_])[0].page_content for id_ in model.texts] == [
        *model.texts.values()
    ]


def test_many_documents_added_one_by_one_fill_block_after_block(
    scoped: ScopedMemory, attacker: Attacker
):
    store, model = scoped.vector_store(LONG), Model(LONG)
    for number in range(30):
        texts = {str(number): f"t {number}"}
        store.add_texts([*texts.values()], ids=[*texts])
        model.add(texts)

    assert_agree(store, model)
    blocks = "SELECT COUNT(*), MAX(size) FROM records WHERE kind = ?"
    ((count, size),) = attacker(blocks, int(Kind.EMBEDDING))
    assert count == 8
    assert size < BLOCK_BYTES + 200
    assert attacker("SELECT size FROM sessions") == attacker("SELECT SUM(size) FROM records")


def test_blocks_that_deletions_empty_go_and_the_others_stay(
    scoped: ScopedMemory, attacker: Attacker
):
    store, model = scoped.vector_store(LONG), Model(LONG)
    model.add({str(number): f"t {number}" for number in range(20)})
    store.add_texts([*model.texts.values()], ids=[*model.texts])

    for gone in ([4, 5, 6, 7], [16], [17, 18, 19], [0, 9, 10, 11, 15], [1, 2, 3, 8, 12, 13]):
        store.delete([str(number) for number in gone])
        for number in gone:
            del model.texts[str(number)]
        assert_agree(store, model)
    assert model.texts == {"14": "t 14"}
    assert attacker("SELECT COUNT(*) FROM records") == [(2,)]
    assert attacker("SELECT size FROM sessions") == attacker("SELECT SUM(size) FROM records")


def test_documents_added_again_move_to_the_newest_block(scoped: ScopedMemory, attacker: Attacker):
    store, model = scoped.vector_store(LONG), Model(LONG)
    for text in ("t {}", "u {}", "t {} v"):
        for first in (0, 3, 8):
            new = {str(number): text.format(number) for number in range(first, first + 6)}
            store.add_texts([*new.values()], ids=[*new])
            model.add(new)
            assert_agree(store, model)
    assert attacker("SELECT size FROM sessions") == attacker("SELECT SUM(size) FROM records")


def test_2_000_documents_are_added_replaced_and_removed_in_a_call_each(scoped: ScopedMemory):
    embeddings = NGramEmbeddings(32)
    store, model = scoped.vector_store(embeddings), Model(embeddings)
    for text in ("t {}", "u {}"):
        model.add({str(number): text.format(number) for number in range(2_000)})
        store.add_texts([*model.texts.values()], ids=[*model.texts])
    assert stored(store) == model.texts

    gone = [str(number) for number in range(1_500)]
    store.delete(gone)
    for id_ in gone:
        del model.texts[id_]

    assert stored(store) == model.texts
    assert ids_of(store.get_by_ids([str(n) for n in range(2_000)])) == [*model.texts]
    found = store.similarity_search_with_score("u 7", k=2_000)
    assert {d.id: score for d, score in found} == pytest.approx(model.scores("u 7"), abs=1e-5)


ids = st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=6)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), ids, st.sampled_from(["t", "u", "t u"])),
        st.tuples(st.just("delete"), ids, st.just("")),
        st.tuples(st.just("clear"), st.just([]), st.just("")),
    ),
    min_size=1,
    max_size=12,
)
_collections = itertools.count()


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(operations)
def test_whatever_is_done_the_store_agrees_with_a_dictionary(
    scoped: ScopedMemory, steps: list[tuple[str, list[str], str]]
):
    store = scoped.vector_store(LONG, collection=f"c{next(_collections)}")
    model = Model(LONG)
    for operation, names, word in steps:
        if operation == "add":
            texts = [f"{word} {name} {place}" for place, name in enumerate(names)]
            store.add_texts(texts, ids=names)
            model.add(dict(zip(names, texts, strict=True)))
        elif operation == "delete":
            store.delete(names)
            model.texts = {id_: t for id_, t in model.texts.items() if id_ not in names}
        else:
            store.clear()
            model.texts = {}
        assert_agree(store, model, "t a 3")


# --- errors ---------------------------------------------------------------------------------------


def test_levels_have_names_and_the_scopes_own_comes_first(scoped: ScopedMemory):
    odd: list[Any] = [
        None, [], (), "private", ["Private"], ["private", "public"], ["user"], ["user", "private"],
        [["private"]], [None], 7, ["private", 4], {"private": 1},
    ]  # fmt: skip
    for levels in odd:
        with pytest.raises(ScopeError, match="levels must"):
            scoped.vector_store(NGramEmbeddings(), levels=levels)


def test_a_level_named_twice_is_read_once(scoped: ScopedMemory):
    store = scoped.vector_store(NGramEmbeddings(), levels=["private", "user", "private"])
    store.add_texts(["one"], ids=["1"])

    assert ids_of(store.similarity_search("one")) == ["1"]
    assert stored(store) == {"1": "one"}


USES: list[Callable[[IsolatedVectorStore], object]] = [
    lambda store: store.add_texts(["one"]),
    lambda store: store.similarity_search("one"),
    lambda store: store.delete(["one"]),
    lambda store: store.get_by_ids(["one"]),
    lambda store: store.clear(),
]


def test_a_closed_memory_says_so(memory: IsolatedMemory, filled: IsolatedVectorStore):
    memory.close()

    for use in USES:
        with pytest.raises(LangmemIsolatedError, match="closed"):
            use(filled)
