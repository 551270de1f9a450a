"""Another embedding model: told by collections and store indexes, and the way to it."""

import asyncio
import json
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langgraph.store.base import PutOp

from langmem_isolated import IsolatedMemory, IsolatedStore, LocalRootKey, ScopedMemory
from langmem_isolated._adapters.embedding_calls import embedded
from langmem_isolated._codecs.headers import (
    CollectionHeader,
    decode_collection,
    encode_collection,
)
from langmem_isolated._codecs.values import encode_value
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._search.embedding_models import embedding_model_name, model_digest
from langmem_isolated._storage.documents import unit_of_work
from langmem_isolated.errors import (
    EmbeddingModelChanged,
    EmbeddingModelWarning,
    EmbeddingRefused,
    RecordDoesNotOpen,
    RecordError,
)
from langmem_isolated.vector_store import IsolatedVectorStore
from tests.conftest import Attacker, Door
from tests.embeddings import NGramEmbeddings

VECTORS = Path(__file__).parent / "vectors"
TEXTS = {
    "cello": "my sister plays the cello",
    "violin": "his brother plays the violin",
    "harbour": "the harbour of Husum at low tide",
}


class Named(NGramEmbeddings):
    """The same length for every name, and other vectors."""

    def __init__(self, model: str, dimensions: int = 64) -> None:
        super().__init__(dimensions)
        self.model = model
        self.asked: list[list[str]] = []

    def embed_query(self, text: str) -> list[float]:
        return super().embed_query(f"{text} {self.model}")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.asked.append(texts)
        return super().embed_documents(texts)


class Interrupted(Named):
    """While it embeds documents, once for each, others do something."""

    def __init__(self, *events: Callable[[], object]) -> None:
        super().__init__("interrupted")
        self.events = [*events]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if self.events:
            self.events.pop(0)()
        return super().embed_documents(texts)


