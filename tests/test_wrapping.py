"""Third-party vector stores, wrapped: what is refused, what the probe catches, what is sealed."""

import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._adapters.document_tags import ResultGuard
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._search.metadata_filters import metadata_test
from langmem_isolated.errors import IsolationViolation
from langmem_isolated.wrapping import (
    AnyOf,
    OneOf,
    StandardAdapter,
    WrappedVectorStore,
    conditions,
)
from langmem_isolated.wrapping.probe import ThrowawayOwner
from tests.embeddings import NGramEmbeddings
from tests.vector_stores import MakeStore, faiss, in_memory, make_pgvector, make_store

__all__ = ["make_pgvector", "make_store"]

TEXT = "the lantern over the harbour is red"


class Topic(StrEnum):
    HARBOUR = "harbour"


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


def of(memory: IsolatedMemory, user: str) -> Any:
    return memory.scope(user_id=user, module_id="m")._records


def wrapped(store: VectorStore, **options: Any) -> WrappedVectorStore:
    """The store as someone sees it who has nothing in it yet."""
    return WrappedVectorStore(store, [ThrowawayOwner()], **options)


class Unknown(VectorStore):
    """A store of a package that nobody knows; it filters nothing."""

    def __init__(self) -> None:
        self.inner = InMemoryVectorStore(NGramEmbeddings())

    @property
    def embeddings(self) -> Embeddings:
        return self.inner.embeddings

    def add_texts(self, texts: Any, metadatas: Any = None, **kwargs: Any) -> list[str]:
        return self.inner.add_texts(texts, metadatas, **kwargs)

    def get_by_ids(self, ids: Any, /) -> list[Document]:
        return self.inner.get_by_ids(ids)

    def delete(self, ids: Any = None, **_: Any) -> None:
        self.inner.delete(ids)

    def similarity_search(self, query: str, k: int = 4, **_: Any) -> list[Document]:
        return self.inner.similarity_search(query, k)

    def similarity_search_with_score(self, query: str, k: int = 4, **_: Any) -> Any:
        return self.inner.similarity_search_with_score(query, k)

    @classmethod
    def from_texts(cls, *_: Any, **__: Any) -> "Unknown":
        return cls()


