"""Equality filters over documents: the same documents, with no others opened, and none missed."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope, ScopedMemory
from langmem_isolated._adapters import nearest_documents
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._storage.documents import blocks
from langmem_isolated.errors import EmbeddingModelChanged, RecordDoesNotOpen
from langmem_isolated.vector_store import IsolatedVectorStore
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.test_equality_filters import CONDITIONS, PARTS, entries

EMBEDDINGS = NGramEmbeddings()
A, B = {"source": "a.pdf"}, {"source": "b.pdf"}
DOCUMENT, EMBEDDING = int(Kind.DOCUMENT), int(Kind.EMBEDDING)
QUERY = "the third of the parts"


@pytest.fixture
def tutor(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two embeddings a block, so that a few documents make several."""
    length = 4 * len(EMBEDDINGS.embed_query("a"))
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2 * length)


def store_of(scoped: ScopedMemory, *fields: str, **options: Any) -> IsolatedVectorStore:
    more: Any = {"equality": [*fields], **options} if fields else options
    return scoped.vector_store(EMBEDDINGS, **more)


def fill(store: IsolatedVectorStore, count: int = 6) -> None:
    """Documents of two sources, two of one and two of the other in turn, as blocks have them."""
    documents = [
        Document(
            f"part {n} of the parts", metadata={**(B if n // 2 % 2 else A), "page": n}, id=str(n)
        )
        for n in range(count)
    ]
    store.add_documents(documents)


def ids(found: list[Document]) -> list[str]:
    return [document.id or "" for document in found]


def addresses(scoped: ScopedMemory, *numbers: int) -> Iterator[bytes]:
    keys = scoped._records.keys()
    collection = keys.pseudonym(Kind.COLLECTION, b"default")
    for n in numbers:
        yield keys.pseudonym(Kind.DOCUMENT, collection, str(n).encode())


def damage(attacker: Attacker, scoped: ScopedMemory, *numbers: int) -> None:
    """Make documents unreadable: who opens one is refused."""
    for key in addresses(scoped, *numbers):
        attacker(
            "UPDATE records SET sealed = ? WHERE kind = ? AND key = ?", b"x" * 80, DOCUMENT, key
        )


def columns(attacker: Attacker) -> list[bytes | None]:
    rows = attacker("SELECT equalities FROM records WHERE kind = ?", DOCUMENT)
    return [None if row[0] is None else bytes(row[0]) for row in rows]


# --- what is opened -------------------------------------------------------------------------------


async def test_any_number_of_documents_may_be_asked_for(tutor: ScopedMemory, door: Door):
    store = store_of(tutor, "source")
    fill(store)

    assert len(await door(store, "similarity_search", QUERY, k=2**63, filter=A)) == 4


async def test_only_documents_and_blocks_that_may_pass_are_opened(
    tutor: ScopedMemory, attacker: Attacker, door: Door
):
    store = store_of(tutor, "source")
    fill(store)
    expected = ids(store_of(tutor).similarity_search(QUERY, filter=A))
    damage(attacker, tutor, 2, 3)
    second = (1).to_bytes(8)  # of three blocks
    attacker(
        "UPDATE records SET sealed = ? WHERE kind = ? AND key = ?", b"x" * 80, EMBEDDING, second
    )

    for wanted in (A, {"source": {"$eq": "a.pdf"}}, {"$and": [A, {"page": {"$gte": 0}}]}):
        assert ids(await door(store, "similarity_search", QUERY, filter=wanted)) == expected
    scored = await door(store, "similarity_search_with_score", QUERY, k=2, filter=A)
    assert [one.id for one, _ in scored] == expected[:2]
    assert ids(await door(store, "max_marginal_relevance_search", QUERY, k=2, filter=A))
    assert await door(store, "similarity_search", QUERY, filter={"source": "c.pdf"}) == []
    with pytest.raises(RecordDoesNotOpen):
        await door(store_of(tutor), "similarity_search", QUERY, filter=A)
    with pytest.raises(RecordDoesNotOpen):
        await door(store, "similarity_search", QUERY, filter={"page": 1})


def test_thousands_of_conditions_are_answered_as_without_an_index(tutor: ScopedMemory):
    store = store_of(tutor, "source")
    fill(store)
    for last in (A, {"source": "c.pdf"}):
        many = {"$and": [*[A] * 2_000, *[{"source": f"{n}.pdf"} for n in range(2_000)], last]}
        few = {"$and": [*[A] * 4_000, {"page": {"$gte": 1}}]}
        for wanted in (many, few):
            found, expected = (
                ids(one.similarity_search(QUERY, filter=wanted)) for one in (store, store_of(tutor))
            )
            assert found == expected


@pytest.mark.parametrize("most", [0, 512])
@pytest.mark.parametrize("seconds", [0, 60])
def test_few_and_many_cached_or_not_are_ranked_alike(
    database_url: str, monkeypatch: pytest.MonkeyPatch, most: int, seconds: float
):
    monkeypatch.setattr(nearest_documents, "MOST_ASKED_FOR", most)
    with IsolatedMemory(
        database_url, root_key=LocalRootKey(ROOT_KEY), plaintext_cache_seconds=seconds
    ) as memory:
        tutor = memory.scope(user_id="alice", module_id="tutor")
        fill(store_of(tutor, "source"), 9)
        for _ in range(2):
            for wanted in (A, B, {"source": "c.pdf"}, {**A, "page": {"$lt": 4}}):
                expected, found = (
                    one.similarity_search_with_score(QUERY, k=3, filter=wanted)
                    for one in (store_of(tutor), store_of(tutor, "source"))
                )
                assert [(one.id, score) for one, score in found] == [
                    (one.id, pytest.approx(score)) for one, score in expected
                ]


def test_a_query_of_another_model_or_length_is_refused_as_ever(tutor: ScopedMemory):
    fill(store_of(tutor, "source"))
    other = tutor.vector_store(EMBEDDINGS, embedding_name="another", equality=["source"])
    for wanted in (A, {"source": "c.pdf"}):
        with pytest.raises(EmbeddingModelChanged):
            other.similarity_search(QUERY, filter=wanted)
        with pytest.raises(EmbeddingModelChanged):
            store_of(tutor, "source").similarity_search_by_vector([1.0, 0.0], filter=wanted)


# --- nothing is missed ----------------------------------------------------------------------------


def by_another_store(memory: IsolatedMemory, tutor: ScopedMemory) -> None:
    fill(store_of(tutor))


def by_one_with_other_fields(memory: IsolatedMemory, tutor: ScopedMemory) -> None:
    fill(store_of(tutor, "page"))


def replaced_by_another_store(memory: IsolatedMemory, tutor: ScopedMemory) -> None:
    store_of(tutor, "source").add_documents(
        [Document("older", metadata={"source": "c.pdf"}, id=str(n)) for n in range(6)]
    )
    fill(store_of(tutor))


def embedded_anew(memory: IsolatedMemory, tutor: ScopedMemory) -> None:
    fill(store_of(tutor, "source"))
    assert store_of(tutor).reembed() == 6


def merged(memory: IsolatedMemory, tutor: ScopedMemory) -> None:
    fill(store_of(memory.scope(user_id="alice", module_id="planner"), "source"))
    memory.merge_modules(user_id="alice", from_module="planner", into_module="tutor", dry_run=False)


def claimed(memory: IsolatedMemory, tutor: ScopedMemory) -> None:
    guest = memory.anonymous(module_id="tutor")
    fill(store_of(guest, "source"))
    memory.claim(guest.id, Scope("alice", "tutor"), confirmed=True)


def under_other_keys(memory: IsolatedMemory, tutor: ScopedMemory) -> None:
    fill(store_of(tutor))
    memory.rotate_keys("alice")


WAYS: list[Callable[[IsolatedMemory, ScopedMemory], None]] = [
    *(by_another_store, by_one_with_other_fields, replaced_by_another_store, embedded_anew),
    *(merged, claimed, under_other_keys),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_came_without_digests_is_found_and_indexed_by_the_search(
    memory: IsolatedMemory,
    tutor: ScopedMemory,
    attacker: Attacker,
    way: Callable[[IsolatedMemory, ScopedMemory], None],
):
    way(memory, tutor)
    store = store_of(tutor, "source")

    assert sorted(ids(store.similarity_search(QUERY, k=9, filter=A))) == ["0", "1", "4", "5"]

    damage(attacker, tutor, 2, 3)
    assert sorted(ids(store.similarity_search(QUERY, k=9, filter=A))) == ["0", "1", "4", "5"]
    assert store.similarity_search(QUERY, filter={"source": "c.pdf"}) == []


def test_what_was_published_is_found_and_left_to_its_publisher(
    memory: IsolatedMemory, tutor: ScopedMemory, attacker: Attacker
):
    library = memory.publisher(module_id="tutor")
    fill(library.vector_store(EMBEDDINGS))
    store = store_of(tutor, "source")

    assert sorted(ids(store.similarity_search(QUERY, k=9, filter=A))) == ["0", "1", "4", "5"]
    assert columns(attacker) == [None] * 6

    library.vector_store(EMBEDDINGS, equality=["source"]).similarity_search(QUERY, k=9, filter=A)
    assert None not in columns(attacker)
    assert sorted(ids(store.similarity_search(QUERY, k=9, filter=A))) == ["0", "1", "4", "5"]


# --- the same answers -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IsolatedMemory]:
    url = f"sqlite:///{tmp_path_factory.mktemp('documents')}/memory.db"
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), synchronous="NORMAL") as memory:
        yield memory


_users = itertools.count()
METADATA = st.dictionaries(
    st.sampled_from(["p", "q"]),
    PARTS | st.dictionaries(st.sampled_from(["x", "y"]), PARTS, min_size=1, max_size=2),
    max_size=2,
)
PLAIN = st.dictionaries(st.sampled_from(["p", "q", "q.x"]), CONDITIONS, min_size=1, max_size=2)
FILTERS = st.one_of(
    PLAIN,
    st.fixed_dictionaries({"$and": st.lists(PLAIN, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"$or": st.lists(PLAIN, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"$not": PLAIN}),
    st.fixed_dictionaries(
        {"p": st.fixed_dictionaries({"$not": st.fixed_dictionaries({"$eq": PARTS})})}
    ),
    st.fixed_dictionaries({"q": st.fixed_dictionaries({"$in": st.lists(PARTS, max_size=2)})}),
)


def answered(store: IsolatedVectorStore, wanted: Any) -> Any:
    try:
        return ids(store.similarity_search("one", k=9, filter=wanted))
    except ValueError as error:
        return str(error)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(METADATA, min_size=1, max_size=4), st.lists(FILTERS, min_size=1, max_size=4))
@example([{"p": True}, {"p": 1}], [{"p": True}, {"p": 1}, {"p": 1.0}])
def test_stores_with_and_without_equality_find_the_same(
    lasting: IsolatedMemory, metadata: list[dict[str, Any]], filters: list[Any]
):
    scoped = lasting.scope(user_id=f"user{next(_users)}", module_id="tutor")
    indexed, other = store_of(scoped, "p", "q.x"), store_of(scoped)
    for n, one in enumerate(metadata):
        (indexed if n % 2 else other).add_documents([Document("one", metadata=one, id=str(n))])
    for wanted in filters * 2:
        assert answered(indexed, wanted) == answered(other, wanted)
    scoped.verify()


# --- what is told ---------------------------------------------------------------------------------


def test_collections_have_digests_of_their_own(tutor: ScopedMemory, attacker: Attacker):
    for name in ("notes", "books"):
        store = store_of(tutor, "source", collection=name)
        store.add_texts(["one", "two"], [A, A])
    tutor.store(equality=["source"]).put(("a",), "k", A)
    rows = attacker("SELECT equalities FROM records WHERE equalities IS NOT NULL")

    assert len({entry for row in rows for entry in entries(bytes(row[0]))}) == 3
    assert len({bytes(row[0])[:16] for row in rows}) == 5


def test_exchanged_digests_are_told_by_verify(tutor: ScopedMemory, attacker: Attacker):
    fill(store_of(tutor, "source"))
    one, other = addresses(tutor, 0, 2)
    move = """UPDATE records SET equalities = (
        SELECT equalities FROM records AS others WHERE others.kind = ? AND others.key = ?
    ) WHERE kind = ? AND key = ?"""
    attacker(move, DOCUMENT, other, DOCUMENT, one)

    assert "0" not in ids(store_of(tutor, "source").similarity_search(QUERY, k=9, filter=A))
    with pytest.raises(RecordDoesNotOpen, match="digests"):
        tutor.verify()


def test_no_copy_of_the_database_tells_whether_a_document_was_put_again(
    tutor: ScopedMemory, attacker: Attacker
):
    store = store_of(tutor, "source")
    macs = []
    for text in ("a", "a", "b", "a"):
        store.add_texts([text], [A], ids=["0"])
        macs += [bytes(column)[:16] for column in columns(attacker) if column]

    assert len({*macs}) == 4


def test_digests_go_with_their_documents(tutor: ScopedMemory, attacker: Attacker):
    store = store_of(tutor, "source")
    fill(store)
    store.delete(["0"])
    assert len(columns(attacker)) == 5
    store.clear()
    assert columns(attacker) == []


@pytest.mark.parametrize("wrong", ["source", [], ["$eq"]])
def test_fields_without_a_meaning_are_refused(tutor: ScopedMemory, wrong: Any):
    with pytest.raises((TypeError, ValueError), match="Write equality="):
        tutor.vector_store(EMBEDDINGS, equality=wrong)