@pytest.fixture
def scoped(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


@pytest.fixture
def filled(scoped: ScopedMemory) -> IsolatedVectorStore:
    store = scoped.vector_store(Named("one"))
    store.add_texts([*TEXTS.values()], [{"about": about} for about in TEXTS], ids=[*TEXTS])
    return store


def stored(store: IsolatedVectorStore) -> dict[str | None, tuple[str, dict[str, Any]]]:
    documents = store.documents()
    by_id = {one.id: (one.page_content, one.metadata) for one in documents}
    assert len(by_id) == len(documents)
    return by_id


def nearest_of_each(store: IsolatedVectorStore) -> dict[str, list[str | None]]:
    """What is found by the text of each document; it is as near as can be."""
    found = {}
    for id_, (text, _) in stored(store).items():
        hits = store.similarity_search_with_score(text, k=1)
        assert hits[0][1] == pytest.approx(1, abs=1e-5)
        found[str(id_)] = [hit.id for hit, _ in hits]
    return found


def rewrite_header(store: IsolatedVectorStore, header: bytes) -> None:
    """Seal another header of a collection, as another version of this package had."""

    def rewrite(transaction: Transaction, keys: ScopeKeys) -> None:
        digest = keys.pseudonym(Kind.COLLECTION, b"default")
        state = unit_of_work.ROWS.locked(transaction, keys, digest)
        assert state is not None
        unit_of_work.ROWS.rewrite(transaction, keys, digest, state, header)

    store._own.write(rewrite)


# --- a collection and its model -------------------------------------------------------------------


async def test_another_model_of_the_same_length_is_told_and_nothing_is_written(
    scoped: ScopedMemory, filled: IsolatedVectorStore, door: Door
):
    other, before = scoped.vector_store(Named("two")), stored(filled)

    for name, *given in (
        ("add_texts", ["new"]),
        ("add_documents", [Document("new", id="cello")]),
        ("similarity_search", "cello"),
        ("similarity_search_with_score", "cello"),
        ("max_marginal_relevance_search", "cello"),
        ("find", "cello"),
    ):
        with pytest.raises(EmbeddingModelChanged, match=r"embedding_name=.*reembed\(\)") as told:
            await door(other, name, *given)
        assert isinstance(told.value, ValueError)
        names = map(embedding_model_name, (filled.embeddings, other.embeddings))
        assert (told.value.stored, told.value.given) == tuple(names)

    assert stored(filled) == before
    with pytest.raises(EmbeddingModelChanged):
        await door(other.as_retriever(), "invoke", "cello")
    vector = filled.embeddings.embed_query(TEXTS["cello"])
    (found,) = await door(other, "similarity_search_by_vector", vector, k=1)
    assert found.id == "cello"
    assert [one.id for one in await door(other, "get_by_ids", ["cello"])] == ["cello"]
    assert scoped.bm25_retriever().invoke("cello")[0].id == "cello"
    await door(other, "delete", ["cello"])
    assert stored(other) == {id_: kept for id_, kept in before.items() if id_ != "cello"}
    scoped.verify()


async def test_the_same_model_behind_a_cache_or_under_its_name_is_the_same(
    scoped: ScopedMemory, filled: IsolatedVectorStore, door: Door
):
    cached = CacheBackedEmbeddings.from_bytes_store(
        Named("one"), scoped.byte_store("embeddings"), namespace="one", key_encoder="sha256"
    )
    name = embedding_model_name(Named("one"))
    for store in (
        scoped.vector_store(cached),
        scoped.vector_store(Named("two"), embedding_name=name),
    ):
        await door(store, "add_texts", ["one more"])
        assert len(await door(store, "similarity_search", "cello", k=9)) == len(stored(filled))


async def test_a_name_of_ones_own_outlives_another_class(scoped: ScopedMemory, door: Door):
    mine = scoped.vector_store(Named("one"), embedding_name="mine")
    await door(mine, "add_texts", ["a cello"], ids=["a"])

    renamed = scoped.vector_store(Named("one again"), embedding_name="mine")
    assert [one.id for one in await door(renamed, "similarity_search", "a cello")] == ["a"]
    with pytest.raises(EmbeddingModelChanged, match="embedded by 'mine'"):
        await door(scoped.vector_store(Named("one")), "similarity_search", "a cello")
    found = scoped.retriever(Named("one"), embedding_name="mine")
    assert [one.id for one in await door(found, "invoke", "a cello")] == ["a"]
    with pytest.raises(EmbeddingModelChanged):
        await door(scoped.retriever(Named("one")), "invoke", "a cello")


def test_a_name_that_is_none_is_refused_before_anything_is_done(scoped: ScopedMemory):
    with pytest.raises(TypeError, match="embedding_name must be a str"):
        scoped.vector_store(Named("one"), embedding_name=3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="must not be empty"):
        scoped.vector_store(Named("one"), embedding_name="")
    for source in (scoped.vector_store(Named("one")), scoped.bm25_retriever()):
        with pytest.raises(TypeError, match="belongs to embeddings"):
            scoped.retriever(source, embedding_name="mine")


async def test_an_emptied_collection_takes_another_model(
    scoped: ScopedMemory, filled: IsolatedVectorStore, door: Door
):
    two, three = (scoped.vector_store(Named(name)) for name in ("two", "three"))

    await door(filled, "delete", [*TEXTS])
    assert await door(two, "similarity_search", "cello") == []
    await door(two, "add_texts", ["a cello"], ids=["a"])
    assert nearest_of_each(two) == {"a": ["a"]}
    with pytest.raises(EmbeddingModelChanged):
        await door(filled, "add_texts", ["new"])

    await door(three, "add_texts", ["a violin"], ids=["a"])
    assert nearest_of_each(three) == {"a": ["a"]}
    await door(three, "clear")
    await door(filled, "add_texts", ["a cello"])
    assert len(await door(filled, "similarity_search", "cello")) == 1
    scoped.verify()


@pytest.mark.parametrize(
    "header",
    [
        encode_value({"collection": "default"}, "a header"),
        encode_collection(CollectionHeader("default")),
    ],
)
async def test_a_header_without_a_name_is_read_by_any_model_and_takes_the_next_writers(
    scoped: ScopedMemory, filled: IsolatedVectorStore, door: Door, header: bytes
):
    rewrite_header(filled, header)
    two = scoped.vector_store(Named("two"))

    for store in (filled, two):
        assert len(await door(store, "similarity_search", "cello")) == 3
    await door(filled, "delete", ["harbour"])
    assert len(await door(two, "similarity_search", "cello")) == 2
    await door(filled, "add_texts", ["new"])
    with pytest.raises(EmbeddingModelChanged):
        await door(two, "similarity_search", "cello")
    scoped.verify()


def test_a_header_of_a_later_form_says_so(filled: IsolatedVectorStore):
    rewrite_header(filled, b"\x02later")

    with pytest.raises(RecordError, match="in form 02, this version knows 01"):
        filled.similarity_search("cello")


async def test_a_library_of_another_model_is_told_to_its_readers(
    memory: IsolatedMemory, scoped: ScopedMemory, filled: IsolatedVectorStore, door: Door
):
    library = memory.publisher(module_id="tutor").vector_store(Named("two"))
    await door(library, "add_texts", ["the school's cello"], ids=["school"])

    with pytest.raises(EmbeddingModelChanged):
        await door(filled, "similarity_search", "cello")

    own = scoped.vector_store(Named("one"), levels=["private"])
    assert len(await door(own, "similarity_search", "cello", k=9)) == 3
    again = memory.publisher(module_id="tutor").vector_store(Named("one"))
    assert await door(again, "reembed") == 1
    assert len(await door(filled, "similarity_search", "cello", k=9)) == 4


def test_the_forms_of_a_header_and_of_a_models_digest_are_frozen():
    """What this version stores must open for ever: these bytes never change."""
    frozen = json.loads((VECTORS / "embedding_models_v1.json").read_text())
    header = CollectionHeader("notes", "text-embedding-3-small dimensions=256")

    assert {
        "header": encode_collection(header).hex(),
        "header_without_name": encode_collection(CollectionHeader("notes")).hex(),
        "digest": model_digest("text-embedding-3-small dimensions=256").hex(),
        "header_without_version": encode_value({"collection": "notes"}, "a header").hex(),
    } == frozen
    assert decode_collection(bytes.fromhex(frozen["header"])) == header
    for name in ("header_without_name", "header_without_version"):
        assert decode_collection(bytes.fromhex(frozen[name])) == CollectionHeader("notes")


# --- embedded anew --------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [64, 2048])
async def test_a_collection_embedded_anew_is_the_same_by_another_model(
    scoped: ScopedMemory, filled: IsolatedVectorStore, door: Door, dimensions: int
):
    before, model = stored(filled), Named("two", dimensions)
    store = scoped.vector_store(model)

    assert await door(store, "reembed", batch_size=2) == 3

    assert sorted(map(len, model.asked)) == [1, 2]
    assert stored(store) == before
    assert nearest_of_each(store) == {id_: [id_] for id_ in TEXTS}
    for name, asked in (("add_texts", ["new"]), ("similarity_search", "cello")):
        with pytest.raises(EmbeddingModelChanged):
            await door(filled, name, asked)
    await door(store, "add_texts", ["a flute"], ids=["cello"])
    await door(store, "delete", ["violin"])
    assert nearest_of_each(store) == {id_: [id_] for id_ in ("cello", "harbour")}
    scoped.verify()


async def test_many_blocks_are_embedded_anew_and_a_text_that_is_there_twice_once(
    scoped: ScopedMemory, door: Door
):
    texts = [f"text {number // 2}" for number in range(300)]
    old = scoped.vector_store(Named("one", 512), collection="many")
    old.add_texts(texts, ids=[str(number) for number in range(300)])
    model = Named("two", 1024)
    store = scoped.vector_store(model, collection="many")

    assert await door(store, "reembed") == 300

    assert sorted(text for part in model.asked for text in part) == sorted(set(texts))
    hits = await door(store, "similarity_search_with_score", "text 77", k=2)
    assert {hit.id for hit, _ in hits} == {"154", "155"}
    scoped.verify()


async def test_there_is_nothing_to_embed_where_nothing_is(scoped: ScopedMemory, door: Door):
    model = Named("one")
    store = scoped.vector_store(model)

    assert await door(store, "reembed") == 0
    store.add_texts(["one"], ids=["1"])
    store.delete(["1"])
    model.asked.clear()
    assert await door(store, "reembed") == 0
    assert model.asked == []
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        await door(store, "reembed", batch_size=0)


async def test_what_others_do_while_a_collection_is_embedded_anew_is_in_it(
    scoped: ScopedMemory, filled: IsolatedVectorStore, door: Door
):
    model = Interrupted(
        lambda: filled.add_texts(["new"], ids=["new"]),
        lambda: filled.add_texts(["another cello"], [{"year": 2}], ids=["cello"]),
        lambda: filled.delete(["violin"]),
    )
    store = scoped.vector_store(model)

    assert await door(store, "reembed") == 3

    assert stored(store) == {
        "new": ("new", {}),
        "cello": ("another cello", {"year": 2}),
        "harbour": (TEXTS["harbour"], {"about": "harbour"}),
    }
    assert nearest_of_each(store) == {id_: [id_] for id_ in ("new", "cello", "harbour")}
    scoped.verify()


async def test_a_collection_that_is_cleared_while_it_is_embedded_stays_cleared(
    scoped: ScopedMemory, filled: IsolatedVectorStore, door: Door
):
    store = scoped.vector_store(Interrupted(filled.clear))

    assert await door(store, "reembed") == 0

    assert stored(store) == {}
    filled.add_texts(["one"])
    assert len(filled.similarity_search("one")) == 1


async def test_nothing_changes_when_the_embeddings_fail_or_are_improper(
    scoped: ScopedMemory, filled: IsolatedVectorStore, door: Door
):
    def fail() -> None:
        raise ConnectionError("away")

    class Improper(Named):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            self.asked.append(texts)
            return [[1.0] * len(self.asked)] * len(texts)

    class TooFew(Named):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return super().embed_documents(texts)[1:]

    before = stored(filled)
    with pytest.raises(ConnectionError, match="away"):
        await door(scoped.vector_store(Interrupted(lambda: None, fail)), "reembed", batch_size=2)
    with pytest.raises(ValueError, match="different lengths"):
        await door(scoped.vector_store(Improper("three")), "reembed", batch_size=2)
    with pytest.raises(ValueError, match="made 2 vectors of 3 texts"):
        await door(scoped.vector_store(TooFew("four")), "reembed")

    assert stored(filled) == before
    assert nearest_of_each(filled) == {id_: [id_] for id_ in TEXTS}


def test_every_write_that_was_acknowledged_beside_it_has_the_new_vectors(
    scoped: ScopedMemory, filled: IsolatedVectorStore
):
    started, kept = threading.Barrier(5), []

    def write(writer: int) -> None:
        store = scoped.vector_store(Named("one"))
        started.wait()
        for number in range(40):
            try:
                kept.extend(store.add_texts([f"of {writer}, {number}"]))
            except EmbeddingModelChanged:
                return

    def reembed() -> int:
        started.wait()
        return scoped.vector_store(Named("two")).reembed(batch_size=5)

    with ThreadPoolExecutor(5) as threads:
        writing_threads = [threads.submit(write, writer) for writer in range(4)]
        count = threads.submit(reembed).result(60)
        for thread in writing_threads:
            thread.result(60)

    store = scoped.vector_store(Named("two"))
    assert {*stored(store)} == {*TEXTS, *kept}
    assert count == len(kept) + len(TEXTS)
    assert nearest_of_each(store) == {str(id_): [id_] for id_ in stored(store)}
    scoped.verify()


async def test_an_older_document_that_was_put_back_is_not_vouched_for(
    scoped: ScopedMemory, filled: IsolatedVectorStore, attacker: Attacker, door: Door
):
    before = attacker("SELECT key, sealed, updated_at FROM records WHERE kind = 9 ORDER BY key")
    filled.add_texts(["a newer text"] * 3, ids=[*TEXTS])
    for key, sealed, updated_at in before:
        attacker(
            "UPDATE records SET sealed = ?, updated_at = ? WHERE kind = 9 AND key = ?",
            sealed, updated_at, key,
        )  # fmt: skip

    with pytest.raises(RecordDoesNotOpen, match="not the documents that it stands for"):
        await door(scoped.vector_store(Named("two")), "reembed")
    attacker("DELETE FROM records WHERE kind = 9 AND key = ?", before[0][0])
    with pytest.raises(RecordDoesNotOpen):
        await door(scoped.vector_store(Named("two")), "reembed")


async def test_the_store_of_a_run_is_embedded_anew_for_its_scope_alone(
    memory: IsolatedMemory, scoped: ScopedMemory, filled: IsolatedVectorStore, door: Door
):
    bob = memory.scope(user_id="bob", module_id="tutor").vector_store(Named("one"))
    bob.add_texts(["a cello"], ids=["b"])
    unbound = memory.vector_store(Named("two"), embedding_name="mine")

    with memory.using(scoped):
        assert await door(unbound, "reembed") == 3
        assert (await door(unbound, "similarity_search", TEXTS["cello"], k=1))[0].id == "cello"
    assert nearest_of_each(bob) == {"b": ["b"]}
    found = memory.retriever(Named("two"), embedding_name="mine", k=1)
    chain = RunnableLambda(found.invoke)
    config: Any = {"configurable": {"user_id": "alice", "module_id": "tutor"}}
    assert [one.id for one in await door(chain, "invoke", TEXTS["cello"], config)] == ["cello"]


def test_the_vectors_before_do_not_open_any_more(
    scoped: ScopedMemory, filled: IsolatedVectorStore, attacker: Attacker
):
    ((key, sealed),) = attacker("SELECT key, sealed FROM records WHERE kind = 12")
    store = scoped.vector_store(Named("two"))
    store.reembed()
    attacker("UPDATE records SET sealed = ? WHERE kind = 12 AND key = ?", sealed, key)

    with pytest.raises(RecordDoesNotOpen):
        store.similarity_search("cello")


# --- providers that fail --------------------------------------------------------------------------


class BadRequest(Exception):
    """As providers' clients raise it, with what was sent."""

    status_code = 400


class Picky(Named):
    """Refuses texts that hold a word."""

    def __init__(self, word: str = "forbidden", error: type[Exception] = BadRequest) -> None:
        super().__init__("picky")
        self.word, self.error = word, error
        self.calls = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls += 1
        assert texts, "as many a provider says"
        if any(self.word in text for text in texts):
            raise self.error(f"cannot embed: {texts}")
        return super().embed_documents(texts)


@pytest.mark.parametrize("count", [2, 3, 10, 65])
async def test_which_document_a_provider_refuses_is_told_and_nothing_is_written(
    scoped: ScopedMemory, door: Door, count: int
):
    for position in {0, 1, count // 2, count - 1}:
        model = Picky()
        store = scoped.vector_store(model)
        texts = [f"secret {number}" for number in range(count)]
        texts[position] += " forbidden"

        with pytest.raises(EmbeddingRefused, match=f"position {position} of {count}") as told:
            await door(store, "add_texts", texts)

        assert (told.value.position, told.value.count) == (position, count)
        assert told.value.cause == f"{__name__}.BadRequest"
        assert "secret" not in str(told.value)
        assert told.value.__suppress_context__
        assert model.calls <= count.bit_length() + 3
        assert stored(store) == {}


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError,
        TimeoutError,
        type("RateLimitError", (Exception,), {"status_code": 429}),
        type("ServerError", (Exception,), {"status_code": 503}),
        type("APITimeoutError", (Exception,), {}),
        type("HTTPError", (Exception,), {"response": type("R", (), {"status_code": 401})}),
    ],
)
async def test_a_provider_that_is_away_is_not_asked_again(
    scoped: ScopedMemory, door: Door, error: type[Exception]
):
    model = Picky("", error)

    with pytest.raises(error, match="cannot embed"):
        await door(scoped.vector_store(model), "add_texts", ["one", "two", "three"])

    assert model.calls == 1