def test_importing_it_imports_no_store():
    packages = "chromadb faiss qdrant_client langchain_community langchain_postgres pytest"
    code = (
        "import sys, langmem_isolated.wrapping as w\n"
        f"print([name for name in '{packages}'.split() if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_store_that_is_not_known_is_refused():
    with pytest.raises(TypeError, match=r"No adapter is known for Unknown.*post_filter=True"):
        wrapped(Unknown())


def test_a_store_that_is_not_known_can_be_filtered_afterwards():
    store = Unknown()
    alice, bob = wrapped(store, post_filter=True), wrapped(store, post_filter=True)
    bob.add_texts([TEXT] * 300, [{"whose": "bob"}] * 300)
    alice.add_texts(["boats"] * 7, [{"whose": "alice"}] * 7)

    found = alice.find(TEXT, 5)

    assert [document.metadata["whose"] for document, _ in found.hits] == ["alice"] * 5
    assert not found.exhausted
    assert alice.find(TEXT, 9).exhausted
    assert len(alice.max_marginal_relevance_search(TEXT, 5)) == 5
    with pytest.raises(NotImplementedError, match="by_vector"):
        alice.similarity_search_by_vector([0.0] * 64)


def test_a_class_that_descends_from_a_known_one_is_known():
    class Mine(InMemoryVectorStore):
        pass

    assert wrapped(Mine(NGramEmbeddings())).add_texts([TEXT], ids=["a"]) == ["a"]


def test_from_texts_names_the_way_to_make_one():
    with pytest.raises(TypeError, match=r"vector_store\(wrapping=store\)"):
        WrappedVectorStore.from_texts([TEXT], NGramEmbeddings())


async def test_afrom_texts_names_it_too():
    with pytest.raises(TypeError, match=r"vector_store\(wrapping=store\)"):
        await WrappedVectorStore.afrom_texts([TEXT], NGramEmbeddings())


class Unfiltered(InMemoryVectorStore):
    def _similarity_search_with_score_by_vector(self, embedding: Any, k: int = 4, **_: Any) -> Any:
        return super()._similarity_search_with_score_by_vector(embedding, k)


class WithoutMetadata(InMemoryVectorStore):
    def add_documents(self, documents: Any, ids: Any = None, **_: Any) -> list[str]:
        bare = [Document(page_content=document.page_content) for document in documents]
        return super().add_documents(bare, ids)


class NumberingItself(InMemoryVectorStore):
    def add_documents(self, documents: Any, ids: Any = None, **_: Any) -> list[str]:
        del ids
        return super().add_documents(
            [Document(page_content=one.page_content, metadata=one.metadata) for one in documents]
        )


class WithOneIdForAll(InMemoryVectorStore):
    def add_documents(self, documents: Any, ids: Any = None, **_: Any) -> list[str]:
        return super().add_documents(documents, ["same" for _ in ids])


class NeverDeleting(InMemoryVectorStore):
    def delete(self, ids: Any = None, **_: Any) -> None:
        pass


@pytest.mark.parametrize(
    "kind", [Unfiltered, WithoutMetadata, NumberingItself, WithOneIdForAll, NeverDeleting]
)
def test_the_probe_catches_a_store_that_does_not_keep_owners_apart(
    kind: type[InMemoryVectorStore],
):
    with pytest.raises(IsolationViolation):
        wrapped(kind(NGramEmbeddings()))

    wrapped(kind(NGramEmbeddings()), probe=False)


@pytest.mark.parametrize("kind", [Unfiltered, WithoutMetadata])
def test_the_probe_leaves_nothing_behind_when_it_fails(kind: type[InMemoryVectorStore]):
    store = kind(NGramEmbeddings())

    with pytest.raises(IsolationViolation):
        wrapped(store)

    assert store.store == {}


def test_the_probe_removes_what_it_wrote_when_the_store_breaks():
    class Breaking(InMemoryVectorStore):
        def get_by_ids(self, *_: Any) -> list[Document]:
            raise ConnectionError("gone")

    store = Breaking(NGramEmbeddings())

    with pytest.raises(ConnectionError, match="gone"):
        wrapped(store)

    assert store.store == {}


class Overlooking(StandardAdapter):
    """An adapter whose author forgot the owners."""

    def where(self, *_: Any) -> Any:
        return lambda _: True


def test_a_store_is_probed_once_with_each_adapter(memory: IsolatedMemory):
    alice, store = memory.scope(user_id="alice", module_id="m"), in_memory(NGramEmbeddings())
    for _ in range(2):
        alice.vector_store(wrapping=store)

    for _ in range(2):
        with pytest.raises(IsolationViolation):
            alice.vector_store(wrapping=store, adapter=Overlooking(store))
    alice.vector_store(wrapping=store, adapter=Overlooking(store), probe=False)


async def test_the_log_tells_once_how_many_documents_bear_no_owner(
    memory: IsolatedMemory, caplog: pytest.LogCaptureFixture
):
    store = in_memory(NGramEmbeddings())
    store.add_texts(["SECRET"] * 12, [{"SECRET": 1}] * 12)

    for user in ("alice", "bob"):
        notes = memory.scope(user_id=user, module_id="m").vector_store(wrapping=store)
        assert await notes.aunowned() == (12, True)
        assert notes.similarity_search("SECRET") == []

    assert caplog.text.count("holds documents that bear no owner: 12.") == 1
    assert "SECRET" not in caplog.text


def test_a_store_that_cannot_count_says_at_least_how_many_bear_no_owner():
    store = Unknown()
    store.inner.add_texts([TEXT] * 300)

    found = wrapped(store, post_filter=True).unowned()

    assert str(found) == "at least 256"


def test_a_store_that_fails_to_count_is_used_all_the_same(caplog: pytest.LogCaptureFixture):
    class Uncountable(StandardAdapter):
        def where(self, owners: list[str], _: Any) -> Any:
            return lambda document: document.metadata["langmem_owner"] in owners

        def unowned(self) -> Any:
            raise ConnectionError("gone")

    store = in_memory(NGramEmbeddings())

    assert wrapped(store, adapter=Uncountable(store)).add_texts([TEXT], ids=["a"]) == ["a"]
    assert caplog.text == ""


async def test_the_probe_can_be_run_later():
    await wrapped(in_memory(NGramEmbeddings()), probe=False).aprobe()
    with pytest.raises(IsolationViolation):
        await wrapped(Unfiltered(NGramEmbeddings()), probe=False).aprobe()


def test_sealing_is_refused_where_the_text_would_have_to_be_embedded():
    with pytest.raises(TypeError, match="cannot be sealed"):
        wrapped(Unknown(), post_filter=True, seal=True)
    with pytest.raises(TypeError, match="cannot be sealed"):
        wrapped(in_memory(NGramEmbeddings()), adapter=StandardAdapter(Unknown()), seal=True)


def test_nothing_of_a_sealed_document_is_readable_in_the_store(memory: IsolatedMemory):
    store: Any = in_memory(NGramEmbeddings())
    alice = WrappedVectorStore(store, [of(memory, "alice")], seal=True)
    alice.add_texts([TEXT], [{"topic": "SECRET", "KEY": 1}], ids=["NAME"])

    row = dict(next(iter(store.store.values())))

    vector = row.pop("vector")
    assert vector == pytest.approx(NGramEmbeddings().embed_query(TEXT))
    for canary in (TEXT, "lantern", "SECRET", "KEY", "NAME", "alice"):
        assert canary not in repr(row)
    assert alice.similarity_search(TEXT, filter={"KEY": 1})[0].id == "NAME"


def test_a_sealed_document_opens_at_its_own_id_and_for_its_owner_alone(memory: IsolatedMemory):
    store: Any = in_memory(NGramEmbeddings())
    alice, bob = (
        WrappedVectorStore(store, [of(memory, user)], seal=True) for user in ("alice", "bob")
    )
    alice.add_texts([TEXT, "boats"], ids=["a", "b"])
    bob.add_texts(["of bob"], ids=["a"])
    first, second, of_bob = store.store.values()

    second["text"] = first["text"]
    with pytest.raises(IsolationViolation):
        alice.get_by_ids(["b"])
    of_bob["text"] = first["text"]
    with pytest.raises(IsolationViolation):
        bob.similarity_search(TEXT)
    first["text"] = first["text"][:-8] + "AAAAAAA="
    with pytest.raises(IsolationViolation):
        alice.get_by_ids(["a"])


def test_a_copy_of_a_document_under_another_id_is_not_handed_out(memory: IsolatedMemory):
    store: Any = in_memory(NGramEmbeddings())
    alice = WrappedVectorStore(store, [of(memory, "alice")])
    alice.add_texts([TEXT, "boats"], ids=["a", "b"])
    first, second = store.store.values()
    second["text"], second["metadata"] = first["text"], first["metadata"]

    for search in (lambda: alice.get_by_ids(["b"]), lambda: alice.similarity_search("boats")):
        with pytest.raises(IsolationViolation):
            search()


def test_what_is_not_sealed_is_not_taken_for_sealed(memory: IsolatedMemory):
    store = in_memory(NGramEmbeddings())
    clear = WrappedVectorStore(store, [of(memory, "alice")])
    clear.add_texts([TEXT], ids=["a"])

    with pytest.raises(IsolationViolation):
        WrappedVectorStore(store, [of(memory, "alice")], seal=True).similarity_search(TEXT)


@pytest.mark.parametrize("seal", [False, True])
def test_documents_are_read_at_every_level_and_written_at_the_first(
    memory: IsolatedMemory, make_store: MakeStore, seal: bool
):
    store = make_store(NGramEmbeddings())
    owners = [
        memory._context.records(owner)
        for owner in (
            Owner.private(memory.scope(user_id="alice", module_id="m").scope),
            Owner(Level.MODULE, "default", None, "m"),
            Owner(Level.PROJECT, "default"),
        )
    ]
    alice = WrappedVectorStore(store, owners, seal=seal)
    shared = WrappedVectorStore(store, [owners[1]], seal=seal, probe=False)
    bob = WrappedVectorStore(store, [of(memory, "bob")], seal=seal, probe=False)
    shared.add_texts(["shared lantern", "shared boats"], ids=["lantern", "boats"])
    bob.add_texts(["lantern of bob"], ids=["lantern"])

    alice.add_texts(["own lantern"], ids=["lantern"])

    found = {one.page_content for one in alice.similarity_search("lantern", 9)}
    assert found == {"own lantern", "shared lantern", "shared boats"}
    texts = [one.page_content for one in alice.get_by_ids(["boats", "lantern"])]
    assert texts == ["shared boats", "own lantern"]
    alice.delete(["boats", "lantern"])
    assert len(shared.similarity_search("lantern", 9)) == 2


def test_a_search_before_anything_was_stored_finds_nothing(memory: IsolatedMemory):
    store = in_memory(NGramEmbeddings())
    alice = WrappedVectorStore(store, [of(memory, "alice")])

    assert alice.find(TEXT).exhausted
    assert alice.max_marginal_relevance_search(TEXT) == []
    assert alice.get_by_ids(["a"]) == []
    alice.delete(["a"])
    alice.clear()


def test_ids_are_made_where_none_are_given_and_must_fit_the_documents():
    alice = wrapped(in_memory(NGramEmbeddings()))
    mixed = [Document(page_content="a", id="1"), Document(page_content="b")]

    assert alice.add_documents(mixed)[0] == "1"
    assert len(set(alice.add_texts(["a", "b", "c"]))) == 3
    assert alice.add_texts(["d", "e"], ids=["2", None])[0] == "2"
    assert alice.add_texts([]) == []
    for call in (
        lambda: alice.add_texts(["a", "b"], ids=["1"]),
        lambda: alice.add_texts(["a", "b"], [{}]),
        lambda: alice.add_documents(mixed, ids=["1", "2", "3"]),
        lambda: alice.add_texts(["a"], ids=[""]),
        lambda: alice.similarity_search("a", 0),
    ):
        with pytest.raises(ValueError):
            call()


async def test_async_calls_do_what_the_others_do():
    alice = wrapped(faiss(NGramEmbeddings()))
    metadatas = [{"place": place} for place in range(6)]
    ids = await alice.aadd_texts([f"lantern {place}" for place in range(6)], metadatas)
    vector = NGramEmbeddings().embed_query(TEXT)
    odd = {"place": {"$in": [1, 3, 5]}}

    for name, *arguments in (
        ("similarity_search", TEXT, 2),
        ("similarity_search_with_score", TEXT, 2),
        ("similarity_search_with_relevance_scores", TEXT, 2),
        ("similarity_search_by_vector", vector, 2),
        ("max_marginal_relevance_search", TEXT, 2, 4, 0.3),
        ("max_marginal_relevance_search_by_vector", vector, 2, 4, 0.3),
        ("find", TEXT, 2),
    ):
        found = getattr(alice, name)(*arguments, filter=odd)
        assert found
        assert await getattr(alice, f"a{name}")(*arguments, filter=odd) == found
    assert await alice.aget_by_ids(ids) == alice.get_by_ids(ids)
    await alice.adelete(ids[:2])
    assert len(alice.get_by_ids(ids)) == 4
    await alice.aclear()
    assert alice.get_by_ids(ids) == []


def test_threads_of_many_users_share_a_faiss_store(memory: IsolatedMemory):
    store = faiss(NGramEmbeddings())

    def work(number: int) -> list[set[str]]:
        user = WrappedVectorStore(store, [of(memory, f"user {number}")])
        texts = [f"of user {number}, {place}" for place in range(20)]
        for text in texts:
            user.add_texts([text], ids=[text])
            user.add_texts([text], ids=[texts[0]])
            user.similarity_search(TEXT, 3)
        user.delete(texts[:1])
        return [{one.page_content for one in user.similarity_search(TEXT, 50)}, {*texts[1:]}]

    with ThreadPoolExecutor(8) as threads:
        for found, expected in threads.map(work, range(8)):
            assert found == expected


async def test_an_engine_without_a_loop_is_refused(postgres: Any, make_pgvector: MakeStore):
    from langchain_postgres import PGEngine, PGVectorStore
    from sqlalchemy.ext.asyncio import create_async_engine

    known: Any = make_pgvector(NGramEmbeddings())
    pool = create_async_engine(known._engine._pool.url)
    table = known._PGVectorStore__vs.table_name
    store = await PGVectorStore.create(PGEngine.from_engine(pool), NGramEmbeddings(), table)

    with pytest.raises(TypeError, match="from_connection_string"):
        wrapped(store)
    await pool.dispose()


def test_a_hybrid_search_of_postgres_finds_as_many_as_are_asked_for(make_pgvector: MakeStore):
    from langchain_postgres.v2.hybrid_search_config import HybridSearchConfig

    store: Any = make_pgvector(NGramEmbeddings())
    store._PGVectorStore__vs.hybrid_search_config = HybridSearchConfig()
    alice = wrapped(store)
    texts = [f"lantern {number}" for number in range(40)]
    alice.add_texts(texts, [{"n": number} for number in range(40)])

    assert len(alice.similarity_search("lantern 5", k=10)) == 10
    assert not alice.find("lantern 5", k=10).exhausted
    found = alice.similarity_search("lantern 5", k=4, filter={"n": {"$gte": 30}})
    assert len(found) == 4


def test_what_is_removed_while_the_most_diverse_are_chosen_fails_no_search(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
):
    alice = wrapped(make_store(NGramEmbeddings()))
    alice.add_texts(["one", "two", "three"], ids=["1", "2", "3"])
    vectors = alice._adapter.vectors

    def beside_a_deletion(ids: list[str]) -> Any:
        alice.delete(["2"])
        return vectors(ids)

    monkeypatch.setattr(alice._adapter, "vectors", beside_a_deletion)
    for _ in range(2):
        found = alice.max_marginal_relevance_search("one", k=3)
        assert {"1", "3"} <= {one.id for one in found}
    assert len(found) == 2


class TestQdrantByWordsAndMeaning:
    @pytest.fixture
    def store(self) -> VectorStore:
        from langchain_qdrant import QdrantVectorStore, RetrievalMode, SparseEmbeddings
        from langchain_qdrant.sparse_embeddings import SparseVector
        from qdrant_client import QdrantClient, models

        class Words(SparseEmbeddings):
            def embed_query(self, text: str) -> SparseVector:
                found = {zlib.crc32(word.encode()) for word in text.split()}
                return SparseVector(indices=[*found], values=[1.0] * len(found))

            def embed_documents(self, texts: list[str]) -> list[SparseVector]:
                return [self.embed_query(text) for text in texts]

        client = QdrantClient(":memory:")
        dense = models.VectorParams(size=64, distance=models.Distance.COSINE)
        client.create_collection(
            "test",
            vectors_config={"dense": dense},
            sparse_vectors_config={"words": models.SparseVectorParams()},
        )
        return QdrantVectorStore(
            client,
            "test",
            NGramEmbeddings(),
            retrieval_mode=RetrievalMode.HYBRID,
            vector_name="dense",
            sparse_embedding=Words(),
            sparse_vector_name="words",
        )

    def test_it_finds_ones_own_documents_alone(self, store: VectorStore):
        alice, bob = wrapped(store), wrapped(store)
        bob.add_texts([TEXT] * 9)
        alice.add_texts(["a lantern", "boats", "zzz"], [{"n": 1}, {"n": 2}, {"n": 3}])

        assert alice.similarity_search("lantern", 3)[0].metadata == {"n": 1}
        assert len(alice.similarity_search("lantern", 9)) == 3
        assert len(alice.max_marginal_relevance_search("lantern", 2)) == 2

    def test_it_cannot_be_sealed(self, store: VectorStore):
        with pytest.raises(TypeError, match="cannot be sealed"):
            wrapped(store, seal=True)

    def test_weights_that_count_what_others_wrote_are_refused(self, store: Any):
        """Qdrant counts in the whole collection: a word's score tells whether others have it."""
        from qdrant_client import models

        store.client.delete_collection("test")
        store.client.create_collection(
            "test",
            vectors_config={"dense": models.VectorParams(size=64, distance=models.Distance.COSINE)},
            sparse_vectors_config={
                "words": models.SparseVectorParams(modifier=models.Modifier.IDF)
            },
        )

        with pytest.raises(IsolationViolation, match="IDF"):
            wrapped(store)


class TestStamps:
    """For retrievers that are not ours: what they return is checked."""

    @pytest.fixture
    def stamps(self, memory: IsolatedMemory) -> Callable[..., ResultGuard]:
        return lambda *users: ResultGuard([of(memory, user) for user in users])

    def test_stamped_documents_pass_and_come_back_without_stamps(self, stamps: Any):
        put = [Document(page_content=TEXT, metadata={"n": 1}, id="a"), Document(page_content="b")]

        stamped = stamps("alice").stamped(put)

        assert put[0].metadata == {"n": 1}
        checked = stamps("alice").checked(stamped)
        assert checked[0] == put[0]
        assert checked[1].id
        assert checked[1].metadata == {}

    def test_what_a_retriever_adds_stays(self, stamps: Any):
        stamped = stamps("alice").stamped([Document(page_content=TEXT, id="a")])[0]
        stamped.metadata["relevance_score"] = 0.5

        checked = stamps("alice").checked([Document(TEXT, metadata=stamped.metadata)])

        assert checked == [Document(TEXT, id="a", metadata={"relevance_score": 0.5})]

    def test_owners_that_may_be_read_pass_and_no_others(self, stamps: Any):
        of_bob = stamps("bob").stamped([Document(page_content=TEXT, id="a")])

        assert stamps("alice", "bob").checked(of_bob)[0].id == "a"
        for reader in ("alice", "nobody"):
            with pytest.raises(IsolationViolation) as caught:
                stamps(reader).checked(of_bob)
            assert TEXT not in str(caught.value)

    @pytest.mark.parametrize(
        "change",
        [
            lambda document: document.metadata.clear(),
            lambda document: document.metadata.pop("langmem_stamp"),
            lambda document: document.metadata.pop("langmem_owner"),
            lambda document: document.metadata.pop("langmem_id"),
            lambda document: document.metadata.update(langmem_id='"b"'),
            lambda document: document.metadata.update(langmem_id="no json"),
            lambda document: document.metadata.update(langmem_id="[" * 100_000),
            lambda document: document.metadata.update(langmem_id=["a"]),
            lambda document: document.metadata.update(langmem_stamp="ä"),
            lambda document: document.metadata.update(langmem_stamp=None),
            lambda document: document.metadata.update(langmem_owner=["x"]),
            lambda document: setattr(document, "page_content", "of bob"),
        ],
    )
    def test_a_stamp_does_not_fit_another_document(
        self, stamps: Any, change: Callable[[Document], object]
    ):
        mine, document = stamps("alice").stamped(
            [Document(page_content="mine", id="b"), Document(page_content=TEXT, id="a")]
        )
        change(document)

        with pytest.raises(IsolationViolation):
            stamps("alice").checked([mine, document])

    def test_documents_of_a_wrapped_store_can_keep_their_stamps(
        self, memory: IsolatedMemory, stamps: Any
    ):
        for seal in (False, True):
            store = in_memory(NGramEmbeddings())
            alice = WrappedVectorStore(store, [of(memory, "alice")], seal=seal, stamped=True)
            alice.add_texts([TEXT], [{"n": 1}], ids=["a"])

            checked = stamps("alice").checked(alice.as_retriever().invoke(TEXT))

            assert checked == [Document(page_content=TEXT, id="a", metadata={"n": 1})]


_values = st.one_of(
    st.sampled_from(["a", "b", "1"]), st.booleans(), st.integers(-2, 2), st.floats(-2, 2), st.none()
)
_limits = st.one_of(st.sampled_from(["a", "b", "1"]), st.integers(-2, 2), st.floats(-2, 2))
_operators = st.one_of(
    st.dictionaries(st.sampled_from(["$eq", "$ne"]), _values, min_size=1),
    st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), _limits, min_size=1),
    st.builds(
        lambda *pairs: dict(pairs),
        st.tuples(st.just("$eq"), _values),
        st.tuples(st.sampled_from(["$gt", "$contains"]), _limits),
    ),
    st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(_values), min_size=1),
)
_keys = st.sampled_from(["x", "y", "z.z"])
_plain = st.dictionaries(_keys, st.one_of(_values, _operators), min_size=1)
_filters: st.SearchStrategy[dict[str, Any]] = st.recursive(
    _plain,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=6,
)


