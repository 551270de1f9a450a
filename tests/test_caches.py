import asyncio
import re
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_classic.storage import create_kv_docstore
from langchain_core.caches import BaseCache
from langchain_core.documents import Document
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    Generation,
    GenerationChunk,
)
from langchain_core.runnables import RunnableLambda
from langchain_core.stores import BaseStore, InMemoryByteStore
from langchain_tests.integration_tests import (
    AsyncCacheTestSuite,
    BaseStoreAsyncTests,
    BaseStoreSyncTests,
    SyncCacheTestSuite,
)
from langgraph.graph import START, MessagesState, StateGraph

from langmem_isolated import (
    IsolatedByteStore,
    IsolatedLLMCache,
    IsolatedMemory,
    LocalRootKey,
    Scope,
    ScopedMemory,
)
from langmem_isolated._codecs import classes
from langmem_isolated._storage import entries
from langmem_isolated.caches import llm_cache
from langmem_isolated.errors import (
    IsolationViolation,
    KeyDestroyed,
    RecordError,
    ScopeError,
    ValueNotStorable,
)
from tests.conftest import Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.lasting import alice, lasting, lasting_url

FIXTURES = (alice, lasting, lasting_url)

MODEL = "[('model', 'm')]"


@pytest.fixture
def cache(alice: ScopedMemory) -> IsolatedLLMCache:
    return alice.llm_cache()


@pytest.fixture
def store(alice: ScopedMemory) -> IsolatedByteStore:
    return alice.byte_store()


# --- LangChain's own suites -----------------------------------------------------------------------


class TestSyncCacheContract(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, alice: ScopedMemory) -> BaseCache:
        return alice.llm_cache()


class TestAsyncCacheContract(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self, alice: ScopedMemory) -> BaseCache:
        return alice.llm_cache(ttl=timedelta(hours=1))


class TestCacheOfTheRunContract(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, lasting: IsolatedMemory, alice: ScopedMemory) -> BaseCache:
        # A fixture that yields is a generator: `using` would be refused in it.
        return lasting.llm_cache(scope_resolver=lambda _: alice.scope)


class TestSyncStoreContract(BaseStoreSyncTests[bytes]):
    @pytest.fixture
    def kv_store(self, alice: ScopedMemory) -> BaseStore[str, bytes]:
        return alice.byte_store()

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"foo", b"", b"\x00\xff" * 3_000


class TestAsyncStoreContract(BaseStoreAsyncTests[bytes]):
    @pytest.fixture
    async def kv_store(self, alice: ScopedMemory) -> BaseStore[str, bytes]:
        return alice.byte_store()

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"foo", b"", b"\x00\xff" * 3_000


# --- answers of models ----------------------------------------------------------------------------

ANSWERS: dict[str, list[Any]] = {
    "text": [Generation(text="Paris", generation_info={"reason": "stop", "scores": (0.5, None)})],
    "several": [Generation(text="a"), GenerationChunk(text="b"), Generation(text="")],
    "none": [],
    "chat": [
        ChatGeneration(
            message=AIMessage(
                [{"type": "text", "text": "see"}, {"type": "image", "url": "https://x"}],
                id="run-1",
                name="model",
                tool_calls=[{"name": "look", "args": {"at": [1, None]}, "id": "c"}],
                response_metadata={"at": timedelta(seconds=1)},
                usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
            ),
            generation_info={"finish_reason": "tool_calls"},
        )
    ],
    "chunk": [ChatGenerationChunk(message=AIMessageChunk("part", chunk_position="last"))],
    "tool": [ChatGeneration(message=ToolMessage("r", tool_call_id="t", artifact={"a": b"\x00"}))],
}


@pytest.mark.parametrize("kind", ANSWERS)
async def test_an_answer_comes_back_exactly(cache: IsolatedLLMCache, door: Door, kind: str):
    given: list[Generation] = ANSWERS[kind]
    await door(cache, "update", "Where?", MODEL, given)

    found = await door(cache, "lookup", "Where?", MODEL)

    assert found == given
    assert [type(one) for one in found] == [type(one) for one in given]
    assert [one.model_dump() for one in found] == [one.model_dump() for one in given]


