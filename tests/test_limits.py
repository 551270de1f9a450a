"""How much one call may bring: what is beyond is refused by name, and nothing of it is written."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.base import PutOp

from langmem_isolated import IsolatedMemory, LangmemIsolatedError, Limits, LocalRootKey
from langmem_isolated.errors import DatabaseError, LimitExceeded
from tests.conftest import Attacker, Door

EMBEDDINGS = DeterministicFakeEmbedding(size=4)
FIELDS = [field.name for field in dataclasses.fields(Limits)]
SMALL = Limits(
    message_bytes=1_000, value_bytes=2_000, document_bytes=1_000, batch_items=10,
    batch_bytes=5_000, ids=10, query_characters=100, filter_depth=6, filter_values=50,
    profile_entries=3, profile_bytes=500,
)  # fmt: skip


@pytest.fixture
def small(database_url: str, root_key: LocalRootKey) -> Any:
    """A scope's memory with small limits."""
    with IsolatedMemory(database_url, root_key=root_key, limits=SMALL) as memory:
        yield memory.scope(user_id="alice", module_id="tutor")


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {"a": 1}
    for _ in range(levels):
        found = {"a": found}
    return found


def said(length: int) -> HumanMessage:
    return HumanMessage("x" * length)


def checkpoint_of(length: int, count: int = 1) -> dict[str, Any]:
    values = {f"channel {n}": f"{n}" + "x" * length for n in range(count)}
    return {**empty_checkpoint(), "channel_values": values}


def config(user: str = "alice") -> Any:
    return {"configurable": {"thread_id": "t", "checkpoint_ns": "", "user_id": user}}


def put_checkpoint(scope: Any, checkpoint: dict[str, Any]) -> None:
    scope.checkpointer().put(config(), checkpoint, {}, {})


def put_writes(scope: Any, length: int) -> None:
    known = {
        "configurable": {**config()["configurable"], "checkpoint_id": empty_checkpoint()["id"]}
    }
    scope.checkpointer().put_writes(known, [("channel", "x" * length)], "task")


def documents(scope: Any) -> Any:
    return scope.vector_store(EMBEDDINGS)


BREACHES: list[tuple[str, Callable[[Any], Any]]] = [
    ("message_bytes", lambda s: s.chat_history("s").add_messages([said(5), said(1_000)])),
    ("message_bytes", lambda s: s.sessions.create("s", title="x" * 1_000)),
    ("batch_items", lambda s: s.chat_history("s").add_messages([said(1)] * 11)),
    ("batch_bytes", lambda s: s.chat_history("s").add_messages([said(900)] * 6)),
    ("value_bytes", lambda s: s.store().put(("a",), "k", {"v": "x" * 2_000})),
    ("batch_items", lambda s: s.store().batch([PutOp(("a",), str(n), {}) for n in range(11)])),
    (
        "batch_bytes",
        lambda s: s.store().batch([PutOp(("a",), str(n), {"v": "x" * 1_900}) for n in range(3)]),
    ),
    ("query_characters", lambda s: s.store().search(("a",), query="x" * 101)),
    ("filter_depth", lambda s: s.store().search(("a",), filter=nested(100_000))),
    ("filter_values", lambda s: s.store().search(("a",), filter={"a": [*range(51)]})),
    ("document_bytes", lambda s: documents(s).add_texts(["x" * 1_001])),
    ("document_bytes", lambda s: documents(s).add_texts(["x"], [{"m": "x" * 1_000}])),
    ("batch_items", lambda s: documents(s).add_texts(["x"] * 11)),
    ("batch_bytes", lambda s: documents(s).add_texts(["x" * 900] * 6)),
    ("ids", lambda s: documents(s).delete([str(n) for n in range(11)])),
    ("ids", lambda s: documents(s).get_by_ids([str(n) for n in range(11)])),
    ("query_characters", lambda s: documents(s).similarity_search("x" * 101)),
    ("query_characters", lambda s: documents(s).max_marginal_relevance_search("x" * 101)),
    ("filter_depth", lambda s: documents(s).similarity_search("x", filter=nested(100_000))),
    ("filter_values", lambda s: documents(s).similarity_search("x", filter={"a": [*range(51)]})),
    ("value_bytes", lambda s: put_checkpoint(s, checkpoint_of(2_000))),
    ("value_bytes", lambda s: put_checkpoint(s, checkpoint_of(900, count=3))),
    ("value_bytes", lambda s: put_writes(s, 2_000)),
    ("ids", lambda s: s.checkpointer().delete_for_runs([str(n) for n in range(11)])),
    ("ids", lambda s: s.checkpointer().prune([str(n) for n in range(11)])),
    (
        "filter_depth",
        lambda s: list(s.checkpointer().list(config(), filter=nested(100_000))),
    ),
    ("profile_bytes", lambda s: s.profile().add_fact("x" * 500)),
    ("profile_bytes", lambda s: s.profile().set_attribute("x", "x" * 500)),
    ("profile_bytes", lambda s: s.profile().set_summary("x" * 500)),
    ("profile_entries", lambda s: s.profile().add_facts([str(n) for n in range(4)])),
    ("value_bytes", lambda s: s.byte_store().mset([("k", b"x" * 2_001)])),
    ("batch_items", lambda s: s.byte_store().mset([(str(n), b"") for n in range(11)])),
    ("batch_bytes", lambda s: s.byte_store().mset([(str(n), b"x" * 1_900) for n in range(3)])),
    ("ids", lambda s: s.byte_store().mget([str(n) for n in range(11)])),
    ("ids", lambda s: s.byte_store().mdelete([str(n) for n in range(11)])),
    ("batch_items", lambda s: s.record_manager().update([str(n) for n in range(11)])),
    ("ids", lambda s: s.record_manager().exists([str(n) for n in range(11)])),
    ("ids", lambda s: s.record_manager().delete_keys([str(n) for n in range(11)])),
    ("ids", lambda s: s.record_manager().list_keys(group_ids=[str(n) for n in range(11)])),
]