async def test_a_provider_that_refuses_every_text_or_too_many_raises_its_own_error(
    scoped: ScopedMemory, door: Door
):
    class AtMost(Named):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            if len(texts) > 5:
                raise BadRequest("too many")
            return super().embed_documents(texts)

    for model in (Picky(""), AtMost("at most five")):
        store = scoped.vector_store(model)
        with pytest.raises(BadRequest):
            await door(store, "add_texts", [f"text {number}" for number in range(8)])
        assert stored(store) == {}
    with pytest.raises(BadRequest):
        await door(scoped.vector_store(Picky()), "add_texts", ["one, forbidden"])


@pytest.mark.parametrize(
    ("vectors", "told"),
    [
        ([[1.0]], "made 1 vectors of 2 texts"),
        ([[1.0]] * 3, "made 3 vectors of 2 texts"),
        ([[1.0], []], "got none. It is that of the document at position 1 of 2"),
        ([None, [1.0]], "got NoneType. It is that of the document at position 0 of 2"),
        ([[1.0], [float("nan")]], "finite numbers.* position 1 of 2"),
        ([[1.0], [1.0, 2.0]], "different lengths"),
    ],
)
async def test_improper_vectors_are_told_with_their_place(
    scoped: ScopedMemory, door: Door, vectors: Any, told: str
):
    class Improper(Named):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:  # noqa: ARG002
            return vectors  # type: ignore[no-any-return]

    store = scoped.vector_store(Improper("improper"))
    with pytest.raises(ValueError, match=told):
        await door(store, "add_texts", ["one", "two"])
    assert stored(store) == {}