async def test_an_answer_is_the_callers_own(cache: IsolatedLLMCache, door: Door):
    await door(cache, "update", "Where?", MODEL, ANSWERS["chat"])
    (first,) = await door(cache, "lookup", "Where?", MODEL)
    first.message.content = "changed"

    assert await door(cache, "lookup", "Where?", MODEL) == ANSWERS["chat"]


async def test_prompt_and_model_together_are_what_is_looked_up(cache: IsolatedLLMCache, door: Door):
    pairs = [("a", "bc"), ("ab", "c"), ("", "abc"), ("abc", ""), ("a\ud800", "bc"), ("a\0", "bc")]
    for prompt, model in pairs:
        await door(cache, "update", prompt, model, [Generation(text=ascii((prompt, model)))])

    for prompt, model in pairs:
        (found,) = await door(cache, "lookup", prompt, model)
        assert found.text == ascii((prompt, model))
    assert await door(cache, "lookup", "a", "b") is None


async def test_a_later_answer_replaces_an_earlier_one(cache: IsolatedLLMCache, door: Door):
    for text in ("first", "second"):
        await door(cache, "update", "Where?", MODEL, [Generation(text=text)])

    assert await door(cache, "lookup", "Where?", MODEL) == [Generation(text="second")]


class MyGeneration(Generation):
    pass


@pytest.mark.parametrize(
    "answer",
    [
        Generation(text="x", generation_info={"raw": object()}),
        ChatGeneration(message=AIMessage("x", additional_kwargs={"raw": object()})),
        MyGeneration(text="x"),
    ],
)
async def test_an_answer_without_a_stored_form_is_not_cached_and_told_once_by_type(
    cache: IsolatedLLMCache, door: Door, answer: Generation, caplog: pytest.LogCaptureFixture
):
    """The model was paid for it: whoever asked must get it."""
    classes._told.clear()
    for _ in range(2):
        await door(cache, "update", "Where?", MODEL, [answer])

    assert await door(cache, "lookup", "Where?", MODEL) is None
    [told] = caplog.messages
    assert re.fullmatch(
        r"An answer with a (builtins\.object|\S+MyGeneration) was not cached\.", told
    )


async def test_an_answer_with_half_an_emoji_is_cached(cache: IsolatedLLMCache, door: Door):
    await door(cache, "update", "Where?", MODEL, [Generation(text="lone \ud800")])

    assert await door(cache, "lookup", "Where?", MODEL) == [Generation(text="lone \ud800")]


@pytest.mark.parametrize(
    ("form", "plain"), [(b"\x02", [["Generation", {"text": "x"}]]), (b"\x01", [["Later", {}]])]
)
async def test_an_answer_that_a_later_version_stored_is_refused(
    cache: IsolatedLLMCache,
    door: Door,
    monkeypatch: pytest.MonkeyPatch,
    form: bytes,
    plain: list[Any],
):
    with monkeypatch.context() as later:
        later.setattr(
            llm_cache, "_encoded", lambda _: form + llm_cache.encode_value(plain, "a test")
        )
        await door(cache, "update", "Where?", MODEL, [])

    with pytest.raises(RecordError, match="later langmem-isolated"):
        await door(cache, "lookup", "Where?", MODEL)


