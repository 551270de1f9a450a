"""Test suite for an adapter of a vector store: its author subclasses and runs it."""

# ruff: noqa: D102, PLR2004 - names of tests are their documentation, and numbers the example

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langmem_isolated._adapters.document_tags import ID, OWNER, STAMP
from langmem_isolated.errors import IsolationViolation
from langmem_isolated.wrapping.adapters import VectorStoreAdapter
from langmem_isolated.wrapping.clearing import clear_owner
from langmem_isolated.wrapping.probe import ThrowawayOwner
from langmem_isolated.wrapping.registry import adapter_of
from langmem_isolated.wrapping.vector_store import WrappedVectorStore

_TEXT = "the lantern over the harbour is red"
_HOSTILE_IDS = (
    *(
        "1",
        "12",
        "a_b",
        "axb",
        "a%",
        "*",
        "' OR '1'='1",
        '"',
        "a\\",
        "\x00",
        "../a",
        "ä",
        "a\u0308",
    ),
    *('{"$ne": null}', "$gt", "metadata.langmem_owner", "x" * 300, "\n", "00000000-0000-0000"),
)
_METADATA: tuple[dict[str, Any], ...] = (
    {"name": "one", "year": 2020, "topic": "harbour", "draft": True},
    {"name": "two", "year": 2021, "topic": "airport", "draft": False},
    {"name": "three", "year": 2021.5, "topic": 'it\'s a "quote" ä'},
    {"name": "four", "year": 7.0, "topic": "harbour"},
    {"name": "five", "year": "2020", "draft": "true"},
    {"name": "six", "topic": "1"},
    {"name": "seven", "year": 1, "topic": "true"},
)
_FILTERS: tuple[tuple[dict[str, Any], set[str]], ...] = (
    ({}, {"one", "two", "three", "four", "five", "six", "seven"}),
    ({"topic": "harbour"}, {"one", "four"}),
    ({"topic": "it's a \"quote\" ä"}, {"three"}),
    ({"year": 2020}, {"one"}),
    ({"year": "2020"}, {"five"}),
    ({"year": 7}, {"four"}),
    ({"year": 1}, {"seven"}),
    ({"year": 2021.5}, {"three"}),
    ({"draft": True}, {"one"}),
    ({"draft": "true"}, {"five"}),
    ({"draft": None}, {"three", "four", "six", "seven"}),
    ({"topic": {"$ne": "harbour"}}, {"two", "three", "five", "six", "seven"}),
    ({"topic": {"$in": ["harbour", "1"]}}, {"one", "four", "six"}),
    ({"topic": {"$in": []}}, set()),
    ({"year": {"$in": [1, 7, 2021]}}, {"two", "four", "seven"}),
    ({"topic": {"$nin": ["harbour"]}}, {"two", "three", "five", "six", "seven"}),
    ({"year": {"$in": [1, 2021.5]}}, {"three", "seven"}),
    ({"year": {"$in": [7.0, 2021.5]}}, {"three", "four"}),
    ({"year": {"$gt": 2020}}, {"two", "three"}),
    ({"year": {"$gt": 2020.5}}, {"two", "three"}),
    ({"year": {"$gte": 2020, "$lt": 2021.5}}, {"one", "two"}),
    ({"year": {"$lte": 7}}, {"four", "seven"}),
    ({"topic": {"$gt": "harbor"}}, {"one", "three", "four", "seven"}),
    ({"year": {"$not": {"$gt": 100}}}, {"four", "five", "six", "seven"}),
    ({"$not": {"topic": "harbour"}}, {"two", "three", "five", "six", "seven"}),
    ({"$or": [{"topic": "airport"}, {"year": 7}]}, {"two", "four"}),
    ({"$or": [{"topic": "1"}, {"year": {"$not": {"$lt": 2021}}}]}, {"two", "three", "five", "six"}),
    ({"$and": [{"topic": "harbour"}, {"$or": [{"year": 1}, {"year": 2020}]}]}, {"one"}),
    ({"topic": "harbour", "$or": [{"year": 1}, {"name": "four"}]}, {"four"}),
    ({"no.such[key]": "x"}, set()),
)  # fmt: skip