def _holds(condition: Any, metadata: Mapping[str, Any]) -> bool:
    if isinstance(condition, AnyOf):
        return any(all(_holds(one, metadata) for one in branch) for branch in condition.branches)
    operators = (
        {"$in": condition.values}
        if isinstance(condition, OneOf)
        else {condition.operator: condition.limit}
    )
    return metadata_test({condition.key: operators})(metadata)


@given(wanted=_filters, metadata=st.dictionaries(_keys, _values))
def test_what_is_pushed_down_never_leaves_out_what_passes(
    wanted: dict[str, Any], metadata: dict[str, Any]
):
    if metadata_test(wanted)(metadata):
        assert all(_holds(condition, metadata) for condition in conditions(wanted))


def test_any_filter_finds_in_every_store_what_it_finds_in_memory(make_store: MakeStore):
    values = ["a", "1", True, False, 1, 2, -1, 0, 1.0, -0.5, 1.5, None]
    metadatas = [{"n": n, "x": value} for n, value in enumerate(values)]
    metadatas += [{"n": 100 + n, "y": value} for n, value in enumerate(values)]
    # Not all stores keep what is ``None``, which is the same as what is not there.
    metadatas = [{key: part for key, part in one.items() if part is not None} for one in metadatas]
    store = make_store(NGramEmbeddings())
    alice, bob = wrapped(store, probe=False), wrapped(store, probe=False)
    for owner in (bob, alice):
        owner.add_texts([TEXT] * len(metadatas), metadatas)

    @settings(max_examples=60, deadline=None)
    @given(wanted=_filters)
    def check(wanted: dict[str, Any]) -> None:
        passes = metadata_test(wanted)
        found = [one.metadata["n"] for one in alice.similarity_search(TEXT, 50, filter=wanted)]
        assert sorted(found) == [one["n"] for one in metadatas if passes(one)]

    check()