async def test_an_expired_answer_is_absent_and_swept(
    memory: IsolatedMemory, door: Door, attacker: Attacker
):
    scoped = memory.scope(user_id="alice", module_id="tutor")
    kept, brief = scoped.llm_cache(), scoped.llm_cache(ttl=timedelta(milliseconds=1))
    await door(kept, "update", "for ever", MODEL, [Generation(text="x")])
    await door(brief, "update", "a moment", MODEL, [Generation(text="x")])
    time.sleep(0.003)  # noqa: ASYNC251 -- until it has expired

    assert await door(kept, "lookup", "a moment", MODEL) is None
    assert await door(kept, "lookup", "for ever", MODEL) == [Generation(text="x")]
    assert attacker("SELECT COUNT(*) FROM records") == [(2,)]
    assert await door(brief, "sweep") == 1
    assert await door(brief, "sweep") == 0
    assert attacker("SELECT COUNT(*) FROM records") == [(1,)]

    await door(scoped.llm_cache(ttl=timedelta(hours=1)), "update", "a moment", MODEL, [])
    assert await door(kept, "lookup", "a moment", MODEL) == []


async def test_an_expired_answer_given_anew_lives_anew(alice: ScopedMemory, door: Door):
    await door(alice.llm_cache(ttl=timedelta(milliseconds=1)), "update", "q", MODEL, [])
    time.sleep(0.003)  # noqa: ASYNC251 -- until it has expired

    await door(alice.llm_cache(), "update", "q", MODEL, ANSWERS["text"])

    assert await door(alice.llm_cache(), "lookup", "q", MODEL) == ANSWERS["text"]


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=-1), -timedelta.resolution])
def test_a_time_to_live_of_nothing_is_refused(lasting: IsolatedMemory, ttl: timedelta):
    with pytest.raises(ValueError, match="a microsecond or more"):
        lasting.llm_cache(ttl=ttl)


async def test_the_longest_time_to_live_is_possible(alice: ScopedMemory, door: Door):
    cache = alice.llm_cache(ttl=timedelta.max)

    await door(cache, "update", "q", MODEL, ANSWERS["text"])

    assert await door(cache, "lookup", "q", MODEL) == ANSWERS["text"]


async def test_clearing_forgets_answers_and_nothing_else(alice: ScopedMemory, door: Door):
    cache, store = alice.llm_cache(), alice.byte_store("llm cache")
    await door(cache, "update", "q", MODEL, [])
    await door(store, "mset", [("k", b"v")])

    await door(cache, "clear")

    assert await door(cache, "lookup", "q", MODEL) is None
    assert await door(store, "mget", ["k"]) == [b"v"]


async def test_clearing_some_answers_only_is_refused(cache: IsolatedLLMCache, door: Door):
    await door(cache, "update", "q", MODEL, [])

    with pytest.raises(TypeError, match="Nothing was removed"):
        await door(cache, "clear", llm_string=MODEL)

    assert await door(cache, "lookup", "q", MODEL) == []


async def test_looking_and_clearing_make_no_keys(memory: IsolatedMemory, door: Door):
    scoped = memory.scope(user_id="nobody", module_id="tutor")
    cache, store = scoped.llm_cache(), scoped.byte_store()

    await door(cache, "lookup", "q", MODEL)
    await door(cache, "clear")
    await door(cache, "sweep")
    await door(store, "mget", ["a", "b"])
    await door(store, "mset", [])
    await door(store, "mdelete", ["a"])
    assert list(store.yield_keys()) == []

    assert memory.modules(user_id="nobody") == []


async def test_a_model_with_the_cache_is_asked_once(cache: IsolatedLLMCache, door: Door):
    chat = FakeListChatModel(responses=["one", "two"], cache=cache)
    llm = FakeListLLM(responses=["uno", "due"], cache=cache)

    assert [(await door(chat, "invoke", "hi")).content for _ in range(2)] == ["one", "one"]
    assert (await door(chat, "invoke", "hello")).content == "two"
    assert [await door(llm, "invoke", "hi") for _ in range(2)] == ["uno", "uno"]
    assert await door(llm, "invoke", "hello") == "due"


# --- the cache of whoever runs --------------------------------------------------------------------


@pytest.fixture
def cache_of_the_run(memory: IsolatedMemory) -> Iterator[IsolatedLLMCache]:
    cache = memory.llm_cache()
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)