class VectorStoreAdapterTests:
    """What every wrapped store must do, in clear and, if the adapter can, sealed.

    A subclass has a fixture ``store``: a fresh, empty store, with embeddings that tell these texts
    apart. For a store that this package does not know, it overrides :meth:`adapter`, too.

    >>> class TestMyStore(VectorStoreAdapterTests):
    ...     @pytest.fixture
    ...     def store(self):
    ...         return InMemoryVectorStore(embeddings)
    """

    @pytest.fixture
    def adapter(self, store: VectorStore) -> VectorStoreAdapter:
        """What knows the store; by default the one that is known for its class."""
        found = adapter_of(store)
        assert found, "override the fixture `adapter`"
        return found

    @pytest.fixture(params=["clear", "sealed"])
    def users(
        self, request: pytest.FixtureRequest, store: VectorStore, adapter: VectorStoreAdapter
    ) -> tuple[WrappedVectorStore, WrappedVectorStore]:
        """Two owners who share the store."""
        if request.param == "sealed" and not adapter.seals:
            pytest.skip("this adapter does not seal")

        def user() -> WrappedVectorStore:
            owner = [ThrowawayOwner()]
            return WrappedVectorStore(
                store, owner, adapter=adapter, seal=request.param == "sealed", probe=False
            )

        return user(), user()

    def test_the_probe_passes_and_leaves_nothing_behind(
        self, store: VectorStore, adapter: VectorStoreAdapter
    ) -> None:
        for seal in {False, adapter.seals}:
            WrappedVectorStore(store, [ThrowawayOwner()], adapter=adapter, seal=seal)

        assert store.similarity_search("langmem-isolated", k=10) == []

    def test_documents_without_an_owner_are_counted_and_found_by_no_one(
        self, users: Any, store: VectorStore
    ) -> None:
        alice, _ = users
        assert alice.unowned() == (0, True)
        alice.add_texts([_TEXT, "boats"])

        store.add_texts([_TEXT] * 3, [{"year": 2020}] * 3, ids=[str(uuid4()) for _ in range(3)])

        assert alice.unowned().documents == 3
        assert len(alice.similarity_search(_TEXT, 9)) == 2

    def test_documents_come_back_as_they_were_put(self, users: Any) -> None:
        alice, _ = users
        put = [
            Document(id="a", page_content=_TEXT, metadata={"year": 2020, "draft": True}),
            Document(id="b", page_content="boats", metadata={"topic": "ä 'quoted'", "x": 0.5}),
            Document(id="c", page_content="no metadata"),
        ]

        assert alice.add_documents(put) == ["a", "b", "c"]

        assert alice.get_by_ids(["c", "a", "none", "b"]) == [put[2], put[0], put[1]]
        assert alice.similarity_search(_TEXT, 1) == [put[0]]
        assert {document.id for document in alice.similarity_search(_TEXT, 9)} == {"a", "b", "c"}

    def test_every_search_finds_ones_own_documents_alone(self, users: Any) -> None:
        alice, bob = users
        alice.add_texts([_TEXT] * 3, [{"whose": "alice"}] * 3)
        bob.add_texts([_TEXT] * 5, [{"whose": "bob"}] * 5)
        vector = alice.embeddings.embed_query(_TEXT) if alice.embeddings else None

        for owner, name, count in ((alice, "alice", 3), (bob, "bob", 5)):
            found = [
                owner.similarity_search(_TEXT, 9),
                [document for document, _ in owner.similarity_search_with_score(_TEXT, 9)],
                owner.as_retriever(search_kwargs={"k": 9}).invoke(_TEXT),
                asyncio.run(owner.asimilarity_search(_TEXT, 9)),
            ]
            if vector:
                found += [
                    owner.similarity_search_by_vector(vector, 9),
                    owner.max_marginal_relevance_search(_TEXT, 9),
                    owner.max_marginal_relevance_search_by_vector(vector, 9),
                ]
            for documents in found:
                assert [one.metadata["whose"] for one in documents] == [name] * count

    def test_relevance_is_between_0_and_1(self, users: Any) -> None:
        alice, _ = users
        alice.add_texts([_TEXT, "quite another matter", "zzz"])

        found = alice.similarity_search_with_relevance_scores(_TEXT, 3)

        assert len(found) == 3
        assert all(0 <= score <= 1 for _, score in found)
        assert found[0][0].page_content == _TEXT

    def test_the_same_id_is_two_documents_for_two_owners(self, users: Any) -> None:
        alice, bob = users
        alice.add_texts(["of alice"], ids=["report.pdf"])
        bob.add_texts(["of bob"], ids=["report.pdf"])

        assert alice.get_by_ids(["report.pdf"])[0].page_content == "of alice"
        bob.delete(["report.pdf"])
        assert alice.get_by_ids(["report.pdf"])[0].page_content == "of alice"
        assert alice.similarity_search("of", 2) == alice.get_by_ids(["report.pdf"])
        assert bob.get_by_ids(["report.pdf"]) == bob.similarity_search("of", 2) == []

    def test_a_document_replaces_its_older_self_and_its_metadata(self, users: Any) -> None:
        alice, _ = users
        alice.add_texts(["old"], [{"old": 1, "year": 1}], ids=["a"])

        alice.add_texts(["older", "new"], [{"older": 2}, {"year": 2}], ids=["a", "a"])

        assert alice.similarity_search("new", 9) == [
            Document(id="a", page_content="new", metadata={"year": 2})
        ]

    def test_deleting_what_is_not_there_is_no_error(self, users: Any) -> None:
        alice, _ = users
        alice.add_texts(["stays"], ids=["a"])

        alice.delete(["b", "c"])
        alice.delete([])

        assert alice.get_by_ids(["a", "b"])[0].page_content == "stays"
        assert alice.get_by_ids([]) == []

    def test_stored_ids_tell_nothing_and_are_refused_as_ids_of_others(
        self, users: Any, adapter: VectorStoreAdapter
    ) -> None:
        alice, bob = users
        alice.add_texts([_TEXT], ids=["a"])
        stored_id = _stored(adapter, alice)[0].id

        bob.delete([stored_id])
        bob.add_texts(["of bob"], ids=[stored_id])

        assert bob.get_by_ids(["a"]) == []
        assert alice.get_by_ids(["a"])[0].page_content == _TEXT

    def test_any_text_is_an_id(self, users: Any) -> None:
        alice, bob = users
        bob.add_texts(["of bob"] * len(_HOSTILE_IDS), ids=_HOSTILE_IDS)
        texts = [f"number {place}" for place in range(len(_HOSTILE_IDS))]

        assert alice.add_texts(texts, ids=_HOSTILE_IDS) == [*_HOSTILE_IDS]

        found = alice.get_by_ids(_HOSTILE_IDS)
        assert [document.id for document in found] == [*_HOSTILE_IDS]
        assert [document.page_content for document in found] == texts
        alice.delete(_HOSTILE_IDS)
        assert alice.get_by_ids(_HOSTILE_IDS) == []
        assert len(bob.get_by_ids(_HOSTILE_IDS)) == len(_HOSTILE_IDS)

    def test_filters_mean_what_they_mean_everywhere(self, users: Any) -> None:
        alice, bob = users
        for owner in (alice, bob):
            texts = [f"number {place}" for place in range(len(_METADATA))]
            owner.add_texts(texts, _METADATA)

        for wanted, names in _FILTERS:
            found = alice.similarity_search("number", 20, filter=wanted)
            assert {one.metadata["name"] for one in found} == names, wanted
            assert len(found) == len(names), wanted

    def test_what_others_store_in_their_metadata_does_not_break_a_filter(self, users: Any) -> None:
        alice, bob = users
        alice.add_texts([_TEXT], [{"year": 2020, "topic": "a"}])
        bob.add_texts([_TEXT] * 3, [{"year": "soon"}, {"year": True}, {"topic": 5}])

        found = alice.similarity_search(_TEXT, 4, filter={"year": {"$gt": 2000}, "topic": "a"})

        assert len(found) == 1

    def test_k_documents_come_back_from_among_500_of_others(self, users: Any) -> None:
        alice, bob = users
        bob.add_texts([_TEXT] * 500, [{"year": 1}] * 500)
        alice.add_texts([f"far away {place}" for place in range(12)], [{"year": 1}] * 12)

        assert len(alice.similarity_search(_TEXT, 10)) == 10
        assert len(alice.similarity_search(_TEXT, 10, filter={"year": {"$ne": 5}})) == 10
        found = alice.find(_TEXT, 20)
        assert (len(found.hits), found.exhausted) == (12, True)
        assert not alice.find(_TEXT, 10).exhausted

    def test_k_documents_come_back_whatever_the_filter_leaves_out(self, users: Any) -> None:
        alice, _ = users
        alice.add_texts([_TEXT] * 60, [{"name": "near", "draft": True}] * 60)
        alice.add_texts(["far away"] * 9, [{"name": "far"}] * 9)

        found = alice.find(_TEXT, 8, filter={"draft": {"$ne": True}})

        assert [document.metadata["name"] for document, _ in found.hits] == ["far"] * 8

    def test_a_document_that_was_planted_is_not_handed_out(
        self, users: Any, adapter: VectorStoreAdapter
    ) -> None:
        alice, bob = users
        bob.add_texts([_TEXT], ids=["a"])
        alice.add_texts(["another text"], ids=["b"])
        of_bob, of_alice = _stored(adapter, bob)[0], _stored(adapter, alice)[0]
        tags = {key: value for key, value in of_alice.metadata.items() if key in (OWNER, ID, STAMP)}
        planted = Document(
            id=of_bob.id,
            page_content=of_bob.page_content,
            metadata={**of_bob.metadata, **tags},
        )

        vectors = [bob.embeddings.embed_query(_TEXT)] if adapter.seals else None
        adapter.put([planted], vectors)

        with pytest.raises(IsolationViolation) as caught:
            alice.similarity_search(_TEXT, 4)
        assert _TEXT not in str(caught.value)

    def test_clear_removes_all_documents_of_one_owner(self, users: Any) -> None:
        alice, bob = users
        alice.add_texts([_TEXT] * 60)
        bob.add_texts([_TEXT], ids=["a"])

        alice.clear()

        assert alice.similarity_search(_TEXT, 4) == []
        assert len(bob.similarity_search(_TEXT, 4)) == 1

    def test_an_erasure_finds_all_documents_of_one_owner_and_of_no_other(
        self, users: Any, adapter: VectorStoreAdapter
    ) -> None:
        alice, bob = users
        alice.add_texts([_TEXT, "quite another matter", "zzz"])
        bob.add_texts([_TEXT] * 40)
        of_alice, of_bob = (next(iter(user.readable_tags())) for user in (alice, bob))
        before = adapter.owned(of_bob, 99)

        assert adapter.name
        assert len({*adapter.owned(of_alice, 99)}) == 3
        # Also where those that are nearest to anything are another's.
        assert len({*adapter.owned(of_alice, 4)}) == 3
        assert len(adapter.owned(of_alice, 2)) == 2
        assert adapter.owned("nobody", 99) == []
        assert clear_owner(adapter, of_alice) == 3
        assert adapter.owned(of_alice, 99) == []
        assert sorted(adapter.owned(of_bob, 99)) == sorted(before)
        assert len(before) == 40

    @pytest.mark.parametrize("wrong", ["filters", "where", "pre_filter", "namespace", "fetch_k"])
    def test_a_keyword_that_is_not_known_is_refused(self, users: Any, wrong: str) -> None:
        alice, _ = users

        for search in (alice.similarity_search, alice.similarity_search_with_score):
            with pytest.raises(TypeError, match=wrong):
                search(_TEXT, 4, **{wrong: {}})
        with pytest.raises(TypeError, match=wrong):
            alice.delete(["a"], **{wrong: {}})
        with pytest.raises(TypeError, match=wrong):
            alice.add_texts([_TEXT], **{wrong: {}})


def _stored(adapter: VectorStoreAdapter, owner: WrappedVectorStore) -> list[Document]:
    """What stands in the store for an owner."""
    hits = adapter.search(adapter.prepared(_TEXT), 9, [*owner.readable_tags()], None)
    return [
        hit.document for hit in hits if hit.document.metadata.get(OWNER) in owner.readable_tags()
    ]