def rows_of(scope: Any) -> dict[str, int]:
    """How many rows of each table belong to the scope."""
    tables = ("records", "sessions")
    database = scope._context.database

    def counted(connection: Any) -> dict[str, int]:
        ours = "langmem_isolated." if database.is_postgres else ""
        return {
            table: connection.exec_driver_sql(f"SELECT COUNT(*) FROM {ours}{table}").scalar()
            for table in tables
        }

    return database.inspect(counted)


@pytest.mark.parametrize(("limit", "call"), BREACHES)
def test_what_is_beyond_a_limit_is_refused_by_its_name_and_nothing_is_written(
    small: Any, limit: str, call: Callable[[Any], Any]
):
    """The keys are there, so that what reads looks for something."""
    small.chat_history("another").add_messages([said(1)])
    small.store().put(("a",), "k", {"a": 1})
    documents(small).add_texts(["x"], ids=["x"])
    before = rows_of(small)

    with pytest.raises(LimitExceeded) as refusal:
        call(small)

    assert refusal.value.limit == limit
    assert refusal.value.allowed == getattr(SMALL, limit)
    assert refusal.value.received > refusal.value.allowed
    assert isinstance(refusal.value, ValueError)
    assert isinstance(refusal.value, LangmemIsolatedError)
    assert f"limits=Limits({limit}=…)" in str(refusal.value)
    assert "xxx" not in str(refusal.value)
    assert rows_of(small) == before


def test_what_is_within_the_limits_is_stored(small: Any):
    small.chat_history("s").add_messages([said(900)] * 4)
    small.store().put(("a",), "k", {"v": "x" * 1_900})
    documents(small).add_texts(["x" * 900], ids=["x"])
    put_checkpoint(small, checkpoint_of(1_500))

    assert small.chat_history("s").count() == 4
    assert small.store().search(("a",), query="x" * 100, filter={"v": "x" * 1_900})
    assert documents(small).similarity_search("x" * 100, filter={"$and": [{"a": None}]})
    assert small.checkpointer().get_tuple(config()) is not None


async def test_both_doors_refuse_before_anything_is_embedded(small: Any, door: Door):
    class Counting(DeterministicFakeEmbedding):
        def embed_query(self, text: str) -> list[float]:
            raise AssertionError(f"{len(text)} characters were embedded")

        embed_documents = embed_query  # type: ignore[assignment]

    notes = small.vector_store(Counting(size=4))

    for name, args in (
        ("similarity_search", ["x" * 101]),
        ("add_documents", [[Document("x" * 1_001)]]),
        ("max_marginal_relevance_search", ["x" * 101]),
    ):
        with pytest.raises(LimitExceeded):
            await door(notes, name, *args)


def test_a_filter_that_holds_itself_is_refused(small: Any):
    endless: dict[str, Any] = {}
    endless["a"] = endless

    with pytest.raises(LimitExceeded):
        documents(small).similarity_search("x", filter=endless)


def test_a_graph_whose_state_is_beyond_the_limit_is_told_so(small: Any):
    builder = StateGraph(MessagesState)
    builder.add_node("answer", lambda _: {"messages": [("ai", "x" * 3_000)]})
    builder.add_edge(START, "answer")
    graph = small.bind(builder.compile())

    with pytest.raises(LimitExceeded, match="value_bytes"):
        graph.invoke({"messages": [("user", "hello")]}, {"configurable": {"thread_id": "t"}})


def test_answers_beyond_the_limit_are_not_cached_and_no_error(small: Any):
    from langchain_core.outputs import Generation

    small.llm_cache().update("prompt", "model", [Generation(text="x" * 3_000)])
    small.llm_cache().update("other", "model", [Generation(text="x")])

    assert small.llm_cache().lookup("prompt", "model") is None
    assert small.llm_cache().lookup("other", "model") == [Generation(text="x")]