def test_vectors_may_be_an_array():
    class Array(Named):
        def embed_documents(self, texts: list[str]) -> Any:
            return np.array(super().embed_documents(texts))

    assert len(embedded(Array("array"), ["one", "two"])) == 2


# --- the index of a store -------------------------------------------------------------------------


def store_of(scoped: ScopedMemory, embed: Any, dims: int = 64, **more: Any) -> IsolatedStore:
    return scoped.store(index={"dims": dims, "embed": embed, **more})


def put(store: IsolatedStore, *keys: str) -> None:
    store.batch([PutOp(("facts",), key, {"text": TEXTS[key]}) for key in keys])


def ranked(items: Any) -> list[tuple[str, bool]]:
    """Keys, and whether they were ranked by meaning."""
    return [(item.key, item.score is not None) for item in items]


async def test_items_of_another_model_come_last_and_it_is_told_once(
    scoped: ScopedMemory, door: Door
):
    for key in ("cello", "violin"):
        put(store_of(scoped, Named("one")), key)
    store = store_of(scoped, Named("two"))
    put(store, "harbour")

    with pytest.warns(EmbeddingModelWarning, match="2 items .*Put them again") as told:
        found = await door(store, "search", ("facts",), query=TEXTS["cello"])
    assert ranked(found) == [("harbour", True), ("violin", False), ("cello", False)]
    assert [warning.message.count for warning in told.list] == [2]  # type: ignore[union-attr]

    found = await door(store, "search", ("facts",), query="what", filter={"text": TEXTS["cello"]})
    assert ranked(found) == [("cello", False)]
    put(store, "cello")
    found = await door(store, "search", ("facts",), query=TEXTS["cello"])
    assert ranked(found) == [("cello", True), ("harbour", True), ("violin", False)]


