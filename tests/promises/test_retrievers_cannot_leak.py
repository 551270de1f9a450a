"""Retrievers that LangChain's users build: each leaks with a bare store, and none with ours."""

import asyncio
import warnings
from typing import Any

import pytest
from langchain_classic.retrievers import EnsembleRetriever
from langchain_classic.retrievers.self_query.base import SelfQueryRetriever
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.structured_query import Comparator, Comparison, StructuredQuery
from langchain_core.tracers.context import collect_runs, tracing_v2_callback_var
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from langmem_isolated import IsolatedMemory, ScopedMemory
from langmem_isolated.errors import IsolationViolation, ScopeError
from tests.conftest import Door
from tests.embeddings import NGramEmbeddings
from tests.vector_stores import chroma

with warnings.catch_warnings():
    # The package says that it is no longer maintained; its translators are what people use.
    warnings.simplefilter("ignore", DeprecationWarning)
    from langchain_community.query_constructors.chroma import ChromaTranslator

SECRET = "Bob's plans for 2020"
OWN = "Alice's plans for 2020"


@pytest.fixture
def embeddings() -> Embeddings:
    return NGramEmbeddings()


@pytest.fixture
def bare(embeddings: Embeddings) -> VectorStore:
    """A store that both share as its documentation says: the owner is a metadata key."""
    store = chroma(embeddings)
    store.add_texts(
        [OWN, SECRET],
        [{"user_id": "alice", "year": 2020}, {"user_id": "bob", "year": 2020}],
        ids=["a", "b"],
    )
    return store


@pytest.fixture
def scopes(memory: IsolatedMemory) -> list[ScopedMemory]:
    return [memory.scope(user_id=user, module_id="m") for user in ("alice", "bob")]


@pytest.fixture(params=["built in", "wrapped"])
def ours(
    scopes: list[ScopedMemory], embeddings: Embeddings, request: pytest.FixtureRequest
) -> VectorStore:
    """Alice's store, beside Bob's."""
    shared = chroma(embeddings)
    stores: list[VectorStore] = [
        scope.vector_store(embeddings)
        if request.param == "built in"
        else scope.vector_store(wrapping=shared)
        for scope in scopes
    ]
    for store, text in zip(stores, [OWN, SECRET], strict=True):
        store.add_texts([text], [{"year": 2020}], ids=["1"])
    return stores[0]


def contents(documents: list[Document]) -> list[str]:
    return sorted(document.page_content for document in documents)


async def test_a_filter_of_the_call_does_not_take_away_the_owners(
    bare: VectorStore, ours: VectorStore, door: Door
):
    leaking = bare.as_retriever(search_kwargs={"k": 4, "filter": {"user_id": "alice"}})
    assert contents(await door(leaking, "invoke", "plans", filter=None)) == [OWN, SECRET]

    for widening in (None, {}, {"user_id": "bob"}, {"$or": [{"year": 2020}, {"year": 2021}]}):
        found = await door(ours.as_retriever(), "invoke", "plans", filter=widening)

        assert set(contents(found)) <= {OWN}


@pytest.mark.parametrize(("key", "value"), [("year", 2020), ("user_id", "bob")])
async def test_a_filter_that_a_model_wrote_does_not_stand_in_for_the_owners(
    bare: VectorStore, ours: VectorStore, door: Door, key: str, value: Any
):
    written = StructuredQuery(
        query="plans", filter=Comparison(comparator=Comparator.EQ, attribute=key, value=value)
    )

    def self_querying(store: VectorStore, **search_kwargs: Any) -> SelfQueryRetriever:
        return SelfQueryRetriever(
            vectorstore=store,
            query_constructor=RunnableLambda(lambda _: written),
            structured_query_translator=ChromaTranslator(),
            search_kwargs=search_kwargs,
        )

    leaking = self_querying(bare, filter={"user_id": "alice"})
    assert SECRET in contents(await door(leaking, "invoke", "plans"))

    found = contents(await door(self_querying(ours), "invoke", "plans"))
    assert found == ([OWN] if key == "year" else [])


async def test_an_ensemble_of_ours_has_no_strangers_and_one_with_a_bare_member_raises(
    bare: VectorStore,
    ours: VectorStore,
    scopes: list[ScopedMemory],
    embeddings: Embeddings,
    door: Door,
):
    mixed = EnsembleRetriever(
        retrievers=[ours.as_retriever(), bare.as_retriever()], weights=[0.5, 0.5]
    )
    assert SECRET in contents(await door(mixed, "invoke", "plans"))
    with pytest.raises(IsolationViolation):
        await door(scopes[0].retriever(mixed), "invoke", "plans")

    scopes[0].vector_store(embeddings).add_texts([OWN], ids=["1"])
    isolated = EnsembleRetriever(
        retrievers=[scopes[0].retriever(ours), scopes[0].bm25_retriever()], weights=[0.5, 0.5]
    )
    assert set(contents(await door(isolated, "invoke", "plans"))) == {OWN}