def test_a_state_may_grow_beyond_what_one_checkpoint_may_add(small: Any):
    """Messages that are stored already do not count again."""
    builder = StateGraph(MessagesState)
    builder.add_node("answer", lambda _: {"messages": [("ai", "x" * 700)]})
    builder.add_edge(START, "answer")
    graph, thread = small.bind(builder.compile()), {"configurable": {"thread_id": "t"}}

    for _ in range(8):
        state = graph.invoke({"messages": [("user", "hello")]}, thread)

    assert len(state["messages"]) == 16


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    ("value", "error"),
    [
        *((wrong, TypeError) for wrong in (None, True, 1.5, "9")),
        *((wrong, ValueError) for wrong in (0, -1)),
    ],
)
def test_a_limit_is_a_whole_number_of_one_or_more(field: str, value: Any, error: type[Exception]):
    with pytest.raises(error, match=field):
        Limits(**{field: value})


def test_limits_must_be_limits(sqlite_url: str, root_key: LocalRootKey):
    with pytest.raises(TypeError, match=r"limits must be Limits"):
        IsolatedMemory(sqlite_url, root_key=root_key, limits={"ids": 5})  # type: ignore[arg-type]


def sizes(memory: IsolatedMemory, url: str) -> list[int]:
    memory.scope(user_id="alice", module_id="tutor").chat_history("s").add_messages([said(5_000)])
    attacker = Attacker(url)
    found = [size for (size,) in attacker("SELECT size FROM records")]
    attacker.close()
    return found


def test_without_compression_a_record_has_the_length_of_what_is_in_it(
    database_url: str, root_key: LocalRootKey
):
    """What repeats shrinks otherwise; either opens what the other has sealed."""
    with IsolatedMemory(database_url, root_key=root_key, compress=False) as memory:
        assert sizes(memory, database_url)[0] > 5_000
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        assert min(sizes(memory, database_url)) < 500
        history = memory.scope(user_id="alice", module_id="tutor").chat_history("s")
        assert [len(message.text) for message in history.messages] == [5_000, 5_000]


COUNTS: list[Callable[[Any, Any], Any]] = [
    lambda s, n: s.chat_history("s").last(n),
    lambda s, n: s.chat_history("s").page(before=n),
    lambda s, n: s.chat_history("s").window(max_tokens=n),
    lambda s, n: s.recent({"ai": n}),
    lambda s, n: s.sessions(limit=n),
    lambda s, n: [*s.checkpointer().list(config(), limit=n)],
    lambda s, n: s.checkpointer().prune(["t"], keep_last=n),
    lambda s, n: s.store().search(("a",), limit=n),
    lambda s, n: s.store().search(("a",), offset=n),
    lambda s, n: s.store().list_namespaces(limit=n),
    lambda s, n: s.store().list_namespaces(offset=n),
    lambda s, n: s.store().list_namespaces(max_depth=n),
    lambda s, n: documents(s).similarity_search("x", k=n),
    lambda s, n: documents(s).max_marginal_relevance_search("x", k=n),
    lambda s, n: documents(s).max_marginal_relevance_search("x", fetch_k=n),
    lambda s, n: documents(s).max_marginal_relevance_search("x", lambda_mult=n),
    lambda s, n: s.retriever(EMBEDDINGS, k=n).invoke("x"),
    lambda s, n: s.record_manager().list_keys(limit=n),
]


@pytest.mark.parametrize("number", [-1, -(2**70), float("nan"), "5"])
@pytest.mark.parametrize("call", COUNTS)
def test_what_is_no_count_is_refused(small: Any, call: Any, number: Any):
    small.chat_history("s").add_messages([said(1)])
    documents(small).add_texts(["x"])

    with pytest.raises(ValueError if isinstance(number, int) else (ValueError, TypeError)):
        call(small, number)


@pytest.mark.parametrize("call", COUNTS)
def test_a_count_beyond_64_bits_is_as_many_as_there_are(small: Any, call: Any):
    small.chat_history("s").add_messages([said(1)])
    documents(small).add_texts(["x"])
    try:
        call(small, 2**70)
    except ValueError as refusal:
        assert "lambda_mult" in str(refusal)  # noqa: PT017 - it has an upper end, the others not


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://{'x' * 300}/memory",
        f"postgresql://{'x' * 300}.example/memory",
        f"postgresql://localhost,{'x' * 300}/memory",
        f"postgresql:///memory?host={'x' * 300}",
        f"postgresql:///memory?host=localhost&host={'x' * 300}",
    ],
)
def test_a_host_that_is_no_name_is_refused_without_being_quoted(url: str, root_key: LocalRootKey):
    """Each part of a name has at most 63 letters (RFC 1035): the codec's own error quotes it."""
    with pytest.raises(DatabaseError, match="URL names a host that is none") as refusal:
        IsolatedMemory(url, root_key=root_key)

    assert "xxx" not in str(refusal.value)
    assert refusal.value.__suppress_context__