async def test_another_length_under_one_name_is_told_too(scoped: ScopedMemory, door: Door):
    put(store_of(scoped, Named("one"), embedding_name="mine"), "cello")
    longer = store_of(scoped, Named("one", 128), 128, embedding_name="mine")

    with pytest.warns(EmbeddingModelWarning, match="1 items"):
        assert ranked(await door(longer, "search", (), query="cello")) == [("cello", False)]


async def test_one_model_under_any_class_is_ranked_and_nothing_is_told(
    scoped: ScopedMemory, door: Door
):
    model = Named("one")
    cached = CacheBackedEmbeddings.from_bytes_store(
        model, scoped.byte_store("embeddings"), namespace="one", key_encoder="sha256"
    )
    name = embedding_model_name(model)
    put(store_of(scoped, model), "cello")
    scoped.store().put(("facts",), "harbour", {"text": "of no index"})

    for store in (
        store_of(scoped, cached),
        store_of(scoped, Named("one").embed_documents),
        store_of(scoped, Named("two"), embedding_name=name),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = await door(store, "search", (), query=TEXTS["cello"])
        assert ranked(found) == [("cello", True), ("harbour", False)]


def another(texts: list[str]) -> list[list[float]]:
    return embed(texts)


def embed(texts: list[str], model: str = "one") -> list[list[float]]:
    return Named(model).embed_documents([*texts])


async def aembed(texts: list[str]) -> list[list[float]]:
    return embed(texts)


def test_functions_have_models_too(scoped: ScopedMemory):
    put(store_of(scoped, embed), "cello")
    assert ranked(store_of(scoped, embed).search((), query="cello")) == [("cello", True)]

    for other in (partial(embed, model="two"), another):
        with pytest.warns(EmbeddingModelWarning):
            found = store_of(scoped, other).search((), query="cello")
        assert ranked(found) == [("cello", False)]

    async def search() -> Any:
        return await store_of(scoped, aembed, embedding_name=f"{__name__}.embed").asearch(
            (), query="cello"
        )

    assert ranked(asyncio.run(search())) == [("cello", True)]


def test_the_form_of_an_items_vector_is_frozen(scoped: ScopedMemory, attacker: Attacker):
    """What this version stores must open for ever: this layout never changes."""
    put(store_of(scoped, Named("one"), embedding_name="mine"), "cello")
    ((parent, key, sealed, updated_at),) = attacker(
        "SELECT parent, key, sealed, updated_at FROM records WHERE kind = 10"
    )
    keys = scoped._records.keys()

    place = keys.aad_prefix(Kind.VECTOR, bytes(parent))
    plaintext = keys.open(place, bytes(key), bytes(sealed), Kind.VECTOR)

    text = json.dumps({"text": TEXTS["cello"]}, ensure_ascii=False)
    vector = np.array(Named("one").embed_query(text), dtype="<f4").tobytes()
    assert plaintext == updated_at.to_bytes(8) + model_digest("mine") + vector


def test_the_name_of_the_model_is_sealed(sqlite_url: str, root_key: LocalRootKey):
    canary = "canary-7c1f-model"
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        scoped = memory.scope(user_id="alice", module_id="tutor")
        scoped.vector_store(Named(canary)).add_texts(["one"])
        scoped.vector_store(Named("one"), embedding_name=canary, collection="b").add_texts(["one"])
        put(store_of(scoped, Named(canary)), "cello")
        path = Path(sqlite_url.removeprefix("sqlite:///"))
        for file in path.parent.glob("memory.db*"):
            stored_bytes = file.read_bytes()
            assert canary.encode() not in stored_bytes
            assert model_digest(canary) not in stored_bytes
