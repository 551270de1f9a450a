"""Promise 1, for documents: what leaks from a vector store that users share does not through ours.

Each test first shows the leak on the store itself, so it would notice one in ours.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import IsolationViolation
from langmem_isolated.wrapping import WrappedVectorStore
from tests.embeddings import NGramEmbeddings
from tests.vector_stores import MakeStore, make_pgvector, make_store

__all__ = ["make_pgvector", "make_store"]

TEXT = "the pin of the safe is written down here"


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Which store this test runs on."""
    return str(request.node.callspec.params["make_store"])


@pytest.fixture
def bare(make_store: MakeStore) -> VectorStore:
    """A store in which each document says in its metadata whose it is, as applications do it."""
    return make_store(NGramEmbeddings())


@pytest.fixture
def wrap(memory: IsolatedMemory, make_store: MakeStore) -> Callable[[str], WrappedVectorStore]:
    """One store, wrapped for a user."""
    store = make_store(NGramEmbeddings())

    def of(user: str) -> WrappedVectorStore:
        return WrappedVectorStore(store, [memory.scope(user_id=user, module_id="m")._records])

    return of


@pytest.fixture
def alice(wrap: Callable[[str], WrappedVectorStore]) -> WrappedVectorStore:
    """Alice's view of a store in which Bob has a document that is nearer to every question."""
    alice, bob = wrap("alice"), wrap("bob")
    alice.add_texts(["alice keeps boats"], [{"user": "alice", "year": 2020}], ids=["a"])
    bob.add_texts([TEXT], [{"user": "bob", "year": 2020}], ids=["b"])
    return alice


def fill(store: VectorStore) -> None:
    """The same documents as in `alice`, with ids that every store takes."""
    texts = ["alice keeps boats", TEXT]
    metadatas = [{"user": "alice", "year": 2020}, {"user": "bob", "year": 2020}]
    store.add_texts(texts, metadatas, ids=[number(1), number(2)])


def number(value: int) -> str:
    return f"00000000-0000-4000-8000-{value:012}"


def owners(found: list[Document]) -> set[Any]:
    return {document.metadata["user"] for document in found}


def only(name: str, user: str) -> Any:
    """The filter that an application must not forget, in each store's own words."""
    if name == "in_memory":
        return lambda document: document.metadata["user"] == user
    if name == "qdrant":
        from qdrant_client import models

        match = models.MatchValue(value=user)
        return models.Filter(must=[models.FieldCondition(key="metadata.user", match=match)])
    return {"user": user}


def test_a_search_without_filter_does_not_find_everyones_documents(
    bare: VectorStore, alice: WrappedVectorStore
):
    fill(bare)
    assert owners(bare.similarity_search(TEXT, k=4)) == {"alice", "bob"}

    assert owners(alice.similarity_search(TEXT, k=4)) == {"alice"}
    assert owners(alice.similarity_search(TEXT, k=4, filter=None)) == {"alice"}


def test_a_misspelt_filter_does_not_find_everyones_documents(
    bare: VectorStore, alice: WrappedVectorStore, name: str
):
    fill(bare)
    if name in ("chroma", "qdrant"):
        with pytest.raises((TypeError, AssertionError)):
            bare.similarity_search(TEXT, k=4, filters=only(name, "alice"))
    else:
        found = bare.similarity_search(TEXT, k=4, filters=only(name, "alice"))
        assert owners(found) == {"alice", "bob"}

    with pytest.raises(TypeError, match="filters"):
        alice.similarity_search(TEXT, k=4, filters={"user": "alice"})


def test_an_empty_filter_does_not_find_everyones_documents(
    bare: VectorStore, alice: WrappedVectorStore, name: str
):
    fill(bare)
    if name in ("faiss", "pgvector"):
        assert owners(bare.similarity_search(TEXT, k=4, filter={})) == {"alice", "bob"}
    else:
        with pytest.raises((TypeError, ValueError, AttributeError)):
            bare.similarity_search(TEXT, k=4, filter={})

    assert owners(alice.similarity_search(TEXT, k=4, filter={})) == {"alice"}


def test_a_filter_of_another_kind_is_refused(
    bare: VectorStore, alice: WrappedVectorStore, name: str
):
    fill(bare)
    if name == "pgvector":
        found = bare.similarity_search(TEXT, k=4, filter=[{"user": "alice"}])
        assert owners(found) == {"alice", "bob"}
    if name in ("in_memory", "faiss", "pgvector"):
        found = bare.similarity_search(TEXT, k=4, filter=lambda _: True)
        assert owners(found) == {"alice", "bob"}

    for wrong in ([{"user": "alice"}], [], lambda _: True, "user = 'alice'", 1):
        with pytest.raises(ValueError, match="must be a mapping"):
            alice.similarity_search(TEXT, k=4, filter=wrong)


