"""Retrievers as LangChain's users have them, that return one scope's documents and no others."""

import asyncio
import threading
from contextlib import closing
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_tests.integration_tests import RetrieversIntegrationTests

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated.errors import IsolationViolation, ScopeError
from tests.conftest import ROOT_KEY, Door
from tests.embeddings import NGramEmbeddings

TEXTS = [
    "a red apple",
    "a green apple",
    "a yellow banana",
    "a red car",
    "apple pie with red apples",
]


@pytest.fixture
def alice(memory: IsolatedMemory) -> ScopedMemory:
    alice = memory.scope(user_id="alice", module_id="tutor")
    alice.vector_store(NGramEmbeddings()).add_texts(TEXTS, [{"n": n} for n in range(len(TEXTS))])
    return alice


@pytest.fixture
def bob(memory: IsolatedMemory) -> ScopedMemory:
    bob = memory.scope(user_id="bob", module_id="tutor")
    bob.vector_store(NGramEmbeddings()).add_texts([f"Bob's red apple {n}" for n in range(30)])
    return bob


class _Standard(RetrieversIntegrationTests):
    @property
    def retriever_query_example(self) -> str:
        return "red apple"


class TestByMeaning(_Standard):
    @pytest.fixture(autouse=True)
    def _scope(self, alice: ScopedMemory) -> None:
        self._alice = alice

    @property
    def retriever_constructor(self) -> Any:
        return self._alice.retriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"source": NGramEmbeddings()}


class TestByWords(TestByMeaning):
    @property
    def retriever_constructor(self) -> Any:
        return self._alice.bm25_retriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {}


def each(scope: ScopedMemory, **options: Any) -> list[BaseRetriever]:
    return [scope.retriever(NGramEmbeddings(), **options), scope.bm25_retriever(**options)]