async def test_in_checked_mode_an_ensemble_over_everyones_documents_hands_out_nothing(
    scopes: list[ScopedMemory], embeddings: Embeddings, door: Door
):
    alice, bob = scopes
    everyones = InMemoryVectorStore(embeddings)
    for scope, text in ((alice, OWN), (bob, SECRET)):
        everyones.add_documents(scope.stamped([Document(page_content=text)]))
    ensemble = EnsembleRetriever(retrievers=[everyones.as_retriever()], weights=[1.0])
    assert contents(await door(ensemble, "invoke", "plans")) == [OWN, SECRET]

    with pytest.raises(IsolationViolation) as caught:
        await door(alice.retriever(ensemble), "invoke", "plans")

    assert SECRET not in repr(caught.value)


class Reused(BaseRetriever):
    """Keeps what it found for whoever asks the same next, as a careless cache does."""

    inner: BaseRetriever
    kept: Any  # shared between users, so not to be copied by pydantic

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        return self.kept.setdefault(query, self.inner.invoke(query))


async def test_what_a_retriever_kept_of_another_user_is_not_handed_out(
    scopes: list[ScopedMemory], door: Door
):
    kept: dict[str, list[Document]] = {}

    class Own(BaseRetriever):
        found: list[Document]

        def _get_relevant_documents(self, *_: Any, **__: Any) -> list[Document]:
            return self.found

    alice, bob = (
        Reused(inner=Own(found=scope.stamped([Document(page_content=text)])), kept=kept)
        for scope, text in zip(scopes, [OWN, SECRET], strict=True)
    )
    assert contents(await door(scopes[1].retriever(bob), "invoke", "plans")) == [SECRET]
    assert SECRET in contents(await door(alice, "invoke", "plans"))

    with pytest.raises(IsolationViolation):
        await door(scopes[0].retriever(alice), "invoke", "plans")


async def test_no_tracer_is_told_what_was_found_before_it_was_checked(
    scopes: list[ScopedMemory], door: Door
):
    alice, bob = scopes

    class Found(BaseRetriever):
        found: list[Document]

        def _get_relevant_documents(self, *_: Any, **__: Any) -> list[Document]:
            return self.found

    bare = Found(found=bob.stamped([Document(SECRET)]))
    retriever, alices = alice.retriever(bare), alice.stamped([Document(OWN)])

    assert SECRET in await _traced(bare, door)
    assert SECRET not in await _traced(retriever, door)
    bare.found = alices
    assert OWN in await _traced(retriever, door)


async def _traced(retriever: BaseRetriever, door: Door) -> str:
    """All that tracers hear of that stand in the context, as LangSmith's do."""
    heard = RunCollectorCallbackHandler()
    token = tracing_v2_callback_var.set(heard)  # type: ignore[arg-type]
    try:
        with collect_runs() as collected:
            await door(retriever, "invoke", "plans")
    except IsolationViolation:
        pass
    finally:
        tracing_v2_callback_var.reset(token)
    assert heard.traced_runs
    assert collected.traced_runs
    return str([run.outputs for run in (*heard.traced_runs, *collected.traced_runs)])


def test_a_store_of_bobs_cannot_become_alices_retriever(
    scopes: list[ScopedMemory], embeddings: Embeddings
):
    alice, bob = scopes
    shared = InMemoryVectorStore(embeddings)

    for store in (bob.vector_store(embeddings), bob.vector_store(wrapping=shared)):
        with pytest.raises(ScopeError):
            alice.retriever(store)


async def test_many_users_at_once_on_one_store_each_find_their_own(
    memory: IsolatedMemory, embeddings: Embeddings
):
    shared = InMemoryVectorStore(embeddings)

    async def use(user: str) -> None:
        scope = memory.scope(user_id=user, module_id="m")
        for store in (scope.vector_store(embeddings), scope.vector_store(wrapping=shared)):
            await store.aadd_texts([f"{user} plans {n}" for n in range(5)], ids=list("01234"))
            retriever = scope.retriever(store, k=5)
            for _ in range(5):
                found = await retriever.ainvoke("plans")
                assert contents(found) == [f"{user} plans {n}" for n in range(5)]

    await asyncio.gather(*(use(f"user {number}") for number in range(12)))