@pytest.mark.parametrize(
    "wanted",
    [
        {"user": "bob"},
        {"user": {"$ne": "alice"}},
        {"$or": [{"user": "alice"}, {"user": "bob"}]},
        {"user": "alice", "$or": [{"user": "bob"}]},
        {"$not": {"user": "nobody"}},
        {"$and": [{"user": {"$in": ["bob", "alice"]}}]},
    ],
)
def test_a_filter_that_a_model_wrote_does_not_stand_in_for_the_owners(
    bare: VectorStore, alice: WrappedVectorStore, name: str, wanted: dict[str, Any]
):
    fill(bare)
    retriever = bare.as_retriever(search_kwargs={"filter": only(name, "alice")})
    assert owners(retriever.invoke(TEXT)) == {"alice"}
    assert owners(retriever.invoke(TEXT, filter=only(name, "bob"))) == {"bob"}

    ours = alice.as_retriever(search_kwargs={"filter": {"user": "alice"}})
    assert owners(ours.invoke(TEXT, filter=wanted)) <= {"alice"}


@pytest.mark.parametrize("key", ["langmem_owner", "langmem_id", "langmem_stamp", "langmem_other"])
def test_marks_can_neither_be_written_nor_asked_for(alice: WrappedVectorStore, key: str):
    for write in (
        lambda: alice.add_texts([TEXT], [{key: "x"}]),
        lambda: alice.add_documents([Document(page_content=TEXT, metadata={key: "x"})]),
        lambda: alice.similarity_search(TEXT, filter={key: "x"}),
        lambda: alice.similarity_search(TEXT, filter={"$or": [{"user": "x"}, {key: "x"}]}),
    ):
        with pytest.raises(ValueError, match="reserved"):
            write()


def test_a_filter_taken_away_by_a_call_does_not_find_everyones_documents(
    bare: VectorStore, alice: WrappedVectorStore, name: str
):
    fill(bare)
    retriever = bare.as_retriever(search_kwargs={"filter": only(name, "alice")})
    assert owners(retriever.invoke(TEXT, filter=None)) == {"alice", "bob"}

    ours = alice.as_retriever(search_kwargs={"filter": {"user": "alice"}})
    assert owners(ours.invoke(TEXT, filter=None)) == {"alice"}
    assert owners(ours.vectorstore.similarity_search(TEXT)) == {"alice"}


def test_an_id_that_another_has_used_replaces_nothing(
    bare: VectorStore, wrap: Callable[[str], WrappedVectorStore], name: str
):
    bare.add_texts(["of alice"], [{"user": "alice"}], ids=[number(1)])
    if name == "faiss":
        with pytest.raises(ValueError, match="already exist"):
            bare.add_texts(["of bob"], [{"user": "bob"}], ids=[number(1)])
        with pytest.raises(KeyError):
            bare.similarity_search("of", k=4)
    else:
        bare.add_texts(["of bob"], [{"user": "bob"}], ids=[number(1)])
        assert owners(bare.similarity_search("of", k=4)) == {"bob"}

    alice, bob = wrap("alice"), wrap("bob")
    for _ in range(2):
        alice.add_texts(["of alice"], [{"user": "alice"}], ids=[number(1)])
        bob.add_texts(["of bob"], [{"user": "bob"}], ids=[number(1)])
    assert owners(alice.similarity_search("of", k=4)) == {"alice"}
    assert owners(bob.similarity_search("of", k=4)) == {"bob"}


def test_an_id_of_another_neither_reads_nor_deletes(
    bare: VectorStore, wrap: Callable[[str], WrappedVectorStore]
):
    fill(bare)
    assert owners(bare.get_by_ids([number(2)])) == {"bob"}
    bare.delete([number(2)])
    assert owners(bare.similarity_search(TEXT, k=4)) == {"alice"}

    alice, bob = wrap("alice"), wrap("bob")
    bob.add_texts([TEXT], [{"user": "bob"}], ids=[number(2)])
    assert alice.get_by_ids([number(2)]) == []
    alice.delete([number(2)])
    assert owners(bob.get_by_ids([number(2)])) == {"bob"}


def test_deleting_without_ids_deletes_nothing(alice: WrappedVectorStore):
    with pytest.raises(ValueError, match="takes ids"):
        alice.delete()
    with pytest.raises(TypeError):
        alice.delete(filter={})

    assert owners(alice.similarity_search(TEXT)) == {"alice"}


@pytest.mark.parametrize("wrong", [{"$ne": None}, None, 7, b"b", ["b"]])
def test_an_id_that_is_an_operator_is_refused(alice: WrappedVectorStore, wrong: Any):
    for call in (alice.get_by_ids, alice.delete):
        with pytest.raises(TypeError, match="must be a str"):
            call([wrong])