def of(user: str) -> Any:
    return {"configurable": {"user_id": user, "module_id": "tutor"}}


@pytest.mark.usefixtures("cache_of_the_run")
async def test_each_run_is_answered_from_its_own_scope(door: Door):
    model = FakeListChatModel(responses=["to alice", "to bob"])
    chain = RunnableLambda(lambda text: text) | model

    assert (await door(chain, "invoke", "Who am I?", of("alice"))).content == "to alice"
    assert (await door(chain, "invoke", "Who am I?", of("bob"))).content == "to bob"
    assert (await door(chain, "invoke", "Who am I?", of("alice"))).content == "to alice"
    assert model.i == 0


@pytest.mark.usefixtures("cache_of_the_run")
async def test_an_answer_given_again_is_another_message(door: Door):
    """Under the first one's id LangGraph would put it in that one's place."""
    model = FakeListChatModel(responses=["once", "twice"])
    chain = RunnableLambda(lambda text: text) | model

    said = [await door(chain, "invoke", "Who am I?", of("alice")) for _ in range(3)]

    assert [message.content for message in said] == ["once"] * 3
    assert len({message.id for message in said}) == 3
    assert all(message.id.startswith("lc_run-") for message in said)


@pytest.mark.usefixtures("cache_of_the_run")
async def test_a_model_in_a_graph_is_answered_from_the_scope_of_the_run(door: Door):
    model = FakeListChatModel(responses=["to alice", "to bob"])
    builder = StateGraph(MessagesState)
    builder.add_node("say", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(START, "say")
    graph = builder.compile()

    said = [
        (await door(graph, "invoke", {"messages": [HumanMessage("hi", id="h")]}, of(user)))
        for user in ("alice", "bob", "alice")
    ]

    contents = [state["messages"][-1].content for state in said]
    assert contents == ["to alice", "to bob", "to alice"]


async def test_runs_side_by_side_are_each_answered_their_own(cache_of_the_run: IsolatedLLMCache):
    model = FakeListChatModel(responses=["x"])

    def ask(text: str, config: Any) -> str:
        user = config["configurable"]["user_id"]
        cache_of_the_run.update("who", MODEL, [Generation(text=user)])
        model.invoke(text)
        (found,) = cache_of_the_run.lookup("who", MODEL) or []
        return f"{user} {found.text}"

    async def aask(text: str, config: Any) -> str:
        user = config["configurable"]["user_id"]
        await cache_of_the_run.aupdate("who", MODEL, [Generation(text=user)])
        await model.ainvoke(text)
        (found,) = await cache_of_the_run.alookup("who", MODEL) or []
        return f"{user} {found.text}"

    chain: Any = RunnableLambda(ask, afunc=aask)
    users = [f"user {number % 7}" for number in range(42)]
    there = chain.batch(["hi"] * len(users), [of(user) for user in users])
    here = await asyncio.gather(*(chain.ainvoke("hi", of(user)) for user in users))

    assert there == here == [f"{user} {user}" for user in users]


@pytest.mark.usefixtures("cache_of_the_run")
async def test_without_a_scope_the_model_is_not_even_asked(memory: IsolatedMemory, door: Door):
    model = FakeListChatModel(responses=["to alice", "to nobody"])
    with memory.using(Scope("alice", "tutor")):
        await door(model, "invoke", "Who am I?")

    # A model alone makes no run: nobody reads what its config says.
    for config in (None, of("alice"), {"configurable": {"user_id": "alice"}}):
        with pytest.raises(ScopeError, match="names no scope"):
            await door(model, "invoke", "Who am I?", config)
    with pytest.raises(ScopeError):
        await door(
            RunnableLambda(lambda text: text) | model,
            "invoke",
            "Who am I?",
            {"configurable": {"user_id": "alice"}},
        )
    assert model.i == 1


async def test_no_operation_finds_a_scope_where_there_is_none(lasting: IsolatedMemory, door: Door):
    cache = lasting.llm_cache()

    for name, *args in (
        ("lookup", "q", MODEL),
        ("update", "q", MODEL, []),
        ("clear",),
        ("sweep",),
    ):
        with pytest.raises(ScopeError, match="names no scope"):
            await door(cache, name, *args)


async def test_a_thread_outside_of_the_run_has_no_scope(lasting: IsolatedMemory):
    cache, refused = lasting.llm_cache(), []

    def ask() -> None:
        try:
            cache.lookup("q", MODEL)
        except ScopeError as error:
            refused.append(error)

    with lasting.using(Scope("alice", "tutor")):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    assert len(refused) == 1


async def test_a_resolver_decides_and_a_client_cannot_contradict(
    memory: IsolatedMemory, door: Door
):
    def resolver(config: Any) -> Scope:
        return Scope(config["configurable"]["login"], "tutor")

    cache = memory.llm_cache(scope_resolver=resolver)
    model = FakeListChatModel(responses=["to alice", "to bob"], cache=cache)
    chain = RunnableLambda(lambda text: text) | model

    for login, said in (("alice", "to alice"), ("bob", "to bob"), ("alice", "to alice")):
        answer = await door(chain, "invoke", "hi", {"configurable": {"login": login}})
        assert answer.content == said
    with pytest.raises(IsolationViolation):
        await door(chain, "invoke", "hi", {"configurable": {"login": "bob", "user_id": "alice"}})


# --- bytes under keys -----------------------------------------------------------------------------


async def keys_of(store: IsolatedByteStore, door: Door, prefix: str | None = None) -> list[str]:
    """The keys through the door that ``door`` goes through, sorted."""

    class Listing:
        def listed(self) -> list[str]:
            return list(store.yield_keys(prefix=prefix))

        async def alisted(self) -> list[str]:
            return [key async for key in store.ayield_keys(prefix=prefix)]

    return sorted(await door(Listing(), "listed"))


async def test_every_key_and_value_comes_back(store: IsolatedByteStore, door: Door):
    pairs = {
        "": b"",
        "a/b": b"\x00",
        "ä": "ä".encode(),
        "a\u0308": b"another",
        "\x00": b"zero",
        "long" * 2_000: b"x" * 100_000,
        "'; DROP TABLE records; --": b"%",
    }

    await door(store, "mset", list(pairs.items()))

    assert await door(store, "mget", list(pairs)) == list(pairs.values())
    assert await keys_of(store, door) == sorted(pairs)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
async def test_any_number_of_values_is_got_at_once(
    store: IsolatedByteStore, door: Door, count: int
):
    pairs = [(str(number), str(number).encode()) for number in range(count)]
    await door(store, "mset", pairs)

    found = await door(store, "mget", [*(key for key, _ in pairs), "absent", "0", "0"])

    assert found == [*(value for _, value in pairs), None, b"0", b"0"]


async def test_of_one_key_given_twice_the_last_value_counts(store: IsolatedByteStore, door: Door):
    await door(store, "mset", [("a", b"1"), ("b", b"2"), ("a", b"3")])

    assert await door(store, "mget", ["a", "b"]) == [b"3", b"2"]


@pytest.mark.parametrize("count", [255, 256, 257, 600])
async def test_keys_are_listed_over_pages_each_once(
    store: IsolatedByteStore, door: Door, count: int
):
    keys = [f"{number:04}" for number in range(count)]
    await door(store, "mset", [(key, b"") for key in keys])

    assert await keys_of(store, door) == keys
    assert await keys_of(store, door, "02") == [key for key in keys if key.startswith("02")]
    assert await keys_of(store, door, "x") == []


async def test_keys_removed_while_they_are_listed_do_no_harm(store: IsolatedByteStore):
    store.mset([(str(number), b"") for number in range(300)])
    listing = store.yield_keys()
    next(listing)

    store.mdelete([str(number) for number in range(300)])

    assert len(list(listing)) == 255
    assert list(store.yield_keys()) == []


async def test_stores_of_other_names_are_apart(alice: ScopedMemory, door: Door):
    stores = {name: alice.byte_store(name) for name in ("default", "Default", "llm cache", "%")}
    for name, store in stores.items():
        await door(store, "mset", [("k", name.encode())])

    await door(stores.pop("Default"), "mdelete", ["k"])

    for name, store in stores.items():
        assert await door(store, "mget", ["k"]) == [name.encode()]
        assert await keys_of(store, door) == ["k"]


@pytest.mark.parametrize("name", ["", "a\x00", None, 7, "x" * 256])
def test_a_malformed_name_is_refused(alice: ScopedMemory, name: Any):
    with pytest.raises(ScopeError):
        alice.byte_store(name)


async def test_what_is_not_text_or_bytes_is_refused(store: IsolatedByteStore, door: Door):
    for pairs in ([("k", "text")], [("lone \ud800", b""), ("k", bytearray(b"x"))]):
        with pytest.raises(ValueNotStorable):
            await door(store, "mset", pairs)
    for keys in ([None], [b"k"], ["k", 7]):
        with pytest.raises(TypeError, match="must be a str"):
            await door(store, "mget", keys)
        with pytest.raises(TypeError, match="must be a str"):
            await door(store, "mdelete", keys)

    assert await keys_of(store, door) == []


class Counting(NGramEmbeddings):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(8)
        self.asked: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.asked += texts
        return super().embed_documents(texts)


async def test_embeddings_are_computed_once(store: IsolatedByteStore, door: Door):
    model = Counting()
    cached = CacheBackedEmbeddings.from_bytes_store(
        model, store, namespace="m", key_encoder="blake2b"
    )

    first = await door(cached, "embed_documents", ["cat", "dog"])
    again = await door(cached, "embed_documents", ["dog", "cat", "owl"])

    assert model.asked == ["cat", "dog", "owl"]
    assert again[:2] == first[::-1] == NGramEmbeddings(8).embed_documents(["dog", "cat"])


async def test_documents_are_kept_for_retrievers(store: IsolatedByteStore, door: Door):
    documents = create_kv_docstore(store)
    document = Document("A long report", metadata={"pages": [1, 2]}, id="d")

    await door(documents, "mset", [("report.pdf", document)])

    assert await door(documents, "mget", ["report.pdf", "other"]) == [document, None]
    assert await keys_of(store, door) == ["report.pdf"]


async def test_what_was_stored_is_there_in_another_process(
    alice: ScopedMemory, lasting_url: str, root_key: LocalRootKey, door: Door
):
    """As good as another: with an engine and keys of its own."""
    await door(alice.llm_cache(), "update", "q", MODEL, ANSWERS["chat"])
    await door(alice.byte_store(), "mset", [("k", b"v")])

    with IsolatedMemory(lasting_url, root_key=root_key) as other:
        again = other.scope(alice.scope)
        assert await door(again.llm_cache(), "lookup", "q", MODEL) == ANSWERS["chat"]
        assert await door(again.byte_store(), "mget", ["k"]) == [b"v"]


def test_values_put_side_by_side_in_any_order_are_all_there(store: IsolatedByteStore):
    keys = [str(number) for number in range(40)]

    def put(number: int) -> None:
        ordered = keys if number % 2 else keys[::-1]
        for _ in range(5):
            store.mset([(key, str(number).encode()) for key in ordered])
            store.mdelete(ordered[:3])

    threads = [threading.Thread(target=put, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.mset([(key, b"end") for key in keys])

    assert store.mget(keys) == [b"end"] * 40


# --- erased scopes --------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["answer", "value", "values", "keys of documents"])
@pytest.mark.parametrize("how", ["gone", "came back"])
async def test_nothing_is_put_into_an_erased_scope(
    memory: IsolatedMemory, door: Door, attacker: Attacker, how: str, what: str
):
    """Another process has erased the user; this one still has the keys in its cache."""
    scoped = memory.scope(user_id="alice", module_id="tutor")
    put: tuple[Any, ...] = {
        "answer": (scoped.llm_cache(), "update", "q", MODEL, []),
        "value": (scoped.byte_store(), "mset", [("k", b"new")]),
        "values": (scoped.byte_store(), "mset", [("k", b"1"), ("l", b"2")]),
        "keys of documents": (scoped.record_manager(), "update", ["k", "l"]),
    }[what]
    await door(*put)
    attacker("DELETE FROM records")
    if how == "came back":
        attacker("UPDATE scopes SET birth = ?", bytes(16))
    else:
        attacker("DELETE FROM scopes")

    with pytest.raises(KeyDestroyed):
        await door(*put)

    assert attacker("SELECT COUNT(*) FROM records") == [(0,)]


def test_the_form_of_an_entry_is_frozen(memory: IsolatedMemory, attacker: Attacker):
    """What this version stores must open for ever: this layout never changes."""
    records = memory.scope(user_id="alice", module_id="tutor")._records
    records.write(
        entries.put, (b"byte store", b"n"), [entries.Entry(b"key", b"value", b"tag")], 5, 7
    )

    keys, kind = records.keys(), entries.Kind.ENTRY
    parent = keys.pseudonym(kind, b"space", b"byte store", b"n")
    place = (
        parent,
        keys.pseudonym(kind, b"key", parent, b"key"),
        keys.pseudonym(kind, b"tag", parent, b"tag"),
    )
    ((*row, sealed),) = attacker(
        "SELECT parent, key, tag, updated_at, expires_at, sealed FROM records"
    )
    assert [*map(bytes, row[:3]), *row[3:]] == [*place, 5, 12]
    assert keys.open(keys.aad_prefix(kind, parent), place[1], bytes(sealed), kind) == b"".join(
        [
            b"\x01",
            (5).to_bytes(8),
            (12).to_bytes(8),
            (19).to_bytes(4) + (3).to_bytes(4) + (3).to_bytes(4),
            (10).to_bytes(4) + b"byte store" + (1).to_bytes(4) + b"n",
            b"keytagvalue",
        ]
    )


def test_the_form_of_an_answer_is_frozen():
    """What this version stores must open for ever: this vector never changes."""
    stored = bytes.fromhex(
        "01"
        "92"
        "92aa47656e65726174696f6e"
        "83a474657874a178af67656e65726174696f6e5f696e666fc0a474797065aa47656e65726174696f6e"
        "92ae4368617447656e65726174696f6e"
        "84a474657874a179af67656e65726174696f6e5f696e666fc0a474797065ae436861744765"
        "6e65726174696f6ea76d657373616765c70f1792a2616981a7636f6e74656e74a179"
    )

    assert llm_cache._decoded(stored) == [
        Generation(text="x"),
        ChatGeneration(message=AIMessage("y")),
    ]


def test_stores_and_caches_show_nothing_of_themselves(alice: ScopedMemory):

    for one in (alice.llm_cache(), alice.byte_store("Quokka"), alice.record_manager("Quokka")):
        assert "alice" not in repr(one)
        assert "Quokka" not in repr(one)


def test_bytes_of_langchains_own_store_and_ours_agree(store: IsolatedByteStore):
    """The same calls, in the same order, with the same results."""
    theirs: Any = InMemoryByteStore()
    for one in (calls := (theirs, store)):
        one.mset([("a", b"1"), ("b", b"2"), ("a", b"3"), ("ab", b"4")])
        one.mdelete(["b", "absent"])
        one.mset([("b", b"5")])
    got, listed = zip(
        *((one.mget(["ab", "b", "x", "a"]), sorted(one.yield_keys(prefix="a"))) for one in calls),
        strict=True,
    )

    assert got[0] == got[1]
    assert listed[0] == listed[1]