def contents(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


@pytest.mark.parametrize("k", [-1, 0, "2", True])
async def test_a_number_of_documents_that_has_no_meaning_is_refused(
    alice: ScopedMemory, door: Door, k: Any
):
    for retriever in each(alice):
        with pytest.raises((TypeError, ValueError), match="k must be"):
            await door(retriever, "invoke", "apple", k=k)


async def test_each_finds_its_users_documents_and_no_others(
    alice: ScopedMemory, bob: ScopedMemory, door: Door
):
    for retriever in each(alice, k=50):
        found = contents(await door(retriever, "invoke", "red apple"))

        assert found[0] in {"a red apple", "apple pie with red apples"}
        assert set(found) <= set(TEXTS)
    for retriever in each(bob, k=50):
        assert len(await door(retriever, "invoke", "red apple")) == 30


async def test_a_search_by_words_ranks_rare_words_high_and_leaves_out_what_has_none(
    alice: ScopedMemory, door: Door
):
    found = contents(await door(alice.bm25_retriever(), "invoke", "a BANANA, perhaps?"))

    assert found[0] == "a yellow banana"
    assert await door(alice.bm25_retriever(), "invoke", "zeppelin") == []


def test_how_rare_a_word_is_is_counted_among_ones_own_documents(
    memory: IsolatedMemory, alice: ScopedMemory
):
    alone = contents(alice.bm25_retriever().invoke("red apple"))

    bob = memory.scope(user_id="bob", module_id="tutor").vector_store(NGramEmbeddings())
    bob.add_texts(["apple"] * 200)

    assert contents(alice.bm25_retriever().invoke("red apple")) == alone


async def test_a_filter_narrows_at_construction_and_at_the_call(alice: ScopedMemory, door: Door):
    for retriever in each(alice, k=50, filter={"n": {"$gte": 3}}):
        assert contents(await door(retriever, "invoke", "red apple car")) in (
            ["a red car", "apple pie with red apples"],
            ["apple pie with red apples", "a red car"],
        )
    for retriever in each(alice, k=50):
        assert contents(await door(retriever, "invoke", "red", filter={"n": 3})) == ["a red car"]


async def test_a_filter_of_the_call_cannot_widen_what_one_at_construction_allows(
    alice: ScopedMemory, door: Door
):
    for retriever in each(alice, k=50, filter={"n": 3}):
        for widening in (None, {}, {"n": {"$gte": 0}}):
            found = await door(retriever, "invoke", "red apple", filter=widening)

            assert contents(found) == ["a red car"]


@pytest.mark.parametrize("misspelt", [{"filters": {"n": 3}}, {"where": {"n": 3}}, {"top_k": 1}])
async def test_keywords_that_are_not_known_are_refused(
    alice: ScopedMemory, door: Door, misspelt: dict[str, Any]
):
    for retriever in each(alice):
        with pytest.raises(TypeError):
            await door(retriever, "invoke", "red apple", **misspelt)


def test_a_store_of_another_scope_is_refused(alice: ScopedMemory, bob: ScopedMemory):
    for other in (bob, alice.module("planner")):
        with pytest.raises(ScopeError, match="another scope"):
            alice.retriever(other.vector_store(NGramEmbeddings()))


def test_the_store_cannot_be_reached_through_a_retriever(alice: ScopedMemory):
    for retriever in each(alice):
        assert "vectorstore" not in dir(retriever)
        assert "alice" not in repr(retriever)


async def test_a_chain_of_langchains_uses_it_as_any_other(alice: ScopedMemory):
    prompt = ChatPromptTemplate.from_template("{context} | {question}")
    for retriever in each(alice, k=1):
        join = RunnableLambda(lambda documents: " ".join(contents(documents)))
        chain = {"context": retriever | join, "question": RunnablePassthrough()} | prompt

        assert "banana" in chain.invoke("yellow banana").to_string()
        assert [part async for part in chain.astream("yellow banana")]
        assert all(len(found) == 1 for found in await retriever.abatch(["banana", "car"]))


# LangChain warns that `as_tool` is in beta.
@pytest.mark.filterwarnings("ignore:This API is in beta")
async def test_as_a_tool_it_takes_a_query_and_nothing_of_a_scope(alice: ScopedMemory):
    for retriever in each(alice, k=1):
        tool = retriever.as_tool(name="notes", description="My notes.")

        assert tool.args.keys() == {"tool_input"}
        assert contents(tool.invoke("yellow banana")) == ["a yellow banana"]


async def test_callbacks_tags_and_metadata_are_told_of_a_search(alice: ScopedMemory):
    class Noted(BaseCallbackHandler):
        def __init__(self) -> None:
            self.found: list[Any] = []

        def on_retriever_start(self, *_: Any, tags: Any = None, **__: Any) -> None:
            self.found.append(tags)

        def on_retriever_end(self, documents: Any, **_: Any) -> None:
            self.found.append(contents(documents))

    for retriever in each(alice, k=1, tags=["notes"]):
        sync, asynchronous = Noted(), Noted()
        retriever.invoke("banana", {"callbacks": [sync]})
        await retriever.ainvoke("banana", {"callbacks": [asynchronous]})

        assert sync.found == asynchronous.found == [["notes"], ["a yellow banana"]]


async def test_documents_are_checked_beside_the_event_loop_not_on_it(sqlite_url: str):
    class Kms:
        """A key service that may be far away."""

        def __init__(self) -> None:
            self.callers: set[int] = set()
            self._key = LocalRootKey(ROOT_KEY)
            self.key_id = self._key.key_id

        def wrap(self, key: bytes, context: bytes) -> bytes:
            return self._key.wrap(key, context)

        def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
            self.callers.add(threading.get_ident())
            return self._key.unwrap(wrapped, context)

    with IsolatedMemory(sqlite_url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        stamped = memory.scope(user_id="alice", module_id="m").stamped([Document("a banana")])
    kms = Kms()
    # Not entered: that asks the key service, once for everybody.
    with closing(IsolatedMemory(sqlite_url, root_key=kms)) as memory:
        alice = memory.scope(user_id="alice", module_id="m")
        found = await alice.retriever(Everything(held=stamped)).ainvoke("banana")

    assert contents(found) == ["a banana"]
    assert kms.callers
    assert threading.get_ident() not in kms.callers


async def test_a_cancelled_search_leaves_the_next_one_whole(alice: ScopedMemory):
    for retriever in each(alice, k=1):
        searches = [asyncio.create_task(retriever.ainvoke("banana")) for _ in range(20)]
        await asyncio.sleep(0)
        for search in searches[::2]:
            search.cancel()
        found = await asyncio.gather(*searches, return_exceptions=True)

        assert all(contents(part) == ["a yellow banana"] for part in found[1::2])  # type: ignore[arg-type]


class Everything(BaseRetriever):
    """A retriever that returns all it has, whoever asks, and says what it found on the way."""

    held: list[Document]

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        return RunnableLambda(lambda _: list(self.held)).invoke(query)


async def test_in_checked_mode_stamped_documents_come_back_as_they_were(
    alice: ScopedMemory, door: Door
):
    notes = [Document(id="1", page_content="mine", metadata={"n": 1})]
    retriever = alice.retriever(Everything(held=alice.stamped(notes)))

    assert await door(retriever, "invoke", "anything") == notes


async def test_in_checked_mode_what_is_not_the_scopes_own_is_never_handed_out(
    alice: ScopedMemory, bob: ScopedMemory, door: Door
):
    own, foreign = Document(id="1", page_content="mine"), Document(id="1", page_content="Bob's")
    (stamped,), (others,) = alice.stamped([own]), bob.stamped([foreign])
    forged = Document(id="1", page_content="Bob's", metadata=stamped.metadata)
    renamed = stamped.model_copy(update={"metadata": {**stamped.metadata, "langmem_id": '"2"'}})
    claimed = Document(
        id="1",
        page_content="Bob's",
        metadata={**others.metadata, "langmem_owner": stamped.metadata["langmem_owner"]},
    )
    for stranger in (foreign, others, forged, renamed, claimed, Document(page_content="")):
        with pytest.raises(IsolationViolation) as caught:
            await door(alice.retriever(Everything(held=[stamped, stranger])), "invoke", "q")
        assert "Bob" not in str(caught.value)


async def test_what_is_refused_is_not_streamed_to_the_user_either(
    alice: ScopedMemory, bob: ScopedMemory
):
    everything = Everything(held=bob.stamped([Document(id="1", page_content="Bob's secret")]))
    streamed: list[Any] = []

    async def stream(retriever: BaseRetriever) -> None:
        async for event in (RunnablePassthrough() | retriever).astream_events("query"):
            streamed.append(event)  # noqa: PERF401 - it raises on the way

    with pytest.raises(IsolationViolation):
        await stream(alice.retriever(everything))
    assert streamed
    assert "secret" not in repr(streamed)

    await stream(everything)
    assert "secret" in repr(streamed)


async def test_what_is_shared_with_a_scope_passes_its_check(
    memory: IsolatedMemory, alice: ScopedMemory, door: Door
):
    shared = memory.publisher(module_id="tutor").stamped([Document(id="1", page_content="for all")])
    others = memory.publisher(module_id="planner").stamped([Document(id="1", page_content="no")])

    found = await door(alice.retriever(Everything(held=shared)), "invoke", "q")

    assert contents(found) == ["for all"]
    with pytest.raises(IsolationViolation):
        await door(alice.retriever(Everything(held=others)), "invoke", "q")


def test_options_of_a_search_beside_a_retriever_are_refused(alice: ScopedMemory):
    for options in ({"k": 3}, {"filter": {}}, {"search_kwargs": {}}):
        with pytest.raises(TypeError, match="belong to the retriever"):
            alice.retriever(Everything(held=[]), **options)  # type: ignore[arg-type]