def test_k_documents_come_back_however_many_neighbours_are_nearer(
    bare: VectorStore, wrap: Callable[[str], WrappedVectorStore], name: str
):
    own = [f"boats of alice {place}" for place in range(5)]
    bare.add_texts([TEXT] * 500, [{"user": "bob"}] * 500)
    bare.add_texts(own, [{"user": "alice"}] * 5)
    found = bare.similarity_search(TEXT, k=5, filter=only(name, "alice"))
    if name == "chroma":
        # Among equal vectors its graph may lead to all of those that pass, or to none.
        assert {one.metadata["user"] for one in found} <= {"alice"}
    else:
        assert len(found) == (0 if name == "faiss" else 5)

    alice, bob = wrap("alice"), wrap("bob")
    bob.add_texts([TEXT] * 500, [{"user": "bob"}] * 500)
    alice.add_texts(own, [{"user": "alice"}] * 5)
    assert [one.metadata for one in alice.similarity_search(TEXT, k=5)] == [{"user": "alice"}] * 5


def test_what_was_written_past_us_is_not_handed_out(
    memory: IsolatedMemory, make_store: MakeStore, name: str
):
    store = make_store(NGramEmbeddings())
    alice = WrappedVectorStore(store, [memory.scope(user_id="alice", module_id="m")._records])
    alice.add_texts(["alice keeps boats"], ids=["a"])
    marks = store.similarity_search(TEXT, k=1)[0].metadata
    marks = {key: value for key, value in marks.items() if key.startswith("langmem_")}
    store.add_texts([TEXT], [marks], ids=[number(9)])
    assert TEXT in {one.page_content for one in store.similarity_search(TEXT, k=4)}

    for search in (
        lambda: alice.similarity_search(TEXT),
        lambda: alice.similarity_search_with_score(TEXT),
        lambda: alice.max_marginal_relevance_search(TEXT),
        lambda: alice.as_retriever().invoke(TEXT),
    ):
        with pytest.raises(IsolationViolation) as caught:
            search()
        assert TEXT not in str(caught.value)


class TestPGVectorStore:
    @pytest.fixture
    def make_store(self, make_pgvector: MakeStore) -> MakeStore:
        return make_pgvector

    def test_an_index_of_vectors_does_not_starve_a_user(
        self, memory: IsolatedMemory, make_store: MakeStore
    ):
        from langchain_postgres.v2.indexes import HNSWIndex

        class AsWithMillionsOfRows:
            def to_parameter(self) -> list[str]:
                return ["enable_seqscan = off"]

        store: Any = make_store(NGramEmbeddings())
        store._PGVectorStore__vs.index_query_options = AsWithMillionsOfRows()
        store.apply_vector_index(HNSWIndex())
        alice = WrappedVectorStore(store, [memory.scope(user_id="alice", module_id="m")._records])
        bob = WrappedVectorStore(store, [memory.scope(user_id="bob", module_id="m")._records])
        alice.add_texts([f"boats of alice {place}" for place in range(10)])
        bob.add_texts([TEXT] * 300)
        stored = alice._adapter.where([*alice.readable_tags()], None)
        assert len(store.similarity_search(TEXT, k=10, filter=stored)) < 10

        assert len(alice.similarity_search(TEXT, k=10)) == 10

    @pytest.mark.parametrize(
        "odd", [{"a": "\x00"}, {"\x00": 1}, {"a": [{"b": "\\\x00"}]}, {"a": "\ud800"}]
    )
    def test_what_postgres_cannot_search_among_is_not_stored_to_stop_everyone(
        self, memory: IsolatedMemory, make_store: MakeStore, odd: dict[str, Any]
    ):
        store = make_store(NGramEmbeddings())
        alice, bob = (
            WrappedVectorStore(store, [memory.scope(user_id=user, module_id="m")._records])
            for user in ("alice", "bob")
        )
        bob.add_texts(["boats"], [{"a": "\\u0000 \\\\u0000 \U0001f600"}], ids=["b"])

        with pytest.raises(ValueError, match="NUL or lone surrogates"):
            alice.add_texts([TEXT], [odd])

        assert [one.id for one in bob.similarity_search("boats")] == ["b"]
        bob.clear()
        assert bob.similarity_search("boats") == []

    def test_one_users_words_do_not_stay_for_the_next(
        self, memory: IsolatedMemory, make_store: MakeStore
    ):
        from langchain_postgres.v2.hybrid_search_config import HybridSearchConfig

        def hybrid() -> Any:
            store = make_store(NGramEmbeddings())
            store._PGVectorStore__vs.hybrid_search_config = HybridSearchConfig()
            return store

        bare = hybrid()
        fill(bare)
        bare.similarity_search("the words of bob", k=2)
        bare.similarity_search("the words of alice", k=2)
        assert bare._PGVectorStore__vs.hybrid_search_config.fts_query == "the words of bob"

        ours = hybrid()
        alice = WrappedVectorStore(ours, [memory.scope(user_id="alice", module_id="m")._records])
        alice.add_texts(["boats"], ids=["a"])
        assert [one.id for one in alice.similarity_search("the words of bob")] == ["a"]
        assert ours._PGVectorStore__vs.hybrid_search_config.fts_query in (None, "")