@pytest.mark.parametrize("odd", [Topic.HARBOUR, "\x00", "\ud800", 10**400, -(10**400)])
def test_a_value_that_a_store_cannot_be_asked_for_is_filtered_by_all_the_same(
    make_store: MakeStore, odd: Any
):
    alice = wrapped(make_store(NGramEmbeddings()))
    alice.add_texts([TEXT, TEXT], [{"topic": "harbour"}, {"topic": 1}], ids=["text", "number"])

    for wanted in ({"topic": odd}, {"topic": {"$in": [odd]}}, {"topic": {"$lt": odd}}):
        passes = metadata_test(wanted)
        expected = {"text"} if passes({"topic": "harbour"}) else set()
        expected |= {"number"} if passes({"topic": 1}) else set()
        assert {one.id for one in alice.similarity_search(TEXT, filter=wanted)} == expected


def test_what_every_store_understands_is_pushed_down():
    wanted = {"topic": "harbour", "year": {"$gt": 3, "$ne": 5}, "$or": [{"a": 1}, {"b": True}]}

    assert len(conditions(wanted)) == 3
    assert conditions({"$or": [{"a": 1}, {"b": {"$ne": 1}}]}) == []
    assert conditions({"$not": {"a": 1}}) == []
    assert conditions(None) == []
